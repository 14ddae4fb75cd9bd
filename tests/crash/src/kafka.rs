//! Kafka as the log under test: a broker that is killed and frozen, and a look into it that has nothing of
//! the server's own code.

use crate::broker::Broker;
use crate::log::Topic;
use crate::program::signal;
use crate::stream::TOPICS;
use anyhow::{Context as _, ensure};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rustix::process::Signal;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where the server keeps its records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Log {
    #[default]
    Embedded,
    /// In a broker of its own, started by the program that `TALLYFLOW_TEST_KAFKA` names.
    Kafka,
    /// In brokers that run, which are let be.
    KafkaAt(String),
}

/// A broker that is given up soon, so that one that was killed is back soon.
const SETTINGS: [&str; 4] = ["--set", "broker.session.timeout.ms=3000", "--set", "broker.heartbeat.interval.ms=500"];
/// How long an answer is waited for.
const ANSWER: Duration = Duration::from_secs(10);

/// The brokers of one campaign.
pub struct Kafka {
    pub address: String,
    /// Tells this campaign's server from others.
    pub prefix: String,
    /// `None`: they are somebody else's.
    broker: Option<Arc<Broker>>,
    /// What brings the broker back.
    coming_back: Option<JoinHandle<()>>,
    committed: BaseConsumer,
    all: BaseConsumer,
}

impl Kafka {
    /// `Ok(None)`: the log is not in Kafka.
    pub fn start(log: &Log, prefix: String) -> anyhow::Result<Option<Kafka>> {
        let (address, broker) = match log {
            Log::Embedded => return Ok(None),
            Log::KafkaAt(address) => (address.clone(), None),
            Log::Kafka => {
                let broker = Broker::start(&SETTINGS).context("TALLYFLOW_TEST_KAFKA does not name scripts/kafka")?;
                (broker.address.clone(), Some(Arc::new(broker)))
            }
        };
        let consumer = |isolation: &str| -> anyhow::Result<BaseConsumer> {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", &address).set("group.id", "tallyflow-crash");
            config.set("enable.auto.commit", "false").set("enable.partition.eof", "true");
            config.set("auto.offset.reset", "error").set("isolation.level", isolation);
            Ok(config.set("reconnect.backoff.max.ms", "500").create()?)
        };
        let (committed, all) = (consumer("read_committed")?, consumer("read_uncommitted")?);
        Ok(Some(Kafka { address, prefix, broker, coming_back: None, committed, all }))
    }

    /// Whether the broker may be harmed.
    pub fn is_own(&self) -> bool {
        self.broker.is_some()
    }

    /// Kills the broker and has it started again after so many milliseconds; nothing, while it comes back.
    pub fn kill(&mut self, ms: u64) -> bool {
        self.harm(move |broker| {
            broker.kill(1);
            std::thread::sleep(Duration::from_millis(ms));
            broker.revive(1);
        })
    }

    /// Stops the broker for so many milliseconds.
    pub fn freeze(&mut self, ms: u64) -> bool {
        self.harm(move |broker| {
            let Some(pid) = broker.pid(1) else { return };
            signal(pid, Signal::STOP);
            std::thread::sleep(Duration::from_millis(ms));
            signal(pid, Signal::CONT);
        })
    }

    fn harm(&mut self, harm: impl FnOnce(&Broker) + Send + 'static) -> bool {
        if self.coming_back.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return false;
        }
        let Some(broker) = self.broker.clone() else { return false };
        self.coming_back = Some(std::thread::spawn(move || harm(&broker)));
        true
    }

    /// Waits until the broker is back.
    pub fn back(&mut self) -> anyhow::Result<()> {
        match self.coming_back.take().map(JoinHandle::join) {
            Some(Err(_)) => anyhow::bail!("the broker does not come back"),
            _ => Ok(()),
        }
    }

    /// Reads what has come since, now that nobody writes.
    pub fn read(&self, topic: &mut Topic, name: &str, deadline: Instant) -> anyhow::Result<()> {
        let ends = loop {
            if let Some(ends) = self.ends(topic.partitions.len(), name) {
                break ends;
            }
            ensure!(
                Instant::now() < deadline,
                "{name} does not come to rest: a transaction is open, or nobody answers"
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut list = TopicPartitionList::new();
        for (number, partition) in topic.partitions.iter().enumerate() {
            list.add_partition_offset(name, number as i32, Offset::Offset(partition.end as i64))?;
        }
        self.committed.assign(&list)?;
        let mut left: Vec<bool> = vec![true; topic.partitions.len()];
        while left.contains(&true) {
            ensure!(Instant::now() < deadline, "{name} can't be read to its end: {left:?}");
            match self.committed.poll(Duration::from_millis(100)) {
                None => {}
                Some(Ok(record)) => {
                    let value = record.payload().and_then(|value| std::str::from_utf8(value).ok());
                    let value = value.context("a record without a value")?.to_owned();
                    topic.partitions[record.partition() as usize].push(record.offset() as u64, value)?;
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => left[partition as usize] = false,
                // It comes back by itself.
                Some(Err(_)) => {}
            }
        }
        self.committed.unassign()?;
        for (partition, end) in topic.partitions.iter_mut().zip(ends) {
            ensure!(partition.end <= end, "{name} goes on to {}, and was at rest at {end}", partition.end);
            partition.end = end;
        }
        Ok(())
    }

    /// Where all partitions end, if no transaction is open.
    fn ends(&self, partitions: usize, name: &str) -> Option<Vec<u64>> {
        let of = |number: usize| {
            let (_, readable) = self.committed.fetch_watermarks(name, number as i32, ANSWER).ok()?;
            let (_, end) = self.all.fetch_watermarks(name, number as i32, ANSWER).ok()?;
            (readable == end).then_some(end as u64)
        };
        (0..partitions).map(of).collect()
    }

    /// Takes away what was made in somebody else's brokers.
    pub fn clear(&mut self) -> anyhow::Result<()> {
        self.back()?;
        if self.is_own() {
            return Ok(());
        }
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.address).create()?;
        let own = [format!("__{}", self.prefix), format!("__{}-appends", self.prefix)];
        let topics: Vec<&str> = TOPICS.iter().map(|(name, _)| *name).chain(own.iter().map(String::as_str)).collect();
        let options = AdminOptions::new().operation_timeout(Some(ANSWER)).request_timeout(Some(ANSWER));
        futures_executor::block_on(admin.delete_topics(&topics, &options))?;
        Ok(())
    }
}
