//! The command line: what can be asked for, and how it ends.
//!
//! Exit status 0: done; 1: the work failed; 2: wrong usage. An error is one plain sentence on stderr
//! that says what to do.

mod args;
mod client;
mod demo;
mod feed;
mod jobs;
mod keeping;
mod letters;
pub mod output;
mod polls;
mod replace;
mod results;
mod serve;
mod time;
mod topics;
mod voids;
mod watch;
mod why;

use crate::bench::Named;
use anyhow::Context;
use args::{Cli, Command, FeedCommand, TopicCommand};
use clap::Parser;
use client::Client;
use output::OutputError;
use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;

/// How a command that could do its work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It found what makes the exit status 1 and has said so: a recount that differs.
    Differs,
}

/// The configuration was refused, which is wrong usage.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct WrongUsage(anyhow::Error);

/// Runs the program.
pub fn main() -> ExitCode {
    // clap answers wrong usage itself, with status 2.
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Differs) => ExitCode::from(1),
        // The reader of our output has seen enough, as in `tallyflow results NAME | head`.
        Err(error) if error.downcast_ref().is_some_and(OutputError::is_closed) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done if stderr is closed too.
            let _ = writeln!(io::stderr(), "tallyflow: {}", sentence(&error));
            ExitCode::from(if error.is::<WrongUsage>() { 2 } else { 1 })
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench(&args).map(|()| Outcome::Done),
        Command::BenchAlone { brokers, topic, records, workload } => {
            let workload = workload.map(named).transpose()?;
            crate::bench::kafka::run_alone(&brokers, &topic, records, workload).map(|()| Outcome::Done)
        }
        Command::BenchViewers { addr, viewers } => {
            serve::runtime()?.block_on(crate::bench::viewers::watch(&addr, viewers)).map(|()| Outcome::Done)
        }
        Command::Engine => crate::node::run_engine().map(|()| Outcome::Done),
        Command::Submit(args) => ask(args.server.client()?, |c| async move { jobs::submit(&c, &args).await }),
        Command::Jobs(args) => ask(args.server.client()?, |c| async move { jobs::list(&c, args.format).await }),
        Command::Job(args) => {
            ask(args.server.client()?, |c| async move { jobs::show(&c, &args.name, args.format).await })
        }
        Command::Pause(args) => {
            ask(args.server.client()?, |c| async move { jobs::pause_or_resume(&c, &args.name, "pause").await })
        }
        Command::Resume(args) => {
            ask(args.server.client()?, |c| async move { jobs::pause_or_resume(&c, &args.name, "resume").await })
        }
        Command::Cancel(args) => {
            ask(args.server.client()?, |c| async move { jobs::cancel(&c, &args.name, args.mode).await })
        }
        Command::Checkpoint(args) => {
            ask(args.server.client()?, |c| async move { keeping::checkpoint(&c, &args).await })
        }
        Command::Restart(args) => ask(args.server.client()?, |c| async move { keeping::restart(&c, &args).await }),
        Command::Scale(args) => ask(args.server.client()?, |c| async move { keeping::scale(&c, &args).await }),
        Command::Results(args) => ask(args.server.client()?, |c| async move { results::show(&c, &args).await }),
        Command::Watch(args) => ask(args.server.client()?, |c| async move { watch::run(c, &args).await }),
        Command::Recount(args) => {
            ask(args.server.client()?, |c| async move { jobs::recount(&c, &args.name, args.format).await })
        }
        Command::Void(args) => ask(args.server.client()?, |c| async move { voids::make(&c, &args).await }),
        Command::Unvoid(args) => ask(args.server.client()?, |c| async move { voids::take_back(&c, &args).await }),
        Command::Why(args) => ask(args.server.client()?, |c| async move { why::run(&c, &args).await }),
        Command::Poll(command) => ask(command.server().client()?, |c| async move { polls::run(&c, &command).await }),
        Command::DeadLetters(args) => ask(args.server.client()?, |c| async move { letters::run(&c, &args).await }),
        Command::Topics(args) => ask(args.server.client()?, |c| async move { topics::list(&c, args.format).await }),
        Command::Topic(TopicCommand::Create(args)) => {
            ask(args.server.client()?, |c| async move { topics::create(&c, &args.name, args.partitions).await })
        }
        Command::Topic(TopicCommand::Tail(args)) => {
            ask(args.server.client()?, |c| async move { topics::tail(&c, &args).await })
        }
        Command::Feed(FeedCommand::Replay(args)) => {
            ask(args.server.client()?, |c| async move { feed::replay(c, args).await })
        }
        Command::Feed(FeedCommand::Simulate(simulation)) => {
            let client = simulation.common().server.client()?;
            ask(client, |c| async move { feed::simulate(c, &simulation).await })
        }
    }
}

fn bench(args: &args::BenchArgs) -> anyhow::Result<()> {
    use args::BenchWorkload::{Latency, Recovery, Viewers, Votes};
    let json = args.format == args::Format::Json;
    if args.log == args::BenchLog::Kafka {
        return bench_kafka(args, json);
    }
    let workers = args.workers.unwrap_or(1) as usize;
    match args.workload.unwrap_or(Votes) {
        Recovery => crate::bench::recovery::run(args.records, workers, json),
        Viewers => {
            let runtime = serve::runtime()?;
            runtime.block_on(crate::bench::viewers::run(args.viewers, args.deltas, args.for_, json))
        }
        Latency => Err(WrongUsage(anyhow::anyhow!("the workload latency wants --log kafka")).into()),
        workload => crate::bench::run(named(workload)?, args.records, workers, args.voters, json),
    }
}

fn bench_kafka(args: &args::BenchArgs, json: bool) -> anyhow::Result<()> {
    let Some(brokers) = args.kafka.clone().filter(|brokers| !brokers.is_empty()) else {
        return Err(WrongUsage(anyhow::anyhow!("--log kafka wants to know where: --kafka HOST:PORT")).into());
    };
    let is_latency = args.workload == Some(args::BenchWorkload::Latency);
    let workloads = match args.workload {
        None => vec![Named::Hashtags, Named::Votes],
        Some(_) if is_latency => Vec::new(),
        Some(args::BenchWorkload::Polls) => {
            return Err(WrongUsage(anyhow::anyhow!("the workload polls is measured without --log")).into());
        }
        Some(workload) => vec![named(workload)?],
    };
    let workers = args.workers.map_or_else(|| vec![1, 2], |workers| vec![workers as usize]);
    let (records, voters, rounds) = (args.records, args.voters, args.rounds);
    let plan = crate::bench::kafka::Plan { brokers, workloads, records, voters, workers, rounds, json };
    let runtime = serve::runtime()?;
    if is_latency {
        return runtime.block_on(crate::bench::kafka::latency::run(&plan, args.rate, args.for_));
    }
    runtime.block_on(crate::bench::kafka::run(&plan))
}

/// A workload that goes through the engine, whatever the log.
fn named(workload: args::BenchWorkload) -> anyhow::Result<Named> {
    match workload {
        args::BenchWorkload::Hashtags => Ok(Named::Hashtags),
        args::BenchWorkload::Posts => Ok(Named::Posts),
        args::BenchWorkload::Votes => Ok(Named::Votes),
        args::BenchWorkload::Polls => Ok(Named::Polls),
        _ => Err(WrongUsage(anyhow::anyhow!("this workload has no records in Kafka; leave out --log")).into()),
    }
}

/// Runs a client command. One thread is plenty: it waits for a server.
fn ask<F: Future<Output = anyhow::Result<Outcome>>>(
    client: Client,
    work: impl FnOnce(Client) -> F,
) -> anyhow::Result<Outcome> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime can't be started")?;
    let outcome = runtime.block_on(work(client));
    // A read of stdin can't be taken back; don't wait for it.
    runtime.shutdown_background();
    outcome
}

/// An error and its causes as one line.
fn sentence(error: &anyhow::Error) -> String {
    format!("{error:#}").replace(['\n', '\r'], " ")
}
