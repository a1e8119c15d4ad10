//! A sandbox's namespaces: made by a thread that ends, pinned by bind mounts, so that no process has to hold them.
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// What to make.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub ipc: Option<PathBuf>,
    pub uts: Option<PathBuf>,
    pub hostname: String,
    /// An existing network namespace, for its sysctls.
    pub network: Option<PathBuf>,
    pub sysctls: Vec<(String, String)>,
}

/// Makes and pins namespaces, and sets the pod's sysctls in them.
///
/// # Errors
/// Names the step the kernel refused.
pub fn create(request: Request) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("namespaces".into()).spawn(move || in_thread(&request))?;
    thread.join().map_err(|_| io::Error::other("the thread that makes namespaces panicked"))?
}

fn in_thread(request: &Request) -> io::Result<()> {
    let named = |what: String, error: nix::Error| io::Error::other(format!("{what}: {error}"));
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWIPC, request.ipc.is_some());
    flags.set(CloneFlags::CLONE_NEWUTS, request.uts.is_some());
    unshare(flags).map_err(|error| named("make the pod's namespaces".into(), error))?;
    if request.uts.is_some() {
        nix::unistd::sethostname(&request.hostname)
            .map_err(|error| named(format!("set the hostname {}", request.hostname), error))?;
    }
    if let Some(path) = &request.network {
        setns(File::open(path)?, CloneFlags::CLONE_NEWNET)
            .map_err(|error| named(format!("enter {}", path.display()), error))?;
    }
    set_sysctls(&request.sysctls)?;
    for (path, kind) in [(&request.ipc, "ipc"), (&request.uts, "uts")] {
        if let Some(path) = path {
            pin(Path::new(&format!("/proc/thread-self/ns/{kind}")), path)?;
        }
    }
    Ok(())
}

/// Sets sysctls of the calling thread's namespaces.
///
/// # Errors
/// Names the one that the kernel refused.
pub fn set_sysctls(sysctls: &[(String, String)]) -> io::Result<()> {
    for (name, value) in sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(&path, value)
            .map_err(|error| io::Error::new(error.kind(), format!("set sysctl {name}={value}: {error}")))?;
    }
    Ok(())
}

/// Keeps the namespace that `source` names alive at `path`.
///
/// # Errors
/// As mount(2).
pub fn pin(source: &Path, path: &Path) -> io::Result<()> {
    File::create(path)?;
    mount(Some(source), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|error| io::Error::other(format!("pin a namespace at {}: {error}", path.display())))
}

/// Undoes mounts at `path`; none there is no error.
///
/// # Errors
/// As umount2(2).
pub fn unmount(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
            Err(error) => return Err(io::Error::other(format!("unmount {}: {error}", path.display()))),
        }
    }
}

/// Sysctls that belong to the pod's own namespaces; any other would change the node.
///
/// # Errors
/// Names the one that is not the pod's.
pub fn check_sysctls<'a>(
    names: impl Iterator<Item = &'a String>,
    own_network: bool,
    own_ipc: bool,
) -> Result<(), String> {
    for name in names {
        let dotted = name.replace('/', ".");
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| dotted.starts_with(prefix))
            || dotted == "kernel.sem";
        let network = dotted.starts_with("net.");
        if dotted.contains("..") || !((ipc && own_ipc) || (network && own_network)) {
            return Err(format!("sysctl {name:?} is not in a namespace of this pod"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_sets_only_what_is_its_own() {
        let check = |name: &str, network| check_sysctls([&name.to_owned()].into_iter(), network, true);
        assert!(check("net.ipv4.ip_forward", true).is_ok());
        assert!(check("net.ipv4.ip_forward", false).is_err());
        assert!(check("kernel.core_pattern", true).is_err());
        assert!(check("kernel.shm_rmid_forced", true).is_ok());
        assert!(check("net/../kernel/core_pattern", true).is_err());
    }
}
