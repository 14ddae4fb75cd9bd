//! What comes and goes as a whole: subjects, and the results of an engine before this one.

use super::{ClaimAccounting, JobResults, Line, Recent, Subject};
use crate::engine::facts::{ClaimChanges, RecordChanges};
use crate::ids::{Epoch, Offset, PartitionId};
use crate::number::Decimal;
use crate::results::Digest;
use crate::results::model::Group;
use crate::results::order::Ranking;
use crate::update::{EpochUpdate, ReadTo};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

impl JobResults {
    /// How many changed lines of before are kept for readers who come later than the change: what a page
    /// has not fetched in its pace, not what it missed in minutes.
    const HANDED_ON_LINES_MAX: usize = 100_000;

    /// Takes a subject away with its lines and its accounting.
    pub(super) fn take_away(&mut self, id: u64, recent: &mut Recent) {
        let Some(place) = self.subject_index.remove(&id) else { return };
        let indexes = self.subjects[place as usize].lines.clone();
        for &index in &indexes {
            self.line_index.remove(&self.lines[index as usize].id);
            let was = self.set_line(index, None);
            if was.is_some() {
                recent.lines.push((index, was));
            }
        }
        let c = self.subjects[place as usize].claims;
        let changes = ClaimChanges {
            claims: -(c.claims as i64),
            counted: -(c.counted as i64),
            superseded: -(c.superseded as i64),
            duplicate: -(c.duplicate as i64),
            voided: -(c.voided as i64),
        };
        self.count(place, changes);
        let subject = &mut self.subjects[place as usize];
        subject.total = self.shape.has_total.then_some(Decimal::ZERO);
        recent.totals.push(place);
        recent.claims.push(place);
        self.gone.insert(subject.name.clone(), (place, indexes));
    }

    /// Takes over from the results that were served before, of an engine that is gone or of another form
    /// of the job: what differs becomes one change, so that readers go on without a gap.
    pub fn take_over(&mut self, before: &JobResults) {
        debug_assert!(self.epoch > before.epoch);
        self.takeovers = before.takeovers + 1;
        let (shape, was) = (&self.shape, &before.shape);
        if (&shape.aggregates, shape.has_total, shape.top) != (&was.aggregates, was.has_total, was.top) {
            // What readers hold has another form: they begin with a snapshot again.
            self.recent.clear();
            self.recent_lines = 0;
            self.known_since = self.epoch;
            return;
        }
        let (history, known_since) = before.newest_changes();
        let told: HashSet<u32> = history.iter().flat_map(|recent| recent.lines.iter().map(|(line, _)| *line)).collect();
        let ids: HashMap<u32, u64> = self.subject_index.iter().map(|(id, place)| (*place, *id)).collect();
        let mut places: HashMap<String, u32> = HashMap::new();
        for (place, subject) in self.subjects.iter().enumerate() {
            places.insert(subject.name.clone(), place as u32);
        }
        let mut indexes: HashMap<(u32, Arc<Group>), u32> = HashMap::new();
        for (index, line) in self.lines.iter().enumerate() {
            indexes.insert((line.subject, line.group.clone()), index as u32);
        }
        // By line of before, the same here, and what stood there.
        let mut here: HashMap<u32, u32> = HashMap::new();
        let mut stood: HashMap<u32, &Vec<Decimal>> = HashMap::new();
        for (index, line) in before.lines.iter().enumerate() {
            let index = index as u32;
            if line.values.is_none() && !told.contains(&index) {
                continue;
            }
            let subject = self.place_of(&before.subjects[line.subject as usize].name, &mut places);
            let found = *indexes.entry((subject, line.group.clone())).or_insert(self.lines.len() as u32);
            if found as usize == self.lines.len() {
                // It is not there now: it keeps a place, to be told as gone.
                self.keep_place(line, subject, ids.get(&subject).copied());
            }
            here.insert(index, found);
            stood.extend(line.values.as_ref().map(|values| (found, values)));
        }
        let mut recents = Vec::with_capacity(history.len() + 1);
        for recent in history {
            let lines = recent.lines.iter().filter_map(|(line, was)| Some((*here.get(line)?, *was))).collect();
            let names = recent.totals.iter().map(|subject| before.subjects[*subject as usize].name.as_str());
            let totals = names.map(|name| self.place_of(name, &mut places)).collect();
            recents.push(Recent { epoch: recent.epoch, before: recent.before, lines, totals, claims: Vec::new() });
        }
        let totals = (0..self.subjects.len() as u32).collect();
        let mut recent =
            Recent { epoch: self.epoch, before: before.epoch, lines: Vec::new(), totals, claims: Vec::new() };
        for (index, line) in self.lines.iter().enumerate() {
            let was = stood.get(&(index as u32)).copied();
            if was != line.values.as_ref() {
                recent.lines.push((index as u32, was.and_then(|values| values.first().copied())));
            }
        }
        recents.push(recent);
        self.recent.clear();
        self.recent_lines = 0;
        self.known_since = known_since;
        recents.into_iter().for_each(|recent| self.remember(recent));
    }

    /// The newest changes, oldest first, and from when on they are all there are: for readers who are some
    /// epochs behind.
    fn newest_changes(&self) -> (Vec<&Recent>, Epoch) {
        let mut lines = 0;
        let is_kept = |recent: &&Recent| {
            lines += recent.lines.len();
            lines <= Self::HANDED_ON_LINES_MAX
        };
        let mut kept: Vec<&Recent> = self.recent.iter().rev().take_while(is_kept).collect();
        kept.reverse();
        let earlier = self.recent.len().checked_sub(kept.len() + 1).and_then(|last| self.recent.get(last));
        (kept, earlier.map_or(self.known_since, |recent| recent.epoch))
    }

    /// Where the subject of that name is; one that is not there gets a place, to be told as gone.
    fn place_of(&mut self, name: &str, places: &mut HashMap<String, u32>) -> u32 {
        if let Some(place) = places.get(name) {
            return *place;
        }
        let total = self.shape.has_total.then_some(Decimal::ZERO);
        let (claims, ranking) = (ClaimAccounting::default(), Ranking::default());
        self.subjects.push(Subject { name: name.to_owned(), total, claims, ranking, lines: Vec::new() });
        let place = self.subjects.len() as u32 - 1;
        self.gone.insert(name.to_owned(), (place, Vec::new()));
        places.insert(name.to_owned(), place);
        place
    }

    /// Adds a line of which nothing stands, in the subject at a place, which has an id if it is there.
    fn keep_place(&mut self, line: &Line, subject: u32, of: Option<u64>) {
        let index = self.lines.len() as u32;
        self.subjects[subject as usize].lines.push(index);
        let mut id = line.id;
        match of {
            Some(of) => {
                id.subject = of;
                self.line_index.insert(id, index);
            }
            None => {
                let of = self.gone.get_mut(&self.subjects[subject as usize].name);
                of.into_iter().for_each(|(_, lines)| lines.push(index));
            }
        }
        self.lines.push(Line { id, subject, group: line.group.clone(), values: None, digest: Digest::default() });
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
                voided: c.voided as i64,
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
