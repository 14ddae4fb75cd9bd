//! Each rule by hand: a few records, and what must come out.

use super::*;
use crate::decode::{Decoded, Decoder, Event, FormatInfo, Needs, Reject, Value};
use crate::ids::{Offset, PartitionId};
use crate::spec::{JobFile, Surroundings};
use proptest::prelude::*;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap as Map;

/// JSON, read without any cleverness; numbers keep their text.
struct Json(Needs);

impl Decoder for Json {
    fn decode<'a>(&mut self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<Decoded, Reject> {
        let raw: &RawValue = serde_json::from_slice(record.value.ok_or(Reject("is a tombstone".into()))?)
            .map_err(|_| Reject("is no JSON".into()))?;
        let whole = value(raw.get());
        for pointer in self.0.pointers() {
            let found = pointer.tokens().iter().try_fold(&whole, |at, token| match at {
                Value::Object(members) => members.iter().find(|(name, _)| name == token).map(|(_, v)| v),
                Value::Array(elements) => token.parse::<usize>().ok().and_then(|i| elements.get(i)),
                _ => None,
            });
            event.slots.push(found.cloned());
        }
        Ok(match &whole {
            Value::Object(members) if members.contains(&("text".into(), Value::Null)) => Decoded::Deleted,
            Value::Object(members) if members.contains(&("like".into(), Value::Bool(true))) => {
                Decoded::Irrelevant("a like")
            }
            _ => Decoded::Event,
        })
    }
}

fn value(text: &str) -> Value<'static> {
    match text.as_bytes()[0] {
        b'n' => Value::Null,
        b't' | b'f' => Value::Bool(text == "true"),
        b'"' => Value::Text(Cow::Owned(serde_json::from_str(text).unwrap())),
        b'[' => {
            let elements: Vec<&RawValue> = serde_json::from_str(text).unwrap();
            Value::Array(elements.iter().map(|e| value(e.get())).collect())
        }
        b'{' => {
            let members: Map<String, &RawValue> = serde_json::from_str(text).unwrap();
            Value::Object(members.into_iter().map(|(k, v)| (Cow::Owned(k), value(v.get()))).collect())
        }
        _ => Value::Number(Cow::Owned(text.to_string())),
    }
}

pub(super) struct TestFormats;

impl Formats for TestFormats {
    fn all(&self) -> &[FormatInfo] {
        &[
            FormatInfo { name: "json", message_id: None, claim_id: None },
            FormatInfo { name: "post", message_id: Some("/id"), claim_id: None },
            FormatInfo { name: "vote", message_id: None, claim_id: Some("/id") },
        ]
    }

    fn decoder(&self, _: &str, needs: &Needs) -> Box<dyn Decoder> {
        Box::new(Json(needs.clone()))
    }
}

pub(super) fn job(format: &str, tally: &str) -> JobSpec {
    let text = format!(
        "name = 'job'\ndataflow = 'tally'\n[[input]]\ntopic = 't'\nformat = '{format}'\n[[input]]\ntopic = 't'\nformat = \
         '{format}'\n[tally]\n{tally}\n"
    );
    let around = Surroundings { formats: &TestFormats, partitions: &|_| Some(4), topics: vec![] };
    JobFile::parse_toml(&text, &around).unwrap()
}

/// A record: input, partition, offset, log timestamp in ms, text.
pub(super) type Record<'a> = (usize, u32, u64, i64, &'a str);

fn recount_all(job: &JobSpec, records: &[Record<'_>]) -> (Vec<Verdict>, Result<RecountResult, RecountError>) {
    recount_with(Recount::new(job, &TestFormats), records)
}

fn recount_with(recount: Recount, records: &[Record<'_>]) -> (Vec<Verdict>, Result<RecountResult, RecountError>) {
    let mut verdicts = Vec::new();
    let result = recount.over(|recount| {
        for (input, partition, offset, timestamp_ms, text) in records {
            let record = RecordRef {
                partition: PartitionId(*partition),
                offset: Offset(*offset),
                timestamp_ms: *timestamp_ms,
                key: None,
                value: Some(text.as_bytes()),
            };
            verdicts.extend(recount.record(*input, &record));
        }
        Ok(())
    });
    (verdicts, result)
}

/// Records one after another in one partition, a millisecond apart.
fn run(format: &str, tally: &str, texts: &[&str]) -> RecountResult {
    let records: Vec<Record<'_>> = texts.iter().enumerate().map(|(i, t)| (0, 0, i as u64, i as i64, *t)).collect();
    recount_all(&job(format, tally), &records).1.unwrap()
}

/// The lines as `subject/group=first,second ...`.
fn lines(result: &RecountResult) -> String {
    let line = |((subject, group), values): (&(String, String), &Vec<Option<Decimal>>)| {
        let values: Vec<_> = values.iter().map(|v| v.map_or("-".into(), |v| v.to_string())).collect();
        format!("{subject}/{group}={}", values.join(","))
    };
    result.lines.iter().map(line).collect::<Vec<_>>().join(" ")
}

/// read, rejected, irrelevant, claims, counted, rest
fn counts(result: &RecountResult) -> [u64; 6] {
    assert_eq!(result.read, result.rejected + result.irrelevant + result.matched);
    assert_eq!(result.claims, result.counted + result.rest);
    assert_eq!(result.claims, result.subjects.values().map(|s| s.claims).sum::<u64>());
    [result.read, result.rejected, result.irrelevant, result.claims, result.counted, result.rest]
}

/// The reason for which one record is rejected, or how it is judged else.
fn verdict(tally: &str, text: &str) -> String {
    match recount_all(&job("json", tally), &[(0, 0, 0, 0, text)]).0.remove(0) {
        Verdict::Rejected(reason) => reason,
        other => format!("{other:?}"),
    }
}

#[test]
fn a_deletion_takes_back_what_its_message_says_in_whatever_order_they_come() {
    let (said, deleted) = (r#"{"id":1,"g":"a","t":3}"#, r#"{"id":1,"g":"a","t":5,"text":null}"#);
    for texts in [[said, deleted], [deleted, said]] {
        let result = run("post", "order = '/t'\nahead = '1h'\ngroup = '/g'", &texts);
        assert_eq!(lines(&result), "");
        assert_eq!(counts(&result), [2, 0, 1, 1, 0, 1]);
    }
    let again = r#"{"id":1,"g":"b","t":6}"#;
    assert_eq!(lines(&run("post", "order = '/t'\ngroup = '/g'", &[again, deleted, said])), "job/b=1");
}

#[test]
fn a_deletion_that_tells_no_time_happened_when_the_log_took_it() {
    let texts = [r#"{"id":1,"g":"a","t":1}"#, r#"{"id":1,"text":null}"#, r#"{"id":2,"g":"a","t":1}"#];
    assert_eq!(lines(&run("post", "order = '/t'\ngroup = '/g'", &texts)), "job/a=1");
}

#[test]
fn a_deletion_without_an_id_or_with_a_bad_time_is_rejected() {
    for (text, reason) in [
        (r#"{"text":null,"t":0}"#, "entity /id is missing"),
        (r#"{"id":1,"text":null,"t":"soon"}"#, "order /t is no time: \"soon\" is not like 2026-11-21T10:00:00Z"),
        (r#"{"id":1,"text":null,"t":3600001}"#, "order /t is too far ahead of the log"),
    ] {
        let verdicts = recount_all(&job("post", "order = '/t'"), &[(0, 0, 0, 0, text)]).0;
        assert_eq!(verdicts, [Verdict::Rejected(reason.into())], "{text}");
    }
}

#[test]
fn a_deletion_only_is_irrelevant_where_the_job_names_its_own_entity() {
    let result = run("post", "entity = '/e'\nkeep = 'last'", &[r#"{"id":1,"e":"e"}"#, r#"{"id":1,"text":null}"#]);
    assert_eq!(counts(&result), [2, 0, 1, 1, 1, 0]);
}

#[test]
fn what_is_no_message_is_irrelevant_and_replaces_nothing() {
    let result = run("post", "", &[r#"{"id":1}"#, r#"{"id":1,"like":true}"#]);
    assert_eq!(counts(&result), [2, 0, 1, 1, 1, 0]);
}

#[test]
fn without_an_entity_every_event_counts() {
    let result = run("json", "group = '/g'", &[r#"{"g": "a"}"#, r#"{"g": "b"}"#, r#"{"g": "a"}"#, r#"{"g": "a"}"#]);
    assert_eq!(lines(&result), "job/a=3 job/b=1");
    assert_eq!(counts(&result), [4, 0, 0, 4, 4, 0]);
    assert_eq!(result.totals, Map::from([("job".into(), Decimal::from_int(4))]));
}

#[test]
fn last_keeps_the_latest_event_of_an_entity_across_subjects_and_groups() {
    let tally = "subject = '/s'\ngroup = '/g'\nentity = '/e'\nkeep = 'last'";
    let events =
        [r#"{"s": "x", "g": "a", "e": 1}"#, r#"{"s": "x", "g": "a", "e": 2}"#, r#"{"s": "y", "g": "b", "e": 1}"#];
    let result = run("json", tally, &events);
    assert_eq!(lines(&result), "x/a=1 y/b=1");
    assert_eq!(counts(&result), [3, 0, 0, 3, 2, 1]);
    assert_eq!(result.subjects["x"], SubjectCounts { claims: 2, counted: 1, voided: 0 });
}

#[test]
fn first_keeps_the_earliest_event_of_an_entity() {
    let tally = "group = '/g'\nentity = '/e'\nkeep = 'first'";
    let result = run("json", tally, &[r#"{"g": "a", "e": 1}"#, r#"{"g": "b", "e": 1}"#, r#"{"g": "b", "e": 2}"#]);
    assert_eq!(lines(&result), "job/a=1 job/b=1");
    assert_eq!(counts(&result), [3, 0, 0, 3, 2, 1]);
}

#[test]
fn the_order_key_is_time_then_input_then_partition_then_offset() {
    let tally = "group = '/g'\nentity = '/e'\nkeep = 'last'";
    let newest = |records: &[Record<'_>]| lines(&recount_all(&job("json", tally), records).1.unwrap());
    let (a, b) = (r#"{"g": "a", "e": 1}"#, r#"{"g": "b", "e": 1}"#);
    assert_eq!(newest(&[(0, 0, 0, 6, a), (1, 3, 9, 5, b)]), "job/a=1");
    assert_eq!(newest(&[(1, 0, 0, 5, a), (0, 3, 9, 5, b)]), "job/a=1");
    assert_eq!(newest(&[(1, 2, 0, 5, a), (1, 1, 9, 5, b)]), "job/a=1");
    assert_eq!(newest(&[(1, 2, 3, 5, a), (1, 2, 2, 5, b)]), "job/a=1");
    let by_event_time = job("json", "group = '/g'\nentity = '/e'\nkeep = 'last'\norder = '/at'");
    let records = [(0, 0, 0, 9, r#"{"g": "a", "e": 1, "at": 8}"#), (0, 0, 1, 10, r#"{"g": "b", "e": 1, "at": 7}"#)];
    assert_eq!(lines(&recount_all(&by_event_time, &records).1.unwrap()), "job/a=1");
}

#[test]
fn first_n_keeps_so_many_and_a_duplicate_takes_no_place() {
    let tally = "group = '/g'\nentity = '/e'\nkeep = 'first-n'\nn = 2\norder = '/at'";
    let events = [
        r#"{"e": 1, "g": "c", "at": 3}"#,
        r#"{"e": 1, "g": "a", "at": 1}"#,
        r#"{"e": 1, "g": "a", "at": 1}"#,
        r#"{"e": 1, "g": "b", "at": 2}"#,
        r#"{"e": 1, "g": "b", "at": 2, "other": 7}"#,
        r#"{"e": 2, "g": "c", "at": 4}"#,
    ];
    let records: Vec<Record<'_>> = events.iter().enumerate().map(|(i, t)| (0, 0, i as u64, 100, *t)).collect();
    let result = recount_all(&job("json", tally), &records).1.unwrap();
    assert_eq!(lines(&result), "job/a=1 job/b=1 job/c=1");
    assert_eq!(counts(&result), [6, 0, 0, 6, 3, 3]);
}

#[test]
fn first_n_tells_duplicates_by_the_id_of_the_format_where_there_is_one() {
    let tally = "group = '/g'\nentity = '/e'\nkeep = 'first-n'\nn = 2";
    let events = [
        r#"{"e": 1, "g": "a", "id": "x"}"#,
        r#"{"e": 1, "g": "b", "id": "x"}"#,
        r#"{"e": 1, "g": "a", "id": "y"}"#,
        r#"{"e": 1, "g": "c", "id": "z"}"#,
        r#"{"e": 2, "g": "d", "id": "x"}"#,
    ];
    assert_eq!(lines(&run("vote", tally, &events)), "job/a=2 job/d=1");
    // A format without ids compares what the events say, and no two of these came at one time.
    assert_eq!(lines(&run("json", tally, &events)), "job/a=1 job/b=1 job/d=1");
    let without = [r#"{"e": 1, "g": "a"}"#, r#"{"e": 1, "g": "a", "id": null}"#];
    let records = [(0, 0, 0, 5, without[0]), (0, 0, 1, 5, without[1])];
    assert_eq!(lines(&recount_all(&job("vote", tally), &records).1.unwrap()), "job/a=1");
}

#[test]
fn a_message_counts_once_by_its_id_and_an_edit_replaces_it() {
    let events = [
        r#"{"id": "m1", "g": "a"}"#,
        r#"{"id": "m1", "g": "a"}"#,
        r#"{"id": "m2", "g": "a"}"#,
        r#"{"id": "m2", "g": "b"}"#,
    ];
    let result = run("post", "group = '/g'", &events);
    assert_eq!(lines(&result), "job/a=1 job/b=1");
    assert_eq!(counts(&result), [4, 0, 0, 4, 2, 2]);
    let deleted = run("post", "group = '/g'", &[events[0], r#"{"id": "m1", "g": null}"#]);
    assert_eq!((lines(&deleted).as_str(), counts(&deleted)), ("", [2, 0, 0, 2, 1, 1]));
    assert_eq!(counts(&run("post", "group = '/g'", &[r#"{"g": "a"}"#])), [1, 1, 0, 0, 0, 0]);
    let by_author = "group = '/g'\nentity = '/author'\nkeep = 'last'";
    let events = [r#"{"id": "m1", "author": "x", "g": "a"}"#, r#"{"id": "m2", "author": "x", "g": "b"}"#];
    assert_eq!(lines(&run("post", by_author, &events)), "job/b=1");
}

#[test]
fn a_null_group_withdraws_under_last_and_is_irrelevant_else() {
    let (a, null) = (r#"{"g": "a", "e": 1}"#, r#"{"g": null, "e": 1}"#);
    let result = run("json", "group = '/g'\nentity = '/e'\nkeep = 'last'", &[a, null]);
    assert_eq!((lines(&result).as_str(), counts(&result)), ("", [2, 0, 0, 2, 1, 1]));
    let revived = run("json", "group = '/g'\nentity = '/e'\nkeep = 'last'", &[null, a]);
    assert_eq!((lines(&revived).as_str(), counts(&revived)), ("job/a=1", [2, 0, 0, 2, 1, 1]));
    for rule in ["entity = '/e'\nkeep = 'first'", "entity = '/e'\nkeep = 'first-n'\nn = 2", ""] {
        let result = run("json", &format!("group = '/g'\n{rule}"), &[null, a]);
        assert_eq!((lines(&result).as_str(), counts(&result)), ("job/a=1", [2, 0, 1, 1, 1, 0]), "{rule}");
    }
    let parts = "group = ['/g', '/h']\nentity = '/e'\nkeep = 'last'";
    let result = run("json", parts, &[r#"{"g": "a", "h": "b", "e": 1}"#, r#"{"g": "a", "h": null, "e": 1}"#]);
    assert_eq!((lines(&result).as_str(), counts(&result)), ("", [2, 0, 0, 2, 1, 1]));
}

#[test]
fn a_withdrawal_needs_no_value_but_its_entity_and_order() {
    let tally = "group = '/g'\nvalue = '/v'\nentity = '/e'\nkeep = 'last'\norder = '/at'\naggregates = ['distinct:/d']";
    assert_eq!(verdict(tally, r#"{"g": null, "e": 1, "at": 0}"#), "Matched");
    assert_eq!(verdict(tally, r#"{"g": null, "at": 0}"#), "entity /e is missing");
    assert_eq!(verdict(tally, r#"{"g": null, "e": 1}"#), "order /at is missing");
}

#[test]
fn texts_numbers_and_booleans_become_the_text_json_has_for_them() {
    let events = [r#"{"g": 1}"#, r#"{"g": "1"}"#, r#"{"g": 1.0}"#, r#"{"g": true}"#, r#"{"g": ""}"#];
    assert_eq!(lines(&run("json", "group = '/g'", &events)), "job/=1 job/1=2 job/1.0=1 job/true=1");
}

#[test]
fn several_parts_are_their_json_array() {
    let tally = "subject = ['/a', '/b']\ngroup = ['/b', '/c']";
    let result = run("json", tally, &[r#"{"a": "x", "b": "q\"", "c": 7}"#]);
    assert_eq!(lines(&result), r#"["x","q\""]/["q\"","7"]=1"#);
    assert_eq!(lines(&run("json", "", &["{}"])), "job/=1");
    // The parts of an entity never run into one another.
    let pairs = "entity = ['/a', '/b']\nkeep = 'last'";
    assert_eq!(lines(&run("json", pairs, &[r#"{"a": "x", "b": "yz"}"#, r#"{"a": "xy", "b": "z"}"#])), "job/=2");
}

#[test]
fn an_array_fans_out_to_each_distinct_element() {
    let tags = "group = '/tags'";
    let result = run("json", tags, &[r#"{"tags": ["a", "b", "a"]}"#, r#"{"tags": []}"#, r#"{"tags": "a"}"#]);
    assert_eq!((lines(&result).as_str(), counts(&result)), ("job/a=2 job/b=1", [3, 0, 1, 2, 2, 0]));
    assert_eq!(lines(&run("json", tags, &[r#"{"tags": [1, "1", true]}"#])), "job/1=1 job/true=1");
    assert_eq!(lines(&run("json", tags, &[r#"{"tags": ["a", null]}"#])), "job/a=1");
    let cross = "group = ['/a', '/b', '/c']";
    let result = run("json", cross, &[r#"{"a": [1, 2], "b": ["x", "y"], "c": "z"}"#]);
    assert_eq!(lines(&result), r#"job/["1","x","z"]=1 job/["1","y","z"]=1 job/["2","x","z"]=1 job/["2","y","z"]=1"#);
    assert_eq!(verdict(cross, r#"{"a": [1], "b": [], "c": "z"}"#), "Irrelevant");
    assert_eq!(verdict(tags, r#"{"tags": ["a", ["b"]]}"#), "group /tags is an array or an object");
    assert_eq!(verdict(tags, r#"{"tags": ["a", {}]}"#), "group /tags is an array or an object");
}

#[test]
fn an_array_of_nulls_withdraws_and_an_empty_one_does_not() {
    let tally = "group = '/tags'\nentity = '/e'\nkeep = 'last'";
    let result = run("json", tally, &[r#"{"e": 1, "tags": ["a"]}"#, r#"{"e": 1, "tags": []}"#]);
    assert_eq!((lines(&result).as_str(), counts(&result)), ("job/a=1", [2, 0, 1, 1, 1, 0]));
    let result = run("json", tally, &[r#"{"e": 1, "tags": ["a"]}"#, r#"{"e": 1, "tags": [null]}"#]);
    assert_eq!((lines(&result).as_str(), counts(&result)), ("", [2, 0, 0, 2, 1, 1]));
}

#[test]
fn more_combinations_than_an_event_may_have_are_a_rejection() {
    let numbers = (0..101).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let wide = format!(r#"{{"a": [{numbers}], "b": [{numbers}], "c": []}}"#);
    assert!(verdict("group = ['/a', '/b']", &wide).contains("10201 combinations"));
    assert_eq!(verdict("group = ['/a', '/b', '/c', '/a', '/b', '/a', '/b']", &wide), "Irrelevant");
    let many = (0..10_001).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    assert!(verdict("group = '/a'", &format!(r#"{{"a": [{many}]}}"#)).contains("10001 combinations"));
}

#[test]
fn entries_add_to_several_lines_in_one_event() {
    let ledger = "aggregates = ['sum', 'count']\n[[tally.entry]]\ngroup = '/from'\nvalue = \
                  '-/amount'\n[[tally.entry]]\ngroup = '/to'\nvalue = '/amount'";
    let result =
        run("json", ledger, &[r#"{"from": "x", "to": "y", "amount": 5}"#, r#"{"from": "y", "to": "y", "amount": 2}"#]);
    assert_eq!(lines(&result), "job/x=-5,1 job/y=5,3");
    assert_eq!(result.totals["job"], Decimal::ZERO);
    let half =
        run("json", ledger, &[r#"{"from": null, "to": "y", "amount": 5}"#, r#"{"from": [], "to": "y", "amount": 5}"#]);
    assert_eq!((lines(&half).as_str(), counts(&half)), ("job/y=10,2", [2, 0, 0, 2, 2, 0]));
    assert_eq!(verdict(ledger, r#"{"to": "y", "amount": 5}"#), "group /from is missing");
}

#[test]
fn an_event_withdraws_only_when_all_its_entries_do() {
    let tally = "entity = '/e'\nkeep = 'last'\n[[tally.entry]]\ngroup = '/a'\n[[tally.entry]]\ngroup = '/b'";
    assert_eq!(verdict(tally, r#"{"e": 1, "a": null, "b": null}"#), "Matched");
    assert_eq!(verdict(tally, r#"{"e": 1, "a": null, "b": []}"#), "Irrelevant");
    assert_eq!(verdict(tally, r#"{"e": 1, "a": [], "b": []}"#), "Irrelevant");
    let result = run("json", tally, &[r#"{"e": 1, "a": "x", "b": "y"}"#, r#"{"e": 1, "a": null, "b": "z"}"#]);
    assert_eq!(lines(&result), "job/z=1");
}

#[test]
fn all_aggregates_come_from_the_same_contributions() {
    let tally = "group = '/g'\nvalue = '/v'\norder = '/at'\naggregates = ['sum', 'count', 'min', 'max', 'avg', 'last', \
                 'distinct:/d', 'distinct:/v']";
    let events = [
        r#"{"g": "a", "v": 0.1, "at": 3, "d": 1}"#,
        r#"{"g": "a", "v": 0.2, "at": 9, "d": "1"}"#,
        r#"{"g": "a", "v": -4e-1, "at": 5, "d": 1}"#,
        r#"{"g": "b", "v": 2, "at": 5, "d": true}"#,
    ];
    let records: Vec<Record<'_>> = events.iter().enumerate().map(|(i, t)| (0, 0, i as u64, 0, *t)).collect();
    let result = recount_all(&job("json", tally), &records).1.unwrap();
    assert_eq!(lines(&result), "job/a=-0.1,3,-0.4,0.2,-0.033333333333333333,0.2,2,3 job/b=2,1,2,2,2,2,1,1");
    assert_eq!(result.totals["job"].to_string(), "1.9");
    let tie = "aggregates = ['last']\n[[tally.entry]]\nvalue = '/v'\n[[tally.entry]]\nvalue = '/w'";
    let result = run("json", tie, &[r#"{"v": 9, "w": 1}"#]);
    assert_eq!((lines(&result).as_str(), result.totals.len()), ("job/=1", 0));
}

#[test]
fn a_line_stands_at_zero_while_a_contribution_of_it_does() {
    assert_eq!(lines(&run("json", "value = '/v'", &[r#"{"v": 5}"#, r#"{"v": -5}"#])), "job/=0");
}

#[test]
fn what_lacks_something_that_the_job_needs_is_rejected() {
    let tally = "subject = '/s'\ngroup = '/g'\nentity = '/e'\nkeep = 'last'\norder = '/at'\nvalue = '/v'\naggregates = \
                 ['distinct:/d']";
    let whole = [("s", "1"), ("g", "1"), ("e", "1"), ("at", "0"), ("v", "1"), ("d", "1")];
    let event = |field: &str, value: Option<&str>| {
        let members = whole.iter().filter_map(|(name, good)| {
            let value = if *name == field { value? } else { good };
            Some(format!("\"{name}\": {value}"))
        });
        verdict(tally, &format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
    };
    assert_eq!(event("", None), "Matched");
    for (field, what) in [
        ("s", "subject /s"),
        ("g", "group /g"),
        ("e", "entity /e"),
        ("at", "order /at"),
        ("v", "value /v"),
        ("d", "distinct /d"),
    ] {
        assert_eq!(event(field, None), format!("{what} is missing"));
        if field != "g" {
            assert_eq!(event(field, Some("null")), format!("{what} is missing"));
            assert!(event(field, Some("[1]")).starts_with(what), "{field}");
        }
        assert!(event(field, Some("{}")).starts_with(what), "{field}");
    }
    assert_eq!(event("v", Some("\"5\"")), "value /v is no number");
    assert!(event("v", Some("1e30")).contains("beyond the fixed point"));
    assert!(event("v", Some("0.0000000000000000001")).contains("18 digits"));
    assert!(event("at", Some("\"soon\"")).contains("is no time"));
    assert!(event("at", Some("\"9999-01-01T00:00:00Z\"")).contains("outside the years"));
    assert_eq!(verdict(tally, "{"), "is no JSON");
    assert_eq!(event("s", Some("\"\"")), "Matched");
}

#[test]
fn an_event_time_ahead_of_the_log_is_rejected() {
    let tally = "order = '/at'\nahead = '2s'";
    assert_eq!(verdict(tally, r#"{"at": 2000}"#), "Matched");
    assert_eq!(verdict(tally, r#"{"at": 2001}"#), "order /at is too far ahead of the log");
    assert_eq!(verdict(tally, r#"{"at": -99999999}"#), "Matched");
    assert_eq!(verdict("order = '/at'", r#"{"at": 3600000}"#), "Matched");
    assert!(verdict("order = '/at'", r#"{"at": "1970-01-01T01:00:00.000000001Z"}"#).contains("ahead"));
}

#[test]
fn where_is_asked_before_all_else() {
    let tally = "group = '/g'\nwhere = \"event.status == 'paid'\"";
    let events = [
        r#"{"status": "paid", "g": "a"}"#,
        r#"{"status": "open"}"#,
        r#"{"g": "a"}"#,
        r#"{"status": "paid"}"#,
        r#"{"status": "paid", "g": []}"#,
    ];
    let result = run("json", tally, &events);
    assert_eq!((lines(&result).as_str(), counts(&result)), ("job/a=1", [5, 2, 2, 1, 1, 0]));
    assert!(verdict("where = 'event.n'", r#"{"n": 1}"#).contains("not true or false"));
}

#[test]
fn a_sum_beyond_the_fixed_point_is_named() {
    let big = r#"{"g": "a", "v": 100000000000000000000}"#;
    let records: Vec<Record<'_>> = (0..2).map(|i| (0, 0, i, 0, big)).collect();
    let of = |aggregates: &str| {
        recount_all(&job("json", &format!("group = '/g'\nvalue = '/v'\naggregates = [{aggregates}]")), &records).1
    };
    let line = RecountError::Sum { subject: "job".into(), group: "a".into() };
    assert_eq!(of("'count', 'sum'"), Err(line.clone()));
    assert!(line.to_string().contains("group \"a\" of subject \"job\""));
    assert_eq!(lines(&of("'avg'").unwrap()), "job/a=100000000000000000000");
    let two = [(0, 0, 0, 0, big), (0, 0, 1, 0, r#"{"g": "b", "v": 100000000000000000000}"#)];
    let sum = job("json", "group = '/g'\nvalue = '/v'");
    assert_eq!(recount_all(&sum, &two).1, Err(RecountError::Total { subject: "job".into() }));
}

proptest! {
    #[test]
    fn the_order_in_which_records_come_is_of_no_account(
        events in prop::collection::vec((0u8..4, 0u8..4, 0i64..4, 0u32..3, -3i8..4, 0usize..2), 0..40),
        rule in prop::sample::select(vec!["keep = 'first'", "keep = 'last'", "keep = 'first-n'\nn = 2"]),
        seed in any::<u64>(),
    ) {
        let texts: Vec<String> = events.iter().map(|(e, g, at, _, v, _)| {
            let group = if *g == 0 { "null".into() } else { format!("[{g}, 9]") };
            format!(r#"{{"e": {e}, "g": {group}, "at": {at}, "v": {v}}}"#)
        }).collect();
        let mut records: Vec<Record<'_>> =
            events.iter().zip(&texts).enumerate().map(|(i, (e, t))| (e.5, e.3, i as u64, 0, t.as_str())).collect();
        let tally = format!("group = '/g'\nentity = '/e'\norder = '/at'\nvalue = '/v'\n{rule}\n\
                             aggregates = ['sum', 'count', 'min', 'max', 'avg', 'last', 'distinct:/v']");
        let job = job("vote", &tally);
        let one = recount_all(&job, &records).1.unwrap();
        // Any fixed mixing will do: sort by a hash of place and seed.
        records.sort_by_key(|r| (r.2 + 1).wrapping_mul(seed | 1).rotate_left(17));
        prop_assert_eq!(recount_all(&job, &records).1.unwrap(), one);
    }

    #[test]
    fn many_passes_come_to_what_one_does(
        events in prop::collection::vec((0u8..12, 0u8..4, 0i64..4, 0u32..3, -3i8..4, 0usize..2), 0..60),
        rule in prop::sample::select(vec![
            "", "entity = '/e'\nkeep = 'first'", "entity = '/e'\nkeep = 'last'", "entity = '/e'\nkeep = 'first-n'\nn = 2",
        ]),
        distinct in any::<bool>(),
        parts in 1u32..9,
        bytes_max in prop::sample::select(vec![6_000usize, 12_000, usize::MAX]),
    ) {
        let texts: Vec<String> = events.iter().map(|(e, g, at, _, v, _)| {
            let group = if *g == 0 { "null".into() } else { format!("[{g}, 9]") };
            format!(r#"{{"e": {e}, "g": {group}, "at": {at}, "v": {v}}}"#)
        }).collect();
        let records: Vec<Record<'_>> =
            events.iter().zip(&texts).enumerate().map(|(i, (e, t))| (e.5, e.3, i as u64, 0, t.as_str())).collect();
        let more = if distinct { ", 'distinct:/v', 'distinct:/e'" } else { "" };
        let tally = format!("group = '/g'\norder = '/at'\nvalue = '/v'\n{rule}\naggregates = ['sum', 'count', 'last', \
                             'min'{more}]");
        let job = job("vote", &tally);
        let one = recount_all(&job, &records);
        prop_assert_eq!(recount_with(Recount::new(&job, &TestFormats).in_parts(parts).within(bytes_max), &records), one);
    }
}

#[test]
fn what_does_not_fit_takes_more_passes_and_one_entity_that_is_too_large_is_refused() {
    let tally = "group = '/g'\nentity = '/e'\nkeep = 'last'\naggregates = ['count', 'distinct:/e']";
    let texts: Vec<String> = (0..500).map(|e| format!(r#"{{"e": {e}, "g": 1}}"#)).collect();
    let records: Vec<Record<'_>> = texts.iter().enumerate().map(|(i, t)| (0, 0, i as u64, 0, t.as_str())).collect();
    let job = job("json", tally);
    let mut read = 0;
    let mut last = None;
    let result = Recount::new(&job, &TestFormats).within(40_000).over(|recount| {
        for (input, partition, offset, timestamp_ms, text) in &records {
            let (partition, offset) = (PartitionId(*partition), Offset(*offset));
            let value = Some(text.as_bytes());
            recount.record(*input, &RecordRef { partition, offset, timestamp_ms: *timestamp_ms, key: None, value });
        }
        read += 1;
        last = Some(recount.passes());
        Ok::<_, RecountError>(())
    });
    assert_eq!(lines(&result.unwrap()), "job/1=500,500");
    assert!(read > 20, "{read} passes");
    assert_eq!(last, Some(Passes { pass: read, passes: read }));

    let refused = recount_with(Recount::new(&job, &TestFormats).within(100), &records).1;
    assert_eq!(refused, Err(RecountError::Memory { bytes_max: 50 }));
}

/// A decoder that was mended takes a record that was rejected: it counts as that all the same, and is told.
#[test]
fn a_record_that_was_rejected_counts_as_that_whatever_it_is_now() {
    let record = |offset, text: &'static str| RecordRef {
        partition: PartitionId(0),
        offset: Offset(offset),
        timestamp_ms: 1,
        key: None,
        value: Some(text.as_bytes()),
    };
    let mut taken = 0;
    let result = Recount::new(&job("json", "entity = '/e'\ngroup = '/g'\nkeep = 'last'"), &TestFormats)
        .in_parts(2)
        .over(|recount| {
            recount.record(0, &record(0, r#"{"e":"a","g":"x"}"#));
            for (offset, text) in [(1, r#"{"e":"a","g":"y"}"#), (2, "{")] {
                taken += u64::from(recount.rejected(0, &record(offset, text)));
            }
            Ok::<_, RecountError>(())
        });
    let result = result.unwrap();
    assert_eq!((result.read, result.rejected, result.matched, result.claims), (3, 2, 1, 1));
    assert_eq!(result.lines.keys().collect::<Vec<_>>(), [&("job".to_owned(), "x".to_owned())]);
    assert_eq!(taken, 2, "once in each of two passes");
}
