//! The node: keeps the log, the jobs and their results, and supervises the engine.
//!
//! ```text
//!            commands, wake-ups                     applied                read
//!   Node ---------------------------> engine --epochs--> Job (results) <--------- HTTP, SSE
//!    |                               (process)              ^
//!    '-- log (only writer)                                  '-- sinks and history follow
//! ```

mod checkpoint;
mod cluster;
mod control;
mod engine_process;
mod follow;
mod generation;
mod history;
pub mod job;
mod letters;
mod lifecycle;
mod link;
mod partitions;
mod patience;
pub mod polls;
mod progress;
mod recount;
mod replace;
mod rescale;
mod supervise;
mod voids;
mod wire;

pub use cluster::Member;
pub use control::is_internal;
pub use engine_process::run as run_engine;
pub use recount::{
    ClaimClass, OtherSays, RecordClass, RecordPlace, RecountBase, WhyAnswer, WhyClaim, WhyLine, WhyOther, WhyQuestion,
    WhyRecord,
};
pub use replace::Submitted;
pub use rescale::{Receipt, ReceiptState, RescaleError};
pub use voids::{VoidError, VoidState, VoidView, VoidedOffsets};
pub use wire::Brokers;

use crate::config::{Config, Host};
use anyhow::{Context, bail};
use cluster::{Members, Us};
use control::Control;
use follow::Following;
use generation::Generation;
use job::{Feeds, Job, JobState, Plan};
use polls::Polls;
use rescale::Receipts;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, TryLockError};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use supervise::{Pulse, Running};
use tallyflow_connectors::dead_letters::{DeadLetter, DeadLetters, is_of_a_form};
use tallyflow_connectors::log::embedded::{EmbeddedLog, LogOptions};
use tallyflow_connectors::log::kafka::KafkaLog;
use tallyflow_connectors::log::{Log, Retention, TopicConfig};
use tallyflow_dataflows::claim::Position;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::Group;
use tallyflow_dataflows::source::{ProduceError, SourceError};
use tallyflow_dataflows::spec::Fault;
use tallyflow_dataflows::update::JobId;
use tokio::sync::{mpsc, watch};
use utoipa::ToSchema;

/// A job file as it came.
pub enum JobText {
    Toml(String),
    Json(String),
}

/// How a job ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CancelMode {
    /// Reads to the log ends seen at the request, flushes the sinks, stops.
    #[default]
    Drain,
    /// Stops where it is and writes a checkpoint, from which a restart goes on.
    Checkpoint,
    /// Stops where it is.
    Now,
}

/// Why a job was not started.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error("a job named {0:?} is there already; cancel it first or choose another name")]
    Taken(String),
    /// The job of that name can't be replaced as it is.
    #[error("{0}")]
    InTheWay(String),
    /// Every fault of the job file.
    #[error("the job file has {} fault{}", .0.len(), if .0.len() == 1 { "" } else { "s" })]
    Faults(Vec<Fault>),
    /// What must survive could not be written.
    #[error("the job can't be noted: {0}")]
    Log(#[from] ProduceError),
    /// The log can't be asked what there is to read.
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{0}")]
    Failed(String),
}

/// Why a job did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    #[error("there is no job named {0:?}")]
    Unknown(String),
    /// It is in a state in which that can't be.
    #[error("job {name:?} is {state}: {remedy}")]
    State { name: String, state: &'static str, remedy: &'static str },
    /// What must survive could not be written.
    #[error("what is wanted of the job can't be noted: {0}")]
    Log(#[from] ProduceError),
    #[error("{0}")]
    Failed(String),
}

/// The answer of a recount.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Recounted {
    pub job: String,
    /// The epoch that was compared.
    pub epoch: Epoch,
    pub equal: bool,
    /// Records read.
    pub records: u64,
    /// Records among the dead letters that would be taken if they were read now: they count as rejected until
    /// they are redriven.
    #[serde(default)]
    pub redecodable: u64,
    /// What it went on from, where retention has taken the log's beginning; null: it read all.
    #[serde(default)]
    pub base: Option<RecountBase>,
    pub ms: u64,
    /// At most 100 are named.
    pub differences: Vec<Difference>,
}

/// A line in which the tally and the recount differ.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    pub subject: String,
    pub group: Group,
    /// By aggregate; null: there is no such line.
    pub tally: Option<Vec<Decimal>>,
    pub recount: Option<Vec<Decimal>>,
}

/// Why there is no recount.
#[derive(Debug, thiserror::Error)]
pub enum RecountError {
    #[error(transparent)]
    Job(#[from] JobError),
    #[error("the past of polls of job {job:?} is being counted beside it; try again when that is done")]
    Unsettled { job: String },
    #[error("job {job:?} has shown nothing yet; try again when it has an epoch")]
    Nothing { job: String },
    #[error("the records of job {job:?} are being read again already; try again when that is done")]
    UnderWay { job: String },
    /// There is no such subject, line or record.
    #[error("{0}")]
    Unknown(String),
    #[error("the reading of the records of job {job:?} was broken off: {why}")]
    BrokenOff { job: String, why: &'static str },
    /// Retention has taken what the job has counted.
    #[error("{0}, and what they came to is not kept elsewhere; submit the job anew to count what is left")]
    Gone(SourceError),
    /// The log can't be reached.
    #[error(transparent)]
    Away(SourceError),
    /// It has no numbers: a sum does not fit, or one entity does not.
    #[error("{0}; see `recount.memory_max`")]
    Memory(recount::Error),
    #[error(transparent)]
    Fold(recount::Error),
    #[error("{0}")]
    Failed(String),
}

impl From<recount::Error> for RecountError {
    fn from(error: recount::Error) -> Self {
        match error {
            recount::Error::Memory { .. } => RecountError::Memory(error),
            error => RecountError::Fold(error),
        }
    }
}

/// The engine as it is now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ClusterStatus {
    /// Worker threads of the engine, in each process.
    pub workers: usize,
    /// The engine's process id; null while it is being started again.
    pub engine_pid: Option<u32>,
    /// How often the engine was started again since the node started.
    pub engine_restarts: u64,
    /// By process, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<ProcessStatus>,
}

/// A process of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProcessStatus {
    pub process: usize,
    /// As it stands in the hosts file.
    pub address: String,
    /// Whether the leader, process 0, is in touch with it.
    pub connected: bool,
    /// Null while its engine is being started again.
    pub engine_pid: Option<u32>,
}

impl ProcessStatus {
    /// Of which nothing was told yet.
    fn unknown((process, host): (usize, &Host)) -> Self {
        ProcessStatus { process, address: host.to_string(), connected: false, engine_pid: None }
    }
}

/// One running server's state.
pub struct Node {
    config: Config,
    log: Arc<dyn Log>,
    control: Control,
    /// Who this server is to others that have its data directory.
    generation: Arc<Generation>,
    jobs: RwLock<Jobs>,
    /// The sinks of running jobs and the recorders of their history, by job.
    followers: Mutex<HashMap<JobId, Vec<Following>>>,
    /// The other processes of a cluster, and what they have still to be told of jobs.
    members: Option<Arc<Members>>,
    feeds: Arc<Feeds>,
    dead_letters: Mutex<DeadLetters>,
    running: Mutex<Option<Running>>,
    pulse: Pulse,
    restarts: AtomicU64,
    /// The newest epoch that any job has shown.
    newest_epoch: AtomicU64,
    halts: AtomicU64,
    /// Worker threads of the engine; and whether its next end was asked for, to change that.
    workers: AtomicUsize,
    planned: AtomicBool,
    receipts: Mutex<Receipts>,
    /// How many checkpoints were asked for.
    checkpoints: AtomicU64,
    /// How many forms of jobs were computed beside them.
    engine_ids: AtomicU64,
    stopping: AtomicBool,
    /// Whether the supervisor has ended.
    ended: watch::Sender<bool>,
    started: Instant,
    /// One submission, replacement, pause, resume or cancellation at a time. Taken before `running`, which
    /// comes before `dead_letters` and `polls`, and they before what is inside a job. Never taken by the
    /// supervisor: a pause holds it while it waits for what the supervisor is told.
    changing: Mutex<()>,
    polls: Arc<Mutex<Polls>>,
    /// Whenever something has become of a poll.
    polls_news: Condvar,
    /// One change of a poll at a time; never taken while `changing` is waited for.
    changing_polls: Mutex<()>,
    /// Held as long as the node lives: two nodes on one directory would write one log.
    _lock: File,
}

#[derive(Default)]
struct Jobs {
    by_name: BTreeMap<String, Arc<Job>>,
    by_id: HashMap<JobId, Arc<Job>>,
}

/// How long a pause waits for the engine.
const PAUSE_WAIT: Duration = Duration::from_secs(30);
/// How long a drain may take; it goes on after that, and the request says so.
const DRAIN_WAIT: Duration = Duration::from_secs(600);
/// How long the engine may take to end before it is killed.
const STOP_WAIT: Duration = Duration::from_secs(3);

impl Node {
    /// Opens the data directory and starts the engine and the jobs that ran before. The error says in
    /// one sentence what is in the way.
    pub fn open(config: &Config) -> anyhow::Result<Arc<Node>> {
        let dir = &config.data_dir;
        std::fs::create_dir_all(dir).with_context(|| format!("the data directory {} can't be made", dir.display()))?;
        let lock = lock_dir(dir)?;
        let (log, control_topic) = open_log(config)?;
        let (mut control, kept) = Control::open(log.clone(), control_topic)?;
        let place = config.checkpoints_place();
        let generation = Generation::claim(&place, control.identity(), kept.generation, dir)?;
        let generation = Arc::new(generation);
        control.belong_to(generation.clone())?;
        let dead_letters = DeadLetters::open(&dir.join("dead-letters.db"), config.dead_letters_max)
            .with_context(|| format!("the dead letters in {} can't be opened", dir.display()))?;
        let are_published = config.kafka.as_ref().is_some_and(|kafka| kafka.dead_letters.is_some());
        let dead_letters = if are_published { dead_letters.publishing() } else { dead_letters };
        let feeds: Arc<Feeds> = Arc::default();
        let (members, listener) = match &config.cluster {
            None => (None, None),
            Some(cluster) => {
                let configuration = cluster::configuration(config, control.topic());
                let us = Us { cluster: cluster.clone(), configuration, hash_key: control.hash_key };
                let (members, listener) = Members::open(us, feeds.clone())?;
                (Some(members), Some(listener))
            }
        };
        let node = Arc::new(Node {
            config: config.clone(),
            members,
            feeds,
            log,
            control,
            generation,
            jobs: RwLock::default(),
            followers: Mutex::default(),
            dead_letters: Mutex::new(dead_letters),
            running: Mutex::new(None),
            pulse: Pulse::default(),
            restarts: AtomicU64::new(0),
            newest_epoch: AtomicU64::new(0),
            halts: AtomicU64::new(0),
            workers: AtomicUsize::new(config.workers),
            planned: AtomicBool::new(false),
            receipts: Mutex::default(),
            checkpoints: AtomicU64::new(0),
            engine_ids: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            ended: watch::channel(false).0,
            started: Instant::now(),
            changing: Mutex::default(),
            polls: Arc::default(),
            polls_news: Condvar::new(),
            changing_polls: Mutex::default(),
            _lock: lock,
        });
        // What was computed beside jobs is computed anew.
        let unfinished = node.dead_letters_store().retain(|name| !is_of_a_form(name));
        unfinished.context("the dead letters can't be tidied")?;
        for record in kept.jobs.into_values() {
            node.restore(record)?;
        }
        node.restore_polls(kept.polls)?;
        // Every append is passed on to whichever engine runs at the time.
        let weak = Arc::downgrade(&node);
        node.log.subscribe(Arc::new(move |topic, partition, end| {
            if let Some(node) = weak.upgrade()
                && let Some(running) = node.running().as_ref()
            {
                running.link.appended(topic, partition, end);
            }
        }));
        if let (Some(members), Some(listener)) = (&node.members, listener) {
            members.listen(listener, Arc::downgrade(&node))?;
        }
        node.supervise()?;
        node.look_after_polls()?;
        node.take_checkpoints()?;
        node.watch_generation()?;
        node.watch_partitions()?;
        node.publish_letters()?;
        node.tell_progress()?;
        node.recount_periodically()?;
        Ok(node)
    }

    /// Has what other processes pass on served by whoever takes these connections.
    pub fn serve_forwarded(&self, by: mpsc::Sender<TcpStream>) {
        if let Some(members) = &self.members {
            members.serve_forwarded(by);
        }
    }

    /// The log; the node is its only writer.
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }

    /// What a new topic is made with: the configured retention.
    pub fn topic_config(&self) -> TopicConfig {
        let retention = Retention { age: self.config.log.retention_age, bytes: self.config.log.retention_bytes };
        TopicConfig { retention, ..TopicConfig::default() }
    }

    /// All jobs by name, cancelled ones too.
    pub fn jobs(&self) -> Vec<Arc<Job>> {
        self.jobs.read().unwrap_or_else(PoisonError::into_inner).by_name.values().cloned().collect()
    }

    /// The job of that name.
    pub fn job(&self, name: &str) -> Result<Arc<Job>, JobError> {
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        jobs.by_name.get(name).cloned().ok_or_else(|| JobError::Unknown(name.to_owned()))
    }

    fn job_by_id(&self, id: JobId) -> Option<Arc<Job>> {
        self.jobs.read().unwrap_or_else(PoisonError::into_inner).by_id.get(&id).cloned()
    }

    /// Newest last; `after` is (topic, partition, offset) of the last one seen.
    pub fn dead_letters(
        &self,
        name: &str,
        after: Option<(String, u32, u64)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JobError> {
        self.job(name)?;
        let letters = self.dead_letters_store().list(name, after.as_ref(), limit);
        letters.map_err(|e| JobError::Failed(format!("reading the dead letters: {e}")))
    }

    /// The engine as it is now.
    pub fn cluster(&self) -> ClusterStatus {
        let engine_pid = self.running().as_ref().map(|running| running.link.pid);
        ClusterStatus {
            workers: self.workers(),
            engine_pid,
            engine_restarts: self.restarts.load(Ordering::Acquire),
            processes: self.members.as_ref().map(|members| members.status(engine_pid)).unwrap_or_default(),
        }
    }

    /// Whether the engine runs, every job that should run does, and no recount differs; the error says
    /// what is not so.
    pub fn ready(&self) -> Result<(), String> {
        if let Some(why) = self.generation.is_fenced() {
            return Err(why);
        }
        if let Some(missing) = self.members.as_ref().and_then(|members| members.awaited()) {
            return Err(format!("{missing} is not there, and nothing is computed without"));
        }
        if !self.running().as_ref().is_some_and(|running| running.ready) {
            return Err("the engine is being started".to_owned());
        }
        match self.jobs().iter().find(|job| matches!(job.state(), JobState::Failed | JobState::Recovering)) {
            Some(job) => Err(format!("job {:?} is {}", job.name(), job.state().name())),
            None => self.recount_differs().map_or(Ok(()), Err),
        }
    }

    /// Flushes the sinks and the history, and ends the engine. Blocks, at most some seconds.
    pub fn shutdown(&self) {
        self.checkpoint_all();
        self.stopping.store(true, Ordering::Release);
        // Whoever looks after the polls has either seen that, or waits by now.
        drop(lock(&self.polls));
        self.polls_news.notify_all();
        let link = self.running().as_ref().map(|running| running.link.clone());
        if let Some(link) = &link {
            link.close();
        }
        self.flush_all_followers();
        let mut ended = self.ended.subscribe();
        let deadline = Instant::now() + STOP_WAIT;
        while !*ended.borrow_and_update() {
            if Instant::now() > deadline {
                if let Some(link) = &link {
                    link.kill();
                }
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        lock(&self.running)
    }

    fn dead_letters_store(&self) -> MutexGuard<'_, DeadLetters> {
        lock(&self.dead_letters)
    }

    fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// Takes the directory's lock. The error says who is in the way.
fn lock_dir(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    let file = open.with_context(|| format!("the data directory {} can't be written", dir.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!(
                "the data directory {} is in use by another tallyflow; stop it or name another with --data-dir",
                dir.display()
            )
        }
        Err(TryLockError::Error(error)) => bail!("the data directory {} can't be locked: {error}", dir.display()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The log, and the name of the server's own topic in it.
fn open_log(config: &Config) -> anyhow::Result<(Arc<dyn Log>, String)> {
    let Some(kafka) = &config.kafka else {
        let log = EmbeddedLog::open(&config.data_dir, log_options(config))?;
        return Ok((Arc::new(log), control::TOPIC.to_owned()));
    };
    let topic = format!("__{}", kafka.prefix);
    let log: Arc<dyn Log> = Arc::new(KafkaLog::open(kafka.config.clone(), &topic).map_err(anyhow::Error::msg)?);
    let heard = patience::patiently(|| log.topic(&topic));
    heard.map_err(|error| anyhow::anyhow!("{error}; see that it runs and that --kafka names it"))?;
    Ok((log, topic))
}

/// How the log is run.
fn log_options(config: &Config) -> LogOptions {
    LogOptions {
        record_bytes_max: config.log.record_bytes_max,
        queue_bytes_max: config.log.inflight_bytes_max,
        ..LogOptions::default()
    }
}

/// A failure with the place in the log where it happened.
fn job_failure(plan: &Plan, error: &str, at: Option<Position>) -> String {
    match at.and_then(|at| Some((plan.inputs.get(at.input())?, at))) {
        Some((input, at)) => format!("at {}/{}/{}: {error}", input.topic, at.partition(), at.offset()),
        None => error.to_owned(),
    }
}
