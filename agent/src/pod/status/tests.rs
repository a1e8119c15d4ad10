use super::*;
use crate::pod::decide::{Intent, Probes, decide};
use crate::pod::observed::{Container as Seen, Sandbox};

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u", "generation": 3}, "spec": spec
    }))
    .unwrap()
}

fn sandbox() -> Sandbox {
    Sandbox { id: "s".into(), ready: true, ips: vec!["10.244.0.9".into()], ..Default::default() }
}

fn seen(state: State, exit_code: i32) -> Seen {
    Seen {
        id: "c1".into(),
        name: "a".into(),
        sandbox: "s".into(),
        state,
        exit_code,
        started_at: 5_000_000_000,
        finished_at: 9_000_000_000,
        ended_at: 9_000_000_000,
        ..Default::default()
    }
}

fn status_of(pod: &Pod, observed: &Observed, memory: &Memory, previous: &PodStatus, now: i64) -> PodStatus {
    let decision = decide(pod, &Intent::Run, observed, memory, now);
    let facts = Facts {
        observed,
        memory,
        decision: &decision,
        previous,
        host_ips: &["10.0.0.1".to_owned()],
        qos_class: "BestEffort",
        ended: None,
        pending: None,
        granted: None,
        now,
    };
    compute(pod, &facts)
}

fn condition_value<'a>(status: &'a PodStatus, kind: &str) -> &'a str {
    &condition(status, kind).unwrap().status
}

#[test]
fn a_new_pod_is_pending_and_creating() {
    let pod = pod(serde_json::json!({"containers": [{"name": "a", "image": "x"}]}));
    let status = status_of(&pod, &Observed::default(), &Memory::default(), &PodStatus::default(), 0);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let waiting = status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
    assert_eq!(status.observed_generation, Some(3));
}

#[test]
fn a_container_between_creation_and_start_still_waits_for_the_same() {
    let init = serde_json::json!({"initContainers": [{"name": "a", "image": "x"}], "containers": [{"name": "b", "image": "x"}]});
    let observed = Observed { sandboxes: vec![sandbox()], containers: vec![seen(State::Created, 0)] };
    let status = status_of(&pod(init), &observed, &Memory::default(), &PodStatus::default(), 0);
    let waiting = status.init_container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
}

#[test]
fn a_running_container_makes_the_pod_running_and_ready() {
    let pod = pod(serde_json::json!({"containers": [{"name": "a", "image": "x"}]}));
    let observed = Observed { sandboxes: vec![sandbox()], containers: vec![seen(State::Running, 0)] };
    let status = status_of(&pod, &observed, &Memory::default(), &PodStatus::default(), 0);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.0.9"));
    assert_eq!(condition_value(&status, "Ready"), "True");
    assert_eq!(condition_value(&status, "Initialized"), "True");
}

#[test]
fn an_agent_that_restarted_keeps_ready_until_probes_speak() {
    let pod = pod(
        serde_json::json!({"containers": [{"name": "a", "image": "x", "readinessProbe": {"tcpSocket": {"port": 1}}}]}),
    );
    let observed = Observed { sandboxes: vec![sandbox()], containers: vec![seen(State::Running, 0)] };
    let mut memory = Memory::default();
    memory.probes.insert("c1".into(), Probes { readiness: Some(true), ..Default::default() });
    let before = status_of(&pod, &observed, &memory, &PodStatus::default(), 0);
    assert_eq!(condition_value(&before, "Ready"), "True");
    let after = status_of(&pod, &observed, &Memory::default(), &before, 1_000_000_000);
    assert_eq!(after, before);
    memory.probes.insert("c1".into(), Probes { readiness: Some(false), ..Default::default() });
    let unready = status_of(&pod, &observed, &memory, &after, 2_000_000_000);
    assert_eq!(condition_value(&unready, "Ready"), "False");
}

#[test]
fn a_crashing_container_waits_in_back_off_with_its_last_end() {
    let pod = pod(serde_json::json!({"containers": [{"name": "a", "image": "x"}]}));
    let observed = Observed { sandboxes: vec![sandbox()], containers: vec![seen(State::Exited, 1)] };
    let mut memory = Memory::default();
    memory.backoff.entry("a".into()).or_default().next(9_000_000_000, 9_000_000_000);
    let status = status_of(&pod, &observed, &memory, &PodStatus::default(), 10_000_000_000);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = &status.container_statuses.as_ref().unwrap()[0];
    let waiting = container.state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(
        waiting.message.as_deref(),
        Some("back-off 10s restarting failed container=a pod=web_default(u)")
    );
    assert_eq!(container.last_state.clone().unwrap().terminated.unwrap().exit_code, 1);
}

#[test]
fn a_job_succeeds_or_fails_by_its_exit_code() {
    let pod = pod(serde_json::json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]}));
    for (code, phase, reason) in [(0, "Succeeded", "Completed"), (3, "Failed", "Error")] {
        let observed = Observed { sandboxes: vec![sandbox()], containers: vec![seen(State::Exited, code)] };
        let status = status_of(&pod, &observed, &Memory::default(), &PodStatus::default(), 0);
        assert_eq!(status.phase.as_deref(), Some(phase));
        let ended = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
        assert_eq!(ended.reason.as_deref(), Some(reason));
    }
}

#[test]
fn conditions_of_others_stay() {
    let pod = pod(
        serde_json::json!({"containers": [{"name": "a", "image": "x"}], "readinessGates": [{"conditionType": "gate"}]}),
    );
    let observed = Observed { sandboxes: vec![sandbox()], containers: vec![seen(State::Running, 0)] };
    let gate = PodCondition { type_: "gate".into(), status: "True".into(), ..Default::default() };
    let previous = PodStatus { conditions: Some(vec![gate.clone()]), ..Default::default() };
    let status = status_of(&pod, &observed, &Memory::default(), &previous, 0);
    assert_eq!(condition_value(&status, "Ready"), "True");
    assert_eq!(condition(&status, "gate"), Some(&gate));
    let status = status_of(&pod, &observed, &Memory::default(), &PodStatus::default(), 0);
    assert_eq!(condition(&status, "Ready").unwrap().reason.as_deref(), Some("ReadinessGatesNotReady"));
}
