//! One contender, seen from inside its namespaces: it is started, driven, measured, and ends with its pid namespace.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::client::{Client, Pod, Pods, Times};
use super::kind::Kind;
use super::memory::{self, Memory};
use super::processor::processor_time;
use super::story::{self, Story};
use super::{daemon, namespaces};
use crate::bench::figures::Summary;

/// Cycles at the same time.
const LANES: [usize; 2] = [1, 16];

/// Arguments of `bench contender`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long)]
    programs: PathBuf,
    #[arg(long)]
    archive: PathBuf,
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    samples: u32,
    #[arg(long)]
    pods: u32,
    #[arg(long)]
    many: u32,
}

/// What was measured of one contender.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    pub kind: Kind,
    pub cycles: Vec<Cycles>,
    /// Without a pod, after the cycles.
    pub empty: Memory,
    /// With `pods` idle pods.
    pub full: Memory,
    pub pods: u32,
    pub story: Option<Story>,
}

/// Many pods' lives under the same conditions, in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cycles {
    pub seccomp: bool,
    /// At the same time.
    pub lanes: usize,
    /// Pods per second, from sandbox to removal.
    pub per_second: f64,
    /// Processor time of a pod's life in milliseconds, the driver's own part included.
    pub processor: f64,
    pub steps: BTreeMap<String, Summary>,
}

/// Drives a contender; as PID 1 of the namespaces it only reaps.
///
/// # Errors
/// When the contender does not work.
pub fn main(arguments: &Arguments) -> Result<()> {
    if !namespaces::is_driver() {
        if std::process::id() != 1 {
            bail!("`bench contender` runs in namespaces that `bench runtime` makes");
        }
        let code = namespaces::reap()?;
        return if code == std::process::ExitCode::SUCCESS { Ok(()) } else { bail!("the driver failed") };
    }
    namespaces::prepare()?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = tokio.block_on(measure(arguments))?;
    std::fs::write(arguments.folder.join("result.json"), serde_json::to_vec_pretty(&measured)?)?;
    Ok(())
}

async fn measure(arguments: &Arguments) -> Result<Measured> {
    let daemon =
        daemon::start(arguments.kind, &arguments.programs, &arguments.archive, &arguments.folder).await?;
    let mut cycles = Vec::new();
    for seccomp in [false, true] {
        for lanes in LANES {
            let pods = Pods { seccomp };
            let warm_up = (arguments.samples as usize / 10).max(lanes);
            drive(&daemon.client, pods, lanes, warm_up).await?;
            cycles.push(drive(&daemon.client, pods, lanes, arguments.samples as usize).await?);
        }
    }
    let apart = [1, std::process::id().cast_signed()];
    let empty = memory::measure(daemon.pid(), &[], &apart)?;
    let mut client = daemon.client.clone();
    let mut idle = Vec::new();
    for number in 0..arguments.pods {
        idle.push(
            client.start(&format!("idle{number}"), Pods { seccomp: true }, &mut Times::default()).await?,
        );
    }
    let pids = client.pids(&idle).await?;
    let full = memory::measure(daemon.pid(), &pids, &apart)?;
    end(&mut client, idle).await?;
    let story = match arguments.many {
        0 => None,
        many => Some(story::tell(&mut client, many).await?),
    };
    Ok(Measured { kind: arguments.kind, cycles, empty, full, pods: arguments.pods, story })
}

async fn end(client: &mut Client, pods: Vec<Pod>) -> Result<()> {
    for pod in pods {
        client.end(pod, &mut Times::default()).await?;
    }
    Ok(())
}

/// `count` pods' lives, `lanes` at a time.
async fn drive(client: &Client, pods: Pods, lanes: usize, count: usize) -> Result<Cycles> {
    let clock = std::time::Instant::now();
    let before = processor_time()?;
    let tasks: Vec<_> = (0..lanes)
        .map(|lane| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let mut all = Vec::new();
                for turn in (lane..count).step_by(lanes) {
                    let (name, mut times) = (format!("pod{turn}"), Times::default());
                    let pod = client.start(&name, pods, &mut times).await?;
                    client.exec(&pod, &mut times).await?;
                    client.end(pod, &mut times).await?;
                    all.push(times);
                }
                anyhow::Ok(all)
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.extend(task.await.context("a lane ended early")??);
    }
    Ok(Cycles {
        seccomp: pods.seccomp,
        lanes,
        per_second: count as f64 / clock.elapsed().as_secs_f64(),
        processor: (processor_time()? - before) / count as f64,
        steps: steps(&all),
    })
}

/// The sums that targets are set for, and their parts.
fn steps(all: &[Times]) -> BTreeMap<String, Summary> {
    type Step = (&'static str, fn(&Times) -> Duration);
    const STEPS: [Step; 8] = [
        ("sandbox", |t| t.sandbox),
        ("create", |t| t.create),
        ("start", |t| t.start),
        ("create+start", |t| t.create + t.start),
        ("sandbox+create+start", |t| t.sandbox + t.create + t.start),
        ("exec", |t| t.exec),
        ("stop", |t| t.stop),
        ("stop+remove", |t| t.stop + t.remove),
    ];
    STEPS
        .iter()
        .map(|(name, of)| {
            let samples: Vec<Duration> = all.iter().map(of).collect();
            ((*name).to_owned(), Summary::of(&samples))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_of_each_pod() {
        let milliseconds = Duration::from_millis;
        let pod = |sandbox, start| Times {
            sandbox: milliseconds(sandbox),
            start: milliseconds(start),
            ..Times::default()
        };
        let steps = steps(&[pod(10, 1), pod(1, 10), pod(3, 3)]);
        assert_eq!((steps["sandbox"].median, steps["start"].median), (3.0, 3.0));
        assert_eq!(steps["sandbox+create+start"].median, 11.0);
    }
}
