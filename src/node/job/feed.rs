//! What a process that mirrors the jobs has still to be told of them: the changes since it was last told, in
//! their order, or all there is where these came to too much.

use crate::node::job::{Job, JobHead};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tallyflow_dataflows::update::{EpochUpdate, JobId};

/// Those that mirror the jobs.
#[derive(Default)]
pub struct Feeds(RwLock<Vec<Arc<Feed>>>);

/// What one of them has still to be told.
#[derive(Default)]
pub struct Feed {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    jobs: HashMap<JobId, Changes>,
    /// Jobs of which something besides may have changed.
    touched: HashSet<JobId>,
    closed: bool,
}

/// The changes of a job since it was last told.
#[derive(Default)]
struct Changes {
    updates: Vec<EpochUpdate>,
    lines: usize,
}

/// What is to be told of a job.
pub enum Portion {
    Whole(Box<JobHead>),
    Changes(Vec<EpochUpdate>),
}

/// Beyond so many changes, or changed lines, all there is is told in their stead.
const UPDATES_MAX: usize = 4_096;
const LINES_MAX: usize = 200_000;

impl Feeds {
    pub fn add(&self, feed: Arc<Feed>) {
        self.write().push(feed);
    }

    pub fn remove(&self, feed: &Arc<Feed>) {
        self.write().retain(|other| !Arc::ptr_eq(other, feed));
    }

    /// An update for those that mirror, if there are any.
    pub(super) fn copy(&self, update: &EpochUpdate) -> Option<EpochUpdate> {
        // Letters stay where they are kept.
        let copy = || EpochUpdate { rejected: Vec::new(), ..update.clone() };
        (!self.read().is_empty()).then(copy)
    }

    /// A job has changed by what was copied; `None`: it has another state altogether. Called while the job is
    /// locked, so that changes keep their order.
    pub(super) fn change(&self, job: JobId, change: Option<EpochUpdate>) {
        // Where nobody was there when it was copied, who came since is told all.
        let Some(update) = change else { return self.renew(job) };
        for feed in self.read().iter() {
            feed.change(job, &update);
        }
    }

    /// A job has another state altogether. Called while it is locked.
    pub(super) fn renew(&self, job: JobId) {
        for feed in self.read().iter() {
            feed.lock().jobs.remove(&job);
        }
    }

    /// Something has become of a job.
    pub(super) fn touch(&self, job: JobId) {
        for feed in self.read().iter() {
            feed.lock().touched.insert(job);
            feed.arrived.notify_one();
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Feed>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Arc<Feed>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    fn change(&self, job: JobId, update: &EpochUpdate) {
        let mut state = self.lock();
        // Who has not been told of it yet is told all.
        let Some(changes) = state.jobs.get_mut(&job) else { return };
        changes.lines += update.lines.len();
        if changes.updates.len() == UPDATES_MAX || changes.lines > LINES_MAX {
            state.jobs.remove(&job);
            return;
        }
        changes.updates.push(update.clone());
    }

    /// Waits until something has become of a job, at most for so long: the jobs of which it has. `None`: it is
    /// over.
    pub fn wait(&self, at_most: Duration) -> Option<HashSet<JobId>> {
        let until = Instant::now() + at_most;
        let mut state = self.lock();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.closed {
                return None;
            }
            if !state.touched.is_empty() || left.is_zero() {
                return Some(std::mem::take(&mut state.touched));
            }
            (state, _) = self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has whoever waits look again.
    pub fn wake(&self) {
        self.arrived.notify_one();
    }

    /// It is over: nobody waits any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_one();
    }

    /// What is to be told of a job; it counts as told.
    pub fn take(&self, job: &Job) -> Portion {
        // The job first, as where it changes.
        let inner = job.lock();
        let mut state = self.lock();
        match state.jobs.get_mut(&job.id) {
            Some(changes) => Portion::Changes(std::mem::take(changes).updates),
            None => {
                // What shows nothing yet has nothing that changes could be of.
                if inner.results.epoch().is_some() {
                    state.jobs.insert(job.id, Changes::default());
                }
                drop(state);
                Portion::Whole(Box::new(inner.head(job)))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
