//! Who may ask for what. A caller is a service of the node: its process is alive, in the service's cgroup, and of the service's user. All
//! others, and those of whom that cannot be said, are turned away before a byte of theirs is read.
use std::fmt;
use std::io;
use std::time::Duration;

use machine::socket::MAX_CONFIG;
use machine::socket::request::Call;
use sys::peer::{Peer, is_within};

use crate::services::SERVICES;

/// What a request of a few fields takes at most, in bytes.
const SMALL: usize = 64 << 10;

/// The service at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub pid: i32,
    pub service: &'static str,
    /// Of the service; `None` is root.
    user: Option<u32>,
}

/// How much of a connection a caller has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest request, in bytes.
    pub request: usize,
    /// How long a connection may be silent before a request; `None`: as long as it likes.
    pub idle: Option<Duration>,
}

impl Caller {
    /// Reads who the peer is.
    ///
    /// # Errors
    /// Says why it is no caller.
    pub fn of(socket: &tokio::net::UnixStream) -> io::Result<Self> {
        let peer = Peer::of(socket)?;
        let cgroup = peer.cgroup()?;
        Self::known(peer.uid(), peer.pid(), &cgroup).ok_or_else(|| {
            let text = format!("pid {} (uid {}, cgroup {cgroup}) is no service", peer.pid(), peer.uid());
            io::Error::new(io::ErrorKind::PermissionDenied, text)
        })
    }

    pub(super) fn known(uid: u32, pid: i32, cgroup: &str) -> Option<Self> {
        let rest = cgroup.strip_prefix('/')?;
        let service = SERVICES.iter().find(|service| is_within(rest, &[service.cgroup]))?;
        (service.user.unwrap_or(0) == uid).then_some(Self { pid, service: service.name, user: service.user })
    }

    /// What its connection may take. Services that run as root hold theirs open; the ones that face the network ask one thing at a time.
    pub const fn limits(&self) -> Limits {
        match self.user {
            None => Limits { request: SMALL, idle: None },
            // It passes machine configs on.
            Some(machine::paths::API_UID) => {
                Limits { request: MAX_CONFIG + SMALL, idle: Some(Duration::from_secs(60)) }
            }
            Some(_) => Limits { request: SMALL, idle: Some(Duration::from_secs(60)) },
        }
    }

    /// Whether the caller may make this call.
    pub fn may(&self, call: &Call) -> bool {
        match self.service {
            "api" => matches!(
                call,
                Call::Ready(_)
                    | Call::Alive(_)
                    | Call::ListServices(_)
                    | Call::ListProcesses(_)
                    | Call::ServiceAction(_)
                    | Call::OpenLog(_)
                    | Call::OpenKmsg(_)
                    | Call::WatchEvents(_)
                    | Call::GetNetwork(_)
                    | Call::GetConfig(_)
                    | Call::ApplyConfig(_)
                    | Call::Health(_)
                    | Call::Shutdown(_)
                    | Call::OpenKubeconfig(_)
                    | Call::OpenImageImport(_)
                    | Call::Version(_)
                    | Call::Cancel(_)
                    | Call::SignServing(_)
            ),
            "net" => matches!(call, Call::Ready(_) | Call::Alive(_)),
            // The others are root: what they may not ask for they could do.
            _ => self.user.is_none(),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.service, self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::paths::{API_UID, NET_UID};
    use machine::socket::{Empty, GetConfig};

    fn caller(uid: u32, cgroup: &str) -> Option<Caller> {
        Caller::known(uid, 1, cgroup)
    }

    #[test]
    fn roots_services_may_everything_and_others_of_root_nothing() {
        let call = Call::FdList(Empty {});
        assert!(caller(0, "/system/agent").unwrap().may(&call));
        assert!(caller(0, "/runtime").unwrap().may(&call));
        assert!(caller(0, "/runtime/launch").unwrap().may(&call));
        assert_eq!(caller(0, "/kubepods/burstable/podx/c"), None);
        assert_eq!(caller(1000, "/system/agent"), None);
    }

    #[test]
    fn the_api_may_what_the_machine_api_needs_and_no_descriptors_of_containers() {
        let api = caller(API_UID, "/system/api").unwrap();
        assert_eq!(api.service, "api");
        assert!(api.may(&Call::GetConfig(GetConfig::default())));
        assert!(!api.may(&Call::FdList(Empty {})));
        assert!(!api.may(&Call::WatchExits(Empty {})));
        let net = caller(NET_UID, "/system/net").unwrap();
        assert!(net.may(&Call::Ready(Empty {})) && net.may(&Call::Alive(Empty {})));
        assert!(!net.may(&Call::GetConfig(GetConfig::default())) && !net.may(&Call::Version(Empty {})));
    }

    #[test]
    fn who_is_in_no_cgroup_of_its_service_may_nothing() {
        for uid in [0, API_UID, NET_UID, 100, 101, 65534] {
            for cgroup in [
                "",
                "/",
                "/init",
                "/elsewhere",
                "/system",
                "/system/kubelet",
                "/systemx/agent",
                "/runtimes",
                "/kubepods/podx/c",
                "/kubepods/system/api",
                "/../system/api",
            ] {
                assert_eq!(caller(uid, cgroup), None, "uid {uid} in {cgroup:?}");
            }
        }
        for (uid, cgroup) in [
            (API_UID, "/system/agent"),
            (NET_UID, "/system/api"),
            (0, "/system/api"),
            (0, "/system/net"),
            (100, "/runtime"),
            (65534, "/runtime"),
        ] {
            assert_eq!(caller(uid, cgroup), None, "uid {uid} in {cgroup:?}");
        }
    }

    #[test]
    fn only_who_passes_configs_on_may_send_much() {
        let request = |uid, cgroup| caller(uid, cgroup).unwrap().limits().request;
        assert!(request(API_UID, "/system/api") > MAX_CONFIG);
        assert_eq!(request(NET_UID, "/system/net"), SMALL);
        assert_eq!(request(0, "/runtime"), SMALL);
    }
}
