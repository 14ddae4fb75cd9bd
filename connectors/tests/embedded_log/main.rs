//! The embedded log seen from outside.
//!
//! `model` compares it with plain vectors over generated appends. `reading`, `keeping` and `writing`
//! say what it promises, one promise a test. `crash` kills processes and fills disks: its children
//! are this test binary started again, see `child`.

mod child;
mod crash;
mod keeping;
mod model;
mod reading;
mod writing;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};
use tallyflow_connectors::log::OwnedRecord;
use tallyflow_connectors::log::embedded::{EmbeddedLog, LogOptions};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::{Appended, Budget, NewRecord, PartitionSource, Producer, Source, Waker};

/// The only partition of many a test.
const P0: PartitionId = PartitionId(0);

/// A budget that no test reaches.
const ALL: Budget = Budget { records_max: usize::MAX, bytes_max: usize::MAX, until: Offset(u64::MAX) };

fn open(dir: &Path) -> EmbeddedLog {
    EmbeddedLog::open(dir, LogOptions::default()).unwrap()
}

/// A log whose time is what the test sets.
fn open_at(dir: &Path, now_ms: &Arc<AtomicI64>) -> EmbeddedLog {
    let now_ms = now_ms.clone();
    let clock = Arc::new(move || now_ms.load(Ordering::Relaxed));
    EmbeddedLog::open(dir, LogOptions { clock, ..LogOptions::default() }).unwrap()
}

fn no_waker() -> Waker {
    Arc::new(|| ())
}

/// Appends keyless records with these values.
fn append(log: &EmbeddedLog, topic: &str, values: &[&str]) -> Appended {
    let records: Vec<NewRecord<'_>> =
        values.iter().map(|value| NewRecord { key: None, value: Some(value.as_bytes()) }).collect();
    log.append(topic, &records, None).unwrap()
}

/// Polls until the reader stands at the end.
fn drain(reader: &mut dyn PartitionSource, budget: Budget) -> Vec<OwnedRecord> {
    let mut records = Vec::new();
    loop {
        let before = records.len();
        let polled = reader.poll(budget, &mut |record| records.push(OwnedRecord::from(record))).unwrap();
        assert_eq!(polled.records, records.len() - before);
        assert!(records.last().is_none_or(|record| record.offset < polled.next));
        if polled.next >= polled.end {
            return records;
        }
    }
}

fn read_all(source: &dyn Source, topic: &str, partition: PartitionId) -> Vec<OwnedRecord> {
    let start = source.topic(topic).unwrap().unwrap().partitions[partition.0 as usize].start;
    drain(&mut *source.open(topic, partition, start, no_waker()).unwrap(), ALL)
}

fn values(records: &[OwnedRecord]) -> Vec<String> {
    let text = |record: &OwnedRecord| String::from_utf8(record.value.clone().unwrap()).unwrap();
    records.iter().map(text).collect()
}

/// Waits for `condition`, and fails after 20 s without it.
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn start_of(source: &dyn Source, topic: &str) -> (Offset, Offset, u64) {
    let state = source.topic(topic).unwrap().unwrap().partitions[0];
    (state.start, state.end, state.bytes.unwrap())
}
