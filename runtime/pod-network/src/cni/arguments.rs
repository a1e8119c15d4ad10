//! What plugins are told of a pod: `CNI_ARGS`, and the capability arguments of the conventions that go with the specification (CONVENTIONS.md,
//! "Well-known Capabilities"). Pure.
use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::Error;
use super::bandwidth;
use crate::{Dns, PodRequest, PortMapping};

/// Annotations with which a pod asks for addresses of its own choice; what comes of it is the plugins' decision, and only those that declare the
/// capability learn of it.
const ANNOTATIONS: [(&str, &str); 3] =
    [("pintle.dev/mac", "mac"), ("pintle.dev/infiniband-guid", "infinibandGUID"), ("pintle.dev/ips", "ips")];
/// The name that containerd and CRI-O gave it.
const POD_ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// `CNI_ARGS` as Kubernetes' plugins know it.
///
/// # Errors
/// When a name holds what separates the pairs: a plugin would read another pod's name out of it.
pub fn environment(pod: &PodRequest) -> Result<String, Error> {
    let pairs = [
        ("K8S_POD_NAMESPACE", &pod.namespace),
        ("K8S_POD_NAME", &pod.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &pod.sandbox_id),
        ("K8S_POD_UID", &pod.uid),
    ];
    let mut text = String::from("IgnoreUnknown=1");
    for (name, value) in pairs {
        if value.contains(|c: char| matches!(c, ';' | '=') || c.is_control()) {
            return Err(Error::Argument { name, value: value.clone() });
        }
        text += &format!(";{name}={value}");
    }
    Ok(text)
}

/// Every capability argument that there is for the pod; each plugin gets those that it declares. `ranges` are the node's.
///
/// # Errors
/// When an annotation cannot be understood.
pub fn capabilities(pod: &PodRequest, ranges: &[IpNet]) -> Result<Map<String, Value>, Error> {
    let mut all = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            all.insert(name.into(), value);
        }
    };
    put("portMappings", (!pod.ports.is_empty()).then(|| pod.ports.iter().map(port).collect()));
    put("bandwidth", bandwidth::limits(&pod.annotations)?);
    put(
        "ipRanges",
        (!ranges.is_empty()).then(|| ranges.iter().map(|range| json!([{"subnet": range}])).collect()),
    );
    put("dns", dns(&pod.dns));
    put("cgroupPath", (!pod.cgroup.is_empty()).then(|| pod.cgroup.as_str().into()));
    put(POD_ANNOTATIONS, (!pod.annotations.is_empty()).then(|| json!(pod.annotations)));
    for (annotation, name) in ANNOTATIONS {
        put(name, asked(&pod.annotations, annotation, name));
    }
    Ok(all)
}

fn asked(annotations: &BTreeMap<String, String>, annotation: &str, name: &str) -> Option<Value> {
    let text = annotations.get(annotation)?.trim();
    if name == "ips" {
        return Some(text.split(',').map(|ip| Value::from(ip.trim())).collect());
    }
    Some(text.into())
}

fn port(mapping: &PortMapping) -> Value {
    let mut port = json!({
        "hostPort": mapping.host_port, "containerPort": mapping.container_port, "protocol": mapping.protocol.name(),
    });
    if let Some(ip) = mapping.host_ip {
        port["hostIP"] = ip.to_string().into();
    }
    port
}

fn dns(dns: &Dns) -> Option<Value> {
    let Dns { servers, searches, options } = dns;
    let some = !(servers.is_empty() && searches.is_empty() && options.is_empty());
    some.then(|| json!({"servers": servers, "searches": searches, "options": options}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    #[test]
    fn names_go_into_the_environment_and_cannot_add_pairs() {
        let mut pod = PodRequest {
            sandbox_id: "abc".into(),
            namespace: "default".into(),
            name: "web".into(),
            uid: "1-2".into(),
            ..PodRequest::default()
        };
        assert_eq!(
            environment(&pod).unwrap(),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=1-2"
        );
        pod.name = "web;K8S_POD_NAMESPACE=kube-system".into();
        assert!(environment(&pod).unwrap_err().to_string().contains("K8S_POD_NAME"));
    }

    #[test]
    fn a_bare_pod_has_no_capability_arguments() {
        assert_eq!(capabilities(&PodRequest::default(), &[]).unwrap(), Map::new());
    }

    #[test]
    fn arguments_have_the_conventions_form() {
        let annotations = [
            ("kubernetes.io/ingress-bandwidth", "1M"),
            ("pintle.dev/mac", "02:00:00:00:00:01"),
            ("pintle.dev/ips", "10.1.0.9/24, fd00::9/64"),
        ];
        let annotations: BTreeMap<String, String> =
            annotations.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        let pod = PodRequest {
            ports: vec![
                PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port: 8080, host_ip: None },
                PortMapping {
                    protocol: Protocol::Udp,
                    container_port: 53,
                    host_port: 53,
                    host_ip: Some([192, 0, 2, 1].into()),
                },
            ],
            dns: Dns { servers: vec!["10.96.0.10".into()], ..Dns::default() },
            cgroup: "/kubepods/pod1".into(),
            annotations: annotations.clone(),
            ..PodRequest::default()
        };
        let ranges = ["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()];
        let expected = json!({
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "192.0.2.1"},
            ],
            "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 4_294_967_295_u32},
            "ipRanges": [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:1::/64"}]],
            "dns": {"servers": ["10.96.0.10"], "searches": [], "options": []},
            "cgroupPath": "/kubepods/pod1",
            "io.kubernetes.cri.pod-annotations": annotations,
            "mac": "02:00:00:00:00:01",
            "ips": ["10.1.0.9/24", "fd00::9/64"],
        });
        assert_eq!(Value::Object(capabilities(&pod, &ranges).unwrap()), expected);
    }
}
