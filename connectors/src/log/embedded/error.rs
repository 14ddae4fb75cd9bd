//! What can go wrong, and how SQLite's words for it become ours.

use crate::log::TopicError;
use rusqlite::{Error, ErrorCode, ffi};
use std::path::PathBuf;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::{ProduceError, SourceError};

/// Why the log can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The reading side found no log there.
    #[error("there is no log at {}", path.display())]
    Missing { path: PathBuf },
    /// A file of this name is there and is not a log.
    #[error("{} is not a tallyflow log; move it away or choose another directory", path.display())]
    NotALog { path: PathBuf },
    /// The log was written by a newer tallyflow.
    #[error("{} has format {found}, this program knows up to {known}; use a newer tallyflow", path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    /// What is stored can't be read.
    #[error("the log {} is damaged: {what}; restore it from a copy or move it away", path.display())]
    Damaged { path: PathBuf, what: String },
    /// The disk is full.
    #[error("the disk of {} is full; make space and start again", path.display())]
    Full { path: PathBuf },
    /// The directory or file can't be opened, read or written.
    #[error("opening the log {} failed: {what}", path.display())]
    Io { path: PathBuf, what: String },
}

/// Whether the disk was full. SQLite reports a shared-memory file that can't grow by a code of its own.
pub(super) fn is_full(error: &Error) -> bool {
    match error {
        Error::SqliteFailure(e, _) => e.code == ErrorCode::DiskFull || e.extended_code == ffi::SQLITE_IOERR_SHMSIZE,
        _ => false,
    }
}

/// Whether what is stored can't be read. A value of the wrong type in a column is damage too: the
/// schema is ours and strict.
fn is_damage(error: &Error) -> bool {
    match error {
        Error::SqliteFailure(e, _) => matches!(e.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase),
        Error::FromSqlConversionFailure(..) | Error::IntegralValueOutOfRange(..) | Error::InvalidColumnType(..) => true,
        _ => false,
    }
}

pub(super) fn open_error(path: PathBuf, error: &Error) -> OpenError {
    let what = error.to_string();
    match error {
        Error::SqliteFailure(e, _) if e.code == ErrorCode::NotADatabase => OpenError::NotALog { path },
        _ if is_full(error) => OpenError::Full { path },
        _ if is_damage(error) => OpenError::Damaged { path, what },
        _ => OpenError::Io { path, what },
    }
}

pub(super) fn produce_error(error: &Error) -> ProduceError {
    if is_full(error) { ProduceError::Full } else { ProduceError::Io(error.to_string()) }
}

pub(super) fn topic_error(error: &Error) -> TopicError {
    if is_full(error) { TopicError::Full } else { TopicError::Io(error.to_string()) }
}

/// `offset` is where the reader stood.
pub(super) fn source_error(error: &Error, topic: &str, partition: PartitionId, offset: Offset) -> SourceError {
    if is_damage(error) {
        SourceError::Damaged { topic: topic.to_owned(), partition, offset, what: error.to_string() }
    } else {
        SourceError::Io(error.to_string())
    }
}
