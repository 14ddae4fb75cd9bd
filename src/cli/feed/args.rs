//! What can be asked of a simulation. The defaults are those of the simulation itself.

use crate::cli::args::{ServerArg, duration};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;
use tallyflow_connectors::feeds::pace::parse_time_ms;
use tallyflow_connectors::feeds::simulate::{SimulateOptions, Workload};

/// Event times begin here unless told otherwise: the same for every run of a seed, and in the past,
/// since a time far ahead of the log's is rejected.
const START: &str = "2026-01-01T00:00:00Z";

/// Which feed is made up.
#[derive(Debug, Subcommand)]
pub enum Simulation {
    /// Posts with hashtags, moods and programming languages; some are edited, deleted, reposts, sent twice,
    /// reordered or late
    Posts(PostsArgs),
    /// Votes in polls; some voters change their mind or withdraw
    Votes(VotesArgs),
}

/// What both have.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// The topic to write to [default: posts or votes]
    #[arg(long, value_name = "T")]
    pub topic: Option<String>,
    /// Records a second; without it, as fast as it goes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    pub rate: Option<u32>,
    /// The same seed and options make the same records
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub seed: u64,
    /// Stop after this time; with --rate, after as many records as that makes
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Stop after so many records
    #[arg(long, value_name = "N")]
    pub records: Option<u64>,
    /// Write here, as JSON, what must come out
    #[arg(long, value_name = "FILE")]
    pub expect: Option<PathBuf>,
    /// The first record's own time, RFC 3339 or epoch milliseconds
    #[arg(long, value_name = "TIME", default_value = START, value_parser = time)]
    pub start: i64,
    /// Proportion of records that are sent again later
    #[arg(long, value_name = "P", default_value_t = defaults().duplicates)]
    pub duplicates: f64,
    /// Proportion of records that change what was said before: edits, changes of mind
    #[arg(long, value_name = "P", default_value_t = defaults().changes)]
    pub changes: f64,
    /// Proportion of records that are sent behind a few later ones
    #[arg(long, value_name = "P", default_value_t = defaults().reordered)]
    pub reordered: f64,
    /// How many later ones, at most
    #[arg(long, value_name = "N", default_value_t = defaults().reorder_span)]
    pub reorder_span: u32,
    /// Proportion of records that are sent behind many later ones
    #[arg(long, value_name = "P", default_value_t = defaults().late)]
    pub late: f64,
    /// How many later ones, to twice as many
    #[arg(long, value_name = "N", default_value_t = defaults().late_span)]
    pub late_span: u32,
    /// The exponent of Zipf's law by which hashtags and options are chosen; 0 chooses all alike
    #[arg(long, value_name = "S", default_value_t = defaults().zipf)]
    pub zipf: f64,
    #[command(flatten)]
    pub server: ServerArg,
}

#[derive(Debug, Args)]
pub struct PostsArgs {
    #[command(flatten)]
    pub common: SimulateArgs,
    /// Different hashtags
    #[arg(long, value_name = "N", default_value_t = defaults().hashtags)]
    pub hashtags: u32,
    /// Different authors
    #[arg(long, value_name = "N", default_value_t = defaults().authors)]
    pub authors: u32,
    /// Proportion of posts that are deleted later
    #[arg(long, value_name = "P", default_value_t = defaults().deletions)]
    pub deletions: f64,
    /// Proportion of posts that repost another
    #[arg(long, value_name = "P", default_value_t = defaults().reposts)]
    pub reposts: f64,
    /// The subject that --expect names: the name of the job that counts the hashtags
    #[arg(long, value_name = "NAME", default_value_t = defaults().subject)]
    pub subject: String,
}

#[derive(Debug, Args)]
pub struct VotesArgs {
    #[command(flatten)]
    pub common: SimulateArgs,
    /// Different voters, in all polls together
    #[arg(long, value_name = "N", default_value_t = defaults().voters)]
    pub voters: u32,
    /// Different polls
    #[arg(long, value_name = "N", default_value_t = defaults().polls)]
    pub polls: u32,
    /// Options of each poll
    #[arg(long, value_name = "N", default_value_t = defaults().options)]
    pub options: u32,
    /// Proportion of the changes that withdraw the vote
    #[arg(long, value_name = "P", default_value_t = defaults().withdrawals)]
    pub withdrawals: f64,
}

fn defaults() -> SimulateOptions {
    SimulateOptions::default()
}

fn time(text: &str) -> Result<i64, String> {
    parse_time_ms(text).ok_or_else(|| "write a time like 2026-01-01T00:00:00Z, or epoch milliseconds".into())
}

impl Simulation {
    /// What both have.
    pub fn common(&self) -> &SimulateArgs {
        match self {
            Simulation::Posts(args) => &args.common,
            Simulation::Votes(args) => &args.common,
        }
    }

    pub fn workload(&self) -> Workload {
        match self {
            Simulation::Posts(_) => Workload::Posts,
            Simulation::Votes(_) => Workload::Votes,
        }
    }

    /// What chooses the partition: all that concerns one message, or one voter, goes to the same one.
    pub fn key(&self) -> &'static str {
        match self {
            Simulation::Posts(_) => "/id",
            Simulation::Votes(_) => "/voter",
        }
    }

    /// The simulation's options; the error names the first that makes no sense.
    pub fn options(&self) -> Result<SimulateOptions, String> {
        let common = self.common();
        let default = defaults();
        // With a rate the time is counted in records, so that the same options write the same records.
        let by_rate =
            common.rate.zip(common.duration).map(|(rate, time)| (f64::from(rate) * time.as_secs_f64()).round() as u64);
        let mut options = SimulateOptions {
            seed: common.seed,
            records: by_rate.into_iter().chain(common.records).min(),
            rate: common.rate.map_or(default.rate, f64::from),
            start_ms: common.start,
            duplicates: common.duplicates,
            changes: common.changes,
            reordered: common.reordered,
            reorder_span: common.reorder_span,
            late: common.late,
            late_span: common.late_span,
            zipf: common.zipf,
            ..default
        };
        match self {
            Simulation::Posts(args) => {
                options.hashtags = args.hashtags;
                options.authors = args.authors;
                options.deletions = args.deletions;
                options.reposts = args.reposts;
                options.subject.clone_from(&args.subject);
            }
            Simulation::Votes(args) => {
                options.voters = args.voters;
                options.polls = args.polls;
                options.options = args.options;
                options.withdrawals = args.withdrawals;
            }
        }
        options.check()?;
        Ok(options)
    }

    /// After which time to stop, where the records were not counted.
    pub fn time_max(&self) -> Option<Duration> {
        self.common().duration.filter(|_| self.common().rate.is_none())
    }
}
