//! What can go wrong between us and the plugins.
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::{config, result};

/// Each names what was tried, with which plugin or file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no network configuration (*.conflist, *.conf, *.json) in {}; the machine config says podNetwork: cni, so install a CNI network, such as by its DaemonSet",
        .0.display()
    )]
    NoConfig(PathBuf),
    #[error("{}: {fault}", path.display())]
    Config { path: PathBuf, fault: config::Fault },
    #[error(
        "the CNI plugin {plugin} of the network {network} is not in {folders}, or is no executable file; whoever wrote the network's configuration installs it"
    )]
    NoPlugin { plugin: String, network: String, folders: String },
    #[error("the CNI plugin {plugin} of the network {network} failed to {command}: {failure}")]
    Plugin { plugin: String, network: String, command: &'static str, failure: Failure },
    #[error("the network {0} gave the pod no address")]
    NoAddress(String),
    #[error(
        "the network {0} wants the node's range of pod addresses (capability ipRanges), and the node has none yet; the agent sets it when the cluster has given the Node a podCIDR"
    )]
    NoRange(String),
    #[error("{value:?} cannot be passed to CNI plugins as {name}")]
    Argument { name: &'static str, value: String },
    #[error(
        "the annotation {name} must be a rate from 1k to 1P, such as 10M (bits per second), not {value:?}"
    )]
    Bandwidth { name: String, value: String },
    #[error("{0:?} cannot be a container id of CNI: letters and digits, `-`, `_` and `.` only")]
    BadId(String),
    #[error("the pod sandbox {0} is connected already")]
    Connected(String),
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
}

/// How one run of a plugin failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("it could not be started: {0}")]
    Start(io::Error),
    #[error("it did not end within {} s and was killed", .0.as_secs())]
    Deadline(Duration),
    #[error("it printed more than {0} bytes and was killed")]
    TooLong(u64),
    #[error("{reason} ({status})")]
    Exit { status: std::process::ExitStatus, reason: String },
    #[error("waiting for it: {0}")]
    Wait(io::Error),
    #[error(transparent)]
    Result(#[from] result::Fault),
}
