//! How fast the embedded log appends and reads, beside a plain file with a sync per append.
//!
//! ```text
//! cargo run --release -p tallyflow-connectors --example log_bench -- [RECORDS] [DIR]
//! ```
//!
//! Records have 300 bytes; an append has 1000 of them (and 10, for small ones), the file is synced
//! after as many. The file has no index, checksums, partitions or concurrent readers.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tallyflow_connectors::log::embedded::{EmbeddedLog, EmbeddedReader, LogOptions};
use tallyflow_connectors::log::{Log as _, TopicConfig};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::{Budget, NewRecord, Producer, Source};

const RECORD_BYTES: usize = 300;
type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let records: usize = arguments.next().map_or(Ok(2_000_000), |text| text.parse())?;
    let parent = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(parent)?;
    let value = [b'x'; RECORD_BYTES];

    println!("{:<44} {:>12} {:>12} {:>7}", "", "log, rec/s", "file, rec/s", "ratio");
    for (per_append, threads) in [(1000, 1), (1000, 4), (250, 1), (10, 1), (10, 16)] {
        let records = if per_append == 10 { records / 100 } else { records };
        let topic = format!("t{per_append}-{threads}");
        let log = appended(dir.path(), &topic, records, per_append, threads, &value)?;
        let file = file_appended(&dir.path().join("plain"), records, per_append, &value)?;
        print("append", per_append, threads, log, file);
        if per_append >= 250 {
            let log = read(dir.path(), &topic, records)?;
            let file = file_read(&dir.path().join("plain"))?;
            print("read, appended so", per_append, threads, log, file);
        }
    }
    Ok(())
}

fn print(what: &str, per_append: usize, threads: usize, log: f64, file: f64) {
    let what = format!("{what}, {per_append} a time, {threads} producers");
    println!("{what:<44} {log:>12.0} {file:>12.0} {:>7.2}", log / file);
}

fn appended(
    dir: &Path,
    topic: &str,
    records: usize,
    per_append: usize,
    threads: usize,
    value: &[u8],
) -> Result<f64, Failure> {
    let log = EmbeddedLog::open(dir, LogOptions::default())?;
    log.create_topic(topic, 1, TopicConfig::default())?;
    let batch = vec![NewRecord { key: None, value: Some(value) }; per_append];
    let start = Instant::now();
    std::thread::scope(|scope| {
        let appending: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    (0..records / per_append / threads).try_for_each(|_| log.append(topic, &batch, None).map(drop))
                })
            })
            .collect();
        appending.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    Ok((records / per_append / threads * per_append * threads) as f64 / start.elapsed().as_secs_f64())
}

fn read(dir: &Path, topic: &str, records: usize) -> Result<f64, Failure> {
    let log = EmbeddedReader::open(dir)?;
    let mut reader = log.open(topic, PartitionId(0), Offset(0), Arc::new(|| ()))?;
    let start = Instant::now();
    let (mut count, mut bytes) = (0, 0);
    loop {
        let budget = Budget { records_max: 4096, bytes_max: 1 << 20, until: Offset(u64::MAX) };
        let polled = reader.poll(budget, &mut |record| bytes += record.value.map_or(0, <[u8]>::len))?;
        count += polled.records;
        if polled.next >= polled.end {
            break;
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    assert!(count <= records && bytes == count * RECORD_BYTES);
    Ok(count as f64 / elapsed)
}

fn file_appended(path: &Path, records: usize, per_append: usize, value: &[u8]) -> Result<f64, Failure> {
    let mut file = File::create(path)?;
    let mut batch = Vec::with_capacity(per_append * (value.len() + 4));
    let start = Instant::now();
    for _ in 0..records / per_append {
        batch.clear();
        for _ in 0..per_append {
            batch.extend_from_slice(&(value.len() as u32).to_le_bytes());
            batch.extend_from_slice(value);
        }
        file.write_all(&batch)?;
        file.sync_data()?;
    }
    Ok((records / per_append * per_append) as f64 / start.elapsed().as_secs_f64())
}

fn file_read(path: &Path) -> Result<f64, Failure> {
    let mut file = File::open(path)?;
    let start = Instant::now();
    let (mut count, mut bytes) = (0usize, 0usize);
    let mut buffer = vec![0u8; (RECORD_BYTES + 4) * 4096];
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        if filled == 0 {
            break;
        }
        let mut rest = &buffer[..filled];
        while let Some((head, tail)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*head) as usize;
            rest = &tail[length..];
            count += 1;
            bytes += length;
        }
    }
    assert_eq!(bytes, count * RECORD_BYTES);
    Ok(count as f64 / start.elapsed().as_secs_f64())
}
