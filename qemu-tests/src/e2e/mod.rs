//! Kubernetes' end-to-end specs against a cluster: `e2e.test` is run, watched and its report read.
mod report;
mod watch;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use report::{Outcome, State, summary};
use watch::{Change, Watch};

use crate::command::command_output;

/// How often a deadline is looked at while nothing is printed.
const LOOK: Duration = Duration::from_secs(5);
/// How long cleaning up may take after an interrupt.
const GRACE: Duration = Duration::from_secs(180);
/// Lines that wait between the reader and the watcher.
const LINES: usize = 1024;

/// The suite and what it needs.
#[derive(Debug, Clone)]
pub struct Suite {
    /// Kubernetes' `e2e.test`.
    pub program: PathBuf,
    pub kubectl: PathBuf,
    pub kubeconfig: PathBuf,
    /// Logs and reports go here.
    pub folder: PathBuf,
    /// How long one spec may take.
    pub deadline: Duration,
}

/// The names of all specs.
///
/// # Errors
/// When the program does not run.
pub fn names(program: &Path) -> Result<BTreeSet<String>> {
    let text = command_output(Command::new(program).arg("-list-tests")).context("list the specs")?;
    Ok(names_of(&text))
}

/// Lines such as `    path/file.go:12: [sig-node] Pods should …`.
fn names_of(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix(' ')?.split_once(".go:")?.1.split_once(": "))
        .map(|(_, name)| name.to_owned())
        .collect()
}

impl Suite {
    /// Runs the named specs one after another. A spec that is over its deadline is interrupted and fails; the others go on.
    ///
    /// # Errors
    /// When the suite cannot run at all.
    pub fn run(&self, names: &BTreeSet<String>, tell: &mut dyn FnMut(&str)) -> Result<Vec<Outcome>> {
        std::fs::create_dir_all(&self.folder)?;
        let mut left = names.clone();
        let mut outcomes = Vec::new();
        for number in 1.. {
            let before = left.len();
            let (some, late) = self.once(number, &left, names.len(), tell)?;
            for outcome in some {
                // Steps before and after all specs fail too; after an interrupt that means nothing.
                let step = late.is_none() && outcome.state == State::Failed && !names.contains(&outcome.name);
                if left.remove(&outcome.name) || step {
                    outcomes.push(outcome);
                }
            }
            if let Some(name) = late.filter(|name| left.remove(name)) {
                outcomes.push(Outcome::late(name, self.deadline));
            }
            if left.is_empty() {
                break;
            }
            ensure!(
                left.len() < before,
                "e2e.test ran none of the specs; see {}",
                self.log(number).display()
            );
        }
        outcomes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(outcomes)
    }

    fn log(&self, number: u32) -> PathBuf {
        self.folder.join(format!("e2e-{number}.log"))
    }

    /// One run of the program; what came of specs that began, and the one that was over its deadline.
    fn once(
        &self,
        number: u32,
        names: &BTreeSet<String>,
        all: usize,
        tell: &mut dyn FnMut(&str),
    ) -> Result<(Vec<Outcome>, Option<String>)> {
        let report = self.folder.join(format!("report-{number}.json"));
        let mut log = File::create(self.log(number))?;
        let mut child = self
            .command(number, names, &report)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        let output = child.stdout.take().context("e2e.test's output")?;
        let (sender, lines) = sync_channel(LINES);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut watch = Watch::new(names, all);
        let mut interrupted: Option<(Instant, Option<String>)> = None;
        loop {
            match lines.recv_timeout(LOOK) {
                Ok(line) => {
                    writeln!(log, "{line}")?;
                    if let Some(change) = watch.line(&line, Instant::now()) {
                        tell(&change.to_string());
                        if let Change::Ended { .. } = change {
                            log.flush()?;
                        }
                    }
                }
                // A process that a spec left behind may hold the pipe.
                Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => break,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            match &interrupted {
                None => {
                    if let Some(late) = watch.late(self.deadline, Instant::now()) {
                        tell(&format!("over its deadline of {} s: {late}", self.deadline.as_secs()));
                        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
                        interrupted = Some((Instant::now(), watch.current().map(str::to_owned)));
                    }
                }
                Some((since, _)) if since.elapsed() > GRACE => child.kill()?,
                Some(_) => {}
            }
        }
        child.wait()?;
        let late = interrupted.and_then(|(_, name)| name);
        let outcomes = match std::fs::read(&report) {
            Ok(bytes) => report::read(&bytes)?,
            // Killed before it wrote one: what was seen.
            Err(_) => watch.into_outcomes(),
        };
        Ok((outcomes.into_iter().filter(|outcome| Some(&outcome.name) != late.as_ref()).collect(), late))
    }

    fn command(&self, number: u32, names: &BTreeSet<String>, report: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.current_dir(&self.folder).env_remove("KUBE_TEST_REPO").env_remove("KUBE_TEST_REPO_LIST");
        command.arg(format!("-kubeconfig={}", self.kubeconfig.display()));
        command.arg(format!("-kubectl-path={}", self.kubectl.display()));
        command.args(["-provider=skeleton", "-disable-log-dump", "-node-os-distro=custom"]);
        command.arg(format!("-report-dir={}", self.folder.display()));
        command.arg(format!("-report-prefix={number}-"));
        command.arg(format!("-e2e-output-dir={}", self.folder.display()));
        command.args(["-ginkgo.v", "-ginkgo.no-color", "-ginkgo.timeout=24h", "-ginkgo.silence-skips"]);
        command.arg(format!("-ginkgo.json-report={}", report.display()));
        command.args(names.iter().map(|name| format!("-ginkgo.focus=\\A{SUITE} {}\\z", escape(name))));
        command
    }
}

/// What ginkgo puts before a spec's name when it looks for a match.
const SUITE: &str = "Kubernetes e2e suite";

/// A regular expression that matches just this text.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() * 2);
    for letter in text.chars() {
        if r"\.+*?()|[]{}^$".contains(letter) {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_the_list() {
        let text = "The following spec names can be used with 'ginkgo run --focus/skip':\n    \
                    k8s.io/kubernetes/test/e2e/common/node/pods.go:12: [sig-node] Pods: should run [Conformance]\n\n";
        assert_eq!(
            names_of(text).into_iter().collect::<Vec<_>>(),
            ["[sig-node] Pods: should run [Conformance]"]
        );
    }

    #[test]
    fn a_name_is_matched_as_it_stands() {
        assert_eq!(escape("a [b] (c) d+"), r"a \[b\] \(c\) d\+");
    }
}
