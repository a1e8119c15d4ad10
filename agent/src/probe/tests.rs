use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;

/// Answers with the exit codes given, the last one for ever.
#[derive(Debug, Default)]
struct Script {
    codes: Mutex<Vec<i32>>,
    runs: Mutex<u32>,
}

impl Exec for Script {
    fn exec(&self, _: String, _: Vec<String>, _: Duration) -> BoxFuture<'_, Result<ExecOutput, String>> {
        *self.runs.lock().unwrap() += 1;
        let mut codes = self.codes.lock().unwrap();
        let exit_code = if codes.len() > 1 { codes.remove(0) } else { codes[0] };
        async move { Ok(ExecOutput { exit_code, output: b"said".to_vec(), timed_out: false }) }.boxed()
    }
}

fn target(container: serde_json::Value) -> Target {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "uid": "u"},
        "spec": {"containers": [container]},
    }))
    .unwrap();
    Target {
        pod: Arc::new(pod),
        container: "c".into(),
        container_id: "id".into(),
        started_at: Timestamp::now(),
        pod_ip: "127.0.0.1".into(),
    }
}

fn manager(codes: &[i32]) -> (Manager, mpsc::Receiver<Changed>, Arc<Script>) {
    let script = Arc::new(Script { codes: Mutex::new(codes.to_vec()), runs: Mutex::default() });
    let (tx, rx) = mpsc::channel(16);
    (Manager::new(script.clone(), tx, Arc::new(|_, _, _, _| {})), rx, script)
}

fn local(names: &Names) -> names::PodAddress<'_> {
    names::PodAddress { uid: "u", ip: "127.0.0.1", names }
}

fn exec_probe(failure: i32, success: i32) -> serde_json::Value {
    json!({"exec": {"command": ["x"]}, "periodSeconds": 2, "failureThreshold": failure, "successThreshold": success})
}

/// Whatever else blocks, of which there is only so much, such as look-ups by the agent's own clients.
#[test]
fn names_in_probes_share_no_threads_with_the_rest_of_the_agent() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    runtime.unwrap().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || held.recv().unwrap_or_default());
        let probe = json!({"tcpSocket": {"host": "localhost", "port": port}, "timeoutSeconds": 5});
        let (manager, mut changes, _) = manager(&[0]);
        let container = json!({"name": "c", "startupProbe": probe});
        manager.watch(target(container), Initial::default());
        let told = tokio::time::timeout(Duration::from_secs(20), changes.recv()).await;
        assert!(told.expect("the probe's result").unwrap().healthy);
        drop(release);
        busy.await.unwrap();
    });
}

#[test]
fn thresholds_count_results_in_a_row() {
    let mut tracker = Tracker::new(Thresholds { success: 2, failure: 3 }, Some(true));
    let results = [false, false, true, false, false, false, false, true, false, true, true];
    let states: Vec<_> = results.iter().map(|result| tracker.observe(*result)).collect();
    let mut expected = vec![None; 11];
    expected[5] = Some(false);
    expected[10] = Some(true);
    assert_eq!(states, expected);
    assert_eq!(Tracker::new(Thresholds { success: 1, failure: 1 }, None).observe(true), Some(true));
}

#[tokio::test(start_paused = true)]
async fn startup_gates_the_others_and_liveness_asks_for_a_kill() {
    let (manager, mut changes, script) = manager(&[1, 1, 0, 0, 1]);
    let mut liveness = exec_probe(2, 1);
    liveness["terminationGracePeriodSeconds"] = json!(7);
    manager.watch(
        target(json!({"name": "c", "startupProbe": exec_probe(5, 1), "livenessProbe": liveness})),
        Initial::default(),
    );
    assert_eq!(manager.health("id"), Some(Health { started: false, ready: false }));
    let started = changes.recv().await.unwrap();
    assert_eq!((started.kind, started.healthy), (Kind::Startup, true));
    assert_eq!(manager.health("id"), Some(Health { started: true, ready: true }));
    let dead = changes.recv().await.unwrap();
    assert_eq!((dead.kind, dead.healthy, dead.grace_seconds), (Kind::Liveness, false, Some(7)));
    assert_eq!(dead.message, "said");
    assert_eq!(*script.runs.lock().unwrap(), 6);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*script.runs.lock().unwrap(), 6, "a container that is to be killed is not probed");
}

#[tokio::test(start_paused = true)]
async fn readiness_begins_unready_and_survives_a_restart_of_the_agent() {
    let (manager, mut changes, _) = manager(&[0, 1]);
    let container = json!({"name": "c", "readinessProbe": exec_probe(3, 1)});
    manager.watch(target(container.clone()), Initial::default());
    assert_eq!(manager.health("id"), Some(Health { started: true, ready: false }));
    assert!(changes.recv().await.unwrap().healthy);
    assert!(!changes.recv().await.unwrap().healthy);
    assert_eq!(manager.health("id"), Some(Health { started: true, ready: false }));
    manager.forget("id");
    assert_eq!(manager.health("id"), None);

    let (manager, mut changes, script) = self::manager(&[1]);
    manager.watch(target(container), Initial { started: true, ready: true });
    assert_eq!(manager.health("id"), Some(Health { started: true, ready: true }));
    assert!(!changes.recv().await.unwrap().healthy);
    assert_eq!(*script.runs.lock().unwrap(), 3, "only the failure threshold takes readiness away");
    manager.forget_pod("u");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*script.runs.lock().unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_initial_delay_counts_from_the_containers_start() {
    let (manager, mut changes, _) = manager(&[0]);
    let mut probe = exec_probe(1, 1);
    probe["initialDelaySeconds"] = json!(30);
    let begun = tokio::time::Instant::now();
    manager.watch(target(json!({"name": "c", "readinessProbe": probe})), Initial::default());
    changes.recv().await.unwrap();
    assert!((28..=31).contains(&begun.elapsed().as_secs()));
}

/// A server that answers each connection with the next of `answers` and keeps what it was asked.
async fn server(answers: Vec<&'static str>) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let mut length = 0;
            while !buffer[..length].windows(4).any(|window| window == b"\r\n\r\n") {
                length += stream.read(&mut buffer[length..]).await.unwrap();
            }
            seen.lock().unwrap().push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (port, asked)
}

async fn http_probe(port: u16, extra: serde_json::Value) -> Outcome {
    let mut get = json!({"port": port, "path": "/a?b=c"});
    get.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let probe: Probe = serde_json::from_value(json!({"httpGet": get, "timeoutSeconds": 5})).unwrap();
    once::run(&probe, &Container::default(), "id", local(&Names::default()), &Script::default()).await
}

#[tokio::test]
async fn http_probes_speak_as_the_kubelet() {
    let ok = "HTTP/1.1 204 No Content\r\n\r\n";
    let (port, asked) = server(vec![ok, ok]).await;
    assert_eq!(http_probe(port, json!({})).await, Outcome::Success);
    let headers = json!([{"name": "Host", "value": "me.example"}, {"name": "Accept", "value": ""}, {"name": "X-A", "value": "1"}]);
    assert_eq!(http_probe(port, json!({"httpHeaders": headers})).await, Outcome::Success);
    let asked = asked.lock().unwrap();
    let first = asked[0].to_lowercase();
    assert!(first.starts_with("get /a?b=c http/1.1\r\n"), "{first}");
    assert!(
        first.contains("user-agent: kube-probe/1.37\r\n") && first.contains("accept: */*\r\n"),
        "{first}"
    );
    assert!(first.contains(&format!("host: 127.0.0.1:{port}\r\n")), "{first}");
    let second = asked[1].to_lowercase();
    assert!(
        second.contains("host: me.example\r\n")
            && second.contains("x-a: 1\r\n")
            && !second.contains("accept:")
    );
}

#[tokio::test]
async fn http_failures_and_redirects() {
    let failing = "HTTP/1.1 500 Oops\r\nContent-Length: 6\r\n\r\nsecret";
    let elsewhere = "HTTP/1.1 302 Found\r\nLocation: http://other.example/\r\nContent-Length: 0\r\n\r\n";
    let here = "HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let (port, asked) = server(vec![failing, elsewhere, here, ok]).await;
    assert_eq!(
        http_probe(port, json!({})).await,
        Outcome::Failure("HTTP probe failed with statuscode: 500".into())
    );
    assert!(matches!(http_probe(port, json!({})).await, Outcome::Warning(_)));
    assert_eq!(http_probe(port, json!({})).await, Outcome::Success);
    assert!(asked.lock().unwrap()[3].starts_with("GET /next "));
    assert!(matches!(http_probe(port, json!({"scheme": "HTTPS"})).await, Outcome::Failure(_)));
}

#[tokio::test]
async fn tcp_probes_and_named_ports() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let container: Container =
        serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": port}]}))
            .unwrap();
    let run = async |handler: serde_json::Value| {
        let probe: Probe = serde_json::from_value(json!({"tcpSocket": handler})).unwrap();
        once::run(&probe, &container, "id", local(&Names::default()), &Script::default()).await
    };
    assert_eq!(run(json!({"port": "web"})).await, Outcome::Success);
    assert!(matches!(run(json!({"port": "nope"})).await, Outcome::Error(_)));
    drop(listener);
    assert!(matches!(run(json!({"port": port})).await, Outcome::Failure(_)));
}
