//! `/containerLogs/<namespace>/<pod>/<container>`.
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::sync::mpsc;

use super::log_line::{LogOptions, StreamChoice};
use super::query::Query;
use super::reply::{Answer, Problem, streamed};
use super::route::PodPath;
use super::{Shared, find, logs};

/// Chunks that wait for a slow client.
const QUEUE: usize = 4;
/// How long after its last line a log ends. Over WebSocket the API server drops bytes that its reader is given together with the end (messageCopy
/// of k8s.io/streaming's wsstream), so they must arrive before it.
const BEFORE_END: Duration = Duration::from_millis(50);

pub(super) async fn serve(
    shared: &Shared,
    path: &PodPath,
    container: &str,
    query: &Query,
) -> Result<Answer, Problem> {
    let options = options(query, Timestamp::now())?;
    let backend = &shared.backend;
    let served = find(&**backend, path)
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("pod {:?} not found\n", path.name)))?;
    if !has_container(&served.pod, container) {
        let text = format!("container {container:?} not found in pod {:?}\n", path.name);
        return Err(Problem::new(StatusCode::NOT_FOUND, text));
    }
    let id = container_id(&served.pod, container, options.previous).map_err(Problem::bad_request)?;
    let log = backend.log_path(&id).await.map_err(Problem::internal)?;
    let log = log.ok_or_else(|| {
        Problem::bad_request(format!(
            "container {container:?} in pod {:?} is not available: its log is gone",
            path.name
        ))
    })?;
    let place = shared.followed.clone().try_acquire_owned().ok();
    if options.follow && place.is_none() {
        return Err(Problem::busy("as many logs of this node are followed as it serves at a time\n"));
    }
    let place = place.filter(|_| options.follow);
    let (output, chunks) = mpsc::channel::<Bytes>(QUEUE);
    let backend = backend.clone();
    tokio::spawn(async move {
        let ended = backend.ended(&id);
        if let Err(error) = logs::send(log.clone(), options, ended, output.clone()).await {
            tracing::debug!("log {}: {error}", log.display());
            let text = format!("unable to retrieve container logs for {id}: {error}\n");
            let _ = output.send(Bytes::from(text)).await;
        }
        tokio::select! {
            () = tokio::time::sleep(BEFORE_END) => {}
            () = output.closed() => {}
        }
        drop(place);
    });
    Ok(streamed(chunks))
}

/// Parses what `kubectl logs` asks for (PodLogOptions).
fn options(query: &Query, now: Timestamp) -> Result<LogOptions, Problem> {
    let number = |name: &str| match query.get(name).filter(|value| !value.is_empty()) {
        None => Ok(None),
        Some(value) => match value.parse::<i64>() {
            // The kubelet reads a negative tail as all lines.
            Ok(value) if value < 0 && name == "tailLines" => Ok(None),
            Ok(value) if value >= 0 => Ok(Some(value.unsigned_abs())),
            _ => Err(Problem::unprocessable(format!(
                "{name}: {value:?} must be a number that is not negative"
            ))),
        },
    };
    let since_seconds = number("sinceSeconds")?;
    let since_time = query.get("sinceTime").filter(|value| !value.is_empty());
    let since = match (since_seconds, since_time) {
        (Some(_), Some(_)) => {
            return Err(Problem::unprocessable(
                "at most one of `sinceTime` or `sinceSeconds` may be specified".into(),
            ));
        }
        (Some(seconds), None) => {
            let ago = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            Some(now.saturating_sub(ago).unwrap_or(Timestamp::MIN))
        }
        (None, Some(text)) => {
            let time = text
                .parse()
                .map_err(|_| Problem::unprocessable(format!("sinceTime: {text:?} is no RFC 3339 time")))?;
            Some(time)
        }
        (None, None) => None,
    };
    let stream = match query.get("stream") {
        None | Some("" | "All") => None,
        Some("Stdout") => Some(StreamChoice::Stdout),
        Some("Stderr") => Some(StreamChoice::Stderr),
        Some(other) => {
            return Err(Problem::unprocessable(format!("stream: {other:?} is none of All, Stdout, Stderr")));
        }
    };
    let limit_bytes = number("limitBytes")?;
    if limit_bytes == Some(0) {
        return Err(Problem::unprocessable("limitBytes must be greater than 0".into()));
    }
    Ok(LogOptions {
        follow: query.is_on("follow"),
        previous: query.is_on("previous"),
        timestamps: query.is_on("timestamps"),
        tail: number("tailLines")?,
        since,
        limit_bytes,
        stream,
    })
}

fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| &c.name);
    let named = spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| &c.name);
    named.chain(ephemeral).any(|other| other == name)
}

/// The instance whose log is wanted, or why there is none (pkg/kubelet/kubelet_pods.go validateContainerLogStatus).
fn container_id(pod: &Pod, name: &str, previous: bool) -> Result<String, String> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref();
    let lists = [
        status.and_then(|status| status.container_statuses.as_ref()),
        status.and_then(|status| status.init_container_statuses.as_ref()),
        status.and_then(|status| status.ephemeral_container_statuses.as_ref()),
    ];
    let found = lists.into_iter().flatten().flatten().find(|status| status.name == name);
    let Some(found) = found else {
        return Err(format!("container {name:?} in pod {pod_name:?} is not available"));
    };
    let last = found.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let last_id = last.and_then(|state| state.container_id.as_deref()).filter(|id| !id.is_empty());
    if previous {
        let missing = || format!("previous terminated container {name:?} in pod {pod_name:?} not found");
        return last_id.map(bare).ok_or_else(missing);
    }
    current_id(found, last_id).ok_or_else(|| {
        let waiting = found.state.as_ref().and_then(|state| state.waiting.as_ref());
        match waiting.and_then(|waiting| waiting.reason.as_deref()) {
            Some("ErrImagePull") => format!("container {name:?} in pod {pod_name:?} is waiting to start: image can't be pulled"),
            Some("ImagePullBackOff") => {
                format!("container {name:?} in pod {pod_name:?} is waiting to start: trying and failing to pull image")
            }
            Some(reason) if !reason.is_empty() => {
                format!("container {name:?} in pod {pod_name:?} is waiting to start: {reason}")
            }
            _ => format!("container {name:?} in pod {pod_name:?} is waiting to start - no logs yet"),
        }
    })
}

fn current_id(status: &ContainerStatus, last_id: Option<&str>) -> Option<String> {
    let state = status.state.as_ref()?;
    let own = status.container_id.as_deref().filter(|id| !id.is_empty());
    let terminated = state.terminated.as_ref().and_then(|state| state.container_id.as_deref());
    match (&state.running, terminated.filter(|id| !id.is_empty())) {
        (Some(_), _) => own.map(bare),
        (None, Some(id)) => Some(bare(id)),
        (None, None) if state.terminated.is_some() => own.or(last_id).map(bare),
        // Waiting to be started again: the last instance's log is the newest there is.
        (None, None) => last_id.map(bare),
    }
}

/// Without the runtime's scheme.
fn bare(id: &str) -> String {
    id.split_once("://").map_or(id, |(_, id)| id).to_owned()
}
