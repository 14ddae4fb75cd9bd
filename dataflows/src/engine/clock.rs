//! When epochs end.
//!
//! An epoch that has read something ends after 1 ms where the job keeps up, so that a change is seen
//! at once, and after up to 50 ms where it does not: larger epochs cost less per record. Nothing
//! read, no epoch.

use crate::ids::Epoch;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use timely::scheduling::SyncActivator;

/// The shortest epoch.
const TICK_MIN: Duration = Duration::from_millis(1);
/// The longest.
const TICK_MAX: Duration = Duration::from_millis(50);
/// How long until it is asked again whether a clock that is held goes on.
const HELD: Duration = Duration::from_millis(1);

/// Tells other processes that an epoch has begun.
pub type Tell = Box<dyn Fn(u64) + Send + Sync>;

/// A job's clock, shared by the process's workers. Any of them ends the epoch for all. In a cluster each
/// process has one, and goes by the greatest number that any of them has come to.
pub struct EpochClock {
    current: AtomicU64,
    /// Epochs from here on are not yet reserved.
    limit: AtomicU64,
    /// Whether no epoch is to begin here, in a cluster; written under the lock.
    held: AtomicBool,
    tell: Option<Tell>,
    state: Mutex<State>,
}

struct State {
    last_end: Instant,
    tick: Duration,
    /// What it was raised to while it was held.
    raised: u64,
    /// By worker: wakes its source, so that it moves on to the new epoch.
    wakers: Vec<SyncActivator>,
}

impl EpochClock {
    /// A clock whose first epoch is `first`; it stops before `limit`.
    pub fn new(first: Epoch, limit: Epoch, tell: Option<Tell>) -> Self {
        let state = State { last_end: Instant::now(), tick: TICK_MIN, raised: 0, wakers: Vec::new() };
        EpochClock {
            current: AtomicU64::new(first.0),
            limit: AtomicU64::new(limit.0),
            held: AtomicBool::new(false),
            tell,
            state: Mutex::new(state),
        }
    }

    /// The epoch that is open now.
    pub fn current(&self) -> u64 {
        self.current.load(Ordering::Acquire)
    }

    /// Goes on from `at_least` if that is further on; where it is held, once it is released.
    pub fn raise(&self, at_least: Epoch) {
        let mut state = self.lock();
        if self.held.load(Ordering::Acquire) {
            state.raised = state.raised.max(at_least.0);
            return;
        }
        let before = self.current.fetch_max(at_least.0, Ordering::AcqRel);
        drop(state);
        if before < at_least.0 {
            self.wake_all();
        }
    }

    /// Looks at the epoch that is open while it can't end.
    pub fn look<R>(&self, look: impl FnOnce(u64) -> R) -> R {
        let _state = self.lock();
        look(self.current())
    }

    /// Begins no epoch until it is released; answers the one that is open.
    pub fn hold(&self) -> u64 {
        let _state = self.lock();
        self.held.store(true, Ordering::Release);
        self.current()
    }

    /// Goes on, from `at_least` if that is further on, having done that.
    pub fn release(&self, at_least: u64, before: impl FnOnce()) {
        let mut state = self.lock();
        before();
        let raised = std::mem::take(&mut state.raised);
        self.current.fetch_max(at_least.max(raised), Ordering::AcqRel);
        self.held.store(false, Ordering::Release);
        drop(state);
        self.wake_all();
    }

    /// Whether the epoch should have ended long ago, but is held: then nothing more is to be read in it.
    pub fn is_stuck(&self) -> bool {
        self.held.load(Ordering::Acquire) && self.lock().last_end.elapsed() > TICK_MAX
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
        if self.held.load(Ordering::Acquire) {
            return Err(HELD);
        }
        if open + 1 >= self.limit.load(Ordering::Acquire) {
            return Err(TICK_MAX);
        }
        state.last_end = Instant::now();
        self.current.store(open + 1, Ordering::Release);
        if let Some(tell) = &self.tell {
            tell(open + 1);
        }
        drop(state);
        self.wake_all();
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_held_goes_on_from_the_greatest_number_it_was_told() {
        let clock = EpochClock::new(Epoch(5), Epoch(100), None);
        assert_eq!(clock.hold(), 5);
        std::thread::sleep(TICK_MIN);
        assert!(clock.end(5, false).is_err());
        clock.raise(Epoch(9));
        assert_eq!(clock.current(), 5, "what is to come waits until it is known what is due before");
        clock.release(7, || assert_eq!(clock.current(), 5));
        assert_eq!(clock.current(), 9);
        clock.raise(Epoch(8));
        assert_eq!(clock.current(), 9);
        clock.end(9, false).unwrap();
        assert_eq!(clock.current(), 10);
    }
}
