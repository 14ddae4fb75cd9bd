//! Writes the known stream, and remembers what was acknowledged. An append whose answer was lost is sent
//! again under its key until it is answered, by whichever server runs then.

use crate::http::Http;
use crate::stream::{Stream, TOPICS};
use anyhow::Context;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Locks what a thread that has failed may have left.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all threads of a campaign share.
#[derive(Default)]
pub struct Shared {
    /// Where the server is reached, while there is one.
    url: RwLock<Option<String>>,
    /// Nothing more is to be written.
    pub quiet: AtomicBool,
    /// Everybody is to end.
    pub stop: AtomicBool,
    /// What was found.
    faults: Mutex<Vec<String>>,
}

impl Shared {
    pub fn url(&self) -> Option<String> {
        self.url.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_url(&self, url: Option<String>) {
        *self.url.write().unwrap_or_else(PoisonError::into_inner) = url;
    }

    /// Notes something that must not be.
    pub fn fault(&self, what: String) {
        let mut faults = lock(&self.faults);
        // The first ones tell.
        if faults.len() < 20 {
            faults.push(what);
        }
    }

    pub fn faults(&self) -> Vec<String> {
        lock(&self.faults).clone()
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// An append that was acknowledged.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub lines: Vec<String>,
    /// Partition, first offset, one past the last.
    pub ranges: Vec<(usize, u64, u64)>,
}

/// A thread that writes one topic.
pub struct Feeder {
    /// In the order of their acknowledgement, which is not that of the log.
    pub book: Arc<Mutex<Vec<Acknowledged>>>,
    /// Whether nothing is on its way.
    pub is_idle: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Feeder {
    pub fn start(topic: usize, seed: u64, shared: Arc<Shared>) -> Feeder {
        let (book, is_idle) = (Arc::<Mutex<Vec<Acknowledged>>>::default(), Arc::new(AtomicBool::new(true)));
        let (theirs, idle) = (book.clone(), is_idle.clone());
        let thread = std::thread::spawn(move || {
            if let Err(error) = feed(topic, seed, &shared, &theirs, &idle) {
                shared.fault(format!("writing {}: {error:#}", TOPICS[topic].0));
            }
        });
        Feeder { book, is_idle, thread }
    }

    pub fn join(self) {
        self.thread.join().ok();
    }
}

fn feed(
    topic: usize,
    seed: u64,
    shared: &Shared,
    book: &Mutex<Vec<Acknowledged>>,
    idle: &AtomicBool,
) -> anyhow::Result<()> {
    let (mut stream, mut number) = (Stream::new(topic, seed, ""), 0u64);
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ topic as u64);
    let path = format!("/api/topics/{}/records", TOPICS[topic].0);
    let mut http: Option<Http> = None;
    'appends: loop {
        idle.store(true, Ordering::Release);
        std::thread::sleep(Duration::from_millis(rng.random_range(0..60)));
        if shared.is_stopping() {
            return Ok(());
        }
        idle.store(false, Ordering::Release);
        // Looked at after it was said, so that whoever asks for quiet and then sees it idle has quiet.
        if shared.quiet.load(Ordering::SeqCst) {
            continue;
        }
        let lines = stream.batch();
        let (body, key) = (lines.join("\n"), format!("{}-{seed:x}-{number}", TOPICS[topic].0));
        number += 1;
        loop {
            if shared.is_stopping() {
                return Ok(());
            }
            let Some(url) = shared.url() else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            let client = match &mut http {
                Some(client) if client.url == url => client,
                http => http.insert(Http::new(&url, Duration::from_secs(20))?),
            };
            let headers = [("idempotency-key", &*key)];
            match client.send(reqwest::Method::POST, &path, &headers, body.clone()) {
                Ok(answer) if answer.is_ok() => {
                    let ranges = ranges(&answer.json()?).with_context(|| format!("the answer {answer:?}"))?;
                    lock(book).push(Acknowledged { lines, ranges });
                    continue 'appends;
                }
                // Busy, stopping or full: nothing was appended.
                Ok(answer) if [429, 500, 503, 507].contains(&answer.status) => {}
                Ok(answer) => anyhow::bail!("an append was answered {answer:?}"),
                Err(_) => {}
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn ranges(answer: &serde_json::Value) -> Option<Vec<(usize, u64, u64)>> {
    let of_partition = |(partition, range): (&String, &serde_json::Value)| {
        Some((partition.parse().ok()?, range[0].as_u64()?, range[1].as_u64()?))
    };
    answer["offsets"].as_object()?.iter().map(of_partition).collect()
}
