//! Jobs come, pause, go on and go. What must survive is written to the control topic first.

use crate::node::control::{JobRecord, Wanted, is_internal};
use crate::node::job::{Job, JobState, Plan};
use crate::node::supervise::is_live;
use crate::node::{CancelMode, DRAIN_WAIT, JobError, JobText, Node, PAUSE_WAIT, SubmitError, lock};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_connectors::sinks;
use tallyflow_dataflows::engine::job::{Halt, Install, InstallInput, Start};
use tallyflow_dataflows::engine::{Command, graph};
use tallyflow_dataflows::ids::{Epoch, Offset, PartitionId};
use tallyflow_dataflows::source::SourceError;
use tallyflow_dataflows::spec::{Bound, Fault, InputSpec, JobFile, JobSpec, Surroundings};
use tallyflow_dataflows::update::{EpochUpdate, Graph, JobId};

impl Node {
    /// Only checks a job file.
    pub fn validate(&self, text: &JobText) -> Result<JobSpec, SubmitError> {
        let topics = self.log.topics()?;
        let topics = topics.into_iter().filter(|t| !is_internal(&t.name)).collect::<Vec<_>>();
        let partitions = |name: &str| topics.iter().find(|t| t.name == name).map(|t| t.partitions.len() as u32);
        let around = Surroundings {
            formats: &BuiltinFormats,
            partitions: &partitions,
            topics: topics.iter().map(|t| t.name.clone()).collect(),
        };
        let spec = match text {
            JobText::Toml(text) => JobFile::parse_toml(text, &around),
            JobText::Json(text) => JobFile::parse_json(text, &around),
        }
        .map_err(SubmitError::Faults)?;
        let not_built = spec.sinks.iter().enumerate().filter_map(|(index, sink)| {
            let message = sinks::not_built(sink)?.to_owned();
            Some(Fault { line: None, key: format!("sink[{index}].kind"), message })
        });
        match not_built.collect::<Vec<_>>() {
            faults if faults.is_empty() => Ok(spec),
            faults => Err(SubmitError::Faults(faults)),
        }
    }

    /// Checks a job file and starts the job. Blocks for a durable write; once it has answered, the job
    /// runs again after any restart. With `take_over` its sinks write over what another server left there.
    pub fn submit(&self, text: &JobText, take_over: bool) -> Result<Arc<Job>, SubmitError> {
        let spec = self.validate(text)?;
        let _one_at_a_time = lock(&self.changing);
        self.begin(spec, take_over)
    }

    /// Starts a job whose file was checked; `changing` is held.
    pub(super) fn begin(&self, spec: JobSpec, take_over: bool) -> Result<Arc<Job>, SubmitError> {
        let before = self.job(&spec.name).ok();
        if before.as_ref().is_some_and(|job| job.state() != JobState::Cancelled) {
            return Err(SubmitError::Taken(spec.name));
        }
        let failed = |e: &dyn std::fmt::Display| SubmitError::Failed(e.to_string());
        let inputs = spec.inputs.iter().map(|input| self.resolve(input)).collect::<Result<Vec<_>, _>>();
        let inputs = inputs?;
        let id = self.jobs().iter().map(|job| job.id.0).max();
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let record = JobRecord {
            id: id.unwrap_or(0) + 1,
            submitted_ms: now_ms,
            spec,
            inputs,
            wanted: Wanted::Running,
            paused_at: None,
            form: 0,
            replacing: None,
            keeps_state: false,
            take_over_ms: take_over.then_some(now_ms),
        };
        let name = record.spec.name.clone();
        self.dead_letters_store().clear(&name).map_err(|e| failed(&e))?;
        self.control.put_job(&record)?;
        std::fs::remove_file(self.last_results(&name)).ok();
        self.forget_history(&name);
        if let Some(before) = before {
            self.forget_checkpoints(before.id);
            self.forget_bases(before.id);
            self.forget_polls_of(&before);
        }
        // One lock over both: an engine that starts is told of every job there is, and only those it was
        // not told of then are told to it here. Twice, and each record would count twice.
        let running = self.running();
        let job = self.add(&record);
        if let Some(running) = running.as_ref() {
            // Above every epoch that an earlier job of this name has shown.
            let newest = Epoch(self.newest_epoch.load(Ordering::Acquire) + 1);
            let polls = self.polls_to_install(&job);
            running.link.command(self.install(&job, running.first_epoch.max(newest), running.epoch_limit, polls));
        }
        drop(running);
        self.start_followers(&job).map_err(|e| failed(&e))?;
        Ok(job)
    }

    /// Stops the job's reading; its results stay. Blocks until it has stopped.
    pub fn pause(&self, name: &str) -> Result<Arc<Job>, JobError> {
        let _one_at_a_time = lock(&self.changing);
        let job = self.job(name)?;
        match job.state() {
            JobState::Paused => return Ok(job),
            state if job.beside().is_some() => {
                return Err(wrong_state(&job, state, "it is being replaced; wait until that has ended, or cancel it"));
            }
            state if is_live(state) => {}
            state => return Err(wrong_state(&job, state, "only a running job can be paused")),
        }
        self.want(&job, Wanted::Paused, None)?;
        self.halt(&job, None, true);
        if !job.wait_for_halt(Instant::now() + PAUSE_WAIT) {
            return Err(JobError::Failed(format!(
                "job {name:?} has not stopped yet; it will when the engine answers (state {})",
                job.state().name()
            )));
        }
        let offsets = job.offsets();
        // If the engine is started again, it is to come back to just here.
        let number = job.halt().map_or(0, |halt| halt.number);
        job.keep_halt(Halt { number, until: Some(offsets.clone()) });
        self.want(&job, Wanted::Paused, Some(offsets))?;
        Ok(job)
    }

    /// Lets a paused job read on.
    pub fn resume(&self, name: &str) -> Result<Arc<Job>, JobError> {
        let _one_at_a_time = lock(&self.changing);
        let job = self.job(name)?;
        match job.state() {
            JobState::Paused => {}
            JobState::Running | JobState::Starting => return Ok(job),
            state => return Err(wrong_state(&job, state, "only a paused job can be resumed")),
        }
        self.want(&job, Wanted::Running, None)?;
        job.set_halt(None, false);
        if let Some(running) = self.running().as_ref() {
            running.link.command(Command::Resume(job.plan().engine_id));
        }
        job.set_state(JobState::Running, None);
        Ok(job)
    }

    /// Ends the job. Blocks until it has ended (drain: until it has read to the ends of its log as they
    /// are now, and its sinks hold that; checkpoint: until that is written).
    pub fn cancel(&self, name: &str, mode: CancelMode) -> Result<Arc<Job>, JobError> {
        let job = self.job(name)?;
        if mode == CancelMode::Drain && is_live(job.state()) {
            {
                // Not held while it drains: other jobs come and go meanwhile.
                let _one_at_a_time = lock(&self.changing);
                // What drains is what is shown; nothing takes its place any more.
                if self.end_beside(&job) {
                    self.want(&job, self.wanted(&job), None)?;
                }
                let ends = self.ends(&job).map_err(|e| JobError::Failed(e.to_string()))?;
                self.halt(&job, Some(ends), false);
            }
            if !job.wait_for_halt(Instant::now() + DRAIN_WAIT) && is_live(job.state()) {
                return Err(JobError::Failed(format!(
                    "job {name:?} has not read to the ends; ask again, or cancel it with mode=now"
                )));
            }
        }
        let _one_at_a_time = lock(&self.changing);
        if job.state() == JobState::Cancelled {
            return Ok(job);
        }
        self.end_beside(&job);
        if mode == CancelMode::Checkpoint {
            self.keep_state(&job)?;
        }
        {
            // One lock over both: an engine that starts in between must not get it again. From here on
            // its results stand still.
            let running = self.running();
            self.polls_left_alone([&job]);
            job.set_state(JobState::Cancelled, None);
            if let Some(running) = running.as_ref() {
                running.link.command(Command::Remove(job.plan().engine_id));
            }
        }
        // What it showed last stays readable, after a restart too.
        let kept = self.keep_results(&job).map_err(|e| JobError::Failed(format!("keeping the last results: {e:#}")));
        if let Err(error) = kept.and_then(|()| self.want(&job, Wanted::Cancelled, None)) {
            // It has stopped and would run again after a restart; cancelling it again tries again.
            job.set_state(JobState::Failed, Some(error.to_string()));
            return Err(error);
        }
        self.flush_followers(job.id);
        if !job.keeps_state() {
            self.forget_checkpoints(job.id);
        }
        Ok(job)
    }

    /// Stops the job and writes a checkpoint of it; where that can't be, it goes on. `changing` is held.
    fn keep_state(&self, job: &Job) -> Result<(), JobError> {
        let state = job.state();
        if !is_live(state) {
            return Err(wrong_state(
                job,
                state,
                "only a job that runs or is paused has a state to keep; use --mode now",
            ));
        }
        if state != JobState::Paused {
            self.halt(job, None, false);
        }
        let stopped = state == JobState::Paused || job.wait_for_halt(Instant::now() + PAUSE_WAIT);
        let kept = match stopped {
            true => self.checkpoint(job.name()).map(drop),
            false => Err(JobError::Failed(format!("job {:?} has not stopped reading; ask again", job.name()))),
        };
        match kept {
            Ok(()) => job.keep_state(true),
            Err(_) if state != JobState::Paused => {
                job.set_halt(None, false);
                if let Some(running) = self.running().as_ref() {
                    running.link.command(Command::Resume(job.plan().engine_id));
                }
            }
            Err(_) => {}
        }
        kept
    }

    /// Takes up a job from the control topic when the node starts.
    pub(super) fn restore(&self, record: JobRecord) -> anyhow::Result<()> {
        let job = self.add(&record);
        if record.wanted == Wanted::Cancelled {
            job.keep_state(record.keeps_state);
            if let Ok(bytes) = std::fs::read(self.last_results(job.name())) {
                match postcard::from_bytes::<EpochUpdate>(&bytes) {
                    Ok(update) => job.restore(update),
                    // Another version of the program has written them; all else of the job is there.
                    Err(error) => tracing::warn!(job = job.name(), "its last results can't be read: {error}"),
                }
            }
            job.set_state(JobState::Cancelled, None);
            return Ok(());
        }
        // What was shown before the restart lay below the ends of now; nothing is shown until the job
        // is there again.
        let target = match &record.paused_at {
            Some(offsets) => offsets.clone(),
            None => self.ends(&job)?,
        };
        if record.wanted == Wanted::Paused {
            job.set_halt(Some(Halt { number: self.next_halt(), until: Some(target.clone()) }), true);
        }
        job.catch_up(target);
        self.start_followers(&job)?;
        if let Some((spec, inputs)) = record.replacing {
            self.compute_beside(&job, spec, inputs)?;
        }
        Ok(())
    }

    fn add(&self, record: &JobRecord) -> Arc<Job> {
        let (id, workers) = (JobId(record.id), self.workers());
        let graph = self.graph(id, &record.spec, &record.inputs);
        let job = Job::new(
            id,
            record.spec.clone(),
            record.inputs.clone(),
            record.submitted_ms,
            (graph, record.form),
            workers,
            self.feeds.clone(),
        );
        job.take_over(record.take_over_ms);
        let job = Arc::new(job);
        let mut jobs = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = jobs.by_name.insert(record.spec.name.clone(), job.clone()) {
            jobs.by_id.remove(&before.plan().engine_id);
            before.replace();
        }
        jobs.by_id.insert(id, job.clone());
        job
    }

    pub(super) fn graph(&self, id: JobId, spec: &JobSpec, inputs: &[InstallInput]) -> Graph {
        let install = Install {
            job: id,
            spec: spec.clone(),
            inputs: inputs.to_vec(),
            first_epoch: Epoch(1),
            epoch_limit: Epoch(2),
            halt: None,
            beside: false,
            polls: Vec::new(),
            keep: None,
        };
        graph(&install, Arc::new(BuiltinFormats))
    }

    fn halt(&self, job: &Job, until: Option<Vec<Vec<Offset>>>, pausing: bool) {
        let halt = Halt { number: self.next_halt(), until };
        let running = self.running();
        let halt = job.set_halt(Some(halt), pausing);
        if let (Some(running), Some(halt)) = (running.as_ref(), halt) {
            running.link.command(Command::Halt { job: job.plan().engine_id, halt });
        }
    }

    pub(super) fn next_halt(&self) -> u64 {
        self.halts.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// What is wanted of a job that is not cancelled.
    pub(super) fn wanted(&self, job: &Job) -> Wanted {
        if job.state() == JobState::Paused { Wanted::Paused } else { Wanted::Running }
    }

    pub(super) fn want(&self, job: &Job, wanted: Wanted, paused_at: Option<Vec<Vec<Offset>>>) -> Result<(), JobError> {
        self.note_job(job, &job.plan(), job.beside().as_deref(), wanted, paused_at)
    }

    /// Notes what a job is to be: it computes `plan`, and `beside` it what is to take its place.
    pub(super) fn note_job(
        &self,
        job: &Job,
        plan: &Plan,
        beside: Option<&Plan>,
        wanted: Wanted,
        paused_at: Option<Vec<Vec<Offset>>>,
    ) -> Result<(), JobError> {
        let record = JobRecord {
            id: job.id.0,
            submitted_ms: job.submitted_ms,
            spec: plan.spec.clone(),
            inputs: plan.inputs.clone(),
            wanted,
            paused_at,
            form: plan.form,
            replacing: beside.map(|plan| (plan.spec.clone(), plan.inputs.clone())),
            keeps_state: job.keeps_state(),
            take_over_ms: job.take_over_ms(),
        };
        Ok(self.control.put_job(&record)?)
    }

    fn last_results(&self, name: &str) -> PathBuf {
        self.config.data_dir.join("cancelled").join(format!("{name}.postcard"))
    }

    fn keep_results(&self, job: &Job) -> anyhow::Result<()> {
        let Some(update) = job.read(|results| results.as_update()) else { return Ok(()) };
        let path = self.last_results(job.name());
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        // Written beside and moved into place, so that there is never half of it.
        let beside = path.with_extension("new");
        std::fs::write(&beside, postcard::to_stdvec(&update)?)?;
        std::fs::File::open(&beside)?.sync_all()?;
        std::fs::rename(&beside, &path)?;
        Ok(())
    }

    /// Turns an input's bounds into offsets, once, so that "end" stays where it was.
    pub(super) fn resolve(&self, input: &InputSpec) -> Result<InstallInput, SourceError> {
        let unknown = || SourceError::UnknownTopic { topic: input.topic.clone() };
        let topic = self.log.topic(&input.topic)?.ok_or_else(unknown)?;
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let mut partitions = Vec::new();
        for (number, state) in topic.partitions.iter().enumerate() {
            let partition = PartitionId(number as u32);
            let at = |time_ms: i64| self.log.offset_at(&input.topic, partition, time_ms);
            let from = match &input.from {
                Bound::Beginning => state.start,
                Bound::End => state.end,
                Bound::Time(time_ms) => at(*time_ms)?,
                Bound::Offsets(offsets) => offsets.get(&partition).copied().unwrap_or(state.start),
            };
            let until = match &input.until {
                None | Some(Bound::Beginning) => None,
                Some(Bound::End) => Some(state.end),
                Some(Bound::Time(time_ms)) => (*time_ms <= now_ms).then(|| at(*time_ms)).transpose()?,
                Some(Bound::Offsets(offsets)) => offsets.get(&partition).copied(),
            };
            partitions.push(Start { partition, from, until });
        }
        // A time that has not come yet is decided by each partition's own log when it has.
        let future = |bound: Option<&Bound>| match bound {
            Some(Bound::Time(time_ms)) if *time_ms > now_ms => Some(*time_ms),
            _ => None,
        };
        Ok(InstallInput {
            topic: input.topic.clone(),
            incarnation: Some(topic.incarnation),
            partitions,
            from_ms: future(Some(&input.from)),
            until_ms: future(input.until.as_ref()),
        })
    }
}

fn wrong_state(job: &Job, state: JobState, remedy: &'static str) -> JobError {
    JobError::State { name: job.name().to_owned(), state: state.name(), remedy }
}
