//! Reading the past again beside live reading, for a refill of polls.
//!
//! Each worker reads its own partitions a second time, from where the refill begins to where live reading
//! stood when it was asked for. Pieces are small, and the source takes one only when live reading has had
//! its turn.

use crate::claim::Position;
use crate::engine::facts::{Fact, NewestRing};
use crate::engine::ingest::{BUDGET_BESIDE, Output, Partition};
use crate::engine::input::{Input, Reading};
use crate::engine::trouble::Trouble;
use crate::ids::Offset;
use crate::jobs::polls::book::{Book, RefillPlan};
use crate::source::{Budget, PartitionSource, Source, SourceError, Waker};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often progress is told.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// A worker's part in a refill.
pub struct Refilling {
    pub number: u64,
    parts: Vec<Part>,
    turn: usize,
    read: u64,
    of: u64,
    told_at: Instant,
    /// Its end, good or bad, was told.
    over: bool,
    failed: Option<SourceError>,
}

struct Part {
    /// The place of the partition among the worker's.
    partition: usize,
    reader: Box<dyn PartitionSource>,
    next: Offset,
    cut: Offset,
    trouble: Option<Trouble>,
}

impl Refilling {
    /// Opens second readers on the partitions that have something to be read again.
    pub fn open(plan: &RefillPlan, partitions: &[Partition], source: &dyn Source) -> Self {
        let mut refilling = Refilling {
            number: plan.number,
            parts: Vec::new(),
            turn: 0,
            read: 0,
            of: 0,
            told_at: Instant::now(),
            over: false,
            failed: None,
        };
        let idle: Waker = Arc::new(|| {});
        for (place, partition) in partitions.iter().enumerate() {
            let range = plan.ranges.get(partition.input).and_then(|input| input.get(partition.id.0 as usize));
            let Some((start, cut)) = range.copied().filter(|(start, cut)| start < cut) else { continue };
            let open =
                |from| source.open(&partition.topic, partition.id, from, idle.clone()).map(|reader| (from, reader));
            let counted_from = plan.counted_from[partition.input][partition.id.0 as usize];
            let opened = match open(start) {
                // Nothing is counted from what is gone.
                Err(SourceError::Gone { start: kept, .. }) if kept <= counted_from && kept < cut => open(kept),
                Err(SourceError::Gone { .. }) if counted_from >= cut => continue,
                opened => opened,
            };
            match opened {
                Ok((next, reader)) => {
                    refilling.of += cut.0 - next.0;
                    refilling.parts.push(Part { partition: place, reader, next, cut, trouble: None });
                }
                Err(error) => refilling.failed = Some(error),
            }
        }
        refilling
    }

    /// Whether there is something to read now.
    pub fn has_more(&self) -> bool {
        self.failed.is_none() && self.parts.iter().any(|part| part.waits().is_none())
    }

    /// How long until a part that could not be read is tried again, if one waits for that.
    pub fn retry_after(&self) -> Option<Duration> {
        self.parts.iter().filter_map(Part::waits).min()
    }

    /// Reads a piece of so many records at most. Answers whether there is something to tell.
    pub fn read(
        &mut self,
        partitions: &[Partition],
        inputs: &mut [Input],
        output: &mut Output,
        newest: &mut NewestRing,
        book: &Book,
        (worker, records_max): (usize, u64),
    ) -> bool {
        let refill = self.number;
        let mut told = false;
        if self.has_more() {
            let next = (1..=self.parts.len()).map(|step| (self.turn + step) % self.parts.len());
            let ready = |place: &usize| self.parts[*place].waits().is_none();
            self.turn = next.into_iter().find(ready).unwrap_or_default();
            let part = &mut self.parts[self.turn];
            let partition = &partitions[part.partition];
            let mut reading = Reading::new(output, newest, Some(book));
            reading.of_refill = Some(refill);
            match part.read(partition, &mut inputs[partition.input], &mut reading, records_max) {
                Ok(read) => {
                    self.read += read;
                    told = read > 0;
                    if part.next >= part.cut {
                        self.parts.swap_remove(self.turn);
                    }
                }
                Err(error) => self.failed = Some(error),
            }
            reading.finish();
        }
        if let Some(error) = self.failed.as_ref().filter(|_| !self.over) {
            output.facts.push(Fact::RefillFailed { refill, error: error.to_string() });
        } else if !self.over && self.parts.is_empty() {
            output.facts.push(Fact::Refilled { refill });
        } else if !self.over && self.told_at.elapsed() > TOLD_EVERY {
            self.told_at = Instant::now();
            output.facts.push(Fact::Refilling { refill, worker, records: self.read, of: self.of });
            return true;
        } else {
            return told;
        }
        self.over = true;
        true
    }
}

impl Part {
    /// How long until it may be tried again, where it failed.
    fn waits(&self) -> Option<Duration> {
        self.trouble.map(Trouble::rest).filter(|rest| !rest.is_zero())
    }

    fn read(
        &mut self,
        partition: &Partition,
        input: &mut Input,
        reading: &mut Reading<'_>,
        records_max: u64,
    ) -> Result<u64, SourceError> {
        let before = self.next;
        let until = self.cut.min(Offset(before.0 + records_max));
        let polled = self.reader.poll(Budget { until, ..BUDGET_BESIDE }, &mut |record| {
            if partition.from_ms.is_some_and(|from| record.timestamp_ms < from) {
                return;
            }
            if let Some(position) = Position::new(partition.input, partition.id, record.offset) {
                input.record(position, record, reading);
            }
        });
        match polled {
            Ok(polled) => {
                self.trouble = None;
                self.next = polled.next;
                Ok(polled.next.0 - before.0)
            }
            Err(error) => {
                self.trouble = Some(Trouble::after(self.trouble, &error).ok_or(error)?);
                Ok(0)
            }
        }
    }
}
