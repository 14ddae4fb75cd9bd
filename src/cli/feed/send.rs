//! Sending records to a topic so that each arrives once, whatever becomes of the connection.

use crate::cli::client::{Client, RequestError};
use anyhow::{Context, anyhow};
use reqwest::Method;
use std::time::{Duration, Instant};

/// At most so many records in one request.
pub const BATCH_RECORDS_MAX: usize = 10_000;

/// A request is sent once it is so long; a longer record goes by itself. Far below what a server takes.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// For how long one batch is tried: a server that is started again is back sooner.
const TRY_MAX: Duration = Duration::from_secs(60);

/// The wait before the second try; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);

const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long one try may take; an append waits for a disk, not for more.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Records to be sent as one append.
#[derive(Debug, Default)]
pub struct Batch {
    ndjson: Vec<u8>,
    records: usize,
}

impl Batch {
    /// Adds a record: one JSON value without line breaks.
    pub fn push(&mut self, record: &[u8]) {
        self.ndjson.extend_from_slice(record);
        self.ndjson.push(b'\n');
        self.records += 1;
    }

    /// Whether it should be sent before anything is added.
    pub fn is_full(&self) -> bool {
        self.records >= BATCH_RECORDS_MAX || self.ndjson.len() >= BATCH_BYTES_MAX
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }
}

/// Writes batches to one topic, one after the other: their order is kept.
pub struct Sender {
    client: Client,
    topic: String,
    key: Option<String>,
    /// Makes this run's idempotency keys its own.
    run: String,
    batches: u64,
    /// Records that the server has acknowledged.
    pub records: u64,
}

impl Sender {
    /// `key` is a JSON Pointer to what chooses the partition.
    pub fn new(client: Client, topic: &str, key: Option<&str>) -> anyhow::Result<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|e| anyhow!("the system gives no random numbers: {e}"))?;
        let run = format!("feed-{:032x}", u128::from_le_bytes(random));
        Ok(Sender { client, topic: topic.to_owned(), key: key.map(str::to_owned), run, batches: 0, records: 0 })
    }

    /// Sends a batch and waits until it is durable. Tries again, under the same idempotency key, where
    /// the connection breaks or the server is busy: what had arrived is not written twice.
    pub async fn send(&mut self, batch: Batch) -> anyhow::Result<()> {
        let Batch { ndjson, records } = batch;
        let body = bytes::Bytes::from(ndjson);
        let idempotency_key = format!("{}-{}", self.run, self.batches);
        let (began, mut backoff) = (Instant::now(), BACKOFF_MIN);
        loop {
            let mut request = self
                .client
                .request(Method::POST, &["topics", &self.topic, "records"])
                .header("content-type", "application/x-ndjson")
                .header("idempotency-key", &idempotency_key)
                .timeout(ANSWER_MAX)
                .body(body.clone());
            if let Some(key) = &self.key {
                request = request.query(&[("key", key)]);
            }
            let Err(error) = self.client.send(request).await else { break };
            // A server that never answered is more likely not there than on its way up.
            let never_answered = self.records == 0 && matches!(error, RequestError::Unreachable { .. });
            if !error.retryable() || never_answered || began.elapsed() >= TRY_MAX {
                let error = anyhow!(error);
                return if self.records > 0 {
                    let arrived = format!("stopped after {} records had arrived in {:?}", self.records, self.topic);
                    Err(error).context(arrived)
                } else {
                    Err(error)
                };
            }
            let asked = match error {
                RequestError::Refused { retry_after, .. } => retry_after.unwrap_or_default(),
                _ => Duration::ZERO,
            };
            tokio::time::sleep(backoff.max(asked).min(BACKOFF_MAX)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        self.batches += 1;
        self.records += records as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;

    /// Answers each request with the next of `answers` (none: the connection is cut) and returns each
    /// request's idempotency key and body.
    fn server(answers: Vec<Option<&'static str>>) -> (String, std::thread::JoinHandle<Vec<(String, String)>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut key, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    let line = line.trim().to_lowercase();
                    if line.is_empty() {
                        break;
                    }
                    if let Some(value) = line.strip_prefix("idempotency-key: ") {
                        key = value.to_owned();
                    }
                    if let Some(value) = line.strip_prefix("content-length: ") {
                        length = value.parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                seen.push((key, String::from_utf8(body).unwrap()));
                if let Some(answer) = answer {
                    let close = "connection: close\r\ncontent-length: 2\r\n\r\n{}";
                    stream.write_all(format!("HTTP/1.1 {answer}\r\n{close}").as_bytes()).unwrap();
                }
            }
            seen
        });
        (url, serving)
    }

    fn batch(record: &str) -> Batch {
        let mut batch = Batch::default();
        batch.push(record.as_bytes());
        batch
    }

    #[tokio::test]
    async fn a_batch_is_tried_again_under_its_key_and_the_next_has_another() {
        let busy = "429 Too Many Requests";
        let (url, serving) =
            server(vec![None, Some(busy), Some("503 Service Unavailable"), Some("200 OK"), Some("200 OK")]);
        let client = Client::new(url.parse().unwrap()).unwrap();
        let mut sender = Sender::new(client, "t", Some("/k")).unwrap();
        sender.send(batch(r#"{"k":1}"#)).await.unwrap();
        sender.send(batch(r#"{"k":2}"#)).await.unwrap();
        assert_eq!(sender.records, 2);
        let seen = serving.join().unwrap();
        assert!(seen[..4].iter().all(|(key, body)| *key == seen[0].0 && body == "{\"k\":1}\n"), "{seen:?}");
        assert_ne!(seen[4].0, seen[0].0);
    }

    #[tokio::test]
    async fn a_refusal_is_not_tried_again() {
        let (url, serving) = server(vec![Some("404 Not Found")]);
        let client = Client::new(url.parse().unwrap()).unwrap();
        assert!(Sender::new(client, "t", None).unwrap().send(batch("1")).await.is_err());
        assert_eq!(serving.join().unwrap().len(), 1);
    }
}
