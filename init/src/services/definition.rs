//! The services of a node.
use std::time::Duration;

use machine::paths;

/// What is fixed about a service.
#[derive(Debug)]
pub struct Definition {
    pub name: &'static str,
    /// Its cgroup below /sys/fs/cgroup.
    pub cgroup: &'static str,
    /// uid and gid; `None` is root.
    pub user: Option<u32>,
    pub capabilities: &'static [u32],
    /// How long it may take to say that it is ready before that is worth a line.
    pub ready_deadline: Duration,
    /// Between SIGTERM and the end of its whole cgroup.
    pub stop_deadline: Duration,
    pub oom_score_adj: i32,
}

/// In the order in which they start; they stop in the reverse one.
pub const SERVICES: [Definition; 5] = [
    Definition {
        name: "net",
        cgroup: "system/net",
        user: Some(paths::NET_UID),
        capabilities: &[sys::spawn::CAP_NET_BIND_SERVICE, sys::spawn::CAP_NET_RAW],
        ready_deadline: Duration::from_secs(10),
        stop_deadline: Duration::from_secs(5),
        oom_score_adj: -999,
    },
    Definition {
        name: "api",
        cgroup: "system/api",
        user: Some(paths::API_UID),
        capabilities: &[],
        ready_deadline: Duration::from_secs(30),
        stop_deadline: Duration::from_secs(5),
        oom_score_adj: -900,
    },
    Definition {
        name: "runtime",
        cgroup: "runtime",
        user: None,
        capabilities: &[],
        ready_deadline: Duration::from_secs(60),
        stop_deadline: Duration::from_secs(10),
        oom_score_adj: -999,
    },
    Definition {
        name: "agent",
        cgroup: "system/agent",
        user: None,
        capabilities: &[],
        ready_deadline: Duration::from_secs(300),
        stop_deadline: Duration::from_secs(10),
        oom_score_adj: -999,
    },
    Definition {
        name: "control-plane",
        cgroup: "system/control-plane",
        user: None,
        capabilities: &[],
        ready_deadline: Duration::from_secs(120),
        stop_deadline: Duration::from_secs(10),
        oom_score_adj: -900,
    },
];

/// The services' names.
pub const NAMES: [&str; 5] = ["net", "api", "runtime", "agent", "control-plane"];

/// Name and cgroup of init and of each service.
pub fn cgroups() -> impl Iterator<Item = (&'static str, &'static str)> {
    std::iter::once(("init", "init")).chain(SERVICES.iter().map(|service| (service.name, service.cgroup)))
}

/// Which of them, and why, the condition says.
const VOLUMES: &str = "the volumes of the machine config (health: VolumesMounted)";

/// What services wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    pub configured: bool,
    pub machine_ca: bool,
    pub api_certificate: bool,
    pub control_plane: bool,
    pub state_mounted: bool,
    /// All volumes of the machine config: what a service wrote where one is still to come would be hidden by it.
    pub volumes_mounted: bool,
    pub network_address: bool,
    pub network_ready: bool,
    /// A time server has answered, there is none, or it took too long.
    pub clock_checked: bool,
    pub runtime_ready: bool,
}

impl Facts {
    /// What the service still waits for; `None` lets it start.
    pub fn missing(&self, service: &str) -> Option<&'static str> {
        let needs: &[(bool, &'static str)] = match service {
            "api" => &[
                (self.configured, "a machine config"),
                (self.machine_ca, "Machine.ca in the machine config"),
                (self.network_address, "an address"),
                (self.api_certificate, "its serving certificate"),
            ],
            // It reads what the config says of registries, streams and the pod network once, when it starts.
            "runtime" => &[
                (self.configured, "a machine config"),
                (self.state_mounted, "the state volume"),
                (self.volumes_mounted, VOLUMES),
            ],
            "agent" => &[
                (self.configured, "a machine config"),
                (self.volumes_mounted, VOLUMES),
                (self.runtime_ready, "the runtime"),
                (self.network_ready, "the network"),
                (self.clock_checked, "a time server's first answer"),
            ],
            "control-plane" => &[
                (self.configured, "a machine config"),
                (self.control_plane, "role ControlPlane; this machine is a worker"),
                (self.state_mounted, "the state volume"),
                (self.volumes_mounted, VOLUMES),
                (self.network_ready, "the network"),
                (self.clock_checked, "a time server's first answer"),
            ],
            _ => &[],
        };
        needs.iter().find(|(met, _)| !met).map(|(_, what)| *what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_wait_for_what_the_architecture_names() {
        let mut facts = Facts::default();
        assert_eq!(facts.missing("net"), None);
        facts.state_mounted = true;
        assert_eq!(facts.missing("runtime"), Some("a machine config"), "the kept one is on the state volume");
        facts.configured = true;
        facts.control_plane = true;
        for service in ["runtime", "agent", "control-plane"] {
            assert_eq!(
                facts.missing(service),
                Some(VOLUMES),
                "{service} would write where a volume is to come"
            );
        }
        facts.control_plane = false;
        facts.volumes_mounted = true;
        assert_eq!(facts.missing("runtime"), None);
        assert_eq!(facts.missing("agent"), Some("the runtime"));
        facts.runtime_ready = true;
        facts.network_ready = true;
        assert_eq!(facts.missing("agent"), Some("a time server's first answer"));
        facts.clock_checked = true;
        assert_eq!(facts.missing("agent"), None);
        assert!(facts.missing("control-plane").unwrap().contains("worker"));
        assert_eq!(facts.missing("api"), Some("Machine.ca in the machine config"));
    }
}
