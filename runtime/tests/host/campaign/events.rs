//! Container events: each at most once and in order, and the code in them is the right one.
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use machine::cri;
use machine::cri::ContainerEventType::{
    ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
};
use machine::cri::runtime_service_client::RuntimeServiceClient;

use super::world::World;
use crate::ring::{Outcome, channel, check};

#[derive(Debug, Default)]
pub struct Events {
    /// The life of the runtime whose events are heard.
    heard: Cell<Option<u32>>,
    told: RefCell<BTreeMap<String, Vec<cri::ContainerEventType>>>,
    codes: RefCell<BTreeMap<String, i32>>,
    /// Exits that happened while nothing was killed and somebody listened.
    due: RefCell<BTreeSet<String>>,
    fault: RefCell<Option<String>>,
}

impl Events {
    /// Listens, to each life of the runtime anew.
    pub async fn follow(self: Rc<Self>, world: Rc<World>) {
        let mut client = RuntimeServiceClient::new(channel());
        loop {
            world.up().await;
            let life = world.life();
            if let Ok(stream) = client.get_container_events(cri::GetEventsRequest {}).await {
                let mut stream = stream.into_inner();
                self.heard.set(life);
                while let Ok(Some(event)) = stream.message().await {
                    self.take(event);
                }
                self.heard.set(None);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn heard(&self) -> Option<u32> {
        self.heard.get()
    }

    /// The code that a container's end must have.
    pub fn expect(&self, container: &str, code: i32) {
        self.codes.borrow_mut().insert(container.into(), code);
    }

    /// Its end must be told.
    pub fn due(&self, container: &str) {
        self.due.borrow_mut().insert(container.into());
    }

    /// The runtime is about to be killed: what it has not told by now, nobody can expect.
    pub fn forgive(&self) {
        let missing = self.missing();
        self.due.borrow_mut().retain(|id| !missing.contains(id));
    }

    fn take(&self, event: cri::ContainerEventResponse) {
        let (id, kind) = (event.container_id.clone(), event.container_event_type());
        let mut told = self.told.borrow_mut();
        let sequence = told.entry(id.clone()).or_default();
        sequence.push(kind);
        if !in_order(sequence) {
            self.fault.replace(Some(format!("events of container {id}: {sequence:?}")));
        }
        if kind == ContainerStoppedEvent {
            let status = event.containers_statuses.into_iter().find(|status| status.id == id);
            let code = status.map(|status| (status.state(), status.exit_code));
            let expected = self.codes.borrow().get(&id).copied();
            let ended = cri::ContainerState::ContainerExited;
            if let Some(expected) = expected
                && code != Some((ended, expected))
            {
                let fault = format!("the stop of container {id} was told as {code:?} instead of {expected}");
                self.fault.replace(Some(fault));
            }
        }
    }

    /// Once nothing goes on any more: everything was right, and what is due has come.
    pub async fn all_were_told(&self) -> Outcome {
        let mut missing = Vec::new();
        for _ in 0..200 {
            missing = self.missing();
            if missing.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.codes.borrow_mut().clear();
        self.told.borrow_mut().clear();
        self.due.borrow_mut().clear();
        match self.fault.take() {
            Some(fault) => Err(fault),
            None => check(missing.is_empty(), format!("the stop of {missing:?} was not told")),
        }
    }

    fn missing(&self) -> Vec<String> {
        let (due, told) = (self.due.borrow(), self.told.borrow());
        let silent = |id: &&String| !told.get(*id).is_some_and(|all| all.contains(&ContainerStoppedEvent));
        due.iter().filter(silent).cloned().collect()
    }
}

/// Some may be missing, when the runtime was killed before it told them.
fn in_order(sequence: &[cri::ContainerEventType]) -> bool {
    let place = |kind: &cri::ContainerEventType| match kind {
        ContainerCreatedEvent => 0,
        ContainerStartedEvent => 1,
        ContainerStoppedEvent => 2,
        ContainerDeletedEvent => 3,
    };
    sequence.windows(2).all(|pair| place(&pair[0]) < place(&pair[1]))
}
