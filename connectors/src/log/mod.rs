//! Logs: where records stand.
//!
//! [`embedded`] is the log of one machine. Every log implements
//! [`Source`](tallyflow_dataflows::source::Source) and
//! [`Producer`](tallyflow_dataflows::source::Producer); what those promise is written there.

pub mod embedded;
mod partitioner;

pub use partitioner::partition_of;

use tallyflow_dataflows::ids::Offset;
use tallyflow_dataflows::record::RecordRef;

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
