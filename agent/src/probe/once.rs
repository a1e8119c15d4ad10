//! One probe, once.
use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, Probe};

use super::address::resolve_port;
use super::names::PodAddress;
use super::outcome::Outcome;
use super::{grpc, http};

/// The most of a command's output that an event shows, in bytes (pkg/probe/exec).
const MAX_OUTPUT: usize = 10 << 10;

/// What a command in a container said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    pub exit_code: i32,
    /// stdout, then stderr.
    pub output: Vec<u8>,
    /// It did not end in time and was killed.
    pub timed_out: bool,
}

/// Runs commands in containers (CRI ExecSync).
pub trait Exec: fmt::Debug + Send + Sync {
    /// Runs `command`; `timeout` zero: no limit of its own.
    fn exec(
        &self,
        container_id: String,
        command: Vec<String>,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<ExecOutput, String>>;
}

/// Runs the probe once, within its timeout.
pub(super) async fn run(
    probe: &Probe,
    container: &Container,
    container_id: &str,
    pod: PodAddress<'_>,
    exec: &dyn Exec,
) -> Outcome {
    let pod_ip = pod.ip;
    let timeout = seconds(probe.timeout_seconds, 1);
    if let Some(action) = &probe.exec {
        let command = action.command.clone().unwrap_or_default();
        let result = exec.exec(container_id.to_owned(), command, timeout).await;
        return of_exec(result, timeout);
    }
    let network = async {
        if let Some(action) = &probe.http_get {
            match http::request_of(action, container, pod_ip, "kube-probe") {
                Ok(request) => http::probe(request, pod).await,
                Err(error) => Outcome::Error(error),
            }
        } else if let Some(action) = &probe.tcp_socket {
            let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(pod_ip);
            match resolve_port(&action.port, container) {
                Ok(port) => tcp(pod, host, port).await,
                Err(error) => Outcome::Error(error),
            }
        } else if let Some(action) = &probe.grpc {
            let port = u16::try_from(action.port).unwrap_or_default();
            grpc::probe(pod_ip, port, action.service.as_deref().unwrap_or_default()).await
        } else {
            Outcome::Error("missing probe handler".to_owned())
        }
    };
    match tokio::time::timeout(timeout, network).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failure(format!("no answer within {} s (timeoutSeconds)", timeout.as_secs())),
    }
}

fn of_exec(result: Result<ExecOutput, String>, timeout: Duration) -> Outcome {
    match result {
        Err(error) => Outcome::Error(error),
        Ok(output) if output.timed_out => {
            Outcome::Failure(format!("command timed out after {} s", timeout.as_secs()))
        }
        Ok(output) if output.exit_code == 0 => Outcome::Success,
        Ok(output) => {
            let shown = &output.output[..output.output.len().min(MAX_OUTPUT)];
            Outcome::Failure(String::from_utf8_lossy(shown).into_owned())
        }
    }
}

async fn tcp(pod: PodAddress<'_>, host: &str, port: u16) -> Outcome {
    match pod.names.connect(pod.uid, host, port).await {
        Ok(_) => Outcome::Success,
        Err(error) if error.is_ours() => Outcome::Error(error.to_string()),
        Err(error) => Outcome::Failure(error.to_string()),
    }
}

/// A number of seconds, at least one.
pub(super) fn seconds(value: Option<i32>, default: u64) -> Duration {
    let value = value.and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0);
    Duration::from_secs(value.unwrap_or(default))
}
