//! `feed simulate --expect` against the jobs that stand in `jobs/`: what the feed says must come out
//! does, with duplicates, changes of mind, edits, reordered and late records among it.

use crate::support::{Board, Server, eventually};
use serde::Deserialize;
use std::collections::BTreeMap;
use tallyflow_dataflows::number::Decimal;

#[derive(Deserialize)]
struct Expect {
    records: u64,
    accounting: Expected,
    lines: Vec<Line>,
    #[serde(default)]
    polls: BTreeMap<String, ExpectedPoll>,
}

#[derive(Deserialize)]
struct ExpectedPoll {
    total: Decimal,
    claims: u64,
    counted: u64,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Expected {
    read: u64,
    irrelevant: u64,
    matched: u64,
    claims: u64,
    counted: u64,
    superseded_duplicate_late: u64,
}

#[derive(Deserialize)]
struct Line {
    subject: String,
    group: String,
    value: Decimal,
}

fn simulate(workload: &str, job: &str, options: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    server.cli_ok(&["topic", "create", workload, "--partitions", "3"]);
    let text = std::fs::read_to_string(format!("{}/jobs/{job}.toml", env!("CARGO_MANIFEST_DIR"))).unwrap();
    // `top` limits what is shown, and here all is compared.
    let text: String = text.lines().filter(|line| !line.starts_with("top ")).map(|line| format!("{line}\n")).collect();
    server.http.submit(&text);
    let expect = dir.path().join("expect.json");
    let feed = ["feed", "simulate", workload, "--records", "20000", "--expect", expect.to_str().unwrap()];
    server.cli_ok(&[&feed, options].concat());
    let expect: Expect = serde_json::from_slice(&std::fs::read(&expect).unwrap()).unwrap();
    assert!(expect.records >= 20_000);

    let tallies = server.http.tallies_of(job, expect.records);
    let lines: BTreeMap<_, _> = expect.lines.into_iter().map(|l| ((l.subject, l.group), l.value)).collect();
    assert_eq!(Board::of(&tallies).lines, lines);
    let (a, e) = (tallies.accounting, expect.accounting);
    assert_eq!((a.read, a.irrelevant), (e.read, e.irrelevant));
    assert_eq!((a.matched, a.claims, a.counted), (e.matched, e.claims, e.counted));
    assert_eq!(a.superseded + a.duplicate + a.late, e.superseded_duplicate_late);
    assert!(a.superseded > 0 && a.duplicate > 0, "the feed changes and repeats nothing: {a:?}");
    server.http.recount(job);
}

#[test]
fn simulated_posts_come_to_what_the_feed_says() {
    simulate("posts", "hashtags", &["--subject", "hashtags", "--seed", "3"]);
}

#[test]
fn simulated_votes_come_to_what_the_feed_says() {
    simulate("votes", "votes", &["--seed", "4"]);
}

/// A poll's total, claims, claims that count, and lines.
type Poll = (Decimal, u64, u64, BTreeMap<String, Decimal>);

#[test]
fn simulated_posts_come_to_what_the_feed_says_of_polls() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    server.cli_ok(&["topic", "create", "posts", "--partitions", "3"]);
    server.cli_ok(&["topic", "create", "votes", "--partitions", "1"]);
    server.http.submit(include_str!("../../jobs/polls.toml"));
    server.http.wait_for_state("polls", "running");
    let create = |id: &str, options: &[&str], more: &[&str]| {
        let options = options.iter().flat_map(|option| ["--option", option]);
        let common = ["poll", "create", id, "--opens", "2026-01-01T00:00:00Z"];
        server.cli_ok(&common.into_iter().chain(options).chain(more.iter().copied()).collect::<Vec<_>>());
    };
    // One is there before the posts are, the other is counted from them afterwards.
    create("moods", &["happy", "sad", "success", "fail"], &[]);
    let expect = dir.path().join("expect.json");
    let feed = ["feed", "simulate", "posts", "--records", "20000", "--authors", "2000", "--seed", "5", "--expect"];
    server.cli_ok(&[&feed[..], &[expect.to_str().unwrap()]].concat());
    let languages =
        ["Rust", "C++", "Python", "C", "Go", "Java", "JavaScript", "C#", "TypeScript", "Visual Basic", "F#"];
    create("languages", &languages, &["--entity", "author", "--choices", "one"]);

    let expect: Expect = serde_json::from_slice(&std::fs::read(&expect).unwrap()).unwrap();
    let expected: BTreeMap<String, Poll> = (expect.polls.into_iter())
        .map(|(id, poll)| {
            let lines = poll.lines.into_iter().map(|line| (line.group, line.value)).collect();
            (id, (poll.total, poll.claims, poll.counted, lines))
        })
        .collect();
    let all = eventually("both polls", || {
        let subjects = server.http.tallies_of("polls", expect.records).subjects;
        let shown = subjects.into_iter().map(|s| {
            let lines = s.tallies.iter().map(|line| (line.group.text(), line.value)).collect();
            (s.subject, (s.total.unwrap(), s.claims, s.counted, lines))
        });
        Some(shown.collect::<BTreeMap<String, Poll>>()).filter(|polls| polls.len() == 2)
    });
    assert_eq!(all, expected);
    server.http.recount("polls");
}
