//! Why a sink did not take an epoch.

use tallyflow_dataflows::ids::Epoch;

/// Why a sink did not take an epoch. Nothing of the epoch is in it then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The sink holds what another run wrote later.
    #[error(
        "the sink holds epoch {stored}, newer than epoch {offered}; submit the job with --take-over to write over it, or give it another sink"
    )]
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
