//! The pause process: pid 1 of a pod whose containers share a pid namespace. It reaps what is left to it, and owns nothing.
//!
//! The pod's containers see it, and one that may trace it can become it. So it is nothing that they are not:
//! it is in the pod's namespaces and cgroup, sees an empty root and no mount of the node, and has neither
//! capabilities nor system calls but those of its loop. It stays out of the AppArmor profile of containers:
//! that one lets its processes trace and signal each other, and nobody outside.
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use libcontainer::capabilities::{drop_privileges, reset_effective};
use libcontainer::oci_spec::runtime::LinuxCapabilities;
use libcontainer::syscall::syscall::create_syscall;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Gid, Uid};
use serde_json::json;

use super::enter::become_user;
use super::namespaces::become_root;

/// The pod's namespaces that it joins, by the names under which they are pinned.
const JOINED: [(&str, CloneFlags); 3] =
    [("ipc", CloneFlags::CLONE_NEWIPC), ("uts", CloneFlags::CLONE_NEWUTS), ("net", CloneFlags::CLONE_NEWNET)];
/// And those that are its own. It makes its mount namespace itself: what it does to its root must not be done
/// to its maker's.
const OWN: CloneFlags = CloneFlags::CLONE_NEWPID.union(CloneFlags::CLONE_NEWCGROUP);

/// Starts it in a new pid namespace of the pod whose namespaces are pinned in `pins`, with the folder `root`
/// to put its empty root on; returns its pid. What is not pinned there is the host's for the whole pod. It
/// ends with `socket` unless it is told there to stay: until it is on record, nobody else would end it.
///
/// # Errors
/// As setns(2), unshare(2) and execve(2), with the namespace.
pub fn start(root: &Path, pins: &Path, socket: &OwnedFd) -> io::Result<i32> {
    let open = |name: &str| match File::open(pins.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(named(&format!("open the pod's {name} namespace"), &error)),
        Ok(file) => Ok(Some(file)),
    };
    let joined = JOINED.map(|(name, flag)| open(name).map(|file| (name, flag, file)));
    if let Some(users) = open("user")? {
        setns(users, CloneFlags::CLONE_NEWUSER)
            .and_then(|()| become_root())
            .map_err(|error| named("enter the pod's user namespace", &error))?;
    }
    for joined in joined {
        let (name, flag, file) = joined?;
        if let Some(file) = file {
            setns(file, flag).map_err(|error| named(&format!("enter the pod's {name} namespace"), &error))?;
        }
    }
    unshare(OWN).map_err(|error| named("make namespaces", &error))?;
    let child = Command::new("/proc/self/exe")
        .arg("pause")
        .arg(root)
        .env_clear()
        .stdin(Stdio::from(socket.try_clone()?))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| named("start the process", &error))?;
    Ok(child.id() as i32)
}

fn named(what: &str, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{what}: {error}"))
}

/// The process itself.
pub fn main() -> ExitCode {
    let Some(root) = std::env::args_os().nth(2) else { return ExitCode::FAILURE };
    let Ok(signals) = prepare(Path::new(&root)) else { return ExitCode::FAILURE };
    run(&signals)
}

/// Becomes as little as can be; returns once it was told to stay.
fn prepare(root: &Path) -> io::Result<SignalFd> {
    let nothing = File::open("/dev/null")?;
    // While there still is everything that a library may want to look at.
    let filter = crate::seccomp::pause().map_err(io::Error::other)?;
    empty_root(root)?;
    nix::unistd::setgroups(&[])?;
    become_user(NOBODY, NOBODY_GROUP)?;
    let syscall = create_syscall();
    let none: LinuxCapabilities = serde_json::from_value(
        json!({"bounding": [], "permitted": [], "effective": [], "inheritable": [], "ambient": []}),
    )?;
    reset_effective(syscall.as_ref())
        .and_then(|()| drop_privileges(&none, syscall.as_ref()))
        .map_err(io::Error::other)?;
    prctl::set_dumpable(false)?;
    prctl::set_no_new_privs()?;
    let mut waited_for = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        waited_for.add(signal);
    }
    waited_for.thread_block()?;
    let signals = SignalFd::with_flags(&waited_for, SfdFlags::SFD_CLOEXEC)?;
    sys::seccomp::install(&filter)?;
    told_to_stay()?;
    nix::unistd::dup2_stdin(nothing)?;
    Ok(signals)
}

/// Nothing of the node's files is left, and nothing can be made.
fn empty_root(root: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("pause"), root, Some("tmpfs"), flags, Some("mode=555,size=4k,nr_inodes=1"))?;
    nix::unistd::chdir(root)?;
    nix::unistd::pivot_root(".", ".")?;
    // What was the root is on top of the new one now.
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(nix::unistd::chdir("/")?)
}

fn run(signals: &SignalFd) -> ExitCode {
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
        {
        }
        match signals.read_signal() {
            // Those who are outside of its pid namespace have no pid in it, and only they may end it: for a
            // container of the pod it would be the end of all of them.
            Ok(Some(signal)) if signal.ssi_signo != Signal::SIGCHLD as u32 && signal.ssi_pid == 0 => {
                return ExitCode::SUCCESS;
            }
            Ok(_) => {}
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// Waits for an empty frame.
fn told_to_stay() -> io::Result<()> {
    io::stdin().lock().read_exact(&mut [0; 4])
}

const NOBODY: Uid = Uid::from_raw(65535);
const NOBODY_GROUP: Gid = Gid::from_raw(65535);
