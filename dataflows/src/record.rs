//! What stands at an offset of a log.

use crate::ids::{Offset, PartitionId};

/// A record as a source lends it: it borrows the client's memory until the callback returns.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// The partition it was read from.
    pub partition: PartitionId,
    /// Its place there.
    pub offset: Offset,
    /// The log's timestamp in milliseconds since 1970-01-01T00:00:00Z. In the embedded log it is the
    /// time of the append and never falls within a partition.
    pub timestamp_ms: i64,
    /// The key, if the producer gave one.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone (it deletes the key in a compacted topic).
    pub value: Option<&'a [u8]>,
}
