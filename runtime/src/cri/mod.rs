//! CRI's RuntimeService over [`Runtime`]: requests checked and taken apart, answers put together; nothing is decided here.
use std::sync::Arc;
use std::time::Duration;

use machine::cri;
use machine::cri::runtime_service_server::RuntimeService;
use tonic::{Request, Status};

pub mod convert;
mod errors;
pub mod images;
mod lists;
mod service;
mod status;

use errors::status;
use lists::batches;
pub use service::Service;
use service::{Answer, Streamed, answer, whole};
use status::info_of;

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        answer(cri::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "pintle".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        answer(self.current_status(request.into_inner().verbose).await)
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("no sandbox config"))?;
        let runtime = Arc::clone(&self.runtime);
        let pod_sandbox_id =
            whole(async move { runtime.run_sandbox(config, request.runtime_handler).await }).await?;
        answer(cri::RunPodSandboxResponse { pod_sandbox_id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        let (runtime, id) = (Arc::clone(&self.runtime), request.into_inner().pod_sandbox_id);
        whole(async move { runtime.stop_sandbox(&id).await }).await?;
        answer(cri::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        let (runtime, id) = (Arc::clone(&self.runtime), request.into_inner().pod_sandbox_id);
        whole(async move { runtime.remove_sandbox(&id).await }).await?;
        answer(cri::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let record = self.runtime.sandbox(&request.pod_sandbox_id).map_err(status)?.record();
        let containers = self.runtime.containers_of(Some(&record.id));
        answer(cri::PodSandboxStatusResponse {
            status: Some(convert::sandbox_status(&record)),
            info: self.sandbox_info(&record, request.verbose).await,
            containers_statuses: containers
                .iter()
                .map(|container| convert::container_status(&container.record()))
                .collect(),
            timestamp: containers::now(),
        })
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        answer(cri::ListPodSandboxResponse { items: self.sandboxes(request.into_inner().filter) })
    }

    type StreamPodSandboxesStream = Streamed<cri::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let items = self.sandboxes(request.into_inner().filter);
        batches(&items, |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes })
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("no container config"))?;
        let runtime = Arc::clone(&self.runtime);
        let container_id =
            whole(async move { runtime.create_container(&request.pod_sandbox_id, config).await }).await?;
        answer(cri::CreateContainerResponse { container_id })
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        let (runtime, id) = (Arc::clone(&self.runtime), request.into_inner().container_id);
        whole(async move { runtime.start_container(&id).await }).await?;
        answer(cri::StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let request = request.into_inner();
        let Ok(container) = self.runtime.container(&request.container_id) else {
            return answer(cri::StopContainerResponse {});
        };
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        self.runtime.stop_container(&container, grace).await.map_err(status)?;
        answer(cri::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        let (runtime, id) = (Arc::clone(&self.runtime), request.into_inner().container_id);
        whole(async move { runtime.remove_container(&id).await }).await?;
        answer(cri::RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        answer(cri::ListContainersResponse { containers: self.containers(request.into_inner().filter) })
    }

    type StreamContainersStream = Streamed<cri::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let items = self.containers(request.into_inner().filter);
        batches(&items, |containers| cri::StreamContainersResponse { containers })
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let request = request.into_inner();
        let record = self.runtime.container(&request.container_id).map_err(status)?.record();
        answer(cri::ContainerStatusResponse {
            status: Some(convert::container_status(&record)),
            info: info_of(&record, request.verbose),
        })
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let container = self.runtime.container(&request.container_id).map_err(status)?;
        let resources = request.linux.ok_or_else(|| Status::invalid_argument("no resources"))?;
        let updated = self.runtime.update_container(&container, resources, request.annotations).await;
        updated.map_err(status)?;
        answer(cri::UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        let container = self.running(&request.into_inner().container_id)?;
        let reopened = container.reopen_log().await;
        reopened.map_err(|error| Status::internal(format!("reopen the container's log: {error}")))?;
        answer(cri::ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<cri::ExecSyncRequest>) -> Answer<cri::ExecSyncResponse> {
        let request = request.into_inner();
        let timeout =
            u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let (stdout, stderr, exit_code) =
            self.runtime.exec_sync(&request.container_id, &request.cmd, timeout).await.map_err(status)?;
        answer(cri::ExecSyncResponse { stdout, stderr, exit_code })
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        let mut request = request.into_inner();
        request.container_id = self.running(&request.container_id)?.record().id;
        answer(cri::ExecResponse { url: self.streams.register_exec(request).map_err(status)? })
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let mut request = request.into_inner();
        request.container_id = self.running(&request.container_id)?.record().id;
        answer(cri::AttachResponse { url: self.streams.register_attach(request).map_err(status)? })
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Answer<cri::PortForwardResponse> {
        let mut request = request.into_inner();
        request.pod_sandbox_id = self.ready(&request.pod_sandbox_id)?.record().id;
        answer(cri::PortForwardResponse { url: self.streams.register_port_forward(request).map_err(status)? })
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let container = self.runtime.container(&request.into_inner().container_id).map_err(status)?;
        answer(cri::ContainerStatsResponse { stats: Some(self.runtime.container_stats(&container).await) })
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        answer(cri::ListContainerStatsResponse {
            stats: self.all_container_stats(request.into_inner().filter).await,
        })
    }

    type StreamContainerStatsStream = Streamed<cri::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let items = self.all_container_stats(request.into_inner().filter).await;
        batches(&items, |container_stats| cri::StreamContainerStatsResponse { container_stats })
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let sandbox = self.runtime.sandbox(&request.into_inner().pod_sandbox_id).map_err(status)?;
        answer(cri::PodSandboxStatsResponse { stats: Some(self.runtime.sandbox_stats(&sandbox).await) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        answer(cri::ListPodSandboxStatsResponse {
            stats: self.all_sandbox_stats(request.into_inner().filter).await,
        })
    }

    type StreamPodSandboxStatsStream = Streamed<cri::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let items = self.all_sandbox_stats(request.into_inner().filter).await;
        batches(&items, |pod_sandbox_stats| cri::StreamPodSandboxStatsResponse { pod_sandbox_stats })
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        self.configure(request.into_inner()).await?;
        answer(cri::UpdateRuntimeConfigResponse {})
    }

    async fn checkpoint_container(
        &self,
        _: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        Err(Status::unimplemented("checkpoints are not supported"))
    }

    async fn checkpoint_pod(
        &self,
        _: Request<cri::CheckpointPodRequest>,
    ) -> Answer<cri::CheckpointPodResponse> {
        Err(Status::unimplemented("checkpoints are not supported"))
    }

    async fn restore_pod(&self, _: Request<cri::RestorePodRequest>) -> Answer<cri::RestorePodResponse> {
        Err(Status::unimplemented("checkpoints are not supported"))
    }

    type GetContainerEventsStream = Streamed<cri::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        use tokio_stream::StreamExt;
        let events = tokio_stream::wrappers::BroadcastStream::new(self.runtime.subscribe());
        // A listener that cannot keep up must list anew rather than miss something in silence.
        answer(Box::pin(events.map(|event| match event {
            Ok(event) => Ok(convert::event(&event)),
            Err(lag) => Err(Status::resource_exhausted(lag.to_string())),
        })))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        answer(cri::ListMetricDescriptorsResponse { descriptors: crate::metrics::descriptors() })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        answer(cri::ListPodSandboxMetricsResponse { pod_metrics: self.all_sandbox_metrics().await })
    }

    type StreamPodSandboxMetricsStream = Streamed<cri::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let items = self.all_sandbox_metrics().await;
        batches(&items, |pod_sandbox_metrics| cri::StreamPodSandboxMetricsResponse { pod_sandbox_metrics })
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        let linux = cri::LinuxRuntimeConfiguration { cgroup_driver: cri::CgroupDriver::Cgroupfs as i32 };
        answer(cri::RuntimeConfigResponse { linux: Some(linux) })
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        let sandbox = self.runtime.sandbox(&request.pod_sandbox_id).map_err(status)?;
        sandbox.record_resources(request.overhead, request.resources).map_err(status)?;
        answer(cri::UpdatePodSandboxResourcesResponse {})
    }
}
