//! The engine's process is killed or hangs, while records flow and a reader watches.
//!
//! What the reader then holds is followed event by event: epochs rise, each change starts from what was
//! held, bars make their total, nothing falls back. At the end it is what a plain count of the votes
//! comes to.

use crate::support::{Board, Events, Server, eventually, signal};
use crate::votes::{self, Flow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Follows a stream until it has seen so many records, which are told later.
fn follow(events: Events, target: Arc<AtomicU64>) -> Board {
    let mut board = Board::default();
    while board.accounting.read != target.load(Ordering::Acquire) || board.states.last().is_some_and(|s| s != "running")
    {
        match events.next_within(Duration::from_millis(20)) {
            Ok(event) => board.follow(&event),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => continue,
            Err(error) => panic!("the reader lost its connection: {error}, {board:?}"),
        };
    }
    board
}

fn harm(workers: usize, times: u64, options: &[(&str, &str)], harm: impl Fn(u32)) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), workers, options);
    let http = &server.http;
    http.create_topic("votes", 4);
    http.submit(votes::JOB);
    let flow = Flow::start(&http.url);
    let events = server.events("/api/jobs/votes/events?every=0");
    let target = Arc::new(AtomicU64::new(u64::MAX));
    let following = {
        let target = target.clone();
        std::thread::spawn(move || follow(events, target))
    };
    for time in 1..=times {
        let shown = http.tallies("votes");
        let more = flow.written() + 200;
        eventually("more is shown", || (http.tallies("votes").accounting.read > more).then_some(()));
        let pid = http.engine_pid(None);
        harm(pid);
        // Readers are answered all the while, and with nothing older than before.
        eventually("the engine is started again", || {
            assert!(http.tallies("votes").epoch >= shown.epoch);
            (http.get("/api/cluster").json()["engine_restarts"] == time).then_some(())
        });
        assert_ne!(http.engine_pid(Some(pid)), pid);
        http.wait_for_state("votes", "running");
    }
    let written = flow.stop();
    let tallies = http.tallies_of("votes", written);
    votes::assert_counts(&tallies, written);
    target.store(written, Ordering::Release);
    let board = following.join().unwrap();
    board.assert_shows(&tallies);
    assert_eq!(board.snapshots, 1, "the reader was never set back to a snapshot: {:?}", board.states);
    assert!(board.deltas > 10, "{} deltas", board.deltas);
    assert!(board.states.iter().any(|state| state == "recovering"), "{:?}", board.states);
    assert_eq!(board.states.last().unwrap(), "running");
    http.recount("votes");
    assert!(http.get("/readyz").status == 200);
}

#[test]
fn a_killed_engine_is_started_again_while_readers_stay_and_the_count_is_exact() {
    harm(2, 3, &[], |pid| signal(pid, "KILL"));
}

#[test]
fn a_hung_engine_is_killed_and_started_again() {
    harm(2, 1, &[("TALLYFLOW_ENGINE_HANG_S", "1")], |pid| signal(pid, "STOP"));
}

#[test]
fn an_engine_that_hangs_before_its_first_sign_of_life_is_started_again_too() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), 1, &[("TALLYFLOW_ENGINE_HANG_S", "1")]);
    let first = server.http.engine_pid(None);
    signal(first, "KILL");
    // Stopped as soon as it is known, mostly while it starts.
    let second = server.http.engine_pid(Some(first));
    signal(second, "STOP");
    let third = server.http.engine_pid(Some(second));
    assert_ne!(third, first);
    eventually("the server is ready", || (server.http.get("/readyz").status == 200).then_some(()));
}

#[test]
fn jobs_submitted_and_cancelled_while_engines_start_are_run_once_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    http.create_topic("votes", 4);
    http.append("votes", votes::lines(0, 200));
    let url = http.url.clone();
    let named = |n: usize| votes::JOB.replace("name = \"votes\"", &format!("name = \"job{n}\""));
    let enough = Arc::new(AtomicBool::new(false));
    let stop = enough.clone();
    let submitting = std::thread::spawn(move || {
        let http = crate::support::Http::new(&url);
        let mut jobs = 0;
        while !stop.load(Ordering::Acquire) {
            http.submit(&named(jobs));
            if jobs % 3 == 2 {
                http.delete(&format!("/api/jobs/job{}?mode=now", jobs - 1)).ok();
            }
            jobs += 1;
        }
        jobs
    });
    for time in 1..=4 {
        signal(http.engine_pid(None), "KILL");
        eventually("the engine is started again", || {
            let cluster = http.get("/api/cluster").json();
            (cluster["engine_restarts"] == time && cluster["engine_pid"].is_u64()).then_some(())
        });
    }
    enough.store(true, Ordering::Release);
    let jobs = submitting.join().unwrap();
    // The last of them may have come just before the end.
    let runs = |n: &usize| n % 3 != 1 || n + 1 == jobs;
    http.append("votes", votes::lines(200, 300));
    for n in 0..jobs {
        let name = format!("job{n}");
        if !runs(&n) {
            assert_eq!(http.state(&name), "cancelled");
            continue;
        }
        votes::assert_counts(&http.tallies_of(&name, 300), 300);
        http.wait_for_state(&name, "running");
    }
    // All have read the second part by now; one that ran twice, or went on, would show it.
    for n in (0..jobs).filter(runs) {
        http.recount(&format!("job{n}"));
    }
    assert!(!server.stderr().contains("panicked"), "{}", server.stderr());
}

#[test]
fn an_engine_does_not_outlive_its_node() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 1);
    let pid = server.http.engine_pid(None);
    server.kill();
    eventually("the engine ends", || {
        // Gone, or dead and not yet collected by whoever inherits orphans.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        (state.is_empty() || state.starts_with('Z')).then_some(())
    });
}
