//! Network namespaces: made and pinned at a path, entered only by threads that end afterwards.
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Makes a network namespace with its loopback up and pins it at `path` by a bind mount; the folder must exist.
///
/// # Errors
/// `AlreadyExists` when something is at `path`; otherwise as unshare(2), mount(2). Nothing stays behind.
pub fn create(path: &Path) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?;
    let target = path.to_owned();
    let made = on_own_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        settle()?;
        mount(Some("/proc/thread-self/ns/net"), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    });
    if made.is_err() {
        let _ = std::fs::remove_file(path);
    }
    made
}

/// Brings up the loopback of the calling thread's network namespace, which is new, and has it believe in the addresses it is given.
///
/// # Errors
/// As netdevice(7).
pub fn settle() -> io::Result<()> {
    raise_loopback()?;
    // Addresses are the runtime's to give, so neither detection of duplicates nor what routers or redirects say applies. A kernel
    // without IPv6 lacks the files.
    for (name, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("accept_redirects", "0")] {
        for scope in ["all", "default"] {
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/{name}"), value);
        }
    }
    Ok(())
}

/// Unpins the namespace at `path`. It lives on while a process or a descriptor is in it. No namespace there is no error.
///
/// # Errors
/// As umount2(2) and unlink(2).
pub fn remove(path: &Path) -> io::Result<()> {
    // A path may be covered more than once after an interrupted create.
    while path.exists() {
        match umount2(path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(nix::errno::Errno::EINVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Runs `work` on a thread inside the network namespace at `path`. Sockets made there stay in that namespace, so they may be
/// returned and used from any thread.
///
/// # Errors
/// As open(2), setns(2), and what `work` returns.
pub fn run_in<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let namespace = File::open(path)?;
    on_own_thread(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// A thread whose namespaces were changed must not run anything else, so it ends with the work.
fn on_own_thread<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    std::thread::Builder::new()
        .name("netns".into())
        .stack_size(128 << 10)
        .spawn(work)?
        .join()
        .map_err(|_| io::Error::other("the thread in the network namespace panicked"))?
}

nix::ioctl_read_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);

/// Sets `lo` up in the calling thread's network namespace.
///
/// # Errors
/// As socket(2) and netdevice(7)'s requests.
pub fn raise_loopback() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: ifreq is a plain C struct for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = *from as libc::c_char;
    }
    // SAFETY: the request is a live, exclusively borrowed ifreq with a NUL-terminated name; the kernel writes the flags member only.
    unsafe { get_flags(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: SIOCGIFFLAGS has just written the flags member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    // SAFETY: as above; the kernel only reads the request.
    unsafe { set_flags(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}
