//! A replacement in whose midst something else happens: it is asked for twice, cancelled, its engine or
//! its node is killed.
//!
//! The engine's process is stopped where a test must come in between: what is asked then waits for it.

use crate::replace::{BY_POLL, replace};
use crate::support::{Board, Http, Server, eventually, signal};
use crate::votes::{self, Flow};
use std::collections::BTreeMap;
use tallyflow_dataflows::number::Decimal;

const N: u64 = 30_000;
/// Longer than any of the tests lets an engine stand still.
const PATIENT: [(&str, &str); 1] = [("TALLYFLOW_ENGINE_HANG_S", "600")];

fn start(dir: &std::path::Path) -> Server {
    let server = Server::start_with(dir, 2, &PATIENT);
    server.http.create_topic("votes", 4);
    server.http.append("votes", votes::lines(0, N));
    server.http.submit(votes::JOB);
    votes::assert_counts(&server.http.tallies_of("votes", N), N);
    server
}

fn by_poll(n: u64) -> BTreeMap<(String, String), Decimal> {
    votes::count_by_poll(n).into_iter().map(|(poll, value)| (("votes".to_owned(), poll), value)).collect()
}

fn wait_for_new(http: &Http, n: u64) {
    eventually("the new form is there", || (http.tallies("votes").subjects.len() == 1).then_some(()));
    let tallies = http.tallies_of("votes", n);
    assert_eq!(Board::of(&tallies).lines, by_poll(n));
    assert!(tallies.accounting.is_even());
    http.wait_for_state("votes", "running");
    assert!(http.job("votes")["replacing"].is_null());
    http.recount("votes");
}

#[test]
fn a_replacement_goes_on_and_ends_where_the_engine_is_killed_in_its_midst() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let http = &server.http;
    let flow = Flow::start_after(&http.url, N);
    let shown = http.tallies("votes");
    let pid = http.engine_pid(None);
    signal(pid, "STOP");
    let (status, job) = replace(http, BY_POLL);
    assert_eq!((status, job["replacing"]["of"].as_u64() >= Some(N)), (200, true), "{job}");
    signal(pid, "KILL");
    let second = http.engine_pid(Some(pid));
    // And once more while it reads, or soon after.
    eventually("it reads or has read", || {
        let job = http.job("votes");
        (job["replacing"].is_null() || job["replacing"]["records"].as_u64() > Some(0)).then_some(())
    });
    signal(second, "KILL");
    eventually("the new form is there", || {
        let tallies = http.tallies("votes");
        assert!(tallies.epoch >= shown.epoch && tallies.accounting.read >= shown.accounting.read);
        (tallies.subjects.len() == 1).then_some(())
    });
    http.engine_pid(Some(second));
    let written = flow.stop();
    wait_for_new(http, written);
}

#[test]
fn a_replacement_goes_on_and_ends_where_the_node_is_killed_in_its_midst() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let pid = server.http.engine_pid(None);
    signal(pid, "STOP");
    assert_eq!(replace(&server.http, BY_POLL).0, 200);
    server.http.append("votes", votes::lines(N, N + 100));
    // Standing still it would not notice that its node is gone.
    signal(pid, "KILL");
    server.kill();
    let server = Server::start_with(dir.path(), 2, &PATIENT);
    wait_for_new(&server.http, N + 100);
    let (status, _) = server.terminate();
    assert!(status.success());
    // What it was is gone for good.
    let server = Server::start(dir.path(), 1);
    wait_for_new(&server.http, N + 100);
}

#[test]
fn what_would_come_in_between_is_refused_and_cancelling_ends_both() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let http = &server.http;
    let pid = http.engine_pid(None);
    signal(pid, "STOP");
    assert_eq!(replace(http, BY_POLL).0, 200);
    for (path, body) in [
        ("/api/jobs?replace=true", votes::JOB),
        ("/api/jobs/votes/pause", ""),
        ("/api/jobs/votes/dead-letters/redrive", ""),
    ] {
        let answer = http.post(path, body);
        assert_eq!(answer.status, 409, "{path}: {}", answer.text);
        assert!(answer.json()["detail"].as_str().unwrap().contains("being replaced"), "{}", answer.text);
    }
    http.delete("/api/jobs/votes?mode=now").ok();
    let job = http.job("votes");
    assert_eq!((&job["state"], &job["replacing"]), (&"cancelled".into(), &serde_json::Value::Null));
    signal(pid, "CONT");
    // Whatever the engine had still to say of either, and after a restart.
    http.submit(&votes::JOB.replace("name = \"votes\"", "name = \"other\""));
    votes::assert_counts(&http.tallies_of("other", N), N);
    votes::assert_counts(&http.tallies("votes"), N);
    server.terminate();
    let server = Server::start(dir.path(), 2);
    assert_eq!(server.http.state("votes"), "cancelled");
    votes::assert_counts(&server.http.tallies("votes"), N);
}

#[test]
fn a_job_that_drains_drains_as_it_was_and_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let http = &server.http;
    let pid = http.engine_pid(None);
    signal(pid, "STOP");
    http.append("votes", votes::lines(N, N + 500));
    assert_eq!(replace(http, BY_POLL).0, 200);
    let url = http.url.clone();
    let draining = std::thread::spawn(move || Http::new(&url).delete("/api/jobs/votes?mode=drain").ok());
    eventually("the replacement is given up", || http.job("votes")["replacing"].is_null().then_some(()));
    eventually("it drains", || {
        let (status, problem) = replace(http, BY_POLL);
        (status == 409 && problem["detail"].as_str()?.contains("being cancelled")).then_some(())
    });
    signal(pid, "CONT");
    assert_eq!(draining.join().unwrap().json()["state"], "cancelled");
    votes::assert_counts(&http.tallies("votes"), N + 500);
}

#[test]
fn a_server_ends_in_time_in_the_midst_of_a_replacement_and_goes_on_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    assert_eq!(replace(&server.http, BY_POLL).0, 200);
    let (status, time) = server.terminate();
    assert!(status.success() && time < std::time::Duration::from_secs(10), "{status} after {time:?}");
    let server = Server::start(dir.path(), 2);
    wait_for_new(&server.http, N);
    assert!(!server.stderr().contains("panicked"), "{}", server.stderr());
}
