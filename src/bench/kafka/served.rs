//! The server itself: its node and its engine, each a process.

use super::{Ran, config};
use crate::bench::Named;
use crate::bench::plain::Tallies;
use crate::bench::process::{self, Machine};
use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tallyflow_connectors::log::kafka::plain::delete_topics;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// How long anything may take that is no reading.
const SOON: Duration = Duration::from_secs(60);
/// How long a job may stand still.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A running server over an empty directory, with the records in Kafka and a checkpoint every second.
pub struct Server {
    pub url: String,
    pub http: reqwest::Client,
    brokers: String,
    prefix: String,
    node: Child,
    engine: u32,
    _dir: TempDir,
}

impl Server {
    pub async fn start(brokers: &str, workers: usize) -> anyhow::Result<Server> {
        let dir = tempfile::tempdir().context("a temporary directory can't be made")?;
        let mut random = [0; 6];
        getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
        let prefix = random.iter().fold("tallyflow-bench-".to_owned(), |name, byte| format!("{name}{byte:02x}"));
        let mut node = Command::new(std::env::current_exe()?)
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "error", "--kafka", brokers])
            .args(["--workers", &workers.to_string(), "--data-dir"])
            .arg(dir.path())
            .env("TALLYFLOW_KAFKA_PREFIX", &prefix)
            .env("TALLYFLOW_KAFKA_DEAD_LETTERS", "")
            .env("TALLYFLOW_CHECKPOINT_EVERY", "1s")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let url = process::first_line(&mut node).await?;
        let url = url.strip_prefix("listening on ").context("the server did not say where it listens")?.to_owned();
        let http = reqwest::Client::builder().no_proxy().build()?;
        let brokers = brokers.to_owned();
        let mut server = Server { url, http, brokers, prefix, node, engine: 0, _dir: dir };
        let deadline = Instant::now() + SOON;
        while server.engine == 0 {
            let cluster: serde_json::Value = server.get("/api/cluster").await?;
            server.engine = cluster["engine_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
            if Instant::now() > deadline {
                bail!("the server's engine does not start");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(server)
    }

    pub async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    pub async fn submit(&self, job: String) -> anyhow::Result<()> {
        let request = self.http.post(format!("{}/api/jobs", self.url)).header("content-type", "application/toml");
        let answer = request.body(job).send().await?;
        if !answer.status().is_success() {
            bail!("the job is refused: {}", answer.text().await?);
        }
        Ok(())
    }

    /// The job's events, one in so many milliseconds at most, as soon as there are some.
    pub async fn events(&self, job: &str, every: &str) -> anyhow::Result<Events> {
        let addr = self.url.trim_start_matches("http://");
        let deadline = Instant::now() + SOON;
        loop {
            let mut stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            let request = format!("GET /api/jobs/{job}/events?every={every} HTTP/1.1\r\nHost: {addr}\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut lines = BufReader::with_capacity(1 << 16, stream).lines();
            let status = lines.next_line().await?.unwrap_or_default();
            if status.starts_with("HTTP/1.1 200") {
                return Ok(Events { lines });
            }
            // Until the first epoch has closed there is nothing true to show.
            if Instant::now() > deadline || !status.starts_with("HTTP/1.1 503") {
                bail!("the job's events can't be read: {status}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// CPU time of both processes.
    pub fn cpu_s(&self) -> f64 {
        self.node.id().map_or(0.0, process::cpu_s) + process::cpu_s(self.engine)
    }

    /// The most that each has had in memory, together.
    pub fn peak_bytes(&self) -> u64 {
        self.node.id().map_or(0, process::peak_bytes) + process::peak_bytes(self.engine)
    }

    /// Ends it, and deletes what it kept in Kafka for itself.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.node.kill().await?;
        let config = config(&self.brokers)?;
        let topics = [format!("__{}", self.prefix), format!("__{}-appends", self.prefix)];
        tokio::task::spawn_blocking(move || delete_topics(&config, &topics.each_ref().map(String::as_str)))
            .await?
            .map_err(|error| anyhow!(error))
    }
}

/// A stream of events.
pub struct Events {
    lines: Lines<BufReader<TcpStream>>,
}

impl Events {
    /// The data of the next event, and when it was there.
    pub async fn next(&mut self) -> anyhow::Result<(String, Instant)> {
        loop {
            let line = tokio::time::timeout(SILENCE_MAX, self.lines.next_line());
            let line = line.await.context("the job stands still")??.context("the stream of events has ended")?;
            if line.starts_with("data: ") {
                return Ok((line, Instant::now()));
            }
        }
    }
}

/// How many records an event stands for.
fn read_of(event: &str) -> Option<u64> {
    let digits = event.split_once("\"read\":")?.1;
    digits[..digits.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

#[derive(Deserialize)]
struct Answer {
    subjects: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    subject: String,
    tallies: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    group: String,
    value: i64,
}

/// Has a server tally the topic from its beginning.
pub async fn run(brokers: &str, workload: Named, topic: &super::fill::Topic, workers: usize) -> anyhow::Result<Ran> {
    let server = Server::start(brokers, workers).await?;
    let spec = workload.spec();
    let job = spec.job.replace("\"records\"", &format!("\"{}\"", topic.name));
    let name = spec.job.lines().find_map(|line| line.trim().strip_prefix("name = ")).unwrap_or_default();
    let name = name.trim_matches('"');
    let (started, cpu, machine) = (Instant::now(), server.cpu_s(), Machine::watch());
    server.submit(job).await?;
    let mut events = server.events(name, "50ms").await?;
    let (seconds, read) = loop {
        let (event, at) = events.next().await?;
        match read_of(&event) {
            Some(read) if read >= topic.records => break ((at - started).as_secs_f64(), read),
            _ => {}
        }
    };
    let (cpu_s, peak_bytes, busy) = (server.cpu_s() - cpu, server.peak_bytes(), machine.busy());
    let answer: Answer = server.get(&format!("/api/jobs/{name}/tallies")).await?;
    let lines = answer.subjects.into_iter().flat_map(|Subject { subject, tallies }| {
        tallies.into_iter().map(move |line| (workload.line(&subject, &line.group), line.value))
    });
    let tallies: Tallies = lines.filter(|(_, count)| *count != 0).collect();
    server.end().await?;
    Ok(Ran { records: read, seconds, cpu_s, peak_bytes, entities: 0, tallies, busy })
}
