//! A container's security context as CRI has it: pod and container level merged by the kubelet's rules.
use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile, SecurityContext};
use machine::cri;

use crate::spec::{self, spec};

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Why a container may not run as asked; the user reads it as CreateContainerConfigError's message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    RunAsRoot { pod: String, container: String },
    #[error("container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})")]
    ImageIsRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: {pod:?}, container: {container})"
    )]
    NamedUser { user: String, pod: String, container: String },
    #[error("unknown {what} {value:?}")]
    Unknown { what: &'static str, value: String },
}

/// The user that an image names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub name: String,
}

/// The namespaces of a pod. `target` is the CRI id of an ephemeral container's target.
/// `ids` are those of the pod's user namespace.
#[must_use]
pub fn namespaces(pod: &Pod, target: Option<&str>, ids: Option<cri::IdMapping>) -> cri::NamespaceOption {
    use cri::NamespaceMode as Mode;
    let spec = spec(pod);
    let host = |flag: Option<bool>| flag.unwrap_or_default();
    let pid = match target {
        _ if host(spec.host_pid) => Mode::Node,
        _ if host(spec.share_process_namespace) => Mode::Pod,
        Some(_) => Mode::Target,
        None => Mode::Container,
    };
    cri::NamespaceOption {
        network: if host(spec.host_network) { Mode::Node } else { Mode::Pod } as i32,
        ipc: if host(spec.host_ipc) { Mode::Node } else { Mode::Pod } as i32,
        pid: pid as i32,
        target_id: if pid == Mode::Target { target.unwrap_or_default().to_owned() } else { String::new() },
        userns_options: ids.map(|ids| cri::UserNamespace {
            mode: Mode::Pod as i32,
            uids: vec![ids],
            gids: vec![ids],
        }),
    }
}

/// The sandbox's security context.
///
/// # Errors
/// See [`SecurityError`].
pub fn sandbox(
    pod: &Pod,
    ids: Option<cri::IdMapping>,
) -> Result<cri::LinuxSandboxSecurityContext, SecurityError> {
    let context = spec(pod).security_context.clone().unwrap_or_default();
    let int = |value: Option<i64>| value.map(|value| cri::Int64Value { value });
    let privileged =
        |c: &Container| c.security_context.as_ref().and_then(|s| s.privileged).unwrap_or_default();
    let mut groups: Vec<i64> = context.fs_group.into_iter().collect();
    groups.extend(context.supplemental_groups.iter().flatten());
    Ok(cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None, ids)),
        selinux_options: context.se_linux_options.map(selinux),
        run_as_user: int(context.run_as_user),
        run_as_group: int(context.run_as_group),
        supplemental_groups: groups,
        supplemental_groups_policy: groups_policy(context.supplemental_groups_policy.as_deref())?,
        privileged: spec::init_containers(pod).iter().chain(&spec(pod).containers).any(privileged),
        // The kubelet runs the sandbox itself with the runtime's default profile.
        seccomp: Some(profile(cri::security_profile::ProfileType::RuntimeDefault, "")),
        ..Default::default()
    })
}

/// A container's security context; `image` is the user that its image names.
///
/// # Errors
/// See [`SecurityError`].
pub fn container(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    target: Option<&str>,
    ids: Option<cri::IdMapping>,
) -> Result<cri::LinuxContainerSecurityContext, SecurityError> {
    let pod_context = spec(pod).security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let run_as_user = own.run_as_user.or(pod_context.run_as_user);
    let run_as_group = own.run_as_group.or(pod_context.run_as_group);
    verify_non_root(pod, container, run_as_user, &own, image)?;
    let privileged = own.privileged.unwrap_or_default();
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| {
        if unmasked { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() }
    };
    let seccomp = own.seccomp_profile.as_ref().or(pod_context.seccomp_profile.as_ref());
    let app_armor = own.app_armor_profile.as_ref().or(pod_context.app_armor_profile.as_ref());
    let apparmor = match app_armor {
        Some(p) if !privileged => {
            Some(typed_profile(&p.type_, p.localhost_profile.as_deref(), "AppArmor profile type", "")?)
        }
        _ => None,
    };
    let mut groups: Vec<i64> = pod_context.fs_group.into_iter().collect();
    groups.extend(pod_context.supplemental_groups.iter().flatten());
    let image_uid = if image.name.is_empty() { image.uid } else { None };
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: own.capabilities.map(|c| cri::Capability {
            add_capabilities: c.add.unwrap_or_default(),
            drop_capabilities: c.drop.unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces(pod, target, ids)),
        selinux_options: own.se_linux_options.or(pod_context.se_linux_options).map(selinux),
        run_as_user: run_as_user.or(image_uid).map(|value| cri::Int64Value { value }),
        run_as_group: run_as_group.map(|value| cri::Int64Value { value }),
        run_as_username: if run_as_user.is_none() { image.name.clone() } else { String::new() },
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or_default(),
        supplemental_groups: groups,
        supplemental_groups_policy: groups_policy(pod_context.supplemental_groups_policy.as_deref())?,
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp_profile(seccomp, privileged)?),
        apparmor,
        ..Default::default()
    })
}

fn verify_non_root(
    pod: &Pod,
    container: &Container,
    run_as_user: Option<i64>,
    own: &SecurityContext,
    image: &ImageUser,
) -> Result<(), SecurityError> {
    let pod_level = spec(pod).security_context.as_ref().and_then(|c| c.run_as_non_root);
    if !own.run_as_non_root.or(pod_level).unwrap_or_default() {
        return Ok(());
    }
    let name = || {
        let m = &pod.metadata;
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{}_{}({})", part(&m.name), part(&m.namespace), part(&m.uid))
    };
    match (run_as_user, image.uid, image.name.as_str()) {
        (Some(0), _, _) => Err(SecurityError::RunAsRoot { pod: name(), container: container.name.clone() }),
        (Some(_), _, _) => Ok(()),
        (None, _, user) if !user.is_empty() => Err(SecurityError::NamedUser {
            user: user.to_owned(),
            pod: name(),
            container: container.name.clone(),
        }),
        (None, Some(0) | None, _) => {
            Err(SecurityError::ImageIsRoot { pod: name(), container: container.name.clone() })
        }
        (None, Some(_), _) => Ok(()),
    }
}

fn seccomp_profile(
    wanted: Option<&SeccompProfile>,
    privileged: bool,
) -> Result<cri::SecurityProfile, SecurityError> {
    use cri::security_profile::ProfileType;
    match wanted {
        _ if privileged => Ok(profile(ProfileType::Unconfined, "")),
        None => Ok(profile(ProfileType::Unconfined, "")),
        Some(p) => {
            typed_profile(&p.type_, p.localhost_profile.as_deref(), "seccomp profile type", SECCOMP_ROOT)
        }
    }
}

/// Where localhost seccomp profiles lie, as in the kubelet.
const SECCOMP_ROOT: &str = "/var/lib/kubelet/seccomp/";

fn typed_profile(
    kind: &str,
    localhost: Option<&str>,
    what: &'static str,
    root: &str,
) -> Result<cri::SecurityProfile, SecurityError> {
    use cri::security_profile::ProfileType;
    match kind {
        "RuntimeDefault" => Ok(profile(ProfileType::RuntimeDefault, "")),
        "Unconfined" => Ok(profile(ProfileType::Unconfined, "")),
        "Localhost" => {
            Ok(profile(ProfileType::Localhost, &format!("{root}{}", localhost.unwrap_or_default())))
        }
        other => Err(SecurityError::Unknown { what, value: other.to_owned() }),
    }
}

fn profile(kind: cri::security_profile::ProfileType, localhost: &str) -> cri::SecurityProfile {
    cri::SecurityProfile { profile_type: kind as i32, localhost_ref: localhost.to_owned() }
}

fn groups_policy(policy: Option<&str>) -> Result<i32, SecurityError> {
    let policy = policy.unwrap_or("Merge");
    cri::SupplementalGroupsPolicy::from_str_name(policy)
        .map(|p| p as i32)
        .ok_or_else(|| SecurityError::Unknown { what: "supplementalGroupsPolicy", value: policy.to_owned() })
}

fn selinux(options: k8s_openapi::api::core::v1::SELinuxOptions) -> cri::SeLinuxOption {
    cri::SeLinuxOption {
        user: options.user.unwrap_or_default(),
        role: options.role.unwrap_or_default(),
        r#type: options.type_.unwrap_or_default(),
        level: options.level.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(context: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p"}, "spec": {
            "securityContext": context, "containers": [{"name": "a"}]
        }}))
        .unwrap()
    }

    #[test]
    fn run_as_non_root_is_checked_against_the_image() {
        let pod = pod(serde_json::json!({"runAsNonRoot": true}));
        let c = &spec(&pod).containers[0];
        let user = |uid, name: &str| ImageUser { uid, name: name.into() };
        assert!(matches!(
            container(&pod, c, &user(Some(0), ""), None, None),
            Err(SecurityError::ImageIsRoot { .. })
        ));
        assert!(matches!(
            container(&pod, c, &user(None, ""), None, None),
            Err(SecurityError::ImageIsRoot { .. })
        ));
        assert!(matches!(
            container(&pod, c, &user(None, "web"), None, None),
            Err(SecurityError::NamedUser { .. })
        ));
        let context = container(&pod, c, &user(Some(7), ""), None, None).unwrap();
        assert_eq!(context.run_as_user.unwrap().value, 7);
    }

    #[test]
    fn fs_group_is_a_supplemental_group() {
        let pod = pod(serde_json::json!({"fsGroup": 5, "supplementalGroups": [6]}));
        let context = container(&pod, &spec(&pod).containers[0], &ImageUser::default(), None, None).unwrap();
        assert_eq!(context.supplemental_groups, [5, 6]);
    }

    #[test]
    fn a_pod_without_the_hosts_users_has_its_ids_in_every_container() {
        let pod = pod(serde_json::json!({}));
        let ids = cri::IdMapping { host_id: 131_072, container_id: 0, length: 65536 };
        let container =
            container(&pod, &spec(&pod).containers[0], &ImageUser::default(), None, Some(ids)).unwrap();
        let sandbox = sandbox(&pod, Some(ids)).unwrap();
        for options in [container.namespace_options, sandbox.namespace_options] {
            let users = options.unwrap().userns_options.unwrap();
            assert_eq!(
                (users.mode(), users.uids, users.gids),
                (cri::NamespaceMode::Pod, vec![ids], vec![ids])
            );
        }
    }
}
