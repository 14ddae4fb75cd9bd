//! The engine: timely workers that run the jobs' dataflows.
//!
//! Commands reach every worker in one order through timely's `Sequencer`; changes of closed epochs
//! leave through the [`job::Outbox`]. The engine does no I/O of its own: it is given a `Source`, the
//! formats, and a place to send events. It runs as a process under the node, or in-process in tests
//! and in programs that embed it.

pub mod checkpoints;
pub mod clock;
mod collect;
mod dataflow;
pub mod facts;
mod front;
mod ingest;
mod input;
pub mod job;
mod pace;
mod refill;
mod restoring;
mod showing;
mod speaking;
mod stash;
mod taking;
mod told;
mod trouble;
mod worker;

use crate::checkpoint::CheckpointStore;
use crate::checkpoint::manifest::Place;
use crate::claim::HashKey;
use crate::decode::Formats;
use crate::ids::Epoch;
use crate::source::Source;
use crate::spec::polls::{PollInForce, PollKey};
#[cfg(doc)]
use crate::update::PollEvent;
use crate::update::{EngineEvent, Graph, JobId};
use checkpoints::Message;
use front::Front;
use job::{Halt, Install, Job, Keeping, Origin, Outbox};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the node asks of the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Builds the job's dataflow on every worker.
    Install(Box<Install>),
    /// Takes the job's dataflow down.
    Remove(JobId),
    /// Bounds the job's reading; `EngineEvent::Halted` follows once all up to there was told.
    Halt { job: JobId, halt: Halt },
    /// Lets the job read on.
    Resume(JobId),
    /// A job that was installed beside another takes its place: its epochs go on from `at_least`, and it
    /// reads as it can.
    StepForward { job: JobId, at_least: Epoch },
    /// Has the job's checkpoints lie here from now on, after it was installed without a place for them:
    /// claims it.
    Keep { job: JobId, place: Place },
    /// Writes a checkpoint of the job: [`EngineEvent::Checkpoint`] with this number follows. One at a
    /// time; numbers rise.
    Checkpoint { job: JobId, number: u64 },
    /// Changes the definitions of a `polls` job.
    Polls { job: JobId, change: PollChange },
    /// Epochs below this are reserved now.
    RaiseEpochLimit(Epoch),
}

/// What becomes of the polls of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PollChange {
    /// A poll that begins where reading stands, or at its `from` where that lies further on:
    /// [`PollEvent::Opened`] tells where that is. It is shown at once.
    Open(PollInForce),
    /// The past is counted beside the running job: [`PollEvent::Refilling`] tells how far it has come,
    /// and with [`PollEvent::Refilled`] all of it is shown at one epoch. One at a time.
    Refill(Refill),
    /// No reader sees this poll from the next epoch on. A refill that removes it is to follow.
    Hide(PollKey),
    /// No record that comes from here on can count for these: what was held for that is given up.
    Seal(Vec<PollKey>),
}

/// What one pass over the past is to change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refill {
    pub number: u64,
    /// Polls to count from their `from` on. A version takes the place of the one that is shown.
    pub add: Vec<PollInForce>,
    /// Hidden polls to forget: records that concerned only these become irrelevant.
    pub remove: Vec<PollKey>,
}

/// What an engine is made of.
#[derive(Clone)]
pub struct EngineConfig {
    /// Worker threads, at least 1.
    pub workers: usize,
    pub hash_key: HashKey,
    pub source: Arc<dyn Source>,
    pub formats: Arc<dyn Formats>,
    /// Where checkpoints are kept, if they are.
    pub checkpoints: Option<Arc<dyn CheckpointStore>>,
    /// Gets every event, from any worker's thread; must not block for long.
    pub deliver: Arc<dyn Fn(EngineEvent) + Send + Sync>,
}

/// A running engine. Dropping it stops the workers.
pub struct Engine {
    shared: Arc<Shared>,
    /// Commands on their way to the workers, past whoever reads checkpoints. Taken when it is dropped.
    front: Mutex<Option<Front>>,
    /// Behind a mutex only so that the engine can be shared: it is taken once, when it is dropped.
    guards: Mutex<Option<timely::communication::WorkerGuards<()>>>,
}

/// What the workers of a process share.
struct Shared {
    config: EngineConfig,
    commands: Mutex<VecDeque<Command>>,
    threads: Mutex<Vec<Option<std::thread::Thread>>>,
    jobs: Mutex<HashMap<JobId, Arc<Job>>>,
    /// What jobs go on from that are about to be installed.
    origins: Mutex<HashMap<JobId, Origin>>,
    writer: Option<Sender<Message>>,
    epoch_limit: AtomicU64,
    waiting: Arc<AtomicUsize>,
    /// By worker, when it last came round its loop, in ms since `started`.
    beats: Vec<AtomicU64>,
    started: Instant,
    stop: AtomicBool,
}

impl Engine {
    /// Starts the workers. Errors: the threads could not be started.
    pub fn start(config: EngineConfig) -> Result<Self, String> {
        let workers = config.workers.max(1);
        let writer = config.checkpoints.clone().map(checkpoints::start).transpose();
        let writer = writer.map_err(|error| format!("the thread of checkpoints can't be started: {error}"))?;
        let shared = Arc::new(Shared {
            config,
            commands: Mutex::default(),
            threads: Mutex::new(vec![None; workers]),
            jobs: Mutex::default(),
            origins: Mutex::default(),
            writer,
            epoch_limit: AtomicU64::new(0),
            waiting: Arc::default(),
            beats: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            started: Instant::now(),
            stop: AtomicBool::new(false),
        });
        let mut timely = timely::Config::process(workers);
        // Quiet traces are compacted too, or they would keep every batch they ever got.
        differential_dataflow::configure(
            &mut timely.worker,
            &differential_dataflow::Config { idle_merge_effort: Some(1_000) },
        );
        let theirs = shared.clone();
        let guards = timely::execute(timely, move |worker| worker::run(worker, &theirs))?;
        let front = Front::start(shared.clone())
            .map_err(|error| format!("the thread of commands can't be started: {error}"))?;
        Ok(Engine { shared, front: Mutex::new(Some(front)), guards: Mutex::new(Some(guards)) })
    }

    /// Queues a command. All workers take commands in the order of these calls.
    pub fn command(&self, command: Command) {
        if let Some(front) = lock(&self.front).as_ref() {
            front.pass(command);
        }
    }

    /// To be called for every event that was dealt with: sources wait while too many are not.
    pub fn taken(&self) {
        self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// How long ago the slowest worker last came round its loop. Idle workers come round ten times a
    /// second; one that takes seconds hangs.
    pub fn silence(&self) -> Duration {
        let now = self.shared.started.elapsed().as_millis() as u64;
        let oldest = self.shared.beats.iter().map(|beat| beat.load(Ordering::Acquire)).min().unwrap_or(now);
        Duration::from_millis(now.saturating_sub(oldest))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(lock(&self.front).take());
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        drop(lock(&self.guards).take());
    }
}

impl Shared {
    fn wake(&self) {
        lock(&self.threads).iter().flatten().for_each(std::thread::Thread::unpark);
    }

    /// Hands a command to the workers.
    fn push(&self, command: Command) {
        lock(&self.commands).push_back(command);
        self.wake();
    }

    /// A worker gives a sign of life.
    fn beat(&self, worker: usize) {
        self.beats[worker].store(self.started.elapsed().as_millis() as u64, Ordering::Release);
    }

    /// The job, made by the first worker that gets to install it.
    fn job(&self, install: &Install) -> Arc<Job> {
        let mut jobs = lock(&self.jobs);
        let make = || {
            let outbox = Outbox::new(self.config.deliver.clone(), self.waiting.clone());
            let keeping = Keeping { writer: self.writer.clone(), from: lock(&self.origins).remove(&install.job) };
            let job = Job::new(install, self.config.formats.clone(), self.config.hash_key, outbox, keeping);
            job.clock.raise_limit(Epoch(self.epoch_limit.load(Ordering::Acquire)));
            Arc::new(job)
        };
        jobs.entry(install.job).or_insert_with(make).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The operators of the job's dataflow as timely reports them, from building it once beside the
/// engine, without partitions.
pub fn graph(install: &Install, formats: Arc<dyn Formats>) -> Graph {
    worker::graph(install, formats)
}
