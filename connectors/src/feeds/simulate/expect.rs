//! What must come out of a simulated feed.

use super::Claims;
use serde::Serialize;
use std::collections::BTreeMap;
use tallyflow_dataflows::number::Decimal;

/// What the job named at the [`Workload`](super::Workload) must show once it has read every record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expect {
    pub workload: &'static str,
    pub seed: u64,
    /// Records sent.
    pub records: u64,
    pub accounting: Accounting,
    /// Every line with its value, by subject, then by group.
    pub lines: Vec<Line>,
    /// What polls over all records must show, by id; of posts only. See [`Workload::Posts`](super::Workload).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub polls: BTreeMap<&'static str, PollExpect>,
}

/// What a poll must show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PollExpect {
    /// The sum of its lines.
    pub total: Decimal,
    pub claims: u64,
    pub counted: u64,
    /// A line for each option, by its name.
    pub lines: Vec<Line>,
}

/// What must have become of the records, as far as it does not depend on how they were read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Accounting {
    pub read: u64,
    /// Deletions: each takes back what its message says, and makes no claim.
    pub irrelevant: u64,
    pub matched: u64,
    pub claims: u64,
    pub counted: u64,
    /// Which of the three is a matter of reading order; their sum is not.
    pub superseded_duplicate_late: u64,
}

/// A line of a tally.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Line {
    pub subject: String,
    pub group: String,
    /// Exact; in JSON a number with all its digits.
    pub value: Decimal,
}

impl Expect {
    /// Every record decodes; each entity that is not deleted has exactly one claim that counts.
    pub(super) fn new(workload: &'static str, seed: u64, records: u64, claims: &dyn Claims) -> Self {
        let mut lines = claims.lines();
        lines.sort_unstable();
        let (counted, irrelevant) = (claims.counted(), claims.irrelevant());
        let matched = records - irrelevant;
        let accounting = Accounting {
            read: records,
            irrelevant,
            matched,
            claims: matched,
            counted,
            superseded_duplicate_late: matched - counted,
        };
        Expect { workload, seed, records, accounting, lines, polls: claims.polls() }
    }
}
