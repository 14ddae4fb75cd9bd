//! Tallies and totals in differential dataflow: the key space has collapsed, so arrangements are
//! small, and corrections are retractions like any other difference.

use crate::claim::LineId;
use crate::ids::Epoch;
use crate::number::SCALE;
use differential_dataflow::difference::{Abelian, IsZero, Monoid, Semigroup};
use differential_dataflow::operators::CountTotal;
use differential_dataflow::{AsCollection, VecCollection};
use ethnum::I256;
use serde::{Deserialize, Serialize};
use timely::dataflow::StreamVec;

/// How many contributions a line has, and the sum of their values: a difference in differential's
/// sense. The sum has 256 bits, so that no order of adding can overflow on the way to a sum that
/// fits (each value has 127 bits, and there are fewer than 2^63).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sums {
    pub count: i64,
    /// In units of `number::Decimal`.
    pub sum: I256,
}

impl Default for Sums {
    fn default() -> Self {
        Sums { count: 0, sum: I256::ZERO }
    }
}

impl Sums {
    /// Adds (`sign` 1) or takes away (-1) a contribution.
    pub fn add(&mut self, sign: i64, value: i128) {
        self.count += sign;
        self.sum += I256::from(value) * I256::from(sign);
    }

    /// Adds `n` contributions of value 1.
    pub fn add_ones(&mut self, n: i64) {
        self.count += n;
        self.sum += I256::from(SCALE) * I256::from(n);
    }
}

impl IsZero for Sums {
    fn is_zero(&self) -> bool {
        self.count == 0 && self.sum == I256::ZERO
    }
}

impl Semigroup for Sums {
    fn plus_equals(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
    }
}

impl Monoid for Sums {
    fn zero() -> Self {
        Sums::default()
    }
}

impl Abelian for Sums {
    fn negate(&mut self) {
        self.count = -self.count;
        self.sum = -self.sum;
    }
}

/// The running sums by line and by subject.
pub struct Tallies<'scope> {
    /// `(line, its sums)`, the old ones with -1 and the new ones with +1.
    pub lines: VecCollection<'scope, u64, (LineId, Sums), isize>,
    /// `(subject, its sums)` likewise.
    pub totals: VecCollection<'scope, u64, (u64, Sums), isize>,
}

/// Sums differences by line and by subject.
pub fn tally<'scope>(differences: StreamVec<'scope, u64, (LineId, u64, Sums)>) -> Tallies<'scope> {
    let lines = differences.as_collection();
    Tallies { totals: lines.clone().map(|line: LineId| line.subject).count_total(), lines: lines.count_total() }
}

/// An epoch as the timestamp of the dataflow.
pub fn time(epoch: Epoch) -> u64 {
    epoch.0
}
