//! `tallyflow demo`: everything on one machine, with feeds that never end and recounts beside them.

mod orders;

use super::Outcome;
use super::args::DemoArgs;
use super::jobs::first_difference;
use super::output::line;
use super::serve::{self, Server};
use crate::node::{JobText, Node, SubmitError};
use anyhow::{Context, anyhow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tallyflow_connectors::log::embedded::TopicConfig;
use tallyflow_dataflows::source::{NewRecord, ProduceError, Producer, Source};
use tracing::warn;

/// The jobs, as a person would submit them.
const JOBS: [(&str, &str); 3] = [
    ("hashtags", include_str!("../../jobs/hashtags.toml")),
    ("votes", include_str!("../../jobs/votes.toml")),
    ("revenue", include_str!("../../jobs/revenue.toml")),
];

/// The topics that they read.
const TOPICS: [&str; 3] = ["posts", "votes", "orders"];

const PARTITIONS: u32 = 2;

/// How often each feed writes what has come due.
const FEED_EVERY: Duration = Duration::from_millis(50);

/// Runs the demo until a signal.
pub fn run(args: &DemoArgs) -> anyhow::Result<Outcome> {
    // Removed when it goes out of scope, after the node has ended.
    let temporary = match &args.data_dir {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("tallyflow-demo-")
                .tempdir()
                .context("no temporary directory can be made; name one with --data-dir")?,
        ),
    };
    let data_dir = args.data_dir.clone().or_else(|| temporary.as_ref().map(|dir| dir.path().to_owned()));
    let config = serve::load(&args.config, data_dir)?;
    serve::log_to_stderr(&config);
    let runtime = serve::runtime()?;
    let outcome = runtime.block_on(async {
        let server = Server::start(config).await?;
        let node = Arc::clone(server.node());
        let prepared = tokio::task::spawn_blocking(move || prepare(&node)).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        if prepared.is_ok() {
            server.announce();
            explain(&server, args.data_dir.is_none());
            threads = start(server.node(), args, &stop)?;
        }
        let stopping = server.stopping();
        // A demo that could not be prepared ends at once, in the same order.
        let failed = prepared.is_err();
        let others = async move {
            stopping.await;
            stop.store(true, Ordering::Relaxed);
            let _ = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join()))).await;
        };
        let ended = if failed { server.stop(others).await } else { server.until(others).await };
        prepared.and(ended)
    });
    // A recount that still runs is not waited for.
    runtime.shutdown_background();
    outcome
}

/// Creates the topics and submits the jobs, but for those that are there from the last time.
fn prepare(node: &Node) -> anyhow::Result<()> {
    for topic in TOPICS {
        create_topic(node, topic).with_context(|| format!("topic {topic:?} can't be created"))?;
    }
    for (name, text) in JOBS {
        match node.submit(&JobText::Toml(text.to_owned())) {
            Ok(_) | Err(SubmitError::Taken(_)) => {}
            Err(SubmitError::Faults(faults)) => {
                let first = faults.first().map(ToString::to_string).unwrap_or_default();
                return Err(anyhow!("job {name:?} has faults, the first at {first}"));
            }
            Err(error) => return Err(anyhow!(error)),
        }
    }
    Ok(())
}

fn create_topic(node: &Node, topic: &str) -> anyhow::Result<()> {
    if node.log().topic(topic)?.is_none() {
        node.log().create_topic(topic, PARTITIONS, TopicConfig::default())?;
    }
    Ok(())
}

fn explain(server: &Server, temporary: bool) {
    let url = format!("http://{}", server.addr());
    let option = if server.addr().port() == 8080 { String::new() } else { format!(" --server {url}") };
    let kept = if temporary { "Nothing is kept; --data-dir keeps it." } else { "Everything is kept." };
    // Nobody has to listen.
    let _ = line(format_args!(
        "\nThree simulated feeds, three jobs, a recount of each beside them. {kept} Try next:\n\
         \x20 {url}/                                     the page\n\
         \x20 curl -N {url}/api/jobs/votes/events        each change as it happens\n\
         \x20 tallyflow watch votes{option}                  live bars in the terminal\n\
         \x20 tallyflow results revenue{option}              the tallies now\n\
         \x20 tallyflow submit FILE.toml{option}             a job of your own; jobs/ has examples\n\
         Ctrl-C ends it.\n"
    ));
}

/// Starts the feeds and the recounts, each in a thread of its own that ends soon after `stop`.
fn start(node: &Arc<Node>, args: &DemoArgs, stop: &Arc<AtomicBool>) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    for topic in TOPICS {
        let mut records = feed(topic, args)?;
        let (node, stop, rate) = (Arc::clone(node), Arc::clone(stop), args.rate);
        let thread = std::thread::Builder::new().name(format!("feed-{topic}"));
        threads.push(thread.spawn(move || write(&node, topic, &mut records, rate, &stop))?);
    }
    let (node, stop, every) = (Arc::clone(node), Arc::clone(stop), args.recount_every);
    threads.push(std::thread::Builder::new().name("recounts".into()).spawn(move || recounts(&node, every, &stop))?);
    Ok(threads)
}

/// A record's key and value.
type Made = (String, Vec<u8>);

fn feed(topic: &str, args: &DemoArgs) -> anyhow::Result<Box<dyn Iterator<Item = Made> + Send>> {
    // Another seed each time the same data directory is used would make votes anew under old ids; the
    // same one makes the same records again, which is what `duplicate` is for.
    Ok(match topic {
        "orders" => Box::new(orders::Orders::new(args.seed)),
        _ => super::feed::made(topic, args.seed)?,
    })
}

/// Writes what has come due, every [`FEED_EVERY`], until `stop`.
fn write(node: &Node, topic: &str, records: &mut dyn Iterator<Item = Made>, rate: u64, stop: &AtomicBool) {
    let began = Instant::now();
    let mut written = 0;
    let mut batch: Vec<Made> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        batch.extend(records.take(due.saturating_sub(written) as usize));
        written = due;
        if !batch.is_empty() {
            let new: Vec<NewRecord> = batch
                .iter()
                .map(|(key, value)| NewRecord { key: Some(key.as_bytes()), value: Some(value.as_slice()) })
                .collect();
            match node.log().append(topic, &new, None) {
                Ok(_) => batch.clear(),
                // Tried again with what comes next; nothing of it was written.
                Err(ProduceError::Busy) => {}
                Err(error) => {
                    warn!(topic, %error, "a simulated feed ends");
                    return;
                }
            }
        }
        std::thread::sleep(FEED_EVERY);
    }
}

/// Recounts every job from time to time and says on stdout how it went.
fn recounts(node: &Node, every: Duration, stop: &AtomicBool) {
    let mut next = Instant::now() + every;
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() < next {
            std::thread::sleep(FEED_EVERY);
            continue;
        }
        for (job, _) in JOBS {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let said = match node.recount(job) {
                Ok(answer) if answer.equal => format!(
                    "recount equal {job}: {} lines over {} records at epoch {}",
                    node.job(job).ok().and_then(|job| job.read(|results| results.line_count())).unwrap_or_default(),
                    answer.records,
                    answer.epoch
                ),
                Ok(answer) => format!(
                    "recount differs {job} at epoch {}: {}",
                    answer.epoch,
                    answer.differences.first().map(first_difference).unwrap_or_default()
                ),
                Err(error) => format!("recount of {job} not made: {error}"),
            };
            let _ = line(said);
        }
        next = Instant::now() + every;
    }
}
