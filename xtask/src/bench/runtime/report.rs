//! The contenders side by side.
use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value, json};

use super::contender::{Cycles, Measured};
use super::kind::Kind;
use crate::bench::figures::{megabytes, number, table};

/// A step of the table, with what is aimed at.
struct Step {
    name: &'static str,
    /// Ours takes at most this part of what containerd with runc takes.
    part: Option<f64>,
    /// Ours takes at most so many milliseconds.
    most: Option<f64>,
}

const STEPS: [Step; 5] = [
    Step { name: "sandbox", part: Some(0.2), most: None },
    Step { name: "create+start", part: Some(0.2), most: None },
    Step { name: "sandbox+create+start", part: Some(0.2), most: Some(15.0) },
    Step { name: "exec", part: Some(0.2), most: Some(4.0) },
    Step { name: "stop+remove", part: None, most: None },
];
/// Megabytes beyond the user's process.
const PER_POD: f64 = 0.3;
const DAEMON: f64 = 15.0;
/// How many times longer a pod may take at most when there are many.
const MOST_GROWTH: f64 = 1.5;

/// Everything, for programs.
///
/// # Errors
/// When a figure is none.
pub fn json(machine: &str, measured: &[Measured]) -> Result<String> {
    let of = |kind| measured.iter().find(|one: &&Measured| one.kind == kind);
    let ratios: Vec<Value> = match (of(Kind::Pintle), of(Kind::Runc)) {
        (Some(ours), Some(peer)) => ours
            .cycles
            .iter()
            .flat_map(|cycles| {
                STEPS.iter().filter_map(move |Step { name, part, .. }| {
                    let ratio = ratio(cycles, peer, name)?;
                    Some(json!({"step": name, "seccomp": cycles.seccomp, "lanes": cycles.lanes,
                        "ofRunc": ratio, "target": part}))
                })
            })
            .collect(),
        _ => Vec::new(),
    };
    Ok(serde_json::to_string_pretty(&json!({
        "machine": machine, "contenders": measured, "ratios": ratios,
        "targets": {"sandbox+create+start": 15.0, "exec": 4.0, "megabytesPerPod": PER_POD, "daemonMegabytes": DAEMON},
    }))?)
}

fn ratio(ours: &Cycles, peer: &Measured, step: &str) -> Option<f64> {
    let theirs =
        peer.cycles.iter().find(|cycles| (cycles.seccomp, cycles.lanes) == (ours.seccomp, ours.lanes))?;
    let theirs = theirs.steps.get(step)?.median;
    (theirs > 0.0).then(|| ours.steps[step].median / theirs)
}

/// Everything, for people.
pub fn text(machine: &str, measured: &[Measured]) -> String {
    let mut text = format!("{machine}\nmilliseconds, median (90th percentile)\n\n");
    let Some(first) = measured.first() else { return text };
    let mut headings = vec!["step"];
    headings.extend(measured.iter().map(|one| one.kind.title()));
    headings.extend(["of runc", "target"]);
    for (index, cycles) in first.cycles.iter().enumerate() {
        let seccomp = if cycles.seccomp { "RuntimeDefault" } else { "no seccomp" };
        let _ = writeln!(text, "{seccomp}, {} at a time, {} pods", cycles.lanes, cycles.steps["exec"].count);
        let mut rows: Vec<Vec<String>> =
            STEPS.iter().map(|step| row(step, cycles.lanes, index, measured)).collect();
        let mut throughput = vec!["pods per second".to_owned()];
        throughput.extend(measured.iter().map(|one| number(one.cycles[index].per_second)));
        rows.push(throughput);
        let mut processor = vec!["processor time of a pod".to_owned()];
        processor.extend(measured.iter().map(|one| number(one.cycles[index].processor)));
        rows.push(processor);
        text += &table(&headings, &rows);
        text.push('\n');
    }
    text += &memory(measured);
    text += &story(measured);
    text
}

fn row(step: &Step, lanes: usize, index: usize, measured: &[Measured]) -> Vec<String> {
    let Step { name, part, most } = *step;
    let mut row = vec![name.to_owned()];
    row.extend(measured.iter().map(|one| {
        let summary = &one.cycles[index].steps[name];
        format!("{} ({})", number(summary.median), number(summary.p90))
    }));
    let of = |kind| measured.iter().find(|one: &&Measured| one.kind == kind);
    let ratio =
        of(Kind::Pintle).zip(of(Kind::Runc)).and_then(|(ours, peer)| ratio(&ours.cycles[index], peer, name));
    row.push(ratio.map_or_else(String::new, |ratio| format!("1/{}", number(1.0 / ratio))));
    // Absolute targets are for one pod at a time.
    let most = most.filter(|_| lanes == 1).map(|most| format!("{} ms", number(most)));
    let part = part.map(|part| format!("1/{}", 1.0 / part));
    row.push(part.into_iter().chain(most).collect::<Vec<_>>().join(", "));
    row
}

fn memory(measured: &[Measured]) -> String {
    let pods = measured.first().map_or(0, |one| one.pods);
    let mut headings = vec!["megabytes of PSS"];
    headings.extend(measured.iter().map(|one| one.kind.title()));
    headings.push("target");
    let figure = |name: &str, target: &str, of: &dyn Fn(&Measured) -> f64| {
        let mut row = vec![name.to_owned()];
        row.extend(measured.iter().map(|one| format!("{:.2}", of(one))));
        row.push(target.to_owned());
        row
    };
    let per_pod = |one: &Measured, bytes: u64| megabytes(bytes) / f64::from(one.pods.max(1));
    let rows = [
        figure("daemon, no pod", "", &|one| megabytes(one.empty.daemon)),
        figure(&format!("daemon, {pods} pods"), &format!("{DAEMON}"), &|one| megabytes(one.full.daemon)),
        figure("a pod's shim and pause", "", &|one| per_pod(one, one.full.helpers)),
        figure("a pod in all, beyond its process", &format!("{PER_POD}"), &|one| {
            per_pod(one, one.full.helpers + one.full.daemon.saturating_sub(one.empty.daemon))
        }),
        figure("a pod's process", "", &|one| per_pod(one, one.full.containers)),
    ];
    format!("{}\n", table(&headings, &rows))
}

fn story(measured: &[Measured]) -> String {
    let Some(story) = measured.iter().find_map(|one| one.story.as_ref()) else { return String::new() };
    let list = |all: &[crate::bench::figures::Summary]| {
        all.iter().map(|summary| number(summary.median)).collect::<Vec<_>>().join(", ")
    };
    let left: Vec<String> = story.left.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    format!(
        "{} pods at once: start {} ms a pod, by the hundred (last to first {:.2}, target at most {MOST_GROWTH}), \
         of the processor {} ms (last to first {:.2}); end {} ms; left behind: {}\n",
        story.pods,
        list(&story.start),
        story.growth(),
        story.processor.iter().map(|milliseconds| number(*milliseconds)).collect::<Vec<_>>().join(", "),
        story.processor_growth(),
        list(&story.end),
        if left.is_empty() { "nothing".into() } else { left.join(", ") }
    )
}
