//! What a job has told: its lines by name, what they come to, and what became of claims.

use crate::checkpoint::marks::{Changed, Marks};
use crate::checkpoint::{Grouped, Kind, put, take};
use crate::claim::{EntityHash, LineId};
use crate::engine::facts::{ClaimChanges, RecordChanges};
use crate::ids::PartitionId;
use crate::operators::extremes::Extreme;
use crate::operators::tally::Sums;
use crate::update::ReadTo;
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// See the module.
pub struct Told {
    /// By key group of lines and subjects.
    groups: Vec<Group>,
    pub records: RecordChanges,
    /// By input and partition.
    pub offsets: BTreeMap<(u32, PartitionId), ReadTo>,
}

#[derive(Default)]
struct Group {
    lines: HashMap<LineId, Line>,
    subjects: HashMap<u64, Subject>,
    marks: Marks<Key>,
}

#[derive(Clone, Copy)]
enum Key {
    Line(LineId),
    Subject(u64),
}

/// A line.
#[derive(Default)]
pub struct Line {
    pub subject: String,
    pub group: Vec<String>,
    pub sums: Sums,
    pub extreme: Extreme,
    marked: bool,
}

/// A subject.
#[derive(Default)]
pub struct Subject {
    pub name: Option<String>,
    /// What became of its claims in all.
    pub claims: ClaimChanges,
    marked: bool,
}

/// What a checkpoint keeps of a line or a subject.
#[derive(Debug, Serialize, Deserialize)]
pub enum Row {
    Line { id: LineId, subject: String, group: Vec<String>, sums: Sums },
    Subject { id: u64, name: Option<String>, claims: ClaimChanges },
}

impl Line {
    /// A line with nothing in it yet.
    pub fn named(subject: String, group: Vec<String>) -> Self {
        Line { subject, group, ..Line::default() }
    }

    fn row(&self, id: LineId) -> Row {
        Row::Line { id, subject: self.subject.clone(), group: self.group.clone(), sums: self.sums }
    }
}

impl Subject {
    fn row(&self, id: u64) -> Row {
        Row::Subject { id, name: self.name.clone(), claims: self.claims }
    }
}

impl Default for Told {
    fn default() -> Self {
        let groups = (0..EntityHash::KEY_GROUPS).map(|_| Group::default()).collect();
        Told { groups, records: RecordChanges::default(), offsets: BTreeMap::new() }
    }
}

impl Told {
    fn of_line(&mut self, id: LineId) -> &mut Group {
        &mut self.groups[line_group(id)]
    }

    pub fn line(&self, id: LineId) -> Option<&Line> {
        self.groups[line_group(id)].lines.get(&id)
    }

    /// A line, to be changed.
    pub fn line_mut(&mut self, id: LineId) -> Option<&mut Line> {
        let group = self.of_line(id);
        let held = group.held();
        let line = group.lines.get_mut(&id)?;
        if !std::mem::replace(&mut line.marked, true) {
            group.marks.mark(Key::Line(id), held);
        }
        Some(line)
    }

    /// Takes up a line, unless it is known.
    pub fn add_line(&mut self, id: LineId, line: impl FnOnce() -> Line) {
        let group = self.of_line(id);
        let held = group.held();
        group.lines.entry(id).or_insert_with(|| {
            group.marks.mark(Key::Line(id), held);
            Line { marked: true, ..line() }
        });
    }

    pub fn subject(&self, id: u64) -> Option<&Subject> {
        self.groups[subject_group(id)].subjects.get(&id)
    }

    /// A subject, to be changed.
    pub fn subject_mut(&mut self, id: u64) -> &mut Subject {
        let group = &mut self.groups[subject_group(id)];
        let held = group.held();
        let subject = group.subjects.entry(id).or_default();
        if !std::mem::replace(&mut subject.marked, true) {
            group.marks.mark(Key::Subject(id), held);
        }
        subject
    }

    /// Forgets subjects and all their lines.
    pub fn forget(&mut self, gone: &[u64]) {
        if gone.is_empty() {
            return;
        }
        for group in &mut self.groups {
            let held = group.held();
            group.lines.retain(|id, _| !gone.contains(&id.subject));
            group.subjects.retain(|id, _| !gone.contains(id));
            if group.held() < held {
                group.marks.mark_all();
            }
        }
    }

    /// What there is now was read from a checkpoint.
    pub fn is_as_written(&mut self) {
        for group in &mut self.groups {
            group.lines.values_mut().for_each(|line| line.marked = false);
            group.subjects.values_mut().for_each(|subject| subject.marked = false);
            group.marks.written();
        }
    }
}

impl Group {
    fn held(&self) -> usize {
        self.lines.len() + self.subjects.len()
    }
}

impl Grouped for Told {
    const KIND: Kind = Kind::Told;

    fn has_changed(&self, group: usize) -> bool {
        self.groups[group].marks.has_changed(self.groups[group].held())
    }

    fn mark_all(&mut self, group: usize) {
        self.groups[group].marks.mark_all();
    }

    fn write(&mut self, group: usize, out: &mut Vec<u8>) -> bool {
        let of = &mut self.groups[group];
        match of.marks.take(group, of.held()) {
            Changed::Nothing => false,
            Changed::Keys(keys) => {
                for key in keys {
                    let row = match key {
                        Key::Line(id) => of.lines.get_mut(&id).map(|line| {
                            line.marked = false;
                            line.row(id)
                        }),
                        Key::Subject(id) => of.subjects.get_mut(&id).map(|subject| {
                            subject.marked = false;
                            subject.row(id)
                        }),
                    };
                    row.iter().for_each(|row| put(out, row));
                }
                false
            }
            Changed::All => {
                for (id, line) in &mut of.lines {
                    line.marked = false;
                    put(out, &line.row(*id));
                }
                for (id, subject) in &mut of.subjects {
                    subject.marked = false;
                    put(out, &subject.row(*id));
                }
                true
            }
        }
    }
}

/// The rows of a key group from its frames, oldest first: the last of each line and subject.
pub fn rows<F: AsRef<[u8]>>(frames: impl Iterator<Item = Result<F, String>>) -> Result<Vec<Row>, String> {
    let (mut lines, mut subjects) = (BTreeMap::new(), BTreeMap::new());
    for frame in frames {
        let frame = frame?;
        let mut rest = frame.as_ref();
        while !rest.is_empty() {
            match take(&mut rest)? {
                row @ Row::Line { id, .. } => drop(lines.insert(id, row)),
                row @ Row::Subject { id, .. } => drop(subjects.insert(id, row)),
            }
        }
    }
    Ok(lines.into_values().chain(subjects.into_values()).collect())
}

fn line_group(id: LineId) -> usize {
    (id.group ^ id.subject) as usize % EntityHash::KEY_GROUPS
}

fn subject_group(id: u64) -> usize {
    id as usize % EntityHash::KEY_GROUPS
}
