use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use machine::cri;
use proptest::prelude::*;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};

use super::log_line::{Formatter, LogOptions, StreamChoice, parse};
use super::query::Query;
use super::*;
use crate::probe::ExecOutput;
use crate::serving::{ServingCertificate, certified_key};
use crate::stats::{NodeStats, read_node};

#[derive(Debug, Default)]
struct Fake {
    log: PathBuf,
    asked: Mutex<Vec<String>>,
    reviews: Mutex<u32>,
    /// Token reviews that wait for an answer, now and at most; with `mute` none comes.
    waiting: Mutex<(u32, u32)>,
    mute: std::sync::atomic::AtomicBool,
    /// Containers run on.
    endless: std::sync::atomic::AtomicBool,
}

impl Fake {
    fn pod() -> Pod {
        let running = json!([{"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "containerID": "pintle://id-c", "state": {"running": {}}}]);
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [{"name": "c", "tty": true}]},
            "status": {"phase": "Running", "containerStatuses": running},
        }))
        .unwrap()
    }

    fn url(&self, asked: String) -> BoxFuture<'_, Result<String, String>> {
        self.asked.lock().unwrap().push(asked);
        async { Ok("http://localhost/exec/token1".to_owned()) }.boxed()
    }
}

impl Backend for Fake {
    fn pods(&self) -> Vec<ServedPod> {
        let containers = vec![("c".to_owned(), "id-c".to_owned())];
        vec![ServedPod { pod: Arc::new(Self::pod()), sandbox: Some("sandbox".into()), containers }]
    }
    fn node_name(&self) -> String {
        "n".into()
    }
    fn configz(&self) -> serde_json::Value {
        json!({"maxPods": 110})
    }
    fn log_path<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<PathBuf>, String>> {
        async { Ok(Some(self.log.clone())) }.boxed()
    }
    fn ended<'a>(&'a self, _: &'a str) -> BoxFuture<'a, ()> {
        let over = !self.endless.load(std::sync::atomic::Ordering::SeqCst);
        async move {
            if !over {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }
    fn exec_sync<'a>(
        &'a self,
        id: &'a str,
        command: Vec<String>,
        _: Duration,
    ) -> BoxFuture<'a, Result<ExecOutput, String>> {
        let output = format!("{id}:{}", command.join("|")).into_bytes();
        async { Ok(ExecOutput { exit_code: 0, output, timed_out: false }) }.boxed()
    }
    fn exec(&self, request: cri::ExecRequest) -> BoxFuture<'_, Result<String, String>> {
        self.url(format!(
            "exec {} {:?} tty={} in={} err={}",
            request.container_id, request.cmd, request.tty, request.stdin, request.stderr
        ))
    }
    fn attach(&self, request: cri::AttachRequest) -> BoxFuture<'_, Result<String, String>> {
        self.url(format!("attach {} tty={} err={}", request.container_id, request.tty, request.stderr))
    }
    fn port_forward(&self, request: cri::PortForwardRequest) -> BoxFuture<'_, Result<String, String>> {
        self.url(format!("port-forward {} {:?}", request.pod_sandbox_id, request.port))
    }
    fn stats(&self) -> BoxFuture<'_, Result<NodeStats, String>> {
        async { read_node("/".as_ref()).map_err(|error| error.to_string()) }.boxed()
    }
    fn services(&self) -> BoxFuture<'_, Vec<machine::socket::Service>> {
        async { Vec::new() }.boxed()
    }
    fn probe_metrics(&self) -> String {
        String::new()
    }
    fn token_review<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, String>> {
        *self.reviews.lock().unwrap() += 1;
        if self.mute.load(std::sync::atomic::Ordering::SeqCst) {
            let mut waiting = self.waiting.lock().unwrap();
            waiting.0 += 1;
            waiting.1 = waiting.1.max(waiting.0);
            return std::future::pending().boxed();
        }
        let user = (token != "bad").then(|| User { name: token.into(), ..User::default() });
        async { Ok(user) }.boxed()
    }
    /// `admin` may do everything, `metrics` may get metrics and stats, `proxy-get` may get nodes/proxy, others nothing.
    fn access_review<'a>(
        &'a self,
        user: &'a User,
        verb: &'a str,
        subresource: &'a str,
    ) -> BoxFuture<'a, Result<bool, String>> {
        *self.reviews.lock().unwrap() += 1;
        let allowed = match user.name.as_str() {
            "admin" => true,
            "metrics" => verb == "get" && matches!(subresource, "metrics" | "stats"),
            "proxy-get" => verb == "get" && subresource == "proxy",
            _ => false,
        };
        async move { Ok(allowed) }.boxed()
    }
}

mod crowds;

struct Rig {
    backend: Arc<Fake>,
    address: std::net::SocketAddr,
    client_certificate: (Vec<u8>, Vec<u8>),
    socket: PathBuf,
    dir: tempfile::TempDir,
}

async fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let client_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "admin");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let client = params.signed_by(&client_key, &issuer).unwrap();

    let serving = ServingCertificate::self_signed(vec!["localhost".into()]).unwrap();
    let config = ServerTls::config(Arc::new(serving), &ca.pem()).unwrap();
    let (_keep, current) = watch::channel(config);
    let backend = Arc::new(Fake { log: dir.path().join("0.log"), ..Fake::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let socket = dir.path().join("stream.sock");
    tokio::spawn(serve(
        listener,
        ServerTls::new(current),
        backend.clone(),
        socket.to_str().unwrap().to_owned(),
    ));
    let client_certificate = (client.der().to_vec(), client_key.serialize_der());
    Rig { backend, address, client_certificate, socket, dir }
}

#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

type Sender = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

async fn connect(rig: &Rig, with_certificate: bool) -> Sender {
    let stream = secured(rig, with_certificate).await;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    sender
}

async fn secured(
    rig: &Rig,
    with_certificate: bool,
) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let builder =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer));
    let config = if with_certificate {
        let (chain, key) = rig.client_certificate.clone();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
        builder.with_client_auth_cert(vec![chain.into()], key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    let stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
}

async fn ask(rig: &Rig, identity: Option<&str>, method: Method, path: &str) -> (StatusCode, String) {
    let mut sender = connect(rig, identity == Some("certificate")).await;
    let mut request = Request::builder().method(method).uri(path).header("host", "n");
    if let Some(token) = identity.filter(|identity| *identity != "certificate") {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
    let status = response.status();
    (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn who_may_do_what() {
    let rig = rig().await;
    std::fs::write(&rig.backend.log, "2026-01-01T00:00:00Z stdout F hello\n").unwrap();
    let get = [
        "/healthz",
        "/pods",
        "/runningpods/",
        "/containerLogs/ns/p/c",
        "/stats/summary",
        "/metrics",
        "/metrics/resource",
        "/metrics/cadvisor",
        "/configz",
        "/exec/ns/p/c?command=x&output=1",
        "/logs/",
        "/nothing",
    ];
    for path in get {
        assert_eq!(ask(&rig, None, Method::GET, path).await.0, 401, "{path}");
        assert_eq!(ask(&rig, Some("bad"), Method::GET, path).await.0, 401, "{path}");
        assert_eq!(ask(&rig, Some("nobody"), Method::GET, path).await.0, 403, "{path}");
        let metrics = ask(&rig, Some("metrics"), Method::GET, path).await.0;
        let expected = if path.starts_with("/metrics") || path.starts_with("/stats") { 200 } else { 403 };
        assert_eq!(metrics, expected, "{path}");
        let admin = ask(&rig, Some("certificate"), Method::GET, path).await.0.as_u16();
        let expected = match path {
            "/logs/" => 403,
            "/nothing" => 404,
            // Nobody serves streams in this test.
            _ if path.starts_with("/exec") => 502,
            _ => 200,
        };
        assert_eq!(admin, expected, "{path}");
    }
    // `get` on nodes/proxy reads, and does not run anything.
    assert_eq!(ask(&rig, Some("proxy-get"), Method::GET, "/pods").await.0, 200);
    let refused = ask(&rig, Some("proxy-get"), Method::GET, "/exec/ns/p/c?command=x&output=1").await;
    assert_eq!(refused.0, 403);
    assert_eq!(refused.1, "Forbidden (user=proxy-get, verb=create, resource=nodes, subresource(s)=[proxy])");
    assert_eq!(
        ask(&rig, Some("admin"), Method::POST, "/run/ns/p/c?cmd=ls%20-l").await,
        (StatusCode::OK, "id-c:ls|-l".into())
    );
    assert_eq!(ask(&rig, Some("admin"), Method::DELETE, "/pods").await.0, 405);
    assert!(ask(&rig, Some("admin"), Method::GET, "/pods").await.1.contains("\"kind\":\"PodList\""));
}

#[tokio::test]
async fn answers_of_the_api_server_are_remembered() {
    let rig = rig().await;
    for _ in 0..5 {
        assert_eq!(ask(&rig, Some("admin"), Method::GET, "/healthz").await.0, 200);
    }
    assert_eq!(*rig.backend.reviews.lock().unwrap(), 2);
}

#[tokio::test]
async fn streams_reach_the_runtime_untouched() {
    let rig = rig().await;
    let listener = UnixListener::bind(&rig.socket).unwrap();
    let runtime = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(b"pong").await.unwrap();
        (String::from_utf8(head).unwrap(), bytes)
    });
    let mut sender = connect(&rig, true).await;
    let request = Request::post("/exec/ns/p/u/c?command=sh&command=-c&input=1&output=1&error=1")
        .header("host", "n")
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", "v4.channel.k8s.io")
        .header("authorization", "Bearer secret")
        .body(Empty::new())
        .unwrap();
    let mut response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(response.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
    let mut upgraded = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    upgraded.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    upgraded.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"pong");
    let (head, bytes) = runtime.await.unwrap();
    assert_eq!(&bytes, b"ping");
    assert!(
        head.starts_with("POST /exec/token1 HTTP/1.1\r\n") && head.contains("upgrade: SPDY/3.1"),
        "{head}"
    );
    assert!(!head.contains("secret"), "{head}");
    let asked = rig.backend.asked.lock().unwrap().clone();
    assert_eq!(asked, [r#"exec id-c ["sh", "-c"] tty=false in=true err=true"#]);
}

#[tokio::test]
async fn wrong_stream_requests_are_refused_before_the_runtime_hears_of_them() {
    let rig = rig().await;
    let status = async |path: &str| ask(&rig, Some("admin"), Method::POST, path).await;
    assert_eq!(status("/exec/ns/p/c?command=x").await.0, 400);
    assert_eq!(status("/exec/ns/p/other-uid/c?command=x&output=1").await.0, 404);
    assert_eq!(status("/exec/ns/p/nope?command=x&output=1").await.0, 404);
    assert_eq!(status("/portForward/ns/p?port=99999").await.0, 400);
    assert!(rig.backend.asked.lock().unwrap().is_empty());
    // Attach takes the terminal from the container, and a terminal has no stderr.
    status("/attach/ns/p/c?output=1&error=1").await;
    status("/portForward/ns/p/u").await;
    assert_eq!(
        *rig.backend.asked.lock().unwrap(),
        ["attach id-c tty=true err=false", "port-forward sandbox []"]
    );
}

/// The API server's WebSocket drops lines that it reads together with the end of the answer.
#[tokio::test]
async fn a_log_ends_after_its_last_line() {
    let rig = rig().await;
    std::fs::write(&rig.backend.log, "2026-01-01T00:00:00Z stdout F alive\n").unwrap();
    let mut stream = secured(&rig, false).await;
    let request = "GET /containerLogs/ns/p/c HTTP/1.1\r\nhost: n\r\nauthorization: Bearer admin\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.contains("alive\n") {
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).await.unwrap();
        assert_ne!(read, 0, "{answer}");
        answer.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
    }
    assert!(answer.ends_with("alive\n\r\n"), "the end came along: {answer}");
    let mut end = String::new();
    stream.read_to_string(&mut end).await.unwrap();
    assert_eq!(end, "0\r\n\r\n");
}

#[tokio::test]
async fn logs_are_tailed_and_filtered() {
    let rig = rig().await;
    let lines = "2026-01-01T00:00:00.5Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n2026-01-01T00:00:01Z stderr F o\nbroken\n2026-01-01T00:00:02Z stdout F three\n";
    std::fs::write(&rig.backend.log, lines).unwrap();
    let log = async |query: &str| {
        ask(&rig, Some("admin"), Method::GET, &format!("/containerLogs/ns/p/c?{query}")).await
    };
    let ok = |text: &str| (StatusCode::OK, text.to_owned());
    assert_eq!(log("").await, ok("one\ntwo\nthree\n"));
    assert_eq!(log("tailLines=1").await, ok("three\n"));
    assert_eq!(log("tailLines=0").await, ok(""));
    assert_eq!(log("limitBytes=5").await, ok("one\nt"));
    assert_eq!(log("stream=Stderr&timestamps=true").await, ok("2026-01-01T00:00:01Z two\n"));
    assert_eq!(log("sinceTime=2026-01-01T00:00:02Z").await, ok("three\n"));
    assert_eq!(log("follow=true").await, ok("one\ntwo\nthree\n"));
    assert_eq!(log("tailLines=x").await.0, 422);
    let (status, text) = log("previous=true").await;
    assert_eq!(
        (status.as_u16(), text.as_str()),
        (400, "previous terminated container \"c\" in pod \"p\" not found")
    );
    assert_eq!(ask(&rig, Some("admin"), Method::GET, "/containerLogs/ns/q/c").await.0, 404);
    assert_eq!(ask(&rig, Some("admin"), Method::GET, "/containerLogs/ns/p/d").await.0, 404);
}

#[tokio::test]
async fn following_crosses_a_rotation_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let line = |number: u32| format!("2026-01-01T00:00:00Z stdout F {number}\n");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(line(0).as_bytes()).unwrap();
    let (output, mut chunks) = mpsc::channel(1);
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let ended = ended.map(|_| ());
    let follow = tokio::spawn(logs::send(path.clone(), options, ended, output));
    let mut seen = Vec::from(&chunks.recv().await.unwrap()[..]);
    for number in 1..200 {
        if number % 50 == 0 {
            std::fs::rename(&path, dir.path().join(format!("0.log.{number}"))).unwrap();
            file = std::fs::File::create(&path).unwrap();
        }
        file.write_all(line(number).as_bytes()).unwrap();
        while !seen.ends_with(format!("{number}\n").as_bytes()) {
            let next = tokio::time::timeout(Duration::from_secs(10), chunks.recv()).await;
            seen.extend_from_slice(&next.expect("the line arrives").expect("the stream goes on"));
        }
    }
    end.send(()).unwrap();
    assert_eq!(chunks.recv().await, None);
    follow.await.unwrap().unwrap();
    let expected: String = (0..200).map(|number| format!("{number}\n")).collect();
    assert_eq!(String::from_utf8(seen).unwrap(), expected);
}

#[tokio::test]
async fn a_follower_that_leaves_ends_the_reading() {
    let rig = rig().await;
    std::fs::write(&rig.backend.log, "").unwrap();
    let (output, chunks) = mpsc::channel(1);
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let follow =
        tokio::spawn(logs::send(rig.dir.path().join("0.log"), options, std::future::pending(), output));
    drop(chunks);
    let done = tokio::time::timeout(Duration::from_secs(10), follow).await;
    done.expect("the reading ends").unwrap().unwrap();
}

#[test]
fn paths_and_rights() {
    let pod =
        |uid: Option<&str>| PodPath { namespace: "a".into(), name: "b".into(), uid: uid.map(Into::into) };
    let exec = |uid| Route::Exec { pod: pod(uid), container: "c".into() };
    assert_eq!(route(&Method::GET, "/exec/a/b/c"), exec(None));
    assert_eq!(route(&Method::POST, "/exec/a/b/u/c"), exec(Some("u")));
    assert_eq!(route(&Method::POST, "/portForward/a/b"), Route::PortForward { pod: pod(None) });
    assert_eq!(route(&Method::GET, "/run/a/b/c"), Route::MethodNotAllowed);
    assert_eq!(route(&Method::GET, "/exec/a"), Route::NotFound);
    for path in ["/exec/a/b/c", "/attach/a/b/c", "/portForward/a/b", "//exec/a/b/c"] {
        assert_eq!(needed(&Method::GET, path).verb, "create", "{path}");
    }
    assert_eq!(needed(&Method::GET, "/pods").subresources, ["pods", "proxy"]);
    assert_eq!(needed(&Method::GET, "/metrics/resource").subresources, ["metrics"]);
    assert_eq!(needed(&Method::GET, "/anything").subresources, ["proxy"]);
}

#[test]
fn queries_are_decoded() {
    let query = Query::parse("command=a%20b&command=c%2Bd+e&tty=1&bad=%zz&x").unwrap();
    assert_eq!(query.all("command"), ["a b", "c+d e"]);
    assert!(query.is_on("tty") && !query.is_on("x"));
    assert_eq!((query.get("bad"), query.get("x"), query.get("y")), (Some("%zz"), Some(""), None));
}

#[test]
fn a_serving_key_of_any_supported_kind_loads() {
    let key = rcgen::KeyPair::generate().unwrap();
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    assert!(certified_key(vec![], der).is_ok());
}

proptest! {
    #[test]
    fn any_bytes_may_stand_in_a_log(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut output = Vec::new();
        let options = LogOptions { stream: Some(StreamChoice::Stdout), timestamps: true, limit_bytes: Some(10), ..LogOptions::default() };
        Formatter::new(options).push(&bytes, &mut output);
        prop_assert!(output.len() <= 10);
        let _ = parse(&bytes);
    }

    #[test]
    fn any_text_may_stand_in_a_request(path in "/[ -~]{0,80}", query in "\\PC{0,80}") {
        let _ = Query::parse(&query);
        let asked = route(&Method::GET, &path);
        let needed = needed(&Method::GET, &path);
        if matches!(asked, Route::Exec { .. } | Route::Attach { .. } | Route::PortForward { .. }) {
            prop_assert_eq!(needed.verb, "create");
        }
    }
}
