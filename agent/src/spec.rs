//! Reading a pod's spec: container kinds, restart rules, hashes, QoS.
use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod, PodSpec};

/// What a container is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    App,
    Ephemeral,
}

static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);

#[must_use]
pub fn spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

#[must_use]
pub fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

#[must_use]
pub fn ephemeral_containers(pod: &Pod) -> &[EphemeralContainer] {
    spec(pod).ephemeral_containers.as_deref().unwrap_or_default()
}

#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// The container of this name and its kind; an ephemeral one as the container it describes.
#[must_use]
pub fn find(pod: &Pod, name: &str) -> Option<(Kind, Container)> {
    let init = init_containers(pod).iter().find(|c| c.name == name);
    if let Some(container) = init {
        return Some((if is_sidecar(container) { Kind::Sidecar } else { Kind::Init }, container.clone()));
    }
    if let Some(container) = spec(pod).containers.iter().find(|c| c.name == name) {
        return Some((Kind::App, container.clone()));
    }
    let ephemeral = ephemeral_containers(pod).iter().find(|c| c.name == name)?;
    Some((Kind::Ephemeral, from_ephemeral(ephemeral)))
}

/// An ephemeral container as an ordinary one; it has neither ports, probes, hooks nor a restart policy.
#[must_use]
pub fn from_ephemeral(e: &EphemeralContainer) -> Container {
    Container {
        args: e.args.clone(),
        command: e.command.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        name: e.name.clone(),
        resources: e.resources.clone(),
        security_context: e.security_context.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        tty: e.tty,
        volume_devices: e.volume_devices.clone(),
        volume_mounts: e.volume_mounts.clone(),
        working_dir: e.working_dir.clone(),
        ..Default::default()
    }
}

/// The field path that events about a container carry.
#[must_use]
pub fn field_path(kind: Kind, name: &str) -> String {
    match kind {
        Kind::Init | Kind::Sidecar => format!("spec.initContainers{{{name}}}"),
        Kind::App => format!("spec.containers{{{name}}}"),
        Kind::Ephemeral => format!("spec.ephemeralContainers{{{name}}}"),
    }
}

/// The kubelet's hash of a container: FNV-1a over name and image as JSON.
#[must_use]
pub fn hash(container: &Container) -> String {
    let picked = serde_json::json!({ "image": container.image.as_deref().unwrap_or_default(), "name": container.name });
    let fnv = picked
        .to_string()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{fnv:x}")
}

#[must_use]
pub fn restart_policy(pod: &Pod) -> &str {
    spec(pod).restart_policy.as_deref().unwrap_or("Always")
}

/// Whether a container that ended with this code is started again (pod policy, the container's own policy and rules).
#[must_use]
pub fn restarts(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    for rule in container.restart_policy_rules.as_deref().unwrap_or_default() {
        if rule_matches(rule, exit_code) {
            return rule.action == "Restart" || rule.action == "RestartAllContainers";
        }
    }
    match container.restart_policy.as_deref().unwrap_or_else(|| restart_policy(pod)) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Whether the end of a container with this code starts all containers of its pod anew.
#[must_use]
pub fn restarts_all(container: &Container, exit_code: i32) -> bool {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    let first = rules.iter().find(|rule| rule_matches(rule, exit_code));
    first.is_some_and(|rule| rule.action == "RestartAllContainers")
}

fn rule_matches(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else { return false };
    let listed = codes.values.as_deref().unwrap_or_default().contains(&exit_code);
    match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

/// The container's restart policy when nothing is known of an exit code (a killed container).
#[must_use]
pub fn restarts_after_kill(pod: &Pod, container: &Container) -> bool {
    container.restart_policy.as_deref().unwrap_or_else(|| restart_policy(pod)) != "Never"
}

#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, "kubernetes.io/config.source").is_some_and(|source| source != "api")
}

#[must_use]
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, "kubernetes.io/config.mirror").is_some()
}

#[must_use]
pub fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

#[must_use]
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || is_mirror(pod) || spec(pod).priority.is_some_and(|p| p >= 2_000_000_000)
}

#[must_use]
pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_rules_come_before_policies() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"restartPolicy": "Never", "containers": [
            {"name": "a", "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}
        ]}}))
        .unwrap();
        let container = &spec(&pod).containers[0];
        assert!(restarts(&pod, container, 42));
        assert!(!restarts(&pod, container, 1));
    }
}
