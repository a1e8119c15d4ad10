//! A container's mounts: the standard ones, the pod's files, and what the pod asks for, in an order in which parents come first.
use std::path::Path;

use machine::cri;
use serde_json::{Value, json};

use super::Input;

/// Destinations that the runtime fills in unless the request mounts something there.
fn standard(input: &Input<'_>) -> Vec<Value> {
    let sys_mode = if input.privileged { "rw" } else { "ro" };
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
    ];
    // mqueue belongs to the ipc namespace.
    mounts.push(mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]));
    mounts.push(mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys_mode]));
    mounts.push(mount(
        "/sys/fs/cgroup",
        "cgroup",
        "cgroup",
        &["nosuid", "noexec", "nodev", "relatime", sys_mode],
    ));
    mounts
}

/// Files of the pod sandbox.
fn of_the_pod(input: &Input<'_>) -> Vec<Value> {
    let writable = if input.security().readonly_rootfs { "ro" } else { "rw" };
    let bind = |destination: &str, source: &Path, mode: &str| json!({"destination": destination, "type": "bind", "source": source, "options": ["rbind", "rprivate", mode]});
    let files = input.pod_files;
    vec![
        bind("/etc/hostname", &files.hostname, writable),
        bind("/etc/resolv.conf", &files.resolv_conf, writable),
        bind("/etc/hosts", &files.hosts, writable),
        bind("/dev/shm", &files.shm, "rw"),
    ]
}

fn requested(mount: &cri::Mount) -> Value {
    let mut options = vec!["rbind"];
    options.push(match mount.propagation() {
        cri::MountPropagation::PropagationPrivate => "rprivate",
        cri::MountPropagation::PropagationHostToContainer => "rslave",
        cri::MountPropagation::PropagationBidirectional => "rshared",
    });
    options.push(match (mount.readonly, mount.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        _ => "rw",
    });
    options.extend(mount.mount_options.iter().map(String::as_str));
    json!({"destination": mount.container_path, "type": "bind", "source": mount.host_path, "options": options})
}

fn is_dev(mount: &cri::Mount) -> bool {
    Path::new(&mount.container_path).components().eq(Path::new("/dev").components())
}

/// The pod's own mount at `/dev`. libcontainer must not see it: it makes devices and links there, which would be the host's.
pub fn own_dev<'a>(input: &Input<'a>) -> Option<&'a cri::Mount> {
    input.mounts.iter().find(|mount| is_dev(mount))
}

/// All of them, but for [`own_dev`]; whoever wants them, what lies deeper comes later, so that nothing hides
/// what lies below it.
pub fn build(input: &Input<'_>) -> Vec<Value> {
    let own: Vec<&cri::Mount> = input.mounts.iter().filter(|mount| !is_dev(mount)).collect();
    let taken = |destination: &Value| {
        own.iter().any(|mount| Some(mount.container_path.trim_end_matches('/')) == destination.as_str())
    };
    let mut mounts: Vec<Value> = standard(input);
    mounts.extend(of_the_pod(input));
    mounts.retain(|mount| !taken(&mount["destination"]));
    mounts.extend(own.into_iter().map(requested));
    mounts.sort_by_key(|mount| {
        let destination = mount["destination"].as_str().unwrap_or_default();
        Path::new(destination).components().count()
    });
    mounts
}

/// The propagation that the container's root needs: with libcontainer's default, mounts made in the container would never get out.
pub fn root_propagation(mounts: &[cri::Mount]) -> Option<&'static str> {
    mounts
        .iter()
        .any(|mount| mount.propagation() == cri::MountPropagation::PropagationBidirectional)
        .then_some("shared")
}
