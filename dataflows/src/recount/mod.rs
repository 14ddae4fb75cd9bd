//! The recount: a job's tallies by a plain fold over its records, to hold the engine's against.
//!
//! ```text
//! record -> decoder -> judge (rejected, irrelevant, or a claim) -> keep rule -> lines
//! ```
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
//! let mut recount = Recount::new(&job, &formats);
//! for (offset, word) in ["tea", "coffee", "tea"].into_iter().enumerate() {
//!     let (partition, offset) = (PartitionId(0), Offset(offset as u64));
//!     recount.record(0, &RecordRef { partition, offset, timestamp_ms: 0, key: None, value: Some(word.as_bytes()) });
//! }
//! let result = recount.finish().unwrap();
//! assert_eq!(result.lines[&("drinks".into(), "tea".into())], [Some(Decimal::from_int(2))]);
//! ```

mod judge;
mod lines;
#[cfg(test)]
mod tests;

use crate::decode::{Event, Formats};
use crate::number::Decimal;
use crate::record::RecordRef;
use crate::spec::{Dataflow, JobSpec, Keep};
use judge::{Claim, Judge, Judgement, Key, Order};
use lines::Lines;
use std::collections::{BTreeMap, HashMap};

/// A recount under way.
pub struct Recount {
    judge: Judge,
    keep: Keep,
    lines: Lines,
    /// By entity, the claims that stand so far, each by what tells it from a duplicate. Under `last`
    /// and `first` there is one.
    standing: HashMap<Vec<String>, HashMap<Key, Claim>>,
    /// By message, the newest version that concerns no line, or its deletion: older ones do not stand.
    replaced: HashMap<Vec<String>, Order>,
    subjects: BTreeMap<String, SubjectCounts>,
    result: Counts,
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
    /// Superseded, duplicate, late and voided together: `claims - counted`.
    pub rest: u64,
}

/// Why a recount has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecountError {
    /// A line's sum does not fit.
    #[error("the sum of group {group:?} of subject {subject:?} is beyond the fixed point (about 1.7e20)")]
    Sum { subject: String, group: String },
    /// A subject's total does not fit.
    #[error("the total of subject {subject:?} is beyond the fixed point (about 1.7e20)")]
    Total { subject: String },
}

impl Recount {
    /// A recount of nothing yet. `formats` must hold the job's formats.
    pub fn new(job: &JobSpec, formats: &dyn Formats) -> Recount {
        let Dataflow::Tally(tally) = &job.dataflow else { todo!("polls") };
        Recount {
            judge: Judge::new(job, formats),
            keep: job.keeping(formats).keep,
            lines: Lines::new(tally.aggregates.clone()),
            standing: HashMap::new(),
            replaced: HashMap::new(),
            subjects: BTreeMap::new(),
            result: Counts::default(),
        }
    }

    /// Adds a record of the input with that place in the job file. Each record is added once; their
    /// order is of no account. A record outside the input's bounds is not to be added.
    pub fn record(&mut self, input: usize, record: &RecordRef<'_>) -> Verdict {
        self.result.read += 1;
        let mut event = Event::default();
        match self.judge.judge(input, record, &mut event) {
            Judgement::Rejected(reason) => {
                self.result.rejected += 1;
                Verdict::Rejected(reason)
            }
            Judgement::Irrelevant => {
                self.result.irrelevant += 1;
                Verdict::Irrelevant
            }
            Judgement::Replaces { entity, order } => {
                self.result.irrelevant += 1;
                let newest = self.replaced.entry(entity).or_insert(order);
                *newest = order.max(*newest);
                Verdict::Irrelevant
            }
            Judgement::Claim(claim) => {
                self.result.matched += 1;
                self.subjects.entry(claim.subject.clone()).or_default().claims += 1;
                self.claim(claim);
                Verdict::Matched
            }
        }
    }

    fn claim(&mut self, claim: Claim) {
        if self.keep == Keep::All {
            // Nothing takes it back: it need not be remembered.
            self.subjects.entry(claim.subject.clone()).or_default().counted += 1;
            return self.lines.add(&claim);
        }
        let standing = self.standing.entry(claim.entity.clone()).or_default();
        // Under `last` and `first` all claims of an entity contend for one place; under `first-n` only
        // those that are one another's duplicates do.
        let key = if matches!(self.keep, Keep::FirstN(_)) { claim.key() } else { Key::Entity };
        let stays = standing.get(&key).is_some_and(|before| match self.keep {
            Keep::Last => before.order > claim.order,
            _ => before.order < claim.order,
        });
        if !stays {
            standing.insert(key, claim);
        }
        if let Keep::FirstN(n) = self.keep
            && standing.len() > n as usize
            && let Some(greatest) = standing.iter().max_by_key(|(_, claim)| claim.order).map(|(key, _)| key.clone())
        {
            standing.remove(&greatest);
        }
    }

    /// The tallies of all records added.
    pub fn finish(mut self) -> Result<RecountResult, RecountError> {
        for claim in self.standing.values().flat_map(HashMap::values) {
            if self.replaced.get(&claim.entity).is_some_and(|newest| *newest > claim.order) {
                continue;
            }
            self.subjects.entry(claim.subject.clone()).or_default().counted += 1;
            self.lines.add(claim);
        }
        let (lines, totals) = self.lines.finish()?;
        let counted = self.subjects.values().map(|s| s.counted).sum();
        Ok(RecountResult {
            lines,
            totals,
            subjects: self.subjects,
            read: self.result.read,
            rejected: self.result.rejected,
            irrelevant: self.result.irrelevant,
            matched: self.result.matched,
            // In a `tally` job a matched record makes one claim.
            claims: self.result.matched,
            counted,
            rest: self.result.matched - counted,
        })
    }
}
