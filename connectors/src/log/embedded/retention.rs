//! What goes with time: old rows of topics with a retention, rows of deleted topics, old tombstones
//! and idempotency keys.
//!
//! Everything goes in small transactions on the writer's thread, so that appends get their turn in
//! between. A partition's end never changes by it.

use super::append::APPEND_KEY_KEPT_MS;
use super::error::topic_error;
use super::schema::{RowId, Stream};
use super::tail::lock;
use super::topics::Topic;
use super::writer::{Queue, Writer};
use crate::log::TopicError;
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior};
use std::sync::Arc;
use tallyflow_dataflows::ids::Offset;

/// A transaction removes at most this many rows ...
const SLICE_ROWS_MAX: usize = 256;
/// ... or about this many bytes.
const SLICE_BYTES_MAX: i64 = 8 << 20;
/// A tombstone is kept this long, so that readers which lag learn of it.
const TOMBSTONE_KEPT_MS: i64 = 24 * 3_600_000;

/// Removes all that is due. Answers the number of rows removed.
pub(super) fn enforce(queue: &Queue, topics: &[Arc<Topic>]) -> Result<u64, TopicError> {
    let mut rows = 0;
    for topic in topics {
        let retention = topic.config.retention;
        if retention.age.is_some() || retention.bytes.is_some() {
            let topic = topic.clone();
            rows += slices(queue, move |writer| writer.remove_old(&topic))?;
        }
    }
    rows += slices(queue, Writer::remove_deleted)?;
    rows += slices(queue, Writer::remove_tombstones)?;
    slices(queue, Writer::forget_append_keys)?;
    Ok(rows)
}

/// Runs `slice` on the writer's thread until it finds nothing more to do.
fn slices(
    queue: &Queue,
    slice: impl Fn(&mut Writer) -> rusqlite::Result<usize> + Send + Clone + 'static,
) -> Result<u64, TopicError> {
    let mut rows = 0;
    loop {
        let slice = slice.clone();
        match queue.run(move |writer| slice(writer)) {
            Some(Ok(0)) => return Ok(rows),
            Some(Ok(removed)) => rows += removed as u64,
            Some(Err(error)) => return Err(topic_error(&error)),
            None => return Err(TopicError::Io("the log has been closed".to_owned())),
        }
    }
}

/// The oldest row of a stream.
struct Oldest {
    id: RowId,
    records: u64,
    at_ms: i64,
    bytes: i64,
}

fn oldest(tx: &Transaction<'_>, stream: Stream) -> rusqlite::Result<Option<Oldest>> {
    tx.prepare_cached("SELECT id, records, at_ms, bytes FROM batches WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 1")?
        .query_row((stream.row(Offset(0)).0, stream.rows_end().0), |row| {
            Ok(Oldest {
                id: RowId(row.get(0)?),
                records: row.get::<_, i64>(1)? as u64,
                at_ms: row.get(2)?,
                bytes: row.get(3)?,
            })
        })
        .optional()
}

impl Writer {
    /// Removes rows that the topic's retention lets go, oldest first over all its partitions.
    fn remove_old(&mut self, topic: &Topic) -> rusqlite::Result<usize> {
        let retention = topic.config.retention;
        let oldest_ms = retention.age.map(|age| (self.clock)().saturating_sub_unsigned(age.as_millis() as u64));
        let bytes_max = retention.bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        if topic.streams.iter().any(|stream| !self.ends.contains_key(stream)) {
            return Ok(0); // Deleted meanwhile.
        }
        let meter = self.meter.clone();
        let _commit = lock(&meter.commit);
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut ends: Vec<_> = topic.streams.iter().map(|stream| (*stream, self.ends[stream])).collect();
        let mut total: i64 = ends.iter().map(|(_, end)| end.bytes).sum();
        let mut heads = Vec::with_capacity(ends.len());
        for (stream, _) in &ends {
            heads.push(oldest(&tx, *stream)?);
        }
        let (mut rows, mut bytes) = (0, 0);
        while rows < SLICE_ROWS_MAX && bytes < SLICE_BYTES_MAX {
            let due = |head: &Oldest| {
                oldest_ms.is_some_and(|oldest_ms| head.at_ms < oldest_ms) || bytes_max.is_some_and(|max| total > max)
            };
            let Some((at, head)) = heads
                .iter()
                .enumerate()
                .filter_map(|(at, head)| head.as_ref().map(|head| (at, head)))
                .min_by_key(|(_, head)| head.at_ms)
                .filter(|(_, head)| due(head))
            else {
                break;
            };
            let stream = ends[at].0;
            tx.prepare_cached("DELETE FROM batches WHERE id = ?1")?.execute([head.id.0])?;
            tx.prepare_cached("UPDATE streams SET start_offset = ?2, bytes = bytes - ?3 WHERE id = ?1")?.execute((
                stream.0,
                (head.id.offset().0 + head.records) as i64,
                head.bytes,
            ))?;
            ends[at].1.bytes -= head.bytes;
            total -= head.bytes;
            bytes += head.bytes;
            rows += 1;
            heads[at] = oldest(&tx, stream)?;
        }
        tx.commit()?;
        self.ends.extend(ends);
        meter.wrote(rows as u64 * super::schema::PAGE_BYTES);
        Ok(rows)
    }

    /// Removes rows of topics that were deleted, and their streams when nothing is left of them.
    fn remove_deleted(&mut self) -> rusqlite::Result<usize> {
        let meter = self.meter.clone();
        let _commit = lock(&meter.commit);
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let stream: Option<i64> =
            tx.query_row("SELECT id FROM streams WHERE topic IS NULL LIMIT 1", [], |row| row.get(0)).optional()?;
        let Some(stream) = stream.map(Stream) else { return Ok(0) };
        let (mut rows, mut bytes) = (0, 0);
        while rows < SLICE_ROWS_MAX && bytes < SLICE_BYTES_MAX {
            let Some(head) = oldest(&tx, stream)? else { break };
            tx.prepare_cached("DELETE FROM batches WHERE id = ?1")?.execute([head.id.0])?;
            rows += 1;
            bytes += head.bytes;
        }
        rows += tx
            .prepare_cached(
                "DELETE FROM latest WHERE (stream, key) IN (SELECT stream, key FROM latest WHERE stream = ?1 LIMIT ?2)",
            )?
            .execute((stream.0, SLICE_ROWS_MAX as i64))?;
        if rows == 0 {
            rows += tx.prepare_cached("DELETE FROM streams WHERE id = ?1")?.execute([stream.0])?;
        }
        tx.commit()?;
        meter.wrote(rows as u64 * super::schema::PAGE_BYTES);
        Ok(rows)
    }

    /// Removes tombstones that have been kept long enough, with their keys.
    fn remove_tombstones(&mut self) -> rusqlite::Result<usize> {
        let before = (self.clock)() - TOMBSTONE_KEPT_MS;
        let meter = self.meter.clone();
        let _commit = lock(&meter.commit);
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let due: Vec<(i64, Vec<u8>, i64)> = tx
            .prepare_cached("SELECT stream, key, record_offset FROM latest WHERE tombstone_ms < ?1 LIMIT ?2")?
            .query_map((before, SLICE_ROWS_MAX as i64), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut freed = Vec::with_capacity(due.len());
        for (stream, key, offset) in &due {
            let stream = Stream(*stream);
            tx.prepare_cached("DELETE FROM latest WHERE stream = ?1 AND key = ?2")?.execute((stream.0, key))?;
            let bytes: Option<i64> = tx
                .prepare_cached("DELETE FROM batches WHERE id = ?1 RETURNING bytes")?
                .query_row([stream.row(Offset(*offset as u64)).0], |row| row.get(0))
                .optional()?;
            let bytes = bytes.unwrap_or(0);
            tx.prepare_cached("UPDATE streams SET bytes = bytes - ?2 WHERE id = ?1")?.execute((stream.0, bytes))?;
            freed.push((stream, bytes));
        }
        tx.commit()?;
        for (stream, bytes) in freed {
            if let Some(end) = self.ends.get_mut(&stream) {
                end.bytes -= bytes;
            }
        }
        meter.wrote(due.len() as u64 * super::schema::PAGE_BYTES);
        Ok(due.len())
    }

    /// Forgets idempotency keys that are older than they count.
    fn forget_append_keys(&mut self) -> rusqlite::Result<usize> {
        let before = (self.clock)() - APPEND_KEY_KEPT_MS;
        self.conn
            .prepare_cached(
                "DELETE FROM append_keys
                 WHERE at_ms < ?1 AND seq IN (SELECT seq FROM append_keys ORDER BY seq LIMIT ?2)",
            )?
            .execute((before, SLICE_ROWS_MAX as i64))
    }
}
