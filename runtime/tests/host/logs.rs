//! Logs that lose nothing and repeat nothing, whenever the runtime is killed.
use std::fs;
use std::time::Duration;

use machine::cri::NamespaceMode;

use crate::ring::{Outcome, Ring, check, text};

/// What was written, line by line.
pub fn lines(log: &str) -> Vec<String> {
    // Partial entries go together until a full one.
    let (mut lines, mut line) = (Vec::new(), String::new());
    for entry in log.lines() {
        let mut fields = entry.splitn(4, ' ');
        let (tag, part) = (fields.nth(2).unwrap_or_default(), fields.next().unwrap_or_default());
        line += part;
        if tag == "F" {
            lines.push(std::mem::take(&mut line));
        }
    }
    lines
}

fn counted(path: &str, last: usize) -> Outcome {
    let lines = lines(&fs::read_to_string(path).map_err(text)?);
    let wrong = lines.iter().enumerate().find(|(index, line)| **line != (index + 1).to_string());
    check(
        lines.len() == last && wrong.is_none(),
        format!("{} lines of {last}; the first wrong one: {wrong:?}", lines.len()),
    )
}

pub async fn fast_output_survives_kills_whole_and_once(ring: &mut Ring) -> Outcome {
    let pod = ring.sandbox("fast", NamespaceMode::Container).await?;
    let id = ring.run(&pod, "main", &["seq", "1", "400000"]).await?;
    for round in 0..20_u64 {
        tokio::time::sleep(Duration::from_millis(3 + round * 7 % 40)).await;
        ring.kill_runtime().await?;
    }
    let status = ring.exited(&id).await?;
    check(status.exit_code == 0, format!("{status:?}"))?;
    counted("/var/log/pods/fast/main.log", 400_000)?;
    ring.remove(&pod.0).await
}

/// Counts to 150 within three seconds or more.
const OTHER: &str = "i=0; while [ $i -lt 150 ]; do i=$((i+1)); echo $i; sleep 0.02; done; exit 7";

/// The log is a FIFO that nobody reads, so the write stands still when it is full: the runtime is killed between taking a chunk out of the
/// container's pipe and having it in the log.
pub async fn a_kill_between_pipe_and_log_loses_nothing(ring: &mut Ring) -> Outcome {
    let path = "/var/log/pods/between/main.log";
    fs::create_dir_all("/var/log/pods/between").map_err(text)?;
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).map_err(text)?;
    // Both ends, so that opening does not wait.
    let fifo = fs::File::options().read(true).write(true).open(path).map_err(text)?;
    let pod = ring.sandbox("between", NamespaceMode::Container).await?;
    let script = "sleep 0.3; seq 1 40000; sleep 3; exit 6";
    let id = ring.create(&pod, "main", &["sh", "-c", script], |_| {}).await?;
    // Others print all the time, so that they have something to say, too, when the runtime comes back. It takes up the youngest first, as a tmpfs lists them.
    let mut others = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        let id = ring.run(&pod, name, &["sh", "-c", OTHER]).await?;
        others.push((name, id));
    }
    ring.begin(&id).await?;
    // By then one of its threads stands in write(2).
    let threads = format!("/proc/{}/task", ring.runtime.id());
    let stuck = || {
        let all = fs::read_dir(&threads).into_iter().flatten().flatten();
        let mut places = all.filter_map(|thread| fs::read_to_string(thread.path().join("wchan")).ok());
        places.any(|place| place.contains("pipe"))
    };
    for _ in 0..200 {
        if stuck() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ring.stop_runtime().await?;
    let written = String::from_utf8_lossy(&drain(&fifo)?).into_owned();
    fs::remove_file(path).map_err(text)?;
    ring.start_runtime().await?;
    check(ring.exited(&id).await?.exit_code == 6, "the container's code")?;
    let number = |line: &str| line.rsplit(' ').next().and_then(|text| text.parse::<usize>().ok());
    let last =
        written.lines().filter(|line| line.contains(" F ")).filter_map(number).next_back().unwrap_or(0);
    // The chunk that was on its way begins anywhere in a line; from the next one on everything is there.
    let lines = lines(&fs::read_to_string(path).map_err(text)?);
    let first: usize = lines.get(1).and_then(|line| line.parse().ok()).unwrap_or(0);
    check(
        last > 0 && first > 0 && first <= last + 2,
        format!("the old log ends with {last}, the new one begins with {first}"),
    )?;
    let wanted: Vec<String> = (first..=40_000).map(|number| number.to_string()).collect();
    check(lines[1..] == wanted, format!("{} lines instead of {}", lines.len() - 1, wanted.len()))?;
    for (name, id) in others {
        check(ring.exited(&id).await?.exit_code == 7, format!("the code of {name}"))?;
        counted(&format!("/var/log/pods/between/{name}.log"), 150)?;
    }
    ring.remove(&pod.0).await
}

/// What is in a FIFO now.
fn drain(fifo: &fs::File) -> Result<Vec<u8>, String> {
    let mut buffer = vec![0; 1 << 20];
    let size = nix::unistd::read(fifo, &mut buffer).map_err(text)?;
    buffer.truncate(size);
    Ok(buffer)
}
