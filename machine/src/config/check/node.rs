use std::path::Path;

use super::{Issue, authority, cluster::san, is_dns_name, issue, label};
use crate::config::{
    DiskSelector, Machine, Manifest, NodeAgent, Registry, Runtime, StaticPod, Sysctl, Volume, Watchdog,
};
use crate::paths;

pub fn machine(machine: &Machine, issues: &mut Vec<Issue>) {
    if let Some(name) = machine.hostname.as_ref().filter(|name| !is_dns_name(name) || name.len() > 64) {
        issues.push(issue(
            "hostname",
            format!("{name:?} is no host name"),
            "use at most 64 lower-case letters, digits, `-` and `.`, with a letter or digit at both ends",
        ));
    }
    if let Some(ca) = &machine.ca {
        authority("ca", ca, false, issues);
    }
    if machine.join_token.as_ref().is_some_and(|token| !crate::pki::is_join_token(token)) {
        issues.push(issue(
            "joinToken",
            "no join token",
            "use 32 to 128 letters and digits; `pintle gen secrets` makes one",
        ));
    }
    for (i, endpoint) in machine.join_endpoints.iter().enumerate() {
        if crate::config::host_and_port(endpoint, crate::paths::JOIN_PORT).is_none() {
            issues.push(issue(
                format!("joinEndpoints[{i}]"),
                format!("{endpoint:?} is no host"),
                "write host or host:port, such as 10.5.0.10 or [fd00::10]:50001",
            ));
        }
    }
    for (i, name) in machine.api_cert_sans.iter().enumerate() {
        san(&format!("apiCertSANs[{i}]"), name, issues);
    }
}

pub fn disk(disk: &DiskSelector, needed: bool, issues: &mut Vec<Issue>) {
    if let Some(path) = disk.path.as_ref().filter(|path| !path.starts_with("/dev/") || path.contains("..")) {
        issues.push(issue(
            "disk.path",
            format!("{path:?} is no device"),
            "use a path such as /dev/vda or /dev/disk/by-id/…",
        ));
    }
    let other_link = |path: &&String| path.starts_with("/dev/disk/") && !path.starts_with("/dev/disk/by-id/");
    if let Some(path) = disk.path.as_ref().filter(other_link) {
        issues.push(issue(
            "disk.path",
            format!("{path:?} is no name by which disks are found here"),
            "use /dev/disk/by-id/…, /dev/NAME, serial or model",
        ));
    }
    if needed && *disk == DiskSelector::default() {
        issues.push(issue("disk", "it selects every disk", "set one of path, serial, model or minSize"));
    }
}

pub fn volume(volume: &Volume, issues: &mut Vec<Issue>) {
    label("name", &volume.name, issues);
    disk(&volume.disk, true, issues);
    let path = &volume.mount_path;
    if !path.starts_with("/var/") || path.len() < 6 || path.split('/').any(|part| part == ".." || part == ".")
    {
        issues.push(issue(
            "mountPath",
            format!("{path:?} is not below /var"),
            "use an absolute path such as /var/lib/data",
        ));
    } else if let Some(own) = hidden(Path::new(path)) {
        issues.push(issue(
            "mountPath",
            format!("a volume at {path:?} would hide {own}, which the OS uses before volumes are mounted"),
            "mount it on a folder of its own, such as /var/lib/data",
        ));
    }
}

/// What of the OS itself a volume at `path` would hide, or lie in without being seen.
fn hidden(path: &Path) -> Option<&'static str> {
    // Each shows elsewhere, as /etc/kubernetes, /etc/cni and /opt, what the state volume has there.
    const SHOWN: [&str; 3] = ["/var/etc/kubernetes", "/var/etc/cni", "/var/opt"];
    const OWN: [&str; 2] = [paths::INIT_STATE, "/var/run"];
    let hides = |own: &&str| Path::new(own).starts_with(path);
    SHOWN.into_iter().find(hides).or_else(|| OWN.into_iter().find(|own| hides(own) || path.starts_with(own)))
}

pub fn registry(registry: &Registry, issues: &mut Vec<Issue>) {
    let host = &registry.host;
    if host.is_empty() || host.contains("://") || host.contains(['/', ' ']) {
        issues.push(issue(
            "host",
            format!("{host:?} is no host of image names"),
            "write host and optional port as in image names, without scheme, or `*`",
        ));
    }
    for (i, mirror) in registry.mirrors.iter().enumerate() {
        let rest = mirror.strip_prefix("https://").or_else(|| mirror.strip_prefix("http://"));
        if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/') || rest.contains(' ')) {
            issues.push(issue(
                format!("mirrors[{i}]"),
                format!("{mirror:?} is no URL"),
                "start it with http:// or https://",
            ));
        }
    }
    if registry.ca.as_ref().is_some_and(|ca| crate::pki::facts(ca).is_err()) {
        issues.push(issue(
            "ca",
            "no PEM certificate",
            "paste the CA's certificate, BEGIN and END lines included",
        ));
    }
}

/// What `evictionHard` may speak of.
pub const EVICTION_SIGNALS: [&str; 8] = [
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "containerfs.available",
    "containerfs.inodesFree",
    "pid.available",
];

/// Whether a text is a quantity of Kubernetes that is not negative (k8s.io/apimachinery/pkg/api/resource): a decimal number with an optional unit or exponent.
fn is_quantity(text: &str) -> bool {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let exponent = unit.strip_prefix(['e', 'E']).is_some_and(|power| power.parse::<i8>().is_ok());
    number.parse::<f64>().is_ok()
        && (exponent
            || matches!(
                unit,
                "" | "n"
                    | "u"
                    | "m"
                    | "k"
                    | "M"
                    | "G"
                    | "T"
                    | "P"
                    | "E"
                    | "Ki"
                    | "Mi"
                    | "Gi"
                    | "Ti"
                    | "Pi"
                    | "Ei"
            ))
}

/// Whether a text is a quantity, or a part of the whole such as `10%`.
fn is_threshold(text: &str) -> bool {
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().is_ok_and(|percent: f64| (0.0..=100.0).contains(&percent)),
        None => is_quantity(text),
    }
}

pub fn runtime(runtime: &Runtime, issues: &mut Vec<Issue>) {
    if runtime.stream_port == Some(0) {
        issues.push(issue(
            "streamPort",
            "no port",
            "use 1 to 65535, or leave it out for the unix socket alone",
        ));
    }
    images(runtime, issues);
}

fn images(runtime: &Runtime, issues: &mut Vec<Issue>) {
    let bounds = [
        ("maxLayerBytes", runtime.max_layer_bytes == 0),
        ("maxLayerEntries", runtime.max_layer_entries == 0),
        ("maxImageLayers", runtime.max_image_layers == 0),
        ("imagePullProgressTimeoutSeconds", runtime.image_pull_progress_timeout_seconds == 0),
    ];
    for (field, _) in bounds.iter().filter(|(_, none)| *none) {
        issues.push(issue(
            *field,
            "no image could be pulled",
            "use at least 1, or leave it out for the default",
        ));
    }
}

pub fn node_agent(agent: &NodeAgent, issues: &mut Vec<Issue>) {
    if agent.max_pods == 0 {
        issues.push(issue("maxPods", "a node without pods", "use at least 1; the default is 110"));
    }
    if agent.container_log_max_files < 2 {
        issues.push(issue("containerLogMaxFiles", "too few to rotate", "use at least 2; the default is 5"));
    }
    if agent.shutdown_grace_period_critical_pods_seconds > agent.shutdown_grace_period_seconds {
        issues.push(issue(
            "shutdownGracePeriodCriticalPodsSeconds",
            "longer than shutdownGracePeriodSeconds, of which it is a part",
            "make it shorter, or the whole period longer",
        ));
    }
    let percents = [agent.image_gc_low_threshold_percent, agent.image_gc_high_threshold_percent];
    if percents[0] > percents[1] || percents[1] > 100 {
        issues.push(issue(
            "imageGCLowThresholdPercent",
            "not between 0 and imageGCHighThresholdPercent, itself at most 100",
            "the defaults are 80 and 85",
        ));
    }
    for (signal, value) in &agent.eviction_hard {
        let field = || format!("evictionHard.{signal}");
        if !EVICTION_SIGNALS.contains(&signal.as_str()) {
            let remedy = format!("use one of {}", EVICTION_SIGNALS.join(", "));
            issues.push(issue(field(), "unknown eviction signal", remedy));
        } else if !is_threshold(value) {
            let remedy = "write what must be left, as a quantity such as 100Mi or as a part such as 10%";
            issues.push(issue(field(), format!("{value:?} is neither a quantity nor a percentage"), remedy));
        }
    }
    for (i, taint) in agent.register_with_taints.iter().enumerate() {
        if !matches!(&*taint.effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            issues.push(issue(
                format!("registerWithTaints[{i}].effect"),
                format!("{:?} is no effect", taint.effect),
                "use NoSchedule, PreferNoSchedule or NoExecute",
            ));
        }
    }
    for field in [("kubeReserved", &agent.kube_reserved), ("systemReserved", &agent.system_reserved)] {
        for (resource, quantity) in field.1 {
            if !is_quantity(quantity) {
                issues.push(issue(
                    format!("{}.{resource}", field.0),
                    format!("{quantity:?} is no quantity"),
                    "write a number with an optional unit, such as 200m or 256Mi",
                ));
            }
        }
    }
}

pub fn static_pod(pod: &StaticPod, issues: &mut Vec<Issue>) {
    label("name", &pod.name, issues);
    if pod.pod.get("kind").and_then(|kind| kind.as_str()) != Some("Pod") {
        issues.push(issue("pod", "no Pod", "write a whole v1 Pod: apiVersion, kind: Pod, metadata and spec"));
    } else if pod
        .pod
        .pointer("/spec/containers")
        .is_none_or(|list| list.as_array().is_none_or(|l| l.is_empty()))
    {
        issues.push(issue("pod.spec.containers", "a Pod without containers", "add at least one"));
    }
}

pub fn manifest(manifest: &Manifest, issues: &mut Vec<Issue>) {
    use serde::Deserialize;
    label("name", &manifest.name, issues);
    for (i, document) in serde_yaml_ng::Deserializer::from_str(&manifest.content).enumerate() {
        let (message, remedy) = match serde_json::Value::deserialize(document) {
            Err(error) => (format!("document {} is no YAML: {error}", i + 1), "correct it"),
            Ok(object) => {
                let has = |pointer| object.pointer(pointer).is_some_and(serde_json::Value::is_string);
                if object.is_null() || (has("/apiVersion") && has("/kind") && has("/metadata/name")) {
                    continue;
                }
                (
                    format!("document {} lacks apiVersion, kind or metadata.name", i + 1),
                    "write a whole Kubernetes object",
                )
            }
        };
        issues.push(issue("content", message, remedy));
        break;
    }
}

pub fn sysctl(sysctl: &Sysctl, issues: &mut Vec<Issue>) {
    for name in sysctl.values.keys() {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-' | ':');
        if name.is_empty() || !name.chars().all(good) || name.split(['.', '/']).any(str::is_empty) {
            issues.push(issue(
                format!("values.{name}"),
                "no name of a kernel parameter",
                "write it as sysctl does, such as net.core.somaxconn",
            ));
        }
    }
}

pub fn watchdog(watchdog: &Watchdog, issues: &mut Vec<Issue>) {
    if !watchdog.device.starts_with("/dev/watchdog") || watchdog.device.contains("..") {
        issues.push(issue(
            "device",
            format!("{:?} is no watchdog", watchdog.device),
            "use a path such as /dev/watchdog0",
        ));
    }
    if !(5..=3600).contains(&watchdog.timeout_seconds) {
        issues.push(issue("timeoutSeconds", "no usable time", "use 5 to 3600 seconds; the default is 60"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_what_kubernetes_takes_for_one() {
        for good in ["0", "100Mi", "1.5Gi", "200m", "2e3", "1E"] {
            assert!(is_quantity(good) && is_threshold(good), "{good}");
        }
        for bad in ["", "Mi", "-1", "10 Mi", "10MiB", "lots", "1.2.3", "1e"] {
            assert!(!is_quantity(bad) && !is_threshold(bad), "{bad}");
        }
        assert!(is_threshold("7.5%") && !is_threshold("120%") && !is_threshold("%") && !is_quantity("10%"));
    }

    #[test]
    fn a_threshold_that_says_nothing_is_a_fault() {
        let eviction_hard = [("containerfs.available", "10%"), ("memory.available", "lots")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let agent = NodeAgent { eviction_hard, ..NodeAgent::default() };
        let mut issues = Vec::new();
        node_agent(&agent, &mut issues);
        let fields: Vec<_> = issues.iter().map(|issue| issue.field.clone()).collect();
        assert_eq!(fields, ["evictionHard.memory.available"]);
    }

    #[test]
    fn a_volume_that_would_hide_what_the_os_keeps_is_refused() {
        let faults = |path: &str| {
            let mut issues = Vec::new();
            let selector = DiskSelector { path: Some("/dev/vdb".into()), ..DiskSelector::default() };
            let document = Volume { name: "data".into(), disk: selector, mount_path: path.into() };
            volume(&document, &mut issues);
            issues.len()
        };
        for path in
            ["/var/lib", "/var/lib/pintle/", "/var/lib/pintle/init", "/var/etc", "/var/opt", "/var/run/x"]
        {
            assert_eq!(faults(path), 1, "{path}");
        }
        for path in
            ["/var/lib/etcd", "/var/lib/pintle/runtime", "/var/opt/data", "/var/lib/runner", "/var/log"]
        {
            assert_eq!(faults(path), 0, "{path}");
        }
    }
}
