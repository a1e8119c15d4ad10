//! postStart and preStop (pkg/kubelet/lifecycle/handlers.go).
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use crate::probe::{Exec, Names, http};

/// How long an HTTP hook may take to answer; the kubelet's client has no other limit than the connection's.
const HTTP_WITHIN: Duration = Duration::from_secs(60);
/// The least that a container keeps of its grace period after preStop, in seconds.
const LEAST_GRACE: i64 = 2;

/// A hook that failed. The text is that of the FailedPostStartHook or FailedPreStopHook event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HookError {
    pub message: String,
}

/// Where a hook runs.
#[derive(Debug, Clone, Copy)]
pub struct HookTarget<'a> {
    pub pod: &'a Pod,
    pub container: &'a Container,
    /// CRI id.
    pub container_id: &'a str,
    pub pod_ip: &'a str,
    pub names: &'a Names,
}

/// Runs the postStart hook, if there is one; on an error the container is to be killed.
///
/// # Errors
/// When the hook fails.
pub async fn post_start(target: HookTarget<'_>, exec: &dyn Exec) -> Result<(), HookError> {
    let lifecycle = target.container.lifecycle.as_ref();
    match lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref()) {
        Some(handler) => run(target, handler, exec).await,
        None => Ok(()),
    }
}

/// Runs the preStop hook, if there is one, for at most `grace_seconds`. Answers what is left of the grace period for the stop
/// signal, at least two seconds; a failure shortens nothing else.
pub async fn pre_stop(
    target: HookTarget<'_>,
    exec: &dyn Exec,
    grace_seconds: i64,
) -> (i64, Result<(), HookError>) {
    let lifecycle = target.container.lifecycle.as_ref();
    let Some(handler) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else {
        return (grace_seconds, Ok(()));
    };
    if grace_seconds <= 0 {
        return (grace_seconds, Ok(()));
    }
    let begun = tokio::time::Instant::now();
    let within = Duration::from_secs(grace_seconds.unsigned_abs());
    let result = match tokio::time::timeout(within, run(target, handler, exec)).await {
        Ok(result) => result,
        Err(_) => Err(HookError {
            message: format!(
                "preStop hook of container {:?} did not end within the grace period of {grace_seconds} s",
                target.container.name
            ),
        }),
    };
    let used = i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX);
    (remaining(grace_seconds, used), result)
}

fn remaining(grace_seconds: i64, used: i64) -> i64 {
    grace_seconds.saturating_sub(used).max(LEAST_GRACE)
}

async fn run(target: HookTarget<'_>, handler: &LifecycleHandler, exec: &dyn Exec) -> Result<(), HookError> {
    let metadata = &target.pod.metadata;
    let pod = format!(
        "{}_{}({})",
        metadata.name.as_deref().unwrap_or_default(),
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.uid.as_deref().unwrap_or_default(),
    );
    let name = &target.container.name;
    let failed = |what: String, error: &str| HookError {
        message: format!("{what} for Container {name:?} in Pod {pod:?} failed - error: {error}"),
    };
    if let Some(action) = &handler.exec {
        let command = action.command.clone().unwrap_or_default();
        let what = format!("Exec lifecycle hook ({command:?})");
        let result = exec.exec(target.container_id.to_owned(), command, Duration::ZERO).await;
        match result {
            Ok(output) if output.exit_code == 0 && !output.timed_out => Ok(()),
            Ok(output) => {
                let shown =
                    String::from_utf8_lossy(&output.output[..output.output.len().min(4096)]).into_owned();
                let code = output.exit_code;
                Err(failed(what, &format!("command exited with {code}, message: {shown:?}")))
            }
            Err(error) => Err(failed(what, &error)),
        }
    } else if let Some(action) = &handler.http_get {
        let what = format!("HTTP lifecycle hook ({})", action.path.as_deref().unwrap_or_default());
        let get = http::request_of(action, target.container, target.pod_ip, "kube-lifecycle");
        let get = get.map_err(|error| failed(what.clone(), &error))?;
        http_get(target, get).await.map_err(|error| failed(what, &error))
    } else if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(action.seconds.max(0).unsigned_abs())).await;
        Ok(())
    } else {
        let why =
            "invalid handler: use exec, httpGet or sleep; tcpSocket is not supported as a lifecycle handler";
        Err(failed("Lifecycle hook".to_owned(), why))
    }
}

/// Any answer is a success. A server that speaks plain HTTP on an https hook is asked again without TLS.
async fn http_get(target: HookTarget<'_>, mut get: http::Get) -> Result<(), String> {
    let ask = |get: http::Get| async move {
        let pod = target.pod.metadata.uid.as_deref().unwrap_or_default();
        match tokio::time::timeout(HTTP_WITHIN, http::send(&get, target.names, pod)).await {
            Ok(answer) => answer.map(drop).map_err(|error| format!("Get {:?}: {error}", get.url())),
            Err(_) => Err(format!("Get {:?}: no answer within {} s", get.url(), HTTP_WITHIN.as_secs())),
        }
    };
    let first = ask(get.clone()).await;
    if first.is_ok() || !get.tls {
        return first;
    }
    get.tls = false;
    get.headers.remove(::http::header::AUTHORIZATION);
    ask(get).await.or(first)
}

#[cfg(test)]
mod tests;
