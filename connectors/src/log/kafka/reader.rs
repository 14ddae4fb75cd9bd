//! Reading one partition for one job.

use super::client::{Reading, lock};
use super::ffi::{self, Batch, Next, Queue};
use super::service::Ask;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::source::{Budget, PartitionSource, Polled, SourceError, Waker};

/// At most so many messages are taken from a queue at once.
const TAKEN_MAX: usize = 4096;

/// A partition that somebody reads, as those see it who look after it.
pub(super) struct Place {
    pub topic: String,
    pub name: CString,
    pub partition: PartitionId,
    /// The topic's incarnation, where the reader knows which it wants.
    pub incarnation: Option<u64>,
    /// The topic's id as librdkafka writes it, once it was looked at; `None` within: the brokers know of no ids.
    pub id: OnceLock<Option<Box<str>>>,
    /// Where it goes on.
    pub next: AtomicU64,
    /// The end as it was last asked for.
    pub end: AtomicU64,
    /// Why it can't be read; told at the next poll. One that may pass is taken back.
    pub error: Mutex<Option<SourceError>>,
    /// Whether there is an error, so that nobody has to look.
    pub has_error: AtomicBool,
    pub waker: Waker,
}

impl Place {
    /// Notes why it can't be read, or that it can, and wakes the reader where that is news.
    pub fn say(&self, error: Option<SourceError>) {
        {
            let mut said = lock(&self.error);
            if *said == error || said.as_ref().is_some_and(|said| !said.retryable()) {
                return;
            }
            self.has_error.store(error.is_some(), Ordering::Release);
            *said = error;
        }
        (self.waker)();
    }
}

/// See the module.
pub(super) struct Reader {
    place: Arc<Place>,
    /// `None` until the partition has been looked at, and it is read.
    open: Slot,
    /// What `open` holds, once it is there.
    queue: Option<Open>,
    batch: Batch,
    next: Offset,
    end: Offset,
    /// Whether what was taken last is a record: only then does librdkafka's position say where reading goes on.
    /// Before the first it may be that of an earlier reading, and an end that is told counts as a record in it.
    is_behind_record: bool,
    asks: Sender<Ask>,
}

/// A partition that is read by now.
pub(super) struct Open {
    pub queue: Queue,
    pub client: Arc<Reading>,
}

/// Where a reader finds its queue.
pub(super) type Slot = Arc<Mutex<Option<Open>>>;

impl Reader {
    pub fn new(place: Arc<Place>, open: Slot, asks: Sender<Ask>) -> Reader {
        let next = Offset(place.next.load(Ordering::Acquire));
        Reader { place, open, queue: None, batch: Batch::default(), next, end: next, is_behind_record: false, asks }
    }

    /// The queue, once there is one.
    fn queue(&mut self) -> Option<&Open> {
        if self.queue.is_none() {
            self.queue = lock(&self.open).take();
        }
        self.queue.as_ref()
    }

    /// The end as librdkafka has heard of it with the newest records.
    fn heard_end(&self) -> Offset {
        let Some(open) = &self.queue else { return self.end };
        let partition = i32::try_from(self.place.partition.0).unwrap_or(i32::MAX);
        let heard = ffi::heard_end(&open.client, &self.place.name, partition);
        Offset(heard.unwrap_or_else(|| self.place.end.load(Ordering::Acquire)))
    }

    /// Goes on behind the markers of transactions that follow the last record. Without them being asked for here,
    /// the end that they lie before would be told a fetch later.
    fn pass_markers(&mut self, until: Offset) {
        if !self.is_behind_record || !self.batch.is_empty() || self.next >= self.end {
            return;
        }
        let Some(open) = &self.queue else { return };
        let partition = i32::try_from(self.place.partition.0).unwrap_or(i32::MAX);
        if let Some(position) = ffi::position(&open.client, &self.place.name, partition) {
            self.next = self.next.max(Offset(position).min(until));
        }
    }

    /// Takes what has arrived, where all that was taken is dealt with.
    fn take(&mut self, max: usize) {
        if self.batch.is_empty() && self.queue().is_some() {
            let Some(open) = &self.queue else { return };
            open.queue.take(max.clamp(1, TAKEN_MAX), &mut self.batch);
            let id = self.place.id.get().and_then(Option::as_deref);
            if !self.batch.is_empty() && !open.client.has_read_only(id) {
                // Another topic of that name: nothing of it is handed over, and it is looked what became of ours.
                self.batch = Batch::default();
                self.queue = None;
                self.is_behind_record = false;
                self.asks.send(Ask::Anew(self.place.clone())).ok();
            }
        }
    }
}

impl PartitionSource for Reader {
    fn poll(&mut self, budget: Budget, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<Polled, SourceError> {
        // While it is doubtful what stands in the topic, nothing of it is handed over.
        if self.place.has_error.load(Ordering::Acquire)
            && let Some(error) = lock(&self.place.error).clone()
        {
            return Err(error);
        }
        let (mut records, mut bytes) = (0, 0);
        self.take(budget.records_max);
        let mut at_end = false;
        while records == 0 || (records < budget.records_max && bytes < budget.bytes_max) {
            let record = match self.batch.next() {
                None if records == 0 => break,
                None => {
                    self.take(budget.records_max - records);
                    if self.batch.is_empty() {
                        break;
                    }
                    continue;
                }
                Some(Next::Record(record)) => record,
                Some(Next::End(offset)) => {
                    if offset > budget.until {
                        // What is left out before it lies past the bound in part.
                        self.next = self.next.max(budget.until);
                        break;
                    }
                    self.next = self.next.max(offset);
                    self.is_behind_record = false;
                    at_end = true;
                    self.batch.pass();
                    continue;
                }
                Some(Next::Error(code)) => {
                    tracing::debug!("{}/{}: {code}", self.place.topic, self.place.partition);
                    self.batch.pass();
                    // What it means is found out by those who may wait for an answer.
                    self.asks.send(Ask::Look(self.place.clone())).ok();
                    continue;
                }
            };
            if record.offset >= budget.until {
                // All before it was read, whatever is missing in between.
                self.next = self.next.max(budget.until);
                break;
            }
            at_end = false;
            self.is_behind_record = true;
            // What was taken before a first look that goes on elsewhere is not handed over twice.
            if record.offset >= self.next {
                self.next = Offset(record.offset.0 + 1);
                records += 1;
                bytes += record.value.map_or(0, <[u8]>::len);
                each(record);
            }
            self.batch.pass();
        }
        if !at_end {
            self.end = self.heard_end();
            self.pass_markers(budget.until);
        }
        self.place.next.store(self.next.0, Ordering::Release);
        self.end = if at_end { self.next } else { self.end.max(self.next) };
        Ok(Polled { records, next: self.next, end: self.end })
    }

    fn end(&self) -> Offset {
        self.end.max(Offset(self.place.end.load(Ordering::Acquire)))
    }

    fn has_more(&self, _: Offset) -> bool {
        !self.batch.is_empty()
            || self.place.has_error.load(Ordering::Acquire)
            || match &self.queue {
                Some(open) => open.queue.len() > 0,
                None => lock(&self.open).as_ref().is_some_and(|open| open.queue.len() > 0),
            }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Messages, then the queue, then the client.
        self.batch = Batch::default();
        self.queue = None;
        self.asks.send(Ask::Close(self.place.clone())).ok();
    }
}
