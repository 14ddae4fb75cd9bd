//! The engine: timely workers that run the jobs' dataflows.
//!
//! Commands reach every worker in one order, which one front gives them; changes of closed epochs
//! leave through the `Outbox`. The engine does no I/O of its own: it is given a `Source`, the
//! formats, and a place to send events. It runs as a process under the node, or in-process in tests
//! and in programs that embed it; and over several processes, see [`cluster`].

pub mod checkpoints;
pub mod clock;
pub mod cluster;
mod collect;
mod dataflow;
pub mod facts;
mod front;
mod ingest;
mod input;
pub mod job;
mod outbox;
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
use checkpoints::{Message, Piece};
use cluster::{Cluster, Note, PeerState, Station, Wire};
use front::{Back, Front};
use job::{Failure, Halt, Install, Job, Keeping, Origin};
use outbox::Outbox;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use timely::communication::allocator::zero_copy::initialize::CommsGuard;

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
    /// Timely's threads of a cluster's connections.
    channels: Mutex<Option<CommsGuard>>,
}

/// What the workers of a process share.
struct Shared {
    config: EngineConfig,
    /// By worker, what it has not taken yet.
    tasks: Vec<Mutex<VecDeque<Task>>>,
    threads: Mutex<Vec<Option<std::thread::Thread>>>,
    /// Those that are installed; in a cluster, on the leader, until they are gone from all processes.
    jobs: Mutex<HashMap<JobId, Arc<Job>>>,
    writer: Option<Sender<Message>>,
    epoch_limit: AtomicU64,
    outbox: Outbox,
    /// In a cluster, the way to the other processes; and what they have to say to the front.
    wire: Option<Arc<Wire>>,
    back: Back,
    /// By worker, when it last came round its loop, in ms since `started`.
    beats: Vec<AtomicU64>,
    started: Instant,
    stop: AtomicBool,
}

/// What workers are to do.
#[derive(Clone)]
enum Task {
    Install(Arc<Job>, Arc<Install>),
    Other(Arc<Command>),
}

impl Engine {
    /// Starts the workers. Errors: the threads could not be started.
    pub fn start(config: EngineConfig) -> Result<Self, String> {
        Self::start_with(config, None)
    }

    /// Starts this process's engine of a cluster, with as many workers as its membership says. Commands are
    /// given to process 0 only, and only its `deliver` gets events.
    ///
    /// When a connection with another process is lost, a thread panics that says which: the process should
    /// abort. Errors: the threads could not be started.
    pub fn start_in(config: EngineConfig, cluster: Cluster) -> Result<Self, String> {
        Self::start_with(config, Some(cluster))
    }

    fn start_with(mut config: EngineConfig, cluster: Option<Cluster>) -> Result<Self, String> {
        if let Some(cluster) = &cluster {
            config.workers = cluster.workers();
        }
        let workers = config.workers.max(1);
        let writer = config.checkpoints.clone().map(checkpoints::start).transpose();
        let writer = writer.map_err(|error| format!("the thread of checkpoints can't be started: {error}"))?;
        let of_wire = |error: std::io::Error| format!("the connections of the cluster can't be used: {error}");
        let (wire, wire_ends) = match &cluster {
            Some(cluster) => Wire::of(cluster).map(|(wire, ends)| (Some(wire), Some(ends))).map_err(of_wire)?,
            None => (None, None),
        };
        let (front, back, front_ends) = front::ends();
        let shared = Arc::new(Shared {
            outbox: Outbox::new(config.deliver.clone(), Arc::default()).in_cluster(wire.clone()),
            config,
            tasks: (0..workers).map(|_| Mutex::default()).collect(),
            threads: Mutex::new(vec![None; workers]),
            jobs: Mutex::default(),
            writer,
            epoch_limit: AtomicU64::new(0),
            wire,
            back,
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
        let (builders, channels) = match cluster.as_ref().zip(shared.wire.as_ref()) {
            Some((cluster, wire)) => {
                let (builders, channels) = cluster::channels(cluster, wire).map_err(of_wire)?;
                (builders, Some(channels))
            }
            None => (timely.communication.try_build()?.0, None),
        };
        front
            .start(front_ends, shared.clone())
            .map_err(|error| format!("the thread of commands can't be started: {error}"))?;
        let theirs = shared.clone();
        let run = move |worker: &mut timely::worker::Worker| worker::run(worker, &theirs);
        let guards = timely::execute::execute_from(builders, Box::new(()), timely.worker, run)?;
        if let (Some(wire), Some(ends)) = (&shared.wire, wire_ends) {
            let station: Arc<dyn Station> = shared.clone();
            wire.run(ends, &station).map_err(of_wire)?;
        }
        let (front, guards) = (Mutex::new(Some(front)), Mutex::new(Some(guards)));
        Ok(Engine { shared, front, guards, channels: Mutex::new(channels) })
    }

    /// Queues a command. All workers take commands in the order of these calls.
    pub fn command(&self, command: Command) {
        if let Some(front) = lock(&self.front).as_ref() {
            front.pass(command);
        }
    }

    /// To be called for every event that was dealt with: sources wait while too many are not.
    pub fn taken(&self) {
        self.shared.outbox.taken();
    }

    /// How long ago the slowest worker last came round its loop. Idle workers come round ten times a
    /// second; one that takes seconds hangs.
    pub fn silence(&self) -> Duration {
        self.shared.silence()
    }

    /// In a cluster, what is known of its other processes. They give five signs of life a second; one that takes
    /// two seconds is gone or frozen.
    pub fn peers(&self) -> Vec<PeerState> {
        self.shared.wire.as_ref().map(|wire| wire.peers()).unwrap_or_default()
    }

    /// Has the workers end at their next turn. Where several engines of a cluster run in one process, all
    /// are stopped before the first is dropped: else those that are left take it for lost.
    pub fn stop(&self) {
        if let Some(wire) = &self.shared.wire {
            wire.stop();
        }
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        drop(lock(&self.front).take());
        self.stop();
        if let Some(guards) = lock(&self.guards).take() {
            for ended in guards.join() {
                if let Err(error) = ended {
                    tracing::error!("a worker had failed: {error}");
                }
            }
        }
        if let Some(wire) = &self.shared.wire {
            wire.close();
        }
        drop(lock(&self.channels).take());
    }
}

impl Station for Shared {
    fn take(&self, from: usize, note: Note) {
        match note {
            // The wire's own.
            Note::Beat { .. } => {}
            Note::Clock { job, epoch } => self.with(job, |job| job.clock.raise(Epoch(epoch))),
            Note::Joined { job: id } => self.with(id, |job| {
                if let Some(wire) = job.wire() {
                    wire.tell(from, Note::Clock { job: id, epoch: job.clock.current() });
                }
            }),
            Note::Built { job } => self.with(job, |job| job.built_in_process()),
            Note::Gone { job: id } => self.with(id, |job| {
                if job.gone_from_process() {
                    self.forget(id);
                }
            }),
            Note::Failed { job, error, at } => self.with(job, |job| job.fail(Failure { error, position: at })),
            Note::Waits { job, input, partition, why } => {
                self.with(job, |job| job.waits(input, partition, why));
            }
            Note::Obeyed { order, positions } => self.back.obeyed(order, positions),
            Note::Held { job, number, epoch } => self.with(job, |job| job.held_by(from, number, epoch)),
            Note::Part { job, number, files, frames, stall } => {
                let written = Ok((files, frames, stall));
                self.with(job, |job| job.give(Piece::PartOf { number, written }));
            }
            Note::PartFailed { job, number, error } => {
                let written = Err(format!("process {from}: {error}"));
                self.with(job, |job| job.give(Piece::PartOf { number, written }));
            }
            Note::Order(order) => self.back.order(*order),
            Note::Release { job, due } => self.with(job, |job| job.released_by_leader(due)),
            Note::HasFailed { job } => self.with(job, |job| job.has_failed_elsewhere()),
        }
    }

    fn silence(&self) -> Duration {
        let now = self.started.elapsed().as_millis() as u64;
        let oldest = self.beats.iter().map(|beat| beat.load(Ordering::Acquire)).min().unwrap_or(now);
        Duration::from_millis(now.saturating_sub(oldest))
    }

    fn is_full(&self) -> bool {
        self.outbox.is_full_here()
    }
}

impl Shared {
    fn wake(&self) {
        lock(&self.threads).iter().flatten().for_each(std::thread::Thread::unpark);
    }

    /// How many workers the process has.
    fn workers(&self) -> usize {
        self.beats.len()
    }

    /// Hands a task to the workers. They get all in the order of these calls, of which there is one at a
    /// time.
    fn push(&self, task: Task) {
        for tasks in &self.tasks {
            lock(tasks).push_back(task.clone());
        }
        self.wake();
    }

    /// Takes what a worker is to do.
    fn tasks(&self, worker: usize) -> VecDeque<Task> {
        std::mem::take(&mut *lock(&self.tasks[worker]))
    }

    /// A worker gives a sign of life.
    fn beat(&self, worker: usize) {
        self.beats[worker].store(self.started.elapsed().as_millis() as u64, Ordering::Release);
    }

    /// A job that is about to be installed, and goes on from there.
    fn make_job(&self, install: &Install, from: Option<Origin>) -> Arc<Job> {
        let keeping = Keeping { writer: self.writer.clone(), from };
        let outbox = self.outbox.clone();
        let job = Arc::new(Job::new(install, self.config.formats.clone(), self.config.hash_key, outbox, keeping));
        job.clock.raise_limit(Epoch(self.epoch_limit.load(Ordering::Acquire)));
        lock(&self.jobs).insert(install.job, job.clone());
        job
    }

    fn job(&self, job: JobId) -> Option<Arc<Job>> {
        lock(&self.jobs).get(&job).cloned()
    }

    /// Nobody will look for the job any more.
    fn forget(&self, job: JobId) {
        lock(&self.jobs).remove(&job);
    }

    /// What is told of a job that is gone is of no account.
    fn with(&self, job: JobId, tell: impl FnOnce(&Arc<Job>)) {
        if let Some(job) = self.job(job) {
            tell(&job);
        }
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
