//! Topics: their names and limits, how they are made, deleted and remembered.

use super::error::topic_error;
use super::schema::Stream;
use crate::log::{Retention, TopicConfig, TopicError};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tallyflow_dataflows::ids::PartitionId;

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
