//! A further process in a container (exec). libcontainer would make a process that makes a process, join one namespace after the other, and move it into a cgroup
//! that it is in already; this joins all of them at once and forks once.
//!
//! The process waits for a word before it runs its program, so that nothing of the user's runs that the runtime has not heard of, however the launch ends.
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use libcontainer::capabilities::{drop_privileges, reset_effective};
use libcontainer::oci_spec::runtime::Process;
use libcontainer::syscall::syscall::create_syscall;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid};

use super::enter::{Entrance, become_user};
use super::executor::Program;
use super::wire::send;
use super::{Failure, First, Reply};

/// What processes of a container share. A namespace that the container has not for itself is the host's, and joining it changes nothing. Its user namespace comes
/// last, see [`Entrance`].
const NAMESPACES: [CloneFlags; 6] = [
    CloneFlags::CLONE_NEWNS,
    CloneFlags::CLONE_NEWPID,
    CloneFlags::CLONE_NEWNET,
    CloneFlags::CLONE_NEWIPC,
    CloneFlags::CLONE_NEWUTS,
    CloneFlags::CLONE_NEWCGROUP,
];

/// A process that waits for the word. Without it, it ends.
#[derive(Debug)]
pub struct Waiting {
    pub pid: i32,
    /// Clock ticks since boot.
    pub start_time: u64,
    /// The master side of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
    pub word: Word,
}

/// Lets a process run its program.
#[derive(Debug)]
pub struct Word(io::PipeWriter);

impl Word {
    /// # Errors
    /// When the process has ended.
    pub fn give(mut self) -> io::Result<()> {
        self.0.write_all(b"1")
    }
}

/// Makes the process. `cgroup` is that of the container, unless this process is in it already; `stdio` is empty for one with a terminal.
///
/// # Errors
/// Names the step that the kernel refused. What the process itself cannot do it tells over `program`'s socket once it has the word.
pub fn start(
    cgroup: Option<&Path>,
    first: First,
    process: &Path,
    stdio: Vec<OwnedFd>,
    program: Program,
    entrance: Option<Entrance>,
) -> Result<Waiting, Failure> {
    let process: Process = fs::read(process)
        .and_then(|bytes| Ok(serde_json::from_slice(&bytes)?))
        .map_err(|error| failed("read the process", &error))?;
    if let Some(cgroup) = cgroup {
        fs::write(cgroup.join("cgroup.procs"), "0")
            .map_err(|error| failed("enter the container's cgroup", &error))?;
    }
    if let Some(score) = process.oom_score_adj() {
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(|error| failed("set the score for the OOM killer", &error))?;
    }
    // Nobody in the container may look into this process, which still is the host's.
    prctl::set_dumpable(false).map_err(|error| failed("hide from the container", &error))?;
    let proc = fs::File::open("/proc").map_err(|error| failed("open /proc", &error))?;
    // All before the fork: what the container's processes see has nothing of the host any more.
    join(first).map_err(|error| failed("join the container's namespaces", &error))?;
    let console = process.terminal().unwrap_or_default().then(UnixStream::pair).transpose();
    let (ours, theirs) = console.map_err(|error| failed("make a way for the terminal", &error))?.unzip();
    let (waits, writer) = io::pipe().map_err(|error| failed("make a pipe", &error))?;
    let (pid, (ours, word, proc)) = sys::fork::fork((ours, Word(writer), proc), || {
        let ready = prepare(&process, stdio, theirs);
        run(&process, ready, waits, &program, entrance.as_ref())
    })
    .map_err(|error| failed("fork", &error))?;
    let start_time = sys::pidfd::start_time_in(&proc, pid)
        .map_err(|error| failed(&format!("take hold of process {pid}"), &error))?;
    let terminal = ours.map(receive).transpose().map_err(|error| failed("receive the terminal", &error))?;
    Ok(Waiting { pid, start_time, terminal: terminal.flatten(), word })
}

/// Joins the namespaces of the container's first process.
fn join((pid, start_time): First) -> io::Result<()> {
    let pidfd = sys::pidfd::open(pid)?;
    // From here on the pid is no other's.
    if sys::pidfd::start_time(pid)? != start_time {
        return Err(nix::Error::ESRCH.into());
    }
    Ok(setns(pidfd, NAMESPACES.into_iter().collect())?)
}

/// None when the process could not make one; it tells why once it has the word.
fn receive(console: UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut name = [0; 64];
    let (_, mut descriptors) = sys::framed::receive_blocking(console.as_fd(), &mut name)?;
    Ok(descriptors.pop())
}

/// Runs the program once it has the word; returns the exit code of a process that cannot.
fn run(
    process: &Process,
    ready: Result<(), Failure>,
    mut word: io::PipeReader,
    program: &Program,
    entrance: Option<&Entrance>,
) -> i32 {
    if word.read_exact(&mut [0]).is_err() {
        return 255;
    }
    let Err(failure) = ready.and_then(|()| program.run(process, entrance));
    // Whoever cannot be told any more has gone; the exit code still says that it failed.
    let _ = send(&program.socket, &Reply::Failed(failure), &[]);
    255
}

/// Becomes what the process shall be, but for its program and what that takes along.
fn prepare(process: &Process, stdio: Vec<OwnedFd>, console: Option<UnixStream>) -> Result<(), Failure> {
    let syscall = create_syscall();
    nix::unistd::setsid().map_err(|error| failed("begin a session", &error))?;
    connect(stdio, console)?;
    if process.no_new_privileges().unwrap_or_default() {
        prctl::set_no_new_privs().map_err(|error| failed("forgo new privileges", &error))?;
    }
    if let Some(profile) = process.apparmor_profile() {
        libcontainer::apparmor::apply_profile(profile)
            .map_err(|error| failed("enter the AppArmor profile", &error))?;
    }
    let user = process.user();
    // Before it becomes the user where root may go, and after it where only the user may.
    let entered = nix::unistd::chdir(process.cwd());
    let groups: Vec<Gid> = user.additional_gids().iter().flatten().copied().map(Gid::from_raw).collect();
    nix::unistd::setgroups(&groups).map_err(|error| failed("set the groups", &error))?;
    become_user(Uid::from_raw(user.uid()), Gid::from_raw(user.gid()))
        .map_err(|error| failed("become the user", &error))?;
    syscall.close_range(0).map_err(|error| failed("close what is open", &error))?;
    reset_effective(syscall.as_ref())
        .and_then(|()| match process.capabilities() {
            Some(capabilities) => drop_privileges(capabilities, syscall.as_ref()),
            None => Ok(()),
        })
        .map_err(|error| failed("drop capabilities", &error))?;
    match entered {
        Err(nix::Error::EPERM | nix::Error::EACCES) => nix::unistd::chdir(process.cwd()),
        other => other,
    }
    .map_err(|error| failed(&format!("enter the working folder {}", process.cwd().display()), &error))?;
    // A descriptor of the host's that leads out of the container (CVE-2024-21626).
    match nix::unistd::getcwd() {
        Ok(folder) if folder.is_absolute() => Ok(()),
        Ok(folder) => Err(Failure::other(format!("{} is outside of the container", folder.display()))),
        Err(error) => Err(failed("find the working folder in the container", &error)),
    }
}

/// The standard streams.
fn connect(stdio: Vec<OwnedFd>, console: Option<UnixStream>) -> Result<(), Failure> {
    if let Some(console) = console {
        let console = console.into_raw_fd();
        // It closes the console when it is done.
        return libcontainer::tty::setup_console(create_syscall().as_ref(), console, false).map_err(
            |error| {
                let _ = nix::unistd::close(console);
                failed("make a terminal", &error)
            },
        );
    }
    let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(stdio)
        .map_err(|_| Failure::other("the standard streams did not come with the request"))?;
    nix::unistd::dup2_stdin(stdin)
        .and_then(|()| nix::unistd::dup2_stdout(stdout))
        .and_then(|()| nix::unistd::dup2_stderr(stderr))
        .map_err(|error| failed("connect the standard streams", &error))
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::other(format!("{what}: {error}"))
}
