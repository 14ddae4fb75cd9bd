//! Dead letters are decoded again. The same program rejects the same records, so nothing changes by it,
//! and no reader notices. What a mended decoder takes is counted: that is shown where a decoder can be
//! mended, in the tests of the engine.

use crate::support::{Board, Server, eventually};
use crate::votes;

#[test]
fn a_redrive_reads_everything_again_and_changes_nothing_that_readers_see() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    http.create_topic("votes", 3);
    http.append("votes", votes::lines(0, 5_000));
    http.append("votes", "no JSON\n{\"poll\":\"p0\"}\n");
    http.submit(votes::JOB);
    let before = http.tallies_of("votes", 5_002);
    let letters = http.get("/api/jobs/votes/dead-letters").ok().json();
    assert_eq!(letters["items"].as_array().unwrap().len(), 2);
    let events = server.events("/api/jobs/votes/events?every=0");
    let mut board = Board::default();
    board.follow(&events.next().unwrap());
    let said = server.cli_ok(&["dead-letters", "votes", "--redrive"]);
    assert_eq!(said, "redrove votes: of 2 dead letters 2 are left\n");
    let after = http.tallies("votes");
    assert!(after.epoch > before.epoch);
    assert_eq!((&after.digest, &after.offsets, after.accounting), (&before.digest, &before.offsets, before.accounting));
    assert_eq!(http.get("/api/jobs/votes/dead-letters").ok().json(), letters);
    // The reader goes on where it was.
    http.append("votes", votes::lines(5_000, 5_100));
    let last = http.tallies_of("votes", 5_102);
    while board.accounting.read < 5_102 {
        board.follow(&events.next().unwrap());
    }
    board.assert_shows(&last);
    assert_eq!((board.snapshots, board.states.len()), (1, 0));
    assert_eq!(board.lines, votes::count(5_100));
    let located = http.post("/api/jobs/votes/dead-letters/redrive", "");
    assert_eq!((located.status, &located.headers["location"]), (202, &"/api/jobs/votes".parse().unwrap()));
    eventually("it has ended", || http.job("votes")["replacing"].is_null().then_some(()));
    http.recount("votes");
}

#[test]
fn a_redrive_of_polls_reads_the_job_again_in_its_own_place_with_its_polls() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    http.create_topic("votes", 2);
    http.append("votes", "no JSON\n");
    http.submit("name = \"polls\"\ndataflow = \"polls\"\n[[input]]\ntopic = \"votes\"\nformat = \"vote\"\n");
    http.wait_for_state("polls", "running");
    http.post("/api/polls", r#"{"id":"a","options":["yes","no"],"entity":"voter","keep":"last"}"#).ok();
    let vote = |voter: &str, option: &str| {
        http.post("/api/polls/a/votes", format!(r#"{{"voter":"{voter}","option":"{option}"}}"#)).ok();
    };
    vote("ada", "yes");
    vote("bob", "no");
    vote("ada", "no");
    let before = http.tallies_of("polls", 4);
    for round in 0..3u64 {
        let said = server.cli_ok(&["dead-letters", "polls", "--redrive"]);
        assert_eq!(said, "redrove polls: of 1 dead letters 1 are left\n");
        let after = http.tallies("polls");
        assert!(after.epoch > before.epoch);
        assert_eq!(after.accounting.read, 4 + round);
        assert_eq!(http.get("/api/polls/a").ok().json()["state"], "open");
        // Votes and polls go on.
        vote(&format!("voter{round}"), "yes");
        let after = http.tallies_of("polls", 5 + round);
        assert_eq!(after.subjects[0].total.map(|total| total.to_string()), Some((3 + round).to_string()));
        http.post("/api/polls", format!(r#"{{"id":"b{round}","options":["x"]}}"#)).ok();
    }
    http.recount("polls");
    assert_eq!(http.get("/api/cluster").json()["engine_restarts"], 0);
}
