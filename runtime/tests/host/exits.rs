//! Each container's end is reported once, and right, whatever the runtime was doing about it when it was killed: the code or signal, the reason, and the time
//! are those of the container, not of the runtime that came back.
//!
//! The runtime's way from an end to its report has these steps: PID 1 tells the exit, the runtime records it, acknowledges it, tells its listeners, and gives
//! up the container's descriptors. A round kills it once between each two of them, with containers of every kind ending at that moment.
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use machine::cri::{self, NamespaceMode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::campaign::events::Events;
use crate::campaign::setting;
use crate::campaign::world::World;
use crate::init::{Moment, Trap, now};
use crate::ring::{Outcome, Ring, check, text};

/// Containers write there when they are about to end, and wait there for the word.
const GATE: &str = "/run/exits";
/// How a container ends, and the code it has then.
const ENDS: [(&str, i32); 8] = [
    ("exit 0", 0),
    ("exit 3", 3),
    ("exit 255", 255),
    ("kill -TERM $$", 143),
    ("kill -SEGV $$", 139),
    ("kill -KILL $$", 137),
    ("kill -ABRT $$", 134),
    // As a shell says it of a child that was killed.
    ("exit 137", 137),
];

/// When the runtime is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    /// Before the containers end.
    BeforeTheEnd,
    /// It was told, and has not yet listened.
    Told,
    /// It knows, and the record is not written.
    Recording,
    /// The record is written, and PID 1 does not know.
    Acknowledging,
    /// PID 1 knows, and listeners may not have heard.
    Acknowledged,
    /// Everybody knows, and PID 1 still keeps descriptors.
    Forgetting,
    /// PID 1 keeps none any more.
    Forgotten,
}

const POINTS: [Point; 7] = [
    Point::BeforeTheEnd,
    Point::Told,
    Point::Recording,
    Point::Acknowledging,
    Point::Acknowledged,
    Point::Forgetting,
    Point::Forgotten,
];

/// A container that waits for the word to end.
struct Member {
    id: String,
    name: String,
    code: i32,
    /// As the host knows it.
    pid: i32,
}

/// As many rounds as a tenth of the kill campaign's.
pub async fn the_exit_campaign_reports_each_end_once(ring: &mut Ring) -> Outcome {
    let rounds = setting("PINTLE_CAMPAIGN_ROUNDS").unwrap_or(20).div_ceil(10);
    let (events, world) = (Rc::new(Events::default()), Rc::new(World::default()));
    let listening = tokio::task::spawn_local(Rc::clone(&events).follow(world));
    let mut result = Ok(());
    for number in 1..=rounds {
        result = round(ring, &events).await.map_err(|what| format!("round {number} of {rounds}, {what}"));
        if result.is_err() {
            break;
        }
        eprintln!("exit campaign: round {number} of {rounds}");
    }
    listening.abort();
    result
}

async fn round(ring: &mut Ring, events: &Events) -> Outcome {
    for point in POINTS {
        ends(ring, events, point).await.map_err(|what| format!("{point:?}: {what}"))?;
    }
    for carried_out in [false, true] {
        let when = if carried_out { "kept" } else { "keeping" };
        begins(ring, events, carried_out).await.map_err(|what| format!("{when}: {what}"))?;
    }
    Ok(())
}

/// Containers of every kind end, and the runtime is killed at a point of its way to their report.
async fn ends(ring: &mut Ring, events: &Events, point: Point) -> Outcome {
    let pod = pod(ring).await?;
    let mut members = Vec::new();
    for (number, (end, code)) in ENDS.into_iter().enumerate() {
        let name = format!("c{number}");
        let id = waiting(ring, &pod, &name, end).await?;
        ring.begin(&id).await?;
        events.expect(&id, code);
        members.push(Member { pid: pid(&id)?, id, name, code });
    }
    let last = now();
    let until = die(ring, point, &members).await?;
    ring.start_runtime().await?;
    let until = if until == 0 { now() } else { until };
    let mut reported = Vec::new();
    for member in &members {
        reported.push(reported_once(ring, member, last, until).await?);
    }
    // And it stays so.
    ring.kill_runtime().await?;
    for (member, status) in members.iter().zip(&reported) {
        let again = ring.status(&member.id).await?;
        check(again == *status, format!("{} was {status:?} and is {again:?}", member.name))?;
    }
    events.all_were_told().await?;
    ring.remove(&pod.0).await?;
    nothing_is_kept(ring).await
}

/// The container ended as it should have, between the moment it wrote down and `until`.
async fn reported_once(
    ring: &mut Ring,
    member: &Member,
    from: i64,
    until: i64,
) -> Result<cri::ContainerStatus, String> {
    let status = ring.exited(&member.id).await?;
    let said = fs::metadata(Path::new(GATE).join(&member.name)).map_err(text)?;
    let said = said.mtime() * 1_000_000_000 + said.mtime_nsec();
    let reason = if member.code == 0 { "Completed" } else { "Error" };
    check(
        status.exit_code == member.code && status.reason == reason,
        format!("{} ended with {} and is {status:?}", member.name, member.code),
    )?;
    // The clock of files is that of the last tick.
    let earliest = said.max(from - 10_000_000);
    check(
        (earliest..=until).contains(&status.finished_at) && status.started_at <= status.finished_at,
        format!("{} ended between {earliest} and {until} and is {status:?}", member.name),
    )?;
    Ok(status)
}

/// Gives the word to end and kills the runtime at the point; returns when all had ended for certain, if that is known.
async fn die(ring: &mut Ring, point: Point, members: &[Member]) -> Result<i64, String> {
    let runtime = Pid::from_raw(ring.runtime.id() as i32);
    let first = &members[0];
    let init = ring.init.clone();
    match point {
        Point::BeforeTheEnd | Point::Told => {
            if point == Point::BeforeTheEnd {
                ring.stop_runtime().await?;
            } else {
                kill(runtime, Signal::SIGSTOP).map_err(text)?;
            }
            open_gate()?;
            let ended = || members.iter().all(|member| init.has_exit(member.pid));
            until("the containers to end", ended).await?;
            let ended = now();
            if point == Point::Told {
                ring.stop_runtime().await?;
            }
            return Ok(ended);
        }
        Point::Recording => {
            // A folder where the new record is to be written: it is told from memory, and not on file.
            let next = record(&first.id).with_file_name(".record.json.new0");
            fs::create_dir(&next).map_err(text)?;
            open_gate()?;
            ring.exited(&first.id).await?;
            check(init.has_exit(first.pid), "PID 1 was told to forget an exit that is not on record")?;
            ring.stop_runtime().await?;
            fs::remove_dir(&next).map_err(text)?;
            // Half of it.
            let whole = fs::read(record(&first.id)).map_err(text)?;
            fs::write(&next, &whole[..whole.len() / 2]).map_err(text)?;
            return Ok(0);
        }
        Point::Acknowledging | Point::Acknowledged => {
            let carried_out = point == Point::Acknowledged;
            init.trap(Trap { moment: Moment::Acknowledges(first.pid), carried_out });
        }
        Point::Forgetting | Point::Forgotten => {
            init.trap(Trap { moment: Moment::Forgets, carried_out: point == Point::Forgotten });
        }
    }
    open_gate()?;
    until("the runtime to be caught", || !init.waits()).await?;
    ring.runtime_is_gone().await;
    Ok(0)
}

/// The runtime is killed when a container's init has just been made: its program runs once in the end, and its end is reported.
async fn begins(ring: &mut Ring, events: &Events, carried_out: bool) -> Outcome {
    let pod = pod(ring).await?;
    let id = waiting(ring, &pod, "c0", "echo ran; exit 7").await?;
    events.expect(&id, 7);
    open_gate()?;
    ring.init.trap(Trap { moment: Moment::Keeps, carried_out });
    let before = now();
    check(ring.begin(&id).await.is_err(), "a runtime that was killed has answered")?;
    ring.runtime_is_gone().await;
    ring.start_runtime().await?;
    if !carried_out {
        let status = ring.status(&id).await?;
        let created = cri::ContainerState::ContainerCreated;
        check(status.state() == created, format!("not to be started again: {status:?}"))?;
        ring.begin(&id).await?;
    }
    let member = Member { id, name: "c0".into(), code: 7, pid: 0 };
    let status = ring.exited(&member.id).await?;
    let status = (reported_once(ring, &member, before, now()).await?, status);
    check(status.0 == status.1, format!("{status:?}"))?;
    let log = fs::read_to_string("/var/log/pods/exits/c0.log").map_err(text)?;
    check(log.matches("ran").count() == 1, format!("its program did not run once: {log:?}"))?;
    events.all_were_told().await?;
    ring.remove(&pod.0).await?;
    nothing_is_kept(ring).await
}

/// In a pod whose containers are not the first process of their namespace, which no signal of its own ends.
async fn pod(ring: &mut Ring) -> Result<(String, cri::PodSandboxConfig), String> {
    for folder in [GATE, "/var/log/pods/exits"] {
        let _ = fs::remove_dir_all(folder);
    }
    fs::create_dir_all(GATE).map_err(text)?;
    ring.sandbox("exits", NamespaceMode::Pod).await
}

async fn waiting(
    ring: &mut Ring,
    pod: &(String, cri::PodSandboxConfig),
    name: &str,
    end: &str,
) -> Result<String, String> {
    let script = format!("while [ ! -e /gate/go ]; do sleep 0.02; done; touch /gate/{name}; {end}");
    let gate = cri::Mount { host_path: GATE.into(), container_path: "/gate".into(), ..Default::default() };
    ring.create(pod, name, &["sh", "-c", &script], |config| config.mounts = vec![gate]).await
}

fn open_gate() -> Outcome {
    fs::write(Path::new(GATE).join("go"), "").map_err(text)
}

fn record(id: &str) -> PathBuf {
    Path::new(machine::paths::RUNTIME_RUN).join("containers").join(id).join("record.json")
}

/// Of a container's init.
pub fn pid(id: &str) -> Result<i32, String> {
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(record(id)).map_err(text)?).map_err(text)?;
    record["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(|| "no pid on record".into())
}

async fn until(what: &str, done: impl Fn() -> bool) -> Outcome {
    for _ in 0..1000 {
        if done() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(format!("waited 10 s for {what}"))
}

/// PID 1 has nothing left to tell, and keeps no container's descriptors.
async fn nothing_is_kept(ring: &Ring) -> Outcome {
    let init = ring.init.clone();
    until("PID 1 to forget all", || init.unacknowledged() == 0 && init.containers() == 0).await
}
