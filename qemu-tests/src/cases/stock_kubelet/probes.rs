//! Probes by HTTP, TCP, gRPC and exec: what is healthy becomes Ready and stays, what is not is started again.
use anyhow::{Result, ensure};
use qemu_tests::Look;
use serde_json::{Value, json};

use super::super::Outcome;
use super::super::cluster::Stage;
use super::{pod, script};
use crate::bench::{until, within};

const NAMESPACE: &str = "probes";

/// Two pods with a container per kind of probe.
pub fn decide(stage: &mut Stage) -> Result<Outcome> {
    stage.namespace(NAMESPACE)?;
    let healthy = [
        probed("http", "exec /agnhost netexec --http-port 8081", &http(8081)),
        // Its neighbour has the default UDP port.
        probed(
            "tcp",
            "exec /agnhost netexec --http-port 8082 --udp-port 8092",
            &json!({"tcpSocket": {"port": 8082}}),
        ),
        probed(
            "grpc",
            "exec /agnhost grpc-health-checking --port 5001 --http-port 8083",
            &json!({"grpc": {"port": 5001}}),
        ),
        probed("exec", "touch /tmp/healthy; exec /agnhost pause", &exec()),
    ];
    let failing = [
        // It answers with an error.
        probed(
            "http",
            "exec /agnhost netexec --http-port 8081",
            &json!({"httpGet": {"path": "/echo?msg=no&code=500", "port": 8081}}),
        ),
        // Nobody listens.
        probed("tcp", "exec /agnhost pause", &json!({"tcpSocket": {"port": 8082}})),
        // It says that it does not serve.
        probed(
            "grpc",
            "exec /agnhost grpc-health-checking --port 5001 --http-port 8083 --delay-unhealthy-sec 0",
            &json!({"grpc": {"port": 5001}}),
        ),
        // The command ends with 1.
        probed("exec", "exec /agnhost pause", &exec()),
    ];
    let mut failing = pod(stage, "failing", failing.into_iter().map(without_readiness).collect())?;
    failing["spec"]["terminationGracePeriodSeconds"] = 0.into();
    stage.apply_in(NAMESPACE, &[pod(stage, "healthy", json!(healthy))?, failing])?;
    stage.wait_ready(NAMESPACE, "app=healthy", 1)?;
    until("every container with a failing probe to be started again", within(180), || {
        let pod = stage.get(NAMESPACE, &["pod", "failing"])?;
        let waiting: Vec<&str> = statuses(&pod)
            .iter()
            .filter(|status| status["restartCount"].as_u64().is_none_or(|count| count == 0))
            .filter_map(|status| status["name"].as_str())
            .collect();
        let all = statuses(&pod).len() == 4 && waiting.is_empty();
        Ok(if all { Look::Done(()) } else { Look::Waiting(format!("{waiting:?} were not restarted yet")) })
    })?;
    let pod = stage.get(NAMESPACE, &["pod", "healthy"])?;
    let steady = statuses(&pod).iter().all(|status| status["ready"] == true && status["restartCount"] == 0);
    ensure!(
        steady && statuses(&pod).len() == 4,
        "healthy containers are {}",
        pod["status"]["containerStatuses"]
    );
    stage.remove(NAMESPACE)?;
    Ok(Outcome::Passed)
}

fn statuses(pod: &Value) -> &[Value] {
    pod["status"]["containerStatuses"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn http(port: u16) -> Value {
    json!({"httpGet": {"path": "/healthz", "port": port}})
}

fn exec() -> Value {
    json!({"exec": {"command": ["cat", "/tmp/healthy"]}})
}

/// A container whose start, readiness and life are all probed.
fn probed(name: &str, text: &str, probe: &Value) -> Value {
    let mut container = script(name, text);
    for (kind, failures) in [("startupProbe", 60), ("readinessProbe", 3), ("livenessProbe", 3)] {
        let mut probe = probe.clone();
        for (field, value) in [("periodSeconds", 2), ("timeoutSeconds", 20), ("failureThreshold", failures)] {
            probe[field] = value.into();
        }
        container[kind] = probe;
    }
    container
}

/// For one that never becomes healthy.
fn without_readiness(mut container: Value) -> Value {
    container["startupProbe"] = Value::Null;
    container["readinessProbe"] = Value::Null;
    container
}
