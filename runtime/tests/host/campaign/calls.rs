//! Calls that are made until they are answered, and what is done when it is not known whether one was carried out.
use std::fs;

use machine::cri;
use machine::cri::runtime_service_client::RuntimeServiceClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::life::Client;
use super::pod::{LABEL, Pod};
use super::world::Answer;
use crate::ring::{Outcome, check};

impl Client {
    /// Removes sandboxes that nobody has told us of.
    pub(super) async fn discard(&mut self, name: &str) -> Outcome {
        let filter = cri::PodSandboxFilter {
            label_selector: [(LABEL.to_owned(), name.to_owned())].into(),
            ..Default::default()
        };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        let listed = self
            .insist("ListPodSandbox", |mut rpc| {
                let request = request.clone();
                async move { rpc.list_pod_sandbox(request).await }
            })
            .await?;
        for sandbox in listed.items {
            self.stop_sandbox(&sandbox.id).await?;
            self.remove_sandbox(&sandbox.id).await?;
        }
        Ok(())
    }

    /// Removes containers that nobody has told us of: of one call, so one at most.
    pub(super) async fn discard_containers(&mut self, pod: &Pod) -> Outcome {
        let filter = cri::ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
        let request = cri::ListContainersRequest { filter: Some(filter) };
        let listed = self
            .insist("ListContainers", |mut rpc| {
                let request = request.clone();
                async move { rpc.list_containers(request).await }
            })
            .await?;
        let known = |id: &String| pod.members.iter().any(|member| member.id == *id);
        let strange: Vec<_> = listed.containers.into_iter().filter(|each| !known(&each.id)).collect();
        check(strange.len() <= 1, format!("of one call {} containers: {strange:?}", strange.len()))?;
        for container in strange {
            self.remove_container(&container.id).await?;
        }
        Ok(())
    }

    pub(super) async fn remove_container(&mut self, id: &str) -> Outcome {
        let request = cri::RemoveContainerRequest { container_id: id.into() };
        self.insist("RemoveContainer", |mut rpc| {
            let request = request.clone();
            async move { rpc.remove_container(request).await }
        })
        .await
        .map(drop)
    }

    pub(super) async fn stop_sandbox(&mut self, id: &str) -> Outcome {
        loop {
            self.world.up().await;
            let mut rpc = self.rpc.clone();
            let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.into() };
            match self.world.call("StopPodSandbox", rpc.stop_pod_sandbox(request)).await? {
                Answer::Done(_) => return Ok(()),
                Answer::LaunchDied(status) | Answer::Refused(status) => {
                    return Err(format!("StopPodSandbox: {status}"));
                }
                Answer::Unknown => self.whole_if_ready(id).await?,
            }
        }
    }

    /// One that is ready still has all that makes it one.
    async fn whole_if_ready(&mut self, id: &str) -> Outcome {
        let Ok(status) = self.sandbox_status(id).await? else { return Ok(()) };
        let connected = status.network.as_ref().is_some_and(|network| !network.ip.is_empty());
        if status.state() != cri::PodSandboxState::SandboxReady || !connected {
            return Ok(());
        }
        let link = format!("/sys/class/net/pod{}", &id[..11]);
        let pin = format!("{}/ns/{id}/net", machine::paths::RUNTIME_RUN);
        let whole = [&link, &pin].map(|path| fs::exists(path).unwrap_or_default());
        check(whole == [true, true], format!("a ready pod sandbox without {link} or {pin}: {whole:?}"))
    }

    pub(super) async fn remove_sandbox(&mut self, id: &str) -> Outcome {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.insist("RemovePodSandbox", |mut rpc| {
            let request = request.clone();
            async move { rpc.remove_pod_sandbox(request).await }
        })
        .await
        .map(drop)
    }

    /// Calls again until the runtime has answered: what CRI calls idempotent, and questions.
    pub(super) async fn ask<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        what: &str,
        call: impl Fn(RuntimeServiceClient<Channel>) -> F,
    ) -> Result<Result<T, Status>, String> {
        loop {
            self.world.up().await;
            match self.world.call(what, call(self.rpc.clone())).await? {
                Answer::Done(reply) => return Ok(Ok(reply)),
                // No launch is in it.
                Answer::LaunchDied(status) | Answer::Refused(status) => return Ok(Err(status)),
                Answer::Unknown => {}
            }
        }
    }

    pub(super) async fn insist<T, F: Future<Output = Result<Response<T>, Status>>>(
        &self,
        what: &str,
        call: impl Fn(RuntimeServiceClient<Channel>) -> F,
    ) -> Result<T, String> {
        self.ask(what, call).await?.map_err(|status| format!("{what}: {status}"))
    }
}
