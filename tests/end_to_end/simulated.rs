//! `feed simulate --expect` against the jobs that stand in `jobs/`: what the feed says must come out
//! does, with duplicates, changes of mind, edits, reordered and late records among it.

use crate::support::{Board, Server};
use serde::Deserialize;
use std::collections::BTreeMap;
use tallyflow_dataflows::number::Decimal;

#[derive(Deserialize)]
struct Expect {
    records: u64,
    accounting: Expected,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Expected {
    read: u64,
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
    assert_eq!((a.read, a.matched, a.claims, a.counted), (e.read, e.matched, e.claims, e.counted));
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
