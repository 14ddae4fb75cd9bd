//! What changed since an epoch, for readers that have seen that.

use super::{JobResults, rfc3339};
use crate::ids::Epoch;
use crate::number::Decimal;
use crate::results::model::{Change, Delta, Filter, ReadError};
use crate::results::order::Place;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

impl JobResults {
    /// What changed after `since` in what the filter selects.
    pub fn delta(&self, since: Epoch, filter: &Filter) -> Result<Delta, ReadError> {
        if !self.knows(since) {
            return Err(ReadError::Gap { since });
        }
        let mut was: HashMap<u32, Option<Decimal>> = HashMap::new();
        let mut totals: HashSet<u32> = HashSet::new();
        // From the newest back, so that what stays is the value before the oldest of them.
        for recent in self.recent.iter().rev().take_while(|recent| recent.epoch > since) {
            was.extend(recent.lines.iter().copied());
            totals.extend(&recent.totals);
        }
        let limit = self.limit(filter);
        let mut by_subject: BTreeMap<u32, Vec<(u32, Option<Decimal>)>> = BTreeMap::new();
        for (line, value) in was {
            by_subject.entry(self.lines[line as usize].subject).or_default().push((line, value));
        }
        // Also one that has no claims any more since the results were taken over: its lines are gone.
        let wanted: HashSet<&str> = filter.subjects.iter().map(String::as_str).collect();
        let is_selected =
            |subject: &u32| wanted.is_empty() || wanted.contains(self.subjects[*subject as usize].name.as_str());
        let mut changes = Vec::new();
        for (subject, lines) in by_subject.into_iter().filter(|(subject, _)| is_selected(subject)) {
            if limit == usize::MAX {
                changes.extend(lines.into_iter().filter_map(|(line, was)| self.change(line, self.value(line), was)));
            } else {
                self.limited_changes(subject, &lines, limit, &mut changes);
            }
        }
        changes.sort_by(|a, b| (&a.subject, Reverse(a.value), &a.group).cmp(&(&b.subject, Reverse(b.value), &b.group)));
        let totals = totals.iter().filter(|s| is_selected(s)).filter_map(|s| {
            let subject = &self.subjects[*s as usize];
            Some((subject.name.clone(), subject.total?))
        });
        Ok(Delta {
            job: self.shape.job.clone(),
            epoch: self.epoch,
            at: rfc3339(self.at_ms),
            changes,
            totals: totals.collect(),
            accounting: self.accounting,
        })
    }

    /// The changes in the first `limit` lines of a subject, of which `changed` lines had other values.
    fn limited_changes(
        &self,
        subject: u32,
        changed: &[(u32, Option<Decimal>)],
        limit: usize,
        changes: &mut Vec<Change>,
    ) {
        let ranking = &self.subjects[subject as usize].ranking;
        let now: Vec<u32> = ranking.iter().take(limit).map(|(.., line)| *line).collect();
        let was: HashMap<u32, Option<Decimal>> = changed.iter().copied().collect();
        // The first lines as they were: those that did not change, in today's order, merged with
        // those that did, by their old values.
        let mut old: Vec<Place> = changed
            .iter()
            .filter_map(|(line, value)| Some((Reverse((*value)?), self.lines[*line as usize].group.clone(), *line)))
            .collect();
        old.extend(ranking.iter().filter(|(.., line)| !was.contains_key(line)).take(limit).cloned());
        old.sort_unstable();
        old.truncate(limit);
        let shown: HashSet<u32> = now.iter().copied().collect();
        let old: HashMap<u32, Decimal> = old.into_iter().map(|(Reverse(value), _, line)| (line, value)).collect();
        for line in now {
            let was_line = old.get(&line).copied();
            if was_line.is_none() || was.contains_key(&line) {
                changes.extend(self.change(line, self.value(line), was_line));
            }
        }
        for (line, value) in old {
            if !shown.contains(&line) {
                changes.extend(self.change(line, None, Some(value)));
            }
        }
    }

    fn change(&self, line: u32, value: Option<Decimal>, was: Option<Decimal>) -> Option<Change> {
        if value.is_none() && was.is_none() {
            return None;
        }
        let of = &self.lines[line as usize];
        if value == was && self.shape.aggregates.len() == 1 {
            return None;
        }
        Some(Change {
            subject: self.subjects[of.subject as usize].name.clone(),
            group: (*of.group).clone(),
            value,
            was,
            aggregates: value.and_then(|_| self.named(of.values.as_deref()?)),
        })
    }
}
