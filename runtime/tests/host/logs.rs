//! Logs that lose nothing and repeat nothing, whenever the runtime is killed.
use std::fs;
use std::path::Path;
use std::time::Duration;

use machine::cri::{self, NamespaceMode};

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

/// The runtime is killed where it is about to write a chunk to a log that it has taken out of the container's
/// pipe.
pub async fn a_kill_between_pipe_and_log_loses_nothing(ring: &mut Ring) -> Outcome {
    let path = "/var/log/pods/between/main.log";
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
    let length = killed_at_a_write(ring.runtime.id(), path).await?;
    ring.runtime_is_gone().await;
    let written = fs::metadata(path).map_err(text)?.len();
    check(
        written == length,
        format!("the log had {length} bytes, and has {written} although the write was not made"),
    )?;
    ring.start_runtime().await?;
    check(ring.exited(&id).await?.exit_code == 6, "the container's code")?;
    counted(path, 40_000)?;
    for (name, id) in others {
        check(ring.exited(&id).await?.exit_code == 7, format!("the code of {name}"))?;
        counted(&format!("/var/log/pods/between/{name}.log"), 150)?;
    }
    ring.remove(&pod.0).await
}

/// Names the process and the file to [`killer`].
pub const KILLER: &str = "PINTLE_HOST_RING_KILL_AT_A_WRITE";

/// Has this program, in a process of its own, kill another at a write to a file; returns how long that was by
/// then. Our PID 1 must not be the tracer: it would hear of each stop as of an end.
async fn killed_at_a_write(process: u32, file: &str) -> Result<u64, String> {
    let mut killer = std::process::Command::new(std::env::current_exe().map_err(text)?)
        .env(KILLER, format!("{process} {file}"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .map_err(text)?;
    let mut output = killer.stdout.take().ok_or("no output")?;
    // Our PID 1 reaps it.
    let said = tokio::task::spawn_blocking(move || {
        let mut said = String::new();
        std::io::Read::read_to_string(&mut output, &mut said).map(|_| said)
    });
    let said = said.await.map_err(text)?.map_err(text)?;
    said.trim().parse().map_err(|_| said)
}

/// The killer's own process.
pub fn killer(what: &str) -> std::process::ExitCode {
    let (process, file) = what.split_once(' ').unwrap_or_default();
    match kill_at_a_write(process.parse().unwrap_or_default(), Path::new(file)) {
        Ok(length) => println!("{length}"),
        Err(error) => println!("{error}"),
    }
    std::process::ExitCode::SUCCESS
}

/// Stops each thread of a process at its system calls, and kills the process at the entrance to one that
/// would write to the file; returns how long that was by then.
fn kill_at_a_write(process: i32, file: &Path) -> Result<u64, String> {
    use nix::sys::ptrace;
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    use nix::unistd::Pid;
    const WRITES: [i64; 3] = [nix::libc::SYS_write, nix::libc::SYS_pwrite64, nix::libc::SYS_writev];
    let threads = fs::read_dir(format!("/proc/{process}/task")).map_err(text)?.flatten();
    let threads: Vec<i32> = threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for thread in &threads {
        let thread = Pid::from_raw(*thread);
        ptrace::seize(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD).map_err(text)?;
        ptrace::interrupt(thread).map_err(text)?;
    }
    let started = std::time::Instant::now();
    while started.elapsed() < Duration::from_secs(20) {
        let mut idle = true;
        for thread in threads.iter().map(|thread| Pid::from_raw(*thread)) {
            match waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::PtraceSyscall(_)) => {
                    let registers = ptrace::getregs(thread).map_err(text)?;
                    let at_entrance = registers.rax as i64 == -i64::from(nix::libc::ENOSYS);
                    let target = fs::read_link(format!("/proc/{process}/fd/{}", registers.rdi));
                    if at_entrance
                        && WRITES.contains(&(registers.orig_rax as i64))
                        && target.is_ok_and(|target| target == file)
                    {
                        let length = fs::metadata(file).map_err(text)?.len();
                        // Some of it is there, and most of it is not.
                        if length > 0 {
                            kill(Pid::from_raw(process), Signal::SIGKILL).map_err(text)?;
                            return Ok(length);
                        }
                    }
                    let _ = ptrace::syscall(thread, None);
                }
                Ok(WaitStatus::StillAlive) => continue,
                Ok(WaitStatus::Stopped(_, signal)) => drop(ptrace::syscall(thread, signal)),
                Ok(_) => drop(ptrace::syscall(thread, None)),
                Err(_) => continue,
            }
            idle = false;
        }
        if idle {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    Err("the runtime has not written to the log within 20 s".into())
}

/// Somebody with the folder of logs mounted has put something else in a log's place. It neither holds the
/// runtime up nor leads its writes away.
pub async fn what_lies_in_a_logs_place_leads_nowhere(ring: &mut Ring) -> Outcome {
    let folder = Path::new("/var/log/pods/planted");
    fs::create_dir_all(folder).map_err(text)?;
    let victim = Path::new("/var/log/victim");
    let pod = ring.sandbox("planted", NamespaceMode::Container).await?;
    for kind in ["fifo", "link", "hard-link", "folder-link"] {
        let outcome = planted(ring, &pod, folder, victim, kind).await;
        outcome.map_err(|error| format!("{kind}: {error}"))?;
    }
    ring.remove(&pod.0).await?;
    fs::remove_file(victim).map_err(text)
}

/// Puts it in the place of a container's log.
fn plant(log: &Path, victim: &Path, kind: &str) -> Outcome {
    let _ = fs::remove_file(log);
    match kind {
        "fifo" => nix::unistd::mkfifo(log, nix::sys::stat::Mode::from_bits_truncate(0o600)).map_err(text),
        "link" => std::os::unix::fs::symlink(victim, log).map_err(text),
        "hard-link" => fs::hard_link(victim, log).map_err(text),
        _ => {
            let folder = log.parent().ok_or("no folder")?;
            let _ = fs::remove_dir_all(folder);
            fs::create_dir_all("/var/log/elsewhere").map_err(text)?;
            std::os::unix::fs::symlink("/var/log/elsewhere", folder).map_err(text)
        }
    }
}

async fn planted(
    ring: &mut Ring,
    pod: &(String, cri::PodSandboxConfig),
    folder: &Path,
    victim: &Path,
    kind: &str,
) -> Outcome {
    const PRECIOUS: &str = "precious, and no whole line";
    fs::write(victim, PRECIOUS).map_err(text)?;
    let name = format!("{kind}/0.log");
    let log = folder.join(&name);
    fs::create_dir_all(folder.join(kind)).map_err(text)?;
    plant(&log, victim, kind)?;
    let script = "i=0; while [ ! -e /gate/end ]; do echo line; sleep 0.1; done; echo last; exit 5";
    let _ = fs::remove_dir_all("/run/planted-gate");
    fs::create_dir_all("/run/planted-gate").map_err(text)?;
    let id = ring
        .create(pod, kind, &["sh", "-c", script], |config| {
            config.log_path = name;
            config.mounts = vec![crate::escapes::volume("/run/planted-gate", "/gate")];
        })
        .await?;
    in_time(&log, "a start", ring.begin(&id)).await?;
    let said = |log: &Path, what: &str| {
        let is_file = fs::symlink_metadata(log).is_ok_and(|metadata| metadata.is_file());
        is_file && fs::read_to_string(log).is_ok_and(|text| text.contains(what))
    };
    until("the log", || said(&log, "line")).await?;
    // While it runs: the log is opened anew by a rotation, and by a runtime that comes back.
    plant(&log, victim, kind)?;
    let reopen = cri::ReopenContainerLogRequest { container_id: id.clone() };
    let mut client = ring.client.clone();
    let reopened = async { client.reopen_container_log(reopen).await.map(drop).map_err(text) };
    in_time(&log, "a rotation", reopened).await?;
    until("the log after a rotation", || said(&log, "line")).await?;
    plant(&log, victim, kind)?;
    in_time(&log, "a start of the runtime", ring.kill_runtime()).await?;
    until("the log after a kill", || said(&log, "line")).await?;
    fs::write("/run/planted-gate/end", "").map_err(text)?;
    check(ring.exited(&id).await?.exit_code == 5, "the container's code")?;
    check(said(&log, "last"), "the last line is missing")?;
    let kept = fs::read_to_string(victim).map_err(text)?;
    check(kept == PRECIOUS, format!("what the link leads to has become {kept:?}"))?;
    let elsewhere = fs::read_dir("/var/log/elsewhere").into_iter().flatten().count();
    check(elsewhere == 0, "a log was made where a link leads")
}

/// A runtime that waits at a FIFO for ever is let go, so that what follows can be tried.
async fn in_time(log: &Path, what: &str, call: impl Future<Output = Outcome>) -> Outcome {
    match tokio::time::timeout(Duration::from_secs(15), call).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let _ = fs::File::options().read(true).write(true).open(log);
            Err(format!("{what} takes more than 15 s"))
        }
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) -> Outcome {
    for _ in 0..500 {
        if condition() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(format!("waited for {what}"))
}
