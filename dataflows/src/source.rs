//! The boundary to logs: what a source owes the engine and a producer owes its caller.
//!
//! The embedded log and Kafka implement the same three traits. One log has topics, a topic has
//! partitions, a partition has records at rising offsets.
//!
//! ```text
//!             open(topic, partition, from)            poll            poll -> nothing new
//!   Source  ------------------------------>  reading ------> reading ----------------------> idle
//!                                               ^                                             |
//!                                               '------------- waker called, then poll <------'
//! ```
//!
//! **Order.** Within a partition records come by rising offset, each once. Between partitions there
//! is no order. Offsets may have gaps (compaction, transactions): a reader goes by the offset each
//! record carries and by [`Polled::next`], never by counting.
//!
//! **Blocking.** [`PartitionSource::poll`] never waits for a record to arrive: it answers with what
//! is there, within its budget. Local disk reads are allowed, network round trips are not.
//! [`Producer::append`] does block, until the records are durable.
//!
//! **Crash.** A source holds no state that matters: the reader's offsets are the only position there
//! is, and whoever opens it says where to begin. If the process ends inside `append`, the batch is
//! wholly in the log or wholly absent; if `append` has answered, it is in the log.

use crate::ids::{Offset, PartitionId};
use crate::record::RecordRef;
use std::sync::Arc;

/// Called by a source, from any thread, when a partition may have something new. Must be cheap.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// How much one [`PartitionSource::poll`] may hand over. At least one record is handed over if one is there.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// At most about this many records (a stored batch is not split for it).
    pub records_max: usize,
    /// At most about this many bytes of values.
    pub bytes_max: usize,
    /// Nothing at or past this offset is handed over, and [`Polled::next`] does not pass it.
    pub until: Offset,
}

/// What one [`PartitionSource::poll`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// Records handed over.
    pub records: usize,
    /// Where the next poll goes on: greater than the offset of every record handed over so far.
    pub next: Offset,
    /// The end of the partition as known now (the offset that the next append would take; with
    /// transactions the last stable offset), never below `next`.
    pub end: Offset,
}

/// A topic as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    /// Its name.
    pub name: String,
    /// Another number when a topic of this name was deleted and made again.
    pub incarnation: u64,
    /// Whether only the newest record of each key is kept.
    pub compacted: bool,
    /// By partition: the first offset kept, and the offset that the next append takes.
    pub partitions: Vec<PartitionState>,
}

/// The bounds of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// The first offset that retention has left.
    pub start: Offset,
    /// One past the last offset.
    pub end: Offset,
    /// Bytes of keys and values held, where the log says it.
    pub bytes: Option<u64>,
}

/// A log as the engine reads it. Shared by all workers.
pub trait Source: Send + Sync {
    /// The topic as it is now; `None` if there is none of that name.
    fn topic(&self, topic: &str) -> Result<Option<TopicState>, SourceError>;

    /// The first offset of the partition whose log timestamp is at or after `timestamp_ms`; the end
    /// if there is none.
    fn offset_at(&self, topic: &str, partition: PartitionId, timestamp_ms: i64) -> Result<Offset, SourceError>;

    /// Opens a reader at `from`. `waker` is called after every arrival in the partition from now on,
    /// as long as the reader lives.
    ///
    /// Errors, now or at the first poll: [`SourceError::Gone`] if retention has taken `from`,
    /// [`SourceError::CutShort`] if the partition ends before `from`.
    fn open(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError>;

    /// As [`Source::open`], of the topic of that incarnation only: of another one of its name the error, now or
    /// at the first poll, is [`SourceError::Recreated`].
    fn open_same(
        &self,
        topic: &str,
        incarnation: u64,
        partition: PartitionId,
        from: Offset,
        waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError> {
        match self.topic(topic)? {
            Some(state) if state.incarnation != incarnation => Err(SourceError::Recreated { topic: topic.to_owned() }),
            _ => self.open(topic, partition, from, waker),
        }
    }
}

/// A reader of one partition, used by one thread at a time.
pub trait PartitionSource: Send {
    /// Lends the next records to `each`, in order, within `budget`. Never waits. After an error the
    /// position is unchanged for a retryable one; any other ends the reader.
    fn poll(&mut self, budget: Budget, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<Polled, SourceError>;

    /// The end as last heard of, without any I/O.
    fn end(&self) -> Offset;

    /// Whether a poll may find something at or after `next`, where the last one has left off; without any I/O.
    /// Lets a worker skip one that finds nothing. Where this is false, the waker is called once it is true.
    fn has_more(&self, next: Offset) -> bool {
        next < self.end()
    }
}

/// Why a source can't go on.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SourceError {
    /// There is no such topic.
    #[error("there is no topic {topic:?}")]
    UnknownTopic { topic: String },
    /// The topic has no such partition.
    #[error("topic {topic:?} has no partition {partition}")]
    UnknownPartition { topic: String, partition: PartitionId },
    /// Retention has taken what was asked for.
    #[error("offsets {wanted} to {} of {topic}/{partition} are gone: the log now starts at {start}", start.0 - 1)]
    Gone { topic: String, partition: PartitionId, wanted: Offset, start: Offset },
    /// The log ends before what had already been read: it was cut short or replaced.
    #[error("{topic}/{partition} ends at {end}, before offset {wanted} that had been read: the log was cut short")]
    CutShort { topic: String, partition: PartitionId, wanted: Offset, end: Offset },
    /// The topic was deleted and made again since it was opened.
    #[error("topic {topic:?} was deleted and made again")]
    Recreated { topic: String },
    /// The store failed; trying again may help.
    #[error("reading the log failed: {0}")]
    Io(String),
    /// The log can't be reached just now, or does not have the topic just now: it is waited for.
    #[error("{0}")]
    Away(String),
    /// What is stored can't be read; trying again does not help.
    #[error("the log is damaged at {topic}/{partition}/{offset}: {what}")]
    Damaged { topic: String, partition: PartitionId, offset: Offset, what: String },
}

impl SourceError {
    /// Whether the same call may work later.
    pub fn retryable(&self) -> bool {
        matches!(self, SourceError::Io(_) | SourceError::Away(_))
    }
}

/// A record to append.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord<'a> {
    /// Chooses the partition: equal keys go to the same one. `None`: any partition.
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

/// Where an append went: per partition that got records, the first offset and one past the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    /// Sorted by partition. In the embedded log the range is contiguous; in Kafka records of others may lie in it.
    pub ranges: Vec<(PartitionId, Offset, Offset)>,
}

/// A log as it is written. Shared by all who write.
pub trait Producer: Send + Sync {
    /// Appends the batch as one: all of it or nothing. Blocks until it is durable (synced) and only
    /// then answers. Records of one call keep their order within a partition.
    ///
    /// With `idempotency_key`, a second call with the same key and the same records within the
    /// retention of keys appends nothing and answers the first call's offsets, also after a crash;
    /// the same key with other records is [`ProduceError::KeyReused`].
    fn append(
        &self,
        topic: &str,
        records: &[NewRecord<'_>],
        idempotency_key: Option<&str>,
    ) -> Result<Appended, ProduceError>;
}

/// Why an append was refused; nothing of it is in the log.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProduceError {
    /// There is no such topic.
    #[error("there is no topic {topic:?}; create it first")]
    UnknownTopic { topic: String },
    /// A record is longer than the log takes.
    #[error("record {index} has {bytes} bytes, more than the {max} that a record may have")]
    TooLarge { index: usize, bytes: usize, max: usize },
    /// A record without a key in a compacted topic.
    #[error("record {index} has no key, and topic {topic:?} is compacted by key")]
    KeyMissing { topic: String, index: usize },
    /// The idempotency key was used with other records.
    #[error("the idempotency key {key:?} was used before with other records")]
    KeyReused { key: String },
    /// The idempotency key is longer than the log takes.
    #[error("the idempotency key has {bytes} bytes, more than the {max} that it may have")]
    KeyTooLong { bytes: usize, max: usize },
    /// Too much is waiting to be written; try again in a moment.
    #[error("too many bytes are waiting to be written; try again in a moment")]
    Busy,
    /// The log can't be reached just now. Nothing that was acknowledged is lost; of an append of several
    /// records without an idempotency key some may come to be in the log.
    #[error("{0}; try again in a moment")]
    Away(String),
    /// The disk is full. Nothing that was acknowledged is lost.
    #[error("the disk is full; nothing of this append was kept")]
    Full,
    /// The store failed.
    #[error("writing the log failed: {0}")]
    Io(String),
}
