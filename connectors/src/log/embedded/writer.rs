//! The writer thread: it alone writes, and commits what has queued up in one go.
//!
//! ```text
//! append: cut into chunks --> queue --> writer: all that waits in one transaction, one sync
//!   (the caller's thread)                  |--> readers' tails, subscribers
//!                                          '--> each caller's answer
//! ```
//!
//! While a commit waits for the disk the next group gathers, so the number of syncs adapts to what
//! the disk can do. Everything else that writes (topics, retention) runs on this thread between two
//! commits, and so never competes for the database's one write lock.

use super::Clock;
use super::append::{Group, Request, StreamEnd};
use super::error::produce_error;
use super::housekeeper::WalMeter;
use super::reader::Reading;
use super::schema::Stream;
use super::tail::lock;
use super::topics::Topic;
use crate::log::Subscriber;
use rusqlite::{Connection, TransactionBehavior};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use tallyflow_dataflows::crash;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::{Appended, ProduceError};

/// One commit takes appends up to about this many bytes.
const COMMIT_BYTES_MAX: usize = 16 << 20;

type Answer = Result<Appended, ProduceError>;
/// Something else to be done on the writer's thread.
type Task = Box<dyn FnOnce(&mut Writer) + Send>;

enum Work {
    Append(Request, SyncSender<Answer>),
    Task(Task),
}

/// What waits for the writer.
#[derive(Default)]
struct Waiting {
    work: VecDeque<Work>,
    /// Of the appends that wait or are being committed.
    bytes: usize,
    closed: bool,
}

/// The way to the writer thread.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    bytes_max: usize,
}

impl Queue {
    pub fn new(bytes_max: usize) -> Self {
        Queue { waiting: Mutex::default(), arrived: Condvar::new(), bytes_max }
    }

    /// Waits until the append is committed or refused.
    pub fn append(&self, request: Request) -> Answer {
        let bytes = request.bytes();
        let (sender, answer) = sync_channel(1);
        {
            let mut waiting = lock(&self.waiting);
            if waiting.closed {
                return Err(stopped());
            }
            // One that is larger than the whole queue may be is taken when it is alone.
            if waiting.bytes > 0 && waiting.bytes + bytes > self.bytes_max {
                return Err(ProduceError::Busy);
            }
            waiting.bytes += bytes;
            waiting.work.push_back(Work::Append(request, sender));
        }
        self.arrived.notify_one();
        answer.recv().unwrap_or_else(|_| Err(stopped()))
    }

    /// Runs `task` on the writer's thread and waits for what it answers; `None` if the writer is gone.
    pub fn run<T: Send + 'static>(&self, task: impl FnOnce(&mut Writer) -> T + Send + 'static) -> Option<T> {
        let (sender, answer): (_, Receiver<T>) = sync_channel(1);
        {
            let mut waiting = lock(&self.waiting);
            if waiting.closed {
                return None;
            }
            // Nobody listening any more is no fault of the task's.
            waiting.work.push_back(Work::Task(Box::new(move |writer| drop(sender.send(task(writer))))));
        }
        self.arrived.notify_one();
        answer.recv().ok()
    }

    /// Ends the writer once all that waits is done.
    pub fn close(&self) {
        lock(&self.waiting).closed = true;
        self.arrived.notify_all();
    }

    /// The next task, or the appends of the next commit; `None` when closed and empty.
    fn take(&self) -> Option<Taken> {
        let mut waiting = lock(&self.waiting);
        loop {
            match waiting.work.pop_front() {
                Some(Work::Task(task)) => return Some(Taken::Task(task)),
                Some(Work::Append(request, answer)) => {
                    let mut bytes = request.bytes();
                    let mut group = vec![(request, answer)];
                    while bytes < COMMIT_BYTES_MAX
                        && let Some(Work::Append(..)) = waiting.work.front()
                        && let Some(Work::Append(request, answer)) = waiting.work.pop_front()
                    {
                        bytes += request.bytes();
                        group.push((request, answer));
                    }
                    return Some(Taken::Group(group, bytes));
                }
                None if waiting.closed => return None,
                None => waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn release(&self, bytes: usize) {
        let mut waiting = lock(&self.waiting);
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
    }
}

enum Taken {
    Task(Task),
    Group(Vec<(Request, SyncSender<Answer>)>, usize),
}

fn stopped() -> ProduceError {
    ProduceError::Io("the log has been closed".to_owned())
}

/// What the writer thread owns.
pub(super) struct Writer {
    pub conn: Connection,
    /// The streams of all topics that there are.
    pub ends: HashMap<Stream, StreamEnd>,
    pub reading: Arc<Reading>,
    pub subscribers: Arc<RwLock<Vec<Subscriber>>>,
    pub meter: Arc<WalMeter>,
    pub clock: Clock,
    /// The greatest timestamp so far.
    pub newest_ms: i64,
}

impl Writer {
    /// Reads the partitions' ends.
    pub fn load_ends(conn: &Connection) -> rusqlite::Result<HashMap<Stream, StreamEnd>> {
        let mut statement =
            conn.prepare("SELECT id, end_offset, last_ms, bytes FROM streams WHERE topic IS NOT NULL")?;
        let rows = statement.query_map([], |row| {
            let end = StreamEnd { end: Offset(row.get::<_, i64>(1)? as u64), last_ms: row.get(2)?, bytes: row.get(3)? };
            Ok((Stream(row.get(0)?), end))
        })?;
        rows.collect()
    }

    /// Works until the queue is closed and empty.
    pub fn run(mut self, queue: &Queue) {
        /// Lets nobody wait for a writer that has panicked.
        struct CloseAtEnd<'a>(&'a Queue);
        impl Drop for CloseAtEnd<'_> {
            fn drop(&mut self) {
                self.0.close();
                lock(&self.0.waiting).work.clear();
            }
        }
        let _close = CloseAtEnd(queue);
        while let Some(taken) = queue.take() {
            match taken {
                Taken::Task(task) => task(&mut self),
                Taken::Group(group, bytes) => self.commit(group, || queue.release(bytes)),
            }
        }
    }

    /// `release` gives back the group's place in the queue: before the answers, so that who has its
    /// answer finds that place free.
    fn commit(&mut self, group: Vec<(Request, SyncSender<Answer>)>, release: impl FnOnce()) {
        let (requests, senders): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let touched: Vec<(Arc<Topic>, Vec<u32>)> = requests
            .iter()
            .map(|request| (request.topic.clone(), request.chunks.iter().map(|chunk| chunk.partition).collect()))
            .collect();
        let written = self.write(requests);
        release();
        match written {
            Ok(answers) => {
                self.tell(touched);
                for (sender, answer) in senders.iter().zip(answers) {
                    // A caller that has gone away needs no answer.
                    let _ = sender.send(answer);
                }
            }
            Err(error) => {
                tracing::warn!(error = %error, appends = senders.len(), "appending to the log failed");
                for sender in &senders {
                    let _ = sender.send(Err(produce_error(&error)));
                }
            }
        }
    }

    /// The transaction. After an error nothing of it is in the log, nor in memory.
    fn write(&mut self, requests: Vec<Request>) -> rusqlite::Result<Vec<Answer>> {
        let meter = self.meter.clone();
        let _commit = lock(&meter.commit);
        crash::point("append::begin");
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // The clock may have been set back: the log's timestamps never fall, in whatever partition.
        let now_ms = (self.clock)().max(self.newest_ms);
        let mut group = Group::new(&tx, now_ms);
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            answers.push(group.add(request, |stream| self.ends.get(&stream).copied())?);
        }
        group.finish()?;
        let (ends, wal_bytes) = (group.ends, group.wal_bytes);
        crash::point("append::written");
        tx.commit()?;
        crash::point("append::committed");
        self.ends.extend(ends);
        self.newest_ms = now_ms;
        meter.wrote(wal_bytes);
        Ok(answers)
    }

    /// Tells readers and subscribers the ends of the partitions that got records, each once.
    fn tell(&self, mut touched: Vec<(Arc<Topic>, Vec<u32>)>) {
        let mut told: HashSet<Stream> = HashSet::new();
        let subscribers = self.subscribers.read().unwrap_or_else(PoisonError::into_inner);
        for (topic, partitions) in &mut touched {
            partitions.sort_unstable();
            partitions.dedup();
            for partition in partitions {
                let stream = topic.streams[*partition as usize];
                // An end of 0 would mean something else: that the topic is gone.
                let Some(end) = self.ends.get(&stream).filter(|end| end.end > Offset(0)) else { continue };
                if !told.insert(stream) {
                    continue;
                }
                self.reading.tails.appended(&topic.name, PartitionId(*partition), end.end);
                for subscriber in subscribers.iter() {
                    subscriber(&topic.name, PartitionId(*partition), end.end);
                }
            }
        }
    }

    /// Tells readers and subscribers that a topic is gone: an end of 0.
    pub fn tell_deleted(&self, topic: &str, partitions: &[PartitionId]) {
        let subscribers = self.subscribers.read().unwrap_or_else(PoisonError::into_inner);
        for partition in partitions {
            self.reading.tails.appended(topic, *partition, Offset(0));
            for subscriber in subscribers.iter() {
                subscriber(topic, *partition, Offset(0));
            }
        }
    }
}
