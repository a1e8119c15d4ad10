use std::time::Duration;

use http::header::{ALLOW, AUTHORIZATION, CONNECTION, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::access::{Credentials, Refusal};
use super::container_logs;
use super::query::Query;
use super::reply::{Answer, Problem, json, text};
use super::route::{PodPath, Route, needed, route};
use super::stream::{self, Kind};
use super::{Client, Shared, find};
use crate::stats;

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const NODES: &str = "system:nodes";
const RUN_WITHIN: Duration = Duration::from_secs(120);

/// Answers one request.
pub(super) async fn handle(shared: &Shared, client: &Client, request: Request<Incoming>) -> Answer {
    let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let credentials = Credentials {
        certificate: client.certificate.as_deref(),
        authorization,
        address: client.place.address,
    };
    let user = match shared.access.authenticate(credentials, &*shared.backend).await {
        Ok(user) => user,
        Err(refusal) => return refused(refusal),
    };
    // Nodes have certificates of the same authority and are many.
    let certified = client.certificate.is_some() && !user.groups.iter().any(|group| group == NODES);
    if !client.place.know(certified) {
        return closing(Problem::busy("this node has as many clients as it serves at a time\n").answer());
    }
    let needed = needed(request.method(), request.uri().path());
    if let Err(refusal) = shared.access.authorize(&user, &needed, &*shared.backend).await {
        return refused(refusal);
    }
    let route = route(request.method(), request.uri().path());
    if matches!(
        route,
        Route::Exec { .. } | Route::Attach { .. } | Route::Run { .. } | Route::PortForward { .. }
    ) {
        tracing::info!(user = user.name, path = request.uri().path(), "stream");
    }
    dispatch(shared, route, request).await.unwrap_or_else(Problem::answer)
}

/// The only thing that is answered without credentials, and only on loopback.
pub(super) fn healthz_only(request: &Request<Incoming>) -> Answer {
    if request.method() == Method::GET && request.uri().path() == "/healthz" {
        text(StatusCode::OK, "text/plain; charset=utf-8", "ok")
    } else {
        Problem::new(StatusCode::NOT_FOUND, "404 page not found\n".into()).answer()
    }
}

async fn dispatch(shared: &Shared, route: Route, request: Request<Incoming>) -> Result<Answer, Problem> {
    let backend = &shared.backend;
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let query = query.map_err(|error| Problem::bad_request(format!("{error}\n")))?;
    match route {
        Route::Healthz => Ok(text(StatusCode::OK, "text/plain; charset=utf-8", "ok")),
        Route::Pods => json(&pod_list(backend.pods().iter().map(|served| (*served.pod).clone()).collect())),
        Route::RunningPods => {
            let pods = backend.pods();
            json(&pod_list(
                pods.iter().filter(|served| is_running(&served.pod)).map(|s| running(&s.pod)).collect(),
            ))
        }
        Route::ContainerLogs { pod, container } => {
            container_logs::serve(shared, &pod, &container, &query).await
        }
        Route::Exec { pod, container } => {
            stream::to_container(shared, Kind::Exec, &pod, &container, &query, request).await
        }
        Route::Attach { pod, container } => {
            stream::to_container(shared, Kind::Attach, &pod, &container, &query, request).await
        }
        Route::PortForward { pod } => stream::to_ports(shared, &pod, &query, request).await,
        Route::Run { pod, container } => run(shared, &pod, &container, &query).await,
        Route::StatsSummary => {
            let measured = backend.stats().await.map_err(Problem::internal)?;
            json(&stats::summary(&backend.node_name(), &measured))
        }
        Route::Metrics => metrics(stats::node_agent_metrics(&backend.pods(), &backend.services().await)),
        Route::MetricsResource => {
            let measured = backend.stats().await.map_err(Problem::internal)?;
            metrics(stats::resource_metrics(&measured))
        }
        Route::MetricsCadvisor => {
            let measured = backend.stats().await.map_err(Problem::internal)?;
            metrics(stats::cadvisor_metrics(&measured))
        }
        Route::MetricsProbes => metrics(backend.probe_metrics()),
        Route::Configz => json(&json!({ "kubeletconfig": backend.configz() })),
        Route::NodeLogs => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "node logs are not served here; use `pintle logs` with a machine certificate\n".into(),
        )),
        Route::NotFound => Err(Problem::new(StatusCode::NOT_FOUND, "404 page not found\n".into())),
        Route::MethodNotAllowed => {
            let mut answer =
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed".into()).answer();
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
            Ok(answer)
        }
    }
}

async fn run(shared: &Shared, path: &PodPath, container: &str, query: &Query) -> Result<Answer, Problem> {
    let missing = || Problem::new(StatusCode::NOT_FOUND, "pod does not exist".into());
    let served = find(&*shared.backend, path).ok_or_else(missing)?;
    let id = stream::id_of(&served, container, &path.name)?;
    let command = query.get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    let output = shared.backend.exec_sync(&id, command, RUN_WITHIN).await.map_err(Problem::internal)?;
    let status = if output.exit_code == 0 && !output.timed_out {
        StatusCode::OK
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    };
    Ok(text(status, "text/plain; charset=utf-8", output.output))
}

fn metrics(body: String) -> Result<Answer, Problem> {
    Ok(text(StatusCode::OK, PROMETHEUS, body))
}

fn pod_list(items: Vec<Pod>) -> serde_json::Value {
    json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items })
}

fn is_running(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// As the kubelet shows what it finds in its runtime: names and images only.
fn running(pod: &Pod) -> Pod {
    let mut shown = Pod::default();
    shown.metadata.name.clone_from(&pod.metadata.name);
    shown.metadata.namespace.clone_from(&pod.metadata.namespace);
    shown.metadata.uid.clone_from(&pod.metadata.uid);
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let containers = containers.map(|container| k8s_openapi::api::core::v1::Container {
        name: container.name.clone(),
        image: container.image.clone(),
        ..Default::default()
    });
    shown.spec =
        Some(k8s_openapi::api::core::v1::PodSpec { containers: containers.collect(), ..Default::default() });
    shown
}

/// The client's connection ends with this answer.
fn closing(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn refused(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::Unauthenticated => {
            let mut answer = Problem::new(StatusCode::UNAUTHORIZED, "Unauthorized".into()).answer();
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            closing(answer)
        }
        Refusal::Busy => closing(Problem::busy("too many clients ask at once who they are\n").answer()),
        Refusal::Forbidden(message) => Problem::new(StatusCode::FORBIDDEN, message).answer(),
        Refusal::Unavailable(error) => Problem::internal(format!(
            "the API server could not be asked who you are or what you may do: {error}\n"
        ))
        .answer(),
    }
}
