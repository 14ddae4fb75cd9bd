//! When epochs end.
//!
//! An epoch that has read something ends after 2 ms where the job keeps up, so that a change is seen
//! at once, and after up to 50 ms where it does not: larger epochs cost less per record. Nothing
//! read, no epoch.

use crate::ids::Epoch;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use timely::scheduling::SyncActivator;

/// The shortest epoch.
const TICK_MIN: Duration = Duration::from_millis(2);
/// The longest.
const TICK_MAX: Duration = Duration::from_millis(50);

/// A job's clock, shared by the process's workers. Any of them ends the epoch for all.
pub struct EpochClock {
    current: AtomicU64,
    /// Epochs from here on are not yet reserved.
    limit: AtomicU64,
    state: Mutex<State>,
}

struct State {
    last_end: Instant,
    tick: Duration,
    /// By worker: wakes its source, so that it moves on to the new epoch.
    wakers: Vec<SyncActivator>,
}

impl EpochClock {
    /// A clock whose first epoch is `first`; it stops before `limit`.
    pub fn new(first: Epoch, limit: Epoch) -> Self {
        let state = State { last_end: Instant::now(), tick: TICK_MIN, wakers: Vec::new() };
        EpochClock { current: AtomicU64::new(first.0), limit: AtomicU64::new(limit.0), state: Mutex::new(state) }
    }

    /// The epoch that is open now.
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Acquire)
    }

    /// Goes on from `at_least` if that is further on.
    pub fn raise(&self, at_least: Epoch) {
        let _state = self.lock();
        self.current.fetch_max(at_least.0, Ordering::AcqRel);
        drop(_state);
        self.wake_all();
    }

    /// Looks at the epoch that is open while it can't end.
    pub fn hold<R>(&self, look: impl FnOnce(u64) -> R) -> R {
        let _state = self.lock();
        look(self.current())
    }

    /// More epochs were reserved.
    pub fn raise_limit(&self, limit: Epoch) {
        self.limit.fetch_max(limit.0, Ordering::AcqRel);
    }

    /// Every worker's source is told of each new epoch through its activator.
    pub fn register(&self, waker: SyncActivator) {
        self.lock().wakers.push(waker);
    }

    /// Wakes every worker's source.
    pub fn wake_all(&self) {
        for waker in &self.lock().wakers {
            // A worker that has gone needs no waking.
            waker.activate().ok();
        }
    }

    /// Ends the epoch if it is time to. `open` is the epoch that the caller has read something in,
    /// `behind` whether there is more to read at once. Answers how long to wait otherwise.
    pub fn end(&self, open: u64, behind: bool) -> Result<(), Duration> {
        let mut state = self.lock();
        if self.current() > open {
            return Ok(());
        }
        state.tick = if behind { (state.tick * 2).min(TICK_MAX) } else { TICK_MIN };
        let elapsed = state.last_end.elapsed();
        if elapsed < state.tick {
            return Err(state.tick - elapsed);
        }
        if open + 1 >= self.limit.load(Ordering::Acquire) {
            return Err(TICK_MAX);
        }
        state.last_end = Instant::now();
        self.current.store(open + 1, Ordering::Release);
        drop(state);
        self.wake_all();
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
