//! What retention and compaction take, and what they leave.

use super::*;
use tallyflow_connectors::log::{Log as _, Retention, TopicConfig};
use tallyflow_dataflows::source::SourceError;

const HOUR_MS: i64 = 3_600_000;

fn keep(age: Option<Duration>, bytes: Option<u64>) -> TopicConfig {
    TopicConfig { compacted: false, retention: Retention { age, bytes } }
}

#[test]
fn nothing_goes_by_default() {
    let dir = tempfile::tempdir().unwrap();
    let now_ms = Arc::new(AtomicI64::new(0));
    let log = open_at(dir.path(), &now_ms);
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    append(&log, "t", &["0"]);
    now_ms.store(i64::MAX / 2, Ordering::Relaxed);
    assert_eq!(log.enforce_retention(), Ok(0));
    assert_eq!(values(&read_all(&log, "t", P0)), ["0"]);
}

#[test]
fn records_go_by_age_and_the_end_stays_also_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let now_ms = Arc::new(AtomicI64::new(0));
    let log = open_at(dir.path(), &now_ms);
    log.create_topic("t", 1, keep(Some(Duration::from_secs(3600)), None)).unwrap();
    append(&log, "t", &["0", "1"]);
    now_ms.store(HOUR_MS / 2, Ordering::Relaxed);
    append(&log, "t", &["2"]);
    now_ms.store(HOUR_MS + 1, Ordering::Relaxed);
    assert_eq!(log.enforce_retention(), Ok(1));
    assert_eq!(start_of(&log, "t"), (Offset(2), Offset(3), 1));
    now_ms.store(HOUR_MS * 9, Ordering::Relaxed);
    assert_eq!(log.enforce_retention(), Ok(1));
    assert_eq!(start_of(&log, "t"), (Offset(3), Offset(3), 0));
    drop(log);
    now_ms.store(HOUR_MS / 4, Ordering::Relaxed);
    let log = open_at(dir.path(), &now_ms);
    assert_eq!(start_of(&log, "t"), (Offset(3), Offset(3), 0));
    assert_eq!(append(&log, "t", &["3"]).ranges, [(P0, Offset(3), Offset(4))]);
    let records = read_all(&log, "t", P0);
    assert_eq!(records[0].timestamp_ms, HOUR_MS / 2, "nor does the time of the last record get lost");
}

#[test]
fn the_oldest_records_go_by_bytes_over_all_partitions() {
    let dir = tempfile::tempdir().unwrap();
    let now_ms = Arc::new(AtomicI64::new(0));
    let log = open_at(dir.path(), &now_ms);
    log.create_topic("t", 2, keep(None, Some(500))).unwrap();
    for n in 0..10 {
        now_ms.store(n, Ordering::Relaxed);
        append(&log, "t", &[&"x".repeat(100)]);
    }
    assert_eq!(log.enforce_retention(), Ok(5));
    let partitions = log.topic("t").unwrap().unwrap().partitions;
    assert_eq!(partitions.iter().filter_map(|p| p.bytes).sum::<u64>(), 500);
    assert!(partitions.iter().all(|p| p.end == Offset(5)));
    let left: Vec<i64> = (0..2).flat_map(|p| read_all(&log, "t", PartitionId(p))).map(|r| r.timestamp_ms).collect();
    assert!(left.iter().all(|ms| *ms >= 5), "{left:?}");
}

#[test]
fn what_is_gone_is_named_to_who_opens_and_to_who_lags() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, keep(None, Some(10))).unwrap();
    let mut lagging = log.open("t", P0, Offset(0), no_waker()).unwrap();
    for n in 0..5 {
        append(&log, "t", &[&format!("record {n}")]);
    }
    let first = lagging.poll(Budget { records_max: 1, bytes_max: 1, ..ALL }, &mut |_| ()).unwrap();
    assert_eq!(first.next, Offset(1));
    log.enforce_retention().unwrap();
    let gone =
        |wanted: u64| SourceError::Gone { topic: "t".into(), partition: P0, wanted: Offset(wanted), start: Offset(4) };
    assert_eq!(lagging.poll(ALL, &mut |_| panic!("gone")), Err(gone(1)));
    assert_eq!(log.open("t", P0, Offset(0), no_waker()).err(), Some(gone(0)));
    assert_eq!(gone(1).to_string(), "offsets 1 to 3 of t/0 are gone: the log now starts at 4");
    assert_eq!(values(&read_all(&log, "t", P0)), ["record 4"]);
}

#[test]
fn who_lags_behind_a_log_that_has_nothing_left_is_told_too() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, keep(None, Some(0))).unwrap();
    let mut lagging = log.open("t", P0, Offset(0), no_waker()).unwrap();
    append(&log, "t", &["0", "1"]);
    log.enforce_retention().unwrap();
    let gone = SourceError::Gone { topic: "t".into(), partition: P0, wanted: Offset(0), start: Offset(2) };
    assert_eq!(lagging.poll(ALL, &mut |_| panic!("gone")), Err(gone));
    assert!(log.read_range("t", P0, Offset(2), 9).unwrap().is_empty());
}

#[test]
fn retention_runs_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { retention_every: Duration::from_millis(10), ..LogOptions::default() };
    let log = EmbeddedLog::open(dir.path(), options).unwrap();
    log.create_topic("t", 1, keep(None, Some(0))).unwrap();
    append(&log, "t", &["0"]);
    wait_for("retention", || start_of(&log, "t").0 == Offset(1));
}

#[test]
fn a_large_backlog_goes_while_appends_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, keep(None, Some(1000))).unwrap();
    for _ in 0..700 {
        append(&log, "t", &["0123456789"]);
    }
    std::thread::scope(|scope| {
        let appending = scope.spawn(|| (0..50).for_each(|_| drop(append(&log, "t", &["0123456789"]))));
        assert!(log.enforce_retention().unwrap() >= 600);
        appending.join().unwrap();
    });
    log.enforce_retention().unwrap();
    assert_eq!(start_of(&log, "t"), (Offset(650), Offset(750), 1000));
}

#[test]
fn space_that_retention_freed_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, keep(None, Some(2_000_000))).unwrap();
    let value = "x".repeat(500_000);
    for _ in 0..40 {
        append(&log, "t", &[&value, &value]);
        log.enforce_retention().unwrap();
    }
    drop(log);
    let bytes = std::fs::metadata(dir.path().join("log.db")).unwrap().len();
    assert!(bytes < 6_000_000, "40 MB passed through, {bytes} bytes are left");
}

#[test]
fn a_tombstone_is_kept_for_a_day_and_then_goes() {
    let dir = tempfile::tempdir().unwrap();
    let now_ms = Arc::new(AtomicI64::new(0));
    let log = open_at(dir.path(), &now_ms);
    log.create_topic("jobs", 1, TopicConfig { compacted: true, ..TopicConfig::default() }).unwrap();
    let put = |key: &str, value: Option<&str>| {
        let record = NewRecord { key: Some(key.as_bytes()), value: value.map(str::as_bytes) };
        log.append("jobs", &[record], None).unwrap();
    };
    let offsets = || read_all(&log, "jobs", P0).iter().map(|r| (r.offset.0, r.value.is_some())).collect::<Vec<_>>();
    put("a", Some("1"));
    put("b", Some("1"));
    put("a", None);
    assert_eq!(offsets(), [(1, true), (2, false)]);
    now_ms.store(24 * HOUR_MS, Ordering::Relaxed);
    assert_eq!(log.enforce_retention(), Ok(0));
    now_ms.store(24 * HOUR_MS + 1, Ordering::Relaxed);
    assert_eq!(log.enforce_retention(), Ok(1));
    assert_eq!(offsets(), [(1, true)]);
    assert_eq!(start_of(&log, "jobs"), (Offset(0), Offset(3), 2));
    put("a", Some("2"));
    assert_eq!(offsets(), [(1, true), (3, true)]);
}
