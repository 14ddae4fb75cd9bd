//! What must survive: the submitted jobs, the epochs reserved, the hash key. Records of a compacted
//! topic, written before anything is done about them.

use crate::node::generation::Generation;
use crate::node::patience::patiently;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tallyflow_connectors::log::{Log, RangeReader, TopicConfig, TopicError};
use tallyflow_dataflows::claim::HashKey;
use tallyflow_dataflows::crash;
use tallyflow_dataflows::engine::job::InstallInput;
use tallyflow_dataflows::ids::{Epoch, Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::source::{Budget, NewRecord, ProduceError, SourceError};
use tallyflow_dataflows::spec::JobSpec;
use tallyflow_dataflows::spec::polls::PollInForce;

/// The node's own topic in a log of its own. Names like it are kept from others, see [`is_internal`].
pub const TOPIC: &str = "__tallyflow";

/// Whether a topic is the node's own: not listed, not written from outside.
pub fn is_internal(topic: &str) -> bool {
    topic.starts_with("__")
}

/// A submitted job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobRecord {
    pub id: u64,
    pub submitted_ms: i64,
    pub spec: JobSpec,
    /// The spec's inputs, resolved at submission: so that "end" stays where it was.
    pub inputs: Vec<InstallInput>,
    pub wanted: Wanted,
    /// Where a pause has left it, by input and partition.
    pub paused_at: Option<Vec<Vec<Offset>>>,
    /// See `Plan::form`.
    #[serde(default)]
    pub form: u64,
    /// What is computed beside it, to take its place.
    #[serde(default)]
    pub replacing: Option<(JobSpec, Vec<InstallInput>)>,
    /// Whether it was cancelled with a checkpoint, from which it can go on.
    #[serde(default)]
    pub keeps_state: bool,
    /// When it was last submitted to take over its sinks, in ms since 1970.
    #[serde(default)]
    pub take_over_ms: Option<i64>,
}

/// What its owner wants of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    Running,
    Paused,
    Cancelled,
}

/// A poll, by its id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PollRecord {
    Kept {
        /// The id of its job, which a job submitted anew under the same name does not have.
        job: u64,
        in_force: PollInForce,
        made_ms: i64,
        changed_ms: i64,
        /// By input and partition: records from here on can't count. `None`: that is not known yet.
        sealed: Option<Vec<Vec<Offset>>>,
    },
    /// What is left of a poll that was deleted: a later one of its id has a greater version.
    Deleted { job: u64, version: u32, at_ms: i64 },
}

impl PollRecord {
    pub fn job(&self) -> u64 {
        match self {
            PollRecord::Kept { job, .. } | PollRecord::Deleted { job, .. } => *job,
        }
    }
}

/// How many epochs are reserved at a time: at 500 a second, enough for 99 days.
const EPOCHS_RESERVED: u64 = 1 << 32;

/// The control topic.
pub struct Control {
    log: Arc<dyn Log>,
    topic: String,
    reserved: Mutex<Epoch>,
    /// `None`: at the start, before it is claimed.
    generation: Option<Arc<Generation>>,
    pub hash_key: HashKey,
}

/// What the topic held when it was opened.
pub struct Kept {
    pub jobs: BTreeMap<String, JobRecord>,
    pub polls: BTreeMap<String, PollRecord>,
    /// Of the last start.
    pub generation: u64,
}

/// The secret of the hashes, once the process that leads has put it there. Blocks, also while the log is away for
/// a while.
pub fn hash_key(log: &dyn Log, topic: &str) -> anyhow::Result<Option<HashKey>> {
    let values = match patiently(|| read(log, topic)) {
        Ok(values) => values,
        Err(SourceError::UnknownTopic { .. }) => return Ok(None),
        Err(error) => return Err(error).context("reading the control topic"),
    };
    let key = values.get("hash-key").map(|value| serde_json::from_slice(value)).transpose();
    key.context("the control record of the hash key can't be read")
}

/// Reads what the control topic holds, by key.
fn read(log: &dyn Log, topic: &str) -> Result<BTreeMap<String, Vec<u8>>, SourceError> {
    let unknown = || SourceError::UnknownTopic { topic: topic.to_owned() };
    let state = log.topic(topic)?.ok_or_else(unknown)?;
    let bounds = state.partitions.first().map(|partition| (partition.start, partition.end)).ok_or_else(unknown)?;
    let budget = Budget { records_max: 1_000, bytes_max: 1 << 24, until: Offset(u64::MAX) };
    let mut reader = RangeReader::open(log, (topic, None), PartitionId(0), bounds)?;
    let mut values: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut note = |record: RecordRef<'_>| {
        let key = String::from_utf8_lossy(record.key.unwrap_or_default()).into_owned();
        match record.value {
            Some(value) => values.insert(key, value.to_vec()),
            None => values.remove(&key),
        };
    };
    while reader.read(budget, &mut note)?.is_some() {}
    Ok(values)
}

impl Control {
    /// Opens the control topic, made if it is not there.
    pub fn open(log: Arc<dyn Log>, topic_name: String) -> anyhow::Result<(Control, Kept)> {
        let config = TopicConfig { compacted: true, ..TopicConfig::default() };
        match patiently(|| log.create_topic(&topic_name, 1, config)) {
            Ok(()) | Err(TopicError::AlreadyExists { .. }) => {}
            Err(error) => bail!("making the control topic: {error}"),
        }
        let values = patiently(|| read(log.as_ref(), &topic_name)).context("reading the control topic")?;
        let reserved = match values.get("epochs") {
            Some(value) => serde_json::from_slice(value).context("the control record of epochs can't be read")?,
            None => Epoch(0),
        };
        let generation = match values.get("generation") {
            Some(value) => serde_json::from_slice(value).context("the control record of starts can't be read")?,
            None => 0,
        };
        let known_key = values.get("hash-key").map(|value| serde_json::from_slice(value)).transpose();
        let known_key = known_key.context("the control record of the hash key can't be read")?;
        let (mut jobs, mut polls) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in &values {
            if let Some(name) = key.strip_prefix("job/") {
                let record = serde_json::from_slice(value)
                    .with_context(|| format!("the control record of job {name:?} can't be read"))?;
                jobs.insert(name.to_owned(), record);
            }
            if let Some(id) = key.strip_prefix("poll/") {
                let record = serde_json::from_slice(value)
                    .with_context(|| format!("the control record of poll {id:?} can't be read"))?;
                polls.insert(id.to_owned(), record);
            }
        }
        let mut control = Control {
            log,
            topic: topic_name,
            reserved: Mutex::new(reserved),
            generation: None,
            hash_key: known_key.unwrap_or(HashKey([0, 0])),
        };
        if known_key.is_none() {
            let mut bytes = [0u8; 16];
            getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
            let (a, b) = bytes.split_at(8);
            let half = |bytes: &[u8]| bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
            control.hash_key = HashKey([half(a), half(b)]);
            patiently(|| control.put("hash-key", &control.hash_key))?;
        }
        Ok((control, Kept { jobs, polls, generation }))
    }

    /// Its name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Tells the data directory from others, but not from its copies: a digest of its secret.
    pub fn identity(&self) -> String {
        let [a, b] = self.hash_key.0;
        let digest = Sha256::digest([a.to_le_bytes(), b.to_le_bytes()].concat());
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes which start this is. From here on nothing is written once another server has taken over.
    pub fn belong_to(&mut self, generation: Arc<Generation>) -> Result<(), ProduceError> {
        patiently(|| self.put("generation", &generation.number()))?;
        self.generation = Some(generation);
        Ok(())
    }

    /// Writes what is wanted of a job. Blocks until it is durable.
    pub fn put_job(&self, record: &JobRecord) -> Result<(), ProduceError> {
        self.put(&format!("job/{}", record.spec.name), record)
    }

    /// Writes what is wanted of a poll. Blocks until it is durable.
    pub fn put_poll(&self, id: &str, record: &PollRecord) -> Result<(), ProduceError> {
        self.put(&format!("poll/{id}"), record)
    }

    /// Writes that nothing is known of these polls. Blocks until it is durable.
    pub fn forget_polls(&self, ids: &[String]) -> Result<(), ProduceError> {
        let keys: Vec<String> = ids.iter().map(|id| format!("poll/{id}")).collect();
        let records: Vec<_> = keys.iter().map(|key| NewRecord { key: Some(key.as_bytes()), value: None }).collect();
        self.append(&records)
    }

    /// Writes a record for its place in time alone: the log's timestamps never fall, so whatever is
    /// appended after it to any topic has this time or a later one. Blocks until it is durable.
    pub fn put_barrier(&self, now_ms: i64) -> Result<(), ProduceError> {
        self.put("barrier", &now_ms)
    }

    /// Reserves a block of epochs, none of which was ever used: its first, and one past its last.
    /// Blocks until that is durable.
    pub fn reserve_epochs(&self) -> Result<(Epoch, Epoch), ProduceError> {
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = Epoch(reserved.0 + EPOCHS_RESERVED);
        self.put("epochs", &limit)?;
        let first = Epoch(reserved.0 + 1);
        *reserved = limit;
        Ok((first, limit))
    }

    /// Reserves more where `epoch` comes near to the last one reserved; the new limit if so.
    pub fn keep_epochs_reserved(&self, epoch: Epoch) -> Result<Option<Epoch>, ProduceError> {
        let reserved = *self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        if reserved.0 - epoch.0 > EPOCHS_RESERVED / 2 {
            return Ok(None);
        }
        self.reserve_epochs().map(|(_, limit)| Some(limit))
    }

    fn put(&self, key: &str, value: &impl Serialize) -> Result<(), ProduceError> {
        let value = serde_json::to_vec(value).map_err(|e| ProduceError::Io(e.to_string()))?;
        let record = NewRecord { key: Some(key.as_bytes()), value: Some(&value) };
        self.append(&[record])
    }

    fn append(&self, records: &[NewRecord]) -> Result<(), ProduceError> {
        if let Some(why) = self.generation.as_ref().and_then(|generation| generation.must_not_write()) {
            return Err(ProduceError::Io(why));
        }
        crash::point("control::note");
        self.log.append(&self.topic, records, None)?;
        crash::point("control::noted");
        Ok(())
    }
}
