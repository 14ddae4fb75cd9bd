//! Followers of a job's results, each with a thread of its own, so that one that is down falls behind and
//! catches up without stalling anything: the sinks, and the recorder of its history.

mod history;
mod sink;

use crate::node::job::Job;
use crate::node::{Node, lock};
use history::Recorder;
use sink::SinkFollower;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tallyflow_connectors::sinks::Ending;
use tallyflow_dataflows::update::JobId;

/// What a follower does with the results.
pub trait Follow: Send + 'static {
    type Error: Display;
    /// How often it looks.
    fn every(&self) -> Duration;
    /// Writes what is new. After an error it begins anew with all there is. Blocks, and holds up nothing;
    /// but where an ending was asked for, somebody waits for it.
    fn write(&mut self, ending: &Ending) -> Result<(), Self::Error>;
    /// Whether the same may work later without anybody's help.
    fn retryable(error: &Self::Error) -> bool;
    /// Notes how far it has come, or why it is behind; `error` is the first of several where `is_news`.
    fn note(&mut self, error: Option<&Self::Error>, is_news: bool);
}

/// How long what follows a job may take to write what is there, when the job ends or takes other sinks.
const FLUSH_MAX: Duration = Duration::from_secs(10);
/// Likewise when the server ends.
const STOP_MAX: Duration = Duration::from_secs(2);

/// A running follower.
pub struct Following {
    stop: Sender<()>,
    ending: Ending,
    thread: Option<JoinHandle<()>>,
}

impl Following {
    /// Starts a follower on a thread of that name.
    pub fn start(name: String, follower: impl Follow) -> std::io::Result<Following> {
        let (stop, stopped) = channel();
        let ending = Ending::default();
        let until = ending.clone();
        let thread = std::thread::Builder::new().name(name).spawn(move || run(follower, &stopped, &until))?;
        Ok(Following { stop, ending, thread: Some(thread) })
    }

    /// All of them write what is there, in about that time at most, and end. Blocks.
    fn flush(mut all: Vec<Following>, within: Duration) {
        let by = Instant::now() + within;
        for following in &all {
            following.ending.ask(by);
            following.stop.send(()).ok();
        }
        for thread in all.iter_mut().filter_map(|following| following.thread.take()) {
            thread.join().ok();
        }
    }
}

fn run<F: Follow>(mut follower: F, stopped: &Receiver<()>, ending: &Ending) {
    let every = follower.every();
    let (mut pause, mut is_behind) = (every, false);
    loop {
        let stop = match stopped.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => false,
            Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
        };
        match follower.write(ending) {
            Ok(()) => {
                (pause, is_behind) = (every, false);
                follower.note(None, false);
            }
            Err(error) => {
                // What another try can't mend is still tried again, but seldom: a person may.
                let longest = Duration::from_secs(if F::retryable(&error) { 10 } else { 60 });
                pause = (pause * 2).clamp(every, longest.max(every));
                follower.note(Some(&error), !is_behind);
                is_behind = true;
            }
        }
        if stop {
            return;
        }
    }
}

impl Node {
    /// Starts the sinks of a job as it is now, and the recorder of its history.
    pub(super) fn start_followers(&self, job: &Arc<Job>) -> std::io::Result<()> {
        let form = job.form();
        let mut followers = Vec::new();
        if let Some(keep) = &self.config.history {
            let recorder = Recorder::new(job.clone(), form, self.history_path(job), keep.clone());
            followers.push(Following::start(format!("history-{}", job.name()), recorder)?);
        }
        for (index, sink) in job.plan().spec.sinks.iter().enumerate() {
            let follower = SinkFollower::new(
                job.clone(),
                form,
                (index, sink.clone()),
                (&self.config.data_dir, self.log.clone()),
                self.generation.clone(),
                self.polls.clone(),
            );
            followers.push(Following::start(format!("sink-{}-{index}", job.name()), follower)?);
        }
        lock(&self.followers).insert(job.id, followers);
        Ok(())
    }

    /// Ends what follows a job, once it has written what is there. Blocks.
    pub(super) fn flush_followers(&self, job: JobId) {
        let followers = lock(&self.followers).remove(&job).unwrap_or_default();
        Following::flush(followers, FLUSH_MAX);
    }

    /// Likewise of all jobs.
    pub(super) fn flush_all_followers(&self) {
        let followers = std::mem::take(&mut *lock(&self.followers));
        Following::flush(followers.into_values().flatten().collect(), STOP_MAX);
    }
}
