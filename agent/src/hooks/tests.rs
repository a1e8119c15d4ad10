use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::json;

use super::*;
use crate::probe::ExecOutput;

#[derive(Debug)]
struct Fake {
    code: i32,
    takes: Duration,
    commands: Mutex<Vec<Vec<String>>>,
}

impl Exec for Fake {
    fn exec(
        &self,
        _: String,
        command: Vec<String>,
        _: Duration,
    ) -> BoxFuture<'_, Result<ExecOutput, String>> {
        self.commands.lock().unwrap().push(command);
        async move {
            tokio::time::sleep(self.takes).await;
            Ok(ExecOutput { exit_code: self.code, output: b"no".to_vec(), timed_out: false })
        }
        .boxed()
    }
}

fn fake(code: i32, takes: u64) -> Fake {
    Fake { code, takes: Duration::from_secs(takes), commands: Mutex::default() }
}

async fn stop(handler: serde_json::Value, exec: &Fake, grace: i64) -> (i64, Result<(), HookError>) {
    let pod = Pod::default();
    let container: Container =
        serde_json::from_value(json!({"name": "c", "lifecycle": {"preStop": handler}})).unwrap();
    let target = HookTarget {
        pod: &pod,
        container: &container,
        container_id: "id",
        pod_ip: "127.0.0.1",
        names: &crate::probe::Names::default(),
    };
    pre_stop(target, exec, grace).await
}

#[tokio::test(start_paused = true)]
async fn pre_stop_uses_up_the_grace_period_but_for_two_seconds() {
    let command = json!({"exec": {"command": ["a", "b"]}});
    let exec = fake(0, 10);
    assert_eq!(stop(command.clone(), &exec, 30).await, (20, Ok(())));
    assert_eq!(exec.commands.lock().unwrap().as_slice(), [["a", "b"]]);
    let (left, result) = stop(command.clone(), &fake(0, 100), 30).await;
    assert_eq!(left, 2);
    assert!(result.unwrap_err().message.contains("did not end within the grace period of 30 s"));
    let (left, result) = stop(command.clone(), &fake(3, 0), 30).await;
    assert_eq!(left, 30);
    assert!(result.unwrap_err().message.contains("command exited with 3"));
    assert_eq!(stop(command, &exec, 0).await, (0, Ok(())));
    assert_eq!(stop(json!({"sleep": {"seconds": 5}}), &exec, 30).await, (25, Ok(())));
}

#[tokio::test]
async fn unusable_hooks_say_so() {
    let (_, result) = stop(json!({"tcpSocket": {"port": 1}}), &fake(0, 0), 30).await;
    assert!(result.unwrap_err().message.contains("tcpSocket is not supported"));
    let (_, result) = stop(json!({"httpGet": {"port": 1, "path": "/x"}}), &fake(0, 0), 30).await;
    assert!(result.unwrap_err().message.starts_with("HTTP lifecycle hook (/x) for Container \"c\""));
}
