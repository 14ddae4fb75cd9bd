//! Logs: where records stand.
//!
//! [`embedded`] is the log of one machine, [`kafka`] that of many. Every log implements [`Log`]: what it promises to those who
//! read and append is written at [`Source`] and [`Producer`].

pub mod embedded;
pub mod kafka;
mod partitioner;
mod range;
mod topic;

pub use partitioner::partition_of;
pub use range::RangeReader;
pub use topic::{PARTITIONS_MAX, Retention, TopicConfig, TopicError, check_topic};

use sha2::{Digest, Sha256};
use std::sync::Arc;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::source::{Appended, NewRecord, ProduceError, Producer, Source, SourceError, TopicState};

/// An idempotency key has at most this many bytes.
pub const APPEND_KEY_BYTES_MAX: usize = 255;

/// A log as the node has it: it reads, appends, and makes topics. All of it blocks.
pub trait Log: Source + Producer {
    /// All topics, by name.
    fn topics(&self) -> Result<Vec<TopicState>, SourceError>;

    /// How a topic was made; `None` if there is none of that name.
    fn topic_config(&self, name: &str) -> Result<Option<TopicConfig>, SourceError>;

    /// Makes a topic with `partitions` partitions (1 to [`PARTITIONS_MAX`]). Durable when it returns.
    fn create_topic(&self, name: &str, partitions: u32, config: TopicConfig) -> Result<(), TopicError>;

    /// As [`Producer::append`] with an idempotency key, where the records hold more than their sender has
    /// said, like the time at which they came: a call is the same one if `said` is the same.
    fn append_once(
        &self,
        topic: &str,
        records: &[NewRecord<'_>],
        idempotency_key: &str,
        said: &[u8],
    ) -> Result<Appended, ProduceError>;

    /// Up to `limit` records from `from` on, for a person to look at; at most about 4 MiB of them.
    /// Empty at the end of the partition; errors as for [`Source::open`].
    fn read_range(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<OwnedRecord>, SourceError>;

    /// Appends of whole batches by `writer`, which is the name of one who writes alone.
    fn batches(self: Arc<Self>, writer: &str) -> Box<dyn Batches>;

    /// Where readers in other processes have to be told of arrivals: calls `subscriber` after every commit,
    /// for each partition that got records, with the topic, the partition and its new end; with the end 0 for
    /// each partition of a topic that was deleted. It is called on the writer's thread, in the order of the
    /// commits, and before the appends are answered: it must be quick and must not call the log.
    fn subscribe(&self, subscriber: Subscriber);
}

/// Appends of one who writes alone: each batch is seen as a whole or not at all, whatever crashes.
pub trait Batches: Send {
    /// Ends what was begun under this name before, so that whoever reads then sees all that was ever written
    /// under it; an earlier writer of this name writes nothing more (in a log that several servers reach).
    /// Blocks.
    fn begin(&mut self) -> Result<(), ProduceError>;

    /// Whether it was begun, and it is known since what has become of every batch.
    fn is_begun(&self) -> bool;

    /// Appends a batch after [`Batches::begin`]. Blocks until it is durable. After an error after which
    /// [`Batches::is_begun`] is false, the batch may have been written.
    fn append(&mut self, topic: &str, records: &[NewRecord<'_>]) -> Result<(), ProduceError>;
}

/// Called with the topic, the partition and its new end; see [`Log::subscribe`].
pub type Subscriber = Arc<dyn Fn(&str, PartitionId, Offset) + Send + Sync>;

/// A record that owns its bytes: for a person who looks at the log, not for the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Its place in the partition.
    pub offset: Offset,
    /// The log's timestamp in milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp_ms: i64,
    /// The key, if the producer gave one.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
}

impl From<RecordRef<'_>> for OwnedRecord {
    fn from(record: RecordRef<'_>) -> Self {
        OwnedRecord {
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
        }
    }
}

/// SHA-256 of the records of an append, so that it depends on where each field ends.
fn digest(records: &[NewRecord<'_>]) -> [u8; 32] {
    let mut sha256 = Sha256::new();
    for field in records.iter().flat_map(|record| [record.key, record.value]) {
        sha256.update(field.map_or(0, |field| field.len() as u64 + 1).to_le_bytes());
        sha256.update(field.unwrap_or_default());
    }
    sha256.finalize().into()
}
