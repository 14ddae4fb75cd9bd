//! The pause of a running server while the number of its workers changes, for `bench --workload recovery`.

use super::recovery::{JOB, PARTITIONS, write_vote};
use crate::config::{Config, Flags};
use crate::node::job::{Job, JobState};
use crate::node::{JobText, Node, ReceiptState};
use anyhow::{Context, anyhow, bail};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tallyflow_connectors::log::TopicConfig;
use tallyflow_dataflows::source::NewRecord;

/// How many votes are appended at once before the measurement, and how long one change may take.
const AT_ONCE: u64 = 20_000;
const DEADLINE: Duration = Duration::from_secs(600);
/// While the workers change, so many votes come so often.
const BATCH: u64 = 40;
const EVERY: Duration = Duration::from_millis(4);
/// How often it is looked whether there is a new epoch.
const LOOK_EVERY: Duration = Duration::from_micros(500);

/// Has so many voters vote in a server without HTTP; then one worker more, and again as many as before, while
/// votes are changed. How long at most no new epoch was shown, in ms, of either.
pub fn measure(dir: &Path, voters: u64, workers: usize) -> anyhow::Result<[f64; 2]> {
    let flags = Flags { data_dir: Some(dir.to_owned()), workers: Some(workers as u64), ..Flags::default() };
    let node = Node::open(&Config::load(None, [], flags)?)?;
    let measured = change(&node, voters, workers);
    node.shutdown();
    measured
}

fn change(node: &Arc<Node>, voters: u64, workers: usize) -> anyhow::Result<[f64; 2]> {
    node.log().create_topic("records", PARTITIONS as u32, TopicConfig::default())?;
    let job = node.submit(&JobText::Toml(JOB.to_owned()), false)?;
    for from in (0..voters).step_by(AT_ONCE as usize) {
        append(node, voters, from..(from + AT_ONCE).min(voters))?;
    }
    wait_for(&job, "all votes are read", |job| read(job) >= voters)?;
    node.checkpoint(job.name())?;

    let stop = Arc::new(AtomicBool::new(false));
    let (writer, stopped) = (node.clone(), stop.clone());
    let writing = std::thread::spawn(move || -> anyhow::Result<()> {
        let mut n = voters;
        while !stopped.load(Ordering::Acquire) {
            append(&writer, voters, n..n + BATCH)?;
            n += BATCH;
            std::thread::sleep(EVERY);
        }
        Ok(())
    });
    let pauses = [workers + 1, workers].map(|to| pause(node, &job, to));
    stop.store(true, Ordering::Release);
    writing.join().map_err(|_| anyhow!("the writer has panicked"))??;
    let [up, down] = pauses;
    Ok([up?, down?])
}

/// The longest time without a new epoch while the workers become so many, in ms.
fn pause(node: &Arc<Node>, job: &Job, to: usize) -> anyhow::Result<f64> {
    let before = read(job);
    wait_for(job, "votes are read", |job| read(job) > before)?;
    let receipt = node.rescale(to as u64)?;
    let (mut longest, started) = (Duration::ZERO, Instant::now());
    let (mut shown, mut since) = (read(job), Instant::now());
    let mut is_done = false;
    loop {
        let now = read(job);
        if now != shown {
            longest = longest.max(since.elapsed());
            (shown, since) = (now, Instant::now());
            // The first epoch after it ends the pause.
            if is_done {
                return Ok(longest.as_secs_f64() * 1e3);
            }
        }
        let receipt = node.receipt(receipt.id)?;
        match receipt.state {
            ReceiptState::Running => {}
            ReceiptState::Done => is_done = true,
            ReceiptState::Failed => bail!("the workers did not change: {}", receipt.error.unwrap_or_default()),
        }
        if started.elapsed() > DEADLINE {
            bail!("the workers did not change within {} s", DEADLINE.as_secs());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn append(node: &Node, voters: u64, votes: std::ops::Range<u64>) -> anyhow::Result<()> {
    let mut texts = Vec::new();
    for n in votes {
        let mut text = Vec::new();
        write_vote(&mut text, voters, n)?;
        texts.push(text);
    }
    let records: Vec<NewRecord<'_>> =
        texts.iter().map(|text| NewRecord { key: Some(text), value: Some(text) }).collect();
    node.log().append("records", &records, None).context("appending votes")?;
    Ok(())
}

fn read(job: &Job) -> u64 {
    job.read(|results| results.accounting().read).unwrap_or_default()
}

fn wait_for(job: &Job, what: &str, is_so: impl Fn(&Job) -> bool) -> anyhow::Result<()> {
    let started = Instant::now();
    while !is_so(job) {
        if job.state() == JobState::Failed || started.elapsed() > DEADLINE {
            bail!("not so: {what}; {:?}", job.status().error);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
