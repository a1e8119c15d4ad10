//! The runtime gives pods addresses from the node's range.
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;

use crate::context::Context;

/// How soon a runtime that did not take the range is told again.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells the runtime the range, when it is known, when it changes and when the runtime has begun anew, which may have forgotten it. `told` is what it was told
/// last. Runs for as long as the agent lives.
pub async fn follow(ctx: &Context, told: &watch::Sender<String>) {
    let (mut node, mut begun) = (ctx.node.clone(), ctx.cri.begun());
    let mut warned = String::new();
    loop {
        let range = node.borrow_and_update().as_ref().and_then(|node| range(node));
        let mut refused = false;
        if let Some(range) = range.filter(|range| *range != *told.borrow()) {
            match ctx.cri.update_runtime_config(range.clone()).await {
                Ok(()) => {
                    tracing::info!("pods get addresses from {range}");
                    warned.clear();
                    told.send_replace(range);
                }
                Err(error) => {
                    refused = true;
                    let text = error.to_string();
                    if text != warned {
                        tracing::warn!("{text}");
                        warned = text;
                    }
                }
            }
        }
        tokio::select! {
            Ok(()) = node.changed() => {}
            Ok(()) = begun.changed() => drop(told.send_replace(String::new())),
            () = tokio::time::sleep(AGAIN), if refused => {}
            // Nobody can change anything any more.
            else => return,
        }
    }
}

/// Both families', as CRI wants them.
fn range(node: &Node) -> Option<String> {
    let spec = node.spec.as_ref()?;
    let all = spec.pod_cidrs.clone().filter(|cidrs| !cidrs.is_empty()).map(|cidrs| cidrs.join(","));
    all.or_else(|| spec.pod_cidr.clone()).filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeSpec;

    use super::*;

    #[test]
    fn the_range_is_that_of_all_families() {
        let node = |spec| Node { spec: Some(spec), ..Node::default() };
        assert_eq!(range(&Node::default()), None);
        let one = NodeSpec { pod_cidr: Some("10.244.1.0/24".into()), ..NodeSpec::default() };
        assert_eq!(range(&node(one.clone())).as_deref(), Some("10.244.1.0/24"));
        let both = Some(vec!["10.244.1.0/24".into(), "fd00:1::/64".into()]);
        let both = NodeSpec { pod_cidrs: both, ..one };
        assert_eq!(range(&node(both)).as_deref(), Some("10.244.1.0/24,fd00:1::/64"));
        let none =
            NodeSpec { pod_cidrs: Some(Vec::new()), pod_cidr: Some(String::new()), ..NodeSpec::default() };
        assert_eq!(range(&node(none)), None);
    }
}
