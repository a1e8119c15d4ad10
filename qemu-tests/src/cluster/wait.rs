//! Waiting for a cluster, with the blocker named.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{API_SERVER_PORT, Cluster};
use crate::command::command_output;
use crate::kubectl::unready_nodes;
use crate::{Look, Progress, Vm};

impl Cluster {
    /// Waits until every machine has verified its root.
    ///
    /// # Errors
    /// At the deadline, or when a machine ends.
    pub fn wait_for_machines(&self, progress: &Progress, patience: u32) -> Result<()> {
        for vm in &self.state.nodes {
            let name = format!("waiting for {}'s verified root", vm.name);
            progress.wait(&name, Duration::from_secs(30) * patience, || {
                let text = vm.console().text().unwrap_or_default();
                if text.contains("its verity tree holds") {
                    return Ok(Look::Done(()));
                }
                vm.ensure_runs()?;
                Ok(Look::Waiting(blocker(&text)))
            })?;
        }
        Ok(())
    }

    /// Waits until the machine API has given the kubeconfig and the API server is ready; returns when it was seen to be.
    ///
    /// # Errors
    /// At a deadline, with what is still missing; or when a machine ends.
    pub fn wait_for_api(&self, progress: &Progress, patience: u32) -> Result<Instant> {
        let first = self.state.nodes.first().context("no machine")?;
        let console = || blocker(&first.console().text().unwrap_or_default());
        progress.wait("waiting for the machine API", Duration::from_secs(60) * patience, || {
            self.alive()?;
            Ok(match self.fetch_kubeconfig(first) {
                Ok(()) => Look::Done(()),
                Err(fault) => Look::Waiting(format!("{fault:#}; {}", console())),
            })
        })?;
        let kubectl = self.kubectl();
        progress.wait("waiting for the API server", Duration::from_secs(120) * patience, || {
            self.alive()?;
            Ok(match kubectl.run(&["get", "--raw", "/readyz"]) {
                Ok(_) => Look::Done(Instant::now()),
                Err(_) => Look::Waiting(console()),
            })
        })
    }

    /// Waits as [`Self::wait_for_api`] does, and until every node is Ready.
    ///
    /// # Errors
    /// At a deadline, with what is still missing; or when a machine ends.
    pub fn wait_for_nodes(&self, progress: &Progress, patience: u32) -> Result<()> {
        self.wait_for_api(progress, patience)?;
        let first = self.state.nodes.first().context("no machine")?;
        let console = || blocker(&first.console().text().unwrap_or_default());
        let kubectl = self.kubectl();
        progress.wait("waiting for the nodes to be Ready", Duration::from_secs(120) * patience, || {
            self.alive()?;
            let (count, unready) = match kubectl.get(&["nodes"]) {
                Ok(list) => unready_nodes(&list),
                Err(fault) => return Ok(Look::Waiting(format!("{fault:#}"))),
            };
            let wanted = self.state.nodes.len();
            Ok(match (count >= wanted, unready.as_slice()) {
                (true, []) => Look::Done(()),
                (_, [first, ..]) => Look::Waiting(first.clone()),
                (false, []) => {
                    Look::Waiting(format!("{count} of {wanted} nodes have registered; {}", console()))
                }
            })
        })
    }

    fn alive(&self) -> Result<()> {
        self.state.nodes.iter().try_for_each(Vm::ensure_runs)
    }

    /// The administrator's kubeconfig, from the machine, with the forwarded port as its server.
    fn fetch_kubeconfig(&self, vm: &Vm) -> Result<()> {
        let text = command_output(self.pintle(vm)?.args(["kubeconfig", "--output", "-"]))?;
        let server = format!("https://127.0.0.1:{}", vm.port(API_SERVER_PORT)?);
        let text: String = text
            .lines()
            .map(|line| match line.split_once("server: ") {
                Some((indent, _)) => format!("{indent}server: {server}\n"),
                None => format!("{line}\n"),
            })
            .collect();
        ensure!(text.contains(&server), "the kubeconfig names no server");
        crate::secret_file::write(&self.kubeconfig(), &text)
    }
}

/// The last line of a console that says something is wrong or missing; otherwise the last line.
fn blocker(text: &str) -> String {
    let telling = |line: &&str| {
        ["ERROR", "WARN", "waiting for", "panicked", "Kernel panic"].iter().any(|word| line.contains(word))
    };
    let line =
        text.lines().rev().find(telling).or_else(|| text.lines().rev().find(|line| !line.trim().is_empty()));
    format!("console: {}", line.unwrap_or("nothing yet").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocker_is_the_last_line_that_tells_something() {
        assert_eq!(blocker("a\nERROR no disk\nb\n"), "console: ERROR no disk");
        assert_eq!(blocker("a\nb\n\n"), "console: b");
        assert_eq!(blocker(""), "console: nothing yet");
    }
}
