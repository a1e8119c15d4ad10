//! The figures of a boot beside their targets and the peer's: kubelet 1.37.2, containerd 2.4.2 and runc 1.5.2 on Debian's kernel, measured in
//! the same QEMU with TCG, two processors, as one node with the control plane.
use std::collections::BTreeMap;

use super::processes::{NODE, sum};
use super::{Boot, Figures};
use crate::bench::figures::{megabytes, number, table};

const COLUMNS: [&str; 5] = ["what", "unit", "Pintle", "target", "peer"];

/// Everything, for people.
pub fn text(figures: &Figures) -> String {
    let head = format!("host: {}\nmachines: {}\n\n", figures.machine, figures.accel);
    head + &table(&COLUMNS, &rows(figures))
}

/// Everything, for programs: the table's rows, and what they are made of.
///
/// # Errors
/// When a figure is no number that JSON has.
pub fn json(figures: &Figures) -> serde_json::Result<String> {
    let named = |row: Vec<String>| COLUMNS.into_iter().zip(row).collect::<BTreeMap<_, _>>();
    let table: Vec<_> = rows(figures).into_iter().map(named).collect();
    serde_json::to_string_pretty(&serde_json::json!({"table": table, "measured": figures}))
}

fn rows(figures: &Figures) -> Vec<Vec<String>> {
    let mut rows = boots(figures);
    rows.extend(pods(figures));
    rows.extend(usage(figures));
    rows.extend(sizes(figures));
    rows
}

fn row(what: &str, unit: &str, value: f64, target: &str, peer: &str) -> Vec<String> {
    [what, unit, &number(value), target, peer].map(str::to_owned).to_vec()
}

fn boots(figures: &Figures) -> Vec<Vec<String>> {
    let boot = &figures.control_plane;
    let mut rows = vec![
        row("kernel start to PID 1", "s", boot.pid1, "", "3.2"),
        row("PID 1 to runtime up", "s", boot.runtime - boot.pid1, "", ""),
        row("PID 1 to API server ready", "s", since(boot, boot.api_server), "", "35.0"),
        row("PID 1 to Node Ready, control plane", "s", boot.node_ready - boot.pid1, "", "24.1"),
    ];
    if let Some(worker) = &figures.worker {
        let ready = worker.node_ready - worker.pid1;
        rows.push(row("PID 1 to Node Ready, worker's first boot", "s", ready, "4", "20"));
        rows.push(row("kernel start to the same", "s", worker.node_ready, "", ""));
    }
    if let Some(worker) = &figures.worker_again {
        let ready = worker.node_ready - worker.pid1;
        rows.push(row("PID 1 to Node Ready, worker after a power cut", "s", ready, "4", "20"));
        rows.push(row("kernel start to the same", "s", worker.node_ready, "", ""));
    }
    rows
}

fn since(boot: &Boot, time: Option<f64>) -> f64 {
    time.map_or(0.0, |time| time - boot.pid1)
}

fn pods(figures: &Figures) -> Vec<Vec<String>> {
    let pods = &figures.pods;
    let seconds = |milliseconds: f64| milliseconds / 1e3;
    let count = pods.at_once_count;
    vec![
        row("pod create to Running, one by one, p50", "s", seconds(pods.one_by_one.median), "0.6", "2.91"),
        row("the same, p90", "s", seconds(pods.one_by_one.p90), "", "3.54"),
        row(
            &format!("{count} pods at once, all Running"),
            "s",
            seconds(pods.at_once),
            "12 (30)",
            "88.8 (30)",
        ),
        row("kubectl exec, p50", "s", seconds(pods.exec.median), "", "1.21"),
        row("kubectl alone (readyz), p50", "s", seconds(pods.kubectl.median), "", "0.57"),
        row("pod deleted to gone, grace 1 s, p50", "s", seconds(pods.gone.median), "", "5.36"),
        row(&format!("{count} pods deleted, all gone"), "s", seconds(pods.all_gone), "", ""),
    ]
}

fn usage(figures: &Figures) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let idle = figures.pods.idle;
    for (usage, pods, target, peer) in
        [(&figures.empty, 0, "28", "139"), (&figures.full, idle, "40 (50)", "636 (50)")]
    {
        for service in NODE {
            let bytes = usage.get(service).copied().unwrap_or(0.0);
            rows.push(row(&format!("PSS of {service}, {pods} pods"), "MB", megabytes(bytes as u64), "", ""));
        }
        rows.push(row(
            &format!("PSS of all five, {pods} pods"),
            "MB",
            megabytes(sum(usage) as u64),
            target,
            peer,
        ));
    }
    let time = figures.idle_seconds;
    for service in NODE {
        let seconds = figures.idle_cpu.get(service).copied().unwrap_or(0.0);
        rows.push(row(&format!("CPU of {service}, {idle} idle pods, {time} s"), "s", seconds, "", ""));
    }
    let none = sum(&figures.empty_cpu);
    rows.push(row(&format!("CPU of all five, no pods, {time} s"), "s", none, "", "2.8 (30 s)"));
    let all = sum(&figures.idle_cpu);
    rows.push(row(
        &format!("CPU of all five, {idle} idle pods, {time} s"),
        "s",
        all,
        "10 (50, 120 s)",
        "175 (50, 120 s)",
    ));
    rows
}

fn sizes(figures: &Figures) -> Vec<Vec<String>> {
    let target = |name: &str| if name == "ISO" { ("80", "over 100 and images to pull") } else { ("", "") };
    let one = |(name, bytes): &(String, u64)| {
        let (target, peer) = target(name);
        row(&format!("size of {name}"), "MB", megabytes(*bytes), target, peer)
    };
    figures.sizes.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_targets_and_peers_as_the_table_has() {
        let sizes = vec![("ISO".to_owned(), 143_000_000)];
        let figures = Figures { machine: "a host".into(), sizes, ..Figures::default() };
        let json: serde_json::Value = serde_json::from_str(&json(&figures).unwrap()).unwrap();
        let rows = json["table"].as_array().unwrap();
        assert_eq!(rows.len(), super::rows(&figures).len());
        let iso = rows.iter().find(|row| row["what"] == "size of ISO").unwrap();
        assert_eq!((iso["Pintle"].as_str(), iso["target"].as_str()), (Some("143"), Some("80")));
        assert!(iso["peer"].as_str().unwrap().starts_with("over 100"));
        assert_eq!(json["measured"]["machine"], "a host");
    }
}
