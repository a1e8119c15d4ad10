//! One client: it makes a pod, has containers in it run, be looked into, end and be removed, and removes the pod. Whenever the runtime was killed
//! it looks at everything that it was promised.
use std::rc::Rc;
use std::time::Duration;

use machine::cri;
use machine::cri::runtime_service_client::RuntimeServiceClient;
use tonic::Code;
use tonic::transport::Channel;

use super::events::Events;
use super::pod::{self, Kind, Member, Pod, Stage};
use super::world::{Answer, World, count};
use crate::random::Random;
use crate::ring::{Outcome, channel, check, container_config};

/// How long a container that ends by itself may take, whatever is killed.
const END: Duration = Duration::from_secs(60);

pub struct Client {
    number: usize,
    lives: u32,
    pub(super) world: Rc<World>,
    events: Rc<Events>,
    random: Random,
    pub(super) rpc: RuntimeServiceClient<Channel>,
    /// The life of the runtime in which everything was looked at last.
    pub(super) looked: Option<u32>,
}

impl Client {
    pub fn new(number: usize, world: Rc<World>, events: Rc<Events>, random: Random) -> Self {
        let rpc = RuntimeServiceClient::new(channel());
        Self { number, lives: 0, world, events, random, rpc, looked: None }
    }

    /// One pod, from its making until nothing of it is left.
    pub async fn live(&mut self) -> Outcome {
        self.lives += 1;
        let name = format!("campaign-{}-{}", self.number, self.lives);
        let result = self.whole_life(&name).await;
        result.map_err(|error| format!("pod {name}: {error}"))
    }

    async fn whole_life(&mut self, name: &str) -> Outcome {
        let mut pod = self.sandbox(name).await?;
        for index in 0..=self.random.below(3) {
            let kind = Kind::random(&mut self.random);
            self.create(&mut pod, &format!("c{index}"), kind).await?;
            self.look(&mut pod).await?;
            self.start(&mut pod).await?;
            self.look(&mut pod).await?;
        }
        for _ in 0..=self.random.below(3) {
            self.exec(&mut pod).await?;
            self.look(&mut pod).await?;
        }
        for index in 0..pod.members.len() {
            match pod.members[index].kind {
                Kind::Ends { .. } => self.wait(&mut pod, index).await?,
                // The others are stopped with their pod.
                _ if self.random.below(4) == 0 => {}
                _ => self.stop(&mut pod, index).await?,
            }
            self.look(&mut pod).await?;
            if self.random.below(2) == 0 {
                self.remove(&mut pod, index).await?;
                self.look(&mut pod).await?;
            }
        }
        self.end(pod).await
    }

    async fn sandbox(&mut self, name: &str) -> Result<Pod, String> {
        let config = pod::config(self.number, name, &mut self.random);
        loop {
            self.world.up().await;
            let mut rpc = self.rpc.clone();
            let request =
                cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
            match self.world.call("RunPodSandbox", rpc.run_pod_sandbox(request)).await? {
                Answer::Done(reply) => {
                    count(&self.world.pods);
                    let mut pod = Pod {
                        name: name.to_owned(),
                        id: reply.pod_sandbox_id,
                        config,
                        ready: true,
                        ip: String::new(),
                        members: Vec::new(),
                    };
                    self.look_at_all(&mut pod).await?;
                    return Ok(pod);
                }
                Answer::Unknown => {}
                Answer::LaunchDied(_) => self.world.failed(),
                Answer::Refused(status) => return Err(format!("RunPodSandbox: {status}")),
            }
            // There may be one that nobody has told us of.
            self.discard(name).await?;
        }
    }

    async fn create(&mut self, pod: &mut Pod, name: &str, kind: Kind) -> Outcome {
        let script = kind.script();
        let config = container_config(&pod.config, name, &["sh", "-c", &script]);
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        loop {
            self.world.up().await;
            let mut rpc = self.rpc.clone();
            match self.world.call("CreateContainer", rpc.create_container(request.clone())).await? {
                Answer::Done(reply) => {
                    count(&self.world.containers);
                    let (id, name) = (reply.container_id, name.to_owned());
                    pod.members.push(Member { id, name, kind, stage: Stage::Created, heard: None });
                    return Ok(());
                }
                Answer::Unknown => self.discard_containers(pod).await?,
                Answer::LaunchDied(status) | Answer::Refused(status) => {
                    return Err(format!("CreateContainer: {status}"));
                }
            }
        }
    }

    /// Starts the container that was made last.
    async fn start(&mut self, pod: &mut Pod) -> Outcome {
        let Some(index) = pod.members.len().checked_sub(1) else { return Ok(()) };
        let id = pod.members[index].id.clone();
        self.events.expect(&id, pod.members[index].kind.code());
        loop {
            self.world.up().await;
            let heard = self.events.heard().filter(|life| self.world.life() == Some(*life));
            let launches = self.world.launches();
            let mut rpc = self.rpc.clone();
            let request = cri::StartContainerRequest { container_id: id.clone() };
            match self.world.call("StartContainer", rpc.start_container(request)).await? {
                Answer::Done(_) => {
                    pod.members[index].stage = Stage::Started;
                    pod.members[index].heard = heard;
                    return Ok(());
                }
                Answer::LaunchDied(_) => {
                    self.world.failed();
                    pod.members[index].stage = Stage::NeverRan;
                    return Ok(());
                }
                Answer::Refused(status) => return Err(format!("StartContainer: {status}")),
                Answer::Unknown => {}
            }
            // It was not started at all, or as if we had been told so.
            let status = self.status(&id).await?.map_err(|status| format!("ContainerStatus: {status}"))?;
            if status.state() != cri::ContainerState::ContainerCreated {
                // Its launch may have been killed first, and then the runtime before it could say so.
                let failed = status.reason == "StartError" && self.world.launches() != launches;
                if failed {
                    self.world.failed();
                }
                pod.members[index].stage = if failed { Stage::NeverRan } else { Stage::Started };
                return pod.members[index].compare(&status);
            }
        }
    }

    /// In some container that is to stay until it is stopped.
    async fn exec(&mut self, pod: &mut Pod) -> Outcome {
        let stays =
            |member: &&Member| member.stage == Stage::Started && !matches!(member.kind, Kind::Ends { .. });
        let running: Vec<String> = pod.members.iter().filter(stays).map(|member| member.id.clone()).collect();
        if running.is_empty() {
            return Ok(());
        }
        let id = running[self.random.below(running.len() as u64) as usize].clone();
        let code = self.random.below(120) as i32;
        let cmd = ["sh", "-c", &format!("echo out; echo err >&2; exit {code}")];
        let cmd = cmd.iter().map(ToString::to_string).collect();
        let request = cri::ExecSyncRequest { container_id: id, cmd, timeout: 60 };
        self.world.up().await;
        let mut rpc = self.rpc.clone();
        match self.world.call("ExecSync", rpc.exec_sync(request)).await? {
            Answer::Done(reply) => {
                count(&self.world.execs);
                let right = reply.exit_code == code && reply.stdout == b"out\n" && reply.stderr == b"err\n";
                check(right, format!("an exec of exit {code} brought {reply:?}"))
            }
            Answer::Unknown => Ok(()),
            Answer::LaunchDied(_) => {
                self.world.failed();
                Ok(())
            }
            Answer::Refused(status) => Err(format!("ExecSync: {status}")),
        }
    }

    /// Waits for the end of a container that ends by itself.
    async fn wait(&mut self, pod: &mut Pod, index: usize) -> Outcome {
        let start = std::time::Instant::now();
        while pod.members[index].stage == Stage::Started {
            check(
                start.elapsed() < END,
                format!("container {} has not ended within 60 s", pod.members[index].name),
            )?;
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.look_at(pod, index).await?;
        }
        self.ended(pod, index)
    }

    /// What is checked once when a container has ended.
    fn ended(&self, pod: &Pod, index: usize) -> Outcome {
        let member = &pod.members[index];
        if member.heard.is_some() && member.heard == self.world.life() {
            self.events.due(&member.id);
        }
        member.check_log(&pod.name)
    }

    async fn stop(&mut self, pod: &mut Pod, index: usize) -> Outcome {
        let (id, kind) = (pod.members[index].id.clone(), pod.members[index].kind);
        if pod.members[index].stage == Stage::Started && matches!(kind, Kind::Polite { .. }) {
            self.begun(&pod.members[index], &pod.name).await?;
        }
        let request = cri::StopContainerRequest { container_id: id.clone(), timeout: kind.grace() };
        self.insist("StopContainer", |mut rpc| {
            let request = request.clone();
            async move { rpc.stop_container(request).await }
        })
        .await?;
        if pod.members[index].stage == Stage::Started {
            let status = self.status(&id).await?.map_err(|status| format!("ContainerStatus: {status}"))?;
            check(
                status.state() == cri::ContainerState::ContainerExited,
                format!("after StopContainer: {status:?}"),
            )?;
            pod.members[index].end(&status)?;
            self.ended(pod, index)?;
        }
        Ok(())
    }

    /// Its program has come to where it can be asked to end.
    async fn begun(&self, member: &Member, pod: &str) -> Outcome {
        let start = std::time::Instant::now();
        while !member.log(pod).contains(" F begin\n") {
            check(start.elapsed() < END, format!("container {} says nothing for 60 s", member.name))?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn remove(&mut self, pod: &mut Pod, index: usize) -> Outcome {
        self.killed(pod, index);
        self.remove_container(&pod.members[index].id.clone()).await?;
        pod.members[index].stage = Stage::Removed;
        Ok(())
    }

    /// One that is removed, or stopped with its pod, gets no grace.
    fn killed(&self, pod: &mut Pod, index: usize) {
        let member = &mut pod.members[index];
        if member.stage == Stage::Started {
            member.kind = Kind::Deaf;
            self.events.expect(&member.id, member.kind.code());
        }
    }

    /// Stops and removes the pod, or removes it at once.
    async fn end(&mut self, mut pod: Pod) -> Outcome {
        for index in 0..pod.members.len() {
            self.killed(&mut pod, index);
        }
        if self.random.below(4) > 0 {
            self.stop_sandbox(&pod.id).await?;
            pod.ready = false;
            for index in 0..pod.members.len() {
                if pod.members[index].stage == Stage::Started {
                    let id = pod.members[index].id.clone();
                    let status = self.status(&id).await?.map_err(|status| status.to_string())?;
                    pod.members[index].end(&status)?;
                }
            }
            self.look_at_all(&mut pod).await?;
        }
        self.remove_sandbox(&pod.id).await?;
        let sandbox = self.sandbox_status(&pod.id).await?.map(drop);
        check(
            sandbox.as_ref().is_err_and(|status| status.code() == Code::NotFound),
            format!("after RemovePodSandbox: {sandbox:?}"),
        )?;
        for member in &mut pod.members {
            member.stage = Stage::Removed;
        }
        for index in 0..pod.members.len() {
            self.look_at(&mut pod, index).await?;
        }
        pod::clear(&pod.name)
    }
}
