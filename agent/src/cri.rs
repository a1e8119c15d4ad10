//! The container runtime interface as a client: one lazily connected channel over the runtime's unix socket, a deadline on every call.
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use machine::cri::image_service_client::ImageServiceClient;
use machine::cri::runtime_service_client::RuntimeServiceClient;
use machine::cri::*;
use tonic::transport::{Channel, Endpoint, Uri};

/// The deadline of calls that neither pull, stop nor start anything.
pub const SHORT: Duration = Duration::from_secs(30);
/// The deadline of calls that create or start something (the kubelet's runtimeRequestTimeout).
pub const LONG: Duration = Duration::from_secs(120);
/// The deadline of an image pull.
pub const PULL: Duration = Duration::from_secs(15 * 60);
const MAX_MESSAGE: usize = 16 << 20;

/// A CRI call that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation}: {message}")]
pub struct CriError {
    /// The RPC, such as `RunPodSandbox`.
    pub operation: &'static str,
    pub code: tonic::Code,
    pub message: String,
}

impl CriError {
    /// The object is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code == tonic::Code::NotFound
    }

    /// The runtime itself does not answer.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self.code, tonic::Code::Unavailable | tonic::Code::DeadlineExceeded)
    }
}

/// The result of a CRI call.
pub type Result<T> = std::result::Result<T, CriError>;

/// A connection to the runtime that reconnects by itself; clones share it.
#[derive(Debug, Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    begun: std::sync::Arc<tokio::sync::watch::Sender<u64>>,
}

async fn call<T>(
    operation: &'static str,
    deadline: Duration,
    future: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    match tokio::time::timeout(deadline, future).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => {
            // Only a status that did not come from the runtime has a source: the connection broke, whatever the code says.
            let lost = std::error::Error::source(&status).is_some();
            let code = if lost { tonic::Code::Unavailable } else { status.code() };
            Err(CriError { operation, code, message: status.message().to_owned() })
        }
        Err(_) => Err(CriError {
            operation,
            code: tonic::Code::DeadlineExceeded,
            message: format!("no answer from the runtime within {} s", deadline.as_secs()),
        }),
    }
}

impl Cri {
    /// A client of the socket at `path`; connects at the first call and again after each loss. Call it inside a tokio runtime.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path: PathBuf = path.as_ref().to_owned();
        let connect = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
            begun: std::sync::Arc::default(),
        }
    }

    /// Changes whenever the runtime has begun anew, as who follows its events sees.
    #[must_use]
    pub fn begun(&self) -> tokio::sync::watch::Receiver<u64> {
        self.begun.subscribe()
    }

    /// The generated client, for calls that have no wrapper here.
    #[must_use]
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    pub async fn version(&self) -> Result<VersionResponse> {
        call("Version", SHORT, self.runtime().version(VersionRequest { version: "v1".into() })).await
    }

    pub async fn status(&self) -> Result<StatusResponse> {
        call("Status", SHORT, self.runtime().status(StatusRequest { verbose: false })).await
    }

    pub async fn update_runtime_config(&self, pod_cidr: String) -> Result<()> {
        let request = UpdateRuntimeConfigRequest {
            runtime_config: Some(RuntimeConfig { network_config: Some(NetworkConfig { pod_cidr }) }),
        };
        call("UpdateRuntimeConfig", SHORT, self.runtime().update_runtime_config(request)).await.map(drop)
    }

    /// Makes and starts a sandbox; the answer is its id.
    pub async fn run_pod_sandbox(&self, config: PodSandboxConfig, runtime_handler: String) -> Result<String> {
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler };
        let answer = call("RunPodSandbox", 2 * LONG, self.runtime().run_pod_sandbox(request)).await?;
        Ok(answer.pod_sandbox_id)
    }

    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.into() };
        call("StopPodSandbox", LONG, self.runtime().stop_pod_sandbox(request)).await.map(drop)
    }

    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        call("RemovePodSandbox", LONG, self.runtime().remove_pod_sandbox(request)).await.map(drop)
    }

    pub async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatusResponse> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        call("PodSandboxStatus", SHORT, self.runtime().pod_sandbox_status(request)).await
    }

    pub async fn list_pod_sandboxes(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>> {
        let request = ListPodSandboxRequest { filter };
        Ok(call("ListPodSandbox", SHORT, self.runtime().list_pod_sandbox(request)).await?.items)
    }

    /// Creates a container in a sandbox; the answer is its id.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(call("CreateContainer", LONG, self.runtime().create_container(request)).await?.container_id)
    }

    pub async fn start_container(&self, id: &str) -> Result<()> {
        let request = StartContainerRequest { container_id: id.into() };
        call("StartContainer", LONG, self.runtime().start_container(request)).await.map(drop)
    }

    /// Sends the stop signal, and SIGKILL after `grace` seconds; returns when the container has ended.
    pub async fn stop_container(&self, id: &str, grace: i64) -> Result<()> {
        let request = StopContainerRequest { container_id: id.into(), timeout: grace };
        let deadline = LONG + Duration::from_secs(grace.max(0).cast_unsigned());
        call("StopContainer", deadline, self.runtime().stop_container(request)).await.map(drop)
    }

    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let request = RemoveContainerRequest { container_id: id.into() };
        call("RemoveContainer", LONG, self.runtime().remove_container(request)).await.map(drop)
    }

    pub async fn list_containers(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>> {
        let request = ListContainersRequest { filter };
        Ok(call("ListContainers", SHORT, self.runtime().list_containers(request)).await?.containers)
    }

    pub async fn container_status(&self, id: &str) -> Result<ContainerStatusResponse> {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        call("ContainerStatus", SHORT, self.runtime().container_status(request)).await
    }

    pub async fn update_container_resources(&self, request: UpdateContainerResourcesRequest) -> Result<()> {
        let mut runtime = self.runtime();
        call("UpdateContainerResources", LONG, runtime.update_container_resources(request)).await.map(drop)
    }

    pub async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let request = ReopenContainerLogRequest { container_id: id.into() };
        call("ReopenContainerLog", SHORT, self.runtime().reopen_container_log(request)).await.map(drop)
    }

    /// Runs a command in a container; `timeout` ends it.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecSyncResponse> {
        let request = ExecSyncRequest {
            container_id: id.into(),
            cmd: command,
            timeout: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        };
        let deadline = timeout.saturating_add(SHORT);
        call("ExecSync", deadline, self.runtime().exec_sync(request)).await
    }

    pub async fn exec(&self, request: ExecRequest) -> Result<String> {
        Ok(call("Exec", SHORT, self.runtime().exec(request)).await?.url)
    }

    pub async fn attach(&self, request: AttachRequest) -> Result<String> {
        Ok(call("Attach", SHORT, self.runtime().attach(request)).await?.url)
    }

    pub async fn port_forward(&self, request: PortForwardRequest) -> Result<String> {
        Ok(call("PortForward", SHORT, self.runtime().port_forward(request)).await?.url)
    }

    pub async fn list_container_stats(&self) -> Result<Vec<ContainerStats>> {
        let request = ListContainerStatsRequest { filter: None };
        Ok(call("ListContainerStats", SHORT, self.runtime().list_container_stats(request)).await?.stats)
    }

    pub async fn list_pod_sandbox_stats(&self) -> Result<Vec<PodSandboxStats>> {
        let request = ListPodSandboxStatsRequest { filter: None };
        Ok(call("ListPodSandboxStats", SHORT, self.runtime().list_pod_sandbox_stats(request)).await?.stats)
    }

    /// The stream of container and sandbox events; it ends when the runtime does.
    pub async fn events(&self) -> Result<tonic::Streaming<ContainerEventResponse>> {
        let mut runtime = self.runtime();
        let events = runtime.get_container_events(GetEventsRequest {});
        let stream = call("GetContainerEvents", SHORT, events).await?;
        self.begun.send_modify(|count| *count += 1);
        Ok(stream)
    }

    pub async fn list_images(&self) -> Result<Vec<Image>> {
        let request = ListImagesRequest { filter: None };
        Ok(call("ListImages", SHORT, self.images.clone().list_images(request)).await?.images)
    }

    /// The image behind a name; `None` when it is not on this node.
    pub async fn image_status(&self, image: ImageSpec) -> Result<Option<Image>> {
        let request = ImageStatusRequest { image: Some(image), verbose: false };
        Ok(call("ImageStatus", SHORT, self.images.clone().image_status(request)).await?.image)
    }

    /// Pulls an image; the answer is its reference for containers.
    pub async fn pull_image(
        &self,
        image: ImageSpec,
        auth: Option<AuthConfig>,
        sandbox_config: Option<PodSandboxConfig>,
    ) -> Result<String> {
        let request = PullImageRequest { image: Some(image), auth, sandbox_config };
        Ok(call("PullImage", PULL, self.images.clone().pull_image(request)).await?.image_ref)
    }

    pub async fn remove_image(&self, image: &str) -> Result<()> {
        let image = Some(ImageSpec { image: image.into(), ..Default::default() });
        call("RemoveImage", LONG, self.images.clone().remove_image(RemoveImageRequest { image }))
            .await
            .map(drop)
    }

    pub async fn image_fs_info(&self) -> Result<ImageFsInfoResponse> {
        call("ImageFsInfo", SHORT, self.images.clone().image_fs_info(ImageFsInfoRequest {})).await
    }
}
