//! The host ring: the runtime and its launcher as they are, in namespaces of their own, driven by CRI over a busybox root. Needs root and busybox; it skips
//! loudly without. A small PID 1 stands in for init: it reaps, keeps descriptors and tells exits, as the machine socket says.
//!
//! The first half of this file re-executes the test as pid 1 of new namespaces; the stories are at the end.
#![allow(missing_docs)]
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

#[path = "host/init.rs"]
mod init;
#[path = "host/stories.rs"]
mod stories;

/// Our cgroup on the host.
const CGROUP: &str = "pintle-host-ring";
const INSIDE: &str = "PINTLE_HOST_RING";

fn main() -> ExitCode {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    if !nix::unistd::geteuid().is_root() || !Path::new("/bin/busybox").exists() {
        println!("SKIPPED: the runtime's host ring needs root and /bin/busybox");
        return ExitCode::SUCCESS;
    }
    let filter = std::env::args().nth(1).filter(|argument| !argument.starts_with('-')).unwrap_or_default();
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--net",
        "--pid",
        "--ipc",
        "--uts",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
    ]);
    let status =
        command.arg(std::env::current_exe().expect("our own path")).arg(filter).env(INSIDE, "1").status();
    remove_cgroup();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Everything of the test has ended with its PID 1, so only empty folders are left.
fn remove_cgroup() {
    let script = format!(
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup && find /sys/fs/cgroup/{CGROUP} -depth -type d -exec rmdir {{}} +"
    );
    let _ = Command::new("unshare").args(["--mount", "sh", "-c", &script]).status();
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
    for folder in ["/run", "/var/lib", "/var/log"] {
        mount(&["-t", "tmpfs", "tmpfs", folder])?;
    }
    // A cgroup of our own is the root of what the runtime sees, so that the host's tree is left alone.
    mount(&["-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"])?;
    let own = Path::new("/sys/fs/cgroup").join(CGROUP);
    fs::create_dir_all(&own)?;
    fs::write(own.join("cgroup.procs"), "0")?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)?;
    // The kernel refuses a file system on top of itself.
    nix::mount::umount("/sys/fs/cgroup")?;
    mount(&["-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"])?;
    fs::create_dir_all("/run/pintle")?;
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

/// One image, `test/busybox:1`, of the host's busybox.
fn bundle(folder: &Path) -> std::io::Result<()> {
    let layer: PathBuf = folder.join("layers").join("1".repeat(64));
    for name in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
        fs::create_dir_all(layer.join(name))?;
    }
    fs::copy("/bin/busybox", layer.join("bin/busybox"))?;
    for name in [
        "sh", "true", "cat", "echo", "sleep", "id", "ls", "grep", "kill", "mount", "printf", "seq",
        "hostname", "mknod", "dd", "head",
    ] {
        std::os::unix::fs::symlink("busybox", layer.join("bin").join(name))?;
    }
    fs::write(layer.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/tmp:/bin/sh\n")?;
    fs::write(layer.join("etc/group"), "root:x:0:\napp:x:1000:\nextra:x:77:app\n")?;
    let digest = "2".repeat(64);
    fs::create_dir_all(folder.join("configs"))?;
    let config = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["sh"],"Env":["FROM=image"]},"rootfs":{"type":"layers","diff_ids":["sha256:1111111111111111111111111111111111111111111111111111111111111111"]}}"#;
    fs::write(folder.join("configs").join(format!("{digest}.json")), config)?;
    let index = machine::bundle::BundleIndex {
        images: vec![machine::bundle::BundleImage {
            names: vec!["test.local/busybox:1".into()],
            config: format!("sha256:{digest}"),
            layers: vec![format!("sha256:{}", "1".repeat(64))],
            size: 1 << 20,
        }],
    };
    fs::write(folder.join("index.json"), serde_json::to_vec(&index)?)
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
        stories::run(init, &std::env::args().nth(1).unwrap_or_default()).await
    });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
