//! What entities hold, as checkpoints keep it.

use super::{Standing, What};
use crate::checkpoint::{Grouped, Kind, put, take};
use crate::claim::{LineId, More, OrderKey};
use crate::operators::extremes::Detail;
use crate::operators::lines::Lines;
use crate::operators::table::{Held, Key};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

/// An entity and what it holds. Times are differences to the frame's first.
#[derive(Serialize, Deserialize)]
struct Row {
    #[serde(with = "postcard::fixint::le")]
    high: u64,
    #[serde(with = "postcard::fixint::le")]
    low: u32,
    order: OrderKey,
    says: Says,
}

#[derive(Serialize, Deserialize)]
enum Says {
    /// The place of the line among the frame's.
    Line(u32),
    /// A subject, and what is beyond the common case.
    More(u64, Box<More>),
    /// Claims that stand side by side.
    Set(Vec<(OrderKey, Says)>),
}

/// The lines that a frame speaks of.
#[derive(Default)]
struct Dictionary {
    places: HashMap<u32, u32>,
    lines: Vec<LineId>,
}

impl Dictionary {
    fn place(&mut self, index: u32, lines: &Lines) -> u32 {
        *self.places.entry(index).or_insert_with(|| {
            self.lines.push(lines.id(index));
            self.lines.len() as u32 - 1
        })
    }
}

impl Grouped for Standing {
    const KIND: Kind = Kind::Standing;

    fn has_changed(&self, group: usize) -> bool {
        self.groups[group].has_changed()
    }

    fn mark_all(&mut self, group: usize) {
        self.groups[group].mark_all();
    }

    fn write(&mut self, group: usize, out: &mut Vec<u8>) -> bool {
        let mut table = std::mem::take(&mut self.groups[group]);
        let (mut dictionary, mut rows, mut count, mut first_ns) = (Dictionary::default(), Vec::new(), 0u32, None);
        let all = table.take_changed(|(high, low), held| {
            let first_ns = *first_ns.get_or_insert(held.order.time_ns);
            let order = OrderKey { time_ns: held.order.time_ns.wrapping_sub(first_ns), ..held.order };
            put(&mut rows, &Row { high, low, order, says: self.says(held, &mut dictionary) });
            count += 1;
        });
        self.groups[group] = table;
        put(out, &(dictionary.lines, first_ns.unwrap_or_default(), count));
        out.extend(rows);
        all
    }
}

impl Standing {
    fn says(&self, held: Held, dictionary: &mut Dictionary) -> Says {
        match What::unpack(held.what) {
            What::Line(index) => Says::Line(dictionary.place(index, &self.lines)),
            What::More(index) => {
                let (subject, more) = &self.more[index];
                Says::More(self.lines.subject_id(*subject), more.clone())
            }
            What::Set(index) => {
                let claims = self.sets[index].iter().map(|held| (held.order, self.says(*held, dictionary)));
                Says::Set(claims.collect())
            }
        }
    }

    /// Puts back a key group from its frames, oldest first, but for claims of subjects for which `is_kept`
    /// answers false. What stands and matters downstream one by one is among the changes then.
    pub fn restore<F: AsRef<[u8]>>(
        &mut self,
        group: usize,
        frames: impl Iterator<Item = Result<F, String>>,
        is_kept: impl Fn(u64) -> bool,
    ) -> Result<(), String> {
        let mut dropped = false;
        for frame in frames {
            let frame = frame?;
            let mut rest = frame.as_ref();
            let (lines, first_ns, count): (Vec<LineId>, i64, u32) = take(&mut rest)?;
            let lines: Vec<u32> = lines.into_iter().map(|line| self.lines.index(line)).collect();
            self.groups[group].reserve(count as usize);
            for _ in 0..count {
                let Row { high, low, order, says } = take(&mut rest)?;
                let order = OrderKey { time_ns: order.time_ns.wrapping_add(first_ns), ..order };
                let what = self.what(says, &lines)?;
                let held = Held { order, what: what.pack() };
                let subject = match what {
                    What::Set(index) => self.sets[index].first().copied(),
                    _ => Some(held),
                };
                let subject = subject.and_then(|claim| self.subject(claim));
                if subject.is_none_or(|subject| is_kept(self.lines.subject_id(subject))) {
                    if let Some(before) = self.groups[group].restore((high, low) as Key, held) {
                        self.forget(before);
                    }
                } else {
                    self.forget(held);
                    dropped = true;
                }
            }
        }
        self.groups[group].restored(dropped);
        if self.detailed {
            let all: Vec<Held> = self.groups[group].iter().collect();
            all.into_iter().for_each(|held| self.tell_details(held));
        }
        Ok(())
    }

    fn what(&mut self, says: Says, lines: &[u32]) -> Result<What, String> {
        Ok(match says {
            Says::Line(place) => What::Line(*lines.get(place as usize).ok_or("a line that the frame does not name")?),
            Says::More(subject, more) => What::More(self.more.insert((self.lines.subject_index(subject), more))),
            Says::Set(claims) => {
                let mut set = Vec::with_capacity(claims.len());
                for (order, says) in claims {
                    set.push(Held { order, what: self.what(says, lines)?.pack() });
                }
                What::Set(self.sets.insert(set))
            }
        })
    }

    /// Gives up what stands behind an entry.
    pub(super) fn forget(&mut self, held: Held) {
        if let What::Set(index) = What::unpack(held.what) {
            let set = std::mem::take(&mut self.sets[index]);
            set.into_iter().for_each(|held| self.release(held));
            self.sets.remove(index);
        }
        self.release(held);
    }

    fn tell_details(&mut self, held: Held) {
        match What::unpack(held.what) {
            What::Line(_) => {}
            What::Set(index) => self.sets[index].clone().into_iter().for_each(|held| self.tell_details(held)),
            What::More(index) => {
                let (subject, more) = &self.more[index];
                let subject = self.lines.subject_id(*subject);
                for (place, add) in more.adds.iter().enumerate() {
                    let detail = Detail::new(held.order, place, add.value, more.distinct.clone());
                    self.changed.details.push((LineId { subject, group: add.group }, detail, 1));
                }
            }
        }
    }
}
