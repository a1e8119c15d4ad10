//! What a node has promised already: which pods count beside one that is to be admitted or resized. Pure.
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::admission;
use crate::allocation::Allocation;

/// Those pods that the API server knows as begun and not ended: they have their place, although this agent, which may have just started, has no task of theirs.
pub fn begun<'a>(pods: impl Iterator<Item = (&'a String, &'a Arc<Pod>)>) -> BTreeMap<String, Arc<Pod>> {
    let begun = pods.filter(|(_, pod)| has_begun(pod) && admission::is_active(pod));
    begun.map(|(uid, pod)| (uid.clone(), pod.clone())).collect()
}

/// All pods that have, or were promised, a part of the node, with what they were granted: those that had begun, and those with a task, however new. Of what is
/// known of a pod the last of `tasks` counts. One that was ended before it began has nothing.
pub fn beside(
    begun: BTreeMap<String, Arc<Pod>>,
    tasks: impl Iterator<Item = (String, Arc<Pod>)>,
    ended: impl Fn(&str) -> bool,
    granted: impl Fn(&str) -> Option<Allocation>,
) -> BTreeMap<String, Arc<Pod>> {
    let mut pods = begun;
    pods.extend(tasks);
    pods.retain(|uid, pod| admission::is_active(pod) && (has_begun(pod) || !ended(uid)));
    for (uid, pod) in &mut pods {
        if let Some(allocation) = granted(uid) {
            *pod = allocation.apply(pod);
        }
    }
    pods
}

fn has_begun(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: &str, status: serde_json::Value) -> Arc<Pod> {
        let containers = serde_json::json!([{"name": "a", "resources": {"requests": {"cpu": cpu}}}]);
        Arc::new(
            serde_json::from_value(serde_json::json!({"spec": {"containers": containers}, "status": status}))
                .unwrap(),
        )
    }

    fn runs() -> serde_json::Value {
        serde_json::json!({"phase": "Running", "startTime": "2026-12-01T00:00:00Z"})
    }

    #[test]
    fn an_agent_that_has_just_started_knows_who_runs() {
        let api = BTreeMap::from([
            ("runs".to_owned(), pod("1", runs())),
            ("new".to_owned(), pod("1", serde_json::json!({}))),
            (
                "over".to_owned(),
                pod("1", serde_json::json!({"phase": "Failed", "startTime": "2026-12-01T00:00:00Z"})),
            ),
        ]);
        let others = beside(begun(api.iter()), std::iter::empty(), |_| false, |_| None);
        assert_eq!(others.keys().collect::<Vec<_>>(), ["runs"]);
    }

    #[test]
    fn a_pod_of_the_same_batch_counts_and_one_that_was_refused_does_not() {
        let new = || pod("1", serde_json::json!({}));
        let tasks = [("admitted".to_owned(), new()), ("refused".to_owned(), new())];
        let others = beside(BTreeMap::new(), tasks.into_iter(), |uid| uid == "refused", |_| None);
        assert_eq!(others.keys().collect::<Vec<_>>(), ["admitted"]);
    }

    #[test]
    fn what_counts_is_what_was_granted() {
        let granted = Allocation::default().grant(&pod("2", runs()));
        let tasks = [("a".to_owned(), pod("9", runs()))];
        let others = beside(BTreeMap::new(), tasks.into_iter(), |_| false, |_| Some(granted.clone()));
        let wants = crate::cgroup::pod_requests(&others["a"]);
        assert_eq!(wants["cpu"], crate::cgroup::pod_requests(&pod("2", runs()))["cpu"]);
    }
}
