//! Each rule by hand: a few records, and what must come out.

use super::*;
use crate::ids::{Offset, PartitionId};
use crate::recount::Recount;
use crate::recount::why::{Answer, At, Fate, Question, Says, Why};
use crate::spec::polls::{Choices, Match, Person, Poll, Reposts};
use crate::spec::voids::Voids;
use crate::spec::{Bound, Dataflow, InputSpec, Keep};
use crate::testing::PlainFormats;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const MS: i64 = 1_000_000;

fn job() -> JobSpec {
    let input = |topic: &str, format: &str| InputSpec {
        topic: topic.into(),
        format: format.into(),
        from: Bound::Beginning,
        until: None,
    };
    let polls = PollsSpec {
        matching: Match::Word,
        choices: Choices::Many,
        keep: Keep::All,
        entity: None,
        reposts: Reposts::Ignore,
        grace: Duration::from_millis(10),
        ahead: Duration::from_millis(1_000),
    };
    JobSpec {
        name: "job".into(),
        dataflow: Dataflow::Polls(polls),
        inputs: vec![input("posts", "post"), input("votes", "vote")],
        sinks: vec![],
        voids: Voids::default(),
    }
}

/// A poll for `a`, `b` or `c` from 100 ms to 200 ms, with 10 ms of grace.
fn poll(id: &str) -> PollInForce {
    let poll = Poll {
        id: id.into(),
        title: String::new(),
        options: ["a", "b", "c"].map(String::from).to_vec(),
        matching: Match::Word,
        choices: Choices::Many,
        keep: Keep::All,
        entity: None,
        reposts: Reposts::Ignore,
        opens_ns: 100 * MS,
        closes_ns: Some(200 * MS),
        grace: Duration::from_millis(10),
    };
    PollInForce { poll, version: 1, from: vec![] }
}

fn kept(keep: Keep) -> PollInForce {
    let mut of = poll("p");
    (of.poll.keep, of.poll.entity) = (keep, (keep != Keep::All).then_some(Person::Author));
    of
}

/// Input, log timestamp in ms, text; the offset is the place in the list.
type Record = (usize, i64, String);

/// A post that reached the log when it was written.
fn post(id: u32, author: &str, at: i64, text: &str) -> Record {
    (0, at, format!(r#"{{"id":{id},"author":"{author}","at":{at},"text":"{text}"}}"#))
}

fn deleted(id: u32, at: i64) -> Record {
    (0, at, format!(r#"{{"id":{id},"at":{at},"text":null}}"#))
}

/// `option` and `more` as JSON.
fn vote(voter: &str, at: i64, option: &str, more: &str) -> Record {
    (1, at, format!(r#"{{"poll":"p","voter":"{voter}","at":{at},"option":{option}{more}}}"#))
}

fn recount(polls: &[PollInForce], records: &[(usize, &Record)]) -> (Vec<Verdict>, RecountResult) {
    let one = recount_with(Recount::with_polls(&job(), &PlainFormats, polls), records);
    for (parts, bytes_max) in [(3, usize::MAX), (16, usize::MAX), (1, 8_000)] {
        let many = Recount::with_polls(&job(), &PlainFormats, polls).in_parts(parts).within(bytes_max);
        assert_eq!(recount_with(many, records), one, "in {parts} parts, {bytes_max} bytes");
    }
    one
}

fn recount_with(recount: Recount, records: &[(usize, &Record)]) -> (Vec<Verdict>, RecountResult) {
    let mut verdicts = Vec::new();
    let result = recount.over(|recount| {
        for (offset, (input, timestamp_ms, text)) in records {
            let record = RecordRef {
                partition: PartitionId(0),
                offset: Offset(*offset as u64),
                timestamp_ms: *timestamp_ms,
                key: None,
                value: Some(text.as_bytes()),
            };
            verdicts.extend(recount.record(*input, &record));
        }
        Ok::<_, RecountError>(())
    });
    (verdicts, result.unwrap())
}

/// `poll:a=1,b=0,c=0 total claims counted` of each poll, the same forwards and backwards.
fn tallies(polls: &[PollInForce], records: &[Record]) -> String {
    let mut ordered: Vec<(usize, &Record)> = records.iter().enumerate().collect();
    let result = recount(polls, &ordered).1;
    ordered.reverse();
    assert_eq!(recount(polls, &ordered).1, result);
    assert_eq!(result.read, result.rejected + result.irrelevant + result.matched);
    assert_eq!(result.claims, result.counted + result.rest);
    let of = |(poll, counts): (&String, &SubjectCounts)| {
        let lines = result.lines.iter().filter(|((subject, _), _)| subject == poll);
        let lines: Vec<String> = lines.map(|((_, option), v)| format!("{option}={}", v[0].unwrap())).collect();
        format!("{poll}:{} {} {} {}", lines.join(","), result.totals[poll], counts.claims, counts.counted)
    };
    result.subjects.iter().map(of).collect::<Vec<_>>().join("; ")
}

/// What becomes of one record; the reason where it is rejected.
fn verdict(input: usize, text: &str) -> String {
    match recount(&[poll("p")], &[(0, &(input, 150, text.to_owned()))]).0.remove(0) {
        Verdict::Rejected(reason) => reason,
        other => format!("{other:?}"),
    }
}

#[test]
fn every_option_has_a_line_also_without_a_record() {
    assert_eq!(tallies(&[poll("p"), poll("q")], &[]), "p:a=0,b=0,c=0 0 0 0; q:a=0,b=0,c=0 0 0 0");
}

#[test]
fn a_record_makes_a_claim_for_each_poll_that_it_matches() {
    let mut one = poll("q");
    (one.poll.choices, one.poll.options) = (Choices::One, vec!["b".into(), "a".into()]);
    let records = [post(1, "x", 150, "a b"), post(2, "x", 150, "c"), post(3, "x", 150, "none")];
    assert_eq!(tallies(&[poll("p"), one.clone()], &records), "p:a=1,b=1,c=1 3 2 2; q:a=1,b=0 1 1 1");
    let all: Vec<_> = records.iter().enumerate().collect();
    let result = recount(&[poll("p"), one], &all).1;
    assert_eq!((result.matched, result.irrelevant, result.claims, result.counted), (2, 1, 3, 3));
}

#[test]
fn what_lies_outside_of_the_range_is_not_there() {
    let records = [post(1, "x", 99, "a"), post(2, "x", 100, "a"), post(3, "x", 199, "b"), post(4, "x", 200, "c")];
    assert_eq!(tallies(&[poll("p")], &records), "p:a=1,b=1,c=0 2 2 2");
    // By event time in range, and before or at the end of the grace in the log.
    let late = |logged| vec![(0, logged, r#"{"id":1,"author":"x","at":150,"text":"a"}"#.to_owned())];
    assert_eq!(tallies(&[poll("p")], &late(209)), "p:a=1,b=0,c=0 1 1 1");
    assert_eq!(tallies(&[poll("p")], &late(210)), "p:a=0,b=0,c=0 0 0 0");
    let mut open = poll("p");
    open.poll.closes_ns = None;
    assert_eq!(tallies(&[open], &late(1_000_000)), "p:a=1,b=0,c=0 1 1 1");
}

#[test]
fn a_poll_that_closes_within_a_millisecond_has_its_grace_from_there() {
    let mut of = poll("p");
    of.poll.closes_ns = Some(200 * MS + 1);
    let logged = |ms| vec![(0, ms, r#"{"id":1,"author":"x","at":200,"text":"a"}"#.to_owned())];
    assert_eq!(tallies(&[of.clone()], &logged(210)), "p:a=1,b=0,c=0 1 1 1");
    assert_eq!(tallies(&[of], &logged(211)), "p:a=0,b=0,c=0 0 0 0");
}

#[test]
fn records_before_the_offsets_where_a_poll_begins_are_not_there() {
    let records = [post(1, "x", 150, "a"), post(2, "x", 150, "b"), deleted(1, 151), vote("v", 150, "\"c\"", "")];
    let from = |posts, votes| PollInForce { from: vec![vec![Offset(posts)], vec![Offset(votes)]], ..poll("p") };
    assert_eq!(tallies(&[from(1, 3)], &records), "p:a=0,b=1,c=1 2 2 2");
    assert_eq!(tallies(&[from(0, 4)], &records), "p:a=0,b=1,c=0 1 2 1");
    assert_eq!(tallies(&[PollInForce { from: vec![vec![Offset(2)]], ..poll("p") }], &records), "p:a=0,b=0,c=1 1 1 1");
}

#[test]
fn the_newest_version_of_a_message_stands() {
    let (old, new) = (post(1, "x", 150, "a"), post(1, "x", 151, "b"));
    assert_eq!(tallies(&[poll("p")], &[new.clone(), old.clone()]), "p:a=0,b=1,c=0 1 2 1");
    assert_eq!(tallies(&[poll("p")], &[old.clone(), old.clone(), old.clone()]), "p:a=1,b=0,c=0 1 3 1");
    // A version that matches nothing takes away what the message said.
    assert_eq!(tallies(&[poll("p")], &[post(1, "x", 160, "none"), new, old]), "p:a=0,b=0,c=0 0 2 0");
}

#[test]
fn of_versions_of_one_time_the_later_place_in_the_log_stands() {
    let records = [post(1, "x", 150, "a"), post(1, "x", 150, "b")];
    assert_eq!(tallies(&[poll("p")], &records), "p:a=0,b=1,c=0 1 2 1");
}

#[test]
fn a_deletion_withdraws_and_is_irrelevant_itself() {
    let records = [post(1, "x", 150, "a"), deleted(1, 151), post(2, "x", 150, "a"), deleted(2, 149)];
    assert_eq!(tallies(&[poll("p")], &records), "p:a=1,b=0,c=0 1 2 1");
    let all: Vec<_> = records.iter().enumerate().collect();
    assert_eq!(recount(&[poll("p")], &all).0[1], Verdict::Irrelevant);
}

#[test]
fn a_deletion_without_a_time_happened_when_the_log_took_it() {
    let deletion = |logged| (0, logged, r#"{"id":1,"text":null}"#.to_owned());
    assert_eq!(tallies(&[poll("p")], &[deletion(160), post(1, "x", 150, "a")]), "p:a=0,b=0,c=0 0 1 0");
    assert_eq!(tallies(&[poll("p")], &[deletion(140), post(1, "x", 150, "a")]), "p:a=1,b=0,c=0 1 1 1");
}

#[test]
fn after_a_poll_has_closed_an_edit_or_deletion_changes_nothing() {
    let records = [post(1, "x", 150, "a"), post(1, "x", 200, "b"), post(2, "x", 150, "a"), deleted(2, 201)];
    assert_eq!(tallies(&[poll("p")], &records), "p:a=2,b=0,c=0 2 2 2");
}

#[test]
fn an_authors_standing_messages_are_kept_by_the_rule() {
    let records = [post(1, "x", 150, "a"), post(2, "x", 151, "b"), post(3, "x", 152, "c"), post(4, "y", 150, "c")];
    assert_eq!(tallies(&[kept(Keep::First)], &records), "p:a=1,b=0,c=1 2 4 2");
    assert_eq!(tallies(&[kept(Keep::Last)], &records), "p:a=0,b=0,c=2 2 4 2");
    assert_eq!(tallies(&[kept(Keep::FirstN(2))], &records), "p:a=1,b=1,c=1 3 4 3");
    assert_eq!(tallies(&[kept(Keep::All)], &records), "p:a=1,b=1,c=2 4 4 4");
}

#[test]
fn deleting_or_editing_the_message_that_counts_revives_the_one_before() {
    let (first, last) = (post(1, "x", 150, "a"), post(2, "x", 151, "b"));
    let last_of = |change: Record| tallies(&[kept(Keep::Last)], &[first.clone(), last.clone(), change]);
    assert_eq!(last_of(deleted(2, 152)), "p:a=1,b=0,c=0 1 2 1");
    assert_eq!(last_of(post(2, "x", 152, "none")), "p:a=1,b=0,c=0 1 2 1");
    // An edit comes at its own time, so that of two messages the edited one is the last.
    assert_eq!(last_of(post(1, "x", 152, "c")), "p:a=0,b=0,c=1 1 3 1");
    assert_eq!(tallies(&[kept(Keep::First)], &[first, last, deleted(1, 152)]), "p:a=0,b=1,c=0 1 2 1");
}

#[test]
fn different_messages_of_one_author_are_no_duplicates() {
    let records = [post(1, "x", 150, "a"), post(2, "x", 150, "a"), post(3, "x", 150, "a")];
    assert_eq!(tallies(&[kept(Keep::FirstN(2))], &records), "p:a=2,b=0,c=0 2 3 2");
}

#[test]
fn authors_and_voters_are_two_name_spaces() {
    let records = [post(1, "x", 150, "a"), vote("x", 151, "\"b\"", "")];
    for keep in [Keep::First, Keep::Last, Keep::FirstN(1)] {
        assert_eq!(tallies(&[kept(keep)], &records), "p:a=1,b=1,c=0 2 2 2");
    }
}

#[test]
fn a_repost_counts_only_where_the_poll_says_so() {
    let repost = (0, 151, r#"{"id":1,"author":"x","at":151,"text":"b","repost":true}"#.to_owned());
    let records = [post(1, "x", 150, "a"), repost];
    assert_eq!(tallies(&[poll("p")], &records), "p:a=0,b=0,c=0 0 1 0");
    let mut of = poll("p");
    of.poll.reposts = Reposts::Count;
    assert_eq!(tallies(&[of], &records), "p:a=0,b=1,c=0 1 2 1");
}

#[test]
fn a_voters_votes_are_kept_by_the_rule() {
    let records = [vote("x", 151, "\"b\"", ""), vote("x", 150, "\"a\"", ""), vote("x", 152, "\"c\"", "")];
    assert_eq!(tallies(&[kept(Keep::First)], &records), "p:a=1,b=0,c=0 1 3 1");
    assert_eq!(tallies(&[kept(Keep::Last)], &records), "p:a=0,b=0,c=1 1 3 1");
    assert_eq!(tallies(&[kept(Keep::FirstN(2))], &records), "p:a=1,b=1,c=0 2 3 2");
    assert_eq!(tallies(&[kept(Keep::All)], &records), "p:a=1,b=1,c=1 3 3 3");
}

#[test]
fn null_withdraws_where_the_last_vote_counts_and_else_says_nothing() {
    let records = [vote("x", 150, "\"a\"", ""), vote("x", 151, "null", "")];
    assert_eq!(tallies(&[kept(Keep::Last)], &records), "p:a=0,b=0,c=0 0 2 1");
    for keep in [Keep::First, Keep::FirstN(2), Keep::All] {
        assert_eq!(tallies(&[kept(keep)], &records), "p:a=1,b=0,c=0 1 1 1");
    }
}

#[test]
fn without_an_entity_votes_of_one_id_are_one_the_last() {
    let id = r#","id":"i""#;
    let records = [vote("x", 151, "\"b\"", id), vote("y", 150, "\"a\"", id), vote("y", 150, "\"a\"", "")];
    assert_eq!(tallies(&[poll("p")], &records), "p:a=1,b=1,c=0 2 3 2");
    let none = [vote("x", 150, "\"a\"", r#","id":null"#), vote("x", 150, "\"a\"", "")];
    assert_eq!(tallies(&[poll("p")], &none), "p:a=2,b=0,c=0 2 2 2");
}

#[test]
fn equal_votes_take_one_place_of_the_first_n() {
    let of = [kept(Keep::FirstN(2))];
    let (a, b, later) = (vote("x", 150, "\"a\"", ""), vote("x", 151, "\"b\"", ""), vote("x", 151, "\"a\"", ""));
    assert_eq!(tallies(&of, &[a.clone(), a.clone(), b.clone()]), "p:a=1,b=1,c=0 2 3 2");
    // Another time is another vote.
    assert_eq!(tallies(&of, &[a.clone(), later, b]), "p:a=2,b=0,c=0 2 3 2");
    let id = r#","id":"i""#;
    let with_id = [vote("x", 150, "\"a\"", id), vote("x", 152, "\"b\"", id), a, vote("x", 153, "\"c\"", "")];
    assert_eq!(tallies(&of, &with_id), "p:a=2,b=0,c=0 2 4 2");
}

#[test]
fn a_vote_for_what_is_not_there_is_irrelevant_and_replaces_nothing() {
    let other = (1, 152, r#"{"poll":"other","voter":"x","at":152,"option":"a"}"#.to_owned());
    let mut records = vec![vote("x", 150, "\"a\"", ""), vote("x", 151, "\"z\"", ""), other];
    records.extend([vote("x", 200, "\"b\"", ""), vote("x", 153, "\"A\"", "")]);
    assert_eq!(tallies(&[kept(Keep::Last)], &records), "p:a=1,b=0,c=0 1 1 1");
}

#[test]
fn names_may_be_numbers_or_booleans() {
    let mut of = poll("1");
    of.poll.options = vec!["2".into(), "true".into()];
    let text = |option| (1, 150, format!(r#"{{"poll":1,"voter":true,"at":150,"option":{option}}}"#));
    assert_eq!(tallies(&[of], &[text("2"), text("true"), text("2.0")]), "1:2=1,true=1 2 2 2");
    let ids = [post(1, "x", 150, "a"), (0, 151, r#"{"id":"1","author":7,"at":151,"text":"b"}"#.to_owned())];
    assert_eq!(tallies(&[poll("p")], &ids), "p:a=0,b=1,c=0 1 2 1");
}

#[test]
fn a_message_that_lacks_something_is_rejected_whatever_the_polls() {
    for (text, reason) in [
        (r#"{"author":"x","text":"","at":150}"#, "/id is missing"),
        (r#"{"id":true,"author":"x","text":"","at":150}"#, "/id is neither a text nor a number"),
        (r#"{"id":1,"text":"","at":150}"#, "/author is missing"),
        (r#"{"id":1,"author":null,"text":"","at":150}"#, "/author is missing"),
        (r#"{"id":1,"author":["x"],"text":"","at":150}"#, "/author is neither a text nor a number"),
        (r#"{"id":1,"author":"x","at":150}"#, "/text is missing"),
        (r#"{"id":1,"author":"x","text":["a"],"at":150}"#, "/text is no text"),
        // As the plain format says that something is no message.
        (r#"{"id":1,"text":1}"#, "Irrelevant"),
        (r#"{"id":1,"author":"x","text":""}"#, "/at is missing"),
        (r#"{"id":1,"author":"x","text":"","at":true}"#, "/at is no time but true or false"),
        (r#"{"id":1,"author":"x","text":"","at":1151}"#, "/at is too far ahead of the log"),
        (r#"{"id":1,"author":"x","text":"","at":150,"hashtags":"a"}"#, "/hashtags is no array of texts"),
        (r#"{"id":1,"author":"x","text":"","at":150,"hashtags":["a",1]}"#, "/hashtags is no array of texts"),
        (r#"{"id":1,"author":"x","text":"","at":150,"repost":1}"#, "/repost is neither true nor false"),
        (r#"{"text":null,"at":150}"#, "/id is missing"),
        (r#"{"id":1,"text":null,"at":[]}"#, "/at is no time but an array"),
        (r#"{"id":1,"text":null,"at":1151}"#, "/at is too far ahead of the log"),
        ("[]", "the record is no JSON object"),
        (r#"{"id":1,"author":"x","text":"a","at":1150,"hashtags":null,"repost":null}"#, "Irrelevant"),
        (r#"{"id":"","author":"","text":"a","at":150,"hashtags":[],"repost":false}"#, "Matched"),
        (r#"{"id":1,"text":null,"at":null,"author":[],"hashtags":1}"#, "Irrelevant"),
    ] {
        assert_eq!(verdict(0, text), reason, "{text}");
    }
}

#[test]
fn a_vote_that_lacks_something_is_rejected_whatever_the_polls() {
    for (text, reason) in [
        (r#"{"voter":"x","option":"a","at":150}"#, "/poll is missing"),
        (r#"{"poll":{},"voter":"x","option":"a","at":150}"#, "/poll is an array or an object"),
        (r#"{"poll":"p","voter":null,"option":"a","at":150}"#, "/voter is missing"),
        (r#"{"poll":"p","voter":[],"option":"a","at":150}"#, "/voter is an array or an object"),
        (r#"{"poll":"p","voter":"x","at":150}"#, "/option is missing"),
        (r#"{"poll":"p","voter":"x","option":["a"],"at":150}"#, "/option is an array or an object"),
        (r#"{"poll":"p","voter":"x","option":"a"}"#, "/at is missing"),
        (r#"{"poll":"p","voter":"x","option":"a","at":1151}"#, "/at is too far ahead of the log"),
        (r#"{"poll":"p","voter":"x","option":"a","at":150,"id":true}"#, "/id is neither a text nor a number"),
        (r#"{"poll":"none","voter":"x","option":[],"at":150}"#, "/option is an array or an object"),
        (r#"{"poll":"none","voter":"x","option":"a","at":150}"#, "Irrelevant"),
        (r#"{"poll":"p","voter":"x","option":null,"at":150}"#, "Irrelevant"),
        (r#"{"poll":"p","voter":"x","option":"a","at":150}"#, "Matched"),
    ] {
        assert_eq!(verdict(1, text), reason, "{text}");
    }
}

#[test]
fn without_polls_all_that_can_be_read_is_irrelevant() {
    let (verdicts, result) = recount(&[], &[(0, &post(1, "x", 150, "a"))]);
    assert_eq!(verdicts, [Verdict::Irrelevant]);
    assert_eq!((result.read, result.irrelevant, result.lines.len()), (1, 1, 0));
}

/// A record of few names and times, so that versions, changes of mind and ties meet.
fn any_record() -> impl Strategy<Value = Record> {
    let (at, text) = (95..205i64, prop::sample::select(vec!["a", "b", "a b", "c a", "none"]));
    let option = prop::sample::select(vec!["\"a\"", "\"b\"", "null", "\"z\""]);
    let id = prop::sample::select(vec!["", r#","id":"i""#, r#","id":"j""#]);
    let name = prop::sample::select(vec!["x", "y"]);
    prop_oneof![
        4 => (1..5u32, name.clone(), at.clone(), text).prop_map(|(id, author, at, text)| post(id, author, at, text)),
        1 => (1..5u32, at.clone()).prop_map(|(id, at)| deleted(id, at)),
        4 => (name, at, option, id).prop_map(|(voter, at, option, id)| vote(voter, at, option, id)),
    ]
}

proptest! {
    #[test]
    fn the_answer_is_the_same_in_whatever_order_records_come(
        records in prop::collection::vec(any_record(), 0..24), seed in any::<u64>(),
        keep in prop::sample::select(vec![Keep::All, Keep::First, Keep::Last, Keep::FirstN(2)]),
    ) {
        let ordered: Vec<(usize, &Record)> = records.iter().enumerate().collect();
        let mut mixed = ordered.clone();
        mixed.sort_by_key(|(place, _)| (*place as u64 + 1).wrapping_mul(seed | 1));
        let result = recount(&[kept(keep), poll("q")], &ordered).1;
        prop_assert_eq!(&result, &recount(&[kept(keep), poll("q")], &mixed).1);
        prop_assert_eq!(result.claims, result.subjects.values().map(|s| s.claims).sum::<u64>());
        prop_assert!(result.counted <= result.claims);
    }

    #[test]
    fn what_is_said_of_each_record_adds_up_to_the_accounting(
        records in prop::collection::vec(any_record(), 0..24),
        keep in prop::sample::select(vec![Keep::All, Keep::First, Keep::Last, Keep::FirstN(2)]),
    ) {
        let polls = [kept(keep), poll("q")];
        let ordered: Vec<(usize, &Record)> = records.iter().enumerate().collect();
        let (verdicts, want) = recount(&polls, &ordered);
        let mut counts = [0; 2];
        let mut lines: BTreeMap<(String, String), i64> = want.lines.keys().map(|line| (line.clone(), 0)).collect();
        for (offset, record) in &ordered {
            let at = At { input: record.0, partition: PartitionId(0), offset: Offset(*offset as u64) };
            let answer = ask(&polls, &ordered, Question::At(at));
            prop_assert_eq!(&answer.record.unwrap().verdict, &verdicts[*offset]);
            counts[0] += answer.claims.len() as u64;
            for claim in answer.claims {
                prop_assert_eq!(claim.by.is_none(), claim.fate == Fate::Counted);
                if claim.fate == Fate::Counted {
                    counts[1] += 1;
                    for (option, _) in claim.lines {
                        *lines.get_mut(&(claim.subject.clone(), option)).unwrap() += 1;
                    }
                }
            }
        }
        prop_assert_eq!(counts, [want.claims, want.counted]);
        for ((subject, group), count) in lines {
            prop_assert_eq!(want.lines[&(subject.clone(), group.clone())][0], Some(Decimal::from_int(count)));
            let answer = ask(&polls, &ordered, Question::Line { subject, group, limit: 100 });
            let counted = answer.claims.iter().filter(|claim| claim.fate == Fate::Counted).count();
            prop_assert_eq!(counted as i64, count);
        }
    }
}

fn ask(polls: &[PollInForce], records: &[(usize, &Record)], question: Question) -> Answer {
    let mut why = Why::new(&job(), &PlainFormats, polls, question);
    loop {
        for (offset, (input, timestamp_ms, text)) in records {
            let (partition, offset, value) = (PartitionId(0), Offset(*offset as u64), Some(text.as_bytes()));
            why.record(*input, &RecordRef { partition, offset, timestamp_ms: *timestamp_ms, key: None, value });
        }
        if !why.again().unwrap() {
            return why.finish();
        }
    }
}

#[test]
fn a_vote_is_told_with_what_it_replaced_and_a_post_with_the_deletion_that_took_it_back() {
    let records = [
        vote("x", 120, "\"a\"", ""),
        vote("x", 130, "\"b\"", ""),
        post(1, "x", 140, "a"),
        deleted(1, 150),
        post(2, "x", 145, "b"),
    ];
    let ordered: Vec<(usize, &Record)> = records.iter().enumerate().collect();
    let polls = [kept(Keep::Last)];
    let told = |offset: u64| {
        let input = records[offset as usize].0;
        let at = At { input, partition: PartitionId(0), offset: Offset(offset) };
        let answer = ask(&polls, &ordered, Question::At(at));
        let claims: Vec<_> = answer.claims.iter().map(|c| (c.fate, c.by.map(|by| (by.at.offset.0, by.says)))).collect();
        let replaced = answer.claims.first().and_then(|claim| claim.replaced).or(answer.record.unwrap().replaced);
        (claims, replaced.map(|other| other.at.offset.0))
    };
    assert_eq!(told(0), (vec![(Fate::Superseded, Some((1, Says::Contribution)))], None));
    assert_eq!(told(1), (vec![(Fate::Counted, None)], Some(0)));
    assert_eq!(told(2), (vec![(Fate::Superseded, Some((3, Says::Nothing)))], None));
    assert_eq!(told(3), (vec![], Some(2)));
    assert_eq!(told(4), (vec![(Fate::Counted, None)], None));
}
