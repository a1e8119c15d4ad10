//! Wishes to be resized: in which order they are looked at, and how they are told. Pure.
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::json;

use super::size::Size;
use crate::cgroup::{QosClass, qos_class};
use crate::spec;

/// A pod whose spec asks for other resources than it was granted.
#[derive(Debug, Clone)]
pub struct Wish<'a> {
    pub pod: &'a Pod,
    pub granted: &'a Pod,
    /// Since when it waits, in seconds since the epoch.
    pub since: Option<i64>,
}

/// Brings wishes into the order in which they are granted: those that ask for no more first, then by priority, by QoS class, and who waits
/// longest.
pub fn sort(wishes: &mut [Wish<'_>]) {
    wishes.sort_by_key(|wish| {
        let (old, new) = (Size::of_pod(wish.granted), Size::of_pod(wish.pod));
        let more = new.cpu_request > old.cpu_request || new.memory_request > old.memory_request;
        let priority = spec::spec(wish.pod).priority.unwrap_or(0);
        let guaranteed = qos_class(wish.pod) == QosClass::Guaranteed;
        (more, std::cmp::Reverse(priority), !guaranteed, wish.since.unwrap_or(i64::MAX))
    });
}

/// What an event about a resize says.
#[must_use]
pub fn message(what: &str, pod: &Pod, error: &str) -> String {
    let list = |containers: &[Container]| -> Vec<serde_json::Value> {
        let one =
            |c: &Container| json!({"name": c.name, "resources": c.resources.clone().unwrap_or_default()});
        containers.iter().map(one).collect()
    };
    let mut summary = serde_json::Map::new();
    let init = list(spec::init_containers(pod));
    if !init.is_empty() {
        summary.insert("initContainers".into(), init.into());
    }
    summary.insert("containers".into(), list(&spec::spec(pod).containers).into());
    summary.insert("generation".into(), pod.metadata.generation.unwrap_or(0).into());
    if !error.is_empty() {
        summary.insert("error".into(), error.into());
    }
    format!("{what}: {}", serde_json::Value::Object(summary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_less_comes_first_then_who_matters_more() {
        let pod = |name: &str, cpu: &str, priority: i32| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [
                {"name": "a", "resources": {"requests": {"cpu": cpu}}}]}}),
            )
            .unwrap()
        };
        let old = pod("old", "100m", 0);
        let [more, urgent, less] = [pod("more", "200m", 0), pod("urgent", "200m", 9), pod("less", "50m", 0)];
        let wish = |pod| Wish { pod, granted: &old, since: None };
        let mut wishes = [wish(&more), wish(&urgent), wish(&less)];
        sort(&mut wishes);
        let names: Vec<_> = wishes.iter().filter_map(|w| w.pod.metadata.name.as_deref()).collect();
        assert_eq!(names, ["less", "urgent", "more"]);
    }
}
