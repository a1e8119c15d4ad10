//! The host ring: the runtime and its launcher as they are, in namespaces of their own, driven by CRI over a busybox root. Needs root and busybox; it skips
//! loudly without. A small PID 1 stands in for init: it reaps, keeps descriptors and tells exits, as the machine socket says.
//!
//! With `PINTLE_HOST_RING_COMMAND` it runs that shell command against the runtime instead of the stories, and with `PINTLE_HOST_RING_CONFIG` the runtime gets
//! that machine config: `critest` and `crictl` can be tried so without a machine.
//!
//! With `PINTLE_CNI_PLUGINS`, a folder of the reference plugins (`cargo xtask test` builds them), pods are also connected by CNI.
//!
//! The first half of this file re-executes the test as pid 1 of new namespaces; the stories are at the end.
#![allow(missing_docs)]
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, chroot, fchdir, pivot_root};

#[path = "host/campaign/mod.rs"]
mod campaign;
#[path = "host/cni.rs"]
mod cni;
#[path = "host/config.rs"]
mod config;
#[path = "host/content.rs"]
mod content;
#[path = "host/damaged.rs"]
mod damaged;
#[path = "host/escapes.rs"]
mod escapes;
#[path = "host/exits.rs"]
mod exits;
#[path = "host/fake.rs"]
mod fake;
#[path = "host/full.rs"]
mod full;
#[path = "host/hostile.rs"]
mod hostile;
#[path = "host/init.rs"]
mod init;
#[path = "host/interrupted.rs"]
mod interrupted;
#[path = "host/logs.rs"]
mod logs;
#[path = "host/mounts.rs"]
mod mounts;
#[path = "host/pause.rs"]
mod pause;
#[path = "host/power/mod.rs"]
mod power;
#[path = "host/random.rs"]
mod random;
#[path = "host/registry.rs"]
mod registry;
#[path = "host/ring.rs"]
mod ring;
#[path = "host/room.rs"]
mod room;
#[path = "host/secrets.rs"]
mod secrets;
#[path = "host/sockets.rs"]
mod sockets;
#[path = "host/stories.rs"]
mod stories;
#[path = "host/traces.rs"]
mod traces;
#[path = "host/tree.rs"]
mod tree;

const PRIVATE: MsFlags = MsFlags::MS_REC.union(MsFlags::MS_PRIVATE);
/// Names our cgroup on the host: one for each run, for several may go on at once.
const CGROUP: &str = "PINTLE_HOST_RING_CGROUP";
const INSIDE: &str = "PINTLE_HOST_RING";

fn main() -> ExitCode {
    if let Ok(path) = std::env::var(sockets::PROBE) {
        return sockets::probe(&path);
    }
    if let Ok(what) = std::env::var(logs::KILLER) {
        return logs::killer(&what);
    }
    match std::env::var(INSIDE).as_deref() {
        Ok("run") => return inside(),
        Ok(_) => return clean(),
        Err(_) => {}
    }
    if !nix::unistd::geteuid().is_root() || !Path::new("/bin/busybox").exists() {
        println!("SKIPPED: the runtime's host ring needs root and /bin/busybox");
        return ExitCode::SUCCESS;
    }
    let filter = std::env::args().nth(1).filter(|argument| !argument.starts_with('-')).unwrap_or_default();
    let status =
        in_namespaces(&["--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"], "run", &filter);
    // Everything of the test has ended with its PID 1, so only empty folders are left.
    let _ = in_namespaces(&[], "clean", "");
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Runs this program again in namespaces of its own.
fn in_namespaces(which: &[&str], what: &str, filter: &str) -> std::io::Result<std::process::ExitStatus> {
    // `own_mounts` sees to the propagation: unshare cannot where the root is no mount point.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "unchanged"]).args(which);
    command.arg(std::env::current_exe()?).arg(filter).env(INSIDE, what);
    command.env(CGROUP, format!("pintle-host-ring-{}", std::process::id())).status()
}

/// Keeps our mounts from the host.
fn own_mounts() -> std::io::Result<()> {
    match mount(None::<&str>, "/", None::<&str>, PRIVATE, None::<&str>) {
        Err(Errno::EINVAL) => leave_chroot(),
        result => Ok(result?),
    }
}

/// In a chroot, the root of this mount namespace is still that of the system around it: who enters a container's namespace would come out there, and the
/// kernel refuses user namespaces. The chroot's folder becomes the namespace's own root.
fn leave_chroot() -> std::io::Result<()> {
    let open = |path: &str| nix::fcntl::open(path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    mount(Some("/"), "/mnt", None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    let (old, new) = (open("/")?, open("/mnt")?);
    // Above its root a process can go as far up as there is.
    chroot("/mnt")?;
    fchdir(&old)?;
    for _ in 0..256 {
        chdir("..")?;
    }
    chroot(".")?;
    mount(None::<&str>, "/", None::<&str>, PRIVATE, None::<&str>)?;
    fchdir(&new)?;
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chroot(".")?;
    Ok(chdir("/")?)
}

/// The folder of our cgroup, as long as the host's whole tree is seen.
fn cgroup() -> std::io::Result<PathBuf> {
    let name = std::env::var(CGROUP).map_err(std::io::Error::other)?;
    Ok(Path::new("/sys/fs/cgroup").join(name))
}

/// Removes our cgroup.
fn clean() -> ExitCode {
    let Ok(cgroup) = cgroup() else { return ExitCode::FAILURE };
    let script = format!(
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup && find {} -depth -type d -exec rmdir {{}} +",
        cgroup.display()
    );
    match own_mounts().and_then(|()| Command::new("sh").args(["-c", &script]).status()) {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Folders that the runtime writes to become our own, and cgroup2 is mounted where it looks for it.
fn prepare() -> std::io::Result<()> {
    let mount = |arguments: &[&str]| -> std::io::Result<()> {
        let status = Command::new("mount").args(arguments).status()?;
        if status.success() {
            Ok(())
        } else {
            Err(std::io::Error::other(format!("mount {arguments:?}: {status}")))
        }
    };
    own_mounts()?;
    mount(&["-t", "proc", "proc", "/proc"])?;
    for folder in ["/run", "/var/lib", "/var/log"] {
        mount(&["-t", "tmpfs", "tmpfs", folder])?;
    }
    // One that shows our own network namespace.
    mount(&["-t", "sysfs", "sysfs", "/sys"])?;
    // A cgroup of our own is the root of what the runtime sees, so that the host's tree is left alone.
    mount(&["-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"])?;
    let own = cgroup()?;
    fs::create_dir_all(&own)?;
    fs::write(own.join("cgroup.procs"), "0")?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)?;
    // The kernel refuses a file system on top of itself.
    nix::mount::umount("/sys/fs/cgroup")?;
    mount(&["-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"])?;
    // As PID 1 mounts it: nothing is run from it.
    fs::create_dir_all("/run/pintle")?;
    mount(&["-t", "tmpfs", "-o", "nosuid,nodev,noexec,size=64m,nr_inodes=32768", "tmpfs", "/run/pintle"])?;
    match std::env::var_os("PINTLE_HOST_RING_CONFIG") {
        Some(config) => drop(fs::copy(config, machine::paths::ACTIVE_CONFIG)?),
        None => {
            let config = ring::config_with(None).map_err(std::io::Error::other)?;
            fs::write(machine::paths::ACTIVE_CONFIG, config)?;
        }
    }
    fs::create_dir_all(machine::paths::RUNTIME_STATE)?;
    fs::create_dir_all(machine::paths::POD_LOGS)?;
    // The host has no /usr/lib/pintle and shall not get one: an overlay of our own over /usr/lib has it.
    for folder in ["/run/upper", "/run/work"] {
        fs::create_dir_all(folder)?;
    }
    mount(&[
        "-t",
        "overlay",
        "-o",
        "lowerdir=/usr/lib,upperdir=/run/upper,workdir=/run/work",
        "overlay",
        "/usr/lib",
    ])?;
    bundle(Path::new(machine::paths::BUNDLE))
}

/// Images of the host's busybox: `test.local/busybox:1`, and `test.local/dev-link:1` and `test.local/proc-link:1`, in which
/// that folder is a link to the host's /run/victim, and `test.local/links:1`, whose links lead to what is not in the image.
fn bundle(folder: &Path) -> std::io::Result<()> {
    // Not on the overlay: its files could not be given other owners.
    fs::create_dir_all(folder)?;
    nix::mount::mount(Some("tmpfs"), folder, Some("tmpfs"), nix::mount::MsFlags::empty(), None::<&str>)?;
    let layer = |number: u8| folder.join("layers").join(number.to_string().repeat(64));
    let busybox = layer(1);
    for name in ["bin", "etc", "tmp", "proc", "sys"] {
        fs::create_dir_all(busybox.join(name))?;
    }
    fs::copy("/bin/busybox", busybox.join("bin/busybox"))?;
    for name in [
        "sh", "true", "cat", "echo", "sleep", "id", "ls", "grep", "kill", "mount", "printf", "seq",
        "hostname", "mknod", "dd", "head", "mkdir", "readlink", "tail", "wc", "rm", "ln", "touch",
    ] {
        std::os::unix::fs::symlink("busybox", busybox.join("bin").join(name))?;
    }
    fs::write(busybox.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/tmp:/bin/sh\n")?;
    fs::write(busybox.join("etc/group"), "root:x:0:\napp:x:1000:\nextra:x:77:app\n")?;
    fs::create_dir_all(layer(3))?;
    std::os::unix::fs::symlink("/run/victim", layer(3).join("dev"))?;
    fs::create_dir_all(layer(5))?;
    std::os::unix::fs::symlink("/run/victim", layer(5).join("proc"))?;
    fs::create_dir_all(layer(7).join("etc"))?;
    for (name, to) in [
        ("etc/resolv.conf", "../run/resolve/stub"),
        ("kernel", "/proc"),
        ("self", "/proc/self"),
        ("devices", "dev"),
        ("outside", "../../run/working-victim"),
    ] {
        std::os::unix::fs::symlink(to, layer(7).join(name))?;
    }
    let images = vec![
        image(folder, "test.local/busybox:1", 2, &[1])?,
        image(folder, "test.local/dev-link:1", 4, &[1, 3])?,
        image(folder, "test.local/proc-link:1", 6, &[1, 5])?,
        image(folder, "test.local/links:1", 8, &[1, 7])?,
    ];
    fs::write(folder.join("index.json"), serde_json::to_vec(&machine::bundle::BundleIndex { images })?)
}

/// An image whose config's digest is made of one digit, as are those of its layers.
fn image(
    folder: &Path,
    name: &str,
    config: u8,
    layers: &[u8],
) -> std::io::Result<machine::bundle::BundleImage> {
    let hex = |number: &u8| number.to_string().repeat(64);
    let layers: Vec<String> = layers.iter().map(|number| format!("sha256:{}", hex(number))).collect();
    let text = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"], "Env": ["FROM=image"]},
        "rootfs": {"type": "layers", "diff_ids": layers},
    });
    fs::create_dir_all(folder.join("configs"))?;
    fs::write(folder.join("configs").join(format!("{}.json", hex(&config))), text.to_string())?;
    Ok(machine::bundle::BundleImage {
        names: vec![name.into()],
        config: format!("sha256:{}", hex(&config)),
        layers,
        size: 1 << 20,
    })
}

fn inside() -> ExitCode {
    if let Err(error) = prepare() {
        println!("FAILED: prepare namespaces: {error}");
        return ExitCode::FAILURE;
    }
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
    let local = tokio::task::LocalSet::new();
    let failed = local.block_on(&tokio, async {
        let init = init::start().expect("the test's own PID 1");
        match std::env::var("PINTLE_HOST_RING_COMMAND") {
            Ok(command) => stories::run_command(init, &command).await,
            Err(_) => stories::run(init, &std::env::args().nth(1).unwrap_or_default()).await,
        }
    });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
