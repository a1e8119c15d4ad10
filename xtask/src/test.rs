//! `cargo xtask test`: formatting, lints, import directions, then the four rings of tests.
mod machines;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
pub use machines::HostilePods;

use crate::artifacts::cargo;
use crate::checks::CHECKS;
use crate::{cni, fuzz, heavy, host};

/// Arguments of `test`.
#[derive(Debug, Default, Clone, clap::Args)]
pub struct Arguments {
    /// Only tests whose name contains this. `stock-kubelet` is the ring of that name.
    #[arg(long)]
    only: Option<String>,
    /// Only this ring.
    #[arg(long, value_enum)]
    ring: Option<Ring>,
    /// How often the cluster's stories repeat what they repeat: 20 is the full campaign; with 1 the machines only lose their power once.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Machines of the cluster's stories.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    nodes: u8,
    /// Uses the cluster that the last such run left (of ring cluster or stock-kubelet), and leaves it running, without Kubernetes' specs: for writing
    /// stories.
    #[arg(long)]
    reuse: bool,
    /// Boots this image folder (with `image.json`) in the QEMU rings instead of building one.
    #[arg(long)]
    image: Option<PathBuf>,
}

/// The name of [`Ring::StockKubelet`].
const STOCK_KUBELET: &str = "stock-kubelet";

/// Where a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Ring {
    /// Pure functions; also formatting, lints and import directions.
    Unit,
    /// Every fuzz target for ten seconds, as many at once as there are processors.
    Fuzz,
    /// As root on the host, in namespaces.
    Host,
    /// In virtual machines.
    Qemu,
    /// Every format of the OS booted to a Ready node. Only when asked for: an hour without KVM.
    Transports,
    /// The last commit built twice, with the same bytes. Only when asked for: two whole builds.
    Reproducible,
    /// In a cluster of virtual machines, which the stories share; at the end a handful of Kubernetes' own specs.
    Cluster,
    /// A stock kubelet on our runtime, on a node of a cluster of virtual machines. Only when asked for: ten minutes without KVM.
    StockKubelet,
}

impl Arguments {
    /// `--only stock-kubelet` is `--ring stock-kubelet`.
    fn with_ring_of_its_name(mut self) -> Self {
        if self.ring.is_none() && self.only.as_deref() == Some(STOCK_KUBELET) {
            (self.ring, self.only) = (Some(Ring::StockKubelet), None);
        }
        self
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
    /// Cases of the QEMU rings that ran a second time, for a fault of the emulator.
    repeated: usize,
}

impl Counts {
    const fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.repeated += other.repeated;
    }
}

/// Runs the tests and prints the closing line.
///
/// # Errors
/// When a test failed.
pub fn test(arguments: &Arguments) -> Result<()> {
    let arguments = &arguments.clone().with_ring_of_its_name();
    host::prepare()?;
    let wanted = |ring| arguments.ring.is_none_or(|only| only == ring);
    let ahead = machines::Ahead::start(wanted(Ring::Cluster) && arguments.only.is_none() && !arguments.reuse);
    let mut counts = Counts::default();
    let mut compiler = if arguments.only.is_none() { Compiler::Clippy } else { Compiler::Rustc };
    if wanted(Ring::Unit) {
        if arguments.only.is_none() {
            let checks = checks()?;
            // Faults that clippy finds would keep the tests from being compiled by it.
            compiler = if checks.failed == 0 { Compiler::Clippy } else { Compiler::Rustc };
            counts.add(checks);
        }
        counts.add(cargo_test(compiler, arguments.only.as_deref(), false, &[])?);
    }
    if wanted(Ring::Fuzz) {
        let (passed, failed) = fuzz::ring(arguments.only.as_deref(), fuzz::RING_SECONDS)?;
        counts.add(Counts { passed, failed, ..Counts::default() });
    }
    if wanted(Ring::Host) {
        if nix::unistd::geteuid().is_root() {
            counts.add(cargo_test(compiler, arguments.only.as_deref(), true, &[])?);
        } else {
            println!("SKIPPED  the host ring: it needs root");
            counts.skipped += 1;
        }
    }
    if wanted(Ring::Qemu) || wanted(Ring::Cluster) {
        counts.add(machines::run(arguments, wanted(Ring::Qemu), wanted(Ring::Cluster), ahead)?);
    }
    match arguments.ring {
        Some(Ring::StockKubelet) => counts.add(machines::stock_kubelet(arguments)?),
        Some(Ring::Transports) => {
            let mut command = heavy::transports(arguments.only.as_deref(), arguments.image.as_deref())?;
            counts.add(machines::cases(&mut command, "transports: ")?);
        }
        Some(Ring::Reproducible) => {
            let (same, different) = heavy::reproducible()?;
            counts.add(Counts { passed: same, failed: different.len(), ..Counts::default() });
        }
        _ => {}
    }
    let Counts { passed, failed, skipped, repeated } = counts;
    println!("{passed} passed, {failed} failed, {skipped} skipped, {repeated} repeated");
    if counts.failed > 0 {
        bail!("{} tests failed", counts.failed);
    }
    Ok(())
}

/// Runs those of the host ring whose name contains `only`, with settings in their environment.
///
/// # Errors
/// When one failed, or none is called so.
pub fn host_ring(only: &str, settings: &[(&str, String)]) -> Result<()> {
    let counts = cargo_test(Compiler::Rustc, Some(only), true, settings)?;
    ensure!(counts.failed == 0, "{} tests failed", counts.failed);
    ensure!(counts.passed > 0, "no test of the host ring is called {only:?}");
    Ok(())
}

/// The campaign of hostile pods.
///
/// # Errors
/// When a node did not stand one of them.
pub fn hostile_pods(arguments: &HostilePods) -> Result<()> {
    let counts = machines::hostile_pods(arguments)?;
    ensure!(counts.failed == 0, "{} kinds of hostile pods did harm", counts.failed);
    Ok(())
}

/// What is checked without running anything.
fn checks() -> Result<Counts> {
    let mut counts = Counts::default();
    let mut check = |name: &str, result: Result<()>| match result {
        Ok(()) => counts.passed += 1,
        Err(fault) => {
            println!("FAILED   {name}: {fault:#}");
            counts.failed += 1;
        }
    };
    for (name, run) in CHECKS {
        check(name, run());
    }
    check("formatting", succeed(cargo().args(["fmt", "--all", "--check"])));
    let mut lints = Compiler::Clippy.cargo()?;
    lints.args(["test", "--quiet", "--locked", "--workspace", "--all-targets", "--no-run"]);
    check("lints", succeed(&mut lints));
    Ok(counts)
}

/// Who compiles the workspace's own crates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compiler {
    Rustc,
    /// As `cargo clippy` does, but not only to check: what it made is run, so that a fresh clone compiles dependencies and tests once instead of twice.
    Clippy,
}

impl Compiler {
    fn cargo(self) -> Result<Command> {
        let mut command = cargo();
        if self == Self::Clippy {
            let driver = Path::new(command.get_program()).with_file_name("clippy-driver");
            ensure!(driver.exists(), "{} is missing; run `rustup component add clippy`", driver.display());
            command.env("RUSTC_WORKSPACE_WRAPPER", driver);
            // `-D warnings`; every argument is followed by this word.
            command.env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
        }
        Ok(command)
    }
}

/// Test executables are told apart by their file: `tests/host*.rs` are the host ring, all others the unit ring.
fn cargo_test(
    compiler: Compiler,
    only: Option<&str>,
    host_ring: bool,
    settings: &[(&str, String)],
) -> Result<Counts> {
    let mut command = compiler.cargo()?;
    command.envs(settings.iter().map(|(name, value)| (name, value)));
    // The unit tests are named for both rings: cargo chooses features by what is built, and would build everything once more for the host ring alone.
    command.args(["test", "--locked", "--workspace", "--no-fail-fast", "--lib", "--bins"]);
    if host_ring {
        if !has_host_tests()? {
            return Ok(Counts::default());
        }
        command.args(["--test", "host*"]);
    }
    command.arg("--");
    command.args(only);
    if host_ring {
        // They share the host's kernel. No unit test has a name without the empty text in it.
        command.args(["--test-threads=1", "--skip", ""]);
        match cni::plugins() {
            Ok(folder) => drop(command.env("PINTLE_CNI_PLUGINS", folder)),
            Err(error) => println!("no CNI plugins for the host ring: {error:#}"),
        }
    }
    let name = if host_ring { "host" } else { "unit" };
    let start = Instant::now();
    let done = command.stderr(Stdio::inherit()).output().context("run cargo test")?;
    let text = String::from_utf8_lossy(&done.stdout);
    let mut counts = Counts::default();
    text.lines().filter_map(result_line).for_each(|each| counts.add(each));
    // What a program of tests did not run at all is missing from its own counts.
    for line in text.lines().filter(|line| line.starts_with("SKIPPED")) {
        println!("{line}");
        counts.skipped += 1;
    }
    if !done.status.success() {
        println!("{text}");
        failures(&text).for_each(|name| println!("FAILED   {name}"));
        // A program that does not compile or crashes prints no result.
        counts.failed = counts.failed.max(1);
    }
    let Counts { passed, failed, skipped, .. } = counts;
    println!("{name}: {passed} passed, {failed} failed, {skipped} skipped ({} s)", start.elapsed().as_secs());
    Ok(counts)
}

fn has_host_tests() -> Result<bool> {
    for member in std::fs::read_dir(host::workspace())? {
        let Ok(tests) = std::fs::read_dir(member?.path().join("tests")) else { continue };
        if tests.flatten().any(|file| file.file_name().to_string_lossy().starts_with("host")) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn succeed(command: &mut Command) -> Result<()> {
    let done = command.status().with_context(|| format!("run {:?}", command.get_program()))?;
    ensure!(
        done.success(),
        "{:?} {:?} failed",
        command.get_program(),
        command.get_args().collect::<Vec<_>>()
    );
    Ok(())
}

/// The names of tests that libtest says failed.
fn failures(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"))
}

/// A line of libtest, `test result: ok. 3 passed; 0 failed; 1 ignored; …`, or of a test program of our own, `3 passed, 0 failed`.
fn result_line(line: &str) -> Option<Counts> {
    match line.strip_prefix("test result: ") {
        Some(result) => counts_of(result.split_once(". ")?.1),
        None if line.contains(" passed, ") => counts_of(line),
        None => None,
    }
}

fn counts_of(text: &str) -> Option<Counts> {
    let mut counts = Counts::default();
    for part in text.split([';', ',']) {
        let (number, what) = part.trim().split_once(' ')?;
        match what {
            "passed" => counts.passed = number.parse().ok()?,
            "failed" => counts.failed = number.parse().ok()?,
            "repeated" => counts.repeated = number.parse().ok()?,
            "ignored" | "skipped" => counts.skipped = number.parse().ok()?,
            _ => {}
        }
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stock_kubelet_s_ring_has_its_name() {
        use clap::ValueEnum;
        let value = Ring::StockKubelet.to_possible_value().unwrap();
        assert_eq!(value.get_name(), STOCK_KUBELET);
    }

    #[test]
    fn counts_are_read_from_both_kinds_of_line() {
        let line = "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 9 filtered out; finished in 0.01s";
        assert_eq!(result_line(line), Some(Counts { passed: 3, failed: 1, skipped: 2, repeated: 0 }));
        assert_eq!(
            counts_of("4 passed, 0 failed, 1 skipped, 2 repeated"),
            Some(Counts { passed: 4, failed: 0, skipped: 1, repeated: 2 })
        );
        assert_eq!(result_line("11 passed, 0 failed"), Some(Counts { passed: 11, ..Counts::default() }));
        assert_eq!(result_line("running 3 tests"), None);
    }
}
