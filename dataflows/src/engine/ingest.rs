//! The source operator: reads a worker's partitions of a job, decodes, judges, and sends on claims
//! or, where there is no entity, sums.

use crate::claim::{Claim, LineId, Position};
use crate::engine::facts::{Fact, NewestRing, RecordChanges};
use crate::engine::input::{Input, Reading};
use crate::engine::job::{Failure, Halt, Install, Job};
use crate::engine::refill::Refilling;
use crate::engine::trouble::Trouble;
use crate::ids::{Offset, PartitionId};
use crate::jobs::polls::book::Book;
use crate::operators::extremes::Detail;
use crate::operators::messages::Version;
use crate::operators::tally::Sums;
use crate::source::{Budget, PartitionSource, Source, SourceError, Waker};
use std::collections::HashMap;
use std::time::Duration;

/// What one turn of the source may read before other operators get theirs.
const BUDGET: Budget = Budget { records_max: 8_192, bytes_max: 2 << 20, until: Offset(u64::MAX) };

/// Likewise of what must not keep others waiting: less than a millisecond's work.
pub const BUDGET_BESIDE: Budget = Budget { records_max: 512, bytes_max: 256 << 10, until: Offset(u64::MAX) };

/// What a turn has made.
#[derive(Default)]
pub struct Output {
    pub claims: Vec<Claim>,
    pub messages: Vec<Version>,
    pub sums: Vec<(LineId, Sums)>,
    pub details: Vec<(LineId, Detail, i64)>,
    pub facts: Vec<Fact>,
    /// Partitions that are waited for from now on, by input, and why; `None`: they are read again.
    pub waits: Vec<(u32, PartitionId, Option<String>)>,
}

/// A worker's part in reading a job's inputs.
pub struct Ingest {
    inputs: Vec<Input>,
    partitions: Vec<Partition>,
    /// Which partition has the next turn.
    turn: usize,
    newest: NewestRing,
    /// Reading the past beside, of a `polls` job.
    refilling: Option<Refilling>,
    waker: Waker,
}

/// One partition of an input.
pub struct Partition {
    pub input: usize,
    pub id: PartitionId,
    pub topic: String,
    pub incarnation: Option<u64>,
    reader: Option<Box<dyn PartitionSource>>,
    next: Offset,
    until: Option<Offset>,
    halt: Option<Offset>,
    /// While reading it fails in a way that may pass.
    trouble: Option<(Trouble, SourceError)>,
    pub from_ms: Option<i64>,
    until_ms: Option<i64>,
    done: bool,
}

impl Ingest {
    /// Opens the partitions of worker `index` of `peers`, at `from` where that names them. `waker` is called on arrivals.
    pub fn open(
        job: &Job,
        install: &Install,
        source: &dyn Source,
        (index, peers): (usize, usize),
        waker: Waker,
        from: &HashMap<(usize, PartitionId), Offset>,
    ) -> Result<Self, Failure> {
        let mut inputs = Vec::new();
        let mut partitions = Vec::new();
        for (number, input) in install.inputs.iter().enumerate() {
            inputs.push(Input::new(job, install, number)?);
            for start in input.partitions.iter().filter(|p| p.partition.0 as usize % peers == index) {
                let from = from.get(&(number, start.partition)).copied().unwrap_or(start.from);
                let place = (input.topic.as_str(), input.incarnation, start.partition);
                let reader = open(source, place, from, waker.clone())?;
                partitions.push(Partition {
                    input: number,
                    id: start.partition,
                    topic: input.topic.clone(),
                    incarnation: input.incarnation,
                    reader: Some(reader),
                    next: from,
                    until: start.until,
                    halt: None,
                    trouble: None,
                    from_ms: input.from_ms,
                    until_ms: input.until_ms,
                    done: false,
                });
            }
        }
        Ok(Ingest { inputs, partitions, turn: 0, newest: NewestRing::default(), refilling: None, waker })
    }

    /// Where each partition stands, for the first epoch: so that a job without records has offsets.
    pub fn positions(&self) -> impl Iterator<Item = Fact> + '_ {
        self.partitions.iter().map(|p| Fact::Read {
            input: p.input as u32,
            partition: p.id,
            next: p.next,
            end: p.reader.as_ref().map_or(p.next, |r| r.end()),
            records: RecordChanges::default(),
        })
    }

    /// Whether there is something to read now.
    pub fn has_more(&self) -> bool {
        self.partitions.iter().any(Partition::has_more)
    }

    /// How long until a partition that could not be read is tried again, if one waits for that.
    pub fn retry_after(&self) -> Option<Duration> {
        let live = self.partitions.iter().filter_map(|p| p.trouble.as_ref()).map(|(trouble, _)| trouble.rest());
        live.chain(self.refilling.as_ref().and_then(Refilling::retry_after)).min()
    }

    /// Bounds what is read from now on; without a halt only the job's own bounds hold.
    pub fn halt(&mut self, halt: Option<&Halt>) {
        for partition in &mut self.partitions {
            partition.halt = halt.map(|halt| match &halt.until {
                None => partition.next,
                Some(until) => {
                    until.get(partition.input).and_then(|i| i.get(partition.id.0 as usize)).copied().unwrap_or_default()
                }
            });
        }
    }

    /// Whether everything up to the halt was read.
    pub fn is_halted(&self) -> bool {
        // The job's own bound may lie before the halt, even at the partition's start.
        let reached = |p: &Partition| p.done || p.halt.is_some() && p.next >= p.bound();
        self.partitions.iter().all(reached)
    }

    /// Reads up to a budget into `output`; a `polls` job by its polls. Answers whether anything was read.
    pub fn read(&mut self, output: &mut Output, book: Option<&Book>, beside: bool) -> Result<bool, Failure> {
        let mut budget = if beside { BUDGET_BESIDE } else { BUDGET };
        let mut any = false;
        for _ in 0..self.partitions.len() {
            self.turn = (self.turn + 1) % self.partitions.len();
            let partition = &mut self.partitions[self.turn];
            if !partition.has_more() {
                continue;
            }
            any = true;
            let input = &mut self.inputs[partition.input];
            let read =
                partition.read(input, budget, Reading::new(output, &mut self.newest, book)).map_err(|failure| {
                    Failure { position: Position::new(partition.input, partition.id, partition.next), ..failure }
                })?;
            budget.records_max = budget.records_max.saturating_sub(read);
            if budget.records_max == 0 {
                break;
            }
        }
        self.flush(output);
        Ok(any)
    }

    /// Reads a piece of the past that a refill wants, of so many records at most. Answers whether there is more to read, and whether
    /// there was something to tell.
    pub fn refill(
        &mut self,
        output: &mut Output,
        book: &Book,
        source: &dyn Source,
        (worker, records_max): (usize, u64),
    ) -> (bool, bool) {
        let number = book.refill().map(|plan| plan.number);
        if number != self.refilling.as_ref().map(|refilling| refilling.number) {
            self.refilling = book.refill().map(|plan| Refilling::open(plan, &self.partitions, source, &self.waker));
        }
        let Some(refilling) = &mut self.refilling else { return (false, false) };
        let told = refilling.read(
            &self.partitions,
            &mut self.inputs,
            output,
            &mut self.newest,
            (book, source),
            (worker, records_max),
        );
        let more = refilling.has_more();
        if told {
            self.flush(output);
        }
        (more, told)
    }

    fn flush(&mut self, output: &mut Output) {
        for input in &mut self.inputs {
            input.flush(output);
        }
        output.facts.extend(self.newest.drain().map(Fact::Newest));
    }
}

/// Opens a partition of a topic, of its incarnation where that is known.
pub fn open(
    source: &dyn Source,
    (topic, incarnation, partition): (&str, Option<u64>, PartitionId),
    from: Offset,
    waker: Waker,
) -> Result<Box<dyn PartitionSource>, SourceError> {
    match incarnation {
        Some(incarnation) => source.open_same(topic, incarnation, partition, from, waker),
        None => source.open(topic, partition, from, waker),
    }
}

impl Partition {
    fn has_more(&self) -> bool {
        let waits = self.trouble.as_ref().is_some_and(|(trouble, _)| !trouble.rest().is_zero());
        !self.done
            && !waits
            && self.next < self.bound()
            && self.reader.as_ref().is_some_and(|reader| reader.has_more(self.next))
    }

    /// The first offset that is not to be read now.
    fn bound(&self) -> Offset {
        self.until.unwrap_or(Offset(u64::MAX)).min(self.halt.unwrap_or(Offset(u64::MAX)))
    }

    fn read(&mut self, input: &mut Input, budget: Budget, mut reading: Reading<'_>) -> Result<usize, Failure> {
        let budget = Budget { until: self.bound(), ..budget };
        let Some(reader) = &mut self.reader else { return Ok(0) };
        let book = reading.book;
        let (from_ms, until_ms) = (self.from_ms, self.until_ms);
        let (mut stopped, mut beyond) = (None, false);
        let polled = reader.poll(budget, &mut |record| {
            if stopped.is_some() {
                return;
            }
            if until_ms.is_some_and(|until| record.timestamp_ms >= until) {
                stopped = Some(record.offset);
                return;
            }
            if from_ms.is_some_and(|from| record.timestamp_ms < from) {
                return;
            }
            match Position::new(self.input, self.id, record.offset) {
                Some(position) => input.record(position, record, &mut reading),
                None => {
                    beyond = true;
                    stopped = Some(record.offset);
                }
            }
        });
        let polled = match polled {
            Ok(polled) => polled,
            // Nothing was lent and the position is as it was.
            Err(error) => {
                let before = self.trouble.as_ref().map(|(trouble, _)| *trouble);
                let trouble = Trouble::after(before, &error).ok_or_else(|| Failure::from(error.clone()))?;
                if before.is_none() {
                    tracing::warn!("{}/{} can't be read just now: {error}", self.topic, self.id);
                }
                if self.trouble.as_ref().is_none_or(|(_, known)| *known != error) {
                    reading.output.waits.push((self.input as u32, self.id, Some(error.to_string())));
                }
                self.trouble = Some((trouble, error));
                return Ok(0);
            }
        };
        if self.trouble.take().is_some() {
            tracing::info!("{}/{} is read again", self.topic, self.id);
            reading.output.waits.push((self.input as u32, self.id, None));
        }
        if beyond {
            return Err(Failure::new(format!(
                "{}/{} goes beyond offset {}, the last that a job can count",
                self.topic,
                self.id,
                Offset::MAX
            )));
        }
        self.next = stopped.unwrap_or(polled.next);
        self.done = stopped.is_some() || self.until.is_some_and(|until| self.next >= until);
        if let Some(book) = book {
            book.reached(self.input, self.id, self.next);
        }
        let (output, records) = reading.finish();
        let (input, partition) = (self.input as u32, self.id);
        output.facts.push(Fact::Read { input, partition, next: self.next, end: polled.end, records });
        Ok(polled.records)
    }
}
