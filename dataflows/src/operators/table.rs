//! A compact table from entity to what it holds, kept full.
//!
//! Linear probing in hash order, in one array without wrap-around: an entry stands at or behind its
//! home slot, and entries ascend by hash. The home of a hash is `hash * homes / 2^64`, which ascends
//! too, so growing is one sequential copy and may be by a tenth instead of doubling: at most 0.875
//! of the slots are in use and, but for the smallest tables, at least 0.79. An entry is 32 bytes, so
//! an entity takes 37 to 41.
//!
//! The tables of all key groups have about as many entries each. Lest they all grow within a moment,
//! each has sizes of its own: see [`Table::of_group`].
//!
//! Ordered hashing: Amble and Knuth, "Ordered hash tables", The Computer Journal 17(2), 1974.

use crate::checkpoint::marks::{Changed, Marks};
use crate::claim::{EntityHash, OrderKey, Position};

/// What an entity holds: an order key and a number that the owner of the table gives a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub order: OrderKey,
    /// Any number but `u32::MAX`.
    pub what: u32,
}

#[derive(Clone, Copy)]
struct Entry {
    /// The hash but for the ten bits that the key group has consumed and the last 23: 95 bits, with
    /// the key group 105. Two of 10^9 entities share them with a probability below 2 * 10^-14.
    hash_high: u64,
    /// Its last bit says whether the entry is marked as changed.
    hash_low: u32,
    what: u32,
    time_ns: i64,
    position: Position,
}

/// An entry's part of its entity's hash; the other is the key group.
pub type Key = (u64, u32);

const MARKED: u32 = 1;
const FREE: u32 = u32::MAX;
const EMPTY: Entry =
    Entry { hash_high: u64::MAX, hash_low: u32::MAX, what: FREE, time_ns: 0, position: Position::ZERO };

impl Entry {
    fn key(&self) -> Key {
        (self.hash_high, self.hash_low & !MARKED)
    }

    fn held(&self) -> Held {
        Held { order: OrderKey { time_ns: self.time_ns, position: self.position }, what: self.what }
    }
}

/// The entities of one key group.
#[derive(Default)]
pub struct Table {
    /// `homes` home slots and then room for those pushed past the end. The last slot is always free.
    slots: Vec<Entry>,
    homes: usize,
    len: usize,
    /// In 1,024ths: where its sizes lie between those of the first table and the tenth more that is next.
    phase: u16,
    marks: Marks<Key>,
}

/// Where an entity's entry is or would be; good until the table is changed otherwise.
#[derive(Clone, Copy)]
pub struct Slot {
    at: usize,
    key: Key,
}

impl Table {
    /// Free slots past the last home, and how many are added when a run at the end has used them up.
    const SLACK: usize = 24;

    /// From here on a table grows by a tenth; it doubles before.
    const SMALL: usize = 128;

    /// The table of that key group, without entries.
    pub fn of_group(group: usize) -> Self {
        Table { phase: (group % 1_024) as u16, ..Table::default() }
    }

    /// So many homes and, by the table's phase, up to a tenth more.
    fn phased(&self, homes: usize) -> usize {
        homes + homes * usize::from(self.phase) / 10_240
    }

    fn key(entity: EntityHash) -> Key {
        // The key group is the top ten bits of `high`; what follows is moved up into their place.
        ((entity.high << 10) | (entity.low >> 54), (entity.low >> 22) as u32 & !MARKED)
    }

    fn home(&self, hash_high: u64) -> usize {
        ((u128::from(hash_high) * self.homes as u128) >> 64) as usize
    }

    /// Reads the entry's home slot, so that the memory of several entities is on its way at once.
    pub fn touch(&self, entity: EntityHash) -> u32 {
        let (hash_high, _) = Self::key(entity);
        self.slots.get(self.home(hash_high)).map_or(0, |slot| slot.what)
    }

    /// Finds what the entity holds.
    pub fn find(&self, entity: EntityHash) -> Result<(Slot, Held), Slot> {
        self.find_key(Self::key(entity))
    }

    fn find_key(&self, key: Key) -> Result<(Slot, Held), Slot> {
        let mut at = self.home(key.0);
        while let Some(entry) = self.slots.get(at) {
            if entry.what == FREE || entry.key() > key {
                break;
            }
            if entry.key() == key {
                return Ok((Slot { at, key }, entry.held()));
            }
            at += 1;
        }
        Err(Slot { at, key })
    }

    /// Replaces what is held at a slot that [`Table::find`] has found.
    pub fn replace(&mut self, slot: Slot, held: Held) {
        let entry = &mut self.slots[slot.at];
        debug_assert!(entry.key() == slot.key && entry.what != FREE);
        entry.what = held.what;
        entry.time_ns = held.order.time_ns;
        entry.position = held.order.position;
        self.mark(slot);
    }

    /// Marks an entry whose owner has changed what stands behind it.
    pub fn mark(&mut self, slot: Slot) {
        let entry = &mut self.slots[slot.at];
        if entry.hash_low & MARKED == 0 {
            entry.hash_low |= MARKED;
            self.marks.mark(slot.key, self.len);
        }
    }

    /// Adds an entity that [`Table::find`] has not found.
    pub fn insert(&mut self, slot: Slot, held: Held) {
        let mut at = slot.at;
        if (self.len + 1) * 8 > self.homes * 7 {
            self.grow();
            at = self.place(slot.key);
        }
        // The next free slot takes the entry before it, and so on back to `at`. The last slot stays free.
        let run = self.slots[at..].iter().take_while(|entry| entry.what != FREE).count();
        let free = at + run;
        if free + 1 >= self.slots.len() {
            self.slots.reserve_exact(Self::SLACK);
            self.slots.resize(self.slots.len() + Self::SLACK, EMPTY);
        }
        self.slots.copy_within(at..free, at + 1);
        let (hash_high, hash_low) = (slot.key.0, slot.key.1 | MARKED);
        self.slots[at] =
            Entry { hash_high, hash_low, what: held.what, time_ns: held.order.time_ns, position: held.order.position };
        self.len += 1;
        self.marks.mark(slot.key, self.len);
    }

    /// Whether something has changed since the last [`Table::take_changed`].
    pub fn has_changed(&self) -> bool {
        self.marks.has_changed(self.len)
    }

    /// All entries are to be told by the next [`Table::take_changed`].
    pub fn mark_all(&mut self) {
        self.marks.mark_all();
    }

    /// Takes the entries that changed since the last call; whether these are all there are, and all that
    /// was told before is to be forgotten.
    pub fn take_changed(&mut self, mut each: impl FnMut(Key, Held)) -> bool {
        match self.marks.take(usize::from(self.phase), self.len) {
            Changed::Nothing => return false,
            Changed::Keys(keys) => {
                for key in keys {
                    if let Ok((slot, held)) = self.find_key(key) {
                        self.slots[slot.at].hash_low &= !MARKED;
                        each(key, held);
                    }
                }
                return false;
            }
            Changed::All => {}
        }
        for entry in self.slots.iter_mut().filter(|entry| entry.what != FREE) {
            entry.hash_low &= !MARKED;
            each(entry.key(), entry.held());
        }
        true
    }

    /// Puts back an entry that [`Table::take_changed`] has told; answers what was held before.
    pub fn restore(&mut self, key: Key, held: Held) -> Option<Held> {
        match self.find_key(key) {
            Ok((slot, before)) => {
                self.replace(slot, held);
                Some(before)
            }
            Err(slot) => {
                self.insert(slot, held);
                None
            }
        }
    }

    /// Makes room for so many entries, which are about to be restored.
    pub fn reserve(&mut self, entries: usize) {
        if entries * 8 / 7 > self.homes {
            self.resize(self.phased(entries * 8 / 7 + 1).max(16));
        }
    }

    /// All was restored: what is held is what was told, or there was more of it.
    pub fn restored(&mut self, more: bool) {
        self.slots.iter_mut().filter(|entry| entry.what != FREE).for_each(|entry| entry.hash_low &= !MARKED);
        self.marks.written();
        if more {
            self.marks.mark_all();
        }
    }

    /// What all entities hold.
    pub fn iter(&self) -> impl Iterator<Item = Held> + '_ {
        self.slots.iter().filter(|entry| entry.what != FREE).map(Entry::held)
    }

    /// How many entities hold something.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Keeps only the entities for which `keep` answers true; it may change what they hold. Gives back
    /// the memory of the others.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut Held) -> bool) {
        let (mut kept, mut changed) = (0, false);
        for entry in self.slots.iter_mut().filter(|entry| entry.what != FREE) {
            let mut held = entry.held();
            if keep(&mut held) {
                changed |= entry.what != held.what;
                entry.what = held.what;
                kept += 1;
            } else {
                entry.what = FREE;
            }
        }
        if changed || kept < self.len {
            self.marks.mark_all();
        }
        if kept == 0 {
            *self = Table { phase: self.phase, marks: std::mem::take(&mut self.marks), ..Table::default() };
        } else if kept < self.len {
            // As large as growing would have made it, and not smaller than what must fit.
            self.resize(self.phased(kept * 8 / 7 + 1).max(16));
        }
        self.len = kept;
    }

    fn place(&self, key: Key) -> usize {
        let mut at = self.home(key.0);
        while self.slots[at].what != FREE && self.slots[at].key() < key {
            at += 1;
        }
        at
    }

    fn grow(&mut self) {
        let homes = match self.homes * 2 {
            small if small < Self::SMALL => small.max(16),
            Self::SMALL => self.phased(Self::SMALL),
            _ => self.homes + self.homes.div_ceil(10),
        };
        self.resize(homes);
    }

    fn resize(&mut self, homes: usize) {
        let mut slots = vec![EMPTY; homes + Self::SLACK];
        let old = std::mem::take(&mut self.slots);
        self.homes = homes;
        let mut next = 0;
        for entry in old.into_iter().filter(|entry| entry.what != FREE) {
            let at = self.home(entry.hash_high).max(next);
            if at + 1 >= slots.len() {
                slots.resize(at + 2, EMPTY);
            }
            slots[at] = entry;
            next = at + 1;
        }
        self.slots = slots;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claim::HashKey;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn held(n: u32) -> Held {
        Held { order: OrderKey { time_ns: i64::from(n), position: Position::default() }, what: n }
    }

    /// A narrow range of hashes makes long runs and pushes entries past the last home.
    fn hash_of(entity: u16, narrow: bool) -> EntityHash {
        if narrow {
            EntityHash { high: u64::MAX << 10 | u64::from(entity), low: u64::from(entity) << 40 }
        } else {
            HashKey([1, 2]).entity(&[entity.to_le_bytes()])
        }
    }

    #[test]
    fn an_entry_takes_32_bytes() {
        assert_eq!(size_of::<Entry>(), 32);
    }

    #[test]
    fn a_large_table_is_kept_full() {
        let mut table = Table::default();
        for n in 0..50_000u32 {
            let entity = HashKey([7, 8]).entity(&[n.to_le_bytes()]);
            let slot = table.find(entity).err().expect("is new");
            table.insert(slot, held(n));
            if n > 2_000 {
                assert!(
                    table.slots.capacity() * 100 < table.len * 132,
                    "{} slots for {}",
                    table.slots.capacity(),
                    table.len
                );
            }
        }
    }

    proptest! {
        #[test]
        fn the_table_equals_a_hash_map(ops in prop::collection::vec((0u16..400, 0u32..1_000_000), 0..2_000), narrow in any::<bool>()) {
            let (mut table, mut model) = (Table::default(), HashMap::new());
            for (entity, what) in ops {
                if what < 2_000 {
                    // Some are given up, the others change what they hold.
                    let of = |what: u32| what % 3;
                    table.retain(|held| {
                                        held.what += 1;
                        of(held.what - 1) > 0
                    });
                    model.retain(|_, what| of(*what) > 0);
                    model.values_mut().for_each(|what| *what += 1);
                    prop_assert_eq!(table.len(), model.len());
                }
                let hash = hash_of(entity, narrow);
                match table.find(hash) {
                    Ok((slot, old)) => {
                        prop_assert_eq!(model.insert(entity, what), Some(old.what));
                        table.replace(slot, held(what));
                    }
                    Err(slot) => {
                        prop_assert_eq!(model.insert(entity, what), None);
                        table.insert(slot, held(what));
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.find(hash).ok().map(|(_, h)| h), Some(held(what)));
                for (entity, what) in model.iter().filter(|(entity, _)| **entity % 16 == 0) {
                    let found = table.find(hash_of(*entity, narrow)).ok().map(|(_, held)| held.what);
                    prop_assert_eq!(found, Some(*what));
                }
            }
        }
    }
}
