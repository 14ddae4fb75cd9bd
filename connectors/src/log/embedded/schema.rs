//! The database: its tables, how connections to it are set up, and how a row's key is packed.

use super::error::{OpenError, open_error};
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tallyflow_dataflows::ids::Offset;

/// Marks the file as a log ("TFlg"), see <https://sqlite.org/pragma.html#pragma_application_id>.
const APPLICATION_ID: i64 = 0x5446_6c67;
/// The format of the tables and of the bodies in `batches`.
const FORMAT: i64 = 1;

/// A stream is a partition of one incarnation of a topic. Its number is never used again, so rows of
/// a deleted topic can be removed bit by bit while a new topic of the name is already in use.
///
/// `batches` is one b-tree over (stream, offset) packed in its integer key: an append goes to its
/// stream's end, a read is a range scan, and there is no second index to keep. The small columns
/// stand before the body, so that they can be read without it.
///
/// No auto-vacuum: pages that retention frees are used again by later appends, so a log in balance
/// does not grow, and appends are spared the pointer maps that shrinking the file would need.
const TABLES: &str = "
CREATE TABLE topics (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    incarnation INTEGER NOT NULL,
    compacted INTEGER NOT NULL,
    retention_ms INTEGER,
    retention_bytes INTEGER
) STRICT;
CREATE TABLE streams (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic INTEGER,                  -- NULL: the topic was deleted, the rows are still to be removed
    part INTEGER NOT NULL,
    start_offset INTEGER NOT NULL,
    end_offset INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    UNIQUE (topic, part)
) STRICT;
CREATE TABLE batches (
    id INTEGER PRIMARY KEY,         -- stream << 40 | first offset
    records INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    bytes INTEGER NOT NULL,         -- of keys and values
    crc INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE latest (               -- compacted topics: where the newest record of a key is
    stream INTEGER NOT NULL,
    key BLOB NOT NULL,
    record_offset INTEGER NOT NULL,
    tombstone_ms INTEGER,
    PRIMARY KEY (stream, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX tombstones ON latest (tombstone_ms) WHERE tombstone_ms IS NOT NULL;
CREATE TABLE append_keys (          -- idempotency keys, oldest first
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    topic INTEGER NOT NULL,
    key TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    ranges BLOB NOT NULL,           -- (partition u32, first u64, end u64)*, little endian
    at_ms INTEGER NOT NULL,
    UNIQUE (topic, key)
) STRICT;
";

/// The key of a row of `batches`: 23 bits of stream, 40 bits of offset ([`Offset::MAX`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowId(pub i64);

/// The number of a stream. Below [`Stream::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Stream(pub i64);

impl Stream {
    /// Eight million partitions may be made in a log's life.
    pub const MAX: Stream = Stream((1 << 23) - 2);

    /// The key that a row beginning at `offset` has.
    pub fn row(self, offset: Offset) -> RowId {
        RowId(self.0 << 40 | offset.0 as i64)
    }

    /// Greater than every row of the stream.
    pub fn rows_end(self) -> RowId {
        RowId((self.0 + 1) << 40)
    }
}

impl RowId {
    /// The offset of the row's first record.
    pub fn offset(self) -> Offset {
        Offset(self.0 as u64 & Offset::MAX.0)
    }
}

/// Where the database of a directory is.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("log.db")
}

/// Opens the database for writing and makes it where there is none.
pub(super) fn open_writing(dir: &Path) -> Result<Connection, OpenError> {
    let path = path(dir);
    let io = |e: std::io::Error| OpenError::Io { path: path.clone(), what: e.to_string() };
    let sql = |e: rusqlite::Error| open_error(path.clone(), &e);
    if !dir.is_dir() {
        std::fs::create_dir_all(dir).map_err(io)?;
        // A new directory survives a power cut only once its parent is synced.
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(io)?;
        }
    }
    let fresh = std::fs::metadata(&path).map_or(true, |file| file.len() == 0);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut conn = Connection::open_with_flags(&path, flags).map_err(sql)?;
    if fresh {
        // Larger pages make the chains of overflow pages, in which bodies lie, shorter.
        conn.pragma_update(None, "page_size", PAGE_BYTES as i64).map_err(sql)?;
    } else {
        check(&conn, &path)?;
    }
    configure_writing(&conn).map_err(sql)?;
    let tx = conn.transaction().map_err(sql)?;
    if user_version(&tx).map_err(sql)? == 0 {
        tx.execute_batch(TABLES).map_err(sql)?;
        tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(sql)?;
        tx.pragma_update(None, "user_version", FORMAT).map_err(sql)?;
    }
    tx.commit().map_err(sql)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
    Ok(conn)
}

/// Bytes of a database page.
pub(super) const PAGE_BYTES: u64 = 8192;

fn configure_writing(conn: &Connection) -> rusqlite::Result<()> {
    // Only a program from outside can hold the lock that a write needs: wait for it for a while.
    conn.busy_timeout(Duration::from_secs(10))?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    // FULL in WAL mode: COMMIT returns after the WAL is synced. That is what makes appends durable.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "fullfsync", true)?;
    conn.pragma_update(None, "checkpoint_fullfsync", true)?;
    // Checkpoints are the housekeeper's work: an append must not be the one that waits for them.
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    // After a burst the file of the WAL is cut to this when it starts anew.
    conn.pragma_update(None, "journal_size_limit", 64 << 20)?;
    conn.pragma_update(None, "cache_size", -16_384)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// A second writing connection, for checkpoints.
pub(super) fn open_checkpointing(dir: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path(dir), flags)?;
    configure_writing(&conn)?;
    conn.pragma_update(None, "cache_size", -256)?;
    // A checkpoint that waits for readers holds up appends: rather try again later.
    conn.busy_timeout(Duration::from_millis(20))?;
    Ok(conn)
}

/// How a reading side gets at the database file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// By reads. A disk that fails is an error then: right for the process that owns the log and has
    /// to stay up.
    Read,
    /// By mapping it into memory, which reads a backlog about twice as fast (a read per page is most
    /// of the cost otherwise). A disk that fails then ends the process: right for an engine, which is
    /// started again. The file never shrinks under it: there is no auto-vacuum.
    Mapped,
}

/// The greatest that SQLite maps, SQLITE_MAX_MMAP_SIZE; what lies behind is read.
const MAPPED_BYTES: i64 = 0x7fff_0000;

/// Opens the database for reading; `path` is the file's.
pub(super) fn open_reading(path: &Path, access: Access) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.pragma_update(None, "mmap_size", if access == Access::Mapped { MAPPED_BYTES } else { 0 })?;
    // Sequential reads don't come back to a page; what is worth keeping are the tree's inner pages.
    conn.pragma_update(None, "cache_size", -2048)?;
    Ok(conn)
}

/// That the file is a log of a format that this program knows. `false`: it is empty, because the
/// process that made it was killed before the tables were there.
pub(super) fn check(conn: &Connection, path: &Path) -> Result<bool, OpenError> {
    let sql = |e: rusqlite::Error| open_error(path.to_owned(), &e);
    let application = conn.pragma_query_value(None, "application_id", |row| row.get::<_, i64>(0)).map_err(sql)?;
    let found = user_version(conn).map_err(sql)?;
    let tables: i64 =
        conn.query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |row| row.get(0)).map_err(sql)?;
    if application == 0 && found == 0 && tables == 0 {
        return Ok(false);
    }
    if application != APPLICATION_ID {
        return Err(OpenError::NotALog { path: path.to_owned() });
    }
    if found > FORMAT {
        return Err(OpenError::Newer { path: path.to_owned(), found, known: FORMAT });
    }
    Ok(true)
}

fn user_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.pragma_query_value(None, "user_version", |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_stream_lie_together_in_order_of_their_offsets() {
        let (a, b) = (Stream(1), Stream(2));
        assert!(a.row(Offset(0)) < a.row(Offset(1)));
        assert!(a.row(Offset::MAX) < a.rows_end());
        assert!(a.rows_end() <= b.row(Offset(0)));
        assert!(Stream::MAX.rows_end().0 > 0);
        assert_eq!(Stream::MAX.row(Offset(77)).offset(), Offset(77));
    }
}
