//! What is generated: a job file and records, from so few names and times that they meet all the time.

use super::{Bytes, Case, Chunk, Record, TOPICS, Then, What};
use proptest::prelude::*;

fn text(options: &'static [(u32, &'static str)]) -> impl Strategy<Value = String> {
    let options = options.iter().map(|(weight, text)| (*weight, Just((*text).to_owned())));
    prop::strategy::Union::new_weighted(options.collect())
}

/// A JSON member; an empty text leaves it out.
const SUBJECTS: &[(u32, &str)] =
    &[(12, r#""s0""#), (6, r#""s1""#), (1, r#""""#), (1, "7"), (1, "true"), (1, "null"), (1, ""), (1, "{}"), (1, "[]")];
const GROUPS: &[(u32, &str)] = &[
    (9, r#""g0""#),
    (9, r#""g1""#),
    (6, r#""g2""#),
    (4, "null"),
    (2, r#""""#),
    (2, "1"),
    (1, "1.0"),
    (1, "false"),
    (2, r#"["g0","g1"]"#),
    (2, r#"["g1","g0"]"#),
    (2, r#"["g0","g0",null]"#),
    (1, r#"[null]"#),
    (1, "[]"),
    (1, r#"["g0",{}]"#),
    (1, "{}"),
    (1, ""),
];
const ENTITIES: &[(u32, &str)] =
    &[(12, r#""e0""#), (12, r#""e1""#), (6, r#""e2""#), (3, r#""""#), (1, "5"), (1, "null"), (1, ""), (1, "[1]")];
const TIMES: &[(u32, &str)] = &[
    (8, "1000"),
    (8, "1001"),
    (8, "1002"),
    (3, "990"),
    (2, r#""1970-01-01T00:00:01.0005Z""#),
    (2, r#""1970-01-01 00:00:01""#),
    (1, "3700000"),
    (1, r#""soon""#),
    (1, "null"),
    (1, ""),
];
const VALUES: &[(u32, &str)] = &[
    (6, "1"),
    (6, "2"),
    (4, "-3"),
    (2, "0"),
    (2, "0.5"),
    (2, "-0.000000000000000001"),
    (2, "12345678901234567.123456789012345678"),
    (2, "1.000000000000000002e0"),
    (1, "0.0000000000000000001"),
    (1, "1e21"),
    (1, r#""2""#),
    (1, "null"),
    (1, ""),
];
const MARKS: &[(u32, &str)] =
    &[(6, r#""x""#), (6, r#""y""#), (4, "1"), (2, r#""1""#), (2, "true"), (1, "null"), (1, "[]"), (1, "")];
const FLAGS: &[(u32, &str)] = &[(10, "1"), (5, "2"), (2, "0"), (1, r#""no""#), (1, "")];
/// A post without a text was deleted; one whose text is a number is no message to the plain decoder.
const TEXTS: &[(u32, &str)] = &[(12, ""), (4, r#""t""#), (4, "null"), (1, "7")];
const IDS: &[(u32, &str)] = &[(6, r#""i0""#), (6, r#""i1""#), (3, r#""i2""#), (1, "null"), (6, "")];

fn event() -> impl Strategy<Value = String> {
    let names = (text(SUBJECTS), text(GROUPS), text(GROUPS), text(ENTITIES), text(ENTITIES));
    let rest = (text(TIMES), text(VALUES), text(VALUES), text(MARKS), text(MARKS), text(FLAGS), text(IDS), text(TEXTS));
    (names, rest).prop_map(|((s, g, h, e, f), (t, v, w, x, y, k, id, text))| {
        let members =
            [("s", s), ("g", g), ("h", h), ("e", e), ("f", f), ("t", t), ("v", v), ("w", w), ("x", x), ("y", y)];
        let members =
            members.into_iter().chain([("k", k), ("id", id), ("text", text)]).filter(|(_, value)| !value.is_empty());
        let members: Vec<String> = members.map(|(name, value)| format!("{name:?}:{value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

fn record() -> impl Strategy<Value = Record> {
    let bytes = prop_oneof![
        16 => event().prop_map(Bytes::Of),
        4 => (0..8usize).prop_map(Bytes::Again),
        1 => prop_oneof![Just("{"), Just("[1]"), Just(""), Just("\u{fffd}")].prop_map(|t| Bytes::Of(t.to_owned())),
    ];
    (0..TOPICS.len(), 0..6usize, 0..3i64, bytes).prop_map(|(topic, partition, after_ms, value)| Record {
        topic,
        partition,
        after_ms,
        value,
    })
}

fn what() -> impl Strategy<Value = What> {
    let entity = prop::sample::select(
        ["e0", "e1", "", "5", "i0", "i1", r#"["e0","e1"]"#, r#"["e1","e0"]"#, r#"["e0","e0"]"#].as_slice(),
    );
    let expression = prop::sample::select(
        ["event.k == 1", "event.g == 'g0'", "has(event.t) && event.t == 1001", "event.e == 'e0' || event.id == 'i0'"]
            .as_slice(),
    );
    prop_oneof![
        3 => entity.prop_map(What::Entity),
        2 => (0..TOPICS.len(), 0..6usize, 0..16u64, 1..17u64).prop_map(|(t, p, from, to)| What::Offsets(t, p, from, to)),
        2 => expression.prop_map(What::Where),
    ]
}

fn chunks() -> impl Strategy<Value = Vec<Chunk>> {
    let then = prop_oneof![
        3 => Just(Then::Nothing),
        3 => Just(Then::Wait),
        3 => any::<bool>().prop_map(Then::Checkpoint),
        2 => (1..5usize).prop_map(Then::Restart),
        1 => Just(Then::Pause),
        2 => what().prop_map(Then::Void),
        1 => (1..4usize).prop_map(Then::Unvoid),
    ];
    let chunk = (prop::collection::vec(record(), 1..14), then);
    prop::collection::vec(chunk.prop_map(|(records, then)| Chunk { records, then }), 1..8)
}

/// The lines of `[[input]]` and of the entity and its keep rule, which depend on each other.
fn inputs_and_keep() -> impl Strategy<Value = (String, String)> {
    let topics = prop::collection::vec(prop::sample::select(TOPICS.as_slice()), 1..4);
    let formats = prop_oneof![
        Just(["json", "json", "json"]),
        Just(["vote", "vote", "vote"]),
        Just(["vote", "json", "vote"]),
        Just(["post", "post", "post"]),
    ];
    let entity = prop_oneof![Just(r#""/e""#), Just(r#"["/e", "/f"]"#)];
    let keep = prop_oneof![
        2 => Just(""),
        3 => Just("keep = 'last'"),
        2 => Just("keep = 'first'"),
        2 => Just("keep = 'first-n'\nn = 2"),
        1 => Just("keep = 'first-n'\nn = 1"),
    ];
    (topics, formats, entity, keep).prop_map(|(topics, formats, entity, keep)| {
        let inputs = topics.iter().zip(formats).map(|(t, f)| format!("[[input]]\ntopic = '{t}'\nformat = '{f}'\n"));
        let keep = match (keep, formats[0]) {
            ("", _) | ("keep = 'first'" | "keep = 'first-n'\nn = 2", "post") => String::new(),
            // Of messages only the last can be kept.
            (_, "post") => format!("entity = {entity}\nkeep = 'last'\n"),
            (keep, _) => format!("entity = {entity}\n{keep}\n"),
        };
        (inputs.collect(), keep)
    })
}

fn entries() -> impl Strategy<Value = String> {
    let group = prop_oneof![3 => Just("group = '/g'\n"), 2 => Just("group = ['/g', '/h']\n"), 1 => Just("group = '/h'\n"), 1 => Just("")];
    let value = prop_oneof![
        3 => Just("value = '/v'\n"),
        2 => Just("value = '-/v'\n"),
        1 => Just("value = '/w'\n"),
        3 => Just("")
    ];
    let entry = (group, value).prop_map(|(group, value)| format!("{group}{value}"));
    prop_oneof![
        2 => entry.clone(),
        1 => prop::collection::vec(entry, 1..4)
            .prop_map(|all| all.iter().map(|entry| format!("[[tally.entry]]\n{entry}")).collect()),
    ]
}

fn aggregates() -> impl Strategy<Value = String> {
    let all = ["count", "sum", "min", "max", "avg", "last", "distinct:/x", "distinct:/y", "distinct:/g"];
    // Shuffled, since the first of them is the value in the answers.
    let some = prop::sample::subsequence(all.to_vec(), 1..=all.len()).prop_shuffle();
    prop_oneof![
        2 => Just(String::new()),
        1 => prop_oneof![Just("aggregates = ['count']\n"), Just("aggregates = ['sum']\n")].prop_map(str::to_owned),
        3 => some.prop_map(|some| format!("aggregates = {some:?}\n")),
    ]
}

fn job() -> impl Strategy<Value = String> {
    let subject = prop_oneof![Just(""), Just("subject = '/s'\n"), Just("subject = ['/s', '/k']\n")];
    let order = prop_oneof![2 => Just(""), 2 => Just("order = '/t'\n"), 1 => Just("order = '/t'\nahead = '0s'\n")];
    let filter = prop_oneof![
        3 => Just(""),
        1 => Just("where = 'event.k == 1'\n"),
        1 => Just("where = 'event.k > 0'\n"),
        1 => Just("where = \"has(event.k) && event.g != 'g2'\"\n"),
    ];
    let top = prop_oneof![3 => Just(""), 1 => Just("top = 2\n")];
    (inputs_and_keep(), subject, order, filter, aggregates(), top, entries()).prop_map(
        |((inputs, keep), subject, order, filter, aggregates, top, entries)| {
            format!(
                "name = 'job'\ndataflow = 'tally'\n{inputs}[tally]\n{subject}{keep}{order}{filter}{aggregates}{top}{entries}"
            )
        },
    )
}

pub fn case() -> impl Strategy<Value = Case> {
    (job(), [1..4usize, 1..3usize], chunks()).prop_map(|(job, partitions, chunks)| Case { job, partitions, chunks })
}
