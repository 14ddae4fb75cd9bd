//! Jobs of polls, and the definitions of polls.

use super::definition::{Around, PollsJob, changed_poll, new_poll};
use super::polls::{Choices, Match, Person, Poll, PollInForce, PollsSpec, Reposts};
use super::tests::{fault_of, parse};
use super::written::{Definition, KeepRule, time_text};
use super::{Dataflow, Fault, Keep};
use crate::ids::Offset;
use proptest::prelude::*;
use std::time::Duration;

const HEAD: &str = "name = 'p'\ndataflow = 'polls'\n[[input]]\ntopic = 'posts'\nformat = 'post'\n[[input]]\ntopic = 'orders'\nformat = 'vote'\n";

fn job(polls: &str) -> Result<PollsSpec, Vec<Fault>> {
    let Dataflow::Polls(spec) = parse(&format!("{HEAD}{polls}"))?.dataflow else { panic!("is a job of polls") };
    Ok(spec)
}

#[test]
fn a_job_of_polls_needs_nothing_but_inputs_and_has_defaults() {
    let spec = job("").unwrap();
    assert_eq!(spec, PollsSpec::default());
    assert_eq!(spec, job("[polls]\n").unwrap());
    assert_eq!((spec.matching, spec.choices, spec.keep), (Match::Word, Choices::Many, Keep::All));
    assert_eq!((spec.entity, spec.reposts), (None, Reposts::Ignore));
    assert_eq!((spec.grace, spec.ahead), (Duration::from_secs(300), Duration::from_secs(3_600)));
    let all = "[polls]\nmatch = 'hashtag'\nchoices = 'one'\nkeep = 'first-n'\nn = 3\nentity = 'author'\nreposts = 'count'\ngrace = '1h'\n";
    let spec = job(all).unwrap();
    assert_eq!((spec.matching, spec.choices, spec.keep), (Match::Hashtag, Choices::One, Keep::FirstN(3)));
    assert_eq!((spec.entity, spec.reposts), (Some(Person::Author), Reposts::Count));
    assert_eq!(spec.grace, Duration::from_secs(3_600));
}

#[test]
fn polls_are_counted_from_messages_and_votes_only() {
    let fault = fault_of(parse(&HEAD.replace("'vote'", "'json'")));
    assert_eq!(fault, "input[1].format: \"json\" has no messages or votes, which polls count; name one of post, vote");
}

#[test]
fn each_dataflow_has_a_table_of_its_own() {
    assert!(fault_of(job("[tally]\n")).starts_with("tally: has no place in a job with dataflow = \"polls\""));
    let tally = "name = 'j'\ndataflow = 'tally'\n[[input]]\ntopic = 'orders'\nformat = 'json'\n[tally]\n[polls]\n";
    assert!(fault_of(parse(tally)).starts_with("polls: has no place in a job with dataflow = \"tally\""));
}

#[test]
fn the_defaults_of_polls_are_judged_all_at_once() {
    let faults = job("[polls]\nmatch = 'words'\nkeep = 'last'\ngrace = '8d'\nahead = '1h'\n").unwrap_err();
    let places: Vec<_> = faults.iter().map(|f| (f.line.unwrap(), f.key.as_str())).collect();
    assert_eq!(places, [(10, "polls.match"), (11, "polls.keep"), (12, "polls.grace"), (13, "polls.ahead")]);
    assert!(faults[0].message.contains("did you mean \"word\"?") && faults[1].message.contains("whose vote"));
    assert!(fault_of(job("[polls]\nn = 3\n")).starts_with("polls.n: has no meaning"));
    assert!(fault_of(job("[polls]\nentity = 'voter'\nkeep = 'first-n'\n")).starts_with("polls.n: is missing"));
    assert!(fault_of(job("[polls]\nentity = 'voter'\nkeep = 'all'\n")).starts_with("polls.keep: \"all\" counts"));
    assert_eq!(job("[polls]\nentity = 'voter'\n").unwrap().keep, Keep::Last);
}

const NOW: i64 = 1_795_255_200_000_000_000;

fn new_in(defaults: &PollsSpec, text: &str) -> Result<Poll, Vec<Fault>> {
    let jobs = [PollsJob { name: "p", defaults, reads_messages: true }];
    let around = Around { jobs: &jobs, is_taken: &|id| id == "taken", now_ns: NOW };
    new_poll(text, &around).map(|(job, poll)| {
        assert_eq!(job, "p");
        poll
    })
}

fn new(text: &str) -> Result<Poll, Vec<Fault>> {
    new_in(&PollsSpec::default(), text)
}

/// A definition that is right but for what is given.
fn with(rest: &str) -> Result<Poll, Vec<Fault>> {
    new(&format!("{{\"id\": \"moods\", \"options\": [\"happy\", \"sad\"], {rest}}}"))
}

fn moods() -> Poll {
    with("\"title\": \"Moods\"").unwrap()
}

fn changed(poll: &Poll, text: &str) -> Result<Poll, Vec<Fault>> {
    changed_poll(text, poll, &PollsJob { name: "p", defaults: &PollsSpec::default(), reads_messages: true })
}

#[test]
fn a_definition_as_the_product_shows_it_is_a_poll() {
    let text = r#"{"id": "moods", "title": "Moods", "options": ["happy", "sad"], "match": "word", "choices": "many",
        "keep": "all", "entity": null, "opens": "2026-11-21T10:00:00Z", "closes": null}"#;
    let poll = new(text).unwrap();
    assert_eq!((&*poll.id, &*poll.title, &poll.options[..]), ("moods", "Moods", &["happy".into(), "sad".into()][..]));
    assert_eq!((poll.opens_ns, poll.closes_ns, poll.entity, poll.keep), (NOW, None, None, Keep::All));
    let in_force = PollInForce { poll, version: 2, from: vec![vec![Offset(812), Offset(790)], vec![Offset(5)]] };
    let json = serde_json::to_value(Definition::new("p", &in_force, ["posts", "votes"])).unwrap();
    let expected = serde_json::json!({"id": "moods", "job": "p", "title": "Moods", "options": ["happy", "sad"],
        "match": "word", "choices": "many", "keep": "all", "entity": null, "reposts": "ignore",
        "opens": "2026-11-21T10:00:00Z", "closes": null, "grace": "5m", "version": 2,
        "from": {"posts": [812, 790], "votes": [5]}});
    assert_eq!(json, expected);
    // A topic that is read twice begins at the lesser of the two.
    let twice = PollInForce { from: vec![vec![Offset(8), Offset(3)], vec![Offset(5), Offset(9)]], ..in_force };
    assert_eq!(Definition::new("p", &twice, ["t", "t"]).from["t"], [Offset(5), Offset(3)]);
}

#[test]
fn what_is_left_out_is_as_the_job_says() {
    let defaults = PollsSpec {
        matching: Match::Hashtag,
        keep: Keep::FirstN(3),
        entity: Some(Person::Voter),
        grace: Duration::ZERO,
        ..PollsSpec::default()
    };
    let poll = new_in(&defaults, r#"{"id": "a", "options": ["x"], "title": null}"#).unwrap();
    assert_eq!((&*poll.title, poll.opens_ns, poll.closes_ns), ("a", NOW, None));
    assert_eq!((poll.matching, poll.keep, poll.grace), (Match::Hashtag, Keep::FirstN(3), Duration::ZERO));
    // An entity that is taken away takes the rule with it.
    let plain = new_in(&defaults, r#"{"id": "a", "options": ["x"], "entity": null}"#).unwrap();
    assert_eq!((plain.keep, plain.entity), (Keep::All, None));
    assert!(fault_of(new_in(&defaults, r#"{"id": "a", "options": ["x"], "keep": "all"}"#)).contains("null where"));
    let last = new_in(&defaults, r#"{"id": "a", "options": ["x"], "keep": "last"}"#).unwrap();
    assert_eq!((last.keep, last.entity), (Keep::Last, Some(Person::Voter)));
    let two = new_in(&defaults, r#"{"id": "a", "options": ["x"], "n": 2}"#).unwrap();
    assert_eq!(two.keep, Keep::FirstN(2));
}

#[test]
fn an_entity_without_a_rule_keeps_the_last() {
    let poll = with(r#""entity": "author""#).unwrap();
    assert_eq!((poll.keep, poll.entity), (Keep::Last, Some(Person::Author)));
    assert!(fault_of(with(r#""keep": "last""#)).starts_with("keep: \"last\" needs to know whose vote it keeps"));
    assert!(fault_of(with(r#""entity": "author", "n": 2"#)).starts_with("n: has no meaning"));
    assert!(fault_of(with(r#""entity": "author", "keep": "first-n", "n": 1001"#)).contains("between 1 and 1000"));
    assert!(fault_of(with(r#""entity": "person""#)).contains("there are author, voter"));
}

#[test]
fn a_poll_without_an_id_gets_one_from_its_title() {
    let id = |title: &str| new(&format!("{{\"title\": {title:?}, \"options\": [\"x\"]}}")).unwrap().id;
    assert_eq!(id("  How do you feel, today?"), "how-do-you-feel-today");
    assert_eq!((id("Taken"), id("感想は")), ("taken-2".to_owned(), "poll".to_owned()));
    assert!(id(&"x ".repeat(500)).len() <= 64);
    assert!(fault_of(new(r#"{"options": ["x"]}"#)).starts_with("id: is missing; give the poll an id, or a title"));
}

#[test]
fn an_id_is_short_and_plain() {
    let id = |id: &str| new(&format!("{{\"id\": {id:?}, \"options\": [\"x\"]}}"));
    for good in ["a", "Az09_-.", "_", &"x".repeat(128)] {
        assert!(id(good).is_ok(), "{good}");
    }
    for bad in ["", "-a", ".", "..", "a b", "ä", "a/b", "a\n", &"x".repeat(129)] {
        assert!(fault_of(id(bad)).starts_with("id: "), "{bad}");
    }
    assert!(fault_of(new(r#"{"id": 7, "options": ["x"]}"#)).contains("is a whole number"));
}

#[test]
fn options_are_there_few_short_and_different() {
    let options = |list: &str| new(&format!("{{\"id\": \"a\", \"options\": {list}}}"));
    assert!(fault_of(new(r#"{"id": "a"}"#)).starts_with("options: is missing"));
    assert_eq!(fault_of(options("[]")), "options: is an empty list; name at least one option");
    assert!(fault_of(options("\"happy\"")).contains("must be a list of texts"));
    let many: Vec<String> = (0..10_000).map(|n| format!("\"o{n}\"")).collect();
    let fault = fault_of(options(&format!("[{}]", many.join(","))));
    assert_eq!(fault, "options: has 10000 elements, more than the 1000 that are possible");
    assert!(options(&format!("[{}]", many[..1_000].join(","))).is_ok());
    let fault = fault_of(options(&format!("[\"{}\"]", "é".repeat(10_000))));
    assert_eq!(fault, "options[0]: has 10000 characters, more than the 256 that a poll's option may have");
    assert!(options(&format!("[\"{}\"]", "é".repeat(256))).is_ok());
    for bad in ["[\"\"]", "[\" \\u00a0\"]", "[\"a\\u0000\"]", "[3]", "[null]", "[[\"a\"]]"] {
        assert!(fault_of(options(bad)).starts_with("options[0]: "), "{bad}");
    }
    let same = fault_of(options(r#"["a", "b", "a"]"#));
    assert_eq!(same, "options[2]: is the same as options[0]; leave one of them out");
    for but_for in [r#"["x", "Straße ", "STRASSE"]"#, r#"["x", "a  b", " A B"]"#, r#"["x", "ΟΔΟΣ", "οδος"]"#] {
        let fault = fault_of(options(but_for));
        assert!(fault.starts_with("options[2]: \"") && fault.contains("the same as options[1]"), "{fault}");
    }
}

#[test]
fn an_option_that_no_text_can_speak_of_is_refused_where_texts_are_read() {
    let text = r#"{"id": "a", "options": ["yes", "!!!", "..."]}"#;
    let faults = new(text).unwrap_err();
    let keys: Vec<_> = faults.iter().map(|f| f.key.as_str()).collect();
    assert_eq!(keys, ["options[1]", "options[2]"]);
    assert!(faults[0].message.starts_with("\"!!!\" has no letter or digit"));
    let defaults = PollsSpec::default();
    let jobs = [PollsJob { name: "p", defaults: &defaults, reads_messages: false }];
    assert!(new_poll(text, &Around { jobs: &jobs, is_taken: &|_| false, now_ns: NOW }).is_ok(), "votes name it");
    assert!(fault_of(changed(&moods(), r#"{"options": ["!"]}"#)).starts_with("options[0]: \"!\""));
}

#[test]
fn a_poll_closes_after_it_opens() {
    assert!(with(r#""opens": 1795255200000, "closes": 1795255200001"#).is_ok());
    let fault = fault_of(with(r#""opens": "2026-11-21T10:00:00Z", "closes": "2026-11-21T10:00:00Z""#));
    assert!(fault.starts_with("closes: the poll would close at 2026-11-21T10:00:00Z and open at 2026-"), "{fault}");
    // It opens now where it does not say.
    assert!(fault_of(with(r#""closes": "2026-11-21T09:59:59Z""#)).starts_with("closes: "));
    for bad in ["\"soon\"", "\"9999-01-01T00:00:00Z\"", "99999999999999999", "1.5", "true", "[]"] {
        assert!(fault_of(with(&format!("\"opens\": {bad}"))).starts_with("opens: "), "{bad}");
    }
    assert_eq!(time_text(NOW + 120_000_000), "2026-11-21T10:00:00.12Z");
}

#[test]
fn every_fault_of_a_definition_is_told_at_once() {
    let text = "{\"id\": \"a b\",\n\"title\": \"\",\n\"options\": [\"x\", 3, \"x\"],\n\"match\": \"wrd\",\n\"keep\": \"last\",\n\"grace\": \"8d\",\n\"opens\": \"x\",\n\"reposts\": 1,\n\"colour\": \"red\", \"job\": \"q\"}";
    let faults = new(text).unwrap_err();
    let keys: Vec<_> = faults.iter().map(|f| f.key.as_str()).collect();
    let expected =
        ["id", "title", "options[1]", "options[2]", "match", "keep", "grace", "opens", "reposts", "colour", "job"];
    assert_eq!(keys, expected, "{faults:#?}");
    assert_eq!(faults[4].line, Some(4));
    assert!(faults[9].message.contains("is no key that is known here"));
}

#[test]
fn what_is_no_definition_gets_an_answer() {
    for text in ["", "{", "[]", "null", "3", "\"a\"", "{\"id\": \"a\", \"id\": \"b\"}"] {
        assert!(!new(text).unwrap_err().is_empty(), "{text}");
        if text != "{}" {
            assert!(!changed(&moods(), text).unwrap_err().is_empty(), "{text}");
        }
    }
    assert!(new(&"[".repeat(200_000)).is_err());
    assert!(fault_of(new(&" ".repeat(3 << 20))).contains("longer than the 2097152 bytes"));
}

#[test]
fn a_poll_names_its_job_where_there_are_several() {
    let defaults = PollsSpec::default();
    let jobs = ["a", "b"].map(|name| PollsJob { name, defaults: &defaults, reads_messages: false });
    let around = Around { jobs: &jobs, is_taken: &|_| false, now_ns: NOW };
    let named = |job: &str| new_poll(&format!("{{\"id\": \"x\", \"options\": [\"y\"]{job}}}"), &around);
    assert_eq!(named(", \"job\": \"b\"").unwrap().0, "b");
    assert_eq!(fault_of(named("")), "job: is missing; there are several jobs of polls, name one of a, b");
    assert!(fault_of(named(", \"job\": \"c\"")).contains("there is no job of polls named \"c\""));
}

#[test]
fn a_change_says_what_is_to_be_another_way() {
    let poll = moods();
    assert_eq!(changed(&poll, "{}").unwrap(), poll);
    let titled = changed(&poll, r#"{"title": "Spirits", "id": "moods", "job": "p"}"#).unwrap();
    assert!(titled != poll && titled.counts_as(&poll));
    let closing = changed(&poll, r#"{"closes": "2026-11-21T11:00:00Z"}"#).unwrap();
    assert_eq!(closing.closes_ns, Some(NOW + 3_600_000_000_000));
    assert!(!closing.counts_as(&poll));
    assert_eq!(changed(&closing, r#"{"closes": null}"#).unwrap(), poll);
    let last = changed(&poll, r#"{"entity": "voter"}"#).unwrap();
    assert_eq!(last.keep, Keep::Last);
    let first = changed(&last, r#"{"keep": "first"}"#).unwrap();
    assert_eq!((first.keep, first.entity), (Keep::First, Some(Person::Voter)));
    assert_eq!(changed(&first, r#"{"entity": null}"#).unwrap(), poll);
    let more = changed(&poll, r#"{"options": ["happy", "sad", "angry"]}"#).unwrap();
    assert_eq!(more.options.len(), 3);
    for bad in [
        r#"{"id": "other"}"#,
        r#"{"job": "other"}"#,
        r#"{"title": null}"#,
        r#"{"options": null}"#,
        r#"{"opens": null}"#,
        r#"{"match": null}"#,
        r#"{"version": 3}"#,
        r#"{"closes": "2020-01-01T00:00:00Z"}"#,
    ] {
        fault_of(changed(&poll, bad));
    }
    let late = fault_of(changed(&closing, r#"{"opens": "2026-11-21T11:00:00Z"}"#));
    assert!(late.starts_with("opens: the poll would close at"), "{late}");
}

#[test]
fn an_answered_definition_says_its_rule_and_its_grace_as_one_writes_them() {
    let poll = with(r#""entity": "voter", "keep": "first-n", "n": 2, "grace": "90s""#).unwrap();
    let definition = Definition::new("p", &PollInForce { poll, version: 1, from: vec![] }, []);
    assert_eq!((definition.keep, definition.n, &*definition.grace), (KeepRule::FirstN, Some(2), "90s"));
    for grace in ["0s", "250ms", "5m", "1h", "7d"] {
        let poll = with(&format!("\"grace\": {grace:?}")).unwrap();
        assert_eq!(Definition::new("p", &PollInForce { poll, version: 1, from: vec![] }, []).grace, grace);
    }
}

proptest! {
    #[test]
    fn any_text_is_a_definition_or_has_faults(text in ".{0,200}") {
        let _ = new(&text);
        let _ = changed(&moods(), &text);
    }

    #[test]
    fn any_title_makes_an_id_that_is_good(title in "[^\\p{Cc}]{1,80}") {
        if let Ok(poll) = new(&serde_json::json!({"title": title, "options": ["x"]}).to_string()) {
            let id = serde_json::json!({"id": poll.id, "options": ["x"]}).to_string();
            prop_assert!(new(&id).is_ok(), "{}", poll.id);
        }
    }
}
