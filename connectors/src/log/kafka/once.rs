//! Appends that are known by a key: written once, however often they are asked for.
//!
//! ```text
//!   transaction:  records of the append  +  key, digest, offsets  -> topic of appends   (all or nothing)
//!   at the start: topic of appends of the last day -> what is known
//! ```

use super::append::Appender;
use super::client::{Shared, lock};
use super::look::Looker;
use super::transactions::Transactions;
use crate::log::{RangeReader, Retention, TopicConfig, TopicError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
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

/// See the module.
pub(super) struct Once {
    looker: Arc<Looker>,
    /// The topic of appends.
    topic: String,
    state: Mutex<(Transactions, Known)>,
}

impl Once {
    pub fn new(shared: Arc<Shared>, looker: Arc<Looker>, topic: String, id: String) -> Once {
        let transactions = Transactions::new(shared, id, LIMIT);
        Once { looker, topic, state: Mutex::new((transactions, Known::default())) }
    }

    /// Appends, or answers what the append of this key has come to.
    pub fn append(
        &self,
        log: &(dyn crate::log::Log + '_),
        appender: &Appender,
        (topic, records): (&str, &[NewRecord<'_>]),
        (key, said): (&str, [u8; 32]),
    ) -> Result<Appended, ProduceError> {
        let mut state = lock(&self.state);
        let (transactions, known) = &mut *state;
        if !transactions.is_begun() {
            transactions.begin()?;
            *known = self.known(log)?;
        }
        let short = |bytes: [u8; 32]| -> [u8; 16] { std::array::from_fn(|index| bytes[index]) };
        // A key is known in its topic; no topic's name has a zero in it.
        let in_topic = Sha256::new().chain_update(topic).chain_update([0]).chain_update(key);
        let (short_key, digest) = (short(in_topic.finalize().into()), short(said));
        if let Some((before, ranges)) = known.by_key.get(&short_key) {
            if *before != digest {
                return Err(ProduceError::KeyReused { key: key.to_owned() });
            }
            return Ok(appended(ranges));
        }
        crash::point("append::begin");
        let written = transactions.write(appender, |transaction| {
            let appended = transaction.append(topic, records)?;
            let ranges = appended.ranges.iter().map(|(p, from, to)| (p.0, from.0, to.0)).collect();
            let entry = Entry { key: short_key, digest, ranges };
            let value = serde_json::to_vec(&entry).map_err(|error| ProduceError::Io(error.to_string()))?;
            transaction.append(&self.topic, &[NewRecord { key: None, value: Some(&value) }])?;
            crash::point("append::written");
            Ok((entry, appended))
        });
        // Where it is not known what has become of it, that is read when the next one comes.
        let (entry, appended) = written.map_err(|broken| broken.error)?;
        crash::point("append::committed");
        known.insert(entry);
        Ok(appended)
    }

    /// Reads what is known.
    fn known(&self, log: &(dyn crate::log::Log + '_)) -> Result<Known, ProduceError> {
        let away = |error: &dyn ToString| ProduceError::Away(error.to_string());
        let config = TopicConfig { compacted: false, retention: Retention { age: Some(KEPT), bytes: None } };
        match log.create_topic(&self.topic, 1, config) {
            Ok(()) | Err(TopicError::AlreadyExists { .. }) => {}
            Err(error) => return Err(away(&error)),
        }
        let mut known = Known::default();
        let since_ms = jiff::Timestamp::now().as_millisecond() - i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
        let from = self.looker.offset_at(&self.topic, PartitionId(0), since_ms).map_err(|error| away(&error))?;
        let state = self.looker.states(&[&self.topic]).map_err(|error| away(&error))?;
        let end = state.first().and_then(|state| state.partitions.first()).map_or(from, |partition| partition.end);
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
        Ok(known)
    }
}

fn appended(ranges: &[(u32, u64, u64)]) -> Appended {
    Appended { ranges: ranges.iter().map(|(p, from, to)| (PartitionId(*p), Offset(*from), Offset(*to))).collect() }
}
