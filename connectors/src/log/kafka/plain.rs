//! Kafka as a plain program uses it: what tallyflow's own reading is held against by `bench --log kafka`. It
//! looks after nothing: no topic that is made again, no broker that goes, no bound that fits the machine.

use super::client::connect;
use super::config::KafkaConfig;
use super::ffi::{Batch, Next, OneQueue};
use super::look::ANSWER;
use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};
use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;

/// At most so many messages are taken at once.
const TAKEN_MAX: usize = 4_096;

/// Reads a topic from some offsets on, by one queue, as fast as librdkafka hands it over.
pub struct Drain {
    batch: Batch,
    queue: OneQueue,
}

impl Drain {
    /// Begins to read, each partition from its offset. Errors are librdkafka's.
    pub fn open(config: &KafkaConfig, topic: &str, from: &[Offset]) -> Result<Drain, String> {
        let consumer: BaseConsumer = config.draining().create().map_err(|error| error.to_string())?;
        connect(&consumer, topic, from.len(), ANSWER);
        let name = CString::new(topic).map_err(|error| error.to_string())?;
        let (mut list, mut partitions) = (TopicPartitionList::new(), 0);
        for from in from {
            let at = At::Offset(i64::try_from(from.0).unwrap_or(i64::MAX));
            list.add_partition_offset(topic, partitions, at).map_err(|error| error.to_string())?;
            partitions += 1;
        }
        let queue = OneQueue::of(consumer, &name, partitions, &list).map_err(|error| error.to_string())?;
        Ok(Drain { batch: Batch::default(), queue })
    }

    /// Takes as many as can be had at once, and waits so long until they are so many.
    pub fn take(&mut self, wait: Duration, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<usize, String> {
        self.queue.take(wait, TAKEN_MAX, &mut self.batch);
        self.give(each)
    }

    /// Waits so long until there is one, and takes it with all that is there already.
    pub fn take_soon(&mut self, wait: Duration, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<usize, String> {
        self.queue.take(wait, 1, &mut self.batch);
        if self.batch.is_empty() {
            return Ok(0);
        }
        self.take(Duration::ZERO, each)
    }

    fn give(&mut self, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<usize, String> {
        let mut records = 0;
        while let Some(next) = self.batch.next() {
            match next {
                Next::Record(record) => {
                    records += 1;
                    each(record);
                }
                Next::End(_) => {}
                Next::Error(code) => return Err(code.to_string()),
            }
            self.batch.pass();
        }
        Ok(records)
    }
}

/// Counts what was not written.
#[derive(Clone, Default)]
struct Failures {
    count: Arc<AtomicU64>,
    first: Arc<Mutex<Option<KafkaError>>>,
}

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.count.fetch_add(1, Ordering::AcqRel);
            super::client::lock(&self.first).get_or_insert_with(|| error.clone());
        }
    }
}

/// Appends to topics without waiting for answers, in order.
pub struct Sender {
    producer: ThreadedProducer<Failures>,
    failures: Failures,
}

impl Sender {
    /// One that gathers records for so long. Errors are librdkafka's.
    pub fn open(config: &KafkaConfig, linger: Duration) -> Result<Sender, String> {
        let failures = Failures::default();
        let producer = config.sending(linger).create_with_context(failures.clone());
        Ok(Sender { producer: producer.map_err(|error| error.to_string())?, failures })
    }

    /// Hands a record over; waits only where too many are under way.
    pub fn send(&self, topic: &str, partition: PartitionId, key: Option<&[u8]>, value: &[u8]) -> Result<(), String> {
        let partition = i32::try_from(partition.0).unwrap_or(i32::MAX);
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(partition).payload(value);
        record.key = key;
        let deadline = Instant::now() + ANSWER;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if Instant::now() < deadline =>
                {
                    record = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error.to_string()),
            }
        }
    }

    /// Waits until all is written.
    pub fn finish(&self, limit: Duration) -> Result<(), String> {
        self.producer.flush(limit).map_err(|error| error.to_string())?;
        match (self.failures.count.load(Ordering::Acquire), &*super::client::lock(&self.failures.first)) {
            (0, _) => Ok(()),
            (count, first) => Err(format!("{count} records were not written: {first:?}")),
        }
    }
}

/// Deletes topics, those that there are.
pub fn delete_topics(config: &KafkaConfig, topics: &[&str]) -> Result<(), String> {
    let admin: AdminClient<DefaultClientContext> = config.looking().create().map_err(|error| error.to_string())?;
    let options = AdminOptions::new().operation_timeout(Some(ANSWER)).request_timeout(Some(ANSWER));
    block_on(admin.delete_topics(topics, &options)).map(drop).map_err(|error| error.to_string())
}
