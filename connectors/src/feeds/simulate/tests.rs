//! The generator held against what a reader of its records finds.

mod polls;

use super::*;
use crate::feeds::pace::parse_time_ms;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use tallyflow_dataflows::number::Decimal;

const ALL: [Workload; 3] = [Workload::Posts, Workload::Votes, Workload::Orders];

struct Sent {
    records: Vec<(Vec<u8>, Vec<u8>, i64)>,
    expect: Expect,
}

fn send(workload: Workload, options: SimulateOptions) -> Sent {
    let mut simulation = Simulation::new(workload, options);
    let mut records = Vec::new();
    while let Some(record) = simulation.generate() {
        records.push((record.key.to_vec(), record.value.to_vec(), record.at_ms));
    }
    Sent { records, expect: simulation.expect().unwrap() }
}

fn options(seed: u64, records: u64) -> SimulateOptions {
    SimulateOptions { seed, records: Some(records), voters: 5000, late_span: 500, ..SimulateOptions::default() }
}

/// The newest record of each entity decides; no other code is shared with the generator.
fn fold(workload: Workload, sent: &Sent) -> (u64, BTreeMap<(String, String), Decimal>) {
    let mut newest: HashMap<String, (i64, Value)> = HashMap::new();
    for (key, value, at_ms) in &sent.records {
        let value: Value = serde_json::from_slice(value).unwrap();
        let (id, at) = match workload {
            Workload::Posts => ("id", "at"),
            Workload::Votes => ("voter", "at"),
            Workload::Orders => ("order_id", "updated_at"),
        };
        let (id, at) = (value[id].as_str().unwrap().to_owned(), parse_time_ms(value[at].as_str().unwrap()).unwrap());
        assert_eq!((id.as_bytes(), at), (&key[..], *at_ms));
        match newest.get(&id) {
            Some((before, other)) if *before == at => assert_eq!(*other, value, "a tie that is no redelivery"),
            Some((before, _)) if *before > at => {}
            _ => drop(newest.insert(id, (at, value))),
        }
    }
    let mut lines = BTreeMap::new();
    newest.retain(|_, (_, value)| !value["text"].is_null() || workload != Workload::Posts);
    for (_, value) in newest.values() {
        let text = |name: &str| value[name].as_str().unwrap().to_owned();
        let groups: HashSet<(String, String)> = match workload {
            Workload::Posts => {
                let tags = hashtags(value["text"].as_str().unwrap()).into_iter();
                tags.map(|tag| ("hashtags".to_owned(), tag)).collect()
            }
            Workload::Votes if value["option"].is_null() => HashSet::new(),
            Workload::Votes => HashSet::from([(text("poll"), text("option"))]),
            Workload::Orders => HashSet::from([(text("region"), text("country"))]),
        };
        let add = match workload {
            Workload::Orders => Decimal::parse_json(&value["amount"].to_string()).unwrap(),
            _ => Decimal::ONE,
        };
        for group in groups {
            let sum = lines.entry(group).or_insert(Decimal::ZERO);
            *sum = Decimal::from_units(sum.units() + add.units());
        }
    }
    (newest.len() as u64, lines)
}

fn is_deletion(value: &[u8]) -> bool {
    String::from_utf8_lossy(value).contains(r#""text":null"#)
}

/// The hashtags of a text, in lower case: a sign not behind a word, a word, and no other sign.
fn hashtags(text: &str) -> Vec<String> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let tag = |(at, _): (usize, &str)| {
        let rest = &text[at + 1..];
        let word = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
        let is_one = !text[..at].ends_with(is_part) && !rest[word.len()..].starts_with('#') && !word.is_empty();
        is_one.then(|| word.to_lowercase())
    };
    text.match_indices('#').filter_map(tag).collect()
}

#[test]
fn the_expected_lines_equal_a_fold_over_the_records() {
    for workload in ALL {
        for seed in 0..6 {
            let sent = send(workload, options(seed, 20_000 + seed));
            let (entities, lines) = fold(workload, &sent);
            let expected: BTreeMap<_, _> =
                sent.expect.lines.iter().map(|l| ((l.subject.clone(), l.group.clone()), l.value)).collect();
            assert_eq!(expected, lines, "{workload:?} {seed}");
            assert_eq!(sent.expect.lines.len(), expected.len(), "no line twice");
            assert!(sent.expect.lines.is_sorted());
            assert_eq!(sent.records.len() as u64, 20_000 + seed);
            assert_eq!(sent.expect.accounting.read, 20_000 + seed);
            let deletions = sent.records.iter().filter(|(_, value, _)| is_deletion(value)).count() as u64;
            assert_eq!(sent.expect.accounting.irrelevant, deletions);
            assert_eq!(sent.expect.accounting.matched, 20_000 + seed - deletions);
            assert_eq!(sent.expect.accounting.claims, 20_000 + seed - deletions);
            assert_eq!(sent.expect.accounting.counted, entities);
            assert_eq!(sent.expect.accounting.superseded_duplicate_late, 20_000 + seed - deletions - entities);
        }
    }
}

#[test]
fn a_seed_gives_the_same_bytes_and_another_gives_others() {
    for workload in ALL {
        let (a, b, c) =
            (send(workload, options(1, 3000)), send(workload, options(1, 3000)), send(workload, options(2, 3000)));
        assert!(a.records == b.records && a.expect == b.expect);
        assert!(a.records != c.records);
    }
    let mut first = Simulation::new(Workload::Votes, SimulateOptions::default());
    assert_eq!(
        String::from_utf8_lossy(first.generate().unwrap().value),
        r#"{"poll":"poll-1","voter":"v00000000","option":"candidate-3","at":"2026-11-21T10:00:00.000Z"}"#,
        "the bytes of a seed are promised from one version to the next"
    );
}

#[test]
fn proportions_are_as_stated() {
    for workload in ALL {
        let sent = send(workload, SimulateOptions { voters: 1_000_000, ..options(3, 200_000) });
        let near = |n: usize, of: usize, share: f64| {
            let found = n as f64 / of as f64;
            assert!((found - share).abs() < 0.1 * share + 0.001, "{workload:?}: {found} should be {share}");
        };
        let distinct: HashSet<_> = sent.records.iter().map(|(_, value, _)| value).collect();
        let keys: HashSet<_> = sent.records.iter().map(|(key, _, _)| key).collect();
        near(sent.records.len() - distinct.len(), distinct.len(), 0.02);
        let deletions = distinct.iter().filter(|value| is_deletion(value)).count();
        // A few are to change a post that is deleted already, and come to nothing.
        let of_posts = if workload == Workload::Posts { 0.97 } else { 1.0 };
        near(distinct.len() - keys.len() - deletions, distinct.len(), 0.1 * of_posts);
        near(deletions, distinct.len(), if workload == Workload::Posts { 0.027 } else { 0.0 });
        // Behind a record that was made later by more than the clock moves between two records.
        let mut seen = HashSet::new();
        let (mut newest, mut behind, mut late) = (i64::MIN, 0, 0);
        for (_, value, at_ms) in &sent.records {
            if seen.insert(value) {
                behind += (*at_ms < newest) as usize;
                late += (*at_ms + 400 < newest) as usize;
            }
            newest = newest.max(*at_ms);
        }
        near(late, distinct.len(), 0.005);
        near(behind, distinct.len(), 0.055);
        let bytes = sent.records.iter().map(|(_, value, _)| value.len()).sum::<usize>() / sent.records.len();
        let range = match workload {
            Workload::Posts => 260..340,
            Workload::Votes => 90..111,
            Workload::Orders => 120..200,
        };
        assert!(range.contains(&bytes), "{workload:?}: {bytes} bytes");
    }
}

#[test]
fn options_follow_zipfs_law_and_some_votes_are_withdrawn() {
    let sent = send(Workload::Votes, SimulateOptions { polls: 1, voters: 1_000_000, ..options(4, 100_000) });
    let mut counts: Vec<_> = sent.expect.lines.iter().map(|l| l.value.to_f64()).collect();
    counts.sort_by(|a, b| b.total_cmp(a));
    for (k, count) in counts.iter().enumerate() {
        let expected = counts[0] / (k + 1) as f64;
        assert!((count - expected).abs() < 0.1 * expected, "{k}: {count} should be near {expected}");
    }
    let text = |value: &[u8]| String::from_utf8_lossy(value).contains("\"option\":null");
    let withdrawn = sent.records.iter().filter(|(_, value, _)| text(value)).count();
    assert!((900..1100).contains(&withdrawn), "{withdrawn}");
}

#[test]
fn without_mishaps_every_record_is_fresh_and_in_order() {
    let calm = SimulateOptions {
        duplicates: 0.0,
        changes: 0.0,
        deletions: 0.0,
        reordered: 0.0,
        late: 0.0,
        // Of one author no two posts name a language at the same time: they would be moved apart.
        rate: 1.0,
        ..options(5, 5000)
    };
    for workload in ALL {
        let sent = send(workload, calm.clone());
        assert!(sent.records.is_sorted_by_key(|(_, _, at_ms)| *at_ms));
        assert_eq!(sent.expect.accounting.counted, 5000);
    }
    let crowded = SimulateOptions { rate: 1e9, voters: 10, ..options(6, 5000) };
    let sent = send(Workload::Votes, crowded);
    assert_eq!(fold(Workload::Votes, &sent).0, 10, "no ties, however many claims there are in a millisecond");
}

#[test]
fn a_stopped_simulation_sends_what_waits_and_only_then_knows_the_outcome() {
    let mut simulation =
        Simulation::new(Workload::Posts, SimulateOptions { records: None, late: 0.1, ..options(7, 0) });
    let mut sent = Vec::new();
    for _ in 0..5000 {
        let record = simulation.generate().unwrap();
        sent.push((record.key.to_vec(), record.value.to_vec(), record.at_ms));
    }
    assert_eq!(simulation.expect(), None);
    simulation.stop();
    assert_eq!(simulation.expect(), None);
    while let Some(record) = simulation.generate() {
        sent.push((record.key.to_vec(), record.value.to_vec(), record.at_ms));
    }
    let expect = simulation.expect().unwrap();
    assert!(sent.len() > 5000 && expect.records == sent.len() as u64);
    let sent = Sent { records: sent, expect };
    assert_eq!(fold(Workload::Posts, &sent).1.len(), sent.expect.lines.len());
}

#[test]
fn an_expectation_is_written_as_json_with_exact_values() {
    let sent = send(Workload::Orders, options(8, 500));
    let json = serde_json::to_string(&sent.expect).unwrap();
    assert!(
        json.starts_with(r#"{"workload":"orders","seed":8,"records":500,"accounting":{"read":500,"irrelevant":0,"#)
    );
    assert!(!json.contains("polls"), "{json}");
    let line = &sent.expect.lines[0];
    let written = format!(r#"{{"subject":"{}","group":"{}","value":{}}}"#, line.subject, line.group, line.value);
    assert!(json.contains(&written), "{json}");
}

#[test]
fn options_that_make_no_sense_are_named() {
    assert_eq!(SimulateOptions::default().check(), Ok(()));
    let fault = |options: SimulateOptions| options.check().unwrap_err();
    let default = SimulateOptions::default;
    assert!(fault(SimulateOptions { late: 1.5, ..default() }).starts_with("late must be"));
    assert!(fault(SimulateOptions { changes: f64::NAN, ..default() }).starts_with("changes must be"));
    assert!(fault(SimulateOptions { deletions: -0.1, ..default() }).starts_with("deletions must be"));
    assert!(fault(SimulateOptions { rate: 0.0, ..default() }).starts_with("rate must be"));
    assert!(fault(SimulateOptions { polls: 0, ..default() }).starts_with("polls must be"));
    assert!(fault(SimulateOptions { hashtags: 70_000, ..default() }).starts_with("hashtags must be"));
}
