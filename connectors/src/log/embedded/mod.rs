//! The embedded log: topics, partitions and offsets in one SQLite database, `log.db`.
//!
//! ```text
//!  process that owns the log                                    another process
//!  append --> writer thread --> log.db (WAL) -----------------> EmbeddedReader: read-only connections
//!                  |                 '--> readers of EmbeddedLog          ^
//!                  '--> tails: readers here are woken                     | appended(topic, partition, end)
//!                  '--> subscribers ------- whatever carries it ----------'
//! ```
//!
//! [`EmbeddedLog`] is the writing side and belongs to exactly one process: whoever opens it holds a
//! lock on the directory. It reads as well. [`EmbeddedReader`] reads the same database from another
//! process; it has to be told of new ends, and looks at nothing before it is.
//!
//! **Durable.** An append is answered after its transaction is committed and synced. A process or
//! machine that dies in between leaves a log that opens with everything answered, and of the rest
//! whole appends or nothing. (Should the sync itself fail, the append is refused; if the machine dies
//! right then, it may turn out to be there.)
//!
//! **Files.** A row per batch; see the `schema` module. Damage is found by a checksum per row and
//! reported with the offset, never skipped.

mod append;
mod batch;
mod error;
mod housekeeper;
mod reader;
mod retention;
mod schema;
mod tail;
mod topics;
mod writer;

pub use error::OpenError;

use super::{
    APPEND_KEY_BYTES_MAX, Batches, Log, OwnedRecord, Subscriber, TopicConfig, TopicError, check_topic, digest,
};
use append::Request;
use error::open_error;
use housekeeper::WalMeter;
use reader::Reading;
use schema::Access;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::{
    Appended, NewRecord, PartitionSource, ProduceError, Producer, Source, SourceError, TopicState, Waker,
};
use topics::Topics;
use writer::{Queue, Writer};

/// The time in milliseconds since 1970-01-01T00:00:00Z.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How a log is run.
#[derive(Clone)]
pub struct LogOptions {
    /// A record's key and value together have at most this many bytes.
    pub record_bytes_max: usize,
    /// Appends that wait may hold this many bytes together; beyond, appends are refused as busy.
    pub queue_bytes_max: usize,
    /// How often retention is applied.
    pub retention_every: Duration,
    /// Where the log's timestamps come from; tests put their own here.
    pub clock: Clock,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            record_bytes_max: 1 << 20,
            queue_bytes_max: 64 << 20,
            retention_every: Duration::from_secs(60),
            clock: Arc::new(|| {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            }),
        }
    }
}

/// The log, in the process that owns it. Share it in an [`Arc`]. Dropping it ends its threads after
/// what waits has been committed; readers that are still open go on reading.
pub struct EmbeddedLog {
    reading: Arc<Reading>,
    topics: Arc<Topics>,
    queue: Arc<Queue>,
    subscribers: Arc<RwLock<Vec<Subscriber>>>,
    meter: Arc<WalMeter>,
    record_bytes_max: usize,
    threads: Vec<JoinHandle<()>>,
}

impl EmbeddedLog {
    /// Opens the log in `dir`; directory and log are made where they are missing. No other process
    /// may have it open for writing: the caller holds a lock that says so.
    pub fn open(dir: &Path, options: LogOptions) -> Result<Self, OpenError> {
        let path = schema::path(dir);
        let sql = |e: rusqlite::Error| open_error(path.clone(), &e);
        let conn = schema::open_writing(dir)?;
        let checkpointing = schema::open_checkpointing(dir).map_err(sql)?;
        let topics = Arc::new(Topics::load(&conn).map_err(sql)?);
        let ends = Writer::load_ends(&conn).map_err(sql)?;
        let newest_ms = ends.values().map(|end| end.last_ms).max();
        let reading = Arc::new(Reading::open(dir, Access::Read)?);
        let queue = Arc::new(Queue::new(options.queue_bytes_max));
        let subscribers = Arc::new(RwLock::new(Vec::new()));
        let meter = Arc::new(WalMeter::new());
        let writer = Writer {
            conn,
            ends,
            reading: reading.clone(),
            subscribers: subscribers.clone(),
            meter: meter.clone(),
            clock: options.clock,
            newest_ms: newest_ms.unwrap_or(i64::MIN),
        };
        let io = |e: std::io::Error| OpenError::Io { path: path.clone(), what: e.to_string() };
        let mut log = EmbeddedLog {
            reading,
            topics: topics.clone(),
            queue: queue.clone(),
            subscribers,
            meter: meter.clone(),
            record_bytes_max: options.record_bytes_max,
            threads: Vec::new(),
        };
        let writing = queue.clone();
        log.threads.push(
            std::thread::Builder::new().name("log-writer".into()).spawn(move || writer.run(&writing)).map_err(io)?,
        );
        let housekeeping = move || {
            housekeeper::run(&checkpointing, &meter, options.retention_every, || {
                if let Err(error) = retention::enforce(&queue, &topics.all()) {
                    tracing::warn!(error = %error, "applying the log's retention failed");
                }
            })
        };
        log.threads.push(std::thread::Builder::new().name("log-housekeeper".into()).spawn(housekeeping).map_err(io)?);
        Ok(log)
    }

    /// Deletes a topic with all its records. Its readers find out at their next poll.
    pub fn delete_topic(&self, name: &str) -> Result<(), TopicError> {
        let (name, topics) = (name.to_owned(), self.topics.clone());
        self.run(move |writer| {
            let partitions = topics::delete(&mut writer.conn, &name)?;
            if let Some(topic) = topics.get(&name) {
                writer.ends.retain(|stream, _| !topic.streams.contains(stream));
            }
            topics.remove(&name);
            writer.tell_deleted(&name, &partitions);
            Ok(())
        })
    }

    /// Removes what retention lets go, now rather than when its time comes. Answers the rows removed.
    pub fn enforce_retention(&self) -> Result<u64, TopicError> {
        retention::enforce(&self.queue, &self.topics.all())
    }

    fn run<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut Writer) -> Result<T, TopicError> + Send + 'static,
    ) -> Result<T, TopicError> {
        self.queue.run(task).unwrap_or_else(|| Err(TopicError::Io("the log has been closed".to_owned())))
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        // First the writer, then the housekeeper with a last checkpoint of all that was written.
        self.queue.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; there is nothing to add here.
            let _ = thread.join();
            self.meter.close();
        }
    }
}

impl Log for EmbeddedLog {
    fn topics(&self) -> Result<Vec<TopicState>, SourceError> {
        self.reading.topics()
    }

    fn topic_config(&self, name: &str) -> Result<Option<TopicConfig>, SourceError> {
        Ok(self.topics.get(name).map(|topic| topic.config))
    }

    fn create_topic(&self, name: &str, partitions: u32, config: TopicConfig) -> Result<(), TopicError> {
        check_topic(name, partitions, config)?;
        let (name, topics) = (name.to_owned(), self.topics.clone());
        self.run(move |writer| {
            let topic = topics::create(&mut writer.conn, &name, partitions, config)?;
            let empty = append::StreamEnd { end: Offset(0), last_ms: 0, bytes: 0 };
            writer.ends.extend(topic.streams.iter().map(|stream| (*stream, empty)));
            topics.insert(Arc::new(topic));
            Ok(())
        })
    }

    fn append_once(
        &self,
        topic: &str,
        records: &[NewRecord<'_>],
        idempotency_key: &str,
        said: &[u8],
    ) -> Result<Appended, ProduceError> {
        self.append_with(topic, records, Some((idempotency_key, Sha256::digest(said).into())))
    }

    fn batches(self: Arc<Self>, _: &str) -> Box<dyn Batches> {
        Box::new(EmbeddedBatches(self))
    }

    fn subscribe(&self, subscriber: Subscriber) {
        self.subscribers.write().unwrap_or_else(PoisonError::into_inner).push(subscriber);
    }

    fn read_range(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<OwnedRecord>, SourceError> {
        self.reading.read_range(topic, partition, from, limit)
    }
}

/// Every append is a whole, and this process the only one that appends.
struct EmbeddedBatches(Arc<EmbeddedLog>);

impl Batches for EmbeddedBatches {
    fn begin(&mut self) -> Result<(), ProduceError> {
        Ok(())
    }

    fn is_begun(&self) -> bool {
        true
    }

    fn append(&mut self, topic: &str, records: &[NewRecord<'_>]) -> Result<(), ProduceError> {
        self.0.append(topic, records, None).map(drop)
    }
}

impl Producer for EmbeddedLog {
    fn append(
        &self,
        topic: &str,
        records: &[NewRecord<'_>],
        idempotency_key: Option<&str>,
    ) -> Result<Appended, ProduceError> {
        self.append_with(topic, records, idempotency_key.map(|key| (key, digest(records))))
    }
}

impl EmbeddedLog {
    /// `once`: an idempotency key, and the SHA-256 of what must be the same.
    fn append_with(
        &self,
        topic: &str,
        records: &[NewRecord<'_>],
        once: Option<(&str, [u8; 32])>,
    ) -> Result<Appended, ProduceError> {
        let topic = self.topics.get(topic).ok_or_else(|| ProduceError::UnknownTopic { topic: topic.to_owned() })?;
        let max = self.record_bytes_max;
        for (index, record) in records.iter().enumerate() {
            let bytes = batch::payload(record);
            if bytes > max {
                return Err(ProduceError::TooLarge { index, bytes, max });
            }
            if topic.config.compacted && record.key.is_none() {
                return Err(ProduceError::KeyMissing { topic: topic.name.clone(), index });
            }
        }
        if let Some(bytes) = once.map(|(key, _)| key.len()).filter(|bytes| *bytes > APPEND_KEY_BYTES_MAX) {
            return Err(ProduceError::KeyTooLong { bytes, max: APPEND_KEY_BYTES_MAX });
        }
        if records.is_empty() && once.is_none() {
            return Ok(Appended::default());
        }
        let keyless = if records.iter().any(|record| record.key.is_none()) { topic.next_keyless() } else { 0 };
        let chunks = batch::cut(records, topic.partitions(), keyless, topic.config.compacted);
        let key = once.map(|(key, sha256)| (key.to_owned(), sha256));
        self.queue.append(Request { topic, chunks, key })
    }
}

impl Source for EmbeddedLog {
    fn topic(&self, topic: &str) -> Result<Option<TopicState>, SourceError> {
        self.reading.topic(topic)
    }

    fn offset_at(&self, topic: &str, partition: PartitionId, timestamp_ms: i64) -> Result<Offset, SourceError> {
        self.reading.offset_at(topic, partition, timestamp_ms)
    }

    fn open(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError> {
        Ok(Box::new(self.reading.reader(topic, partition, from, waker)?))
    }
}

/// The log as another process reads it, while an [`EmbeddedLog`] has it open.
///
/// It sees what is committed, and is told when to look: [`EmbeddedReader::appended`] is to be called
/// with what a subscriber of the writing side gets, in that order. It maps the file into memory: a
/// disk that fails under it ends the process.
pub struct EmbeddedReader {
    reading: Arc<Reading>,
}

impl EmbeddedReader {
    /// Opens the log in `dir`, which must be there.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        Ok(EmbeddedReader { reading: Arc::new(Reading::open(dir, Access::Mapped)?) })
    }

    /// The partition has records up to `end`, or, where `end` is 0, its topic was deleted. Wakes its
    /// readers.
    pub fn appended(&self, topic: &str, partition: PartitionId, end: Offset) {
        self.reading.tails.appended(topic, partition, end);
    }

    /// All topics, by name.
    pub fn topics(&self) -> Result<Vec<TopicState>, SourceError> {
        self.reading.topics()
    }

    /// As [`EmbeddedLog::read_range`].
    pub fn read_range(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<OwnedRecord>, SourceError> {
        self.reading.read_range(topic, partition, from, limit)
    }
}

impl Source for EmbeddedReader {
    fn topic(&self, topic: &str) -> Result<Option<TopicState>, SourceError> {
        self.reading.topic(topic)
    }

    fn offset_at(&self, topic: &str, partition: PartitionId, timestamp_ms: i64) -> Result<Offset, SourceError> {
        self.reading.offset_at(topic, partition, timestamp_ms)
    }

    fn open(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError> {
        Ok(Box::new(self.reading.reader(topic, partition, from, waker)?))
    }
}
