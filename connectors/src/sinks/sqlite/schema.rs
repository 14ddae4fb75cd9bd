//! The sink's tables, as docs/sqlite-sink.md describes them to those who query them.

use crate::sinks::SinkError;
use rusqlite::{Connection, Error, ErrorCode, TransactionBehavior};
use std::path::Path;
use std::time::Duration;

/// Marks the file as a sink ("TFsk"), see <https://sqlite.org/pragma.html#pragma_application_id>.
const APPLICATION_ID: i64 = 0x5446_736b;
const FORMAT: i64 = 1;
/// How long a write waits for another program's lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Shares and the epoch are computed when they are read: a share changes with every other line of its
/// subject, and the epoch with every write. So a write touches only what changed, and a single
/// statement over `tallies` always sees one whole epoch.
const TABLES: &str = r#"
CREATE TABLE snapshots (
    job TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    at TEXT NOT NULL,
    offsets TEXT NOT NULL,
    digest TEXT NOT NULL,
    accounting TEXT NOT NULL,
    PRIMARY KEY (job, epoch)
) STRICT, WITHOUT ROWID;
CREATE TABLE subjects (
    job TEXT NOT NULL,
    subject TEXT NOT NULL,
    total ANY,
    PRIMARY KEY (job, subject)
) STRICT, WITHOUT ROWID;
CREATE TABLE lines (
    job TEXT NOT NULL,
    subject TEXT NOT NULL,
    "group" TEXT NOT NULL,
    value ANY,
    aggregates TEXT,
    written INTEGER NOT NULL,      -- the epoch that wrote the row
    PRIMARY KEY (job, subject, "group")
) STRICT, WITHOUT ROWID;
CREATE TABLE tally_history (
    job TEXT NOT NULL,
    subject TEXT NOT NULL,
    "group" TEXT NOT NULL,
    at TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    value ANY,
    PRIMARY KEY (job, subject, "group", at)
) STRICT, WITHOUT ROWID;
CREATE INDEX tally_history_by_time ON tally_history (job, at);
CREATE VIEW tallies AS
SELECT l.job, l.subject, l."group", l.value,
       CAST(l.value AS REAL) / nullif(CAST(s.total AS REAL), 0) AS share,
       (SELECT max(epoch) FROM snapshots WHERE snapshots.job = l.job) AS epoch,
       l.aggregates
FROM lines l LEFT JOIN subjects s ON s.job = l.job AND s.subject = l.subject;
"#;

/// Who writes, and when the last was told to take over: files of before have neither.
const WRITERS: &str = "
CREATE TABLE IF NOT EXISTS writers (
    job TEXT NOT NULL PRIMARY KEY,
    server TEXT NOT NULL,
    generation INTEGER NOT NULL,
    run TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS takeovers (
    job TEXT NOT NULL PRIMARY KEY,
    at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Opens the file, and makes the tables where they are missing.
pub(super) fn open(path: &Path) -> Result<Connection, SinkError> {
    let sql = |e: Error| error(path, &e);
    let mut conn = Connection::open(path).map_err(sql)?;
    conn.busy_timeout(LOCK_WAIT).map_err(sql)?;
    check(&conn, path)?;
    conn.pragma_update(None, "journal_mode", "WAL").map_err(sql)?;
    // FULL in WAL mode: a write that has returned survives a power cut.
    conn.pragma_update(None, "synchronous", "FULL").map_err(sql)?;
    conn.pragma_update(None, "fullfsync", true).map_err(sql)?;
    conn.pragma_update(None, "journal_size_limit", 64 << 20).map_err(sql)?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql)?;
    // Looked at again under the lock: several jobs may open one file at once.
    if check(&tx, path)? {
        tx.execute_batch(TABLES).map_err(sql)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
        tx.pragma_update(None, "user_version", FORMAT).map_err(sql)?;
    }
    tx.execute_batch(WRITERS).map_err(sql)?;
    tx.commit().map_err(sql)?;
    Ok(conn)
}

/// That the file is a sink of a format that this program knows. `true`: it is empty.
fn check(conn: &Connection, path: &Path) -> Result<bool, SinkError> {
    let sql = |e: Error| error(path, &e);
    let number = |statement: &str| conn.query_row(statement, [], |row| row.get::<_, i64>(0)).map_err(sql);
    let application = number("PRAGMA application_id")?;
    let found = number("PRAGMA user_version")?;
    if application == 0 && found == 0 && number("SELECT count(*) FROM sqlite_schema")? == 0 {
        return Ok(true);
    }
    let path = path.display().to_string();
    match (application, found) {
        (APPLICATION_ID, 1..=FORMAT) => Ok(false),
        (APPLICATION_ID, _) => Err(SinkError::Newer { path, found, known: FORMAT }),
        _ => Err(SinkError::NotASink { path }),
    }
}

/// SQLite's error in the sink's words.
pub(super) fn error(path: &Path, error: &Error) -> SinkError {
    let (path, what) = (path.display().to_string(), error.to_string());
    let Error::SqliteFailure(failure, _) = error else { return SinkError::Damaged { path, what } };
    match failure.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => SinkError::Locked { path },
        ErrorCode::DiskFull => SinkError::Full { path },
        // How SQLite reports that its shared-memory file can't grow.
        _ if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => SinkError::Full { path },
        ErrorCode::NotADatabase => SinkError::NotASink { path },
        ErrorCode::DatabaseCorrupt => SinkError::Damaged { path, what },
        _ => SinkError::Io { path, what },
    }
}
