//! Checkpoints of jobs: every so often, when asked for, and at a clean stop.

use crate::node::job::{CheckpointStatus, Job, JobState, NotWritten, Plan};
use crate::node::supervise::is_live;
use crate::node::{JobError, Node, lock};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tallyflow_dataflows::checkpoint::manifest::Place;
use tallyflow_dataflows::checkpoint::{CheckpointStore, StoreError};
use tallyflow_dataflows::engine::Command;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::update::{CheckpointEvent, JobId};

/// How long a person waits for a checkpoint.
const WAIT: Duration = Duration::from_secs(60);
/// How long a clean stop waits for the checkpoints of all jobs.
const STOP_WAIT: Duration = Duration::from_secs(4);
/// How often it is looked which job's checkpoint is due.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Where the checkpoints of a job lie.
fn folder_of(job: JobId) -> String {
    format!("job-{}", job.0)
}

impl Node {
    /// Where the checkpoints of a job lie, and which are of its form.
    pub(super) fn place(&self, job: JobId, plan: &Plan) -> Place {
        Place { folder: folder_of(job), form: format!("{}-{}", self.control.identity(), plan.form) }
    }

    /// Removes the checkpoints of a job that is gone.
    pub(super) fn forget_checkpoints(&self, job: JobId) {
        let store = self.generation.store();
        let removed = match self.generation.must_not_write() {
            Some(why) => Err(StoreError(why)),
            None => store.list(&folder_of(job)).and_then(|names| names.iter().try_for_each(|name| store.delete(name))),
        };
        if let Err(error) = removed {
            tracing::warn!("the checkpoints of job {} can't be removed: {error}", job.0);
        }
    }

    /// Writes a checkpoint of the job. Blocks until it is there; where the engine ends in the midst of it, the
    /// next one is asked.
    pub fn checkpoint(&self, name: &str) -> Result<CheckpointStatus, JobError> {
        let job = self.job(name)?;
        let deadline = Instant::now() + WAIT;
        let late =
            || JobError::Failed(format!("the checkpoint of job {name:?} is not there after {} s", WAIT.as_secs()));
        loop {
            let state = job.state();
            if !is_live(state) {
                let remedy = "only a job that runs or is paused has a state to keep";
                return Err(JobError::State { name: name.to_owned(), state: state.name(), remedy });
            }
            let ended = match self.begin_checkpoint(&job) {
                Some(Ok(number)) => Some(job.wait_for_checkpoint(number, deadline).ok_or_else(late)?),
                // One that has begun before may lack what the asker has seen.
                Some(Err(taking)) => {
                    job.wait_for_checkpoint(taking, deadline).ok_or_else(late)?.ok();
                    continue;
                }
                None => None,
            };
            match ended {
                Some(Ok(())) => return job.checkpoint().ok_or_else(late),
                Some(Err(error @ NotWritten::Failed(_))) => {
                    return Err(JobError::Failed(format!("the checkpoint of job {name:?} was not written: {error}")));
                }
                Some(Err(NotWritten::Lost)) | None if Instant::now() > deadline => return Err(late()),
                Some(Err(NotWritten::Lost)) | None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Asks the engine for a checkpoint: its number, or that of the one which is being written; `None`:
    /// there is no engine.
    fn begin_checkpoint(&self, job: &Job) -> Option<Result<u64, u64>> {
        let running = self.running();
        let running = running.as_ref().filter(|running| running.ready)?;
        let number = self.checkpoints.fetch_add(1, Ordering::AcqRel) + 1;
        Some(job.begin_checkpoint(number).map(|()| {
            running.link.command(Command::Checkpoint { job: job.plan().engine_id, number });
            number
        }))
    }

    /// Takes what became of a checkpoint.
    pub(super) fn on_checkpoint(self: &Arc<Self>, id: JobId, number: u64, event: CheckpointEvent) {
        let Some(job) = self.job_by_id(id).filter(|job| job.plan().engine_id == id) else { return };
        match &event {
            CheckpointEvent::Taken { .. } => {}
            CheckpointEvent::Failed { error, again } => {
                let next = if *again { "it is tried again" } else { "the next is due as ever" };
                tracing::error!(job = job.name(), "its checkpoint can't be written ({next}): {error}");
            }
            CheckpointEvent::Fenced => {
                let error =
                    "another server has taken the job up from its checkpoints; this one publishes nothing more of it";
                self.on_failed(&job, id, error, None);
                self.ask_who_writes(job.name(), error);
            }
        }
        job.checkpointed(number, event);
    }

    /// Takes what a job goes on from.
    pub(super) fn on_taken_up(&self, id: JobId, from: Option<(u64, Epoch)>, passed_over: &[(u64, String)]) {
        let Some(job) = self.job_by_id(id) else { return };
        job.taken_up(id, from.is_some());
        for (number, why) in passed_over {
            tracing::warn!(job = job.name(), "checkpoint {number} is of no use: {why}");
        }
        match from {
            Some((number, epoch)) => {
                tracing::info!(job = job.name(), number, epoch = epoch.0, "the job goes on from a checkpoint");
            }
            None if passed_over.is_empty() => {}
            None => tracing::warn!(
                job = job.name(),
                "no checkpoint is of use: the job reads its inputs from where it began"
            ),
        }
    }

    /// Starts the thread that takes checkpoints every so often.
    pub(super) fn take_checkpoints(self: &Arc<Self>) -> std::io::Result<()> {
        let Some(every) = self.config.checkpoint_every else { return Ok(()) };
        let node = Arc::downgrade(self);
        std::thread::Builder::new().name("checkpoints".to_owned()).spawn(move || {
            while let Some(node) = node.upgrade().filter(|node| !node.is_stopping()) {
                for job in node.jobs().iter().filter(|job| is_live(job.state()) && job.is_checkpoint_due(every)) {
                    node.begin_checkpoint(job);
                }
                drop(node);
                std::thread::sleep(LOOK_EVERY);
            }
        })?;
        Ok(())
    }

    /// Checkpoints of all jobs that have changed, before the engine is ended. Blocks, some seconds at most.
    pub(super) fn checkpoint_all(&self) {
        let deadline = Instant::now() + STOP_WAIT;
        let jobs = self.jobs();
        let due: Vec<_> =
            jobs.iter().filter(|job| is_live(job.state()) && job.is_checkpoint_due(Duration::ZERO)).collect();
        let begun: Vec<_> = due.into_iter().map(|job| (job, self.begin_checkpoint(job))).collect();
        for (job, number) in begun {
            let Some(Ok(number)) = number else { continue };
            match job.wait_for_checkpoint(number, deadline) {
                Some(Ok(())) => {}
                Some(Err(error)) => tracing::warn!(job = job.name(), "its last checkpoint was not written: {error}"),
                None => tracing::warn!(job = job.name(), "its last checkpoint was not written in time"),
            }
        }
    }

    /// Takes a job down and up again: from its newest checkpoint, or with `ignore_state` from where its
    /// inputs begin, as far as the log still has that.
    pub fn restart(&self, name: &str, ignore_state: bool) -> Result<Arc<Job>, JobError> {
        let _one_at_a_time = lock(&self.changing);
        let job = self.job(name)?;
        let state = job.state();
        let in_the_way = |remedy| Err(JobError::State { name: name.to_owned(), state: state.name(), remedy });
        match state {
            JobState::Cancelled if job.keeps_state() => {
                job.set_halt(None, false);
                job.keep_state(false);
            }
            JobState::Cancelled => {
                return in_the_way("submit it again; only one cancelled with --mode checkpoint can go on");
            }
            JobState::Paused => return in_the_way("resume it first"),
            _ if job.beside().is_some() => return in_the_way("it is being replaced; wait until that has ended"),
            _ if job.halt().is_some() && is_live(state) => {
                return in_the_way("it is being cancelled; wait until it has ended");
            }
            _ => {}
        }
        let form = ignore_state.then(|| job.plan().spec.clone());
        let read_anew = self.read_anew(&job, form).and_then(|()| match state {
            JobState::Cancelled => Ok(self.start_followers(&job)?),
            _ => Ok(()),
        });
        if let Err(error) = read_anew {
            job.keep_state(state == JobState::Cancelled && job.state() == state);
            return Err(JobError::Failed(format!("{error:#}")));
        }
        Ok(job)
    }
}
