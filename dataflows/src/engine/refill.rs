//! Reading the past again beside live reading, for a refill of polls.
//!
//! Each worker reads its own partitions a second time, from where the refill begins to where live reading
//! stood when it was asked for. Pieces are small, and the source takes one only when live reading has had
//! its turn.

use crate::claim::Position;
use crate::engine::facts::{Fact, NewestRing};
use crate::engine::ingest::{BUDGET_BESIDE, Output, Partition};
use crate::engine::input::{Input, Reading};
use crate::ids::Offset;
use crate::jobs::polls::book::{Book, RefillPlan};
use crate::source::{Budget, PartitionSource, Source, SourceError, Waker};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often progress is told.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// How long a partition that can't be read is left alone, and after how long the refill gives up.
const TROUBLE_PAUSE: Duration = Duration::from_millis(200);
const TROUBLE_MAX: Duration = Duration::from_secs(60);

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
    trouble: Option<(Instant, Instant)>,
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

    /// Whether there is something left to read.
    pub fn has_more(&self) -> bool {
        self.failed.is_none() && !self.parts.is_empty()
    }

    /// Reads a piece. Answers whether there is something to tell.
    pub fn read(
        &mut self,
        partitions: &[Partition],
        inputs: &mut [Input],
        output: &mut Output,
        newest: &mut NewestRing,
        book: &Book,
        worker: usize,
    ) -> bool {
        let refill = self.number;
        let mut told = false;
        if self.has_more() {
            self.turn = (self.turn + 1) % self.parts.len();
            let part = &mut self.parts[self.turn];
            let partition = &partitions[part.partition];
            let mut reading = Reading::new(output, newest, Some(book));
            reading.of_refill = Some(refill);
            match part.read(partition, &mut inputs[partition.input], &mut reading) {
                Ok(read) => {
                    self.read += read;
                    told = true;
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
    fn read(
        &mut self,
        partition: &Partition,
        input: &mut Input,
        reading: &mut Reading<'_>,
    ) -> Result<u64, SourceError> {
        if self.trouble.is_some_and(|(_, again)| again > Instant::now()) {
            return Ok(0);
        }
        let before = self.next;
        let polled = self.reader.poll(Budget { until: self.cut, ..BUDGET_BESIDE }, &mut |record| {
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
                let since = self.trouble.map_or_else(Instant::now, |(since, _)| since);
                if !error.retryable() || since.elapsed() > TROUBLE_MAX {
                    return Err(error);
                }
                self.trouble = Some((since, Instant::now() + TROUBLE_PAUSE));
                Ok(0)
            }
        }
    }
}
