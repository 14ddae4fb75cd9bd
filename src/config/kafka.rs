//! The options of Kafka.

use serde::Deserialize;
use std::collections::BTreeMap;
use tallyflow_connectors::log::kafka::{KafkaConfig, Secret};
use tallyflow_connectors::log::{TopicConfig, check_topic};

/// Kafka as the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Kafka {
    pub config: KafkaConfig,
    /// Begins the names of this server's own topics.
    pub prefix: String,
    /// The topic of dead letters; `None`: they are in none.
    pub dead_letters: Option<String>,
    /// Begins the names of groups in which offsets are committed for tools; `None`: none are.
    pub lag_groups: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKafka {
    pub brokers: String,
    pub prefix: String,
    pub replication_factor: u64,
    pub queue_bytes_max: u64,
    pub dead_letters: String,
    pub lag_groups: String,
    pub properties: BTreeMap<String, RawProperty>,
}

/// A property of librdkafka: its value, or where that stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawProperty {
    Text(String),
    Number(i64),
    Flag(bool),
    Elsewhere(Elsewhere),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Elsewhere {
    env: Option<String>,
    file: Option<String>,
}

impl RawProperty {
    fn value(self, name: &str) -> Result<Secret, String> {
        let elsewhere = match self {
            RawProperty::Text(text) => return Ok(Secret::new(text)),
            RawProperty::Number(number) => return Ok(Secret::new(number.to_string())),
            RawProperty::Flag(flag) => return Ok(Secret::new(flag.to_string())),
            RawProperty::Elsewhere(elsewhere) => elsewhere,
        };
        match elsewhere {
            Elsewhere { env: Some(variable), file: None } => match std::env::var(&variable) {
                Ok(value) => Ok(Secret::new(value)),
                Err(_) => Err(format!("{name:?} is to stand in the environment as {variable}, and is not there")),
            },
            Elsewhere { env: None, file: Some(path) } => match std::fs::read_to_string(&path) {
                Ok(value) => Ok(Secret::new(value.trim_end_matches(['\r', '\n']))),
                Err(error) => Err(format!("{name:?} is to stand in the file {path}, which can't be read: {error}")),
            },
            _ => {
                Err(format!("{name:?} wants a text, or where it stands: {{ env = \"NAME\" }} or {{ file = \"PATH\" }}"))
            }
        }
    }
}

impl RawKafka {
    /// What was written, checked; `None`: the log is the embedded one. The error names the option.
    pub fn check(self) -> Result<Option<Kafka>, (&'static str, String)> {
        let brokers: Vec<&str> = self.brokers.split(',').map(str::trim).filter(|broker| !broker.is_empty()).collect();
        if brokers.is_empty() {
            return Ok(None);
        }
        for broker in &brokers {
            let port = broker.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
            if port.is_none_or(|port| port.parse::<u16>().is_err()) {
                let what = format!("{broker:?} is no broker; write HOST:PORT, several with commas between");
                return Err(("kafka.brokers", what));
            }
        }
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if self.prefix.is_empty() || self.prefix.len() > 100 || !self.prefix.bytes().all(good) {
            let what = format!("{:?} can't begin a topic's name; take letters, digits, '.', '_' or '-'", self.prefix);
            return Err(("kafka.prefix", what));
        }
        let mut properties = BTreeMap::new();
        for (name, value) in self.properties {
            let value = value.value(&name).map_err(|what| ("kafka.properties", what))?;
            properties.insert(name, value);
        }
        let mut config = KafkaConfig::new(&brokers.join(","), properties)
            .map_err(|error| ("kafka.properties", error.to_string()))?;
        let replication = u16::try_from(self.replication_factor).unwrap_or(u16::MAX);
        config.replication_factor = (replication > 0).then_some(replication);
        config.queue_bytes_max = self.queue_bytes_max;
        let dead_letters = Some(self.dead_letters).filter(|topic| !topic.is_empty());
        if let Some(topic) = &dead_letters
            && (check_topic(topic, 1, TopicConfig::default()).is_err() || topic.starts_with("__"))
        {
            let what = format!("{topic:?} can't be a topic's name; take letters, digits, '.', '_' or '-', or nothing");
            return Err(("kafka.dead_letters", what));
        }
        let lag_groups = Some(self.lag_groups).filter(|groups| !groups.is_empty());
        Ok(Some(Kafka { config, prefix: self.prefix, dead_letters, lag_groups }))
    }
}
