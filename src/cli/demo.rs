//! `tallyflow demo`: everything on one machine, with feeds that never end and recounts beside them.

use super::Outcome;
use super::args::DemoArgs;
use super::jobs::first_difference;
use super::output::line;
use super::serve::{self, Server};
use crate::config::Flags;
use crate::node::polls::PollError;
use crate::node::{JobText, Node, SubmitError};
use anyhow::{Context, anyhow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tallyflow_connectors::feeds::simulate::{LANGUAGES, MOODS, SimulateOptions, Simulation, Workload};
use tallyflow_dataflows::source::{NewRecord, ProduceError};
use tracing::warn;

/// The jobs, as a person would submit them.
const JOBS: [(&str, &str); 4] = [
    ("hashtags", include_str!("../../jobs/hashtags.toml")),
    ("votes", include_str!("../../jobs/votes.toml")),
    ("revenue", include_str!("../../jobs/revenue.toml")),
    ("polls", include_str!("../../jobs/polls.toml")),
];

/// The polls over the posts, as a person would make them.
fn polls() -> [serde_json::Value; 2] {
    [
        serde_json::json!({"id": "moods", "title": "How is everybody tonight?", "options": MOODS}),
        serde_json::json!({
            "id": "languages", "title": "Which language do you speak?", "options": LANGUAGES,
            "choices": "one", "entity": "author",
        }),
    ]
}

/// The feeds, each into the topic of its name.
const FEEDS: [Workload; 3] = [Workload::Posts, Workload::Votes, Workload::Orders];

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
    let config = serve::load(&args.config, Flags { data_dir, ..Flags::default() })?;
    crate::logging::to_stderr(config.log_level.clone());
    let runtime = serve::runtime()?;
    let outcome = runtime.block_on(async {
        let Some(server) = Server::start(config).await? else { return Ok(Outcome::Done) };
        let node = server.node().context("the demo runs in one process; leave the options of a cluster out")?;
        let (node, theirs) = (Arc::clone(node), Arc::clone(node));
        let prepared = tokio::task::spawn_blocking(move || prepare(&theirs)).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        if prepared.is_ok() {
            server.announce();
            explain(&server, args.data_dir.is_none());
            threads = start(&node, args, &stop)?;
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

/// Creates the topics, submits the jobs and makes the polls, but for those that are there from the last
/// time.
fn prepare(node: &Node) -> anyhow::Result<()> {
    for topic in FEEDS.map(Workload::name) {
        create_topic(node, topic).with_context(|| format!("topic {topic:?} can't be created"))?;
    }
    for (name, text) in JOBS {
        match node.submit(&JobText::Toml(text.to_owned()), false) {
            Ok(_) | Err(SubmitError::Taken(_)) => {}
            Err(SubmitError::Faults(faults)) => {
                let first = faults.first().map(ToString::to_string).unwrap_or_default();
                return Err(anyhow!("job {name:?} has faults, the first at {first}"));
            }
            Err(error) => return Err(anyhow!(error)),
        }
    }
    for poll in polls() {
        match node.create_poll(&poll.to_string()) {
            // One whose job has ended stays as it is.
            Ok(_) | Err(PollError::Taken(_) | PollError::NoJob | PollError::JobEnded(_)) => {}
            Err(error) => return Err(anyhow!(error).context(format!("poll {} can't be made", poll["id"]))),
        }
    }
    Ok(())
}

fn create_topic(node: &Node, topic: &str) -> anyhow::Result<()> {
    if node.log().topic(topic)?.is_none() {
        node.log().create_topic(topic, PARTITIONS, node.topic_config())?;
    }
    Ok(())
}

fn explain(server: &Server, temporary: bool) {
    let url = format!("http://{}", server.addr());
    let option = if server.addr().port() == 8080 { String::new() } else { format!(" --server {url}") };
    let kept = if temporary { "Nothing is kept; --data-dir keeps it." } else { "Everything is kept." };
    let next = [
        (format!("{url}/"), "the page"),
        (format!("{url}/#poll/moods"), "a poll there: vote, and watch it count"),
        (format!("curl -N {url}/api/jobs/votes/events"), "each change as it happens"),
        (format!("tallyflow watch votes{option}"), "live bars in the terminal"),
        (format!("tallyflow results revenue{option}"), "the tallies now"),
        (format!("tallyflow submit FILE.toml{option}"), "a job of your own; jobs/ has examples"),
    ];
    let width = next.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    let next: String = next.iter().map(|(what, why)| format!("  {what:width$}  {why}\n")).collect();
    let poll = format!(
        "curl {url}/api/polls -H 'content-type: application/json' -d '{{\"id\": \"drinks\", \"options\": [\"tea\", \"coffee\"]}}'"
    );
    // Nobody has to listen.
    let _ = line(format_args!(
        "\nThree simulated feeds, four jobs, two polls, a recount of each job beside them. {kept} Try next:\n{next}\
         A poll of your own, over what the posts say from now on:\n  {poll}\nCtrl-C ends it.\n"
    ));
}

/// Starts the feeds and the recounts, each in a thread of its own that ends soon after `stop`.
fn start(node: &Arc<Node>, args: &DemoArgs, stop: &Arc<AtomicBool>) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    for workload in FEEDS {
        let (topic, mut feed) = (workload.name(), feed(workload, args));
        let (node, stop, rate) = (Arc::clone(node), Arc::clone(stop), args.rate);
        let thread = std::thread::Builder::new().name(format!("feed-{topic}"));
        threads.push(thread.spawn(move || write(&node, topic, &mut feed, rate, &stop))?);
    }
    let (node, stop, every) = (Arc::clone(node), Arc::clone(stop), args.recount_every);
    threads.push(std::thread::Builder::new().name("recounts".into()).spawn(move || recounts(&node, every, &stop))?);
    Ok(threads)
}

/// A feed whose times go with the clock, at the pace at which it is written.
fn feed(workload: Workload, args: &DemoArgs) -> Simulation {
    let options = SimulateOptions {
        seed: args.seed,
        rate: args.rate as f64,
        start_ms: jiff::Timestamp::now().as_millisecond(),
        voters: 20_000,
        ..SimulateOptions::default()
    };
    Simulation::new(workload, options)
}

/// Writes what has come due, every [`FEED_EVERY`], until `stop`.
fn write(node: &Node, topic: &str, feed: &mut Simulation, rate: u64, stop: &AtomicBool) {
    let began = Instant::now();
    let mut written = 0;
    let mut batch: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        // What is left of a batch that was refused goes first, and holds back what is new.
        if batch.is_empty() {
            for _ in written..due {
                batch.extend(feed.generate().map(|made| (made.key.to_owned(), made.value.to_owned())));
            }
            written = due;
        }
        let records: Vec<NewRecord> =
            batch.iter().map(|(key, value)| NewRecord { key: Some(key), value: Some(value) }).collect();
        if !records.is_empty() {
            match node.log().append(topic, &records, None) {
                Ok(_) => batch.clear(),
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
            let said = match node.recount(job, stop) {
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
