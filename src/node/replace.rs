//! A running job gives way to another form of itself.
//!
//! Other sinks and another `top` are taken over at once. Anything else is a refill of the whole job: the
//! new form is computed beside the running one from its first offsets, in small pieces, and takes its
//! place in one change once it has come as far. Redriving dead letters is the same with the same form:
//! every record is decoded again at its own offset.
//!
//! ```text
//!   installed beside --> behind --> near (let forward) --> there --> takes the job's place
//!          ^                '---------- fails: given up, what runs stays ----------'
//!          '---- engine gone, node gone: begins anew
//! ```
//!
//! A thread of its own waits for the new form to be there, and takes `changing` for the change itself; the
//! supervisor only tells how far it has come.

use crate::node::job::{Job, JobState, Place, Plan};
use crate::node::supervise::{install_beside, is_live};
use crate::node::{JobError, JobText, Node, SubmitError, lock};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tallyflow_dataflows::crash;
use tallyflow_dataflows::engine::Command;
use tallyflow_dataflows::engine::job::{Halt, InstallInput};
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::spec::{Dataflow, JobSpec};
use tallyflow_dataflows::update::JobId;

/// Engine ids from here on are of what was computed beside a job; below are the jobs' own.
const ENGINE_IDS: u64 = 1 << 32;
/// How far the epochs of the new form begin above all that were shown: more than the old one closes while
/// it waits for its end.
const EPOCHS_APART: u64 = 1 << 20;
/// The longest time between two looks whether the server ends meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the new form may run after the old one, which reads on. Where it does not catch up in that
/// time there is more to read than both can, and the old one waits for it.
const RACE_MAX: Duration = Duration::from_secs(10);

/// What a submission in the place of a job has come to.
pub enum Submitted {
    /// There was none; it is starting.
    Anew(Arc<Job>),
    /// It is replaced or being replaced, as its status says.
    Replacing(Arc<Job>),
}

impl Node {
    /// Submits a job in the place of the one of its name, or anew if there is none. Blocks for a durable
    /// write; `JobStatus::replacing` tells how far the new form has come.
    ///
    /// With `take_over` its sinks write over what another server left there.
    pub fn replace(&self, text: &JobText, take_over: bool) -> Result<Submitted, SubmitError> {
        let mut spec = self.validate(text)?;
        let _one_at_a_time = lock(&self.changing);
        let job = match self.job(&spec.name) {
            Ok(job) if job.state() != JobState::Cancelled => job,
            _ => return self.begin(spec, take_over).map(Submitted::Anew),
        };
        let failed = |e: &dyn std::fmt::Display| SubmitError::Failed(e.to_string());
        can_be_replaced(&job).map_err(|e| SubmitError::InTheWay(e.to_string()))?;
        if take_over {
            job.take_over(Some(jiff::Timestamp::now().as_millisecond()));
        }
        let plan = job.plan();
        // They are the operator's, not the file's.
        spec.voids = plan.spec.voids.clone();
        let is_polls = |spec: &JobSpec| matches!(spec.dataflow, Dataflow::Polls(_));
        // What has failed is tried anew, whatever differs.
        let has_failed = job.state() == JobState::Failed && !is_polls(&plan.spec);
        if counts_the_same(&plan.spec, &spec) && !has_failed {
            self.retune(&job, spec)?;
            return Ok(Submitted::Replacing(job));
        }
        if is_polls(&plan.spec) || is_polls(&spec) {
            return Err(SubmitError::InTheWay(format!(
                "job {:?} is one of polls or would become one: while it runs, only its sinks and the defaults in \
                 [polls] can be replaced; cancel it, submit it again and make its polls anew",
                job.name()
            )));
        }
        // What was read from where it began goes on from there: "end" stays where it was.
        let known = plan.spec.inputs.iter().zip(&plan.inputs);
        let inputs = spec.inputs.iter().map(|input| match known.clone().find(|(before, _)| *before == input) {
            Some((_, resolved)) => Ok(resolved.clone()),
            None => self.resolve(input),
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        self.begin_beside(&job, spec, inputs).map_err(|e| failed(&e))?;
        Ok(Submitted::Replacing(job))
    }

    /// Decodes a job's dead letters again at their own offsets, with all its other records.
    pub fn redrive(&self, name: &str) -> Result<Arc<Job>, JobError> {
        let _one_at_a_time = lock(&self.changing);
        let job = self.job(name)?;
        can_be_replaced(&job)?;
        let plan = job.plan();
        match plan.spec.dataflow {
            Dataflow::Polls(_) if job.is_catching_up() => {
                let (name, state) = (job.name().to_owned(), job.state().name());
                let remedy = "it reads its records again just now; wait until it runs";
                return Err(JobError::State { name, state, remedy });
            }
            Dataflow::Polls(_) => {
                self.read_anew(&job, Some(plan.spec.clone())).map_err(|error| JobError::Failed(format!("{error:#}")))?
            }
            Dataflow::Tally(_) => self.begin_beside(&job, plan.spec.clone(), plan.inputs.clone())?,
        }
        Ok(job)
    }

    /// Takes over sinks, `top` and the defaults of polls.
    fn retune(&self, job: &Arc<Job>, spec: JobSpec) -> Result<(), SubmitError> {
        let failed = |e: &dyn std::fmt::Display| SubmitError::Failed(e.to_string());
        let before = job.plan().spec.clone();
        // They write what is there once more: what is no longer named ends whole.
        self.flush_followers(job.id);
        job.retune(spec);
        let noted = self.want(job, self.wanted(job), None);
        if noted.is_err() {
            job.retune(before);
        }
        self.start_followers(job).map_err(|e| failed(&e))?;
        noted.map_err(|e| failed(&e))
    }

    /// A job is read again in its own place, and readers keep the numbers that it had until it is there
    /// again: from its newest checkpoint, or in another form from where it begins. (Polls come and go
    /// while their job is computed, so it can't be computed beside itself.) `changing` is held. What it is to
    /// be is durable before anything is done about it.
    pub(super) fn read_anew(&self, job: &Arc<Job>, form: Option<JobSpec>) -> anyhow::Result<()> {
        let before = job.plan();
        let engine_id = self.next_engine_id();
        let (graph, mut inputs) = (before.graph.clone(), before.inputs.clone());
        let plan = match form {
            None => Plan { engine_id, spec: before.spec.clone(), form: before.form, inputs, graph },
            Some(spec) => {
                self.raise_to_kept(&mut inputs)?;
                Plan { engine_id, spec, form: before.form + 1, inputs, graph }
            }
        };
        self.go_on_as(job, plan)
    }

    /// Likewise as a plan that is given: with partitions that have come, or in another form. `changing` is held.
    pub(super) fn go_on_as(&self, job: &Arc<Job>, plan: Plan) -> anyhow::Result<()> {
        let before = job.plan();
        let engine_id = plan.engine_id;
        let target = self.ends_of_inputs(&plan.inputs)?;
        self.note_job(job, &plan, None, self.wanted(job), None)?;
        if plan.form != before.form {
            self.dead_letters_store().clear(job.name())?;
        }
        {
            let running = self.running();
            self.polls_left_alone([job]);
            job.checkpoint_lost();
            if let Some(running) = running.as_ref() {
                running.link.command(Command::Remove(before.engine_id));
            }
            {
                let mut jobs = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
                jobs.by_id.remove(&before.engine_id);
                job.catch_up_by(plan, target);
                jobs.by_id.insert(engine_id, job.clone());
            }
            // Else the engine that is being started reads it anew.
            if let Some(running) = running.as_ref() {
                // Of a job that has shown nothing since the server was started, the block is above all it ever did.
                let newest = Epoch(self.newest_epoch.load(Ordering::Acquire) + EPOCHS_APART);
                let first = running.first_epoch.max(newest);
                let polls = self.polls_to_install(job);
                running.link.command(self.install(job, first, running.epoch_limit, polls));
            }
        }
        Ok(())
    }

    /// Has inputs begin where the log does, where retention has taken more.
    fn raise_to_kept(&self, inputs: &mut [InstallInput]) -> anyhow::Result<()> {
        for input in inputs {
            let Some(topic) = self.log.topic(&input.topic)? else { continue };
            for start in &mut input.partitions {
                if let Some(state) = topic.partitions.get(start.partition.0 as usize) {
                    start.from = start.from.max(state.start);
                }
            }
        }
        Ok(())
    }

    pub(super) fn next_engine_id(&self) -> JobId {
        JobId(ENGINE_IDS + self.engine_ids.fetch_add(1, Ordering::AcqRel))
    }

    /// Starts to compute a form of a job beside it, and notes that; `changing` is held.
    pub(super) fn begin_beside(
        &self,
        job: &Arc<Job>,
        spec: JobSpec,
        inputs: Vec<InstallInput>,
    ) -> Result<(), JobError> {
        self.compute_beside(job, spec, inputs).map_err(|error| JobError::Failed(format!("{error:#}")))?;
        let noted = self.want(job, self.wanted(job), None);
        if noted.is_err() {
            self.end_beside(job);
        }
        noted
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
        let plan = Arc::new(Plan { engine_id, spec, form: job.plan().form + 1, inputs, graph });
        let target = self.ends_of_inputs(&plan.inputs)?;
        let running = self.running();
        job.begin_beside(plan.clone(), target);
        self.jobs.write().unwrap_or_else(PoisonError::into_inner).by_id.insert(engine_id, job.clone());
        if let Some(running) = running.as_ref() {
            let newest = Epoch(self.newest_epoch.load(Ordering::Acquire) + 1);
            running.link.command(install_beside(&plan, running.first_epoch.max(newest), running.epoch_limit));
        }
        Ok(())
    }

    /// What is computed beside a job has come to its target: it reads as it can from now on, and takes the
    /// job's place as soon as it is there. Called by the supervisor.
    pub(super) fn let_forward(self: &Arc<Self>, job: &Arc<Job>, id: JobId) {
        let (node, waiting) = (self.clone(), job.clone());
        let at_least = Epoch(self.newest_epoch.load(Ordering::Acquire) + EPOCHS_APART);
        job.let_forward(id, at_least);
        let name = format!("replace-{}", job.name());
        if let Err(error) = std::thread::Builder::new().name(name).spawn(move || node.wait_for_place(&waiting, id)) {
            self.on_failed(job, id, &format!("a thread can't be started: {error}"), None);
            return;
        }
        if let Some(running) = self.running().as_ref() {
            running.link.command(Command::StepForward { job: id, at_least });
        }
    }

    fn wait_for_place(self: Arc<Self>, job: &Arc<Job>, id: JobId) {
        let began = Instant::now();
        let mut held_back = false;
        while !self.is_stopping() {
            match job.wait_for_beside(id, LOOK_EVERY) {
                Place::Over => return,
                Place::There if self.take_place(job, id) => return,
                Place::NotYet if !held_back && began.elapsed() > RACE_MAX => {
                    held_back = true;
                    self.hold_back(job, id);
                }
                Place::There | Place::NotYet => {}
            }
        }
    }

    /// The job reads no further, so that what is computed beside it comes as far.
    fn hold_back(&self, job: &Job, id: JobId) {
        let _one_at_a_time = lock(&self.changing);
        let running = self.running();
        if let Some(running) = running.as_ref().filter(|_| job.beside().is_some_and(|plan| plan.engine_id == id)) {
            let halt = Halt { number: self.next_halt(), until: None };
            running.link.command(Command::Halt { job: job.plan().engine_id, halt });
        }
    }

    /// The change itself; whether it was made.
    fn take_place(&self, job: &Arc<Job>, id: JobId) -> bool {
        // Whoever pauses or cancels it comes before or after.
        let _one_at_a_time = lock(&self.changing);
        {
            // An engine that starts runs the one or the other, and each letter is with its own form.
            let running = self.running();
            let mut letters = self.dead_letters_store();
            let Some(over) = job.take_place(id) else { return false };
            if let Err(error) = letters.take_over(&letters_of(job, id), job.name()) {
                tracing::error!(job = job.name(), "its dead letters can't be renewed: {error}");
            }
            self.jobs.write().unwrap_or_else(PoisonError::into_inner).by_id.remove(&over.engine_id);
            job.checkpoint_lost();
            if let Some(running) = running.as_ref() {
                running.link.command(Command::Remove(over.engine_id));
                running.link.command(Command::Keep { job: id, place: self.place(job.id, &job.plan()) });
            }
        }
        job.want_checkpoint();
        crash::point("replace::taken");
        // If it is not noted, the next start computes it beside once more.
        if let Err(error) = self.want(job, self.wanted(job), None) {
            tracing::error!(job = job.name(), "that it was replaced can't be noted: {error}");
        }
        // Those of the old form have nothing more to write.
        self.flush_followers(job.id);
        if let Err(error) = self.start_followers(job) {
            tracing::error!(job = job.name(), "its sinks can't be started: {error}");
        }
        tracing::info!(job = job.name(), "the job was replaced");
        true
    }

    /// Gives up what is computed beside a job; whether there was such. `changing` is held.
    pub(super) fn end_beside(&self, job: &Job) -> bool {
        let given_up = job.give_up_beside();
        if let Some(plan) = &given_up {
            self.clear_away(job, plan);
        }
        given_up.is_some()
    }

    /// Removes what was given up from the engine, with its letters. What runs reads on.
    pub(super) fn clear_away(&self, job: &Job, plan: &Plan) {
        {
            let running = self.running();
            self.jobs.write().unwrap_or_else(PoisonError::into_inner).by_id.remove(&plan.engine_id);
            if let Some(running) = running.as_ref() {
                running.link.command(Command::Remove(plan.engine_id));
                if job.halt().is_none() {
                    running.link.command(Command::Resume(job.plan().engine_id));
                }
            }
        }
        if let Err(error) = self.dead_letters_store().clear(&letters_of(job, plan.engine_id)) {
            // They go when the server is started again.
            tracing::warn!(job = job.name(), "dead letters can't be cleared away: {error}");
        }
    }

    /// Notes what the job is now, as soon as nothing else changes it. The supervisor does not wait for it.
    pub(super) fn note_soon(self: &Arc<Self>, job: &Arc<Job>) {
        let (node, changed) = (self.clone(), job.clone());
        let note = move || {
            let _one_at_a_time = lock(&node.changing);
            if changed.state() == JobState::Cancelled || changed.beside().is_some() {
                return;
            }
            // If it is not noted, the next start tries once more what has failed.
            if let Err(error) = node.want(&changed, node.wanted(&changed), None) {
                tracing::error!(job = changed.name(), "that its replacement failed can't be noted: {error}");
            }
        };
        if let Err(error) = std::thread::Builder::new().name(format!("note-{}", job.name())).spawn(note) {
            tracing::error!(job = job.name(), "that its replacement failed can't be noted: {error}");
        }
    }
}

fn can_be_replaced(job: &Job) -> Result<(), JobError> {
    if job.beside().is_some() {
        let remedy = "it is being replaced already; wait until that has ended, or cancel the job";
        return Err(JobError::State { name: job.name().to_owned(), state: job.state().name(), remedy });
    }
    can_be_computed_anew(job)
}

pub(super) fn can_be_computed_anew(job: &Job) -> Result<(), JobError> {
    let (state, name) = (job.state(), job.name().to_owned());
    let in_the_way = |remedy| Err(JobError::State { name, state: state.name(), remedy });
    match state {
        JobState::Paused => in_the_way("resume it first"),
        JobState::Cancelled => in_the_way("submit it again"),
        _ if job.halt().is_some() && is_live(state) => in_the_way("it is being cancelled; wait until it has ended"),
        _ => Ok(()),
    }
}

/// Under which name the dead letters of what is computed beside are kept.
pub(super) fn letters_of(job: &Job, id: JobId) -> String {
    format!("{}/{}", job.name(), id.0)
}

/// Whether two forms of a job differ in nothing that is counted.
fn counts_the_same(a: &JobSpec, b: &JobSpec) -> bool {
    let plain = |spec: &JobSpec| {
        let mut spec = JobSpec { sinks: Vec::new(), ..spec.clone() };
        if let Dataflow::Tally(tally) = &mut spec.dataflow {
            tally.top = None;
        }
        spec
    };
    let (mut a, b) = (plain(a), plain(b));
    if let (Dataflow::Polls(a), Dataflow::Polls(b)) = (&mut a.dataflow, &b.dataflow) {
        // The defaults of polls are for those to come; how far ahead a time may lie is the job's.
        *a = tallyflow_dataflows::spec::polls::PollsSpec { ahead: a.ahead, ..b.clone() };
    }
    a == b
}
