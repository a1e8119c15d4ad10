//! A registry in this process, on loopback, that serves well, lies, stalls and asks for tokens.
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use super::manifest::digest_of;
use super::*;
use crate::{Auth, Store};

#[derive(Debug, Clone, Default)]
struct Behaviour {
    basic: bool,
    bearer: bool,
    /// Bytes after which a blob's connection breaks, once per request.
    breaks_at: Option<usize>,
    /// A layer's bytes after which nothing more comes.
    stalls_at: Option<usize>,
    redirect_blobs: Option<String>,
    fail_with: Option<u16>,
    /// The body of such an answer.
    says: Option<String>,
    /// Where a token is to be had, other than here.
    realm: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    content: HashMap<String, Vec<u8>>,
    behaviour: Behaviour,
    /// Method, path and `Authorization` of every request.
    seen: Vec<(String, Option<String>)>,
    ranges: usize,
}

#[derive(Debug, Clone)]
struct Fake {
    state: Arc<Mutex<State>>,
    address: String,
}

type Body = BoxBody<Bytes, std::io::Error>;

fn full(status: u16, body: impl Into<Bytes>) -> ::http::Response<Body> {
    let body = Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed();
    ::http::Response::builder().status(status).body(body).unwrap()
}

impl Fake {
    async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State { behaviour, ..State::default() }));
        let fake = Self { state, address };
        let serving = fake.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let fake = serving.clone();
                let service = hyper::service::service_fn(move |r| {
                    std::future::ready(Ok::<_, Infallible>(fake.answer(&r)))
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        fake
    }

    fn put(&self, path: &str, bytes: Vec<u8>) {
        self.state.lock().unwrap().content.insert(path.into(), bytes);
    }

    /// Publishes an image of these layers under `app:v1`, and its manifest's digest.
    fn publish(&self, layers: &[Vec<u8>], diff_ids: &[String]) -> String {
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {"User": "1000"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string();
        let mut descriptors = Vec::new();
        for layer in layers {
            self.put(&format!("/v2/app/blobs/{}", digest_of(layer)), layer.clone());
            descriptors
                .push(serde_json::json!({"mediaType": "x", "digest": digest_of(layer), "size": layer.len()}));
        }
        self.put(&format!("/v2/app/blobs/{}", digest_of(config.as_bytes())), config.clone().into());
        let manifest = serde_json::json!({
            "schemaVersion": 2, "layers": descriptors,
            "config": {"mediaType": "x", "digest": digest_of(config.as_bytes()), "size": config.len()},
        })
        .to_string();
        let digest = digest_of(manifest.as_bytes());
        let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [
            {"digest": digest, "size": manifest.len(), "platform": {"os": "linux", "architecture": architecture}}]})
        .to_string();
        self.put(&format!("/v2/app/manifests/{digest}"), manifest.into());
        let top = digest_of(index.as_bytes());
        self.put("/v2/app/manifests/v1", index.clone().into());
        self.put(&format!("/v2/app/manifests/{top}"), index.into());
        top
    }

    fn answer(&self, request: &::http::Request<hyper::body::Incoming>) -> ::http::Response<Body> {
        let mut state = self.state.lock().unwrap();
        let authorization = request.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned());
        let path = request.uri().path().to_owned();
        state.seen.push((path.clone(), authorization.clone()));
        let behaviour = state.behaviour.clone();
        if let Some(status) = behaviour.fail_with {
            return full(status, behaviour.says.unwrap_or_else(|| "sorry".into()));
        }
        if path == "/token" {
            let right = authorization.as_deref() == Some("Basic dXNlcjpwYXNz");
            return if right { full(200, r#"{"token":"secret"}"#) } else { full(401, "no") };
        }
        if behaviour.basic && authorization.as_deref() != Some("Basic dXNlcjpwYXNz") {
            let mut response = full(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}"#);
            response.headers_mut().insert("www-authenticate", "Basic realm=\"x\"".parse().unwrap());
            return response;
        }
        if behaviour.bearer && authorization.as_deref() != Some("Bearer secret") {
            let mut response = full(401, "");
            let realm = behaviour.realm.unwrap_or_else(|| format!("http://{}/token", self.address));
            let challenge = format!("Bearer realm=\"{realm}\",service=\"test\"");
            response.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
            return response;
        }
        if let Some(to) = behaviour.redirect_blobs.filter(|_| path.contains("/blobs/")) {
            let mut response = full(307, "");
            response.headers_mut().insert("location", format!("http://{to}{path}").parse().unwrap());
            return response;
        }
        let Some(content) = state.content.get(&path).cloned() else { return full(404, "") };
        let range = request
            .headers()
            .get("range")
            .and_then(|r| r.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let from: usize = range.unwrap_or(0);
        state.ranges += usize::from(range.is_some());
        let rest = content[from..].to_vec();
        if let Some(at) = behaviour.stalls_at.filter(|at| path.contains("/blobs/") && rest.len() > *at) {
            use futures::StreamExt;
            let first = Frame::data(Bytes::from(rest[..at].to_vec()));
            let frames =
                futures::stream::once(std::future::ready(Ok(first))).chain(futures::stream::pending());
            return ::http::Response::new(BodyExt::boxed(StreamBody::new(frames)));
        }
        let mut response = match behaviour.breaks_at.filter(|at| path.contains("/blobs/") && rest.len() > *at)
        {
            Some(at) => {
                use futures::StreamExt;
                let first = Frame::data(Bytes::from(rest[..at].to_vec()));
                // The server flushes what it has when the body has nothing ready; only then is the connection
                // cut.
                let cut = futures::stream::once(async {
                    tokio::task::yield_now().await;
                    Err(std::io::Error::other("cut"))
                });
                let frames = futures::stream::once(std::future::ready(Ok(first))).chain(cut);
                ::http::Response::new(BodyExt::boxed(StreamBody::new(frames)))
            }
            None => full(200, rest),
        };
        if range.is_some() {
            *response.status_mut() = ::http::StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
            response.headers_mut().insert("content-range", range.parse().unwrap());
        }
        response
    }
}

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, data).unwrap();
    encoder.finish().unwrap()
}

fn open(state: &std::path::Path, documents: Vec<machine::config::Registry>) -> Store {
    Store::open(state, std::path::Path::new("/nonexistent"), documents).unwrap()
}

/// A store whose config names these registries: they are on loopback and speak plain HTTP.
fn store(state: &std::path::Path, fakes: &[&Fake]) -> Store {
    let document = |fake: &&Fake| machine::config::Registry {
        host: fake.address.clone(),
        plain_http: true,
        ..Default::default()
    };
    open(state, fakes.iter().map(document).collect())
}

fn noise(length: usize) -> Vec<u8> {
    let mut x = 1_u32;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x as u8
    };
    (0..length).map(|_| next()).collect()
}

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[tokio::test]
async fn an_image_of_plain_gzip_and_zstd_layers_is_pulled_shown_shared_and_removed() {
    if !root() {
        return;
    }
    let fake = Fake::start(Behaviour::default()).await;
    let plain = [tar_of(&[("a", b"1")]), tar_of(&[("b", b"2")]), tar_of(&[("c/d", b"3")])];
    let layers = [plain[0].clone(), gzip(&plain[1]), zstd::encode_all(plain[2].as_slice(), 1).unwrap()];
    let diff_ids: Vec<_> = plain.iter().map(|p| digest_of(p)).collect();
    let top = fake.publish(&layers, &diff_ids);
    let state = tempfile::tempdir().unwrap();
    let images = store(state.path(), &[&fake]);
    let name = format!("{}/app:v1", fake.address);
    let id = images.pull(&name, None, None).await.unwrap();
    let image = images.resolve(&name).unwrap().unwrap();
    assert_eq!((image.id.as_str(), &image.repo_tags), (id.as_str(), &vec![name.clone()]));
    assert_eq!(image.repo_digests, [format!("{}/app@{top}", fake.address)]);
    assert_eq!(std::fs::read(image.layers[2].join("c/d")).unwrap(), b"3");
    assert_eq!(images.resolve(&id[7..20]).unwrap().unwrap().id, id);

    // By digest: the same image, and nothing is fetched again.
    let before = fake.state.lock().unwrap().seen.iter().filter(|(p, _)| p.contains("/blobs/")).count();
    images.pull(&format!("{}/app@{top}", fake.address), None, None).await.unwrap();
    let after = fake.state.lock().unwrap().seen.iter().filter(|(p, _)| p.contains("/blobs/")).count();
    assert_eq!(after - before, 1, "only the config");

    // A container's snapshot keeps the layers when the image goes; then they go too.
    let snapshot = images.prepare_snapshot("c1", &image).unwrap();
    assert_eq!(snapshot.lower[0], image.layers[2]);
    images.remove(&name).unwrap();
    assert!(images.resolve(&id).unwrap().is_none());
    assert!(snapshot.lower.iter().all(|l| l.exists()));
    assert!(images.prepare_snapshot("c2", &image).is_ok(), "its layers are still there");
    drop(images);
    let images = store(state.path(), &[&fake]);
    assert!(snapshot.lower.iter().all(|l| l.exists()), "a restart forgets no container");
    images.remove_snapshot("c1").unwrap();
    images.remove_snapshot("c2").unwrap();
    images.remove("sha256:unknown").unwrap();
    assert!(!images.snapshots().contains(&"c1".to_owned()));
}

#[tokio::test]
async fn a_broken_connection_is_resumed_where_it_broke() {
    if !root() {
        return;
    }
    let fake = Fake::start(Behaviour { breaks_at: Some(40_000), ..Behaviour::default() }).await;
    let layer = tar_of(&[("noise", &noise(150_000))]);
    fake.publish(std::slice::from_ref(&layer), &[digest_of(&layer)]);
    let state = tempfile::tempdir().unwrap();
    store(state.path(), &[&fake]).pull(&format!("{}/app:v1", fake.address), None, None).await.unwrap();
    assert!(fake.state.lock().unwrap().ranges >= 3);
}

#[tokio::test]
async fn what_is_not_what_its_digest_says_is_never_shown() {
    if !root() {
        return;
    }
    let layer = tar_of(&[("a", b"1")]);
    let state = tempfile::tempdir().unwrap();
    let lies: [&dyn Fn(&Fake); 3] = [
        &|fake| fake.put(&format!("/v2/app/blobs/{}", digest_of(&layer)), tar_of(&[("a", b"2")])),
        &|fake| {
            fake.put(&format!("/v2/app/blobs/{}", digest_of(&layer)), [layer.clone(), vec![0; 512]].concat())
        },
        &|fake| drop(fake.publish(std::slice::from_ref(&layer), &[digest_of(b"other")])),
    ];
    let mut fakes = Vec::new();
    for lie in lies {
        let fake = Fake::start(Behaviour::default()).await;
        fake.publish(std::slice::from_ref(&layer), &[digest_of(&layer)]);
        lie(&fake);
        fakes.push(fake);
    }
    let images = store(state.path(), &fakes.iter().collect::<Vec<_>>());
    for fake in &fakes {
        let error = images.pull(&format!("{}/app:v1", fake.address), None, None).await.unwrap_err();
        assert!(matches!(error, PullError::Layer { .. } | PullError::Malformed(_)), "{error}");
    }
    assert!(images.list().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(state.path().join("layers")).unwrap().count(), 0);
}

#[tokio::test]
async fn credentials_are_shown_where_asked_for_and_follow_no_redirect() {
    if !root() {
        return;
    }
    let auth = Auth { username: "user".into(), password: "pass".into(), ..Auth::default() };
    let layer = tar_of(&[("a", b"1")]);
    for behaviour in [
        Behaviour { basic: true, ..Behaviour::default() },
        Behaviour { bearer: true, ..Behaviour::default() },
    ] {
        let other = Fake::start(Behaviour::default()).await;
        other.publish(std::slice::from_ref(&layer), &[digest_of(&layer)]);
        let fake = Fake::start(Behaviour { redirect_blobs: Some(other.address.clone()), ..behaviour }).await;
        fake.publish(std::slice::from_ref(&layer), &[digest_of(&layer)]);
        let state = tempfile::tempdir().unwrap();
        let (images, name) = (store(state.path(), &[&fake, &other]), format!("{}/app:v1", fake.address));
        let error = images.pull(&name, None, None).await.unwrap_err();
        assert!(matches!(error, PullError::Denied(_)), "{error}");
        images.pull(&name, Some(&auth), None).await.unwrap();
        let seen = other.state.lock().unwrap().seen.clone();
        assert!(!seen.is_empty() && seen.iter().all(|(_, a)| a.is_none()), "{seen:?}");

        // Credentials for another server are not shown to this one.
        let foreign = Auth { server_address: "other.example".into(), ..auth.clone() };
        let error = images.pull(&name, Some(&foreign), None).await.unwrap_err();
        assert!(matches!(error, PullError::Denied(_)));
    }
}

#[tokio::test]
async fn errors_say_what_users_know() {
    let fake = Fake::start(Behaviour::default()).await;
    let state = tempfile::tempdir().unwrap();
    let images = store(state.path(), &[&fake]);
    let error = images.pull(&format!("{}/app:v2", fake.address), None, None).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{}/v2/app/manifests/v2: not found", fake.address));
    fake.state.lock().unwrap().behaviour.fail_with = Some(500);
    let error = images.pull(&format!("{}/app:v2", fake.address), None, None).await.unwrap_err();
    // Not in a registry's own words, so it may be anybody's secret.
    assert!(error.to_string().ends_with("unexpected status 500"), "{error}");
    fake.state.lock().unwrap().behaviour.says =
        Some(r#"{"errors":[{"code":"UNKNOWN","message":"out of order"}]}"#.into());
    let error = images.pull(&format!("{}/app:v2", fake.address), None, None).await.unwrap_err();
    assert!(error.to_string().ends_with("unexpected status 500: UNKNOWN: out of order"), "{error}");
    let error = images.pull("short", None, None).await.unwrap_err();
    assert!(matches!(error, PullError::Unqualified(_)));
}

#[tokio::test]
async fn mirrors_are_tried_in_order_before_the_registry() {
    if !root() {
        return;
    }
    let (empty, full) = (Fake::start(Behaviour::default()).await, Fake::start(Behaviour::default()).await);
    let layer = tar_of(&[("a", b"1")]);
    full.publish(std::slice::from_ref(&layer), &[digest_of(&layer)]);
    let mirrors = vec![format!("http://{}", empty.address), format!("http://{}", full.address)];
    let documents = vec![machine::config::Registry { host: "*".into(), mirrors, ..Default::default() }];
    let state = tempfile::tempdir().unwrap();
    let images = Store::open(state.path(), std::path::Path::new("/nonexistent"), documents).unwrap();
    images
        .pull("registry.invalid/app:v1", Some(&Auth { username: "user".into(), ..Auth::default() }), None)
        .await
        .unwrap();
    assert!(!empty.state.lock().unwrap().seen.is_empty());
    assert!(
        full.state.lock().unwrap().seen.iter().all(|(_, a)| a.is_none()),
        "a pull secret is not for mirrors"
    );
}

#[tokio::test]
async fn a_docker_archive_and_an_oci_layout_are_imported() {
    if !root() {
        return;
    }
    let layer = tar_of(&[("a", b"1")]);
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(&layer)]}}).to_string();
    let docker = serde_json::json!([{"Config": "c.json", "RepoTags": ["demo:1", "reg.example/x:2"], "Layers": ["l/layer.tar"]}]).to_string();
    let docker = tar_of(&[
        ("l/layer.tar", &layer),
        ("c.json", config.as_bytes()),
        ("manifest.json", docker.as_bytes()),
    ]);
    let state = tempfile::tempdir().unwrap();
    let images = store(state.path(), &[]);
    let names = images.import(std::io::Cursor::new(gzip(&docker))).await.unwrap();
    assert_eq!(names, ["localhost/demo:1", "reg.example/x:2"]);
    assert!(images.resolve("demo:1").unwrap().is_some());

    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", &digest_of(bytes)[7..]);
    let packed = gzip(&layer);
    let descriptor =
        |bytes: &[u8]| serde_json::json!({"mediaType": "x", "digest": digest_of(bytes), "size": bytes.len()});
    let manifest = serde_json::json!({"schemaVersion": 2, "config": descriptor(config.as_bytes()), "layers": [descriptor(&packed)]}).to_string();
    let mut entry = descriptor(manifest.as_bytes());
    entry["annotations"] = serde_json::json!({"io.containerd.image.name": "reg.example/y:3"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let layout = tar_of(&[
        ("oci-layout", b"{}"),
        ("index.json", index.as_bytes()),
        (&blob(manifest.as_bytes()), manifest.as_bytes()),
        (&blob(config.as_bytes()), config.as_bytes()),
        (&blob(&packed), &packed),
    ]);
    assert_eq!(images.import(std::io::Cursor::new(layout)).await.unwrap(), ["reg.example/y:3"]);
    assert_eq!(
        images.resolve("reg.example/y:3").unwrap().unwrap().repo_tags.len(),
        3,
        "the same image under all its names"
    );
    let broken = images.import(std::io::Cursor::new(b"no archive".to_vec())).await;
    assert!(broken.is_err());
}

#[tokio::test]
async fn no_image_is_named_after_the_node_itself() {
    let fake = Fake::start(Behaviour::default()).await;
    let state = tempfile::tempdir().unwrap();
    // Neither without any document nor with one for all registries.
    let all = machine::config::Registry { host: "*".into(), plain_http: true, ..Default::default() };
    let port = fake.address.rsplit_once(':').unwrap().1;
    for documents in [Vec::new(), vec![all]] {
        let images = open(state.path(), documents);
        for host in
            ["127.0.0.1", "127.1", "localhost", "[::ffff:127.0.0.1]", "[::1]", "0.0.0.0", "2130706433"]
        {
            let name = format!("{host}:{port}/app:v1");
            let error = images.pull(&name, None, None).await.unwrap_err().to_string();
            // A name that the resolver does not know is as good.
            let clear =
                error.contains("Registry document") || host == "localhost" || error.contains("invalid");
            assert!(clear, "{name}: {error}");
        }
        let error = images.pull("169.254.169.254/latest/meta-data:v1", None, None).await.unwrap_err();
        assert!(error.to_string().contains("link-local"), "{error}");
    }
    assert_eq!(fake.state.lock().unwrap().seen, []);
}

#[tokio::test]
async fn a_registry_sends_a_pull_to_nothing_on_the_node() {
    let auth = Auth { username: "user".into(), password: "pass".into(), ..Auth::default() };
    let layer = tar_of(&[("a", b"1")]);
    let inside = Fake::start(Behaviour::default()).await;
    inside.publish(std::slice::from_ref(&layer), &[digest_of(&layer)]);
    let address = inside.address.clone();
    let port = address.rsplit_once(':').unwrap().1.to_owned();
    for behaviour in [
        Behaviour { redirect_blobs: Some(address.clone()), ..Behaviour::default() },
        Behaviour { redirect_blobs: Some(format!("127.1:{port}")), ..Behaviour::default() },
        Behaviour { bearer: true, realm: Some(format!("http://{address}/token")), ..Behaviour::default() },
        Behaviour { bearer: true, realm: Some(format!("http://0:{port}/token")), ..Behaviour::default() },
    ] {
        let fake = Fake::start(behaviour.clone()).await;
        fake.publish(std::slice::from_ref(&layer), &[digest_of(&layer)]);
        let state = tempfile::tempdir().unwrap();
        let images = store(state.path(), &[&fake]);
        let error = images.pull(&format!("{}/app:v1", fake.address), Some(&auth), None).await.unwrap_err();
        assert!(error.to_string().contains("Registry document"), "{behaviour:?}: {error}");
    }
    assert_eq!(inside.state.lock().unwrap().seen, []);
}

#[test]
fn names_of_registries_are_looked_up_while_everything_else_is_blocked() {
    let tokio =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    tokio.block_on(async {
        let busy = tokio::task::spawn_blocking(move || blocked.recv());
        let fake = Fake::start(Behaviour::default()).await;
        let port = fake.address.rsplit_once(':').unwrap().1;
        let host = format!("localhost:{port}");
        let document =
            machine::config::Registry { host: host.clone(), plain_http: true, ..Default::default() };
        let state = tempfile::tempdir().unwrap();
        let images = open(state.path(), vec![document]);
        let pulled = images.pull(&format!("{host}/app:v1"), None, Some(Duration::from_secs(20))).await;
        release.send(()).unwrap();
        let error = pulled.unwrap_err();
        assert!(!matches!(error, PullError::Deadline), "the look-up waits for other work");
        busy.await.unwrap().unwrap();
    });
}

#[tokio::test]
async fn a_layer_that_one_registry_holds_back_comes_from_another() {
    if !root() {
        return;
    }
    let stalled = Fake::start(Behaviour { stalls_at: Some(5000), ..Behaviour::default() }).await;
    let good = Fake::start(Behaviour::default()).await;
    let layer = tar_of(&[("noise", &noise(50_000))]);
    for fake in [&stalled, &good] {
        fake.publish(std::slice::from_ref(&layer), &[digest_of(&layer)]);
    }
    let state = tempfile::tempdir().unwrap();
    let images = store(state.path(), &[&stalled, &good]);
    let [from_stalled, from_good] = [&stalled, &good].map(|fake| format!("{}/app:v1", fake.address));
    let held = images.pull(&from_stalled, None, None);
    tokio::pin!(held);
    let blob = format!("/v2/app/blobs/{}", digest_of(&layer));
    let asked = async {
        while !stalled.state.lock().unwrap().seen.iter().any(|(path, _)| *path == blob) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ended = &mut held => panic!("the pull that shall stall has ended: {ended:?}"),
        () = asked => {}
    }
    tokio::select! {
        ended = &mut held => panic!("the pull that shall stall has ended: {ended:?}"),
        pulled = images.pull(&from_good, None, Some(Duration::from_secs(20))) => drop(pulled.unwrap()),
    }
}
