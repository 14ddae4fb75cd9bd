//! A job as the engine runs it.

use crate::checkpoint::Kind;
use crate::checkpoint::manifest::{Loaded, Place};
use crate::claim::{HashKey, Position};
use crate::decode::Formats;
use crate::engine::checkpoints::{Message, Part, Piece, Rewrite};
use crate::engine::clock::{EpochClock, Tell};
use crate::engine::cluster::{Due, Note, Wire};
use crate::engine::outbox::Outbox;
use crate::engine::{PollChange, lock};
use crate::ids::{Epoch, Offset, PartitionId};
use crate::jobs::polls::book::Book;
use crate::source::SourceError;
use crate::spec::polls::PollInForce;
use crate::spec::{Dataflow, JobSpec};
use crate::update::{EngineEvent, JobId, PollEvent};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
    /// On the leader of a cluster: by process, at which epoch its clock is held for the checkpoint of that
    /// number.
    held: Mutex<(u64, BTreeMap<usize, u64>)>,
    /// The checkpoint that is due, or was last: its number and its epoch.
    due: Mutex<Option<(u64, u64)>>,
    writer: Option<Sender<Message>>,
    /// The key groups that the next checkpoint is to hold whole, so that old files become needless.
    rewrite: Rewrite,
    /// The number of its last manifest, or of the claim; 0: nothing is kept of it.
    last_manifest: Arc<AtomicU64>,
    /// What it goes on from, until it stands on every worker.
    from: Mutex<Option<Origin>>,
    /// Set by whoever fails first; nothing is read or told after it.
    failed: AtomicBool,
    /// On how many workers its dataflow was built, and taken down.
    built: AtomicUsize,
    taken_down: AtomicUsize,
    /// On the leader of a cluster: likewise in how many processes.
    built_processes: AtomicUsize,
    gone_processes: AtomicUsize,
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
        let job = install.job;
        let tell = |wire: &Arc<Wire>| -> Tell {
            let wire = wire.clone();
            Box::new(move |epoch| wire.tell_all(Note::Clock { job, epoch }))
        };
        let clock = EpochClock::new(first, install.epoch_limit, outbox.wire.as_ref().map(tell));
        let book = match &install.spec.dataflow {
            Dataflow::Polls(_) => {
                let book = Book::new(hash_key, &install.inputs, &install.polls);
                if let Some(Origin::Checkpoint(loaded)) = &keeping.from {
                    for read in &loaded.checkpoint.offsets {
                        book.reached(read.input as usize, read.partition, read.next);
                    }
                }
                Some(RwLock::new(book))
            }
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
            held: Mutex::default(),
            due: Mutex::new(None),
            writer: keeping.writer,
            rewrite: Rewrite::default(),
            last_manifest: Arc::default(),
            from: Mutex::new(keeping.from),
            failed: AtomicBool::new(false),
            built: AtomicUsize::new(0),
            taken_down: AtomicUsize::new(0),
            built_processes: AtomicUsize::new(0),
            gone_processes: AtomicUsize::new(0),
        }
    }

    /// In a cluster, the wire to its other processes.
    pub fn wire(&self) -> Option<&Arc<Wire>> {
        self.outbox.wire.as_ref()
    }

    /// The worker whose collector gathers what the job comes to, of so many: one of the leader's.
    pub fn home(&self, peers: usize) -> usize {
        self.id.0 as usize % self.wire().map_or(peers, |wire| wire.membership.workers)
    }

    /// What it goes on from; the error says what must be seen to before it can.
    pub fn from(&self) -> Result<Option<Arc<Loaded>>, Failure> {
        match &*lock(&self.from) {
            None => Ok(None),
            Some(Origin::Checkpoint(loaded)) => Ok(Some(loaded.clone())),
            Some(Origin::Refused(why)) => Err(Failure::new(why.clone())),
        }
    }

    /// A worker, of the process's `workers`, brings the command to write a checkpoint. The last of them
    /// begins it, of the epoch that is open: by then the dataflow stands on all. In a cluster the epoch is
    /// held instead, until the leader has heard where those of all processes are.
    pub fn begin_checkpoint(&self, number: u64, workers: usize) {
        {
            let mut asked = lock(&self.asked);
            if asked.0 != number {
                *asked = (number, 0);
            }
            asked.1 += 1;
            if asked.1 < workers {
                return;
            }
        }
        match self.wire() {
            None => self.clock.look(|epoch| {
                self.give(self.begin(number, None));
                *lock(&self.due) = Some((number, epoch));
            }),
            Some(wire) => {
                let epoch = self.clock.hold();
                if wire.is_leader() {
                    self.held_by(0, number, epoch);
                } else {
                    wire.tell_leader(Note::Held { job: self.id, number, epoch });
                }
            }
        }
    }

    fn begin(&self, number: u64, part: Option<Part>) -> Piece {
        let takers = self.takers.load(Ordering::Acquire);
        let (outbox, rewrite) = (self.outbox.clone(), self.rewrite.clone());
        Piece::Begin { number, takers, outbox, rewrite, last: self.last_manifest.clone(), part }
    }

    /// On the leader: a process holds its clock at that epoch. With the last of them the checkpoint begins.
    pub fn held_by(&self, process: usize, number: u64, epoch: u64) {
        let Some(wire) = self.wire() else { return };
        let mut held = lock(&self.held);
        if held.0 != number {
            *held = (number, BTreeMap::new());
        }
        held.1.insert(process, epoch);
        if held.1.len() < wire.processes() {
            return;
        }
        let epoch = held.1.values().max().copied().unwrap_or(epoch);
        self.give(self.begin(number, Some(Part::OfAll { parts: wire.processes() - 1 })));
        // Where the job was not taken up, the writer says so.
        let last = self.last_manifest.load(Ordering::Acquire);
        let rewrite = lock(&self.rewrite).clone();
        let due = (last > 0).then_some(Due { number, epoch, manifest: last + 1, rewrite });
        wire.tell_all(Note::Release { job: self.id, due: due.clone() });
        self.released(due.as_ref());
    }

    /// The job was taken up by a claim of that number.
    pub fn claimed(&self, claim: u64) {
        self.last_manifest.store(claim, Ordering::Release);
    }

    /// The clock goes on; a checkpoint is due, if that came about.
    pub fn released(&self, due: Option<&Due>) {
        self.clock.release(due.map_or(0, |due| due.epoch), || {
            if let Some(due) = due {
                *lock(&self.due) = Some((due.number, due.epoch));
            }
        });
    }

    /// On a process that does not lead: likewise, with what the leader says of it.
    pub fn released_by_leader(&self, due: Option<Due>) {
        if let (Some(due), Some(wire)) = (&due, self.wire()) {
            lock(&self.rewrite).clone_from(&due.rewrite);
            self.give(self.begin(due.number, Some(Part::OfOne { manifest: due.manifest, wire: wire.clone() })));
        }
        self.released(due.as_ref());
    }

    /// The key groups that the next checkpoint is to hold whole.
    pub fn rewrite(&self, kind: Kind) -> Vec<usize> {
        let rewrite = lock(&self.rewrite);
        rewrite.iter().filter(|(of, _)| *of == kind).map(|(_, group)| usize::from(*group)).collect()
    }

    /// The number and the epoch of the checkpoint that is due, or was last.
    pub fn due(&self) -> Option<(u64, u64)> {
        *lock(&self.due)
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

    /// Changes the polls.
    pub fn change_polls(&self, change: &PollChange) {
        let opened = self.book_mut().and_then(|mut book| {
            let opened = book.obey(change);
            self.forget_changed(&mut book);
            opened
        });
        if let Some((poll, from)) = opened {
            self.outbox.send(EngineEvent::Polls { job: self.id, event: PollEvent::Opened { poll, from } });
        }
    }

    /// In a cluster: the sources read nothing until they are let. Answers where they stand.
    pub fn freeze_polls(&self) -> Vec<Vec<Offset>> {
        self.book_mut().map(|mut book| book.freeze(true)).unwrap_or_default()
    }

    /// In a cluster: the sources of all processes stand there.
    pub fn set_positions(&self, positions: &[Vec<Offset>]) {
        if let Some(book) = self.book_mut() {
            book.set_positions(positions);
        }
    }

    /// In a cluster: the sources read on.
    pub fn thaw_polls(&self) {
        self.book_mut().map(|mut book| book.freeze(false));
        self.clock.wake_all();
    }

    /// In a cluster: a refill has ended on the leader.
    pub fn end_refill(&self, number: u64, shown: bool) {
        if let Some(mut book) = self.book_mut() {
            if shown {
                book.finish_refill(number);
            } else {
                book.give_up_refill(number);
            }
            self.forget_changed(&mut book);
        }
    }

    /// What readers are to see is the leader's to tell.
    fn forget_changed(&self, book: &mut Book) {
        if self.wire().is_some_and(|wire| !wire.is_leader()) {
            book.take_changed();
        }
    }

    /// Ends the job with an error; only the first is told.
    pub fn fail(&self, failure: Failure) {
        if self.failed.swap(true, Ordering::AcqRel) {
            return;
        }
        let (job, error, at) = (self.id, failure.error, failure.position);
        match self.wire().filter(|wire| !wire.is_leader()) {
            Some(wire) => wire.tell_leader(Note::Failed { job, error, at }),
            None => self.outbox.send(EngineEvent::Failed { job, error, at }),
        }
    }

    /// Tells that a partition of an input is waited for, and why; `None`: it is read again.
    pub fn waits(&self, input: u32, partition: PartitionId, why: Option<String>) {
        let job = self.id;
        match self.wire().filter(|wire| !wire.is_leader()) {
            Some(wire) => wire.tell_leader(Note::Waits { job, input, partition, why }),
            None => self.outbox.send(EngineEvent::Waits { job, input, partition, why }),
        }
    }

    /// In a cluster: it has failed, and that is told.
    pub fn has_failed_elsewhere(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Its dataflow stands on one more worker, of the process's `workers`; the last of them tells.
    pub fn built(&self, workers: usize) {
        if self.built.fetch_add(1, Ordering::AcqRel) + 1 == workers {
            lock(&self.from).take();
            match self.wire().filter(|wire| !wire.is_leader()) {
                Some(wire) => wire.tell_leader(Note::Built { job: self.id }),
                None => self.built_in_process(),
            }
        }
    }

    /// Its dataflow stands in one more process.
    pub fn built_in_process(&self) {
        let processes = self.wire().map_or(1, |wire| wire.processes());
        if self.built_processes.fetch_add(1, Ordering::AcqRel) + 1 == processes {
            self.outbox.send(EngineEvent::Installed { job: self.id });
        }
    }

    /// Its dataflow is gone from one more worker, of the process's `workers`, the last of which tells.
    /// Whether nobody will look for the job any more.
    pub fn taken_down(&self, workers: usize) -> bool {
        if self.taken_down.fetch_add(1, Ordering::AcqRel) + 1 < workers {
            return false;
        }
        self.give(Piece::Gone);
        match self.wire().filter(|wire| !wire.is_leader()) {
            Some(wire) => {
                wire.tell_leader(Note::Gone { job: self.id });
                true
            }
            None => self.gone_from_process(),
        }
    }

    /// Its dataflow is gone from one more process; whether from all.
    pub fn gone_from_process(&self) -> bool {
        let processes = self.wire().map_or(1, |wire| wire.processes());
        let gone = self.gone_processes.fetch_add(1, Ordering::AcqRel) + 1 == processes;
        if gone {
            self.outbox.send(EngineEvent::Removed { job: self.id });
        }
        gone
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
