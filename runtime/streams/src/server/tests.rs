use std::sync::Mutex;

use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;
use crate::remote::Version;
use crate::{Duplex, StreamError, Streams, spdy};

/// Echoes standard input to standard output, says something on standard error, and exits with the code that the command names.
#[derive(Default)]
struct Echo {
    sizes: Mutex<Vec<(u16, u16)>>,
}

#[async_trait::async_trait]
impl StreamBackend for Echo {
    async fn exec(&self, _: &str, cmd: &[String], _: bool, mut streams: Streams) -> Result<i32, StreamError> {
        let broken = |e: io::Error| StreamError(e.to_string());
        if let Some(stderr) = &mut streams.stderr {
            stderr.write_all(b"warning").await.map_err(broken)?;
        }
        if let (Some(stdin), Some(stdout)) = (&mut streams.stdin, &mut streams.stdout) {
            tokio::io::copy(stdin, stdout).await.map_err(broken)?;
        }
        while let Ok(size) = streams.resize.try_recv() {
            self.sizes.lock().unwrap().push((size.width, size.height));
        }
        match cmd[0].parse() {
            Ok(code) => Ok(code),
            Err(_) => Err(StreamError("no such command".into())),
        }
    }

    async fn attach(&self, _: &str, _: bool, mut streams: Streams) -> Result<(), StreamError> {
        let stdout = streams.stdout.as_mut().unwrap();
        stdout.write_all(b"attached").await.map_err(|e| StreamError(e.to_string()))
    }

    async fn port_forward(&self, _: &str, port: u16, stream: Box<dyn Duplex>) -> Result<(), StreamError> {
        if port == 1 {
            return Err(StreamError("connection refused".into()));
        }
        let (mut read, mut write) = tokio::io::split(stream);
        tokio::io::copy(&mut read, &mut write).await.map_err(|e| StreamError(e.to_string()))?;
        write.shutdown().await.map_err(|e| StreamError(e.to_string()))
    }
}

async fn start() -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let server = Server::with_base(Arc::new(Echo::default()), base);
    tokio::spawn(server.clone().serve_tcp(listener));
    server
}

fn exec(cmd: &str, stdin: bool) -> cri::ExecRequest {
    cri::ExecRequest {
        container_id: "c".into(),
        cmd: vec![cmd.into()],
        tty: false,
        stdin,
        stdout: true,
        stderr: true,
    }
}

async fn dial(url: &str, protocol: &str) -> WebSocket {
    let mut request = url.replacen("http", "ws", 1).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    let address = url.split('/').nth(2).unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    tokio_tungstenite::client_async(request, stream).await.unwrap().0
}

type WebSocket = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn collect(socket: &mut WebSocket, channel: u8) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(data) = message
            && data[0] == channel
        {
            all.extend_from_slice(&data[1..]);
        }
    }
    all
}

#[tokio::test]
async fn half_close_and_exit_code_over_websocket_v5() {
    use futures::SinkExt;
    let server = start().await;
    let url = server.register_exec(exec("7", true)).unwrap();
    let mut socket = dial(&url, "v5.channel.k8s.io").await;
    socket.send(Message::Binary(Bytes::from_static(b"\0hello"))).await.unwrap();
    socket.send(Message::Binary(Bytes::from_static(&[255, 0]))).await.unwrap();
    let mut outputs = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(data) = message {
            outputs[usize::from(data[0])].extend_from_slice(&data[1..]);
        }
    }
    assert_eq!(outputs[1], b"hello");
    assert_eq!(outputs[2], b"warning");
    let status: serde_json::Value = serde_json::from_slice(&outputs[3]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "7");
}

#[tokio::test]
async fn a_url_is_good_once_and_only_for_what_it_was_given_for() {
    let server = start().await;
    let url = server.register_exec(exec("0", false)).unwrap();
    let token = url.rsplit('/').next().unwrap();
    assert_eq!(token.len(), 32);
    let wrong = url.replace("/exec/", "/attach/");
    let address = url.split('/').nth(2).unwrap();
    for url in [&wrong, &url] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let path = url.splitn(4, '/').nth(3).unwrap();
        let head = format!(
            "POST /{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 404", "spent by the first try, whichever way it was used");
    }
}

#[tokio::test]
async fn port_forward_over_legacy_websocket() {
    use futures::SinkExt;
    let server = start().await;
    let request = cri::PortForwardRequest { pod_sandbox_id: "p".into(), port: vec![1] };
    let mut socket = dial(&server.register_port_forward(request).unwrap(), "v4.channel.k8s.io").await;
    let error = collect(&mut socket, 1).await;
    assert_eq!(&error[..2], [1, 0]);
    assert!(String::from_utf8_lossy(&error[2..]).contains("connection refused"));

    let request = cri::PortForwardRequest { pod_sandbox_id: "p".into(), port: vec![8080] };
    let mut socket = dial(&server.register_port_forward(request).unwrap(), "v4.channel.k8s.io").await;
    socket.send(Message::Binary(Bytes::from_static(b"\0ping"))).await.unwrap();
    let mut got = Vec::new();
    while got.len() < 6 {
        if let Message::Binary(data) = socket.next().await.unwrap().unwrap()
            && data[0] == 0
        {
            got.extend_from_slice(&data[1..]);
        }
    }
    assert_eq!(&got, b"\x90\x1fping");
}

/// A command that runs until its client has gone.
#[derive(Default)]
struct Endless(Arc<Mutex<usize>>);

struct Running(Arc<Mutex<usize>>);

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.lock().unwrap() -= 1;
    }
}

#[async_trait::async_trait]
impl StreamBackend for Endless {
    async fn exec(&self, _: &str, _: &[String], _: bool, _streams: Streams) -> Result<i32, StreamError> {
        *self.0.lock().unwrap() += 1;
        let _running = Running(Arc::clone(&self.0));
        std::future::pending().await
    }

    async fn attach(&self, _: &str, _: bool, _: Streams) -> Result<(), StreamError> {
        std::future::pending().await
    }

    async fn port_forward(&self, _: &str, _: u16, _: Box<dyn Duplex>) -> Result<(), StreamError> {
        std::future::pending().await
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn an_exec_ends_four_hours_after_the_last_sign_of_its_client() {
    use bytes::BytesMut;
    use spdy::frame::Encoder;
    let backend = Endless::default();
    let running = Arc::clone(&backend.0);
    let (ours, mut client) = tokio::io::duplex(64 << 10);
    let request = Request::Exec(exec("top", false));
    let serving =
        tokio::spawn(async move { session(&backend, &request, Upgrade::Spdy(Version::V4), ours).await });
    let (mut encoder, mut bytes) = (Encoder::default(), BytesMut::new());
    for (id, kind) in [(1, "error"), (3, "stdout"), (5, "stderr")] {
        encoder.syn_stream(&mut bytes, id, &[("streamtype", kind)]);
    }
    client.write_all(&bytes).await.unwrap();
    // As clients do that are there.
    for _ in 0..5 {
        tokio::time::sleep(HOUR).await;
        let mut ping = BytesMut::new();
        Encoder::ping(&mut ping, 1);
        client.write_all(&ping).await.unwrap();
    }
    assert_eq!(*running.lock().unwrap(), 1);
    // And then it says nothing more, nor does it close its connection.
    let ended = tokio::time::timeout(5 * HOUR, serving).await;
    assert!(ended.is_ok(), "the exec of a client that has vanished goes on");
    assert_eq!(*running.lock().unwrap(), 0);
}

/// Does the test again in a process of its own, whose limits are nobody else's; true in that process.
fn in_own_process(name: &str) -> bool {
    const INSIDE: &str = "PINTLE_TEST_IN_OWN_PROCESS";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", "--nocapture", name]).env(INSIDE, "1").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

#[test]
fn listeners_survive_that_no_descriptor_is_left() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if !in_own_process("server::tests::listeners_survive_that_no_descriptor_is_left") {
        return;
    }
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async {
        let server = Server::new(Arc::new(Echo::default()));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let unix = tokio::spawn(server.clone().serve_unix(UnixListener::bind(&path).unwrap(), |_| true));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tcp = tokio::spawn(server.serve_tcp(listener));
        // Sockets of clients that exist already; a connection takes one more descriptor, which is the server's.
        let mut waiting = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Unix,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map(std::os::unix::net::UnixStream::from)
        .unwrap();
        let over_tcp = tokio::net::TcpSocket::new_v4().unwrap();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 3, hard).unwrap();
        let name = nix::sys::socket::UnixAddr::new(&path).unwrap();
        nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&waiting), &name).unwrap();
        let mut over_tcp = over_tcp.connect(address).await.unwrap();
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(!unix.is_finished() && !tcp.is_finished(), "a listener has ended for want of a descriptor");
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        // Whoever came meanwhile is served.
        let request = b"GET /exec/none HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut answer = [0; 12];
        over_tcp.write_all(request).await.unwrap();
        over_tcp.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 404");
        std::io::Write::write_all(&mut waiting, request).unwrap();
        waiting.set_nonblocking(true).unwrap();
        let mut waiting = tokio::net::UnixStream::from_std(waiting).unwrap();
        waiting.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 404");
    });
}
