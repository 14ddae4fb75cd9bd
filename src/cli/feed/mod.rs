//! `tallyflow feed`: writes records to a topic.
//!
//! ```text
//! files or simulation (a thread) --Due--> batches --HTTP--> topic
//! ```

mod pace;
mod send;
mod sources;

use super::Outcome;
use super::args::{ReplayArgs, Simulation};
use super::client::Client;
use super::output::{line, plain};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pace::{Pace, Pacer};
use send::{Batch, Sender};
use sources::Records;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How many records may be read ahead of those sent.
const AHEAD_RECORDS: usize = 2 * send::BATCH_RECORDS_MAX;

/// Records that are due within this time go out together: a request for each would cost more than that
/// much delay.
const TOGETHER: Duration = Duration::from_millis(10);

/// A record on its way.
struct Next {
    value: Vec<u8>,
    /// Since the first.
    due: Duration,
    /// How much of the input has been read with it.
    done: u64,
}

/// Writes the records of files.
pub async fn replay(client: Client, args: ReplayArgs) -> anyhow::Result<Outcome> {
    let pace = match (args.speed, args.rate) {
        (Some(factor), _) => Pace::Speed(factor),
        (None, Some(rate)) => Pace::Rate(rate),
        (None, None) => Pace::Free,
    };
    let (records, size) = sources::files(&args.files, args.time.as_deref())?;
    let sender = Sender::new(client, &args.topic, args.key.as_deref());
    let progress = match size {
        Some(bytes) => bar(bytes, "{bar:40} {bytes}/{total_bytes} {msg}"),
        None => bar(0, "{spinner} {msg}"),
    };
    run(records, pace, None, sender, &progress, &args.topic).await?;
    Ok(Outcome::Done)
}

/// Writes made-up records.
pub async fn simulate(client: Client, simulation: Simulation) -> anyhow::Result<Outcome> {
    let common = simulation.common();
    let topic = common.topic.clone().unwrap_or_else(|| simulation.name().to_owned());
    // With a rate the time is counted in records, so that the same options write the same records.
    let by_rate = match (common.rate, common.duration) {
        (Some(rate), Some(time)) => Some((rate as f64 * time.as_secs_f64()).round() as u64),
        _ => None,
    };
    let records_max = by_rate.into_iter().chain(common.records).min();
    let time_max = if common.rate.is_none() { common.duration } else { None };
    let pace = common.rate.map_or(Pace::Free, Pace::Rate);
    let sender = Sender::new(client, &topic, Some(simulation.key()));
    let progress = match records_max {
        Some(records) => bar(records, "{bar:40} {human_pos}/{human_len} {msg}"),
        None => bar(0, "{spinner} {msg}"),
    };
    let records = sources::simulation(&simulation, records_max)?;
    let written = run(records, pace, time_max, sender, &progress, &topic).await?;
    if let Some(file) = &common.expect {
        // Made again from the seed, for exactly the records that arrived: more may have been made ahead.
        let expected = sources::expectation(&simulation, written)?;
        std::fs::write(file, expected)
            .with_context(|| format!("what must come out can't be written to {}", file.display()))?;
    }
    Ok(Outcome::Done)
}

/// A progress bar on stderr, hidden where stderr is no terminal.
fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr_with_hz(10));
    // The templates above are right; the default style is no loss.
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Sends the records at their pace, until they end, the time is over or Ctrl-C; returns how many arrived.
async fn run(
    records: Box<dyn Records>,
    pace: Pace,
    time_max: Option<Duration>,
    mut sender: Sender,
    progress: &ProgressBar,
    topic: &str,
) -> anyhow::Result<u64> {
    let (ahead, mut due) = mpsc::channel(AHEAD_RECORDS);
    let reading = tokio::task::spawn_blocking(move || read(records, pace, &ahead));
    let began = Instant::now();
    let ends = time_max.map(|time| began + time);
    let sent = tokio::select! {
        sent = write(&mut due, &mut sender, progress, began, ends) => sent,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    // Ends the reading, should it still go on.
    drop(due);
    progress.finish_and_clear();
    sent?;
    reading.await.context("the reading of records ended")??;
    let seconds = began.elapsed().as_secs_f64();
    line(format_args!(
        "wrote {} records to {} in {seconds:.1} s, {:.0} records/s",
        sender.records,
        plain(topic),
        sender.records as f64 / seconds.max(0.001)
    ))?;
    Ok(sender.records)
}

/// Reads records and says when they are due, until nobody wants more.
fn read(mut records: Box<dyn Records>, pace: Pace, ahead: &mpsc::Sender<Next>) -> anyhow::Result<()> {
    let mut pacer = Pacer::new(pace);
    while let Some(record) = records.next()? {
        let next = Next { due: pacer.due(record.time_ms), value: record.value, done: record.done };
        if ahead.blocking_send(next).is_err() {
            break;
        }
    }
    Ok(())
}

async fn write(
    due: &mut mpsc::Receiver<Next>,
    sender: &mut Sender,
    progress: &ProgressBar,
    began: Instant,
    ends: Option<Instant>,
) -> anyhow::Result<()> {
    let mut batch = Batch::default();
    let mut done = 0;
    loop {
        if ends.is_some_and(|ends| Instant::now() >= ends) {
            break;
        }
        // Without a wait while the next is there; what is due together goes out together.
        let next = match due.try_recv() {
            Ok(next) => next,
            Err(_) => {
                flush(&mut batch, sender, progress, done, began).await?;
                match due.recv().await {
                    Some(next) => next,
                    None => break,
                }
            }
        };
        let at = began.checked_add(next.due).filter(|at| ends.is_none_or(|ends| *at < ends));
        if at.is_none_or(|at| at > Instant::now() + TOGETHER) || batch.is_full() {
            flush(&mut batch, sender, progress, done, began).await?;
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => break,
            }
        }
        batch.push(&next.value);
        done = next.done;
    }
    flush(&mut batch, sender, progress, done, began).await
}

async fn flush(
    batch: &mut Batch,
    sender: &mut Sender,
    progress: &ProgressBar,
    done: u64,
    began: Instant,
) -> anyhow::Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    sender.send(std::mem::take(batch)).await?;
    progress.set_position(done);
    let rate = sender.records as f64 / began.elapsed().as_secs_f64().max(0.001);
    progress.set_message(format!("{} records, {rate:.0}/s", sender.records));
    Ok(())
}

/// Endless made-up records for the demo, as key and value.
pub fn made(topic: &str, seed: u64) -> anyhow::Result<Box<dyn Iterator<Item = (String, Vec<u8>)> + Send>> {
    sources::made(topic, seed)
}
