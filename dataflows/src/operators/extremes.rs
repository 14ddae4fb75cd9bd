//! Aggregates that need the single contributions: min, max, last, distinct.
//!
//! Per line and aggregate a sorted multiset of what stands, so that taking back the greatest value
//! finds the one before it. Differential's `reduce` would walk all values of a line for every change
//! of one of them; here a change costs a step down a tree.

use crate::checkpoint::marks::Marks;
use crate::claim::{EntityHash, LineId, OrderKey};
use crate::number::Decimal;
use crate::spec::Aggregate;
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::collections::BTreeMap;

mod kept;

/// A single contribution to a line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Detail {
    order: OrderKey,
    /// The entry's place among those of its event, so that no two contributions are equal.
    place: u32,
    /// In units of [`Decimal`].
    value: i128,
    distinct: SmallVec<[EntityHash; 1]>,
}

impl Detail {
    pub fn new(order: OrderKey, place: usize, value: i128, distinct: SmallVec<[EntityHash; 1]>) -> Self {
        Detail { order, place: place as u32, value, distinct }
    }
}

/// The standing contributions of the lines of one worker, as far as the job's aggregates need them.
pub struct Extremes {
    values: bool,
    last: bool,
    /// Whether nothing is ever taken back: then only the outermost values are kept.
    monotone: bool,
    distinct: usize,
    /// By [`Extremes::group`].
    groups: Vec<Group>,
}

#[derive(Default)]
struct Group {
    lines: HashMap<LineId, Line>,
    /// The lines that a checkpoint is to write, and the same to look them up.
    marks: Marks<LineId>,
    marked: HashSet<LineId>,
}

#[derive(Default, Serialize, Deserialize)]
struct Line {
    values: BTreeMap<i128, i64>,
    order: BTreeMap<(OrderKey, u32), i128>,
    distinct: Vec<HashMap<EntityHash, i64>>,
}

/// What a line's contributions come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Extreme {
    pub min: Decimal,
    pub max: Decimal,
    pub last: Decimal,
    /// By distinct aggregate, in the job's order.
    pub distinct: Vec<u64>,
}

impl Extremes {
    /// `None` if the job's aggregates need no single contributions.
    pub fn new(aggregates: &[Aggregate], monotone: bool) -> Option<Self> {
        let values = aggregates.iter().any(|a| matches!(a, Aggregate::Min | Aggregate::Max));
        let last = aggregates.contains(&Aggregate::Last);
        let distinct = aggregates.iter().filter(|a| matches!(a, Aggregate::Distinct(_))).count();
        (values || last || distinct > 0).then(|| Extremes {
            values,
            last,
            monotone,
            distinct,
            groups: (0..EntityHash::KEY_GROUPS).map(|_| Group::default()).collect(),
        })
    }

    /// The key group that a line lies in.
    pub fn group(line: LineId) -> usize {
        (line.group ^ line.subject) as usize % EntityHash::KEY_GROUPS
    }

    /// Whether what stands can be taken back. Then all of it is told anew where state is restored, and no
    /// checkpoint needs what this holds.
    pub fn is_told_anew(&self) -> bool {
        !self.monotone
    }

    /// Applies consolidated changes of one epoch and tells what the lines concerned come to; a line
    /// without contributions is left out.
    pub fn apply(&mut self, details: Vec<(LineId, Detail, i64)>) -> Vec<(LineId, Extreme)> {
        let mut touched: Vec<LineId> = details.iter().map(|(line, ..)| *line).collect();
        for (id, detail, diff) in details {
            let group = &mut self.groups[Self::group(id)];
            if group.marks.lists() && group.marked.insert(id) {
                group.marks.mark(id, group.lines.len());
            }
            let line = group.lines.entry(id).or_default();
            if self.values {
                change(&mut line.values, detail.value, diff);
            }
            if self.last {
                let key = (detail.order, detail.place);
                if diff > 0 {
                    line.order.insert(key, detail.value);
                } else {
                    line.order.remove(&key);
                }
            }
            line.distinct.resize_with(self.distinct, HashMap::new);
            for (held, value) in line.distinct.iter_mut().zip(detail.distinct) {
                let count = held.entry(value).or_insert(0);
                *count += diff;
                if *count == 0 {
                    held.remove(&value);
                }
            }
        }
        touched.sort_unstable();
        touched.dedup();
        touched.into_iter().filter_map(|id| self.extreme(id).map(|extreme| (id, extreme))).collect()
    }

    fn extreme(&mut self, id: LineId) -> Option<Extreme> {
        let lines = &mut self.groups[Self::group(id)].lines;
        let line = lines.get_mut(&id)?;
        if line.values.is_empty() && line.order.is_empty() && line.distinct.iter().all(HashMap::is_empty) {
            lines.remove(&id);
            return None;
        }
        if self.monotone {
            let outer = (line.values.first_key_value().map(|(v, _)| *v), line.values.last_key_value().map(|(v, _)| *v));
            line.values.retain(|v, _| Some(*v) == outer.0 || Some(*v) == outer.1);
            while line.order.len() > 1 {
                line.order.pop_first();
            }
        }
        let units = |v: Option<i128>| Decimal::from_units(v.unwrap_or_default());
        Some(Extreme {
            min: units(line.values.first_key_value().map(|(v, _)| *v)),
            max: units(line.values.last_key_value().map(|(v, _)| *v)),
            last: units(line.order.last_key_value().map(|(_, v)| *v)),
            distinct: line.distinct.iter().map(|held| held.len() as u64).collect(),
        })
    }
}

fn change(held: &mut BTreeMap<i128, i64>, value: i128, diff: i64) {
    let count = held.entry(value).or_insert(0);
    *count += diff;
    if *count == 0 {
        held.remove(&value);
    }
}
