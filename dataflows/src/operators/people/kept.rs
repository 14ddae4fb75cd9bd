//! What people have said, as checkpoints keep it.

use super::{People, Person, Said};
use crate::checkpoint::marks::Changed;
use crate::checkpoint::{Grouped, Kind, put, take};
use smallvec::SmallVec;

impl Grouped for People {
    const KIND: Kind = Kind::People;

    fn has_changed(&self, group: usize) -> bool {
        self.groups[group].marks.has_changed(self.groups[group].held.len())
    }

    fn mark_all(&mut self, group: usize) {
        self.groups[group].marks.mark_all();
    }

    fn write(&mut self, group: usize, out: &mut Vec<u8>) -> bool {
        let of = &mut self.groups[group];
        let changed = of.marks.take(group, of.held.len());
        of.marked.clear();
        match changed {
            Changed::Nothing => false,
            Changed::Keys(people) => {
                // Whoever is not there any more has said nothing.
                people.iter().for_each(|person| put(out, &(person, of.held.get(person).map_or(&[][..], |said| said))));
                false
            }
            Changed::All => {
                of.held.iter().for_each(|row| put(out, &row));
                true
            }
        }
    }
}

impl People {
    /// Puts back a key group from its frames, oldest first, but for what is said to subjects for which
    /// `is_kept` answers false.
    pub fn restore<F: AsRef<[u8]>>(
        &mut self,
        group: usize,
        frames: impl Iterator<Item = Result<F, String>>,
        is_kept: impl Fn(u64) -> bool,
    ) -> Result<(), String> {
        let of = &mut self.groups[group];
        for frame in frames {
            let frame = frame?;
            let mut rest = frame.as_ref();
            while !rest.is_empty() {
                let (person, said): (Person, SmallVec<[Said; 1]>) = take(&mut rest)?;
                if said.is_empty() {
                    of.held.remove(&person);
                } else {
                    of.held.insert(person, said);
                }
            }
        }
        of.marks.written();
        let held = of.held.len();
        of.held.retain(|person, _| is_kept(person.subject));
        if of.held.len() < held {
            of.marks.mark_all();
        }
        Ok(())
    }
}
