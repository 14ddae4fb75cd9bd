//! The history of a job's results: what was served at past moments.
//!
//! A file for each job holds points, each a whole closed epoch, of which only what changed since the point
//! before is written:
//!
//! ```text
//!   results --write--> | points   when, epoch, offsets, digest, accounting, aggregates             |
//!                      | entries  a subject, or a line of it                                        | --> reader
//!   clock ----tidy---> | states   what an entry came to from a point on, until its next; NULL: gone |
//! ```
//!
//! As of a point, an entry is what its newest state at or before that point says. So a point can go
//! without any state being rewritten: of each entry only the last state before the next kept point is
//! needed, and the others go in small portions, whenever there is time ([`History::tidy`]). Whatever is in
//! the midst of going, every point that is kept reads exactly as it was written.

mod read;
mod schema;
mod thin;
mod write;

pub use read::{HistoryReader, Moment, Series, SeriesItem, Wanted};
pub use write::{History, HistoryPoint};

use std::time::Duration;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::results::ReadError;

/// How long points are kept, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Steps and ages rise. Never empty.
    pub steps: Vec<Step>,
    /// What the file may hold; beyond, the oldest points go. The newest always stays.
    pub bytes_max: u64,
}

/// One point for each `step`, up to an age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub step: Duration,
    pub age: Duration,
}

/// The most steps.
pub const STEPS_MAX: usize = 8;

/// What a history holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    pub points: u64,
    /// What is in use of the file.
    pub bytes: u64,
    /// When the oldest point's epoch was closed, in ms since 1970.
    pub oldest_ms: Option<i64>,
    pub newest: Option<Epoch>,
}

/// Why nothing was written, or is answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    #[error("nothing of its history is kept yet; try again in a moment")]
    NoneYet,
    /// When the oldest point was closed, in ms since 1970.
    #[error("nothing is kept of that time")]
    Before { oldest_ms: i64 },
    /// No point that is kept knows it.
    #[error("no line of that subject and group is in what is kept")]
    UnknownLine,
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What was offered does not follow on what is held. All there is has to be offered.
    #[error("the changes since epoch {since} do not follow on what is kept")]
    Gap { since: Epoch },
    #[error("{path} holds epoch {stored}, newer than epoch {offered}; stop the server and move the file away")]
    NewerEpoch { path: String, stored: Epoch, offered: Epoch },
    #[error("{path} is not a history that this program knows; stop the server and move it away")]
    Foreign { path: String },
    #[error("{path} is locked by another program")]
    Locked { path: String },
    #[error("the disk of {path} is full")]
    Full { path: String },
    #[error("{path} is damaged: {what}; stop the server and move it away, and it begins anew")]
    Damaged { path: String, what: String },
    #[error("{path} can't be read or written: {what}")]
    Io { path: String, what: String },
}

impl HistoryError {
    /// Whether the same may work later.
    pub fn retryable(&self) -> bool {
        use HistoryError::{Full, Gap, Io, Locked, NoneYet};
        matches!(self, NoneYet | Gap { .. } | Locked { .. } | Full { .. } | Io { .. })
    }
}
