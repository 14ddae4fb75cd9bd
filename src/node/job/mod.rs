//! A job as the node keeps it: its state, its results, and who waits for news of them.

mod beside;
mod feed;
mod kept;
mod mirrored;
mod recounted;
mod status;

#[cfg(test)]
mod mirrored_tests;
#[cfg(test)]
mod tests;

pub use beside::{Applied, Failed, Place};
pub use feed::{Feed, Feeds, Portion};
pub use kept::{CheckpointStatus, NotWritten};
pub use mirrored::JobHead;
pub use recounted::{RecountOutcome, RecountProgress};
pub use status::{HistoryStatus, JobStatus, SinkStatus};

use crate::node::polls::JobRefill;
use beside::Beside;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tallyflow_connectors::dead_letters::Again;
use tallyflow_dataflows::engine::job::{Halt, InstallInput};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::results::{JobResults, Shape};
use tallyflow_dataflows::spec::JobSpec;
use tallyflow_dataflows::spec::voids::Voids;
use tallyflow_dataflows::update::{EpochUpdate, Graph, JobId, ReadTo};
use tokio::sync::watch;
use utoipa::ToSchema;

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Submitted; its dataflow is being built.
    Starting,
    /// Reading.
    Running,
    /// Asked not to read; its results stay.
    Paused,
    /// The engine was started again and reads up to where it was; the last results stay readable.
    Recovering,
    /// The engine was started again with another number of workers; the last results stay readable.
    Rescaling,
    /// It can't go on; the error says why. Its last results stay readable.
    Failed,
    /// Ended by a person. Its last results stay readable until the name is used again.
    Cancelled,
}

impl JobState {
    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            JobState::Starting => "starting",
            JobState::Running => "running",
            JobState::Paused => "paused",
            JobState::Recovering => "recovering",
            JobState::Rescaling => "rescaling",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }
}

/// A job, shared by everyone who looks at it.
pub struct Job {
    /// Its own for as long as its name is not used again.
    pub id: JobId,
    name: String,
    /// When it was submitted, in ms since 1970.
    pub submitted_ms: i64,
    inner: Mutex<Inner>,
    news: watch::Sender<u64>,
    changed: Condvar,
    /// Who mirrors it.
    feeds: Arc<Feeds>,
}

/// What a job computes, and from what. Another takes its place when the job is replaced.
pub struct Plan {
    /// What the engine knows it by: another one whenever it is computed anew beside what is shown.
    pub engine_id: JobId,
    pub spec: JobSpec,
    /// Counts what was computed in its place, or anew: a checkpoint of another one is of no use.
    pub form: u64,
    /// The spec's inputs, resolved to offsets when it was submitted.
    pub inputs: Vec<InstallInput>,
    pub graph: Graph,
}

struct Inner {
    plan: Arc<Plan>,
    /// Counts the plans that were taken up, but for those that differ in the engine's id alone.
    form: u64,
    beside: Option<Beside>,
    /// Why the last try to replace it failed.
    beside_error: Option<String>,
    state: JobState,
    error: Option<String>,
    /// Partitions that can't be read just now, by input, and why.
    waits: BTreeMap<(u32, PartitionId), String>,
    workers: usize,
    results: JobResults,
    /// The voids that the results are without: those of the plan, but while it is read anew with others.
    voids: Voids,
    /// While the engine catches up: what it has told so far, and where it must have come before that
    /// is shown.
    catching_up: Option<(JobResults, Vec<Vec<Offset>>)>,
    /// Whether the engine's next update tells what a checkpoint held, and nothing that it has read.
    is_restored: bool,
    /// What the engine is to be told to stop at when it is started again.
    halt: Option<Halt>,
    /// The last halt that was reached.
    halt_reached: Option<u64>,
    /// Whether a halt that is reached means that the job is paused.
    pausing: bool,
    replaced: bool,
    /// Whether it was cancelled with a checkpoint.
    keeps_state: bool,
    take_over_ms: Option<i64>,
    sinks: Vec<SinkStatus>,
    history: Option<HistoryStatus>,
    refill: Option<JobRefill>,
    kept: kept::Kept,
    /// While its records are read again.
    recount: Option<RecountProgress>,
    /// Of the form that has this number.
    recounted: Option<(u64, RecountOutcome)>,
    /// In a process that mirrors it: its status as the leader has told it.
    told: Option<Box<JobStatus>>,
}

impl Job {
    /// A job that is starting.
    pub fn new(
        id: JobId,
        spec: JobSpec,
        inputs: Vec<InstallInput>,
        submitted_ms: i64,
        (graph, form): (Graph, u64),
        workers: usize,
        feeds: Arc<Feeds>,
    ) -> Self {
        let results = JobResults::new(Shape::of(&spec, &inputs));
        let (name, voids) = (spec.name.clone(), spec.voids.clone());
        let inner = Inner {
            plan: Arc::new(Plan { engine_id: id, spec, form, inputs, graph }),
            form: 0,
            beside: None,
            beside_error: None,
            state: JobState::Starting,
            error: None,
            waits: BTreeMap::new(),
            workers,
            results,
            voids,
            catching_up: None,
            is_restored: false,
            halt: None,
            halt_reached: None,
            pausing: false,
            replaced: false,
            keeps_state: false,
            take_over_ms: None,
            sinks: Vec::new(),
            history: None,
            refill: None,
            kept: kept::Kept::default(),
            recount: None,
            recounted: None,
            told: None,
        };
        let (news, _) = watch::channel(0);
        Job { id, name, submitted_ms, inner: Mutex::new(inner), news, changed: Condvar::new(), feeds }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it computes now.
    pub fn plan(&self) -> Arc<Plan> {
        self.lock().plan.clone()
    }

    /// A std mutex: it is held for the time of a copy or of applying an epoch, never across a wait.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> JobState {
        self.lock().state
    }

    /// Looks at the results. `None` until there is something true to show.
    pub fn read<R>(&self, look: impl FnOnce(&JobResults) -> R) -> Option<R> {
        let inner = self.lock();
        inner.results.epoch().map(|_| look(&inner.results))
    }

    /// Looks at the results together with what they are of. `None` too while the job is read anew with other
    /// voids than they are of.
    pub fn read_with_plan<R>(&self, look: impl FnOnce(&Arc<Plan>, &JobResults) -> R) -> Option<R> {
        let inner = self.lock();
        let is_of_plan = inner.voids == inner.plan.spec.voids;
        inner.results.epoch().filter(|_| is_of_plan).map(|_| look(&inner.plan, &inner.results))
    }

    /// The voids that what is shown is of, and those that it is to be of.
    pub fn voids(&self) -> (Voids, Voids) {
        let inner = self.lock();
        let target = inner.beside.as_ref().map_or(&inner.plan, |beside| &beside.plan);
        (inner.voids.clone(), target.spec.voids.clone())
    }

    /// Which form of it this is: another once it was replaced.
    pub fn form(&self) -> u64 {
        self.lock().form
    }

    /// Looks at the results if they are of that form.
    pub fn read_form<R>(&self, form: u64, look: impl FnOnce(&JobResults) -> R) -> Option<R> {
        let inner = self.lock();
        (inner.form == form && inner.results.epoch().is_some()).then(|| look(&inner.results))
    }

    /// Changes every time an epoch is applied or the state changes.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Puts back what a cancelled job last showed.
    pub fn restore(&self, update: EpochUpdate) {
        let mut inner = self.lock();
        inner.results.apply(update);
        self.feeds.renew(self.id);
    }

    /// The engine begins anew: nothing is shown until `at_least`, and what was shown before, is
    /// reached again.
    pub fn catch_up(&self, at_least: Vec<Vec<Offset>>) {
        self.lock().catch_up(at_least);
        self.tell();
    }

    /// Likewise by another plan, which differs from the one before in the engine's id, and perhaps in the
    /// form and in where its inputs begin.
    pub fn catch_up_by(&self, plan: Plan, at_least: Vec<Vec<Offset>>) {
        {
            let mut inner = self.lock();
            inner.results.grow(&plan.inputs);
            inner.plan = Arc::new(plan);
            inner.error = None;
            inner.beside_error = None;
            inner.catch_up(at_least);
            self.feeds.renew(self.id);
        }
        self.tell();
    }

    /// The engine has taken it up, and tells first what a checkpoint held, if there is one.
    pub fn taken_up(&self, id: JobId, from_checkpoint: bool) {
        let mut inner = self.lock();
        if inner.plan.engine_id == id {
            inner.is_restored = from_checkpoint;
            inner.waits.clear();
        }
    }

    /// Notes why a partition of an input is waited for by the engine that has the job by that id; `None`: it is
    /// read again.
    pub fn waits(&self, id: JobId, place: (u32, PartitionId), why: Option<String>) {
        {
            let mut inner = self.lock();
            if inner.plan.engine_id != id {
                return;
            }
            match why {
                Some(why) => inner.waits.insert(place, why),
                None => inner.waits.remove(&place),
            };
        }
        self.tell();
    }

    /// The offsets shown, by input and partition.
    pub fn offsets(&self) -> Vec<Vec<Offset>> {
        let inner = self.lock();
        inner.results.inputs().map(|(_, places)| places.iter().map(|(next, _)| *next).collect()).collect()
    }

    /// Notes how many worker threads run it.
    pub fn set_workers(&self, workers: usize) {
        self.lock().workers = workers;
    }

    /// Its newest checkpoint.
    pub fn checkpoint(&self) -> Option<CheckpointStatus> {
        self.lock().kept.status()
    }

    /// Whether the engine reads what was shown before, and readers see that meanwhile.
    pub fn is_catching_up(&self) -> bool {
        self.lock().catching_up.is_some()
    }

    /// The offsets up to which the engine has told all, shown or not, by input and partition.
    pub fn progress(&self) -> Vec<Vec<Offset>> {
        let inner = self.lock();
        let results = inner.catching_up.as_ref().map_or(&inner.results, |(results, _)| results);
        results.inputs().map(|(_, places)| places.iter().map(|(next, _)| *next).collect()).collect()
    }

    /// What bounds its reading.
    pub fn halt(&self) -> Option<Halt> {
        self.lock().halt.clone()
    }

    /// Notes what bounds its reading from now on, and whether it is paused once it is there; answers what the
    /// engine is to be told.
    pub fn set_halt(&self, mut halt: Option<Halt>, pausing: bool) -> Option<Halt> {
        let mut inner = self.lock();
        if let Some(halt) = halt.as_mut().filter(|halt| halt.until.is_none()) {
            // While it catches up, "where you are" is where readers have seen it before.
            halt.until = inner.catching_up.as_ref().map(|(_, target)| target.clone());
        }
        inner.halt.clone_from(&halt);
        inner.pausing = pausing;
        inner.halt_reached = None;
        halt
    }

    /// Puts another form of the halt that was reached in its place.
    pub fn keep_halt(&self, halt: Halt) {
        self.lock().halt = Some(halt);
    }

    /// Notes whether a cancelled job can go on from a checkpoint.
    pub fn keep_state(&self, keeps: bool) {
        self.lock().keeps_state = keeps;
    }

    /// Whether it was cancelled with a checkpoint, from which it can go on.
    pub fn keeps_state(&self) -> bool {
        self.lock().keeps_state
    }

    /// Another job has taken the name: those who watch this one look for it anew.
    pub fn replace(&self) {
        self.lock().replaced = true;
        self.tell();
    }

    /// Whether another job has taken the name.
    pub fn is_replaced(&self) -> bool {
        self.lock().replaced
    }

    /// The engine has come to a halt, and all up to there is shown.
    pub fn reached(&self, halt: u64) {
        {
            let mut inner = self.lock();
            if inner.halt.as_ref().is_none_or(|asked| asked.number != halt) {
                return;
            }
            inner.halt_reached = Some(halt);
            if inner.pausing && !matches!(inner.state, JobState::Failed | JobState::Cancelled) {
                inner.state = JobState::Paused;
            }
        }
        self.tell();
    }

    /// Waits until the halt that bounds it is reached, the job can't reach it any more, or the deadline
    /// passes; whether it is reached. Blocks.
    pub fn wait_for_halt(&self, deadline: Instant) -> bool {
        let mut inner = self.lock();
        loop {
            if inner.halt_reached.is_some() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // Another request may have let it read on.
            if left.is_zero() || inner.halt.is_none() || matches!(inner.state, JobState::Failed | JobState::Cancelled) {
                return false;
            }
            (inner, _) = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Moves to another state and tells it. `error` only with [`JobState::Failed`].
    pub fn set_state(&self, state: JobState, error: Option<String>) {
        {
            let mut inner = self.lock();
            inner.state = state;
            inner.error = error;
            if state != JobState::Running {
                inner.waits.clear();
            }
        }
        self.tell();
    }

    /// When it was last submitted to take over its sinks, in ms since 1970.
    pub fn take_over_ms(&self) -> Option<i64> {
        self.lock().take_over_ms
    }

    /// Its sinks are to be taken over by whoever is started from now on.
    pub fn take_over(&self, at_ms: Option<i64>) {
        self.lock().take_over_ms = at_ms;
    }

    /// Notes how far a sink of a form has come.
    pub fn set_sink(&self, form: u64, index: usize, status: SinkStatus) {
        let mut inner = self.lock();
        if inner.form != form {
            return;
        }
        if index < inner.sinks.len() {
            inner.sinks[index] = status;
        } else {
            inner.sinks.push(status);
        }
    }

    /// Notes what is kept of its history, as the recorder for a form says.
    pub fn set_history(&self, form: u64, status: HistoryStatus) {
        let mut inner = self.lock();
        if inner.form == form {
            inner.history = Some(status);
        }
    }

    pub fn set_refill(&self, refill: Option<JobRefill>) {
        self.lock().refill = refill;
    }

    fn tell(&self) {
        self.news.send_modify(|n| *n += 1);
        self.changed.notify_all();
        self.feeds.touch(self.id);
    }
}

impl Inner {
    /// Goes on to an update's epoch; while catching up, silently, until what was shown before is
    /// reached. A cancelled job stays where it is, whatever its engine had still to tell. Whether readers
    /// are to hear of it, and which offsets were read once more.
    fn apply(&mut self, update: EpochUpdate) -> (bool, Vec<Again>) {
        self.kept.updated(&update);
        let is_restored = std::mem::take(&mut self.is_restored);
        let Some((results, target)) = &mut self.catching_up else {
            self.results.apply(update);
            return (true, Vec::new());
        };
        let again = if is_restored { Vec::new() } else { read_again(results, &update) };
        results.apply(update);
        if !has_reached(results, target) {
            return (false, again);
        }
        if let Some((mut results, _)) = self.catching_up.take() {
            if self.results.epoch().is_some() {
                results.take_over(&self.results);
            }
            self.results = results;
            self.voids = self.plan.spec.voids.clone();
        }
        if matches!(self.state, JobState::Recovering | JobState::Rescaling) {
            self.state = JobState::Running;
        }
        (true, again)
    }

    fn catch_up(&mut self, at_least: Vec<Vec<Offset>>) {
        let mut target: Vec<Vec<Offset>> =
            self.results.inputs().map(|(_, places)| places.iter().map(|(next, _)| *next).collect()).collect();
        // An engine that ends before it was there leaves the next one where it should have come: a server
        // that was started again has shown nothing yet, and its readers have seen what was shown before.
        let before = self.catching_up.take().map(|(_, target)| target);
        for at_least in before.into_iter().chain([at_least]) {
            for (target, at_least) in target.iter_mut().zip(at_least) {
                target.iter_mut().zip(at_least).for_each(|(target, at_least)| *target = at_least.max(*target));
            }
        }
        if let Some(halt) = self.halt.as_mut().filter(|halt| halt.until.is_none()) {
            // "Where you are" means where it was.
            halt.until = Some(target.clone());
        }
        self.is_restored = false;
        self.catching_up = Some((JobResults::new(self.results.shape().clone()), target));
        self.state = JobState::Recovering;
    }
}

/// The offsets that an update has read. Where two inputs read one topic nobody knows whose its letters are.
fn read_again(results: &JobResults, update: &EpochUpdate) -> Vec<Again> {
    let before: Vec<(&str, &[(Offset, Offset)])> = results.inputs().collect();
    let is_shared = |topic: &str| before.iter().filter(|(other, _)| *other == topic).count() > 1;
    let range = |to: &ReadTo| {
        let (topic, places) = before.get(to.input as usize)?;
        let (from, _) = places.get(to.partition.0 as usize)?;
        let again = Again { topic: (*topic).to_owned(), partition: to.partition.0, from: from.0, to: to.next.0 };
        (again.from < again.to && !is_shared(topic)).then_some(again)
    };
    update.offsets.iter().filter_map(range).collect()
}

/// Whether results have come to these places, by input and partition.
fn has_reached(results: &JobResults, target: &[Vec<Offset>]) -> bool {
    let reached = |(places, target): (&[(Offset, Offset)], &Vec<Offset>)| {
        places.iter().zip(target).all(|((next, _), target)| next >= target)
    };
    results.inputs().map(|(_, places)| places).zip(target).all(reached)
}
