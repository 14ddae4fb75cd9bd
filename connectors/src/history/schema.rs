//! The tables of a history, and how an entry and its states are written in them.

use super::HistoryError;
use rusqlite::{Connection, Error, ErrorCode, OpenFlags, TransactionBehavior};
use std::path::Path;
use std::time::Duration;
use tallyflow_dataflows::accounting::ClaimAccounting;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::{Group, SubjectState};

/// Marks the file as a history ("TFhi"), see <https://sqlite.org/pragma.html#pragma_application_id>.
const APPLICATION_ID: i64 = 0x5446_6869;
const FORMAT: i64 = 1;
/// How long a write waits for another program's lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// The part of an entry that is a subject itself: no JSON is empty.
pub(super) const SUBJECT: &str = "";

/// Points have small numbers of their own, which stand in every state; epochs are long.
const TABLES: &str = "
CREATE TABLE points (
    point INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    level INTEGER NOT NULL,        -- the step that it has been thinned to
    aggregates TEXT NOT NULL,
    has_total INTEGER NOT NULL,
    top INTEGER,
    offsets TEXT NOT NULL,
    digest TEXT NOT NULL,
    accounting TEXT NOT NULL
) STRICT;
CREATE INDEX points_by_level ON points (level, at_ms);
CREATE TABLE entries (
    entry INTEGER PRIMARY KEY,
    subject TEXT NOT NULL,
    part TEXT NOT NULL,            -- the group as JSON; empty: the subject itself
    UNIQUE (subject, part)
) STRICT;
CREATE TABLE states (
    entry INTEGER NOT NULL,
    point INTEGER NOT NULL,
    state TEXT,
    PRIMARY KEY (entry, point)
) STRICT, WITHOUT ROWID;
CREATE INDEX states_by_point ON states (point, entry);
CREATE TABLE thinned (             -- states of (low, upto] to be looked at, from those after `after` on
    item INTEGER PRIMARY KEY,
    low INTEGER NOT NULL,
    upto INTEGER NOT NULL,
    done_point INTEGER NOT NULL,
    done_entry INTEGER NOT NULL
) STRICT;
";

/// Opens the file to write in it, and makes it where it is missing.
pub(super) fn open(path: &Path) -> Result<Connection, HistoryError> {
    let sql = |e: Error| error(path, &e);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| io(path, &e))?;
    }
    let mut conn = Connection::open(path).map_err(sql)?;
    conn.busy_timeout(LOCK_WAIT).map_err(sql)?;
    let is_new = !is_made(&conn, path)?;
    if is_new {
        // Has to be said before anything is in the file.
        conn.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(sql)?;
    }
    conn.pragma_update(None, "journal_mode", "WAL").map_err(sql)?;
    // A killed process loses nothing; a power cut may lose the last points, and never half of one.
    conn.pragma_update(None, "synchronous", "NORMAL").map_err(sql)?;
    conn.pragma_update(None, "journal_size_limit", 16 << 20).map_err(sql)?;
    if is_new {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
        tx.execute_batch(TABLES).map_err(sql)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
        tx.pragma_update(None, "user_version", FORMAT).map_err(sql)?;
        tx.commit().map_err(sql)?;
    }
    Ok(conn)
}

/// Opens the file to read in it; [`HistoryError::NoneYet`] if it has not been made.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, HistoryError> {
    if !path.exists() {
        return Err(HistoryError::NoneYet);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(|e| error(path, &e))?;
    conn.busy_timeout(LOCK_WAIT).map_err(|e| error(path, &e))?;
    if is_made(&conn, path)? { Ok(conn) } else { Err(HistoryError::NoneYet) }
}

/// Whether the tables are there, in a format that this program knows.
fn is_made(conn: &Connection, path: &Path) -> Result<bool, HistoryError> {
    // One look: between two, whoever makes the file may have done it.
    let look = conn.unchecked_transaction().map_err(|e| error(path, &e))?;
    let number = |what: &str| look.query_row(what, [], |row| row.get::<_, i64>(0)).map_err(|e| error(path, &e));
    match (number("PRAGMA application_id")?, number("PRAGMA user_version")?) {
        (APPLICATION_ID, FORMAT) => Ok(true),
        (0, 0) if number("SELECT count(*) FROM sqlite_schema")? == 0 => Ok(false),
        _ => Err(HistoryError::Foreign { path: path.display().to_string() }),
    }
}

/// SQLite's error in the history's words.
pub(super) fn error(path: &Path, error: &Error) -> HistoryError {
    let (path, what) = (path.display().to_string(), error.to_string());
    let Error::SqliteFailure(failure, _) = error else { return HistoryError::Damaged { path, what } };
    match failure.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => HistoryError::Locked { path },
        ErrorCode::DiskFull => HistoryError::Full { path },
        // How SQLite reports that its shared-memory file can't grow.
        _ if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => HistoryError::Full { path },
        ErrorCode::NotADatabase => HistoryError::Foreign { path },
        ErrorCode::DatabaseCorrupt => HistoryError::Damaged { path, what },
        _ => HistoryError::Io { path, what },
    }
}

pub(super) fn io(path: &Path, error: &std::io::Error) -> HistoryError {
    HistoryError::Io { path: path.display().to_string(), what: error.to_string() }
}

/// What can't be read back was not written by this program.
pub(super) fn damaged(path: &Path, what: impl ToString) -> HistoryError {
    HistoryError::Damaged { path: path.display().to_string(), what: what.to_string() }
}

/// The part of a line's entry. Groups that are shown alike are one.
pub(super) fn part_of(group: &Group) -> String {
    json(group)
}

/// A line's values.
pub(super) fn of_values(values: &[Decimal]) -> String {
    json(values)
}

/// A subject's state.
pub(super) fn of_subject(state: &SubjectState) -> String {
    let SubjectState { total, claims: c } = state;
    json(&(total, c.claims, c.counted, c.superseded, c.duplicate, c.late, c.voided))
}

pub(super) fn subject(text: &str) -> serde_json::Result<SubjectState> {
    let (total, claims, counted, superseded, duplicate, late, voided) = serde_json::from_str(text)?;
    Ok(SubjectState { total, claims: ClaimAccounting { claims, counted, superseded, duplicate, late, voided } })
}

/// Of what always has a JSON form.
pub(super) fn json(value: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
