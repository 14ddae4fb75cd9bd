//! `tallyflow-crash`: see the library.

use anyhow::Context;
use clap::Parser;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tallyflow_crash::kafka::Log;
use tallyflow_crash::{Options, program, run};

/// Kills a server at any moment and holds what it says against a plain fold.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// What decides all that is done; made from the clock unless said.
    #[arg(long)]
    seed: Option<u64>,
    /// So many rounds at most.
    #[arg(long)]
    rounds: Option<u64>,
    /// So long at most, like 90s, 2m or 3h; 2m where neither is said.
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    time: Option<Duration>,
    /// Where the server keeps its records. Kafka's broker is started by the program that TALLYFLOW_TEST_KAFKA
    /// names, scripts/kafka.
    #[arg(long, value_enum, default_value_t = Kind::Embedded)]
    log: Kind,
    /// Brokers that run, in place of one that is started; they are not killed. The topics of the test must not
    /// be there, and are deleted when it is done.
    #[arg(long, value_name = "BROKERS")]
    kafka: Option<String>,
    /// Rounds over one data directory, before another is begun.
    #[arg(long, default_value_t = 12)]
    campaign: u64,
    /// The server, built with the feature `failpoints`; built unless said.
    #[arg(long)]
    program: Option<PathBuf>,
    /// Where data directories are made; one of the system's temporary ones unless said. What found something
    /// stays there.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Embedded,
    Kafka,
}

fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err("write it like 90s, 2m or 3h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write it like 90s, 2m or 3h".to_owned())?;
    Ok(Duration::from_secs(number.saturating_mul(seconds)))
}

fn main() -> ExitCode {
    match crash(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("tallyflow-crash: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether nothing was found.
fn crash(args: Args) -> anyhow::Result<bool> {
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_secs());
    let log = match (args.log, args.kafka) {
        (Kind::Embedded, None) => Log::Embedded,
        (Kind::Kafka, None) => Log::Kafka,
        (_, Some(brokers)) => Log::KafkaAt(brokers),
    };
    let options = Options {
        log,
        program: args.program.map_or_else(program::build, Ok)?,
        dir: match args.dir {
            Some(dir) => dir,
            None => tempfile::Builder::new().prefix("tallyflow-crash-").tempdir().context("a directory")?.keep(),
        },
        seed: args.seed.unwrap_or_else(now),
        rounds: args.rounds,
        time: args.time.or(args.rounds.is_none().then(|| Duration::from_secs(120))),
        campaign: args.campaign.max(1),
        tell: true,
    };
    eprintln!("seed {}, in {}", options.seed, options.dir.display());
    let summary = run(&options)?;
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    for (what, many) in &summary.counts {
        table.add_row([what.clone(), many.to_string()]);
    }
    let mut out = std::io::stdout().lock();
    match &summary.found {
        None => {
            std::fs::remove_dir(&options.dir).ok();
            writeln!(out, "{table}\n{} rounds of seed {}: nothing was found", summary.rounds, options.seed)?;
        }
        Some(found) => {
            writeln!(out, "FOUND in round {} of seed {}: {}", found.round, found.seed, found.what)?;
            found.story.iter().try_for_each(|what| writeln!(out, "  {what}"))?;
            writeln!(out, "left to be looked at: {}", found.dir.display())?;
        }
    }
    Ok(summary.found.is_none())
}
