//! Reading the past again beside live reading, for a refill of polls.
//!
//! Each worker reads its own partitions a second time, from where the refill begins to where live reading
//! stood when it was asked for. Pieces are small, and the source takes one only when live reading has had
//! its turn.

use crate::claim::Position;
use crate::engine::facts::{Fact, NewestRing};
use crate::engine::ingest::{BUDGET_BESIDE, Output, Partition, open};
use crate::engine::input::{Input, Reading};
use crate::engine::trouble::Trouble;
use crate::ids::Offset;
use crate::jobs::polls::book::{Book, RefillPlan};
use crate::source::{Budget, PartitionSource, Source, SourceError, Waker};
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
    /// `None`: nothing of it is left to be read.
    reader: Option<Box<dyn PartitionSource>>,
    next: Offset,
    cut: Offset,
    waker: Waker,
    /// From here on records count.
    counted_from: Offset,
    trouble: Option<Trouble>,
}

impl Refilling {
    /// Opens second readers on the partitions that have something to be read again.
    /// `waker` is called once there is more to read of one that waits.
    pub fn open(plan: &RefillPlan, partitions: &[Partition], source: &dyn Source, waker: &Waker) -> Self {
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
        for (place, partition) in partitions.iter().enumerate() {
            let range = plan.ranges.get(partition.input).and_then(|input| input.get(partition.id.0 as usize));
            let Some((start, cut)) = range.copied().filter(|(start, cut)| start < cut) else { continue };
            let counted_from = plan.counted_from[partition.input][partition.id.0 as usize];
            let mut part = Part {
                partition: place,
                reader: None,
                next: start,
                cut,
                counted_from,
                waker: waker.clone(),
                trouble: None,
            };
            match part.open(partition, source) {
                Ok(()) => {
                    refilling.of += cut.0.saturating_sub(part.next.0);
                    refilling.parts.push(part);
                }
                Err(error) => refilling.failed = Some(error),
            }
        }
        refilling
    }

    /// Whether there is something to read now.
    pub fn has_more(&self) -> bool {
        self.failed.is_none() && self.parts.iter().any(Part::is_ready)
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
        (book, source): (&Book, &dyn Source),
        (worker, records_max): (usize, u64),
    ) -> bool {
        let refill = self.number;
        let mut told = false;
        if self.has_more() {
            let next = (1..=self.parts.len()).map(|step| (self.turn + step) % self.parts.len());
            let ready = |place: &usize| self.parts[*place].is_ready();
            self.turn = next.into_iter().find(ready).unwrap_or_default();
            let part = &mut self.parts[self.turn];
            let partition = &partitions[part.partition];
            let mut reading = Reading::new(output, newest, Some(book));
            reading.of_refill = Some(refill);
            match part.read(partition, &mut inputs[partition.input], &mut reading, source, records_max) {
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
    /// Opens its reader at `next`, or where the log begins now if nothing counts from what is gone.
    fn open(&mut self, partition: &Partition, source: &dyn Source) -> Result<(), SourceError> {
        let place = (partition.topic.as_str(), partition.incarnation, partition.id);
        let open = |from| open(source, place, from, self.waker.clone());
        self.reader = Some(match open(self.next) {
            Err(error) => {
                let Some(kept) = self.after_loss(&error) else { return Err(error) };
                self.next = kept;
                if kept >= self.cut {
                    return Ok(());
                }
                open(kept)?
            }
            opened => opened?,
        });
        Ok(())
    }

    /// Where to go on after this error; `None`: not at all.
    fn after_loss(&self, error: &SourceError) -> Option<Offset> {
        match error {
            SourceError::Gone { start, .. } if *start <= self.counted_from && *start < self.cut => Some(*start),
            SourceError::Gone { .. } if self.counted_from >= self.cut => Some(self.cut),
            _ => None,
        }
    }

    fn is_ready(&self) -> bool {
        self.waits().is_none()
            && (self.next >= self.cut || self.reader.as_ref().is_none_or(|reader| reader.has_more(self.next)))
    }

    /// How long until it may be tried again, where it failed.
    fn waits(&self) -> Option<Duration> {
        self.trouble.map(Trouble::rest).filter(|rest| !rest.is_zero())
    }

    fn read(
        &mut self,
        partition: &Partition,
        input: &mut Input,
        reading: &mut Reading<'_>,
        source: &dyn Source,
        records_max: u64,
    ) -> Result<u64, SourceError> {
        let before = self.next;
        if self.next >= self.cut {
            return Ok(0);
        }
        let Some(reader) = &mut self.reader else {
            self.open(partition, source)?;
            return Ok(0);
        };
        let until = self.cut.min(Offset(before.0 + records_max));
        let polled = reader.poll(Budget { until, ..BUDGET_BESIDE }, &mut |record| {
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
            Err(error) if self.after_loss(&error).is_some() => {
                self.reader = None;
                self.next = self.after_loss(&error).unwrap_or(self.cut);
                Ok(self.next.0 - before.0)
            }
            Err(error) => {
                self.trouble = Some(Trouble::after(self.trouble, &error).ok_or(error)?);
                Ok(0)
            }
        }
    }
}
