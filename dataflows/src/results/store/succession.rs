//! What comes and goes as a whole: subjects, and the results of an engine before this one.

use super::{ClaimAccounting, JobResults, Line, Recent, Subject};
use crate::engine::facts::{ClaimChanges, RecordChanges};
use crate::ids::{Offset, PartitionId};
use crate::number::Decimal;
use crate::results::Digest;
use crate::results::model::Group;
use crate::results::order::Ranking;
use crate::update::{EpochUpdate, ReadTo};
use std::collections::HashMap;
use std::sync::Arc;

impl JobResults {
    /// Takes a subject away with its lines and its accounting.
    pub(super) fn take_away(&mut self, id: u64, recent: &mut Recent) {
        let Some(place) = self.subject_index.remove(&id) else { return };
        let indexes: Vec<u32> = self.subjects[place as usize].ranking.iter().map(|(.., line)| *line).collect();
        for &index in &indexes {
            self.line_index.remove(&self.lines[index as usize].id);
            let was = self.set_line(index, None);
            recent.lines.push((index, was));
        }
        let c = self.subjects[place as usize].claims;
        let changes = ClaimChanges {
            claims: -(c.claims as i64),
            counted: -(c.counted as i64),
            superseded: -(c.superseded as i64),
            duplicate: -(c.duplicate as i64),
        };
        self.count(place, changes);
        let subject = &mut self.subjects[place as usize];
        subject.total = self.shape.has_total.then_some(Decimal::ZERO);
        recent.totals.push(place);
        self.gone.insert(subject.name.clone(), (place, indexes));
    }

    /// Takes over from the results that were served before, of an engine that is gone or of another form
    /// of the job: what differs becomes one change, so that readers go on without a gap.
    pub fn take_over(&mut self, before: &JobResults) {
        debug_assert!(self.epoch > before.epoch);
        let (shape, was) = (&self.shape, &before.shape);
        if (&shape.aggregates, shape.has_total, shape.top) != (&was.aggregates, was.has_total, was.top) {
            // What readers hold has another form: they begin with a snapshot again.
            self.recent.clear();
            self.recent_lines = 0;
            self.known_since = self.epoch;
            return;
        }
        let ids: HashMap<u32, u64> = self.subject_index.iter().map(|(id, place)| (*place, *id)).collect();
        let mut places: HashMap<String, u32> = HashMap::new();
        for (place, subject) in self.subjects.iter().enumerate() {
            places.insert(subject.name.clone(), place as u32);
        }
        let mut stood: HashMap<(u32, Arc<Group>), &Line> = HashMap::new();
        for line in before.lines.iter().filter(|line| line.values.is_some()) {
            let name = &before.subjects[line.subject as usize].name;
            let place = *places.entry(name.clone()).or_insert_with(|| {
                let total = self.shape.has_total.then_some(Decimal::ZERO);
                let (claims, ranking) = (ClaimAccounting::default(), Ranking::default());
                self.subjects.push(Subject { name: name.clone(), total, claims, ranking });
                let place = self.subjects.len() as u32 - 1;
                self.gone.insert(name.clone(), (place, Vec::new()));
                place
            });
            stood.insert((place, line.group.clone()), line);
        }
        let totals = (0..self.subjects.len() as u32).collect();
        let mut recent = Recent { epoch: self.epoch, lines: Vec::new(), totals };
        for (index, line) in self.lines.iter().enumerate() {
            let was = stood.remove(&(line.subject, line.group.clone())).and_then(|line| line.values.as_ref());
            if was != line.values.as_ref() {
                recent.lines.push((index as u32, was.and_then(|values| values.first().copied())));
            }
        }
        // Lines that stood before and are not there now: they keep places, to be told as gone.
        for ((subject, _), line) in stood {
            let index = self.lines.len() as u32;
            recent.lines.push((index, line.values.as_ref().and_then(|values| values.first().copied())));
            let (mut id, group) = (line.id, line.group.clone());
            match ids.get(&subject) {
                Some(of) => {
                    id.subject = *of;
                    self.line_index.insert(id, index);
                }
                None => {
                    let of = self.gone.get_mut(&self.subjects[subject as usize].name);
                    of.into_iter().for_each(|(_, lines)| lines.push(index));
                }
            }
            self.lines.push(Line { id, subject, group, values: None, digest: Digest::default() });
        }
        self.recent.clear();
        self.recent_lines = 0;
        self.known_since = before.epoch;
        self.remember(recent);
    }

    /// All there is as one update, to be kept and applied to new results of the same shape.
    pub fn as_update(&self) -> EpochUpdate {
        let subject_id: HashMap<u32, u64> = self.subject_index.iter().map(|(id, index)| (*index, *id)).collect();
        let mut update = EpochUpdate { epoch: self.epoch, at_ms: self.at_ms, ..EpochUpdate::default() };
        for (input, places) in self.inputs.iter().enumerate() {
            let place = |(p, (next, end)): (usize, &(Offset, Offset))| ReadTo {
                input: input as u32,
                partition: PartitionId(p as u32),
                next: *next,
                end: *end,
            };
            update.offsets.extend(places.iter().enumerate().map(place));
        }
        for (index, subject) in self.subjects.iter().enumerate() {
            let Some(id) = subject_id.get(&(index as u32)).copied() else { continue };
            update.subjects.push((id, subject.name.clone()));
            update.totals.extend(subject.total.map(|total| (id, total)));
            let c = subject.claims;
            let changes = ClaimChanges {
                claims: c.claims as i64,
                counted: c.counted as i64,
                superseded: c.superseded as i64,
                duplicate: c.duplicate as i64,
            };
            update.claims.push((id, changes));
        }
        for (id, index) in &self.line_index {
            let line = &self.lines[*index as usize];
            update.names.push((*id, line.group.0.clone()));
            update.lines.extend(line.values.clone().map(|values| (*id, Some(values))));
        }
        let a = &self.accounting;
        update.records = RecordChanges {
            read: a.read as i64,
            rejected: a.rejected as i64,
            irrelevant: a.irrelevant as i64,
            matched: a.matched as i64,
        };
        update.newest = self.newest.values().flatten().cloned().collect();
        update
    }
}
