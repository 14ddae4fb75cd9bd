//! The server with its records in Kafka, and brokers that crash, come back, lose a leader or their disk. What
//! is counted is held against the topic as a plain consumer reads it.
//!
//! The brokers are started by the program that `TALLYFLOW_TEST_KAFKA` names (`scripts/kafka`); where it is
//! not set, the tests say so and pass.

mod away;
mod bench;
#[allow(dead_code)]
#[path = "../../connectors/tests/kafka/broker.rs"]
mod broker;
mod cluster;
mod growing;
mod once;
mod others;
mod quiet;
#[cfg(feature = "tls")]
mod secured;

use crate::support::{Http, Server};
use broker::Broker;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use reqwest::Method;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tallyflow_dataflows::number::Decimal;

/// Brokers of which one that was killed is given up soon.
const SOON_GIVEN_UP: [&str; 4] =
    ["--set", "broker.session.timeout.ms=3000", "--set", "broker.heartbeat.interval.ms=500"];

/// How often options are counted in a topic: every record counts.
fn job(topic: &str) -> String {
    format!(
        "name = \"{topic}\"\ndataflow = \"tally\"\n[[input]]\ntopic = \"{topic}\"\nformat = \"json\"\n[tally]\n\
         group = \"/option\"\n"
    )
}

/// A record with a number of its own.
fn record(n: u64) -> String {
    format!("{{\"option\":\"o{}\",\"n\":{n}}}", n % 7)
}

/// A name that no other test has used.
fn name(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Starts a server whose own topics have that prefix.
fn serve(dir: &Path, brokers: &str, prefix: &str) -> Server {
    let options = [
        ("TALLYFLOW_KAFKA_BROKERS", brokers),
        ("TALLYFLOW_KAFKA_PREFIX", prefix),
        ("TALLYFLOW_CHECKPOINT_EVERY", "1s"),
    ];
    Server::start_with(dir, 2, &options)
}

/// A consumer that reads what was committed. It joins no group.
fn consumer(brokers: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "a-test").set("enable.auto.commit", "false");
    config.set("enable.partition.eof", "true").set("isolation.level", "read_committed");
    config.set("reconnect.backoff.max.ms", "500").create().unwrap()
}

/// All that was committed to a topic, as a plain consumer reads it.
fn read_topic(brokers: &str, topic: &str, partitions: i32) -> Vec<String> {
    let (consumer, mut list) = (consumer(brokers), TopicPartitionList::new());
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let (mut records, mut left) = (Vec::new(), (0..partitions).collect::<BTreeSet<_>>());
    let started = Instant::now();
    while !left.is_empty() {
        assert!(started.elapsed() < crate::support::SOON, "{topic} is not read to the end of {left:?}");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                left.insert(message.partition());
                records.push(String::from_utf8(message.payload().unwrap().to_vec()).unwrap());
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(left.remove(&partition)),
            _ => {}
        }
    }
    records
}

/// How often each option is among records.
fn count(records: &[String]) -> BTreeMap<(String, String), Decimal> {
    let mut lines: BTreeMap<(String, String), Decimal> = BTreeMap::new();
    for record in records {
        let record: serde_json::Value = serde_json::from_str(record).unwrap();
        let line = ("".to_owned(), record["option"].as_str().unwrap().to_owned());
        let value = lines.entry(line).or_insert(Decimal::from_units(0));
        *value = Decimal::from_units(value.units() + Decimal::ONE.units());
    }
    lines
}

/// Holds the tallies against the topic, the topic against what was acknowledged, and recounts. How many
/// records there are.
#[track_caller]
fn assert_counted(http: &Http, brokers: &str, topic: &str, partitions: i32, posted: &Posted) -> u64 {
    let records = read_topic(brokers, topic, partitions);
    let there: BTreeSet<&str> = records.iter().map(String::as_str).collect();
    assert_eq!(there.len(), records.len(), "a record is there twice");
    for n in &posted.acknowledged {
        assert!(there.contains(&*record(*n)), "{n} was acknowledged and is not there");
    }
    let most = posted.acknowledged.len() + posted.unsure.len();
    assert!(records.len() <= most, "{} records, and {most} were written", records.len());
    let tallies = http.tallies_of(topic, records.len() as u64);
    let lines = crate::support::Board::of(&tallies).lines.into_iter().map(|((_, group), value)| (group, value));
    let counted = count(&records).into_iter().map(|((_, group), value)| (group, value));
    assert!(lines.eq(counted), "the tallies are not those of the topic: {tallies:?}");
    http.recount(topic);
    records.len() as u64
}

/// What was written by [`Poster`].
#[derive(Clone, Debug, Default)]
struct Posted {
    acknowledged: Vec<u64>,
    /// Refused: of these some may be there.
    unsure: Vec<u64>,
    refusals: u64,
}

/// Writes records in batches, each once, without a key.
struct Poster {
    stop: Arc<AtomicBool>,
    posted: Arc<Mutex<Posted>>,
    thread: JoinHandle<()>,
}

impl Poster {
    fn start(http: &Http, topic: &str) -> Poster {
        let (stop, posted) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Posted>>::default());
        let (stopped, theirs, url) = (stop.clone(), posted.clone(), http.url.clone());
        let path = format!("/api/topics/{topic}/records");
        let thread = std::thread::spawn(move || {
            let (http, mut n) = (Http::new(&url), 0);
            while !stopped.load(Ordering::Acquire) {
                let batch = n..n + 10;
                n = batch.end;
                let lines: String = batch.clone().map(|n| record(n) + "\n").collect();
                let answer = http.send(Method::POST, &path, &[], lines).unwrap();
                let mut posted = theirs.lock().unwrap();
                match answer.status {
                    200 => posted.acknowledged.extend(batch),
                    // The process that was asked has lost the one that leads in the midst of it.
                    502 => posted.unsure.extend(batch),
                    503 => {
                        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
                        assert!(answer.text.contains("try again"), "{answer:?}");
                        posted.unsure.extend(batch);
                        posted.refusals += 1;
                    }
                    _ => panic!("{answer:?}"),
                }
            }
        });
        Poster { stop, posted, thread }
    }

    fn posted(&self) -> Posted {
        self.posted.lock().unwrap().clone()
    }

    fn acknowledged(&self) -> usize {
        self.posted.lock().unwrap().acknowledged.len()
    }

    fn stop(self) -> Posted {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap();
        self.posted.lock().unwrap().clone()
    }
}
