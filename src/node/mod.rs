//! The node: keeps the log, the jobs and their results, and supervises the engine.
//!
//! ```text
//!            commands, wake-ups                     applied                read
//!   Node ---------------------------> engine --epochs--> Job (results) <--------- HTTP, SSE
//!    |                               (process)              ^
//!    '-- log (only writer)                                  '-- sinks follow
//! ```

pub mod job;

use crate::config::Config;
use job::Job;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tallyflow_connectors::log::embedded::EmbeddedLog;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::results::Group;
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
    /// Stops where it is.
    Now,
}

/// Why a job was not started.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    #[error("a job named {0:?} is there already; cancel it first or choose another name")]
    Taken(String),
    /// Every fault of the job file.
    #[error("the job file has {} faults", .0.len())]
    Faults(Vec<Fault>),
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
    #[error("job {job:?} has shown nothing yet; try again when it has an epoch")]
    Nothing { job: String },
    #[error("that are {records} records, more than the {max} that a recount holds in memory (see `recount_records_max`)")]
    TooLarge { records: u64, max: u64 },
    #[error("{0}")]
    Failed(String),
}

/// The engine as it is now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ClusterStatus {
    /// Worker threads of the engine.
    pub workers: usize,
    /// The engine's process id; null while it is being started again.
    pub engine_pid: Option<u32>,
    /// How often the engine was started again since the node started.
    pub engine_restarts: u64,
}

/// A record for which a job had no use, as it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadLetter {
    pub topic: String,
    pub partition: u32,
    pub offset: u64,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub reason: String,
}

/// One running server's state.
pub struct Node {}

impl Node {
    /// Opens the data directory and starts the engine and the jobs that ran before.
    pub fn open(config: &Config) -> anyhow::Result<Arc<Node>> { let _ = config; anyhow::bail!("not yet") }
    /// The log; the node is its only writer.
    pub fn log(&self) -> &Arc<EmbeddedLog> { unreachable!() }
    /// Checks a job file and starts the job. Blocks for a durable write.
    pub fn submit(&self, text: &JobText) -> Result<Arc<Job>, SubmitError> { let _ = text; unreachable!() }
    /// Only checks a job file.
    pub fn validate(&self, text: &JobText) -> Result<(), SubmitError> { let _ = text; unreachable!() }
    /// All jobs by name, cancelled ones too.
    pub fn jobs(&self) -> Vec<Arc<Job>> { unreachable!() }
    pub fn job(&self, name: &str) -> Result<Arc<Job>, JobError> { let _ = name; unreachable!() }
    /// Blocks until the job has stopped reading.
    pub fn pause(&self, name: &str) -> Result<Arc<Job>, JobError> { let _ = name; unreachable!() }
    pub fn resume(&self, name: &str) -> Result<Arc<Job>, JobError> { let _ = name; unreachable!() }
    /// Blocks until the job has ended (drain: has read to the ends and flushed its sinks).
    pub fn cancel(&self, name: &str, mode: CancelMode) -> Result<Arc<Job>, JobError> { let _ = (name, mode); unreachable!() }
    /// Blocks while it reads the log.
    pub fn recount(&self, name: &str) -> Result<Recounted, RecountError> { let _ = name; unreachable!() }
    /// Newest last; `after` is (topic, partition, offset) of the last one seen.
    pub fn dead_letters(&self, name: &str, after: Option<(String, u32, u64)>, limit: usize) -> Result<Vec<DeadLetter>, JobError> { let _ = (name, after, limit); unreachable!() }
    pub fn cluster(&self) -> ClusterStatus { unreachable!() }
    /// Whether the engine runs and every job that should run does.
    pub fn ready(&self) -> Result<(), String> { unreachable!() }
    /// Stops the jobs' reading, flushes the sinks, ends the engine. Blocks, at most some seconds.
    pub fn shutdown(&self) { unreachable!() }
}
