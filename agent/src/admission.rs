//! Whether this node runs a pod that was bound to it: the kubelet's own predicates. Pure.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::cgroup::{Amount, Amounts, pod_requests};
use crate::spec::{self, spec};

/// Why a pod is refused; becomes its status' reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: &'static str,
    pub message: String,
    /// For lack of resources alone, which other pods might give.
    pub shortage: bool,
}

impl Rejection {
    /// No pod is admitted while the machine goes down.
    #[must_use]
    pub fn node_shutdown() -> Self {
        Self {
            reason: "NodeShutdown",
            message: "Pod was rejected as the node is shutting down.".into(),
            shortage: false,
        }
    }
}

/// Whether a pod counts against the node's resources and ports.
#[must_use]
pub fn is_active(pod: &Pod) -> bool {
    !matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

/// `None` when the pod may run beside the `active` ones.
#[must_use]
pub fn admit(pod: &Pod, active: &[&Pod], node: Option<&Node>, allocatable: &Amounts) -> Option<Rejection> {
    operating_system(pod)
        .or_else(|| sysctls(pod))
        .or_else(|| node_labels(pod, node?))
        .or_else(|| ports(pod, active))
        .or_else(|| {
            let Shortage { resource, message, .. } = shortage(pod, active, allocatable)?;
            let reason = match resource.as_str() {
                "cpu" => "OutOfcpu",
                "memory" => "OutOfmemory",
                "pods" => "OutOfpods",
                "ephemeral-storage" => "OutOfephemeral-storage",
                _ => "UnexpectedAdmissionError",
            };
            Some(Rejection { reason, message: format!("Pod was rejected: {message}"), shortage: true })
        })
}

/// A resource of which the node has too little left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    pub resource: String,
    pub message: String,
    /// How much too little, in thousandths of a CPU, or units.
    pub missing: i64,
}

fn operating_system(pod: &Pod) -> Option<Rejection> {
    let os = spec(pod).os.as_ref()?;
    (os.name != "linux").then(|| Rejection {
        reason: "PodOSNotSupported",
        message: "Failed to admit pod as the OS field doesn't match node OS".into(),
        shortage: false,
    })
}

const SAFE: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_notsent_lowat",
];

fn sysctls(pod: &Pod) -> Option<Rejection> {
    let context = spec(pod).security_context.as_ref()?;
    let forbidden = |message| Some(Rejection { reason: "SysctlForbidden", message, shortage: false });
    for sysctl in context.sysctls.iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        if !SAFE.contains(&name.as_str()) {
            return forbidden(format!("forbidden sysctl: {:?} not allowlisted", sysctl.name));
        }
        if name.starts_with("net.") && spec::host_network(pod) {
            return forbidden(format!(
                "forbidden sysctl: {:?} not allowed with host net enabled",
                sysctl.name
            ));
        }
        if name.starts_with("kernel.") && spec(pod).host_ipc.unwrap_or_default() {
            return forbidden(format!(
                "forbidden sysctl: {:?} not allowed with host ipc enabled",
                sysctl.name
            ));
        }
    }
    None
}

fn node_labels(pod: &Pod, node: &Node) -> Option<Rejection> {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let selected = spec(pod).node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let affinity = spec(pod).affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let fits = required.is_none_or(|selector| {
        selector.node_selector_terms.iter().any(|term| {
            let expressions = term.match_expressions.as_deref().unwrap_or_default();
            let fields = term.match_fields.as_deref().unwrap_or_default();
            !(expressions.is_empty() && fields.is_empty())
                && expressions.iter().all(|r| {
                    matches(
                        labels.get(&r.key).map(String::as_str),
                        &r.operator,
                        r.values.as_deref().unwrap_or_default(),
                    )
                })
                && fields.iter().all(|r| {
                    r.key == "metadata.name"
                        && matches(Some(name), &r.operator, r.values.as_deref().unwrap_or_default())
                })
        })
    });
    (!selected || !fits).then(|| Rejection {
        reason: "NodeAffinity",
        message: "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector".into(),
        shortage: false,
    })
}

fn matches(value: Option<&str>, operator: &str, values: &[String]) -> bool {
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<i64>().ok());
    match operator {
        "In" => value.is_some_and(|v| values.iter().any(|x| x == v)),
        "NotIn" => value.is_none_or(|v| !values.iter().any(|x| x == v)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number(value).zip(number(values.first().map(String::as_str))).is_some_and(|(a, b)| a > b),
        "Lt" => number(value).zip(number(values.first().map(String::as_str))).is_some_and(|(a, b)| a < b),
        _ => false,
    }
}

type Port = (String, String, i32);

fn host_ports(pod: &Pod) -> Vec<Port> {
    let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
    let ports = spec(pod).containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            let ip = p.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
            Some((ip, protocol, p.host_port.filter(|port| *port > 0)?))
        })
        .collect()
}

fn ports(pod: &Pod, active: &[&Pod]) -> Option<Rejection> {
    let wanted = host_ports(pod);
    let clash =
        |a: &Port, b: &Port| a.1 == b.1 && a.2 == b.2 && (a.0 == b.0 || a.0 == "0.0.0.0" || b.0 == "0.0.0.0");
    let taken = active.iter().flat_map(|p| host_ports(p)).any(|t| wanted.iter().any(|w| clash(w, &t)));
    taken.then(|| Rejection {
        reason: "NodePorts",
        message: "Pod was rejected: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports".into(),
        shortage: false,
    })
}

/// The first resource of which the node has too little for a pod beside the `active` ones.
#[must_use]
pub fn shortage(pod: &Pod, active: &[&Pod], allocatable: &Amounts) -> Option<Shortage> {
    shortages(pod, active, allocatable).into_iter().next()
}

/// Everything of which the node has too little for a pod beside the `active` ones.
#[must_use]
pub fn shortages(pod: &Pod, active: &[&Pod], allocatable: &Amounts) -> Vec<Shortage> {
    let mut short = Vec::new();
    if allocatable.is_empty() {
        return short;
    }
    let pods = allocatable.get("pods").map_or(0, |a| a.value());
    let used = i64::try_from(active.len()).unwrap_or(i64::MAX);
    if used + 1 > pods {
        short.push(out_of("pods", 1, used, pods));
    }
    for (name, request) in pod_requests(pod) {
        // Extended resources that the node does not know are the cluster's to count.
        if request.is_zero() || (name.contains('/') && !allocatable.contains_key(&name)) {
            continue;
        }
        let in_use = active.iter().filter_map(|p| pod_requests(p).get(&name).copied());
        let value = |amount: Amount| if name == "cpu" { amount.milli_value() } else { amount.value() };
        let used: i64 = in_use.map(value).sum();
        let capacity = allocatable.get(&name).copied().map_or(0, value);
        if value(request) + used > capacity {
            short.push(out_of(&name, value(request), used, capacity));
        }
    }
    short
}

fn out_of(resource: &str, requested: i64, used: i64, capacity: i64) -> Shortage {
    let message = format!(
        "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
    );
    Shortage { resource: resource.to_owned(), message, missing: requested + used - capacity }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn allocatable() -> Amounts {
        [("cpu".to_owned(), Amount::milli(1000)), ("pods".to_owned(), Amount::units(2))].into()
    }

    fn reason(pod: &Pod, active: &[&Pod]) -> Option<&'static str> {
        admit(pod, active, None, &allocatable()).map(|r| r.reason)
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cpu = |m: &str| {
            pod(serde_json::json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": m}}}]}))
        };
        assert_eq!(reason(&cpu("600m"), &[]), None);
        assert_eq!(reason(&cpu("600m"), &[&cpu("600m")]), Some("OutOfcpu"));
        assert_eq!(reason(&cpu("1m"), &[&cpu("1m"), &cpu("1m")]), Some("OutOfpods"));
    }

    #[test]
    fn host_ports_are_unique() {
        let port = |n: i32| {
            pod(
                serde_json::json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "hostPort": n}]}]}),
            )
        };
        assert_eq!(reason(&port(80), &[&port(81)]), None);
        assert_eq!(reason(&port(80), &[&port(80)]), Some("NodePorts"));
    }

    #[test]
    fn unsafe_sysctls_are_refused() {
        let sysctl = |name: &str| {
            pod(
                serde_json::json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}),
            )
        };
        assert_eq!(reason(&sysctl("kernel.shm_rmid_forced"), &[]), None);
        assert_eq!(reason(&sysctl("kernel.msgmax"), &[]), Some("SysctlForbidden"));
    }
}
