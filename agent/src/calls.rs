//! Calls for pods that may never return: into a file system on NFS, FUSE or a disk that is sick, or to look
//! up a name.
//!
//! Each runs on a thread of its own, so that one that hangs takes nothing that others need, and each pod
//! may have only [`PER_POD`] of them. A call that is repeated while it hangs is not made again: whoever
//! repeats it is told so.
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

/// Threads that one pod may have in such calls at a time.
const PER_POD: usize = 2;

/// A call that does not return. The text is what the user reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Hung {
    #[error("{what}: no answer within {} s", within.as_secs())]
    Late { what: String, within: Duration },
    #[error("{what}: waiting for an earlier try that hangs")]
    Again { what: String },
    #[error("{what}: not tried, as these hang: {}", others.join("; "))]
    Full { what: String, others: Vec<String> },
    #[error("{what}: not tried, as too many such calls of other pods hang")]
    Crowded { what: String },
    #[error("{what}: start a thread: {error}")]
    Thread { what: String, error: io::Error },
    #[error("{what}: the thread ended without an answer")]
    Lost { what: String },
}

/// The calls of one kind of all pods; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Calls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    total: usize,
    pods: Mutex<HashMap<String, Vec<Call>>>,
    ended: Notify,
}

#[derive(Debug)]
struct Call {
    what: String,
    /// From when on it counts as hanging.
    overdue: Instant,
}

/// A call's place among those of its pod, until its thread ends.
struct Place {
    shared: Arc<Shared>,
    pod: String,
    what: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut pods = self.shared.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(calls) = pods.get_mut(&self.pod) {
            calls.retain(|call| call.what != self.what);
            if calls.is_empty() {
                pods.remove(&self.pod);
            }
        }
        drop(pods);
        self.shared.ended.notify_waiters();
    }
}

enum Look {
    Mine(Place),
    /// Until then at the latest nothing can be said.
    Wait(Instant),
}

impl Calls {
    /// At most `total` threads.
    pub(crate) fn new(total: usize) -> Self {
        Self(Arc::new(Shared { total, pods: Mutex::default(), ended: Notify::new() }))
    }

    /// Runs `work` for a pod on a thread of its own and waits `within` for it. `what` names the operation
    /// and the path.
    ///
    /// # Errors
    /// When it takes longer, in which case it goes on; at once when it hangs already, or as many others of
    /// the pod do.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        pod: &str,
        what: String,
        within: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Hung> {
        let place = self.place(pod, &what, within).await?;
        let (tx, rx) = oneshot::channel();
        let thread = std::thread::Builder::new().name("pod-files".into()).spawn(move || {
            let result = work();
            drop(place);
            // Whoever asked may have given up.
            let _ = tx.send(result);
        });
        if let Err(error) = thread {
            return Err(Hung::Thread { what, error });
        }
        match timeout_at(Instant::now() + within, rx).await {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(_)) => Err(Hung::Lost { what }),
            Err(_) => Err(Hung::Late { what, within }),
        }
    }

    async fn place(&self, pod: &str, what: &str, within: Duration) -> Result<Place, Hung> {
        loop {
            let mut ended = std::pin::pin!(self.0.ended.notified());
            // From here on, so that an end after the look is not missed.
            ended.as_mut().enable();
            match self.look(pod, what, within)? {
                Look::Mine(place) => return Ok(place),
                Look::Wait(until) => {
                    let _ = timeout_at(until, ended).await;
                }
            }
        }
    }

    fn look(&self, pod: &str, what: &str, within: Duration) -> Result<Look, Hung> {
        let now = Instant::now();
        let mut pods = self.0.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if pods.values().map(Vec::len).sum::<usize>() >= self.0.total {
            let pending = pods.values().flatten().map(|call| call.overdue).filter(|overdue| *overdue > now);
            return pending.min().map(Look::Wait).ok_or_else(|| Hung::Crowded { what: what.to_owned() });
        }
        let calls = pods.entry(pod.to_owned()).or_default();
        let same = calls.iter().find(|call| call.what == what);
        match same {
            Some(call) if call.overdue <= now => return Err(Hung::Again { what: what.to_owned() }),
            Some(call) => return Ok(Look::Wait(call.overdue)),
            None => {}
        }
        if calls.len() < PER_POD {
            calls.push(Call { what: what.to_owned(), overdue: now + within });
            let place = Place { shared: self.0.clone(), pod: pod.to_owned(), what: what.to_owned() };
            return Ok(Look::Mine(place));
        }
        match calls.iter().map(|call| call.overdue).filter(|overdue| *overdue > now).min() {
            Some(until) => Ok(Look::Wait(until)),
            None => {
                let others = calls.iter().map(|call| call.what.clone()).collect();
                Err(Hung::Full { what: what.to_owned(), others })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(30);

    /// A call that returns when the answer's sender is dropped.
    async fn stuck(calls: &Calls, pod: &str, what: &str) -> (Result<(), Hung>, mpsc::Sender<()>) {
        let (hold, held) = mpsc::channel::<()>();
        let work = move || held.recv().unwrap_or_default();
        (calls.run(pod, what.into(), WITHIN, work).await, hold)
    }

    #[tokio::test(start_paused = true)]
    async fn two_threads_of_a_pod_may_hang_and_the_third_call_fails_at_once() {
        let calls = Calls::new(8);
        let (first, one) = stuck(&calls, "sick", "stat /mnt/a").await;
        assert_eq!(first.unwrap_err().to_string(), "stat /mnt/a: no answer within 30 s");
        // The same again is not tried again.
        let begun = Instant::now();
        let again = calls.run("sick", "stat /mnt/a".into(), WITHIN, || ()).await.unwrap_err().to_string();
        assert_eq!(again, "stat /mnt/a: waiting for an earlier try that hangs");
        let (_, two) = stuck(&calls, "sick", "stat /mnt/b").await;
        assert_eq!(begun.elapsed(), WITHIN, "only the second path was waited for");
        let third = calls.run("sick", "stat /mnt/c".into(), WITHIN, || ()).await.unwrap_err().to_string();
        assert_eq!(third, "stat /mnt/c: not tried, as these hang: stat /mnt/a; stat /mnt/b");
        assert_eq!(begun.elapsed(), WITHIN);
        tokio::time::resume();
        assert_eq!(calls.run("well", "stat /mnt/c".into(), WITHIN, || 7).await.unwrap(), 7);
        // When one returns, its place is free.
        drop(one);
        while calls.0.pods.lock().unwrap()["sick"].len() == PER_POD {
            tokio::task::yield_now().await;
        }
        assert_eq!(calls.run("sick", "stat /mnt/a".into(), WITHIN, || 8).await.unwrap(), 8);
        drop(two);
        while !calls.0.pods.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_pods_together_have_a_bound() {
        let calls = Calls::new(2);
        let (_, one) = stuck(&calls, "a", "look up x").await;
        let (_, two) = stuck(&calls, "b", "look up x").await;
        let begun = Instant::now();
        let other = calls.run("c", "look up x".into(), WITHIN, || ()).await.unwrap_err();
        assert!(matches!(other, Hung::Crowded { .. }), "{other}");
        assert_eq!(begun.elapsed(), Duration::ZERO);
        drop((one, two));
    }

    #[tokio::test]
    async fn calls_that_only_take_time_wait_for_each_other() {
        let calls = Calls::new(8);
        let (holds, held): (Vec<_>, Vec<_>) = (0..4).map(|_| mpsc::channel::<()>()).unzip();
        let runs = held.into_iter().enumerate().map(|(at, held)| {
            calls.run("pod", format!("write {at}"), WITHIN, move || held.recv().unwrap_or_default())
        });
        let all = futures::future::try_join_all(runs);
        drop(holds);
        assert_eq!(all.await.unwrap().len(), 4);
    }

    #[tokio::test]
    async fn a_thread_that_fails_gives_its_place_back() {
        let calls = Calls::new(8);
        let work = || -> () { std::panic::resume_unwind(Box::new(())) };
        let lost = calls.run("pod", "stat /x".into(), WITHIN, work).await.unwrap_err();
        assert!(matches!(lost, Hung::Lost { .. }), "{lost}");
        assert!(calls.0.pods.lock().unwrap().is_empty());
    }
}
