//! Running a plugin (section 2 of the specification): a process group of its own, a deadline, and bounded output.
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::error::Failure;
use super::result;

/// More than any result.
const MAX_OUTPUT: u64 = 1 << 20;
/// More than any last words.
const MAX_LOG: u64 = 16 << 10;
/// How long output may come after its plugin's end: what it left running may have kept the pipe.
const REST: Duration = Duration::from_secs(2);
/// How long an installer may take to close a plugin that it has just written.
const BUSY: Duration = Duration::from_secs(5);

/// Runs `program` with exactly this environment and `input` on its standard input; returns what it printed.
///
/// When the deadline is over, or the caller loses interest, the whole process group is killed: a plugin runs others.
///
/// # Errors
/// When it cannot be run to its end in time, or says that it failed.
pub async fn run(
    program: &Path,
    environment: &[(&str, String)],
    input: &[u8],
    deadline: Duration,
) -> Result<Vec<u8>, Failure> {
    let mut child = spawn(program, environment).await?;
    let mut group = Group(child.id());
    let done = timeout(deadline, talk(&mut child, input)).await;
    // One that is reaped no longer keeps its number from others.
    if child.id().is_some() {
        group.kill();
        // A killed process ends at once, unless it hangs in the kernel; then it is reaped whenever that is.
        let _ = timeout(REST, child.wait()).await;
    }
    group.0 = None;
    let Ok(result) = done else { return Err(Failure::Deadline(deadline)) };
    let (status, stdout, stderr) = result?;
    if status.success() {
        return Ok(stdout);
    }
    Err(Failure::Exit { status, reason: result::reason(&stdout, &stderr) })
}

async fn spawn(program: &Path, environment: &[(&str, String)]) -> Result<Child, Failure> {
    let begun = Instant::now();
    loop {
        let spawned = Command::new(program)
            .env_clear()
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        match spawned {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && begun.elapsed() < BUSY => {
                sleep(Duration::from_millis(20)).await;
            }
            result => return result.map_err(Failure::Start),
        }
    }
}

type Output = (std::process::ExitStatus, Vec<u8>, Vec<u8>);

async fn talk(child: &mut Child, input: &[u8]) -> Result<Output, Failure> {
    let (stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut printed, mut logged) = (Vec::new(), Vec::new());
    let mut pipes = Box::pin(async {
        let feed = async {
            if let Some(mut stdin) = stdin {
                // Whether a plugin reads it is its own affair; its status says how it went.
                let _ = stdin.write_all(input).await;
            }
        };
        let log = async {
            read(&mut stderr, &mut logged, MAX_LOG).await;
            discard(&mut stderr).await;
        };
        tokio::pin!(log);
        // A flood on stdout ends the plugin at once, whatever else is open.
        let mut whole = std::pin::pin!(read(&mut stdout, &mut printed, MAX_OUTPUT));
        let other = async { tokio::join!(feed, log) };
        tokio::pin!(other);
        tokio::select! {
            whole = &mut whole => {
                if whole {
                    other.await;
                }
                whole
            }
            _ = &mut other => whole.await,
        }
    });
    let mut whole = None;
    let status = loop {
        tokio::select! {
            read = &mut pipes, if whole.is_none() => {
                if !read {
                    return Err(Failure::TooLong(MAX_OUTPUT));
                }
                whole = Some(read);
            }
            status = child.wait() => break status.map_err(Failure::Wait)?,
        }
    };
    if whole.is_none() && timeout(REST, &mut pipes).await == Ok(false) {
        return Err(Failure::TooLong(MAX_OUTPUT));
    }
    drop(pipes);
    Ok((status, printed, logged))
}

/// Reads at most `most` bytes. False: there are more.
async fn read(from: &mut Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>, most: u64) -> bool {
    let Some(from) = from else { return true };
    let _ = (&mut *from).take(most).read_to_end(into).await;
    !matches!(from.read(&mut [0]).await, Ok(1..))
}

/// Reads on to the end, so that nobody waits for a full pipe.
async fn discard(from: &mut Option<impl AsyncRead + Unpin>) {
    let Some(from) = from else { return };
    let mut rest = [0; 4096];
    while let Ok(1..) = from.read(&mut rest).await {}
}

/// The plugin's process group, killed when it is dropped before its leader is reaped.
struct Group(Option<u32>);

impl Group {
    fn kill(&mut self) {
        if let Some(group) = self.0.take().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn script(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("plugin");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn run_script(text: &str, input: &[u8], deadline: Duration) -> Result<Vec<u8>, Failure> {
        let folder = tempfile::tempdir().unwrap();
        let environment = [("PATH", "/usr/bin:/bin".to_owned()), ("CNI_COMMAND", "ADD".to_owned())];
        run(&script(folder.path(), text), &environment, input, deadline).await
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn input_and_environment_arrive_and_nothing_else_does() {
        let output = run_script("echo $CNI_COMMAND; env | grep -c CARGO; cat; pwd", b"hello\n", LONG).await;
        assert_eq!(String::from_utf8(output.unwrap()).unwrap(), "ADD\n0\nhello\n/\n");
    }

    #[tokio::test]
    async fn an_error_structure_becomes_the_reason() {
        let text = r#"echo noise >&2; echo '{"code": 7, "msg": "bad", "details": "subnet"}'; exit 3"#;
        let error = run_script(text, b"", LONG).await.unwrap_err().to_string();
        assert_eq!(error, "bad: subnet, code 7 (invalid network config) (exit status: 3)");
        let error = run_script("echo nowhere >&2; kill -9 $$", b"", LONG).await.unwrap_err().to_string();
        assert_eq!(error, "nowhere (signal: 9 (SIGKILL))");
    }

    #[tokio::test]
    async fn a_deadline_ends_the_plugin_and_what_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("pid");
        let text = format!("sleep 1000 & echo $! > {}; wait", note.display());
        let begun = Instant::now();
        let error = run_script(&text, b"", Duration::from_secs(2)).await.unwrap_err();
        assert!(matches!(error, Failure::Deadline(_)) && begun.elapsed() < LONG, "{error}");
        let pid: i32 = std::fs::read_to_string(note).unwrap().trim().parse().unwrap();
        for _ in 0..100 {
            // Gone, or not yet reaped by whoever inherited it.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            if stat.map_or(true, |stat| stat.contains(") Z ")) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("the plugin's own child {pid} lives on");
    }

    #[tokio::test]
    async fn what_a_plugin_leaves_running_holds_nobody_up() {
        let begun = Instant::now();
        let output = run_script("echo '{}'; sleep 30 & exit 0", b"", LONG).await.unwrap();
        assert!(
            output == b"{}\n" && begun.elapsed() < Duration::from_secs(15),
            "{output:?} {:?}",
            begun.elapsed()
        );
    }

    #[tokio::test]
    async fn endless_output_is_cut_and_a_long_log_is_not_kept() {
        let error = run_script("exec yes", b"", LONG).await.unwrap_err();
        assert!(matches!(error, Failure::TooLong(_)), "{error}");
        let output = run_script("head -c 300000 /dev/zero >&2; echo done", b"", LONG).await.unwrap();
        assert_eq!(output, b"done\n");
    }

    #[tokio::test]
    async fn a_plugin_that_reads_nothing_is_no_trouble() {
        assert_eq!(run_script("echo ok", &[b'x'; 300_000], LONG).await.unwrap(), b"ok\n");
    }
}
