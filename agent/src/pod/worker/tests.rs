//! What a pod's task does with failures, and with objects that change while it is busy.
use std::sync::Mutex;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;

use super::*;
use crate::events::Happening;
use crate::pod::observed::Sandbox;
use crate::probe::{self, Exec, ExecOutput};
use crate::volumes::{ServiceAccountToken, Source as ObjectSource, SourceError, TokenRequest};

/// One ConfigMap, or none.
#[derive(Debug, Default)]
struct Objects(Mutex<Option<String>>);

impl Objects {
    fn set(&self, value: Option<&str>) {
        *self.0.lock().unwrap() = value.map(str::to_owned);
    }
}

impl ObjectSource for Objects {
    fn config_map<'a>(
        &'a self,
        _: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Arc<ConfigMap>, SourceError>> {
        let value = self.0.lock().unwrap().clone();
        let found =
            value.map(|value| serde_json::from_value::<ConfigMap>(json!({"data": {"key": value}})).unwrap());
        let found = found.map(Arc::new);
        async move { found.ok_or_else(|| SourceError::not_found(format!("configmap {name:?} not found"))) }
            .boxed()
    }
    fn secret<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Arc<Secret>, SourceError>> {
        async { Err(SourceError::not_found("no secrets here")) }.boxed()
    }
    fn token<'a>(&'a self, _: TokenRequest<'a>) -> BoxFuture<'a, Result<ServiceAccountToken, SourceError>> {
        async { Err(SourceError::other("no tokens here")) }.boxed()
    }
}

#[derive(Debug)]
struct NoExec;

impl Exec for NoExec {
    fn exec(&self, _: String, _: Vec<String>, _: Duration) -> BoxFuture<'_, Result<ExecOutput, String>> {
        async { Err("nothing runs here".to_owned()) }.boxed()
    }
}

struct Rig {
    worker: Worker,
    desired: Desired,
    objects: Arc<Objects>,
    events: tokio::sync::mpsc::Receiver<Happening>,
    folder: tempfile::TempDir,
    _handle: Handle,
}

/// The task of a pod that shows a ConfigMap, with a sandbox.
fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let (ctx, events) = crate::testing::context(Default::default(), &folder.path().join("cri.sock"));
    let objects = Arc::new(Objects::default());
    let facts = crate::cgroup::NodeFacts {
        memory_capacity: 1 << 30,
        huge_page_sizes: vec![],
        swap_controller: false,
        pod_pids_limit: 0,
    };
    let (results, _) = tokio::sync::mpsc::channel(1);
    let parts = Parts {
        volumes: crate::volumes::Volumes::new(folder.path().join("kubelet"), objects.clone()),
        cgroups: crate::cgroup::CgroupTree::new(folder.path().join("cgroup"), facts),
        probes: probe::Manager::new(Arc::new(NoExec), results, Arc::new(|_, _, _, _| {})),
        exec: Arc::new(NoExec),
        source: objects.clone(),
        services: Default::default(),
        images: crate::images::Images::new(
            false,
            crate::images::pulled::Pulled::open(folder.path().join("pulled")),
        ),
        allocations: crate::allocation::Allocations::open(folder.path().join("allocations")).unwrap(),
        allocatable: Arc::default(),
    };
    let pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {"containers": [{"name": "c"}], "volumes": [{"name": "v", "configMap": {"name": "cm"}}]},
    });
    let desired = Desired {
        pod: Arc::new(serde_json::from_value(pod).unwrap()),
        source: Source::Api,
        ended: None,
        pending: None,
        removed: false,
        api: None,
    };
    let (mut worker, handle) = new(ctx, parts, desired.clone());
    worker.observed.sandboxes.push(Sandbox { id: "s".into(), ready: true, ..Default::default() });
    Rig { worker, desired, objects, events, folder, _handle: handle }
}

impl Rig {
    /// Waits for all that was begun; how much that was.
    async fn rest(&mut self) -> usize {
        let mut ended = 0;
        while let Some(done) = self.worker.tasks.join_next_with_id().await {
            self.worker.finished(done);
            ended += 1;
        }
        ended
    }

    fn shown(&self) -> String {
        let volume = self.folder.path().join("kubelet/pods/u/volumes/kubernetes.io~configmap/v/key");
        std::fs::read_to_string(volume).unwrap()
    }

    /// Lets an operation fail, and tells in how many half seconds it is tried again.
    async fn fail(&mut self, operation: Operation, message: &str) -> i64 {
        let failure =
            Failure { reason: "why".into(), message: message.into(), retry_at: Failure::BY_BACK_OFF };
        let done = match operation {
            Operation::Release => Done::Released(Err(failure)),
            Operation::Remove(_) => Done::Removed(Err(failure)),
            Operation::Sandbox => Done::Sandbox(Err(failure), Default::default()),
            _ => Done::Stopped(Err(failure)),
        };
        let before = now();
        self.worker.spawn(operation.clone(), std::future::ready(done));
        self.rest().await;
        // Whatever the test itself takes is far less.
        (self.worker.memory.retries[&operation].at - before) / (SECOND / 2)
    }

    fn told(&mut self) -> Vec<(&'static str, String)> {
        std::iter::from_fn(|| self.events.try_recv().ok())
            .map(|event| (event.reason, event.message))
            .collect()
    }
}

#[tokio::test]
async fn volumes_are_rewritten_one_at_a_time_and_the_newest_content_stays() {
    let mut rig = rig();
    rig.objects.set(Some("one"));
    for _ in 0..5 {
        rig.worker.refresh_volumes(&rig.desired);
    }
    assert_eq!(rig.worker.tasks.len(), 1, "one at a time");
    let first = rig.worker.tasks.join_next_with_id().await.unwrap();
    assert_eq!(rig.shown(), "one");
    rig.objects.set(Some("two"));
    rig.worker.finished(first);
    assert_eq!(rig.rest().await, 1, "once more for all that came meanwhile");
    assert_eq!(rig.shown(), "two");
    assert_eq!(rig.worker.refresh_at(), None);
}

#[tokio::test]
async fn a_rewriting_that_fails_is_repeated_ever_later() {
    let mut rig = rig();
    let mut waits = Vec::new();
    for _ in 0..4 {
        rig.worker.refresh_volumes(&rig.desired);
        let before = now();
        rig.rest().await;
        waits.push((rig.worker.refresh_at().unwrap() - before) / (SECOND / 2));
    }
    assert_eq!(waits, [1, 2, 4, 8]);
    rig.objects.set(Some("one"));
    rig.worker.refresh_volumes(&rig.desired);
    rig.rest().await;
    assert_eq!((rig.worker.refresh_at(), rig.shown()), (None, "one".to_owned()));
}

#[tokio::test]
async fn what_cannot_be_ended_is_tried_ever_later_and_told_once() {
    let mut rig = rig();
    for operation in [Operation::Release, Operation::Remove("s".into()), Operation::Stop("s".into())] {
        let mut waits = Vec::new();
        for _ in 0..4 {
            waits.push(rig.fail(operation.clone(), "an immutable file").await);
        }
        assert_eq!(waits, [1, 2, 4, 8], "{operation:?}");
    }
    assert_eq!(rig.told(), [("FailedKillPod", "error killing pod: an immutable file".to_owned())]);
    rig.fail(Operation::Stop("s".into()), "another reason").await;
    assert_eq!(rig.told().len(), 1);
    assert!(!rig.worker.memory.released);
    rig.worker.spawn(Operation::Release, std::future::ready(Done::Released(Ok(()))));
    rig.rest().await;
    assert!(rig.worker.memory.released && !rig.worker.memory.retries.contains_key(&Operation::Release));
}

#[tokio::test]
async fn volumes_that_cannot_be_made_are_tried_ever_later_until_their_object_comes() {
    let mut rig = rig();
    let mut waits = Vec::new();
    for _ in 0..10 {
        waits.push(rig.fail(Operation::Sandbox, "").await);
        let failure = rig.worker.memory.sandbox_failure.as_ref().unwrap();
        assert_eq!(failure.retry_at, rig.worker.memory.retries[&Operation::Sandbox].at);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 244, 244]);
    rig.worker.observed.sandboxes.clear();
    rig.worker.objects_changed(&rig.desired);
    assert!(rig.worker.memory.sandbox_failure.as_ref().unwrap().retry_at <= now());
    assert_eq!(rig.fail(Operation::Sandbox, "").await, 1);
}
