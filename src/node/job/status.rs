//! A job as the API shows it.

use crate::node::job::{CheckpointStatus, Inner, Job, JobState, RecountProgress};
use crate::node::polls::JobRefill;
use serde::{Deserialize, Serialize};
use tallyflow_dataflows::accounting::Accounting;
use tallyflow_dataflows::ids::{Epoch, Offset, PartitionId};
use utoipa::ToSchema;

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
    /// What can't be read just now and is waited for; left out where there is nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<Wait>,
    pub accounting: Accounting,
    pub sinks: Vec<SinkStatus>,
    /// Its newest checkpoint; null before the first.
    #[serde(default)]
    pub checkpoint: Option<CheckpointStatus>,
    /// What is kept of its history, as its recorder says; null: there is none, as of a cancelled job after a
    /// restart, or it has written nothing yet.
    #[serde(default)]
    pub history: Option<HistoryStatus>,
    /// Of a job of polls, how far a pass over the past has come that runs beside it; null: none does.
    #[serde(default)]
    pub refill: Option<JobRefill>,
    /// While its records are read again for a recount or a `why`; null: they are not.
    #[serde(default)]
    pub recount: Option<RecountProgress>,
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

/// A partition that can't be read just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Wait {
    pub topic: String,
    pub partition: PartitionId,
    /// A sentence.
    pub why: String,
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

/// What is kept of a job's history.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct HistoryStatus {
    pub points: u64,
    /// What its file holds.
    pub bytes: u64,
    /// RFC 3339; null before the first point.
    pub oldest: Option<String>,
    /// The same in ms since 1970, for metrics.
    #[serde(skip)]
    pub oldest_ms: Option<i64>,
    /// Of the newest point; null before the first.
    pub epoch: Option<Epoch>,
    /// Why it is behind, while it is.
    pub error: Option<String>,
}

impl Job {
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
        let (epoch, accounting) = (inner.results.epoch(), *inner.results.accounting());
        if let Some(told) = &inner.told {
            let (state, error) = (inner.state, inner.error.clone());
            return JobStatus { epoch, accounting, inputs, state, error, ..JobStatus::clone(told) };
        }
        JobStatus {
            name: self.name.clone(),
            dataflow: inner.plan.spec.dataflow.name().to_owned(),
            replacing: inner.replacing(),
            state: inner.state,
            workers: inner.workers,
            epoch,
            inputs,
            waits: inner.waiting(),
            accounting,
            sinks: inner.sinks.clone(),
            checkpoint: inner.kept.status(),
            history: inner.history.clone(),
            refill: inner.refill,
            recount: inner.recount,
            error: inner.error.clone(),
        }
    }
}

impl Inner {
    fn waiting(&self) -> Vec<Wait> {
        let wait = |((input, partition), why): (&(u32, PartitionId), &String)| {
            let topic = self.plan.inputs.get(*input as usize)?.topic.clone();
            Some(Wait { topic, partition: *partition, why: why.clone() })
        };
        self.waits.iter().filter_map(wait).collect()
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
