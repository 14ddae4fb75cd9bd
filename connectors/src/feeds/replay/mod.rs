//! Replaying files: NDJSON, a JSON array, CSV or TSV with a header, compressed or not, or stdin.
//!
//! ```text
//! file -> bytes counted -> decompressed -> format told -> lines | elements | rows -> FeedRecord
//! ```
//!
//! Memory is bounded whatever the file: a record has at most [`RECORD_BYTES_MAX`] bytes and the files
//! are streamed. A record is not judged here: a line that is no JSON goes out as it is and becomes
//! a dead letter of the job that reads it, as it would from any other producer.

mod elements;
mod input;
mod lines;
mod rows;
#[cfg(test)]
mod tests;

use super::pace::parse_time_ms;
use super::{FeedError, FeedRecord};
use crate::decode::BuiltinFormats;
use input::Input;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tallyflow_dataflows::decode::{Decoder, Event, Formats, Needs, Value};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::pointer::Pointer;
use tallyflow_dataflows::record::RecordRef;

/// A longer line, element or row is an error.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// How far a replay has come, in bytes of the files as they lie there (compressed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub bytes_read: u64,
    /// `None` where it cannot be known: stdin is among them.
    pub bytes_total: Option<u64>,
}

/// The records of some files, one file after the other.
///
/// As an iterator it ends after its first error: what follows a broken place cannot be told apart.
pub struct Replay {
    paths: VecDeque<PathBuf>,
    current: Option<(PathBuf, Box<dyn Records>)>,
    bytes_read: Arc<AtomicU64>,
    bytes_total: Option<u64>,
    fields: Option<Fields>,
    failed: bool,
}

/// What reads records out of one file.
trait Records: Send {
    /// Puts the next record into `value` (given empty); false at the end.
    fn next(&mut self, value: &mut Vec<u8>) -> Result<bool, Trouble>;
    /// The line where the record begins that was read last, from 1.
    fn record_line(&self) -> u64;
}

/// What went wrong within a file.
#[derive(Debug)]
enum Trouble {
    Io(io::Error),
    TooLong,
    Broken(String),
}

impl From<io::Error> for Trouble {
    fn from(cause: io::Error) -> Self {
        Trouble::Io(cause)
    }
}

impl Replay {
    /// Opens them in this order; `-` is stdin. Whether each can be read is checked at once, so that a
    /// wrong name is told before anything is sent.
    pub fn open(paths: &[PathBuf]) -> Result<Replay, FeedError> {
        let mut bytes_total = Some(0);
        for path in paths {
            let size = input::size(path).map_err(|cause| FeedError::Open { file: path.clone(), cause })?;
            bytes_total = bytes_total.zip(size).map(|(total, size)| total + size);
            input::Format::by_name(path).map_err(|what| FeedError::Format { file: path.clone(), what })?;
        }
        Ok(Replay {
            paths: paths.iter().cloned().collect(),
            current: None,
            bytes_read: Arc::default(),
            bytes_total,
            fields: None,
            failed: false,
        })
    }

    /// Gives each record the key that stands at `key` (a string's text; a number or boolean as
    /// written), and the time that stands at `time`. A record that has none there, or is no JSON
    /// object, goes without a key, but a record without a time is an error: it could not be paced.
    pub fn with_fields(mut self, key: Option<Pointer>, time: Option<Pointer>) -> Self {
        self.fields = (key.is_some() || time.is_some()).then(|| Fields::new(key, time));
        self
    }

    /// How far it has come.
    pub fn progress(&self) -> Progress {
        Progress { bytes_read: self.bytes_read.load(Ordering::Relaxed), bytes_total: self.bytes_total }
    }

    /// Reads the next record into `record`, whose memory is used again; false at the end.
    pub fn read(&mut self, record: &mut FeedRecord) -> Result<bool, FeedError> {
        loop {
            if self.current.is_none() {
                let Some(path) = self.paths.pop_front() else { return Ok(false) };
                let records = self.open_one(&path)?;
                self.current = Some((path, records));
            }
            let Some((path, records)) = &mut self.current else { return Ok(false) };
            record.value.clear();
            match records.next(&mut record.value) {
                Ok(true) => {}
                Ok(false) => {
                    self.current = None;
                    continue;
                }
                Err(trouble) => return Err(named(path, records.record_line(), trouble)),
            }
            record.key = None;
            record.time_ms = None;
            if let Some(fields) = &mut self.fields {
                fields.fill(record).map_err(|what| named(path, records.record_line(), Trouble::Broken(what)))?;
            }
            return Ok(true);
        }
    }

    fn open_one(&self, path: &Path) -> Result<Box<dyn Records>, FeedError> {
        let open = |cause| FeedError::Open { file: path.to_owned(), cause };
        let format = |what| FeedError::Format { file: path.to_owned(), what };
        let by_name = input::Format::by_name(path).map_err(format)?;
        let input = Input::open(path, &self.bytes_read).map_err(open)?;
        let records = match by_name.map_or_else(|| input.told_format(), Ok).map_err(format)? {
            input::Format::Empty => return Ok(Box::new(lines::Lines::new(input.reader()))),
            input::Format::Lines => Box::new(lines::Lines::new(input.reader())) as Box<dyn Records>,
            input::Format::Elements => Box::new(elements::Elements::new(input.reader())),
            input::Format::Rows { delimiter } => Box::new(rows::Rows::new(input.reader(), delimiter)),
        };
        Ok(records)
    }
}

impl Iterator for Replay {
    type Item = Result<FeedRecord, FeedError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let mut record = FeedRecord::default();
        let result = self.read(&mut record);
        self.failed = result.is_err();
        match result {
            Ok(true) => Some(Ok(record)),
            Ok(false) => None,
            Err(e) => Some(Err(e)),
        }
    }
}

fn named(file: &Path, line: u64, trouble: Trouble) -> FeedError {
    let file = file.to_owned();
    match trouble {
        Trouble::Io(cause) => FeedError::Read { file, line, cause },
        Trouble::TooLong => FeedError::TooLong { file, line, max: RECORD_BYTES_MAX },
        Trouble::Broken(what) => FeedError::Record { file, line, what },
    }
}

/// Finds a record's key and time.
struct Fields {
    decoder: Box<dyn Decoder>,
    key: Option<usize>,
    time: Option<(usize, Pointer)>,
}

impl Fields {
    fn new(key: Option<Pointer>, time: Option<Pointer>) -> Self {
        let mut needs = Needs::default();
        let key = key.map(|pointer| needs.slot(&pointer));
        let time = time.map(|pointer| (needs.slot(&pointer), pointer));
        Fields { decoder: BuiltinFormats.decoder("json", &needs), key, time }
    }

    fn fill(&mut self, record: &mut FeedRecord) -> Result<(), String> {
        let mut event = Event::default();
        let lent = RecordRef {
            partition: PartitionId(0),
            offset: Offset(0),
            timestamp_ms: 0,
            key: None,
            value: Some(&record.value),
        };
        let decoded = self.decoder.decode(&lent, &mut event).is_ok();
        let text = |slot: usize| event.slots.get(slot).filter(|_| decoded)?.as_ref().and_then(scalar);
        let key = self.key.and_then(text).map(|key| key.into_owned().into_bytes());
        let time_ms = match &self.time {
            None => None,
            Some((slot, pointer)) => Some(text(*slot).and_then(|t| parse_time_ms(&t)).ok_or_else(|| {
                format!(
                    "no time at {:?} to go by; name the member that holds one with --time, or leave --speed out",
                    pointer.to_string()
                )
            })?),
        };
        drop(event);
        record.key = key;
        record.time_ms = time_ms;
        Ok(())
    }
}

/// A scalar as text; a null and what has parts are none.
fn scalar<'v>(value: &'v Value<'_>) -> Option<Cow<'v, str>> {
    match value {
        Value::Text(text) | Value::Number(text) => Some(Cow::Borrowed(text)),
        Value::Bool(yes) => Some(Cow::Borrowed(if *yes { "true" } else { "false" })),
        _ => None,
    }
}
