//! What the feed says of two polls, against a fold over its records with a matcher that looks for each
//! option in each text, and against the engine.

use super::*;
use std::sync::Arc;
use std::time::Duration;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::recount::{Recount, RecountError};
use tallyflow_dataflows::results::Filter;
use tallyflow_dataflows::spec::polls::{Choices, Match, Person, Poll, PollInForce, PollsSpec, Reposts};
use tallyflow_dataflows::spec::{Bound, Dataflow, InputSpec, JobSpec, Keep};
use tallyflow_dataflows::testing::{Bench, MemoryLog, MemoryRecord};

/// Where an option is in a text, as words or as a hashtag, with no letter, digit, `+` or `#` beside it.
fn place_of(option: &str, text: &str) -> Option<usize> {
    let (text, option) = (text.to_lowercase(), option.to_lowercase());
    let adjoins = |c: char| c.is_alphanumeric() || matches!(c, '+' | '#' | '_');
    // An apostrophe or a full stop between two letters parts no word.
    let joins = |c: char| matches!(c, '\'' | '.');
    let alone = |start: usize, end: usize| {
        let (before, mut behind) = (text[..start].chars().next_back(), text[end..].chars());
        let behind = (behind.next(), behind.next());
        let continued = behind.0.is_some_and(joins) && behind.1.is_some_and(char::is_alphanumeric);
        !before.is_some_and(adjoins) && !behind.0.is_some_and(adjoins) && !continued
    };
    let places = |what: String| {
        let all: Vec<_> = text.match_indices(&what).map(|(at, _)| at).collect();
        all.into_iter().filter(move |at| alone(*at, at + what.len())).min()
    };
    let tag = format!("#{}", option.replace(' ', ""));
    places(option).into_iter().chain(places(tag)).min()
}

/// Counts of a poll: claims, counted, and each option's.
type Counts = (u64, u64, BTreeMap<String, u64>);

fn lines(options: &[&str], said: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let mut lines: BTreeMap<_, _> = options.iter().map(|option| ((*option).to_owned(), 0)).collect();
    said.for_each(|option| *lines.get_mut(&option).unwrap() += 1);
    lines
}

/// Both polls by a fold over the records: `moods`, then `languages`.
fn fold_polls(sent: &Sent) -> [Counts; 2] {
    let all = sent.records.iter().map(|(_, value, at_ms)| (*at_ms, serde_json::from_slice::<Value>(value).unwrap()));
    let speaks = |value: &Value| value["repost"] != true && !value["text"].is_null();
    let said = |value: &Value, options: &[&str]| -> Vec<String> {
        let text = value["text"].as_str().filter(|_| speaks(value)).unwrap_or_default();
        let mut found: Vec<_> = options.iter().filter_map(|o| Some((place_of(o, text)?, (*o).to_owned()))).collect();
        found.sort();
        found.into_iter().map(|(_, option)| option).collect()
    };
    let (mut moods_claims, mut languages_claims) = (0, 0);
    let mut newest: HashMap<String, (i64, Value)> = HashMap::new();
    for (at, value) in all {
        moods_claims += u64::from(!said(&value, &MOODS).is_empty());
        languages_claims += u64::from(!said(&value, &LANGUAGES).is_empty());
        let id = value["id"].as_str().unwrap().to_owned();
        if newest.get(&id).is_none_or(|(before, _)| *before <= at) {
            newest.insert(id, (at, value));
        }
    }
    let moods: Vec<_> = newest.values().map(|(_, value)| said(value, &MOODS)).filter(|said| !said.is_empty()).collect();
    let mut authors: HashMap<String, (i64, String)> = HashMap::new();
    for (at, value) in newest.values() {
        let Some(language) = said(value, &LANGUAGES).into_iter().next() else { continue };
        let of_author = authors.entry(value["author"].to_string()).or_insert((i64::MIN, String::new()));
        assert_ne!(of_author.0, *at, "which is the newest would be a matter of the log");
        if of_author.0 < *at {
            *of_author = (*at, language);
        }
    }
    [
        (moods_claims, moods.len() as u64, lines(&MOODS, moods.into_iter().flatten())),
        (languages_claims, authors.len() as u64, lines(&LANGUAGES, authors.into_values().map(|(_, said)| said))),
    ]
}

fn expected(sent: &Sent, poll: &str) -> Counts {
    let expect = &sent.expect.polls[poll];
    assert_eq!(expect.total, Decimal::from_int(expect.lines.iter().map(|l| l.value.to_i64().unwrap()).sum()));
    assert!(expect.lines.iter().all(|line| line.subject == poll));
    let lines = expect.lines.iter().map(|line| (line.group.clone(), line.value.to_i64().unwrap() as u64));
    (expect.claims, expect.counted, lines.collect())
}

/// Few authors, many of whom have several posts, much changed: every rule has its cases.
fn crowd(seed: u64) -> SimulateOptions {
    SimulateOptions { authors: 700, changes: 0.2, deletions: 0.1, reposts: 0.1, ..options(seed, 10_000) }
}

#[test]
fn what_the_polls_must_show_equals_a_fold_over_the_records() {
    let all = (0..3).map(|seed| options(seed, 10_000)).chain((4..8).map(crowd)).chain([
        // All in one millisecond, by ten authors.
        SimulateOptions { rate: 1e9, authors: 10, ..crowd(8) },
        SimulateOptions { hashtags: 1, ..crowd(9) },
        SimulateOptions { changes: 0.0, deletions: 1.0, ..crowd(10) },
        SimulateOptions { records: Some(1), ..crowd(11) },
    ]);
    for options in all {
        let seed = options.seed;
        let sent = send(Workload::Posts, options);
        let [moods, languages] = fold_polls(&sent);
        assert_eq!(expected(&sent, "moods"), moods, "{seed}");
        assert_eq!(expected(&sent, "languages"), languages, "{seed}");
    }
}

#[test]
fn posts_speak_of_everything_in_every_way() {
    let sent = send(Workload::Posts, options(12, 50_000));
    let text: String = sent.records.iter().map(|(_, value, _)| String::from_utf8_lossy(value)).collect();
    for some in ["I write C++ not C.", "#rust", "#RUST", "#VisualBasic", "visual basic", "#C#", "SAD", "#FAIL", "happy"]
    {
        assert!(text.contains(some), "nobody says {some:?}");
    }
    let (claims, counted, lines) = expected(&sent, "moods");
    assert!(claims > counted && lines.values().sum::<u64>() > counted, "two moods in one post: {lines:?}");
    assert!(lines.values().all(|n| *n > 500), "{lines:?}");
    let (claims, counted, lines) = expected(&sent, "languages");
    assert!(claims > counted + counted / 4, "authors change their minds: {counted} of {claims}");
    assert!(lines.values().all(|n| *n > 20), "{lines:?}");
    let of_all = |what: &str| text.matches(what).count() as f64 / sent.records.len() as f64;
    assert!((0.02..0.04).contains(&of_all(r#""repost":true"#)), "{}", of_all(r#""repost":true"#));
    assert!((0.02..0.04).contains(&of_all(r#""text":null"#)), "{}", of_all(r#""text":null"#));
}

#[test]
fn a_poll_without_a_vote_has_its_lines_all_the_same() {
    let sent = send(Workload::Posts, SimulateOptions { records: Some(0), ..options(13, 0) });
    let (claims, counted, lines) = expected(&sent, "languages");
    assert_eq!((claims, counted, lines.len()), (0, 0, LANGUAGES.len()));
    assert!(lines.values().all(|n| *n == 0));
}

#[test]
fn the_engine_and_a_recount_come_to_what_the_feed_says() {
    let sent = send(Workload::Posts, crowd(14));
    let log = MemoryLog::default();
    log.create("posts", 3);
    for (key, value, _) in &sent.records {
        let partition = crate::log::partition_of(key, 3).0 as usize;
        log.append("posts", partition, [MemoryRecord { timestamp_ms: 4_000_000_000_000, value: value.clone() }]);
    }
    let input = InputSpec { topic: "posts".into(), format: "post".into(), from: Bound::Beginning, until: None };
    let spec = PollsSpec {
        matching: Match::Word,
        choices: Choices::Many,
        keep: Keep::All,
        entity: None,
        reposts: Reposts::Ignore,
        grace: Duration::from_secs(300),
        ahead: Duration::from_secs(3_600),
    };
    let (name, dataflow) = ("polls".into(), Dataflow::Polls(spec));
    let job = JobSpec { name, dataflow, inputs: vec![input], sinks: vec![], voids: Default::default() };
    let moods = Poll {
        id: "moods".into(),
        title: "Moods".into(),
        options: MOODS.map(str::to_owned).into(),
        matching: Match::Word,
        choices: Choices::Many,
        keep: Keep::All,
        entity: None,
        reposts: Reposts::Ignore,
        opens_ns: 0,
        closes_ns: None,
        grace: Duration::from_secs(300),
    };
    let languages = Poll {
        id: "languages".into(),
        options: LANGUAGES.map(str::to_owned).into(),
        choices: Choices::One,
        keep: Keep::Last,
        entity: Some(Person::Author),
        ..moods.clone()
    };
    let polls = [moods, languages].map(|poll| PollInForce { poll, version: 1, from: vec![] });
    let formats = Arc::new(crate::decode::BuiltinFormats);
    let recounted = Recount::with_polls(&job, formats.as_ref(), &polls).over(|recount| {
        for partition in 0..3 {
            for (offset, MemoryRecord { timestamp_ms, value }) in (0..).zip(log.records("posts", partition)) {
                let (partition, offset) = (PartitionId(partition as u32), Offset(offset));
                recount.record(0, &RecordRef { partition, offset, timestamp_ms, key: None, value: Some(&value) });
            }
        }
        Ok::<_, RecountError>(())
    });
    let recounted = recounted.unwrap();
    for (subject, counts) in &recounted.subjects {
        let lines = recounted.lines.iter().filter(|((of, _), _)| of == subject);
        let lines = lines.map(|((_, group), values)| (group.clone(), values[0].unwrap().to_i64().unwrap() as u64));
        assert_eq!((counts.claims, counts.counted, lines.collect()), expected(&sent, subject), "recount of {subject}");
    }
    assert_eq!(recounted.subjects.len(), 2);

    let mut bench = Bench::start_polls(&job, polls.into(), Arc::new(log), formats, 2);
    bench.run_to(sent.records.len() as u64, Duration::from_secs(60));
    assert_eq!(bench.failed, None);
    let shown = bench.results.snapshot(&Filter::default()).unwrap();
    for poll in shown.subjects {
        let lines = poll.tallies.iter().map(|t| (t.group.text(), t.value.to_string().parse().unwrap()));
        assert_eq!((poll.claims, poll.counted, lines.collect()), expected(&sent, &poll.subject), "{}", poll.subject);
    }
}
