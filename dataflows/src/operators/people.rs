//! Whose messages count, in polls that count by person: of each author's standing messages the first, the
//! last, or the first n. All of them are held, since taking one away revives another.

use crate::accounting::Class;
use crate::checkpoint::marks::Marks;
use crate::claim::{EntityHash, LineId, OrderKey};
use crate::engine::facts::Newest;
use crate::jobs::polls::book::Book;
use crate::operators::lines::{Changes, Lines};
use crate::spec::Keep;
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::ops::Range;

mod kept;

/// A person in a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Person {
    pub who: EntityHash,
    pub subject: u64,
}

/// A standing message comes (`sign` 1) or goes (-1).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spoken {
    pub person: Person,
    pub order: OrderKey,
    pub groups: SmallVec<[u64; 1]>,
    pub sign: i8,
}

/// The people of one worker.
pub struct People {
    /// By key group.
    groups: Vec<Group>,
    lines: Lines,
}

#[derive(Default)]
struct Group {
    /// Each person's standing messages by order key.
    held: HashMap<Person, SmallVec<[Said; 1]>, FixedState>,
    /// The people whose messages a checkpoint is to write, and the same to look them up.
    marks: Marks<Person>,
    marked: HashSet<Person, FixedState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    order: OrderKey,
    groups: SmallVec<[u64; 1]>,
}

impl Default for People {
    fn default() -> Self {
        let groups = (0..EntityHash::KEY_GROUPS).map(|_| Group::default()).collect();
        People { groups, lines: Lines::default() }
    }
}

impl People {
    /// Applies the messages that came and went in one epoch; those of one message in their order.
    pub fn apply(&mut self, spoken: Vec<Spoken>, book: &Book) {
        for spoken in spoken {
            let subject = spoken.person.subject;
            // Of a poll that is gone nothing is held.
            if book.entry(subject).is_some() {
                self.apply_one(spoken, book.keep_of(subject));
            }
        }
    }

    fn apply_one(&mut self, spoken: Spoken, keep: Keep) {
        let Spoken { person, order, groups, sign } = spoken;
        let group = &mut self.groups[person.who.key_group()];
        group.mark(person);
        let all = group.held.entry(person).or_default();
        let before = chosen(all, keep);
        match (all.binary_search_by_key(&order, |said| said.order), sign > 0) {
            (Err(at), true) => all.insert(at, Said { order, groups }),
            (Ok(at), false) => drop(all.remove(at)),
            // What a sweep has given up goes once more; what stands can't come again.
            _ => return,
        }
        let after = chosen(all, keep);
        let subject = self.lines.subject_index(person.subject);
        let counted = after.len() as i64 - before.len() as i64;
        let changes = self.lines.subject(subject);
        changes.counted += counted;
        changes.superseded += i64::from(sign) - counted;
        for (some, others, sign, class) in
            [(&before, &after, -1, Class::Superseded), (&after, &before, 1, Class::Counted)]
        {
            for said in some.iter().filter(|said| !others.contains(said)) {
                for group in &said.groups {
                    let line = self.lines.index(LineId { subject: person.subject, group: *group });
                    self.lines.ones(line, sign);
                }
                self.lines.newest.push(class, said.order.position, None);
            }
        }
        if after.is_empty() {
            self.groups[person.who.key_group()].held.remove(&person);
        }
    }

    /// Takes what changed since the last call, consolidated.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        changes.lines.extend(self.lines.take_sums());
        changes.subjects.extend(self.lines.take_subjects());
        changes
    }

    /// Takes the newest records of each class since the last call.
    pub fn take_newest(&mut self) -> impl Iterator<Item = Newest> + '_ {
        self.lines.newest.drain()
    }

    /// Gives up the people of one key group in polls that are sealed or gone.
    pub fn sweep(&mut self, group: usize, book: &Book) {
        let Group { held, marks, .. } = &mut self.groups[group];
        let people = held.len();
        held.retain(|person, _| book.entry(person.subject).is_some_and(|entry| !entry.sealed));
        if held.len() < people {
            marks.mark_all();
            held.shrink_to_fit();
        }
    }
}

impl Group {
    fn mark(&mut self, person: Person) {
        if self.marks.lists() && self.marked.insert(person) {
            self.marks.mark(person, self.held.len());
        }
    }
}

/// Those that count, of a person's standing messages by order key.
fn chosen(all: &[Said], keep: Keep) -> SmallVec<[Said; 1]> {
    let range: Range<usize> = match keep {
        Keep::Last => all.len().saturating_sub(1)..all.len(),
        Keep::First => 0..all.len().min(1),
        Keep::FirstN(n) => 0..all.len().min(n as usize),
        Keep::All => 0..all.len(),
    };
    all[range].into()
}
