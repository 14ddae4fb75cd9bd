//! The lines of a subject in the order in which they are shown.

use crate::number::Decimal;
use crate::results::Group;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A line's place: by value, greatest first, then by group.
pub type Place = (Reverse<Decimal>, Arc<Group>, u32);

/// A sorted index, kept with every change, so that the first few of many lines cost no sorting. One
/// index serves `top`, `limit=` and the membership of every reader's view.
#[derive(Clone, Debug, Default)]
pub struct Ranking(BTreeSet<Place>);

impl Ranking {
    pub fn insert(&mut self, value: Decimal, group: &Arc<Group>, line: u32) {
        self.0.insert((Reverse(value), group.clone(), line));
    }

    pub fn remove(&mut self, value: Decimal, group: &Arc<Group>, line: u32) {
        self.0.remove(&(Reverse(value), group.clone(), line));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All lines, first to last.
    pub fn iter(&self) -> impl Iterator<Item = &Place> {
        self.0.iter()
    }
}
