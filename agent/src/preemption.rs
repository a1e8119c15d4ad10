//! Which pods make room for a critical one (pkg/kubelet/preemption). Pure.
use k8s_openapi::api::core::v1::Pod;

use crate::admission::Shortage;
use crate::cgroup::{QosClass, pod_requests, qos_class};
use crate::spec;

/// What victims are told.
pub const MESSAGE: &str = "Preempted in order to admit critical pod";

/// The pods whose end gives `pod` what is `missing`: as few of a high QoS class as possible, and those that fit best. `None` when all
/// that may be ended together do not suffice.
#[must_use]
pub fn victims<'a>(pod: &Pod, active: &[&'a Pod], missing: &[Shortage]) -> Option<Vec<&'a Pod>> {
    let class = |wanted: QosClass| -> Vec<&'a Pod> {
        active.iter().filter(|p| may_preempt(pod, p) && qos_class(p) == wanted).copied().collect()
    };
    let (effort, burst, sure) =
        (class(QosClass::BestEffort), class(QosClass::Burstable), class(QosClass::Guaranteed));
    let without = |groups: &[&[&Pod]]| left(missing, groups.concat());
    let sure_go = closest(sure, without(&[&effort, &burst]))?;
    let burst_go = closest(burst, without(&[&effort, &sure_go]))?;
    let effort_go = closest(effort, without(&[&burst_go, &sure_go]))?;
    Some([effort_go, burst_go, sure_go].concat())
}

fn may_preempt(pod: &Pod, other: &Pod) -> bool {
    if spec::is_critical(pod) && !spec::is_critical(other) {
        return true;
    }
    spec::spec(pod).priority.zip(spec::spec(other).priority).is_some_and(|(own, theirs)| own > theirs)
}

fn request(pod: &Pod, resource: &str) -> i64 {
    match resource {
        "pods" => 1,
        "cpu" => pod_requests(pod).get(resource).map_or(0, |amount| amount.milli_value()),
        _ => pod_requests(pod).get(resource).map_or(0, |amount| amount.value()),
    }
}

/// What is still missing when these pods have ended.
fn left(missing: &[Shortage], pods: Vec<&Pod>) -> Vec<Shortage> {
    let rest = missing.iter().map(|one| {
        let freed: i64 = pods.iter().map(|pod| request(pod, &one.resource)).sum();
        Shortage { missing: one.missing - freed, ..one.clone() }
    });
    rest.filter(|one| one.missing > 0).collect()
}

/// Takes pods one by one, each the one that leaves the least missing, and of those the smallest.
fn closest(mut pods: Vec<&Pod>, mut missing: Vec<Shortage>) -> Option<Vec<&Pod>> {
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let distance = |pod: &Pod| -> f64 {
            let part = |one: &Shortage| {
                let rest = (one.missing - request(pod, &one.resource)).max(0);
                (rest as f64 / one.missing as f64).powi(2)
            };
            missing.iter().map(part).sum()
        };
        let size = |pod: &Pod| (request(pod, "memory"), request(pod, "cpu"));
        let best = (0..pods.len()).min_by(|a, b| {
            let (a, b) = (pods[*a], pods[*b]);
            distance(a).total_cmp(&distance(b)).then_with(|| size(a).cmp(&size(b)))
        })?;
        let pod = pods.swap_remove(best);
        missing = left(&missing, vec![pod]);
        chosen.push(pod);
    }
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, cpu: &str, priority: i32) -> Pod {
        let resources = if cpu.is_empty() {
            serde_json::json!({})
        } else {
            serde_json::json!({"requests": {"cpu": cpu}})
        };
        serde_json::from_value(serde_json::json!({"metadata": {"name": name}, "spec": {"priority": priority,
            "containers": [{"name": "a", "resources": resources}]}}))
        .unwrap()
    }

    fn names(victims: Option<Vec<&Pod>>) -> Option<Vec<&str>> {
        Some(victims?.into_iter().filter_map(|p| p.metadata.name.as_deref()).collect())
    }

    #[test]
    fn the_pod_that_fits_best_makes_room_and_critical_ones_stay() {
        let critical = pod("critical", "500m", 2_000_000_000);
        let other = pod("other", "500m", 2_000_000_000);
        let (big, fits, small) = (pod("big", "900m", 0), pod("fits", "300m", 0), pod("small", "100m", 0));
        let short = |missing| [Shortage { resource: "cpu".into(), message: String::new(), missing }];
        let active = [&other, &big, &fits, &small];
        assert_eq!(names(victims(&critical, &active, &short(250))), Some(vec!["fits"]));
        assert_eq!(names(victims(&critical, &active, &short(1000))), Some(vec!["big", "small"]));
        assert_eq!(names(victims(&critical, &active, &short(5000))), None);
    }

    #[test]
    fn room_for_a_pod_is_made_by_best_effort_ones_first() {
        let critical = pod("critical", "", 2_000_000_000);
        let (effort, burst) = (pod("effort", "", 0), pod("burst", "100m", 0));
        let short = [Shortage { resource: "pods".into(), message: String::new(), missing: 1 }];
        assert_eq!(names(victims(&critical, &[&burst, &effort], &short)), Some(vec!["effort"]));
    }
}
