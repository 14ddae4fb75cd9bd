//! `tallyflow feed`: writes records to a topic.
//!
//! ```text
//! files or simulation (a thread) --ahead--> pace --> batches --HTTP--> topic
//! ```

pub mod args;
mod send;

use super::Outcome;
use super::WrongUsage;
use super::args::ReplayArgs;
use super::client::Client;
use super::output::{line, plain};
use anyhow::{Context, anyhow};
use args::Simulation;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use send::{Batch, Sender};
use std::time::Duration;
use tallyflow_connectors::feeds::FeedRecord;
use tallyflow_connectors::feeds::pace::{Pace, Pacer};
use tallyflow_connectors::feeds::replay::Replay;
use tallyflow_connectors::feeds::simulate;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How many records may be read ahead of those sent.
const AHEAD_RECORDS: usize = 2 * send::BATCH_RECORDS_MAX;

/// Records that are due within this time go out together: a request for each would cost more than that
/// much delay.
const TOGETHER: Duration = Duration::from_millis(10);

/// Where records come from.
enum Source {
    Files(Box<Replay>),
    /// And how many it has made.
    Simulation(Box<simulate::Simulation>, u64),
}

/// A record on its way.
struct Next {
    value: Vec<u8>,
    time_ms: Option<i64>,
    /// How much of the input has been read with it: bytes of files, records of a simulation.
    done: u64,
}

/// When to end before the records do.
struct End {
    after: Option<Duration>,
    /// Whether what must come out is wanted: then nothing that was made may be left unsent.
    whole: bool,
}

/// Writes the records of files.
pub async fn replay(client: Client, args: ReplayArgs) -> anyhow::Result<Outcome> {
    let pace = args.speed.or(args.rate).unwrap_or(Pace::Full);
    let time = args.time.filter(|_| args.speed.is_some());
    let replay = Replay::open(&args.files)?.with_fields(None, time);
    let key = args.key.map(|key| key.to_string());
    let progress = match replay.progress().bytes_total {
        Some(bytes) => bar(Some(bytes), "{bar:40} {bytes}/{total_bytes} {msg}"),
        None => bar(None, "{spinner} {bytes} {msg}"),
    };
    let sender = Sender::new(client, &args.topic, key.as_deref())?;
    let end = End { after: None, whole: false };
    run(Source::Files(Box::new(replay)), pace, end, sender, &progress, &args.topic).await?;
    Ok(Outcome::Done)
}

/// Writes made-up records.
pub async fn simulate(client: Client, simulation: &Simulation) -> anyhow::Result<Outcome> {
    let common = simulation.common();
    let options = simulation.options().map_err(|what| WrongUsage(anyhow!(what)))?;
    let topic = common.topic.clone().unwrap_or_else(|| simulation.workload().name().to_owned());
    let pace = common.rate.map_or(Pace::Full, |rate| Pace::Rate(f64::from(rate)));
    let progress = match options.records {
        Some(records) => bar(Some(records), "{bar:40} {human_pos}/{human_len} {msg}"),
        None => bar(None, "{spinner} {msg}"),
    };
    let sender = Sender::new(client, &topic, Some(simulation.key()))?;
    let source = Source::Simulation(Box::new(simulate::Simulation::new(simulation.workload(), options)), 0);
    let end = End { after: simulation.time_max(), whole: common.expect.is_some() };
    let source = run(source, pace, end, sender, &progress, &topic).await?;
    if let (Some(file), Source::Simulation(made, _)) = (&common.expect, source) {
        let expected = made.expect().context("not all records were sent, so what must come out is not known")?;
        let text = serde_json::to_string_pretty(&expected)?;
        std::fs::write(file, text + "\n")
            .with_context(|| format!("what must come out can't be written to {}", file.display()))?;
    }
    Ok(Outcome::Done)
}

/// A progress bar on stderr, hidden where stderr is no terminal.
pub fn bar(length: Option<u64>, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr_with_hz(10));
    // The templates above are right; the default style is no loss.
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Sends the records at their pace, until they end, the time is over or Ctrl-C, and says how many
/// arrived.
async fn run(
    source: Source,
    pace: Pace,
    end: End,
    mut sender: Sender,
    progress: &ProgressBar,
    topic: &str,
) -> anyhow::Result<Source> {
    let (ahead, records) = mpsc::channel(AHEAD_RECORDS);
    let (stop, stopped) = watch::channel(false);
    let reading = {
        let stopped = stopped.clone();
        tokio::task::spawn_blocking(move || read(source, &ahead, &stopped))
    };
    let ending = tokio::spawn(until(end.after, stop));
    let began = Instant::now();
    let writer = Writer { sender: &mut sender, progress, began, batch: Batch::default(), done: 0 };
    let sent = writer.write(records, Pacer::new(pace), stopped, end.whole).await;
    ending.abort();
    progress.finish_and_clear();
    sent?;
    let source = reading.await.context("the reading of records ended")??;
    let seconds = began.elapsed().as_secs_f64();
    line(format_args!(
        "wrote {} records to {} in {seconds:.1} s, {:.0} records/s",
        sender.records,
        plain(topic),
        sender.records as f64 / seconds.max(0.001)
    ))?;
    Ok(source)
}

/// Says when to stop: after the time, or at Ctrl-C. A second Ctrl-C ends the program where it stands.
async fn until(time: Option<Duration>, stop: watch::Sender<bool>) {
    let time_over = async {
        match time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = time_over => {}
    }
    stop.send_replace(true);
    let _ = tokio::signal::ctrl_c().await;
    std::process::exit(1);
}

/// Reads records until nobody wants more. Once stopped, a simulation makes no new ones.
fn read(mut source: Source, ahead: &mpsc::Sender<Next>, stopped: &watch::Receiver<bool>) -> anyhow::Result<Source> {
    loop {
        let next = match &mut source {
            Source::Files(replay) => {
                let mut record = FeedRecord::default();
                if !replay.read(&mut record)? {
                    return Ok(source);
                }
                Next { value: record.value, time_ms: record.time_ms, done: replay.progress().bytes_read }
            }
            Source::Simulation(simulation, made) => {
                if *stopped.borrow() {
                    simulation.stop();
                }
                *made += 1;
                match simulation.generate() {
                    Some(record) => Next { value: record.value.to_owned(), time_ms: None, done: *made },
                    None => return Ok(source),
                }
            }
        };
        if ahead.blocking_send(next).is_err() {
            return Ok(source);
        }
    }
}

/// Puts records into batches and sends them.
struct Writer<'a> {
    sender: &'a mut Sender,
    progress: &'a ProgressBar,
    began: Instant,
    batch: Batch,
    done: u64,
}

impl Writer<'_> {
    /// Sends until the records end or `stopped`; then `whole` sends what was made already, at once.
    async fn write(
        mut self,
        mut records: mpsc::Receiver<Next>,
        mut pacer: Pacer,
        mut stopped: watch::Receiver<bool>,
        whole: bool,
    ) -> anyhow::Result<()> {
        loop {
            let stopping = *stopped.borrow();
            if stopping && !whole {
                break;
            }
            // Without a wait while the next is there: what is due together goes out together.
            let next = match records.try_recv() {
                Ok(next) => next,
                Err(_) => {
                    self.flush().await?;
                    tokio::select! {
                        next = records.recv() => match next {
                            Some(next) => next,
                            None => break,
                        },
                        _ = stopped.wait_for(|stopped| *stopped), if !stopping => continue,
                    }
                }
            };
            let now = Instant::now();
            let wait = if stopping { Duration::ZERO } else { pacer.wait(now.into_std(), next.time_ms) };
            if wait > TOGETHER || self.batch.is_full() {
                self.flush().await?;
            }
            if wait > TOGETHER {
                tokio::select! {
                    // A time too far off is as good as never.
                    () = tokio::time::sleep(wait.saturating_sub(now.elapsed())) => {}
                    _ = stopped.wait_for(|stopped| *stopped) => if !whole { break },
                }
            }
            self.batch.push(&next.value);
            self.done = next.done;
        }
        self.flush().await
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.sender.send(std::mem::take(&mut self.batch)).await?;
        self.progress.set_position(self.done);
        let rate = self.sender.records as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        self.progress.set_message(format!("{} records, {rate:.0}/s", self.sender.records));
        Ok(())
    }
}
