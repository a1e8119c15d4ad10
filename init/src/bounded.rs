//! Calls into the kernel that may hang, one after the other, each with a deadline.
use std::collections::VecDeque;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// Does `act` with each item in order on a thread beside this one. An item that is not done within `deadline` keeps its thread and is `None`; the
/// rest goes on on another one. Without a thread to be had everything that is left is `None`.
pub fn each<T, R>(
    items: Vec<T>,
    deadline: Duration,
    act: impl Fn(T) -> R + Send + Sync + 'static,
) -> Vec<Option<R>>
where
    T: Send + 'static,
    R: Send + 'static,
{
    let (count, act) = (items.len(), Arc::new(act));
    let queue = Arc::new(Mutex::new(VecDeque::from(items)));
    let mut results = Vec::with_capacity(count);
    while results.len() < count {
        let (sender, receiver) = mpsc::channel();
        let (left, act) = (Arc::clone(&queue), Arc::clone(&act));
        let work = move || {
            loop {
                let Some(item) = left.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else {
                    return;
                };
                // Nobody hears it any more: another thread has the rest.
                if sender.send(act(item)).is_err() {
                    return;
                }
            }
        };
        if thread::Builder::new().name("bounded".into()).spawn(work).is_err() {
            break;
        }
        while results.len() < count {
            match receiver.recv_timeout(deadline) {
                Ok(result) => results.push(Some(result)),
                // It hangs, or has panicked.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    results.push(None);
                    break;
                }
            }
        }
    }
    results.resize_with(count, || None);
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_keeps_its_thread_and_nothing_of_the_rest() {
        let (_held, hang) = mpsc::channel::<()>();
        let hang = Mutex::new(hang);
        let act = move |item: u32| {
            if item == 2 {
                let _ = hang.lock().unwrap().recv();
            }
            assert!(item != 4, "this one panics");
            item * 10
        };
        let results = each((1..=6).collect(), Duration::from_millis(200), act);
        assert_eq!(results, [Some(10), None, Some(30), None, Some(50), Some(60)]);
        assert_eq!(each(Vec::<u32>::new(), Duration::ZERO, |item| item), []);
    }

    #[test]
    fn what_was_given_up_takes_nothing_more_when_it_comes_back() {
        let (release, hang) = mpsc::channel::<()>();
        let (hang, done) = (Mutex::new(Some(hang)), Arc::new(Mutex::new(Vec::new())));
        let seen = Arc::clone(&done);
        let act = move |item: u32| {
            if let Some(hang) = (item == 1).then(|| hang.lock().unwrap().take()).flatten() {
                let _ = hang.recv();
            }
            seen.lock().unwrap().push(item);
        };
        assert_eq!(each(vec![1, 2, 3], Duration::from_millis(200), act), [None, Some(()), Some(())]);
        drop(release);
        // It comes back and ends, which drops its share of the list.
        while Arc::strong_count(&done) > 1 {
            thread::yield_now();
        }
        assert_eq!(*done.lock().unwrap(), [2, 3, 1]);
    }
}
