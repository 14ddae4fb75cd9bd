//! A sink in a topic of the log: changed lines as keyed records, an epoch as one batch.
//!
//! ```text
//!   {"job":"j","subject":"s","group":"g"}  ->  {"job","subject","group","value","aggregates","epoch","at"}
//!   {"job":"j","subject":"s"}              ->  {"job","subject","total","epoch","at"}
//!   {"job":"j"}                            ->  {"job","epoch","at","offsets","digest","accounting",...}
//! ```
//!
//! What is gone has a tombstone. The record of the job itself comes last. In Kafka a batch is a transaction: a
//! consumer that reads what is committed sees whole epochs, each once. When it is opened, the sink reads what the
//! topic has of its job; so it writes only what differs, and an epoch that is there is not written again.

use super::{Ending, Opening, Sink, SinkEpoch, SinkError};
use crate::log::{Batches, Log, RangeReader, TopicConfig, TopicError};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use tallyflow_dataflows::ids::{Epoch, Offset, PartitionId};
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::source::{Budget, NewRecord, ProduceError, SourceError};

/// A job's place in a topic.
pub struct TopicSink {
    log: Arc<dyn Log>,
    topic: String,
    job: String,
    aggregates: Vec<String>,
    take_over_ms: Option<i64>,
    batches: Box<dyn Batches>,
    /// By key, a digest of what stands there; what is gone is not here.
    known: HashMap<String, u64>,
    /// What the job's own record says.
    stored: Option<Stored>,
}

#[derive(Clone, Copy, Deserialize)]
struct Stored {
    epoch: Epoch,
    #[serde(default)]
    taken_over_ms: Option<i64>,
}

/// The key of a record, its fields in this order.
#[derive(Serialize, Deserialize)]
struct Key<'a> {
    #[serde(borrow)]
    job: std::borrow::Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    subject: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    group: Option<std::borrow::Cow<'a, str>>,
}

#[derive(Serialize)]
struct Line<'a> {
    job: &'a str,
    subject: &'a str,
    group: &'a str,
    value: Option<Decimal>,
    aggregates: BTreeMap<&'a str, Option<Decimal>>,
    epoch: Epoch,
    at: &'a str,
}

#[derive(Serialize)]
struct Total<'a> {
    job: &'a str,
    subject: &'a str,
    total: Decimal,
    epoch: Epoch,
    at: &'a str,
}

#[derive(Serialize)]
struct Snapshot<'a> {
    job: &'a str,
    epoch: Epoch,
    at: &'a str,
    offsets: &'a RawValue,
    digest: &'a str,
    accounting: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    taken_over_ms: Option<i64>,
}

/// The part of a value that says what stands there, whichever epoch has written it.
#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow, default)]
    aggregates: Option<&'a RawValue>,
    #[serde(borrow, default)]
    total: Option<&'a RawValue>,
}

/// A record to be written.
type Record = (String, Option<String>);

impl TopicSink {
    /// Takes the topic, which is made (compacted, with one partition) if it is not there. Nothing is read yet.
    pub fn open(log: &Arc<dyn Log>, topic: &str, opening: &Opening) -> Result<TopicSink, SinkError> {
        let path = || format!("topic {topic:?}");
        match log.topic(topic) {
            Ok(Some(_)) => {}
            Ok(None) => match log.create_topic(topic, 1, TopicConfig { compacted: true, ..TopicConfig::default() }) {
                Ok(()) | Err(TopicError::AlreadyExists { .. }) => {}
                Err(error) => return Err(SinkError::Io { path: path(), what: error.to_string() }),
            },
            Err(error) => return Err(SinkError::Io { path: path(), what: error.to_string() }),
        }
        Ok(TopicSink {
            log: log.clone(),
            topic: topic.to_owned(),
            job: opening.job.clone(),
            aggregates: opening.aggregates.clone(),
            take_over_ms: opening.take_over_ms,
            // One job writes a topic once: two sinks of a job can't name one topic.
            batches: log.clone().batches(&format!("sink-{}-{topic}", opening.job)),
            known: HashMap::new(),
            stored: None,
        })
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> SinkError {
        SinkError::Io { path: format!("topic {:?}", self.topic), what: error.to_string() }
    }

    /// Reads what stands in the topic of this job.
    fn look(&mut self, ending: &Ending) -> Result<(), SinkError> {
        self.known.clear();
        self.stored = None;
        let topic = self.log.topic(&self.topic).map_err(|error| self.failed(&error))?;
        let topic = topic.ok_or_else(|| self.failed(&"the topic is gone; it is made again"))?;
        let budget = Budget { records_max: 10_000, bytes_max: 8 << 20, until: Offset(u64::MAX) };
        for (number, bounds) in topic.partitions.iter().enumerate() {
            let place = (self.topic.as_str(), Some(topic.incarnation));
            let partition = PartitionId(u32::try_from(number).unwrap_or(u32::MAX));
            let reader = RangeReader::open(self.log.as_ref(), place, partition, (bounds.start, bounds.end));
            let mut reader = reader.map_err(|error: SourceError| self.failed(&error))?;
            loop {
                if ending.is_over() {
                    return Err(self.failed(&"there is no time left to read what it holds"));
                }
                let (job, known, stored) = (&self.job, &mut self.known, &mut self.stored);
                let read = reader.read(budget, &mut |record| take_note(job, known, stored, record));
                if read.map_err(|error| self.failed(&error))?.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// What has to be written so that the topic says what the epoch does.
    fn records(&self, epoch: &SinkEpoch) -> Result<Vec<Record>, SinkError> {
        let at = jiff::Timestamp::from_millisecond(epoch.at_ms).unwrap_or_default().to_string();
        let json = |value: serde_json::Result<String>| value.map_err(|error| self.failed(&error));
        let key = |subject: Option<&str>, group: Option<&str>| {
            let key = Key { job: (&self.job).into(), subject: subject.map(Into::into), group: group.map(Into::into) };
            json(serde_json::to_string(&key))
        };
        let mut records = Vec::new();
        let mut told = HashSet::new();
        for line in &epoch.lines {
            let key = key(Some(&line.subject), Some(&line.group))?;
            let Some(values) = &line.values else {
                records.extend(self.known.contains_key(&key).then_some((key, None)));
                continue;
            };
            if values.len() != self.aggregates.len() {
                let (subject, group) = (line.subject.clone(), line.group.clone());
                let (found, wanted) = (values.len(), self.aggregates.len());
                return Err(SinkError::Aggregates { subject, group, found, wanted });
            }
            let line = Line {
                job: &self.job,
                subject: &line.subject,
                group: &line.group,
                value: values.first().copied().flatten(),
                aggregates: self.aggregates.iter().map(String::as_str).zip(values.iter().copied()).collect(),
                epoch: epoch.epoch,
                at: &at,
            };
            self.put(key, json(serde_json::to_string(&line))?, &mut records, &mut told);
        }
        for (subject, total) in &epoch.totals {
            let key = key(Some(subject), None)?;
            let Some(total) = *total else {
                records.extend(self.known.contains_key(&key).then_some((key, None)));
                continue;
            };
            let total = Total { job: &self.job, subject, total, epoch: epoch.epoch, at: &at };
            self.put(key, json(serde_json::to_string(&total))?, &mut records, &mut told);
        }
        if epoch.reset {
            records.extend(self.known.keys().filter(|key| !told.contains(*key)).map(|key| (key.clone(), None)));
        }
        let raw = |text: &str| RawValue::from_string(text.to_owned()).map_err(|error| self.failed(&error));
        let snapshot = Snapshot {
            job: &self.job,
            epoch: epoch.epoch,
            at: &at,
            offsets: &raw(&epoch.offsets_json)?,
            digest: &epoch.digest,
            accounting: &raw(&epoch.accounting_json)?,
            taken_over_ms: self.take_over_ms,
        };
        records.push((key(None, None)?, Some(json(serde_json::to_string(&snapshot))?)));
        Ok(records)
    }

    /// Adds a record if it says something new.
    fn put(&self, key: String, value: String, records: &mut Vec<Record>, told: &mut HashSet<String>) {
        if self.known.get(&key).copied() != content(value.as_bytes()) {
            records.push((key.clone(), Some(value)));
        }
        told.insert(key);
    }
}

impl Sink for TopicSink {
    fn take(&mut self, epoch: &SinkEpoch, ending: &Ending) -> Result<(), SinkError> {
        if !self.batches.is_begun() {
            self.batches.begin().map_err(|error| self.failed(&error))?;
            self.look(ending)?;
        } else if epoch.reset && self.stored.is_none() {
            self.look(ending)?;
        }
        if let Some(stored) = self.stored {
            let is_told = self.take_over_ms.is_some() && self.take_over_ms > stored.taken_over_ms;
            if stored.epoch > epoch.epoch && !is_told {
                return Err(SinkError::NewerEpoch { stored: stored.epoch, offered: epoch.epoch });
            }
            if stored.epoch == epoch.epoch {
                return Ok(());
            }
        }
        let records = self.records(epoch)?;
        let batch: Vec<NewRecord<'_>> = records
            .iter()
            .map(|(key, value)| NewRecord { key: Some(key.as_bytes()), value: value.as_ref().map(String::as_bytes) })
            .collect();
        self.batches.append(&self.topic, &batch).map_err(|error| match error {
            ProduceError::UnknownTopic { .. } => self.failed(&"the topic is gone; it is made again"),
            error => self.failed(&error),
        })?;
        for (key, value) in records {
            match value.and_then(|value| content(value.as_bytes())) {
                Some(content) => drop(self.known.insert(key, content)),
                None => drop(self.known.remove(&key)),
            }
        }
        self.stored = Some(Stored { epoch: epoch.epoch, taken_over_ms: self.take_over_ms });
        Ok(())
    }
}

/// Notes what a record of the topic says, if it is of the job.
fn take_note(job: &str, known: &mut HashMap<String, u64>, stored: &mut Option<Stored>, record: RecordRef<'_>) {
    let Some(text) = record.key.and_then(|key| std::str::from_utf8(key).ok()) else { return };
    let Ok(key) = serde_json::from_str::<Key<'_>>(text) else { return };
    if key.job != job {
        return;
    }
    if key.subject.is_none() {
        *stored = record.value.and_then(|value| serde_json::from_slice(value).ok());
        return;
    }
    match record.value {
        Some(value) => drop(known.insert(text.to_owned(), content(value).unwrap_or(0))),
        None => drop(known.remove(text)),
    }
}

/// A digest of what a value says, but for when; `None`: it is the job's own record.
fn content(value: &[u8]) -> Option<u64> {
    let content: Content<'_> = serde_json::from_slice(value).ok()?;
    let said = content.aggregates.or(content.total)?;
    let digest: [u8; 32] = Sha256::digest(said.get()).into();
    Some(digest.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}
