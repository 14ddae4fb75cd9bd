//! Feeds: what writes records to a topic.
//!
//! ```text
//! files, stdin -> replay   -'
//!                            |-> FeedRecord -> pace: how long to wait -> producer
//! a seed       -> simulate -'
//!                     '-> Expect: what must come out
//! ```
//!
//! A feed makes records and says when each is due; it neither sends nor sleeps: the caller does both.

pub mod pace;
pub mod replay;
pub mod simulate;

use std::io;
use std::path::PathBuf;

/// A record that a feed would send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedRecord {
    /// The key, where one was asked for and is there: it decides about the partition.
    pub key: Option<Vec<u8>>,
    /// The value, as bytes: judged only when it is decoded. Without line breaks, so that a record is
    /// also a line.
    pub value: Vec<u8>,
    /// The record's own time in milliseconds since 1970, where one was asked for.
    pub time_ms: Option<i64>,
}

/// Why a feed cannot go on. Trying again does not help before the file is mended.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// No such file, or not ours to read.
    #[error("cannot open {}: {cause}; check the path and whether it may be read", file.display())]
    Open { file: PathBuf, cause: io::Error },
    /// What the name or the first bytes say is nothing that can be replayed.
    #[error("{}: {what}", file.display())]
    Format { file: PathBuf, what: String },
    /// Reading or decompressing failed.
    #[error("{} line {line}: cannot read on: {cause}; check that the file is whole", file.display())]
    Read { file: PathBuf, line: u64, cause: io::Error },
    /// A record beyond the bound.
    #[error("{} line {line}: the record is longer than {max} bytes; split the file into records, one on each line", file.display())]
    TooLong { file: PathBuf, line: u64, max: usize },
    /// The file's structure is broken here.
    #[error("{} line {line}: {what}", file.display())]
    Record { file: PathBuf, line: u64, what: String },
}
