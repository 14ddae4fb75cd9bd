//! Appending: each record once, durable on every replica in sync before it is answered.

use super::client::{Context, Shared, lock};
use super::look::{ANSWER, Looker};
use crate::log::{TopicConfig, partition_of};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::{Appended, NewRecord, ProduceError};

/// A record's key and value together have at most this many bytes: a stock broker takes 1,048,588 with what
/// frames them.
pub(super) const RECORD_BYTES_MAX: usize = 1_000_000;
/// Appends that wait may hold this many bytes together; beyond, appends are refused as busy.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// How long an append may take, and how much longer it is waited for than librdkafka tries.
const LIMIT: Duration = Duration::from_secs(10);
const GRACE: Duration = Duration::from_secs(2);
/// How long what is known of a topic's partitions is taken for true.
const TOPIC_KEPT: Duration = Duration::from_secs(10);

/// Where the records of one append have gone.
#[derive(Default)]
pub(super) struct Delivery {
    state: Mutex<Delivered>,
    done: Condvar,
}

#[derive(Default)]
struct Delivered {
    left: usize,
    ranges: BTreeMap<u32, (u64, u64)>,
    error: Option<(KafkaError, usize)>,
    written: usize,
}

impl Delivery {
    fn expect(&self, records: usize) {
        lock(&self.state).left += records;
    }

    fn note(&self, result: Result<(i32, i64), KafkaError>) {
        let mut state = lock(&self.state);
        state.left -= 1;
        match result {
            Ok((partition, offset)) => {
                let partition = u32::try_from(partition).unwrap_or(0);
                let offset = u64::try_from(offset).unwrap_or(0);
                let range = state.ranges.entry(partition).or_insert((offset, offset + 1));
                *range = (range.0.min(offset), range.1.max(offset + 1));
                state.written += 1;
            }
            Err(error) => {
                state.error.get_or_insert((error, 0));
            }
        }
        if state.left == 0 {
            self.done.notify_all();
        }
    }

    /// Waits until it is known of every record what has become of it.
    pub fn wait(&self, limit: Duration) -> Result<Appended, (KafkaError, usize)> {
        let state = lock(&self.state);
        let waited = self.done.wait_timeout_while(state, limit + GRACE, |state| state.left > 0);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.left > 0 {
            return Err((KafkaError::Canceled, state.written));
        }
        match &state.error {
            Some((error, _)) => Err((error.clone(), state.written)),
            None => Ok(Appended {
                ranges: state.ranges.iter().map(|(p, (a, b))| (PartitionId(*p), Offset(*a), Offset(*b))).collect(),
            }),
        }
    }
}

/// The context of a client that appends.
pub(super) struct Appends(Context);

impl ClientContext for Appends {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.0.generate_oauth_token(config)
    }
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.log(level, facility, message);
    }
    fn stats_raw(&self, statistics: &[u8]) {
        self.0.stats_raw(statistics);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Appends {
    type DeliveryOpaque = Arc<Delivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: Arc<Delivery>) {
        delivery.note(match result {
            Ok(message) => {
                self.0.shared.is_back();
                Ok((message.partition(), message.offset()))
            }
            Err((error, _)) => Err(error.clone()),
        });
    }
}

/// A producer with a thread that takes its answers.
pub(super) struct Client {
    pub producer: Arc<BaseProducer<Appends>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    pub fn new(shared: &Arc<Shared>, transactions: Option<(&str, Duration)>) -> Result<Client, KafkaError> {
        let context = Appends(Context::new(shared, "appends"));
        let producer: BaseProducer<Appends> = shared.config.writing(transactions).create_with_context(context)?;
        let (producer, stop) = (Arc::new(producer), Arc::new(AtomicBool::new(false)));
        let (theirs, stopped) = (producer.clone(), stop.clone());
        let run = move || {
            while !stopped.load(Ordering::Acquire) {
                theirs.poll(Duration::from_millis(100));
            }
        };
        let thread = std::thread::Builder::new().name("kafka-appends".to_owned()).spawn(run);
        let thread = thread.map_err(|error| KafkaError::ClientCreation(error.to_string()))?;
        Ok(Client { producer, stop, thread: Some(thread) })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Topic {
    at: Instant,
    partitions: u32,
    config: TopicConfig,
    keyless: AtomicU32,
}

/// Appends records, and knows the topics that they go to.
pub(super) struct Appender {
    shared: Arc<Shared>,
    looker: Arc<Looker>,
    client: Mutex<Option<Arc<Client>>>,
    topics: Mutex<HashMap<String, Arc<Topic>>>,
    waiting_bytes: AtomicUsize,
}

/// Bytes that wait, given back when it is dropped.
struct Waiting<'a>(&'a AtomicUsize, usize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::AcqRel);
    }
}

impl Appender {
    pub fn new(shared: Arc<Shared>, looker: Arc<Looker>) -> Appender {
        let (client, topics) = (Mutex::default(), Mutex::default());
        Appender { shared, looker, client, topics, waiting_bytes: AtomicUsize::new(0) }
    }

    fn client(&self) -> Result<Arc<Client>, ProduceError> {
        let mut client = lock(&self.client);
        // One that has met a fatal error writes nothing more.
        if let Some((code, why)) = client.as_ref().and_then(|client| client.producer.client().fatal_error()) {
            tracing::warn!("the client that appends to Kafka is made anew: {code}: {why}");
            *client = None;
        }
        match client.as_ref() {
            Some(client) => Ok(client.clone()),
            None => {
                let made = Client::new(&self.shared, None).map_err(|error| ProduceError::Io(error.to_string()))?;
                Ok(client.insert(Arc::new(made)).clone())
            }
        }
    }

    fn topic(&self, name: &str) -> Result<Arc<Topic>, ProduceError> {
        if let Some(topic) = lock(&self.topics).get(name).filter(|topic| topic.at.elapsed() < TOPIC_KEPT) {
            return Ok(topic.clone());
        }
        let away = |error: &dyn ToString| ProduceError::Away(error.to_string());
        let described = self.looker.describe(&[name]).map_err(|error| away(&error))?;
        let unknown = || ProduceError::UnknownTopic { topic: name.to_owned() };
        let partitions = described.get(name).ok_or_else(unknown)?.partitions;
        let config = self.looker.configs(&[name]).map_err(|error| away(&error))?;
        let config = config.get(name).copied().unwrap_or_default();
        let topic = Arc::new(Topic { at: Instant::now(), partitions, config, keyless: AtomicU32::new(0) });
        lock(&self.topics).insert(name.to_owned(), topic.clone());
        Ok(topic)
    }

    /// Forgets what is known of a topic.
    pub fn forget(&self, topic: &str) {
        lock(&self.topics).remove(topic);
    }

    /// Appends and waits. Of several records some may be written where it fails.
    pub fn append(&self, topic: &str, records: &[NewRecord<'_>]) -> Result<Appended, ProduceError> {
        let client = self.client()?;
        let delivery = self.send(&client, topic, records)?;
        delivery.wait(LIMIT).map_err(|error| self.refused(topic, records.len(), error))
    }

    /// Hands the records of an append to the client.
    pub fn send(&self, client: &Client, topic: &str, records: &[NewRecord<'_>]) -> Result<Arc<Delivery>, ProduceError> {
        let known = self.topic(topic)?;
        let mut bytes = 0;
        for (index, record) in records.iter().enumerate() {
            let size = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
            if size > RECORD_BYTES_MAX {
                return Err(ProduceError::TooLarge { index, bytes: size, max: RECORD_BYTES_MAX });
            }
            if known.config.compacted && record.key.is_none() {
                return Err(ProduceError::KeyMissing { topic: topic.to_owned(), index });
            }
            bytes += size;
        }
        if let Some(away) = self.shared.away() {
            return Err(ProduceError::Away(self.shared.sentence("an append has no answer", &away)));
        }
        let waiting = self.waiting_bytes.fetch_add(bytes, Ordering::AcqRel);
        let _waiting = Waiting(&self.waiting_bytes, bytes);
        if waiting > 0 && waiting + bytes > WAITING_BYTES_MAX {
            return Err(ProduceError::Busy);
        }
        let delivery = Arc::new(Delivery::default());
        delivery.expect(records.len());
        // The keyless records of an append go to one partition, of the next append to the next.
        let keyless = known.keyless.fetch_add(1, Ordering::Relaxed) % known.partitions.max(1);
        for record in records {
            let partition = record.key.map_or(keyless, |key| partition_of(key, known.partitions).0);
            let partition = i32::try_from(partition).unwrap_or(0);
            let mut one: BaseRecord<'_, [u8], [u8], Arc<Delivery>> =
                BaseRecord::with_opaque_to(topic, delivery.clone()).partition(partition);
            one.key = record.key;
            one.payload = record.value;
            let deadline = Instant::now() + ANSWER;
            loop {
                match client.producer.send(one) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                        if Instant::now() < deadline =>
                    {
                        one = back;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err((error, _)) => {
                        delivery.note(Err(error));
                        break;
                    }
                }
            }
        }
        Ok(delivery)
    }

    /// What an error means; of so many records so many were written.
    pub fn refused(&self, topic: &str, records: usize, (error, written): (KafkaError, usize)) -> ProduceError {
        use RDKafkaErrorCode as Code;
        self.forget(topic);
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) if written == 0 => {
                ProduceError::UnknownTopic { topic: topic.to_owned() }
            }
            Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
                ProduceError::TooLarge { index: 0, bytes: RECORD_BYTES_MAX, max: RECORD_BYTES_MAX }
            }
            Some(
                Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::InvalidRecord
                | Code::PolicyViolation,
            ) => ProduceError::Io(self.shared.sentence("an append is refused", &error)),
            // It timed out, the broker is away, too few replicas are in sync, or none of that is known.
            _ => {
                let of = if records > 1 {
                    format!(" ({written} of {records} records are known to be written)")
                } else {
                    String::new()
                };
                ProduceError::Away(format!("{}{of}", self.shared.sentence("an append has no answer", &error)))
            }
        }
    }
}
