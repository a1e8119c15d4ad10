//! How much containers' writable layers take. One thread measures all of them, in turn and at leisure: a
//! container may have made millions of files, and neither the node's other work nor the other containers'
//! figures must wait for them to be counted.
use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use node_kit::tasks::essential_thread;

use super::Usage;
use super::tree::Walk;

/// A layer is not measured anew before its figure is so old.
const EVERY: Duration = Duration::from_secs(15);
/// The walker rests so many times as long as it has walked.
const REST: u32 = 9;
/// How long it walks before a rest, at most.
const BUDGET: Duration = Duration::from_millis(500);
/// How long it walks in one layer before it is the next one's turn.
const TURN: Duration = Duration::from_millis(50);
/// Layers that are walked by turns; each holds some open directories.
const AT_ONCE: usize = 8;

/// A layer's figure, and from when it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    pub usage: Usage,
    /// Unix time in nanoseconds.
    pub at: i64,
}

#[derive(Debug, Default)]
struct Layer {
    last: Option<Measured>,
    /// When the walk of that figure ended; none for a new layer, whose figure is known without one.
    walked: Option<Instant>,
    /// It is in the queue or under way.
    queued: bool,
}

/// What is known, and what is wanted.
#[derive(Debug, Default)]
struct Board {
    layers: HashMap<String, Layer>,
    queue: VecDeque<String>,
    closed: bool,
}

impl Board {
    /// The last figure; a layer whose figure is old is measured next.
    fn ask(&mut self, id: &str, now: Instant) -> Option<Measured> {
        let layer = self.layers.get_mut(id)?;
        let old = layer.walked.is_none_or(|walked| now.saturating_duration_since(walked) >= EVERY);
        if old && !layer.queued {
            layer.queued = true;
            self.queue.push_back(id.into());
        }
        layer.last
    }

    /// A walk has ended; without a figure when the layer could not be read.
    fn tell(&mut self, id: &str, measured: Option<Measured>, now: Instant) {
        if let Some(layer) = self.layers.get_mut(id) {
            layer.queued = false;
            layer.walked = Some(now);
            layer.last = measured.or(layer.last);
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    board: Mutex<Board>,
    changed: Condvar,
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next change, or so long.
    fn wait<'a>(&self, board: MutexGuard<'a, Board>, most: Duration) -> MutexGuard<'a, Board> {
        self.changed.wait_timeout(board, most).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The walker's desk; the thread ends with it.
#[derive(Debug)]
pub(super) struct Measures(Arc<Shared>);

impl Measures {
    /// Starts the walker for layers below `folder`, each in `<id>/upper`; those that are there already are
    /// measured first.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(super) fn start<'a>(folder: &Path, there: impl Iterator<Item = &'a String>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        for id in there {
            let mut board = shared.board();
            board.layers.insert(id.clone(), Layer::default());
            board.ask(id, Instant::now());
        }
        let (walker, folder) = (shared.clone(), folder.to_owned());
        essential_thread("measure", std::thread::Builder::new(), move || walk_all(&walker, &folder))?;
        Ok(Self(shared))
    }

    /// A layer that is new, and empty.
    pub(super) fn begin(&self, id: &str) {
        let last = Some(Measured { usage: Usage::default(), at: unix_time() });
        self.0.board().layers.entry(id.into()).or_insert(Layer { last, ..Layer::default() });
    }

    pub(super) fn forget(&self, id: &str) {
        let mut board = self.0.board();
        board.layers.remove(id);
        board.queue.retain(|queued| queued != id);
    }

    /// The last figure; does not wait for a walk, but sees to it that there is one when the figure is old.
    pub(super) fn ask(&self, id: &str) -> Option<Measured> {
        let mut board = self.0.board();
        let last = board.ask(id, Instant::now());
        self.0.changed.notify_all();
        last
    }
}

impl Drop for Measures {
    fn drop(&mut self) {
        self.0.board().closed = true;
        self.0.changed.notify_all();
    }
}

fn unix_time() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

fn walk_all(shared: &Shared, folder: &Path) {
    let mut walks = VecDeque::new();
    while let Some(ids) = next(shared, AT_ONCE - walks.len(), walks.is_empty()) {
        walks.extend(ids.into_iter().filter_map(|id| begin(shared, folder, id)));
        let began = Instant::now();
        round(shared, &mut walks, began + BUDGET);
        let rest_ends = Instant::now() + began.elapsed() * REST;
        let mut board = shared.board();
        while !board.closed && Instant::now() < rest_ends {
            board = shared.wait(board, rest_ends.saturating_duration_since(Instant::now()));
        }
    }
}

/// Takes at most `most` from the queue, and where the walker is `idle` waits for one; none at the end.
fn next(shared: &Shared, most: usize, idle: bool) -> Option<Vec<String>> {
    let mut board = shared.board();
    while idle && board.queue.is_empty() && !board.closed {
        board = shared.changed.wait(board).unwrap_or_else(PoisonError::into_inner);
    }
    let count = most.min(board.queue.len());
    (!board.closed).then(|| board.queue.drain(..count).collect())
}

fn upper(folder: &Path, id: &str) -> PathBuf {
    folder.join(id).join("upper")
}

fn begin(shared: &Shared, folder: &Path, id: String) -> Option<(String, Walk)> {
    match Walk::begin(&upper(folder, &id)) {
        Ok(walk) => Some((id, walk)),
        Err(error) => {
            tracing::debug!(layer = id, %error, "measure a writable layer");
            shared.board().tell(&id, None, Instant::now());
            None
        }
    }
}

/// One layer after the other, each for a turn, until all are walked or time is up.
fn round(shared: &Shared, walks: &mut VecDeque<(String, Walk)>, end: Instant) {
    while Instant::now() < end
        && let Some((id, mut walk)) = walks.pop_front()
    {
        let turn_ends = end.min(Instant::now() + TURN);
        match walk.go_on(|| Instant::now() < turn_ends) {
            Some(usage) => {
                let measured = Measured { usage, at: unix_time() };
                shared.board().tell(&id, Some(measured), Instant::now());
                shared.changed.notify_all();
            }
            None => walks.push_back((id, walk)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_measured_at_most_every_so_often_and_waits_in_the_queue_once() {
        let (mut board, start) = (Board::default(), Instant::now());
        assert_eq!(board.ask("unknown", start), None);
        board.layers.insert("a".into(), Layer::default());
        board.layers.insert("b".into(), Layer::default());
        for id in ["a", "b", "a", "unknown"] {
            assert_eq!(board.ask(id, start), None);
        }
        assert_eq!(board.queue, ["a", "b"]);
        board.queue.clear();
        let measured = Measured { usage: Usage { bytes: 1, inodes: 1 }, at: 7 };
        board.tell("a", Some(measured), start);
        for (later, queued) in [(Duration::ZERO, 0), (EVERY - Duration::from_millis(1), 0), (EVERY, 1)] {
            assert_eq!(board.ask("a", start + later), Some(measured));
            assert_eq!(board.queue.len(), queued, "after {later:?}");
        }
        // One that cannot be read keeps its figure, with its time.
        board.tell("a", None, start + 2 * EVERY);
        assert_eq!(board.ask("a", start + 2 * EVERY), Some(measured));
    }

    #[test]
    fn figures_are_there_at_once_and_come_anew_from_the_walker() {
        let folder = tempfile::tempdir().unwrap();
        let before = unix_time();
        let measures = Measures::start(folder.path(), std::iter::empty()).unwrap();
        measures.begin("c1");
        std::fs::create_dir_all(upper(folder.path(), "c1")).unwrap();
        std::fs::write(upper(folder.path(), "c1").join("file"), vec![1; 100_000]).unwrap();
        let first = measures.ask("c1").unwrap();
        assert!(first.usage == Usage::default() && first.at >= before, "{first:?}");
        let walked = |board: &Board| board.layers["c1"].last.filter(|last| last.usage.bytes > 0);
        let mut board = measures.0.board();
        while walked(&board).is_none() {
            board = measures.0.changed.wait(board).unwrap();
        }
        let last = walked(&board).unwrap();
        assert!(last.usage.bytes >= 100_000 && last.usage.inodes == 2 && last.at >= first.at, "{last:?}");
        drop(board);
        measures.forget("c1");
        assert_eq!(measures.ask("c1"), None);
    }

    #[test]
    fn a_layer_without_end_does_not_keep_others_from_their_turn() {
        let folder = tempfile::tempdir().unwrap();
        for (id, files) in [("large", 30_000), ("small", 1)] {
            std::fs::create_dir_all(upper(folder.path(), id)).unwrap();
            for number in 0..files {
                std::fs::write(upper(folder.path(), id).join(number.to_string()), "").unwrap();
            }
        }
        let (mut large, mut small) =
            ["large", "small"].map(|id| Walk::begin(&upper(folder.path(), id)).unwrap()).into();
        // A turn ends in the midst of a folder and goes on there.
        let mut left = 100;
        let mut turn = || {
            left -= 1;
            left > 0
        };
        assert_eq!(large.go_on(&mut turn), None);
        assert_eq!(small.go_on(|| true).unwrap().inodes, 2);
        assert_eq!(large.go_on(|| true).unwrap().inodes, 30_001);
    }
}
