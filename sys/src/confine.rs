//! A process that gives up what it was started with, before it reads what strangers wrote.
use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};

use crate::spawn::{prctl, set_capabilities};

/// What a confined process may still use; see setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Address space, in bytes.
    pub memory: u64,
    /// Processor time, in seconds; it is killed then.
    pub processor_seconds: u64,
    /// Descriptors are numbered below this.
    pub descriptors: u64,
}

/// For good: no network (an empty namespace of its own), no capabilities, no further processes or threads, no files that grow, no core dump, and
/// no more than the limits. The caller needs CAP_SYS_ADMIN and should be of a user of its own, have no_new_privs set and one thread.
///
/// # Errors
/// When any of it is refused; go no further then.
pub fn confine(limits: Limits) -> io::Result<()> {
    let failed =
        |what: &str, errno: Errno| io::Error::new(io::Error::from(errno).kind(), format!("{what}: {errno}"));
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| failed("leave the network namespace", e))?;
    for (resource, limit) in [
        (Resource::RLIMIT_AS, limits.memory),
        (Resource::RLIMIT_CPU, limits.processor_seconds),
        (Resource::RLIMIT_NOFILE, limits.descriptors),
        (Resource::RLIMIT_NPROC, 0),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_CORE, 0),
    ] {
        setrlimit(resource, limit, limit).map_err(|e| failed(&format!("set {resource:?}"), e))?;
    }
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u32, 0)
        .map_err(|e| failed("drop ambient capabilities", e))?;
    set_capabilities(0).map_err(|e| failed("drop capabilities", e))
}
