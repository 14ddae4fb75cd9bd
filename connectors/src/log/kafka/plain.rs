//! Kafka as a plain program uses it: what tallyflow's own reading is held against by `bench --log kafka`. It
//! looks after nothing: no topic that is made again, no broker that goes, no bound that fits the machine.

use super::config::KafkaConfig;
use super::look::ANSWER;
use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::bindings as sys;
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer};
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
    queue: *mut sys::rd_kafka_queue_t,
    messages: Vec<*mut sys::rd_kafka_message_t>,
    /// Outlives the queue.
    _consumer: BaseConsumer,
}

impl Drain {
    /// Begins to read, each partition from its offset. Errors are librdkafka's.
    pub fn open(config: &KafkaConfig, topic: &str, from: &[Offset]) -> Result<Drain, String> {
        let consumer: BaseConsumer = config.draining().create().map_err(|error| error.to_string())?;
        // One that is connected when it is told what to read begins at once, else up to a second later.
        consumer.client().fetch_cluster_id(ANSWER);
        let name = CString::new(topic).map_err(|error| error.to_string())?;
        let mut list = TopicPartitionList::new();
        // SAFETY: the client outlives the queues; those of the partitions are given back at once, which leaves
        // them forwarded.
        let queue = unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) };
        for (partition, from) in (0..).zip(from) {
            let at = At::Offset(i64::try_from(from.0).unwrap_or(i64::MAX));
            list.add_partition_offset(topic, partition, at).map_err(|error| error.to_string())?;
            // SAFETY: see above.
            unsafe {
                let of_one =
                    sys::rd_kafka_queue_get_partition(consumer.client().native_ptr(), name.as_ptr(), partition);
                sys::rd_kafka_queue_forward(of_one, queue);
                sys::rd_kafka_queue_destroy(of_one);
            }
        }
        consumer.assign(&list).map_err(|error| error.to_string())?;
        Ok(Drain { queue, messages: Vec::with_capacity(TAKEN_MAX), _consumer: consumer })
    }

    /// Takes as many as can be had at once, and waits so long until they are so many.
    pub fn take(&mut self, wait: Duration, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<usize, String> {
        self.messages.resize(TAKEN_MAX, std::ptr::null_mut());
        let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: there is room for so many pointers.
        let taken =
            unsafe { sys::rd_kafka_consume_batch_queue(self.queue, wait_ms, self.messages.as_mut_ptr(), TAKEN_MAX) };
        self.messages.truncate(usize::try_from(taken).unwrap_or(0));
        self.give(each)
    }

    /// Waits so long until there is one, and takes it with all that is there already.
    pub fn take_soon(&mut self, wait: Duration, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<usize, String> {
        let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue lives.
        let message = unsafe { sys::rd_kafka_consume_queue(self.queue, wait_ms) };
        if message.is_null() {
            return Ok(0);
        }
        self.messages.push(message);
        Ok(self.give(each)? + self.take(Duration::ZERO, each)?)
    }

    fn give(&mut self, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<usize, String> {
        let mut failed = None;
        let mut records = 0;
        for message in self.messages.drain(..) {
            // SAFETY: it was taken from the queue, is looked at until it is given back, and that once.
            unsafe {
                let lent = &*message;
                if lent.err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    let bytes = |data: *const std::ffi::c_void, len| {
                        (!data.is_null()).then(|| std::slice::from_raw_parts(data.cast::<u8>(), len))
                    };
                    records += 1;
                    each(RecordRef {
                        partition: PartitionId(u32::try_from(lent.partition).unwrap_or(0)),
                        offset: Offset(u64::try_from(lent.offset).unwrap_or(0)),
                        timestamp_ms: sys::rd_kafka_message_timestamp(message, std::ptr::null_mut()),
                        key: bytes(lent.key, lent.key_len),
                        value: bytes(lent.payload, lent.len),
                    });
                } else {
                    failed = Some(RDKafkaErrorCode::from(lent.err).to_string());
                }
                sys::rd_kafka_message_destroy(message);
            }
        }
        failed.map_or(Ok(records), Err)
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        // SAFETY: it was made by `open`, and the consumer still lives.
        unsafe { sys::rd_kafka_queue_destroy(self.queue) };
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
