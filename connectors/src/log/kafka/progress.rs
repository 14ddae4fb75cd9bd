//! Offsets that are committed for tools which show how far behind a consumer group is. Nothing is ever read from
//! there: where a job goes on stands in its checkpoints.

use super::client::{Context, Shared};
use super::config::KafkaConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::topic_partition_list::{Offset as At, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::Duration;
use tallyflow_dataflows::ids::Offset;
use tallyflow_dataflows::source::SourceError;

/// A consumer group that nobody is in.
pub struct Progress {
    consumer: BaseConsumer<Context>,
    group: String,
}

impl Progress {
    /// Asks for nothing yet.
    pub fn of(config: &KafkaConfig, group: &str) -> Result<Progress, SourceError> {
        let context = Context::new(&Shared::new(config.clone()), format!("tells of {group}"));
        let consumer = config.committing(group).create_with_context(context);
        let consumer = consumer.map_err(|error| SourceError::Io(config.without_secrets(&error.to_string())))?;
        Ok(Progress { consumer, group: group.to_owned() })
    }

    /// Commits the next offset of each partition, by topic. Blocks until the brokers have answered.
    pub fn commit(&self, offsets: &BTreeMap<String, Vec<Offset>>) -> Result<(), SourceError> {
        let refused = |error: &dyn std::fmt::Display| {
            SourceError::Away(format!("offsets of the group {:?} can't be committed: {error}", self.group))
        };
        let mut list = TopicPartitionList::new();
        for (topic, partitions) in offsets {
            for (partition, next) in (0..).zip(partitions) {
                let next = At::Offset(i64::try_from(next.0).unwrap_or(i64::MAX));
                list.add_partition_offset(topic, partition, next).map_err(|error| refused(&error))?;
            }
        }
        // What it has to say since the last time, and the token that it may want.
        while self.consumer.poll(Duration::ZERO).is_some() {}
        self.consumer.commit(&list, CommitMode::Sync).map_err(|error| refused(&error))
    }
}
