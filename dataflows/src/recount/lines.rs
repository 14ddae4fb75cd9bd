//! The lines of a tally, from the claims that stand.

use super::judge::{Claim, Order};
use super::share::Share;
use super::{ENTRY_BYTES, RecountError, text_bytes};
use crate::number::Decimal;
use crate::spec::Aggregate;
use ethnum::I256;
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
    count: i64,
    /// In units of 10^-18: i64 many 128-bit values can't overflow 256 bits.
    sum: I256,
    min: Decimal,
    max: Decimal,
    /// The value with the greatest order key, then the greatest entry.
    last: ((Order, usize), Decimal),
    /// By `distinct` of the job file, the values of this round and how many the rounds before had.
    distinct: Vec<(BTreeSet<String>, usize)>,
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
            let value = contribution.value;
            let at = (claim.order, contribution.entry);
            let line = self.lines.entry((claim.subject.clone(), contribution.group.clone())).or_insert_with(|| Line {
                count: 0,
                sum: I256::ZERO,
                min: value,
                max: value,
                last: (at, value),
                distinct: vec![Default::default(); claim.distinct.len()],
            });
            if self.is_first {
                line.count += 1;
                line.sum += I256::from(value.units());
                line.min = line.min.min(value);
                line.max = line.max.max(value);
                line.last = line.last.max((at, value));
            }
            for ((set, _), value) in line.distinct.iter_mut().zip(&claim.distinct) {
                if self.marks.holds(value.as_str()) && set.insert(value.clone()) {
                    self.bytes += mark_bytes(value);
                }
            }
        }
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
        let mut distinct = self.distinct.iter();
        let value = |aggregate: &Aggregate| {
            Some(Some(match aggregate {
                Aggregate::Count => Decimal::from_int(self.count),
                Aggregate::Sum => Decimal::from_units(i128::try_from(self.sum).ok()?),
                Aggregate::Min => self.min,
                Aggregate::Max => self.max,
                Aggregate::Avg => average(self.sum, self.count),
                Aggregate::Last => self.last.1,
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
