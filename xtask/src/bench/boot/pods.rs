//! Pods: how long they take to run, to answer an exec, and to be gone. Times are between events of one watch, so kubectl's own start is not in them.
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qemu_tests::{Kubectl, Progress};
use serde::Serialize;
use serde_json::{Value, json};

use super::watch::{Event, Watch};
use crate::bench::figures::Summary;

/// Execs that are measured.
const EXECS: u32 = 20;

/// In milliseconds.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Creation to Running, one by one.
    pub one_by_one: Summary,
    /// First creation to the last one Running.
    pub at_once: f64,
    pub at_once_count: u32,
    pub idle: u32,
    /// `kubectl exec`, kubectl's process on the host included.
    pub exec: Summary,
    /// kubectl alone: a request for /readyz.
    pub kubectl: Summary,
    /// Deletion with a grace of 1 s to gone, one by one.
    pub gone: Summary,
    /// All of `at_once_count` with a grace of 1 s, first deletion to the last one gone.
    pub all_gone: f64,
}

/// Starts and ends pods; `while_idle` is called with as many idle pods as the last of `counts` says.
///
/// # Errors
/// When a pod does not start or end in time.
pub fn measure(
    kubectl: &Kubectl,
    [one_by_one, at_once, idle]: [u32; 3],
    patience: u32,
    progress: &Progress,
    while_idle: impl FnOnce() -> Result<()>,
) -> Result<Figures> {
    let watch = Watch::start(kubectl, "pods")?;
    let deadline = Duration::from_secs(60) * patience;
    let mut figures = Figures { at_once_count: at_once, idle, ..Figures::default() };
    progress.step("starting pods one by one", || {
        // Until the default service account is there, pods are refused.
        wait_for_account(kubectl, deadline)?;
        let warm = names("warm", 1);
        group(kubectl, &watch, &warm, deadline)?;
        let (mut started, mut gone) = (Vec::new(), Vec::new());
        for name in names("single", one_by_one) {
            started.push(group(kubectl, &watch, std::slice::from_ref(&name), deadline)?);
            gone.push(end(kubectl, &watch, &[name], deadline)?);
        }
        (figures.one_by_one, figures.gone) = (Summary::of(&started), Summary::of(&gone));
        let (mut execs, mut bare) = (Vec::new(), Vec::new());
        for _ in 0..EXECS {
            execs.push(timed(|| kubectl.run(&["exec", &warm[0], "--", "/pintle-demo", "--version"]))?);
            bare.push(timed(|| kubectl.run(&["get", "--raw", "/readyz"]))?);
        }
        (figures.exec, figures.kubectl) = (Summary::of(&execs), Summary::of(&bare));
        end(kubectl, &watch, &warm, deadline).map(drop)
    })?;
    progress.step("starting pods at once", || {
        let names = names("group", at_once);
        figures.at_once = group(kubectl, &watch, &names, deadline)?.as_secs_f64() * 1e3;
        figures.all_gone = end(kubectl, &watch, &names, deadline)?.as_secs_f64() * 1e3;
        Ok(())
    })?;
    let names = names("idle", idle);
    progress.step("starting idle pods", || group(kubectl, &watch, &names, deadline * 2).map(drop))?;
    while_idle()?;
    progress.step("ending idle pods", || end(kubectl, &watch, &names, deadline * 2).map(drop))?;
    Ok(figures)
}

fn names(kind: &str, count: u32) -> Vec<String> {
    (0..count).map(|number| format!("{kind}-{number}")).collect()
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

fn wait_for_account(kubectl: &Kubectl, deadline: Duration) -> Result<()> {
    let start = Instant::now();
    while kubectl.run(&["get", "serviceaccount", "default"]).is_err() {
        ensure!(start.elapsed() < deadline, "no default service account within {} s", deadline.as_secs());
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Creates pods with one request; the time from the first one's appearance until all run.
fn group(kubectl: &Kubectl, watch: &Watch, names: &[String], deadline: Duration) -> Result<Duration> {
    let items: Vec<Value> = names.iter().map(|name| pod(name)).collect();
    kubectl.create(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
    let mut times: Option<(Instant, Instant)> = None;
    for name in names {
        let added = watch.wait(deadline, |event| event.name() == name && event.kind == "ADDED")?.at;
        let ran = watch
            .wait(deadline, |event| event.name() == name && runs(event))
            .with_context(|| format!("wait for the pod {name} to run"))?
            .at;
        times = Some(times.map_or((added, ran), |(first, last)| (first.min(added), last.max(ran))));
    }
    Ok(times.map_or(Duration::ZERO, |(first, last)| last - first))
}

fn runs(event: &Event) -> bool {
    let status = &event.object["status"];
    status["phase"] == "Running" && status["containerStatuses"][0]["ready"] == true
}

/// Deletes pods with a grace of 1 s; the time from the first one's deletion until all are gone.
fn end(kubectl: &Kubectl, watch: &Watch, names: &[String], deadline: Duration) -> Result<Duration> {
    let mut arguments = vec!["delete", "pod", "--wait=false", "--grace-period=1"];
    arguments.extend(names.iter().map(String::as_str));
    kubectl.run(&arguments)?;
    let mut times: Option<(Instant, Instant)> = None;
    for name in names {
        let deleted = watch
            .wait(deadline, |event| {
                event.name() == name && !event.object["metadata"]["deletionTimestamp"].is_null()
            })?
            .at;
        let gone = watch
            .wait(deadline, |event| event.name() == name && event.kind == "DELETED")
            .with_context(|| format!("wait for the pod {name} to be gone"))?
            .at;
        times = Some(times.map_or((deleted, gone), |(first, last)| (first.min(deleted), last.max(gone))));
    }
    Ok(times.map_or(Duration::ZERO, |(first, last)| last - first))
}

/// One container of the image in the bundle, which ends only when it is killed.
fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "containers": [{"name": "demo", "image": "pintle.dev/demo:v1", "imagePullPolicy": "IfNotPresent"}],
        },
    })
}
