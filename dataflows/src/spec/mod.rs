//! What a job is, once its file has been checked: past this point nothing is checked twice.
//!
//! ```text
//! text -> tree (values with their lines) -> section (typed values) -> file, tally (the rules) -> JobSpec
//!                      |                          |                        |
//!                      '--------------------------'------------------------'--> faults, all of them
//! ```

pub mod definition;
mod fault;
mod file;
#[cfg(test)]
mod poll_tests;
pub mod polls;
mod section;
mod sink;
mod tally;
mod terms;
#[cfg(test)]
mod tests;
mod tree;
pub mod voids;
pub mod written;

pub use fault::Fault;
pub use file::{JOB_FILE_BYTES_MAX, JobFile, Surroundings, VOTE};
pub use section::parse_duration;
pub use sink::{MongodbShape, MongodbSpec, SinkSpec, Uri};

use crate::decode::Formats;
use crate::ids::{Offset, PartitionId};
use crate::pointer::Pointer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A job as submitted, checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// 1 to 64 of `a-z A-Z 0-9 _ -`, not starting with `-`.
    pub name: String,
    /// What it computes.
    pub dataflow: Dataflow,
    /// At least one.
    pub inputs: Vec<InputSpec>,
    /// Where its results are written, besides the results store.
    pub sinks: Vec<SinkSpec>,
    /// What an operator has taken out of it since; none in a job file.
    #[serde(default)]
    pub voids: voids::Voids,
}

/// To how many groups one event may add: over its entries, the product of the numbers of different
/// elements (null among them) of the parts of the group. An event with more is rejected.
pub const FAN_OUT_MAX: usize = 10_000;

/// By what claims are kept, messages taken into account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// The rule.
    pub keep: Keep,
    /// The parts of the entity, by input; all empty exactly when `keep` is [`Keep::All`].
    pub entities: Vec<Vec<Pointer>>,
}

impl JobSpec {
    /// By what claims are kept: the job file's entity and rule; where it names no entity and the
    /// inputs' records are messages, each message by its id, keep last.
    pub fn keeping(&self, formats: &dyn Formats) -> Keeping {
        let Dataflow::Tally(tally) = &self.dataflow else {
            // Each poll has a rule of its own.
            return Keeping { keep: Keep::All, entities: vec![Vec::new(); self.inputs.len()] };
        };
        if !tally.entity.is_empty() {
            return Keeping { keep: tally.keep, entities: vec![tally.entity.clone(); self.inputs.len()] };
        }
        let ids = self.inputs.iter().map(|input| {
            let id = formats.find(&input.format)?.message_id?;
            Pointer::parse(id).ok().map(|id| vec![id])
        });
        // A checked job's inputs agree in whether they are messages.
        match ids.collect::<Option<Vec<_>>>() {
            Some(entities) => Keeping { keep: Keep::Last, entities },
            None => Keeping { keep: Keep::All, entities: vec![Vec::new(); self.inputs.len()] },
        }
    }
}

/// The built-in dataflows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Dataflow {
    /// The open one: `[tally]` in the job file.
    Tally(TallySpec),
    /// Polls, which come and go as definitions while it runs: `[polls]` in the job file.
    Polls(polls::PollsSpec),
}

impl Dataflow {
    /// As the job file and the answers name it.
    pub fn name(&self) -> &'static str {
        match self {
            Dataflow::Tally(_) => "tally",
            Dataflow::Polls(_) => "polls",
        }
    }
}

/// One `[[input]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputSpec {
    pub topic: String,
    /// A name of [`crate::decode::Formats::all`].
    pub format: String,
    /// Where reading starts.
    pub from: Bound,
    /// Where reading ends; `None`: never.
    pub until: Option<Bound>,
}

/// A cut through a topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Bound {
    /// The first offset kept.
    Beginning,
    /// The end when the job was submitted.
    End,
    /// The first record whose log timestamp is at or after this time (ms since 1970), decided by each
    /// partition's own log.
    Time(i64),
    /// By partition. Partitions not named: their beginning in `from`, without end in `until`.
    Offsets(BTreeMap<PartitionId, Offset>),
}

/// `[tally]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TallySpec {
    /// Empty: one subject, named like the job. Several: the subject is their JSON array as text.
    pub subject: Vec<Pointer>,
    /// What each event adds, at least one.
    pub entries: Vec<EntrySpec>,
    /// Empty exactly when `keep` is [`Keep::All`]. See [`JobSpec::keeping`] for messages.
    pub entity: Vec<Pointer>,
    /// As the job file says it.
    pub keep: Keep,
    /// The event time. `None`: the order key begins with the log's timestamp.
    pub order: Option<Pointer>,
    /// A CEL expression over `event`; already known to compile.
    pub filter: Option<String>,
    /// At least one, no two equal. The first is `value` in the answers.
    pub aggregates: Vec<Aggregate>,
    /// How many lines of a subject are shown; `None`: all.
    pub top: Option<usize>,
    /// An event time more than this after the log's timestamp is rejected.
    pub ahead: Duration,
}

/// One `[[tally.entry]]`, or `group` and `value` of `[tally]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntrySpec {
    /// The parts of the group; empty: the subject's one line, named "".
    pub group: Vec<Pointer>,
    /// `None`: each event counts 1.
    pub value: Option<ValueSpec>,
}

/// `value = "/amount"` or `"-/amount"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValueSpec {
    pub pointer: Pointer,
    pub negate: bool,
}

/// Which claims of an entity stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keep {
    /// Every event counts; there is no entity.
    All,
    First,
    Last,
    /// At most so many per entity, 1 to [`Keep::N_MAX`].
    FirstN(u32),
}

impl Keep {
    /// The greatest n of `first-n`: an entity's standing claims are searched one by one.
    pub const N_MAX: u32 = 1_000;
}

/// An aggregate over the standing contributions of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Aggregate {
    Count,
    Sum,
    Min,
    Max,
    /// Sum by count, rounded half-even at 18 places.
    Avg,
    /// The value with the greatest order key.
    Last,
    /// How many different values the pointer leads to.
    Distinct(Pointer),
}

impl Aggregate {
    /// As the job file and the answers name it.
    pub fn name(&self) -> String {
        match self {
            Aggregate::Count => "count".into(),
            Aggregate::Sum => "sum".into(),
            Aggregate::Min => "min".into(),
            Aggregate::Max => "max".into(),
            Aggregate::Avg => "avg".into(),
            Aggregate::Last => "last".into(),
            Aggregate::Distinct(pointer) => format!("distinct:{pointer}"),
        }
    }

    /// Whether a subject has a total and shares when this is the first aggregate.
    pub fn has_total(&self) -> bool {
        matches!(self, Aggregate::Count | Aggregate::Sum)
    }
}
