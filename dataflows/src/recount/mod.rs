//! The recount: a job's tallies by a plain fold over its records, to hold the engine's against.
//!
//! ```text
//! record -> decoder -> judge (rejected, irrelevant, or a claim) -> keep rule -> lines
//! ```
//!
//! The polls of a `polls` job are recounted in a module of their own, from the definitions in force.
//!
//! What a pass over the records holds is bounded: it looks at a share of the entities, as many as fit, and
//! the rest is left to further passes. Lines are not bounded so: they are as many as the results have.
//!
//! It shares the decoders, the reading of numbers and times and the evaluation of `where` with the
//! engine, and nothing else: no dataflow, no hashes, no incremental state. It is written to be read
//! beside the rules, not to be quick; everything stands in ordinary maps of strings. The answer
//! depends on the set of records alone, so that they may come in any order.
//!
//! ```
//! # use tallyflow_dataflows::{decode::*, ids::*, record::RecordRef, recount::Recount, spec::*};
//! # use tallyflow_dataflows::number::Decimal;
//! # struct Words;
//! # impl Decoder for Words {
//! #     fn decode<'a>(&mut self, r: &RecordRef<'a>, event: &mut Event<'a>) -> Result<Decoded, Reject> {
//! #         let text = std::str::from_utf8(r.value.unwrap_or_default()).map_err(|_| Reject("no text".into()))?;
//! #         event.slots.push(Some(Value::Text(text.into())));
//! #         Ok(Decoded::Event)
//! #     }
//! # }
//! # impl Formats for Words {
//! #     fn all(&self) -> &[FormatInfo] { &[FormatInfo { name: "words", message_id: None, claim_id: None }] }
//! #     fn decoder(&self, _: &str, _: &Needs) -> Box<dyn Decoder> { Box::new(Words) }
//! # }
//! # let formats = Words;
//! let job = r#"
//!     name = "drinks"
//!     dataflow = "tally"
//!     [[input]]
//!     topic = "orders"
//!     format = "words"
//!     [tally]
//!     group = ""
//! "#;
//! let around = Surroundings { formats: &formats, partitions: &|_| Some(1), topics: vec![] };
//! let job = JobFile::parse_toml(job, &around).unwrap();
//! let result = Recount::new(&job, &formats).over(|recount| {
//!     for (offset, word) in ["tea", "coffee", "tea"].into_iter().enumerate() {
//!         let (partition, offset) = (PartitionId(0), Offset(offset as u64));
//!         recount.record(0, &RecordRef { partition, offset, timestamp_ms: 0, key: None, value: Some(word.as_bytes()) });
//!     }
//!     Ok::<_, tallyflow_dataflows::recount::RecountError>(())
//! });
//! let result = result.unwrap();
//! assert_eq!(result.lines[&("drinks".into(), "tea".into())], [Some(Decimal::from_int(2))]);
//! ```

mod base;
mod judge;
mod lines;
mod polls;
mod share;
mod tally;
#[cfg(test)]
mod tests;
mod voids;
pub mod why;

use crate::decode::Formats;
use crate::number::Decimal;
use crate::record::RecordRef;
use crate::spec::polls::PollInForce;
use crate::spec::{Dataflow, JobSpec};
use polls::PollsRecount;
use std::collections::BTreeMap;
use tally::TallyRecount;

/// A recount under way.
pub struct Recount(Kind);

enum Kind {
    Tally(Box<TallyRecount>),
    Polls(Box<PollsRecount>),
}

#[derive(Default)]
struct Counts {
    read: u64,
    rejected: u64,
    irrelevant: u64,
    matched: u64,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It did not decode or lacked what the job needs; the reason in a few words.
    Rejected(String),
    /// It decoded and concerns no line.
    Irrelevant,
    /// It made a claim.
    Matched,
}

/// The claims of a subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubjectCounts {
    /// Claims made.
    pub claims: u64,
    /// Claims that stand, withdrawals too.
    pub counted: u64,
    /// Claims that an operator has voided.
    pub voided: u64,
}

/// What a recount came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecountResult {
    /// By subject and group, the aggregates in the order of the job file. A line is here while a
    /// contribution of it stands.
    pub lines: BTreeMap<(String, String), Vec<Option<Decimal>>>,
    /// By subject, the sum of the first aggregate over its lines, where that is a count or a sum.
    pub totals: BTreeMap<String, Decimal>,
    /// By subject, its claims; also of subjects that have no line.
    pub subjects: BTreeMap<String, SubjectCounts>,
    pub read: u64,
    pub rejected: u64,
    pub irrelevant: u64,
    pub matched: u64,
    pub claims: u64,
    pub counted: u64,
    pub voided: u64,
    /// Superseded, duplicate and late together: `claims - counted - voided`.
    pub rest: u64,
}

/// How many passes over the records a recount takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passes {
    /// The one under way, from 1.
    pub pass: u64,
    /// As far as is known now: there are more where what a pass is to hold does not fit.
    pub passes: u64,
}

/// Why a recount has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecountError {
    /// What has to be held at once does not fit, however few entities a pass looks at.
    #[error("one entity alone, or few of them, need more than the {bytes_max} bytes that a recount may hold")]
    Memory { bytes_max: usize },
    /// A line's sum does not fit.
    #[error("the sum of group {group:?} of subject {subject:?} is beyond the fixed point (about 1.7e20)")]
    Sum { subject: String, group: String },
    /// A subject's total does not fit.
    #[error("the total of subject {subject:?} is beyond the fixed point (about 1.7e20)")]
    Total { subject: String },
}

impl Recount {
    /// A recount of nothing yet. `formats` must hold the job's formats. A `polls` job has no polls.
    pub fn new(job: &JobSpec, formats: &dyn Formats) -> Recount {
        Recount::with_polls(job, formats, &[])
    }

    /// As [`Recount::new`], with the polls of a `polls` job that are in force, no two of one id.
    pub fn with_polls(job: &JobSpec, formats: &dyn Formats, polls: &[PollInForce]) -> Recount {
        Recount(match &job.dataflow {
            Dataflow::Tally(tally) => Kind::Tally(Box::new(TallyRecount::new(job, tally, formats))),
            Dataflow::Polls(spec) => Kind::Polls(Box::new(PollsRecount::new(job, spec, formats, polls))),
        })
    }

    /// Holds about so many bytes at most of what entities have said; without it, all that there is.
    pub fn within(mut self, bytes_max: usize) -> Recount {
        match &mut self.0 {
            Kind::Tally(tally) => tally.within(bytes_max),
            Kind::Polls(polls) => polls.within(bytes_max),
        }
        self
    }

    /// Begins with passes over one part of so many of the entities: for those who know that not all fit.
    pub fn in_parts(mut self, parts: u32) -> Recount {
        match &mut self.0 {
            Kind::Tally(tally) => tally.in_parts(parts),
            Kind::Polls(polls) => polls.in_parts(parts),
        }
        self
    }

    /// Has `keep` take what this comes to, in pieces, by the time when it is finished; whether it can: of polls
    /// it can't. They are no more than what a pass holds, and a later recount that begins with them goes on
    /// from here.
    pub fn keep(&mut self, keep: impl FnMut(&[u8]) + 'static) -> bool {
        match &mut self.0 {
            Kind::Tally(tally) => {
                tally.keep(Box::new(keep));
                true
            }
            Kind::Polls(_) => false,
        }
    }

    /// Adds a piece of what an earlier recount of the job has come to. In each pass each is added once. Whether
    /// it is one.
    pub fn piece(&mut self, piece: &[u8]) -> bool {
        match &mut self.0 {
            Kind::Tally(tally) => tally.piece(piece),
            Kind::Polls(_) => false,
        }
    }

    /// Adds a record of the input with that place in the job file. In each pass each record is added once;
    /// their order is of no account. A record outside the input's bounds is not to be added. The first
    /// pass says what became of it.
    pub fn record(&mut self, input: usize, record: &RecordRef<'_>) -> Option<Verdict> {
        match &mut self.0 {
            Kind::Tally(tally) => tally.record(input, record),
            Kind::Polls(polls) => polls.record(input, record),
        }
    }

    /// As [`Recount::record`], of a record that was rejected when it was read: it counts as that, whatever is
    /// made of it now. Whether it would be taken now.
    pub fn rejected(&mut self, input: usize, record: &RecordRef<'_>) -> bool {
        match &mut self.0 {
            Kind::Tally(tally) => tally.rejected(input, record),
            Kind::Polls(polls) => polls.rejected(input, record),
        }
    }

    /// All records were added: whether they are all to be added once more.
    pub fn again(&mut self) -> Result<bool, RecountError> {
        match &mut self.0 {
            Kind::Tally(tally) => tally.again(),
            Kind::Polls(polls) => polls.again(),
        }
    }

    /// How many passes there are.
    pub fn passes(&self) -> Passes {
        match &self.0 {
            Kind::Tally(tally) => tally.passes(),
            Kind::Polls(polls) => polls.passes(),
        }
    }

    /// The tallies, once [`Recount::again`] has said no.
    pub fn finish(self) -> Result<RecountResult, RecountError> {
        match self.0 {
            Kind::Tally(tally) => tally.finish(),
            Kind::Polls(polls) => Ok(polls.finish()),
        }
    }

    /// The whole of it: `read` adds all records, and is called as often as that takes.
    pub fn over<E: From<RecountError>>(
        mut self,
        mut read: impl FnMut(&mut Recount) -> Result<(), E>,
    ) -> Result<RecountResult, E> {
        loop {
            read(&mut self)?;
            if !self.again()? {
                return Ok(self.finish()?);
            }
        }
    }
}

/// What an entry of a map takes beside its content: its place in a table that is at its emptiest.
const ENTRY_BYTES: usize = 96;

/// What a text takes on the heap.
fn text_bytes(text: &str) -> usize {
    text.len() + 16
}
