//! Sinks: where whole closed epochs are written.
//!
//! A sink takes epochs one after another, each as a whole: either all of it is there afterwards, with
//! the offsets that it stands for, or nothing. What it takes are absolute values, so that an epoch
//! may be repeated; an older one than it holds is refused.

pub mod sqlite;

use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::number::Decimal;

/// What a sink is given of a closed epoch of its job: the lines that changed since the one before it
/// was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkEpoch {
    /// The epoch. Rises from write to write.
    pub epoch: Epoch,
    /// When it was closed, in milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: i64,
    /// The offsets it stands for: a JSON object of topics, each an array by partition.
    pub offsets_json: String,
    /// The digest over all lines of the job.
    pub digest: String,
    /// The job's accounting, as a JSON object.
    pub accounting_json: String,
    /// The first write of a run: `lines` and `totals` are all there are, and replace what the job had.
    pub reset: bool,
    /// The subjects whose total changed. `None`: the subject has no total, or is gone.
    pub totals: Vec<(String, Option<Decimal>)>,
    /// The lines that changed, each once.
    pub lines: Vec<SinkLine>,
}

/// A line that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkLine {
    /// What is being tallied.
    pub subject: String,
    /// The line within the subject, as answers show it.
    pub group: String,
    /// By aggregate, in the order of the job's aggregates. `None`: the line is gone.
    pub values: Option<Vec<Option<Decimal>>>,
}

/// Who writes: of the starts of a server, and of those that have copies of its data directory, only the
/// last may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writer {
    /// The same in every copy of a data directory.
    pub server: String,
    /// Rises with each start.
    pub generation: u64,
    /// Of this start alone.
    pub run: String,
}

/// Why a sink did not take an epoch. Nothing of the epoch is in it then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The sink holds what another run wrote later.
    #[error("the sink holds epoch {stored}, newer than epoch {offered}; give the job another sink or remove that one")]
    NewerEpoch { stored: Epoch, offered: Epoch },
    /// Another start of the server writes there, over a copy of its data directory.
    #[error(
        "{path} is written by another server over a copy of this data directory (generation {theirs}, this is {own}); stop one of the two"
    )]
    Superseded { path: String, theirs: u64, own: u64 },
    /// The server may not write any more.
    #[error("{0}")]
    Fenced(String),
    /// The line has not as many values as the job has aggregates.
    #[error("line {group:?} of {subject:?} has {found} values, the job has {wanted} aggregates")]
    Aggregates { subject: String, group: String, found: usize, wanted: usize },
    /// Another program holds the file's write lock.
    #[error("{path} is locked by another program")]
    Locked { path: String },
    /// The disk is full.
    #[error("the disk of {path} is full")]
    Full { path: String },
    /// The file is something else than a sink.
    #[error("{path} is not a tallyflow results file; move it away or choose another path")]
    NotASink { path: String },
    /// The file was written by a newer tallyflow.
    #[error("{path} has format {found}, this program knows up to {known}; use a newer tallyflow")]
    Newer { path: String, found: i64, known: i64 },
    /// The file can't be read.
    #[error("{path} is damaged: {what}; move it away, and the job writes it anew")]
    Damaged { path: String, what: String },
    /// The store failed.
    #[error("writing {path} failed: {what}")]
    Io { path: String, what: String },
}

impl SinkError {
    /// Whether the same call may work later.
    pub fn retryable(&self) -> bool {
        matches!(self, SinkError::Locked { .. } | SinkError::Full { .. } | SinkError::Io { .. })
    }
}
