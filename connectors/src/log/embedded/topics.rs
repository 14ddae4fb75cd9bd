//! Topics: their names and limits, how they are made, deleted and remembered.

use super::error::{TopicError, topic_error};
use super::schema::Stream;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tallyflow_dataflows::ids::PartitionId;

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

/// A topic as the writing side remembers it.
#[derive(Debug)]
pub(super) struct Topic {
    pub id: i64,
    pub name: String,
    pub config: TopicConfig,
    /// By partition.
    pub streams: Vec<Stream>,
    next_keyless: AtomicU32,
}

impl Topic {
    pub fn partitions(&self) -> u32 {
        self.streams.len() as u32
    }

    /// The partition for the keyless records of an append: each in turn.
    pub fn next_keyless(&self) -> u32 {
        self.next_keyless.fetch_add(1, Ordering::Relaxed) % self.partitions()
    }
}

/// The topics that there are, as known to those who append.
#[derive(Default)]
pub(super) struct Topics {
    by_name: RwLock<HashMap<String, Arc<Topic>>>,
}

impl Topics {
    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn insert(&self, topic: Arc<Topic>) {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).insert(topic.name.clone(), topic);
    }

    pub fn remove(&self, name: &str) {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Reads what the database has.
    pub fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let topics = Topics::default();
        let mut statement = conn.prepare("SELECT id, name, compacted, retention_ms, retention_bytes FROM topics")?;
        let mut rows = statement.query([])?;
        let mut streams = conn.prepare("SELECT id FROM streams WHERE topic = ?1 ORDER BY part")?;
        while let Some(row) = rows.next()? {
            let id = row.get(0)?;
            let streams: Vec<Stream> =
                streams.query_map([id], |row| Ok(Stream(row.get(0)?)))?.collect::<rusqlite::Result<_>>()?;
            let retention = Retention {
                age: row.get::<_, Option<i64>>(3)?.map(|ms| Duration::from_millis(ms as u64)),
                bytes: row.get::<_, Option<i64>>(4)?.map(|bytes| bytes as u64),
            };
            let config = TopicConfig { compacted: row.get(2)?, retention };
            topics.insert(Arc::new(Topic { id, name: row.get(1)?, config, streams, next_keyless: AtomicU32::new(0) }));
        }
        Ok(topics)
    }
}

/// That `name`, `partitions` and `config` may make a topic.
pub(super) fn check(name: &str, partitions: u32, config: TopicConfig) -> Result<(), TopicError> {
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

/// Makes a topic in the database. On the writer's thread.
pub(super) fn create(
    conn: &mut Connection,
    name: &str,
    partitions: u32,
    config: TopicConfig,
) -> Result<Topic, TopicError> {
    let sql = |e: rusqlite::Error| topic_error(&e);
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    if find(&tx, name).map_err(sql)?.is_some() {
        return Err(TopicError::AlreadyExists { topic: name.to_owned() });
    }
    // Random rather than counted: another log under the same directory is another incarnation too.
    // 53 bits, so that JSON carries it.
    let incarnation = (rand::random::<u64>() >> 11) as i64;
    let millis = config.retention.age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let bytes = config.retention.bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
    tx.execute(
        "INSERT INTO topics (name, incarnation, compacted, retention_ms, retention_bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
        (name, incarnation, config.compacted, millis, bytes),
    )
    .map_err(sql)?;
    let id = tx.last_insert_rowid();
    let mut streams = Vec::with_capacity(partitions as usize);
    for part in 0..partitions {
        tx.prepare_cached(
            "INSERT INTO streams (topic, part, start_offset, end_offset, last_ms, bytes) VALUES (?1, ?2, 0, 0, 0, 0)",
        )
        .and_then(|mut statement| statement.execute((id, part)))
        .map_err(sql)?;
        streams.push(Stream(tx.last_insert_rowid()));
    }
    if streams.last() > Some(&Stream::MAX) {
        return Err(TopicError::Io(format!("the log has no numbers left for partitions ({} made)", Stream::MAX.0)));
    }
    tx.commit().map_err(sql)?;
    Ok(Topic { id, name: name.to_owned(), config, streams, next_keyless: AtomicU32::new(0) })
}

/// Deletes a topic: it is gone at once, the housekeeper removes its rows bit by bit. On the
/// writer's thread. Answers the number of partitions it had.
pub(super) fn delete(conn: &mut Connection, name: &str) -> Result<Vec<PartitionId>, TopicError> {
    let sql = |e: rusqlite::Error| topic_error(&e);
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    let id = find(&tx, name).map_err(sql)?.ok_or_else(|| TopicError::Unknown { topic: name.to_owned() })?;
    tx.execute("DELETE FROM topics WHERE id = ?1", [id]).map_err(sql)?;
    let partitions = tx.execute("UPDATE streams SET topic = NULL WHERE topic = ?1", [id]).map_err(sql)?;
    tx.commit().map_err(sql)?;
    Ok((0..partitions as u32).map(PartitionId).collect())
}

fn find(tx: &Transaction<'_>, name: &str) -> rusqlite::Result<Option<i64>> {
    tx.query_row("SELECT id FROM topics WHERE name = ?1", [name], |row| row.get(0)).optional()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_kafka_takes() {
        let ok = |name: &str| check(name, 1, TopicConfig::default()).is_ok();
        assert!(ok("posts") && ok("a.b_c-D9") && ok("...") && ok(&"x".repeat(249)));
        assert!(!ok("") && !ok(".") && !ok("..") && !ok("a b") && !ok("ä") && !ok("a/b") && !ok(&"x".repeat(250)));
    }

    #[test]
    fn partitions_have_bounds() {
        assert!(check("t", 1024, TopicConfig::default()).is_ok());
        assert_eq!(
            check("t", 0, TopicConfig::default()),
            Err(TopicError::Partitions { partitions: 0, max: PARTITIONS_MAX })
        );
        assert!(check("t", 1025, TopicConfig::default()).is_err());
    }

    #[test]
    fn a_compacted_topic_has_no_retention() {
        let retention = Retention { age: None, bytes: Some(9) };
        assert_eq!(check("t", 1, TopicConfig { compacted: true, retention }), Err(TopicError::CompactedRetention));
    }
}
