//! Why a number is what it is: its newest contributions, and what became of a record.
//!
//! ```text
//! pass 1: the newest claims that speak to the line (or the one record that is asked for)
//! then:   all that their entities have said -> which of it stands, and what gave way to what
//! ```
//!
//! As plain as the recount, over the same records and with the same judge; nothing is taken from the engine.

mod fate;
mod tally;
#[cfg(test)]
mod tests;

pub(super) use fate::{Found, Told, fates};

use super::judge::Order;
use super::polls::why::PollsWhy;
use super::{Passes, RecountError, Verdict};
use crate::decode::Formats;
use crate::ids::{Offset, PartitionId};
use crate::number::Decimal;
use crate::record::RecordRef;
use crate::spec::polls::PollInForce;
use crate::spec::{Dataflow, JobSpec};
use tally::TallyWhy;

/// What is asked.
#[derive(Clone, Debug)]
pub enum Question {
    /// The newest claims, at most so many, that speak to a line.
    Line { subject: String, group: String, limit: usize },
    /// What became of one record.
    At(At),
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The input's place in the job file.
    pub input: usize,
    pub partition: PartitionId,
    pub offset: Offset,
}

/// A question that is being answered.
pub struct Why {
    kind: Kind,
    pass: u64,
    bytes_max: usize,
}

enum Kind {
    Tally(Box<TallyWhy>),
    Polls(Box<PollsWhy>),
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Of the record that was asked for; `None` where it was not found.
    pub record: Option<RecordFate>,
    /// Its claims, or the newest ones of the line, newest first.
    pub claims: Vec<ClaimFate>,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordFate {
    pub verdict: Verdict,
    /// Why it is irrelevant, in a few words.
    pub reason: Option<&'static str>,
    /// Where it makes no claim and yet takes the place of one, as a deletion does: of the last one.
    pub replaced: Option<Other>,
}

/// A claim and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimFate {
    pub at: At,
    /// By which claims are ordered, in nanoseconds since 1970.
    pub time_ns: i128,
    pub subject: String,
    /// Group and value of each line that it speaks to; none: a withdrawal.
    pub lines: Vec<(String, Decimal)>,
    /// Who or what holds it; `None` where every event counts.
    pub entity: Option<String>,
    pub fate: Fate,
    /// What keeps it from counting.
    pub by: Option<Other>,
    /// What gave way to it.
    pub replaced: Option<Other>,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It stands.
    Counted,
    /// It gave way.
    Superseded,
    /// It says what another says, which is in its place.
    Duplicate,
    /// An operator has voided its record, by the void of this id.
    Voided(u64),
}

/// Another record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    pub at: At,
    pub says: Says,
}

/// What a record says to the one that it is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// A contribution.
    Contribution,
    /// That the entity has none any more.
    Withdrawal,
    /// Nothing that counts: the message was deleted, or edited so that it concerns no line.
    Nothing,
}

impl At {
    pub(super) fn of(order: Order) -> At {
        At { input: order.1, partition: PartitionId(order.2), offset: Offset(order.3) }
    }
}

impl Why {
    /// A question about a job, with its polls that are in force; `formats` must hold the job's formats.
    pub fn new(job: &JobSpec, formats: &dyn Formats, polls: &[PollInForce], question: Question) -> Why {
        let kind = match &job.dataflow {
            Dataflow::Tally(tally) => Kind::Tally(Box::new(TallyWhy::new(job, tally, formats, question))),
            Dataflow::Polls(spec) => Kind::Polls(Box::new(PollsWhy::new(job, spec, formats, polls, question))),
        };
        Why { kind, pass: 1, bytes_max: usize::MAX }
    }

    /// Holds about so many bytes at most.
    pub fn within(self, bytes_max: usize) -> Why {
        Why { bytes_max, ..self }
    }

    /// Adds a record; in each pass each is added once, in whatever order. In the first pass the one that is
    /// asked for is enough.
    pub fn record(&mut self, input: usize, record: &RecordRef<'_>) {
        if self.bytes() > self.bytes_max {
            return;
        }
        match &mut self.kind {
            Kind::Tally(tally) => tally.record(input, record),
            Kind::Polls(polls) => polls.record(input, record),
        }
    }

    fn bytes(&self) -> usize {
        match &self.kind {
            Kind::Tally(tally) => tally.bytes,
            Kind::Polls(polls) => polls.bytes,
        }
    }

    /// All records were added: whether they are all to be added once more.
    pub fn again(&mut self) -> Result<bool, RecountError> {
        if self.bytes() > self.bytes_max {
            return Err(RecountError::Memory { bytes_max: self.bytes_max });
        }
        let again = match &mut self.kind {
            Kind::Tally(tally) => tally.again(),
            Kind::Polls(polls) => polls.again(),
        };
        self.pass += u64::from(again);
        Ok(again)
    }

    /// How many passes there are.
    pub fn passes(&self) -> Passes {
        let most = match &self.kind {
            Kind::Tally(tally) => tally.passes(),
            Kind::Polls(polls) => polls.passes(),
        };
        Passes { pass: self.pass, passes: most.max(self.pass) }
    }

    /// The answer, once [`Why::again`] has said no.
    pub fn finish(self) -> Answer {
        match self.kind {
            Kind::Tally(tally) => tally.finish(),
            Kind::Polls(polls) => polls.finish(),
        }
    }
}
