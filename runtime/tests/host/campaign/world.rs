//! What is killed when, and so which answers clients may get.
use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use machine::cri;
use machine::cri::runtime_service_client::RuntimeServiceClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::ring::{Outcome, check, text};

/// No call takes this long.
const DEADLINE: Duration = Duration::from_secs(90);

/// What came of a call.
#[derive(Debug)]
pub enum Answer<T> {
    /// A promise.
    Done(T),
    /// The runtime was killed before it answered: both outcomes are allowed.
    Unknown,
    /// A launch was killed meanwhile, perhaps this call's.
    LaunchDied(Status),
    /// Without any excuse.
    Refused(Status),
}

#[derive(Debug, Default)]
pub struct World {
    down: Cell<bool>,
    runtime_kills: Cell<u32>,
    launch_kills: Cell<u32>,
    /// Calls that failed although the runtime lived.
    failures: Cell<u32>,
    ended: Cell<bool>,
    slowest: Cell<Duration>,
    pub pods: Cell<u32>,
    pub containers: Cell<u32>,
    pub execs: Cell<u32>,
    pub unknown: Cell<u32>,
}

pub fn count(counter: &Cell<u32>) {
    counter.set(counter.get() + 1);
}

impl World {
    pub fn runtime_dies(&self) {
        count(&self.runtime_kills);
        self.down.set(true);
    }

    pub fn runtime_is_back(&self, after: Duration) {
        self.down.set(false);
        self.slowest.set(self.slowest.get().max(after));
    }

    pub fn launch_died(&self) {
        count(&self.launch_kills);
    }

    /// How many launches were killed so far.
    pub fn launches(&self) -> u32 {
        self.launch_kills.get()
    }

    pub fn stop(&self) {
        self.ended.set(true);
    }

    pub fn go_on(&self) {
        self.ended.set(false);
    }

    pub fn goes_on(&self) -> bool {
        !self.ended.get()
    }

    /// The number of the runtime's present life; none while it is dead.
    pub fn life(&self) -> Option<u32> {
        (!self.down.get()).then(|| self.runtime_kills.get())
    }

    /// Waits for the runtime.
    pub async fn up(&self) {
        while self.down.get() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Calls the runtime. Unless it is dead or dies meanwhile it has to answer.
    ///
    /// # Errors
    /// When it does not.
    pub async fn call<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Answer<T>, String> {
        let (life, launches) = (self.life(), self.launch_kills.get());
        let result = tokio::time::timeout(DEADLINE, work).await;
        let result = result.map_err(|_| format!("{what}: no answer within {} s", DEADLINE.as_secs()))?;
        Ok(match result {
            Ok(reply) => Answer::Done(reply.into_inner()),
            Err(_) if life.is_none() || self.life() != life => {
                count(&self.unknown);
                Answer::Unknown
            }
            Err(status) if self.launch_kills.get() != launches => Answer::LaunchDied(status),
            Err(status) => Answer::Refused(status),
        })
    }

    /// A call failed because of its launch.
    pub fn failed(&self) {
        count(&self.failures);
    }

    /// One killed launch fails one call at most.
    pub fn failures_have_causes(&self) -> Outcome {
        let (failures, kills) = (self.failures.get(), self.launch_kills.get());
        check(failures <= kills, format!("{failures} calls failed but only {kills} launches were killed"))
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "killed: runtime {}, launch {}; {} pods, {} containers, {} execs; calls: {} cut off, {} failed with their launch; slowest restart {} ms",
            self.runtime_kills.get(),
            self.launch_kills.get(),
            self.pods.get(),
            self.containers.get(),
            self.execs.get(),
            self.unknown.get(),
            self.failures.get(),
            self.slowest.get().as_millis(),
        )
    }
}

/// Tells the range of pods' addresses, once: no later life of the runtime is told.
pub async fn network(client: &mut RuntimeServiceClient<Channel>) -> Outcome {
    let network_config = Some(cri::NetworkConfig { pod_cidr: "10.99.7.0/24".into() });
    let request =
        cri::UpdateRuntimeConfigRequest { runtime_config: Some(cri::RuntimeConfig { network_config }) };
    client.update_runtime_config(request).await.map(drop).map_err(text)
}
