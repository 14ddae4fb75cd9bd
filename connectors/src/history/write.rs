//! Points are written, each in one transaction.

use super::schema::{self, SUBJECT};
use super::{Extent, HistoryError, Keep};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tallyflow_dataflows::accounting::Accounting;
use tallyflow_dataflows::crash;
use tallyflow_dataflows::ids::{Epoch, Offset};
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::{Group, JobResults, SubjectState};

/// A whole closed epoch: what changed since another, or all there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistoryPoint {
    pub epoch: Epoch,
    /// When it was closed, in ms since 1970.
    pub at_ms: i64,
    /// By the job's order.
    pub aggregates: Vec<String>,
    pub has_total: bool,
    pub top: Option<usize>,
    pub offsets: BTreeMap<String, Vec<Offset>>,
    /// Over all lines of the job.
    pub digest: String,
    pub accounting: Accounting,
    /// `subjects` and `lines` have what may have changed since this epoch; `None`: all there is, and
    /// what they do not name is gone.
    pub since: Option<Epoch>,
    /// `None`: it is gone.
    pub subjects: Vec<(String, Option<SubjectState>)>,
    /// `None`: it is gone.
    pub lines: Vec<(String, Group, Option<Vec<Decimal>>)>,
}

impl HistoryPoint {
    /// What results show now, for a history whose newest point is of epoch `since`, where that is known.
    pub fn of(results: &JobResults, since: Option<Epoch>) -> HistoryPoint {
        let changed = since.and_then(|since| {
            let (lines, _) = results.changed_since(since)?;
            Some((since, lines, results.subjects_since(since)?))
        });
        let line = |(subject, group, values): (&str, &Group, Option<&[Decimal]>)| {
            (subject.to_owned(), group.clone(), values.map(<[Decimal]>::to_vec))
        };
        let (since, lines, subjects) = match changed {
            Some((since, lines, subjects)) => (
                Some(since),
                lines.into_iter().map(line).collect(),
                subjects.into_iter().map(|(name, state)| (name.to_owned(), state)).collect(),
            ),
            None => (
                None,
                results.lines().map(|(subject, group, values)| line((subject, group, Some(values)))).collect(),
                results.subject_states().map(|(name, state)| (name.to_owned(), Some(state))).collect(),
            ),
        };
        let shape = results.shape();
        HistoryPoint {
            epoch: results.epoch().unwrap_or_default(),
            at_ms: results.at_ms(),
            aggregates: shape.aggregates.clone(),
            has_total: shape.has_total,
            top: shape.top,
            offsets: results.offsets(),
            digest: results.digest().to_string(),
            accounting: *results.accounting(),
            since,
            subjects,
            lines,
        }
    }
}

/// A job's history, open to be written. There is one writer at a time, and any number of readers.
#[derive(Debug)]
pub struct History {
    pub(super) conn: Connection,
    pub(super) path: PathBuf,
    pub(super) keep: Keep,
    pub(super) extent: Extent,
}

impl History {
    /// Opens the file, and makes it where it is missing.
    pub fn open(path: &Path, keep: Keep) -> Result<History, HistoryError> {
        let conn = schema::open(path)?;
        let mut history = History { conn, path: path.to_owned(), keep, extent: Extent::default() };
        history.measure().map_err(|e| schema::error(path, &e))?;
        Ok(history)
    }

    /// What it holds.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// Writes a point. A process that is killed at any moment leaves all of it or nothing. An epoch that
    /// is there already changes nothing; after an error the file holds what it held before.
    pub fn write(&mut self, point: &HistoryPoint) -> Result<(), HistoryError> {
        let (conn, path) = (&mut self.conn, &self.path);
        let mut write = || -> rusqlite::Result<Result<(), HistoryError>> {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let newest = tx
                .prepare_cached("SELECT point, epoch FROM points ORDER BY point DESC LIMIT 1")?
                .query_row([], |row| Ok((row.get::<_, i64>(0)?, Epoch(row.get::<_, i64>(1)? as u64))))
                .optional()?;
            let held = newest.map(|(_, epoch)| epoch);
            match held {
                Some(held) if held == point.epoch => return Ok(Ok(())),
                Some(stored) if stored > point.epoch => {
                    let path = path.display().to_string();
                    return Ok(Err(HistoryError::NewerEpoch { path, stored, offered: point.epoch }));
                }
                _ => {}
            }
            if let Some(since) = point.since.filter(|since| held != Some(*since)) {
                return Ok(Err(HistoryError::Gap { since }));
            }
            // The newest point never goes, so that no number comes twice.
            let write = Write { tx, number: newest.map_or(1, |(number, _)| number + 1), point };
            write.states()?;
            write.point()?;
            crash::point("history::written");
            write.tx.commit().map(Ok)
        };
        write().unwrap_or_else(|e| Err(schema::error(path, &e)))?;
        self.measure().map_err(|e| schema::error(&self.path, &e))
    }

    /// Looks how much there is.
    pub(super) fn measure(&mut self) -> rusqlite::Result<()> {
        let number = |what: &str| self.conn.prepare_cached(what)?.query_row([], |row| row.get::<_, i64>(0));
        let pages = number("PRAGMA page_count")? - number("PRAGMA freelist_count")?;
        let bytes = (pages * number("PRAGMA page_size")?) as u64;
        let points = number("SELECT count(*) FROM points")? as u64;
        let end = |what: &str| self.conn.prepare_cached(what)?.query_row([], |row| row.get::<_, i64>(0)).optional();
        self.extent = Extent {
            points,
            bytes,
            oldest_ms: end("SELECT at_ms FROM points ORDER BY point LIMIT 1")?,
            newest: end("SELECT epoch FROM points ORDER BY point DESC LIMIT 1")?.map(|epoch| Epoch(epoch as u64)),
        };
        Ok(())
    }
}

/// The transaction of one point.
struct Write<'a> {
    tx: Transaction<'a>,
    number: i64,
    point: &'a HistoryPoint,
}

impl Write<'_> {
    fn states(&self) -> rusqlite::Result<()> {
        let is_whole = self.point.since.is_none();
        if is_whole {
            self.tx.execute_batch(
                "CREATE TEMP TABLE IF NOT EXISTS offered (entry INTEGER PRIMARY KEY); DELETE FROM offered;",
            )?;
        }
        for (subject, state) in &self.point.subjects {
            self.state(subject, SUBJECT, state.as_ref().map(schema::of_subject), is_whole)?;
        }
        for (subject, group, values) in &self.point.lines {
            let state = values.as_deref().map(schema::of_values);
            self.state(subject, &schema::part_of(group), state, is_whole)?;
        }
        if is_whole {
            self.tx.execute(
                "INSERT INTO states (entry, point, state)
                 SELECT entry, ?1, NULL FROM entries e WHERE entry NOT IN (SELECT entry FROM offered)
                 AND (SELECT state FROM states s WHERE s.entry = e.entry ORDER BY point DESC LIMIT 1) IS NOT NULL",
                [self.number],
            )?;
        }
        Ok(())
    }

    /// Notes an entry's state, if it is another than before.
    fn state(&self, subject: &str, part: &str, state: Option<String>, is_whole: bool) -> rusqlite::Result<()> {
        let found = self
            .tx
            .prepare_cached("SELECT entry FROM entries WHERE subject = ?1 AND part = ?2")?
            .query_row((subject, part), |row| row.get::<_, i64>(0))
            .optional()?;
        let (entry, before) = match found {
            Some(entry) => {
                let before = self
                    .tx
                    .prepare_cached("SELECT state FROM states WHERE entry = ?1 ORDER BY point DESC LIMIT 1")?
                    .query_row([entry], |row| row.get::<_, Option<String>>(0))
                    .optional()?;
                (entry, before.flatten())
            }
            None if state.is_none() => return Ok(()),
            None => {
                self.tx
                    .prepare_cached("INSERT INTO entries (subject, part) VALUES (?1, ?2)")?
                    .execute((subject, part))?;
                (self.tx.last_insert_rowid(), None)
            }
        };
        if before != state {
            self.tx.prepare_cached("INSERT INTO states (entry, point, state) VALUES (?1, ?2, ?3)")?.execute((
                entry,
                self.number,
                state,
            ))?;
        }
        if is_whole {
            self.tx.prepare_cached("INSERT OR IGNORE INTO offered (entry) VALUES (?1)")?.execute([entry])?;
        }
        Ok(())
    }

    fn point(&self) -> rusqlite::Result<()> {
        let HistoryPoint { epoch, at_ms, aggregates, has_total, top, offsets, digest, accounting, .. } = self.point;
        self.tx
            .prepare_cached(
                "INSERT INTO points (point, epoch, at_ms, level, aggregates, has_total, top, offsets, digest, accounting)
                 VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute((
                self.number,
                epoch.0 as i64,
                at_ms,
                schema::json(aggregates),
                has_total,
                top.map(|top| top as i64),
                schema::json(offsets),
                digest,
                schema::json(accounting),
            ))?;
        Ok(())
    }
}
