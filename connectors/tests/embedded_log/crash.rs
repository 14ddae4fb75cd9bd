//! Processes killed, disks full, syncs held up.

use super::*;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc;
use tallyflow_connectors::log::{Log as _, TopicConfig};
use tallyflow_dataflows::source::ProduceError;

#[test]
fn a_killed_process_leaves_all_that_was_acknowledged_and_nothing_torn() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for topic in ["a", "b", "c"] {
        log.create_topic(topic, 1, TopicConfig::default()).unwrap();
    }
    drop(log);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let mut acknowledged: HashMap<String, u64> = HashMap::new();
    for round in 0..20 {
        let mut child = child::command("append until killed", dir.path()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut note = |line: String| {
            // A line that the kill cut off says nothing.
            let parsed =
                line.split_once(' ').and_then(|(topic, end)| Some((topic.to_owned(), end.parse::<u64>().ok()?)));
            let Some((topic, end)) = parsed else { return };
            let known = acknowledged.entry(topic).or_insert(0);
            *known = end.max(*known);
        };
        note(lines.next().expect("it appends").unwrap());
        let reading = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(rng.random_range(0..120)));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut lines = reading.join().unwrap();
        lines.pop(); // It may have been cut off within the number.
        lines.into_iter().for_each(note);

        let log = open(dir.path());
        for (topic, end) in &acknowledged {
            let records = read_all(&log, topic, P0);
            assert!(records.len() as u64 >= *end, "round {round}: {topic} lost records");
            for (at, value) in values(&records).iter().enumerate() {
                let numbers: Vec<usize> = value.split(' ').take(3).map(|n| n.parse().unwrap()).collect();
                assert_eq!((numbers[0], records[at].offset), (at, Offset(at as u64)), "round {round}");
                let whole = numbers[1] + numbers[2] <= records.len();
                assert!(whole, "round {round}: the batch at {} of {topic} is torn", numbers[1]);
            }
        }
    }
    assert!(acknowledged.values().sum::<u64>() > 100, "{acknowledged:?}");
}

#[test]
fn another_process_sees_all_that_it_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    append(&log, "t", &["before"]);
    let mut child = child::command("follow", dir.path()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let told = Mutex::new(child.stdin.take().unwrap());
    log.subscribe(Arc::new(move |_, _, end| {
        let _ = writeln!(told.lock().unwrap(), "{end}");
    }));
    let wanted: Vec<String> =
        std::iter::once("before".to_owned()).chain((0..300).map(|n| format!("record {n}"))).collect();
    let appending = std::thread::spawn(move || {
        (0..300).for_each(|n| drop(append(&log, "t", &[&format!("record {n}")])));
        log
    });
    let seen: Vec<String> = lines.map_while(Result::ok).take(wanted.len()).collect();
    assert_eq!(seen, wanted);
    drop(appending.join().unwrap()); // With the log its subscriber goes, and so the child's stdin ends.
    assert!(child.wait().unwrap().success());
}

#[test]
#[cfg(target_os = "linux")]
fn an_append_is_answered_only_after_the_sync() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    drop(log);
    let shim = dir.path().join("hold_sync.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/embedded_log/hold_sync.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(source).arg("-ldl").status();
    assert!(built.expect("a C compiler").success());

    let hold = dir.path().join("hold");
    let held = dir.path().join("hold.held");
    let mut command = child::command("append one", dir.path());
    let mut child = command.env("LD_PRELOAD", &shim).env("HOLD_SYNC", &hold).spawn().unwrap();
    let (said, heard) = mpsc::channel();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(said.send(line))));
    assert_eq!(heard.recv_timeout(Duration::from_secs(20)).unwrap(), "ready");

    std::fs::write(&hold, "").unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "go").unwrap();
    wait_for("a sync", || held.exists());
    let early = heard.recv_timeout(Duration::from_millis(200));
    assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout), "answered while the sync was held");
    std::fs::remove_file(&hold).unwrap();
    assert_eq!(heard.recv_timeout(Duration::from_secs(20)).unwrap(), "acknowledged");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(values(&read_all(&open(dir.path()), "t", P0)), ["one"]);
}

/// A file system of a few megabytes, as root can make one.
struct TinyDisk(tempfile::TempDir);

impl TinyDisk {
    fn mount(mib: usize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).status();
        mounted.is_ok_and(|status| status.success()).then_some(TinyDisk(dir))
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_refuses_appends_loses_nothing_and_recovers() {
    let Some(disk) = TinyDisk::mount(12) else {
        eprintln!("skipped: a tmpfs can't be mounted here (it takes root)");
        return;
    };
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1u8; 4 << 20]).unwrap();
    let log = open(disk.0.path());
    log.create_topic("t", 1, TopicConfig::default()).unwrap();
    let value = |n: usize| format!("{n} {}", "x".repeat(50_000));
    let append = |n: usize| {
        let value = value(n);
        log.append("t", &[NewRecord { key: None, value: Some(value.as_bytes()) }], Some(&n.to_string()))
    };
    let mut acknowledged = 0;
    let refused = loop {
        match append(acknowledged) {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 1000, "the disk never got full");
    };
    assert_eq!(refused, ProduceError::Full);
    assert!(acknowledged > 10);
    assert_eq!(append(acknowledged), Err(ProduceError::Full), "it goes on refusing");
    let check = |log: &EmbeddedLog, count: usize| {
        let wanted: Vec<String> = (0..count).map(value).collect();
        assert!(values(&read_all(log, "t", P0)) == wanted, "not the {count} records that were acknowledged");
    };
    check(&log, acknowledged);

    std::fs::remove_file(&ballast).unwrap();
    for _ in 0..10 {
        append(acknowledged).expect("there is space again");
        acknowledged += 1;
    }
    check(&log, acknowledged);
    drop(log);
    check(&open(disk.0.path()), acknowledged);
}
