//! Polls come, change and go. What must survive is written to the control topic first, but for what
//! only the engine can say: where a poll begins that opens now.
//!
//! ```text
//!   opens now or later:  engine asked -> it says from where -> written -> answered
//!   opens in the past:   from by the log's times -> written -> answered; counted by the next pass
//!   changed:             new version -> written -> answered; counted by the next pass
//!   deleted:             written -> hidden at once, removed by the next pass
//! ```
//!
//! Two locks, always in this order: `running` (the engine), then `polls`. Whoever tells an engine
//! something holds both, so that an engine that starts gets every poll exactly once. Nothing is written
//! to the log while they are held: its writer's thread takes the first one.

mod passes;
#[cfg(test)]
mod passes_tests;
mod seal;
mod state;

pub use state::{JobRefill, PollFilling, PollState, PollView, Polls};

use crate::node::control::PollRecord;
use crate::node::job::{Job, JobState, Plan};
use crate::node::supervise::is_live;
use crate::node::{Node, lock};
use passes::{Opened, Places};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_dataflows::decode::Formats;
use tallyflow_dataflows::engine::{Command, PollChange};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::{ProduceError, SourceError};
use tallyflow_dataflows::spec::definition::{Around, PollsJob, changed_poll, new_poll};
use tallyflow_dataflows::spec::polls::{Poll, PollInForce, PollsSpec};
use tallyflow_dataflows::spec::written::time_text;
use tallyflow_dataflows::spec::{Dataflow, Fault};
use tallyflow_dataflows::update::{JobId, PollEvent};

/// The most polls of a job, and the most options of all of them: each record is matched against all.
pub const POLLS_MAX: usize = 250_000;
pub const OPTIONS_MAX: usize = 1_000_000;

/// How long a poll waits for the engine to open it.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// How much before its event time a record may have reached the log: what lies further ahead is rejected.
const AHEAD_MS: i64 = 3_600_000;

/// Why a poll did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    #[error("there is no poll {0:?}; `GET /api/polls` lists them")]
    Unknown(String),
    #[error("poll {0:?} was deleted; make another with `POST /api/polls`")]
    Deleted(String),
    #[error("a poll {0:?} is there already; change it with PATCH, delete it first, or choose another id")]
    Taken(String),
    /// Every fault of a definition.
    #[error("the poll's definition has {} fault{}", .0.len(), if .0.len() == 1 { "" } else { "s" })]
    Faults(Vec<Fault>),
    #[error("there is no job of polls; submit one first, with dataflow = \"polls\" as in jobs/polls.toml")]
    NoJob,
    #[error("job {0:?} is cancelled and its polls stay as they are; submit it again and make them anew")]
    JobEnded(String),
    #[error("job {job:?} has {what}, the most that it can have; delete a poll first, or submit another job of polls")]
    TooMany { job: String, what: String },
    #[error("poll {id:?} has been closed since {at}; give it a later `closes` with PATCH to open it again")]
    Closed { id: String, at: String },
    #[error("poll {id:?} opens at {at} and can't be closed before; delete it, or change `opens` with PATCH")]
    NotOpen { id: String, at: String },
    #[error(
        "the poll would have to be counted anew from {topic}/{partition}/{from}, but offsets {from} to {} are gone from the \
         log; make another poll instead", start.0 - 1
    )]
    Gone { topic: String, partition: PartitionId, from: Offset, start: Offset },
    #[error("the engine does not answer and nothing was made; try again in a moment")]
    NoAnswer,
    /// What must survive could not be written.
    #[error("the poll can't be noted: {0}")]
    Log(#[from] ProduceError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{0}")]
    Failed(String),
}

/// The `[polls]` of a job of polls.
fn polls_spec(plan: &Plan) -> Option<&PollsSpec> {
    match &plan.spec.dataflow {
        Dataflow::Polls(spec) => Some(spec),
        Dataflow::Tally(_) => None,
    }
}

/// What a definition is checked against in a job of polls.
pub fn polls_job(plan: &Plan) -> Option<PollsJob<'_>> {
    let is_message = |format: &str| BuiltinFormats.find(format).is_some_and(|format| format.message_id.is_some());
    let reads_messages = plan.spec.inputs.iter().any(|input| is_message(&input.format));
    polls_spec(plan).map(|defaults| PollsJob { name: &plan.spec.name, defaults, reads_messages })
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

impl Node {
    /// Polls by id, those of a job where one is named, from after an id, at most so many.
    pub fn polls(&self, job: Option<&str>, after: Option<&str>, limit: usize) -> Vec<PollView> {
        lock(&self.polls).views(job, after, limit, now_ms())
    }

    /// The poll of that id.
    pub fn poll(&self, id: &str) -> Result<PollView, PollError> {
        lock(&self.polls).view(id, now_ms())
    }

    /// Checks a definition and makes the poll. Blocks until it is durable, and where it opens now or
    /// later until the engine has taken it up.
    pub fn create_poll(&self, definition: &str) -> Result<PollView, PollError> {
        let _one_at_a_time = lock(&self.changing_polls);
        let now_ms = now_ms();
        let now_ns = now_ms.saturating_mul(1_000_000);
        let jobs = self.jobs();
        let live = jobs.iter().filter(|job| job.state() != JobState::Cancelled);
        let plans: Vec<Arc<Plan>> = live.map(|job| job.plan()).collect();
        let jobs: Vec<PollsJob<'_>> = plans.iter().filter_map(|plan| polls_job(plan)).collect();
        if jobs.is_empty() {
            return Err(PollError::NoJob);
        }
        let is_taken = |id: &str| lock(&self.polls).is_taken(id);
        let (name, poll) =
            new_poll(definition, &Around { jobs: &jobs, is_taken: &is_taken, now_ns }).map_err(PollError::Faults)?;
        let job = self.polls_job_for_change(&name)?;
        let version = {
            let polls = lock(&self.polls);
            if polls.contains(&poll.id) {
                return Err(PollError::Taken(poll.id));
            }
            polls.has_room(&job, poll.options.len(), None)?;
            polls.next_version(&poll.id)
        };
        let id = poll.id.clone();
        let in_past = poll.opens_ns < now_ns;
        let from = if in_past { self.begin_of(&job, poll.opens_ns)? } else { self.ends_of(&job)? };
        let in_force = PollInForce { poll, version, from };
        if in_past || !self.open_poll(&job, &in_force, now_ms)? {
            self.write(&job, &in_force, (now_ms, now_ms))?;
            self.keep(&job, in_force, (now_ms, now_ms));
        }
        tracing::info!(job = job.name(), poll = id, version, "a poll was made");
        self.poll(&id)
    }

    /// Asks the engine to open the poll, and writes it once it has; whether there was an engine to do so.
    fn open_poll(&self, job: &Arc<Job>, in_force: &PollInForce, now_ms: i64) -> Result<bool, PollError> {
        {
            let running = self.running();
            let mut polls = lock(&self.polls);
            let Some(running) = running.as_ref() else { return Ok(false) };
            let Some(change) = polls.job(job).open(in_force.clone()) else { return Ok(false) };
            running.link.command(Command::Polls { job: job.plan().engine_id, change });
        }
        let deadline = Instant::now() + OPEN_WAIT;
        let mut polls = lock(&self.polls);
        let opened = loop {
            if let Some(opened) = polls.job(job).take_opened() {
                break opened;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(polls);
                // Whatever becomes of it in the engine, nobody is to see it.
                self.tell(job, |polls| {
                    polls.give_up(in_force);
                    polls.job(job).give_up_opening()
                });
                return Err(PollError::NoAnswer);
            }
            (polls, _) = self.polls_news.wait_timeout(polls, left).unwrap_or_else(PoisonError::into_inner);
        };
        drop(polls);
        let opened = match opened {
            Opened::Lost => return Ok(false),
            Opened::At(opened) => *opened,
        };
        if let Err(error) = self.write(job, &opened, (now_ms, now_ms)) {
            self.tell(job, |polls| {
                polls.give_up(in_force);
                polls.job(job).delete(&in_force.poll.id)
            });
            return Err(error);
        }
        lock(&self.polls).know(job, &opened, (now_ms, now_ms));
        self.polls_news.notify_all();
        Ok(true)
    }

    /// Changes a poll. What alters what it counts makes a new version, whose numbers are shown once its
    /// past was counted. Blocks for a durable write.
    pub fn change_poll(&self, id: &str, change: &str) -> Result<PollView, PollError> {
        let _one_at_a_time = lock(&self.changing_polls);
        let view = self.poll(id)?;
        let job = self.polls_job_for_change(view.job.name())?;
        let plan = job.plan();
        let known = polls_job(&plan).ok_or(PollError::NoJob)?;
        let poll = changed_poll(change, &view.in_force.poll, &known).map_err(PollError::Faults)?;
        self.put_in_place(&job, &view, poll)
    }

    /// Closes a poll that is open.
    pub fn close_poll(&self, id: &str) -> Result<PollView, PollError> {
        let _one_at_a_time = lock(&self.changing_polls);
        let view = self.poll(id)?;
        let job = self.polls_job_for_change(view.job.name())?;
        let now_ns = now_ms().saturating_mul(1_000_000);
        let poll = view.in_force.poll.clone();
        match poll.closes_ns {
            Some(closes) if closes <= now_ns => Err(PollError::Closed { id: poll.id, at: time_text(closes) }),
            _ if poll.opens_ns > now_ns => Err(PollError::NotOpen { at: time_text(poll.opens_ns), id: poll.id }),
            _ => {
                // Where it has opened in this very millisecond, that is its only one.
                let closes_ns = now_ns.max(poll.opens_ns.saturating_add(1_000_000));
                self.put_in_place(&job, &view, Poll { closes_ns: Some(closes_ns), ..poll })
            }
        }
    }

    fn put_in_place(&self, job: &Arc<Job>, before: &PollView, poll: Poll) -> Result<PollView, PollError> {
        let was = &before.in_force;
        if poll == was.poll {
            return self.poll(&poll.id);
        }
        let (id, times) = (poll.id.clone(), (before.made_ms, now_ms()));
        if poll.counts_as(&was.poll) {
            let in_force = PollInForce { poll, ..was.clone() };
            self.write(job, &in_force, times)?;
            let mut polls = lock(&self.polls);
            polls.know(job, &in_force, times);
            polls.job(job).retitle(&id, &in_force.poll.title);
            drop(polls);
            return self.poll(&id);
        }
        let version = {
            let polls = lock(&self.polls);
            polls.has_room(job, poll.options.len(), Some(&id))?;
            polls.next_version(&id)
        };
        let mut from = was.from.clone();
        if poll.opens_ns < was.poll.opens_ns {
            let earlier = self.begin_of(job, poll.opens_ns)?;
            let pairs = from.iter_mut().flatten().zip(earlier.into_iter().flatten());
            pairs.for_each(|(from, earlier)| *from = earlier.min(*from));
        }
        self.check_kept(job, &was.from)?;
        let in_force = PollInForce { poll, version, from };
        self.write(job, &in_force, times)?;
        self.keep(job, in_force, times);
        tracing::info!(job = job.name(), poll = id, version, "a poll was changed");
        self.poll(&id)
    }

    /// Deletes a poll. Blocks for a durable write.
    pub fn delete_poll(&self, id: &str) -> Result<(), PollError> {
        let _one_at_a_time = lock(&self.changing_polls);
        let view = self.poll(id)?;
        let job = self.polls_job_for_change(view.job.name())?;
        let record = PollRecord::Deleted { job: job.id.0, version: view.in_force.version, at_ms: now_ms() };
        self.control.put_poll(id, &record)?;
        let mut forgotten = None;
        self.tell(&job, |polls| {
            forgotten = polls.delete(id, &record);
            polls.job(&job).delete(id)
        });
        tracing::info!(job = job.name(), poll = id, "a poll was deleted");
        // The oldest of very many deleted ones: its record is needed no more.
        if let Some(forgotten) = forgotten {
            self.control.forget_polls(&[forgotten])?;
        }
        Ok(())
    }

    /// The job of that name, if its polls can be changed.
    fn polls_job_for_change(&self, name: &str) -> Result<Arc<Job>, PollError> {
        let job = self.job(name).map_err(|_| PollError::NoJob)?;
        match job.state() {
            JobState::Cancelled => Err(PollError::JobEnded(name.to_owned())),
            _ => Ok(job),
        }
    }

    /// Where a poll begins that opens in the past: no record before can have an event time from then on.
    fn begin_of(&self, job: &Job, opens_ns: i64) -> Result<Places, PollError> {
        let since_ms = opens_ns.div_euclid(1_000_000).saturating_sub(AHEAD_MS);
        let mut places = Vec::new();
        for input in &job.plan().inputs {
            let at = |start: &tallyflow_dataflows::engine::job::Start| {
                Ok::<_, SourceError>(self.log.offset_at(&input.topic, start.partition, since_ms)?.max(start.from))
            };
            places.push(input.partitions.iter().map(at).collect::<Result<_, _>>()?);
        }
        Ok(places)
    }

    fn ends_of(&self, job: &Job) -> Result<Places, PollError> {
        self.ends(job).map_err(|error| PollError::Failed(format!("{error:#}")))
    }

    /// Whether the log still has all from these places on.
    fn check_kept(&self, job: &Job, from: &Places) -> Result<(), PollError> {
        for (input, places) in job.plan().inputs.iter().zip(from) {
            let Some(topic) = self.log.topic(&input.topic)? else {
                return Err(SourceError::UnknownTopic { topic: input.topic.clone() }.into());
            };
            for ((start, from), state) in input.partitions.iter().zip(places).zip(&topic.partitions) {
                if state.start > *from {
                    let (topic, partition) = (input.topic.clone(), start.partition);
                    return Err(PollError::Gone { topic, partition, from: *from, start: state.start });
                }
            }
        }
        Ok(())
    }

    /// Writes a poll, made and changed at these times.
    fn write(&self, job: &Job, in_force: &PollInForce, (made_ms, changed_ms): (i64, i64)) -> Result<(), PollError> {
        let sealed = lock(&self.polls).sealed_at(job, in_force);
        let record = PollRecord::Kept { job: job.id.0, in_force: in_force.clone(), made_ms, changed_ms, sealed };
        Ok(self.control.put_poll(&in_force.poll.id, &record)?)
    }

    /// Takes up a poll that was written, to be counted by the next pass.
    fn keep(&self, job: &Arc<Job>, in_force: PollInForce, times: (i64, i64)) {
        self.tell(job, |polls| {
            polls.know(job, &in_force, times);
            polls.job(job).add(in_force)
        });
        self.polls_news.notify_all();
    }

    /// Changes what is known of a job's polls and tells the engine what follows.
    fn tell(&self, job: &Job, change: impl FnOnce(&mut Polls) -> Vec<PollChange>) {
        let running = self.running();
        let mut polls = lock(&self.polls);
        let changes = change(&mut polls);
        if let Some(running) = running.as_ref() {
            changes
                .into_iter()
                .for_each(|change| running.link.command(Command::Polls { job: job.plan().engine_id, change }));
        }
        job.set_refill(polls.job(job).progress().map(|(records, of)| JobRefill { records, of }));
    }

    /// What the engine says of a job's polls.
    pub(super) fn on_poll_event(&self, id: JobId, event: PollEvent) {
        let Some(job) = self.job_by_id(id).filter(|job| is_live(job.state())) else { return };
        self.tell(&job, |polls| {
            // It may have been taken up anew by just now.
            if job.plan().engine_id != id {
                return Vec::new();
            }
            let passes = polls.job(&job);
            match event {
                PollEvent::Opened { poll, from } => passes.opened(&poll, from),
                PollEvent::Refilling { number, records, of } => passes.refilling(number, records, of),
                PollEvent::Refilled { number } => {
                    job.want_checkpoint();
                    return passes.refilled(number);
                }
                PollEvent::RefillFailed { number, error } => {
                    tracing::error!(job = job.name(), "the past of polls could not be read again: {error}");
                    return passes.refill_failed(number, &error);
                }
            }
            Vec::new()
        });
        self.polls_news.notify_all();
        self.tell_sealed(&job);
    }

    /// Every poll of a job that the engine takes up; the engine's lock is held.
    pub(super) fn polls_to_install(&self, job: &Arc<Job>) -> Vec<PollInForce> {
        match polls_spec(&job.plan()) {
            Some(_) => lock(&self.polls).job(job).install(),
            None => Vec::new(),
        }
    }

    /// The engine is gone, or does not run these jobs any more; the engine's lock is held.
    pub(super) fn polls_left_alone<'a>(&self, jobs: impl IntoIterator<Item = &'a Arc<Job>>) {
        for job in jobs.into_iter().filter(|job| polls_spec(&job.plan()).is_some()) {
            lock(&self.polls).job(job).engine_gone(job.is_catching_up());
            job.set_refill(None);
        }
        self.polls_news.notify_all();
    }

    /// A job whose name was used again takes its polls with it.
    pub(super) fn forget_polls_of(&self, job: &Job) {
        let _one_at_a_time = lock(&self.changing_polls);
        let ids = lock(&self.polls).forget_job(job.id);
        // What stays in the log is of a job that is not there, and is forgotten at the next start.
        if let Err(error) = self.control.forget_polls(&ids) {
            tracing::warn!(job = job.name(), "its polls can't be forgotten yet: {error}");
        }
    }

    /// Takes up the polls from the control topic when the node starts.
    pub(super) fn restore_polls(
        &self,
        records: std::collections::BTreeMap<String, PollRecord>,
    ) -> Result<(), ProduceError> {
        let mut stray = Vec::new();
        for (id, record) in records {
            match self.job_by_id(JobId(record.job())) {
                Some(job) => lock(&self.polls).restore(&job, id, record),
                // Its job's name was used again, and the server ended just then.
                None => stray.push(id),
            }
        }
        self.control.forget_polls(&stray)
    }
}
