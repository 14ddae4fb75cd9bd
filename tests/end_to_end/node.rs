//! The node itself is killed in the middle of appends. What was acknowledged is there and counted once;
//! what was not is asked for again with the same idempotency key, and then counted once too.

use crate::support::{Http, Server, eventually};
use reqwest::Method;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tallyflow_dataflows::number::Decimal;

const JOB: &str = r#"
name = "each"
dataflow = "tally"
[[input]]
topic = "events"
format = "json"
[tally]
group = ["/id"]
"#;
const WRITERS: u64 = 3;
const BATCHES: u64 = 120;
const BATCH: u64 = 10;

/// Writes its batches one after the other. One that was not acknowledged is sent again, wherever the
/// server is by then.
fn write(writer: u64, url: &Mutex<String>, acknowledged: &AtomicU64) {
    let mut http = Http::new(&url.lock().unwrap());
    for batch in 0..BATCHES {
        let lines: String = (0..BATCH).map(|n| format!("{{\"id\":\"{writer}-{batch}-{n}\"}}\n")).collect();
        let key = format!("{writer}-{batch}");
        eventually("a batch is acknowledged", || {
            let headers = [("idempotency-key", &*key)];
            match http.send(Method::POST, "/api/topics/events/records", &headers, lines.clone()) {
                Ok(answer) => Some(answer.ok()),
                Err(_) => {
                    let now = url.lock().unwrap().clone();
                    if now != http.url {
                        http = Http::new(&now);
                    }
                    None
                }
            }
        });
        acknowledged.fetch_add(BATCH, Ordering::AcqRel);
    }
}

#[test]
fn a_node_killed_while_it_appends_counts_everything_acknowledged_exactly_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), 2);
    server.http.create_topic("events", 4);
    server.http.submit(JOB);
    let url = Arc::new(Mutex::new(server.http.url.clone()));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (url, acknowledged) = (url.clone(), acknowledged.clone());
            std::thread::spawn(move || write(writer, &url, &acknowledged))
        })
        .collect();
    let all = WRITERS * BATCHES * BATCH;
    for quarter in 1..=3 {
        eventually("records flow", || (acknowledged.load(Ordering::Acquire) >= all * quarter / 4).then_some(()));
        let shown = server.http.tallies("each");
        // Read before the kill: all of these must be there afterwards.
        let before = acknowledged.load(Ordering::Acquire);
        server.kill();
        server = Server::start(dir.path(), 2);
        *url.lock().unwrap() = server.http.url.clone();
        server.http.wait_for_state("each", "running");
        let tallies = server.http.tallies("each");
        assert!(tallies.epoch > shown.epoch, "the epoch fell from {} to {}", shown.epoch, tallies.epoch);
        let read = tallies.accounting.read;
        assert!(read >= before.max(shown.accounting.read), "{read} of {before} acknowledged records are counted");
        assert!(tallies.subjects[0].tallies.iter().all(|line| line.value == Decimal::ONE), "counted twice");
    }
    for writer in writers {
        writer.join().unwrap();
    }
    let tallies = server.http.tallies_of("each", all);
    let lines = &tallies.subjects[0].tallies;
    assert_eq!(lines.len() as u64, all);
    assert!(lines.iter().all(|line| line.value == Decimal::ONE));
    server.http.recount("each");
    server.kill();
    let server = Server::start(dir.path(), 2);
    let again = server.http.tallies_of("each", all);
    assert_eq!(again.digest, tallies.digest);
    assert!(again.epoch > tallies.epoch);
}
