//! The lines of a tally, from the claims that stand.

use super::RecountError;
use super::judge::{Claim, Order};
use crate::number::Decimal;
use crate::spec::Aggregate;
use ethnum::I256;
use std::collections::{BTreeMap, BTreeSet};

/// The lines so far.
pub(super) struct Lines {
    aggregates: Vec<Aggregate>,
    lines: BTreeMap<(String, String), Line>,
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
    /// By `distinct` of the job file.
    distinct: Vec<BTreeSet<String>>,
}

/// Lines and totals, as the result has them.
type Finished = (BTreeMap<(String, String), Vec<Option<Decimal>>>, BTreeMap<String, Decimal>);

impl Lines {
    pub fn new(aggregates: Vec<Aggregate>) -> Lines {
        Lines { aggregates, lines: BTreeMap::new() }
    }

    /// Adds a claim that stands.
    pub fn add(&mut self, claim: &Claim) {
        for contribution in &claim.contributions {
            let value = contribution.value;
            let at = (claim.order, contribution.entry);
            let line = self.lines.entry((claim.subject.clone(), contribution.group.clone())).or_insert_with(|| Line {
                count: 0,
                sum: I256::ZERO,
                min: value,
                max: value,
                last: (at, value),
                distinct: vec![BTreeSet::new(); claim.distinct.len()],
            });
            line.count += 1;
            line.sum += I256::from(value.units());
            line.min = line.min.min(value);
            line.max = line.max.max(value);
            line.last = line.last.max((at, value));
            for (set, value) in line.distinct.iter_mut().zip(&claim.distinct) {
                set.insert(value.clone());
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
        let mut distinct = self.distinct.iter();
        let value = |aggregate: &Aggregate| {
            Some(Some(match aggregate {
                Aggregate::Count => Decimal::from_int(self.count),
                Aggregate::Sum => Decimal::from_units(i128::try_from(self.sum).ok()?),
                Aggregate::Min => self.min,
                Aggregate::Max => self.max,
                Aggregate::Avg => average(self.sum, self.count),
                Aggregate::Last => self.last.1,
                Aggregate::Distinct(_) => Decimal::from_int(distinct.next()?.len() as i64),
            }))
        };
        aggregates.iter().map(value).collect()
    }
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
