//! Starting a program in a cgroup of its own, under its own user, with few or no capabilities.
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc;

/// CAP_NET_BIND_SERVICE.
pub const CAP_NET_BIND_SERVICE: u32 = 10;
/// CAP_SYS_ADMIN.
pub const CAP_SYS_ADMIN: u32 = 21;
/// CAP_NET_RAW.
pub const CAP_NET_RAW: u32 = 13;

/// What to start and as whom.
#[derive(Debug)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// `cgroup.procs` of the cgroup it starts in.
    pub cgroup_procs: Option<PathBuf>,
    /// uid and gid; `None` stays root.
    pub user: Option<u32>,
    /// Capabilities that a program with a `user` keeps, and can pass on to nobody.
    pub capabilities: Vec<u32>,
    /// Where stdout and stderr go.
    pub output: OwnedFd,
    /// Passed on as descriptor 3.
    pub channel: Option<OwnedFd>,
    pub oom_score_adj: Option<i32>,
}

/// Starts the program and returns its pid; whoever reaps children learns of its end.
///
/// # Errors
/// `NotFound` when there is no such program; otherwise what kept it from starting.
pub fn spawn(program: Program) -> io::Result<i32> {
    let mut command = Command::new(&program.path);
    command.args(&program.arguments).env_clear().envs(program.environment).current_dir("/");
    command.stdin(Stdio::null()).stderr(program.output.try_clone()?).stdout(program.output);
    let cgroup = match &program.cgroup_procs {
        Some(path) => Some(
            OpenOptions::new()
                .write(true)
                .open(path)
                .map_err(|e| io::Error::new(e.kind(), format!("open {}: {e}", path.display())))?,
        ),
        None => None,
    };
    let score = program.oom_score_adj.map(|score| score.to_string());
    let (user, capabilities, channel) = (program.user, program.capabilities, program.channel);
    let enter = move || {
        if let Some(mut cgroup) = cgroup.as_ref() {
            cgroup.write_all(b"0")?;
        }
        if let Some(score) = &score {
            OpenOptions::new().write(true).open("/proc/self/oom_score_adj")?.write_all(score.as_bytes())?;
        }
        nix::unistd::setsid()?;
        clear_signals()?;
        if let Some(user) = user {
            become_user(user, &capabilities)?;
        }
        match &channel {
            Some(channel) => keep_as_three(channel.as_raw_fd()),
            None => Ok(()),
        }
    };
    // SAFETY: between fork and exec the closure only makes system calls (write, open, prctl, set*id, dup2) on values prepared
    // before the fork; it takes no lock and allocates nothing but a path buffer on the stack.
    unsafe { command.pre_exec(enter) };
    Ok(command.spawn()?.id() as i32)
}

/// Has the program killed when the thread that starts it ends, as it does when its process is killed.
pub fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let follow = move || {
        prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u32, 0)?;
        // It may have ended before that.
        if nix::unistd::getppid().as_raw() == parent as i32 {
            Ok(())
        } else {
            Err(io::Error::from(Errno::ESRCH))
        }
    };
    // SAFETY: between fork and exec the closure makes two system calls on numbers; it takes no lock and allocates nothing.
    unsafe { command.pre_exec(follow) };
}

/// Keeps descriptor 3 from being anything that a starting child still needs when [`Program::channel`] takes its place. Call once, early.
///
/// # Errors
/// When /dev/null cannot be opened.
pub fn reserve_channel_descriptor() -> io::Result<()> {
    loop {
        let descriptor: OwnedFd = std::fs::File::open("/dev/null")?.into();
        if descriptor.as_raw_fd() > 3 {
            return Ok(());
        }
        std::mem::forget(descriptor);
    }
}

fn clear_signals() -> io::Result<()> {
    let none = nix::sys::signal::SigSet::empty();
    nix::sys::signal::sigprocmask(nix::sys::signal::SigmaskHow::SIG_SETMASK, Some(&none), None)?;
    // SAFETY: SIG_DFL is a valid disposition for SIGPIPE, which Rust programs ignore and their children should not.
    Errno::result(unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) } as isize).map(drop)?;
    Ok(())
}

fn keep_as_three(descriptor: RawFd) -> io::Result<()> {
    // SAFETY: plain system calls on descriptor numbers; 3 is either ours to replace (see reserve_channel_descriptor) or the channel itself.
    let result =
        unsafe { if descriptor == 3 { libc::fcntl(3, libc::F_SETFD, 0) } else { libc::dup2(descriptor, 3) } };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// Becomes the user with exactly these capabilities, permitted, effective and ambient; the bounding set loses all others.
fn become_user(user: u32, capabilities: &[u32]) -> io::Result<()> {
    for capability in 0..64 {
        if !capabilities.contains(&capability) {
            match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
                // Above the kernel's last capability.
                Err(Errno::EINVAL) => break,
                other => other?,
            }
        }
    }
    if !capabilities.is_empty() {
        prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
    }
    // SAFETY: the raw calls change this single-threaded child only; an empty group list needs no pointer.
    Errno::result(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) })?;
    // SAFETY: as above; numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, user, user, user) })?;
    // SAFETY: as above; numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, user, user, user) })?;
    if !capabilities.is_empty() {
        set_capabilities(capabilities.iter().fold(0, |mask, capability| mask | 1 << capability))?;
        for capability in capabilities {
            prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u32, *capability)?;
        }
    }
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    Ok(())
}

pub(crate) fn prctl(option: libc::c_int, second: u32, third: u32) -> Result<(), Errno> {
    // SAFETY: every option used in this file takes numbers only.
    let result =
        unsafe { libc::prctl(option, libc::c_ulong::from(second), libc::c_ulong::from(third), 0, 0) };
    Errno::result(result).map(drop)
}

/// `capset` with version 3 for capabilities below 32, effective, permitted and inheritable alike.
pub(crate) fn set_capabilities(mask: u32) -> Result<(), Errno> {
    let header: [u32; 2] = [0x2008_0522, 0];
    let data: [u32; 6] = [mask, mask, mask, 0, 0, 0];
    // SAFETY: header and data have the layout of __user_cap_header_struct and two __user_cap_data_struct, and outlive the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}
