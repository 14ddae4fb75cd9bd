//! How long it takes from sending an append to reading the event that holds it.
//!
//! ```text
//! tallyflow serve --data-dir /tmp/latency &
//! cargo run --release --example latency -- http://127.0.0.1:8080 [SECONDS] [RECORDS_PER_S]
//! ```
//!
//! A client process of its own: it appends batches of 10 records, each at its due time whether earlier
//! ones were answered or not, and reads the job's events with `every=0`. The topic has one partition, so
//! that the job's count of records read tells which batches an event holds. Three histograms: until the
//! append was answered (which includes the log's sync), until the event was read, and the second less
//! the first.

use hdrhistogram::Histogram;
use std::error::Error;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const BATCH: u64 = 10;
const CONNECTIONS: u64 = 16;

const JOB: &str = "
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
";

/// A batch that was answered: where it ends, when it was due and when it was answered.
struct Sent {
    end: u64,
    due: Instant,
    answered: Instant,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let url = args.first().ok_or("say where the server is: http://127.0.0.1:8080")?.trim_end_matches('/').to_owned();
    let seconds: u64 = args.get(1).map_or(Ok(60), |a| a.parse())?;
    let records_per_s: u64 = args.get(2).map_or(Ok(10_000), |a| a.parse())?;
    let http = reqwest::Client::builder().tcp_nodelay(true).build()?;
    let topic = serde_json::json!({"name": "latency", "partitions": 1});
    // Both may be there from an earlier run: the job begins at the end either way.
    http.post(format!("{url}/api/topics")).json(&topic).send().await?;
    http.delete(format!("{url}/api/jobs/latency?mode=now")).send().await?;
    let job = http.post(format!("{url}/api/jobs")).header("content-type", "application/toml").body(JOB).send().await?;
    let job = job.error_for_status()?;
    drop(job);
    let start = end_offset(&http, &url).await?;

    let (event_tx, mut events) = mpsc::unbounded_channel();
    let reader = tokio::spawn(read_events(url.trim_start_matches("http://").to_owned(), event_tx));
    // The snapshot: the stream stands.
    events.recv().await.ok_or("the stream of events ended")?;

    let (sent_tx, mut sent) = mpsc::unbounded_channel();
    let batches = seconds * records_per_s / BATCH;
    let began = Instant::now() + Duration::from_millis(50);
    for connection in 0..CONNECTIONS {
        let (http, url, sent) = (http.clone(), url.clone(), sent_tx.clone());
        tokio::spawn(async move {
            for batch in (connection..batches).step_by(CONNECTIONS as usize) {
                let due = began + Duration::from_nanos(1_000_000_000 * BATCH / records_per_s * batch);
                tokio::time::sleep_until(due.into()).await;
                let body: String = (0..BATCH).map(|n| vote(batch * BATCH + n)).collect();
                let answer = http.post(format!("{url}/api/topics/latency/records")).body(body).send().await;
                let Ok(answer) = answer.and_then(reqwest::Response::error_for_status) else { return };
                let answered = Instant::now();
                let Ok(body) = answer.json::<serde_json::Value>().await else { return };
                let Some(end) = body.pointer("/offsets/0/1").and_then(serde_json::Value::as_u64) else { return };
                sent.send(Sent { end: end - start, due, answered }).ok();
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
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(read, _)| *read < batches * BATCH) {
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

fn vote(n: u64) -> String {
    format!(
        "{{\"poll\":\"p\",\"voter\":\"v{}\",\"option\":\"option-{}\",\"at\":{}}}\n",
        n % 100_000,
        n % 10,
        1_700_000_000_000 + n
    )
}

async fn end_offset(http: &reqwest::Client, url: &str) -> Result<u64, Box<dyn Error>> {
    let topics: serde_json::Value = http.get(format!("{url}/api/topics?limit=1000")).send().await?.json().await?;
    let items = topics["items"].as_array().ok_or("no list of topics")?;
    let topic = items.iter().find(|t| t["name"] == "latency").ok_or("the topic is not there")?;
    topic["partitions"][0]["end"].as_u64().or(topic["partitions"][0]["end_offset"].as_u64()).ok_or("no end".into())
}

/// Sends, for each event, how many records it stands for and when it was read.
async fn read_events(addr: String, to: mpsc::UnboundedSender<(u64, Instant)>) -> std::io::Result<()> {
    loop {
        let mut stream = TcpStream::connect(&addr).await?;
        stream.set_nodelay(true)?;
        let request = format!("GET /api/jobs/latency/events?every=0 HTTP/1.1\r\nHost: {addr}\r\n\r\n");
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
