//! Polls: made over the past and live, voted in, changed, closed and deleted, while the engine and the
//! server come and go. What they show is held against a plain count of the posts and votes.

use crate::support::{Http, Server, eventually, signal};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tempfile::TempDir;

const JOB: &str = include_str!("../../jobs/polls.toml");

type Counts = BTreeMap<String, u64>;

fn counts<const N: usize>(counts: [(&str, u64); N]) -> Counts {
    counts.into_iter().map(|(option, count)| (option.to_owned(), count)).collect()
}

/// A server with the job of polls.
fn start(dir: &TempDir) -> Server {
    let server = Server::start(dir.path(), 2);
    server.http.create_topic("posts", 3);
    server.http.create_topic("votes", 2);
    server.http.submit(JOB);
    server.http.wait_for_state("polls", "running");
    server
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap().to_string()
}

fn poll(http: &Http, id: &str) -> Value {
    http.get(&format!("/api/polls/{id}")).ok().json()
}

fn create(http: &Http, definition: Value) -> Value {
    let made = http.post_json("/api/polls", &definition);
    assert_eq!(made.status, 201, "{}", made.text);
    made.json()
}

/// What a poll's answer shows.
fn shown(poll: &Value) -> Option<Counts> {
    let lines = poll["tally"]["tallies"].as_array()?;
    let line = |line: &Value| (line["group"].as_str().unwrap().to_owned(), line["value"].as_u64().unwrap());
    Some(lines.iter().map(line).collect())
}

/// Waits until the poll shows these numbers, in its newest version.
#[track_caller]
fn wait_for(http: &Http, id: &str, expected: &Counts) -> Value {
    eventually(&format!("{id} shows {expected:?}"), || {
        let poll = poll(http, id);
        (poll["refill"].is_null() && shown(&poll).as_ref() == Some(expected)).then_some(poll)
    })
}

/// Waits for the clock's next millisecond: what comes then has a later time than what came before.
fn next_millisecond() {
    let now = now_ms();
    eventually("the clock goes on", || (now_ms() > now).then_some(()));
}

/// Votes, which must be taken.
#[track_caller]
fn vote(http: &Http, id: &str, voter: &str, option: impl Into<Value>) {
    let vote = json!({"voter": voter, "option": option.into()});
    let answer = http.post_json(&format!("/api/polls/{id}/votes"), &vote);
    assert_eq!(answer.status, 201, "{}", answer.text);
}

const TEXTS: [(&str, &[&str]); 6] = [
    ("so happy today", &["happy"]),
    ("sad news, and a happy end", &["happy", "sad"]),
    ("#Sad", &["sad"]),
    ("unhappy", &[]),
    ("Happy, HAPPY!", &["happy"]),
    ("nothing to say", &["nothing"]),
];

/// Posts as they are written: an id, when, and which text; later lines are edits or repetitions.
struct Posts {
    versions: Vec<(u64, i64, usize)>,
}

impl Posts {
    /// Over the last twenty minutes, some of them edited or sent twice.
    fn before(now_ms: i64) -> Posts {
        let mut versions: Vec<(u64, i64, usize)> = (0..600u64)
            .map(|n| (n, now_ms - 20 * 60_000 + n as i64 * 2_000, (n.wrapping_mul(0x9e37_79b9) >> 7) as usize % 6))
            .collect();
        for n in (0..600).step_by(7) {
            let (id, at, text) = versions[n];
            versions.push((id, at + 500, (text + 1) % 6));
        }
        for n in (0..600).step_by(11) {
            versions.push(versions[n]);
        }
        Posts { versions }
    }

    fn lines(&self) -> String {
        let line = |(id, at, text): &(u64, i64, usize)| {
            json!({"id": id.to_string(), "author": "a", "text": TEXTS[*text].0, "at": at}).to_string() + "\n"
        };
        self.versions.iter().map(line).collect()
    }

    /// Of each post its newest version of those from `opens` on, and what that names.
    fn count(&self, opens_ms: i64, options: &[&str]) -> Counts {
        let mut newest: BTreeMap<u64, (i64, usize)> = BTreeMap::new();
        for (id, at, text) in self.versions.iter().filter(|(_, at, _)| *at >= opens_ms) {
            let version = newest.entry(*id).or_insert((*at, *text));
            *version = (*version).max((*at, *text));
        }
        let mut counts: Counts = options.iter().map(|option| (option.to_string(), 0)).collect();
        for (_, text) in newest.into_values() {
            for option in TEXTS[text].1.iter().filter(|option| options.contains(option)) {
                *counts.get_mut(*option).unwrap() += 1;
            }
        }
        counts
    }
}

#[test]
fn a_poll_over_the_past_ten_minutes_shows_what_a_plain_count_of_the_posts_says() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(&dir);
    let http = &server.http;
    let now = now_ms();
    let mut posts = Posts::before(now);
    http.post("/api/topics/posts/records?key=/id", posts.lines()).ok();
    let opens = now - 10 * 60_000;
    let made = create(http, json!({"title": "How do you feel?", "options": ["happy", "sad"], "opens": time(opens)}));
    assert_eq!((&made["id"], &made["version"]), (&json!("how-do-you-feel"), &json!(1)));
    let expected = posts.count(opens, &["happy", "sad"]);
    assert!(expected["happy"] > 50 && expected["sad"] > 50);
    let filled = wait_for(http, "how-do-you-feel", &expected);
    assert_eq!((&filled["state"], &filled["shown"]), (&json!("open"), &json!(1)));
    // What comes now counts too, in the same poll and at once.
    posts.versions.push((1_000, now_ms(), 1));
    http.append("posts", json!({"id": "1000", "author": "b", "text": TEXTS[1].0, "at": now_ms()}).to_string());
    let expected = posts.count(opens, &["happy", "sad"]);
    wait_for(http, "how-do-you-feel", &expected);
    // As a person would, by the command line.
    let said = server.cli_ok(&["poll", "create", "again", "--option", "happy", "--option", "sad", "--opens", "-10m"]);
    assert!(said.contains("made again"), "{said}");
    let listed = eventually("both are counted", || {
        let listed = server.cli_ok(&["poll", "list"]);
        (!listed.contains("filling") && listed.matches("open").count() >= 2).then_some(listed)
    });
    assert!(listed.lines().count() == 3, "{listed}");
    http.recount("polls");
}

#[test]
fn a_deleted_post_takes_its_vote_with_it_and_an_edited_one_changes_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(&dir);
    let http = &server.http;
    create(http, json!({"id": "moods", "options": ["happy", "sad"]}));
    wait_for(http, "moods", &counts([("happy", 0), ("sad", 0)]));
    let post = |id: &str, text: Value| {
        let line = json!({"id": id, "author": id, "text": text, "at": now_ms()}).to_string();
        http.post("/api/topics/posts/records?key=/id", line).ok();
    };
    post("1", json!("so happy"));
    post("2", json!("so happy"));
    post("3", json!("so sad"));
    wait_for(http, "moods", &counts([("happy", 2), ("sad", 1)]));
    next_millisecond();
    post("1", Value::Null);
    wait_for(http, "moods", &counts([("happy", 1), ("sad", 1)]));
    post("2", json!("rather sad"));
    wait_for(http, "moods", &counts([("happy", 0), ("sad", 2)]));
    http.recount("polls");
}

#[test]
fn a_live_poll_counts_one_vote_of_each_voter_and_lets_them_change_their_minds() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(&dir);
    let http = &server.http;
    let made = create(http, json!({"id": "moods", "options": ["happy", "sad"], "entity": "voter"}));
    assert_eq!((&made["state"], &made["keep"], &made["refill"]), (&json!("open"), &json!("last"), &Value::Null));
    for voter in 0..30 {
        vote(http, "moods", &format!("v{voter}"), if voter % 3 == 0 { "sad" } else { "happy" });
    }
    wait_for(http, "moods", &counts([("happy", 20), ("sad", 10)]));
    next_millisecond();
    vote(http, "moods", "v0", "happy");
    vote(http, "moods", "v1", Value::Null);
    wait_for(http, "moods", &counts([("happy", 20), ("sad", 9)]));
    server.cli_ok(&["poll", "vote", "moods", "sad", "--voter", "v1"]);
    let shown = wait_for(http, "moods", &counts([("happy", 20), ("sad", 10)]));
    assert_eq!(shown["tally"]["total"], 30);
    let refused = http.post_json("/api/polls/moods/votes", &json!({"voter": "v1", "option": "angry"}));
    assert!(refused.status == 422 && refused.text.contains("happy, sad"), "{}", refused.text);
    http.recount("polls");
}

#[test]
fn an_option_added_later_counts_the_votes_that_named_it_before() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(&dir);
    let http = &server.http;
    create(http, json!({"id": "moods", "options": ["happy", "sad"]}));
    let vote_in_log = |voter: &str, option: &str| {
        let vote = json!({"poll": "moods", "voter": voter, "option": option, "at": now_ms()});
        http.append("votes", vote.to_string());
    };
    vote_in_log("a", "happy");
    vote_in_log("b", "angry");
    wait_for(http, "moods", &counts([("happy", 1), ("sad", 0)]));
    let changed = http.patch_json("/api/polls/moods", &json!({"options": ["happy", "sad", "angry"]})).ok().json();
    assert_eq!(changed["version"], 2);
    // Until it is counted anew, what was shown stays.
    assert!(changed["shown"] == 1 && changed["refill"]["version"] == 2, "{changed}");
    wait_for(http, "moods", &counts([("happy", 1), ("sad", 0), ("angry", 1)]));
    vote_in_log("c", "angry");
    let shown = wait_for(http, "moods", &counts([("happy", 1), ("sad", 0), ("angry", 2)]));
    assert_eq!((&shown["shown"], &shown["version"]), (&json!(2), &json!(2)));
    // A title is no new version.
    let titled = http.patch_json("/api/polls/moods", &json!({"title": "Spirits"})).ok().json();
    assert_eq!((&titled["title"], &titled["version"]), (&json!("Spirits"), &json!(2)));
    http.recount("polls");
}

#[test]
fn a_closed_poll_takes_no_more_and_keeps_its_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(&dir);
    let http = &server.http;
    create(http, json!({"id": "moods", "options": ["happy", "sad"], "grace": "0s"}));
    vote(http, "moods", "a", "happy");
    wait_for(http, "moods", &counts([("happy", 1), ("sad", 0)]));
    next_millisecond();
    let closed = http.post("/api/polls/moods/close", "").ok().json();
    assert_eq!(closed["version"], 2);
    let shown = wait_for(http, "moods", &counts([("happy", 1), ("sad", 0)]));
    assert_eq!((&shown["state"], &shown["shown"]), (&json!("closed"), &json!(2)));
    let late = http.post_json("/api/polls/moods/votes", &json!({"voter": "b", "option": "happy"}));
    assert!(late.status == 409 && late.text.contains("has been closed since"), "{}", late.text);
    assert_eq!(http.post("/api/polls/moods/close", "").status, 409);
    // Nor what comes past the route.
    http.append("votes", json!({"poll": "moods", "voter": "b", "option": "happy", "at": now_ms()}).to_string());
    create(http, json!({"id": "other", "options": ["happy"]}));
    vote(http, "other", "c", "happy");
    wait_for(http, "other", &counts([("happy", 1)]));
    wait_for(http, "moods", &counts([("happy", 1), ("sad", 0)]));
    // It can be opened again, and then what was said meanwhile counts.
    http.patch_json("/api/polls/moods", &json!({"closes": null})).ok();
    let shown = wait_for(http, "moods", &counts([("happy", 2), ("sad", 0)]));
    assert_eq!((&shown["state"], &shown["version"]), (&json!("open"), &json!(3)));
    http.recount("polls");
}

#[test]
fn a_poll_that_closes_by_the_clock_stays_as_it_was_whatever_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(&dir);
    let http = &server.http;
    let closes = now_ms() + 1_500;
    create(http, json!({"id": "short", "options": ["happy"], "closes": time(closes), "grace": "100ms"}));
    vote(http, "short", "a", "happy");
    let shown = wait_for(http, "short", &counts([("happy", 1)]));
    assert_eq!(shown["state"], "open");
    eventually("it is closed", || (poll(http, "short")["state"] == "closed").then_some(()));
    // In its time by what it says, and too late by the log's.
    eventually("its grace is over", || (now_ms() > closes + 200).then_some(()));
    http.append("votes", json!({"poll": "short", "voter": "b", "option": "happy", "at": closes - 1}).to_string());
    create(http, json!({"id": "next", "options": ["happy"]}));
    vote(http, "next", "b", "happy");
    wait_for(http, "next", &counts([("happy", 1)]));
    wait_for(http, "short", &counts([("happy", 1)]));
    let pid = http.engine_pid(None);
    signal(pid, "KILL");
    http.engine_pid(Some(pid));
    http.wait_for_state("polls", "running");
    let shown = wait_for(http, "short", &counts([("happy", 1)]));
    assert_eq!((&shown["version"], &shown["state"]), (&json!(1), &json!("closed")));
    http.recount("polls");
}

#[test]
fn a_deleted_poll_is_gone_at_once_and_its_id_can_be_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(&dir);
    let http = &server.http;
    create(http, json!({"id": "moods", "options": ["happy", "sad"]}));
    create(http, json!({"id": "other", "options": ["happy"]}));
    vote(http, "moods", "a", "happy");
    wait_for(http, "moods", &counts([("happy", 1), ("sad", 0)]));
    assert_eq!(http.delete("/api/polls/moods").status, 204);
    assert_eq!(http.get("/api/polls/moods").status, 404);
    assert_eq!(http.post_json("/api/polls/moods/votes", &json!({"voter": "a", "option": "happy"})).status, 409);
    eventually("its numbers are gone", || {
        let tallies = http.tallies("polls");
        (tallies.subjects.iter().all(|subject| subject.subject != "moods")).then_some(())
    });
    let again = create(http, json!({"id": "moods", "options": ["happy", "sad"]}));
    assert_eq!(again["version"], 2);
    wait_for(http, "moods", &counts([("happy", 0), ("sad", 0)]));
    vote(http, "moods", "a", "sad");
    wait_for(http, "moods", &counts([("happy", 0), ("sad", 1)]));
    // The record that only the deleted poll had matched is irrelevant once a pass has put that right.
    eventually("the accounting knows of it", || {
        let a = http.tallies("polls").accounting;
        (a.matched == 1 && a.irrelevant == 1).then_some(())
    });
    http.recount("polls");
}

/// What must be the same before and after.
fn kept(http: &Http) -> Vec<(Value, Option<Counts>)> {
    let ids = http.get("/api/polls").ok().json();
    let ids: Vec<String> =
        ids["items"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap().to_owned()).collect();
    ids.iter()
        .map(|id| {
            let mut poll = poll(http, id);
            let counts = shown(&poll);
            poll.as_object_mut().unwrap().remove("tally");
            (poll, counts)
        })
        .collect()
}

#[test]
fn polls_and_their_numbers_survive_the_engine_and_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(&dir);
    let http = &server.http;
    let now = now_ms();
    let posts = Posts::before(now);
    http.post("/api/topics/posts/records?key=/id", posts.lines()).ok();
    let opens = now - 10 * 60_000;
    create(http, json!({"id": "past", "options": ["happy", "sad"], "opens": time(opens)}));
    create(http, json!({"id": "live", "options": ["happy", "sad"], "entity": "voter", "keep": "first"}));
    create(http, json!({"id": "later", "options": ["happy"], "opens": time(now + 3_600_000)}));
    create(http, json!({"id": "gone", "options": ["happy"]}));
    for voter in 0..10 {
        vote(http, "live", &format!("v{}", voter / 2), if voter % 2 == 0 { "sad" } else { "happy" });
    }
    http.patch_json("/api/polls/past", &json!({"options": ["happy", "sad", "nothing"]})).ok();
    assert_eq!(http.delete("/api/polls/gone").status, 204);
    let past = posts.count(opens, &["happy", "sad", "nothing"]);
    assert!(past["nothing"] > 20);
    wait_for(http, "past", &past);
    wait_for(http, "live", &counts([("happy", 0), ("sad", 5)]));
    wait_for(http, "later", &counts([("happy", 0)]));
    let before = kept(http);
    assert_eq!(before.iter().map(|(poll, _)| &poll["state"]).collect::<Vec<_>>(), ["waiting", "open", "open"]);

    let pid = http.engine_pid(None);
    signal(pid, "KILL");
    http.engine_pid(Some(pid));
    http.wait_for_state("polls", "running");
    assert_eq!(kept(http), before);
    http.recount("polls");
    vote(http, "live", "v100", "happy");
    wait_for(http, "live", &counts([("happy", 1), ("sad", 5)]));

    let before = kept(http);
    server.kill();
    let server = Server::start(dir.path(), 1);
    let http = &server.http;
    http.wait_for_state("polls", "running");
    assert_eq!(kept(http), before);
    vote(http, "live", "v101", "happy");
    wait_for(http, "live", &counts([("happy", 2), ("sad", 5)]));
    assert_eq!(create(http, json!({"id": "gone", "options": ["happy"]}))["version"], 2);
    assert!(!server.stderr().contains("panicked"), "{}", server.stderr());
    wait_for(http, "gone", &counts([("happy", 0)]));
    http.recount("polls");
}

#[test]
fn polls_made_and_deleted_while_engines_die_are_there_once_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(&dir);
    let http = &server.http;
    let url = http.url.clone();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (stopped, so_far) = (stop.clone(), std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let told = so_far.clone();
    let making = std::thread::spawn(move || {
        let http = Http::new(&url);
        let mut made = 0;
        while !stopped.load(std::sync::atomic::Ordering::Acquire) {
            let answer = http.post_json("/api/polls", &json!({"id": format!("p{made}"), "options": ["x"]}));
            assert!(matches!(answer.status, 201 | 503), "{}", answer.text);
            if answer.status == 503 {
                continue;
            }
            if made % 3 == 2 {
                http.delete(&format!("/api/polls/p{}", made - 1)).ok();
            }
            made += 1;
            told.store(made, std::sync::atomic::Ordering::Release);
        }
        made
    });
    for _ in 0..3 {
        let pid = http.engine_pid(None);
        signal(pid, "KILL");
        http.engine_pid(Some(pid));
        // The new engine gets some to open and to delete before it dies too.
        let so_far = || so_far.load(std::sync::atomic::Ordering::Acquire);
        let before = so_far();
        eventually("polls are made again", || (so_far() >= before + 6).then_some(()));
    }
    stop.store(true, std::sync::atomic::Ordering::Release);
    let made: usize = making.join().unwrap();
    http.wait_for_state("polls", "running");
    let is_there = |n: usize| n % 3 != 1 || n + 1 == made;
    for n in 0..made {
        let id = format!("p{n}");
        if is_there(n) {
            vote(http, &id, "a", "x");
        } else {
            assert_eq!(http.get(&format!("/api/polls/{id}")).status, 404);
        }
    }
    for n in (0..made).filter(|n| is_there(*n)) {
        wait_for(http, &format!("p{n}"), &counts([("x", 1)]));
    }
    let subjects = http.get("/api/jobs/polls/subjects?limit=1000").ok().json();
    let shown: Vec<String> =
        subjects["items"].as_array().unwrap().iter().map(|s| s["subject"].as_str().unwrap().to_owned()).collect();
    let mut expected: Vec<String> = (0..made).filter(|n| is_there(*n)).map(|n| format!("p{n}")).collect();
    expected.sort();
    assert_eq!(shown, expected);
    http.recount("polls");
}

#[test]
fn a_poll_that_can_not_be_is_refused_with_every_fault_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 1);
    let http = &server.http;
    let moods = json!({"id": "moods", "options": ["happy", "sad"]});
    assert_eq!(http.post_json("/api/polls", &moods).status, 409, "there is no job of polls");
    http.create_topic("posts", 1);
    http.create_topic("votes", 1);
    http.submit(JOB);
    let many: Vec<String> = (0..10_000).map(|n| format!("o{n}")).collect();
    let now = now_ms();
    for (definition, key) in [
        (json!({"id": "a", "options": []}), "options"),
        (json!({"id": "a"}), "options"),
        (json!({"id": "a", "options": ["x", "X "]}), "options[1]"),
        (json!({"id": "a", "options": many}), "options"),
        (json!({"id": "a", "options": ["x".repeat(10_000)]}), "options[0]"),
        (json!({"id": "a", "options": ["!!!"]}), "options[0]"),
        (json!({"id": "a", "options": ["x"], "opens": time(now), "closes": time(now - 1)}), "closes"),
        (json!({"id": "a", "options": ["x"], "colour": "red"}), "colour"),
        (json!({"id": "a/b", "options": ["x"]}), "id"),
        (json!({"id": "a", "options": ["x"], "keep": "last"}), "keep"),
        (json!({"id": "a", "options": ["x"], "job": "none"}), "job"),
    ] {
        let answer = http.post_json("/api/polls", &definition);
        assert_eq!(answer.status, 422, "{}", answer.text);
        assert_eq!(answer.json()["faults"][0]["key"], key, "{}", answer.text);
    }
    assert_eq!(http.get("/api/polls").ok().json()["items"], json!([]));
    create(http, moods.clone());
    assert_eq!(http.post_json("/api/polls", &moods).status, 409);
    assert_eq!(http.get("/api/polls").ok().json()["items"].as_array().unwrap().len(), 1);
    // A cancelled job's polls stay readable until its name is used again.
    vote(http, "moods", "a", "happy");
    wait_for(http, "moods", &counts([("happy", 1), ("sad", 0)]));
    http.delete("/api/jobs/polls").ok();
    assert_eq!(shown(&poll(http, "moods")), Some(counts([("happy", 1), ("sad", 0)])));
    assert_eq!(http.delete("/api/polls/moods").status, 409);
    http.submit(JOB);
    assert_eq!(http.get("/api/polls/moods").status, 404);
    assert_eq!(create(http, moods)["version"], 1);
    wait_for(http, "moods", &counts([("happy", 0), ("sad", 0)]));
}
