//! How a Kafka cluster is reached, and what librdkafka is told.

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How a Kafka cluster is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KafkaConfig {
    /// `host:port`, several with commas between.
    pub brokers: String,
    /// librdkafka's properties, for every client. See [`KafkaConfig::new`] for those that are not taken.
    pub properties: BTreeMap<String, Secret>,
    /// Of topics that are made; `None`: the cluster's default.
    pub replication_factor: Option<u16>,
    /// What the clients that read for a job hold at most of each of its topics, in bytes, beside what is
    /// under way.
    pub queue_bytes_max: u64,
}

/// A value that is never shown: not in logs, not in errors.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Why a configuration is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It would change what is counted, or is set by another option.
    #[error("kafka.properties: {name:?} can't be set: {why}")]
    Reserved {
        /// The property.
        name: String,
        /// What stands against it.
        why: &'static str,
    },
    /// librdkafka does not know it, or not with this value.
    #[error("kafka.properties: {name:?} is refused by librdkafka: {what}")]
    Refused {
        /// The property.
        name: String,
        /// In librdkafka's words, without the value.
        what: String,
    },
}

/// What librdkafka must be told as tallyflow needs it, and why.
const RESERVED: &[(&str, &str)] = &[
    ("auto.offset.reset", "offsets are exact, and what is gone is named"),
    ("bootstrap.servers", "name the brokers with --kafka"),
    ("enable.auto.commit", "offsets lie in checkpoints"),
    ("enable.auto.offset.store", "offsets lie in checkpoints"),
    ("enable.idempotence", "an append is written once"),
    ("enable.partition.eof", "it tells where a partition ends"),
    ("enable.sasl.oauthbearer.unsecure.jwt", "name a file with a token by sasl.oauthbearer.config"),
    ("group.id", "no consumer group is joined"),
    ("isolation.level", "what was not committed is not counted"),
    ("metadata.broker.list", "name the brokers with --kafka"),
    ("transaction.timeout.ms", "it goes with what is written"),
    ("transactional.id", "it tells this server from others"),
];

/// By default, see [`KafkaConfig::queue_bytes_max`].
pub const QUEUE_BYTES_MAX: u64 = 64 << 20;
/// A consumer that assigns itself partitions needs a group's name; none is joined.
const GROUP: &str = "tallyflow";

impl KafkaConfig {
    /// Of these brokers, with these properties. Errors: a property that tallyflow has to set itself, or that
    /// librdkafka refuses.
    pub fn new(brokers: &str, properties: BTreeMap<String, Secret>) -> Result<KafkaConfig, ConfigError> {
        for name in properties.keys() {
            if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| reserved == name) {
                return Err(ConfigError::Reserved { name: name.clone(), why });
            }
        }
        let config = KafkaConfig {
            brokers: brokers.to_owned(),
            properties,
            replication_factor: None,
            queue_bytes_max: QUEUE_BYTES_MAX,
        };
        config.base().create_native_config().map_err(|error| config.refused(error))?;
        Ok(config)
    }

    fn refused(&self, error: KafkaError) -> ConfigError {
        let (name, what) = match error {
            KafkaError::ClientConfig(_, what, name, value) if value.is_empty() => (name, what),
            KafkaError::ClientConfig(_, what, name, value) => (name, what.replace(&value, "***")),
            error => (String::new(), self.without_secrets(&error.to_string())),
        };
        ConfigError::Refused { name, what }
    }

    /// A text without any value of a property in it.
    pub fn without_secrets(&self, text: &str) -> String {
        let secrets = self.properties.values().filter(|value| value.0.len() > 3);
        secrets.fold(text.to_owned(), |text, secret| text.replace(&secret.0, "***"))
    }

    /// Whether somebody wants to see what librdkafka does.
    pub(super) fn is_debugged(&self) -> bool {
        self.properties.contains_key("debug")
    }

    /// Of a client that commits offsets of a group, and reads nothing.
    pub(super) fn committing(&self, group: &str) -> ClientConfig {
        let mut config = self.base();
        config.set("group.id", group).set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config
    }

    fn base(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        // What is asked for by the property `debug` comes at that level.
        config.set_log_level(if self.is_debugged() { RDKafkaLogLevel::Debug } else { RDKafkaLogLevel::Notice });
        config.set("bootstrap.servers", &self.brokers);
        config.set("client.id", "tallyflow");
        // A broker that comes back is found soon.
        config.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "1000");
        config.set("socket.connection.setup.timeout.ms", "5000");
        // What librdkafka logs is told by `tracing`; its own lines are not wanted beside.
        config.set("log.connection.close", "false");
        for (name, value) in &self.properties {
            config.set(name, &value.0);
        }
        config
    }

    /// A client that looks and administers, and reads what a person asks for.
    pub(super) fn looking(&self) -> ClientConfig {
        let mut config = self.base();
        config.set("group.id", GROUP).set("enable.auto.commit", "false");
        config.set("isolation.level", "read_committed");
        config
    }

    /// A client that reads a topic of so many partitions for a job.
    pub(super) fn reading(&self, partitions: usize) -> ClientConfig {
        // With a queue for each partition the bound holds for each.
        let kbytes = (self.queue_bytes_max / 1024 / partitions.max(1) as u64).clamp(256, 2_097_151);
        let mut config = self.base();
        let mut set = |name: &str, value: &str| {
            // These may be overridden.
            if !self.properties.contains_key(name) {
                config.set(name, value);
            }
        };
        set("queued.max.messages.kbytes", &kbytes.to_string());
        // A message that waits takes memory beside its bytes, of short ones more than those: they are bounded, too.
        set("queued.min.messages", "20000");
        set("fetch.message.max.bytes", &(kbytes * 1024 / 4).clamp(256 << 10, 1 << 20).to_string());
        set("fetch.max.bytes", "16777216");
        // How soon a full queue is looked at again: it is emptied within milliseconds.
        set("fetch.queue.backoff.ms", "2");
        // How long a broker holds a question for which it has nothing: a reader that comes to a client waits for
        // as long, and so does one that asks where a partition ends.
        set("fetch.wait.max.ms", "100");
        set("statistics.interval.ms", "5000");
        // Tells which topic is read, see `Reading`: a few lines whenever metadata comes.
        config.set_log_level(RDKafkaLogLevel::Debug);
        let asked = config.get("debug").map(|asked| format!("{asked},"));
        config.set("debug", asked.unwrap_or_default() + "metadata");
        config.set("group.id", GROUP);
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set("enable.partition.eof", "true");
        config.set("auto.offset.reset", "error");
        config.set("isolation.level", "read_committed");
        config
    }

    /// A client of a program that only reads, as fast as it can.
    pub(super) fn draining(&self) -> ClientConfig {
        let mut config = self.base();
        config.set("group.id", GROUP).set("enable.auto.commit", "false").set("auto.offset.reset", "error");
        config.set("isolation.level", "read_committed");
        config.set("queued.min.messages", "1000000").set("queued.max.messages.kbytes", "262144");
        config.set("fetch.message.max.bytes", "4194304");
        config
    }

    /// A client of a program that only appends.
    pub(super) fn sending(&self, linger: Duration) -> ClientConfig {
        let mut config = self.base();
        config.set("enable.idempotence", "true").set("delivery.report.only.error", "true");
        config.set("linger.ms", linger.as_millis().to_string()).set("batch.num.messages", "100000");
        config
    }

    /// A client that appends.
    pub(super) fn writing(&self, transactions: Option<(&str, Duration)>) -> ClientConfig {
        let mut config = self.base();
        let mut set = |name: &str, value: &str| {
            if !self.properties.contains_key(name) {
                config.set(name, value);
            }
        };
        set("linger.ms", "0");
        set("compression.type", "lz4");
        set("batch.num.messages", "100000");
        // A caller that waits is answered in this time.
        set("delivery.timeout.ms", "10000");
        set("request.timeout.ms", "5000");
        config.set("enable.idempotence", "true");
        if let Some((id, limit)) = transactions {
            config.set("transactional.id", id).set("transaction.timeout.ms", limit.as_millis().to_string());
        }
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str) -> Result<KafkaConfig, ConfigError> {
        KafkaConfig::new("localhost:9092", BTreeMap::from([(name.to_owned(), Secret::new(value))]))
    }

    #[test]
    fn what_counts_can_not_be_changed_and_what_is_unknown_is_named_without_its_value() {
        assert!(of("socket.keepalive.enable", "true").is_ok());
        assert!(matches!(of("isolation.level", "read_uncommitted"), Err(ConfigError::Reserved { .. })));
        let unknown = of("sasl.pasword", "very-secret").unwrap_err().to_string();
        assert!(unknown.contains("\"sasl.pasword\"") && !unknown.contains("very-secret"), "{unknown}");
        let wrong = of("socket.timeout.ms", "very-secret").unwrap_err().to_string();
        assert!(wrong.contains("socket.timeout.ms") && !wrong.contains("very-secret"), "{wrong}");
    }

    #[test]
    fn a_secret_is_not_shown() {
        let config = of("client.rack", "very-secret").unwrap();
        assert!(!format!("{config:?}").contains("very-secret"));
        assert_eq!(config.without_secrets("no very-secret here"), "no *** here");
    }
}
