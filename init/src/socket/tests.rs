use super::*;
use crate::children::Children;
use crate::events::Events;
use crate::ledger::Ledger;
use crate::services::{LogSink, Supervisor};
use machine::socket::{Cancel, Empty, Exit, ExitKey, FdName, GetConfig};
use std::process::{Child, Command, Stdio};

struct Client(FramedSocket);

impl Client {
    /// A connection of the runtime to the machine.
    fn of(machine: &Machine) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let machine = machine.clone();
        tokio::spawn(async move { serve_connection(&machine, &runtime(), theirs).await });
        Self(FramedSocket::of(ours, MAX_FRAME))
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

/// A machine without services.
pub fn machine() -> Machine {
    let (events, ledger) = (Events::default(), Ledger::default());
    let children = Children::new(ledger.clone());
    let logs = LogSink::start().unwrap();
    let (_, supervisor) = Supervisor::new(children.clone(), logs.clone(), events.clone());
    let (shutdown, _) = tokio::sync::mpsc::channel(1);
    Machine::new(events, ledger, children, logs, supervisor, shutdown)
}

fn runtime() -> Caller {
    Caller::known(0, 1, "/runtime").unwrap()
}

fn name(name: &str) -> FdName {
    FdName { name: name.into() }
}

#[tokio::test]
async fn a_descriptor_outlives_the_connection_that_stored_it() {
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
    let machine = machine();
    let exit = Exit { pid: 7, start_time: 3, wait_status: 256, unix_nanos: 1 };
    machine.ledger.enter(exit, "runtime");
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
    machine.ledger.enter(late, "runtime");
    assert_eq!(client.reply().await.0.result, Some(reply::Result::Exit(late)));
    client.ask(request::Call::Cancel(Cancel { stream: 1 }), &[]).await;
    assert_eq!(client.reply().await.0.result, Some(reply::Result::Done(Empty {})));
    let (result, _) = client.call(request::Call::GetConfig(GetConfig::default()), &[]).await;
    assert!(matches!(result, reply::Result::Error(e) if e.message.contains("no config")));
}

/// What the children below run: connect as another user, say something, and stay until the parent has seen enough.
#[test]
fn child() {
    use std::io::{Read, Write};
    let Ok(path) = std::env::var("MACHINE_TEST_SOCKET") else { return };
    let uid: u32 = std::env::var("MACHINE_TEST_UID").unwrap().parse().unwrap();
    nix::unistd::setresuid(uid.into(), uid.into(), uid.into()).unwrap();
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    let _ = stream.write_all(&[0]);
    let _ = std::io::stdin().read(&mut [0]);
}

fn connect_as(uid: u32, path: &std::path::Path, stdin: Stdio) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "socket::tests::child"])
        .env("MACHINE_TEST_SOCKET", path)
        .env("MACHINE_TEST_UID", uid.to_string())
        .stdin(stdin)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn listen(name: &str) -> (std::path::PathBuf, UnixListener) {
    let path = std::env::temp_dir().join(format!("pintle-machine-{name}-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    (path, listener)
}

#[tokio::test]
async fn who_is_no_service_is_unknown_whatever_its_user_and_whether_it_lives() {
    if !nix::unistd::getuid().is_root() {
        eprintln!("skipped: only root becomes others");
        return;
    }
    let (path, listener) = listen("users");
    for uid in [0, 100, 101, paths::API_UID, paths::NET_UID, 65534] {
        let mut living = connect_as(uid, &path, Stdio::piped());
        let (stream, _) = listener.accept().await.unwrap();
        assert!(Caller::of(&stream).is_err(), "uid {uid}");
        drop(living.stdin.take());
        living.wait().unwrap();
        connect_as(uid, &path, Stdio::null()).wait().unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert!(Caller::of(&stream).is_err(), "uid {uid}, exited");
    }
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_stranger_is_turned_away_without_a_byte_read_and_a_service_keeps_its_share() {
    use tokio::io::AsyncReadExt;
    let (path, listener) = listen("shares");
    let (served, mut count) = tokio::sync::mpsc::unbounded_channel();
    let turn = std::sync::atomic::AtomicUsize::new(0);
    // First a stranger, then the api more often than its share has places, then the agent.
    let identify = move |_: &UnixStream| match turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => Err(std::io::ErrorKind::PermissionDenied.into()),
        1..=33 => Ok(Caller::known(paths::API_UID, 1, "/system/api").unwrap()),
        _ => Ok(Caller::known(0, 1, "/system/agent").unwrap()),
    };
    tokio::spawn(let_in(listener, identify, move |caller, stream, place| {
        served.send((caller.service, stream, place)).unwrap();
    }));
    let mut stranger = UnixStream::connect(&path).await.unwrap();
    assert_eq!(stranger.read(&mut [0; 8]).await.unwrap(), 0);
    let mut connections = Vec::new();
    for _ in 0..34 {
        connections.push(UnixStream::connect(&path).await.unwrap());
    }
    let mut kept: Vec<(&str, UnixStream, Place)> = Vec::new();
    while kept.last().is_none_or(|(service, ..)| *service != "agent") {
        kept.push(count.recv().await.unwrap());
    }
    assert_eq!(kept.iter().filter(|(service, ..)| *service == "api").count(), SHARE);
    assert_eq!(connections[32].read(&mut [0; 8]).await.unwrap(), 0, "the api's one too many");
    std::fs::remove_file(path).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_does_not_come_to_its_end_is_given_up() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let api = Caller::known(paths::API_UID, 1, "/system/api").unwrap();
    for (caller, bytes) in [(runtime(), &[0_u8, 0][..]), (api, &[])] {
        let machine = machine();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move { serve_connection(&machine, &caller, theirs).await });
        ours.write_all(bytes).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(90), ours.read(&mut [0; 8])).await;
        assert_eq!(closed.expect("hung up").unwrap(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_may_be_silent_between_requests_and_who_faces_the_network_not_for_long() {
    let machine = machine();
    for (caller, stays) in
        [(runtime(), true), (Caller::known(paths::API_UID, 1, "/system/api").unwrap(), false)]
    {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = machine.clone();
        tokio::spawn(async move { serve_connection(&server, &caller, theirs).await });
        let mut client = Client(FramedSocket::of(ours, MAX_FRAME));
        client.call(request::Call::Version(Empty {}), &[]).await;
        let silent = tokio::time::timeout(Duration::from_secs(3600), client.0.recv()).await;
        assert_eq!(silent.is_err(), stays);
    }
}

#[tokio::test]
async fn a_config_leaves_pid_1_without_its_secrets_unless_they_are_asked_for() {
    let machine = machine();
    let yaml = "kind: Machine\nhostname: n1\njoinToken: K4\n".to_owned();
    let active = crate::node::ActiveConfig { yaml, source: "state".into(), ..Default::default() };
    machine.config.send_replace(Some(std::sync::Arc::new(active)));
    for with_secrets in [false, true] {
        let (result, _) =
            Client::of(&machine).call(request::Call::GetConfig(GetConfig { with_secrets }), &[]).await;
        let reply::Result::Config(config) = result else { panic!("{result:?}") };
        let yaml = String::from_utf8(config.yaml).unwrap();
        assert!(yaml.contains("n1"), "{yaml}");
        assert_eq!(yaml.contains("K4"), with_secrets, "{yaml}");
    }
}
