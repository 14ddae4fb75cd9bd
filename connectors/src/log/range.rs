//! Reading a known part of a partition, for those who can wait.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::source::{Budget, PartitionSource, Polled, Source, SourceError, Waker};

/// How long one read waits for what is on its way.
const WAIT: Duration = Duration::from_millis(200);
/// A log that hands over nothing for so long has nothing.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(10);

/// Reads a partition from one offset to another, wherever the records come from.
pub struct RangeReader {
    topic: String,
    partition: PartitionId,
    source: Box<dyn PartitionSource>,
    arrived: Arc<Arrived>,
    next: Offset,
    until: Offset,
    newest: Instant,
}

#[derive(Default)]
struct Arrived {
    is: Mutex<bool>,
    signal: Condvar,
}

impl RangeReader {
    /// Reads from `from` to `until`, which the partition has reached by now; where an incarnation is named, of
    /// that one of the topic only. Errors as for [`Source::open`].
    pub fn open<S: Source + ?Sized>(
        log: &S,
        (topic, incarnation): (&str, Option<u64>),
        partition: PartitionId,
        (from, until): (Offset, Offset),
    ) -> Result<RangeReader, SourceError> {
        let arrived = Arc::new(Arrived::default());
        let theirs = arrived.clone();
        let waker: Waker = Arc::new(move || {
            *theirs.is.lock().unwrap_or_else(PoisonError::into_inner) = true;
            theirs.signal.notify_all();
        });
        let source = match incarnation {
            Some(incarnation) => log.open_same(topic, incarnation, partition, from, waker)?,
            None => log.open(topic, partition, from, waker)?,
        };
        let newest = Instant::now();
        Ok(RangeReader { topic: topic.to_owned(), partition, source, arrived, next: from, until, newest })
    }

    /// Hands over a piece; nothing where it waited for a fifth of a second and none came. `None` at the end.
    ///
    /// Errors: those of [`PartitionSource::poll`], and [`SourceError::CutShort`] where no more comes before
    /// the end.
    pub fn read(&mut self, budget: Budget, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<Option<Polled>, SourceError> {
        if self.next >= self.until {
            return Ok(None);
        }
        let polled = self.source.poll(Budget { until: self.until.min(budget.until), ..budget }, each)?;
        if polled.records > 0 || polled.next > self.next {
            self.next = polled.next;
            self.newest = Instant::now();
            return Ok(Some(polled));
        }
        if self.newest.elapsed() > GIVEN_UP_AFTER {
            let (topic, partition) = (self.topic.clone(), self.partition);
            return Err(SourceError::CutShort { topic, partition, wanted: self.until, end: self.next });
        }
        if !self.source.has_more(self.next) {
            let is = self.arrived.is.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = self.arrived.signal.wait_timeout_while(is, WAIT, |is| !*is);
            *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
        }
        Ok(Some(polled))
    }
}
