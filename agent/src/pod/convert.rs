//! A pod as the CRI messages that make it.
use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use machine::cri;

use super::observed as labels;
use super::security::{self, ImageUser, SecurityError};
use crate::settings::Settings;
use crate::spec::{self, spec};

/// The pod's log folder.
#[must_use]
pub fn log_directory(pod: &Pod) -> String {
    let m = &pod.metadata;
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    // A static pod's logs lie under the hash of its manifest, which is its uid.
    format!("{}/{}_{}_{}", machine::paths::POD_LOGS, part(&m.namespace), part(&m.name), part(&m.uid))
}

/// The pod's host name and domain (`subdomain.namespace.svc.<cluster domain>`, or nothing).
#[must_use]
pub fn hostname(pod: &Pod, dns_domain: &str) -> (String, String) {
    let spec = spec(pod);
    if let Some(name) = &spec.hostname_override {
        return (name.clone(), String::new());
    }
    let name = spec.hostname.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| {
        let name: String = pod.metadata.name.as_deref().unwrap_or_default().chars().take(63).collect();
        name.trim_end_matches(['-', '.']).to_owned()
    });
    let domain = spec.subdomain.as_deref().filter(|s| !s.is_empty()).map_or_else(String::new, |subdomain| {
        format!("{subdomain}.{}.svc.{dns_domain}", pod.metadata.namespace.as_deref().unwrap_or("default"))
    });
    (name, domain)
}

/// What the pod's resolv.conf says.
#[must_use]
pub fn dns(pod: &Pod, settings: &Settings) -> cri::DnsConfig {
    let spec = spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster_dns = settings.cluster_dns();
    let in_cluster = !cluster_dns.is_empty()
        && (policy == "ClusterFirstWithHostNet" || (policy == "ClusterFirst" && !spec::host_network(pod)));
    let mut dns = cri::DnsConfig::default();
    if policy == "None" {
    } else if in_cluster {
        let domain = settings.cluster().map(|c| c.dns_domain.as_str()).unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        dns.servers = cluster_dns;
        dns.searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        dns.searches.extend(settings.network.search_domains.iter().cloned());
        dns.options = vec!["ndots:5".into()];
    } else {
        dns.servers.clone_from(&settings.network.resolvers);
        dns.searches.clone_from(&settings.network.search_domains);
    }
    if let Some(own) = &spec.dns_config {
        dns.servers.extend(own.nameservers.iter().flatten().cloned());
        dns.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            dns.options.retain(|o| o.split(':').next() != Some(&name));
            dns.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name,
            });
        }
    }
    dedup(&mut dns.servers);
    dedup(&mut dns.searches);
    dns.servers.truncate(3);
    dns.searches.truncate(32);
    dns
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// What of the sandbox others work out.
#[derive(Debug, Clone, Default)]
pub struct SandboxParts {
    pub cgroup_parent: String,
    pub resources: Option<cri::LinuxContainerResources>,
    /// The ids of the pod's user namespace.
    pub ids: Option<cri::IdMapping>,
}

/// The pod's sandbox.
///
/// # Errors
/// When the pod's security context asks for what this node cannot do.
pub fn sandbox(
    pod: &Pod,
    settings: &Settings,
    attempt: u32,
    parts: SandboxParts,
) -> Result<cri::PodSandboxConfig, SecurityError> {
    let m = &pod.metadata;
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let mut pod_labels: HashMap<String, String> = m.labels.clone().unwrap_or_default().into_iter().collect();
    pod_labels.extend(identity(pod));
    let domain = settings.cluster().map_or("cluster.local", |c| c.dns_domain.as_str());
    let (name, subdomain) = hostname(pod, domain);
    let fqdn = spec(pod).set_hostname_as_fqdn.unwrap_or_default() && !subdomain.is_empty();
    let security = spec(pod).security_context.as_ref();
    let sysctls = security.and_then(|s| s.sysctls.clone()).unwrap_or_default();
    Ok(cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: part(&m.name),
            uid: part(&m.uid),
            namespace: part(&m.namespace),
            attempt,
        }),
        hostname: match (spec::host_network(pod), fqdn) {
            (true, _) => String::new(),
            (false, true) => format!("{name}.{subdomain}"),
            (false, false) => name,
        },
        log_directory: log_directory(pod),
        dns_config: Some(dns(pod, settings)),
        port_mappings: port_mappings(pod),
        labels: pod_labels,
        annotations: m.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: parts.cgroup_parent,
            security_context: Some(security::sandbox(pod, parts.ids)?),
            sysctls: sysctls.into_iter().map(|s| (s.name, s.value)).collect(),
            overhead: None,
            resources: parts.resources,
        }),
        windows: None,
    })
}

fn identity(pod: &Pod) -> HashMap<String, String> {
    let m = &pod.metadata;
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    HashMap::from([
        (labels::LABEL_POD_NAME.to_owned(), part(&m.name)),
        (labels::LABEL_POD_NAMESPACE.to_owned(), part(&m.namespace)),
        (labels::LABEL_POD_UID.to_owned(), part(&m.uid)),
    ])
}

fn port_mappings(pod: &Pod) -> Vec<cri::PortMapping> {
    if spec::host_network(pod) {
        return Vec::new();
    }
    let sidecars = spec::init_containers(pod).iter().filter(|c| spec::is_sidecar(c));
    let ports = spec(pod).containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports
        .map(|port| cri::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp,
                Some("SCTP") => cri::Protocol::Sctp,
                _ => cri::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or_default(),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

/// What of a container others work out.
#[derive(Debug, Clone, Default)]
pub struct ContainerParts {
    pub image: cri::ImageSpec,
    pub image_user: ImageUser,
    pub command: Vec<String>,
    pub args: Vec<String>,
    pub envs: Vec<cri::KeyValue>,
    pub mounts: Vec<cri::Mount>,
    pub resources: cri::LinuxContainerResources,
    /// CRI id of the container whose processes an ephemeral one sees.
    pub target: Option<String>,
    /// The ids of the pod's user namespace.
    pub ids: Option<cri::IdMapping>,
}

/// A container of a pod.
///
/// # Errors
/// When its security context cannot be met.
pub fn container(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    mut parts: ContainerParts,
) -> Result<cri::ContainerConfig, SecurityError> {
    let target = parts.target.as_deref();
    let security = security::container(pod, container, &parts.image_user, target, parts.ids)?;
    // What the pod owns, its volumes show as its own. An image's files get their owners from the runtime.
    for mount in parts.mounts.iter_mut().filter(|mount| mount.image.is_none()) {
        mount.uid_mappings = parts.ids.into_iter().collect();
        mount.gid_mappings = parts.ids.into_iter().collect();
    }
    let mut container_labels = identity(pod);
    container_labels.insert(labels::LABEL_CONTAINER_NAME.to_owned(), container.name.clone());
    let mut annotations = HashMap::from([
        (labels::ANNOTATION_HASH.to_owned(), spec::hash(container)),
        (labels::ANNOTATION_RESTARTS.to_owned(), attempt.to_string()),
        (labels::ANNOTATION_MESSAGE_PATH.to_owned(), message_path(container).to_owned()),
        (
            labels::ANNOTATION_MESSAGE_POLICY.to_owned(),
            container.termination_message_policy.clone().unwrap_or_else(|| "File".into()),
        ),
    ]);
    if let Some(grace) = spec(pod).termination_grace_period_seconds {
        annotations.insert(labels::ANNOTATION_GRACE.to_owned(), grace.to_string());
    }
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt }),
        image: Some(parts.image),
        command: parts.command,
        args: parts.args,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: parts.envs,
        mounts: parts.mounts,
        labels: container_labels,
        annotations,
        log_path: format!("{}/{attempt}.log", container.name),
        stdin: container.stdin.unwrap_or_default(),
        stdin_once: container.stdin_once.unwrap_or_default(),
        tty: container.tty.unwrap_or_default(),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(parts.resources),
            security_context: Some(security),
        }),
        stop_signal: stop_signal(container),
        ..Default::default()
    })
}

/// Where a container leaves its last words.
#[must_use]
pub fn message_path(container: &Container) -> &str {
    container.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log")
}

fn stop_signal(container: &Container) -> i32 {
    let wanted = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
    wanted.and_then(cri::Signal::from_str_name).unwrap_or_default() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.machine.cluster = Some(machine::config::Cluster {
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
            dns_domain: "cluster.local".into(),
            ..Default::default()
        });
        settings.network.resolvers = vec!["10.0.0.3".into()];
        settings.network.search_domains = vec!["lan".into()];
        settings
    }

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(
            serde_json::json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec}),
        )
        .unwrap()
    }

    #[test]
    fn cluster_first_asks_the_cluster_and_default_the_node() {
        let cluster = dns(&pod(serde_json::json!({"containers": []})), &settings());
        assert_eq!(cluster.servers, ["10.96.0.10"]);
        assert_eq!(cluster.searches, ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"]);
        assert_eq!(cluster.options, ["ndots:5"]);
        let host = dns(&pod(serde_json::json!({"containers": [], "hostNetwork": true})), &settings());
        assert_eq!(host.servers, ["10.0.0.3"]);
        let none = pod(
            serde_json::json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]}}),
        );
        assert_eq!(dns(&none, &settings()).servers, ["1.1.1.1"]);
        assert_eq!(dns(&none, &settings()).options, ["ndots:2"]);
    }

    #[test]
    fn a_subdomain_makes_a_domain() {
        let pod = pod(serde_json::json!({"containers": [], "hostname": "db", "subdomain": "peers"}));
        assert_eq!(hostname(&pod, "cluster.local"), ("db".into(), "peers.shop.svc.cluster.local".into()));
    }
}
