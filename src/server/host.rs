//! What the server asks of the node: the one door between them, so that the server can be tested
//! against jobs whose results the test writes.

use crate::node::job::Job;
use crate::node::{
    CancelMode, ClusterStatus, DeadLetter, JobError, JobText, Node, RecountError, Recounted, SubmitError,
};
use std::sync::Arc;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::{Appended, NewRecord, ProduceError, TopicState};

/// The node as the server sees it. What blocks is called on a thread for blocking work.
pub trait Host: Send + Sync + 'static {
    /// Checks a job file and starts the job. Blocks for a durable write.
    fn submit(&self, text: &JobText) -> Result<Arc<Job>, SubmitError>;
    /// Only checks a job file. Blocks.
    fn validate(&self, text: &JobText) -> Result<(), SubmitError>;
    /// All jobs by name.
    fn jobs(&self) -> Vec<Arc<Job>>;
    fn job(&self, name: &str) -> Result<Arc<Job>, JobError>;
    /// Blocks until the job has stopped reading.
    fn pause(&self, name: &str) -> Result<Arc<Job>, JobError>;
    /// Blocks.
    fn resume(&self, name: &str) -> Result<Arc<Job>, JobError>;
    /// Blocks until the job has ended.
    fn cancel(&self, name: &str, mode: CancelMode) -> Result<Arc<Job>, JobError>;
    /// Blocks while it reads the log.
    fn recount(&self, name: &str) -> Result<Recounted, RecountError>;
    /// Oldest first, from after the place named. Blocks.
    fn dead_letters(
        &self,
        name: &str,
        after: Option<(String, u32, u64)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JobError>;
    fn cluster(&self) -> ClusterStatus;
    /// Whether the engine runs and every job that should run does.
    fn ready(&self) -> Result<(), String>;

    /// Every topic by name, with how long it keeps records. Blocks.
    fn topics(&self) -> Result<Vec<TopicInfo>, TopicError>;
    /// Blocks for a durable write.
    fn create_topic(&self, name: &str, partitions: u32) -> Result<TopicInfo, TopicError>;
    /// Blocks until the records are durable.
    fn append(
        &self,
        topic: &str,
        records: &[NewRecord<'_>],
        idempotency_key: Option<&str>,
    ) -> Result<Appended, ProduceError>;
    /// Records from an offset on, at most `limit` and about `bytes_max` bytes of them. Blocks.
    fn read(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<StoredRecord>, TopicError>;
}

/// A topic and how long it keeps records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    pub state: TopicState,
    /// `None` keeps records however old.
    pub age_max_ms: Option<u64>,
    /// Of a partition; `None` keeps all.
    pub bytes_max: Option<u64>,
}

/// A record as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    pub offset: Offset,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
}

/// Why a topic was not made or read.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TopicError {
    #[error("there is a topic {0:?} already")]
    Taken(String),
    /// The name or the number of partitions can't be.
    #[error("{0}")]
    Refused(String),
    #[error("there is no topic {0:?}")]
    Unknown(String),
    #[error("{0}")]
    OutOfRange(String),
    #[error("the disk is full; nothing was kept")]
    Full,
    #[error("{0}")]
    Failed(String),
}
