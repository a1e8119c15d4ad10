use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::decide::{Decider, Pressures, thresholds};
use super::local::{self, Files};
use super::rank::{Candidate, rank};
use super::signals::{Available, Signal, observe};
use crate::Context;
use crate::stats::NodeStats;

const EVERY: Duration = Duration::from_secs(10);
/// Tasks stall for memory during 150 ms of a second: look now instead of in ten seconds.
const MEMORY_TRIGGER: &str = "some 150000 1000000";

/// A pod that has to end as Failed with reason Evicted, without grace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    pub pod_uid: String,
    pub message: String,
}

/// Measures the node and all its pods.
pub type Measure = Arc<dyn Fn() -> BoxFuture<'static, Result<NodeStats, String>> + Send + Sync>;

/// Frees disk without touching a pod; the answer is whether anything was freed.
pub type Reclaim = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// Watches the node for ever; at most one pod per look is evicted. `pressures` hears of each change.
pub async fn run(
    ctx: Context,
    measure: Measure,
    reclaim: Reclaim,
    pressures: impl Fn(Pressures),
    evictions: mpsc::Sender<Eviction>,
) {
    let mut decider = Decider::default();
    let mut last = Pressures::default();
    let mut said = Vec::new();
    let stalls = match MemoryStalls::open() {
        Ok(stalls) => Some(stalls),
        Err(error) => {
            tracing::info!(
                "memory pressure is looked at every {} s only: /proc/pressure/memory: {error}",
                EVERY.as_secs()
            );
            None
        }
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = wait_for(stalls.as_ref()) => {}
        }
        let (limits, wrong) = thresholds(&ctx.now().node_agent().eviction_hard);
        if wrong != said {
            wrong.iter().for_each(|error| tracing::error!("a threshold is left out: {error}"));
            said = wrong;
        }
        // Without a runtime there is no one to evict; memory is looked at again in ten seconds.
        let Ok(stats) = measure().await else { continue };
        let seen = observe(&stats);
        let (met, now) = decider.decide(&limits, &seen, Instant::now());
        if now != last {
            pressures(now);
            last = now;
        }
        let Some(signal) = met.first().copied() else { continue };
        // What freeing images has brought is seen at the next look; pods go when it is not enough.
        if signal.is_disk() && reclaim().await {
            continue;
        }
        let entries = ctx.pods.snapshot();
        let pods = stats.pods.iter().filter_map(|pod| Some((&*entries.get(&pod.uid)?.pod as &Pod, pod)));
        let files = if signal.is_disk() {
            local::measure(pods.clone().map(|(pod, _)| pod)).await
        } else {
            Files::new()
        };
        let Some(first) = rank(signal, pods, &files).into_iter().next() else { continue };
        let (Some(limit), Some(available)) = (limits.get(&signal), seen.get(&signal)) else { continue };
        let message = message(signal, limit.of(available.capacity), *available, &first);
        tracing::warn!("evicting pod {}/{}: {message}", first.namespace, first.name);
        if evictions.send(Eviction { pod_uid: first.uid, message }).await.is_err() {
            return;
        }
    }
}

/// As users read it in the pod's status.
pub(super) fn message(signal: Signal, threshold: u64, available: Available, pod: &Candidate) -> String {
    let resource = signal.resource();
    format!(
        "The node was low on resource: {resource}. Threshold quantity: {threshold}, available: {}. \
         The pod was using {}, request is {}.",
        available.left, pod.usage, pod.request
    )
}

async fn wait_for(stalls: Option<&MemoryStalls>) {
    match stalls {
        Some(stalls) => stalls.next().await,
        None => std::future::pending().await,
    }
}

/// The kernel's pressure stall information as a wake-up (Documentation/accounting/psi.rst).
struct MemoryStalls(AsyncFd<Psi>);

struct Psi(std::fs::File);

impl AsRawFd for Psi {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl MemoryStalls {
    // Deprecated for types whose descriptor can change while registered; this one owns its file and never changes it.
    #[allow(deprecated)]
    fn open() -> std::io::Result<Self> {
        use std::io::Write as _;
        let mut file = std::fs::OpenOptions::new().read(true).write(true).open("/proc/pressure/memory")?;
        file.write_all(format!("{MEMORY_TRIGGER}\0").as_bytes())?;
        Ok(Self(AsyncFd::with_interest(Psi(file), Interest::PRIORITY)?))
    }

    async fn next(&self) {
        match self.0.ready(Interest::PRIORITY).await {
            Ok(mut guard) => guard.clear_ready_matching(Ready::PRIORITY),
            Err(_) => std::future::pending().await,
        }
    }
}
