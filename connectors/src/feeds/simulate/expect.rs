//! What must come out of a simulated feed.

use super::Claims;
use serde::Serialize;
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
}

/// What must have become of the records, as far as it does not depend on how they were read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Accounting {
    pub read: u64,
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
    /// Every record is one claim and decodes; each entity has exactly one that counts.
    pub(super) fn new(workload: &'static str, seed: u64, records: u64, claims: &dyn Claims) -> Self {
        let mut lines = claims.lines();
        lines.sort_unstable();
        let counted = claims.entities();
        let accounting = Accounting {
            read: records,
            matched: records,
            claims: records,
            counted,
            superseded_duplicate_late: records - counted,
        };
        Expect { workload, seed, records, accounting, lines }
    }
}
