//! Dead letters to a topic: what is kept for the API goes there too, each at least once.

use crate::node::Node;
use crate::server::answer::text_or_base64;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tallyflow_connectors::dead_letters::Waiting;
use tallyflow_connectors::log::{TopicConfig, TopicError};
use tallyflow_dataflows::source::{NewRecord, ProduceError};

/// How often it is looked whether letters wait, and how long what failed is left alone.
const LOOK_EVERY: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_secs(2);
/// At most so many go at once.
const AT_ONCE: usize = 256;
/// A value beyond this is left out: with what goes around it, it would be too long for a record.
const VALUE_BYTES_MAX: usize = 600_000;

/// The key of a letter in its topic: the same one where it is published twice.
#[derive(Serialize)]
struct Key<'a> {
    job: &'a str,
    topic: &'a str,
    partition: u32,
    offset: u64,
}

/// A letter as it stands in its topic.
#[derive(Serialize)]
struct Letter<'a> {
    #[serde(flatten)]
    at: Key<'a>,
    timestamp_ms: i64,
    reason: &'a str,
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    /// The value is too long; it stands in the log at the offset.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    value_left_out: bool,
}

impl Node {
    /// Starts the thread that publishes dead letters, where they are to be.
    pub(super) fn publish_letters(self: &Arc<Self>) -> std::io::Result<()> {
        let topic = self.config.kafka.as_ref().and_then(|kafka| kafka.dead_letters.clone());
        let Some(topic) = topic else { return Ok(()) };
        let node = Arc::downgrade(self);
        std::thread::Builder::new().name("dead-letters".to_owned()).spawn(move || {
            let mut is_behind = false;
            loop {
                std::thread::sleep(if is_behind { PAUSE } else { LOOK_EVERY });
                let Some(node) = node.upgrade().filter(|node| !node.is_stopping()) else { return };
                match node.publish_some(&topic) {
                    Ok(()) => is_behind = false,
                    Err(error) if !is_behind => {
                        tracing::warn!("dead letters are not published to topic {topic:?} yet: {error:#}");
                        is_behind = true;
                    }
                    Err(_) => {}
                }
            }
        })?;
        Ok(())
    }

    fn publish_some(&self, topic: &str) -> anyhow::Result<()> {
        loop {
            let waiting = self.dead_letters_store().waiting(AT_ONCE)?;
            let Some(last) = waiting.last().map(|letter| letter.id) else { return Ok(()) };
            let records: Vec<(Vec<u8>, Vec<u8>)> = waiting.iter().map(record).collect::<Result<_, _>>()?;
            let records: Vec<NewRecord<'_>> =
                records.iter().map(|(key, value)| NewRecord { key: Some(key), value: Some(value) }).collect();
            match self.log.append(topic, &records, None) {
                Ok(_) => self.dead_letters_store().published(last)?,
                Err(ProduceError::UnknownTopic { .. }) => {
                    match self.log.create_topic(topic, 1, TopicConfig::default()) {
                        Ok(()) | Err(TopicError::AlreadyExists { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A letter's key and value in its topic.
fn record(Waiting { job, letter, .. }: &Waiting) -> serde_json::Result<(Vec<u8>, Vec<u8>)> {
    let at = || Key { job, topic: &letter.topic, partition: letter.partition, offset: letter.offset };
    let fits = |bytes: &Vec<u8>| bytes.len() <= VALUE_BYTES_MAX;
    let (key, key_base64) = text_or_base64(letter.key.clone().filter(fits));
    let (value, value_base64) = text_or_base64(letter.value.clone().filter(fits));
    let letter = Letter {
        at: at(),
        timestamp_ms: letter.timestamp_ms,
        reason: &letter.reason,
        key,
        key_base64,
        value,
        value_base64,
        value_left_out: letter.value.as_ref().is_some_and(|value| !fits(value)),
    };
    Ok((serde_json::to_vec(&at())?, serde_json::to_vec(&letter)?))
}
