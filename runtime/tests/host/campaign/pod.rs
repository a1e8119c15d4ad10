//! A pod as a client knows it: what it asked for and what it was promised.
use std::fs;

use machine::cri::{self, NamespaceMode};

use crate::random::Random;
use crate::ring::{Outcome, check, sandbox_config, text};

pub const LABEL: &str = "campaign";

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ends by itself.
    Ends { code: i32, after: u64 },
    /// Ends so when it is asked to.
    Polite { code: i32 },
    /// Has to be killed.
    Deaf,
}

impl Kind {
    pub fn random(random: &mut Random) -> Self {
        let code = random.below(120) as i32;
        match random.below(4) {
            0 | 1 => Self::Ends { code, after: random.below(400) },
            2 => Self::Polite { code },
            _ => Self::Deaf,
        }
    }

    pub fn script(self) -> String {
        match self {
            Self::Ends { code, after } => format!("echo begin; sleep 0.{after:03}; echo end; exit {code}"),
            Self::Polite { code } => {
                format!("trap 'echo end; exit {code}' TERM; echo begin; sleep 1000 & wait")
            }
            Self::Deaf => "echo begin; exec sleep 1000".into(),
        }
    }

    pub fn code(self) -> i32 {
        match self {
            Self::Ends { code, .. } | Self::Polite { code } => code,
            Self::Deaf => 137,
        }
    }

    /// Whether it may have written this when it has ended.
    fn writes(self, lines: &[&str]) -> bool {
        // One that is killed need not have come to anything.
        if self == Self::Deaf { matches!(lines, [] | ["begin"]) } else { lines == ["begin", "end"] }
    }

    /// The grace it is stopped with, in seconds.
    pub fn grace(self) -> i64 {
        if self == Self::Deaf { 0 } else { 60 }
    }
}

/// How far a container has come, as far as was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Created,
    Started,
    /// With what status tells since: the code, and when it ended.
    Ended(i32, i64),
    /// Its launch was killed, so its program never ran.
    NeverRan,
    Removed,
}

#[derive(Debug)]
pub struct Member {
    pub id: String,
    pub name: String,
    pub kind: Kind,
    pub stage: Stage,
    /// The life of the runtime in which it was started while somebody listened to events.
    pub heard: Option<u32>,
}

#[derive(Debug)]
pub struct Pod {
    pub name: String,
    pub id: String,
    pub config: cri::PodSandboxConfig,
    pub ready: bool,
    pub ip: String,
    pub members: Vec<Member>,
}

/// What a pod of this name is asked for with.
pub fn config(client: usize, name: &str, random: &mut Random) -> cri::PodSandboxConfig {
    let own_users = random.below(5) == 0;
    let own_network = own_users || random.below(2) == 0;
    let mode = |pod: bool, other: NamespaceMode| if pod { NamespaceMode::Pod } else { other } as i32;
    let mut options = cri::NamespaceOption {
        network: mode(own_network, NamespaceMode::Node),
        pid: mode(random.below(3) == 0, NamespaceMode::Container),
        ..Default::default()
    };
    if own_users {
        let first = 100_000 * (client as u32 + 1);
        let ids = vec![cri::IdMapping { host_id: first, container_id: 0, length: 65536 }];
        let mode = NamespaceMode::Pod as i32;
        options.userns_options = Some(cri::UserNamespace { mode, uids: ids.clone(), gids: ids });
    }
    let mut config = sandbox_config(name, options);
    config.labels.insert(LABEL.into(), name.into());
    if own_network && random.below(2) == 0 {
        // The next pod of this client can have it only when this one has given it back.
        let host_port = 21_000 + client as i32;
        config.port_mappings = vec![cri::PortMapping { container_port: 80, host_port, ..Default::default() }];
    }
    config
}

pub fn has_network(config: &cri::PodSandboxConfig) -> bool {
    options(config).is_some_and(|options| options.network() == NamespaceMode::Pod)
}

pub fn options(config: &cri::PodSandboxConfig) -> Option<cri::NamespaceOption> {
    config.linux.as_ref()?.security_context.as_ref()?.namespace_options.clone()
}

impl Member {
    /// Whether a status is one that promises allow; brings the stage up to date.
    pub fn compare(&mut self, status: &cri::ContainerStatus) -> Outcome {
        use cri::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
        let wrong =
            || format!("container {} ({:?}, {:?}) is now {status:?}", self.name, self.kind, self.stage);
        let ended = status.exit_code == self.kind.code()
            && status.started_at > 0
            && status.started_at <= status.finished_at
            && status.finished_at <= crate::init::now();
        match (self.stage, status.state()) {
            (Stage::Created, ContainerCreated) => Ok(()),
            (Stage::Started, ContainerRunning) => Ok(()),
            (Stage::Started, ContainerExited) => {
                // Nobody has stopped it.
                check(ended && matches!(self.kind, Kind::Ends { .. }), wrong())?;
                self.end(status)
            }
            (Stage::Ended(code, at), ContainerExited) => {
                check((status.exit_code, status.finished_at) == (code, at), wrong())
            }
            (Stage::NeverRan, ContainerExited) => {
                check(status.exit_code == 128 && status.reason == "StartError", wrong())
            }
            _ => Err(wrong()),
        }
    }

    /// It has ended: with its code and all that it wrote, once.
    pub fn end(&mut self, status: &cri::ContainerStatus) -> Outcome {
        let expected = self.kind.code();
        check(
            status.exit_code == expected && status.finished_at > 0,
            format!("container {} ({:?}) ended with {status:?}", self.name, self.kind),
        )?;
        self.stage = Stage::Ended(status.exit_code, status.finished_at);
        Ok(())
    }

    pub fn log(&self, pod: &str) -> String {
        let path = format!("/var/log/pods/{pod}/{}.log", self.name);
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Its program has run once as a whole, or not at all.
    pub fn check_log(&self, pod: &str) -> Outcome {
        let log = self.log(pod);
        let lines: Vec<&str> = log.lines().filter_map(|line| line.split(" F ").nth(1)).collect();
        let right = match self.stage {
            Stage::Ended(..) => self.kind.writes(&lines),
            _ => lines.is_empty(),
        };
        check(right, format!("log of container {} ({:?}): {log:?}", self.name, self.kind))
    }
}

/// The agent's part when a pod is gone: its cgroup, in which nothing may be left, and its logs.
pub fn clear(name: &str) -> Outcome {
    let cgroup = format!("/sys/fs/cgroup/kubepods/{name}");
    if fs::exists(&cgroup).map_err(text)? {
        fs::remove_dir(&cgroup).map_err(|error| format!("remove the pod's cgroup {cgroup}: {error}"))?;
    }
    let logs = format!("/var/log/pods/{name}");
    if fs::exists(&logs).map_err(text)? {
        fs::remove_dir_all(logs).map_err(text)?;
    }
    Ok(())
}
