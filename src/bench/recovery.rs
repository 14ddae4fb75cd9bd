//! `bench --workload recovery`: what checkpoints of many voters cost, and how soon a job is there again.
//!
//! Each voter votes once, made when it is read. Then ten thousand a second change their vote, and how long
//! each batch takes from being there to being told is measured: without checkpoints, and while one after
//! another is written. At last the job is taken up again, with as many workers and with others.

use crate::cli::output::{self, Rows};
use anyhow::{anyhow, bail};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tallyflow_connectors::checkpoint_store::ObjectCheckpoints;
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::source::{
    Budget, PartitionSource, PartitionState, Polled, Source, SourceError, TopicState, Waker,
};
use tallyflow_dataflows::spec::{JobFile, Surroundings};
use tallyflow_dataflows::testing::Bench;
use tallyflow_dataflows::update::CheckpointEvent;

pub(super) const JOB: &str = r#"
    name = "votes"
    dataflow = "tally"
    [[input]]
    topic = "records"
    format = "vote"
    [tally]
    subject = "/poll"
    group = "/option"
    entity = "/voter"
    keep = "last"
    order = "/at"
"#;

pub(super) const PARTITIONS: u64 = 4;
const DEADLINE: Duration = Duration::from_secs(3_600);
/// Changed votes: so many at a time, so often, for so long.
const BATCH: u64 = 40;
const EVERY: Duration = Duration::from_millis(4);
const CHANGES_FOR: Duration = Duration::from_secs(20);

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    workload: &'static str,
    voters: u64,
    workers: usize,
    /// The first checkpoint: what it took in the store, and how long.
    checkpoint_bytes: u64,
    checkpoint_bytes_per_voter: f64,
    checkpoint_s: f64,
    /// The machine's plain writing (synced) and reading of a file with as many bytes.
    plain_write_s: f64,
    plain_read_s: f64,
    /// From a record being there to being told, in ms: without checkpoints, and while they are written.
    latency_ms: Latency,
    latency_with_checkpoints_ms: Latency,
    /// For how long an operator was kept from its work at one time while they were written, in ms: the median of
    /// the checkpoints, and the longest.
    stall_ms: [f64; 2],
    /// Checkpoints written meanwhile, and what each has added on average.
    checkpoints: u64,
    changed_bytes: u64,
    /// From the start of an engine to what it was before, in s: with as many workers and with one more.
    recovery_s: f64,
    rescale_s: f64,
    /// In a running server, the longest time without a new epoch while its workers become one more, and as many
    /// as before again.
    pause_ms: [f64; 2],
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    max: f64,
}

/// A checkpoint that was written.
struct Taken {
    bytes: u64,
    stall_us: u64,
}

/// Votes that are made when they are read: the first of each voter, then others of the same.
struct Votes {
    voters: u64,
    /// By partition, how many there are.
    ends: Vec<AtomicU64>,
    wakers: Mutex<Vec<Waker>>,
}

impl Votes {
    fn wake(&self) {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|waker| waker());
    }
}

/// The votes as a log.
struct Log(Arc<Votes>);

struct Reader {
    votes: Arc<Votes>,
    partition: PartitionId,
    next: u64,
    text: Vec<u8>,
}

impl Source for Log {
    fn topic(&self, topic: &str) -> Result<Option<TopicState>, SourceError> {
        let state = |end: &AtomicU64| PartitionState {
            start: Offset(0),
            end: Offset(end.load(Ordering::Acquire)),
            bytes: None,
        };
        let partitions = self.0.ends.iter().map(state).collect();
        Ok((topic == "records").then(|| TopicState {
            name: topic.to_owned(),
            incarnation: 1,
            compacted: false,
            partitions,
        }))
    }

    fn offset_at(&self, _topic: &str, _partition: PartitionId, _timestamp_ms: i64) -> Result<Offset, SourceError> {
        Ok(Offset(0))
    }

    fn open(
        &self,
        _topic: &str,
        partition: PartitionId,
        from: Offset,
        waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError> {
        self.0.wakers.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
        Ok(Box::new(Reader { votes: self.0.clone(), partition, next: from.0, text: Vec::new() }))
    }
}

impl PartitionSource for Reader {
    fn poll(&mut self, budget: Budget, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<Polled, SourceError> {
        let end = self.end();
        let to = end.0.min(self.next + budget.records_max as u64).min(budget.until.0).max(self.next);
        let from = std::mem::replace(&mut self.next, to);
        for offset in from..to {
            let n = offset * PARTITIONS + u64::from(self.partition.0);
            self.text.clear();
            let at = write_vote(&mut self.text, self.votes.voters, n).map_err(|e| SourceError::Io(e.to_string()))?;
            let (partition, offset) = (self.partition, Offset(offset));
            each(RecordRef { partition, offset, timestamp_ms: at, key: None, value: Some(&self.text) });
        }
        Ok(Polled { records: (to - from) as usize, next: Offset(to), end })
    }

    fn end(&self) -> Offset {
        Offset(self.votes.ends[self.partition.0 as usize].load(Ordering::Acquire))
    }
}

/// Vote number `n` as JSON, and its time: the first of each voter, then of those who change their mind, who lie
/// all over the voters.
pub(super) fn write_vote(text: &mut Vec<u8>, voters: u64, n: u64) -> std::io::Result<i64> {
    let voter = if n < voters { n } else { n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % voters };
    let (at, option) = (1_700_000_000_000 + n, n % 11);
    write!(text, r#"{{"poll":"p","voter":"voter-{voter}","option":"o{option}","at":{at}}}"#)?;
    Ok(at as i64)
}

/// Runs the workload and prints what it came to.
pub fn run(voters: u64, workers: usize, json: bool) -> anyhow::Result<()> {
    let voters = voters / PARTITIONS * PARTITIONS;
    let progress = ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner());
    progress.enable_steady_tick(Duration::from_millis(200));
    progress.set_message(format!("{voters} voters vote"));
    let dir = tempfile::tempdir()?;
    let around = Surroundings {
        formats: &BuiltinFormats,
        partitions: &|_| Some(PARTITIONS as u32),
        topics: vec!["records".to_owned()],
    };
    let job = JobFile::parse_toml(JOB, &around).map_err(|faults| anyhow!("the built-in job has faults: {faults:?}"))?;
    let ends = (0..PARTITIONS).map(|_| AtomicU64::new(voters / PARTITIONS)).collect();
    let votes = Arc::new(Votes { voters, ends, wakers: Mutex::default() });
    let mut bench = Bench::start(&job, Arc::new(Log(votes.clone())), Arc::new(BuiltinFormats), workers);
    bench.restart_in(Arc::new(ObjectCheckpoints::in_folder(dir.path())?), workers);
    bench.run_to(voters, DEADLINE);

    progress.set_message("the first checkpoint");
    let started = Instant::now();
    let (checkpoint_bytes, _) = checkpoint(&mut bench)?;
    let checkpoint_s = started.elapsed().as_secs_f64();
    let (plain_write_s, plain_read_s) = plain(dir.path(), checkpoint_bytes)?;

    progress.set_message("votes are changed");
    let (latency_ms, _) = change(&mut bench, &votes, false)?;
    progress.set_message("votes are changed while checkpoints are written");
    let (latency_with_checkpoints_ms, taken) = change(&mut bench, &votes, true)?;
    checkpoint(&mut bench)?;

    progress.set_message("the job is taken up again");
    let recovery_s = take_up(&mut bench, workers)?;
    let rescale_s = take_up(&mut bench, workers + 1)?;
    drop(bench);
    progress.set_message("the voters vote in a server, and its workers change");
    let server = tempfile::tempdir()?;
    let pause_ms = super::pause::measure(server.path(), voters, workers)?;
    progress.finish_and_clear();
    let checkpoints = taken.len() as u64;
    let mut stalls: Vec<u64> = taken.iter().map(|taken| taken.stall_us).collect();
    stalls.sort_unstable();
    let stall = |at: usize| stalls.get(at).map_or(0.0, |us| *us as f64 / 1e3);
    print(
        &Report {
            workload: "recovery",
            voters,
            workers,
            checkpoint_bytes,
            checkpoint_bytes_per_voter: checkpoint_bytes as f64 / voters as f64,
            checkpoint_s,
            plain_write_s,
            plain_read_s,
            latency_ms,
            latency_with_checkpoints_ms,
            stall_ms: [stall(stalls.len() / 2), stall(stalls.len().saturating_sub(1))],
            checkpoints,
            changed_bytes: taken
                .iter()
                .map(|taken| taken.bytes)
                .sum::<u64>()
                .checked_div(checkpoints)
                .unwrap_or_default(),
            recovery_s,
            rescale_s,
            pause_ms,
        },
        json,
    )
}

/// Writes a checkpoint: what it has added, and what all take.
fn checkpoint(bench: &mut Bench) -> anyhow::Result<(u64, u64)> {
    bench.checkpoint();
    bench.run_until(DEADLINE, Bench::is_checkpointed);
    match bench.checkpoint_events.last() {
        Some((_, CheckpointEvent::Taken { bytes, held_bytes, .. })) => Ok((*bytes, *held_bytes)),
        other => bail!("the checkpoint was not written: {other:?}"),
    }
}

/// How long a plain file of so many bytes takes to be written and synced, and to be read.
fn plain(dir: &Path, bytes: u64) -> anyhow::Result<(f64, f64)> {
    let path = dir.join("plain");
    let piece: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let started = Instant::now();
    let mut file = std::fs::File::create(&path)?;
    let mut left = bytes as usize;
    while left > 0 {
        let n = left.min(piece.len());
        file.write_all(&piece[..n])?;
        left -= n;
    }
    file.sync_all()?;
    let write_s = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let mut read = Vec::new();
    std::fs::File::open(&path)?.read_to_end(&mut read)?;
    let read_s = started.elapsed().as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok((write_s, read_s))
}

/// Has votes changed for a while, with or without checkpoints one after another; how long each batch took,
/// what the checkpoints were.
fn change(bench: &mut Bench, votes: &Votes, with_checkpoints: bool) -> anyhow::Result<(Latency, Vec<Taken>)> {
    let mut histogram = Histogram::<u64>::new(3)?;
    let before = bench.checkpoint_events.len();
    let mut total: u64 = votes.ends.iter().map(|end| end.load(Ordering::Acquire)).sum();
    let (started, mut batches) = (Instant::now(), 0u32);
    let mut asked = Instant::now();
    while started.elapsed() < CHANGES_FOR {
        let due = started + EVERY * batches;
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
        for end in &votes.ends {
            end.fetch_add(BATCH / PARTITIONS, Ordering::AcqRel);
        }
        votes.wake();
        total += BATCH;
        batches += 1;
        // A second's changes to each.
        if with_checkpoints && bench.is_checkpointed() && asked.elapsed() > Duration::from_secs(1) {
            asked = Instant::now();
            bench.checkpoint();
        }
        bench.run_to(total, DEADLINE);
        histogram.record(due.elapsed().as_micros() as u64)?;
    }
    bench.run_until(DEADLINE, Bench::is_checkpointed);
    if let Some(error) = &bench.failed {
        bail!("the job failed: {error}");
    }
    let taken = bench.checkpoint_events[before..].iter().filter_map(|(_, event)| match event {
        CheckpointEvent::Taken { bytes, stall_us, .. } => Some(Taken { bytes: *bytes, stall_us: *stall_us }),
        _ => None,
    });
    let taken = taken.collect();
    let ms = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    Ok((Latency { p50: ms(0.5), p99: ms(0.99), max: ms(1.0) }, taken))
}

/// From the start of an engine until it shows what was shown before.
fn take_up(bench: &mut Bench, workers: usize) -> anyhow::Result<f64> {
    let (digest, read) = (bench.results.digest().to_string(), bench.results.accounting().read);
    bench.end();
    let started = Instant::now();
    bench.restart(workers, Vec::new());
    bench.run_to(read, DEADLINE);
    let took = started.elapsed().as_secs_f64();
    if let Some(error) = &bench.failed {
        bail!("the job failed: {error}");
    }
    let from = bench.taken_up.as_ref().and_then(|(from, _)| *from);
    if from.is_none() || bench.results.digest().to_string() != digest {
        bail!("the job did not come back as it was; this is a defect");
    }
    Ok(took)
}

fn print(report: &Report, json: bool) -> anyhow::Result<()> {
    if json {
        return Ok(output::line(serde_json::to_string(report)?)?);
    }
    output::line(format_args!("{} voters, {} workers", report.voters, report.workers))?;
    let mut rows = Rows::new(&["", "s", "MB/s"], &["s", "MB/s"]);
    let mut row = |what: &str, s: f64| {
        let per_s = report.checkpoint_bytes as f64 / 1e6 / s;
        rows.add([what.to_owned(), format!("{s:.2}"), format!("{per_s:.0}")]);
    };
    row("plain file, written and synced", report.plain_write_s);
    row("first checkpoint", report.checkpoint_s);
    row("plain file, read", report.plain_read_s);
    row("recovery", report.recovery_s);
    row("recovery with one worker more", report.rescale_s);
    rows.print()?;
    output::line(format_args!(
        "the first checkpoint has {:.1} MB, {:.1} bytes a voter",
        report.checkpoint_bytes as f64 / 1e6,
        report.checkpoint_bytes_per_voter
    ))?;
    let mut rows =
        Rows::new(&["10,000 changed votes a second", "p50 ms", "p99 ms", "max ms"], &["p50 ms", "p99 ms", "max ms"]);
    for (what, latency) in
        [("without checkpoints", &report.latency_ms), ("while they are written", &report.latency_with_checkpoints_ms)]
    {
        let ms = |ms: f64| format!("{ms:.2}");
        rows.add([what.to_owned(), ms(latency.p50), ms(latency.p99), ms(latency.max)]);
    }
    rows.print()?;
    output::line(format_args!(
        "{} checkpoints meanwhile, of {:.2} MB each",
        report.checkpoints,
        report.changed_bytes as f64 / 1e6
    ))?;
    let [median, longest] = report.stall_ms;
    output::line(format_args!(
        "they kept an operator from its work for {median:.2} ms at one time (median of the longest), and {longest:.2} at most"
    ))?;
    let [up, down] = report.pause_ms;
    Ok(output::line(format_args!(
        "in a running server {} workers instead of {} pause the tallies for {up:.0} ms, and back for {down:.0} ms",
        report.workers + 1,
        report.workers
    ))?)
}
