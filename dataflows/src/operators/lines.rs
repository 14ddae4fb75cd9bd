//! The lines and subjects that an operator changes in an epoch, numbered per worker and consolidated.

use crate::claim::LineId;
use crate::engine::facts::{ClaimChanges, NewestRing};
use crate::operators::extremes::Detail;
use crate::operators::tally::Sums;
use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// What an epoch has changed, consolidated.
#[derive(Default)]
pub struct Changes {
    pub lines: Vec<(LineId, Sums)>,
    pub details: Vec<(LineId, Detail, i64)>,
    pub subjects: Vec<(u64, ClaimChanges)>,
}

/// The lines and subjects that a worker has met, numbered, with what the epoch adds to each.
#[derive(Default)]
pub struct Lines {
    index: HashMap<LineId, u32, FixedState>,
    list: Vec<Line>,
    dirty: Vec<u32>,
    subject_index: HashMap<u64, u32, FixedState>,
    subjects: Vec<(u64, ClaimChanges)>,
    /// The newest records of each class.
    pub newest: NewestRing,
}

struct Line {
    id: LineId,
    /// An index of `subjects`, or [`Lines::NO_SUBJECT`].
    subject: u32,
    /// Contributions that count one, come less gone.
    ones: i64,
    sums: Sums,
    dirty: bool,
}

impl Lines {
    /// Numbers of lines are below it: two bits are left to say what a number means.
    pub const INDEX_MAX: u32 = (1 << 30) - 1;
    /// The subject of [`LineId::REPLACES`].
    pub const NO_SUBJECT: u32 = u32::MAX;

    /// The number of a line.
    pub fn index(&mut self, id: LineId) -> u32 {
        if let Some(index) = self.index.get(&id) {
            return *index;
        }
        let subject = if id == LineId::REPLACES { Self::NO_SUBJECT } else { self.subject_index(id.subject) };
        self.list.push(Line { id, subject, ones: 0, sums: Sums::default(), dirty: false });
        let index = self.list.len() as u32 - 1;
        assert!(index < Self::INDEX_MAX, "a worker numbers at most 2^30 lines");
        self.index.insert(id, index);
        index
    }

    /// The number of a subject.
    pub fn subject_index(&mut self, subject: u64) -> u32 {
        *self.subject_index.entry(subject).or_insert_with(|| {
            self.subjects.push((subject, ClaimChanges::default()));
            self.subjects.len() as u32 - 1
        })
    }

    /// What the line is known by.
    pub fn id(&self, line: u32) -> LineId {
        self.list[line as usize].id
    }

    /// The number of the line's subject.
    pub fn subject_of(&self, line: u32) -> u32 {
        self.list[line as usize].subject
    }

    /// What the subject is known by.
    pub fn subject_id(&self, subject: u32) -> u64 {
        self.subjects[subject as usize].0
    }

    fn touch(&mut self, index: u32) -> &mut Line {
        let line = &mut self.list[index as usize];
        if !line.dirty {
            line.dirty = true;
            self.dirty.push(index);
        }
        line
    }

    /// Adds (`sign` 1) or takes away (-1) a contribution that counts one.
    pub fn ones(&mut self, index: u32, sign: i64) {
        self.touch(index).ones += sign;
    }

    /// Likewise one of that value, in units.
    pub fn sum(&mut self, index: u32, sign: i64, value: i128) {
        self.touch(index).sums.add(sign, value);
    }

    /// What becomes of the subject's claims.
    pub fn subject(&mut self, subject: u32) -> &mut ClaimChanges {
        &mut self.subjects[subject as usize].1
    }

    pub fn take_sums(&mut self) -> impl Iterator<Item = (LineId, Sums)> + '_ {
        let list = &mut self.list;
        self.dirty.drain(..).filter_map(|index| {
            let line = &mut list[index as usize];
            line.dirty = false;
            let mut sums = std::mem::take(&mut line.sums);
            sums.add_ones(std::mem::take(&mut line.ones));
            // A withdrawal stands and adds to no line.
            (line.id.group != 0 && sums != Sums::default()).then_some((line.id, sums))
        })
    }

    pub fn take_subjects(&mut self) -> impl Iterator<Item = (u64, ClaimChanges)> + '_ {
        self.subjects
            .iter_mut()
            .filter(|(_, changes)| *changes != ClaimChanges::default())
            .map(|(subject, changes)| (*subject, std::mem::take(changes)))
    }
}
