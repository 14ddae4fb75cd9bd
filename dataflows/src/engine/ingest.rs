//! The source operator: reads a worker's partitions of a job, decodes, judges, and sends on claims
//! or, where there is no entity, sums.

use crate::accounting::Class;
use crate::claim::{Claim, LineId, OrderKey, Position};
use crate::decode::{Decoder, Event};
use crate::engine::facts::{ClaimChanges, Fact, Newest, NewestRing, RecordChanges, Rejected};
use crate::engine::job::{Failure, Halt, Install, Job};
use crate::ids::{Offset, PartitionId};
use crate::jobs::tally::{Claims, Judged};
use crate::operators::extremes::Detail;
use crate::operators::tally::Sums;
use crate::record::RecordRef;
use crate::source::{Budget, PartitionSource, Source, Waker};
use std::time::{Duration, Instant};

/// What one turn of the source may read before other operators get theirs.
const BUDGET: Budget = Budget { records_max: 8_192, bytes_max: 2 << 20, until: Offset(u64::MAX) };

/// How long a partition that can't be read is left alone, and after how long the job gives up.
const TROUBLE_PAUSE: Duration = Duration::from_millis(200);
const TROUBLE_MAX: Duration = Duration::from_secs(60);

/// Reading that fails.
#[derive(Clone, Copy)]
struct Trouble {
    since: Instant,
    again: Instant,
}

/// What a turn has made.
#[derive(Default)]
pub struct Output {
    pub claims: Vec<Claim>,
    pub sums: Vec<(LineId, Sums)>,
    pub details: Vec<(LineId, Detail, i64)>,
    pub facts: Vec<Fact>,
}

/// A worker's part in reading a job's inputs.
pub struct Ingest {
    inputs: Vec<Input>,
    partitions: Vec<Partition>,
    /// Which partition has the next turn.
    turn: usize,
    newest: NewestRing,
}

/// One input: how its records become claims.
struct Input {
    decoder: Box<dyn Decoder>,
    claims: Claims,
    detailed: bool,
    /// Without an entity: by line what this turn adds, and the lines that it adds to.
    sums: Vec<Sums>,
    dirty: Vec<u32>,
    /// Likewise claims by subject.
    subjects: Vec<u64>,
}

struct Partition {
    input: usize,
    id: PartitionId,
    topic: String,
    reader: Option<Box<dyn PartitionSource>>,
    next: Offset,
    until: Option<Offset>,
    halt: Option<Offset>,
    /// While reading it fails in a way that may pass.
    trouble: Option<Trouble>,
    from_ms: Option<i64>,
    until_ms: Option<i64>,
    done: bool,
}

impl Ingest {
    /// Opens the partitions of worker `index` of `peers`. `waker` is called on arrivals.
    pub fn open(
        job: &Job,
        install: &Install,
        source: &dyn Source,
        (index, peers): (usize, usize),
        waker: Waker,
    ) -> Result<Self, Failure> {
        let mut inputs = Vec::new();
        let mut partitions = Vec::new();
        for (number, input) in install.inputs.iter().enumerate() {
            inputs.push(Input::new(job, install, number)?);
            for start in input.partitions.iter().filter(|p| p.partition.0 as usize % peers == index) {
                let reader = source.open(&input.topic, start.partition, start.from, waker.clone())?;
                partitions.push(Partition {
                    input: number,
                    id: start.partition,
                    topic: input.topic.clone(),
                    reader: Some(reader),
                    next: start.from,
                    until: start.until,
                    halt: None,
                    trouble: None,
                    from_ms: input.from_ms,
                    until_ms: input.until_ms,
                    done: false,
                });
            }
        }
        Ok(Ingest { inputs, partitions, turn: 0, newest: NewestRing::default() })
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
        let waits = self.partitions.iter().filter_map(|p| p.trouble);
        waits.map(|t| t.again.saturating_duration_since(Instant::now())).min()
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

    /// Reads up to a budget into `output`. Answers whether anything was read.
    pub fn read(&mut self, output: &mut Output) -> Result<bool, Failure> {
        let mut budget = BUDGET;
        let mut any = false;
        for _ in 0..self.partitions.len() {
            self.turn = (self.turn + 1) % self.partitions.len();
            let partition = &mut self.partitions[self.turn];
            if !partition.has_more() {
                continue;
            }
            any = true;
            let input = &mut self.inputs[partition.input];
            let read = partition.read(input, budget, output, &mut self.newest).map_err(|failure| Failure {
                position: Position::new(partition.input, partition.id, partition.next),
                ..failure
            })?;
            budget.records_max = budget.records_max.saturating_sub(read);
            if budget.records_max == 0 {
                break;
            }
        }
        for input in &mut self.inputs {
            input.flush(output);
        }
        output.facts.extend(self.newest.drain().map(Fact::Newest));
        Ok(any)
    }
}

impl Input {
    fn new(job: &Job, install: &Install, number: usize) -> Result<Self, Failure> {
        let formats = job.formats.as_ref();
        let claims = Claims::new(&install.spec, number, formats, job.hash_key).map_err(Failure::new)?;
        Ok(Input {
            decoder: formats.decoder(&install.spec.inputs[number].format, claims.needs()),
            claims,
            detailed: install.tally().is_detailed(),
            sums: Vec::new(),
            dirty: Vec::new(),
            subjects: Vec::new(),
        })
    }

    fn record(&mut self, position: Position, record: RecordRef<'_>, read: &mut Reading<'_>) {
        let mut event = Event::default();
        let judged = match self.decoder.decode(&record, &mut event) {
            Ok(decoded) => self.claims.judge(decoded, &event, &record),
            Err(reject) => Judged::Rejected(reject.0),
        };
        read.records.read += 1;
        match judged {
            Judged::Matched => {
                read.records.matched += 1;
                match self.claims.said.entity {
                    Some(entity) => read.output.claims.push(self.claims.claim(entity, position)),
                    None => self.count(position, read),
                }
            }
            Judged::Irrelevant(reason) => {
                read.records.irrelevant += 1;
                read.irrelevant = Some((position, reason));
                read.output.claims.extend(self.claims.replacement(position));
            }
            Judged::Rejected(reason) => {
                read.records.rejected += 1;
                read.rejected = Some((position, reason.to_string()));
                read.output.facts.push(Fact::Rejected(Rejected {
                    position,
                    timestamp_ms: record.timestamp_ms,
                    key: record.key.map(<[u8]>::to_vec),
                    value: record.value.map(<[u8]>::to_vec),
                    reason: reason.into_owned(),
                }));
            }
        }
    }

    /// Without an entity every claim counts: it is summed up here, before any exchange.
    fn count(&mut self, position: Position, read: &mut Reading<'_>) {
        let said = &self.claims.said;
        for (place, (_, line, value)) in said.adds.iter().enumerate() {
            let index = line.0 as usize;
            if index >= self.sums.len() {
                self.sums.resize(index + 1, Sums::default());
            }
            let sums = &mut self.sums[index];
            if sums.count == 0 {
                self.dirty.push(line.0);
            }
            sums.add(1, *value);
            if self.detailed {
                let order = OrderKey { time_ns: said.time_ns, position };
                let detail = Detail::new(order, place, *value, said.distinct.clone());
                read.output.details.push((self.claims.names.line_id(*line), detail, 1));
            }
        }
        if let Some(subject) = said.subject {
            let index = subject.0 as usize;
            if index >= self.subjects.len() {
                self.subjects.resize(index + 1, 0);
            }
            self.subjects[index] += 1;
        }
        read.newest.push(Class::Counted, position, None);
    }

    fn flush(&mut self, output: &mut Output) {
        output.facts.extend(self.claims.names.take_fresh());
        let names = &self.claims.names;
        for index in self.dirty.drain(..) {
            let sums = std::mem::take(&mut self.sums[index as usize]);
            output.sums.push((names.line_id(crate::jobs::names::LineIndex(index)), sums));
        }
        for (index, count) in self.subjects.iter_mut().enumerate().filter(|(_, count)| **count > 0) {
            let n = std::mem::take(count) as i64;
            let subject = names.subject_id(crate::jobs::names::SubjectIndex(index as u32));
            let changes = ClaimChanges { claims: n, counted: n, ..ClaimChanges::default() };
            output.facts.push(Fact::Claims { subject, changes });
        }
    }
}

/// One partition's read in progress.
struct Reading<'o> {
    output: &'o mut Output,
    newest: &'o mut NewestRing,
    records: RecordChanges,
    irrelevant: Option<(Position, &'static str)>,
    rejected: Option<(Position, String)>,
}

impl Partition {
    fn has_more(&self) -> bool {
        let bound = self.bound();
        let waits = self.trouble.is_some_and(|t| t.again > Instant::now());
        !self.done && !waits && self.reader.as_ref().is_some_and(|reader| self.next < bound.min(reader.end()))
    }

    /// The first offset that is not to be read now.
    fn bound(&self) -> Offset {
        self.until.unwrap_or(Offset(u64::MAX)).min(self.halt.unwrap_or(Offset(u64::MAX)))
    }

    fn read(
        &mut self,
        input: &mut Input,
        budget: Budget,
        output: &mut Output,
        newest: &mut NewestRing,
    ) -> Result<usize, Failure> {
        let budget = Budget { until: self.bound(), ..budget };
        let Some(reader) = &mut self.reader else { return Ok(0) };
        let mut reading =
            Reading { output, newest, records: RecordChanges::default(), irrelevant: None, rejected: None };
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
            // Nothing was lent and the position is as it was: try again in a while.
            Err(error) if error.retryable() && self.trouble.is_none_or(|t| t.since.elapsed() < TROUBLE_MAX) => {
                let since = self.trouble.map_or_else(Instant::now, |t| t.since);
                if self.trouble.is_none() {
                    tracing::warn!("{}/{} can't be read just now: {error}", self.topic, self.id);
                }
                self.trouble = Some(Trouble { since, again: Instant::now() + TROUBLE_PAUSE });
                return Ok(0);
            }
            Err(error) => return Err(error.into()),
        };
        self.trouble = None;
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
        let Reading { records, irrelevant, rejected, output, .. } = reading;
        if let Some((position, reason)) = irrelevant {
            let reason = Some(reason.to_owned());
            output.facts.push(Fact::Newest(Newest { class: Class::Irrelevant, position, other: None, reason }));
        }
        if let Some((position, reason)) = rejected {
            let reason = Some(reason);
            output.facts.push(Fact::Newest(Newest { class: Class::Rejected, position, other: None, reason }));
        }
        let (input, partition) = (self.input as u32, self.id);
        output.facts.push(Fact::Read { input, partition, next: self.next, end: polled.end, records });
        Ok(polled.records)
    }
}
