//! Who is at the other end of a unix socket: the process that connected, held by a descriptor, so that what /proc says under its pid
//! is about this process and no later one.
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};

/// The most that is read of a file of /proc.
const LONGEST: u64 = 16 << 10;
/// The bit of CAP_SYS_ADMIN.
const SYS_ADMIN: u64 = 1 << 21;

/// A process that has connected.
#[derive(Debug)]
pub struct Peer {
    uid: u32,
    pid: i32,
    pidfd: OwnedFd,
}

impl Peer {
    /// The process at the other end, as it was when it connected (SO_PEERCRED, SO_PEERPIDFD).
    ///
    /// # Errors
    /// As getsockopt(2): one that was reaped before may not be had any more, and a kernel before 6.5 gives no descriptor.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let credentials =
            nix::sys::socket::getsockopt(&socket.as_fd(), nix::sys::socket::sockopt::PeerCredentials)?;
        let mut pidfd: libc::c_int = -1;
        let mut length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the descriptor is borrowed for the call, and the kernel writes at most `length` bytes, a descriptor's number, to `pidfd`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERPIDFD,
                (&raw mut pidfd).cast(),
                &raw mut length,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just returned this descriptor to us, so it is open and owned by nobody else.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Self { uid: credentials.uid(), pid: credentials.pid(), pidfd })
    }

    pub const fn uid(&self) -> u32 {
        self.uid
    }

    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Its cgroup (v2) as a path from the root that this process sees, such as `/system/agent`.
    ///
    /// # Errors
    /// `NotFound` when it has ended, or is in no cgroup or process that can be seen from here.
    pub fn cgroup(&self) -> io::Result<String> {
        let text = self.living(|folder| read(&folder.join("cgroup")))?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"));
        path.map(str::to_owned).ok_or_else(|| unknown("it is in no cgroup"))
    }

    /// Whether it is root with CAP_SYS_ADMIN over the user namespace of this process: what it asks us for it could do itself.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub fn is_privileged(&self) -> io::Result<bool> {
        let own = std::fs::read_link("/proc/self/ns/user")?;
        self.living(|folder| {
            let effective = effective(&read(&folder.join("status"))?).unwrap_or(0);
            let same = std::fs::read_link(folder.join("ns/user"))? == own;
            Ok(self.uid == 0 && same && effective & SYS_ADMIN != 0)
        })
    }

    /// Lets in root in one of the cgroups or below, and privileged processes from anywhere; the reply is the former's cgroup.
    ///
    /// # Errors
    /// `PermissionDenied` for all others, and when who the peer is cannot be said.
    pub fn admit(&self, cgroups: &[&str]) -> io::Result<Option<String>> {
        let cgroup = self.cgroup();
        if let Ok(cgroup) = &cgroup
            && self.uid == 0
            && is_within(cgroup, cgroups)
        {
            return Ok(Some(cgroup.clone()));
        }
        if self.is_privileged()? {
            return Ok(None);
        }
        let place = cgroup.unwrap_or_else(|error| error.to_string());
        let text = format!("pid {} (uid {}, cgroup {place}) is no part of the node", self.pid, self.uid);
        Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
    }

    /// Reads of /proc what is the process's own for certain: it has not ended afterwards, so the pid was never another's.
    fn living<T>(&self, read: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        if self.pid <= 0 {
            return Err(unknown("it is in another pid namespace"));
        }
        let found = read(Path::new(&format!("/proc/{}", self.pid)));
        let mut ended = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        if nix::poll::poll(&mut ended, PollTimeout::ZERO)? > 0 {
            return Err(unknown("it has ended"));
        }
        found
    }
}

/// Whether a cgroup is one of these or below one of them.
pub fn is_within(cgroup: &str, roots: &[&str]) -> bool {
    let below = |rest: &str| rest.is_empty() || rest.starts_with('/');
    roots.iter().any(|root| cgroup.strip_prefix(root).is_some_and(below))
}

fn unknown(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("who the peer is cannot be said: {why}"))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// Effective capabilities, from /proc/PID/status.
fn effective(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// What the children below run: connect, and stay until the parent has seen enough.
    #[test]
    fn child() {
        let Some(path) = std::env::var_os("PEER_TEST_SOCKET") else { return };
        let _stream = UnixStream::connect(path).unwrap();
        let _ = io::stdin().read(&mut [0]);
    }

    /// A socket that every user may connect to.
    fn listen(name: &str) -> (PathBuf, UnixListener) {
        let path = std::env::temp_dir().join(format!("peer-{}-{name}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        (path, listener)
    }

    /// The one that waits, or will within a minute.
    fn accept(listener: &UnixListener) -> UnixStream {
        let mut waits = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut waits, 60_000_u16), Ok(1), "the child does not connect");
        listener.accept().unwrap().0
    }

    /// The peer that a program with these arguments becomes, and its process.
    fn peer(name: &str, arguments: &[&str]) -> (Peer, Child) {
        let (path, listener) = listen(name);
        let mut line: Vec<std::ffi::OsString> = arguments.iter().map(Into::into).collect();
        line.push(std::env::current_exe().unwrap().into());
        line.extend(["--exact", "peer::tests::child"].map(Into::into));
        let mut command = Command::new(&line[0]);
        command
            .args(&line[1..])
            .env("PEER_TEST_SOCKET", &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let peer = Peer::of(accept(&listener)).unwrap();
        std::fs::remove_file(path).unwrap();
        (peer, child)
    }

    #[test]
    fn a_living_peer_is_known_by_its_own_cgroup_and_one_that_has_ended_is_not() {
        let (peer, mut child) = peer("living", &[]);
        assert_eq!(u32::try_from(peer.pid()).unwrap(), child.id());
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        match peer.cgroup() {
            Ok(cgroup) => assert!(own.lines().any(|line| line == format!("0::{cgroup}"))),
            Err(error) => assert!(!own.contains("0::"), "{error}"),
        }
        drop(child.stdin.take());
        // Ended and not yet reaped: /proc still has it.
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(peer.pid())), flags)
            .unwrap();
        assert!(peer.cgroup().is_err());
        child.wait().unwrap();
        assert!(peer.cgroup().is_err());
        assert!(peer.is_privileged().is_err());
    }

    #[test]
    fn a_peer_that_was_reaped_before_it_is_asked_after_is_unknown() {
        let (path, listener) = listen("reaped");
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "peer::tests::child"])
            .env("PEER_TEST_SOCKET", &path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child.wait().unwrap();
        assert!(Peer::of(accept(&listener)).and_then(|peer| peer.cgroup()).is_err());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn privileged_is_who_has_sys_admin_here() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root has rights to give up");
            return;
        }
        let other = [
            "setpriv",
            "--reuid=65534",
            "--clear-groups",
            "--inh-caps=+sys_admin",
            "--ambient-caps=+sys_admin",
        ];
        for (name, arguments, privileged) in [
            ("root", &[][..], true),
            ("bounded", &["setpriv", "--bounding-set=-sys_admin"][..], false),
            ("other", &other[..], false),
            ("namespace", &["unshare", "--user", "--map-root-user"][..], false),
        ] {
            let (peer, mut child) = peer(name, arguments);
            assert_eq!(peer.is_privileged().unwrap(), privileged, "{arguments:?}");
            assert_eq!(peer.admit(&["/no-such"]).is_ok(), privileged, "{arguments:?}");
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    #[test]
    fn below_a_cgroup_is_not_beside_it() {
        let roots = ["/init", "/system"];
        assert!(is_within("/init", &roots) && is_within("/system/agent", &roots));
        for other in ["/", "", "/systems/agent", "/kubepods/system/agent", "system/agent"] {
            assert!(!is_within(other, &roots), "{other:?}");
        }
    }

    #[test]
    fn capabilities_are_read_as_hexadecimal() {
        assert_eq!(effective("Name:\tx\nCapEff:\t0000000000200000\n"), Some(SYS_ADMIN));
        assert_eq!(effective("Name:\tx\n"), None);
    }
}
