//! The log in Apache Kafka.
//!
//! ```text
//!   KafkaSource   a thread that looks after readers --> clients that read, a queue for each partition
//!        |             |                                        | callback: wakes the worker
//!        |             '-- asks the cluster: topics, ids, offsets, what an error means
//!        '-- open: a Reader, which takes batches from its queue and never waits
//!   KafkaLog      a KafkaSource, and clients that append: an idempotent one, and one with transactions for
//!                 appends that have a key
//! ```
//!
//! **Exact.** Readers assign themselves partitions at the offsets that they are given; no group is joined, no
//! offset is kept by Kafka. Only what was committed is read. A topic that was deleted and made again has
//! another id and is not read on; offsets that retention has taken, and a log that was cut short, are errors
//! that name them. A topic or broker that is away is waited for.

mod append;
mod client;
mod config;
mod ffi;
mod figures;
mod look;
mod once;
pub mod plain;
mod progress;
mod reader;
mod service;
mod token;
mod transactions;

pub use config::{ConfigError, KafkaConfig, QUEUE_BYTES_MAX, Secret};
pub use figures::{BrokerFigures, Figures};
pub use progress::Progress;

use super::{Batches, Log, OwnedRecord, RangeReader, Subscriber, TopicConfig, TopicError, check_topic, digest};
use append::Appender;
use client::{Shared, lock};
use futures_executor::block_on;
use look::{ANSWER, Looker};
use once::Once;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use reader::{Place, Reader, Slot};
use service::{Ask, Service};
use sha2::{Digest, Sha256};
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::{
    Appended, Budget, NewRecord, PartitionSource, ProduceError, Producer, Source, SourceError, TopicState, Waker,
};
use transactions::Transactions;

/// What [`Log::read_range`] hands over at most (but always one record).
const RANGE_BYTES_MAX: usize = 4 << 20;
/// How long a batch of a sink may take.
const BATCH_LIMIT: Duration = Duration::from_secs(60);
/// Topics of Kafka itself, and of this server: not listed.
const INTERNAL: &str = "__";

/// Kafka as jobs read it.
pub struct KafkaSource {
    shared: Arc<Shared>,
    looker: Arc<Looker>,
    asks: Sender<Ask>,
}

impl KafkaSource {
    /// Starts the thread that looks after readers. Nothing is asked of the brokers yet. Error: a property that
    /// librdkafka refuses.
    pub fn open(config: KafkaConfig) -> Result<KafkaSource, String> {
        let shared = Shared::new(config);
        let looker = Looker::new(&shared).map_err(|error| shared.config.without_secrets(&error.to_string()))?;
        let looker = Arc::new(looker);
        let (asks, asked) = channel();
        let service = Service::new(shared.clone(), looker.clone());
        let thread = std::thread::Builder::new().name("kafka-readers".to_owned());
        thread.spawn(move || service.run(&asked)).map_err(|error| error.to_string())?;
        Ok(KafkaSource { shared, looker, asks })
    }

    /// What is known of the brokers.
    pub fn figures(&self) -> Figures {
        lock(&self.shared.figures).clone()
    }

    /// Why no broker can be reached, if none can.
    pub fn away(&self) -> Option<String> {
        self.shared.away()
    }
}

impl Source for KafkaSource {
    fn topic(&self, topic: &str) -> Result<Option<TopicState>, SourceError> {
        Ok(self.looker.states(&[topic])?.pop())
    }

    fn offset_at(&self, topic: &str, partition: PartitionId, timestamp_ms: i64) -> Result<Offset, SourceError> {
        self.looker.offset_at(topic, partition, timestamp_ms)
    }

    fn open(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError> {
        self.read(topic, None, partition, from, waker)
    }

    fn open_same(
        &self,
        topic: &str,
        incarnation: u64,
        partition: PartitionId,
        from: Offset,
        waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError> {
        self.read(topic, Some(incarnation), partition, from, waker)
    }
}

impl KafkaSource {
    fn read(
        &self,
        topic: &str,
        incarnation: Option<u64>,
        partition: PartitionId,
        from: Offset,
        waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError> {
        let unknown = || SourceError::UnknownTopic { topic: topic.to_owned() };
        let place = Arc::new(Place {
            topic: topic.to_owned(),
            name: CString::new(topic).map_err(|_| unknown())?,
            partition,
            incarnation,
            id: OnceLock::new(),
            next: AtomicU64::new(from.0),
            end: AtomicU64::new(from.0),
            error: Mutex::default(),
            has_error: AtomicBool::new(false),
            waker,
        });
        let slot: Slot = Arc::default();
        let stopped = |_| SourceError::Io("the thread that looks after readers has ended".to_owned());
        self.asks.send(Ask::Open(place.clone(), slot.clone())).map_err(stopped)?;
        Ok(Box::new(Reader::new(place, slot, self.asks.clone())))
    }
}

/// Kafka as the node has it.
pub struct KafkaLog {
    source: KafkaSource,
    appender: Appender,
    once: Once,
    prefix: String,
}

impl KafkaLog {
    /// Opens the log. `prefix` begins the names of this server's own topics and what it is called in
    /// transactions. Nothing is asked of the brokers yet.
    pub fn open(config: KafkaConfig, prefix: &str) -> Result<KafkaLog, String> {
        let source = KafkaSource::open(config)?;
        let (shared, looker) = (source.shared.clone(), source.looker.clone());
        let appender = Appender::new(shared.clone(), looker.clone());
        let once = Once::new(shared, looker, format!("{prefix}-appends"), format!("{prefix}-appends"));
        Ok(KafkaLog { source, appender, once, prefix: prefix.to_owned() })
    }

    /// As jobs read it.
    pub fn source(&self) -> &KafkaSource {
        &self.source
    }

    fn append_keyed(
        &self,
        topic: &str,
        records: &[NewRecord<'_>],
        key: &str,
        said: [u8; 32],
    ) -> Result<Appended, ProduceError> {
        let max = super::APPEND_KEY_BYTES_MAX;
        if key.len() > max {
            return Err(ProduceError::KeyTooLong { bytes: key.len(), max });
        }
        self.once.append(self, &self.appender, (topic, records), (key, said))
    }
}

impl Source for KafkaLog {
    fn topic(&self, topic: &str) -> Result<Option<TopicState>, SourceError> {
        self.source.topic(topic)
    }

    fn offset_at(&self, topic: &str, partition: PartitionId, timestamp_ms: i64) -> Result<Offset, SourceError> {
        self.source.offset_at(topic, partition, timestamp_ms)
    }

    fn open(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError> {
        self.source.open(topic, partition, from, waker)
    }

    fn open_same(
        &self,
        topic: &str,
        incarnation: u64,
        partition: PartitionId,
        from: Offset,
        waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError> {
        self.source.open_same(topic, incarnation, partition, from, waker)
    }
}

impl Producer for KafkaLog {
    fn append(
        &self,
        topic: &str,
        records: &[NewRecord<'_>],
        idempotency_key: Option<&str>,
    ) -> Result<Appended, ProduceError> {
        match idempotency_key {
            Some(key) => self.append_keyed(topic, records, key, digest(records)),
            None if records.is_empty() => Ok(Appended::default()),
            None => self.appender.append(topic, records),
        }
    }
}

impl Log for KafkaLog {
    fn topics(&self) -> Result<Vec<TopicState>, SourceError> {
        let names = self.source.looker.names()?;
        let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| !name.starts_with(INTERNAL)).collect();
        self.source.looker.states(&names)
    }

    fn topic_config(&self, name: &str) -> Result<Option<TopicConfig>, SourceError> {
        Ok(self.source.looker.configs(&[name])?.remove(name))
    }

    fn create_topic(&self, name: &str, partitions: u32, config: TopicConfig) -> Result<(), TopicError> {
        check_topic(name, partitions, config)?;
        let replication = self.source.shared.config.replication_factor.map_or(-1, i32::from);
        // Kafka's bound of bytes holds for each partition.
        let bytes = config.retention.bytes.map(|bytes| (bytes / u64::from(partitions)).to_string());
        let age = config.retention.age.map(|age| age.as_millis().to_string());
        let mut topic =
            NewTopic::new(name, i32::try_from(partitions).unwrap_or(i32::MAX), TopicReplication::Fixed(replication))
                .set("message.timestamp.type", "LogAppendTime")
                .set("cleanup.policy", if config.compacted { "compact" } else { "delete" });
        if !config.compacted {
            topic = topic.set("retention.ms", age.as_deref().unwrap_or("-1"));
            topic = topic.set("retention.bytes", bytes.as_deref().unwrap_or("-1"));
        }
        let options = AdminOptions::new().operation_timeout(Some(ANSWER)).request_timeout(Some(ANSWER));
        let answer = block_on(self.source.looker.admin().create_topics([&topic], &options));
        let away = |error: &dyn ToString| {
            TopicError::Away(self.source.shared.sentence("a topic can't be made, no answer", &error.to_string()))
        };
        let answer = answer.map_err(|error| away(&error))?;
        self.appender.forget(name);
        match answer.into_iter().next() {
            Some(Ok(_)) => {
                self.source.looker.is_made(name);
                self.wait_for(name, partitions)
            }
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {
                self.source.looker.is_made(name);
                Err(TopicError::AlreadyExists { topic: name.to_owned() })
            }
            Some(Err((_, RDKafkaErrorCode::InvalidTopic))) => Err(TopicError::Name { topic: name.to_owned() }),
            Some(Err((_, code))) if !is_transient(code) => {
                Err(TopicError::Io(self.source.shared.sentence("the topic is refused", &code)))
            }
            Some(Err((_, code))) => Err(away(&code)),
            None => Err(away(&"the answer names no topic")),
        }
    }

    fn append_once(
        &self,
        topic: &str,
        records: &[NewRecord<'_>],
        idempotency_key: &str,
        said: &[u8],
    ) -> Result<Appended, ProduceError> {
        self.append_keyed(topic, records, idempotency_key, Sha256::digest(said).into())
    }

    fn read_range(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        limit: usize,
    ) -> Result<Vec<OwnedRecord>, SourceError> {
        let state = self.topic(topic)?.ok_or_else(|| SourceError::UnknownTopic { topic: topic.to_owned() })?;
        let unknown = || SourceError::UnknownPartition { topic: topic.to_owned(), partition };
        let bounds = state.partitions.get(partition.0 as usize).ok_or_else(unknown)?;
        if from < bounds.start {
            let (topic, start) = (topic.to_owned(), bounds.start);
            return Err(SourceError::Gone { topic, partition, wanted: from, start });
        }
        let mut reader = RangeReader::open(self, (topic, None), partition, (from, bounds.end.max(from)))?;
        let mut records: Vec<OwnedRecord> = Vec::new();
        let mut bytes = 0;
        while records.len() < limit && bytes < RANGE_BYTES_MAX {
            let left = (limit - records.len(), RANGE_BYTES_MAX - bytes);
            let budget = Budget { records_max: left.0, bytes_max: left.1, until: Offset(u64::MAX) };
            let read = reader.read(budget, &mut |record| {
                bytes += record.value.map_or(0, <[u8]>::len);
                records.push(OwnedRecord::from(record));
            })?;
            if read.is_none() {
                break;
            }
        }
        Ok(records)
    }

    fn batches(self: Arc<Self>, writer: &str) -> Box<dyn Batches> {
        let shared = self.source.shared.clone();
        let id = format!("{}-{writer}", self.prefix);
        Box::new(KafkaBatches { log: self, transactions: Transactions::new(shared, id, BATCH_LIMIT) })
    }

    /// Readers of Kafka hear by themselves.
    fn subscribe(&self, _: Subscriber) {}
}

/// Each batch is a transaction.
struct KafkaBatches {
    log: Arc<KafkaLog>,
    transactions: Transactions,
}

impl Batches for KafkaBatches {
    fn begin(&mut self) -> Result<(), ProduceError> {
        self.transactions.begin()
    }

    fn is_begun(&self) -> bool {
        self.transactions.is_begun()
    }

    fn append(&mut self, topic: &str, records: &[NewRecord<'_>]) -> Result<(), ProduceError> {
        let written = self.transactions.write(&self.log.appender, |transaction| transaction.append(topic, records));
        written.map(drop).map_err(|broken| broken.error)
    }
}

impl KafkaLog {
    /// Waits until every broker that is asked knows a topic that was made.
    fn wait_for(&self, name: &str, partitions: u32) -> Result<(), TopicError> {
        let deadline = std::time::Instant::now() + ANSWER;
        loop {
            match self.topic(name) {
                Ok(Some(state)) if state.partitions.len() == partitions as usize => return Ok(()),
                Ok(_) => {}
                Err(error) if std::time::Instant::now() > deadline => return Err(TopicError::Away(error.to_string())),
                Err(_) => {}
            }
            if std::time::Instant::now() > deadline {
                return Err(TopicError::Away(format!("topic {name:?} was made and is not seen yet")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn is_transient(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::NotController
            | Code::RequestTimedOut
            | Code::OperationTimedOut
            | Code::BrokerNotAvailable
            | Code::LeaderNotAvailable
            | Code::NetworkException
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::ThrottlingQuotaExceeded
    )
}
