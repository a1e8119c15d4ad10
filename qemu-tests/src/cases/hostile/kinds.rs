//! The enemies: what kinds of hostile pods there are, and what somebody outside does beside them.
use serde_json::{Value, json};

use super::super::cluster::manifest;

/// Who admits such pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Pod Security's level "baseline": anybody's pods.
    Baseline,
    /// They need a hostPath or fields of the host.
    Host,
}

/// What is done from outside while the pods run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    Nothing,
    /// Port-forwards to a port of the first pod, with connections over them.
    PortForwards(u16),
    /// As many execs in the first pod as get through.
    Execs,
}

/// A kind of hostile pods.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    pub name: &'static str,
    pub group: Group,
    /// Words for the test program, one pod each.
    commands: &'static [&'static [&'static str]],
    /// Changes to each pod's spec.
    change: fn(&mut Value),
    pub outside: Outside,
}

const fn kind(name: &'static str, commands: &'static [&'static [&'static str]]) -> Kind {
    Kind { name, group: Group::Baseline, commands, change: |_| {}, outside: Outside::Nothing }
}

/// Every kind.
pub const KINDS: &[Kind] = &[
    kind(
        "fill-resolv-conf",
        &[&["hostile", "fill", "/etc/resolv.conf"], &["hostile", "fill", "/etc/resolv.conf"]],
    ),
    kind("fill-hosts", &[&["hostile", "fill", "/etc/hosts"]]),
    kind("fill-hostname", &[&["hostile", "fill", "/etc/hostname"]]),
    kind("fill-shm", &[&["hostile", "fill", "/dev/shm/full"]]),
    kind("fill-termination-log", &[&["hostile", "fill", "/dev/termination-log"]]),
    kind("fill-log", &[&["hostile", "flood"], &["hostile", "flood"]]),
    Kind {
        change: scratch,
        ..kind("fill-empty-dir", &[&["hostile", "fill", "/scratch/full"], &["hostile", "files", "/scratch"]])
    },
    kind("sparse-hosts", &[&["hostile", "sparse", "/etc/hosts", "200"]]),
    kind("sparse-termination-log", &[&["hostile", "sparse", "/dev/termination-log", "200"]]),
    kind("forks", &[&["hostile", "fork"]]),
    kind("orphans", &[&["hostile", "orphans", "10000"]]),
    Kind { outside: Outside::PortForwards(9999), ..kind("mute-port", &[&["hostile", "mute", "9999"]]) },
    Kind { outside: Outside::Execs, ..kind("exec-storm", &[&["hostile", "park"]]) },
    Kind { change: shared, ..kind("end-first-process", &[&["hostile", "end-first"]]) },
    Kind { change: loopback_image, ..kind("loopback-image", &[&["hostile", "park"]]) },
    Kind { change: metadata_image, ..kind("link-local-image", &[&["hostile", "park"]]) },
    Kind {
        group: Group::Host,
        change: logs,
        ..kind("fifos-as-logs", &[&["hostile", "fifos", "/logs/pods"]])
    },
    Kind {
        group: Group::Host,
        change: orphans_of_the_node,
        ..kind("orphans-of-the-node", &[&["hostile", "orphans", "10000"]])
    },
    Kind {
        group: Group::Host,
        change: named_probes,
        ..kind("probes-of-names", &[&["serve"], &["serve"], &["serve"]])
    },
];

fn scratch(spec: &mut Value) {
    spec["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
}

fn shared(spec: &mut Value) {
    spec["shareProcessNamespace"] = true.into();
}

fn loopback_image(spec: &mut Value) {
    spec["containers"][0]["image"] = "127.0.0.1:2381/a/b:c".into();
    spec["containers"][0]["imagePullPolicy"] = "Always".into();
}

fn metadata_image(spec: &mut Value) {
    spec["containers"][0]["image"] = "169.254.169.254/a/b:c".into();
    spec["containers"][0]["imagePullPolicy"] = "Always".into();
}

fn logs(spec: &mut Value) {
    spec["volumes"] = json!([{"name": "logs", "hostPath": {"path": "/var/log"}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "logs", "mountPath": "/logs"}]);
}

fn orphans_of_the_node(spec: &mut Value) {
    spec["hostPID"] = true.into();
}

/// Probes of a name in a zone whose server does not answer: the pod's own resolver is nobody.
fn named_probes(spec: &mut Value) {
    let probe = json!({
        "tcpSocket": {"host": "nobody.blackhole.example", "port": 80}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1000,
    });
    let container = spec["containers"][0].clone();
    let containers = (0..8).map(|number| {
        let mut container = container.clone();
        container["name"] = format!("c{number}").into();
        container["args"] = json!(["serve", (9000 + number).to_string()]);
        container["livenessProbe"] = probe.clone();
        container["readinessProbe"] = probe.clone();
        container
    });
    spec["containers"] = containers.collect();
}

impl Kind {
    /// Its pods, for a node.
    pub fn pods(&self, node: &str) -> Vec<Value> {
        let pods = self.commands.iter().enumerate().map(|(number, words)| {
            let mut spec = manifest::one(node, words);
            (self.change)(&mut spec);
            manifest::pod(&self.pod_name(number), spec)
        });
        pods.collect()
    }

    /// How many pods it has.
    pub fn count(&self) -> usize {
        self.commands.len()
    }

    /// What its pods are called.
    pub fn pod_name(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_pods_of_the_first_group_use_nothing_of_the_host() {
        let names: std::collections::BTreeSet<_> = KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), KINDS.len());
        for kind in KINDS.iter().filter(|kind| kind.group == Group::Baseline) {
            for pod in kind.pods("n") {
                let text = pod["spec"].to_string();
                assert!(!text.contains("hostPath") && !text.contains("hostPID"), "{}", kind.name);
                assert!(!text.contains("privileged"), "{}", kind.name);
            }
        }
    }
}
