//! A running job gives way to another form of itself.
//!
//! Other sinks and another `top` are taken over at once. Anything else is a refill of the whole job: the
//! new form is computed beside the running one from its first offsets, in small pieces, and takes its
//! place in one change once it has come as far. Redriving dead letters is the same with the same form:
//! every record is decoded again at its own offset.
//!
//! ```text
//!   installed beside --> behind --> near (let forward) --> there --> takes the job's place
//!                           '---------- fails: given up, what runs stays ----------'
//! ```

use crate::node::job::{Job, JobState, Plan, Progress};
use crate::node::sinks::SinkHandle;
use crate::node::supervise::{install_beside, is_live};
use crate::node::{JobError, JobText, Node, SubmitError, lock};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tallyflow_dataflows::engine::Command;
use tallyflow_dataflows::engine::job::InstallInput;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::spec::{Dataflow, JobSpec};
use tallyflow_dataflows::update::{EpochUpdate, JobId};

/// Engine ids from here on are of what was computed beside a job; below are the jobs' own.
const ENGINE_IDS: u64 = 1 << 32;
/// How far the epochs of the new form begin above all that were shown: more than the old one closes while
/// it waits for its end.
const EPOCHS_APART: u64 = 1 << 20;
/// How long between two looks whether the new form has come as far as the old one, which reads on.
const LOOK_EVERY: Duration = Duration::from_millis(2);

impl Node {
    /// Submits a job in the place of the one of its name, or anew if there is none. Blocks for a durable
    /// write; `JobStatus::replacing` tells how far the new form has come.
    pub fn replace(&self, text: &JobText) -> Result<Arc<Job>, SubmitError> {
        let spec = self.validate(text)?;
        let job = match self.job(&spec.name) {
            Ok(job) if job.state() != JobState::Cancelled => job,
            _ => return self.submit(text),
        };
        let failed = |e: &dyn std::fmt::Display| SubmitError::Failed(e.to_string());
        let _one_at_a_time = lock(&self.changing);
        let plan = job.plan();
        self.can_be_replaced(&job).map_err(|e| SubmitError::InTheWay(e.to_string()))?;
        if counts_the_same(&plan.spec, &spec) {
            let sinks = lock(&self.sinks).remove(&job.id).unwrap_or_default();
            sinks.into_iter().for_each(SinkHandle::flush);
            job.retune(spec);
            let noted = self.want(&job, self.wanted(&job), None).map_err(|e| failed(&e));
            self.start_sinks(&job).map_err(|e| failed(&e))?;
            return noted.map(|()| job);
        }
        if let Dataflow::Polls(_) = plan.spec.dataflow {
            return Err(SubmitError::InTheWay(format!(
                "job {:?} computes polls and what it reads can't be replaced while it runs; cancel it, submit it again and \
                 make its polls anew",
                job.name()
            )));
        }
        // What was read from where it began goes on from there: "end" stays where it was.
        let known = plan.spec.inputs.iter().zip(&plan.inputs);
        let inputs = spec.inputs.iter().map(|input| match known.clone().find(|(before, _)| *before == input) {
            Some((_, resolved)) => Ok(resolved.clone()),
            None => self.resolve(input),
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>().map_err(|e| failed(&e))?;
        self.compute_beside(&job, spec, inputs).map_err(|e| failed(&e))?;
        if let Err(error) = self.want(&job, self.wanted(&job), None) {
            self.end_beside(&job, None);
            return Err(failed(&error));
        }
        Ok(job)
    }

    /// Decodes a job's dead letters again at their own offsets, with all its other records.
    pub fn redrive(&self, name: &str) -> Result<Arc<Job>, JobError> {
        let _one_at_a_time = lock(&self.changing);
        let job = self.job(name)?;
        self.can_be_replaced(&job)?;
        let plan = job.plan();
        if let Dataflow::Polls(_) = plan.spec.dataflow {
            self.read_anew(&job).map_err(|error| JobError::Failed(format!("{error:#}")))?;
            return Ok(job);
        }
        let begun = self.compute_beside(&job, plan.spec.clone(), plan.inputs.clone());
        begun.map_err(|error| JobError::Failed(format!("{error:#}")))?;
        Ok(job)
    }

    /// Polls come and go while their job is computed: it is read again in its own place, and readers keep
    /// the numbers that it had until it is there again.
    fn read_anew(&self, job: &Arc<Job>) -> anyhow::Result<()> {
        let target = self.ends(job)?;
        self.dead_letters_store().clear(job.name())?;
        let running = self.running();
        self.polls_left_alone([job]);
        job.catch_up(target);
        if let Some(running) = running.as_ref() {
            running.link.command(Command::Remove(job.plan().engine_id));
            self.rename(job, self.next_engine_id());
            let first = Epoch(self.newest_epoch.load(Ordering::Acquire) + EPOCHS_APART);
            let polls = self.polls_to_install(job);
            running.link.command(super::supervise::install(job, first, running.epoch_limit, polls));
        }
        Ok(())
    }

    fn rename(&self, job: &Arc<Job>, engine_id: JobId) {
        let mut jobs = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        jobs.by_id.remove(&job.plan().engine_id);
        job.rename(engine_id);
        jobs.by_id.insert(engine_id, job.clone());
    }

    fn can_be_replaced(&self, job: &Job) -> Result<(), JobError> {
        let (state, name) = (job.state(), job.name().to_owned());
        if job.beside().is_some() {
            let remedy = "it is being replaced already; wait until that has ended, or cancel the job";
            return Err(JobError::State { name, state: state.name(), remedy });
        }
        if matches!(state, JobState::Paused | JobState::Cancelled) {
            return Err(JobError::State { name, state: state.name(), remedy: "resume it first" });
        }
        Ok(())
    }

    fn next_engine_id(&self) -> JobId {
        JobId(ENGINE_IDS + self.engine_ids.fetch_add(1, Ordering::AcqRel))
    }

    /// Starts to compute a form of a job beside it.
    pub(super) fn compute_beside(
        &self,
        job: &Arc<Job>,
        spec: JobSpec,
        inputs: Vec<InstallInput>,
    ) -> anyhow::Result<()> {
        let engine_id = self.next_engine_id();
        let graph = self.graph(engine_id, &spec, &inputs);
        let plan = Arc::new(Plan { engine_id, spec, inputs, graph });
        let target = self.ends_of_inputs(&plan.inputs)?;
        self.dead_letters_store().clear(&letters_of(job, engine_id))?;
        let running = self.running();
        job.begin_beside(plan.clone(), target);
        self.jobs.write().unwrap_or_else(PoisonError::into_inner).by_id.insert(engine_id, job.clone());
        if let Some(running) = running.as_ref() {
            let newest = Epoch(self.newest_epoch.load(Ordering::Acquire) + 1);
            running.link.command(install_beside(&plan, running.first_epoch.max(newest), running.epoch_limit));
        }
        Ok(())
    }

    /// An epoch of what is computed beside a job has closed.
    pub(super) fn on_beside(self: &Arc<Self>, job: &Arc<Job>, id: JobId, mut update: EpochUpdate) {
        let Some(plan) = job.beside().filter(|plan| plan.engine_id == id) else { return };
        self.keep_dead_letters(&letters_of(job, id), &plan, std::mem::take(&mut update.rejected));
        match job.apply_beside(update) {
            Progress::Behind => {}
            Progress::Near => {
                let at_least = Epoch(self.newest_epoch.load(Ordering::Acquire) + EPOCHS_APART);
                job.let_forward(at_least);
                if let Some(running) = self.running().as_ref() {
                    running.link.command(Command::StepForward { job: id, at_least });
                }
            }
            Progress::There => {
                // Flushing sinks takes its time, and other jobs' epochs wait for this thread.
                let (node, job) = (self.clone(), job.clone());
                let name = format!("replace-{}", job.name());
                if let Err(error) = std::thread::Builder::new().name(name).spawn(move || node.take_place(&job, id)) {
                    tracing::error!("a job can't take its place: {error}");
                }
            }
        }
    }

    fn take_place(&self, job: &Arc<Job>, id: JobId) {
        let sinks = lock(&self.sinks).remove(&job.id).unwrap_or_default();
        sinks.into_iter().for_each(SinkHandle::flush);
        let over = loop {
            match job.beside() {
                Some(plan) if plan.engine_id == id && is_live_or_failed(job) => {}
                _ => break None,
            }
            if let Some(over) = job.take_place() {
                break Some(over);
            }
            std::thread::sleep(LOOK_EVERY);
        };
        if let Some(over) = over {
            self.remove_from_engine(over.engine_id);
            let letters = self.dead_letters_store().take_over(&letters_of(job, id), job.name());
            if let Err(error) = letters {
                tracing::error!(job = job.name(), "its dead letters can't be renewed: {error}");
            }
            // If it is not noted, the next start computes it beside once more.
            if let Err(error) = self.want(job, self.wanted(job), None) {
                tracing::error!(job = job.name(), "that it was replaced can't be noted: {error}");
            }
            tracing::info!(job = job.name(), "the job was replaced");
        }
        if is_live(job.state())
            && let Err(error) = self.start_sinks(job)
        {
            tracing::error!(job = job.name(), "its sinks can't be started: {error}");
        }
    }

    /// What is computed beside can't go on.
    pub(super) fn give_up_beside(&self, job: &Arc<Job>, id: JobId, error: String) {
        if job.beside().is_some_and(|plan| plan.engine_id == id) {
            tracing::error!(job = job.name(), "what was to take its place failed: {error}");
            self.end_beside(job, Some(error));
            if let Err(error) = self.want(job, self.wanted(job), None) {
                tracing::error!(job = job.name(), "that can't be noted: {error}");
            }
        }
    }

    /// Gives up what is computed beside a job, if there is such.
    pub(super) fn end_beside(&self, job: &Job, error: Option<String>) {
        if let Some(plan) = job.give_up_beside(error) {
            self.remove_from_engine(plan.engine_id);
            self.dead_letters_store().clear(&letters_of(job, plan.engine_id)).ok();
        }
    }

    fn remove_from_engine(&self, id: JobId) {
        let running = self.running();
        self.jobs.write().unwrap_or_else(PoisonError::into_inner).by_id.remove(&id);
        if let Some(running) = running.as_ref() {
            running.link.command(Command::Remove(id));
        }
    }
}

fn is_live_or_failed(job: &Job) -> bool {
    is_live(job.state()) || job.state() == JobState::Failed
}

/// Under which name the dead letters of what is computed beside are kept; no job can have it.
fn letters_of(job: &Job, id: JobId) -> String {
    format!("{}/{}", job.name(), id.0)
}

/// Whether two forms of a job differ in nothing that is counted.
fn counts_the_same(a: &JobSpec, b: &JobSpec) -> bool {
    let plain = |spec: &JobSpec| {
        let mut spec = JobSpec { sinks: Vec::new(), ..spec.clone() };
        if let Dataflow::Tally(tally) = &mut spec.dataflow {
            tally.top = None;
        }
        // The defaults of polls are for those to come.
        match &spec.dataflow {
            Dataflow::Polls(_) => (None, spec.name, spec.inputs),
            Dataflow::Tally(_) => (Some(spec.dataflow), spec.name, spec.inputs),
        }
    };
    plain(a) == plain(b)
}
