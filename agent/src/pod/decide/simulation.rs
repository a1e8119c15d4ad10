//! A pod's life against a runtime that takes its time, with an agent that forgets everything at any moment: what has to hold, holds.
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::backoff::SECOND;
use crate::pod::observed::{Container, Sandbox};

/// What happens next, beside the agent's own looking and acting.
#[derive(Debug, Clone)]
enum Event {
    /// The operation that began first, or another one, ends; or fails, and is to be tried again.
    Done { which: usize, well: bool },
    /// A running container ends.
    Exit { which: usize, code: i32 },
    /// The agent begins anew: what it had under way either takes effect or does not.
    AgentRestarts { effect: bool },
    /// Seconds go by.
    Wait(i64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..4_usize, prop::bool::weighted(0.85)).prop_map(|(which, well)| Event::Done { which, well }),
        3 => (0..6_usize, prop_oneof![Just(0), Just(1), Just(42)]).prop_map(|(which, code)| Event::Exit { which, code }),
        1 => any::<bool>().prop_map(|effect| Event::AgentRestarts { effect }),
        2 => (1..400_i64).prop_map(Event::Wait),
    ]
}

struct World {
    pod: Pod,
    intent: Intent,
    now: Nanos,
    runtime: Observed,
    memory: Memory,
    under_way: Vec<(Operation, Action)>,
    /// The highest attempt by container, as the logs on disk tell.
    logs: BTreeMap<String, u32>,
    /// Exit codes by container, in order; what users would call its history.
    ends: BTreeMap<String, Vec<i32>>,
    next_id: u32,
}

impl World {
    fn new(policy: &str) -> Self {
        let pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "u"},
            "spec": {
                "restartPolicy": policy,
                "initContainers": [{"name": "first"}, {"name": "side", "restartPolicy": "Always"}, {"name": "second"}],
                "containers": [{"name": "a"}, {"name": "b"}],
            }
        }))
        .unwrap();
        Self {
            pod,
            intent: Intent::Run,
            now: 1000 * SECOND,
            runtime: Observed::default(),
            memory: Memory::default(),
            under_way: Vec::new(),
            logs: BTreeMap::new(),
            ends: BTreeMap::new(),
            next_id: 0,
        }
    }

    fn id(&mut self) -> String {
        self.next_id += 1;
        format!("id{}", self.next_id)
    }

    /// The agent looks and begins what it decides.
    fn look(&mut self) -> Decision {
        let decision = decide(&self.pod, &self.intent, &self.runtime, &self.memory, self.now);
        for action in &decision.actions {
            self.check(action);
            let operation = match action {
                Action::CreateSandbox { .. } => Operation::Sandbox,
                Action::Start { name, .. } => Operation::Start(name.clone()),
                Action::Stop { id, .. } | Action::StopSandbox { id } => Operation::Stop(id.clone()),
                Action::RemoveContainer { id } | Action::RemoveSandbox { id } => {
                    Operation::Remove(id.clone())
                }
                Action::Resize => Operation::Resize,
                Action::Release => Operation::Release,
            };
            if let Action::Start { name, .. } = action
                && let Some(last) = self.runtime.container(name).filter(|c| c.state == State::Exited)
            {
                self.memory.backoff.entry(name.clone()).or_default().next(last.ended_at, self.now);
            }
            assert!(self.memory.in_flight.insert(operation.clone()), "{operation:?} is under way already");
            self.under_way.push((operation, action.clone()));
        }
        decision
    }

    /// What must hold of everything that the agent begins.
    fn check(&self, action: &Action) {
        let policy = spec::restart_policy(&self.pod);
        match action {
            Action::Start { name, attempt } => {
                assert_eq!(self.intent, Intent::Run, "{name} is started although the pod is to end");
                assert!(self.running(name) == 0, "{name} runs and is started again");
                let last = self.ends.get(name).and_then(|codes| codes.last());
                let app = ["a", "b"].contains(&name.as_str());
                if let (Some(code), true) = (last, app) {
                    assert!(
                        policy == "Always" || (policy == "OnFailure" && *code != 0),
                        "{name} had ended with {code} and is started again under {policy}"
                    );
                }
                if let Some(last) = self.logs.get(name) {
                    assert!(attempt > last, "{name}: attempt {attempt} after {last}");
                }
                if app {
                    for init in ["first", "second"] {
                        let done = self.ends.get(init).is_some_and(|codes| codes.contains(&0));
                        assert!(done, "{name} is started before {init} has ended well");
                    }
                    assert!(self.runtime.container("side").is_some(), "{name} is started before the sidecar");
                }
            }
            Action::Stop { name, .. } if name == "side" => {
                let apps = self.running("a") + self.running("b");
                assert_eq!(apps, 0, "the sidecar is stopped while others run");
            }
            _ => {}
        }
    }

    fn running(&self, name: &str) -> usize {
        self.runtime.containers.iter().filter(|c| c.name == name && c.state == State::Running).count()
    }

    fn take_effect(&mut self, action: &Action) {
        match action {
            Action::CreateSandbox { attempt } => {
                let id = self.id();
                let ips = vec!["10.0.0.1".to_owned()];
                let sandbox = Sandbox { id, attempt: *attempt, ready: true, ips, ..Sandbox::default() };
                self.runtime.sandboxes.insert(0, sandbox);
            }
            Action::StopSandbox { id } => {
                self.runtime.sandboxes.iter_mut().filter(|s| s.id == *id).for_each(|s| s.ready = false);
                self.end_all(|c| c.sandbox == *id, 137);
            }
            Action::RemoveSandbox { id } => self.runtime.sandboxes.retain(|s| s.id != *id),
            Action::Start { name, attempt } => {
                let Some(sandbox) = self.runtime.current().map(|s| s.id.clone()) else { return };
                let id = self.id();
                self.logs.insert(name.clone(), *attempt);
                let container = Container {
                    id,
                    name: name.clone(),
                    sandbox,
                    restarts: *attempt,
                    state: State::Running,
                    created_at: self.now,
                    started_at: self.now,
                    ..Container::default()
                };
                self.runtime.containers.insert(0, container);
                assert_eq!(self.running(name), 1, "{name} runs twice");
            }
            Action::Stop { id, .. } => self.end_all(|c| c.id == *id, 143),
            Action::RemoveContainer { id } => self.runtime.containers.retain(|c| c.id != *id),
            Action::Resize | Action::Release => {}
        }
    }

    fn end_all(&mut self, which: impl Fn(&Container) -> bool, code: i32) {
        let now = self.now;
        for container in &mut self.runtime.containers {
            if which(container) && container.state == State::Running {
                (container.state, container.exit_code, container.finished_at) = (State::Exited, code, now);
                container.ended_at = now;
                self.ends.entry(container.name.clone()).or_default().push(code);
            }
        }
    }

    fn done(&mut self, which: usize, well: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let (operation, action) = self.under_way.remove(which % self.under_way.len());
        self.memory.in_flight.remove(&operation);
        if well {
            self.take_effect(&action);
        }
        let retry_at = self.now + 5 * SECOND;
        let failure = Failure { reason: "Error".into(), message: String::new(), retry_at };
        match &action {
            Action::CreateSandbox { .. } => self.memory.sandbox_failure = (!well).then_some(failure),
            Action::Start { name, .. } if !well => {
                self.memory.failures.insert(name.clone(), failure);
            }
            Action::Start { name, attempt } => {
                self.memory.failures.remove(name);
                self.memory.restarts.insert(name.clone(), *attempt);
            }
            Action::Release if well => self.memory.released = true,
            _ => {}
        }
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Done { which, well } => self.done(*which, *well),
            Event::Exit { which, code } => {
                let running: Vec<String> = self
                    .runtime
                    .containers
                    .iter()
                    .filter(|c| c.state == State::Running)
                    .map(|c| c.id.clone())
                    .collect();
                if let Some(id) = running.get(which % running.len().max(1)) {
                    self.end_all(|c| c.id == *id, *code);
                }
            }
            Event::AgentRestarts { effect } => {
                for (_, action) in std::mem::take(&mut self.under_way) {
                    // The runtime finishes what it has begun, whoever asked for it.
                    if *effect || matches!(action, Action::Stop { .. }) {
                        self.take_effect(&action);
                    }
                }
                let before: Vec<String> = self.ids();
                self.memory = Memory { restarts: self.logs.clone(), ..Memory::default() };
                let stops = |d: &Decision| d.actions.iter().any(|a| matches!(a, Action::Stop { .. }));
                let decision = decide(&self.pod, &self.intent, &self.runtime, &self.memory, self.now);
                let apps = self.running("a") + self.running("b");
                if self.intent == Intent::Run && apps == 2 {
                    assert!(!stops(&decision), "an agent that begins anew stops what runs");
                }
                assert_eq!(before, self.ids());
            }
            Event::Wait(seconds) => self.now += seconds * SECOND,
        }
    }

    fn ids(&self) -> Vec<String> {
        self.runtime.containers.iter().map(|c| c.id.clone()).collect()
    }

    /// Everything under way ends well and time goes by until nothing is to be done any more.
    fn settle(&mut self) -> Decision {
        for _ in 0..200 {
            let decision = self.look();
            if self.under_way.is_empty() && decision.wake.is_none() {
                return decision;
            }
            while !self.under_way.is_empty() {
                self.done(0, true);
            }
            self.now += 301 * SECOND;
        }
        panic!("the pod does not settle: {:?}", self.runtime);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn a_pod_lives_and_ends_as_it_should(
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        events in prop::collection::vec(event(), 0..60),
        end_after in 0..60_usize,
    ) {
        let mut world = World::new(policy);
        for event in events.iter().take(end_after) {
            world.look();
            world.happen(event);
        }
        world.intent = Intent::Stop { grace: 30 };
        let mut decision = world.settle();
        for event in events.iter().skip(end_after) {
            if !matches!(event, Event::Exit { .. }) {
                world.happen(event);
            }
        }
        decision = if decision.gone { world.settle() } else { decision };
        prop_assert!(decision.gone, "the pod does not go: {:?}", world.runtime);
        prop_assert!(!world.runtime.anything_runs());
    }

    #[test]
    fn a_pod_that_may_always_restart_runs_whole_again(events in prop::collection::vec(event(), 0..60)) {
        let mut world = World::new("Always");
        for event in &events {
            world.look();
            world.happen(event);
        }
        for _ in 0..8 {
            world.settle();
            // Init containers end by themselves.
            world.end_all(|c| ["first", "second"].contains(&c.name.as_str()), 0);
        }
        world.settle();
        for name in ["side", "a", "b"] {
            prop_assert_eq!(world.running(name), 1, "{} is lost", name);
        }
        let before = world.ids();
        world.happen(&Event::AgentRestarts { effect: true });
        world.settle();
        prop_assert_eq!(before, world.ids(), "an agent that begins anew touches nothing");
    }
}
