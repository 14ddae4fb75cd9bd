//! A job as the node keeps it: its state, its results, and who waits for news of them.

use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tallyflow_dataflows::accounting::Accounting;
use tallyflow_dataflows::ids::{Epoch, Offset, PartitionId};
use tallyflow_dataflows::results::JobResults;
use tallyflow_dataflows::spec::JobSpec;
use tallyflow_dataflows::update::{Graph, JobId};
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

/// A job, shared by everyone who looks at it.
pub struct Job {
    pub id: JobId,
    pub spec: JobSpec,
    /// When it was submitted, in ms since 1970.
    pub submitted_ms: i64,
    pub graph: Graph,
    inner: Mutex<Inner>,
    news: watch::Sender<u64>,
}

struct Inner {
    state: JobState,
    error: Option<String>,
    workers: usize,
    results: JobResults,
    sinks: Vec<SinkStatus>,
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
    /// Why it failed.
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
    pub fn new(id: JobId, spec: JobSpec, submitted_ms: i64, graph: Graph, results: JobResults, workers: usize) -> Self {
        let inner = Inner { state: JobState::Starting, error: None, workers, results, sinks: Vec::new() };
        let (news, _) = watch::channel(0);
        Job { id, spec, submitted_ms, graph, inner: Mutex::new(inner), news }
    }

    pub fn name(&self) -> &str {
        &self.spec.name
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

    /// Applies a change to the results and tells it.
    pub fn apply(&self, change: impl FnOnce(&mut JobResults)) {
        change(&mut self.lock().results);
        self.tell();
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

    fn tell(&self) {
        self.news.send_modify(|n| *n += 1);
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
            name: self.spec.name.clone(),
            dataflow: "tally".to_owned(),
            state: inner.state,
            workers: inner.workers,
            epoch: inner.results.epoch(),
            inputs,
            accounting: *inner.results.accounting(),
            sinks: inner.sinks.clone(),
            error: inner.error.clone(),
        }
    }
}
