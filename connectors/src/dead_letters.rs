//! Dead letters: records for which a job had no use, kept whole in a small SQLite file.
//!
//! They are found again when the log is read again, so they are synced now and then, not one by one.

use rusqlite::{Connection, params};
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::time::Duration;

/// A record for which a job had no use, as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub topic: String,
    pub partition: u32,
    pub offset: u64,
    /// The log's timestamp in ms since 1970.
    pub timestamp_ms: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// One short sentence.
    pub reason: String,
}

/// Offsets of a partition that were read once more, up to before `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    pub topic: String,
    pub partition: u32,
    pub from: u64,
    pub to: u64,
}

/// The dead letters of all jobs.
pub struct DeadLetters {
    conn: Connection,
    /// Of each job; the oldest go first.
    kept_max: usize,
    /// Of each job that has got some, the rows of those that are kept, oldest first. Dropped where others are
    /// changed than at the ends.
    rows: HashMap<String, VecDeque<i64>>,
    /// Whether letters wait in the outbox to be published.
    publishes: bool,
}

/// A letter that waits to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Rises with each.
    pub id: i64,
    pub job: String,
    pub letter: DeadLetter,
}

const TABLES: &str = "
PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS dead_letters (
    job          TEXT    NOT NULL,
    topic        TEXT    NOT NULL,
    partition    INTEGER NOT NULL,
    \"offset\"     INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    key          BLOB,
    value        BLOB,
    reason       TEXT    NOT NULL,
    UNIQUE (job, topic, partition, \"offset\")
);
CREATE TABLE IF NOT EXISTS outbox (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    job          TEXT    NOT NULL,
    topic        TEXT    NOT NULL,
    partition    INTEGER NOT NULL,
    \"offset\"     INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    key          BLOB,
    value        BLOB,
    reason       TEXT    NOT NULL
);
";
/// Letters that wait to be published: beyond, the oldest are not.
const OUTBOX_MAX: i64 = 100_000;

impl DeadLetters {
    /// Opens the file, made if it is not there.
    pub fn open(path: &Path, kept_max: usize) -> rusqlite::Result<Self> {
        let conn = Connection::open(path)?;
        conn.busy_timeout(Duration::from_secs(10))?;
        conn.execute_batch(TABLES)?;
        Ok(DeadLetters { conn, kept_max, rows: HashMap::new(), publishes: false })
    }

    /// Has letters that come from now on wait to be published; those of [forms beside a job](is_of_a_form) once they
    /// take its place.
    pub fn publishing(mut self) -> Self {
        self.publishes = true;
        self
    }

    /// The oldest letters that wait to be published.
    pub fn waiting(&self, limit: usize) -> rusqlite::Result<Vec<Waiting>> {
        let sql = "SELECT topic, partition, \"offset\", timestamp_ms, key, value, reason, id, job FROM outbox
                   ORDER BY id LIMIT ?1";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([limit as i64], |row| {
            Ok(Waiting { id: row.get(7)?, job: row.get(8)?, letter: letter_of(row)? })
        })?;
        rows.collect()
    }

    /// Letters up to this one were published.
    pub fn published(&mut self, id: i64) -> rusqlite::Result<()> {
        self.conn.execute("DELETE FROM outbox WHERE id <= ?1", [id]).map(|_| ())
    }

    /// Adds letters of a job; one that is there already, from an earlier reading, stays as it is. `again` are
    /// ranges of offsets, by topic and partition, that were read once more: of them only these are left.
    pub fn add(&mut self, job: &str, letters: &[DeadLetter], again: &[Again]) -> rusqlite::Result<()> {
        // It is there again once all is done.
        let rows = self.rows.remove(job).filter(|_| again.is_empty());
        let tx = self.conn.transaction()?;
        for Again { topic, partition, from, to } in again {
            let mut forget = tx.prepare_cached(
                "DELETE FROM dead_letters WHERE job = ?1 AND topic = ?2 AND partition = ?3 AND \"offset\" >= ?4 AND
                     \"offset\" < ?5",
            )?;
            forget.execute(params![job, topic, partition, *from as i64, *to as i64])?;
        }
        let mut rows = match rows {
            Some(rows) => rows,
            None => {
                let mut kept = tx.prepare_cached("SELECT rowid FROM dead_letters WHERE job = ?1 ORDER BY rowid")?;
                kept.query_map([job], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?
            }
        };
        {
            let mut insert =
                tx.prepare_cached("INSERT OR IGNORE INTO dead_letters VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
            for letter in letters {
                let is_new = insert.execute(params![
                    job,
                    letter.topic,
                    letter.partition,
                    letter.offset as i64,
                    letter.timestamp_ms,
                    letter.key,
                    letter.value,
                    letter.reason
                ])? > 0;
                if !is_new {
                    continue;
                }
                rows.push_back(tx.last_insert_rowid());
                if self.publishes && !is_of_a_form(job) {
                    let sql = "INSERT INTO outbox SELECT NULL, * FROM dead_letters WHERE rowid = last_insert_rowid()";
                    tx.prepare_cached(sql)?.execute([])?;
                }
            }
            if self.publishes {
                let sql = "DELETE FROM outbox WHERE id <= (SELECT max(id) FROM outbox) - ?1";
                tx.prepare_cached(sql)?.execute([OUTBOX_MAX])?;
            }
            let mut trim = tx.prepare_cached("DELETE FROM dead_letters WHERE rowid = ?1")?;
            let over = rows.len().saturating_sub(self.kept_max);
            rows.drain(..over).try_for_each(|row| trim.execute([row]).map(drop))?;
        }
        tx.commit()?;
        self.rows.insert(job.to_owned(), rows);
        Ok(())
    }

    /// Letters of a job by topic, partition and offset, from behind `after` on.
    pub fn list(
        &self,
        job: &str,
        after: Option<&(String, u32, u64)>,
        limit: usize,
    ) -> rusqlite::Result<Vec<DeadLetter>> {
        let (topic, partition, offset) = match after {
            Some((topic, partition, offset)) => (topic.as_str(), i64::from(*partition), *offset as i64),
            None => ("", -1, -1),
        };
        let sql = "SELECT topic, partition, \"offset\", timestamp_ms, key, value, reason FROM dead_letters
                   WHERE job = ?1 AND (topic, partition, \"offset\") > (?2, ?3, ?4)
                   ORDER BY topic, partition, \"offset\" LIMIT ?5";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map(params![job, topic, partition, offset, limit as i64], letter_of)?;
        rows.collect()
    }

    /// Puts the letters kept under one name in the place of those under another.
    pub fn take_over(&mut self, from: &str, to: &str) -> rusqlite::Result<()> {
        let tx = self.conn.transaction()?;
        if self.publishes {
            let sql =
                "INSERT INTO outbox SELECT NULL, ?2, topic, partition, \"offset\", timestamp_ms, key, value, reason
                       FROM dead_letters a WHERE job = ?1 AND NOT EXISTS (SELECT 1 FROM dead_letters b WHERE b.job = ?2
                       AND b.topic = a.topic AND b.partition = a.partition AND b.\"offset\" = a.\"offset\")";
            tx.execute(sql, params![from, to])?;
        }
        tx.execute("DELETE FROM dead_letters WHERE job = ?1", params![to])?;
        tx.execute("UPDATE dead_letters SET job = ?2 WHERE job = ?1", params![from, to])?;
        self.rows.remove(from);
        self.rows.remove(to);
        tx.commit()
    }

    /// Forgets all letters that are kept under other names than these.
    pub fn retain(&mut self, keeps: impl Fn(&str) -> bool) -> rusqlite::Result<()> {
        let jobs =
            self.conn.prepare("SELECT DISTINCT job FROM dead_letters")?.query_map([], |row| row.get(0))?.collect();
        let jobs: rusqlite::Result<Vec<String>> = jobs;
        jobs?.iter().filter(|job| !keeps(job)).try_for_each(|job| self.clear(job))
    }

    /// Forgets a job's letters: its name is used anew.
    pub fn clear(&mut self, job: &str) -> rusqlite::Result<()> {
        self.rows.remove(job);
        self.conn.execute("DELETE FROM dead_letters WHERE job = ?1", params![job]).map(|_| ())
    }
}

/// Whether letters under that name are of a form of a job that is computed beside it: no job's name has a slash.
pub fn is_of_a_form(name: &str) -> bool {
    name.contains('/')
}

fn letter_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<DeadLetter> {
    Ok(DeadLetter {
        topic: row.get(0)?,
        partition: row.get(1)?,
        offset: row.get::<_, i64>(2)? as u64,
        timestamp_ms: row.get(3)?,
        key: row.get(4)?,
        value: row.get(5)?,
        reason: row.get(6)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(offset: u64) -> DeadLetter {
        DeadLetter {
            topic: "t".into(),
            partition: 0,
            offset,
            timestamp_ms: 1,
            key: None,
            value: Some(vec![0xff, 0]),
            reason: "no JSON".into(),
        }
    }

    fn offsets(letters: &DeadLetters, job: &str, after: Option<&(String, u32, u64)>) -> Vec<u64> {
        letters.list(job, after, 10).unwrap().iter().map(|l| l.offset).collect()
    }

    #[test]
    fn letters_are_kept_once_and_the_oldest_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut letters = DeadLetters::open(&dir.path().join("dead.db"), 3).unwrap();
        letters.add("a", &[letter(0), letter(1)], &[]).unwrap();
        letters.add("a", &[letter(1), letter(2), letter(3), letter(4)], &[]).unwrap();
        letters.add("b", &[letter(0)], &[]).unwrap();
        assert_eq!(offsets(&letters, "a", None), [2, 3, 4]);
        assert_eq!(offsets(&letters, "a", Some(&("t".into(), 0, 3))), [4]);
        assert_eq!(letters.list("b", None, 1).unwrap(), [letter(0)]);
        letters.take_over("b", "a").unwrap();
        assert_eq!((offsets(&letters, "a", None), offsets(&letters, "b", None)), (vec![0], vec![]));
        letters.add("b", &[letter(5)], &[]).unwrap();
        letters.retain(|job| job == "b").unwrap();
        assert_eq!((offsets(&letters, "a", None), offsets(&letters, "b", None)), (vec![], vec![5]));
        letters.clear("b").unwrap();
        assert_eq!(offsets(&letters, "b", None), [0u64; 0]);
    }

    #[test]
    fn of_what_is_read_again_only_what_is_rejected_again_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut letters = DeadLetters::open(&dir.path().join("dead.db"), 10).unwrap();
        letters.add("a", &[letter(0), letter(1), letter(2), letter(3)], &[]).unwrap();
        letters.add("b", &[letter(1)], &[]).unwrap();
        let again = |partition, from, to| Again { topic: "t".into(), partition, from, to };
        letters.add("a", &[letter(2)], &[again(0, 1, 3), again(1, 0, 9)]).unwrap();
        assert_eq!((offsets(&letters, "a", None), offsets(&letters, "b", None)), (vec![0, 2, 3], vec![1]));
        letters.add("a", &[], &[again(0, 3, 9)]).unwrap();
        assert_eq!(offsets(&letters, "a", None), [0, 2]);
    }

    #[test]
    fn a_letter_waits_to_be_published_until_it_was_and_one_of_a_form_until_that_is_the_jobs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dead.db");
        let mut letters = DeadLetters::open(&path, 10).unwrap().publishing();
        letters.add("a", &[letter(0), letter(1)], &[]).unwrap();
        letters.add("a", &[letter(1), letter(2)], &[]).unwrap();
        letters.add("a/7", &[letter(2), letter(3)], &[]).unwrap();
        let waiting = |letters: &DeadLetters| -> Vec<(String, u64)> {
            letters.waiting(10).unwrap().into_iter().map(|w| (w.job, w.letter.offset)).collect()
        };
        assert_eq!(waiting(&letters), [("a".into(), 0), ("a".into(), 1), ("a".into(), 2)]);
        let second = letters.waiting(2).unwrap()[1].id;
        letters.published(second).unwrap();
        letters.take_over("a/7", "a").unwrap();
        drop(letters);
        let letters = DeadLetters::open(&path, 10).unwrap().publishing();
        assert_eq!(waiting(&letters), [("a".into(), 2), ("a".into(), 3)]);
    }
}
