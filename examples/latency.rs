//! How long it takes from sending an append to reading the event that holds it.
//!
//! ```text
//! tallyflow serve --data-dir /tmp/latency &
//! cargo run --release --example latency -- http://127.0.0.1:8080 [SECONDS] [RECORDS_PER_S]
//! cargo run --release --example latency -- http://127.0.0.1:8080 SECONDS RECORDS_PER_S POSTS POLLS
//! ```
//!
//! A client process of its own: it appends batches of 10 records, each at its due time whether earlier
//! ones were answered or not, and reads the job's events with `every=0`. The topic has one partition, so
//! that the job's count of records read tells which batches an event holds. Three histograms: until the
//! append was answered (which includes the log's sync), until the event was read, and the second less
//! the first.
//!
//! With POSTS and POLLS it does so with a job of polls, over a log that it first fills with so many posts:
//! once with nothing else to do, and once while as many people at a time make polls over all of the past.

use hdrhistogram::Histogram;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const BATCH: u64 = 10;
const CONNECTIONS: u64 = 16;
/// How many posts of the past are appended at a time.
const BULK: u64 = 20_000;
/// How many words posts are made of, and what the polls' options are taken from.
const WORDS: u64 = 40_000;

/// What is measured: a job over the one topic that it reads.
#[derive(Clone, Copy)]
struct Load {
    /// Of the job and of its topic.
    name: &'static str,
    job: &'static str,
    record: fn(u64) -> String,
}

const VOTES: Load = Load {
    name: "latency",
    job: "
name = \"latency\"
dataflow = \"tally\"
[[input]]
topic = \"latency\"
format = \"vote\"
from = \"end\"
[tally]
group = \"/option\"
entity = \"/voter\"
keep = \"last\"
order = \"/at\"
",
    record: vote,
};

const POSTS: Load = Load {
    name: "past",
    job: "
name = \"past\"
dataflow = \"polls\"
[[input]]
topic = \"past\"
format = \"post\"
",
    record: post,
};

/// A batch that was answered: where it ends, when it was due and when it was answered.
struct Sent {
    end: u64,
    due: Instant,
    answered: Instant,
}

/// A server, and how it is talked to.
#[derive(Clone)]
struct Server {
    http: reqwest::Client,
    url: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let url = args.first().ok_or("say where the server is: http://127.0.0.1:8080")?.trim_end_matches('/').to_owned();
    let number = |at: usize, default: u64| args.get(at).map_or(Ok(default), |a| a.parse());
    let (seconds, records_per_s) = (number(1, 60)?, number(2, 10_000)?);
    let (posts, polls) = (number(3, 0)?, number(4, 0)?);
    let server = Server { http: reqwest::Client::builder().tcp_nodelay(true).build()?, url };
    if posts == 0 {
        server.begin(VOTES).await?;
        return server.measure(VOTES, seconds, records_per_s).await;
    }
    server.begin(POSTS).await?;
    server.fill(posts).await?;
    println!("nothing else to do:");
    server.measure(POSTS, seconds, records_per_s).await?;
    println!("while {polls} people make polls over {posts} posts of the past:");
    let asked = Instant::now();
    let made = Arc::new(AtomicBool::new(false));
    let makers = tokio::spawn(server.clone().make_polls(polls, made.clone()));
    let passes = tokio::spawn(server.clone().count_passes(made));
    server.measure(POSTS, seconds, records_per_s).await?;
    makers.await??;
    let (passes, until) = passes.await??;
    let took = until.duration_since(asked).as_secs_f64();
    println!("all of them counted after {took:.1} s, in {passes} passes");
    Ok(())
}

impl Server {
    /// Makes the topic and the job. Both may be there from an earlier run.
    async fn begin(&self, load: Load) -> Result<(), Box<dyn Error>> {
        let Server { http, url } = self;
        let topic = serde_json::json!({"name": load.name, "partitions": 1});
        http.post(format!("{url}/api/topics")).json(&topic).send().await?;
        http.delete(format!("{url}/api/jobs/{}?mode=now", load.name)).send().await?;
        let job = http.post(format!("{url}/api/jobs")).header("content-type", "application/toml").body(load.job);
        job.send().await?.error_for_status()?;
        Ok(())
    }

    /// Appends posts until the log has so many, and waits until the job has read them.
    async fn fill(&self, posts: u64) -> Result<(), Box<dyn Error>> {
        let mut next = self.end_offset(POSTS.name).await?;
        while next < posts {
            let body: String = (next..next + BULK).map(post).collect();
            let to = format!("{}/api/topics/{}/records", self.url, POSTS.name);
            self.http.post(to).body(body).send().await?.error_for_status()?;
            next += BULK;
        }
        while self.job(POSTS.name).await?["inputs"][0]["next_offset"].as_u64() < Some(next) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn job(&self, name: &str) -> Result<serde_json::Value, reqwest::Error> {
        self.http.get(format!("{}/api/jobs/{name}", self.url)).send().await?.json().await
    }

    /// So many people, each of whom makes a poll over all of the past.
    async fn make_polls(self, polls: u64, made: Arc<AtomicBool>) -> Result<(), reqwest::Error> {
        let next = Arc::new(AtomicU64::new(0));
        let run = Instant::now().elapsed().as_nanos() as u64 ^ u64::from(std::process::id());
        let people = (0..polls.min(64)).map(|_| {
            let (server, next) = (self.clone(), next.clone());
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= polls {
                        return Ok(());
                    }
                    let options: Vec<String> = (0..4).map(|o| format!("word{}", (n * 4 + o) % WORDS)).collect();
                    let poll = serde_json::json!({"id": format!("{run}-{n}"), "options": options, "job": POSTS.name,
                        "opens": "2020-01-01T00:00:00Z"});
                    let answer = server.http.post(format!("{}/api/polls", server.url)).json(&poll).send().await?;
                    answer.error_for_status()?;
                }
            })
        });
        let people: Vec<tokio::task::JoinHandle<Result<(), reqwest::Error>>> = people.collect();
        for person in people {
            person.await.unwrap_or(Ok(()))?;
        }
        made.store(true, Ordering::Release);
        Ok(())
    }

    /// How many passes over the past it takes until every poll is counted, and when that was.
    async fn count_passes(self, made: Arc<AtomicBool>) -> Result<(u64, Instant), reqwest::Error> {
        let (mut passes, mut before) = (0, None);
        loop {
            let all_made = made.load(Ordering::Acquire);
            let now = self.job(POSTS.name).await?["refill"]["records"].as_u64();
            // It begins with none, again with each pass.
            if let Some(now) = now
                && before.is_none_or(|before| now < before)
            {
                passes += 1;
            }
            if all_made && now.is_none() {
                return Ok((passes, Instant::now()));
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end_offset(&self, topic: &str) -> Result<u64, Box<dyn Error>> {
        let topics = self.http.get(format!("{}/api/topics?limit=1000", self.url)).send().await?;
        let topics: serde_json::Value = topics.json().await?;
        let items = topics["items"].as_array().ok_or("no list of topics")?;
        let topic = items.iter().find(|t| t["name"] == topic).ok_or("the topic is not there")?;
        topic["partitions"][0]["end"].as_u64().or(topic["partitions"][0]["end_offset"].as_u64()).ok_or("no end".into())
    }

    /// Appends for so long and prints how long it took.
    async fn measure(&self, load: Load, seconds: u64, records_per_s: u64) -> Result<(), Box<dyn Error>> {
        let start = self.end_offset(load.name).await?;
        let (event_tx, mut events) = mpsc::unbounded_channel();
        let addr = self.url.trim_start_matches("http://").to_owned();
        let reader = tokio::spawn(read_events(addr, load.name, event_tx));
        // The snapshot: the stream stands. A job that began at the log's end has read less than that.
        let (read, _) = events.recv().await.ok_or("the stream of events ended")?;
        let before = start - read;
        let (sent_tx, mut sent) = mpsc::unbounded_channel();
        let batches = seconds * records_per_s / BATCH;
        let began = Instant::now() + Duration::from_millis(50);
        for connection in 0..CONNECTIONS {
            let (server, sent) = (self.clone(), sent_tx.clone());
            tokio::spawn(async move {
                for batch in (connection..batches).step_by(CONNECTIONS as usize) {
                    let due = began + Duration::from_nanos(1_000_000_000 * BATCH / records_per_s * batch);
                    tokio::time::sleep_until(due.into()).await;
                    let body: String = (0..BATCH).map(|n| (load.record)(start + batch * BATCH + n)).collect();
                    let to = format!("{}/api/topics/{}/records", server.url, load.name);
                    let answer = server.http.post(to).body(body).send().await;
                    let Ok(answer) = answer.and_then(reqwest::Response::error_for_status) else { return };
                    let answered = Instant::now();
                    let Ok(body) = answer.json::<serde_json::Value>().await else { return };
                    let Some(end) = body.pointer("/offsets/0/1").and_then(serde_json::Value::as_u64) else { return };
                    sent.send(Sent { end: end - before, due, answered }).ok();
                }
            });
        }
        drop(sent_tx);
        let mut all = Vec::new();
        while let Some(one) = sent.recv().await {
            all.push(one);
        }
        if all.len() as u64 != batches {
            return Err(format!("{} of {batches} batches were answered", all.len()).into());
        }
        let last = all.iter().map(|one| one.end).max().unwrap_or_default();
        let mut seen = Vec::new();
        while seen.last().is_none_or(|(read, _)| *read < last) {
            let event = tokio::time::timeout(Duration::from_secs(30), events.recv()).await?;
            seen.push(event.ok_or("the stream of events ended")?);
        }
        reader.abort();
        let [mut append, mut total, mut beyond] = [(); 3].map(|()| Histogram::<u64>::new(3).expect("3 digits"));
        for one in &all {
            let (_, read) = seen[seen.partition_point(|(read, _)| *read < one.end)];
            let us = |d: Duration| d.as_micros() as u64;
            append.record(us(one.answered - one.due))?;
            total.record(us(read - one.due))?;
            beyond.record(us(read.saturating_duration_since(one.answered)))?;
        }
        println!("{batches} batches of {BATCH} records at {records_per_s} records/s, {} events", seen.len());
        for (name, h) in
            [("append, with its sync", &append), ("until the event was read", &total), ("beyond the append", &beyond)]
        {
            let ms = |q| h.value_at_quantile(q) as f64 / 1000.0;
            println!("{name:26} p50 {:7.2} ms  p99 {:7.2} ms  max {:7.2} ms", ms(0.5), ms(0.99), ms(1.0));
        }
        Ok(())
    }
}

/// A post of 16 words, from numbers that spread but are the same in every run.
fn post(n: u64) -> String {
    let words = (0..16).map(|w| (n * 16 + w).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20);
    let text: Vec<String> = words.map(|word| format!("word{}", word % WORDS)).collect();
    let at = 1_700_000_000_000 + n;
    format!("{{\"id\":\"{n}\",\"author\":\"a{}\",\"text\":\"{}\",\"at\":{at}}}\n", n % 100_000, text.join(" "))
}

fn vote(n: u64) -> String {
    format!(
        "{{\"poll\":\"p\",\"voter\":\"v{}\",\"option\":\"option-{}\",\"at\":{}}}\n",
        n % 100_000,
        n % 10,
        1_700_000_000_000 + n
    )
}

/// Sends, for each event, how many records it stands for and when it was read.
async fn read_events(addr: String, job: &str, to: mpsc::UnboundedSender<(u64, Instant)>) -> std::io::Result<()> {
    loop {
        let mut stream = TcpStream::connect(&addr).await?;
        stream.set_nodelay(true)?;
        let request = format!("GET /api/jobs/{job}/events?every=0 HTTP/1.1\r\nHost: {addr}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut lines = BufReader::new(stream).lines();
        let mut streaming = false;
        while let Some(line) = lines.next_line().await? {
            // Until the first epoch has closed the answer is 503: ask again.
            if line.starts_with("HTTP/1.1 503") {
                break;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                streaming = true;
                let now = Instant::now();
                let read = data.split_once("\"read\":").and_then(|(_, rest)| rest.split_once(','));
                if let Some(read) = read.and_then(|(read, _)| read.parse().ok())
                    && to.send((read, now)).is_err()
                {
                    return Ok(());
                }
            }
        }
        if streaming {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
