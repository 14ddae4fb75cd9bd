//! Jobs go on from checkpoints: after a killed engine and a killed server, with another number of workers,
//! and where checkpoints are damaged or not understood. What is shown is held against a plain count.

use crate::support::{Board, Server, eventually, signal};
use crate::votes::{self, Flow};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A checkpoint of every job each second.
const OFTEN: [(&str, &str); 1] = [("TALLYFLOW_CHECKPOINT_EVERY", "1s")];
/// None but those that are asked for and that of a clean stop.
const NEVER: [(&str, &str); 1] = [("TALLYFLOW_CHECKPOINT_EVERY", "off")];

fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("checkpoints/job-1")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_str().unwrap().ends_with(ending));
    files.sort();
    files
}

/// A server with votes in it and two checkpoints; how many votes.
fn with_two_checkpoints(dir: &Path) -> u64 {
    let server = Server::start_with(dir, 2, &NEVER);
    server.http.create_topic("votes", 2);
    server.http.submit(votes::JOB);
    for (from, to) in [(0, 300), (300, 500)] {
        server.http.append("votes", votes::lines(from, to));
        server.http.tallies_of("votes", to);
        server.cli_ok(&["checkpoint", "votes"]);
    }
    server.http.append("votes", votes::lines(500, 600));
    server.http.tallies_of("votes", 600);
    server.kill();
    600
}

#[test]
fn an_engine_goes_on_from_a_checkpoint_again_and_again_while_readers_stay() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), 2, &OFTEN);
    let http = &server.http;
    http.create_topic("votes", 3);
    http.submit(votes::JOB);
    let flow = Flow::start(&http.url);
    let mut board = Board::default();
    let events = server.events("/api/jobs/votes/events?every=0");
    for _ in 0..3 {
        let before = http.job("votes")["checkpoint"]["epoch"].as_u64();
        eventually("another checkpoint is there", || {
            (http.job("votes")["checkpoint"]["epoch"].as_u64() > before).then_some(())
        });
        let pid = http.engine_pid(None);
        signal(pid, "KILL");
        http.engine_pid(Some(pid));
        http.wait_for_state("votes", "running");
    }
    let written = flow.stop();
    let tallies = http.tallies_of("votes", written);
    votes::assert_counts(&tallies, written);
    while board.accounting.read < written {
        board.follow(&events.next().unwrap());
    }
    board.assert_shows(&tallies);
    assert_eq!(board.snapshots, 1, "the reader was never set back to a snapshot");
    assert_eq!(server.stderr().matches("goes on from a checkpoint").count(), 3, "{}", server.stderr());
    http.recount("votes");
}

#[test]
fn a_server_that_ended_cleanly_reads_nothing_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), 2, &NEVER);
    server.http.create_topic("votes", 2);
    server.http.submit(votes::JOB);
    server.http.append("votes", votes::lines(0, 500));
    let shown = server.http.tallies_of("votes", 500);
    server.terminate();
    for workers in [1, 3] {
        let server = Server::start_with(dir.path(), workers, &NEVER);
        let tallies = server.http.tallies_of("votes", 500);
        assert_eq!((&tallies.digest, &tallies.accounting), (&shown.digest, &shown.accounting));
        assert!(server.stderr().contains("goes on from a checkpoint"), "{}", server.stderr());
        server.kill();
    }
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before_it_and_then_to_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let written = with_two_checkpoints(dir.path());
    let newest = files(dir.path(), ".frames").pop().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    // Within the last frame: of one that is damaged where its length stands, the file seems to end too soon.
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let server = Server::start_with(dir.path(), 2, &NEVER);
    votes::assert_counts(&server.http.tallies_of("votes", written), written);
    let log = server.stderr();
    assert!(log.contains("is of no use") && log.contains("is damaged"), "{log}");
    assert!(log.contains("goes on from a checkpoint"), "{log}");
    server.kill();

    files(dir.path(), ".frames").iter().for_each(|file| std::fs::write(file, "").unwrap());
    let server = Server::start_with(dir.path(), 2, &NEVER);
    votes::assert_counts(&server.http.tallies_of("votes", written), written);
    assert!(server.stderr().contains("the job reads its inputs from where it began"), "{}", server.stderr());
}

#[test]
fn a_checkpoint_of_another_version_is_refused_by_name_until_it_is_to_be_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let written = with_two_checkpoints(dir.path());
    for file in files(dir.path(), ".frames") {
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[16] = 99;
        std::fs::write(&file, bytes).unwrap();
    }
    let server = Server::start_with(dir.path(), 2, &NEVER);
    server.http.wait_for_state("votes", "failed");
    let error = server.http.job("votes")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("version 99") && error.contains("restart --ignore-state"), "{error}");
    server.cli_ok(&["restart", "votes", "--ignore-state"]);
    votes::assert_counts(&server.http.tallies_of("votes", written), written);
    server.cli_ok(&["restart", "votes"]);
    votes::assert_counts(&server.http.tallies_of("votes", written), written);
}

#[test]
fn workers_come_and_go_while_votes_are_written_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), 1, &NEVER);
    let http = &server.http;
    http.create_topic("votes", 4);
    http.submit(votes::JOB);
    let flow = Flow::start(&http.url);
    let events = server.events("/api/jobs/votes/events?every=0");
    let mut board = Board::default();
    for workers in [4, 2, 2, 1] {
        let more = flow.written() + 100;
        eventually("more is shown", || (http.tallies("votes").accounting.read > more).then_some(()));
        let receipt: Value =
            serde_json::from_str(&server.cli_ok(&["scale", &workers.to_string(), "--format", "json"])).unwrap();
        assert_eq!((&receipt["state"], &receipt["to"]), (&json!("done"), &json!(workers)), "{receipt}");
        let job = &receipt["jobs"]["votes"];
        assert_eq!(job["digest_before"], job["digest_after"]);
        assert_eq!(job["accounting_before"], job["accounting_after"]);
        assert!(receipt["pause_ms"].is_u64() && job["digest_after"].is_string(), "{receipt}");
        assert_eq!(http.get("/api/cluster").json()["workers"], workers);
        http.wait_for_state("votes", "running");
        assert_eq!(http.job("votes")["workers"], workers);
    }
    let written = flow.stop();
    let tallies = http.tallies_of("votes", written);
    votes::assert_counts(&tallies, written);
    while board.accounting.read < written {
        board.follow(&events.next().unwrap());
    }
    board.assert_shows(&tallies);
    assert_eq!(board.snapshots, 1, "the reader was never set back to a snapshot");
    assert!(board.states.iter().any(|state| state == "rescaling"), "{:?}", board.states);
    assert_eq!(http.get("/api/cluster").json()["engine_restarts"], 0);
    http.recount("votes");
}

#[test]
fn one_change_of_workers_at_a_time_and_none_out_of_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 1);
    let http = &server.http;
    for workers in [json!(0), json!(65), json!(-1), json!("two"), json!(null)] {
        let answer = http.patch_json("/api/cluster", &json!({"workers": workers}));
        assert_eq!(answer.status, 422, "{workers}: {}", answer.text);
    }
    assert_eq!(http.get("/api/cluster/receipts/1").status, 404);
    assert_eq!(http.get("/api/cluster/receipts/x").status, 404);
    // A job that has not settled holds the first one up.
    http.create_topic("votes", 1);
    http.submit(votes::JOB);
    let first = http.patch_json("/api/cluster", &json!({"workers": 2})).ok();
    let second = http.patch_json("/api/cluster", &json!({"workers": 3}));
    if second.status == 409 {
        assert!(second.text.contains("just now"), "{}", second.text);
    }
    let id = first.json()["id"].as_u64().unwrap();
    let receipt = eventually("the first change has ended", || {
        let receipt = http.get(&format!("/api/cluster/receipts/{id}")).ok().json();
        (receipt["state"] != "running").then_some(receipt)
    });
    assert_eq!(receipt["state"], "done", "{receipt}");
}

#[test]
fn what_has_no_state_has_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 1);
    assert_eq!(server.http.post("/api/jobs/none/checkpoint", "").status, 404);
    assert_eq!(server.http.post("/api/jobs/none/restart", "").status, 404);
    server.http.create_topic("votes", 1);
    server.http.submit(votes::JOB);
    server.http.wait_for_state("votes", "running");
    assert_eq!(server.http.post("/api/jobs/votes/restart?ignore_state=maybe", "").status, 400);
    server.cli_ok(&["checkpoint", "votes"]);
    server.cli_ok(&["cancel", "votes", "--mode", "now"]);
    for action in ["checkpoint", "restart"] {
        let answer = server.http.post(&format!("/api/jobs/votes/{action}"), "");
        assert_eq!(answer.status, 409, "{}", answer.text);
    }
}
