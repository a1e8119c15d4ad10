//! Runs of a target: over what is kept, then for a time over what libFuzzer makes of it.
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};

use super::{Target, build, targets, work};

/// How long each target of the ring runs; `cargo xtask fuzz --all` takes its time.
pub const RING_SECONDS: u64 = 10;
/// What one input may take; a busy machine is slow.
const LIMITS: [&str; 2] = ["-timeout=25", "-rss_limit_mb=1024"];
/// How much of a failed run's output is shown.
const SHOWN: usize = 30;

/// Why a target failed.
#[derive(Debug)]
pub struct Failure {
    target: String,
    input: Option<PathBuf>,
    log: PathBuf,
    output: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, input, log, output } = self;
        writeln!(f, "{output}\nFAILED   {target}: the whole output is in {}", log.display())?;
        match input {
            Some(input) => {
                writeln!(f, "  input: {}", input.display())?;
                write!(f, "  again: cargo xtask fuzz {target} --input {}", input.display())
            }
            None => write!(f, "  no input is to blame"),
        }
    }
}

/// Every target whose name contains `only`, each for some seconds, as many at once as there are processors. Returns how many passed and failed.
///
/// # Errors
/// When they do not build.
pub fn ring(only: Option<&str>, seconds: u64) -> Result<(usize, usize)> {
    let mut names = targets()?;
    names.retain(|name| only.is_none_or(|only| name.contains(only)));
    if names.is_empty() {
        return Ok((0, 0));
    }
    let programs = build()?;
    names.reverse();
    let (left, counts) = (Mutex::new(names), Mutex::new((0, 0)));
    let next = || left.lock().ok()?.pop();
    let run_all = || {
        while let Some(name) = next() {
            let result = Target::new(&programs, &name).run(seconds);
            let Ok(mut counts) = counts.lock() else { return };
            match result {
                Ok(summary) => {
                    counts.0 += 1;
                    println!("ok       {name}: {summary}");
                }
                Err(failure) => {
                    counts.1 += 1;
                    println!("{failure}");
                }
            }
        }
    };
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| (0..processors).for_each(|_| drop(scope.spawn(run_all))));
    let (passed, failed) = *counts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    println!("fuzz: {passed} passed, {failed} failed");
    Ok((passed, failed))
}

impl Target {
    /// Runs over what is kept, then on from there for some seconds; returns a summary.
    pub(super) fn run(&self, seconds: u64) -> Result<String, Failure> {
        self.try_run(seconds).unwrap_or_else(|error| Err(self.failure(None, &work(), format!("{error:#}"))))
    }

    fn try_run(&self, seconds: u64) -> Result<Result<String, Failure>> {
        let logs = work().join("logs");
        let artifacts = work().join("artifacts").join(&self.name);
        for folder in [&logs, &artifacts, &self.found] {
            std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let mut kept = files(&self.regressions)?;
        kept.extend(files(&self.corpus)?);
        ensure!(!kept.is_empty(), "there is no corpus; put inputs into {}", self.corpus.display());
        let log = logs.join(format!("{}.kept.log", self.name));
        let (passed, output) = self.start(&log, |command| {
            command.args(LIMITS).args(&kept);
        })?;
        if !passed {
            let running = output.lines().rev().find_map(|line| line.strip_prefix("Running: "));
            return Ok(Err(self.failure(running.map(PathBuf::from), &log, tail(&output))));
        }
        if seconds == 0 {
            return Ok(Ok(format!("{} kept inputs", kept.len())));
        }
        let before = files(&self.found)?.len();
        let log = logs.join(format!("{}.log", self.name));
        let (passed, output) = self.start(&log, |command| {
            command.args(LIMITS).arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1");
            command.arg(format!("-artifact_prefix={}/", artifacts.display())).args(self.dictionary());
            // What is new goes into the first of them.
            command.arg(&self.found).arg(&self.corpus);
            command.args(self.regressions.exists().then_some(&self.regressions));
        })?;
        if !passed {
            let written = output.lines().find_map(|line| line.split_once("Test unit written to "));
            return Ok(Err(self.failure(written.map(|(_, path)| path.into()), &log, tail(&output))));
        }
        let stat = |name: &str| output.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim();
        let runs = stat("stat::number_of_executed_units:");
        let coverage = last_coverage(&output).unwrap_or("?");
        let new = files(&self.found)?.len().saturating_sub(before);
        Ok(Ok(format!(
            "{} kept inputs, then {runs} runs in {seconds} s, {coverage} edges covered, {new} inputs new",
            kept.len()
        )))
    }

    /// Runs one input in sight.
    pub(super) fn reproduce(&self, input: &Path) -> Result<()> {
        let done = Command::new(&self.program).args(LIMITS).arg(input).status();
        ensure!(done.context("run the target")?.success(), "{} fails", self.name);
        Ok(())
    }

    /// Runs the program with its output in `log`; tells whether it succeeded, and its output.
    pub(super) fn start(&self, log: &Path, add: impl FnOnce(&mut Command)) -> Result<(bool, String)> {
        let file = File::create(log).with_context(|| format!("make {}", log.display()))?;
        let mut command = Command::new(&self.program);
        add(&mut command);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let done = command.status().with_context(|| format!("run {}", self.program.display()))?;
        let output = std::fs::read(log).with_context(|| format!("read {}", log.display()))?;
        Ok((done.success(), String::from_utf8_lossy(&output).into_owned()))
    }

    fn failure(&self, input: Option<PathBuf>, log: &Path, output: String) -> Failure {
        Failure { target: self.name.clone(), input, log: log.to_owned(), output }
    }
}

/// The files of a folder that may not be there, in order.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

/// From the panic on where there is one, otherwise the end.
fn tail(output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let panic = lines.iter().position(|line| line.contains("panicked at"));
    let start = panic.unwrap_or_else(|| lines.len().saturating_sub(SHOWN));
    lines[start..].iter().take(SHOWN).copied().collect::<Vec<_>>().join("\n")
}

/// Of a line such as `#2048 pulse  cov: 312 ft: 855 corp: 60/1003b …`.
fn last_coverage(output: &str) -> Option<&str> {
    output.lines().rev().find_map(|line| line.split_once(" cov: ")?.1.split(' ').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_runs_output_is_shown_from_the_panic_on() {
        let output =
            "#1 INITED cov: 10 ft: 12\n#9 NEW cov: 11 ft: 14\nthread 'main' panicked at x.rs:1:1:\nleft";
        assert_eq!(tail(output), "thread 'main' panicked at x.rs:1:1:\nleft");
        assert_eq!(last_coverage(output), Some("11"));
        let long = "line\n".repeat(100);
        assert_eq!(tail(&long).lines().count(), SHOWN);
    }
}
