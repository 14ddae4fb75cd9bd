//! Appends that are known by a key: written once, however often they are asked for.
//!
//! ```text
//!   transaction:  records of the appends  +  key, digest, offsets of each  -> topic of appends   (all or nothing)
//!   at the start: topic of appends of the last day -> what is known
//! ```
//!
//! A transaction takes tens of milliseconds however little is in it. So one of those who wait leads: it writes what all
//! of them have asked for in one, and hands the lead on.

use super::append::Appender;
use super::client::{Shared, lock};
use super::look::Looker;
use super::transactions::{Broken, Transactions};
use crate::log::{RangeReader, Retention, TopicConfig, TopicError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::mpsc::{RecvError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tallyflow_dataflows::crash;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::source::{Appended, Budget, NewRecord, ProduceError, Source};

/// How long a key is known.
pub(super) const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long an append may take.
const LIMIT: Duration = Duration::from_secs(10);
/// At most so many keys are known, the newest.
const KEYS_MAX: usize = 1_000_000;
/// At most so many appends, with so many bytes, are written in one transaction.
const GROUP_MAX: usize = 1_000;
const GROUP_BYTES_MAX: usize = 8 << 20;

/// What stands in the topic of appends: by key, what was appended and where.
#[derive(Serialize, Deserialize)]
struct Entry {
    key: [u8; 16],
    digest: [u8; 16],
    ranges: Ranges,
}

/// By partition, the first offset and one past the last.
type Ranges = Vec<(u32, u64, u64)>;

#[derive(Default)]
struct Known {
    /// What was read of the topic of appends; `None`: nothing yet.
    next: Option<Offset>,
    /// Whether all is known: nobody else has written since.
    is_whole: bool,
    by_key: HashMap<[u8; 16], ([u8; 16], Ranges)>,
    order: VecDeque<[u8; 16]>,
}

impl Known {
    fn insert(&mut self, entry: Entry) {
        if self.by_key.insert(entry.key, (entry.digest, entry.ranges)).is_none() {
            self.order.push_back(entry.key);
        }
        while self.order.len() > KEYS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.by_key.remove(&oldest);
            }
        }
    }
}

/// A record's key and value.
type Owned = (Option<Vec<u8>>, Option<Vec<u8>>);

/// One that is asked for.
struct Asked {
    topic: String,
    records: Vec<Owned>,
    bytes: usize,
    key: String,
    short_key: [u8; 16],
    digest: [u8; 16],
    turn: SyncSender<Turn>,
}

/// What whoever asks for an append waits for.
enum Turn {
    /// It is for this one to write, its own append and what else waits.
    Lead,
    Done(Result<Appended, ProduceError>),
}

impl Asked {
    fn done(&self, result: Result<Appended, ProduceError>) {
        // It is waited for.
        self.turn.send(Turn::Done(result)).ok();
    }
}

#[derive(Default)]
struct Waiting {
    asked: VecDeque<Asked>,
    /// Whether somebody leads. Where nobody does, nothing waits.
    is_led: bool,
}

impl Waiting {
    /// Those that are written next: together at most so many, and each key once.
    fn take(&mut self) -> Vec<Asked> {
        let (mut group, mut keys, mut later, mut bytes) = (Vec::new(), HashSet::new(), Vec::new(), 0);
        while let Some(asked) = self.asked.pop_front() {
            if !group.is_empty() && (group.len() == GROUP_MAX || bytes + asked.bytes > GROUP_BYTES_MAX) {
                self.asked.push_front(asked);
                break;
            }
            if keys.insert(asked.short_key) {
                bytes += asked.bytes;
                group.push(asked);
            } else {
                later.push(asked);
            }
        }
        later.into_iter().rev().for_each(|asked| self.asked.push_front(asked));
        group
    }
}

/// Hands the lead on when it is dropped.
struct Lead<'a>(&'a Mutex<Waiting>);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut waiting = lock(self.0);
        while let Some(next) = waiting.asked.front() {
            if next.turn.send(Turn::Lead).is_ok() {
                return;
            }
            waiting.asked.pop_front();
        }
        waiting.is_led = false;
    }
}

/// See the module.
pub(super) struct Once {
    looker: Arc<Looker>,
    /// The topic of appends.
    topic: String,
    waiting: Mutex<Waiting>,
    state: Mutex<(Transactions, Known)>,
}

impl Once {
    pub fn new(shared: Arc<Shared>, looker: Arc<Looker>, topic: String, id: String) -> Once {
        let transactions = Transactions::new(shared, id, LIMIT);
        Once { looker, topic, waiting: Mutex::default(), state: Mutex::new((transactions, Known::default())) }
    }

    /// Appends, or answers what the append of this key has come to.
    pub fn append(
        &self,
        log: &(dyn crate::log::Log + '_),
        appender: &Appender,
        (topic, records): (&str, &[NewRecord<'_>]),
        (key, said): (&str, [u8; 32]),
    ) -> Result<Appended, ProduceError> {
        let short = |bytes: [u8; 32]| -> [u8; 16] { std::array::from_fn(|index| bytes[index]) };
        // A key is known in its topic; no topic's name has a zero in it.
        let in_topic = Sha256::new().chain_update(topic).chain_update([0]).chain_update(key);
        let bytes = |record: &NewRecord<'_>| record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        let (turn, mine) = sync_channel(1);
        let asked = Asked {
            topic: topic.to_owned(),
            records: records.iter().map(|r| (r.key.map(<[u8]>::to_vec), r.value.map(<[u8]>::to_vec))).collect(),
            bytes: records.iter().map(bytes).sum(),
            key: key.to_owned(),
            short_key: short(in_topic.finalize().into()),
            digest: short(said),
            turn,
        };
        let is_led = {
            let mut waiting = lock(&self.waiting);
            waiting.asked.push_back(asked);
            std::mem::replace(&mut waiting.is_led, true)
        };
        let given_up = |_: RecvError| ProduceError::Io("the thread that wrote the append has failed".to_owned());
        if is_led && let Turn::Done(result) = mine.recv().map_err(given_up)? {
            return result;
        }
        let lead = Lead(&self.waiting);
        // Its own is the first that waits.
        let group = lock(lead.0).take();
        let mut state = lock(&self.state);
        let (transactions, known) = &mut *state;
        self.write(log, appender, &group.iter().collect::<Vec<_>>(), (transactions, known));
        drop(state);
        match mine.recv().map_err(given_up)? {
            Turn::Done(result) => result,
            Turn::Lead => Err(ProduceError::Io("two threads write appends at a time; this is a defect".to_owned())),
        }
    }

    /// Writes appends together, or finds what they have come to, and tells each. Where that fails they are tried by
    /// topic, and those of one topic one by one, so that none is refused for the fault of another.
    fn write(
        &self,
        log: &(dyn crate::log::Log + '_),
        appender: &Appender,
        group: &[&Asked],
        (transactions, known): (&mut Transactions, &mut Known),
    ) {
        if let Err(error) = self.know(log, transactions, known) {
            return group.iter().for_each(|asked| asked.done(Err(error.clone())));
        }
        let (before, group): (Vec<&Asked>, Vec<&Asked>) =
            group.iter().partition(|asked| known.by_key.contains_key(&asked.short_key));
        for asked in before {
            let known = known.by_key.get(&asked.short_key).filter(|(digest, _)| *digest == asked.digest);
            let reused = || ProduceError::KeyReused { key: asked.key.clone() };
            asked.done(known.map(|(_, ranges)| appended(ranges)).ok_or_else(reused));
        }
        let Err(Broken { error, is_undone }) = self.write_together(transactions, appender, &group, known) else {
            return;
        };
        let mut topics: BTreeMap<&str, Vec<&Asked>> = BTreeMap::new();
        group.iter().for_each(|asked| topics.entry(&asked.topic).or_default().push(asked));
        // A topic that does not answer is waited for once.
        let is_own = group.len() == 1 || topics.len() == 1 && matches!(error, ProduceError::Away(_));
        if is_own || !is_undone {
            for asked in group {
                // Of several it is not known whose fault it was: asked again, each hears its own.
                asked.done(Err(if is_own { error.clone() } else { ProduceError::Away(error.to_string()) }));
            }
            return;
        }
        let smaller: Vec<Vec<&Asked>> = match topics.len() {
            1 => group.iter().map(|asked| vec![*asked]).collect(),
            _ => topics.into_values().collect(),
        };
        smaller.iter().for_each(|part| self.write(log, appender, part, (transactions, known)));
    }

    /// Writes appends in one transaction and tells each; where that fails, none.
    fn write_together(
        &self,
        transactions: &mut Transactions,
        appender: &Appender,
        group: &[&Asked],
        known: &mut Known,
    ) -> Result<(), Broken> {
        if group.is_empty() {
            return Ok(());
        }
        crash::point("append::begin");
        let mut next = known.next;
        let written = transactions.write(appender, |transaction| {
            let (mut sent, mut refused) = (Vec::new(), Vec::new());
            for asked in group {
                let records: Vec<_> = asked
                    .records
                    .iter()
                    .map(|(key, value)| NewRecord { key: key.as_deref(), value: value.as_deref() })
                    .collect();
                match transaction.send(&asked.topic, &records) {
                    Ok(delivery) => sent.push((asked, delivery)),
                    // Nothing of it was sent.
                    Err(error) => refused.push((asked, error)),
                }
            }
            let mut done = Vec::with_capacity(sent.len());
            let mut entries = Vec::with_capacity(sent.len());
            let mut failed: Option<ProduceError> = None;
            for (asked, delivery) in sent {
                let appended = match transaction.wait(&delivery, &asked.topic, asked.records.len()) {
                    Ok(appended) => appended,
                    Err(error) => {
                        // What the others have met may be but what came of it.
                        if matches!(failed, None | Some(ProduceError::Away(_))) {
                            failed = Some(error);
                        }
                        continue;
                    }
                };
                let ranges = appended.ranges.iter().map(|(p, from, to)| (p.0, from.0, to.0)).collect();
                let entry = Entry { key: asked.short_key, digest: asked.digest, ranges };
                entries.push(serde_json::to_vec(&entry).map_err(|error| ProduceError::Io(error.to_string()))?);
                done.push((asked, entry, appended));
            }
            if let Some(error) = failed {
                return Err(error);
            }
            if !entries.is_empty() {
                let entries: Vec<_> = entries.iter().map(|e| NewRecord { key: None, value: Some(e) }).collect();
                let written = transaction.append(&self.topic, &entries)?;
                next = written.ranges.first().map(|(_, _, next)| *next);
            }
            crash::point("append::written");
            Ok((done, refused))
        });
        let (done, refused) = written?;
        crash::point("append::committed");
        known.next = next;
        for (asked, entry, appended) in done {
            known.insert(entry);
            asked.done(Ok(appended));
        }
        refused.into_iter().for_each(|(asked, error)| asked.done(Err(error)));
        Ok(())
    }

    /// Makes sure that a transaction can be written, and that all is known which was written before: by this one, where
    /// it is not known what has become of its last, or by another server that has taken over meanwhile.
    fn know(
        &self,
        log: &(dyn crate::log::Log + '_),
        transactions: &mut Transactions,
        known: &mut Known,
    ) -> Result<(), ProduceError> {
        if !transactions.is_begun() {
            known.is_whole = false;
            transactions.begin()?;
        }
        if known.is_whole {
            return Ok(());
        }
        let away = |error: &dyn ToString| ProduceError::Away(error.to_string());
        let from = match known.next {
            Some(next) => next,
            None => {
                let config = TopicConfig { compacted: false, retention: Retention { age: Some(KEPT), bytes: None } };
                match log.create_topic(&self.topic, 1, config) {
                    Ok(()) | Err(TopicError::AlreadyExists { .. }) => {}
                    Err(error) => return Err(away(&error)),
                }
                let kept_ms = i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
                let since_ms = jiff::Timestamp::now().as_millisecond() - kept_ms;
                self.looker.offset_at(&self.topic, PartitionId(0), since_ms).map_err(|error| away(&error))?
            }
        };
        let state = self.looker.states(&[&self.topic]).map_err(|error| away(&error))?;
        let partition = state.first().and_then(|state| state.partitions.first());
        let (start, end) = partition.map_or((from, from), |partition| (partition.start, partition.end));
        let from = from.max(start);
        let source: &dyn Source = log;
        let mut reader = RangeReader::open(source, (&self.topic, None), PartitionId(0), (from, end.max(from)));
        let budget = Budget { records_max: 10_000, bytes_max: 8 << 20, until: Offset(u64::MAX) };
        let mut note = |record: RecordRef<'_>| {
            if let Some(entry) = record.value.and_then(|value| serde_json::from_slice(value).ok()) {
                known.insert(entry);
            }
        };
        let reading = reader.as_mut().map_err(|error| away(error))?;
        while reading.read(budget, &mut note).map_err(|error| away(&error))?.is_some() {}
        (known.next, known.is_whole) = (Some(end.max(from)), true);
        Ok(())
    }
}

fn appended(ranges: &[(u32, u64, u64)]) -> Appended {
    Appended { ranges: ranges.iter().map(|(p, from, to)| (PartitionId(*p), Offset(*from), Offset(*to))).collect() }
}
