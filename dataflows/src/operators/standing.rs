//! Which claims stand: the wide per-entity layer, as one custom keyed operator.
//!
//! Claims are exchanged by key group, held back until the frontier has passed their epoch (a later
//! one can arrive before an earlier one), and then applied to what each entity holds. What changed in
//! an epoch leaves consolidated: per line how many contributions and how much value came and went,
//! per subject what became of its claims. The keep rules compare order keys and nothing else, so the
//! outcome is the same in whatever order claims arrive.

use crate::accounting::Class;
use crate::claim::{Claim, EntityHash, LineId, More, OrderKey};
use crate::engine::facts::Newest;
use crate::number::SCALE;
use crate::operators::extremes::Detail;
use crate::operators::lines::{Changes, Lines};
use crate::operators::slab::Slab;
use crate::operators::table::{Held, Table};
use crate::spec::Keep;

mod kept;
#[cfg(test)]
mod tests;

/// The entities of one worker and what they hold.
pub struct Standing {
    keeps: Keeps,
    /// By number of the subject, where each has a rule of its own.
    keep_of: Vec<Keep>,
    /// Whether two equal claims must agree in event time to be duplicates: where the job names one.
    event_time: bool,
    /// Whether single contributions matter downstream, not only their sums.
    detailed: bool,
    /// By key group; a worker's share of them is in use.
    groups: Vec<Table>,
    lines: Lines,
    /// Contributions beyond the common case.
    more: Slab<(u32, Box<More>)>,
    /// Under `first-n`: the standing claims of an entity, ascending by order key.
    sets: Slab<Vec<Held>>,
    changed: Changes,
}

/// By what rules claims are kept.
pub enum Keeps {
    /// All by the same.
    Same(Keep),
    /// Each subject by its own, told by the subject's id. It never changes.
    BySubject(Box<dyn Fn(u64) -> Keep>),
}

/// What an entity holds, packed into the table's 32 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// An index of [`Lines`].
    Line(u32),
    /// An index of `more`.
    More(u32),
    /// An index of `sets`.
    Set(u32),
}

impl What {
    const INDEX: u32 = Lines::INDEX_MAX;

    fn pack(self) -> u32 {
        match self {
            What::Line(i) => i,
            What::More(i) => i | 1 << 30,
            What::Set(i) => i | 2 << 30,
        }
    }

    fn unpack(word: u32) -> Self {
        match word >> 30 {
            0 => What::Line(word),
            1 => What::More(word & Self::INDEX),
            _ => What::Set(word & Self::INDEX),
        }
    }
}

impl Standing {
    /// Nothing held yet.
    pub fn new(keeps: Keeps, event_time: bool, detailed: bool) -> Self {
        Standing {
            keeps,
            keep_of: Vec::new(),
            event_time,
            detailed,
            groups: (0..EntityHash::KEY_GROUPS).map(Table::of_group).collect(),
            lines: Lines::default(),
            more: Slab::default(),
            sets: Slab::default(),
            changed: Changes::default(),
        }
    }

    /// Applies the claims of one epoch, in any order.
    pub fn apply(&mut self, claims: Vec<Claim>) {
        // The table is larger than the caches: ask for the memory of a few entities before using it.
        const AHEAD: usize = 16;
        let mut touched = 0u32;
        let mut claims = claims.into_iter();
        loop {
            for claim in claims.as_slice().iter().take(AHEAD) {
                touched ^= self.groups[claim.entity.key_group()].touch(claim.entity);
            }
            std::hint::black_box(touched);
            let mut left = AHEAD;
            while left > 0 {
                let Some(claim) = claims.next() else { return };
                self.apply_one(claim);
                left -= 1;
            }
        }
    }

    fn apply_one(&mut self, claim: Claim) {
        let (entity, order) = (claim.entity, claim.order);
        let found = self.groups[entity.key_group()].find(entity);
        let what = self.intern(claim);
        let new = Held { order, what: what.pack() };
        self.count_claim(what);
        match (self.keep(what), found) {
            (Keep::FirstN(n), Ok((slot, held))) => {
                self.groups[entity.key_group()].mark(slot);
                self.apply_to_set(n as usize, held, new);
            }
            (Keep::FirstN(_), Err(slot)) => {
                self.add(new);
                let set = What::Set(self.sets.insert(vec![new])).pack();
                self.groups[entity.key_group()].insert(slot, Held { order: OrderKey::default(), what: set });
            }
            (_, Err(slot)) => {
                self.add(new);
                self.groups[entity.key_group()].insert(slot, new);
            }
            (keep, Ok((slot, old))) => {
                let class = if self.equal(old, new) { Class::Duplicate } else { Class::Superseded };
                let gives_way = if keep == Keep::First { order < old.order } else { order > old.order };
                if gives_way {
                    self.groups[entity.key_group()].replace(slot, new);
                    self.swap(old, new, class);
                } else {
                    self.refuse(old, new, class);
                }
            }
        }
    }

    fn keep(&mut self, what: What) -> Keep {
        let of = match &self.keeps {
            Keeps::Same(keep) => return *keep,
            Keeps::BySubject(of) => of,
        };
        let Some(subject) = self.subject(Held { order: OrderKey::default(), what: what.pack() }) else {
            return Keep::Last;
        };
        while self.keep_of.len() <= subject as usize {
            self.keep_of.push(of(self.lines.subject_id(self.keep_of.len() as u32)));
        }
        self.keep_of[subject as usize]
    }

    /// Gives up the entities of one key group that hold claims of subjects for which `is_open` answers
    /// false. What they have added to lines stays.
    pub fn sweep(&mut self, group: usize, is_open: impl Fn(u64) -> bool) {
        let mut groups = std::mem::take(&mut self.groups[group]);
        groups.retain(|held| {
            let some_claim = match What::unpack(held.what) {
                What::Set(index) => self.sets[index].first().copied(),
                _ => Some(*held),
            };
            let subject = some_claim.and_then(|claim| self.subject(claim));
            let stays = subject.is_none_or(|subject| is_open(self.lines.subject_id(subject)));
            if !stays {
                self.forget(*held);
            }
            stays
        });
        self.groups[group] = groups;
    }

    fn apply_to_set(&mut self, n: usize, held: Held, new: Held) {
        let What::Set(index) = What::unpack(held.what) else { unreachable!("first-n holds sets") };
        let mut set = std::mem::take(&mut self.sets[index]);
        if let Some(at) = set.iter().position(|old| self.equal(*old, new)) {
            // Equal ones take one place, the earliest of them.
            if new.order < set[at].order {
                let old = std::mem::replace(&mut set[at], new);
                self.swap(old, new, Class::Duplicate);
            } else {
                self.refuse(set[at], new, Class::Duplicate);
            }
        } else if set.len() < n {
            self.add(new);
            set.push(new);
        } else if let Some(last) = set.last_mut().filter(|last| new.order < last.order) {
            let old = std::mem::replace(last, new);
            self.swap(old, new, Class::Superseded);
        } else {
            let last = set.last().copied().unwrap_or(new);
            self.refuse(last, new, Class::Superseded);
        }
        set.sort_unstable_by_key(|held| held.order);
        self.sets[index] = set;
    }

    /// Takes what changed since the last call, consolidated.
    pub fn take_changes(&mut self) -> Changes {
        let mut changed = std::mem::take(&mut self.changed);
        changed.lines.extend(self.lines.take_sums());
        changed.subjects.extend(self.lines.take_subjects());
        changed
    }

    /// How many entities are held.
    pub fn entities(&self) -> usize {
        self.groups.iter().map(Table::len).sum()
    }

    /// Takes the newest records of each class since the last call.
    pub fn take_newest(&mut self) -> impl Iterator<Item = Newest> + '_ {
        self.lines.newest.drain()
    }

    fn intern(&mut self, claim: Claim) -> What {
        match claim.more {
            None => What::Line(self.lines.index(claim.line)),
            Some(more) => {
                let subject = self.lines.subject_index(claim.line.subject);
                What::More(self.more.insert((subject, more)))
            }
        }
    }

    /// Whether two claims of one entity say the same: by their ids, or where neither has one by event
    /// time and contribution. One with an id and one without never do: "the same" has to be transitive,
    /// or which claims stand under `first-n` would depend on the order in which they are applied.
    fn equal(&self, a: Held, b: Held) -> bool {
        let same_time = !self.event_time || a.order.time_ns == b.order.time_ns;
        match (What::unpack(a.what), What::unpack(b.what)) {
            (What::Line(a), What::Line(b)) => a == b && same_time,
            (What::More(a), What::More(b)) => {
                let (a, b) = (&self.more[a], &self.more[b]);
                match (a.1.id, b.1.id) {
                    (Some(a), Some(b)) => a == b,
                    (Some(_), None) | (None, Some(_)) => false,
                    (None, None) => same_time && a.0 == b.0 && a.1.adds == b.1.adds && a.1.distinct == b.1.distinct,
                }
            }
            _ => false,
        }
    }

    fn add(&mut self, new: Held) {
        self.contribute(new, 1);
        if let Some(subject) = self.subject(new) {
            self.lines.subject(subject).counted += 1;
            self.lines.newest.push(Class::Counted, new.order.position, None);
        }
    }

    /// `new` takes the place of `old`, which becomes of `class`.
    fn swap(&mut self, old: Held, new: Held, class: Class) {
        // What stays the same is not taken out and put back.
        if old.what != new.what {
            self.contribute(old, -1);
            self.contribute(new, 1);
        }
        if let Some(subject) = self.subject(old) {
            let changes = self.lines.subject(subject);
            changes.counted -= 1;
            changes.count(class, 1);
            self.lines.newest.push(class, old.order.position, Some(new.order.position));
        }
        if let Some(subject) = self.subject(new) {
            self.lines.subject(subject).counted += 1;
            self.lines.newest.push(Class::Counted, new.order.position, None);
        }
        self.release(old);
    }

    /// `new` does not stand beside `old`.
    fn refuse(&mut self, old: Held, new: Held, class: Class) {
        if let Some(subject) = self.subject(new) {
            self.lines.subject(subject).count(class, 1);
            self.lines.newest.push(class, new.order.position, Some(old.order.position));
        }
        self.release(new);
    }

    fn release(&mut self, held: Held) {
        if let What::More(index) = What::unpack(held.what) {
            self.more.remove(index);
        }
    }

    /// The subject of a claim; `None` for a record that only replaces (see [`LineId::REPLACES`]).
    fn subject(&self, held: Held) -> Option<u32> {
        let subject = match What::unpack(held.what) {
            What::Line(index) => self.lines.subject_of(index),
            What::More(index) => self.more[index].0,
            What::Set(_) => unreachable!("a set is no claim"),
        };
        (subject != Lines::NO_SUBJECT).then_some(subject)
    }

    fn count_claim(&mut self, what: What) {
        if let Some(subject) = self.subject(Held { order: OrderKey::default(), what: what.pack() }) {
            self.lines.subject(subject).claims += 1;
        }
    }

    fn contribute(&mut self, held: Held, sign: i64) {
        match What::unpack(held.what) {
            What::Line(index) => self.lines.ones(index, sign),
            What::More(index) => {
                let (subject, more) = &self.more[index];
                let subject = self.lines.subject_id(*subject);
                for (place, add) in more.adds.iter().enumerate() {
                    let line = LineId { subject, group: add.group };
                    let index = self.lines.index(line);
                    // Counting needs no 256-bit arithmetic.
                    if add.value == SCALE {
                        self.lines.ones(index, sign);
                    } else {
                        self.lines.sum(index, sign, add.value);
                    }
                    if self.detailed {
                        let detail = Detail::new(held.order, place, add.value, more.distinct.clone());
                        self.changed.details.push((line, detail, sign));
                    }
                }
            }
            What::Set(_) => unreachable!("a set is no claim"),
        }
    }
}
