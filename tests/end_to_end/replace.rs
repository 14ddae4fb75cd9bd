//! A running job gives way to another form of itself, while records flow and a reader watches.
//!
//! The topic has one partition, so that what a reader holds is known from how many records it stands for:
//! it must be what the old form counts of them, or the new one, and never again the old once the new was
//! seen.

use crate::support::{Board, Http, Server, eventually};
use crate::votes::{self, Flow};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tallyflow_dataflows::number::Decimal;

/// By poll alone, without one of the voters; each vote counts.
pub const BY_POLL: &str = r#"
name = "votes"
dataflow = "tally"
[[input]]
topic = "votes"
format = "json"
[tally]
group = ["/poll"]
where = "event.voter != 'v7'"
"#;

const SINK: &str = "[[sink]]\nkind = \"sqlite\"\npath = \"votes.db\"\nevery = \"100ms\"\n";

/// The first has no option, which only the old form needs; the second no poll, which both do.
const ODD: &str = "{\"poll\":\"p0\",\"voter\":\"x\",\"at\":1}\n{\"voter\":\"q\",\"option\":\"o1\",\"at\":2}\n";

pub fn write_job(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("job.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Submits in the place of what runs: the status and the answer.
pub fn replace(http: &Http, job: &str) -> (u16, Value) {
    let answer = http.post("/api/jobs?replace=true", job.to_owned());
    (answer.status, answer.json())
}

/// What the new form counts of the first `n` votes and the two odd records.
fn new_lines(n: u64) -> BTreeMap<(String, String), Decimal> {
    let mut tallies = votes::count_by_poll(n);
    let of_odd = tallies.entry("p0".to_owned()).or_insert(Decimal::from_units(0));
    *of_odd = Decimal::from_units(of_odd.units() + Decimal::ONE.units());
    tallies.into_iter().map(|(poll, value)| (("votes".to_owned(), poll), value)).collect()
}

fn letters(http: &Http, job: &str) -> Vec<u64> {
    let answer = http.get(&format!("/api/jobs/{job}/dead-letters")).ok().json();
    answer["items"].as_array().unwrap().iter().map(|letter| letter["offset"].as_u64().unwrap()).collect()
}

/// What the sink's file holds, with its epoch.
fn sunk(path: &Path) -> (u64, BTreeMap<(String, String), String>) {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut statement =
        conn.prepare("SELECT subject, \"group\", CAST(value AS TEXT), epoch FROM tallies WHERE job = 'votes'").unwrap();
    let rows = statement.query_map([], |row| {
        Ok(((row.get::<_, String>(0)?, row.get::<_, String>(1)?), row.get::<_, String>(2)?, row.get::<_, i64>(3)?))
    });
    let (mut epoch, mut lines) = (0, BTreeMap::new());
    for row in rows.unwrap() {
        let (line, value, at) = row.unwrap();
        lines.insert(line, value);
        epoch = at as u64;
    }
    (epoch, lines)
}

#[test]
fn a_job_is_replaced_while_records_flow_and_no_reader_sees_anything_in_between() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    http.create_topic("votes", 1);
    http.append("votes", ODD);
    let before = 20_000;
    http.append("votes", votes::lines(0, before));
    http.submit(&format!("{}{SINK}", votes::JOB));
    http.tallies_of("votes", before + 2);
    assert_eq!(letters(http, "votes"), [0, 1]);
    let flow = Flow::start_after(&http.url, before);
    let events = server.events("/api/jobs/votes/events?every=0");
    let target = Arc::new(AtomicU64::new(u64::MAX));
    let following = {
        let target = target.clone();
        std::thread::spawn(move || {
            let (mut board, mut is_new, mut seen) = (Board::default(), false, [0u64; 2]);
            while board.accounting.read != target.load(Ordering::Acquire) || !is_new {
                let event = match events.next_within(Duration::from_millis(20)) {
                    Ok(event) => event,
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => continue,
                    Err(error) => panic!("the reader lost its connection: {error}"),
                };
                if !board.follow(&event) {
                    continue;
                }
                let n = board.accounting.read - 2;
                is_new |= board.lines == new_lines(n);
                let lines = if is_new { new_lines(n) } else { votes::count(n) };
                assert_eq!(board.lines, lines, "after {n} votes, new: {is_new}");
                assert_eq!(board.accounting.rejected, if is_new { 1 } else { 2 });
                seen[usize::from(is_new)] += 1;
            }
            (board, seen)
        })
    };
    let more = flow.written() + 500;
    eventually("records flow", || (flow.written() > more).then_some(()));
    let old = http.tallies("votes");
    let file = write_job(dir.path(), &format!("{BY_POLL}{SINK}"));
    let said = server.cli_ok(&["submit", "--replace", file.to_str().unwrap()]);
    assert!(said.starts_with("replaced votes, from epoch "), "{said}");
    let new = http.tallies("votes");
    assert!(new.epoch > old.epoch && new.accounting.read >= old.accounting.read, "{old:?} {new:?}");
    assert_eq!(new.subjects.len(), 1);
    let more = flow.written() + 500;
    eventually("records flow on", || (http.tallies("votes").accounting.read > more).then_some(()));
    let written = flow.stop();
    let tallies = http.tallies_of("votes", written + 2);
    target.store(written + 2, Ordering::Release);
    let (board, seen) = following.join().unwrap();
    board.assert_shows(&tallies);
    assert_eq!(board.lines, new_lines(written));
    assert!(tallies.accounting.is_even());
    assert_eq!(board.snapshots, 1, "the reader was never set back to a snapshot: {:?}", board.states);
    assert!(seen.iter().all(|events| *events > 5), "both forms were seen going on: {seen:?}");
    assert!(board.states.is_empty(), "{:?}", board.states);
    http.recount("votes");
    assert_eq!(letters(http, "votes"), [1]);
    let as_text = |lines: &BTreeMap<(String, String), Decimal>| {
        lines.iter().map(|(line, value)| (line.clone(), value.to_string())).collect::<BTreeMap<_, _>>()
    };
    let sunk = eventually("the sink holds the last epoch", || {
        let (epoch, lines) = sunk(&dir.path().join("votes.db"));
        (epoch == tallies.epoch.0).then_some(lines)
    });
    assert_eq!(sunk, as_text(&board.lines));
    // It is the new form that a restart runs.
    server.terminate();
    let server = Server::start(dir.path(), 2);
    let again = server.http.tallies_of("votes", written + 2);
    assert_eq!(again.digest, tallies.digest);
    assert!(again.epoch > tallies.epoch);
    assert_eq!(letters(&server.http, "votes"), [1]);
}

#[test]
fn another_top_and_other_sinks_are_taken_over_at_once_and_nothing_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    http.create_topic("votes", 1);
    http.append("votes", votes::lines(0, 3_000));
    http.submit(votes::JOB);
    let before = http.tallies_of("votes", 3_000);
    let tag = format!("\"{}\"", before.epoch);
    let known = |tag: &str| {
        let headers = [("if-none-match", tag)];
        http.send(reqwest::Method::GET, "/api/jobs/votes/tallies", &headers, "").unwrap()
    };
    assert_eq!(known(&tag).status, 304);
    let topped = format!("{}top = 2\n{SINK}", votes::JOB);
    let (status, job) = replace(http, &topped);
    assert_eq!((status, &job["state"], &job["replacing"]), (200, &"running".into(), &Value::Null), "{job}");
    assert_eq!((job["epoch"].as_u64(), job["accounting"]["read"].as_u64()), (Some(before.epoch.0), Some(3_000)));
    let after = http.tallies("votes");
    assert!(after.subjects.iter().all(|subject| subject.tallies.len() == 2), "{after:?}");
    assert_eq!((&after.digest, after.accounting), (&before.digest, before.accounting));
    let fresh = known(&tag);
    assert_eq!(fresh.status, 200, "what is shown has changed, whatever the epoch");
    assert_eq!(known(fresh.headers["etag"].to_str().unwrap()).status, 304);
    eventually("the sink is written", || {
        let path = dir.path().join("votes.db");
        (path.exists() && http.job("votes")["sinks"][0]["epoch"] == after.epoch.0).then(|| sunk(&path)).filter(|sunk| {
            // All lines, not only the first.
            sunk.1.len() == votes::count(3_000).len()
        })
    });
    // Only what is new is read, and the epochs go on as they were: a form that is computed begins far above.
    http.append("votes", votes::lines(3_000, 3_100));
    let last = http.tallies_of("votes", 3_100);
    assert!(last.epoch.0 - before.epoch.0 < 1 << 16, "{} {}", before.epoch, last.epoch);
    let (status, job) = replace(http, votes::JOB);
    assert_eq!((status, &job["sinks"]), (200, &Value::Array(vec![])));
    votes::assert_counts(&http.tallies("votes"), 3_100);
    http.recount("votes");
}

#[test]
fn a_replacement_that_fails_leaves_the_job_as_it_was_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    http.create_topic("orders", 2);
    http.append("orders", "{\"amount\":100000000000000000000}\n".repeat(2));
    let job = "name = \"orders\"\ndataflow = \"tally\"\n[[input]]\ntopic = \"orders\"\nformat = \"json\"\n[tally]\n";
    http.submit(job);
    let before = http.tallies_of("orders", 2);
    let file = write_job(dir.path(), &format!("{job}value = \"/amount\"\n"));
    let refused = server.cli(&["submit", "--replace", file.to_str().unwrap()]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.contains("was given up, and what ran before goes on: ") && said.contains("beyond the fixed point"),
        "{said}"
    );
    let job = http.job("orders");
    assert_eq!((&job["state"], &job["error"]), (&"running".into(), &Value::Null));
    assert!(job["replacing"]["error"].as_str().unwrap().contains("beyond the fixed point"), "{job}");
    http.append("orders", "{\"amount\":1}\n");
    let after = http.tallies_of("orders", 3);
    assert!(after.epoch > before.epoch);
    // It is not tried again by itself.
    server.terminate();
    let server = Server::start(dir.path(), 2);
    server.http.tallies_of("orders", 3);
    eventually("what failed is forgotten or was noted", || {
        let job = server.http.job("orders");
        (job["state"] == "running" && job["replacing"].is_null()).then_some(())
    });
}

#[test]
fn a_job_that_is_not_there_is_submitted_and_one_that_has_failed_is_computed_anew() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 1);
    let http = &server.http;
    http.create_topic("orders", 1);
    let job = "name = \"orders\"\ndataflow = \"tally\"\n[[input]]\ntopic = \"orders\"\nformat = \"json\"\n[tally]\n";
    let sum = format!("{job}value = \"/amount\"\n");
    assert_eq!(replace(http, &sum).0, 201);
    http.append("orders", "{\"amount\":100000000000000000000}\n");
    http.tallies_of("orders", 1);
    http.append("orders", "{\"amount\":100000000000000000000}\n");
    http.wait_for_state("orders", "failed");
    let (status, _) = replace(http, job);
    assert_eq!(status, 200);
    http.wait_for_state("orders", "running");
    http.tallies_of("orders", 2);
    http.recount("orders");
}

#[test]
fn defaults_of_polls_are_taken_over_at_once_and_what_a_polls_job_reads_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    ["votes", "more"].into_iter().for_each(|topic| http.create_topic(topic, 1));
    let job = |topic: &str, defaults: &str| {
        format!(
            "name = \"polls\"\ndataflow = \"polls\"\n[[input]]\ntopic = \"{topic}\"\nformat = \"vote\"\n[polls]\n{defaults}"
        )
    };
    http.submit(&job("votes", "grace = \"5m\"\n"));
    http.wait_for_state("polls", "running");
    let poll = |id: &str| {
        let made = http.post("/api/polls", format!(r#"{{"id":"{id}","options":["yes","no"]}}"#)).ok().json();
        made["entity"].clone()
    };
    assert_eq!(poll("a"), Value::Null);
    http.post("/api/polls/a/votes", r#"{"voter":"ada","option":"yes"}"#).ok();
    http.tallies_of("polls", 1);
    let (status, _) = replace(http, &job("votes", "entity = \"voter\"\nkeep = \"last\"\n"));
    assert_eq!(status, 200);
    assert_eq!(poll("b"), "voter");
    assert_eq!(http.tallies("polls").accounting.read, 1);
    let tally = "name = \"polls\"\ndataflow = \"tally\"\n[[input]]\ntopic = \"votes\"\nformat = \"vote\"\n[tally]\n";
    for refused in [&*job("more", ""), tally] {
        let (status, problem) = replace(http, refused);
        assert_eq!(status, 409, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("cancel it, submit it again"), "{problem}");
    }
    http.post("/api/polls/b/votes", r#"{"voter":"ada","option":"no"}"#).ok();
    http.tallies_of("polls", 2);
}
