//! The supervisor: keeps an engine process running, and passes on what it tells.

use crate::node::job::{Applied, Failed, Job, JobState, Plan};
use crate::node::link::{Link, next_frame};
use crate::node::replace::letters_of;
use crate::node::wire::{Brokers, FromEngine, LogPlace, ToEngine};
use crate::node::{Node, job_failure, lock};
use std::io::BufReader;
use std::process::ChildStdout;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tallyflow_connectors::dead_letters::{Again, DeadLetter, DeadLetters};
use tallyflow_dataflows::claim::Position;
use tallyflow_dataflows::engine::Command;
use tallyflow_dataflows::engine::facts::Rejected;
use tallyflow_dataflows::engine::job::{Install, InstallInput};
use tallyflow_dataflows::ids::{Epoch, Offset};
use tallyflow_dataflows::spec::polls::PollInForce;
use tallyflow_dataflows::update::{EngineEvent, EpochUpdate, JobId};

/// The engine that runs now.
pub struct Running {
    pub link: Arc<Link>,
    /// Its epochs start here.
    pub first_epoch: Epoch,
    pub epoch_limit: Epoch,
    /// Its worker threads.
    pub workers: usize,
    pub ready: bool,
}

impl Running {
    /// What tells this start of the engines of a cluster from others.
    pub fn run(&self) -> u64 {
        self.first_epoch.0
    }
}

/// Signs of life of the engine.
#[derive(Default)]
pub struct Pulse {
    sent: AtomicU64,
    /// When the engine was started or gave its last answer, in ms since the node started.
    answered_ms: AtomicU64,
    silence_ms: AtomicU64,
    brokers: Mutex<Brokers>,
}

/// How often the engine is asked for a sign of life.
const PING: Duration = Duration::from_millis(500);
/// An engine that starts may be silent for so long, however soon it would count as hung later.
const START_MAX: Duration = Duration::from_secs(10);
/// The first wait before an engine is started again; doubled while engines end young, up to the last.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// An engine that lived so long was not young.
const YOUNG: Duration = Duration::from_secs(10);

impl Node {
    /// Starts the supervisor's threads.
    pub(super) fn supervise(self: &Arc<Self>) -> std::io::Result<()> {
        let node = self.clone();
        std::thread::Builder::new().name("supervisor".to_owned()).spawn(move || node.keep_running())?;
        let node = Arc::downgrade(self);
        std::thread::Builder::new().name("pulse".to_owned()).spawn(move || {
            while let Some(node) = node.upgrade() {
                node.take_pulse();
                drop(node);
                std::thread::sleep(PING);
            }
        })?;
        Ok(())
    }

    fn keep_running(self: Arc<Self>) {
        let mut backoff = BACKOFF_MIN;
        while !self.is_stopping() {
            if let Some(members) = &self.members {
                members.wait_for_all(|| self.is_stopping() || self.generation.is_fenced().is_some());
                if self.is_stopping() {
                    break;
                }
            }
            let started = Instant::now();
            let started_engine = match self.is_still_ours() {
                Ok(true) => self.start_engine(),
                Ok(false) => break,
                Err(error) => Err(error.into()),
            };
            let why = match started_engine {
                Ok((link, mut from)) => {
                    while let Some(frame) = next_frame(&mut from) {
                        self.on_frame(frame);
                    }
                    // Its output has ended: it is ending, or it says no more and must.
                    link.kill();
                    format!("it ended with {}", link.wait())
                }
                Err(error) => format!("it could not be started: {error}"),
            };
            let ended;
            {
                let mut running = self.running();
                ended = running.take();
                let jobs = self.jobs();
                self.polls_left_alone(&jobs);
                // From here on none of them can take a place: what it showed is not computed any more.
                jobs.iter().for_each(|job| drop(job.beside_anew()));
                jobs.iter().for_each(|job| job.checkpoint_lost());
            }
            if let (Some(members), Some(ended)) = (&self.members, ended) {
                members.stop(ended.run());
            }
            if self.is_stopping() || self.generation.is_fenced().is_some() {
                break;
            }
            let planned = self.planned.swap(false, Ordering::AcqRel);
            for job in self.jobs().iter().filter(|job| is_live(job.state())) {
                job.catch_up(job.offsets());
                if planned {
                    job.set_state(JobState::Rescaling, None);
                }
            }
            if planned {
                continue;
            }
            self.restarts.fetch_add(1, Ordering::AcqRel);
            tracing::error!("the engine is gone ({why}); readers keep the last numbers while it is started again");
            backoff = if started.elapsed() > YOUNG { BACKOFF_MIN } else { (backoff * 2).min(BACKOFF_MAX) };
            std::thread::sleep(backoff);
        }
        self.ended.send_replace(true);
    }

    fn start_engine(&self) -> anyhow::Result<(Arc<Link>, BufReader<ChildStdout>)> {
        let (first_epoch, epoch_limit) = self.control.reserve_epochs()?;
        let workers = self.workers();
        let cluster = self.members.as_ref().map(|members| members.start(first_epoch.0, workers)).transpose()?;
        let start = ToEngine::Start {
            workers,
            log_level: self.config.log_level.to_string(),
            hash_key: self.control.hash_key,
            log: match &self.config.kafka {
                Some(kafka) => LogPlace::Kafka(kafka.config.clone()),
                None => LogPlace::Embedded(self.config.data_dir.clone()),
            },
            checkpoints: self.config.checkpoints_place(),
            cluster,
        };
        // The lock keeps submissions out until every job was told.
        let mut running = self.running();
        let (link, from) = Link::start(start)?;
        // Its start counts as a sign of life: one that hangs before it has given any is noticed too.
        self.pulse.answered_ms.store(self.uptime_ms(), Ordering::Release);
        self.pulse.silence_ms.store(0, Ordering::Release);
        tracing::info!(pid = link.pid, workers, "the engine was started");
        for job in self.jobs().iter().filter(|job| is_live(job.state())) {
            job.set_workers(workers);
            link.command(self.install(job, first_epoch, epoch_limit, self.polls_to_install(job)));
        }
        for plan in self.jobs().iter().filter_map(|job| job.beside_anew()) {
            link.command(install_beside(&plan, first_epoch, epoch_limit));
        }
        *running = Some(Running { link: link.clone(), first_epoch, epoch_limit, workers, ready: false });
        Ok((link, from))
    }

    fn on_frame(self: &Arc<Self>, frame: FromEngine) {
        match frame {
            FromEngine::Ready => {
                if let Some(running) = self.running().as_mut() {
                    running.ready = true;
                }
            }
            FromEngine::Waits(port) => {
                let run = self.running().as_ref().map(|running| (running.run(), running.link.pid));
                if let (Some(members), Some((run, pid))) = (&self.members, run) {
                    members.waits(0, run, (port, pid), self);
                }
            }
            FromEngine::Refused(why) => tracing::error!("the engine: {why}"),
            FromEngine::Pong { silence_ms, brokers, .. } => {
                *lock(&self.pulse.brokers) = brokers;
                self.pulse.answered_ms.store(self.uptime_ms(), Ordering::Release);
                self.pulse.silence_ms.store(silence_ms, Ordering::Release);
            }
            FromEngine::Event(event) => self.on_event(*event),
        }
    }

    fn on_event(self: &Arc<Self>, event: EngineEvent) {
        match event {
            EngineEvent::Installed { job: id } => {
                if let Some(job) = self.job_by_id(id)
                    && job.plan().engine_id == id
                    && job.state() == JobState::Starting
                {
                    job.set_state(JobState::Running, None);
                }
            }
            EngineEvent::Closed { job: id, update } => {
                self.newest_epoch.fetch_max(update.epoch.0, Ordering::AcqRel);
                self.keep_epochs_reserved(update.epoch);
                if let Some(job) = self.job_by_id(id) {
                    self.on_closed(&job, id, *update);
                }
            }
            EngineEvent::Halted { job, halt } => {
                if let Some(job) = self.job_by_id(job) {
                    job.reached(halt);
                }
            }
            EngineEvent::Failed { job: id, error, at } => {
                if let Some(job) = self.job_by_id(id) {
                    self.on_failed(&job, id, &error, at);
                }
            }
            EngineEvent::Waits { job: id, input, partition, why } => {
                if let Some(job) = self.job_by_id(id) {
                    job.waits(id, (input, partition), why);
                }
            }
            EngineEvent::Polls { job, event } => self.on_poll_event(job, event),
            EngineEvent::TakenUp { job, from, passed_over } => self.on_taken_up(job, from, &passed_over),
            EngineEvent::Checkpoint { job, number, event } => self.on_checkpoint(job, number, event),
            EngineEvent::Removed { .. } => {}
        }
    }

    fn on_closed(self: &Arc<Self>, job: &Arc<Job>, id: JobId, mut update: EpochUpdate) {
        let rejected = std::mem::take(&mut update.rejected);
        // Held over both: what takes the job's place in between takes its letters along.
        let letters = (!rejected.is_empty() || job.is_catching_up()).then(|| self.dead_letters_store());
        match job.apply(id, update) {
            Applied::Not => {}
            Applied::Shown(plan, again) => {
                keep_dead_letters(letters, job.name(), &plan, rejected, &again);
                self.tell_sealed(job);
            }
            Applied::Beside { plan, near } => {
                keep_dead_letters(letters, &letters_of(job, id), &plan, rejected, &[]);
                if near {
                    self.let_forward(job, id);
                }
            }
        }
    }

    pub(super) fn on_failed(self: &Arc<Self>, job: &Arc<Job>, id: JobId, error: &str, at: Option<Position>) {
        let running = self.running();
        // One that is written of the job itself while another form of it fails goes on.
        if job.plan().engine_id == id {
            job.checkpoint_lost();
        }
        match job.fail(id, |plan| job_failure(plan, error, at)) {
            Failed::Nothing => {}
            Failed::Job(error) => {
                tracing::error!(job = job.name(), "the job failed: {error}");
                self.polls_left_alone([job]);
            }
            Failed::Beside(plan, error) => {
                drop(running);
                tracing::error!(job = job.name(), "what was to take its place failed: {error}");
                self.clear_away(job, &plan);
                self.note_soon(job);
            }
        }
    }

    /// The command that installs a job, with its polls; it goes on from its newest checkpoint.
    pub(super) fn install(
        &self,
        job: &Job,
        first_epoch: Epoch,
        epoch_limit: Epoch,
        polls: Vec<PollInForce>,
    ) -> Command {
        let plan = job.plan();
        Command::Install(Box::new(Install {
            job: plan.engine_id,
            spec: plan.spec.clone(),
            inputs: plan.inputs.clone(),
            first_epoch,
            epoch_limit,
            halt: job.halt(),
            beside: false,
            polls,
            keep: Some(self.place(job.id, &plan)),
        }))
    }

    /// Ends the engine, so that it is started again: of that run, or whichever there is.
    pub(super) fn end_engine(&self, run: Option<u64>) {
        if let Some(running) = self.running().as_ref().filter(|running| run.is_none_or(|run| running.run() == run)) {
            running.link.kill();
        }
    }

    fn keep_epochs_reserved(&self, epoch: Epoch) {
        match self.control.keep_epochs_reserved(epoch) {
            Ok(None) => {}
            Ok(Some(limit)) => {
                if let Some(running) = self.running().as_mut() {
                    running.epoch_limit = limit;
                    running.link.command(Command::RaiseEpochLimit(limit));
                }
            }
            // The next epoch tries again; half a block is left.
            Err(error) => tracing::warn!("reserving epochs: {error}"),
        }
    }

    /// What the engine knows of the brokers that it reads from.
    pub fn brokers(&self) -> Brokers {
        lock(&self.pulse.brokers).clone()
    }

    /// Asks for a sign of life; an engine that gives none for too long is killed, and so started again.
    fn take_pulse(&self) {
        let Some((link, ready)) = self.running().as_ref().map(|r| (r.link.clone(), r.ready)) else { return };
        link.ping(self.pulse.sent.fetch_add(1, Ordering::AcqRel));
        let hang = self.config.engine.hang.max(if ready { Duration::ZERO } else { START_MAX });
        let answered = self.pulse.answered_ms.load(Ordering::Acquire);
        let unanswered = self.uptime_ms().saturating_sub(answered);
        let silence = self.pulse.silence_ms.load(Ordering::Acquire).max(unanswered);
        if Duration::from_millis(silence) > hang {
            tracing::error!(pid = link.pid, "the engine has shown no sign of life for {silence} ms and is killed");
            self.pulse.silence_ms.store(0, Ordering::Release);
            self.pulse.answered_ms.store(self.uptime_ms(), Ordering::Release);
            link.kill();
        }
    }

    /// Where each partition of a job ends now, within the job's own bounds: what a restarted job must
    /// reach before it shows anything.
    pub(super) fn ends(&self, job: &Job) -> anyhow::Result<Vec<Vec<Offset>>> {
        self.ends_of_inputs(&job.plan().inputs)
    }

    /// Likewise of inputs.
    pub(super) fn ends_of_inputs(&self, inputs: &[InstallInput]) -> anyhow::Result<Vec<Vec<Offset>>> {
        let mut ends = Vec::new();
        for input in inputs {
            let topic = self.log.topic(&input.topic)?;
            let mut places = Vec::new();
            for start in &input.partitions {
                let state = topic.as_ref().and_then(|t| t.partitions.get(start.partition.0 as usize));
                let mut end = state.map_or(start.from, |state| state.end);
                if let Some(until_ms) = input.until_ms {
                    end = end.min(self.log.offset_at(&input.topic, start.partition, until_ms)?);
                }
                places.push(end.min(start.until.unwrap_or(end)).max(start.from));
            }
            ends.push(places);
        }
        Ok(ends)
    }
}

/// Whether the engine is to run the job.
pub fn is_live(state: JobState) -> bool {
    use JobState::{Paused, Recovering, Rescaling, Running, Starting};
    matches!(state, Starting | Running | Paused | Recovering | Rescaling)
}

/// The command that installs what is to take a job's place.
pub fn install_beside(plan: &Plan, first_epoch: Epoch, epoch_limit: Epoch) -> Command {
    Command::Install(Box::new(Install {
        job: plan.engine_id,
        spec: plan.spec.clone(),
        inputs: plan.inputs.clone(),
        first_epoch,
        epoch_limit,
        halt: None,
        beside: true,
        polls: Vec::new(),
        keep: None,
    }))
}

/// Keeps letters under the name of a job, where there are any; of offsets that were read once more, only these.
fn keep_dead_letters(
    letters: Option<MutexGuard<'_, DeadLetters>>,
    name: &str,
    plan: &Plan,
    rejected: Vec<Rejected>,
    again: &[Again],
) {
    let Some(mut store) = letters else { return };
    let letter = |r: Rejected| DeadLetter {
        topic: plan.inputs[r.position.input()].topic.clone(),
        partition: r.position.partition().0,
        offset: r.position.offset().0,
        timestamp_ms: r.timestamp_ms,
        key: r.key,
        value: r.value,
        reason: r.reason,
    };
    let letters: Vec<_> = rejected.into_iter().map(letter).collect();
    if let Err(error) = store.add(name, &letters, again) {
        // The records themselves stay in the log.
        tracing::error!(job = name, "{} dead letters could not be kept: {error}", letters.len());
    }
}
