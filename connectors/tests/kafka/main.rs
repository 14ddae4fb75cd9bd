//! The log in Kafka, against real brokers, and against librdkafka's own mock cluster where no real one does
//! what is wanted.
//!
//! Real brokers are started by the program that `TALLYFLOW_TEST_KAFKA` names (`scripts/kafka`); where it is not set,
//! those tests say so and pass. `scripts/kafka-tests` runs them.

mod appending;
// Others who include it use all of it.
#[allow(dead_code)]
mod broker;
mod mock;
mod reading;
#[cfg(feature = "tls")]
mod secured;
mod trouble;

use broker::Broker;
use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tallyflow_connectors::log::kafka::{KafkaConfig, KafkaLog};
use tallyflow_connectors::log::{Log, TopicConfig};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::{Budget, NewRecord, PartitionSource, Polled, Source, SourceError};

/// What anything here may take.
const DEADLINE: Duration = Duration::from_secs(60);

const ALL: Budget = Budget { records_max: 10_000, bytes_max: 64 << 20, until: Offset(u64::MAX) };

fn log_at(brokers: &str) -> KafkaLog {
    log_with(brokers, &[])
}

fn log_with(brokers: &str, properties: &[(&str, &str)]) -> KafkaLog {
    use tallyflow_connectors::log::kafka::Secret;
    let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value)));
    KafkaLog::open(KafkaConfig::new(brokers, properties.collect()).unwrap(), "tallyflow-test").unwrap()
}

/// One of a server of its own: no other takes over what it appends with keys.
fn log_alone(brokers: &str) -> KafkaLog {
    KafkaLog::open(KafkaConfig::new(brokers, BTreeMap::new()).unwrap(), &name("server")).unwrap()
}

/// A name that no other test has used.
fn name(what: &str) -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    format!("{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

fn topic(log: &KafkaLog, what: &str, partitions: u32) -> String {
    let name = name(what);
    log.create_topic(&name, partitions, TopicConfig::default()).unwrap();
    name
}

/// A topic of one partition as other programs make it: its times are those that producers give.
fn create_plain(brokers: &str, topic: &str, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let made = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    let made = settings.iter().fold(made, |made, (name, value)| made.set(name, value));
    block_on(admin.create_topics([&made], &AdminOptions::new())).unwrap().pop().unwrap().unwrap();
}

fn values<'a>(values: &'a [&'a str]) -> Vec<NewRecord<'a>> {
    values.iter().map(|value| NewRecord { key: None, value: Some(value.as_bytes()) }).collect()
}

/// Calls until it answers.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A reader that is woken.
struct Read {
    source: Box<dyn PartitionSource>,
    woken: Arc<(Mutex<bool>, Condvar)>,
    next: Offset,
    /// By offset, key and value.
    records: BTreeMap<u64, (Option<String>, Option<String>)>,
    timestamps: Vec<i64>,
}

impl Read {
    fn open(log: &dyn Source, topic: &str, partition: u32, from: u64) -> Read {
        let woken = Arc::new((Mutex::new(false), Condvar::new()));
        let theirs = woken.clone();
        let waker = Arc::new(move || {
            *theirs.0.lock().unwrap() = true;
            theirs.1.notify_all();
        });
        let source = log.open(topic, PartitionId(partition), Offset(from), waker).unwrap();
        Read { source, woken, next: Offset(from), records: BTreeMap::new(), timestamps: Vec::new() }
    }

    fn poll(&mut self, budget: Budget) -> Result<Polled, SourceError> {
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let before = self.next;
        let polled = self.source.poll(budget, &mut |record| {
            assert!(record.offset >= before);
            let known = self.records.insert(record.offset.0, (text(record.key), text(record.value)));
            assert!(known.is_none(), "{} came twice", record.offset);
            self.timestamps.push(record.timestamp_ms);
        })?;
        assert!(polled.next >= self.next && polled.end >= polled.next);
        self.next = polled.next;
        Ok(polled)
    }

    /// Reads, only when it is woken, until so much is there.
    fn until(&mut self, next: u64) {
        let started = Instant::now();
        while self.next.0 < next {
            self.poll(ALL).unwrap();
            if self.source.has_more(self.next) || self.next.0 >= next {
                continue;
            }
            let mut woken = self.woken.0.lock().unwrap();
            while !*woken {
                assert!(started.elapsed() < DEADLINE, "at {} of {next}", self.next);
                woken = self.woken.1.wait_timeout(woken, Duration::from_millis(500)).unwrap().0;
            }
            *woken = false;
        }
    }

    /// Polls until there is an error.
    fn error(&mut self) -> SourceError {
        until("there is an error", || self.poll(ALL).err())
    }

    fn texts(&self) -> Vec<&str> {
        self.records.values().map(|(_, value)| value.as_deref().unwrap_or("-")).collect()
    }
}
