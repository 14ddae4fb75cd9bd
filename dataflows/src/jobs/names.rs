//! The names of subjects and lines, numbered per worker, so that a record costs one look-up and no
//! allocation once its line is known.

use crate::claim::{HashKey, LineId};
use crate::engine::facts::Fact;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher};

/// A line as its worker numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineIndex(pub u32);

/// A subject as its worker numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubjectIndex(pub u32);

/// See the module.
pub struct Names {
    key: HashKey,
    state: RandomState,
    subject_table: HashTable<u32>,
    subjects: Vec<(Box<str>, u64)>,
    line_table: HashTable<u32>,
    lines: Vec<Line>,
    fresh: Vec<Fact>,
}

struct Line {
    hash: u64,
    subject: SubjectIndex,
    /// The parts, an [`END`] after each.
    group: Box<[u8]>,
    id: LineId,
}

/// No byte of a text.
const END: u8 = 0xff;

impl Line {
    fn is(&self, subject: SubjectIndex, group: &[impl AsRef<str>]) -> bool {
        let mut rest = &*self.group;
        let mut begins_with = |part: &[u8]| match rest.split_at_checked(part.len()) {
            Some((head, [END, tail @ ..])) if head == part => {
                rest = tail;
                true
            }
            _ => false,
        };
        self.subject == subject && group.iter().all(|part| begins_with(part.as_ref().as_bytes())) && rest.is_empty()
    }
}

impl Names {
    pub fn new(key: HashKey) -> Self {
        Names {
            key,
            state: RandomState::default(),
            subject_table: HashTable::new(),
            subjects: Vec::new(),
            line_table: HashTable::new(),
            lines: Vec::new(),
            fresh: Vec::new(),
        }
    }

    /// The subject of that name.
    pub fn subject(&mut self, name: &str) -> SubjectIndex {
        let hash = self.state.hash_one(name);
        if let Some(index) = self.subject_table.find(hash, |i| *self.subjects[*i as usize].0 == *name) {
            return SubjectIndex(*index);
        }
        let (index, id) = (self.subjects.len() as u32, self.key.name(&[name]));
        self.subjects.push((name.into(), id));
        self.subject_table.insert_unique(hash, index, |i| self.state.hash_one(&*self.subjects[*i as usize].0));
        self.fresh.push(Fact::SubjectName { id, name: name.into() });
        SubjectIndex(index)
    }

    /// The line of the subject whose group has these parts.
    pub fn line<S: AsRef<str>>(&mut self, subject: SubjectIndex, group: &[S]) -> LineIndex {
        let hash = hash_line(&self.state, subject, group);
        if let Some(index) = self.line_table.find(hash, |i| self.lines[*i as usize].is(subject, group)) {
            return LineIndex(*index);
        }
        let index = self.lines.len() as u32;
        let (name, subject_id) = &self.subjects[subject.0 as usize];
        let parts: Vec<&str> = group.iter().map(AsRef::as_ref).collect();
        let id = LineId { subject: *subject_id, group: self.key.name(&parts) };
        let names = parts.iter().map(|p| (*p).to_owned()).collect();
        self.fresh.push(Fact::LineName { id, subject: name.to_string(), group: names });
        let group = parts.into_iter().flat_map(|part| part.bytes().chain([END])).collect();
        self.lines.push(Line { hash, subject, group, id });
        self.line_table.insert_unique(hash, index, |i| self.lines[*i as usize].hash);
        LineIndex(index)
    }

    pub fn subject_id(&self, subject: SubjectIndex) -> u64 {
        self.subjects[subject.0 as usize].1
    }

    pub fn line_id(&self, line: LineIndex) -> LineId {
        self.lines[line.0 as usize].id
    }

    /// The names met since the last call.
    pub fn take_fresh(&mut self) -> std::vec::Drain<'_, Fact> {
        self.fresh.drain(..)
    }
}

fn hash_line<S: AsRef<str>>(state: &RandomState, subject: SubjectIndex, group: &[S]) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write_u32(subject.0);
    for (i, part) in group.iter().enumerate() {
        if i > 0 {
            hasher.write_u8(END);
        }
        hasher.write(part.as_ref().as_bytes());
    }
    hasher.finish()
}
