//! Runs the QEMU cases; `cargo xtask test` builds what they need and calls this.
mod bench;
mod cases;
mod recording;
mod report;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench::Bench;
use cases::cluster::{STORIES, Stage, Story, Wanted};
use cases::{CASES, hostile, stock_kubelet};
use qemu_tests::cluster::Programs;
use qemu_tests::transports::{TRANSPORTS, Tools};
use report::{Report, attempt};

const USAGE: &str = "usage: qemu-tests names --ring machine|cluster|transports
       qemu-tests machine --image DIR --artifacts DIR [--pintle FILE --inspector FILE] [--only NAME]
       qemu-tests cluster --image DIR --artifacts DIR --pintle FILE --kubectl FILE --inspector FILE [--nodes N] [--rounds N] [--mirror URL] [--reuse yes] [--keep yes] [--only NAME]
       qemu-tests stock-kubelet … as cluster
       qemu-tests hostile-pods … as cluster, with [--seconds N] [--minutes N]
       qemu-tests transports --image DIR --artifacts DIR --pintle FILE --kubectl FILE --image-builder FILE [--only NAME]
       qemu-tests record --image DIR --artifacts DIR --pintle FILE --inspector FILE
       qemu-tests replay --recording DIR --number N --seed N --disk FILE";

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("{fault:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the cases and returns how many failed.
fn run() -> Result<usize> {
    let mut words = std::env::args().skip(1);
    let ring = words.next().context(USAGE)?;
    let mut options = HashMap::new();
    while let Some(word) = words.next() {
        let Some(name) = word.strip_prefix("--") else { bail!(USAGE) };
        options.insert(name.to_owned(), words.next().context(USAGE)?);
    }
    let report = match ring.as_str() {
        "names" => {
            names(options.get("ring").map(String::as_str))?.iter().for_each(|name| println!("{name}"));
            return Ok(0);
        }
        "machine" => machines(&options)?,
        "cluster" => stories(&options, &CLUSTER)?,
        "stock-kubelet" => stories(&options, &STOCK_KUBELET)?,
        "hostile-pods" => hostile_pods(&options)?,
        "transports" => transports(&options)?,
        "record" => return record(&options).map(|()| 0),
        "replay" => return replay(&options).map(|()| 0),
        _ => bail!(USAGE),
    };
    println!("{}", report.close(&ring));
    Ok(report.failed)
}

/// What can be asked for by `--only`.
fn names(ring: Option<&str>) -> Result<Vec<&'static str>> {
    Ok(match ring {
        Some("machine") => CASES.iter().map(|case| case.name).collect(),
        Some("cluster") => STORIES.iter().map(|story| story.name).collect(),
        Some("transports") => TRANSPORTS.iter().map(|transport| transport.name).collect(),
        _ => bail!(USAGE),
    })
}

type Options = HashMap<String, String>;

fn path(options: &Options, name: &str) -> Result<PathBuf> {
    options.get(name).map(PathBuf::from).with_context(|| format!("--{name} is missing\n{USAGE}"))
}

fn is_wanted(options: &Options, name: &str) -> bool {
    options.get("only").is_none_or(|only| name.contains(only.as_str()))
}

/// A log of what a machine writes to its disk, in a folder that stays.
fn record(options: &Options) -> Result<()> {
    let tools = bench::Tools { pintle: path(options, "pintle")?, inspector: path(options, "inspector")? };
    let bench = Bench::new(&path(options, "image")?, &path(options, "artifacts")?, Some(tools))?;
    recording::record(&bench)
}

/// A disk as a power cut leaves it.
fn replay(options: &Options) -> Result<()> {
    let number =
        |name: &str| -> Result<u64> { options.get(name).and_then(|text| text.parse().ok()).context(USAGE) };
    let (folder, disk) = (path(options, "recording")?, path(options, "disk")?);
    println!("{}", recording::replay(&folder, number("number")? as usize, number("seed")?, &disk)?);
    Ok(())
}

/// The cases with machines of their own.
fn machines(options: &Options) -> Result<Report> {
    let (image, artifacts) = (path(options, "image")?, path(options, "artifacts")?);
    let tools = match (path(options, "pintle"), path(options, "inspector")) {
        (Ok(pintle), Ok(inspector)) => Some(bench::Tools { pintle, inspector }),
        _ => None,
    };
    let mut report = Report::default();
    for case in CASES.iter().filter(|case| is_wanted(options, case.name)) {
        let folder = artifacts.join(case.name);
        let mut bench = Bench::new(&image, &folder, tools.clone())?;
        let mut tried = attempt(|| (case.run)(&bench));
        if tried.0.is_err() && bench.emulator_failed() {
            println!("AGAIN    {}: QEMU before 8.1 let the kernel run into a stale breakpoint", case.name);
            report.repeated += 1;
            let first = bench.set_aside()?;
            println!("  its first console and disks: {}", first.display());
            bench = Bench::new(&image, &folder, tools.clone())?;
            tried = attempt(|| (case.run)(&bench));
        }
        if report.add(case.name, tried) {
            bench.discard()?;
        } else {
            println!("{}", bench.last_words().trim_end());
            bench.keep();
            println!("  console log and disks: {}", bench.folder.display());
        }
    }
    Ok(report)
}

/// Every format of the OS, booted to Ready.
fn transports(options: &Options) -> Result<Report> {
    let tools = Tools {
        image_builder: path(options, "image-builder")?,
        parts: path(options, "image")?,
        programs: Programs { pintle: path(options, "pintle")?, kubectl: path(options, "kubectl")? },
    };
    let artifacts = path(options, "artifacts")?;
    let mut report = Report::default();
    for transport in TRANSPORTS.iter().filter(|transport| is_wanted(options, transport.name)) {
        let folder = artifacts.join(transport.name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("empty {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder)?;
        let tried = attempt(|| transport.run(&tools, &folder).map(|()| cases::Outcome::Passed));
        if report.add(transport.name, tried) {
            std::fs::remove_dir_all(&folder)?;
        } else {
            println!("  console log and disks: {}", folder.display());
        }
    }
    Ok(report)
}

/// Stories with the cluster that they share.
struct Play {
    /// The cluster's folder.
    folder: &'static str,
    start: fn(&Wanted) -> Result<Stage>,
    /// What the first story is called: everything until the nodes are Ready and looked into.
    first: &'static str,
    prepare: fn(&Stage, &Path) -> Result<()>,
    stories: &'static [Story],
}

const CLUSTER: Play = Play {
    folder: "cluster",
    start: Stage::start,
    first: "a_cluster_boots_and_its_nodes_are_ready",
    prepare: Stage::prepare,
    stories: STORIES,
};

const STOCK_KUBELET: Play = Play {
    folder: "stock-kubelet",
    start: stock_kubelet::start,
    first: "a_stock_kubelet_registers_its_node",
    prepare: stock_kubelet::prepare,
    stories: stock_kubelet::STORIES,
};

/// The stories that share a cluster.
fn stories(options: &Options, play: &Play) -> Result<Report> {
    let mut report = Report::default();
    let stories: Vec<_> = play.stories.iter().filter(|story| is_wanted(options, story.name)).collect();
    if stories.is_empty() {
        return Ok(report);
    }
    let artifacts = path(options, "artifacts")?;
    let wanted = wanted(options, &artifacts.join(play.folder))?;
    let mut stage = (play.start)(&wanted)?;
    let ready = report.add(
        play.first,
        attempt(|| (play.prepare)(&stage, &wanted.inspector).map(|()| cases::Outcome::Passed)),
    );
    if !ready {
        keep(&stage, &artifacts.join(play.first))?;
    }
    for story in stories.into_iter().filter(|_| ready) {
        if !report.add(story.name, attempt(|| (story.run)(&mut stage))) {
            keep(&stage, &artifacts.join(story.name))?;
        }
    }
    drop(stage);
    if report.failed == 0 && !wanted.keep {
        std::fs::remove_dir_all(&wanted.folder)?;
    }
    Ok(report)
}

/// Hostile pods, each kind for some seconds, then all of a group for some minutes.
fn hostile_pods(options: &Options) -> Result<Report> {
    let number = |name: &str, default: u64| options.get(name).map_or(Ok(default), |text| text.parse());
    let times = hostile::Times {
        alone: Duration::from_secs(number("seconds", 60)?),
        together: Duration::from_secs(60 * number("minutes", 10)?),
    };
    let artifacts = path(options, "artifacts")?;
    let wanted = wanted(options, &artifacts.join("hostile-pods"))?;
    let mut report = Report::default();
    let stage = Stage::start(&wanted)?;
    let prepared = attempt(|| stage.prepare(&wanted.inspector).map(|()| cases::Outcome::Passed));
    if report.add(CLUSTER.first, prepared) {
        hostile::play(&stage, options.get("only").map(String::as_str), times, &mut report)?;
    }
    if report.failed > 0 {
        keep(&stage, &artifacts.join("hostile-pods-failed"))?;
    }
    Ok(report)
}

/// What a stage is made of, by the command line.
fn wanted(options: &Options, folder: &Path) -> Result<Wanted> {
    let number = |name: &str, default: usize| options.get(name).map_or(Ok(default), |text| text.parse());
    Ok(Wanted {
        image: path(options, "image")?,
        programs: Programs { pintle: path(options, "pintle")?, kubectl: path(options, "kubectl")? },
        inspector: path(options, "inspector")?,
        nodes: u8::try_from(number("nodes", 2)?)?,
        rounds: number("rounds", 2)?,
        folder: folder.into(),
        mirror: options.get("mirror").cloned(),
        reuse: options.contains_key("reuse"),
        keep: options.contains_key("keep"),
    })
}

/// Keeps what helps to understand a failure, and says where.
fn keep(stage: &Stage, folder: &Path) -> Result<()> {
    stage.collect(folder)?;
    println!("  consoles, services' logs, pods and events: {}", folder.display());
    Ok(())
}
