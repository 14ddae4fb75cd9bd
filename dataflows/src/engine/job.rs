//! A job as the engine runs it.

use crate::checkpoint::Kind;
use crate::checkpoint::manifest::{Loaded, Place};
use crate::claim::{HashKey, Position};
use crate::decode::Formats;
use crate::engine::PollChange;
use crate::engine::checkpoints::{Message, Piece, Rewrite};
use crate::engine::clock::EpochClock;
use crate::ids::{Epoch, Offset, PartitionId};
use crate::jobs::polls::book::Book;
use crate::source::SourceError;
use crate::spec::polls::PollInForce;
use crate::spec::{Dataflow, JobSpec};
use crate::update::{EngineEvent, JobId, PollEvent};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A job with its bounds resolved to offsets, as the node sends it to be installed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Install {
    pub job: JobId,
    pub spec: JobSpec,
    /// The spec's inputs, resolved.
    pub inputs: Vec<InstallInput>,
    /// The job's epochs start here: above all that were used before.
    pub first_epoch: Epoch,
    /// Epochs below this are reserved.
    pub epoch_limit: Epoch,
    /// Reads only so far at first.
    pub halt: Option<Halt>,
    /// Reads in small pieces, so that other jobs keep their latency: a job that is to take the place of
    /// one that runs.
    pub beside: bool,
    /// Of a `polls` job, its polls as they are in force. All of their past is read anew.
    pub polls: Vec<PollInForce>,
    /// Where its checkpoints lie: it goes on from the newest that is of use.
    pub keep: Option<Place>,
}

/// One input, resolved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstallInput {
    pub topic: String,
    /// Which topic of that name it is; `None`: whichever there is.
    #[serde(default)]
    pub incarnation: Option<u64>,
    /// Every partition of the topic.
    pub partitions: Vec<Start>,
    /// Records with an earlier log timestamp are passed over.
    pub from_ms: Option<i64>,
    /// A partition ends at the first record with this log timestamp or a later one.
    pub until_ms: Option<i64>,
}

/// Where reading a partition starts and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    pub partition: PartitionId,
    pub from: Offset,
    pub until: Option<Offset>,
}

/// Where a job is to stop reading until it is told otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// `EngineEvent::Halted` has this number once all that was read up to there is told.
    pub number: u64,
    /// `None`: at once. Else by input, per partition, the offset to read to.
    pub until: Option<Vec<Vec<Offset>>>,
}

/// What a job goes on from, and what its checkpoints go to.
#[derive(Clone, Default)]
pub struct Keeping {
    pub writer: Option<Sender<Message>>,
    pub from: Option<Origin>,
}

/// What a job goes on from.
#[derive(Clone)]
pub enum Origin {
    Checkpoint(Arc<Loaded>),
    /// Nothing: this must be seen to first.
    Refused(String),
}

/// What all workers of the process share of a job.
pub struct Job {
    pub id: JobId,
    pub clock: EpochClock,
    pub formats: Arc<dyn Formats>,
    pub hash_key: HashKey,
    pub outbox: Outbox,
    /// Whether it reads in small pieces; see [`Install::beside`].
    beside: AtomicBool,
    /// Of a `polls` job, its polls.
    book: Option<RwLock<Book>>,
    /// How many operators of all workers contribute to a checkpoint.
    pub takers: AtomicUsize,
    /// The checkpoint that was asked for last, and by how many workers.
    asked: Mutex<(u64, usize)>,
    /// The checkpoint that is due, or was last: its number and its epoch.
    due: Mutex<Option<(u64, u64)>>,
    writer: Option<Sender<Message>>,
    /// The key groups that the next checkpoint is to hold whole, so that old files become needless.
    rewrite: Rewrite,
    /// What it goes on from, until it stands on every worker.
    from: Mutex<Option<Origin>>,
    /// Set by whoever fails first; nothing is read or told after it.
    failed: AtomicBool,
    /// On how many workers its dataflow was built, and taken down.
    built: AtomicUsize,
    taken_down: AtomicUsize,
}

impl Job {
    pub fn new(
        install: &Install,
        formats: Arc<dyn Formats>,
        hash_key: HashKey,
        outbox: Outbox,
        keeping: Keeping,
    ) -> Self {
        // What is restored has an epoch of its own.
        let first = Epoch(install.first_epoch.0 + u64::from(keeping.from.is_some()));
        let clock = EpochClock::new(first, install.epoch_limit);
        let book = match &install.spec.dataflow {
            Dataflow::Polls(_) => Some(RwLock::new(Book::new(hash_key, &install.inputs, &install.polls))),
            Dataflow::Tally(_) => None,
        };
        Job {
            id: install.job,
            clock,
            formats,
            hash_key,
            outbox,
            beside: AtomicBool::new(install.beside),
            book,
            takers: AtomicUsize::new(0),
            asked: Mutex::default(),
            due: Mutex::new(None),
            writer: keeping.writer,
            rewrite: Rewrite::default(),
            from: Mutex::new(keeping.from),
            failed: AtomicBool::new(false),
            built: AtomicUsize::new(0),
            taken_down: AtomicUsize::new(0),
        }
    }

    /// What it goes on from; the error says what must be seen to before it can.
    pub fn from(&self) -> Result<Option<Arc<Loaded>>, Failure> {
        match &*self.from.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(None),
            Some(Origin::Checkpoint(loaded)) => Ok(Some(loaded.clone())),
            Some(Origin::Refused(why)) => Err(Failure::new(why.clone())),
        }
    }

    /// A worker, of `workers`, brings the command to write a checkpoint. The last of them begins it, of the
    /// epoch that is open: by then the dataflow stands on all.
    pub fn begin_checkpoint(&self, number: u64, workers: usize) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.0 != number {
            *asked = (number, 0);
        }
        asked.1 += 1;
        if asked.1 == workers {
            self.clock.hold(|epoch| {
                let takers = self.takers.load(Ordering::Acquire);
                let (outbox, rewrite) = (self.outbox.clone(), self.rewrite.clone());
                self.give(Piece::Begin { number, takers, outbox, rewrite });
                *self.due.lock().unwrap_or_else(PoisonError::into_inner) = Some((number, epoch));
            });
        }
    }

    /// The key groups that the next checkpoint is to hold whole.
    pub fn rewrite(&self, kind: Kind) -> Vec<usize> {
        let rewrite = self.rewrite.lock().unwrap_or_else(PoisonError::into_inner);
        rewrite.iter().filter(|(of, _)| *of == kind).map(|(_, group)| usize::from(*group)).collect()
    }

    /// The number and the epoch of the checkpoint that is due, or was last.
    pub fn due(&self) -> Option<(u64, u64)> {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a piece to whoever writes checkpoints.
    pub fn give(&self, piece: Piece) {
        if let Some(writer) = &self.writer {
            // The thread ends with the engine only.
            writer.send(Message { job: self.id, piece }).ok();
        }
    }

    /// Whether it is to read in small pieces.
    pub fn is_beside(&self) -> bool {
        self.beside.load(Ordering::Acquire)
    }

    /// It takes the place of another job: it reads as it can, and its epochs go on from `at_least`.
    pub fn step_forward(&self, at_least: Epoch) {
        self.beside.store(false, Ordering::Release);
        self.clock.raise(at_least);
    }

    /// The polls of a `polls` job, to be read.
    pub fn book(&self) -> Option<RwLockReadGuard<'_, Book>> {
        self.book.as_ref().map(|book| book.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The polls of a `polls` job, to be changed: no source is in the midst of a turn meanwhile.
    pub fn book_mut(&self) -> Option<RwLockWriteGuard<'_, Book>> {
        self.book.as_ref().map(|book| book.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the polls; every worker brings every change, and the first to bring the `nth` makes it.
    pub fn change_polls(&self, nth: u64, change: &PollChange) {
        let opened = self.book_mut().and_then(|mut book| book.obey(nth, change));
        if let Some((poll, from)) = opened {
            self.outbox.send(EngineEvent::Polls { job: self.id, event: PollEvent::Opened { poll, from } });
        }
    }

    /// Ends the job with an error; only the first is told.
    pub fn fail(&self, failure: Failure) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            self.outbox.send(EngineEvent::Failed { job: self.id, error: failure.error, at: failure.position });
        }
    }

    /// Its dataflow stands on one more worker, of `workers`; the last of them tells.
    pub fn built(&self, workers: usize) {
        if self.built.fetch_add(1, Ordering::AcqRel) + 1 == workers {
            self.from.lock().unwrap_or_else(PoisonError::into_inner).take();
            self.outbox.send(EngineEvent::Installed { job: self.id });
        }
    }

    /// Its dataflow is gone from one more worker, of `workers`; whether that was the last, which tells.
    pub fn taken_down(&self, workers: usize) -> bool {
        let last = self.taken_down.fetch_add(1, Ordering::AcqRel) + 1 == workers;
        if last {
            self.give(Piece::Gone);
            self.outbox.send(EngineEvent::Removed { job: self.id });
        }
        last
    }

    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }
}

/// Why a job can't go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub error: String,
    /// The place in the log, where there is one.
    pub position: Option<Position>,
}

impl Failure {
    pub fn new(error: impl Into<String>) -> Self {
        Failure { error: error.into(), position: None }
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Gone { .. } => Failure::new(format!("{error}; `restart --ignore-state` goes on without them")),
            _ => Failure::new(error.to_string()),
        }
    }
}

/// Where events go. Shared by all workers; sending never blocks.
#[derive(Clone)]
pub struct Outbox {
    deliver: Arc<dyn Fn(EngineEvent) + Send + Sync>,
    /// Events sent and not yet taken by the node, kept by whoever delivers.
    waiting: Arc<AtomicUsize>,
}

impl Outbox {
    /// Sources stop reading while this many events wait.
    const WAITING_MAX: usize = 64;

    /// `waiting` is lowered by the taker for every event it has dealt with.
    pub fn new(deliver: Arc<dyn Fn(EngineEvent) + Send + Sync>, waiting: Arc<AtomicUsize>) -> Self {
        Outbox { deliver, waiting }
    }

    pub fn send(&self, event: EngineEvent) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        (self.deliver)(event);
    }

    /// Whether the node is behind.
    pub fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > Self::WAITING_MAX
    }
}
