//! What a request asks for and what it takes to be allowed (pkg/kubelet/server/server.go and auth.go). Pure.
use http::Method;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    Healthz,
    Pods,
    RunningPods,
    ContainerLogs {
        pod: PodPath,
        container: String,
    },
    Exec {
        pod: PodPath,
        container: String,
    },
    Attach {
        pod: PodPath,
        container: String,
    },
    PortForward {
        pod: PodPath,
    },
    Run {
        pod: PodPath,
        container: String,
    },
    StatsSummary,
    Metrics,
    MetricsResource,
    MetricsCadvisor,
    MetricsProbes,
    Configz,
    /// Known to kubelets and refused here.
    NodeLogs,
    NotFound,
    MethodNotAllowed,
}

/// A pod by name and, if the path has it, by uid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodPath {
    pub namespace: String,
    pub name: String,
    pub uid: Option<String>,
}

/// What a caller needs on this node's object: a verb on any of the subresources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    pub verb: &'static str,
    pub subresources: &'static [&'static str],
}

/// The route of a request.
#[must_use]
pub fn route(method: &Method, path: &str) -> Route {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let stream = method == Method::GET || method == Method::POST;
    let only = |allowed: bool, route: Route| if allowed { route } else { Route::MethodNotAllowed };
    let get = method == Method::GET;
    match parts.as_slice() {
        ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] => only(get, Route::Healthz),
        ["pods"] => only(get, Route::Pods),
        ["runningpods"] => only(get, Route::RunningPods),
        ["containerLogs", namespace, name, container] => only(
            get,
            Route::ContainerLogs { pod: pod(namespace, name, None), container: (*container).to_owned() },
        ),
        ["exec", rest @ ..] => {
            only(stream, of_container(rest, |pod, container| Route::Exec { pod, container }))
        }
        ["attach", rest @ ..] => {
            only(stream, of_container(rest, |pod, container| Route::Attach { pod, container }))
        }
        ["run", rest @ ..] => {
            let post = method == Method::POST;
            only(post, of_container(rest, |pod, container| Route::Run { pod, container }))
        }
        ["portForward", namespace, name] => {
            only(stream, Route::PortForward { pod: pod(namespace, name, None) })
        }
        ["portForward", namespace, name, uid] => {
            only(stream, Route::PortForward { pod: pod(namespace, name, Some(uid)) })
        }
        ["stats", "summary"] => only(get || method == Method::POST, Route::StatsSummary),
        ["metrics"] => only(get, Route::Metrics),
        ["metrics", "resource"] => only(get, Route::MetricsResource),
        ["metrics", "cadvisor"] => only(get, Route::MetricsCadvisor),
        ["metrics", "probes"] => only(get, Route::MetricsProbes),
        ["configz"] => only(get, Route::Configz),
        ["logs", ..] => Route::NodeLogs,
        _ => Route::NotFound,
    }
}

/// What it takes. It depends on the path alone, so that a refusal does not tell what exists.
///
/// Exec, attach, run and port-forward change what runs, so they need `create` whatever the method: a WebSocket always begins with GET,
/// and `get` on nodes/proxy is widely given for reading metrics.
#[must_use]
pub fn needed(method: &Method, path: &str) -> Needed {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    match first {
        "exec" | "attach" | "run" | "portForward" => Needed { verb: "create", subresources: &["proxy"] },
        "stats" => Needed { verb, subresources: &["stats"] },
        "metrics" => Needed { verb, subresources: &["metrics"] },
        "logs" => Needed { verb, subresources: &["log"] },
        "checkpoint" => Needed { verb, subresources: &["checkpoint"] },
        "statusz" => Needed { verb, subresources: &["statusz"] },
        "healthz" => Needed { verb, subresources: &["healthz", "proxy"] },
        "configz" => Needed { verb, subresources: &["configz", "proxy"] },
        "pods" | "runningpods" => Needed { verb, subresources: &["pods", "proxy"] },
        _ => Needed { verb, subresources: &["proxy"] },
    }
}

fn pod(namespace: &str, name: &str, uid: Option<&str>) -> PodPath {
    PodPath { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.map(str::to_owned) }
}

fn of_container(parts: &[&str], route: fn(PodPath, String) -> Route) -> Route {
    match parts {
        [namespace, name, container] => route(pod(namespace, name, None), (*container).to_owned()),
        [namespace, name, uid, container] => route(pod(namespace, name, Some(uid)), (*container).to_owned()),
        _ => Route::NotFound,
    }
}
