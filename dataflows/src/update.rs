//! What the engine tells the node: the changes of closed epochs, and what becomes of jobs.

use crate::claim::{LineId, Position};
use crate::engine::facts::{ClaimChanges, Newest, RecordChanges, Rejected};
use crate::ids::{Epoch, Offset, PartitionId};
use crate::number::Decimal;
use crate::spec::polls::PollKey;
use serde::{Deserialize, Serialize};

/// A job as installed; a job resubmitted under the same name is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub u64);

/// Everything that changed up to a closed epoch since the update before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochUpdate {
    pub epoch: Epoch,
    /// When it closed, in ms since 1970.
    pub at_ms: i64,
    /// Partitions that were read on: where each goes on, and its end as last heard of.
    pub offsets: Vec<ReadTo>,
    /// Subjects that are gone, with all their lines and their accounting; before those that come, of which
    /// one may have the same name.
    pub gone: Vec<u64>,
    /// Names of subjects and lines met for the first time; before any use of them.
    pub subjects: Vec<(u64, String)>,
    pub names: Vec<(LineId, Vec<String>)>,
    /// The lines that changed: by aggregate what they now come to; `None`: the line is gone.
    pub lines: Vec<(LineId, Option<Vec<Decimal>>)>,
    /// The subjects whose sums changed: their totals now.
    pub totals: Vec<(u64, Decimal)>,
    /// To be added to the job's accounting.
    pub records: RecordChanges,
    /// To be added to the subject's and the job's accounting.
    pub claims: Vec<(u64, ClaimChanges)>,
    /// The newest records of each class, oldest first.
    pub newest: Vec<Newest>,
    /// Records for the dead letters.
    pub rejected: Vec<Rejected>,
}

/// How far a partition has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadTo {
    pub input: u32,
    pub partition: PartitionId,
    pub next: Offset,
    pub end: Offset,
}

/// What the engine says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EngineEvent {
    /// The job's dataflow stands on every worker.
    Installed { job: JobId },
    /// Epochs have closed.
    Closed { job: JobId, update: Box<EpochUpdate> },
    /// The job has stopped reading, as the halt of this number asked; all it had read is told.
    Halted { job: JobId, halt: u64 },
    /// The job can't go on. It reads no further and publishes nothing more.
    Failed { job: JobId, error: String, at: Option<Position> },
    /// A partition of an input can't be read just now, for this reason, and is waited for; `None`: it is read
    /// again.
    Waits { job: JobId, input: u32, partition: PartitionId, why: Option<String> },
    /// What became of a change of polls.
    Polls { job: JobId, event: PollEvent },
    /// The job's dataflow is gone from every worker.
    Removed { job: JobId },
    /// The job goes on from a checkpoint; with those that were of no use, and why. Or from its inputs'
    /// beginnings.
    TakenUp { job: JobId, from: Option<(u64, Epoch)>, passed_over: Vec<(u64, String)> },
    /// What became of the checkpoint that a command of this number asked for.
    Checkpoint { job: JobId, number: u64, event: CheckpointEvent },
}

/// What became of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckpointEvent {
    /// It is there: of which epoch, since when, how many ms after its epoch was over, for how many us at most
    /// an operator was kept from its work at one time, what it has added to the store, and all it needs there.
    Taken { epoch: Epoch, at_ms: i64, ms: u64, stall_us: u64, bytes: u64, held_bytes: u64 },
    /// It can't be written, and is tried again or not.
    Failed { error: String, again: bool },
    /// Another engine has taken the job up.
    Fenced,
}

/// What became of a change of polls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PollEvent {
    /// A poll was opened: by input and partition, the offsets from which on it counts.
    Opened { poll: PollKey, from: Vec<Vec<Offset>> },
    /// How many records the refill has read, of how many.
    Refilling { number: u64, records: u64, of: u64 },
    /// The update told just before shows all that the refill of this number has counted.
    Refilled { number: u64 },
    /// The log could not be read for the refill of this number: nothing of it is shown, and what was shown
    /// stays.
    RefillFailed { number: u64, error: String },
}

/// The operators of a job's dataflow and how they are joined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Graph {
    pub operators: Vec<GraphOperator>,
    pub channels: Vec<GraphChannel>,
}

/// One operator, as timely names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct GraphOperator {
    pub id: u64,
    pub name: String,
}

/// One channel between two operators.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct GraphChannel {
    pub from: u64,
    pub to: u64,
}
