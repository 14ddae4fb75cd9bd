//! Topics as whoever makes them sees them, in every log.

use std::time::Duration;

/// A topic has at most this many partitions.
pub const PARTITIONS_MAX: u32 = 1024;
/// A topic's name has at most this many characters, as in Kafka.
const NAME_MAX: usize = 249;

/// How long a topic keeps its records. By default for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Records older than this go.
    pub age: Option<Duration>,
    /// The oldest records go while the topic's keys and values have more bytes than this.
    pub bytes: Option<u64>,
}

/// What a topic is made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicConfig {
    /// Keep only the newest record of each key. Every record needs a key then.
    pub compacted: bool,
    /// What goes with time; nothing by default, and nothing at all where `compacted`.
    pub retention: Retention,
}

/// Why a topic can't be made or deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// There is a topic of this name.
    #[error("there is a topic {topic:?} already")]
    AlreadyExists { topic: String },
    /// There is no topic of this name.
    #[error("there is no topic {topic:?}")]
    Unknown { topic: String },
    /// The name is not one that a topic can have.
    #[error("{topic:?} can't be a topic's name: 1 to 249 letters, digits, '.', '_' or '-', and not \".\" or \"..\"")]
    Name { topic: String },
    /// The number of partitions is out of range.
    #[error("a topic has 1 to {max} partitions, not {partitions}")]
    Partitions { partitions: u32, max: u32 },
    /// Retention was asked for on a compacted topic, which keeps the newest record of every key.
    #[error("a compacted topic keeps the newest record of each key; it can't have a retention")]
    CompactedRetention,
    /// The log can't be reached just now.
    #[error("{0}; try again in a moment")]
    Away(String),
    /// The disk is full.
    #[error("the disk is full")]
    Full,
    /// The store failed.
    #[error("writing the log failed: {0}")]
    Io(String),
}

/// That `name`, `partitions` and `config` may make a topic.
pub fn check_topic(name: &str, partitions: u32, config: TopicConfig) -> Result<(), TopicError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > NAME_MAX || name == "." || name == ".." || !name.bytes().all(good) {
        return Err(TopicError::Name { topic: name.to_owned() });
    }
    if !(1..=PARTITIONS_MAX).contains(&partitions) {
        return Err(TopicError::Partitions { partitions, max: PARTITIONS_MAX });
    }
    if config.compacted && config.retention != Retention::default() {
        return Err(TopicError::CompactedRetention);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_kafka_takes() {
        let ok = |name: &str| check_topic(name, 1, TopicConfig::default()).is_ok();
        assert!(ok("posts") && ok("a.b_c-D9") && ok("...") && ok(&"x".repeat(249)));
        assert!(!ok("") && !ok(".") && !ok("..") && !ok("a b") && !ok("ä") && !ok("a/b") && !ok(&"x".repeat(250)));
    }

    #[test]
    fn partitions_have_bounds() {
        assert!(check_topic("t", 1024, TopicConfig::default()).is_ok());
        assert_eq!(
            check_topic("t", 0, TopicConfig::default()),
            Err(TopicError::Partitions { partitions: 0, max: PARTITIONS_MAX })
        );
        assert!(check_topic("t", 1025, TopicConfig::default()).is_err());
    }

    #[test]
    fn a_compacted_topic_has_no_retention() {
        let retention = Retention { age: None, bytes: Some(9) };
        assert_eq!(
            check_topic("t", 1, TopicConfig { compacted: true, retention }),
            Err(TopicError::CompactedRetention)
        );
    }
}
