//! Looking at whether everything is as it was promised.
use machine::cri;
use tonic::{Code, Status};

use super::life::Client;
use super::pod::{self, Pod, Stage};
use crate::ring::{Outcome, check};

impl Client {
    /// Looks at everything when the runtime is another.
    pub(super) async fn look(&mut self, pod: &mut Pod) -> Outcome {
        if self.looked == self.world.life() && self.looked.is_some() {
            return Ok(());
        }
        self.look_at_all(pod).await
    }

    pub(super) async fn look_at_all(&mut self, pod: &mut Pod) -> Outcome {
        let life = self.world.life();
        let status = self.sandbox_status(&pod.id).await?;
        let status = status.map_err(|status| format!("PodSandboxStatus: {status}"))?;
        let ip = status.network.as_ref().map(|network| network.ip.clone()).unwrap_or_default();
        if pod.ip.is_empty() {
            pod.ip.clone_from(&ip);
        }
        let ready = status.state() == cri::PodSandboxState::SandboxReady;
        let connected = pod.ip == ip && pod::has_network(&pod.config) != ip.is_empty();
        check(
            ready == pod.ready && connected,
            format!("expected ready {}, {}: {status:?}", pod.ready, pod.ip),
        )?;
        for index in 0..pod.members.len() {
            self.look_at(pod, index).await?;
        }
        self.looked = life;
        Ok(())
    }

    pub(super) async fn look_at(&mut self, pod: &mut Pod, index: usize) -> Outcome {
        let status = self.status(&pod.members[index].id.clone()).await?;
        let member = &mut pod.members[index];
        match (member.stage, status) {
            (Stage::Removed, Err(status)) if status.code() == Code::NotFound => Ok(()),
            (Stage::Removed, other) => {
                Err(format!("container {} was removed, and now: {other:?}", member.name))
            }
            (_, Ok(status)) => member.compare(&status),
            (_, Err(status)) => Err(format!("ContainerStatus of {}: {status}", member.name)),
        }
    }

    pub(super) async fn status(&mut self, id: &str) -> Result<Result<cri::ContainerStatus, Status>, String> {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        let answer = self
            .ask("ContainerStatus", |mut rpc| {
                let request = request.clone();
                async move { rpc.container_status(request).await }
            })
            .await?;
        Ok(answer.map(|reply| reply.status.unwrap_or_default()))
    }

    pub(super) async fn sandbox_status(
        &mut self,
        id: &str,
    ) -> Result<Result<cri::PodSandboxStatus, Status>, String> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        let answer = self
            .ask("PodSandboxStatus", |mut rpc| {
                let request = request.clone();
                async move { rpc.pod_sandbox_status(request).await }
            })
            .await?;
        Ok(answer.map(|reply| reply.status.unwrap_or_default()))
    }
}
