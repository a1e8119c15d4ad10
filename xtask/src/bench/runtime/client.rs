//! The CRI client: each call with its time, the same for every contender.
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hyper_util::rt::TokioIo;
use machine::cri::{self, runtime_service_client::RuntimeServiceClient, security_profile::ProfileType};
use tonic::transport::{Channel, Endpoint, Uri};

use super::image;

/// No call takes this long, however many run at once.
const DEADLINE: Duration = Duration::from_secs(300);

/// What pods are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pods {
    /// RuntimeDefault instead of Unconfined.
    pub seccomp: bool,
}

/// A pod that was made.
#[derive(Debug, Clone)]
pub struct Pod {
    pub sandbox: String,
    pub container: String,
}

/// How long each step of one pod's life took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub sandbox: Duration,
    pub create: Duration,
    pub start: Duration,
    pub exec: Duration,
    pub stop: Duration,
    pub remove: Duration,
}

/// A runtime's CRI socket; clones share the connection.
#[derive(Debug, Clone)]
pub struct Client(RuntimeServiceClient<Channel>);

impl Client {
    /// Connects at the first call.
    pub fn new(socket: PathBuf) -> Result<Self> {
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .timeout(DEADLINE)
            .connect_with_connector_lazy(connector);
        Ok(Self(RuntimeServiceClient::new(channel)))
    }

    /// Waits until runtime and network say that they are ready.
    ///
    /// # Errors
    /// After a minute, with what was missing.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let missing = match self.0.status(cri::StatusRequest { verbose: false }).await {
                Err(status) => status.message().to_owned(),
                Ok(answer) => {
                    let conditions = answer.into_inner().status.unwrap_or_default().conditions;
                    match conditions.into_iter().find(|condition| !condition.status) {
                        None => return Ok(()),
                        Some(condition) => format!("{}: {}", condition.r#type, condition.message),
                    }
                }
            };
            ensure!(
                start.elapsed() < Duration::from_secs(60),
                "the runtime is not ready within 60 s: {missing}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Gives the node its pod range.
    ///
    /// # Errors
    /// When the runtime refuses it.
    pub async fn set_range(&mut self, range: &str) -> Result<()> {
        let network_config = Some(cri::NetworkConfig { pod_cidr: range.into() });
        let runtime_config = Some(cri::RuntimeConfig { network_config });
        let request = cri::UpdateRuntimeConfigRequest { runtime_config };
        self.0.update_runtime_config(request).await.context("UpdateRuntimeConfig")?;
        Ok(())
    }

    /// Makes a pod with one container that runs.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn start(&mut self, name: &str, pods: Pods, times: &mut Times) -> Result<Pod> {
        let config = sandbox(name, pods);
        let clock = Instant::now();
        let request =
            cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let sandbox =
            self.0.run_pod_sandbox(request).await.context("RunPodSandbox")?.into_inner().pod_sandbox_id;
        times.sandbox = clock.elapsed();
        let clock = Instant::now();
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(container(pods)),
            sandbox_config: Some(config),
        };
        let container =
            self.0.create_container(request).await.context("CreateContainer")?.into_inner().container_id;
        times.create = clock.elapsed();
        let clock = Instant::now();
        let request = cri::StartContainerRequest { container_id: container.clone() };
        self.0.start_container(request).await.context("StartContainer")?;
        times.start = clock.elapsed();
        Ok(Pod { sandbox, container })
    }

    /// Runs a program that ends at once.
    ///
    /// # Errors
    /// When it cannot be run or fails.
    pub async fn exec(&mut self, pod: &Pod, times: &mut Times) -> Result<()> {
        let clock = Instant::now();
        let cmd = vec!["/pause".into(), "true".into()];
        let request = cri::ExecSyncRequest { container_id: pod.container.clone(), cmd, timeout: 0 };
        let answer = self.0.exec_sync(request).await.context("ExecSync")?.into_inner();
        times.exec = clock.elapsed();
        if answer.exit_code != 0 {
            bail!("exec ended with {}: {}", answer.exit_code, String::from_utf8_lossy(&answer.stderr));
        }
        Ok(())
    }

    /// Stops and removes container and sandbox.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn end(&mut self, pod: Pod, times: &mut Times) -> Result<()> {
        let Pod { sandbox: pod_sandbox_id, container: container_id } = pod;
        let clock = Instant::now();
        let stop = cri::StopContainerRequest { container_id: container_id.clone(), timeout: 0 };
        self.0.stop_container(stop).await.context("StopContainer")?;
        self.0
            .stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() })
            .await
            .context("StopPodSandbox")?;
        times.stop = clock.elapsed();
        let clock = Instant::now();
        self.0
            .remove_container(cri::RemoveContainerRequest { container_id })
            .await
            .context("RemoveContainer")?;
        self.0
            .remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id })
            .await
            .context("RemovePodSandbox")?;
        times.remove = clock.elapsed();
        Ok(())
    }

    /// The processes of containers.
    ///
    /// # Errors
    /// When a call fails.
    pub async fn pids(&mut self, pods: &[Pod]) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        for pod in pods {
            let request = cri::ContainerStatusRequest { container_id: pod.container.clone(), verbose: true };
            let info = self.0.container_status(request).await.context("ContainerStatus")?.into_inner().info;
            let text = info.get("info").map_or("{}", String::as_str);
            let pid = serde_json::from_str::<serde_json::Value>(text)?["pid"].as_i64();
            pids.push(i32::try_from(pid.context("ContainerStatus says no pid")?)?);
        }
        Ok(pids)
    }
}

fn profile(pods: Pods) -> Option<cri::SecurityProfile> {
    let kind = if pods.seccomp { ProfileType::RuntimeDefault } else { ProfileType::Unconfined };
    Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: String::new() })
}

/// As the kubelet asks for, unless a pod shares its pid namespace.
fn own_pids() -> Option<cri::NamespaceOption> {
    Some(cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() })
}

fn sandbox(name: &str, pods: Pods) -> cri::PodSandboxConfig {
    let security = cri::LinuxSandboxSecurityContext {
        seccomp: profile(pods),
        namespace_options: own_pids(),
        ..Default::default()
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: name.into(),
            namespace: "bench".into(),
            attempt: 0,
        }),
        hostname: name.into(),
        log_directory: format!("/var/log/pods/bench_{name}"),
        dns_config: Some(cri::DnsConfig { servers: vec!["10.96.0.10".into()], ..Default::default() }),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: format!("/kubepods/besteffort/pod{name}"),
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container(pods: Pods) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "pause".into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: image::NAME.into(), ..Default::default() }),
        log_path: "pause/0.log".into(),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                seccomp: profile(pods),
                namespace_options: own_pids(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}
