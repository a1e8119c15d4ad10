//! Which pods end when at a shutdown, and how. Pure.
use k8s_openapi::api::core::v1::Pod;

use crate::pod::worker::{Ended, How};
use crate::spec;

/// The least priority of critical pods.
const CRITICAL: i32 = 2_000_000_000;

/// How the machine goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Down {
    Reboot,
    PowerOff,
}

/// Pods that end together. All of a group have ended, or its time is up, before the next one's turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Group<'a> {
    /// Seconds.
    pub grace: i64,
    pub pods: Vec<&'a Pod>,
}

/// The groups: ordinary pods, then critical ones, which get `critical` of the `total` seconds.
#[must_use]
pub fn groups<'a>(pods: &[&'a Pod], total: u32, critical: u32) -> Vec<Group<'a>> {
    let (late, early) = pods.iter().partition(|pod| spec::spec(pod).priority.unwrap_or(0) >= CRITICAL);
    let critical = critical.min(total);
    [(total - critical, early), (critical, late)]
        .into_iter()
        .map(|(grace, pods): (u32, Vec<&Pod>)| Group { grace: grace.into(), pods })
        .filter(|group| !group.pods.is_empty())
        .collect()
}

/// What becomes of one pod of a group with so many seconds.
#[must_use]
pub fn ended(pod: &Pod, grace: i64, down: Down) -> Ended {
    let own = spec::spec(pod).termination_grace_period_seconds;
    // A pod that nobody replaces comes back with its node, whenever that is.
    let waits = down == Down::Reboot || pod.metadata.owner_references.as_ref().is_none_or(Vec::is_empty);
    let for_ever = spec::is_static(pod) || (waits && spec::restart_policy(pod) == "Always");
    Ended {
        reason: "Terminated".into(),
        message: "Pod was terminated in response to imminent node shutdown.".into(),
        grace: own.map_or(grace, |own| own.min(grace)),
        how: if for_ever { How::Paused } else { How::Disrupted },
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    fn pod(name: &str, spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    #[test]
    fn critical_pods_end_last_with_their_share_of_the_time() {
        let web = pod("web", serde_json::json!({"containers": [], "priority": 10}));
        let dns = pod("dns", serde_json::json!({"containers": [], "priority": 2_000_000_000}));
        assert_eq!(
            groups(&[&dns, &web], 30, 10),
            [Group { grace: 20, pods: vec![&web] }, Group { grace: 10, pods: vec![&dns] }]
        );
        assert_eq!(groups(&[&dns], 5, 10), [Group { grace: 5, pods: vec![&dns] }]);
    }

    #[test]
    fn only_what_runs_for_ever_and_nobody_replaces_comes_back() {
        let web = pod("web", serde_json::json!({"containers": [], "terminationGracePeriodSeconds": 3}));
        let job = pod("job", serde_json::json!({"containers": [], "restartPolicy": "OnFailure"}));
        assert_eq!(ended(&web, 20, Down::Reboot).how, How::Paused);
        assert_eq!(ended(&web, 20, Down::Reboot).grace, 3);
        assert_eq!(ended(&web, 20, Down::PowerOff).how, How::Paused);
        let mut replaced = web.clone();
        replaced.metadata.owner_references = Some(vec![OwnerReference::default()]);
        assert_eq!(ended(&replaced, 20, Down::Reboot).how, How::Paused);
        assert_eq!(ended(&replaced, 20, Down::PowerOff).how, How::Disrupted);
        assert_eq!(ended(&job, 20, Down::Reboot).how, How::Disrupted);
        assert_eq!(ended(&job, 20, Down::Reboot).grace, 20);
    }
}
