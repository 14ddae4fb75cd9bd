//! Jobs are paused, resumed and cancelled, and servers restarted, with one and the same answer.

use crate::support::{Server, eventually, refused, tallyflow};
use crate::votes;
use std::path::Path;
use std::time::Duration;
use tallyflow_dataflows::results::Tallies;

/// A server with the first `n` votes written and counted.
fn with_votes(dir: &Path, n: u64) -> Server {
    let server = Server::start(dir, 2);
    server.http.create_topic("votes", 3);
    server.http.submit(votes::JOB);
    server.http.append("votes", votes::lines(0, n));
    votes::assert_counts(&server.http.tallies_of("votes", n), n);
    server
}

fn restart(server: Server, dir: &Path) -> Server {
    let (status, _) = server.terminate();
    assert!(status.success(), "{status}");
    Server::start(dir, 2)
}

/// The same numbers at a later epoch, or at the same one where nothing runs.
#[track_caller]
fn assert_same(before: &Tallies, after: &Tallies) {
    assert_eq!(before.digest, after.digest);
    assert_eq!(before.offsets, after.offsets);
    assert_eq!(before.accounting.read, after.accounting.read);
    assert!(after.epoch >= before.epoch, "the epoch fell from {} to {}", before.epoch, after.epoch);
}

#[test]
fn a_paused_job_stays_where_it_is_across_a_restart_until_it_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let server = with_votes(dir.path(), 500);
    server.cli_ok(&["pause", "votes"]);
    assert_eq!(server.http.state("votes"), "paused");
    let paused = server.http.tallies("votes");
    server.http.append("votes", votes::lines(500, 900));
    assert_same(&paused, &server.http.tallies("votes"));

    let server = restart(server, dir.path());
    server.http.wait_for_state("votes", "paused");
    let after = server.http.tallies("votes");
    assert_same(&paused, &after);
    assert!(after.epoch > paused.epoch);
    votes::assert_counts(&after, 500);

    server.cli_ok(&["resume", "votes"]);
    assert_eq!(server.http.state("votes"), "running");
    votes::assert_counts(&server.http.tallies_of("votes", 900), 900);
    server.http.recount("votes");

    let server = restart(server, dir.path());
    server.http.wait_for_state("votes", "running");
    votes::assert_counts(&server.http.tallies_of("votes", 900), 900);
}

#[test]
fn a_drained_job_has_read_all_that_was_there_and_stays_readable_until_its_name_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = with_votes(dir.path(), 200);
    server.http.append("votes", votes::lines(200, 3_000));
    server.cli_ok(&["cancel", "votes", "--mode", "drain"]);
    let last = server.http.tallies("votes");
    votes::assert_counts(&last, 3_000);
    assert_eq!(server.http.state("votes"), "cancelled");
    server.http.append("votes", votes::lines(3_000, 3_100));

    let server = restart(server, dir.path());
    assert_eq!(server.http.state("votes"), "cancelled");
    let after = server.http.tallies("votes");
    assert_same(&last, &after);
    votes::assert_counts(&after, 3_000);

    server.http.submit(votes::JOB);
    let anew = server.http.tallies_of("votes", 3_100);
    votes::assert_counts(&anew, 3_100);
    assert!(anew.epoch > last.epoch);
    server.http.recount("votes");
}

#[test]
fn a_job_cancelled_at_once_keeps_its_last_results_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = with_votes(dir.path(), 700);
    server.http.delete("/api/jobs/votes?mode=now").ok();
    let last = server.http.tallies("votes");
    let server = restart(server, dir.path());
    assert_eq!(server.http.state("votes"), "cancelled");
    let after = server.http.tallies("votes");
    assert_same(&last, &after);
    assert_eq!(serde_json::to_value(&last).unwrap(), serde_json::to_value(&after).unwrap());
    assert_eq!(server.http.post("/api/jobs/votes/pause", "").status, 409);
    assert_eq!(server.http.post("/api/jobs/votes/resume", "").status, 409);
}

#[test]
fn the_digest_is_the_same_at_one_two_and_four_workers() {
    let dir = tempfile::tempdir().unwrap();
    let mut digests = Vec::new();
    for workers in [1, 2, 4] {
        let server = Server::start(dir.path(), workers);
        if digests.is_empty() {
            for topic in ["votes", "posts"] {
                server.http.create_topic(topic, 3);
            }
            server.cli_ok(&["feed", "simulate", "votes", "--records", "4000", "--seed", "7"]);
            server.cli_ok(&["feed", "simulate", "posts", "--records", "4000", "--seed", "7"]);
            for job in ["votes", "hashtags"] {
                server.cli_ok(&["submit", &format!("{}/jobs/{job}.toml", env!("CARGO_MANIFEST_DIR"))]);
            }
        }
        let written = |topic: &str| -> u64 {
            let topics = server.http.get("/api/topics").ok().json();
            let topic = topics["items"].as_array().unwrap().iter().find(|t| t["name"] == topic).unwrap().clone();
            topic["partitions"].as_array().unwrap().iter().map(|p| p["end_offset"].as_u64().unwrap()).sum()
        };
        let of = |job: &str, topic: &str| {
            let tallies = server.http.tallies_of(job, written(topic));
            assert_eq!(server.http.job(job)["workers"], workers);
            server.http.recount(job);
            tallies.digest
        };
        digests.push((of("votes", "votes"), of("hashtags", "posts")));
        assert!(server.terminate().0.success());
    }
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
}

#[test]
fn a_server_with_readers_ends_within_ten_seconds_and_tells_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = with_votes(dir.path(), 100);
    let readers: Vec<_> = (0..20).map(|_| server.events("/api/jobs/votes/events")).collect();
    let several = server.events("/api/events?job=votes");
    let (status, time) = server.terminate();
    assert_eq!(status.code(), Some(0));
    assert!(time < Duration::from_secs(10), "it took {time:?}");
    for reader in readers.iter().chain([&several]) {
        let last = std::iter::from_fn(|| reader.next()).last().expect("events");
        assert_eq!(last.kind, "status");
        assert_eq!((&last.json()["job"], &last.json()["state"]), (&"votes".into(), &"stopping".into()));
    }
}

#[test]
fn a_reader_resumes_by_id_without_a_gap_or_a_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let server = with_votes(dir.path(), 100);
    let mut board = crate::support::Board::default();
    let first = server.events("/api/jobs/votes/events?every=0");
    board.follow(&first.next().unwrap());
    drop(first);
    server.http.append("votes", votes::lines(100, 400));
    server.http.tallies_of("votes", 400);
    let again = server.events(&format!("/api/jobs/votes/events?every=0&last_event_id={}", board.epoch));
    while board.accounting.read < 400 {
        board.follow(&again.next().unwrap());
    }
    assert_eq!((board.snapshots, board.accounting.read), (1, 400));
    board.assert_shows(&server.http.tallies("votes"));

    // An id from before a restart is either known or answered by a gap and a snapshot; never by silence.
    let seen = board.epoch;
    let server = restart(server, dir.path());
    server.http.wait_for_state("votes", "running");
    server.http.append("votes", votes::lines(400, 500));
    let tallies = server.http.tallies_of("votes", 500);
    let events = server.events(&format!("/api/jobs/votes/events?every=0&last_event_id={seen}"));
    let first = events.next().unwrap();
    if first.kind == "gap" {
        board.follow(&events.next().unwrap());
    } else {
        board.follow(&first);
    }
    board.assert_shows(&tallies);
}

#[test]
fn a_data_directory_in_use_is_told_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 1);
    let mut second = tallyflow();
    second.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "error", "--data-dir"]).arg(dir.path());
    let (status, stderr) = refused(&mut second);
    assert_eq!(status, 1);
    assert!(stderr.contains("is in use by another tallyflow") && stderr.contains("--data-dir"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    // The first one has not noticed.
    eventually("the first is ready", || (server.http.get("/readyz").status == 200).then_some(()));
}

#[test]
fn of_two_jobs_of_one_name_the_second_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = with_votes(dir.path(), 100);
    let answer = server.http.post("/api/jobs", votes::JOB);
    assert_eq!(answer.status, 409, "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let file = dir.path().join("job.toml");
    std::fs::write(&file, votes::JOB).unwrap();
    let output = server.cli(&["submit", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("a job named \"votes\" is there already") && stderr.lines().count() == 1, "{stderr}");
    votes::assert_counts(&server.http.tallies("votes"), 100);
}

#[test]
fn a_job_cancelled_with_a_checkpoint_goes_on_from_it_when_it_is_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = with_votes(dir.path(), 300);
    let mut written = 300;
    // The same server, and another one.
    for is_restarted in [false, true] {
        let said = server.cli_ok(&["cancel", "votes", "--mode", "checkpoint"]);
        assert!(said.contains("`restart` goes on"), "{said}");
        let last = server.http.tallies("votes");
        assert_eq!(server.http.state("votes"), "cancelled");
        server.http.append("votes", votes::lines(written, written + 100));
        if is_restarted {
            server = restart(server, dir.path());
        }
        assert_eq!(server.http.state("votes"), "cancelled");
        assert_same(&last, &server.http.tallies("votes"));
        written += 100;
        server.cli_ok(&["restart", "votes"]);
        votes::assert_counts(&server.http.tallies_of("votes", written), written);
        assert!(server.stderr().contains("goes on from a checkpoint"), "{}", server.stderr());
        server.http.recount("votes");
    }
    // It is only kept for that: cancelled at once, it has to be submitted again.
    server.cli_ok(&["cancel", "votes", "--mode", "now"]);
    let refused = server.http.post("/api/jobs/votes/restart", "");
    assert!(refused.status == 409 && refused.text.contains("submit it again"), "{refused:?}");
}
