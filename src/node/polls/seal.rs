//! Polls that are over: from when on no record can count for them, so that the engine need not remember
//! who said what.
//!
//! A poll counts records that have reached the log before it closed and its grace. Once the clock has
//! passed that, a record is written, as a barrier: the log's timestamps never fall, so whatever is
//! written after it comes too late. What lies before are the ends of the job's inputs as they are then;
//! when the job has read up to there, the engine is told.

use super::{now_ms, polls_spec};
use crate::node::control::PollRecord;
use crate::node::job::Job;
use crate::node::supervise::is_live;
use crate::node::{Node, lock};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tallyflow_dataflows::update::JobId;

/// The longest sleep: the clock may be set.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// The shortest, where writing fails.
const SLEEP_MIN: Duration = Duration::from_secs(1);
/// How often what has failed is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(60);

impl Node {
    /// Starts the thread that looks after polls.
    pub(in crate::node) fn look_after_polls(self: &Arc<Self>) -> std::io::Result<()> {
        let node = self.clone();
        std::thread::Builder::new().name("polls".to_owned()).spawn(move || node.keep_looking())?;
        Ok(())
    }

    fn keep_looking(self: Arc<Self>) {
        let mut retried = Instant::now();
        let mut at_least = Duration::ZERO;
        loop {
            {
                let polls = lock(&self.polls);
                if self.is_stopping() {
                    return;
                }
                let now_ms = now_ms();
                let next = polls.unsealed().filter(|(_, job, _)| is_live(job.state())).map(|(.., at)| at).min();
                let left = next.map(|at| Duration::from_millis(at.saturating_sub(now_ms).max(0).unsigned_abs()));
                let sleep = left.unwrap_or(SLEEP_MAX).min(SLEEP_MAX).max(at_least);
                if !sleep.is_zero() {
                    // Whether it is woken or not, it looks again.
                    drop(self.polls_news.wait_timeout(polls, sleep).unwrap_or_else(PoisonError::into_inner));
                }
            }
            at_least = Duration::ZERO;
            if let Err(error) = self.seal_due() {
                tracing::warn!("the end of a poll can't be noted: {error:#}; it is tried again");
                at_least = SLEEP_MIN;
            }
            if retried.elapsed() > RETRY_EVERY {
                retried = Instant::now();
                let failed = lock(&self.polls).failed();
                for job in self.jobs().iter().filter(|job| failed.contains(&job.id)) {
                    self.tell(job, |polls| polls.job(job).retry());
                }
            }
        }
    }

    /// Notes the ends of polls for which no record can count any more.
    fn seal_due(&self) -> anyhow::Result<()> {
        let due = |polls: &super::Polls| {
            let now_ms = now_ms();
            let mut due: BTreeMap<JobId, (Arc<Job>, Vec<String>)> = BTreeMap::new();
            for (id, job, at_ms) in polls.unsealed() {
                if at_ms <= now_ms && is_live(job.state()) {
                    due.entry(job.id).or_insert_with(|| (job.clone(), Vec::new())).1.push(id.to_owned());
                }
            }
            due
        };
        // In Kafka a record may always come that says it came before.
        if self.config.kafka.is_some() || due(&lock(&self.polls)).is_empty() {
            return Ok(());
        }
        let _one_at_a_time = lock(&self.changing_polls);
        let due = due(&lock(&self.polls));
        self.control.put_barrier(now_ms())?;
        for (job, ids) in due.into_values() {
            let ends = self.ends(&job)?;
            for id in ids {
                let Ok(view) = self.poll(&id) else { continue };
                let record = PollRecord::Kept {
                    job: job.id.0,
                    in_force: view.in_force,
                    made_ms: view.made_ms,
                    changed_ms: view.changed_ms,
                    sealed: Some(ends.clone()),
                };
                self.control.put_poll(&id, &record)?;
                lock(&self.polls).job(&job).seal_at(&id, ends.clone());
            }
            self.tell_sealed(&job);
        }
        Ok(())
    }

    /// Tells the engine of polls that are over and of which the job has read all that counts.
    pub(in crate::node) fn tell_sealed(&self, job: &Job) {
        if polls_spec(&job.plan()).is_none() || !lock(&self.polls).job(job).has_to_seal() {
            return;
        }
        // Looked at where no engine can take the job up in between, which would begin with nothing read.
        self.tell(job, |polls| polls.job(job).seal(&job.progress()).into_iter().collect());
    }
}
