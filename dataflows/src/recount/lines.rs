//! The lines of a tally, from the claims that stand.

use super::base::Piece;
use super::judge::{Claim, Order};
use super::share::Share;
use super::{ENTRY_BYTES, RecountError, text_bytes};
use crate::number::Decimal;
use crate::spec::Aggregate;
use ethnum::I256;
use serde::{Deserialize, Serialize};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

/// The lines so far.
pub(super) struct Lines {
    aggregates: Vec<Aggregate>,
    lines: BTreeMap<(String, String), Line>,
    /// The values that `distinct` looks at in this round: there may be more than can be held at once.
    marks: Share,
    /// Whether this is the first round, in which all else is summed.
    is_first: bool,
    /// Of the values held.
    bytes: usize,
    bytes_max: usize,
}

/// All that any aggregate needs of a line's contributions.
struct Line {
    sums: Sums,
    /// By `distinct` of the job file, the values of this round and how many the rounds before had.
    distinct: Vec<(BTreeSet<String>, usize)>,
}

/// What a line's contributions come to, but for the values that are told apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Sums {
    count: i64,
    /// In units of 10^-18: i64 many 128-bit values can't overflow 256 bits.
    sum: I256,
    /// In units, like the value of `last`.
    min: i128,
    max: i128,
    /// The value with the greatest order key, then the greatest entry.
    last: ((Order, usize), i128),
}

impl Sums {
    fn add(&mut self, other: &Sums) {
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.last = self.last.max(other.last);
    }
}

/// Lines and totals, as the result has them.
type Finished = (BTreeMap<(String, String), Vec<Option<Decimal>>>, BTreeMap<String, Decimal>);

impl Lines {
    pub fn new(aggregates: Vec<Aggregate>) -> Lines {
        let lines = BTreeMap::new();
        Lines { aggregates, lines, marks: Share::WHOLE, is_first: true, bytes: 0, bytes_max: usize::MAX }
    }

    /// Holds about so many bytes of distinct values at most.
    pub fn within(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Begins with one part of so many of the distinct values.
    pub fn in_parts(&mut self, parts: u32) {
        if self.has_distinct() {
            self.marks = Share::one_of(parts);
        }
    }

    pub fn has_distinct(&self) -> bool {
        self.aggregates.iter().any(|aggregate| matches!(aggregate, Aggregate::Distinct(_)))
    }

    /// Whether claims are to be counted, and not only their distinct values looked at.
    pub fn is_first(&self) -> bool {
        self.is_first
    }

    /// Adds a claim that stands. Each is added once in every round.
    pub fn add(&mut self, claim: &Claim) -> Result<(), RecountError> {
        for contribution in &claim.contributions {
            let units = contribution.value.units();
            let last = ((claim.order, contribution.entry), units);
            let sums = Sums { count: 1, sum: I256::from(units), min: units, max: units, last };
            self.sum(&claim.subject, &contribution.group, &sums);
            for (place, value) in claim.distinct.iter().enumerate() {
                self.mark(&claim.subject, &contribution.group, place, value);
            }
        }
        self.bound()
    }

    /// Adds what contributions of a line come to.
    pub fn sum(&mut self, subject: &str, group: &str, sums: &Sums) {
        let is_first = self.is_first;
        let distinct = self.aggregates.iter().filter(|a| matches!(a, Aggregate::Distinct(_))).count();
        match self.lines.entry((subject.to_owned(), group.to_owned())) {
            Entry::Vacant(entry) => {
                entry.insert(Line { sums: sums.clone(), distinct: vec![Default::default(); distinct] });
            }
            Entry::Occupied(mut entry) if is_first => entry.get_mut().sums.add(sums),
            Entry::Occupied(_) => {}
        }
    }

    /// Adds a value that is told apart, of a line that is there; [`Lines::bound`] is to be called after some.
    pub fn mark(&mut self, subject: &str, group: &str, place: usize, value: &str) {
        if !self.marks.holds(value) {
            return;
        }
        let line = self.lines.get_mut(&(subject.to_owned(), group.to_owned()));
        if let Some((set, _)) = line.and_then(|line| line.distinct.get_mut(place))
            && set.insert(value.to_owned())
        {
            self.bytes += mark_bytes(value);
        }
    }

    /// Leaves out values until what is held is within its bound.
    pub fn bound(&mut self) -> Result<(), RecountError> {
        while self.bytes > self.bytes_max {
            self.marks = self.marks.halved().ok_or(RecountError::Memory { bytes_max: self.bytes_max })?;
            let (marks, mut bytes) = (self.marks, 0);
            for (set, _) in self.lines.values_mut().flat_map(|line| &mut line.distinct) {
                set.retain(|value| marks.holds(value.as_str()));
                bytes += set.iter().map(|value| mark_bytes(value)).sum::<usize>();
            }
            self.bytes = bytes;
        }
        Ok(())
    }

    /// All claims that stand were added: whether they are all to be added once more, for the distinct
    /// values that this round has not looked at.
    pub fn again(&mut self) -> bool {
        if !self.has_distinct() {
            return false;
        }
        for (set, before) in self.lines.values_mut().flat_map(|line| &mut line.distinct) {
            *before += std::mem::take(set).len();
        }
        let room = self.bytes < self.bytes_max / 3;
        (self.bytes, self.is_first) = (0, false);
        self.marks.next(room).is_some_and(|next| {
            self.marks = next;
            true
        })
    }

    /// How many rounds there are from this one on.
    pub fn rounds_left(&self) -> u64 {
        self.marks.left()
    }

    /// What the lines come to so far, for a base: all in the first round, in each the values of that.
    pub fn pieces(&self, mut each: impl FnMut(Piece)) {
        for ((subject, group), line) in &self.lines {
            let name = || (subject.clone(), group.clone());
            if self.is_first {
                let (subject, group) = name();
                each(Piece::Line { subject, group, sums: line.sums.clone() });
            }
            for (place, (set, _)) in line.distinct.iter().enumerate().filter(|(_, (set, _))| !set.is_empty()) {
                let (subject, group) = name();
                each(Piece::Marks { subject, group, place, values: set.iter().cloned().collect() });
            }
        }
    }

    /// The aggregates of each line, and the totals of the subjects.
    pub fn finish(self) -> Result<Finished, RecountError> {
        let mut lines = BTreeMap::new();
        let mut totals: BTreeMap<String, I256> = BTreeMap::new();
        for ((subject, group), line) in self.lines {
            let Some(values) = line.finish(&self.aggregates) else {
                return Err(RecountError::Sum { subject, group });
            };
            if self.aggregates.first().is_some_and(Aggregate::has_total)
                && let Some(Some(first)) = values.first()
            {
                *totals.entry(subject.clone()).or_insert(I256::ZERO) += I256::from(first.units());
            }
            lines.insert((subject, group), values);
        }
        let totals = totals.into_iter().map(|(subject, units)| match i128::try_from(units) {
            Ok(units) => Ok((subject, Decimal::from_units(units))),
            Err(_) => Err(RecountError::Total { subject }),
        });
        Ok((lines, totals.collect::<Result<_, _>>()?))
    }
}

impl Line {
    /// `None`: a sum that is asked for does not fit.
    fn finish(&self, aggregates: &[Aggregate]) -> Option<Vec<Option<Decimal>>> {
        let (sums, mut distinct) = (&self.sums, self.distinct.iter());
        let value = |aggregate: &Aggregate| {
            Some(Some(match aggregate {
                Aggregate::Count => Decimal::from_int(sums.count),
                Aggregate::Sum => Decimal::from_units(i128::try_from(sums.sum).ok()?),
                Aggregate::Min => Decimal::from_units(sums.min),
                Aggregate::Max => Decimal::from_units(sums.max),
                Aggregate::Avg => average(sums.sum, sums.count),
                Aggregate::Last => Decimal::from_units(sums.last.1),
                Aggregate::Distinct(_) => {
                    Decimal::from_int(distinct.next().map(|(set, before)| set.len() + before)? as i64)
                }
            }))
        };
        aggregates.iter().map(value).collect()
    }
}

/// What a distinct value takes.
fn mark_bytes(value: &str) -> usize {
    text_bytes(value) + ENTRY_BYTES / 2
}

/// Rounded half-even at 18 places. An average lies between two of its values and so fits.
fn average(sum: I256, count: i64) -> Decimal {
    let count = I256::from(count);
    let down = sum.div_euclid(count);
    let twice = sum.rem_euclid(count) * I256::from(2);
    let odd = down.rem_euclid(I256::from(2)) == I256::ONE;
    let up = twice > count || twice == count && odd;
    Decimal::from_units((if up { down + I256::ONE } else { down }).as_i128())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_is_rounded_to_the_even_neighbour() {
        let of = |sum: i128, count| average(I256::from(sum), count).units();
        assert_eq!([of(1, 2), of(3, 2), of(5, 2), of(-1, 2), of(-3, 2)], [0, 2, 2, 0, -2]);
        assert_eq!([of(1, 3), of(2, 3), of(-1, 3), of(-2, 3), of(7, 1)], [0, 1, 0, -1, 7]);
        assert_eq!(of(i128::MAX, 1), i128::MAX);
        assert_eq!(average(I256::from(i128::MIN) * I256::from(5), 5).units(), i128::MIN);
    }
}
