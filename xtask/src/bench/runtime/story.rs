//! Many pods on one node: whether the last ones take longer than the first, and what is left when they are gone.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use qemu_tests::command::command_output;
use serde::{Deserialize, Serialize};

use super::client::{Client, Pods, Times};
use super::processor::processor_time;
use crate::bench::figures::Summary;

/// Pods that are summed up together.
const GROUP: usize = 100;
/// How long what is left may take to go.
const SETTLE: Duration = Duration::from_secs(10);

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Story {
    pub pods: u32,
    /// Milliseconds per pod, of each hundred in turn.
    pub start: Vec<Summary>,
    pub end: Vec<Summary>,
    /// Milliseconds of processor time per pod started, of each hundred in turn: what a busy machine changes least.
    pub processor: Vec<f64>,
    /// What there is more of than before, by kind.
    pub left: BTreeMap<String, i64>,
}

impl Story {
    /// How many times longer a pod of the last hundred took than one of the first.
    pub fn growth(&self) -> f64 {
        growth(&self.start.iter().map(|summary| summary.median).collect::<Vec<_>>())
    }

    /// How many times more processor time it took.
    pub fn processor_growth(&self) -> f64 {
        growth(&self.processor)
    }

    /// What is left of the pods, in words; none when nothing is.
    pub fn traces(&self) -> Option<String> {
        let left: Vec<String> = self.left.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        (!left.is_empty()).then(|| format!("{} pods left behind: {}", self.pods, left.join(", ")))
    }
}

/// The last figure in terms of the first.
fn growth(figures: &[f64]) -> f64 {
    match figures {
        [first, .., last] if *first > 0.0 => last / first,
        _ => 1.0,
    }
}

/// Starts them, ends them, looks around.
///
/// # Errors
/// When a call fails.
pub async fn tell(client: &mut Client, count: u32) -> Result<Story> {
    let before = traces()?;
    let (mut pods, mut starts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    let (mut processor, mut used) = (Vec::new(), processor_time()?);
    for number in 0..count {
        let clock = Instant::now();
        pods.push(
            client.start(&format!("many{number}"), Pods { seccomp: true }, &mut Times::default()).await?,
        );
        starts.push(clock.elapsed());
        if starts.len().is_multiple_of(GROUP) {
            let now = processor_time()?;
            processor.push((now - used) / GROUP as f64);
            used = now;
        }
    }
    for pod in pods {
        let clock = Instant::now();
        client.end(pod, &mut Times::default()).await?;
        ends.push(clock.elapsed());
    }
    let start = Instant::now();
    let left = loop {
        let left = more(&before, &traces()?);
        if left.is_empty() || start.elapsed() > SETTLE {
            break left;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let summaries = |all: &[Duration]| all.chunks(GROUP).map(Summary::of).collect();
    Ok(Story { pods: count, start: summaries(&starts), end: summaries(&ends), processor, left })
}

/// Counts of everything a pod consists of.
fn traces() -> Result<BTreeMap<String, i64>> {
    let lines = |text: String| text.lines().count() as i64;
    let mut counts = BTreeMap::new();
    counts.insert("mounts".into(), lines(fs::read_to_string("/proc/self/mountinfo")?));
    counts.insert("links".into(), lines(command_output(Command::new("ip").args(["-o", "link"]))?));
    counts.insert(
        "nftables lines".into(),
        lines(command_output(Command::new("nft").args(["list", "ruleset"]))?),
    );
    counts.insert("cgroups".into(), folders(Path::new("/sys/fs/cgroup")));
    let processes = fs::read_dir("/proc")?.flatten();
    let processes = processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    counts.insert("processes".into(), processes.count() as i64);
    for folder in [machine::paths::RUNTIME_RUN, machine::paths::RUNTIME_STATE] {
        counts.insert(format!("entries below {folder}"), entries(Path::new(folder)));
    }
    Ok(counts)
}

/// Kinds of which there are more. Pods' parent cgroups are the agent's to remove.
fn more(before: &BTreeMap<String, i64>, after: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    let grown =
        after.iter().map(|(kind, count)| (kind.clone(), count - before.get(kind).copied().unwrap_or(0)));
    grown.filter(|(_, more)| *more > 0).collect()
}

/// cgroups of containers: folders below the pods' own.
fn folders(folder: &Path) -> i64 {
    let children = fs::read_dir(folder).into_iter().flatten().flatten();
    let children = children.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let pod = folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pod"));
    children.map(|child| i64::from(pod) + folders(&child.path())).sum()
}

fn entries(folder: &Path) -> i64 {
    let children = fs::read_dir(folder).into_iter().flatten().flatten();
    children
        .map(|child| {
            1 + if child.file_type().is_ok_and(|kind| kind.is_dir()) { entries(&child.path()) } else { 0 }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_grew_is_left() {
        let counts =
            |mounts, links| BTreeMap::from([("mounts".to_owned(), mounts), ("links".to_owned(), links)]);
        assert_eq!(more(&counts(5, 2), &counts(4, 2)), BTreeMap::new());
        let left = more(&counts(5, 2), &counts(5, 3));
        assert_eq!(left, BTreeMap::from([("links".to_owned(), 1)]));
        let mut story =
            Story { pods: 500, start: Vec::new(), end: Vec::new(), processor: vec![10.0, 11.0, 13.0], left };
        assert_eq!(story.traces().unwrap(), "500 pods left behind: 1 links");
        story.left.clear();
        assert_eq!(story.traces(), None);
        assert_eq!((story.growth(), story.processor_growth()), (1.0, 1.3));
    }
}
