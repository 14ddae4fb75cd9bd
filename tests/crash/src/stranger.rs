//! Another producer, who writes into the same topics of Kafka in transactions and aborts some of them: what
//! was aborted must never count, and what was committed must.

use crate::feeder::{Shared, lock};
use crate::stream::{Stream, TOPICS};
use anyhow::Context as _;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// One with a thread that takes its answers: a transaction ends only when they are taken.
type Other = ThreadedProducer<DefaultProducerContext>;

/// How long one step of a transaction is waited for, before it is tried again.
const STEP: Duration = Duration::from_secs(5);

/// What was written to a topic.
#[derive(Clone, Debug, Default)]
pub struct Written {
    pub committed: Vec<String>,
    /// By transaction, where nobody knows what has become of it: all of it is there, or nothing.
    pub unknown: Vec<Vec<String>>,
}

/// By topic, and how many transactions there were.
#[derive(Clone, Debug, Default)]
pub struct Book {
    pub topics: [Written; TOPICS.len()],
    pub aborted: u64,
    pub committed: u64,
    pub unknown: u64,
}

/// The thread that writes.
pub struct Stranger {
    pub book: Arc<Mutex<Book>>,
    /// Whether no transaction is open.
    pub is_idle: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What has become of a transaction.
enum End {
    Committed,
    Aborted,
    Unknown,
}

impl Stranger {
    pub fn start(brokers: &str, id: &str, seed: u64, shared: Arc<Shared>) -> Stranger {
        let (book, is_idle) = (Arc::<Mutex<Book>>::default(), Arc::new(AtomicBool::new(true)));
        let (theirs, idle) = (book.clone(), is_idle.clone());
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", brokers).set("transactional.id", id);
        config.set("transaction.timeout.ms", "20000").set("message.timeout.ms", "20000");
        config.set("reconnect.backoff.max.ms", "500").set("linger.ms", "0");
        let thread = std::thread::spawn(move || {
            if let Err(error) = write(&config, seed, &shared, &theirs, &idle) {
                shared.fault(format!("the other producer: {error:#}"));
            }
        });
        Stranger { book, is_idle, thread }
    }

    pub fn join(self) {
        self.thread.join().ok();
    }
}

fn write(
    config: &ClientConfig,
    seed: u64,
    shared: &Shared,
    book: &Mutex<Book>,
    idle: &AtomicBool,
) -> anyhow::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x57);
    let mut streams: Vec<Stream> = (0..TOPICS.len()).map(|topic| Stream::new(topic, seed ^ 0x57, "s")).collect();
    let mut producer: Option<Other> = None;
    loop {
        idle.store(true, Ordering::Release);
        std::thread::sleep(Duration::from_millis(rng.random_range(0..150)));
        if shared.is_stopping() {
            return Ok(());
        }
        idle.store(false, Ordering::Release);
        if shared.quiet.load(Ordering::SeqCst) {
            continue;
        }
        let client = match &producer {
            Some(client) => client,
            None => {
                let client: Other = config.create().context("it can't be made")?;
                // A broker that is away is waited for.
                if client.init_transactions(STEP).is_err() {
                    continue;
                }
                producer.insert(client)
            }
        };
        let mut lines: [Vec<String>; TOPICS.len()] = Default::default();
        for _ in 0..rng.random_range(1..=3) {
            let topic = rng.random_range(0..TOPICS.len());
            lines[topic].extend(streams[topic].batch());
        }
        let aborts = rng.random_ratio(1, 2);
        let end = transaction(client, &lines, aborts, shared, &mut rng);
        // One that has met what can't be mended is made anew, which ends what it has left.
        if matches!(end, End::Unknown) || client.client().fatal_error().is_some() {
            producer = None;
        }
        let mut book = lock(book);
        match end {
            End::Aborted => book.aborted += 1,
            End::Committed => {
                book.committed += 1;
                lines.into_iter().zip(&mut book.topics).for_each(|(lines, of)| of.committed.extend(lines));
            }
            End::Unknown => {
                book.unknown += 1;
                let some = lines.into_iter().zip(&mut book.topics).filter(|(lines, _)| !lines.is_empty());
                some.for_each(|(lines, of)| of.unknown.push(lines));
            }
        }
    }
}

fn transaction(
    producer: &Other,
    lines: &[Vec<String>; TOPICS.len()],
    aborts: bool,
    shared: &Shared,
    rng: &mut ChaCha8Rng,
) -> End {
    let send = |line: &str, topic: &str, partition: i32| {
        producer.send(BaseRecord::<(), str>::to(topic).partition(partition).payload(line)).is_ok()
    };
    let mut sent = producer.begin_transaction().is_ok();
    for (lines, (topic, partitions)) in lines.iter().zip(TOPICS) {
        for line in lines {
            sent = sent && send(line, topic, rng.random_range(0..partitions as i32));
        }
    }
    // It stays open for a while, now and then for long, and what comes after it can't be read.
    let open_ms = [0, 0, 5, 50, 200, 1_000].choose(rng).copied().unwrap_or(0);
    producer.flush(Duration::from_millis(open_ms + 1)).ok();
    std::thread::sleep(Duration::from_millis(open_ms));
    let mut commits = sent && !aborts;
    loop {
        let done = if commits { producer.commit_transaction(STEP) } else { producer.abort_transaction(STEP) };
        match done {
            Ok(()) if commits => return End::Committed,
            Ok(()) => return End::Aborted,
            Err(KafkaError::Transaction(error)) if error.is_retriable() && !shared.is_stopping() => {}
            // Nothing of it was committed: one of its records has met an error.
            Err(KafkaError::Transaction(error)) if commits && error.txn_requires_abort() => commits = false,
            Err(_) => return End::Unknown,
        }
    }
}
