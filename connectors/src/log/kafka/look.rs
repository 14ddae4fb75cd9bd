//! Looking at the cluster: which topics there are, and where they begin and end. All of it blocks.

use super::client::{Context, Shared, lock};
use super::ffi::{self, Described, Events};
use crate::log::{Retention, TopicConfig};
use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::{PartitionState, SourceError, TopicState};

/// How long a broker may take to answer.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// How long what is known of a topic's configuration is taken for true.
const CONFIG_KEPT: Duration = Duration::from_secs(30);
/// How long the one is waited for that the cluster names as its controller.
const CONTROLLER: Duration = Duration::from_secs(2);
/// How long a broker may not know of a topic that was made, and how long until it is asked again.
const NEW: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(50);
/// In an answer to a question for offsets: the first and the end.
const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

/// Asks the cluster.
pub(super) struct Looker {
    shared: Arc<Shared>,
    consumer: BaseConsumer<Context>,
    /// What the client below says; dropped before it.
    said: Mutex<Events>,
    admin: AdminClient<Context>,
    configs: Mutex<HashMap<String, (Instant, TopicConfig)>>,
    /// Who is asked for topics; `None`: the one that the cluster names as its controller, which may be none
    /// that answers.
    asked: Mutex<Option<i32>>,
    /// Topics that were just made, and when: not every broker knows them yet.
    made: Mutex<HashMap<String, Instant>>,
}

/// The first offset that is kept and the end, of a partition.
pub(super) type Bounds = (Offset, Offset);

impl Looker {
    pub fn new(shared: &Arc<Shared>) -> Result<Looker, KafkaError> {
        let config = shared.config.looking();
        let admin = config.create_with_context(Context::new(shared, "administers"))?;
        Ok(Looker {
            shared: shared.clone(),
            consumer: config.create_with_context(Context::new(shared, "looks"))?,
            said: Mutex::new(Events::of_admin(&admin)),
            admin,
            configs: Mutex::default(),
            asked: Mutex::default(),
            made: Mutex::default(),
        })
    }

    pub fn admin(&self) -> &AdminClient<Context> {
        &self.admin
    }

    /// Lets librdkafka say what is the matter, and what it wants; to be called now and then.
    pub fn serve(&self) {
        self.consumer.poll(Duration::ZERO);
        let events = lock(&self.said);
        while let Some(said) = events.next() {
            self.admin.inner().context().hear(said, &self.admin);
        }
    }

    fn away(&self, doing: &str, error: &impl ToString) -> SourceError {
        self.serve();
        SourceError::Away(self.shared.sentence(doing, error))
    }

    /// Notes that there is a topic of that name by now.
    pub fn is_made(&self, topic: &str) {
        lock(&self.made).insert(topic.to_owned(), Instant::now());
    }

    /// Whether one of these topics was just made and whoever was asked does not know it.
    fn misses_new(&self, topics: &[&str], knows: impl Fn(&str) -> bool) -> bool {
        let mut made = lock(&self.made);
        made.retain(|_, at| at.elapsed() < NEW);
        topics.iter().any(|topic| made.contains_key(*topic) && !knows(topic))
    }

    /// What there is of these topics.
    pub fn describe(&self, topics: &[&str]) -> Result<HashMap<String, Described>, SourceError> {
        loop {
            let described = self.describe_once(topics)?;
            if !self.misses_new(topics, |topic| described.contains_key(topic)) {
                return Ok(described);
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn describe_once(&self, topics: &[&str]) -> Result<HashMap<String, Described>, SourceError> {
        for last in [false, false, true] {
            let asked = *lock(&self.asked);
            // A controller that is named need not be there; a broker has the time to answer.
            let time = if asked.is_none() { CONTROLLER } else { ANSWER };
            match ffi::describe(self.consumer.client().native_ptr(), asked, topics, time) {
                Ok(described) => {
                    self.shared.is_back();
                    return Ok(described);
                }
                Err(error) => {
                    let next = self.another(asked);
                    *lock(&self.asked) = next;
                    if last || next.is_none() {
                        return Err(self.away("nothing is heard of topics", &error));
                    }
                }
            }
        }
        Err(SourceError::Away("nothing is heard of topics".to_owned()))
    }

    /// The broker to be asked after this one: the next by its id, of those that the cluster has just now.
    fn another(&self, asked: Option<i32>) -> Option<i32> {
        self.serve();
        // Where none was to be reached just now, it is not waited for long.
        let time = if self.shared.away().is_some() { AGAIN * 10 } else { ANSWER };
        let metadata = self.consumer.fetch_metadata(None, time).ok()?;
        let mut ids: Vec<i32> = metadata.brokers().iter().map(|broker| broker.id()).collect();
        ids.sort_unstable();
        ids.iter().copied().find(|id| Some(*id) > asked)
    }

    /// The bounds of partitions; those that there are not are missing in the answer.
    pub fn bounds(&self, places: &[(&str, u32)]) -> Result<HashMap<(String, u32), Bounds>, SourceError> {
        let low = self.offsets(places, EARLIEST)?;
        let mut high = self.offsets(places, LATEST)?;
        let both = |(place, low)| Some(((high.remove(&place)?), place, low));
        Ok(low.into_iter().filter_map(both).map(|(high, place, low)| (place, (low, high.max(low)))).collect())
    }

    /// For each place the offset that Kafka has for a time (or for the beginning or the end).
    fn offsets(&self, places: &[(&str, u32)], time: i64) -> Result<HashMap<(String, u32), Offset>, SourceError> {
        let failed = |error: &KafkaError| self.away("no offsets are heard", error);
        if places.is_empty() {
            return Ok(HashMap::new());
        }
        let mut list = TopicPartitionList::with_capacity(places.len());
        for (topic, partition) in places {
            let partition = i32::try_from(*partition).unwrap_or(i32::MAX);
            list.add_partition_offset(topic, partition, At::from_raw(time)).map_err(|error| failed(&error))?;
        }
        let until = Instant::now() + ANSWER;
        let found = loop {
            match self.consumer.offsets_for_times(list.clone(), ANSWER) {
                Ok(found) => break found,
                Err(error) if is_unknown(&error) => return Ok(HashMap::new()),
                // A partition that was just made, or has lost its leader, has another in a moment.
                Err(error) if has_no_leader(&error) && Instant::now() < until => std::thread::sleep(AGAIN),
                Err(error) => return Err(failed(&error)),
            }
        };
        self.shared.is_back();
        let mut offsets = HashMap::new();
        for element in found.elements() {
            match element.error() {
                Ok(()) => {}
                Err(error) if is_unknown(&error) => continue,
                Err(error) => return Err(failed(&error)),
            }
            let place = (element.topic().to_owned(), u32::try_from(element.partition()).unwrap_or(0));
            // No offset: nothing lies at or after the time.
            if let At::Offset(offset) = element.offset() {
                offsets.insert(place, Offset(u64::try_from(offset).unwrap_or(0)));
            }
        }
        Ok(offsets)
    }

    /// The first offset whose timestamp is at or after this; the end if there is none. Every record before it
    /// is earlier.
    pub fn offset_at(&self, topic: &str, partition: PartitionId, time_ms: i64) -> Result<Offset, SourceError> {
        let place = [(topic, partition.0)];
        if let Some(offset) = self.offsets(&place, time_ms.max(0))?.into_values().next() {
            return Ok(offset);
        }
        let unknown = || SourceError::UnknownPartition { topic: topic.to_owned(), partition };
        self.offsets(&place, LATEST)?.into_values().next().ok_or_else(unknown)
    }

    /// These topics, as far as there are any of these names.
    pub fn states(&self, topics: &[&str]) -> Result<Vec<TopicState>, SourceError> {
        loop {
            let states = self.states_once(topics)?;
            if !self.misses_new(topics, |topic| states.iter().any(|state| state.name == *topic)) {
                return Ok(states);
            }
            std::thread::sleep(AGAIN);
        }
    }

    fn states_once(&self, topics: &[&str]) -> Result<Vec<TopicState>, SourceError> {
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let described: BTreeMap<String, Described> = self.describe(topics)?.into_iter().collect();
        let of_one = |(name, topic): (_, &Described)| (0..topic.partitions).map(move |partition| (name, partition));
        let places: Vec<(&str, u32)> =
            described.iter().flat_map(|(name, topic)| of_one((name.as_str(), topic))).collect();
        let bounds = self.bounds(&places)?;
        let names: Vec<&str> = described.keys().map(String::as_str).collect();
        let configs = self.configs(&names)?;
        let mut states = Vec::new();
        for (name, topic) in &described {
            let bound = |partition| bounds.get(&(name.clone(), partition)).copied();
            let state = |(start, end)| PartitionState { start, end, bytes: None };
            // One that was deleted meanwhile has none.
            let partitions: Option<Vec<PartitionState>> = (0..topic.partitions).map(|p| bound(p).map(state)).collect();
            let Some(partitions) = partitions else { continue };
            let compacted = configs.get(name).is_some_and(|config| config.compacted);
            states.push(TopicState { name: name.clone(), incarnation: topic.id, compacted, partitions });
        }
        Ok(states)
    }

    /// The names of all topics.
    pub fn names(&self) -> Result<Vec<String>, SourceError> {
        let metadata = self.consumer.fetch_metadata(None, ANSWER);
        let metadata = metadata.map_err(|error| self.away("no topics are heard", &error))?;
        self.shared.is_back();
        Ok(metadata.topics().iter().map(|topic| topic.name().to_owned()).collect())
    }

    /// How topics are kept; those that there are not are missing in the answer.
    pub fn configs(&self, topics: &[&str]) -> Result<HashMap<String, TopicConfig>, SourceError> {
        let mut found = HashMap::new();
        {
            let mut configs = lock(&self.configs);
            configs.retain(|_, (at, _)| at.elapsed() < CONFIG_KEPT);
            found.extend(topics.iter().filter_map(|name| Some(((*name).to_owned(), configs.get(*name)?.1))));
        }
        let missing: Vec<_> = topics.iter().filter(|name| !found.contains_key(**name)).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let resources: Vec<_> = missing.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let options = AdminOptions::new().request_timeout(Some(ANSWER)).broker_id(*lock(&self.asked));
        let answers = block_on(self.admin.describe_configs(&resources, &options));
        let answers = match answers {
            Ok(answers) => answers,
            // Brokers that can't say how a topic is kept know of no other way than the usual one.
            Err(KafkaError::AdminOp(RDKafkaErrorCode::UnsupportedFeature)) => {
                found.extend(missing.into_iter().map(|name| ((*name).to_owned(), TopicConfig::default())));
                return Ok(found);
            }
            Err(error) => return Err(self.away("no configuration of topics is heard", &error)),
        };
        for (name, answer) in missing.into_iter().zip(answers) {
            match answer {
                // Of a topic that there is not, the answer is that it has no properties.
                Ok(resource) if resource.entries.is_empty() => {}
                Ok(resource) => {
                    let config = config_of(&resource);
                    lock(&self.configs).insert((*name).to_owned(), (Instant::now(), config));
                    found.insert((*name).to_owned(), config);
                }
                Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {}
                // Who may read need not be one who may see how topics are kept.
                Err(RDKafkaErrorCode::TopicAuthorizationFailed) => {
                    found.insert((*name).to_owned(), TopicConfig::default());
                }
                Err(error) => return Err(self.away("no configuration of topics is heard", &error)),
            }
        }
        Ok(found)
    }
}

/// Whether a partition has no leader just now, or another one than is known.
fn has_no_leader(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{LeaderNotAvailable, NotLeaderForPartition};
    error.rdkafka_error_code().is_some_and(|code| matches!(code, LeaderNotAvailable | NotLeaderForPartition))
}

/// Whether an error says that there is no such topic or partition.
fn is_unknown(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
    matches!(error.rdkafka_error_code(), Some(UnknownPartition | UnknownTopic | UnknownTopicOrPartition))
}

fn config_of(resource: &ConfigResource) -> TopicConfig {
    let value = |name: &str| resource.get(name).and_then(|entry| entry.value.as_deref()).unwrap_or_default();
    let number = |name: &str| value(name).parse::<u64>().ok();
    let policy = value("cleanup.policy");
    let mut retention = Retention::default();
    if policy.contains("delete") {
        // -1: for ever.
        retention.age = number("retention.ms").map(Duration::from_millis);
        retention.bytes = number("retention.bytes");
    }
    TopicConfig { compacted: policy.contains("compact"), retention }
}
