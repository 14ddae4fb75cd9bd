//! One view of one job and the readers who share it.

use crate::node::job::{Job, JobState};
use crate::server::events::frame::{self, Frame};
use crate::server::events::view::{Next, Tick, View};
use crate::server::problem::Problem;
use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::results::{Filter, ReadError};
use tokio::task::AbortHandle;

/// What makes two readers share a channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ChannelKey {
    pub job: String,
    /// Subjects sorted, each once.
    pub filter: Filter,
    /// At most one delta in so long a time; zero: one each epoch.
    pub every: Duration,
}

/// The readers of a view. A reader holds a [`Cursor`], never a queue: what it has not fetched is in
/// the shared [`View`], and the later it comes the more is merged into one delta.
pub struct Channel {
    pub key: ChannelKey,
    // A std mutex: held while a delta is computed, never across a wait. Taken before the job's.
    state: Mutex<State>,
    pacer: Mutex<Option<AbortHandle>>,
}

struct State {
    job: Arc<Job>,
    view: View,
    /// Rises when another job takes the name.
    generation: u64,
    status: (JobState, Option<String>),
    status_number: u64,
    comment_number: u64,
    /// The newest snapshot with the tag of its results, for readers who come while that is theirs.
    snapshot: Option<(String, Frame)>,
    stopping: bool,
    readers: Readers,
}

/// How far a reader has come. Made by [`Channel::join`], given back to [`Channel::leave`].
#[derive(Debug)]
pub struct Cursor {
    slot: usize,
    /// `None`: it needs a snapshot.
    seen: Option<Epoch>,
    generation: u64,
    status_number: u64,
    comment_number: u64,
    started: bool,
    joined: Instant,
}

/// How long a reader who has seen more than a process that does not lead shows waits for it, before it hears of a
/// gap and of less.
const PATIENCE: Duration = Duration::from_secs(10);

/// One thing to write to a reader.
#[derive(Debug)]
pub enum Item {
    /// Moves it to an epoch.
    Frame(Frame),
    /// Moves no position.
    Plain(Bytes),
}

/// What a look at the channel came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is something to write.
    Ready,
    /// Nothing yet; the waker is called when there is.
    Waiting,
    /// What there is to write is the last of the stream.
    Ended,
}

impl Channel {
    pub fn new(key: ChannelKey, job: Arc<Job>) -> Self {
        let mut view = View::new(key.filter.clone());
        job.read(|results| view.tick(results, false));
        let state = State {
            status: (job.state(), job.status().error),
            job,
            view,
            generation: 0,
            status_number: 0,
            comment_number: 0,
            snapshot: None,
            stopping: false,
            readers: Readers::default(),
        };
        Channel { key, state: Mutex::new(state), pacer: Mutex::new(None) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the task with the channel.
    pub fn set_pacer(&self, pacer: AbortHandle) {
        *self.pacer.lock().unwrap_or_else(PoisonError::into_inner) = Some(pacer);
    }

    pub fn job(&self) -> Arc<Job> {
        self.lock().job.clone()
    }

    /// Adds a reader that has seen everything up to an epoch, or nothing yet.
    pub fn join(&self, seen: Option<Epoch>) -> Cursor {
        let mut state = self.lock();
        Cursor {
            slot: state.readers.add(),
            seen,
            generation: state.generation,
            status_number: state.status_number,
            comment_number: state.comment_number,
            started: false,
            joined: Instant::now(),
        }
    }

    pub fn leave(&self, cursor: &Cursor) {
        self.lock().readers.remove(cursor.slot);
    }

    /// Puts what the reader has not seen into `out`, in order; if there is nothing, sees to it that
    /// `waker` is called.
    pub fn advance(&self, cursor: &mut Cursor, waker: &Waker, out: &mut Vec<Item>) -> Progress {
        let mut state = self.lock();
        let state = &mut *state;
        let before = out.len();
        if cursor.status_number != state.status_number {
            cursor.status_number = state.status_number;
            out.push(Item::Plain(state.status_frame(&self.key.job)));
        }
        if cursor.generation != state.generation {
            cursor.generation = state.generation;
            cursor.seen = None;
            out.push(Item::Plain(frame::gap(&self.key.job)));
        }
        if let Err(problem) = state.move_on(cursor, out) {
            out.push(Item::Plain(frame::problem(&problem)));
            return Progress::Ended;
        }
        if !cursor.started && cursor.seen.is_some() {
            cursor.started = true;
            if state.status.0 != JobState::Running {
                out.push(Item::Plain(state.status_frame(&self.key.job)));
            }
        }
        if state.stopping {
            out.push(Item::Plain(frame::stopping(&self.key.job)));
            return Progress::Ended;
        }
        let commented = std::mem::replace(&mut cursor.comment_number, state.comment_number) != state.comment_number;
        if out.len() > before {
            return Progress::Ready;
        }
        if commented {
            out.push(Item::Plain(frame::COMMENT));
            return Progress::Ready;
        }
        state.readers.wait(cursor.slot, waker);
        Progress::Waiting
    }

    /// Tells the readers what the job has come to since the last tick. Whether they were woken.
    pub fn tick(&self, force: bool) -> bool {
        let waiting = {
            let mut state = self.lock();
            let state = &mut *state;
            match state.job.read(|results| state.view.tick(results, force)) {
                Some(Tick::New) => state.readers.take(),
                _ => return false,
            }
        };
        waiting.into_iter().for_each(Waker::wake);
        true
    }

    /// Tells the readers a change of the job's state, if there is one, and takes up another job of
    /// the name. Answers the state now.
    pub fn observe(&self, job: &Arc<Job>) -> JobState {
        let status = job.status();
        let (waiting, now) = {
            let mut state = self.lock();
            let another = !Arc::ptr_eq(&state.job, job);
            if another {
                state.job = job.clone();
                state.view.reset();
                state.snapshot = None;
                state.generation += 1;
            }
            let now = (status.state, status.error);
            if !another && state.status == now {
                return status.state;
            }
            state.status = now;
            state.status_number += 1;
            (state.readers.take(), status.state)
        };
        waiting.into_iter().for_each(Waker::wake);
        now
    }

    /// A sign of life for readers who have not heard anything for long.
    pub fn comment(&self) {
        let waiting = {
            let mut state = self.lock();
            state.comment_number += 1;
            state.readers.take()
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ends every stream: the server stops.
    pub fn stop(&self) {
        let waiting = {
            let mut state = self.lock();
            state.stopping = true;
            state.readers.take()
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Some(pacer) = self.pacer.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            pacer.abort();
        }
    }
}

impl State {
    fn status_frame(&self, job: &str) -> Bytes {
        frame::status(job, self.status.0, self.status.1.as_deref())
    }

    /// The reader's next frame, if there is one.
    fn move_on(&mut self, cursor: &mut Cursor, out: &mut Vec<Item>) -> Result<(), Problem> {
        if let Some(seen) = cursor.seen {
            // What the leader has shown before it was lost comes again, under a later epoch.
            if self.job.is_behind(seen) && cursor.joined.elapsed() < PATIENCE {
                return Ok(());
            }
            match self.view.next(seen) {
                Next::Nothing => return Ok(()),
                Next::Frame(frame) => {
                    cursor.seen = Some(frame.to);
                    out.push(Item::Frame(frame));
                    return Ok(());
                }
                Next::Lost => {}
            }
            let (job, view) = (&self.job, &mut self.view);
            match job.read(|results| view.resume(seen, results)) {
                Some(Ok(Some(frame))) => {
                    cursor.seen = Some(frame.to);
                    out.push(Item::Frame(frame));
                    return Ok(());
                }
                Some(Ok(None)) => return Ok(()),
                Some(Err(_)) | None => {
                    cursor.seen = None;
                    out.push(Item::Plain(frame::gap(job.name())));
                }
            }
        }
        // Another job of the name may have nothing to show yet: its first epoch wakes the reader.
        if let Some(snapshot) = self.snapshot()? {
            cursor.seen = Some(snapshot.to);
            out.push(Item::Frame(snapshot));
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Option<Frame>, Problem> {
        let (view, kept) = (&mut self.view, &mut self.snapshot);
        let read = self.job.read(|results| -> Result<Frame, ReadError> {
            let tag = results.tag();
            if let Some((_, kept)) = kept.as_ref().filter(|(of, _)| *of == tag) {
                view.hand_out(kept.to);
                return Ok(kept.clone());
            }
            let frame = Frame::snapshot(&results.snapshot(view.filter())?);
            view.hand_out(frame.to);
            *kept = Some((tag, frame.clone()));
            Ok(frame)
        });
        read.transpose().map_err(Problem::from)
    }
}

/// Who waits. Woken in the order of their slots, each once.
#[derive(Default)]
struct Readers {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

enum Slot {
    Free,
    Awake,
    Waiting(Waker),
}

impl Readers {
    fn add(&mut self) -> usize {
        if let Some(slot) = self.free.pop() {
            self.slots[slot] = Slot::Awake;
            return slot;
        }
        self.slots.push(Slot::Awake);
        self.slots.len() - 1
    }

    fn remove(&mut self, slot: usize) {
        self.slots[slot] = Slot::Free;
        self.free.push(slot);
    }

    fn wait(&mut self, slot: usize, waker: &Waker) {
        match &mut self.slots[slot] {
            Slot::Waiting(kept) => kept.clone_from(waker),
            slot => *slot = Slot::Waiting(waker.clone()),
        }
    }

    fn take(&mut self) -> Vec<Waker> {
        let woken = self.slots.iter_mut().filter(|slot| matches!(slot, Slot::Waiting(_)));
        woken
            .filter_map(|slot| match std::mem::replace(slot, Slot::Awake) {
                Slot::Waiting(waker) => Some(waker),
                _ => None,
            })
            .collect()
    }
}
