//! What a group commit does within its transaction: rows, compaction, idempotency keys.

use super::batch::{self, Chunk, ROW_BYTES_MAX, ROW_RECORDS_MAX};
use super::schema::Stream;
use super::topics::Topic;
use rusqlite::{OptionalExtension, Transaction};
use std::collections::BTreeMap;
use std::sync::Arc;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::{Appended, ProduceError};

/// A repeated idempotency key is recognised for this long.
pub(super) const APPEND_KEY_KEPT_MS: i64 = 24 * 3_600_000;
/// At most this many idempotency keys are kept; the oldest give way.
const APPEND_KEYS_MAX: i64 = 100_000;

/// An append, cut into chunks by its caller.
pub(super) struct Request {
    pub topic: Arc<Topic>,
    pub chunks: Vec<Chunk>,
    /// The idempotency key, and the SHA-256 of the records.
    pub key: Option<(String, [u8; 32])>,
}

impl Request {
    /// Bytes held in memory until it is answered.
    pub fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.body.len() + size_of::<Chunk>()).sum()
    }
}

/// A partition as the writer keeps it in memory, equal to its row in `streams`.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamEnd {
    pub end: Offset,
    pub last_ms: i64,
    pub bytes: i64,
}

/// A row that may take further chunks of the same commit.
struct OpenRow {
    first: Offset,
    chunk: Chunk,
}

/// One transaction in the making. Nothing in memory changes but here until it is committed.
pub(super) struct Group<'a> {
    tx: &'a Transaction<'a>,
    now_ms: i64,
    /// The partitions touched, as they will be.
    pub ends: BTreeMap<Stream, StreamEnd>,
    open: BTreeMap<Stream, OpenRow>,
    /// About the bytes that this adds to the WAL.
    pub wal_bytes: u64,
}

impl<'a> Group<'a> {
    pub fn new(tx: &'a Transaction<'a>, now_ms: i64) -> Self {
        Group { tx, now_ms, ends: BTreeMap::new(), open: BTreeMap::new(), wal_bytes: 0 }
    }

    /// Adds an append. An `Err(_)` inside is its answer and harms no other; an outer one ends the group.
    pub fn add(
        &mut self,
        request: Request,
        known: impl Fn(Stream) -> Option<StreamEnd>,
    ) -> rusqlite::Result<Result<Appended, ProduceError>> {
        let topic = &request.topic;
        let more: u64 = request.chunks.iter().map(|chunk| u64::from(chunk.records)).sum();
        for chunk in &request.chunks {
            let stream = topic.streams[chunk.partition as usize];
            if !self.ends.contains_key(&stream) {
                let Some(end) = known(stream) else {
                    return Ok(Err(ProduceError::UnknownTopic { topic: topic.name.clone() }));
                };
                // The clock may have been set back: the log's timestamps never fall.
                self.ends.insert(stream, StreamEnd { last_ms: end.last_ms.max(self.now_ms), ..end });
            }
            if self.ends.get(&stream).is_some_and(|end| end.end.0 + more > Offset::MAX.0) {
                let what = format!("partition {} of {:?} has no offsets left", chunk.partition, topic.name);
                return Ok(Err(ProduceError::Io(what)));
            }
        }
        if let Some((key, sha256)) = &request.key
            && let Some(answer) = self.seen(topic, key, sha256)?
        {
            return Ok(answer);
        }
        let mut ranges: BTreeMap<PartitionId, (Offset, Offset)> = BTreeMap::new();
        for chunk in request.chunks {
            let stream = topic.streams[chunk.partition as usize];
            let partition = PartitionId(chunk.partition);
            let Some(end) = self.ends.get_mut(&stream) else { continue };
            let first = end.end;
            end.end = Offset(first.0 + u64::from(chunk.records));
            end.bytes += chunk.payload_bytes as i64;
            ranges.entry(partition).or_insert((first, first)).1 = end.end;
            if topic.config.compacted {
                self.replace(stream, first, chunk)?;
            } else {
                self.place(stream, first, chunk)?;
            }
        }
        let appended =
            Appended { ranges: ranges.into_iter().map(|(partition, (first, end))| (partition, first, end)).collect() };
        if let Some((key, sha256)) = &request.key {
            self.remember(topic, key, sha256, &appended)?;
        }
        Ok(Ok(appended))
    }

    /// Puts a chunk into the stream's open row, or closes that and opens another.
    fn place(&mut self, stream: Stream, first: Offset, chunk: Chunk) -> rusqlite::Result<()> {
        if let Some(row) = self.open.get_mut(&stream)
            && row.chunk.records + chunk.records <= ROW_RECORDS_MAX
            && row.chunk.body.len() + chunk.body.len() <= ROW_BYTES_MAX
        {
            row.chunk.records += chunk.records;
            row.chunk.payload_bytes += chunk.payload_bytes;
            row.chunk.body.extend_from_slice(&chunk.body);
            return Ok(());
        }
        match self.open.insert(stream, OpenRow { first, chunk }) {
            Some(full) => self.insert(stream, &full),
            None => Ok(()),
        }
    }

    fn insert(&mut self, stream: Stream, row: &OpenRow) -> rusqlite::Result<()> {
        let id = stream.row(row.first);
        let Some(at_ms) = self.ends.get(&stream).map(|end| end.last_ms) else { return Ok(()) };
        let OpenRow { chunk, .. } = row;
        let crc = batch::checksum(id, chunk.records, at_ms, &chunk.body);
        self.wal_bytes += chunk.body.len() as u64 + super::schema::PAGE_BYTES;
        self.tx
            .prepare_cached(
                "INSERT INTO batches (id, records, at_ms, bytes, crc, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute((id.0, chunk.records, at_ms, chunk.payload_bytes as i64, crc, &chunk.body))?;
        Ok(())
    }

    /// Compacted topics: a row per record, and the key's older row goes.
    fn replace(&mut self, stream: Stream, first: Offset, chunk: Chunk) -> rusqlite::Result<()> {
        let mut rest = chunk.body.as_slice();
        let Some((Some(key), value)) = batch::next(&mut rest) else { return Ok(()) };
        let older: Option<i64> = self
            .tx
            .prepare_cached("SELECT record_offset FROM latest WHERE stream = ?1 AND key = ?2")?
            .query_row((stream.0, key), |row| row.get(0))
            .optional()?;
        if let Some(older) = older {
            let freed: Option<i64> = self
                .tx
                .prepare_cached("DELETE FROM batches WHERE id = ?1 RETURNING bytes")?
                .query_row([stream.row(Offset(older as u64)).0], |row| row.get(0))
                .optional()?;
            if let Some(end) = self.ends.get_mut(&stream) {
                end.bytes -= freed.unwrap_or(0);
            }
        }
        let tombstone_ms = value.is_none().then(|| self.ends.get(&stream).map_or(self.now_ms, |end| end.last_ms));
        self.tx
            .prepare_cached(
                "INSERT INTO latest (stream, key, record_offset, tombstone_ms) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET record_offset = excluded.record_offset, tombstone_ms = excluded.tombstone_ms",
            )?
            .execute((stream.0, key, first.0 as i64, tombstone_ms))?;
        self.insert(stream, &OpenRow { first, chunk })
    }

    /// The answer to an append whose key was seen before.
    fn seen(
        &self,
        topic: &Topic,
        key: &str,
        sha256: &[u8; 32],
    ) -> rusqlite::Result<Option<Result<Appended, ProduceError>>> {
        let since = self.now_ms - APPEND_KEY_KEPT_MS;
        let found: Option<(Vec<u8>, Vec<u8>)> = self
            .tx
            .prepare_cached("SELECT sha256, ranges FROM append_keys WHERE topic = ?1 AND key = ?2 AND at_ms > ?3")?
            .query_row((topic.id, key, since), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        Ok(found.map(|(seen, ranges)| {
            if seen == sha256 {
                Ok(decode_ranges(&ranges))
            } else {
                Err(ProduceError::KeyReused { key: key.to_owned() })
            }
        }))
    }

    fn remember(&mut self, topic: &Topic, key: &str, sha256: &[u8; 32], appended: &Appended) -> rusqlite::Result<()> {
        self.wal_bytes += super::schema::PAGE_BYTES;
        self.tx
            .prepare_cached(
                "INSERT OR REPLACE INTO append_keys (topic, key, sha256, ranges, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((topic.id, key, sha256, encode_ranges(appended), self.now_ms))?;
        self.tx
            .prepare_cached("DELETE FROM append_keys WHERE seq <= ?1")?
            .execute([self.tx.last_insert_rowid() - APPEND_KEYS_MAX])?;
        Ok(())
    }

    /// Writes what is still open. The transaction can be committed then.
    pub fn finish(&mut self) -> rusqlite::Result<()> {
        for (stream, row) in std::mem::take(&mut self.open) {
            self.insert(stream, &row)?;
        }
        for (stream, end) in &self.ends {
            self.tx
                .prepare_cached("UPDATE streams SET end_offset = ?2, last_ms = ?3, bytes = ?4 WHERE id = ?1")?
                .execute((stream.0, end.end.0 as i64, end.last_ms, end.bytes))?;
        }
        Ok(())
    }
}

fn encode_ranges(appended: &Appended) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(appended.ranges.len() * RANGE_BYTES);
    for (partition, first, end) in &appended.ranges {
        bytes.extend_from_slice(&partition.0.to_le_bytes());
        bytes.extend_from_slice(&first.0.to_le_bytes());
        bytes.extend_from_slice(&end.0.to_le_bytes());
    }
    bytes
}

const RANGE_BYTES: usize = 20;

fn decode_ranges(bytes: &[u8]) -> Appended {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte));
    let range = |range: &[u8]| {
        (PartitionId(number(&range[..4]) as u32), Offset(number(&range[4..12])), Offset(number(&range[12..])))
    };
    Appended { ranges: bytes.chunks_exact(RANGE_BYTES).map(range).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_come_back_as_they_were() {
        let appended = Appended {
            ranges: vec![
                (PartitionId(0), Offset(812), Offset(830)),
                (PartitionId(1023), Offset(Offset::MAX.0 - 1), Offset::MAX),
            ],
        };
        assert_eq!(decode_ranges(&encode_ranges(&appended)), appended);
        assert_eq!(decode_ranges(&[]), Appended::default());
    }
}
