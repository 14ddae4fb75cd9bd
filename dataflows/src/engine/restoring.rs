//! What a worker goes on from: its key groups of a checkpoint.

use crate::checkpoint::Kind;
use crate::checkpoint::manifest::Loaded;
use crate::claim::{EntityHash, LineId};
use crate::crash;
use crate::engine::facts::{Fact, RecordChanges};
use crate::engine::job::{Failure, Job};
use crate::engine::told::{self, Row};
use crate::ids::{Epoch, Offset, PartitionId};
use crate::jobs::polls::book::Book;
use crate::operators::tally::Sums;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// See the module.
pub struct Restoring<'a> {
    loaded: Arc<Loaded>,
    /// Of a `polls` job, the subjects that the checkpoint has whole.
    settled: Option<HashSet<u64>>,
    index: usize,
    peers: usize,
    /// The epoch in which what is restored is told.
    pub epoch: Epoch,
    /// A sign of life of the worker.
    alive: &'a dyn Fn(),
}

/// What the source tells first.
#[derive(Default)]
pub struct Seeds {
    pub facts: Vec<Fact>,
    pub sums: Vec<(LineId, Sums)>,
}

impl<'a> Restoring<'a> {
    /// `None`: the job begins anew.
    pub fn of(
        job: &Job,
        epoch: Epoch,
        (index, peers): (usize, usize),
        alive: &'a dyn Fn(),
    ) -> Result<Option<Self>, Failure> {
        let Some(loaded) = job.from()? else { return Ok(None) };
        let settled = job
            .book()
            .map(|_| loaded.checkpoint.polls.iter().map(|poll| Book::subject_of(job.hash_key, poll)).collect());
        Ok(Some(Restoring { loaded, settled, index, peers, epoch, alive }))
    }

    /// Whether what is held for a subject is of use.
    pub fn is_kept(&self, subject: u64) -> bool {
        self.settled.as_ref().is_none_or(|settled| settled.contains(&subject))
    }

    /// Has each of the worker's key groups restored from its frames.
    pub fn each_group(
        &self,
        kind: Kind,
        mut restore: impl FnMut(usize, &mut dyn Iterator<Item = Result<Vec<u8>, String>>) -> Result<(), String>,
    ) -> Result<(), Failure> {
        for group in (self.index..EntityHash::KEY_GROUPS).step_by(self.peers) {
            (self.alive)();
            crash::point("restore::group");
            let mut frames = self.loaded.frames(kind, group).map(|frame| frame.map_err(|damaged| damaged.to_string()));
            restore(group, &mut frames).map_err(|why| {
                Failure::new(format!(
                    "checkpoint {} can't be read ({kind:?}, key group {group}: {why}); restart the job with `restart --ignore-state`",
                    self.loaded.number
                ))
            })?;
        }
        Ok(())
    }

    /// Where reading goes on; a partition that was not there then begins at its beginning.
    pub fn offsets(&self) -> HashMap<(usize, PartitionId), Offset> {
        let offsets = self.loaded.checkpoint.offsets.iter();
        offsets.map(|read| ((read.input as usize, read.partition), read.next)).collect()
    }

    /// What the job had told, to be told again.
    pub fn seeds(&self) -> Result<Seeds, Failure> {
        let mut seeds = Seeds::default();
        let mut records = self.loaded.checkpoint.records;
        if self.index == 0 {
            seeds.facts.extend(self.loaded.checkpoint.offsets.iter().map(|read| Fact::Read {
                input: read.input,
                partition: read.partition,
                next: read.next,
                end: read.end,
                records: std::mem::take::<RecordChanges>(&mut records),
            }));
        }
        self.each_group(Kind::Told, |_, frames| {
            for row in told::rows(frames)? {
                match row {
                    Row::Line { id, subject, group, sums } => {
                        // A line that is gone needs no name.
                        if sums == Sums::default() || !self.is_kept(id.subject) {
                            continue;
                        }
                        if self.settled.is_none() {
                            seeds.facts.push(Fact::LineName { id, subject, group });
                        }
                        seeds.sums.push((id, sums));
                    }
                    Row::Subject { id, name, claims } => {
                        if !self.is_kept(id) {
                            continue;
                        }
                        seeds.facts.extend(name.map(|name| Fact::SubjectName { id, name }));
                        seeds.facts.push(Fact::Claims { subject: id, changes: claims });
                    }
                }
            }
            Ok(())
        })?;
        Ok(seeds)
    }
}
