//! What messages hold, as checkpoints keep it.

use super::{Messages, Version, What};
use crate::checkpoint::{Grouped, Kind, put, take};
use crate::claim::OrderKey;
use crate::operators::table::{Held, Key};
use serde::{Deserialize, Serialize};

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
    /// As [`What::Silent`] is packed.
    Silent(u32),
    Versions(Vec<Version>),
}

impl Grouped for Messages {
    const KIND: Kind = Kind::Messages;

    fn has_changed(&self, group: usize) -> bool {
        self.groups[group].has_changed()
    }

    fn mark_all(&mut self, group: usize) {
        self.groups[group].mark_all();
    }

    fn write(&mut self, group: usize, out: &mut Vec<u8>) -> bool {
        let (mut rows, mut count) = (Vec::new(), 0u32);
        let versions = &self.versions;
        let all = self.groups[group].take_changed(|(high, low), held| {
            let says = match What::unpack(held.what) {
                What::Silent { .. } => Says::Silent(held.what),
                What::Versions(index) => Says::Versions(versions[index].clone()),
            };
            put(&mut rows, &Row { high, low, order: held.order, says });
            count += 1;
        });
        put(out, &count);
        out.extend(rows);
        all
    }
}

impl Messages {
    /// Puts back a key group from its frames, oldest first, but for what is said to subjects for which
    /// `is_kept` answers false.
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
            let count: u32 = take(&mut rest)?;
            self.groups[group].reserve(count as usize);
            for _ in 0..count {
                let Row { high, low, order, says } = take(&mut rest)?;
                let what = match says {
                    Says::Silent(what) => what,
                    Says::Versions(mut versions) => {
                        for version in &mut versions {
                            let said = version.lines.len();
                            version.lines.retain(|line| is_kept(line.subject));
                            dropped |= version.lines.len() < said;
                        }
                        self.versions.insert(versions) | 1 << 30
                    }
                };
                let before = self.groups[group].restore((high, low) as Key, Held { order, what });
                if let Some(What::Versions(index)) = before.map(|held| What::unpack(held.what)) {
                    self.versions.remove(index);
                }
            }
        }
        self.groups[group].restored(dropped);
        Ok(())
    }
}
