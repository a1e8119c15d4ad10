//! Values of a pod's own fields and resources, for environment variables and downwardAPI volumes.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use crate::cgroup::{Amount, Amounts};

/// A field or resource that cannot be shown. The text is what the user reads.
#[derive(Debug, thiserror::Error)]
pub enum FieldError {
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    #[error("unsupported container resource : {0}")]
    Resource(String),
    #[error("container {0} not found")]
    Container(String),
}

/// What a container is told that its pod's object may not say yet.
#[derive(Debug, Clone, Default)]
pub struct PodFacts {
    /// The pod's addresses, primary first; the node's for host-network pods.
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
    /// What pods may use on this node: stands in where a container has no limit.
    pub node_allocatable: Amounts,
}

/// The value at a field path.
///
/// # Errors
/// When the path is none that the downward API has.
pub fn field_value(pod: &Pod, path: &str, facts: &PodFacts) -> Result<String, FieldError> {
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    Ok(match path {
        "spec.nodeName" => text(spec.and_then(|spec| spec.node_name.as_ref())),
        "spec.serviceAccountName" => text(spec.and_then(|spec| spec.service_account_name.as_ref())),
        "status.hostIP" => text(facts.host_ips.first()),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => text(facts.pod_ips.first()),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => return metadata_value(pod, path),
    })
}

/// The value at a field path of the metadata, which is all that volumes may name.
///
/// # Errors
/// When the path is none that the downward API has.
pub fn metadata_value(pod: &Pod, path: &str) -> Result<String, FieldError> {
    let metadata = &pod.metadata;
    let get = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    if let Some((field, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        return match field {
            "metadata.annotations" => Ok(get(&metadata.annotations, key)),
            "metadata.labels" => Ok(get(&metadata.labels, key)),
            _ => Err(FieldError::Path(path.to_owned())),
        };
    }
    match path {
        "metadata.annotations" => Ok(format_map(metadata.annotations.as_ref())),
        "metadata.labels" => Ok(format_map(metadata.labels.as_ref())),
        "metadata.name" => Ok(metadata.name.clone().unwrap_or_default()),
        "metadata.namespace" => Ok(metadata.namespace.clone().unwrap_or_default()),
        "metadata.uid" => Ok(metadata.uid.clone().unwrap_or_default()),
        _ => Err(FieldError::Path(path.to_owned())),
    }
}

/// A container's request or limit in units of the divisor, rounded up. Without a limit, the pod's or the node's stands in.
///
/// # Errors
/// When the resource or the container is not known.
pub fn resource_value(
    pod: &Pod,
    container: Option<&Container>,
    selector: &ResourceFieldSelector,
    facts: &PodFacts,
) -> Result<String, FieldError> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let spec = pod.spec.as_ref();
    let (container, defaults) = match named {
        None => (container, true),
        Some(name) => {
            let find = |list: &'_ [Container]| list.iter().position(|other| other.name == name);
            let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
            let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
            // The stand-in limits of the node are for app containers only, as in the kubelet.
            match find(containers) {
                Some(at) => (Some(&containers[at]), true),
                None => (find(init).map(|at| &init[at]), false),
            }
        }
    };
    let Some(container) = container else {
        return Err(FieldError::Container(named.unwrap_or_default().to_owned()));
    };
    let amount = amount(pod, container, &selector.resource, defaults.then_some(facts))?;
    let divisor = selector.divisor.as_ref().map(Amount::of).filter(|divisor| !divisor.is_zero());
    let divisor = divisor.unwrap_or(Amount::units(1));
    let (value, unit) = if selector.resource.ends_with(".cpu") {
        (amount.milli_value(), divisor.milli_value())
    } else {
        (amount.value(), divisor.value())
    };
    Ok((value as f64 / unit as f64).ceil().to_string())
}

fn amount(
    pod: &Pod,
    container: &Container,
    name: &str,
    defaults: Option<&PodFacts>,
) -> Result<Amount, FieldError> {
    let unsupported = || FieldError::Resource(name.to_owned());
    let (half, resource) = name.split_once('.').ok_or_else(unsupported)?;
    let plain = matches!(resource, "cpu" | "memory" | "ephemeral-storage");
    if !plain && !resource.starts_with("hugepages-") {
        return Err(unsupported());
    }
    let resources = container.resources.as_ref();
    let list = match half {
        "limits" => resources.and_then(|resources| resources.limits.as_ref()),
        "requests" => resources.and_then(|resources| resources.requests.as_ref()),
        _ => return Err(unsupported()),
    };
    let own = list.and_then(|list| list.get(resource)).map(Amount::of).unwrap_or_default();
    let Some(facts) = defaults.filter(|_| own.is_zero() && plain && half == "limits") else { return Ok(own) };
    let pod_level =
        pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.limits.as_ref()?.get(resource));
    let pod_level =
        pod_level.map(Amount::of).filter(|amount| !amount.is_zero() && resource != "ephemeral-storage");
    Ok(pod_level.or_else(|| facts.node_allocatable.get(resource).copied()).unwrap_or_default())
}

/// `key="value"` lines in the order of the keys, the value quoted as Go quotes it.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quote(value)));
    lines.collect::<Vec<_>>().join("\n")
}

fn go_quote(text: &str) -> String {
    use std::fmt::Write as _;
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            c if c.is_ascii_control() => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\x{:02x}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
