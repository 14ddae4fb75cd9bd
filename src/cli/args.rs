//! What can be asked for, as clap reads it.

use super::client::Client;
use super::feed::args::Simulation;
use super::polls::args::PollCommand;
use super::time::When;
use crate::node::RecordPlace;
use clap::{Args, Parser, Subcommand, ValueEnum};
use reqwest::Url;
use std::path::PathBuf;
use tallyflow_connectors::feeds::pace::Pace;
use tallyflow_dataflows::pointer::Pointer;

/// Keeps tallies current and exact: streams in, live counts out.
#[derive(Debug, Parser)]
#[command(name = "tallyflow", version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Everything on one machine: embedded log, simulated feeds, four jobs, two polls, a page
    Demo(DemoArgs),
    /// The server
    Serve(ServeArgs),
    /// Start a job from its file
    Submit(SubmitArgs),
    /// List the jobs
    Jobs(ListArgs),
    /// Show a job: its state, how far it has read, what became of the records
    Job(NameArgs),
    /// Stop a job's reading; its results stay
    Pause(ActArgs),
    /// Let a paused job read on
    Resume(ActArgs),
    /// End a job; its last results stay readable until its name is used again
    Cancel(CancelArgs),
    /// Write a checkpoint of a job
    Checkpoint(CheckpointArgs),
    /// Take a job down and up again, from its newest checkpoint
    Restart(RestartArgs),
    /// Change the number of workers of a running server
    Scale(ScaleArgs),
    /// Print a job's tallies
    Results(ResultsArgs),
    /// Live bars in the terminal
    Watch(WatchArgs),
    /// Recount a job from the log and compare; status 1 on a difference, naming the first
    Recount(NameArgs),
    /// Where a number comes from, or what became of one record
    Why(WhyArgs),
    /// Void what should not have counted; every number is then as if it had not been there
    Void(VoidArgs),
    /// Take a void back
    Unvoid(UnvoidArgs),
    /// Make, list, close and delete polls, and vote in them
    #[command(subcommand)]
    Poll(PollCommand),
    /// The records that a job could not use, and why
    DeadLetters(DeadLettersArgs),
    /// List the topics
    Topics(ListArgs),
    /// Create a topic or read one
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Write records to a topic
    #[command(subcommand)]
    Feed(FeedCommand),
    /// Measure a workload through the real path, beside a plain loop over the same bytes
    Bench(BenchArgs),
    /// The plain program of `bench --log kafka`
    #[command(hide = true)]
    BenchAlone { brokers: String, topic: String, records: u64, workload: Option<BenchWorkload> },
    /// The viewers' process of `bench --workload viewers`
    #[command(hide = true)]
    BenchViewers { addr: String, viewers: u32 },
    /// The engine's process; started by the server
    #[command(hide = true)]
    Engine,
}

/// What `bench` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchWorkload {
    /// Posts by hashtag, each record as it comes
    Hashtags,
    /// Posts by hashtag, each in its newest version
    Posts,
    /// Votes by option, the last of each voter
    Votes,
    /// Posts in 1,000 polls of 4 options each
    Polls,
    /// Checkpoints of many voters, and how soon a job goes on from them
    Recovery,
    /// Many readers of one job's events
    Viewers,
    /// From a record that is due at a producer to the event that has it, with `--log kafka`
    Latency,
}

/// What holds the records of `bench`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchLog {
    /// The process's own memory: the engine without a log
    Memory,
    /// Apache Kafka: the whole server, beside plain programs
    Kafka,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Votes by default; with `--log kafka` hashtags, then votes
    #[arg(long)]
    pub workload: Option<BenchWorkload>,
    #[arg(long, default_value = "memory")]
    pub log: BenchLog,
    /// The brokers of `--log kafka`, HOST:PORT, several with commas between; topics named `bench-*` are made there
    #[arg(long, value_name = "BROKERS", env = "TALLYFLOW_KAFKA_BROKERS")]
    pub kafka: Option<String>,
    /// Records of posts or votes, voters of `recovery`
    #[arg(long, default_value_t = 4_000_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    pub records: u64,
    /// Worker threads of the engine; by default 1, with `--log kafka` first 1, then 2
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub workers: Option<u64>,
    /// How often each case is measured with `--log kafka`
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Records a second of `latency`
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
    pub rate: u32,
    /// Different voters of the votes
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=50_000_000))]
    pub voters: u32,
    /// How many viewers read
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=19_000))]
    pub viewers: u32,
    /// Deltas a second for the viewers
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub deltas: u32,
    /// How long the viewers read, and how long records are produced in each case of `latency`
    #[arg(long = "for", value_name = "TIME", default_value = "20s", value_parser = duration)]
    pub for_: std::time::Duration,
    #[arg(long, default_value = "table")]
    pub format: Format,
}

#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// Create a topic
    Create(TopicCreateArgs),
    /// Print a topic's records, one a line
    Tail(TopicTailArgs),
}

#[derive(Debug, Subcommand)]
pub enum FeedCommand {
    /// Write the records of files: NDJSON, a JSON array, CSV or TSV with a header; .gz, .xz and .zst too
    Replay(ReplayArgs),
    /// Write made-up records, the same ones for the same seed
    #[command(subcommand)]
    Simulate(Simulation),
}

/// Which server a client command speaks to.
#[derive(Clone, Debug, Args)]
pub struct ServerArg {
    /// The server
    #[arg(
        long,
        value_name = "URL",
        env = "TALLYFLOW_SERVER",
        default_value = "http://127.0.0.1:8080",
        value_parser = server_url
    )]
    pub server: Url,
}

impl ServerArg {
    pub fn client(&self) -> anyhow::Result<Client> {
        Client::new(self.server.clone())
    }
}

fn server_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("it is no URL ({e}); write one like http://127.0.0.1:8080"))?;
    if url.scheme() != "http" || url.host().is_none() {
        return Err("write a URL like http://127.0.0.1:8080; only http is spoken".into());
    }
    Ok(url)
}

/// How a table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// One JSON document, for programs
    Json,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ResultsFormat {
    /// For people
    Table,
    /// One JSON document, for programs
    Json,
    /// One line of comma-separated values per tally
    Csv,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Options from this file; default.toml in the source tree lists them all
    #[arg(long, value_name = "FILE", env = "TALLYFLOW_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where to listen; port 0 picks a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Worker threads of the engine, 0 for as many as there are cores [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=crate::config::WORKERS_MAX as u64))]
    pub workers: Option<u64>,
    /// What is written to stderr: error, warn, info, debug, trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Where everything that lasts is kept [default: tallyflow-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where checkpoints are kept: a folder or a URL like s3://bucket/prefix [default: in the data directory]
    #[arg(long, value_name = "URL")]
    pub checkpoint_url: Option<String>,

    /// Apache Kafka as the log, instead of the embedded one: its brokers, HOST:PORT with commas between
    #[arg(long, value_name = "BROKERS")]
    pub kafka: Option<String>,

    /// How many processes run one dataflow [default: 1]
    #[arg(long, value_name = "N")]
    pub processes: Option<u64>,
    /// Which of them this one is, from 0; process 0 leads
    #[arg(long, value_name = "I")]
    pub process: Option<u64>,
    /// A file with a HOST:PORT on a line for each process, process I on line I
    #[arg(long, value_name = "FILE")]
    pub hosts: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Keep everything here; without it nothing is kept
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Records a second of each feed
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub rate: u64,
    /// How often every job is recounted
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub recount_every: std::time::Duration,
    /// What the made-up records begin from
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The job file, TOML or JSON; - for stdin
    pub file: PathBuf,
    /// In the place of the job of that name: its readers keep its numbers until the new ones are there
    #[arg(long)]
    pub replace: bool,
    /// Its sinks write over what another server left there, whatever its epochs
    #[arg(long)]
    pub take_over: bool,
    #[arg(long, default_value = "table")]
    pub format: Format,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[arg(long, default_value = "table")]
    pub format: Format,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct NameArgs {
    /// The job
    pub name: String,
    #[arg(long, default_value = "table")]
    pub format: Format,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct CheckpointArgs {
    /// The job
    pub name: String,
    #[arg(long, default_value = "table")]
    pub format: Format,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct RestartArgs {
    /// The job
    pub name: String,
    /// Begin where its inputs do, as far as the log still has that, and not from a checkpoint
    #[arg(long)]
    pub ignore_state: bool,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct ScaleArgs {
    /// Worker threads from now on
    #[arg(value_parser = clap::value_parser!(u64).range(1..=crate::config::WORKERS_MAX as u64))]
    pub workers: u64,
    #[arg(long, default_value = "table")]
    pub format: Format,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct WhyArgs {
    /// The job
    pub name: String,
    /// The line's subject
    #[arg(required_unless_present = "at", requires = "group", conflicts_with = "at")]
    pub subject: Option<String>,
    /// Its group; of several parts their JSON array
    pub group: Option<String>,
    /// A record instead of a line
    #[arg(long, value_name = "TOPIC/P/OFFSET")]
    pub at: Option<RecordPlace>,
    /// At most so many of the newest claims [default: 20]
    #[arg(long, value_name = "N", conflicts_with = "at", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub limit: Option<u64>,
    #[arg(long, default_value = "table")]
    pub format: Format,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["entity", "from", "expression"]))]
pub struct VoidArgs {
    /// The job
    pub name: String,
    /// All that it has said so far, as `why` writes it; in a job of polls a voter, an author or a message's id. May be repeated
    #[arg(long, value_name = "E")]
    pub entity: Vec<String>,
    /// The first record of a range
    #[arg(long, value_name = "TOPIC/P/OFFSET", requires = "to")]
    pub from: Option<RecordPlace>,
    /// The offset after the last of the range
    #[arg(long, value_name = "OFFSET", requires = "from")]
    pub to: Option<u64>,
    /// Records so far for which this CEL expression over `event` is true
    #[arg(long = "where", value_name = "CEL")]
    pub expression: Option<String>,
    /// Why these do not count; shown wherever they are
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    #[arg(long, default_value = "table")]
    pub format: Format,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct UnvoidArgs {
    /// The job
    pub name: String,
    /// The void's id, as `tallyflow job NAME` shows it
    pub id: u64,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct ActArgs {
    /// The job
    pub name: String,
    #[command(flatten)]
    pub server: ServerArg,
}

/// How a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Read to the log ends seen now, flush the sinks, stop
    Drain,
    /// Stop where it is and write a checkpoint, from which `restart` goes on
    Checkpoint,
    /// Stop where it is
    Now,
}

#[derive(Debug, Args)]
pub struct CancelArgs {
    /// The job
    pub name: String,
    #[arg(long, default_value = "drain")]
    pub mode: Mode,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct ResultsArgs {
    /// The job
    pub name: String,
    /// Only this subject; may be given several times
    #[arg(long, value_name = "S")]
    pub subject: Vec<String>,
    /// At most so many lines of each subject
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// What was shown at a time, like 2026-11-21T10:00:00Z, or -10m for ten minutes ago
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = When::parse)]
    pub as_of: Option<When>,
    #[arg(long, default_value = "table")]
    pub format: ResultsFormat,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// The job
    pub name: String,
    /// Only this subject; may be given several times
    #[arg(long, value_name = "S")]
    pub subject: Vec<String>,
    /// At most so many lines of each subject
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    /// The job
    pub name: String,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,
    /// Decode the job's records again, and so its dead letters; readers keep its numbers until that is done
    #[arg(long, conflicts_with = "limit")]
    pub redrive: bool,
    #[arg(long, default_value = "table")]
    pub format: Format,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct TopicCreateArgs {
    /// The topic
    pub name: String,
    /// How many partitions it has
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub partitions: u32,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct TopicTailArgs {
    /// The topic
    pub name: String,
    /// Only this partition
    #[arg(long, value_name = "P")]
    pub partition: Option<u32>,
    /// From this offset of each partition; without it, the last 10 records of each
    #[arg(long, value_name = "OFFSET")]
    pub from: Option<u64>,
    /// Go on as records arrive, until Ctrl-C
    #[arg(long)]
    pub follow: bool,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The files, read one after the other; - for stdin
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The topic to write to
    #[arg(long, value_name = "T")]
    pub topic: String,
    /// JSON Pointer to what chooses the partition: equal keys go to the same one
    #[arg(long, value_name = "PTR", value_parser = Pointer::parse)]
    pub key: Option<Pointer>,
    /// JSON Pointer to the record's time, which --speed goes by
    #[arg(long, value_name = "PTR", value_parser = Pointer::parse)]
    pub time: Option<Pointer>,
    /// So many times as fast as the records' own times, as in 60x
    #[arg(long, value_name = "FACTOR", value_parser = Pace::parse_speed, requires = "time", conflicts_with = "rate")]
    pub speed: Option<Pace>,
    /// Records a second; without it and --speed, as fast as it goes
    #[arg(long, value_name = "N", value_parser = Pace::parse_rate)]
    pub rate: Option<Pace>,
    #[command(flatten)]
    pub server: ServerArg,
}

/// A time like 10s, 500ms, 5m or 1h.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || "write a time like 500ms, 10s, 5m or 1h".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit_ms = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    match number.checked_mul(unit_ms) {
        Some(0) | None => Err(wrong()),
        Some(ms) => Ok(std::time::Duration::from_millis(ms)),
    }
}
