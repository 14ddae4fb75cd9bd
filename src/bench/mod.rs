//! `tallyflow bench`: named workloads through the real path, beside a plain loop over the same bytes.

mod arena;
pub mod kafka;
mod pause;
mod plain;
mod polls;
mod process;
pub mod recovery;
pub mod viewers;

use crate::cli::output::{self, OutputError};
use anyhow::{anyhow, bail};
use arena::{Arena, ArenaSource, Partition};
use cpu_time::ProcessTime;
use indicatif::{ProgressBar, ProgressStyle};
use plain::{Plain, PlainLoop, Tallies};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_connectors::feeds::simulate::{SimulateOptions, Simulation, Workload};
use tallyflow_connectors::log::partition_of;
use tallyflow_dataflows::results::JobResults;
use tallyflow_dataflows::spec::polls::PollInForce;
use tallyflow_dataflows::spec::{JobFile, Surroundings};
use tallyflow_dataflows::testing::Bench;

/// How many partitions the records lie in.
const PARTITIONS: u32 = 4;
/// Far beyond what any run takes; a run that stands still ends with an error.
const DEADLINE: Duration = Duration::from_secs(3_600);

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    pub workload: &'static str,
    pub records: u64,
    pub workers: usize,
    pub records_per_s: f64,
    pub loop_records_per_s: f64,
    /// `records_per_s` by `loop_records_per_s`.
    pub ratio: f64,
    /// CPU time of the engine's run, all threads.
    pub cpu_s: f64,
    /// Memory of the process after the engine's run, records included.
    pub rss_bytes: u64,
    /// Voters or posts that the engine holds.
    pub entities: u64,
    /// How many options of polls a post is found to name on average, where there are polls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub options_per_post: Option<f64>,
    /// Both sides came to the same tallies.
    pub equal: bool,
}

/// A workload that goes through the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Posts by hashtag, each record as it comes.
    Hashtags,
    /// Posts by hashtag, each in its newest version.
    Posts,
    /// Votes by option.
    Votes,
    /// Posts in many polls.
    Polls,
}

impl Named {
    fn spec(self) -> Spec {
        match self {
            Named::Hashtags => HASHTAGS,
            Named::Posts => POSTS,
            Named::Votes => VOTES,
            Named::Polls => POLLS,
        }
    }

    /// What a line is called, of whatever side.
    fn line(self, subject: &str, group: &str) -> String {
        match self {
            Named::Votes | Named::Polls => format!("{subject}/{group}"),
            Named::Hashtags | Named::Posts => group.to_owned(),
        }
    }
}

/// What a workload is made of.
struct Spec {
    name: &'static str,
    /// The records, and what is done with them.
    what: &'static str,
    workload: Workload,
    /// What the simulation is to do otherwise than by default.
    simulate: fn(&mut SimulateOptions),
    /// Writes a record from its simulation.
    write: fn(&[u8], &mut Vec<u8>),
    job: &'static str,
    polls: fn() -> Vec<PollInForce>,
    plain: fn() -> Box<dyn PlainLoop>,
    entity: &'static str,
    engine_adds: &'static str,
    loop_leaves: &'static str,
}

const HASHTAGS: Spec = Spec {
    name: "hashtags",
    what: "posts, from memory, decoded and counted",
    workload: Workload::Posts,
    // Of a deletion nothing could be counted: it would be a dead letter.
    simulate: |options| options.deletions = 0.0,
    write: with_hashtags,
    polls: Vec::new,
    job: r#"
        name = "hashtags"
        dataflow = "tally"
        [[input]]
        topic = "records"
        format = "json"
        [tally]
        group = "/hashtags"
    "#,
    plain: plain::hashtags,
    entity: "post",
    engine_adds: "the engine keeps accounting, epochs and a digest; it leaves out the log and HTTP",
    loop_leaves: "the loop keeps the hashtags' counts, nothing else",
};

const POSTS: Spec = Spec {
    name: "posts",
    what: "posts, from memory, decoded and tallied",
    workload: Workload::Posts,
    simulate: |_| {},
    write: as_it_is,
    polls: Vec::new,
    job: r#"
        name = "hashtags"
        dataflow = "tally"
        [[input]]
        topic = "records"
        format = "post"
        [tally]
        group = "/hashtags"
        keep = "last"
        order = "/at"
    "#,
    plain: plain::posts,
    entity: "post",
    engine_adds: "the engine keeps accounting, epochs and a digest; it leaves out the log and HTTP",
    loop_leaves: "the loop keeps the newest version of each post and its hashtags' counts, nothing else",
};

const VOTES: Spec = Spec {
    name: "votes",
    what: "votes, from memory, decoded and tallied",
    workload: Workload::Votes,
    simulate: |_| {},
    write: as_it_is,
    polls: Vec::new,
    job: r#"
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
    "#,
    plain: plain::votes,
    entity: "voter",
    engine_adds: "the engine keeps accounting, epochs and a digest; it leaves out the log and HTTP",
    loop_leaves: "the loop keeps the last vote of each voter and the options' counts, nothing else",
};

const POLLS: Spec = Spec {
    name: "polls",
    what: "posts, from memory, decoded and tallied in 1,000 polls of 4 options each",
    workload: Workload::Posts,
    simulate: polls::simulate,
    write: as_it_is,
    job: polls::JOB,
    polls: polls::polls,
    plain: polls::plain,
    entity: "post",
    engine_adds: "the engine keeps accounting, epochs and a digest; it leaves out the log and HTTP",
    loop_leaves: "the loop, with the same matcher, keeps the newest version of each post and the options' counts, nothing else",
};

/// Runs a workload and prints what it came to.
pub fn run(workload: Named, records: u64, workers: usize, voters: u32, json: bool) -> anyhow::Result<()> {
    let spec = workload.spec();
    let progress = ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner());
    progress.enable_steady_tick(Duration::from_millis(200));
    progress.set_message(format!("making {records} {}", spec.workload.name()));
    let arena = Arc::new(make(&spec, records, voters));

    progress.set_message(format!("the engine with {workers} workers"));
    let around = Surroundings {
        formats: &BuiltinFormats,
        partitions: &|_| Some(PARTITIONS),
        topics: vec!["records".to_owned()],
    };
    let job = JobFile::parse_toml(spec.job, &around).map_err(|faults| {
        anyhow!("the built-in job has faults: {}", faults.iter().map(|f| f.to_string()).collect::<String>())
    })?;
    let source = Arc::new(ArenaSource(arena.clone()));
    let (started, cpu) = (Instant::now(), ProcessTime::now());
    let mut bench = Bench::start_polls(&job, (spec.polls)(), source, Arc::new(BuiltinFormats), workers);
    bench.run_to(arena.len() as u64, DEADLINE);
    let (engine_s, cpu_s) = (started.elapsed().as_secs_f64(), cpu.elapsed().as_secs_f64());
    let rss = rss_bytes();
    if let Some(error) = &bench.failed {
        bail!("the job failed: {error}");
    }
    // The loop comes second: it finds warm memory, which is to its advantage.
    progress.set_message("the plain loop");
    let started = Instant::now();
    let mut plain = (spec.plain)();
    arena.records().for_each(|record| plain.record(&record));
    let Plain { tallies: expected, entities, matches } = plain.finish();
    let loop_s = started.elapsed().as_secs_f64();

    progress.finish_and_clear();
    let report = Report {
        workload: spec.name,
        records: arena.len() as u64,
        workers,
        records_per_s: arena.len() as f64 / engine_s,
        loop_records_per_s: arena.len() as f64 / loop_s,
        ratio: loop_s / engine_s,
        cpu_s,
        rss_bytes: rss,
        entities,
        options_per_post: matches.map(|matches| matches as f64 / arena.len() as f64),
        equal: tallies(&bench.results, workload) == expected,
    };
    print(&report, &spec, json)?;
    if !report.equal {
        bail!("the engine and the plain loop came to different tallies; this is a defect");
    }
    Ok(())
}

fn as_it_is(record: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(record);
}

/// With the hashtags of the text as a field of their own, which any format can count.
fn with_hashtags(record: &[u8], to: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(record.strip_suffix(b"}").unwrap_or(record));
    let words = text.split('#').skip(1).map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next());
    let words: Vec<String> = words.flatten().filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
    to.extend_from_slice(text.as_bytes());
    to.extend_from_slice(format!(r#","hashtags":{}}}"#, serde_json::json!(words)).as_bytes());
}

fn make(spec: &Spec, records: u64, voters: u32) -> Arena {
    let mut options = SimulateOptions { records: Some(records), voters, ..SimulateOptions::default() };
    (spec.simulate)(&mut options);
    let mut simulation = Simulation::new(spec.workload, options);
    let mut arena = Arena { topic: "records".to_owned(), partitions: Vec::new() };
    arena.partitions.resize_with(PARTITIONS as usize, Partition::default);
    while let Some(record) = simulation.generate() {
        let partition = &mut arena.partitions[partition_of(record.key, PARTITIONS).0 as usize];
        (spec.write)(record.value, &mut partition.bytes);
        partition.ends.push(partition.bytes.len());
    }
    arena
}

fn tallies(results: &JobResults, workload: Named) -> Tallies {
    let line = |(subject, group, values): (&str, &tallyflow_dataflows::results::Group, &[_])| {
        let name = workload.line(subject, &group.text());
        let count = values.first().and_then(|v: &tallyflow_dataflows::number::Decimal| v.to_i64());
        (name, count.unwrap_or_default())
    };
    // An option of a poll has its line at 0, too.
    results.lines().map(line).filter(|(_, count)| *count != 0).collect()
}

/// The memory of this process that is in RAM; 0 where the system does not say.
fn rss_bytes() -> u64 {
    memory_stats::memory_stats().map_or(0, |stats| stats.physical_mem as u64)
}

fn print(report: &Report, spec: &Spec, json: bool) -> Result<(), OutputError> {
    if json {
        return output::line(serde_json::to_string(report).unwrap_or_default());
    }
    let mut table = output::Rows::new(&["", "records/s", "ratio"], &["records/s", "ratio"]);
    let millions = |per_s: f64| format!("{:.2} M", per_s / 1e6);
    table.add(["plain loop, 1 thread".to_owned(), millions(report.loop_records_per_s), "1.00".to_owned()]);
    table.add([
        format!("engine, {} workers", report.workers),
        millions(report.records_per_s),
        format!("{:.2}", report.ratio),
    ]);
    output::line(format_args!("{} {}", report.records, spec.what))?;
    table.print()?;
    if let Some(options) = report.options_per_post {
        output::line(format_args!("a post names {options:.2} of all the polls' options on average"))?;
    }
    let per_million = report.cpu_s * 1e6 / report.records as f64;
    output::line(format_args!(
        "engine: {:.2} CPU s ({per_million:.2} per million records); it holds {} {}s; {:.2} GB in all, records included",
        report.cpu_s,
        report.entities,
        spec.entity,
        report.rss_bytes as f64 / 1e9
    ))?;
    output::line(format_args!("the tallies of both are {}", if report.equal { "equal" } else { "DIFFERENT" }))?;
    output::line(format_args!("{};", spec.loop_leaves))?;
    output::line(format_args!("{}", spec.engine_adds))
}
