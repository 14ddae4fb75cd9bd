//! What readers may rely on.

use super::*;
use std::sync::mpsc;
use tallyflow_connectors::log::embedded::{EmbeddedReader, OpenError};
use tallyflow_connectors::log::{Log as _, TopicConfig};
use tallyflow_dataflows::source::SourceError;

#[test]
fn a_reader_is_woken_by_an_append_and_sees_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    let (woken, wakes) = mpsc::channel();
    let waker = Arc::new(move || {
        let _ = woken.send(());
    });
    let mut reader = log.open("t", P0, Offset(0), waker).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..200 {
                append(&log, "t", &[&n.to_string()]);
            }
        });
        let mut seen = Vec::new();
        while seen.len() < 200 {
            wakes.recv_timeout(Duration::from_secs(20)).expect("woken after an append");
            seen.extend(values(&drain(&mut *reader, ALL)));
        }
        assert_eq!(seen, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
    });
}

#[test]
fn a_reader_at_the_end_answers_without_looking_into_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    let reader = EmbeddedReader::open(dir.path()).unwrap();
    let mut partition = reader.open("t", P0, Offset(0), no_waker()).unwrap();
    append(&log, "t", &["x"]);
    // Not told of the append, it does not even look.
    let polled = partition.poll(ALL, &mut |_| panic!("nothing was announced")).unwrap();
    assert_eq!((polled.records, polled.next, polled.end), (0, Offset(0), Offset(0)));
    reader.appended("t", P0, Offset(1));
    assert_eq!(partition.end(), Offset(1));
    assert_eq!(values(&drain(&mut *partition, ALL)), ["x"]);
}

#[test]
fn a_reader_may_begin_in_the_middle_of_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    append(&log, "t", &["0", "1", "2", "3"]);
    append(&log, "t", &["4"]);
    let mut reader = log.open("t", P0, Offset(2), no_waker()).unwrap();
    assert_eq!(values(&drain(&mut *reader, Budget { records_max: 1, bytes_max: 1, ..ALL })), ["2", "3", "4"]);
}

#[test]
fn a_reader_stops_at_the_offset_its_budget_names_and_goes_on_from_there() {
    for compacted in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        log.create_topic("t", 1, TopicConfig { compacted, ..TopicConfig::default() }).unwrap();
        let key = |n: &str| n.as_bytes().to_vec();
        for batch in [vec!["0", "1", "2", "3"], vec!["4", "5"]] {
            let keys: Vec<_> = batch.iter().map(|n| key(n)).collect();
            let record = |(key, value): (&'_ Vec<u8>, &&'static str)| (key.clone(), *value);
            let records: Vec<_> = keys.iter().zip(&batch).map(record).collect();
            let records: Vec<_> = (records.iter())
                .map(|(key, value)| NewRecord { key: Some(key), value: Some(value.as_bytes()) })
                .collect();
            log.append("t", &records, None).unwrap();
        }
        let mut reader = log.open("t", P0, Offset(0), no_waker()).unwrap();
        let mut read = Vec::new();
        for until in [0, 1, 3, 4, 5, 6].map(Offset) {
            let polled = reader.poll(Budget { until, ..ALL }, &mut |record| read.push(record.offset.0)).unwrap();
            assert_eq!((polled.next, read.len() as u64), (until, until.0), "compacted: {compacted}");
        }
        assert_eq!(read, [0, 1, 2, 3, 4, 5]);
    }
}

#[test]
fn what_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 2, TopicConfig::default()).unwrap();
    append(&log, "t", &["0"]);
    let open = |topic: &str, partition: u32, from: u64| {
        log.open(topic, PartitionId(partition), Offset(from), no_waker()).err()
    };
    assert_eq!(open("u", 0, 0), Some(SourceError::UnknownTopic { topic: "u".into() }));
    let partition = PartitionId(2);
    assert_eq!(open("t", 2, 0), Some(SourceError::UnknownPartition { topic: "t".into(), partition }));
    let cut = SourceError::CutShort { topic: "t".into(), partition: P0, wanted: Offset(9), end: Offset(1) };
    assert_eq!(open("t", 0, 9), Some(cut));
    assert_eq!(open("t", 0, 1), None);
    assert_eq!(log.topic("u").unwrap(), None);
}

#[test]
fn a_topic_made_again_is_another_one_to_its_readers() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(open(dir.path()));
    let remote = Arc::new(EmbeddedReader::open(dir.path()).unwrap());
    let forward = remote.clone();
    log.subscribe(Arc::new(move |topic, partition, end| forward.appended(topic, partition, end)));
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    append(&log, "t", &["old", "old"]);
    let mut here = log.open("t", P0, Offset(0), no_waker()).unwrap();
    let mut there = remote.open("t", P0, Offset(2), no_waker()).unwrap();
    drain(&mut *here, ALL);
    let incarnation = log.topic("t").unwrap().unwrap().incarnation;

    log.delete_topic("t").unwrap();
    assert_eq!(log.topic("t").unwrap(), None);
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    assert_ne!(log.topic("t").unwrap().unwrap().incarnation, incarnation);
    append(&log, "t", &["new"]);
    let recreated = SourceError::Recreated { topic: "t".into() };
    for reader in [&mut here, &mut there] {
        assert_eq!(reader.poll(ALL, &mut |_| panic!("of another topic")), Err(recreated.clone()));
        assert_eq!(reader.poll(ALL, &mut |_| panic!("of another topic")), Err(recreated.clone()), "it has ended");
    }
    assert_eq!(values(&read_all(&*remote, "t", P0)), ["new"]);
    assert_eq!(values(&read_all(&*log, "t", P0)), ["new"]);
}

#[test]
fn readers_of_a_deleted_topic_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    append(&log, "t", &["0"]);
    let mut reader = log.open("t", P0, Offset(1), no_waker()).unwrap();
    log.delete_topic("t").unwrap();
    let unknown = SourceError::UnknownTopic { topic: "t".into() };
    assert_eq!(reader.poll(ALL, &mut |_| panic!("deleted")), Err(unknown));
    assert!(log.enforce_retention().unwrap() > 0, "its rows are removed then");
}

#[test]
fn a_time_leads_to_the_first_record_at_or_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let now_ms = Arc::new(AtomicI64::new(1000));
    let log = open_at(dir.path(), &now_ms);
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    for n in 0..50 {
        now_ms.store(1000 + n * 10, Ordering::Relaxed);
        append(&log, "t", &["a", "b", "c"]);
    }
    let at = |ms: i64| log.offset_at("t", P0, ms).unwrap().0;
    assert_eq!((at(0), at(1000), at(1001), at(1010), at(1490), at(1491)), (0, 0, 3, 3, 147, 150));
    for n in 0..50 {
        assert_eq!(at(1000 + n * 10), n as u64 * 3);
    }
}

#[test]
fn timestamps_never_fall_even_if_the_clock_does() {
    let dir = tempfile::tempdir().unwrap();
    let now_ms = Arc::new(AtomicI64::new(5000));
    let log = open_at(dir.path(), &now_ms);
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    append(&log, "t", &["0"]);
    now_ms.store(3000, Ordering::Relaxed);
    append(&log, "t", &["1"]);
    drop(log);
    let log = open_at(dir.path(), &now_ms);
    append(&log, "t", &["2"]);
    now_ms.store(6000, Ordering::Relaxed);
    append(&log, "t", &["3"]);
    let times: Vec<i64> = read_all(&log, "t", P0).iter().map(|record| record.timestamp_ms).collect();
    assert_eq!(times, [5000, 5000, 5000, 6000]);
}

#[test]
fn timestamps_never_fall_from_one_topic_to_another_either() {
    let dir = tempfile::tempdir().unwrap();
    let now_ms = Arc::new(AtomicI64::new(5000));
    let log = open_at(dir.path(), &now_ms);
    for topic in ["a", "b", "c"] {
        log.create_topic(topic, 1, TopicConfig::default()).unwrap();
    }
    append(&log, "a", &["0"]);
    now_ms.store(3000, Ordering::Relaxed);
    append(&log, "b", &["0"]);
    drop(log);
    let log = open_at(dir.path(), &now_ms);
    append(&log, "c", &["0"]);
    for topic in ["b", "c"] {
        assert_eq!(read_all(&log, topic, P0)[0].timestamp_ms, 5000, "{topic}");
    }
}

#[test]
fn a_damaged_batch_is_reported_with_its_offset() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    append(&log, "t", &["good"]);
    append(&log, "t", &["a value to be found in the file"]);
    drop(log);
    let path = dir.path().join("log.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let needle = b"a value to be found";
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let log = open(dir.path());
    let mut reader = log.open("t", P0, Offset(0), no_waker()).unwrap();
    let mut seen = 0;
    let polled = reader.poll(ALL, &mut |_| seen += 1).unwrap();
    assert_eq!((polled.records, polled.next, seen), (1, Offset(1), 1), "what is good is still handed over");
    let error = reader.poll(ALL, &mut |_| panic!("damaged")).unwrap_err();
    assert!(matches!(&error, SourceError::Damaged { offset: Offset(1), .. }), "{error}");
    assert!(!error.retryable());
}

#[test]
fn what_is_no_log_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(EmbeddedReader::open(dir.path()), Err(OpenError::Missing { .. })));
    let open = || EmbeddedLog::open(dir.path(), LogOptions::default()).err().expect("refused");
    std::fs::write(dir.path().join("log.db"), "a shopping list, long enough to be no empty file".repeat(9)).unwrap();
    assert!(matches!(open(), OpenError::NotALog { .. }));
    std::fs::remove_file(dir.path().join("log.db")).unwrap();
    rusqlite::Connection::open(dir.path().join("log.db")).unwrap().execute_batch("CREATE TABLE x (y)").unwrap();
    assert!(matches!(open(), OpenError::NotALog { .. }));
    let below_a_file = EmbeddedLog::open(&dir.path().join("log.db/sub"), LogOptions::default());
    assert!(matches!(below_a_file, Err(OpenError::Io { .. })));
}

#[test]
fn a_log_of_a_newer_format_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let conn = rusqlite::Connection::open(dir.path().join("log.db")).unwrap();
    conn.pragma_update(None, "user_version", 2).unwrap();
    drop(conn);
    let error = EmbeddedLog::open(dir.path(), LogOptions::default()).err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 2, known: 1, .. }), "{error}");
}

#[test]
fn a_log_cut_off_in_the_middle_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    append(&log, "t", &[&"x".repeat(100_000)]);
    drop(log);
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("log.db")).unwrap();
    file.set_len(9000).unwrap();
    let error = EmbeddedLog::open(dir.path(), LogOptions::default()).err().expect("refused");
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}
