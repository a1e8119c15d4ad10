//! Tasks that somebody watches over: those whose end ends the service, those that are begun again, and calls that may hang.
use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::hooks;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How a task that must not end has ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error("the task {0:?} has ended, and the service is nothing without it")]
    Returned(&'static str),
    #[error("the task {task:?} has failed: {why}")]
    Failed { task: &'static str, why: Box<dyn Error + Send + Sync> },
    #[error("the task {task:?} has panicked: {why}")]
    Panicked { task: &'static str, why: String },
}

/// The first end of an essential task of this process.
static FIRST_END: OnceLock<watch::Sender<Option<Arc<Ended>>>> = OnceLock::new();

fn ends() -> &'static watch::Sender<Option<Arc<Ended>>> {
    FIRST_END.get_or_init(|| watch::channel(None).0)
}

fn tell(ended: Ended) {
    ends().send_if_modified(|first| {
        let is_first = first.is_none();
        if is_first {
            *first = Some(Arc::new(ended));
        }
        is_first
    });
}

/// Begins a task without which the service is none: when it ends, however it does, the process ends with an error that names it
/// ([`crate::heartbeat::alongside`]), and PID 1 starts it again.
pub fn essential<T: Outcome>(name: &'static str, task: impl Future<Output = T> + Send + 'static) {
    sound(name, async move { tell(ended(name, task.await.outcome())) });
}

/// Begins a task that ends when its work is done, and that nobody else would miss: a container's exit that is
/// waited for, its probes. A panic of it ends the process as the end of an [`essential`] task does, as what it
/// left undone is begun again only by a new process.
pub fn sound<T: Send + 'static>(
    name: &'static str,
    task: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(unless_it_panics(name, hooks::watched(name, task), tell))
}

/// The task itself; a panic of it is told before it goes on.
async fn unless_it_panics<T>(task: &'static str, running: impl Future<Output = T>, tell: fn(Ended)) -> T {
    let mut running = pin!(running);
    poll_fn(|context| {
        // Polled no more after a panic, so nobody sees what it leaves half done.
        catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(context))).unwrap_or_else(|why| {
            tell(Ended::Panicked { task, why: said(&*why) });
            resume_unwind(why)
        })
    })
    .await
}

/// As [`essential`], for what runs on a thread of its own.
///
/// # Errors
/// When no thread can be had.
pub fn essential_thread<T: Outcome>(
    name: &'static str,
    builder: std::thread::Builder,
    run: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<()> {
    let run = move || match catch_unwind(AssertUnwindSafe(run)) {
        Ok(output) => tell(ended(name, output.outcome())),
        Err(why) => tell(Ended::Panicked { task: name, why: said(&*why) }),
    };
    builder.name(name.into()).spawn(run).map(drop)
}

fn ended(task: &'static str, outcome: Result<(), Box<dyn Error + Send + Sync>>) -> Ended {
    match outcome {
        Ok(()) => Ended::Returned(task),
        Err(why) => Ended::Failed { task, why },
    }
}

/// Waits for the first end of an essential task or thread.
pub async fn first_end() -> Arc<Ended> {
    let mut ends = ends().subscribe();
    match ends.wait_for(Option::is_some).await.map(|first| first.clone()) {
        Ok(Some(first)) => first,
        // Neither can be: the sender is never dropped, and there is one.
        _ => std::future::pending().await,
    }
}

/// What an essential task may end with.
pub trait Outcome: Send + 'static {
    /// Whether it failed.
    ///
    /// # Errors
    /// That it did, and why.
    fn outcome(self) -> Result<(), Box<dyn Error + Send + Sync>>;
}

impl Outcome for () {
    fn outcome(self) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>> + Send + 'static> Outcome for Result<(), E> {
    fn outcome(self) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.map_err(Into::into)
    }
}

/// Runs the task that `make` makes, and makes it anew with growing pauses when it panics or fails. A task that ends in order stays ended.
pub async fn restarting<T, E>(name: &'static str, make: impl Fn() -> T)
where
    T: Future<Output = Result<(), E>> + Send + 'static,
    E: fmt::Display + Send + 'static,
{
    let mut pause = FIRST_PAUSE;
    loop {
        let started = tokio::time::Instant::now();
        // Dropped with this future, so that nothing runs on unwatched.
        let mut task = JoinSet::new();
        task.spawn(hooks::watched(name, make()));
        match task.join_next().await {
            None | Some(Ok(Ok(()))) => return,
            Some(Ok(Err(error))) => tracing::warn!("{name}: {error:#}; starting it again in {pause:?}"),
            Some(Err(panic)) => tracing::error!("{name}: {panic}; starting it again in {pause:?}"),
        }
        if started.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Why a call that may block has no result.
#[derive(Debug, thiserror::Error)]
pub enum NotDone {
    #[error("{what} is not done after {} s", after.as_secs_f32())]
    Late { what: String, after: Duration },
    #[error("{what}: panicked: {why}")]
    Panicked { what: String, why: String },
    #[error("{what}: start a thread: {why}")]
    NoThread { what: String, why: std::io::Error },
}

/// Runs a call that may block on a thread of its own and waits for it until the deadline; a call that does not come back keeps its thread and nothing else.
///
/// # Errors
/// When it is not back in time, has panicked, or no thread is to be had.
pub async fn blocking<T, F>(what: &str, deadline: Duration, call: F) -> Result<T, NotDone>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let what = || what.to_owned();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("blocking".into())
        .spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(call));
            let _ = sender.send(result);
        })
        .map_err(|why| NotDone::NoThread { what: what(), why })?;
    match tokio::time::timeout(deadline, receiver).await {
        Ok(Ok(Ok(result))) => Ok(result),
        Ok(Ok(Err(why))) => Err(NotDone::Panicked { what: what(), why: said(&*why) }),
        Ok(Err(_)) => Err(NotDone::Panicked { what: what(), why: "the thread is gone".into() }),
        Err(_) => Err(NotDone::Late { what: what(), after: deadline }),
    }
}

/// What a panic said.
fn said(why: &(dyn std::any::Any + Send)) -> String {
    match (why.downcast_ref::<&str>(), why.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "it does not say why".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn the_way_in_which_an_essential_task_ends_is_named() {
        let said = |ended: Ended| ended.to_string();
        let failed = || Err::<(), _>(std::io::Error::other("disk on fire"));
        assert_eq!(
            said(ended("brief", ().outcome())),
            "the task \"brief\" has ended, and the service is nothing without it"
        );
        assert_eq!(
            said(ended("failing", failed().outcome())),
            "the task \"failing\" has failed: disk on fire"
        );
    }

    /// There is one first end in a process.
    #[tokio::test]
    async fn the_first_essential_task_that_ends_ends_the_service() {
        essential("lasting", std::future::pending::<()>());
        let builder = std::thread::Builder::new();
        essential_thread("panicking", builder, || assert!(std::hint::black_box(false), "no way")).unwrap();
        assert_eq!(first_end().await.to_string(), "the task \"panicking\" has panicked: no way");
        essential("later", async {});
        tokio::task::yield_now().await;
        assert_eq!(first_end().await.to_string(), "the task \"panicking\" has panicked: no way");
    }

    /// The first end of the process belongs to the test above.
    #[tokio::test]
    async fn a_task_whose_work_is_done_may_end_and_its_panic_is_told() {
        static TOLD: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
        fn note(ended: Ended) {
            TOLD.lock().unwrap().push(ended.to_string());
        }
        assert_eq!(tokio::spawn(unless_it_panics("brief", async { 7 }, note)).await.unwrap(), 7);
        let aborted = tokio::spawn(unless_it_panics("aborted", std::future::pending::<()>(), note));
        aborted.abort();
        assert!(aborted.await.unwrap_err().is_cancelled());
        assert!(TOLD.lock().unwrap().is_empty(), "neither is a fault");
        let late = async {
            tokio::task::yield_now().await;
            assert!(std::hint::black_box(false), "no way");
        };
        let panicked = tokio::spawn(unless_it_panics("exit of a container", late, note)).await;
        assert!(panicked.unwrap_err().is_panic(), "whoever waits for it is told too");
        assert_eq!(*TOLD.lock().unwrap(), ["the task \"exit of a container\" has panicked: no way"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_or_fails_runs_again_until_it_ends() {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        restarting("test", move || {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                assert!(run != 0, "the first run panics");
                if run == 1 { Err("the second fails") } else { Ok(()) }
            }
        })
        .await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_given_up_and_one_that_panics_is_told() {
        let second = Duration::from_secs(60);
        assert_eq!(blocking("add", second, || 1 + 1).await.unwrap(), 2);
        let why =
            blocking("count", second, || assert!(std::hint::black_box(false), "no way")).await.unwrap_err();
        assert_eq!(why.to_string(), "count: panicked: no way");
        let (_keep, hang) = std::sync::mpsc::channel::<()>();
        let late = blocking("wait", Duration::from_millis(1), move || hang.recv()).await.unwrap_err();
        assert_eq!(late.to_string(), "wait is not done after 0.001 s");
    }
}
