//! The SQLite sink: a job's tallies as tables that any program may query while they change.
//!
//! Every write is one transaction: values, totals, offsets, digest and accounting of one epoch. In
//! WAL mode readers go on seeing the epoch before until it is committed, and never a mixture; a
//! process killed at any moment leaves the last epoch that was committed.

mod schema;
mod value;

use super::{Ending, Sink, SinkEpoch, SinkError, SinkLine, Writer};
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tallyflow_dataflows::crash;
use tallyflow_dataflows::ids::Epoch;

/// A job's place in a results file. Several jobs may share one file, each with a sink of its own.
#[derive(Debug)]
pub struct SqliteSink {
    conn: Connection,
    path: PathBuf,
    job: String,
    writer: Option<Writer>,
    take_over_ms: Option<i64>,
    aggregates: Vec<String>,
    step_ms: i64,
    keep_ms: i64,
    /// The start of the step in which history was last cut.
    cut_at_ms: i64,
}

impl SqliteSink {
    /// Opens the file for `job`, and makes it where it is missing.
    ///
    /// `aggregates` are the names of the job's aggregates; the first one becomes `value`.
    /// `tally_history` and `snapshots` have a row per `history_step` at most, and keep them for
    /// `history_keep`.
    pub fn open(
        path: &Path,
        job: &str,
        aggregates: Vec<String>,
        history_step: Duration,
        history_keep: Duration,
    ) -> Result<Self, SinkError> {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Ok(SqliteSink {
            conn: schema::open(path)?,
            path: path.to_owned(),
            job: job.to_owned(),
            writer: None,
            take_over_ms: None,
            aggregates,
            step_ms: millis(history_step).max(1),
            keep_ms: millis(history_keep),
            cut_at_ms: i64::MIN,
        })
    }

    /// Says who writes. What an earlier start of the same server has written gives way, whatever its epochs
    /// are; a later one's does not.
    pub fn written_by(self, writer: Writer) -> Self {
        SqliteSink { writer: Some(writer), ..self }
    }

    /// Says when the job was told to take over, see [`super::Opening::take_over_ms`].
    pub fn taking_over(self, take_over_ms: Option<i64>) -> Self {
        SqliteSink { take_over_ms, ..self }
    }

    /// The newest epoch that the file holds for the job.
    pub fn newest_epoch(&self) -> Result<Option<Epoch>, SinkError> {
        newest(&self.conn, &self.job).map(|found| found.map(|(epoch, _)| epoch)).map_err(|e| self.error(&e))
    }

    /// Writes an epoch, durable when it returns. An epoch that the file holds already changes
    /// nothing; an older one is refused with [`SinkError::NewerEpoch`]. After an error the file holds
    /// what it held before.
    pub fn write(&mut self, epoch: &SinkEpoch) -> Result<(), SinkError> {
        let wanted = self.aggregates.len();
        for SinkLine { subject, group, values } in &epoch.lines {
            if let Some(found) = values.as_ref().map(Vec::len).filter(|found| *found != wanted) {
                return Err(SinkError::Aggregates { subject: subject.clone(), group: group.clone(), found, wanted });
            }
        }
        let step_at_ms = epoch.at_ms.div_euclid(self.step_ms) * self.step_ms;
        let mut write = || -> rusqlite::Result<Result<(), SinkError>> {
            let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if let Some(writer) = &self.writer {
                // Only what replaces everything can take over.
                let take_over_ms = self.take_over_ms.filter(|_| epoch.reset);
                match enter(&tx, &self.job, writer, take_over_ms)? {
                    Turn::Same => {}
                    Turn::Anew if epoch.reset => give_way(&tx, &self.job, epoch.epoch)?,
                    Turn::Anew => {}
                    Turn::Superseded(theirs) => {
                        let path = self.path.display().to_string();
                        return Ok(Err(SinkError::Superseded { path, theirs, own: writer.generation }));
                    }
                }
            }
            let stored = newest(&tx, &self.job)?;
            match &stored {
                Some((stored, _)) if *stored > epoch.epoch => {
                    return Ok(Err(SinkError::NewerEpoch { stored: *stored, offered: epoch.epoch }));
                }
                Some((stored, _)) if *stored == epoch.epoch => return Ok(Ok(())),
                _ => {}
            }
            let write = Write { tx, job: &self.job, epoch, step_at: value::time(step_at_ms) };
            write.totals()?;
            write.lines(&self.aggregates)?;
            write.snapshot(stored)?;
            if step_at_ms != self.cut_at_ms {
                write.cut(&value::time(step_at_ms.saturating_sub(self.keep_ms)))?;
            }
            crash::point("sink::written");
            write.tx.commit()?;
            crash::point("sink::committed");
            self.cut_at_ms = step_at_ms;
            Ok(Ok(()))
        };
        write().unwrap_or_else(|e| Err(schema::error(&self.path, &e)))
    }

    fn error(&self, error: &rusqlite::Error) -> SinkError {
        schema::error(&self.path, error)
    }
}

impl Sink for SqliteSink {
    fn take(&mut self, epoch: &SinkEpoch, _: &Ending) -> Result<(), SinkError> {
        self.write(epoch)
    }
}

/// The job's newest epoch and its time.
fn newest(conn: &Connection, job: &str) -> rusqlite::Result<Option<(Epoch, String)>> {
    conn.prepare_cached("SELECT epoch, at FROM snapshots WHERE job = ?1 ORDER BY epoch DESC LIMIT 1")?
        .query_row([job], |row| Ok((Epoch(row.get::<_, i64>(0)? as u64), row.get(1)?)))
        .optional()
}

/// Whose turn it is to write.
enum Turn {
    /// Whoever wrote last, or there is nothing to be said of that.
    Same,
    /// A later start of the server that wrote last, or who was told to take over.
    Anew,
    /// Another's, by its generation.
    Superseded(u64),
}

/// Notes who writes, unless a later start has.
fn enter(tx: &Transaction, job: &str, writer: &Writer, take_over_ms: Option<i64>) -> rusqlite::Result<Turn> {
    let last = tx
        .prepare_cached("SELECT server, generation, run FROM writers WHERE job = ?1")?
        .query_row([job], |row| {
            Ok(Writer { server: row.get(0)?, generation: row.get::<_, i64>(1)? as u64, run: row.get(2)? })
        })
        .optional()?;
    let turn = match last {
        Some(last) if last == *writer => return Ok(Turn::Same),
        Some(last) if last.server == writer.server && last.generation >= writer.generation => {
            return Ok(Turn::Superseded(last.generation));
        }
        Some(last) if last.server == writer.server => Turn::Anew,
        _ if take_over(tx, job, take_over_ms)? => Turn::Anew,
        _ => Turn::Same,
    };
    tx.prepare_cached("INSERT OR REPLACE INTO writers (job, server, generation, run) VALUES (?1, ?2, ?3, ?4)")?
        .execute((job, &writer.server, writer.generation as i64, &writer.run))?;
    Ok(turn)
}

/// Notes a take-over that was told, unless a later one was.
fn take_over(tx: &Transaction, job: &str, at_ms: Option<i64>) -> rusqlite::Result<bool> {
    let Some(at_ms) = at_ms else { return Ok(false) };
    let noted = tx
        .prepare_cached(
            "INSERT INTO takeovers (job, at_ms) VALUES (?1, ?2)
             ON CONFLICT (job) DO UPDATE SET at_ms = excluded.at_ms WHERE excluded.at_ms > takeovers.at_ms",
        )?
        .execute((job, at_ms))?;
    Ok(noted > 0)
}

/// A copy of the server may have used up the same epochs: they are free again.
fn give_way(tx: &Transaction, job: &str, from: Epoch) -> rusqlite::Result<()> {
    let gone = tx.execute("DELETE FROM snapshots WHERE job = ?1 AND epoch >= ?2", (job, from.0 as i64))?;
    if gone > 0 {
        // No line that is written now is taken for one of theirs.
        tx.execute("UPDATE lines SET written = -1 WHERE job = ?1", [job])?;
    }
    Ok(())
}

/// The transaction of one epoch.
struct Write<'a> {
    tx: Transaction<'a>,
    job: &'a str,
    epoch: &'a SinkEpoch,
    /// The start of the history step that the epoch lies in.
    step_at: String,
}

impl Write<'_> {
    fn number(&self) -> i64 {
        self.epoch.epoch.0 as i64
    }

    fn totals(&self) -> rusqlite::Result<()> {
        if self.epoch.reset {
            self.tx.execute("DELETE FROM subjects WHERE job = ?1", [self.job])?;
        }
        for (subject, total) in &self.epoch.totals {
            match total {
                Some(total) => self
                    .tx
                    .prepare_cached("INSERT OR REPLACE INTO subjects (job, subject, total) VALUES (?1, ?2, ?3)")?
                    .execute((self.job, subject, value::of(Some(*total))))?,
                None => self
                    .tx
                    .prepare_cached("DELETE FROM subjects WHERE job = ?1 AND subject = ?2")?
                    .execute((self.job, subject))?,
            };
        }
        Ok(())
    }

    fn lines(&self, names: &[String]) -> rusqlite::Result<()> {
        for SinkLine { subject, group, values } in &self.epoch.lines {
            let Some(values) = values else {
                self.tx
                    .prepare_cached(r#"DELETE FROM lines WHERE job = ?1 AND subject = ?2 AND "group" = ?3"#)?
                    .execute((self.job, subject, group))?;
                self.history(subject, group, &Value::Null)?;
                continue;
            };
            let first = value::of(values.first().copied().flatten());
            let aggregates = (names.len() > 1).then(|| value::aggregates(names, values));
            // A run's first write names every line, also those that are as they were.
            if !self.epoch.reset || self.value(subject, group)? != Some(first.clone()) {
                self.history(subject, group, &first)?;
            }
            self.tx
                .prepare_cached(
                    r#"INSERT OR REPLACE INTO lines (job, subject, "group", value, aggregates, written)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6)"#,
                )?
                .execute((self.job, subject, group, first, aggregates, self.number()))?;
        }
        if self.epoch.reset {
            self.remove_others()?;
        }
        Ok(())
    }

    fn value(&self, subject: &str, group: &str) -> rusqlite::Result<Option<Value>> {
        self.tx
            .prepare_cached(r#"SELECT value FROM lines WHERE job = ?1 AND subject = ?2 AND "group" = ?3"#)?
            .query_row((self.job, subject, group), |row| row.get(0))
            .optional()
    }

    /// Lines that a run's first write does not name are gone.
    fn remove_others(&self) -> rusqlite::Result<()> {
        self.tx.execute(
            r#"INSERT OR REPLACE INTO tally_history (job, subject, "group", at, epoch, value)
               SELECT job, subject, "group", ?3, ?2, NULL FROM lines WHERE job = ?1 AND written <> ?2"#,
            (self.job, self.number(), &self.step_at),
        )?;
        self.tx.execute("DELETE FROM lines WHERE job = ?1 AND written <> ?2", (self.job, self.number()))?;
        Ok(())
    }

    fn history(&self, subject: &str, group: &str, value: &Value) -> rusqlite::Result<()> {
        self.tx
            .prepare_cached(
                r#"INSERT OR REPLACE INTO tally_history (job, subject, "group", at, epoch, value)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)"#,
            )?
            .execute((self.job, subject, group, &self.step_at, self.number(), value))?;
        Ok(())
    }

    /// The epoch's own row. It takes the place of the one before, if that is of the same step.
    fn snapshot(&self, before: Option<(Epoch, String)>) -> rusqlite::Result<()> {
        if let Some((before, at)) = before
            && at >= self.step_at
        {
            self.tx
                .prepare_cached("DELETE FROM snapshots WHERE job = ?1 AND epoch = ?2")?
                .execute((self.job, before.0 as i64))?;
        }
        let SinkEpoch { at_ms, offsets_json, digest, accounting_json, .. } = self.epoch;
        self.tx
            .prepare_cached(
                "INSERT INTO snapshots (job, epoch, at, offsets, digest, accounting) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute((self.job, self.number(), value::time(*at_ms), offsets_json, digest, accounting_json))?;
        Ok(())
    }

    /// Removes history from before `at`, never the newest snapshot.
    fn cut(&self, at: &str) -> rusqlite::Result<()> {
        self.tx.prepare_cached("DELETE FROM tally_history WHERE job = ?1 AND at < ?2")?.execute((self.job, at))?;
        self.tx.prepare_cached("DELETE FROM snapshots WHERE job = ?1 AND at < ?2 AND epoch < ?3")?.execute((
            self.job,
            at,
            self.number(),
        ))?;
        Ok(())
    }
}
