//! What sinks are given, and by whom.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::SubjectTallies;

/// What a sink is given of a closed epoch of its job: the lines that changed since the one before it
/// was given, as [`Grain`] says.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// The first write of a run: what is told is all there is, and replaces what the job had.
    pub reset: bool,
    /// [`Grain::Lines`]: the subjects whose total changed. `None`: the subject has no total, or is gone.
    pub totals: Vec<(String, Option<Decimal>)>,
    /// [`Grain::Lines`]: the lines that changed, each once.
    pub lines: Vec<SinkLine>,
    /// [`Grain::Subjects`]: each subject that changed, with all its lines in the order of answers.
    pub subjects: Vec<SubjectTallies>,
    /// [`Grain::Subjects`]: the subjects that are gone.
    pub gone: Vec<String>,
    /// [`Grain::Polls`]: what the changed subjects are polls of, by subject.
    pub polls: BTreeMap<String, SinkPoll>,
}

/// In what pieces a sink wants the changes of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// The lines that changed.
    Lines,
    /// The subjects in which a line changed, whole.
    Subjects,
    /// Likewise, with the definitions of the polls that they are.
    Polls,
}

impl Grain {
    /// Whether subjects come whole.
    pub fn is_whole(self) -> bool {
        self != Grain::Lines
    }
}

/// What a sink shows of a poll besides its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkPoll {
    pub title: String,
    /// In the order of its definition.
    pub options: Vec<String>,
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

/// Whether whoever writes is to end, and when at the latest. Clones are of one ending.
#[derive(Clone, Debug, Default)]
pub struct Ending(Arc<OnceLock<Instant>>);

impl Ending {
    /// Asks to end by then. What was asked first stands.
    pub fn ask(&self, by: Instant) {
        self.0.set(by).ok();
    }

    /// Whether it was asked to end: what is written now is the last.
    pub fn is_asked(&self) -> bool {
        self.0.get().is_some()
    }

    /// The time that is left; `None`: as much as is wanted.
    pub fn left(&self) -> Option<Duration> {
        self.0.get().map(|by| by.saturating_duration_since(Instant::now()))
    }

    /// Whether no time is left.
    pub fn is_over(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}
