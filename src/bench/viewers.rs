//! `tallyflow bench --workload viewers`: many readers of one job's events on one machine.
//!
//! ```text
//! this process: appends, measures the server's CPU time and memory
//!    |--> a server (its own process, with its engine)
//!    '--> the viewers (their own process), who read events and note how old they are
//! ```

use crate::bench::process::{cpu_s, first_line, rss_bytes};
use crate::cli::output;
use anyhow::{Context, bail};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::JoinSet;

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    workload: &'static str,
    /// Events that viewers read.
    records: u64,
    workers: usize,
    records_per_s: f64,
    viewers: u32,
    deltas_per_s: u32,
    /// Deltas that a viewer got by deltas that there were: less than 1 where late ones were merged.
    delivered: f64,
    /// CPU time of the server's process, without its engine.
    cpu_s: f64,
    cpu_s_per_million: f64,
    /// From the end of an epoch to its event being read.
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    rss_bytes: u64,
    rss_bytes_per_viewer: f64,
    /// No id fell or came twice, and those who kept the score had it right at the end.
    right: bool,
}

/// What the viewers' process says when it is done.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    events: u64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// Viewers that saw an id fall or come twice, or lost their connection.
    wrong: u64,
    /// The sum of all values as some viewers have it in the end.
    sums: Vec<i64>,
}

const JOB: &str = r#"
name = "viewed"
dataflow = "tally"
[[input]]
topic = "viewed"
format = "vote"
[tally]
group = "/option"
"#;

/// Runs the workload.
pub async fn run(viewers: u32, deltas_per_s: u32, for_: Duration, json: bool) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("a temporary directory can't be made")?;
    let binary = std::env::current_exe()?;
    let mut server = Command::new(&binary)
        .args(["serve", "--listen", "127.0.0.1:0", "--workers", "1", "--log-level", "error", "--data-dir"])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let pid = server.id().context("the server has ended")?;
    let url = first_line(&mut server).await?;
    let url = url.strip_prefix("listening on ").context("the server did not say where it listens")?.to_owned();
    let http = reqwest::Client::new();
    let ask = |request: reqwest::RequestBuilder| async { request.send().await?.error_for_status()?.text().await };
    let topic = serde_json::json!({"name": "viewed", "partitions": 1});
    ask(http.post(format!("{url}/api/topics")).json(&topic)).await?;
    ask(http.post(format!("{url}/api/jobs")).header("content-type", "application/toml").body(JOB)).await?;
    let records = format!("{url}/api/topics/viewed/records");
    let vote = |n: u64| format!("{{\"poll\":\"p\",\"voter\":\"v{n}\",\"option\":\"option-{}\",\"at\":{n}}}\n", n % 10);
    ask(http.post(&records).body((0..10).map(vote).collect::<String>())).await?;
    wait_for_tallies(&http, &url).await?;
    let idle_rss = rss_bytes(pid);

    let mut watchers = Command::new(&binary)
        .args(["bench-viewers", url.trim_start_matches("http://"), &viewers.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let ready = first_line(&mut watchers).await?;
    if ready != "connected" {
        bail!("the viewers could not connect: {ready}");
    }
    let (rss, cpu_before, started) = (rss_bytes(pid), cpu_s(pid), Instant::now());
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / f64::from(deltas_per_s)));
    let (mut n, mut deltas) = (10, 0u64);
    while started.elapsed() < for_ {
        tick.tick().await;
        ask(http.post(&records).body((n..n + 10).map(vote).collect::<String>())).await?;
        n += 10;
        deltas += 1;
    }
    let elapsed = started.elapsed().as_secs_f64();
    // The viewers end when their input does, after what is on its way.
    drop(watchers.stdin.take());
    let seen: Seen = serde_json::from_str(&first_line(&mut watchers).await?)?;
    let cpu_s = cpu_s(pid) - cpu_before;
    let report = Report {
        workload: "viewers",
        records: seen.events,
        workers: 1,
        records_per_s: seen.events as f64 / elapsed,
        viewers,
        deltas_per_s,
        delivered: seen.events as f64 / (deltas * u64::from(viewers)) as f64,
        cpu_s,
        cpu_s_per_million: cpu_s * 1e6 / seen.events.max(1) as f64,
        p50_ms: seen.p50_ms,
        p99_ms: seen.p99_ms,
        max_ms: seen.max_ms,
        rss_bytes: rss,
        rss_bytes_per_viewer: rss.saturating_sub(idle_rss) as f64 / f64::from(viewers),
        right: seen.wrong == 0 && seen.sums.iter().all(|sum| *sum == n as i64),
    };
    if json {
        output::line(serde_json::to_string(&report)?)?;
    } else {
        output::line(format_args!("{viewers} viewers of one job, {deltas_per_s} deltas a second, {elapsed:.0} s"))?;
        output::line(format_args!(
            "{} events read, {:.2} of all deltas (the rest were merged)",
            report.records, report.delivered
        ))?;
        output::line(format_args!("server CPU     {:.2} s per million events", report.cpu_s_per_million))?;
        output::line(format_args!(
            "age when read  p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            report.p50_ms, report.p99_ms, report.max_ms
        ))?;
        output::line(format_args!("server memory  {:.1} KiB per viewer", report.rss_bytes_per_viewer / 1024.0))?;
        output::line(format_args!("wrong numbers  {}", if report.right { "none" } else { "SEEN" }))?;
    }
    if !report.right {
        bail!("a viewer saw a wrong number or lost its connection; this is a defect");
    }
    Ok(())
}

/// The viewers' process: connects, reads until its standard input ends, reports.
pub async fn watch(addr: &str, viewers: u32) -> anyhow::Result<()> {
    crate::server::raise_open_files();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let (connected, mut all) = tokio::sync::mpsc::channel(1_024);
    let mut tasks = JoinSet::new();
    for number in 0..viewers {
        let viewer = Viewer { keeps_score: number % 500 == 0, ..Viewer::new()? };
        tasks.spawn(viewer.read(addr.to_owned(), connected.clone(), stopped.clone()));
        // A listener's queue is short: a few at a time.
        if number % 64 == 63 {
            for _ in 0..64 {
                all.recv().await;
            }
        }
    }
    for _ in 0..viewers % 64 {
        all.recv().await;
    }
    output::line("connected")?;
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.send_replace(true);
    let mut ages = Histogram::<u64>::new(3)?;
    let mut seen = Seen { events: 0, p50_ms: 0.0, p99_ms: 0.0, max_ms: 0.0, wrong: 0, sums: Vec::new() };
    while let Some(viewer) = tasks.join_next().await {
        let viewer = viewer?;
        seen.events += viewer.events;
        seen.wrong += u64::from(viewer.wrong);
        ages.add(&viewer.ages)?;
        if viewer.keeps_score {
            seen.sums.push(viewer.score.values().sum());
        }
    }
    seen.p50_ms = ages.value_at_quantile(0.5) as f64;
    seen.p99_ms = ages.value_at_quantile(0.99) as f64;
    seen.max_ms = ages.max() as f64;
    output::line(serde_json::to_string(&seen)?)?;
    Ok(())
}

struct Viewer {
    events: u64,
    last_id: u64,
    wrong: bool,
    ages: Histogram<u64>,
    keeps_score: bool,
    score: std::collections::HashMap<String, i64>,
}

impl Viewer {
    fn new() -> anyhow::Result<Self> {
        let ages = Histogram::new_with_bounds(1, 60_000, 2)?;
        Ok(Viewer { events: 0, last_id: 0, wrong: false, ages, keeps_score: false, score: Default::default() })
    }

    async fn read(
        mut self,
        addr: String,
        connected: tokio::sync::mpsc::Sender<()>,
        mut stop: tokio::sync::watch::Receiver<bool>,
    ) -> Self {
        let read = async {
            let mut stream = TcpStream::connect(&addr).await?;
            let request = format!("GET /api/jobs/viewed/events?every=0 HTTP/1.1\r\nHost: {addr}\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut lines = BufReader::with_capacity(2_048, stream).lines();
            while let Some(line) = lines.next_line().await? {
                if let Some(id) = line.strip_prefix("id: ") {
                    let id = id.parse().unwrap_or(0);
                    self.wrong |= id <= self.last_id;
                    self.last_id = id;
                } else if let Some(data) = line.strip_prefix("data: ") {
                    self.event(data);
                    if self.events == 0 {
                        connected.send(()).await.ok();
                    }
                    self.events += 1;
                }
            }
            Ok::<_, std::io::Error>(())
        };
        tokio::select! {
            ended = read => {
                // The server is not to end a stream while it is read.
                self.wrong = true;
                if let Err(error) = ended {
                    eprintln!("a viewer lost its connection: {error}");
                }
            }
            _ = stop.wait_for(|stop| *stop) => {}
        }
        // The snapshot is no delta.
        self.events = self.events.saturating_sub(1);
        self
    }

    fn event(&mut self, data: &str) {
        let at = data.split_once("\"at\":\"").and_then(|(_, rest)| rest.split_once('"')).map(|(at, _)| at);
        if self.events > 0
            && let Some(at) = at.and_then(|at| at.parse::<jiff::Timestamp>().ok())
        {
            let age = jiff::Timestamp::now().as_millisecond() - at.as_millisecond();
            self.ages.saturating_record(age.max(0) as u64);
        }
        if self.keeps_score {
            self.keep_score(data);
        }
    }

    fn keep_score(&mut self, data: &str) {
        #[derive(Deserialize)]
        struct Line {
            group: String,
            value: Option<i64>,
        }
        #[derive(Deserialize)]
        struct Subject {
            tallies: Vec<Line>,
        }
        #[derive(Deserialize)]
        struct Event {
            #[serde(default)]
            subjects: Vec<Subject>,
            #[serde(default)]
            changes: Vec<Line>,
        }
        let Ok(event) = serde_json::from_str::<Event>(data) else {
            self.wrong = true;
            return;
        };
        for line in event.subjects.into_iter().flat_map(|s| s.tallies).chain(event.changes) {
            self.score.insert(line.group, line.value.unwrap_or(0));
        }
    }
}

async fn wait_for_tallies(http: &reqwest::Client, url: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !http.get(format!("{url}/api/jobs/viewed/tallies")).send().await?.status().is_success() {
        if Instant::now() > deadline {
            bail!("the job has shown nothing for 30 s");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
