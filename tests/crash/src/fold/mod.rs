//! What jobs must come to: plain folds over the records as they lie in the log, with nothing of the engine,
//! the decoders or the recount in them. They know the jobs of this test and their records only.

pub mod lines;
mod polls;
mod tally;
mod voids;

use lines::Lines;
pub use polls::{Poll, poll_lines, polls_accounting};
use serde_json::Value;
pub use tally::{Form, tally};
pub use voids::{Void, What, left};

/// What becomes of records. Superseded and duplicate are one here: how they share is not fixed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accounting {
    pub read: u64,
    pub rejected: u64,
    pub irrelevant: u64,
    pub matched: u64,
    pub claims: u64,
    pub counted: u64,
    pub voided: u64,
}

/// What a job comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Folded {
    pub lines: Lines,
    pub accounting: Accounting,
}

/// A record, parsed once; `None`: it is no JSON.
pub type Event = Option<Value>;

/// The records of a partition by their offsets, which may have gaps.
pub type Partition = Vec<(u64, Event)>;

/// The records of a topic before some offsets, with their partition and offset.
pub fn before<'a>(partitions: &'a [Partition], offsets: &'a [u64]) -> impl Iterator<Item = (u32, u64, &'a Event)> + 'a {
    partitions.iter().zip(offsets).enumerate().flat_map(|(partition, (events, end))| {
        let events = events.iter().take_while(|(offset, _)| offset < end);
        events.map(move |(offset, event)| (partition as u32, *offset, event))
    })
}

/// Where an event stands among others: its time, the input's place in the job file, partition, offset.
pub type OrderKey = (u64, usize, u32, u64);
