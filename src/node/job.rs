//! A job as the node keeps it: its state, its results, and who waits for news of them.

use crate::node::polls::JobRefill;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tallyflow_dataflows::accounting::Accounting;
use tallyflow_dataflows::engine::job::{Halt, InstallInput};
use tallyflow_dataflows::ids::{Epoch, Offset, PartitionId};
use tallyflow_dataflows::results::{JobResults, Shape};
use tallyflow_dataflows::spec::JobSpec;
use tallyflow_dataflows::update::{EpochUpdate, Graph, JobId};
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
}

/// What a job computes, and from what. Another takes its place when the job is replaced.
pub struct Plan {
    /// What the engine knows it by: another one whenever it is computed anew beside what is shown.
    pub engine_id: JobId,
    pub spec: JobSpec,
    /// The spec's inputs, resolved to offsets when it was submitted.
    pub inputs: Vec<InstallInput>,
    pub graph: Graph,
}

/// What is computed beside a running job, to take its place.
struct Beside {
    plan: Arc<Plan>,
    results: JobResults,
    /// Where it must have come before it is let forward.
    target: Vec<Vec<Offset>>,
    /// Once it was: the epoch from which on it goes on.
    forward: Option<Epoch>,
    /// Whether it was told to be there.
    there: bool,
}

/// What an update of a job that is computed beside has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has not come far enough.
    Behind,
    /// It has come to its target, and is to be let forward.
    Near,
    /// It is where the job is: it can take its place.
    There,
}

struct Inner {
    plan: Arc<Plan>,
    beside: Option<Beside>,
    /// Why the last try to replace it failed.
    beside_error: Option<String>,
    state: JobState,
    error: Option<String>,
    workers: usize,
    results: JobResults,
    /// While the engine catches up: what it has told so far, and where it must have come before that
    /// is shown.
    catching_up: Option<(JobResults, Vec<Vec<Offset>>)>,
    /// What the engine is to be told to stop at when it is started again.
    halt: Option<Halt>,
    /// The last halt that was reached.
    halt_reached: Option<u64>,
    /// Whether a halt that is reached means that the job is paused.
    pausing: bool,
    replaced: bool,
    sinks: Vec<SinkStatus>,
    refill: Option<JobRefill>,
}

/// A job as the API shows it. `epoch`, `inputs` and `accounting` are of the newest closed epoch, the
/// one that its tallies are served from.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JobStatus {
    pub name: String,
    pub dataflow: String,
    pub state: JobState,
    /// Worker threads that run it.
    pub workers: usize,
    /// Null before the first epoch has closed.
    pub epoch: Option<Epoch>,
    pub inputs: Vec<InputStatus>,
    pub accounting: Accounting,
    pub sinks: Vec<SinkStatus>,
    /// Of a job of polls, how far a pass over the past has come that runs beside it; null: none does.
    #[serde(default)]
    pub refill: Option<JobRefill>,
    /// Why it failed.
    pub error: Option<String>,
    /// What is computed beside it to take its place, while there is such; or why that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacing: Option<Replacing>,
}

/// How far that has come which is to take a job's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replacing {
    /// Records read so far.
    pub records: u64,
    /// Of about how many.
    pub of: u64,
    /// Why it was given up; what was there stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far a partition has been read.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct InputStatus {
    pub topic: String,
    pub partition: PartitionId,
    pub next_offset: Offset,
    pub end_offset: Offset,
    /// Records that are there and not yet read.
    pub lag: u64,
}

/// How far a sink has come.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SinkStatus {
    pub kind: String,
    pub path: String,
    /// The epoch that it holds; null before the first.
    pub epoch: Option<Epoch>,
    /// Why it is behind, while it is.
    pub error: Option<String>,
}

impl Job {
    /// A job that is starting.
    pub fn new(
        id: JobId,
        spec: JobSpec,
        inputs: Vec<InstallInput>,
        submitted_ms: i64,
        graph: Graph,
        workers: usize,
    ) -> Self {
        let results = JobResults::new(Shape::of(&spec, &inputs));
        let name = spec.name.clone();
        let inner = Inner {
            plan: Arc::new(Plan { engine_id: id, spec, inputs, graph }),
            beside: None,
            beside_error: None,
            state: JobState::Starting,
            error: None,
            workers,
            results,
            catching_up: None,
            halt: None,
            halt_reached: None,
            pausing: false,
            replaced: false,
            sinks: Vec::new(),
            refill: None,
        };
        let (news, _) = watch::channel(0);
        Job { id, name, submitted_ms, inner: Mutex::new(inner), news, changed: Condvar::new() }
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

    /// Changes every time an epoch is applied or the state changes.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Goes on to an update's epoch; while catching up, silently, until what was shown before is
    /// reached. A cancelled job stays where it is, whatever its engine had still to tell.
    pub fn apply(&self, update: EpochUpdate) {
        {
            let mut inner = self.lock();
            let inner = &mut *inner;
            if inner.state == JobState::Cancelled {
                return;
            }
            let Some((results, target)) = &mut inner.catching_up else {
                inner.results.apply(update);
                self.tell();
                return;
            };
            results.apply(update);
            let reached = |(places, target): (&[(Offset, Offset)], &Vec<Offset>)| {
                places.iter().zip(target).all(|((next, _), target)| next >= target)
            };
            if !results.inputs().map(|(_, places)| places).zip(&*target).all(reached) {
                return;
            }
            if let Some((mut results, _)) = inner.catching_up.take() {
                if inner.results.epoch().is_some() {
                    results.take_over(&inner.results);
                }
                inner.results = results;
            }
            if inner.state == JobState::Recovering {
                inner.state = JobState::Running;
            }
        }
        self.tell();
    }

    /// Begins to compute another plan beside what is shown.
    pub fn begin_beside(&self, plan: Arc<Plan>, target: Vec<Vec<Offset>>) {
        let mut inner = self.lock();
        let results = JobResults::new(Shape::of(&plan.spec, &plan.inputs));
        inner.beside = Some(Beside { plan, results, target, forward: None, there: false });
        inner.beside_error = None;
    }

    /// What is computed beside.
    pub fn beside(&self) -> Option<Arc<Plan>> {
        self.lock().beside.as_ref().map(|beside| beside.plan.clone())
    }

    /// What is computed beside begins anew, in another engine.
    pub fn beside_anew(&self) -> Option<Arc<Plan>> {
        let mut inner = self.lock();
        let beside = inner.beside.as_mut()?;
        beside.results = JobResults::new(beside.results.shape().clone());
        beside.forward = None;
        beside.there = false;
        Some(beside.plan.clone())
    }

    /// Goes on to an update's epoch with what is computed beside.
    pub fn apply_beside(&self, update: EpochUpdate) -> Progress {
        let mut inner = self.lock();
        let Some(beside) = &mut inner.beside else { return Progress::Behind };
        beside.results.apply(update);
        let reached = |(places, target): (&[(Offset, Offset)], &Vec<Offset>)| {
            places.iter().zip(target).all(|((next, _), target)| next >= target)
        };
        if !beside.results.inputs().map(|(_, places)| places).zip(&beside.target).all(reached) {
            return Progress::Behind;
        }
        if beside.forward.is_none() {
            return Progress::Near;
        }
        let there = inner.beside_is_there();
        match inner.beside.as_mut().filter(|beside| there && !beside.there) {
            Some(beside) => {
                beside.there = true;
                Progress::There
            }
            None => Progress::Behind,
        }
    }

    /// What is computed beside goes on from this epoch, above all that the job has shown.
    pub fn let_forward(&self, epoch: Epoch) {
        if let Some(beside) = self.lock().beside.as_mut() {
            beside.forward = Some(epoch);
        }
    }

    /// What was computed beside takes the job's place, as one change, if it is as far as the job. Answers
    /// the plan that is over.
    pub fn take_place(&self) -> Option<Arc<Plan>> {
        let over = {
            let mut inner = self.lock();
            let inner = &mut *inner;
            if !inner.beside_is_there() {
                return None;
            }
            let Beside { plan, mut results, .. } = inner.beside.take()?;
            if inner.results.epoch().is_some() {
                results.take_over(&inner.results);
            }
            inner.results = results;
            inner.catching_up = None;
            inner.state = JobState::Running;
            inner.error = None;
            inner.sinks.clear();
            std::mem::replace(&mut inner.plan, plan)
        };
        self.tell();
        Some(over)
    }

    /// Nothing takes the job's place, for this reason.
    pub fn give_up_beside(&self, error: Option<String>) -> Option<Arc<Plan>> {
        let mut inner = self.lock();
        inner.beside_error = error;
        inner.beside.take().map(|beside| beside.plan)
    }

    /// The engine knows it by another id from now on.
    pub fn rename(&self, engine_id: JobId) {
        let mut inner = self.lock();
        let Plan { spec, inputs, graph, .. } = &*inner.plan;
        inner.plan = Arc::new(Plan { engine_id, spec: spec.clone(), inputs: inputs.clone(), graph: graph.clone() });
    }

    /// Takes other sinks and another `top`, which change nothing that is counted.
    pub fn retune(&self, spec: JobSpec) {
        {
            let mut inner = self.lock();
            let top = Shape::of(&spec, &inner.plan.inputs).top;
            inner.results.set_top(top);
            if let Some((results, _)) = &mut inner.catching_up {
                results.set_top(top);
            }
            let Plan { engine_id, inputs, graph, .. } = &*inner.plan;
            inner.plan = Arc::new(Plan { engine_id: *engine_id, spec, inputs: inputs.clone(), graph: graph.clone() });
            inner.sinks.clear();
        }
        self.tell();
    }

    /// Puts back what a cancelled job last showed.
    pub fn restore(&self, update: EpochUpdate) {
        self.lock().results.apply(update);
    }

    /// The engine begins anew: nothing is shown until `at_least`, and what was shown before, is
    /// reached again.
    pub fn catch_up(&self, at_least: Vec<Vec<Offset>>) {
        {
            let mut inner = self.lock();
            let shown: Vec<Vec<Offset>> =
                inner.results.inputs().map(|(_, places)| places.iter().map(|(next, _)| *next).collect()).collect();
            let target =
                shown.into_iter().zip(at_least).map(|(a, b)| a.into_iter().zip(b).map(|(a, b)| a.max(b)).collect());
            let target: Vec<Vec<Offset>> = target.collect();
            if let Some(halt) = inner.halt.as_mut().filter(|halt| halt.until.is_none()) {
                // "Where you are" means where it was.
                halt.until = Some(target.clone());
            }
            inner.catching_up = Some((JobResults::new(inner.results.shape().clone()), target));
            inner.state = JobState::Recovering;
        }
        self.tell();
    }

    /// The offsets shown, by input and partition.
    pub fn offsets(&self) -> Vec<Vec<Offset>> {
        let inner = self.lock();
        inner.results.inputs().map(|(_, places)| places.iter().map(|(next, _)| *next).collect()).collect()
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

    /// Notes what bounds its reading from now on, and whether it is paused once it is there.
    pub fn set_halt(&self, halt: Option<Halt>, pausing: bool) {
        let mut inner = self.lock();
        inner.halt = halt;
        inner.pausing = pausing;
        inner.halt_reached = None;
    }

    /// Puts another form of the halt that was reached in its place.
    pub fn keep_halt(&self, halt: Halt) {
        self.lock().halt = Some(halt);
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
        }
        self.tell();
    }

    pub fn set_sink(&self, index: usize, status: SinkStatus) {
        let mut inner = self.lock();
        if index < inner.sinks.len() {
            inner.sinks[index] = status;
        } else {
            inner.sinks.push(status);
        }
    }

    pub fn set_refill(&self, refill: Option<JobRefill>) {
        self.lock().refill = refill;
    }

    fn tell(&self) {
        self.news.send_modify(|n| *n += 1);
        self.changed.notify_all();
    }

    pub fn status(&self) -> JobStatus {
        let inner = self.lock();
        let mut inputs = Vec::new();
        for (topic, places) in inner.results.inputs() {
            for (partition, (next, end)) in places.iter().enumerate() {
                inputs.push(InputStatus {
                    topic: topic.to_owned(),
                    partition: PartitionId(partition as u32),
                    next_offset: *next,
                    end_offset: *end,
                    lag: end.0.saturating_sub(next.0),
                });
            }
        }
        JobStatus {
            name: self.name.clone(),
            dataflow: inner.plan.spec.dataflow.name().to_owned(),
            replacing: inner.replacing(),
            state: inner.state,
            workers: inner.workers,
            epoch: inner.results.epoch(),
            inputs,
            accounting: *inner.results.accounting(),
            sinks: inner.sinks.clone(),
            refill: inner.refill,
            error: inner.error.clone(),
        }
    }
}

impl Inner {
    /// Whether what is computed beside has come as far as what is shown: no reader may see less of a
    /// topic than it saw.
    fn beside_is_there(&self) -> bool {
        let Some((beside, forward)) = self.beside.as_ref().and_then(|beside| Some((beside, beside.forward?))) else {
            return false;
        };
        let shown = self.results.offsets();
        let as_far = beside.results.offsets().iter().all(|(topic, next)| {
            shown.get(topic).is_none_or(|shown| next.iter().zip(shown).all(|(next, shown)| next >= shown))
        });
        as_far && beside.results.epoch() >= Some(forward) && beside.results.epoch() > self.results.epoch()
    }

    fn replacing(&self) -> Option<Replacing> {
        let error = self.beside_error.clone();
        let Some(beside) = &self.beside else {
            return error.map(|error| Replacing { records: 0, of: 0, error: Some(error) });
        };
        let starts = beside.plan.inputs.iter().map(|input| input.partitions.iter().map(|p| p.from));
        let ends = beside.results.inputs().map(|(_, places)| places.iter());
        let (mut records, mut of) = (0, 0);
        for ((starts, ends), targets) in starts.zip(ends).zip(&beside.target) {
            for ((start, (next, _)), target) in starts.zip(ends).zip(targets) {
                records += next.0.saturating_sub(start.0);
                of += target.0.max(next.0).saturating_sub(start.0);
            }
        }
        Some(Replacing { records, of, error: None })
    }
}
