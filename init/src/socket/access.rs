//! Who may ask for what.
use std::fmt;
use std::fs;

use machine::paths::{API_UID, NET_UID};
use machine::socket::request::Call;

/// The process at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub pid: i32,
    /// The service whose cgroup it is in; empty for others.
    pub service: String,
    /// In a pod's cgroup: whatever its uid, it is no part of the node.
    in_pod: bool,
}

impl Caller {
    /// Reads the peer's cgroup; a peer that is gone already has none.
    pub fn of(peer: &nix::libc::ucred) -> Self {
        let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", peer.pid)).unwrap_or_default();
        let (service, in_pod) = place(&cgroup);
        Self { uid: peer.uid, pid: peer.pid, service, in_pod }
    }

    /// Whether the caller may make this call.
    pub fn may(&self, call: &Call) -> bool {
        if self.in_pod {
            return false;
        }
        match self.uid {
            0 => true,
            API_UID => matches!(
                call,
                Call::Ready(_)
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
            NET_UID => matches!(call, Call::Ready(_) | Call::Version(_)),
            _ => false,
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} (uid {}", self.pid, self.uid)?;
        if !self.service.is_empty() {
            write!(f, ", {}", self.service)?;
        }
        write!(f, "{})", if self.in_pod { ", in a pod" } else { "" })
    }
}

/// The service and whether it is a pod, from a line such as `0::/system/agent`.
fn place(cgroup: &str) -> (String, bool) {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let mut parts = path.split('/');
    match (parts.next(), parts.next()) {
        (Some("system"), Some(service)) => (service.to_owned(), false),
        (Some("runtime"), _) => ("runtime".into(), false),
        (Some("kubepods"), _) => (String::new(), true),
        _ => (String::new(), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine::socket::Empty;

    fn caller(uid: u32, cgroup: &str) -> Caller {
        let (service, in_pod) = place(cgroup);
        Caller { uid, pid: 1, service, in_pod }
    }

    #[test]
    fn root_may_everything_unless_it_sits_in_a_pod() {
        let call = Call::FdList(Empty {});
        assert!(caller(0, "0::/system/agent\n").may(&call));
        assert!(!caller(0, "0::/kubepods/burstable/podx/c\n").may(&call));
        assert!(!caller(1000, "0::/system/agent\n").may(&call));
    }

    #[test]
    fn the_api_may_what_the_machine_api_needs_and_no_descriptors_of_containers() {
        let api = caller(API_UID, "0::/system/api\n");
        assert_eq!(api.service, "api");
        assert!(api.may(&Call::GetConfig(Empty {})));
        assert!(!api.may(&Call::FdList(Empty {})));
        assert!(!api.may(&Call::WatchExits(Empty {})));
        assert!(!caller(NET_UID, "0::/system/net\n").may(&Call::GetConfig(Empty {})));
    }

    #[test]
    fn who_is_in_no_cgroup_of_its_service_may_nothing() {
        let call = Call::Version(Empty {});
        for (uid, cgroup) in [
            (0, ""),
            (0, "0::/\n"),
            (0, "0::/elsewhere\n"),
            (0, "0::/system/kubelet\n"),
            (0, "0::/systemx/agent\n"),
            (0, "0::/runtimes\n"),
            (API_UID, "0::/system/agent\n"),
            (API_UID, "0::/\n"),
            (NET_UID, "0::/system/api\n"),
            (0, "0::/system/api\n"),
            (65534, "0::/runtime\n"),
        ] {
            assert!(!caller(uid, cgroup).may(&call), "uid {uid} in {cgroup:?}");
        }
    }
}
