use super::*;
use crate::children::Children;
use crate::events::Events;
use crate::ledger::Ledger;
use crate::services::{LogSink, Supervisor};
use machine::socket::{Cancel, Empty, Exit, ExitKey, FdName};
use std::os::unix::net::UnixStream;

struct Client(FramedSocket);

impl Client {
    /// A machine without services, and a connection to it from this process's uid, which is taken for root.
    fn of(machine: &Machine) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = FramedSocket::new(theirs, MAX_FRAME).unwrap();
        let machine = machine.clone();
        tokio::spawn(async move { serve_connection(&machine, socket).await });
        Self(FramedSocket::new(ours, MAX_FRAME).unwrap())
    }

    async fn ask(&mut self, call: request::Call, fds: &[RawFd]) {
        let request = Request { id: 1, actor: String::new(), call: Some(call) };
        self.0.send(&request.encode_to_vec(), fds).await.unwrap();
    }

    async fn reply(&mut self) -> (Reply, Vec<OwnedFd>) {
        let (frame, fds) = self.0.recv().await.unwrap().unwrap();
        (Reply::decode(frame.as_slice()).unwrap(), fds)
    }

    async fn call(&mut self, call: request::Call, fds: &[RawFd]) -> (reply::Result, Vec<OwnedFd>) {
        self.ask(call, fds).await;
        let (reply, fds) = self.reply().await;
        assert!(!reply.more);
        (reply.result.unwrap(), fds)
    }
}

fn machine() -> Machine {
    let (events, ledger) = (Events::default(), Ledger::default());
    let children = Children::new(ledger.clone());
    let logs = LogSink::start().unwrap();
    let (_, supervisor) = Supervisor::new(children.clone(), logs.clone(), events.clone());
    let (shutdown, _) = tokio::sync::mpsc::channel(1);
    Machine::new(events, ledger, children, logs, supervisor, shutdown)
}

fn root() -> bool {
    let root = nix::unistd::getuid().is_root();
    if !root {
        eprintln!("skipped: the socket serves root only");
    }
    root
}

fn name(name: &str) -> FdName {
    FdName { name: name.into() }
}

#[tokio::test]
async fn a_descriptor_outlives_the_connection_that_stored_it() {
    if !root() {
        return;
    }
    let machine = machine();
    let (_read, write) = std::io::pipe().unwrap();
    let put = Client::of(&machine).call(request::Call::FdPut(name("c1/stdout")), &[write.as_raw_fd()]).await;
    assert_eq!(put.0, reply::Result::Done(Empty {}));
    let mut client = Client::of(&machine);
    assert_eq!(client.call(request::Call::FdGet(name("c1/stdout")), &[]).await.1.len(), 1);
    client.call(request::Call::FdRemove(name("c1/stdout")), &[]).await;
    let (result, _) = client.call(request::Call::FdGet(name("c1/stdout")), &[]).await;
    assert!(matches!(result, reply::Result::Error(e) if e.code() == Code::NotFound));
}

#[tokio::test]
async fn exits_are_replayed_to_each_watcher_until_acknowledged_and_a_stream_can_be_cancelled() {
    if !root() {
        return;
    }
    let machine = machine();
    let exit = Exit { pid: 7, start_time: 3, wait_status: 256, unix_nanos: 1 };
    machine.ledger.enter(exit);
    for _ in 0..2 {
        let mut watcher = Client::of(&machine);
        watcher.ask(request::Call::WatchExits(Empty {}), &[]).await;
        let (reply, _) = watcher.reply().await;
        assert_eq!((reply.more, reply.result), (true, Some(reply::Result::Exit(exit))));
    }
    let mut client = Client::of(&machine);
    client.call(request::Call::AckExit(ExitKey { pid: 7, start_time: 3 }), &[]).await;
    client.ask(request::Call::WatchExits(Empty {}), &[]).await;
    let late = Exit { pid: 8, ..exit };
    machine.ledger.enter(late);
    assert_eq!(client.reply().await.0.result, Some(reply::Result::Exit(late)));
    client.ask(request::Call::Cancel(Cancel { stream: 1 }), &[]).await;
    assert_eq!(client.reply().await.0.result, Some(reply::Result::Done(Empty {})));
    let (result, _) = client.call(request::Call::GetConfig(Empty {}), &[]).await;
    assert!(matches!(result, reply::Result::Error(e) if e.message.contains("no config")));
}

#[tokio::test]
async fn a_caller_that_has_exited_may_nothing() {
    let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    child.wait().unwrap();
    for uid in [0, paths::API_UID, paths::NET_UID] {
        let caller = Caller::of(&nix::libc::ucred { pid, uid, gid: uid });
        assert!(!caller.may(&request::Call::Version(Empty {})), "{caller}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_does_not_come_to_its_end_is_given_up() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let machine = machine();
    let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let socket = FramedSocket::new(theirs.into_std().unwrap(), MAX_FRAME).unwrap();
    tokio::spawn(async move { serve_connection(&machine, socket).await });
    let mut ours = ours;
    ours.write_all(&[0, 0]).await.unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(60), ours.read(&mut [0; 8])).await;
    assert_eq!(closed.expect("hung up").unwrap(), 0);
}
