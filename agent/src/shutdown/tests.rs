use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, watch};
use zbus::Variant;
use zbus::message::Message;

use crate::manager::EndPod;
use crate::pod::worker::How;
use crate::pods::{PodEntry, Source};
use crate::settings::Settings;
use crate::testing;

/// As much of a bus as a client needs to say hello.
struct Bus;

#[zbus::interface(name = "org.freedesktop.DBus")]
impl Bus {
    fn hello(&self) -> String {
        ":1.1".into()
    }
    fn add_match(&self, _rule: &str) {}
    fn remove_match(&self, _rule: &str) {}
    fn get_name_owner(&self, _name: &str) -> String {
        ":1.0".into()
    }
}

/// login1 with one inhibitor, whose other end is kept to see it go.
struct Manager {
    taken: mpsc::Sender<tokio::net::UnixStream>,
}

#[zbus::interface(name = "org.freedesktop.login1.Manager")]
impl Manager {
    async fn inhibit(
        &self,
        what: &str,
        _who: &str,
        _why: &str,
        mode: &str,
    ) -> zbus::fdo::Result<zbus::OwnedFd> {
        assert_eq!((what, mode), ("shutdown", "delay"));
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        self.taken.send(tokio::net::UnixStream::from_std(ours).unwrap()).await.unwrap();
        Ok(std::os::fd::OwnedFd::from(theirs).into())
    }

    #[zbus(property)]
    fn preparing_for_shutdown(&self) -> bool {
        false
    }
}

/// Serves one client.
async fn serve(path: &Path, taken: mpsc::Sender<tokio::net::UnixStream>) -> zbus::Connection {
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    zbus::connection::Builder::unix_stream(stream.into_std().unwrap())
        .server(zbus::Guid::generate())
        .p2p()
        .serve_at("/org/freedesktop/DBus", Bus)
        .serve_at("/org/freedesktop/login1", Manager { taken })
        .build()
        .await
        .unwrap()
}

async fn announce(bus: &zbus::Connection, start: bool) {
    let signal = |name| {
        Message::signal("/org/freedesktop/login1", "org.freedesktop.login1.Manager", name).sender(":1.0")
    };
    let metadata = std::collections::HashMap::from([("type", Variant::from("reboot"))]);
    bus.send(&signal("PrepareForShutdownWithMetadata").build(&(start, metadata)).unwrap()).await.unwrap();
    bus.send(&signal("PrepareForShutdown").build(&start).unwrap()).await.unwrap();
}

fn entry(name: &str, priority: i32, stopped: bool) -> PodEntry {
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"containers": [], "priority": priority}
    }))
    .unwrap();
    PodEntry {
        pod: Arc::new(pod),
        source: Source::Api,
        sandbox: None,
        containers: Default::default(),
        stopped,
        told: true,
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.unwrap()
}

#[tokio::test]
async fn the_machine_waits_for_ordinary_pods_and_then_for_critical_ones() {
    let folder = tempfile::tempdir().unwrap();
    let bus_path = folder.path().join("bus");
    let (ctx, mut events) = testing::context(Settings::default(), &folder.path().join("cri"));
    ctx.pods.put(entry("web", 0, false));
    ctx.pods.put(entry("dns", 2_000_000_000, false));
    let (taken_tx, mut taken) = mpsc::channel(2);
    let (ends_tx, mut ends) = mpsc::channel::<EndPod>(8);
    let (down_tx, mut down) = watch::channel(false);
    let bus = tokio::spawn({
        let bus_path = bus_path.clone();
        async move { serve(&bus_path, taken_tx).await }
    });
    let agent = ctx.clone();
    tokio::spawn(async move {
        loop {
            let _ = super::run::session(&agent, bus_path.to_str().unwrap(), &ends_tx, &down_tx).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let bus = soon(bus).await.unwrap();
    let held = soon(taken.recv()).await.unwrap();
    announce(&bus, true).await;
    soon(down.wait_for(|down| *down)).await.unwrap();
    assert_eq!(soon(events.recv()).await.unwrap().reason, "Shutdown");
    let first = soon(ends.recv()).await.unwrap();
    let ended = first.ended.unwrap();
    assert_eq!((first.uid.as_str(), ended.how, ended.grace), ("web", How::Paused, 40));
    assert!(ends.recv().now_or_never().is_none(), "critical pods wait");
    ctx.pods.put(entry("web", 0, true));
    assert_eq!(soon(ends.recv()).await.unwrap().uid, "dns");
    let released = async {
        held.readable().await.unwrap();
        assert_eq!(held.try_read(&mut [0]).unwrap(), 0);
    };
    let mut released = std::pin::pin!(released);
    assert!(released.as_mut().now_or_never().is_none(), "a pod still runs");
    ctx.pods.put(entry("dns", 2_000_000_000, true));
    soon(released).await;

    announce(&bus, false).await;
    soon(down.wait_for(|down| !*down)).await.unwrap();
    soon(taken.recv()).await.expect("the inhibitor is taken again");
    assert_eq!(soon(ends.recv()).await.unwrap().ended, None, "pods run again");
}
