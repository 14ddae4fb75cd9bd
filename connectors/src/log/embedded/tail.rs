//! How readers hear of new ends: the one mechanism of both reading sides.
//!
//! A [`Tail`] is what is known of a partition's end. Whoever hears of an append first (the writer
//! thread in the log's own process, whoever is told by that process in another) raises the end
//! and calls the wakers; a reader that stands at the end need not look into the database.

use super::schema::Stream;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::Waker;

/// Locks; a panic elsewhere left nothing half done under any lock of this module tree.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of one partition, shared by its readers.
pub(super) struct Tail {
    pub stream: Stream,
    end: AtomicU64,
    /// Counts the times that readers were told to look at the store again.
    doubts: AtomicU64,
    next_waker: AtomicU64,
    /// Replaced whole at a change, so that wakers are called without the lock.
    wakers: Mutex<Arc<Vec<(u64, Waker)>>>,
}

impl Tail {
    fn new(stream: Stream) -> Self {
        Tail {
            stream,
            end: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
            next_waker: AtomicU64::new(0),
            wakers: Mutex::default(),
        }
    }

    pub fn end(&self) -> Offset {
        Offset(self.end.load(Ordering::Acquire))
    }

    pub fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::Acquire)
    }

    /// The partition reaches at least to `end`. Calls nobody.
    pub fn raise(&self, end: Offset) {
        self.end.fetch_max(end.0, Ordering::AcqRel);
    }

    /// The store has just been found to end at `end`, less than the `believed` end. Does nothing if
    /// more was heard meanwhile: what was heard then is yet to be looked at.
    pub fn lower(&self, believed: Offset, end: Offset) {
        let _ = self.end.compare_exchange(believed.0, end.0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Calls `waker` at every arrival until the registration is dropped.
    pub fn register(self: &Arc<Self>, waker: Waker) -> Registration {
        let id = self.next_waker.fetch_add(1, Ordering::Relaxed);
        let mut wakers = lock(&self.wakers);
        *wakers = Arc::new(wakers.iter().cloned().chain([(id, waker)]).collect());
        Registration { tail: self.clone(), id }
    }

    fn wake(&self) {
        let wakers = lock(&self.wakers).clone();
        for (_, waker) in wakers.iter() {
            waker();
        }
    }
}

/// A waker's place in a [`Tail`].
pub(super) struct Registration {
    pub tail: Arc<Tail>,
    id: u64,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut wakers = lock(&self.tail.wakers);
        *wakers = Arc::new(wakers.iter().filter(|(id, _)| *id != self.id).cloned().collect());
    }
}

/// The tails of all partitions that have been opened.
#[derive(Default)]
pub(super) struct Tails {
    topics: Mutex<HashMap<String, HashMap<PartitionId, Arc<Tail>>>>,
}

impl Tails {
    /// The tail of `stream`, which is what (`topic`, `partition`) is now.
    pub fn of(&self, topic: &str, partition: PartitionId, stream: Stream) -> Arc<Tail> {
        let mut topics = lock(&self.topics);
        let tail =
            topics.entry(topic.to_owned()).or_default().entry(partition).or_insert_with(|| Arc::new(Tail::new(stream)));
        if tail.stream != stream {
            // The topic was made again: who reads the old one is told to look, and finds out.
            tail.doubts.fetch_add(1, Ordering::AcqRel);
            tail.wake();
            *tail = Arc::new(Tail::new(stream));
        }
        tail.clone()
    }

    /// Records up to `end` are there. An `end` of 0 says that the topic was deleted.
    pub fn appended(&self, topic: &str, partition: PartitionId, end: Offset) {
        let tail = lock(&self.topics).get(topic).and_then(|partitions| partitions.get(&partition)).cloned();
        let Some(tail) = tail else { return };
        if end == Offset(0) {
            tail.doubts.fetch_add(1, Ordering::AcqRel);
        } else {
            tail.raise(end);
        }
        tail.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter() -> (Arc<AtomicU64>, Waker) {
        let calls = Arc::new(AtomicU64::new(0));
        let counted = calls.clone();
        let waker = move || {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        (calls, Arc::new(waker))
    }

    #[test]
    fn a_waker_is_called_until_its_registration_is_dropped() {
        let tails = Tails::default();
        let (calls, waker) = counter();
        let registration = tails.of("t", PartitionId(0), Stream(1)).register(waker);
        tails.appended("t", PartitionId(0), Offset(4));
        tails.appended("t", PartitionId(1), Offset(9));
        assert_eq!((registration.tail.end(), calls.load(Ordering::Relaxed)), (Offset(4), 1));
        drop(registration);
        tails.appended("t", PartitionId(0), Offset(5));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn readers_of_a_topic_made_again_are_told_to_look() {
        let tails = Tails::default();
        let (calls, waker) = counter();
        let old = tails.of("t", PartitionId(0), Stream(1)).register(waker);
        let new = tails.of("t", PartitionId(0), Stream(2));
        assert_eq!((old.tail.doubts(), calls.load(Ordering::Relaxed), new.doubts()), (1, 1, 0));
    }

    #[test]
    fn an_end_heard_of_meanwhile_is_not_taken_back() {
        let tail = Tail::new(Stream(1));
        tail.raise(Offset(9));
        tail.raise(Offset(12));
        tail.lower(Offset(9), Offset(3));
        assert_eq!(tail.end(), Offset(12));
    }
}
