//! What an operator voids counts no more, what comes after does, and what is taken back counts again:
//! while votes flow, across crashes, in jobs of tallies and of polls. Each is held against a plain count.

use crate::support::{Board, Server, eventually};
use crate::votes::{self, Flow};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tallyflow_dataflows::number::Decimal;

/// The void is in force.
fn in_force(server: &Server, job: &str, id: u64) -> Value {
    eventually(&format!("void {id} of {job} is in force"), || {
        let void = server.http.get(&format!("/api/jobs/{job}/voids/{id}")).ok().json();
        (void["state"] == "in_force").then_some(void)
    })
}

/// No void is left to be made or taken back.
fn settled(server: &Server, job: &str) {
    eventually(&format!("{job} is computed"), || {
        let is = server.http.job(job);
        (is["replacing"].is_null() && is["state"] == "running").then_some(())
    });
}

/// What the votes from `from` to `to` come to where those before were cast by nobody.
fn count_without(voter: &str, voided_to: u64, to: u64) -> BTreeMap<(String, String), Decimal> {
    let mut standing = BTreeMap::new();
    for n in 0..to {
        let vote: Value = serde_json::from_str(&votes::lines(n, n + 1)).unwrap();
        let text = |key: &str| vote[key].as_str().unwrap().to_owned();
        if n >= voided_to || text("voter") != voter {
            standing.insert((text("poll"), text("voter")), text("option"));
        }
    }
    let mut tallies: BTreeMap<(String, String), Decimal> = BTreeMap::new();
    for ((poll, _), option) in standing {
        let value = tallies.entry((poll, option)).or_insert(Decimal::from_units(0));
        *value = Decimal::from_units(value.units() + Decimal::ONE.units());
    }
    tallies
}

/// How many of the first `n` votes are the voter's.
fn votes_of(voter: &str, n: u64) -> u64 {
    votes::lines(0, n).matches(&format!("\"voter\":\"{voter}\"")).count() as u64
}

#[test]
fn a_voter_is_voided_and_comes_back_while_readers_stay_and_servers_die() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    http.create_topic("votes", 3);
    http.append("votes", votes::lines(0, 20_000));
    http.submit(votes::JOB);
    let before = http.tallies_of("votes", 20_000);
    eventually("the history has it", || {
        (http.job("votes")["history"]["epoch"].as_u64() == Some(before.epoch.0)).then_some(())
    });
    let mut board = Board::default();
    let events = server.events("/api/jobs/votes/events?every=0");
    board.follow(&events.next().unwrap());

    let said = server.cli_ok(&[
        "void",
        "votes",
        "--entity",
        r#"["p0","v7"]"#,
        "--entity",
        r#"["p1","v7"]"#,
        "--reason",
        "cast by a machine",
    ]);
    let voided = votes_of("v7", 20_000);
    assert!(voided > 20);
    assert_eq!(said, format!("void 1 of votes is in force: {voided} of its 20000 claims are voided in all\n"));
    let after = http.tallies("votes");
    assert_eq!(Board::of(&after).lines, count_without("v7", 20_000, 20_000));
    assert_eq!((after.accounting.voided, after.accounting.claims), (voided, 20_000));
    assert!(after.accounting.is_even() && after.epoch > before.epoch && after.digest != before.digest);
    let void = in_force(&server, "votes", 1);
    assert_eq!((&void["reason"], &void["entities"]), (&json!("cast by a machine"), &json!(2)));
    http.recount("votes");
    // What was served before can still be read as of then.
    let then = http.get(&format!("/api/jobs/votes/tallies?as_of={}", before.at)).ok().json();
    assert_eq!((&then["digest"], &then["accounting"]["voided"]), (&json!(before.digest), &json!(0)));
    assert!(server.cli_ok(&["job", "votes"]).contains("cast by a machine"));

    // It touches nothing after.
    let flow = Flow::start_after(&http.url, 20_000);
    eventually("some votes more", || (flow.written() > 24_000).then_some(()));
    let written = flow.stop();
    let shown = http.tallies_of("votes", written);
    assert_eq!(Board::of(&shown).lines, count_without("v7", 20_000, written));
    assert_eq!(shown.accounting.voided, voided);
    while board.accounting.read < written {
        board.follow(&events.next().unwrap());
    }
    board.assert_shows(&shown);
    assert_eq!(board.snapshots, 1, "the reader was never set back");
    server.kill();

    let server = Server::start(dir.path(), 3);
    let shown = server.http.tallies_of("votes", written);
    assert_eq!(Board::of(&shown).lines, count_without("v7", 20_000, written));
    // Taking back is noted before it is answered: a crash right after does not lose it.
    let answer = server.http.delete("/api/jobs/votes/voids/1");
    assert_eq!((answer.status, &answer.headers["location"]), (202, &"/api/jobs/votes".parse().unwrap()));
    server.kill();
    let server = Server::start(dir.path(), 2);
    settled(&server, "votes");
    votes::assert_counts(&server.http.tallies_of("votes", written), written);
    server.http.recount("votes");
    assert_eq!(server.http.get("/api/jobs/votes/voids").ok().json()["items"], json!([]));
    // An id does not come back.
    let made = server.http.post_json("/api/jobs/votes/voids", &json!({"entity": r#"["p0","v1"]"#, "reason": "again"}));
    assert_eq!((made.status, made.json()["id"].as_u64()), (201, Some(2)));
    in_force(&server, "votes", 2);
    assert_eq!(
        server.cli_ok(&["unvoid", "votes", "2"]),
        format!("void 2 of votes is taken back: 0 of its {written} claims are voided still\n")
    );
    votes::assert_counts(&server.http.tallies_of("votes", written), written);
}

#[test]
fn voids_by_offsets_and_by_an_expression_are_counted_together_and_told_by_why() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    http.create_topic("votes", 1);
    http.append("votes", votes::lines(0, 1_000));
    http.submit(votes::JOB);
    http.tallies_of("votes", 1_000);
    // The second is made while the first may still be counted.
    let range =
        json!({"offsets": {"topic": "votes", "partition": 0, "from": 100, "to": 300}, "reason": "a faulty feed"});
    let first = http.post_json("/api/jobs/votes/voids", &range).ok();
    assert_eq!(first.headers["location"], "/api/jobs/votes/voids/1");
    http.post_json("/api/jobs/votes/voids", &json!({"where": "event.option == 'o3'", "reason": "withdrawn"})).ok();
    in_force(&server, "votes", 1);
    in_force(&server, "votes", 2);
    let mut standing = BTreeMap::new();
    let mut voided = 0;
    for (n, line) in votes::lines(0, 1_000).lines().enumerate() {
        let vote: Value = serde_json::from_str(line).unwrap();
        if (100..300).contains(&n) || vote["option"] == "o3" {
            voided += 1;
        } else {
            let text = |key: &str| vote[key].as_str().unwrap().to_owned();
            standing.insert((text("poll"), text("voter")), text("option"));
        }
    }
    let shown = http.tallies("votes");
    assert_eq!((shown.accounting.voided, shown.accounting.counted), (voided, standing.len() as u64));
    assert!(Board::of(&shown).lines.keys().all(|(_, option)| option != "o3"));
    http.recount("votes");

    let record = http.get("/api/jobs/votes/why?at=votes/0/150").ok().json();
    let claim = &record["readings"][0]["claims"][0];
    assert_eq!((&claim["class"], &claim["void"]), (&json!("voided"), &json!({"id": 1, "reason": "a faulty feed"})));
    let line = http.get("/api/jobs/votes/why?subject=p0&group=o3").ok().json();
    assert_eq!((&line["values"], &line["left_out"][0]["class"]), (&Value::Null, &json!("voided")));
    assert!(server.cli_ok(&["why", "votes", "--at", "votes/0/150"]).contains("voided by void 1: a faulty feed"));

    // Another form of the job keeps them.
    let top = votes::JOB.replace("[tally]", "[tally]\ntop = 2");
    let file = dir.path().join("votes.toml");
    std::fs::write(&file, top.replace("order = \"/at\"\n", "")).unwrap();
    server.cli_ok(&["submit", "--replace", file.to_str().unwrap()]);
    settled(&server, "votes");
    assert_eq!(http.tallies("votes").accounting.voided, voided);
    http.recount("votes");
}

#[test]
fn a_void_in_polls_takes_votes_messages_and_deletions_and_its_polls_stay() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    http.create_topic("posts", 1);
    http.create_topic("votes", 1);
    http.submit(
        "name = \"polls\"\ndataflow = \"polls\"\n[[input]]\ntopic = \"posts\"\nformat = \"post\"\n[[input]]\ntopic = \
         \"votes\"\nformat = \"vote\"\n",
    );
    http.wait_for_state("polls", "running");
    http.post("/api/polls", r#"{"id":"mood","options":["happy","sad"],"entity":"author","keep":"last"}"#).ok();
    let now = || jiff_now();
    let post = |id: u64, author: &str, text: &str| {
        let text = if text.is_empty() { Value::Null } else { json!(text) };
        http.append("posts", json!({"id": id, "author": author, "text": text, "at": now()}).to_string() + "\n");
    };
    post(1, "ada", "happy");
    post(2, "ada", "sad");
    post(3, "bob", "sad");
    post(2, "ada", "");
    for (voter, option) in [("cy", "happy"), ("ada", "sad")] {
        http.post_json("/api/polls/mood/votes", &json!({"voter": voter, "option": option})).ok();
    }
    let rows = |read: u64| {
        let tallies = http.tallies_of("polls", read);
        let mut rows =
            tallies.subjects[0].tallies.iter().map(|t| (t.group.text(), t.value.to_string())).collect::<Vec<_>>();
        rows.sort();
        (rows, tallies.accounting.voided)
    };
    let is = |happy: u64, sad: u64| vec![("happy".to_owned(), happy.to_string()), ("sad".to_owned(), sad.to_string())];
    // ada's second post is gone, her first counts; and she has voted.
    assert_eq!(rows(6), (is(2, 2), 0));
    // The deletion is voided: her second post counts again, in place of the first.
    let deletion = json!({"offsets": {"topic": "posts", "partition": 0, "from": 3, "to": 4}, "reason": "forged"});
    http.post_json("/api/jobs/polls/voids", &deletion).ok();
    in_force(&server, "polls", 1);
    assert_eq!(rows(6), (is(1, 3), 0));
    http.recount("polls");
    // All that ada said, as an author and as a voter.
    server.cli_ok(&["void", "polls", "--entity", "ada", "--reason", "no person"]);
    assert_eq!(rows(6), (is(1, 1), 3));
    http.recount("polls");
    // A poll made since, and what she says since, count.
    http.post("/api/polls", r#"{"id":"more","options":["x"]}"#).ok();
    http.post_json("/api/polls/mood/votes", &json!({"voter": "ada", "option": "happy"})).ok();
    assert_eq!(rows(7).0, is(2, 1));
    let why = http.get("/api/jobs/polls/why?subject=mood&group=sad").ok().json();
    assert_eq!(why["left_out"][0]["void"]["reason"], "no person");
    server.kill();
    let server = Server::start(dir.path(), 3);
    let tallies = server.http.tallies_of("polls", 7);
    assert_eq!(tallies.accounting.voided, 3);
    server.cli_ok(&["unvoid", "polls", "2"]);
    server.cli_ok(&["unvoid", "polls", "1"]);
    let tallies = server.http.tallies_of("polls", 7);
    assert_eq!((tallies.accounting.voided, tallies.subjects.len()), (0, 2));
    server.http.recount("polls");
}

fn jiff_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

#[test]
fn what_can_not_be_voided_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 1);
    let http = &server.http;
    http.create_topic("votes", 2);
    http.append("votes", votes::lines(0, 10));
    http.submit(votes::JOB);
    http.submit("name = \"all\"\ndataflow = \"tally\"\n[[input]]\ntopic = \"votes\"\nformat = \"json\"\n[tally]\ngroup = \"/option\"\n");
    let range = |topic: &str, partition: u32, from: u64, to: u64| json!({"offsets": {"topic": topic, "partition": partition, "from": from, "to": to}, "reason": "r"});
    for (job, void, status, said) in [
        ("none", json!({"where": "true", "reason": "r"}), 404, "no job"),
        ("votes", json!({"where": "true"}), 422, "reason"),
        ("votes", json!({"where": "true", "reason": " "}), 422, "needs a reason"),
        ("votes", json!({"where": "true", "reason": "r".repeat(2_000)}), 422, "1024 bytes"),
        ("votes", json!({"reason": "r"}), 422, "just one"),
        ("votes", json!({"where": "true", "entity": "x", "reason": "r"}), 422, "just one"),
        ("votes", json!({"where": "event.(", "reason": "r"}), 422, "no CEL"),
        ("votes", json!({"entity": "v7", "reason": "r"}), 422, "2 parts"),
        ("votes", json!({"entity": [], "reason": "r"}), 422, "1 to 10000"),
        ("all", json!({"entity": "v7", "reason": "r"}), 422, "no entities"),
        ("votes", range("posts", 0, 0, 1), 422, "does not read"),
        ("votes", range("votes", 2, 0, 1), 422, "no partition 2"),
        ("votes", range("votes", 0, 1, 1), 422, "no offset lies between"),
        ("votes", range("votes", 0, 0, 99), 422, "not there yet"),
        ("votes", json!({"what": 1, "reason": "r"}), 422, "unknown field"),
        ("votes", json!(7), 422, "the void"),
    ] {
        let answer = http.post_json(&format!("/api/jobs/{job}/voids"), &void);
        assert!(answer.status == status && answer.text.contains(said), "{void}: {answer:?}");
    }
    assert_eq!(http.post("/api/jobs/votes/voids", "{").status, 400);
    for id in ["1", "x", "99999999999999999999"] {
        assert_eq!(http.delete(&format!("/api/jobs/votes/voids/{id}")).status, 404, "{id}");
        assert_eq!(http.get(&format!("/api/jobs/votes/voids/{id}")).status, 404, "{id}");
    }
    http.post("/api/jobs/votes/pause", "").ok();
    let paused = http.post_json("/api/jobs/votes/voids", &json!({"where": "true", "reason": "r"}));
    assert!(paused.status == 409 && paused.text.contains("resume"), "{paused:?}");
    for (args, said) in [
        (&["void", "votes", "--reason", "r"][..], "--entity"),
        (&["void", "votes", "--where", "true"], "--reason"),
        (&["void", "votes", "--from", "votes/0/1", "--reason", "r"], "--to"),
        (&["void", "votes", "--from", "votes/0", "--to", "2", "--reason", "r"], "TOPIC/PARTITION/OFFSET"),
    ] {
        let output = server.cli(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && stderr.contains(said), "{args:?}: {stderr}");
    }
}
