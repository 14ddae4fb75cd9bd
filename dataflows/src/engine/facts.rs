//! What operators tell the collector: everything a closed epoch is made of.

use crate::accounting::Class;
use crate::claim::{LineId, Position};
use crate::ids::{Offset, PartitionId};
use crate::operators::extremes::Extreme;
use crate::operators::tally::Sums;
use serde::{Deserialize, Serialize};

/// One thing that is true of an epoch, from any worker, for the job's one collector.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Fact {
    /// What a line is called. Told by each worker when it first meets the line, before any use of it.
    LineName { id: LineId, subject: String, group: Vec<String> },
    /// What a subject is called.
    SubjectName { id: u64, name: String },
    /// A partition was read on.
    Read { input: u32, partition: PartitionId, next: Offset, end: Offset, records: RecordChanges },
    /// What became of claims.
    Claims { subject: u64, changes: ClaimChanges },
    /// A line's sums were (-1) or are now (+1) these from `epoch` on. Differential sends changes of
    /// several epochs with the capability of the first: only their own times tell them apart.
    Line { id: LineId, sums: Sums, diff: i64, epoch: u64 },
    /// A subject's sums were (-1) or are now (+1) these from `epoch` on.
    Total { subject: u64, sums: Sums, diff: i64, epoch: u64 },
    /// What a line's single contributions come to.
    Extreme { id: LineId, extreme: Extreme },
    /// One of the newest records of its class.
    Newest(Newest),
    /// A record for the dead letters.
    Rejected(Rejected),
    /// A worker has stopped reading, as asked by the halt of this number.
    Halted { halt: u64 },
    /// The polls there are have changed.
    PollsChanged,
    /// So many records, irrelevant by the polls in force, are matched once the refill of this number is
    /// shown; or, below zero, the other way round.
    Pending { refill: u64, matched: i64 },
    /// How many records a worker has read in all for the refill, of how many.
    Refilling { refill: u64, worker: usize, records: u64, of: u64 },
    /// A worker has read all that the refill needs of its partitions.
    Refilled { refill: u64 },
    /// A worker can't read what the refill needs, for this reason.
    RefillFailed { refill: u64, error: String },
}

/// What became of records: to be added; a record may become another class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordChanges {
    pub read: i64,
    pub rejected: i64,
    pub irrelevant: i64,
    pub matched: i64,
}

impl RecordChanges {
    /// Adds other changes.
    pub fn add(&mut self, other: &RecordChanges) {
        self.read += other.read;
        self.rejected += other.rejected;
        self.irrelevant += other.irrelevant;
        self.matched += other.matched;
    }
}

/// What became of a subject's claims: to be added; a counted claim may become another class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimChanges {
    pub claims: i64,
    pub counted: i64,
    pub superseded: i64,
    pub duplicate: i64,
    pub voided: i64,
}

impl ClaimChanges {
    /// Adds other changes.
    pub fn add(&mut self, other: &ClaimChanges) {
        self.claims += other.claims;
        self.counted += other.counted;
        self.superseded += other.superseded;
        self.duplicate += other.duplicate;
        self.voided += other.voided;
    }

    /// Adds `n` claims to a class that a claim can fall to.
    pub fn count(&mut self, class: Class, n: i64) {
        match class {
            Class::Counted => self.counted += n,
            Class::Superseded => self.superseded += n,
            Class::Duplicate => self.duplicate += n,
            Class::Voided => self.voided += n,
            Class::Rejected | Class::Irrelevant => unreachable!("records, not claims, are of class {class:?}"),
        }
    }
}

/// A record that a person may want to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newest {
    pub class: Class,
    pub position: Position,
    /// The record that took its place or keeps it out.
    pub other: Option<Position>,
    /// Why, where the class alone does not say it.
    pub reason: Option<String>,
}

/// A rejected record, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    pub position: Position,
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub reason: String,
}

/// The newest few records of each claim class on one worker: a ring a class, overwritten in place.
#[derive(Default)]
pub struct NewestRing {
    rings: [Vec<(Position, Option<Position>)>; 4],
    next: [usize; 4],
}

/// How many of the newest records of each class are kept to be looked at.
pub const NEWEST_KEPT: usize = 32;

impl NewestRing {
    const CLASSES: [Class; 4] = [Class::Counted, Class::Superseded, Class::Duplicate, Class::Voided];

    /// Notes a record.
    pub fn push(&mut self, class: Class, position: Position, other: Option<Position>) {
        let at = match class {
            Class::Counted => 0,
            Class::Superseded => 1,
            Class::Duplicate => 2,
            _ => 3,
        };
        let (ring, next) = (&mut self.rings[at], &mut self.next[at]);
        if ring.len() < NEWEST_KEPT {
            ring.push((position, other));
        } else {
            ring[*next % NEWEST_KEPT] = (position, other);
        }
        *next += 1;
    }

    /// Takes what was noted since the last call, oldest first.
    pub fn drain(&mut self) -> impl Iterator<Item = Newest> + '_ {
        self.rings.iter_mut().zip(&mut self.next).zip(Self::CLASSES).flat_map(|((ring, next), class)| {
            let oldest = if ring.len() < NEWEST_KEPT { 0 } else { *next % NEWEST_KEPT };
            ring.rotate_left(oldest);
            *next = 0;
            ring.drain(..).map(move |(position, other)| Newest { class, position, other, reason: None })
        })
    }
}
