//! The crash test: writes a known stream while it kills the server at any moment, and holds all that the
//! server says against a plain fold over what was acknowledged.
//!
//! ```text
//! stream --> feeder --> server <-- faults: kills, places of its own at which it ends, rescales, ...
//!              |          |
//!     what was acknowledged   readers, askers, lookers into sinks: what was seen
//!              |          |                    |
//!              '------> check <----------------'   after each round
//! ```
//!
//! With the log in Kafka, a broker is killed and stopped too, and another producer writes into the same topics
//! and aborts half of what it writes.
//!
//! A campaign has one data directory and one stream; each round begins with a server that runs or ran, does
//! it harm, has it come to rest and checks everything. Each round's seed decides what is done; the moments at
//! which the processes are struck depend on the machine.

mod board;
// As the connector's own tests start it.
#[allow(dead_code)]
#[path = "../../../connectors/tests/kafka/broker.rs"]
mod broker;
mod campaign;
mod check;
mod faults;
mod feeder;
mod fold;
mod http;
mod jobs;
pub mod kafka;
mod log;
mod lookers;
pub mod program;
pub mod script;
mod stranger;
mod stream;
mod voids;

use campaign::{Campaign, Counts};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How much is done.
#[derive(Clone, Debug)]
pub struct Options {
    pub program: PathBuf,
    /// Where the server keeps its records.
    pub log: kafka::Log,
    /// Where data directories are made.
    pub dir: PathBuf,
    pub seed: u64,
    pub rounds: Option<u64>,
    pub time: Option<Duration>,
    /// Rounds over one data directory.
    pub campaign: u64,
    /// Whether each round is told on stderr.
    pub tell: bool,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    pub seed: u64,
    pub round: u64,
    pub what: String,
    /// What was done in that round.
    pub story: Vec<String>,
    /// The data directory and the servers' logs, left as they are.
    pub dir: PathBuf,
}

/// What was done, and what was found if something was.
#[derive(Debug)]
pub struct Summary {
    pub rounds: u64,
    pub counts: Counts,
    pub found: Option<Box<Found>>,
}

/// A campaign's seed, of the seed that was asked for.
fn campaign_seed(seed: u64, first_round: u64) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(first_round) >> 8
}

/// Runs rounds until there were enough, or something is found.
pub fn run(options: &Options) -> anyhow::Result<Summary> {
    let began = Instant::now();
    let mut summary = Summary { rounds: 0, counts: Counts::new(), found: None };
    let enough = |rounds: u64| {
        options.rounds.is_some_and(|max| rounds >= max) || options.time.is_some_and(|max| began.elapsed() >= max)
    };
    while !enough(summary.rounds) {
        let first = summary.rounds;
        let seed = campaign_seed(options.seed, first);
        let dir = options.dir.join(format!("seed-{}-round-{first}", options.seed));
        let mut campaign = Campaign::start(&options.program, &dir, seed, &options.log)?;
        let mut found = None;
        while !enough(summary.rounds) && summary.rounds < first + options.campaign && found.is_none() {
            let (round, started) = (summary.rounds, Instant::now());
            found = campaign.round(seed ^ round).err().map(|error| format!("{error:#}"));
            summary.rounds += 1;
            if options.tell {
                let records: usize = campaign.topics.iter().map(log::Topic::records).sum();
                eprintln!(
                    "seed {} round {round}: {} ms, {records} records{}",
                    options.seed,
                    started.elapsed().as_millis(),
                    if found.is_some() { ", FOUND SOMETHING" } else { "" }
                );
            }
        }
        let story = std::mem::take(&mut campaign.story);
        let ended = match found {
            None => campaign.end().map_err(|error| format!("{error:#}")),
            Some(what) => Err(what),
        };
        match ended {
            Ok(counts) => {
                counts.into_iter().for_each(|(what, many)| *summary.counts.entry(what).or_default() += many);
                remove(&dir)?;
            }
            Err(what) => {
                let round = summary.rounds.saturating_sub(1);
                summary.found = Some(Box::new(Found { seed: options.seed, round, what, story, dir }));
                return Ok(summary);
            }
        }
    }
    Ok(summary)
}

fn remove(dir: &Path) -> std::io::Result<()> {
    std::fs::remove_dir_all(dir)
}
