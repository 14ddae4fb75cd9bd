//! `bench --log kafka --workload latency`: from when a record was due at a producer to the event that has it.
//!
//! ```text
//! this process: a thread that produces, each record at its due time whether earlier ones were written or not,
//!    |          and one that reads: a plain consumer, or the events of a server with `every=0`
//!    '--> the server, with a checkpoint every second
//! ```
//!
//! Every voter votes once, in each partition for an option of its own: the count of that option tells how many
//! records of the partition an event stands for. A record is late from the time at which it was due, so that
//! a producer that is held up hides nothing. Plain consumer and servers take turns.

use super::fill::PARTITIONS;
use super::served::Server;
use super::{Plan, config};
use crate::bench::process::Machine;
use crate::cli::output::{self, Rows};
use anyhow::{Context, anyhow, ensure};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tallyflow_connectors::log::kafka::plain::{Drain, Sender, delete_topics};
use tallyflow_connectors::log::kafka::{KafkaConfig, KafkaLog};
use tallyflow_connectors::log::{Log, TopicConfig};
use tallyflow_dataflows::ids::{Offset, PartitionId};

const JOB: &str = r#"
name = "latency"
dataflow = "tally"
[[input]]
topic = "TOPIC"
format = "vote"
[tally]
group = "/option"
entity = "/voter"
keep = "last"
order = "/at"
"#;

/// How often the producer has something to send.
const TICK: Duration = Duration::from_millis(1);
/// How long a record may be on its way.
const LATE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize)]
struct Report {
    workload: &'static str,
    log: &'static str,
    records_per_s: u32,
    /// In each round.
    seconds: f64,
    rounds: u32,
    cases: Vec<Case>,
}

/// All rounds of a case together.
#[derive(Debug, Serialize)]
struct Case {
    name: String,
    workers: Option<usize>,
    records: u64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
    /// The least and the greatest p50 and p99 of a round.
    p50_ms_of_rounds: [f64; 2],
    p99_ms_of_rounds: [f64; 2],
    /// How late the producer was itself: it is part of the above.
    producer_p99_ms: f64,
    /// Of the whole machine, of 1.
    busy: f64,
    /// Events that were read; 0 of a plain consumer.
    events: u64,
}

/// What a round has come to.
struct Round {
    late: Histogram<u64>,
    producer: Histogram<u64>,
    events: u64,
    busy: f64,
}

/// When which record is due.
#[derive(Clone, Copy)]
struct Schedule {
    start: Instant,
    per_tick: u64,
    records: u64,
}

impl Schedule {
    fn due(&self, n: u64) -> Instant {
        self.start + TICK * u32::try_from(n / self.per_tick).unwrap_or(u32::MAX)
    }

    /// How many records a partition gets, without the first that only connects.
    fn of_partition(&self, partition: u64) -> u64 {
        self.records.saturating_sub(partition).div_ceil(u64::from(PARTITIONS))
    }

    /// Notes the records of a partition from one number to another (not included), which were there at a time.
    fn note(&self, late: &mut Histogram<u64>, partition: u64, seen: std::ops::Range<u64>, at: Instant) {
        for index in seen {
            let due = self.due(index * u64::from(PARTITIONS) + partition);
            late.saturating_record(at.saturating_duration_since(due).as_micros() as u64);
        }
    }
}

/// Runs it and prints what it came to.
pub async fn run(plan: &Plan, records_per_s: u32, for_: Duration) -> anyhow::Result<()> {
    let progress = ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner());
    progress.enable_steady_tick(Duration::from_secs(1));
    ensure!(records_per_s >= 1_000, "the rate has to be 1,000 at least: something is sent every millisecond");
    let mut cases: Vec<(String, Option<usize>, Vec<Round>)> = vec![("raw consumer".to_owned(), None, Vec::new())];
    cases.extend(plan.workers.iter().map(|w| (format!("tallyflow, {w} workers"), Some(*w), Vec::new())));
    for round in 1..=plan.rounds {
        for (name, workers, rounds) in &mut cases {
            progress.set_message(format!("latency: round {round} of {}, {name}", plan.rounds));
            rounds.push(one(&plan.brokers, *workers, records_per_s, for_).await?);
        }
    }
    progress.finish_and_clear();
    let case = |(name, workers, rounds): (String, Option<usize>, Vec<Round>)| -> anyhow::Result<Case> {
        let (mut late, mut producer) = (histogram()?, histogram()?);
        for round in &rounds {
            late.add(&round.late)?;
            producer.add(&round.producer)?;
        }
        let spread = |quantile: f64| {
            let of: Vec<f64> = rounds.iter().map(|round| ms(&round.late, quantile)).collect();
            [of.iter().copied().fold(f64::MAX, f64::min), of.iter().copied().fold(0.0, f64::max)]
        };
        Ok(Case {
            name,
            workers,
            records: late.len(),
            p50_ms: ms(&late, 0.5),
            p99_ms: ms(&late, 0.99),
            p999_ms: ms(&late, 0.999),
            max_ms: ms(&late, 1.0),
            p50_ms_of_rounds: spread(0.5),
            p99_ms_of_rounds: spread(0.99),
            producer_p99_ms: ms(&producer, 0.99),
            busy: rounds.iter().map(|round| round.busy).sum::<f64>() / rounds.len().max(1) as f64,
            events: rounds.iter().map(|round| round.events).sum(),
        })
    };
    let cases = cases.into_iter().map(case).collect::<anyhow::Result<Vec<Case>>>()?;
    let seconds = for_.as_secs_f64();
    print(&Report { workload: "latency", log: "kafka", records_per_s, seconds, rounds: plan.rounds, cases }, plan.json)
}

fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LATE_MAX.as_micros() as u64, 3)?)
}

fn ms(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e3
}

/// One round of a case, with a topic of its own.
async fn one(brokers: &str, workers: Option<usize>, records_per_s: u32, for_: Duration) -> anyhow::Result<Round> {
    let mut random = [0; 6];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let topic = random.iter().fold("bench-latency-".to_owned(), |name, byte| format!("{name}{byte:02x}"));
    let config = config(brokers)?;
    let sender = {
        let (config, topic) = (config.clone(), topic.clone());
        tokio::task::spawn_blocking(move || prepare(&config, &topic)).await??
    };
    let per_tick = u64::from(records_per_s) / 1_000;
    let records = (for_.as_millis() as u64 * per_tick).max(1);
    let sender = Arc::new(sender);
    let schedule = move || Schedule { start: Instant::now() + Duration::from_millis(100), per_tick, records };
    let round = match workers {
        None => {
            let (config, topic) = (config.clone(), topic.clone());
            tokio::task::spawn_blocking(move || consumed(&config, &topic, &sender, schedule)).await?
        }
        Some(workers) => shown(brokers, &topic, workers, sender, schedule).await,
    };
    tokio::task::spawn_blocking(move || delete_topics(&config, &[&topic])).await?.map_err(|error| anyhow!(error))?;
    round
}

/// Makes the topic, and a producer that has written to each of its partitions.
fn prepare(config: &KafkaConfig, topic: &str) -> anyhow::Result<Sender> {
    let log = KafkaLog::open(config.clone(), "tallyflow-bench").map_err(|error| anyhow!(error))?;
    log.create_topic(topic, PARTITIONS, TopicConfig::default())?;
    let sender = Sender::open(config, Duration::ZERO).map_err(|error| anyhow!(error))?;
    for partition in 0..PARTITIONS {
        let text = vote(&format!("first-{partition}"), partition, 0);
        sender.send(topic, PartitionId(partition), None, text.as_bytes()).map_err(|error| anyhow!(error))?;
    }
    sender.finish(LATE_MAX).map_err(|error| anyhow!(error))?;
    Ok(sender)
}

fn vote(voter: &str, partition: u32, n: u64) -> String {
    let at = 1_700_000_000_000 + n;
    format!(r#"{{"poll":"a-poll","voter":"voter-{voter}","option":"p{partition}","at":{at},"by":"a bench"}}"#)
}

/// The producer's thread: how late it was.
fn produce(sender: Arc<Sender>, topic: &str, schedule: Schedule) -> JoinHandle<anyhow::Result<Histogram<u64>>> {
    let topic = topic.to_owned();
    std::thread::spawn(move || {
        let mut late = histogram()?;
        for n in 0..schedule.records {
            let due = schedule.due(n);
            if let Some(wait) = due.checked_duration_since(Instant::now()) {
                std::thread::sleep(wait);
            }
            let partition = (n % u64::from(PARTITIONS)) as u32;
            let text = vote(&n.to_string(), partition, n);
            sender.send(&topic, PartitionId(partition), None, text.as_bytes()).map_err(|error| anyhow!(error))?;
            late.saturating_record(due.elapsed().as_micros() as u64);
        }
        sender.finish(LATE_MAX).map_err(|error| anyhow!(error))?;
        Ok(late)
    })
}

fn produced(thread: JoinHandle<anyhow::Result<Histogram<u64>>>) -> anyhow::Result<Histogram<u64>> {
    thread.join().map_err(|_| anyhow!("the producer has panicked"))?
}

/// Until a plain consumer has the records.
fn consumed(
    config: &KafkaConfig,
    topic: &str,
    sender: &Arc<Sender>,
    schedule: impl Fn() -> Schedule,
) -> anyhow::Result<Round> {
    const WAIT: Duration = Duration::from_millis(100);
    let failed = |error: String| anyhow!("reading {topic}: {error}");
    let mut drain = Drain::open(config, topic, &[Offset(0); PARTITIONS as usize]).map_err(failed)?;
    let mut left = PARTITIONS as usize;
    while left > 0 {
        left -= drain.take_soon(WAIT, &mut |_| ()).map_err(failed)?;
    }
    let (machine, schedule) = (Machine::watch(), schedule());
    let producer = produce(sender.clone(), topic, schedule);
    let (mut late, mut read) = (histogram()?, 0);
    while read < schedule.records {
        let taken = drain.take_soon(WAIT, &mut |record| {
            let (partition, index) = (u64::from(record.partition.0), record.offset.0 - 1);
            schedule.note(&mut late, partition, index..index + 1, Instant::now());
        });
        read += taken.map_err(failed)? as u64;
        ensure!(schedule.due(schedule.records).elapsed() < LATE_MAX, "{read} of {} records came", schedule.records);
    }
    let busy = machine.busy();
    Ok(Round { late, producer: produced(producer)?, events: 0, busy })
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    subjects: Vec<Subject>,
    #[serde(default)]
    changes: Vec<Line>,
}

#[derive(Deserialize)]
struct Subject {
    tallies: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    group: String,
    value: Option<u64>,
}

/// Until a server's events have the records.
async fn shown(
    brokers: &str,
    topic: &str,
    workers: usize,
    sender: Arc<Sender>,
    schedule: impl Fn() -> Schedule,
) -> anyhow::Result<Round> {
    let server = Server::start(brokers, workers).await?;
    server.submit(JOB.replace("TOPIC", topic)).await?;
    let mut stream = server.events("latency", "0").await?;
    // Of each partition how many records are shown, the first that only connects not counted.
    let mut counts = [None; PARTITIONS as usize];
    while counts.contains(&None) {
        take(&stream.next().await?.0, |partition, count| counts[partition] = Some(count))?;
    }
    ensure!(counts == [Some(0); PARTITIONS as usize], "there is more in the topic than was sent: {counts:?}");
    let (machine, schedule) = (Machine::watch(), schedule());
    let producer = produce(sender, topic, schedule);
    let mut shown = [0u64; PARTITIONS as usize];
    let wanted = std::array::from_fn(|partition| schedule.of_partition(partition as u64));
    let (mut late, mut events) = (histogram()?, 0);
    while shown != wanted {
        let (event, at) = stream.next().await?;
        events += 1;
        take(&event, |partition, count| {
            schedule.note(&mut late, partition as u64, shown[partition]..count, at);
            shown[partition] = count;
        })?;
        ensure!(shown.iter().zip(&wanted).all(|(shown, wanted)| shown <= wanted), "more is shown than was sent");
    }
    let busy = machine.busy();
    // Of a short run the first is still to come.
    let deadline = Instant::now() + LATE_MAX;
    while server.get::<serde_json::Value>("/api/jobs/latency").await?["checkpoint"].is_null() {
        ensure!(Instant::now() < deadline, "no checkpoint is written");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let producer = tokio::task::spawn_blocking(move || produced(producer)).await??;
    server.end().await?;
    Ok(Round { late, producer, events, busy })
}

/// Tells the counts that an event has.
fn take(event: &str, mut count: impl FnMut(usize, u64)) -> anyhow::Result<()> {
    let event: Event = serde_json::from_str(event.trim_start_matches("data: "))?;
    for line in event.subjects.into_iter().flat_map(|subject| subject.tallies).chain(event.changes) {
        let partition = line.group.strip_prefix('p').and_then(|number| number.parse().ok());
        let partition = partition.filter(|partition| *partition < PARTITIONS as usize).context("an unknown option")?;
        count(partition, line.value.unwrap_or_default().saturating_sub(1));
    }
    Ok(())
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        return Ok(output::line(serde_json::to_string(report)?)?);
    }
    output::line(format_args!(
        "{} records/s for {:.0} s into {PARTITIONS} partitions, {} rounds: from when a record was due to its being read",
        report.records_per_s, report.seconds, report.rounds
    ))?;
    let right = ["p50 ms", "p99 ms", "p99.9 ms", "max ms", "p50 of rounds", "p99 of rounds", "producer p99", "machine"];
    let mut rows = Rows::new(&[&[""], &right[..]].concat(), &right);
    for case in &report.cases {
        let one = |ms: f64| format!("{ms:.2}");
        let spread = |[min, max]: [f64; 2]| format!("{min:.2}-{max:.2}");
        rows.add([
            case.name.clone(),
            one(case.p50_ms),
            one(case.p99_ms),
            one(case.p999_ms),
            one(case.max_ms),
            spread(case.p50_ms_of_rounds),
            spread(case.p99_ms_of_rounds),
            one(case.producer_p99_ms),
            format!("{:.0} %", case.busy * 100.0),
        ]);
    }
    rows.print()?;
    Ok(output::line("every record is counted once; a server's events are read with every=0, as they come")?)
}
