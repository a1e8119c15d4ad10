//! `cargo xtask fuzz`, and the fuzz ring of `cargo xtask test`: libFuzzer around each target of the `fuzz` crate.
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::artifacts::{self, cargo};
use crate::host;

mod merge;
mod run;

pub use run::{RING_SECONDS, ring};

/// Arguments of `fuzz`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A target, as `--list` names it.
    #[arg(required_unless_present_any = ["list", "all"])]
    target: Option<String>,
    /// Every target, as many at once as there are processors, without adding to the repository's corpus.
    #[arg(long, conflicts_with_all = ["target", "list", "minimize", "input"])]
    all: bool,
    /// Names all targets.
    #[arg(long)]
    list: bool,
    /// How long; what is found joins the repository's corpus. With 0 only what earlier runs found does.
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// Also drops inputs of the corpus that others make up for, except those with a name.
    #[arg(long)]
    minimize: bool,
    /// Runs this one input instead, such as one that a run failed at.
    #[arg(long, conflicts_with_all = ["minutes", "minimize"])]
    input: Option<PathBuf>,
}

/// Runs a target by hand.
///
/// # Errors
/// When the target's property does not hold, or something does not build.
pub fn fuzz(arguments: &Arguments) -> Result<()> {
    if arguments.all {
        host::prepare()?;
        let (_, failed) = ring(None, arguments.minutes * 60)?;
        ensure!(failed == 0, "{failed} targets failed");
        return Ok(());
    }
    let Some(name) = arguments.target.as_deref().filter(|_| !arguments.list) else {
        targets()?.iter().for_each(|name| println!("{name}"));
        return Ok(());
    };
    ensure!(targets()?.iter().any(|target| target == name), "there is no target {name}; see --list");
    host::prepare()?;
    let target = Target::new(&build()?, name);
    if let Some(input) = &arguments.input {
        return target.reproduce(input);
    }
    if let Err(failure) = target.run(arguments.minutes * 60) {
        bail!("{failure}");
    }
    target.merge(arguments.minimize)
}

/// Names of all targets.
fn targets() -> Result<Vec<String>> {
    let folder = host::workspace().join("fuzz/targets");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

/// Where everything lies that fuzzing makes.
fn work() -> PathBuf {
    host::target().join("fuzz")
}

/// Builds every target; returns the folder of the programs.
fn build() -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--quiet", "--locked", "--features", "fuzz/libfuzzer"]);
    // Cargo chooses features by what is built, and would build every dependency once more for the targets alone. So this names the
    // workspace, as the tests do, and its examples, of which there are none: they would be built with what tests depend on.
    command.args(["--workspace", "--examples"]);
    for name in targets()? {
        command.args(["--bin", &name]);
    }
    command.env("RUSTC_WORKSPACE_WRAPPER", wrapper()?);
    ensure!(command.status().context("run cargo")?.success(), "building the fuzz targets failed");
    Ok(host::target().join("debug"))
}

/// What instruments the workspace's crates, under a name that follows its text: cargo builds again when the name is another.
fn wrapper() -> Result<PathBuf> {
    let script = host::workspace().join("fuzz/instrument");
    let digest = artifacts::digest(&script)?;
    let path = work().join(format!("instrument-{}", &digest[..16]));
    if !path.exists() {
        std::fs::create_dir_all(work()).with_context(|| format!("make {}", work().display()))?;
        let part = path.with_extension("part");
        std::fs::copy(&script, &part).with_context(|| format!("copy {}", script.display()))?;
        std::fs::rename(&part, &path)?;
    }
    Ok(path)
}

/// One target with its files.
#[derive(Debug)]
struct Target {
    name: String,
    program: PathBuf,
    /// In the repository.
    corpus: PathBuf,
    /// Inputs that failed once, in the repository.
    regressions: PathBuf,
    /// What runs on this machine found.
    found: PathBuf,
}

impl Target {
    fn new(programs: &Path, name: &str) -> Self {
        let kept = |what: &str| host::workspace().join("fuzz").join(what).join(name);
        Self {
            name: name.to_owned(),
            program: programs.join(name),
            corpus: kept("corpus"),
            regressions: kept("regressions"),
            found: work().join("corpus").join(name),
        }
    }

    /// Words that its inputs are made of, where there is a list.
    fn dictionary(&self) -> Option<OsString> {
        let path = host::workspace().join("fuzz/dictionaries").join(&self.name);
        path.exists().then(|| [OsString::from("-dict="), path.into()].into_iter().collect())
    }
}
