//! The process that makes a pod's user namespace and the namespaces that belong to it. It says `ok` after each step, or what failed, and waits to be ended.
use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

/// What to make beside the user and the network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedNamespaces {
    pub ipc: bool,
    /// The hostname of a UTS namespace.
    pub hostname: Option<String>,
    pub sysctls: Vec<(String, String)>,
}

/// The process itself.
pub fn main() -> ExitCode {
    let mut input = io::stdin().lock();
    for step in [user, others] {
        let line = match step(&mut input) {
            Ok(()) => "ok".to_owned(),
            Err(error) => error.to_string().replace('\n', " "),
        };
        let mut output = io::stdout().lock();
        if writeln!(output, "{line}").and_then(|()| output.flush()).is_err() || line != "ok" {
            return ExitCode::FAILURE;
        }
    }
    let _ = input.read_line(&mut String::new());
    ExitCode::SUCCESS
}

fn named(what: &str, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{what}: {error}"))
}

fn user(_: &mut dyn BufRead) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| named("make a user namespace", &error))
}

/// By now the id maps are written.
fn others(input: &mut dyn BufRead) -> io::Result<()> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    let wanted: MappedNamespaces = serde_json::from_str(&line)?;
    become_root().map_err(|error| named("become the namespace's root", &error))?;
    let mut flags = CloneFlags::CLONE_NEWNET;
    flags.set(CloneFlags::CLONE_NEWIPC, wanted.ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, wanted.hostname.is_some());
    unshare(flags).map_err(|error| named("make the pod's namespaces", &error))?;
    sys::netns::settle().map_err(|error| named("bring up the pod's loopback", &error))?;
    if let Some(hostname) = &wanted.hostname {
        nix::unistd::sethostname(hostname)
            .map_err(|error| named(&format!("set the hostname {hostname}"), &error))?;
    }
    crate::namespaces::set_sysctls(&wanted.sysctls)
}

/// Root of the user namespace that the process is in.
pub(super) fn become_root() -> nix::Result<()> {
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
    nix::unistd::setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))
}
