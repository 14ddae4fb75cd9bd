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
    /// Another server was told to take over, or writes later epochs there.
    #[error("{path} was taken over by another server; stop one of the two, or give one another place")]
    TakenOver { path: String },
    /// What was written and confirmed is not there any more.
    #[error(
        "{path} has lost what it had confirmed: epoch {written} was written, {}; all is written again",
        .found.map_or_else(|| "none is there".to_owned(), |found| format!("{found} is there"))
    )]
    LostWrites { path: String, written: Epoch, found: Option<Epoch> },
    /// It is not as the job file says, or the job file is wrong.
    #[error("{path} can't be used: {what}")]
    Unusable { path: String, what: String },
    /// The store does not take a subject; it has taken the others.
    #[error("{path} refuses subject {subject:?}: {what}{}", and_others(*.others))]
    Refused { path: String, subject: String, what: String, others: usize },
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
        use SinkError::{Full, Io, Locked, LostWrites};
        matches!(self, Locked { .. } | Full { .. } | Io { .. } | LostWrites { .. })
    }
}

fn and_others(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => " (and another one)".to_owned(),
        others => format!(" (and {others} others)"),
    }
}
