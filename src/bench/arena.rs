//! Records in memory, so that a benchmark measures the path behind the log and not the log.

use std::sync::Arc;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::source::{
    Budget, PartitionSource, PartitionState, Polled, Source, SourceError, TopicState, Waker,
};

/// One topic's records, by partition, one after another in one piece of memory.
#[derive(Default)]
pub struct Arena {
    pub topic: String,
    pub partitions: Vec<Partition>,
}

/// A partition: its bytes, and where each record ends.
#[derive(Default)]
pub struct Partition {
    pub bytes: Vec<u8>,
    pub ends: Vec<usize>,
}

/// The log timestamp of every record: after all event times of the workloads.
pub const LOGGED_MS: i64 = 4_000_000_000_000;

impl Partition {
    fn record(&self, number: PartitionId, index: usize) -> RecordRef<'_> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        RecordRef {
            partition: number,
            offset: Offset(index as u64),
            timestamp_ms: LOGGED_MS,
            key: None,
            value: Some(&self.bytes[start..self.ends[index]]),
        }
    }

    fn state(&self) -> PartitionState {
        let end = Offset(self.ends.len() as u64);
        PartitionState { start: Offset(0), end, bytes: Some(self.bytes.len() as u64) }
    }
}

impl Arena {
    /// How many records there are.
    pub fn len(&self) -> usize {
        self.partitions.iter().map(|p| p.ends.len()).sum()
    }

    /// Every record, the partitions taking turns as a log's readers would.
    pub fn records(&self) -> impl Iterator<Item = RecordRef<'_>> {
        let longest = self.partitions.iter().map(|p| p.ends.len()).max().unwrap_or(0);
        const TURN: usize = 8_192;
        (0..longest.div_ceil(TURN)).flat_map(move |turn| {
            self.partitions.iter().enumerate().flat_map(move |(number, partition)| {
                let range = (turn * TURN).min(partition.ends.len())..((turn + 1) * TURN).min(partition.ends.len());
                range.map(move |index| partition.record(PartitionId(number as u32), index))
            })
        })
    }
}

/// An arena as a source.
pub struct ArenaSource(pub Arc<Arena>);

impl Source for ArenaSource {
    fn topic(&self, topic: &str) -> Result<Option<TopicState>, SourceError> {
        Ok((topic == self.0.topic).then(|| TopicState {
            name: topic.to_owned(),
            incarnation: 1,
            compacted: false,
            partitions: self.0.partitions.iter().map(Partition::state).collect(),
        }))
    }

    fn offset_at(&self, _topic: &str, _partition: PartitionId, _timestamp_ms: i64) -> Result<Offset, SourceError> {
        Ok(Offset(0))
    }

    fn open(
        &self,
        _topic: &str,
        partition: PartitionId,
        from: Offset,
        _waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError> {
        Ok(Box::new(ArenaReader { arena: self.0.clone(), partition, next: from }))
    }
}

struct ArenaReader {
    arena: Arc<Arena>,
    partition: PartitionId,
    next: Offset,
}

impl PartitionSource for ArenaReader {
    fn poll(&mut self, budget: Budget, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<Polled, SourceError> {
        let partition = &self.arena.partitions[self.partition.0 as usize];
        let from = self.next.0 as usize;
        let to = partition.ends.len().min(from + budget.records_max).min(budget.until.0 as usize).max(from);
        for index in from..to {
            each(partition.record(self.partition, index));
        }
        self.next = Offset(to as u64);
        Ok(Polled { records: to - from, next: self.next, end: self.end() })
    }

    fn end(&self) -> Offset {
        self.arena.partitions[self.partition.0 as usize].state().end
    }
}
