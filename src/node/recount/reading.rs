//! Reading a job's records again beside the job: in pieces, at a pace that leaves room for the job, and
//! only as long as somebody wants to know.

use crate::node::job::{Job, JobState, Plan, RecountProgress};
use crate::node::{Node, RecountError};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tallyflow_connectors::log::RangeReader;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::recount::Passes;
use tallyflow_dataflows::recount::why::At;
use tallyflow_dataflows::source::{Budget, SourceError};

/// What one read of the log hands over.
const BUDGET: Budget = Budget { records_max: 10_000, bytes_max: 8 << 20, until: Offset(u64::MAX) };
/// For so much work there is a rest as long as one part of it.
const REST: u32 = 4;

/// A job whose records are being read; no second such reading of it begins meanwhile.
pub(super) struct Turn<'a> {
    job: Arc<Job>,
    /// It was cancelled before, and its log is there all the same.
    had_ended: bool,
    stop: &'a AtomicBool,
}

impl<'a> Turn<'a> {
    /// Takes the job's turn; it ends when this is dropped. `stop` breaks the reading off.
    pub fn take(job: &Arc<Job>, stop: &'a AtomicBool) -> Result<Turn<'a>, RecountError> {
        if !job.begin_recount() {
            return Err(RecountError::UnderWay { job: job.name().to_owned() });
        }
        Ok(Turn { job: job.clone(), had_ended: job.state() == JobState::Cancelled, stop })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.job.set_recount(None);
    }
}

/// The records that a job's numbers stand for.
pub(super) struct Records<'a> {
    node: &'a Node,
    turn: &'a Turn<'a>,
    plan: &'a Plan,
    /// By input and partition, where they begin and end.
    places: Vec<Vec<(Offset, Offset)>>,
    /// How many they are.
    of: u64,
    /// How many were read, in all passes.
    total: Cell<u64>,
}

impl<'a> Records<'a> {
    /// Those from where the job began, or from other offsets, to `next`, by input and partition.
    pub fn new(
        node: &'a Node,
        turn: &'a Turn<'a>,
        plan: &'a Plan,
        (from, next): (Option<&Vec<Vec<Offset>>>, &[Vec<Offset>]),
    ) -> Records<'a> {
        let began = || plan.inputs.iter().map(|input| input.partitions.iter().map(|start| start.from).collect());
        let from: Vec<Vec<Offset>> = from.cloned().unwrap_or_else(|| began().collect());
        let places: Vec<Vec<(Offset, Offset)>> = from
            .into_iter()
            .zip(next)
            .map(|(from, next)| from.into_iter().zip(next.iter().copied()).collect())
            .collect();
        let of = places.iter().flatten().map(|(from, next)| next.0.saturating_sub(from.0)).sum();
        Records { node, turn, plan, places, of, total: Cell::new(0) }
    }

    /// Where the records of a partition begin and end; `None` where the input has no such partition.
    pub fn bounds(&self, input: usize, partition: PartitionId) -> Option<(Offset, Offset)> {
        let at = self.plan.inputs.get(input)?.partitions.iter().position(|start| start.partition == partition)?;
        self.places.get(input)?.get(at).copied()
    }

    /// Reads all of them, with the place of each one's input.
    pub fn read(&self, passes: Passes, mut each: impl FnMut(usize, &RecordRef<'_>)) -> Result<(), RecountError> {
        let mut read = 0;
        for (number, (input, places)) in self.plan.inputs.iter().zip(&self.places).enumerate() {
            for (start, (from, next)) in input.partitions.iter().zip(places) {
                self.read_partition(
                    number,
                    start.partition,
                    (*from, *next),
                    |records| self.tell(passes, read + records),
                    &mut each,
                )?;
                read += next.0.saturating_sub(from.0);
            }
        }
        self.tell(passes, read);
        Ok(())
    }

    /// How many records were read, in all passes.
    pub fn total(&self) -> u64 {
        self.total.get()
    }

    /// Reads one record; `look` is not called where there is none that the input takes.
    pub fn one(&self, at: At, mut look: impl FnMut(&RecordRef<'_>)) -> Result<(), RecountError> {
        let until = Offset(at.offset.0.saturating_add(1));
        let mut each = |_, record: &RecordRef<'_>| {
            if record.offset == at.offset {
                look(record);
            }
        };
        self.read_partition(at.input, at.partition, (at.offset, until), |_| (), &mut each)
    }

    fn read_partition(
        &self,
        number: usize,
        partition: PartitionId,
        (from, next): (Offset, Offset),
        tell: impl Fn(u64),
        each: &mut impl FnMut(usize, &RecordRef<'_>),
    ) -> Result<(), RecountError> {
        if from >= next {
            return Ok(());
        }
        let input = &self.plan.inputs[number];
        let bounds = (from, next);
        let topic = (input.topic.as_str(), input.incarnation);
        let mut source = RangeReader::open(self.node.log.as_ref(), topic, partition, bounds).map_err(unreadable)?;
        loop {
            self.go_on()?;
            let begun = Instant::now();
            let polled = source.read(BUDGET, &mut |record| {
                let too_early = input.from_ms.is_some_and(|from| record.timestamp_ms < from);
                if !too_early {
                    each(number, &record);
                }
            });
            let Some(polled) = polled.map_err(unreadable)? else { return Ok(()) };
            self.total.set(self.total.get() + polled.records as u64);
            tell(polled.next.0 - from.0);
            if polled.records > 0 {
                std::thread::sleep(begun.elapsed() / REST);
            }
        }
    }

    /// Whether somebody still wants to know.
    fn go_on(&self) -> Result<(), RecountError> {
        let job = &self.turn.job;
        let why = if self.node.is_stopping() {
            "the server is being stopped"
        } else if self.turn.stop.load(Ordering::Acquire) {
            "nobody waits for it any more"
        } else if job.is_replaced() || (job.state() == JobState::Cancelled && !self.turn.had_ended) {
            "the job was cancelled"
        } else {
            return Ok(());
        };
        Err(RecountError::BrokenOff { job: job.name().to_owned(), why })
    }

    fn tell(&self, Passes { pass, passes }: Passes, records: u64) {
        self.turn.job.set_recount(Some(RecountProgress { records, of: self.of, pass, passes }));
    }
}

fn unreadable(error: SourceError) -> RecountError {
    match error {
        SourceError::Gone { .. } | SourceError::CutShort { .. } => RecountError::Gone(error),
        SourceError::Away(_) => RecountError::Away(error),
        error => RecountError::Failed(error.to_string()),
    }
}
