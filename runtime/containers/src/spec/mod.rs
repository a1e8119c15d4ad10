//! From CRI's container config and the image's config to an OCI runtime spec: a pure function, as JSON.
use std::path::{Path, PathBuf};

use machine::cri;
use oci_spec::image::ImageConfiguration;
use serde_json::{Value, json};

pub mod capabilities;
pub mod devices;
mod mounts;
pub mod user;
pub mod user_record;

/// Everything the spec depends on.
#[derive(Debug)]
pub struct Input<'a> {
    pub config: &'a cri::ContainerConfig,
    /// With image volumes and relative paths already resolved to host paths.
    pub mounts: &'a [cri::Mount],
    pub image: &'a ImageConfiguration,
    pub user: &'a user::User,
    pub capabilities: &'a capabilities::Sets,
    pub devices: &'a [devices::Node],
    pub privileged: bool,
    /// The AppArmor profile to enter, if the kernel has AppArmor.
    pub apparmor: Option<&'a str>,
    pub seccomp: bool,
    pub rootfs: &'a Path,
    /// The executable of `pintle-launch`, for hooks.
    pub launch: &'a Path,
    pub pod_files: &'a PodFiles,
    /// The sandbox's pinned namespaces; absent ones are the host's.
    pub namespaces: &'a Namespaces,
    pub cgroup: &'a Path,
    pub hostname: &'a str,
}

/// Where files of the sandbox lie on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFiles {
    pub hostname: PathBuf,
    pub hosts: PathBuf,
    pub resolv_conf: PathBuf,
    pub shm: PathBuf,
}

/// Paths of namespaces to join.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// The pod's own user namespace.
    pub user: Option<String>,
    pub network: Option<String>,
    pub ipc: Option<String>,
    pub uts: Option<String>,
    pub pid: Pid,
}

/// Whose processes the container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Pid {
    /// Its own.
    #[default]
    Own,
    /// Those of the namespace at this path.
    Join(String),
    Host,
}

/// Why there can be no such container.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("no command specified: neither the pod nor the image has one")]
    NoCommand,
}

impl Input<'_> {
    fn security(&self) -> &cri::LinuxContainerSecurityContext {
        static NONE: std::sync::OnceLock<cri::LinuxContainerSecurityContext> = std::sync::OnceLock::new();
        let security = self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        security.unwrap_or_else(|| NONE.get_or_init(Default::default))
    }
}

/// The spec.
///
/// # Errors
/// When there is nothing to run.
pub fn build(input: &Input<'_>) -> Result<Value, Error> {
    let security = input.security();
    let mut linux = json!({
        "cgroupsPath": input.cgroup,
        "namespaces": namespaces(input.namespaces),
        "devices": devices::to_oci(input.devices),
        // The kubelet sends the lists; empty ones are procMount: Unmasked.
        "maskedPaths": if input.privileged { &[] } else { &security.masked_paths[..] },
        "readonlyPaths": if input.privileged { &[] } else { &security.readonly_paths[..] },
    });
    if let Some(propagation) = mounts::root_propagation(input.mounts) {
        linux["rootfsPropagation"] = propagation.into();
    }
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": process(input)?,
        "root": {"path": input.rootfs, "readonly": security.readonly_rootfs},
        "mounts": mounts::build(input),
        "linux": linux,
    });
    if let Some(dev) = mounts::own_dev(input) {
        let hook =
            json!({"path": input.launch, "args": ["pintle-launch", "attach", dev.host_path, input.rootfs]});
        spec["hooks"] = json!({"createContainer": [hook]});
    }
    Ok(spec)
}

fn namespaces(given: &Namespaces) -> Vec<Value> {
    let mut list = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    let joined =
        [("user", &given.user), ("network", &given.network), ("ipc", &given.ipc), ("uts", &given.uts)];
    list.extend(joined.iter().filter_map(|(kind, path)| Some(json!({"type": kind, "path": path.as_ref()?}))));
    match &given.pid {
        Pid::Own => list.push(json!({"type": "pid"})),
        Pid::Join(path) => list.push(json!({"type": "pid", "path": path})),
        Pid::Host => {}
    }
    list
}

fn process(input: &Input<'_>) -> Result<Value, Error> {
    let config = input.config;
    let image = input.image.config().as_ref();
    let cwd = if config.working_dir.is_empty() {
        image
            .and_then(|image| image.working_dir().clone())
            .filter(|folder| !folder.is_empty())
            .unwrap_or_else(|| "/".into())
    } else {
        config.working_dir.clone()
    };
    let cwd = if cwd.starts_with('/') { cwd } else { format!("/{cwd}") };
    let mut process = json!({
        "terminal": config.tty,
        "args": arguments(config, input.image)?,
        "env": environment(input),
        "cwd": cwd,
        "user": {"uid": input.user.uid, "gid": input.user.gid, "additionalGids": input.user.groups},
        "capabilities": capability_sets(input),
        "oomScoreAdj": oom_score(config),
    });
    // "false" and a filter together would make libcontainer refuse.
    if input.security().no_new_privs {
        process["noNewPrivileges"] = true.into();
    }
    if let Some(profile) = input.apparmor {
        process["apparmorProfile"] = profile.into();
    }
    Ok(process)
}

fn oom_score(config: &cri::ContainerConfig) -> i64 {
    config
        .linux
        .as_ref()
        .and_then(|linux| linux.resources.as_ref())
        .map_or(0, |resources| resources.oom_score_adj)
}

/// Loading a filter needs CAP_SYS_ADMIN or no_new_privs; it lies outside of the bounding set, so execve takes it away.
fn capability_sets(input: &Input<'_>) -> Value {
    let granted: Vec<&String> = input.capabilities.granted.iter().collect();
    let ambient: Vec<&String> = input.capabilities.ambient.iter().collect();
    let admin = "CAP_SYS_ADMIN".to_owned();
    let mut now = granted.clone();
    if input.seccomp && !input.security().no_new_privs && !input.capabilities.granted.contains(&admin) {
        now.push(&admin);
    }
    json!({"bounding": granted, "permitted": now, "effective": now, "inheritable": ambient, "ambient": ambient})
}

/// Kubernetes' rules: a command replaces the image's entry point and its arguments, arguments alone replace only those.
fn arguments(config: &cri::ContainerConfig, image: &ImageConfiguration) -> Result<Vec<String>, Error> {
    let image = image.config().as_ref();
    let entry = || image.and_then(|image| image.entrypoint().clone()).unwrap_or_default();
    let command = || image.and_then(|image| image.cmd().clone()).unwrap_or_default();
    let arguments = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => [config.command.clone(), config.args.clone()].concat(),
        (true, false) => [entry(), config.args.clone()].concat(),
        (true, true) => [entry(), command()].concat(),
    };
    if arguments.first().is_none_or(String::is_empty) { Err(Error::NoCommand) } else { Ok(arguments) }
}

/// The image's variables, then the pod's; the last of a name counts.
fn environment(input: &Input<'_>) -> Vec<String> {
    let mut variables: Vec<(String, String)> = vec![
        ("PATH".into(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
        ("HOSTNAME".into(), input.hostname.into()),
    ];
    if input.config.tty {
        variables.push(("TERM".into(), "xterm".into()));
    }
    let home = input.user.home.clone().unwrap_or_else(|| "/".into());
    variables.push(("HOME".into(), home.clone()));
    let image = input.image.config().as_ref().and_then(|image| image.env().clone()).unwrap_or_default();
    let image = image
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let pod = input
        .config
        .envs
        .iter()
        .map(|entry| (entry.key.clone(), String::from_utf8_lossy(&entry.value).into_owned()));
    for (name, value) in image.chain(pod) {
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => variables.push((name, value)),
        }
    }
    // As with runc, an empty one is as good as none: a shell without a home is of use to nobody.
    if let Some((_, value)) = variables.iter_mut().find(|(name, value)| name == "HOME" && value.is_empty()) {
        *value = home;
    }
    variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(config: &cri::ContainerConfig, image: &str, privileged: bool) -> Result<Value, Error> {
        let image: ImageConfiguration = serde_json::from_str(image).unwrap();
        let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        build(&Input {
            config,
            mounts: &config.mounts,
            image: &image,
            user: &user::User { uid: 1000, gid: 1000, groups: vec![1000], home: Some("/home/app".into()) },
            capabilities: &capabilities::decide(
                security.and_then(|s| s.capabilities.as_ref()),
                privileged,
                &capabilities::available(),
            )
            .unwrap(),
            devices: &[],
            privileged,
            apparmor: None,
            seccomp: true,
            rootfs: Path::new("/run/rootfs"),
            launch: Path::new("/bin/pintle-launch"),
            pod_files: &PodFiles::default(),
            namespaces: &Namespaces { network: Some("/run/ns/net".into()), ..Namespaces::default() },
            cgroup: Path::new("/kubepods/pod1/c"),
            hostname: "web-0",
        })
    }

    const IMAGE: &str = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},
        "config":{"Entrypoint":["/entry"],"Cmd":["serve"],"Env":["PATH=/bin","A=image"],"WorkingDir":"srv"}}"#;

    #[test]
    fn the_image_fills_in_what_the_pod_leaves_out() {
        let mut config = cri::ContainerConfig::default();
        config.envs.push(cri::KeyValue { key: "A".into(), value: "pod".into() });
        let spec = spec(&config, IMAGE, false).unwrap();
        assert_eq!(spec["process"]["args"], json!(["/entry", "serve"]));
        assert_eq!(spec["process"]["env"], json!(["PATH=/bin", "HOSTNAME=web-0", "HOME=/home/app", "A=pod"]));
        assert_eq!(spec["process"]["cwd"], "/srv");
        serde_json::from_value::<oci_spec::runtime::Spec>(spec).unwrap();
    }

    #[test]
    fn an_empty_home_is_the_users_and_any_other_is_the_pods() {
        for (home, seen) in [("", "HOME=/home/app"), ("/x", "HOME=/x")] {
            let envs = vec![cri::KeyValue { key: "HOME".into(), value: home.into() }];
            let spec = spec(&cri::ContainerConfig { envs, ..Default::default() }, IMAGE, false).unwrap();
            assert!(spec["process"]["env"].as_array().unwrap().contains(&json!(seen)), "{home:?}");
        }
    }

    #[test]
    fn whoever_wants_a_mount_what_lies_deeper_comes_later() {
        let mount = |path: &str| cri::Mount {
            container_path: path.into(),
            host_path: "/x".into(),
            ..Default::default()
        };
        let config = cri::ContainerConfig {
            mounts: vec![mount("/etc"), mount("/sys"), mount("/a")],
            ..Default::default()
        };
        let spec = spec(&config, IMAGE, false).unwrap();
        let list = spec["mounts"].as_array().unwrap();
        let at = |path: &str| list.iter().position(|mount| mount["destination"] == path).unwrap();
        assert!(at("/etc") < at("/etc/hosts") && at("/etc") < at("/etc/resolv.conf"));
        assert!(at("/sys") < at("/sys/fs/cgroup") && at("/dev") < at("/dev/shm"));
        // Of the same depth in the order given.
        assert!(at("/proc") < at("/etc") && at("/etc") < at("/sys") && at("/sys") < at("/a"));
    }

    #[test]
    fn a_command_replaces_the_images_arguments_too() {
        let config = cri::ContainerConfig { command: vec!["/bin/x".into()], ..Default::default() };
        assert_eq!(spec(&config, IMAGE, false).unwrap()["process"]["args"], json!(["/bin/x"]));
        let config = cri::ContainerConfig { args: vec!["once".into()], ..Default::default() };
        assert_eq!(spec(&config, IMAGE, false).unwrap()["process"]["args"], json!(["/entry", "once"]));
    }

    #[test]
    fn loading_a_filter_does_not_widen_what_the_container_can_get() {
        let spec = spec(&cri::ContainerConfig::default(), IMAGE, false).unwrap();
        let has = |set: &str| {
            spec["process"]["capabilities"][set].as_array().unwrap().contains(&json!("CAP_SYS_ADMIN"))
        };
        assert_eq!(
            [has("effective"), has("permitted"), has("bounding"), has("inheritable")],
            [true, true, false, false]
        );
    }

    #[test]
    fn a_mount_of_the_pod_takes_the_place_of_ours_and_parents_come_first() {
        let mount = |path: &str| cri::Mount {
            container_path: path.into(),
            host_path: "/x".into(),
            readonly: true,
            ..Default::default()
        };
        let config = cri::ContainerConfig {
            mounts: vec![mount("/a/b"), mount("/etc/hosts"), mount("/a")],
            ..Default::default()
        };
        let spec = spec(&config, IMAGE, false).unwrap();
        let list = spec["mounts"].as_array().unwrap();
        let at = |path: &str| list.iter().position(|mount| mount["destination"] == path).unwrap();
        assert!(at("/a") < at("/a/b"));
        assert_eq!(list.iter().filter(|mount| mount["destination"] == "/etc/hosts").count(), 1);
        assert_eq!(list[at("/etc/hosts")]["options"], json!(["rbind", "rprivate", "ro"]));
    }
}
