use super::*;
use crate::backoff::{Retry, SECOND};
use crate::pod::observed::{Container, Sandbox};

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({"metadata": {"name": "web", "uid": "u"}, "spec": spec}))
        .unwrap()
}

fn with_sandbox(containers: Vec<Container>) -> Observed {
    let sandbox = Sandbox { id: "s".into(), ready: true, ips: vec!["10.0.0.9".into()], ..Default::default() };
    Observed { sandboxes: vec![sandbox], containers }
}

fn seen(name: &str, state: State, exit_code: i32) -> Container {
    Container {
        id: format!("{name}-0"),
        name: name.into(),
        sandbox: "s".into(),
        state,
        exit_code,
        finished_at: 100 * SECOND,
        ended_at: 100 * SECOND,
        ..Default::default()
    }
}

fn start(name: &str, attempt: u32) -> Action {
    Action::Start { name: name.into(), attempt }
}

fn actions(pod: &Pod, observed: &Observed) -> Vec<Action> {
    decide(pod, &Intent::Run, observed, &Memory::default(), 101 * SECOND).actions
}

/// What has failed waits for its time, and nothing else does.
#[test]
fn what_cannot_be_ended_is_not_tried_at_every_turn() {
    let pod = pod(serde_json::json!({"containers": [{"name": "a"}]}));
    let stop = Intent::Stop { grace: 30 };
    let mut memory = Memory::default();
    let held = |memory: &Memory, operation: &Operation, observed: &Observed| {
        let retry = &memory.retries[operation];
        let before = decide(&pod, &stop, observed, memory, retry.at - 1);
        let after = decide(&pod, &stop, observed, memory, retry.at);
        assert_eq!(before.wake, Some(retry.at));
        assert!(!before.gone);
        (before.actions, after.actions)
    };
    let running = with_sandbox(vec![seen("a", State::Running, 0), seen("b", State::Running, 0)]);
    let operation = Operation::Stop("a-0".into());
    memory.retries.insert(operation.clone(), Retry::after(None, 100 * SECOND, "busy"));
    let (before, after) = held(&memory, &operation, &running);
    assert!(matches!(before.as_slice(), [Action::Stop { id, .. }] if id == "b-0"), "{before:?}");
    assert_eq!(after.len(), 2);

    let mut ended = with_sandbox(vec![seen("a", State::Exited, 0)]);
    let operation = Operation::Stop("s".into());
    memory.retries.insert(operation.clone(), Retry::after(None, 100 * SECOND, "busy"));
    assert_eq!(held(&memory, &operation, &ended), (vec![], vec![Action::StopSandbox { id: "s".into() }]));

    ended.sandboxes[0].ready = false;
    let operation = Operation::Release;
    memory.retries.insert(operation.clone(), Retry::after(None, 100 * SECOND, "an immutable file"));
    assert_eq!(held(&memory, &operation, &ended), (vec![], vec![Action::Release]));

    let older = Container { id: "a-old".into(), ..seen("a", State::Exited, 0) };
    ended.containers.push(older);
    let operation = Operation::Remove("a-old".into());
    memory.retries.insert(operation.clone(), Retry::after(None, 100 * SECOND, "busy"));
    memory.released = true;
    let retry = memory.retries[&operation].at;
    assert_eq!(decide(&pod, &stop, &ended, &memory, retry - 1).actions, []);
    let removal = Action::RemoveContainer { id: "a-old".into() };
    assert_eq!(decide(&pod, &stop, &ended, &memory, retry).actions, [removal]);
}

#[test]
fn a_new_pod_gets_a_sandbox_then_init_then_containers() {
    let pod = pod(serde_json::json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    assert_eq!(actions(&pod, &Observed::default()), [Action::CreateSandbox { attempt: 0 }]);
    assert_eq!(actions(&pod, &with_sandbox(vec![])), [start("i", 0)]);
    assert_eq!(actions(&pod, &with_sandbox(vec![seen("i", State::Running, 0)])), []);
    assert_eq!(actions(&pod, &with_sandbox(vec![seen("i", State::Exited, 0)])), [start("a", 0)]);
}

#[test]
fn a_sidecar_lets_the_next_follow_once_started() {
    let pod = pod(serde_json::json!({
        "initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {}}],
        "containers": [{"name": "a"}]
    }));
    let observed = with_sandbox(vec![seen("s", State::Running, 0)]);
    assert_eq!(actions(&pod, &observed), []);
    let mut memory = Memory::default();
    memory.probes.insert("s-0".into(), Probes { startup: Some(true), ..Default::default() });
    assert_eq!(decide(&pod, &Intent::Run, &observed, &memory, 0).actions, [start("a", 0)]);
}

#[test]
fn a_crash_waits_for_its_back_off() {
    let pod = pod(serde_json::json!({"containers": [{"name": "a"}]}));
    let observed = with_sandbox(vec![seen("a", State::Exited, 1)]);
    assert_eq!(actions(&pod, &observed), [start("a", 1)]);
    let mut memory = Memory::default();
    memory.backoff.entry("a".into()).or_default().next(99 * SECOND, 99 * SECOND);
    let decision = decide(&pod, &Intent::Run, &observed, &memory, 101 * SECOND);
    assert_eq!(decision.actions, []);
    assert_eq!(decision.wake, Some(110 * SECOND));
}

#[test]
fn a_failed_init_container_that_is_not_restarted_ends_the_pod() {
    let pod = pod(
        serde_json::json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}),
    );
    let decision =
        decide(&pod, &Intent::Run, &with_sandbox(vec![seen("i", State::Exited, 1)]), &Memory::default(), 0);
    assert!(decision.finished);
    assert_eq!(decision.actions, [Action::StopSandbox { id: "s".into() }]);
}

#[test]
fn a_finished_job_gives_back_what_it_holds() {
    let pod = pod(serde_json::json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    let mut observed = with_sandbox(vec![seen("a", State::Exited, 0)]);
    assert_eq!(actions(&pod, &observed), [Action::StopSandbox { id: "s".into() }]);
    observed.sandboxes[0].ready = false;
    assert_eq!(actions(&pod, &observed), [Action::Release]);
    let memory = Memory { released: true, ..Default::default() };
    assert!(decide(&pod, &Intent::Run, &observed, &memory, 0).gone);
}

#[test]
fn sidecars_stop_last_and_in_reverse_order() {
    let pod = pod(serde_json::json!({
        "initContainers": [{"name": "s1", "restartPolicy": "Always"}, {"name": "s2", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}]
    }));
    let intent = Intent::Stop { grace: 30 };
    let stopped = |observed: &Observed| -> Vec<String> {
        decide(&pod, &intent, observed, &Memory::default(), 0)
            .actions
            .into_iter()
            .filter_map(|a| if let Action::Stop { name, .. } = a { Some(name) } else { None })
            .collect()
    };
    let run = |names: &[&str]| with_sandbox(names.iter().map(|n| seen(n, State::Running, 0)).collect());
    assert_eq!(stopped(&run(&["s1", "s2", "a"])), ["a"]);
    assert_eq!(stopped(&run(&["s1", "s2"])), ["s2"]);
    assert_eq!(stopped(&run(&["s1"])), ["s1"]);
}

#[test]
fn a_dead_sandbox_is_replaced_and_counts_up() {
    let pod = pod(serde_json::json!({"containers": [{"name": "a"}]}));
    let mut observed = with_sandbox(vec![seen("a", State::Exited, 137)]);
    observed.sandboxes[0].ready = false;
    assert_eq!(actions(&pod, &observed), [Action::CreateSandbox { attempt: 1 }]);
}

#[test]
fn a_failed_liveness_probe_restarts_the_container() {
    let pod = pod(serde_json::json!({"containers": [{"name": "a", "livenessProbe": {}}]}));
    let mut memory = Memory::default();
    memory.probes.insert("a-0".into(), Probes { liveness: Some(false), ..Default::default() });
    let observed = with_sandbox(vec![seen("a", State::Running, 0)]);
    let decision = decide(&pod, &Intent::Run, &observed, &memory, 0);
    let Action::Stop { message, .. } = &decision.actions[0] else { panic!("{decision:?}") };
    assert_eq!(message, "Container a failed liveness probe, will be restarted");
    assert!(!decision.finished);
}

#[test]
fn one_dead_container_per_name_is_kept() {
    let pod = pod(serde_json::json!({"containers": [{"name": "a"}]}));
    let mut older = seen("a", State::Exited, 1);
    older.id = "a-old".into();
    let mut oldest = older.clone();
    oldest.id = "a-oldest".into();
    let observed = with_sandbox(vec![seen("a", State::Running, 0), older, oldest]);
    assert_eq!(actions(&pod, &observed), [Action::RemoveContainer { id: "a-oldest".into() }]);
}

#[test]
fn a_paused_pod_stops_and_keeps_what_it_has() {
    let pod = pod(serde_json::json!({"containers": [{"name": "a", "image": "x"}]}));
    let mut observed = Observed {
        sandboxes: vec![Sandbox {
            id: "s".into(),
            ready: true,
            ips: vec!["10.0.0.1".into()],
            ..Default::default()
        }],
        containers: vec![Container {
            id: "c".into(),
            name: "a".into(),
            sandbox: "s".into(),
            state: State::Running,
            ..Default::default()
        }],
    };
    let decide = |observed: &Observed| {
        super::decide(&pod, &Intent::Pause { grace: 5 }, observed, &Memory::default(), 0)
    };
    assert!(matches!(decide(&observed).actions[..], [Action::Stop { grace: Some(5), .. }]));
    observed.containers[0].state = State::Exited;
    assert_eq!(decide(&observed).actions, [Action::StopSandbox { id: "s".into() }]);
    observed.sandboxes[0].ready = false;
    let decision = decide(&observed);
    assert_eq!(decision.actions, []);
    assert!(!decision.finished && !decision.gone);
}

#[test]
fn after_a_boot_only_what_has_not_ended_for_good_runs_again() {
    let memory = Memory {
        restarts: [("a".to_owned(), 2)].into(),
        ended: [("a".to_owned(), 0)].into(),
        ..Memory::default()
    };
    let observed = Observed {
        sandboxes: vec![Sandbox {
            id: "s".into(),
            ready: true,
            ips: vec!["10.0.0.1".into()],
            ..Default::default()
        }],
        ..Default::default()
    };
    let started = |policy: &str, memory: &Memory, observed: &Observed| {
        let pod = pod(
            serde_json::json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]}),
        );
        super::decide(&pod, &Intent::Run, observed, memory, 0)
    };
    let first = |decision: Decision| decision.actions.into_iter().next();
    assert_eq!(
        first(started("Always", &memory, &observed)),
        Some(Action::Start { name: "a".into(), attempt: 3 })
    );
    assert_eq!(
        first(started("OnFailure", &memory, &observed)),
        Some(Action::Start { name: "b".into(), attempt: 0 })
    );
    let forgotten = Observed::default();
    assert_eq!(first(started("Always", &memory, &forgotten)), Some(Action::CreateSandbox { attempt: 0 }));
    assert!(started("Never", &memory, &forgotten).finished, "what may run only once has run");
    assert_eq!(
        first(started("Never", &Memory::default(), &forgotten)),
        Some(Action::CreateSandbox { attempt: 0 })
    );
}

#[test]
fn one_end_can_start_all_containers_anew() {
    let pod = pod(serde_json::json!({"restartPolicy": "Never", "containers": [
        {"name": "a", "restartPolicyRules": [
            {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]},
        {"name": "b"}
    ]}));
    let running = with_sandbox(vec![seen("a", State::Exited, 42), seen("b", State::Running, 0)]);
    assert!(matches!(&actions(&pod, &running)[..], [Action::Stop { name, .. }] if name == "b"));
    let stopped = with_sandbox(vec![seen("a", State::Exited, 42), seen("b", State::Exited, 137)]);
    assert_eq!(actions(&pod, &stopped), [Action::RemoveContainer { id: "b-0".into() }]);
    let last = with_sandbox(vec![seen("a", State::Exited, 42)]);
    assert_eq!(actions(&pod, &last), [Action::RemoveContainer { id: "a-0".into() }]);
    let memory = Memory { restarts: [("a".to_owned(), 0), ("b".to_owned(), 0)].into(), ..Memory::default() };
    let empty = with_sandbox(vec![]);
    assert_eq!(decide(&pod, &Intent::Run, &empty, &memory, 0).actions, [start("a", 1)]);
}

#[test]
fn a_start_that_was_interrupted_takes_no_number() {
    let pod = pod(serde_json::json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
    let next = |restarts, logged: Option<u32>| {
        let made = Container { restarts, ..seen("a", State::Created, 0) };
        let restarts = logged.map(|n| ("a".to_owned(), n)).into_iter().collect();
        let memory = Memory { restarts, ..Memory::default() };
        decide(&pod, &Intent::Run, &with_sandbox(vec![made]), &memory, 0).actions
    };
    for (restarts, logged, attempt) in
        [(0, None, 0), (0, Some(0), 0), (3, Some(3), 3), (3, Some(2), 3), (3, Some(4), 5)]
    {
        assert_eq!(next(restarts, logged), [start("a", attempt)], "{restarts} {logged:?}");
    }
}
