//! The runtime under test, and CRI calls to it in few words.
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use machine::config::{Document, Registry};
use machine::cri::image_service_client::ImageServiceClient;
use machine::cri::runtime_service_client::RuntimeServiceClient;
use machine::cri::{self, NamespaceMode};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::init::Init;

const IMAGE: &str = "test.local/busybox:1";

/// On the test's own thread.
pub fn spawn_local(task: impl Future<Output = ()> + 'static) {
    drop(tokio::task::spawn_local(task));
}

pub type Outcome = Result<(), String>;

pub struct Ring {
    pub init: Init,
    pub runtime: Child,
    pub client: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
}

pub fn text(error: impl std::fmt::Display) -> String {
    error.to_string().replace("\\\"", "\"")
}

impl Ring {
    pub async fn start(init: Init) -> Result<Self, String> {
        let runtime = spawn_runtime()?;
        let (client, images) = connect(&init, runtime.id()).await?;
        Ok(Self { init, runtime, client, images })
    }

    /// kill -9, and a new one.
    pub async fn kill_runtime(&mut self) -> Outcome {
        self.stop_runtime().await?;
        self.start_runtime().await
    }

    /// kill -9.
    pub async fn stop_runtime(&mut self) -> Outcome {
        self.runtime.kill().map_err(text)?;
        self.runtime_is_gone().await;
        Ok(())
    }

    /// Our PID 1 has reaped it, and starts it anew only then.
    pub async fn runtime_is_gone(&self) {
        while Path::new(&format!("/proc/{}", self.runtime.id())).exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub async fn start_runtime(&mut self) -> Outcome {
        self.start_runtime_with(|_| Ok(())).await
    }

    /// With a change to its command.
    pub async fn start_runtime_with(
        &mut self,
        change: impl FnOnce(&mut Command) -> std::io::Result<()>,
    ) -> Outcome {
        let mut command = runtime_command();
        change(&mut command).map_err(text)?;
        self.runtime = command.spawn().map_err(text)?;
        (self.client, self.images) = connect(&self.init, self.runtime.id()).await?;
        Ok(())
    }

    /// A new one that is killed before it has come far.
    pub async fn kill_while_it_starts(&mut self, after: Duration) -> Outcome {
        self.runtime = spawn_runtime()?;
        tokio::time::sleep(after).await;
        self.stop_runtime().await
    }

    /// Gives the node its range of pod addresses, as the agent does.
    pub async fn give_range(&mut self) -> Outcome {
        let network_config = Some(cri::NetworkConfig { pod_cidr: "10.99.7.0/24".into() });
        let request =
            cri::UpdateRuntimeConfigRequest { runtime_config: Some(cri::RuntimeConfig { network_config }) };
        self.client.update_runtime_config(request).await.map(drop).map_err(text)
    }

    pub async fn sandbox(
        &mut self,
        name: &str,
        pid: NamespaceMode,
    ) -> Result<(String, cri::PodSandboxConfig), String> {
        self.sandbox_on(name, pid, NamespaceMode::Node).await
    }

    pub async fn sandbox_on(
        &mut self,
        name: &str,
        pid: NamespaceMode,
        network: NamespaceMode,
    ) -> Result<(String, cri::PodSandboxConfig), String> {
        self.sandbox_with(name, |options| {
            options.network = network as i32;
            options.pid = pid as i32;
        })
        .await
    }

    pub async fn sandbox_with(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut cri::NamespaceOption),
    ) -> Result<(String, cri::PodSandboxConfig), String> {
        let mut options = cri::NamespaceOption::default();
        change(&mut options);
        self.sandbox_of(sandbox_config(name, options)).await
    }

    pub async fn sandbox_of(
        &mut self,
        config: cri::PodSandboxConfig,
    ) -> Result<(String, cri::PodSandboxConfig), String> {
        let request =
            cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let id = self.client.run_pod_sandbox(request).await.map_err(text)?.into_inner().pod_sandbox_id;
        Ok((id, config))
    }

    pub async fn create(
        &mut self,
        sandbox: &(String, cri::PodSandboxConfig),
        name: &str,
        command: &[&str],
        change: impl FnOnce(&mut cri::ContainerConfig),
    ) -> Result<String, String> {
        let mut config = container_config(&sandbox.1, name, command);
        change(&mut config);
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.0.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox.1.clone()),
        };
        Ok(self.client.create_container(request).await.map_err(text)?.into_inner().container_id)
    }

    pub async fn begin(&mut self, id: &str) -> Outcome {
        self.client
            .start_container(cri::StartContainerRequest { container_id: id.into() })
            .await
            .map(drop)
            .map_err(text)
    }

    pub async fn run(
        &mut self,
        sandbox: &(String, cri::PodSandboxConfig),
        name: &str,
        command: &[&str],
    ) -> Result<String, String> {
        let id = self.create(sandbox, name, command, |_| {}).await?;
        self.begin(&id).await?;
        Ok(id)
    }

    pub async fn status(&mut self, id: &str) -> Result<cri::ContainerStatus, String> {
        let request = cri::ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.client
            .container_status(request)
            .await
            .map_err(text)?
            .into_inner()
            .status
            .ok_or_else(|| "no status".into())
    }

    pub async fn exited(&mut self, id: &str) -> Result<cri::ContainerStatus, String> {
        for _ in 0..500 {
            let status = self.status(id).await?;
            if status.state() == cri::ContainerState::ContainerExited {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("container {id} has not exited within 10 s"))
    }

    pub async fn exec(&mut self, id: &str, command: &[&str]) -> Result<(String, i32), String> {
        let cmd = command.iter().map(|part| (*part).to_owned()).collect();
        let request = cri::ExecSyncRequest { container_id: id.into(), cmd, timeout: 10 };
        let answer = self.client.exec_sync(request).await.map_err(text)?.into_inner();
        Ok((
            String::from_utf8_lossy(&answer.stdout).into_owned() + &String::from_utf8_lossy(&answer.stderr),
            answer.exit_code,
        ))
    }

    pub async fn remove(&mut self, sandbox: &str) -> Outcome {
        self.client
            .stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.into() })
            .await
            .map_err(text)?;
        self.client
            .remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox.into() })
            .await
            .map(drop)
            .map_err(text)
    }
}

/// A machine config in which registries speak plain HTTP, with another document.
pub fn config_with(document: Option<Document>) -> Result<String, String> {
    let registries = Registry { host: "*".into(), plain_http: true, ..Registry::default() };
    let documents: Vec<Document> = document.into_iter().chain([Document::Registry(registries)]).collect();
    let yaml = machine::config::to_yaml(&documents).map_err(text)?;
    machine::config::parse("ring", &yaml).map_err(|faults| format!("{faults:?}"))?;
    Ok(yaml)
}

pub fn container_config(
    sandbox: &cri::PodSandboxConfig,
    name: &str,
    command: &[&str],
) -> cri::ContainerConfig {
    let linux = sandbox.linux.as_ref();
    let namespace_options =
        linux.and_then(|linux| linux.security_context.as_ref()?.namespace_options.clone());
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: command.iter().map(|part| (*part).to_owned()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options,
                seccomp: Some(cri::SecurityProfile { profile_type: 0, ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub fn sandbox_config(name: &str, options: cri::NamespaceOption) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        hostname: format!("{name}-host"),
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: name.into(),
            namespace: "test".into(),
            attempt: 0,
        }),
        log_directory: format!("/var/log/pods/{name}"),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: format!("/kubepods/{name}"),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn runtime_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pintle-runtime"));
    command.env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()));
    command
}

fn spawn_runtime() -> Result<Child, String> {
    runtime_command().spawn().map_err(text)
}

/// kill -9 of one `pintle-launch` that is at work; false when there is none. What it has forked is none: it is the container's.
pub fn kill_launch() -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut launches = processes.filter(|entry| {
        std::fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| {
            let rest = stat.split_once(" (pintle-launch) ").map(|(_, rest)| rest).unwrap_or_default();
            let mut fields = rest.split(' ');
            // One that has ended cannot be killed any more.
            let works = fields.next().is_some_and(|state| !state.is_empty() && state != "Z");
            let parent = fields.next().unwrap_or_default();
            works
                && std::fs::read_to_string(format!("/proc/{parent}/comm"))
                    .is_ok_and(|name| name == "pintle-runtime\n")
        })
    });
    let Some(pid) = launches.next().and_then(|entry| entry.file_name().to_str()?.parse().ok()) else {
        return false;
    };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).is_ok()
}

/// Connects at the first call, and anew when the runtime is another.
pub fn channel() -> Channel {
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(|_: Uri| async {
        let socket = tokio::net::UnixStream::connect(machine::paths::CRI_SOCKET).await?;
        Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(socket))
    }))
}

async fn connect(
    init: &Init,
    runtime: u32,
) -> Result<(RuntimeServiceClient<Channel>, ImageServiceClient<Channel>), String> {
    for _ in 0..1500 {
        if init.ready(runtime) {
            let channel = channel();
            return Ok((RuntimeServiceClient::new(channel.clone()), ImageServiceClient::new(channel)));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err("the runtime was not ready within 30 s".into())
}

pub fn check(what: bool, message: impl Into<String>) -> Outcome {
    if what { Ok(()) } else { Err(message.into()) }
}
