//! Running commands in a container that runs.
use std::fs;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;

use crate::cgroup;
use crate::errors::ExecError;
use crate::errors::Step;
use crate::exits::Exit;
use crate::io::DRAIN;
use crate::launch::{self, Request, launch};
use crate::pipes::{Ours, Pipes, read, watch};
use crate::runtime::Runtime;
use crate::state::folder;
use crate::state::{self, Phase};

/// The most output of one exec that is kept, both streams together: an answer with it stays below the 16 MiB
/// that CRI's clients take.
const MAX_OUTPUT: usize = (16 << 20) - (64 << 10);
/// The most output of all execs that is kept at once; probes of many pods may print without end.
const MAX_ALL_OUTPUT: usize = 64 << 20;
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// A command that runs in a container.
#[derive(Debug)]
pub struct Running {
    pub ours: Ours,
    pub pidfd: Arc<AsyncFd<OwnedFd>>,
    key: (i32, u64),
    exit: tokio::task::JoinHandle<Exit>,
    folder: ExecFolder,
}

/// The files of one exec; removed with it.
#[derive(Debug)]
struct ExecFolder(PathBuf);

impl Drop for ExecFolder {
    fn drop(&mut self) {
        let _ = state::remove_folder(&self.0);
    }
}

/// A process that does not run its program yet. Nobody hears of it if the call is cancelled or takes too long, so it is killed then.
struct Unfinished(Option<Arc<AsyncFd<OwnedFd>>>);

impl Unfinished {
    fn let_go(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.0 {
            let _ = sys::pidfd::signal(pidfd.get_ref(), nix::libc::SIGKILL);
        }
    }
}

impl Running {
    /// Its exit code, once it has ended.
    pub async fn wait(&mut self) -> i32 {
        match (&mut self.exit).await {
            Ok(exit) => exit.code,
            Err(_) => Exit::unknown().code,
        }
    }

    /// Kills it.
    pub fn kill(&self) {
        let _ = sys::pidfd::signal(self.pidfd.get_ref(), nix::libc::SIGKILL);
    }
}

impl Runtime {
    /// Starts a command; it runs by the time this returns.
    ///
    /// # Errors
    /// Unless the container runs; with the reason when the command cannot be run.
    pub async fn exec(
        &self,
        id: &str,
        command: &[String],
        terminal: bool,
        stdin: bool,
    ) -> Result<Running, ExecError> {
        let container = self.container(id)?;
        let record = container.record();
        if record.phase != Phase::Running {
            return Err(ExecError::NotRunning { id: record.id, phase: record.phase });
        }
        if command.is_empty() {
            return Err(ExecError::NoCommand);
        }
        let name = state::new_id().step("name an exec")?;
        let files = ExecFolder(folder("exec", &name[..16]));
        let description = files.0.join("process.json");
        let users = folder("ns", &record.sandbox_id).join("user");
        let mut enter = None;
        let mut write = || -> std::io::Result<()> {
            let spec = fs::read(folder("containers", &record.id).join("config.json"))?;
            let spec: Value = serde_json::from_slice(&spec)?;
            let mut process = process(&spec["process"], command, terminal);
            if users.exists() {
                enter = Some(outside(&mut process, users.clone()));
            }
            state::make_folder(&files.0, state::CLOSED)?;
            state::write_private(&description, process.to_string().as_bytes())
        };
        write().step(format_args!("prepare an exec in {}", files.0.display()))?;
        let request = Request::Exec {
            cgroup: container.cgroup().folder(),
            first: (record.pid, record.start_time),
            process: description,
            seccomp: record.seccomp.clone(),
            enter,
        };
        let launching = self.exits.launching();
        let failed = |source: launch::Failure| ExecError::Refused { id: record.id.clone(), source };
        // The second is looked up only when the first takes no process.
        let cgroups = std::iter::once(container.cgroup().folder())
            .chain(std::iter::once_with(|| cgroup::of_process(record.pid)).flatten());
        let pipes = if terminal {
            None
        } else {
            let (uid, gid) = self.host_ids(&record);
            Some(Pipes::new(stdin, uid, gid).step("make pipes for an exec")?)
        };
        let theirs: Vec<RawFd> = pipes.iter().flat_map(Pipes::theirs).collect();
        let launched = launch(&request, &theirs, cgroups).await.map_err(failed)?;
        let ours = pipes.map(|pipes| pipes.ours);
        let key = (launched.pid, launched.start_time);
        let pidfd = watch(launched.pidfd).step("watch an exec")?;
        let exit = tokio::spawn(self.exits.wait(key, Some(Arc::clone(&pidfd))));
        drop(launching);
        let exits = self.exits.clone();
        let watched = tokio::spawn(async move {
            let exit = exit.await.unwrap_or_else(|_| Exit::unknown());
            exits.acknowledge(key);
            exit
        });
        let unfinished = Unfinished(Some(Arc::clone(&pidfd)));
        launched.starting.finished().await.map_err(failed)?;
        unfinished.let_go();
        let ours = match (ours, launched.terminal) {
            (Some(ours), _) => ours,
            (None, Some(terminal)) => Ours { outputs: vec![terminal], stdin: None },
            (None, None) => return Err(ExecError::NoStreams(record.id)),
        };
        Ok(Running { ours, pidfd, key, exit: watched, folder: files })
    }

    /// Runs a command and collects its output.
    ///
    /// # Errors
    /// As [`Runtime::exec`]; after `timeout`, and the command is killed then.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<(Vec<u8>, Vec<u8>, i32), ExecError> {
        let mut running = self.exec(id, command, false, false).await?;
        tracing::trace!(pid = running.key.0, folder = ?running.folder, "exec");
        let mut outputs = std::mem::take(&mut running.ours.outputs).into_iter();
        let (Some(stdout), Some(stderr)) = (outputs.next(), outputs.next()) else {
            return Err(ExecError::NoStreams(id.to_owned()));
        };
        let room = Arc::new(Room::new(&KEPT, MAX_ALL_OUTPUT));
        let (out, err) = (Collected::new(&room), Collected::new(&room));
        let reading = tokio::spawn({
            let (out, err) = (out.clone(), err.clone());
            async move { tokio::join!(collect(stdout, out), collect(stderr, err)) }
        });
        let code = match timeout {
            Some(timeout) => tokio::time::timeout(timeout, running.wait()).await.ok(),
            None => Some(running.wait().await),
        };
        let Some(code) = code else {
            running.kill();
            reading.abort();
            return Err(ExecError::TimedOut {
                command: command.to_vec(),
                timeout: timeout.unwrap_or_default(),
            });
        };
        // A child of the command may hold the pipes open for ever.
        let abort = reading.abort_handle();
        if tokio::time::timeout(DRAIN, reading).await.is_err() {
            abort.abort();
        }
        let output = (std::mem::take(&mut *out.lock()), std::mem::take(&mut *err.lock()), code);
        Ok(output)
    }
}

/// Room for the output of one exec.
#[derive(Debug)]
struct Room {
    taken: AtomicUsize,
    /// What all execs have taken, and may.
    all: &'static AtomicUsize,
    most: usize,
}

impl Room {
    fn new(all: &'static AtomicUsize, most: usize) -> Self {
        Self { taken: AtomicUsize::new(0), all, most }
    }

    /// Takes as much of `wanted` as there is.
    fn take(&self, wanted: usize) -> usize {
        let wanted = take(&self.taken, MAX_OUTPUT, wanted);
        let granted = take(self.all, self.most, wanted);
        self.taken.fetch_sub(wanted - granted, Ordering::Relaxed);
        granted
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.all.fetch_sub(self.taken.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Adds as much of `wanted` as leaves `counter` at `most`; returns how much.
fn take(counter: &AtomicUsize, most: usize, wanted: usize) -> usize {
    let granted = |taken: usize| wanted.min(most.saturating_sub(taken));
    let before =
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| Some(taken + granted(taken)));
    granted(before.unwrap_or(most))
}

/// What a stream has brought so far.
#[derive(Debug, Clone)]
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    room: Arc<Room>,
}

impl Collected {
    fn new(room: &Arc<Room>) -> Self {
        Self { bytes: Arc::default(), room: Arc::clone(room) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        node_kit::lock(&self.bytes)
    }

    /// Keeps what there is room for.
    fn add(&self, chunk: &[u8]) {
        let room = self.room.take(chunk.len());
        self.lock().extend_from_slice(&chunk[..room]);
    }
}

/// Reads to the end; what is above the limit is read and dropped, so that the command is not stopped.
async fn collect(output: OwnedFd, into: Collected) {
    let Ok(output) = watch(output) else { return };
    let mut chunk = vec![0; crate::pipes::CHUNK];
    while let Ok(size @ 1..) = read(&output, &mut chunk).await {
        into.add(&chunk[..size]);
    }
}

/// The container's process with another command: same user, capabilities, environment and restrictions.
fn process(of_container: &Value, command: &[String], terminal: bool) -> Value {
    let mut process = of_container.clone();
    process["args"] = json!(command);
    process["terminal"] = terminal.into();
    if terminal
        && let Some(variables) = process["env"].as_array_mut()
        && !variables.iter().any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("TERM=")))
    {
        variables.push("TERM=xterm".into());
    }
    process
}

/// Makes a process root of the host, as it has to be until it enters the user namespace; returns what it becomes there.
fn outside(process: &mut Value, namespace: PathBuf) -> launch::Enter {
    let number =
        |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok()).unwrap_or(65534);
    let user = process["user"].take();
    let capabilities = process["capabilities"].take();
    let all = json!(crate::spec::capabilities::available());
    process["user"] = json!({"uid": 0, "gid": 0});
    process["capabilities"] =
        json!({"bounding": all, "permitted": all, "effective": all, "inheritable": [], "ambient": []});
    launch::Enter {
        namespace,
        uid: number(&user["uid"]),
        gid: number(&user["gid"]),
        groups: user["additionalGids"].as_array().into_iter().flatten().map(number).collect(),
        capabilities,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_of_an_exec_fit_into_one_answer() {
        static ALL: AtomicUsize = AtomicUsize::new(0);
        let room = Arc::new(Room::new(&ALL, MAX_ALL_OUTPUT));
        let (out, err) = (Collected::new(&room), Collected::new(&room));
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            out.add(&chunk);
            err.add(&chunk);
        }
        let answer = machine::cri::ExecSyncResponse {
            stdout: std::mem::take(&mut *out.lock()),
            stderr: std::mem::take(&mut *err.lock()),
            exit_code: 1,
        };
        assert!(!answer.stdout.is_empty() && !answer.stderr.is_empty());
        assert!(prost::Message::encoded_len(&answer) < 16 << 20);
        assert_eq!(ALL.load(Ordering::Relaxed), MAX_OUTPUT);
        drop((room, out, err));
        assert_eq!(ALL.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_execs_together_keep_so_much_and_give_it_back() {
        static ALL: AtomicUsize = AtomicUsize::new(0);
        let rooms = [10, 10, 10].map(|_| Room::new(&ALL, 25));
        assert_eq!([rooms[0].take(10), rooms[1].take(10), rooms[2].take(10)], [10, 10, 5]);
        assert_eq!(rooms[2].take(1), 0);
        let [first, second, third] = rooms;
        drop(first);
        assert_eq!(third.take(20), 10);
        drop((second, third));
        assert_eq!(ALL.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_process_of_a_mapped_pod_becomes_its_user_only_inside() {
        let mut process =
            json!({"user": {"uid": 7, "gid": 8, "additionalGids": [9]}, "capabilities": {"bounding": []}});
        let enter = outside(&mut process, "/ns".into());
        assert_eq!((enter.uid, enter.gid, enter.groups), (7, 8, vec![9]));
        assert_eq!(enter.capabilities, json!({"bounding": []}));
        assert_eq!(process["user"], json!({"uid": 0, "gid": 0}));
    }
}
