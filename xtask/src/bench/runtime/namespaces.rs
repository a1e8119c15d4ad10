//! Where a contender runs: mount, network, pid, ipc and uts namespaces of its own, and a cgroup of its own as the root of what it sees. The
//! host's cgroup mounts stay as they are.
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use nix::sys::wait::{WaitStatus, waitpid};

use super::must;

/// The cgroup on the host.
const CGROUP: &str = "pintle-bench";
const CGROUPS: &str = "/sys/fs/cgroup";
/// Set in the program that PID 1 of the namespaces starts.
const DRIVER: &str = "PINTLE_BENCH_DRIVER";

/// `unshare`, ready for a program that becomes PID 1.
pub fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["--propagation", "private"]);
    command
}

/// Everything of a contender has ended with its PID 1, so only empty folders are left.
pub fn remove_cgroup() {
    let script = format!(
        "mount -t cgroup2 cgroup2 {CGROUPS} && find {CGROUPS}/{CGROUP} -depth -type d -exec rmdir {{}} +"
    );
    let _ = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output();
}

/// Whether this process is the one to drive; PID 1 is not, for it reaps.
pub fn is_driver() -> bool {
    std::env::var_os(DRIVER).is_some()
}

/// PID 1: starts the same program again as the driver, reaps everything, and ends as the driver did.
pub fn reap() -> Result<ExitCode> {
    let driver = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(DRIVER, "1")
        .spawn()
        .context("start the driver")?;
    let driver = i32::try_from(driver.id())?;
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() == driver => {
                return Ok(if code == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            Ok(WaitStatus::Signaled(pid, ..)) if pid.as_raw() == driver => return Ok(ExitCode::FAILURE),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error).context("wait for the driver"),
        }
    }
}

/// Folders that runtimes write to become tmpfs, and cgroup2 is mounted where they look for it.
pub fn prepare() -> Result<()> {
    for folder in ["/run", "/var/lib", "/var/log"] {
        mount(&["-t", "tmpfs", "tmpfs", folder])?;
    }
    if !Path::new("/etc/hosts").exists() {
        give_hosts_file()?;
    }
    mount(&["-t", "cgroup2", "cgroup2", CGROUPS])?;
    let own = Path::new(CGROUPS).join(CGROUP);
    // A leaf for the daemon and the driver: a cgroup with processes can hand no controllers down.
    let leaf = own.join("daemon");
    fs::create_dir_all(&leaf).with_context(|| format!("make the cgroup {}", leaf.display()))?;
    fs::write(own.join("cgroup.procs"), "0").context("enter the cgroup")?;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)?;
    // The kernel refuses a file system on top of itself.
    nix::mount::umount(CGROUPS)?;
    mount(&["-t", "cgroup2", "cgroup2", CGROUPS])?;
    for entry in [std::process::id(), 1] {
        fs::write(Path::new(CGROUPS).join("daemon/cgroup.procs"), entry.to_string())?;
    }
    must(Command::new("ip").args(["link", "set", "lo", "up"]))
}

/// containerd makes each pod's hosts file from the host's, which the barest installations lack.
fn give_hosts_file() -> Result<()> {
    for folder in ["/run/etc", "/run/etc-work"] {
        fs::create_dir(folder).with_context(|| format!("make {folder}"))?;
    }
    mount(&["-t", "overlay", "-o", "lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc-work", "etc", "/etc"])?;
    fs::write("/etc/hosts", "127.0.0.1 localhost\n").context("write a hosts file of our own")
}

fn mount(arguments: &[&str]) -> Result<()> {
    must(Command::new("mount").args(arguments)).with_context(|| format!("mount {}", arguments.join(" ")))
}
