//! The test's PID 1: exit ledger, fd store and readiness, as `machine/proto/socket.proto` has them.
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use machine::socket::{
    Empty, Error, Exit, ExitKey, FdNames, Reply, Request, reply::Result as Answer, request::Call,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use sys::framed::FramedSocket;
use tokio::sync::Notify;

/// A call at which the runtime dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It keeps the descriptors of a container.
    Keeps,
    /// It acknowledges the exit of this process.
    Acknowledges(i32),
    /// It gives up the descriptors of a container.
    Forgets,
}

/// What is waited for, to kill the caller before it is carried out or after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trap {
    pub moment: Moment,
    pub carried_out: bool,
}

impl Trap {
    fn is(self, call: &Call) -> bool {
        let of_container = |name: &str| name.starts_with("container/");
        match (self.moment, call) {
            (Moment::Keeps, Call::FdPut(name)) | (Moment::Forgets, Call::FdRemove(name)) => {
                of_container(&name.name)
            }
            (Moment::Acknowledges(pid), Call::AckExit(key)) => key.pid == pid,
            _ => false,
        }
    }
}

#[derive(Default)]
struct State {
    exits: Vec<Exit>,
    trap: Option<Trap>,
    descriptors: BTreeMap<String, Vec<OwnedFd>>,
    /// The process that said so last.
    ready: Option<i32>,
}

/// Shared by all connections.
#[derive(Clone, Default)]
pub struct Init {
    state: Rc<RefCell<State>>,
    news: Rc<Notify>,
}

impl Init {
    /// Whether this process is ready; what one said that was killed since may only now be heard.
    pub fn ready(&self, pid: u32) -> bool {
        self.state.borrow().ready == Some(pid as i32)
    }

    /// Exits that nobody has acknowledged.
    pub fn unacknowledged(&self) -> usize {
        self.state.borrow().exits.len()
    }

    /// Whether the exit of this process is in the ledger.
    pub fn has_exit(&self, pid: i32) -> bool {
        self.state.borrow().exits.iter().any(|exit| exit.pid == pid)
    }

    /// The next such call is the caller's last.
    pub fn trap(&self, trap: Trap) {
        self.state.borrow_mut().trap = Some(trap);
    }

    /// Whether a trap is set and nobody has been caught yet.
    pub fn waits(&self) -> bool {
        self.state.borrow().trap.is_some()
    }

    /// Containers whose descriptors are kept.
    pub fn containers(&self) -> usize {
        self.state.borrow().descriptors.keys().filter(|name| name.starts_with("container/")).count()
    }

    pub fn stored(&self) -> usize {
        self.state.borrow().descriptors.len()
    }
}

/// Listens and reaps on a thread of its own kind: a local task set.
pub fn start() -> std::io::Result<Init> {
    let init = Init::default();
    let listener = tokio::net::UnixListener::bind(machine::paths::MACHINE_SOCKET)?;
    let mut children = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())?;
    let local = init.clone();
    crate::ring::spawn_local(async move {
        loop {
            reap(&local);
            children.recv().await;
        }
    });
    let local = init.clone();
    crate::ring::spawn_local(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let Ok(socket) = connection
                .into_std()
                .and_then(|socket| FramedSocket::new(socket, machine::socket::MAX_FRAME))
            else {
                continue;
            };
            crate::ring::spawn_local(serve(local.clone(), socket));
        }
    });
    Ok(init)
}

fn reap(init: &Init) {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    loop {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let Some(pid) = waitid(Id::All, flags).ok().and_then(|status| status.pid()) else { return };
        let start_time = sys::pidfd::start_time(pid.as_raw()).unwrap_or(0);
        let Ok(Some(wait_status)) = sys::pidfd::reap(pid.as_raw()) else { return };
        let exit = Exit { pid: pid.as_raw(), start_time, wait_status, unix_nanos: now() };
        init.state.borrow_mut().exits.push(exit);
        init.news.notify_waiters();
    }
}

/// Nanoseconds since the epoch.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as i64)
}

async fn serve(init: Init, mut socket: FramedSocket) {
    let caller = socket.peer().map_or(0, |peer| peer.pid);
    while let Ok(Some((frame, descriptors))) = socket.recv().await {
        let Ok(request) = Request::decode(&frame[..]) else { return };
        let Some(call) = request.call else { return };
        if matches!(call, Call::WatchExits(_)) {
            return watch(init, socket, request.id).await;
        }
        let trap = init.state.borrow_mut().trap.take_if(|trap| trap.is(&call));
        if let Some(trap) = trap {
            let _ = kill(Pid::from_raw(caller), Signal::SIGKILL);
            if trap.carried_out {
                drop(answer(&init, caller, call, descriptors));
            }
            return;
        }
        if matches!(call, Call::FdGet(_)) {
            // As one that is busy: the runtime does something else meanwhile.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let (answer, raw) = answer(&init, caller, call, descriptors);
        let reply = Reply { id: request.id, more: false, result: Some(answer) };
        if socket.send(&reply.encode_to_vec(), &raw).await.is_err() {
            return;
        }
    }
}

fn answer(init: &Init, caller: i32, call: Call, descriptors: Vec<OwnedFd>) -> (Answer, Vec<i32>) {
    let mut state = init.state.borrow_mut();
    let done = Answer::Done(Empty {});
    match call {
        Call::Ready(_) => state.ready = Some(caller),
        Call::AckExit(ExitKey { pid, start_time }) => {
            state.exits.retain(|exit| (exit.pid, exit.start_time) != (pid, start_time));
        }
        Call::FdPut(name) => drop(state.descriptors.insert(name.name, descriptors)),
        Call::FdRemove(name) => drop(state.descriptors.remove(&name.name)),
        Call::FdGet(name) => {
            let Some(kept) = state.descriptors.get(&name.name) else {
                return (
                    Answer::Error(Error { code: 2, message: format!("no descriptors named {}", name.name) }),
                    Vec::new(),
                );
            };
            return (done, kept.iter().map(AsRawFd::as_raw_fd).collect());
        }
        Call::FdList(_) => {
            return (
                Answer::FdNames(FdNames { names: state.descriptors.keys().cloned().collect() }),
                Vec::new(),
            );
        }
        _ => return (Answer::Error(Error { code: 1, message: "not in this test".into() }), Vec::new()),
    }
    (done, Vec::new())
}

async fn watch(init: Init, socket: FramedSocket, id: u64) {
    let mut sent: Vec<(i32, u64)> = Vec::new();
    loop {
        let news = init.news.notified();
        let fresh: Vec<Exit> = init
            .state
            .borrow()
            .exits
            .iter()
            .filter(|exit| !sent.contains(&(exit.pid, exit.start_time)))
            .cloned()
            .collect();
        for exit in fresh {
            sent.push((exit.pid, exit.start_time));
            let reply = Reply { id, more: true, result: Some(Answer::Exit(exit)) };
            if socket.send(&reply.encode_to_vec(), &[]).await.is_err() {
                return;
            }
        }
        // A runtime that is gone is noticed at the next send.
        news.await;
    }
}
