use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use machine::cri;
use serde_json::json;

use super::*;

fn measured() -> NodeStats {
    let value = |value| Some(cri::UInt64Value { value });
    let cpu =
        |nanos| Some(cri::CpuUsage { usage_core_nano_seconds: value(nanos), ..cri::CpuUsage::default() });
    let memory =
        |bytes| Some(cri::MemoryUsage { working_set_bytes: value(bytes), ..cri::MemoryUsage::default() });
    let container = |name: &str| cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: format!("id-{name}"),
            metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
            ..cri::ContainerAttributes::default()
        }),
        cpu: cpu(1_500_000_000),
        memory: memory(4096),
        ..cri::ContainerStats::default()
    };
    let sandbox = |uid: &str| cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: "s".into(),
            metadata: Some(cri::PodSandboxMetadata {
                name: "p".into(),
                namespace: "ns".into(),
                uid: uid.into(),
                attempt: 0,
            }),
            ..cri::PodSandboxAttributes::default()
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: cpu(2_000_000_000),
            memory: memory(8192),
            containers: vec![container("c"), container("ended")],
            ..cri::LinuxPodSandboxStats::default()
        }),
        ..cri::PodSandboxStats::default()
    };
    let running = json!({"running": {"startedAt": "2026-01-02T03:04:05Z"}});
    let status = |name: &str, state| json!({"name": name, "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": state});
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "status": {"containerStatuses": [status("c", running), status("ended", json!({"terminated": {"exitCode": 0}}))]},
    }))
    .unwrap();
    read(Path::new("/"), &[sandbox("u"), sandbox("gone")], &[Arc::new(pod)]).unwrap()
}

#[test]
fn the_node_is_measured_and_strangers_are_left_out() {
    let stats = measured();
    assert_eq!(stats.pods.len(), 1);
    assert_eq!(stats.pods[0].containers.len(), 1, "an ended container is not measured");
    assert!(
        stats.node.cpu_nanos.unwrap() > 0 && stats.memory_capacity > stats.node.memory_working_set.unwrap()
    );
    assert!(stats.disk.unwrap().capacity > 0 && stats.max_pid > 0 && stats.boot_time < stats.time);
}

#[test]
fn metrics_server_finds_its_series() {
    let stats = measured();
    let text = resource_metrics(&stats);
    let millis = stats.time.as_millisecond();
    let expected = [
        format!(
            "container_cpu_usage_seconds_total{{container=\"c\",namespace=\"ns\",pod=\"p\"}} 1.5 {millis}\n"
        ),
        format!(
            "container_memory_working_set_bytes{{container=\"c\",namespace=\"ns\",pod=\"p\"}} 4096 {millis}\n"
        ),
        "container_start_time_seconds{container=\"c\",namespace=\"ns\",pod=\"p\"} 1767323045\n".to_owned(),
        format!("pod_cpu_usage_seconds_total{{namespace=\"ns\",pod=\"p\"}} 2 {millis}\n"),
        "# TYPE node_cpu_usage_seconds_total counter\n".to_owned(),
        "resource_scrape_error 0\n".to_owned(),
    ];
    for line in expected {
        assert!(text.contains(&line), "{line} in\n{text}");
    }
    assert!(cadvisor_metrics(&stats).contains("id=\"/kubepods/besteffort/podu/id-c\",image=\"i\""));
}

#[test]
fn the_summary_has_the_kubelets_fields() {
    let value = summary("n", &measured());
    assert_eq!(value["node"]["nodeName"], "n");
    assert!(value["node"]["memory"]["workingSetBytes"].as_u64().unwrap() > 0);
    assert!(value["node"]["fs"]["capacityBytes"].as_u64().unwrap() > 0);
    let pod = &value["pods"][0];
    assert_eq!(pod["podRef"], json!({"name": "p", "namespace": "ns", "uid": "u"}));
    assert_eq!(pod["containers"][0]["cpu"]["usageCoreNanoSeconds"], 1_500_000_000_u64);
    assert_eq!(pod["containers"][0]["startTime"], "2026-01-02T03:04:05Z");
}

#[test]
fn services_that_hung_are_counted() {
    let service = |name: &str, restarts, hangs| machine::socket::Service {
        name: name.into(),
        restarts,
        hangs,
        ..machine::socket::Service::default()
    };
    let text = node_agent_metrics(&[], &[service("net", 0, 0), service("runtime", 3, 2)]);
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("pintle_")).collect();
    assert_eq!(
        lines,
        [
            "pintle_service_restarts_total{service=\"net\"} 0",
            "pintle_service_restarts_total{service=\"runtime\"} 3",
            "pintle_service_heartbeats_lost_total{service=\"net\"} 0",
            "pintle_service_heartbeats_lost_total{service=\"runtime\"} 2",
        ]
    );
    assert!(!node_agent_metrics(&[], &[]).contains("pintle_"), "PID 1 did not answer");
}
