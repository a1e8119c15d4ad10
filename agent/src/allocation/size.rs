//! The resources that can change while a container runs: CPU and memory. Pure.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};

use crate::cgroup::{Amount, pod_limits, pod_requests};
use crate::spec;

/// CPU in thousandths, memory in bytes; 0: none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    pub cpu_request: i64,
    pub cpu_limit: i64,
    pub memory_request: i64,
    pub memory_limit: i64,
}

type List = BTreeMap<String, Quantity>;

fn read(list: Option<&List>, name: &str) -> i64 {
    let amount = list.and_then(|list| list.get(name)).map(Amount::of).unwrap_or_default();
    if name == "cpu" { amount.milli_value() } else { amount.value() }
}

impl Size {
    /// What these requirements ask for.
    #[must_use]
    pub fn of(resources: Option<&ResourceRequirements>) -> Self {
        let requests = resources.and_then(|r| r.requests.as_ref());
        let limits = resources.and_then(|r| r.limits.as_ref());
        Self {
            cpu_request: read(requests, "cpu"),
            cpu_limit: read(limits, "cpu"),
            memory_request: read(requests, "memory"),
            memory_limit: read(limits, "memory"),
        }
    }

    /// All of a pod together, as its cgroup has it.
    #[must_use]
    pub fn of_pod(pod: &Pod) -> Self {
        let (requests, limits) = (pod_requests(pod), pod_limits(pod));
        let cpu = |list: &crate::cgroup::Amounts| list.get("cpu").map_or(0, |amount| amount.milli_value());
        let memory = |list: &crate::cgroup::Amounts| list.get("memory").map_or(0, |amount| amount.value());
        Self {
            cpu_request: cpu(&requests),
            cpu_limit: cpu(&limits),
            memory_request: memory(&requests),
            memory_limit: memory(&limits),
        }
    }

    /// What a container gets: where it has no limit of its own, the pod's.
    #[must_use]
    pub fn of_container(pod: &Pod, container: &Container) -> Self {
        let own = Self::of(container.resources.as_ref());
        let whole = Self::of(spec::spec(pod).resources.as_ref());
        let or = |own: i64, pod: i64| if own == 0 { pod } else { own };
        Self {
            cpu_limit: or(own.cpu_limit, whole.cpu_limit),
            memory_limit: or(own.memory_limit, whole.memory_limit),
            ..own
        }
    }

    /// Writes it over requirements that stand for `own`; other resources stay, and so does what is the same.
    #[must_use]
    pub fn over(&self, resources: Option<&ResourceRequirements>, own: &Self) -> Option<ResourceRequirements> {
        let mut resources = resources?.clone();
        let put = |list: &mut Option<List>, name: &str, value: i64, old: i64| {
            if value == old {
                return;
            }
            let list = list.get_or_insert_default();
            if value == 0 {
                list.remove(name);
            } else {
                let text = if name == "cpu" { milli(value) } else { bytes(value) };
                list.insert(name.to_owned(), Quantity(text));
            }
        };
        put(&mut resources.requests, "cpu", self.cpu_request, own.cpu_request);
        put(&mut resources.requests, "memory", self.memory_request, own.memory_request);
        put(&mut resources.limits, "cpu", self.cpu_limit, own.cpu_limit);
        put(&mut resources.limits, "memory", self.memory_limit, own.memory_limit);
        Some(resources)
    }

    /// Whether a change to `other` asks for a restart by the container's resizePolicy.
    #[must_use]
    pub fn restarts(&self, other: &Self, container: &Container) -> bool {
        let changed = [
            ("cpu", self.cpu_request != other.cpu_request || self.cpu_limit != other.cpu_limit),
            (
                "memory",
                self.memory_request != other.memory_request || self.memory_limit != other.memory_limit,
            ),
        ];
        container.resize_policy.iter().flatten().any(|policy| {
            policy.restart_policy == "RestartContainer"
                && changed.contains(&(policy.resource_name.as_str(), true))
        })
    }
}

/// Canonical, as Kubernetes writes it.
fn milli(value: i64) -> String {
    if value % 1000 == 0 { (value / 1000).to_string() } else { format!("{value}m") }
}

fn bytes(value: i64) -> String {
    let units = [(40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];
    let fits = units.into_iter().find(|(shift, _)| value % (1_i64 << shift) == 0);
    fits.map_or_else(|| value.to_string(), |(shift, unit)| format!("{}{unit}", value >> shift))
}

/// The containers whose size can change: ordinary ones and sidecars.
pub fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
    sidecars.chain(&spec::spec(pod).containers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(value: serde_json::Value) -> Container {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_size_replaces_what_it_speaks_of() {
        let c = container(serde_json::json!({"name": "a", "resources": {
            "requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi", "example.com/x": "1"}}}));
        let size =
            Size { cpu_request: 2000, memory_limit: 256 << 20, memory_request: 64 << 20, cpu_limit: 0 };
        let own = Size::of(c.resources.as_ref());
        let over = serde_json::to_value(size.over(c.resources.as_ref(), &own)).unwrap();
        let expected = serde_json::json!({"requests": {"cpu": "2", "memory": "64Mi"}, "limits": {"memory": "256Mi", "example.com/x": "1"}});
        assert_eq!(over, expected);
    }

    #[test]
    fn only_the_resource_with_the_policy_restarts() {
        let c = container(serde_json::json!({"name": "a", "resizePolicy": [
            {"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "memory", "restartPolicy": "RestartContainer"}]}));
        let old = Size { cpu_limit: 1, memory_limit: 1, ..Size::default() };
        assert!(!old.restarts(&Size { cpu_limit: 2, ..old }, &c));
        assert!(old.restarts(&Size { memory_limit: 2, ..old }, &c));
    }
}
