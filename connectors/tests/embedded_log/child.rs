//! The parts that other processes play: this test binary, started again with a part to play.

use super::*;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use tallyflow_connectors::log::embedded::EmbeddedReader;

const PART: &str = "TALLYFLOW_TEST_PART";
const DIR: &str = "TALLYFLOW_TEST_DIR";

/// This binary, to be started as a process that plays `part` on the log in `dir`. It speaks on
/// stderr: stdout belongs to the test harness.
pub fn command(part: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child::another_process_plays_its_part", "--nocapture"]);
    command.env(PART, part).env(DIR, dir);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
fn another_process_plays_its_part() {
    let Ok(part) = std::env::var(PART) else { return };
    let dir = PathBuf::from(std::env::var(DIR).unwrap());
    match part.as_str() {
        "append until killed" => append_until_killed(&dir),
        "append one" => append_one(&dir),
        "follow" => follow(&dir),
        _ => panic!("there is no part {part:?}"),
    }
}

/// Three threads append numbered batches to a topic each; every one that is acknowledged is reported
/// as "topic end".
fn append_until_killed(dir: &Path) {
    let log = open(dir);
    std::thread::scope(|scope| {
        for topic in ["a", "b", "c"] {
            let log = &log;
            scope.spawn(move || {
                let mut first = log.topic(topic).unwrap().unwrap().partitions[0].end.0;
                loop {
                    let length = 1 + first * 7 % 5;
                    let batch: Vec<String> = (first..first + length)
                        .map(|n| format!("{n} {first} {length} {}", "x".repeat((n * 37 % 900) as usize)))
                        .collect();
                    append(log, topic, &batch.iter().map(String::as_str).collect::<Vec<_>>());
                    first += length;
                    eprintln!("{topic} {first}");
                }
            });
        }
    });
}

fn append_one(dir: &Path) {
    let log = open(dir);
    eprintln!("ready");
    let mut go = String::new();
    std::io::stdin().read_line(&mut go).unwrap();
    append(&log, "t", &["one"]);
    eprintln!("acknowledged");
    // The rest of the test's life is spent here, so that closing the log does not sync anything.
    std::io::stdin().read_line(&mut go).unwrap();
}

/// Follows topic `t`, told of new ends on stdin, and reports each record's value.
fn follow(dir: &Path) {
    let log = EmbeddedReader::open(dir).unwrap();
    let mut reader = log.open("t", P0, Offset(0), no_waker()).unwrap();
    loop {
        for value in values(&drain(&mut *reader, ALL)) {
            eprintln!("{value}");
        }
        let mut end = String::new();
        if std::io::stdin().read_line(&mut end).unwrap() == 0 {
            return;
        }
        log.appended("t", P0, Offset(end.trim().parse().unwrap()));
    }
}
