//! The last step into a pod's user namespace, in the process that is about to become the user's program.
use std::fs::File;

use libcontainer::capabilities::drop_privileges;
use libcontainer::oci_spec::runtime::LinuxCapabilities;
use libcontainer::syscall::syscall::create_syscall;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid};

use super::{Enter, Failure};

/// A user namespace, opened while its path can still be seen, and who to be in it.
#[derive(Debug)]
pub struct Entrance {
    namespace: File,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    capabilities: LinuxCapabilities,
}

impl Entrance {
    /// Opens the namespace.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(enter: &Enter) -> Result<Self, Failure> {
        let namespace = File::open(&enter.namespace)
            .map_err(|error| Failure::other(format!("open {}: {error}", enter.namespace.display())))?;
        let capabilities = serde_json::from_value(enter.capabilities.clone())
            .map_err(|error| Failure::other(format!("read the capabilities: {error}")))?;
        Ok(Self {
            namespace,
            uid: Uid::from_raw(enter.uid),
            gid: Gid::from_raw(enter.gid),
            groups: enter.groups.iter().copied().map(Gid::from_raw).collect(),
            capabilities,
        })
    }

    /// Enters it and becomes the user. Nobody in the container can look into this process before: it belongs to the host's root.
    ///
    /// # Errors
    /// Names the step that the kernel refused.
    pub fn enter(&self) -> Result<(), Failure> {
        let failed = |what: &str, error: &dyn std::fmt::Display| Failure::other(format!("{what}: {error}"));
        setns(&self.namespace, CloneFlags::CLONE_NEWUSER)
            .map_err(|error| failed("enter the pod's user namespace", &error))?;
        nix::unistd::setgroups(&self.groups)
            .and_then(|()| nix::unistd::setresgid(self.gid, self.gid, self.gid))
            .and_then(|()| nix::unistd::setresuid(self.uid, self.uid, self.uid))
            .map_err(|error| failed("become the container's user", &error))?;
        drop_privileges(&self.capabilities, create_syscall().as_ref())
            .map_err(|error| failed("drop capabilities", &error))
    }
}

/// With all capabilities that are permitted, as they are dropped one by one later.
pub(super) fn become_user(uid: Uid, gid: Gid) -> nix::Result<()> {
    prctl::set_keepcaps(true)?;
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    prctl::set_keepcaps(false)
}
