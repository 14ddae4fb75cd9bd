//! Reading: what both sides share, and the reader of one partition.

use super::batch;
use super::error::{OpenError, open_error, source_error};
use super::schema::{self, Access, RowId, Stream};
use super::tail::{Registration, Tails, lock};
use crate::log::OwnedRecord;
use rusqlite::{Connection, OptionalExtension};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::source::{Budget, PartitionSource, PartitionState, Polled, SourceError, TopicState, Waker};

/// Connections that wait for their next use; more are closed. Each caches up to 2 MiB.
const IDLE_CONNECTIONS_MAX: usize = 16;
/// What [`Reading::read_range`] hands over at most (but always one record).
const RANGE_BYTES_MAX: usize = 4 << 20;

/// The reading side of a log: used by the log's own process and by [`EmbeddedReader`] alike.
///
/// Connections are pooled, not owned by readers: a poll takes one for as long as it lasts, so there
/// are as many as threads poll at once, however many jobs read however many partitions.
///
/// [`EmbeddedReader`]: super::EmbeddedReader
pub(super) struct Reading {
    path: PathBuf,
    access: Access,
    idle: Mutex<Vec<Connection>>,
    pub tails: Tails,
}

/// A pooled connection; goes back when dropped.
struct Pooled<'a> {
    conn: Option<Connection>,
    idle: &'a Mutex<Vec<Connection>>,
}

impl Deref for Pooled<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.conn.as_ref().expect("there until dropped")
    }
}

impl Drop for Pooled<'_> {
    fn drop(&mut self) {
        let mut idle = lock(self.idle);
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.extend(self.conn.take());
        }
    }
}

/// A partition as the database has it.
struct StreamState {
    stream: Stream,
    compacted: bool,
    start: Offset,
    end: Offset,
}

impl Reading {
    /// `dir` holds a log.
    pub fn open(dir: &Path, access: Access) -> Result<Self, OpenError> {
        let path = schema::path(dir);
        if !path.exists() {
            return Err(OpenError::Missing { path });
        }
        let conn = schema::open_reading(&path, access).map_err(|e| open_error(path.clone(), &e))?;
        if !schema::check(&conn, &path)? {
            return Err(OpenError::Missing { path });
        }
        Ok(Reading { path, access, idle: Mutex::new(vec![conn]), tails: Tails::default() })
    }

    fn connection(&self) -> rusqlite::Result<Pooled<'_>> {
        let conn = lock(&self.idle).pop();
        let conn = match conn {
            Some(conn) => conn,
            None => schema::open_reading(&self.path, self.access)?,
        };
        Ok(Pooled { conn: Some(conn), idle: &self.idle })
    }

    fn stream(&self, topic: &str, partition: PartitionId) -> Result<StreamState, SourceError> {
        let sql = |e: rusqlite::Error| source_error(&e, topic, partition, Offset(0));
        let conn = self.connection().map_err(sql)?;
        let found = conn
            .prepare_cached(
                "SELECT s.id, t.compacted, s.start_offset, s.end_offset
                 FROM topics t LEFT JOIN streams s ON s.topic = t.id AND s.part = ?2 WHERE t.name = ?1",
            )
            .and_then(|mut statement| {
                statement
                    .query_row((topic, partition.0), |row| {
                        let Some(stream) = row.get::<_, Option<i64>>(0)? else { return Ok(None) };
                        Ok(Some(StreamState {
                            stream: Stream(stream),
                            compacted: row.get(1)?,
                            start: Offset(row.get::<_, i64>(2)? as u64),
                            end: Offset(row.get::<_, i64>(3)? as u64),
                        }))
                    })
                    .optional()
            })
            .map_err(sql)?;
        match found {
            None => Err(SourceError::UnknownTopic { topic: topic.to_owned() }),
            Some(None) => Err(SourceError::UnknownPartition { topic: topic.to_owned(), partition }),
            Some(Some(state)) => Ok(state),
        }
    }

    /// All topics, by name.
    pub fn topics(&self) -> Result<Vec<TopicState>, SourceError> {
        self.topics_where("SELECT * FROM topics WHERE ?1 IS NULL ORDER BY name", None)
    }

    /// One statement for topics and partitions, so that both are of the same moment.
    fn topics_where(&self, which: &str, name: Option<&str>) -> Result<Vec<TopicState>, SourceError> {
        let sql = |e: rusqlite::Error| source_error(&e, name.unwrap_or("*"), PartitionId(0), Offset(0));
        let conn = self.connection().map_err(sql)?;
        let mut statement = conn
            .prepare_cached(&format!(
                "SELECT t.name, t.incarnation, t.compacted, s.start_offset, s.end_offset, s.bytes
                 FROM ({which}) t JOIN streams s ON s.topic = t.id ORDER BY t.name, s.part"
            ))
            .map_err(sql)?;
        let mut rows = statement.query((name,)).map_err(sql)?;
        let mut topics: Vec<TopicState> = Vec::new();
        while let Some(row) = rows.next().map_err(sql)? {
            let read = || -> rusqlite::Result<(String, i64, bool, PartitionState)> {
                let partition = PartitionState {
                    start: Offset(row.get::<_, i64>(3)? as u64),
                    end: Offset(row.get::<_, i64>(4)? as u64),
                    bytes: Some(row.get::<_, i64>(5)? as u64),
                };
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, partition))
            };
            let (name, incarnation, compacted, partition) = read().map_err(sql)?;
            match topics.last_mut().filter(|topic| topic.name == name) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(TopicState {
                    name,
                    incarnation: incarnation as u64,
                    compacted,
                    partitions: vec![partition],
                }),
            }
        }
        Ok(topics)
    }

    pub fn topic(&self, topic: &str) -> Result<Option<TopicState>, SourceError> {
        Ok(self.topics_where("SELECT * FROM topics WHERE name = ?1", Some(topic))?.pop())
    }

    pub fn offset_at(&self, topic: &str, partition: PartitionId, at_ms: i64) -> Result<Offset, SourceError> {
        let state = self.stream(topic, partition)?;
        let sql = |e: rusqlite::Error| source_error(&e, topic, partition, state.start);
        let conn = self.connection().map_err(sql)?;
        let mut statement = conn
            .prepare_cached("SELECT id, at_ms FROM batches WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT 1")
            .map_err(sql)?;
        // Timestamps never fall within a partition: find the first row at or after the time by
        // halving the offsets. Invariant: no row before `low` is late enough, a row from `high` on is.
        let (mut low, mut high) = (state.start.0, state.end.0);
        while low < high {
            let middle = low + (high - low) / 2;
            let row = statement
                .query_row((state.stream.row(Offset(middle)).0, state.stream.row(Offset(high)).0), |row| {
                    Ok((RowId(row.get(0)?), row.get::<_, i64>(1)?))
                })
                .optional()
                .map_err(sql)?;
            match row {
                Some((row, ms)) if ms < at_ms => low = row.offset().0 + 1,
                // A row that is late enough, or none at all, from `middle` to `high`.
                _ => high = middle,
            }
        }
        // `low` may lie within a row that is too early, or in a gap: the answer is the next row's start.
        let next = statement
            .query_row((state.stream.row(Offset(low)).0, state.stream.rows_end().0), |row| Ok(RowId(row.get(0)?)))
            .optional()
            .map_err(sql)?;
        Ok(next.map_or(state.end, RowId::offset))
    }

    /// A reader at `from`, with the errors of [`Source::open`](tallyflow_dataflows::source::Source::open).
    pub fn reader(
        self: &Arc<Self>,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        waker: Waker,
    ) -> Result<PartitionReader, SourceError> {
        let stream = self.stream(topic, partition)?.stream;
        let registration = self.tails.of(topic, partition, stream).register(waker);
        let doubts = registration.tail.doubts();
        // Only now is the end read: what is appended from here on is told to the tail.
        let state = self.stream(topic, partition)?;
        if state.stream != stream {
            return Err(SourceError::Recreated { topic: topic.to_owned() });
        }
        let topic = topic.to_owned();
        if from < state.start {
            return Err(SourceError::Gone { topic, partition, wanted: from, start: state.start });
        }
        if from > state.end {
            return Err(SourceError::CutShort { topic, partition, wanted: from, end: state.end });
        }
        registration.tail.raise(state.end);
        let mut reader = PartitionReader {
            reading: self.clone(),
            topic,
            partition,
            compacted: state.compacted,
            registration,
            doubts,
            next: from,
            first_row: state.stream.row(from),
            ended: None,
        };
        reader.find_first_row()?;
        Ok(reader)
    }

    /// Up to `limit` records from `from` on, and no more than [`RANGE_BYTES_MAX`] bytes.
    pub fn read_range(
        self: &Arc<Self>,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<OwnedRecord>, SourceError> {
        let mut reader = self.reader(topic, partition, from, Arc::new(|| ()))?;
        let (mut records, mut bytes, mut full) = (Vec::new(), 0, limit == 0);
        while !full {
            let budget = Budget {
                records_max: limit - records.len(),
                bytes_max: RANGE_BYTES_MAX - bytes,
                until: Offset(u64::MAX),
            };
            let polled = reader.poll(budget, &mut |record| {
                let payload = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
                full |= records.len() == limit || !records.is_empty() && bytes + payload > RANGE_BYTES_MAX;
                if !full {
                    bytes = (bytes + payload).min(RANGE_BYTES_MAX);
                    records.push(OwnedRecord::from(record));
                }
            })?;
            full |= polled.next >= polled.end || records.len() == limit;
        }
        Ok(records)
    }
}

/// Reads one partition. Holds no connection and no lock between polls.
pub(super) struct PartitionReader {
    reading: Arc<Reading>,
    topic: String,
    partition: PartitionId,
    compacted: bool,
    registration: Registration,
    /// The doubts of the tail that have been looked into.
    doubts: u64,
    next: Offset,
    /// The row to go on from: the one that holds `next` if there is one.
    first_row: RowId,
    /// Set by an error that ends the reader.
    ended: Option<SourceError>,
}

/// What a run over rows came to.
struct Run {
    records: usize,
    /// Whether it stopped because there was no further row.
    exhausted: bool,
    /// Why it stopped, if it was neither that nor the budget.
    stop: Option<Stop>,
}

enum Stop {
    Sql(rusqlite::Error),
    Damaged(Offset, String),
    /// The next row begins after the record that is due.
    Gap,
}

impl PartitionReader {
    fn sql(&self, error: &rusqlite::Error) -> SourceError {
        source_error(error, &self.topic, self.partition, self.next)
    }

    /// Reading may begin within a row.
    fn find_first_row(&mut self) -> Result<(), SourceError> {
        let stream = self.registration.tail.stream;
        let conn = self.reading.connection().map_err(|e| self.sql(&e))?;
        let row = conn
            .prepare_cached("SELECT id, records FROM batches WHERE id <= ?1 AND id >= ?2 ORDER BY id DESC LIMIT 1")
            .and_then(|mut statement| {
                statement
                    .query_row((stream.row(self.next).0, stream.row(Offset(0)).0), |row| {
                        Ok((RowId(row.get(0)?), row.get::<_, u32>(1)?))
                    })
                    .optional()
            })
            .map_err(|e| self.sql(&e))?;
        if let Some((row, records)) = row
            && row.offset().0 + u64::from(records) > self.next.0
        {
            self.first_row = row;
        }
        Ok(())
    }

    /// Lends rows until the budget is used up. Moves the position past every row that was lent whole.
    fn run(&mut self, budget: Budget, each: &mut dyn FnMut(RecordRef<'_>)) -> rusqlite::Result<Run> {
        let reading = self.reading.clone();
        let conn = reading.connection()?;
        let mut statement = conn.prepare_cached(
            "SELECT id, records, at_ms, bytes, crc, body FROM batches WHERE id >= ?1 AND id < ?2 ORDER BY id",
        )?;
        let mut rows = statement.query((self.first_row.0, self.registration.tail.stream.rows_end().0))?;
        let mut run = Run { records: 0, exhausted: false, stop: None };
        let mut bytes = 0usize;
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => {
                    run.exhausted = true;
                    return Ok(run);
                }
                Err(error) => {
                    run.stop = Some(Stop::Sql(error));
                    return Ok(run);
                }
            };
            let id = RowId(row.get(0)?);
            let records: u32 = row.get(1)?;
            let at_ms: i64 = row.get(2)?;
            let row_bytes: usize = row.get::<_, i64>(3)? as usize;
            let crc: u32 = row.get(4)?;
            if run.records > 0
                && (run.records + records as usize > budget.records_max || bytes + row_bytes > budget.bytes_max)
            {
                return Ok(run);
            }
            if id.offset() > self.next && !self.compacted {
                run.stop = Some(Stop::Gap);
                return Ok(run);
            }
            if id.offset() >= budget.until {
                self.next = self.next.max(budget.until);
                return Ok(run);
            }
            let body = match row.get_ref(5)?.as_blob() {
                Ok(body) if batch::checksum(id, records, at_ms, body) == crc => body,
                _ => {
                    run.stop = Some(Stop::Damaged(id.offset(), "the checksum does not match".to_owned()));
                    return Ok(run);
                }
            };
            let mut rest = body;
            for offset in id.offset().0..id.offset().0 + u64::from(records) {
                let Some((key, value)) = batch::next(&mut rest) else {
                    // The checksum was right: a program wrote this wrongly. What was lent stays lent.
                    run.stop = Some(Stop::Damaged(Offset(offset), "the batch holds less than it says".to_owned()));
                    return Ok(run);
                };
                if offset >= budget.until.0 {
                    // The row is lent on from here when there is more to be had of it.
                    self.first_row = id;
                    return Ok(run);
                }
                if offset >= self.next.0 {
                    run.records += 1;
                    let (partition, offset) = (self.partition, Offset(offset));
                    each(RecordRef { partition, offset, timestamp_ms: at_ms, key, value });
                    self.next = Offset(offset.0 + 1);
                }
            }
            bytes += row_bytes;
            self.first_row = self.registration.tail.stream.row(self.next);
            if run.records >= budget.records_max || bytes >= budget.bytes_max {
                return Ok(run);
            }
        }
    }

    /// Looks at the partition again. `Ok` means that it still stands and holds what is due next;
    /// `believed` is the end that was known before.
    fn look_again(&mut self, believed: Offset) -> Result<StreamState, SourceError> {
        let (topic, partition, wanted) = (self.topic.clone(), self.partition, self.next);
        let state = match self.reading.stream(&topic, partition) {
            Err(SourceError::UnknownPartition { .. }) => return Err(SourceError::Recreated { topic }),
            state => state?,
        };
        if state.stream != self.registration.tail.stream {
            return Err(SourceError::Recreated { topic });
        }
        if state.end < wanted {
            return Err(SourceError::CutShort { topic, partition, wanted, end: state.end });
        }
        if state.start > wanted {
            return Err(SourceError::Gone { topic, partition, wanted, start: state.start });
        }
        if state.end < believed {
            self.registration.tail.lower(believed, state.end);
        }
        Ok(state)
    }

    fn poll_store(
        &mut self,
        known: Offset,
        budget: Budget,
        each: &mut dyn FnMut(RecordRef<'_>),
    ) -> Result<usize, SourceError> {
        let run = self.run(budget, each).map_err(|e| self.sql(&e))?;
        if run.records > 0 && run.stop.is_some() {
            // What was lent counts; the next poll comes upon the same obstacle and reports it.
            return Ok(run.records);
        }
        match run.stop {
            Some(Stop::Sql(error)) => return Err(self.sql(&error)),
            Some(Stop::Damaged(offset, what)) => {
                return Err(SourceError::Damaged {
                    topic: self.topic.clone(),
                    partition: self.partition,
                    offset,
                    what,
                });
            }
            _ => {}
        }
        let gap = run.stop.is_some();
        if run.exhausted && self.compacted {
            // All that was left before the known end has given way to newer records.
            self.next = self.next.max(known.min(budget.until));
            self.first_row = self.registration.tail.stream.row(self.next);
        } else if gap || run.exhausted && self.next < known {
            let state = self.look_again(known)?;
            if state.end > self.next {
                // It should be there: neither retention took it nor is it yet to come. (What comes
                // between the two looks is found by looking once more.)
                let again = self.run(budget, each).map_err(|e| self.sql(&e))?;
                if again.records == 0 && again.stop.is_none_or(|stop| matches!(stop, Stop::Gap)) {
                    self.look_again(known)?;
                    let what = "records are missing".to_owned();
                    let (topic, partition, offset) = (self.topic.clone(), self.partition, self.next);
                    return Err(SourceError::Damaged { topic, partition, offset, what });
                }
                return Ok(again.records);
            }
        }
        Ok(run.records)
    }
}

impl PartitionSource for PartitionReader {
    fn poll(&mut self, budget: Budget, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<Polled, SourceError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let known = self.registration.tail.end();
        let doubts = self.registration.tail.doubts();
        let mut poll = || -> Result<usize, SourceError> {
            if doubts != self.doubts {
                self.look_again(known)?;
                self.doubts = doubts;
            }
            if self.next >= known { Ok(0) } else { self.poll_store(known, budget, each) }
        };
        match poll() {
            Ok(records) => Ok(Polled { records, next: self.next, end: self.end().max(self.next) }),
            Err(error) => {
                if !error.retryable() {
                    self.ended = Some(error.clone());
                }
                Err(error)
            }
        }
    }

    fn end(&self) -> Offset {
        self.registration.tail.end()
    }
}
