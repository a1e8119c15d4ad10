use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use serde_json::json;

use super::*;
use crate::cgroup::Amount;
use crate::downward::{Environment, PodFacts, expand, expand_strict};
use crate::volumes::{ServiceAccountToken, Source, SourceError, TokenRequest};

#[derive(Debug, Default)]
struct Fake {
    config_maps: BTreeMap<&'static str, ConfigMap>,
    secrets: BTreeMap<&'static str, Secret>,
}

impl Source for Fake {
    fn config_map<'a>(
        &'a self,
        _: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, SourceError>> {
        let found = self.config_maps.get(name).cloned().map(Arc::new);
        async move { found.ok_or_else(|| SourceError::not_found(format!("configmap \"{name}\" not found"))) }
            .boxed()
    }
    fn secret<'a>(&'a self, _: &'a str, name: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, SourceError>> {
        let found = self.secrets.get(name).cloned().map(Arc::new);
        async move { found.ok_or_else(|| SourceError::not_found(format!("secret \"{name}\" not found"))) }
            .boxed()
    }
    fn token<'a>(&'a self, _: TokenRequest<'a>) -> BoxFuture<'a, Result<ServiceAccountToken, SourceError>> {
        async { Err(SourceError::other("no tokens here")) }.boxed()
    }
}

fn pod(container: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a": "1", "b": "x\"y\n"}},
        "spec": {"nodeName": "n1", "containers": [container]},
    }))
    .unwrap()
}

fn run(pod: &Pod, services: &[Arc<Service>], source: &Fake) -> Result<Environment, EnvError> {
    let facts = PodFacts {
        pod_ips: vec!["10.1.1.1".into(), "fd00::1".into()],
        host_ips: vec!["10.0.0.5".into()],
        node_allocatable: [
            ("cpu".to_owned(), Amount::milli(1500)),
            ("memory".to_owned(), Amount::units(1 << 30)),
        ]
        .into(),
    };
    let container = &pod.spec.as_ref().unwrap().containers[0];
    container_env(pod, container, services, &facts, source).now_or_never().unwrap()
}

#[test]
fn references_expand_as_the_kubelet_does() {
    let known = |name: &str| (name == "A").then(|| "1".to_owned());
    let cases = [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$(A", "$(A"),
        ("$A", "$A"),
        ("$", "$"),
        ("a$", "a$"),
        ("$ä(A)", "$ä(A)"),
        ("$()", "$()"),
        ("$(A)$", "1$"),
        ("\n$(A))", "\n1)"),
    ];
    for (input, output) in cases {
        assert_eq!(expand(input, known), output, "{input}");
    }
    assert_eq!(expand_strict("$(A)/$(B)", known), Err("B".into()));
}

#[test]
fn later_variables_see_earlier_ones_and_env_beats_env_from() {
    let mut source = Fake::default();
    let data = json!({"data": {"A": "from", "B": "map"}});
    source.config_maps.insert("m", serde_json::from_value(data).unwrap());
    source.secrets.insert("s", serde_json::from_value(json!({"data": {"k": "c2VjcmV0"}})).unwrap());
    let pod = pod(json!({
        "name": "c",
        "envFrom": [{"configMapRef": {"name": "m"}}, {"prefix": "P_", "configMapRef": {"name": "m"}},
                    {"secretRef": {"name": "none", "optional": true}}],
        "env": [
            {"name": "A", "value": "own"},
            {"name": "C", "value": "$(A)-$(P_B)-$(D)"},
            {"name": "D", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "E", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "gone", "optional": true}}},
            {"name": "F"},
        ],
    }));
    let env = run(&pod, &[], &source).unwrap();
    assert_eq!(env.get("A"), Some("own"));
    assert_eq!(env.get("C"), Some("own-map-$(D)"));
    assert_eq!(env.get("D"), Some("secret"));
    assert_eq!(env.get("E"), None);
    assert_eq!(env.get("F"), Some(""));
}

#[test]
fn what_is_missing_is_named() {
    let source = Fake::default();
    let with = |from: serde_json::Value| {
        let pod = pod(json!({"name": "c", "env": [{"name": "A", "valueFrom": from}]}));
        run(&pod, &[], &source).unwrap_err().to_string()
    };
    assert_eq!(with(json!({"configMapKeyRef": {"name": "m", "key": "k"}})), "configmap \"m\" not found");
    assert_eq!(with(json!({"fieldRef": {"fieldPath": "spec.nope"}})), "unsupported fieldPath: spec.nope");
    assert!(with(json!({"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}})).contains("fileKeyRef"));
}

#[test]
fn the_downward_api_tells_fields_and_resources() {
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let resource = |name: &str, resource: &str, divisor: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}});
    let pod = pod(json!({
        "name": "c",
        "resources": {"requests": {"cpu": "250m"}, "limits": {"memory": "100Mi"}},
        "env": [
            field("IPS", "status.podIPs"), field("LABEL", "metadata.labels['a']"), field("LABELS", "metadata.labels"),
            field("NODE", "spec.nodeName"), field("HOST", "status.hostIP"),
            resource("REQ", "requests.cpu", "1m"), resource("CPU", "limits.cpu", "0"),
            resource("MEM", "limits.memory", "1Mi"), resource("DISK", "limits.ephemeral-storage", "1"),
        ],
    }));
    let env = run(&pod, &[], &Fake::default()).unwrap();
    let expected = [
        ("IPS", "10.1.1.1,fd00::1"),
        ("LABEL", "1"),
        ("LABELS", "a=\"1\"\nb=\"x\\\"y\\n\""),
        ("NODE", "n1"),
        ("HOST", "10.0.0.5"),
        ("REQ", "250"),
        // No limit: the node's 1500m, rounded up.
        ("CPU", "2"),
        ("MEM", "100"),
        ("DISK", "0"),
    ];
    for (name, value) in expected {
        assert_eq!(env.get(name), Some(value), "{name}");
    }
}

#[test]
fn services_of_the_namespace_and_the_master_are_linked() {
    let service = |namespace: &str, name: &str, ip: &str| -> Arc<Service> {
        let ports = json!([{"name": "web-ui", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        let spec = json!({"clusterIP": ip, "ports": ports});
        Arc::new(
            serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec}))
                .unwrap(),
        )
    };
    let services = [
        service("default", "kubernetes", "10.96.0.1"),
        service("default", "other", "10.96.0.2"),
        service("ns", "my-app", "fd00::3"),
        service("ns", "headless", "None"),
    ];
    let pod = pod(json!({"name": "c", "env": [{"name": "URL", "value": "$(MY_APP_PORT)"}]}));
    let env = run(&pod, &services, &Fake::default()).unwrap();
    assert_eq!(env.get("KUBERNETES_SERVICE_HOST"), Some("10.96.0.1"));
    assert_eq!(env.get("MY_APP_SERVICE_PORT_WEB_UI"), Some("80"));
    assert_eq!(env.get("MY_APP_PORT_53_UDP"), Some("udp://[fd00::3]:53"));
    assert_eq!(env.get("MY_APP_PORT_53_UDP_ADDR"), Some("fd00::3"));
    assert_eq!(env.get("URL"), Some("tcp://[fd00::3]:80"));
    assert_eq!(env.get("OTHER_SERVICE_HOST"), None);
    assert_eq!(env.get("HEADLESS_SERVICE_HOST"), None);
    assert_eq!(service_variables(services.iter().map(AsRef::as_ref), "ns", false).len(), 13);
}
