//! What lines are made of, as checkpoints keep it. A line that has changed is written whole.

use super::{Extreme, Extremes, Line};
use crate::checkpoint::marks::Changed;
use crate::checkpoint::{Grouped, Kind, put, take};
use crate::claim::LineId;

impl Grouped for Extremes {
    const KIND: Kind = Kind::Extremes;

    fn has_changed(&self, group: usize) -> bool {
        self.groups[group].marks.has_changed(self.groups[group].lines.len())
    }

    fn mark_all(&mut self, group: usize) {
        self.groups[group].marks.mark_all();
    }

    fn write(&mut self, group: usize, out: &mut Vec<u8>) -> bool {
        let of = &mut self.groups[group];
        let changed = of.marks.take(group, of.lines.len());
        of.marked.clear();
        match changed {
            Changed::Nothing => false,
            Changed::Keys(lines) => {
                let rows = lines.iter().map(|id| (id, of.lines.get(id)));
                rows.for_each(|row| put(out, &row));
                false
            }
            Changed::All => {
                of.lines.iter().for_each(|(id, line)| put(out, &(id, Some(line))));
                true
            }
        }
    }
}

impl Extremes {
    /// Puts back a key group from its frames, oldest first, and tells what its lines come to.
    pub fn restore<F: AsRef<[u8]>>(
        &mut self,
        group: usize,
        frames: impl Iterator<Item = Result<F, String>>,
    ) -> Result<Vec<(LineId, Extreme)>, String> {
        for frame in frames {
            let frame = frame?;
            let mut rest = frame.as_ref();
            while !rest.is_empty() {
                let (id, line): (LineId, Option<Line>) = take(&mut rest)?;
                match line {
                    Some(line) => drop(self.groups[group].lines.insert(id, line)),
                    None => drop(self.groups[group].lines.remove(&id)),
                }
            }
        }
        self.groups[group].marks.written();
        let ids: Vec<LineId> = self.groups[group].lines.keys().copied().collect();
        Ok(ids.into_iter().filter_map(|id| self.extreme(id).map(|extreme| (id, extreme))).collect())
    }
}
