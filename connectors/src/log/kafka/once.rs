//! Appends that are known by a key: written once, however often they are asked for.
//!
//! ```text
//!   transaction:  records of the append  +  key, digest, offsets  -> topic of appends   (all or nothing)
//!   at the start: topic of appends of the last day -> what is known
//! ```

use super::append::{Appender, Client};
use super::client::{Shared, lock};
use super::look::{ANSWER, Looker};
use crate::log::{RangeReader, Retention, TopicConfig, TopicError};
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer as _;
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
    shared: Arc<Shared>,
    looker: Arc<Looker>,
    /// The topic of appends, and who writes it: another server of the same id writes nothing more.
    topic: String,
    id: String,
    /// `None`: it is not known how things stand, and has to be read.
    state: Mutex<Option<(Client, Known)>>,
}

impl Once {
    pub fn new(shared: Arc<Shared>, looker: Arc<Looker>, topic: String, id: String) -> Once {
        Once { shared, looker, topic, id, state: Mutex::default() }
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
        let (client, known) = match state.as_mut() {
            Some(there) => there,
            None => state.insert(self.begin(log)?),
        };
        let short = |bytes: [u8; 32]| -> [u8; 16] { std::array::from_fn(|index| bytes[index]) };
        let (short_key, digest) = (short(Sha256::digest(key).into()), short(said));
        if let Some((before, ranges)) = known.by_key.get(&short_key) {
            if *before != digest {
                return Err(ProduceError::KeyReused { key: key.to_owned() });
            }
            return Ok(appended(ranges));
        }
        match self.transact(client, appender, (topic, records), (short_key, digest)) {
            Ok((entry, appended)) => {
                known.insert(entry);
                Ok(appended)
            }
            Err((error, known_to_be_undone)) => {
                if !known_to_be_undone {
                    // What has become of it is read when the next one comes.
                    *state = None;
                }
                Err(error)
            }
        }
    }

    /// Takes the id from whoever had it, has what was under way ended, and reads what is known.
    fn begin(&self, log: &(dyn crate::log::Log + '_)) -> Result<(Client, Known), ProduceError> {
        let away = |error: &dyn ToString| ProduceError::Away(error.to_string());
        let config = TopicConfig { compacted: false, retention: Retention { age: Some(KEPT), bytes: None } };
        match log.create_topic(&self.topic, 1, config) {
            Ok(()) | Err(TopicError::AlreadyExists { .. }) => {}
            Err(error) => return Err(away(&error)),
        }
        let client = Client::new(&self.shared, Some(&self.id)).map_err(|error| ProduceError::Io(error.to_string()))?;
        let begun = client.producer.init_transactions(ANSWER);
        begun.map_err(|error| away(&self.shared.sentence("transactions can't begin", &error)))?;
        let mut known = Known::default();
        let since_ms = jiff::Timestamp::now().as_millisecond() - i64::try_from(KEPT.as_millis()).unwrap_or(i64::MAX);
        let from = self.looker.offset_at(&self.topic, PartitionId(0), since_ms).map_err(|error| away(&error))?;
        let state = self.looker.states(&[&self.topic]).map_err(|error| away(&error))?;
        let end = state.first().and_then(|state| state.partitions.first()).map_or(from, |partition| partition.end);
        let source: &dyn Source = log;
        let mut reader = RangeReader::open(source, &self.topic, PartitionId(0), (from, end.max(from)));
        let budget = Budget { records_max: 10_000, bytes_max: 8 << 20, until: Offset(u64::MAX) };
        let mut note = |record: RecordRef<'_>| {
            if let Some(entry) = record.value.and_then(|value| serde_json::from_slice(value).ok()) {
                known.insert(entry);
            }
        };
        let reading = reader.as_mut().map_err(|error| away(error))?;
        while reading.read(budget, &mut note).map_err(|error| away(&error))?.is_some() {}
        Ok((client, known))
    }

    /// All of it or nothing. The error says besides whether it is known to be nothing.
    fn transact(
        &self,
        client: &Client,
        appender: &Appender,
        (topic, records): (&str, &[NewRecord<'_>]),
        (key, digest): ([u8; 16], [u8; 16]),
    ) -> Result<(Entry, Appended), (ProduceError, bool)> {
        let lost = |error: &KafkaError| {
            (ProduceError::Away(self.shared.sentence("a transaction has no answer", error)), false)
        };
        crash::point("append::begin");
        client.producer.begin_transaction().map_err(|error| lost(&error))?;
        let written = self.write(client, appender, (topic, records), (key, digest));
        crash::point("append::written");
        match written {
            Ok(done) => match client.producer.commit_transaction(ANSWER) {
                Ok(()) => {
                    crash::point("append::committed");
                    Ok(done)
                }
                Err(error) => Err(lost(&error)),
            },
            Err(error) => {
                let undone = client.producer.abort_transaction(ANSWER).is_ok();
                Err((error, undone))
            }
        }
    }

    fn write(
        &self,
        client: &Client,
        appender: &Appender,
        (topic, records): (&str, &[NewRecord<'_>]),
        (key, digest): ([u8; 16], [u8; 16]),
    ) -> Result<(Entry, Appended), ProduceError> {
        let wait = |topic: &str, records: &[NewRecord<'_>]| {
            let delivery = appender.send(client, topic, records)?;
            delivery.wait().map_err(|error| appender.refused(topic, records.len(), error))
        };
        let appended = wait(topic, records)?;
        let ranges = appended.ranges.iter().map(|(p, from, to)| (p.0, from.0, to.0)).collect();
        let entry = Entry { key, digest, ranges };
        let value = serde_json::to_vec(&entry).map_err(|error| ProduceError::Io(error.to_string()))?;
        wait(&self.topic, &[NewRecord { key: None, value: Some(&value) }])?;
        Ok((entry, appended))
    }
}

fn appended(ranges: &[(u32, u64, u64)]) -> Appended {
    Appended { ranges: ranges.iter().map(|(p, from, to)| (PartitionId(*p), Offset(*from), Offset(*to))).collect() }
}
