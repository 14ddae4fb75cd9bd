//! What those who append may rely on.

use super::*;
use std::sync::Barrier;
use tallyflow_connectors::log::partition_of;
use tallyflow_connectors::log::{Log as _, TopicConfig, TopicError};
use tallyflow_dataflows::source::ProduceError;

fn keyed<'a>(key: &'a str, value: &'a str) -> NewRecord<'a> {
    NewRecord { key: Some(key.as_bytes()), value: Some(value.as_bytes()) }
}

#[test]
fn offsets_go_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    append(&log, "t", &["0", "1"]);
    drop(log);
    let log = open(dir.path());
    assert_eq!(append(&log, "t", &["2"]).ranges, [(P0, Offset(2), Offset(3))]);
    assert_eq!(values(&read_all(&log, "t", P0)), ["0", "1", "2"]);
}

#[test]
fn keys_choose_the_partition_and_keyless_appends_take_turns() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 4, TopicConfig::default()).unwrap();
    for key in ["a", "b", "c", "d", "e"] {
        let appended = log.append("t", &[keyed(key, "x"), keyed(key, "y")], None).unwrap();
        assert_eq!(appended.ranges.len(), 1);
        assert_eq!(appended.ranges[0].0, partition_of(key.as_bytes(), 4));
    }
    let mut turns: Vec<u32> = (0..4).map(|_| append(&log, "t", &["x", "y"]).ranges[0].0.0).collect();
    turns.sort();
    assert_eq!(turns, [0, 1, 2, 3]);
}

#[test]
fn appends_of_many_threads_are_each_kept_whole_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    let (threads, rounds) = (8, 40);
    let start = Barrier::new(threads);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (log, start) = (&log, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..rounds {
                    let batch = [0, 1, 2].map(|n| format!("{thread} {round} {n}"));
                    let appended = append(log, "t", &batch.each_ref().map(String::as_str));
                    let (_, first, end) = appended.ranges[0];
                    assert_eq!(values(&log.read_range("t", P0, first, (end.0 - first.0) as usize).unwrap()), batch);
                }
            });
        }
    });
    let all = values(&read_all(&log, "t", P0));
    assert_eq!(all.len(), threads * rounds * 3);
    for thread in 0..threads {
        let of_thread: Vec<&String> = all.iter().filter(|v| v.starts_with(&format!("{thread} "))).collect();
        let wanted: Vec<String> =
            (0..rounds).flat_map(|round| [0, 1, 2].map(|n| format!("{thread} {round} {n}"))).collect();
        assert_eq!(of_thread, wanted.iter().collect::<Vec<_>>());
    }
}

#[test]
fn an_idempotency_key_appends_once_also_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 3, TopicConfig::default()).unwrap();
    log.create_topic("u", 1, TopicConfig::default()).unwrap();
    let records = [keyed("a", "1"), keyed("b", "2"), keyed("c", "3")];
    let first = log.append("t", &records, Some("k")).unwrap();
    assert_eq!(log.append("t", &records, Some("k")).unwrap(), first);
    drop(log);
    let log = open(dir.path());
    assert_eq!(log.append("t", &records, Some("k")).unwrap(), first);
    let ends: u64 = log.topic("t").unwrap().unwrap().partitions.iter().map(|p| p.end.0).sum();
    assert_eq!(ends, 3);
    let reused = log.append("t", &records[..2], Some("k"));
    assert_eq!(reused, Err(ProduceError::KeyReused { key: "k".into() }));
    assert_eq!(log.append("t", &[keyed("a", "12"), keyed("", "")], Some("k")).unwrap_err(), reused.unwrap_err());
    assert!(log.append("u", &records[..1], Some("k")).is_ok(), "keys are a topic's own");
}

#[test]
fn an_idempotency_key_may_go_by_what_was_said_rather_than_by_the_records() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    let first = log.append_once("t", &[keyed("a", "said at noon")], "k", b"said").unwrap();
    assert_eq!(log.append_once("t", &[keyed("a", "said at one")], "k", b"said").unwrap(), first);
    let other = log.append_once("t", &[keyed("a", "said at noon")], "k", b"something else");
    assert_eq!(other, Err(ProduceError::KeyReused { key: "k".into() }));
    assert_eq!(start_of(&log, "t").1, Offset(1));
}

#[test]
fn an_idempotency_key_is_forgotten_after_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let now_ms = Arc::new(AtomicI64::new(0));
    let log = open_at(dir.path(), &now_ms);
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    log.append("t", &[keyed("a", "1")], Some("k")).unwrap();
    now_ms.store(24 * 3_600_000 - 1, Ordering::Relaxed);
    assert!(matches!(log.append("t", &[keyed("a", "2")], Some("k")), Err(ProduceError::KeyReused { .. })));
    now_ms.store(24 * 3_600_000 + 1, Ordering::Relaxed);
    log.enforce_retention().unwrap();
    assert_eq!(log.append("t", &[keyed("a", "2")], Some("k")).unwrap().ranges, [(P0, Offset(1), Offset(2))]);
}

#[test]
fn what_the_log_does_not_take_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), LogOptions { record_bytes_max: 10, ..LogOptions::default() }).unwrap();
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    log.create_topic("jobs", 1, TopicConfig { compacted: true, ..TopicConfig::default() }).unwrap();
    let records = [keyed("a", "1"), keyed("key", "too long")];
    assert_eq!(log.append("t", &records, None), Err(ProduceError::TooLarge { index: 1, bytes: 11, max: 10 }));
    let keyless = [keyed("a", "1"), NewRecord { key: None, value: None }];
    let missing = ProduceError::KeyMissing { topic: "jobs".into(), index: 1 };
    assert_eq!(log.append("jobs", &keyless, None), Err(missing));
    assert_eq!(log.append("x", &[], None), Err(ProduceError::UnknownTopic { topic: "x".into() }));
    let too_long = log.append("t", &records[..1], Some(&"k".repeat(256)));
    assert_eq!(too_long, Err(ProduceError::KeyTooLong { bytes: 256, max: 255 }));
    assert_eq!(log.append("t", &[], None), Ok(Appended::default()));
    assert_eq!(start_of(&log, "t"), (Offset(0), Offset(0), 0));
}

#[test]
fn a_log_whose_queue_is_full_is_busy_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let log = EmbeddedLog::open(dir.path(), LogOptions { queue_bytes_max: 20_000, ..LogOptions::default() }).unwrap();
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    let value = "x".repeat(10_000);
    let (mut done, mut busy) = (0, 0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let append = || log.append("t", &[keyed("k", &value)], None);
                    let (done, busy): (Vec<_>, Vec<_>) = (0..30).map(|_| append()).partition(Result::is_ok);
                    assert!(busy.iter().all(|answer| answer == &Err(ProduceError::Busy)));
                    (done.len(), busy.len())
                })
            })
            .collect();
        for thread in threads {
            let (of_done, of_busy) = thread.join().unwrap();
            done += of_done;
            busy += of_busy;
        }
    });
    assert!(busy > 0 && done > 0, "{done} done, {busy} busy");
    assert_eq!(start_of(&log, "t").1, Offset(done as u64), "what was refused is not there");
    assert!(log.append("t", &[keyed("k", &"y".repeat(100_000))], None).is_ok(), "a large one goes when it is alone");
}

#[test]
fn a_topic_is_made_once_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("b", 2, TopicConfig::default()).unwrap();
    log.create_topic("a", 1, TopicConfig { compacted: true, ..TopicConfig::default() }).unwrap();
    let again = log.create_topic("b", 2, TopicConfig::default());
    assert_eq!(again, Err(TopicError::AlreadyExists { topic: "b".into() }));
    assert_eq!(log.delete_topic("c"), Err(TopicError::Unknown { topic: "c".into() }));
    drop(log);
    let log = open(dir.path());
    let topics = log.topics().unwrap();
    assert_eq!(topics.iter().map(|t| (t.name.as_str(), t.partitions.len())).collect::<Vec<_>>(), [("a", 1), ("b", 2)]);
    assert!(topics[0].compacted && !topics[1].compacted);
    assert_eq!(log.topic_config("b"), Ok(Some(TopicConfig::default())));
}

#[test]
fn subscribers_hear_of_every_end_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
    let hear = heard.clone();
    log.subscribe(Arc::new(move |topic, partition, end| {
        hear.lock().unwrap().push((topic.to_owned(), partition, end));
    }));
    append(&log, "t", &["0", "1"]);
    append(&log, "t", &["2"]);
    assert_eq!(*heard.lock().unwrap(), [("t".to_owned(), P0, Offset(2)), ("t".to_owned(), P0, Offset(3))]);
}
