//! How records become events, checked by example, against `serde_json`, and against twitter-text.

mod conformance;
mod messages;
mod plain;
mod properties;

use super::BuiltinFormats;
use std::borrow::Cow;
use tallyflow_dataflows::decode::{Decoded, Event, Formats, Needs, Reject, Value};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::pointer::Pointer;
use tallyflow_dataflows::record::RecordRef;

fn needs(pointers: &[&str]) -> Needs {
    let mut needs = Needs::default();
    pointers.iter().for_each(|p| assert!(needs.slot(&Pointer::parse(p).unwrap()) < pointers.len()));
    needs
}

fn record(value: Option<&[u8]>) -> RecordRef<'_> {
    RecordRef { partition: PartitionId(0), offset: Offset(0), timestamp_ms: 0, key: None, value }
}

fn decode<'a>(format: &str, needs: &Needs, bytes: &'a [u8]) -> Result<Event<'a>, Reject> {
    let (decoded, event) = decode_any(format, needs, bytes)?;
    assert_eq!(decoded, Decoded::Event);
    Ok(event)
}

fn decode_any<'a>(format: &str, needs: &Needs, bytes: &'a [u8]) -> Result<(Decoded, Event<'a>), Reject> {
    let mut event = Event::default();
    let decoded = BuiltinFormats.decoder(format, needs).decode(&record(Some(bytes)), &mut event)?;
    Ok((decoded, event))
}

/// The slots, each written as JSON; "-" where there is nothing.
fn slots(format: &str, pointers: &[&str], text: &str) -> Vec<String> {
    let event = decode(format, &needs(pointers), text.as_bytes()).unwrap();
    assert_eq!(event.slots.len(), pointers.len());
    event.slots.iter().map(|slot| slot.as_ref().map_or("-".to_owned(), written)).collect()
}

fn written(value: &Value<'_>) -> String {
    let text = |t: &str| serde_json::to_string(t).unwrap();
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::Text(t) => text(t),
        Value::Array(elements) => format!("[{}]", elements.iter().map(written).collect::<Vec<_>>().join(",")),
        Value::Object(members) => {
            let member = |(name, value): &(Cow<'_, str>, Value<'_>)| format!("{}:{}", text(name), written(value));
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
        }
    }
}

fn reject(format: &str, pointers: &[&str], bytes: &[u8]) -> String {
    decode(format, &needs(pointers), bytes).unwrap_err().0.into_owned()
}

#[test]
fn pointers_lead_into_objects_and_arrays_and_to_the_whole_event() {
    let text = r#" { "a" : {"b": [10, {"c": -1.50e+3}, []], "": true}, "x/y": null, "~": "\u00e9\ud83d\ude00\n" } "#;
    assert_eq!(
        slots("json", &["/a/b/1/c", "/a/b/0", "/a/", "/x~1y", "/~0", "/a/b/2/0", "/a/b/-", "/a/b/00", "/none"], text),
        ["-1.50e+3", "10", "true", "null", "\"é😀\\n\"", "-", "-", "-", "-"]
    );
    assert_eq!(slots("json", &["", "/a/b/0"], r#"{"a":{"b":[1]}}"#), [r#"{"a":{"b":[1]}}"#, "1"]);
    assert_eq!(slots("json", &["/a", "/a/b", "/a/b/0"], r#"{"a":{"b":[1]}}"#), [r#"{"b":[1]}"#, "[1]", "1"]);
    assert_eq!(slots("json", &[], r#"{"a":1}"#), [""; 0]);
}

#[test]
fn of_equal_names_the_last_wins_whole() {
    assert_eq!(slots("json", &["/a/b", "/c"], r#"{"a":{"b":1},"c":1,"a":{},"c":2}"#), ["-", "2"]);
    assert_eq!(slots("json", &["/a/b"], r#"{"a":{"b":1},"a":7}"#), ["-"]);
    assert_eq!(slots("json", &["", "/a"], r#"{"a":1,"b":2,"\u0061":3}"#), [r#"{"b":2,"a":3}"#, "3"]);
    let many = |n: usize| (0..n).map(|i| format!("\"k{}\":{i}", i % 20)).collect::<Vec<_>>().join(",");
    let expected: Vec<_> = (20..40).map(|i| format!("\"k{}\":{i}", i - 20)).collect();
    assert_eq!(slots("json", &[""], &format!("{{{}}}", many(40))), [format!("{{{}}}", expected.join(","))]);
}

#[test]
fn text_is_borrowed_from_the_record_unless_it_has_escapes() {
    let needs = needs(&["/a", "/b", "/n"]);
    let event = decode("json", &needs, r#"{"a":"é","b":"\n","n":1e5}"#.as_bytes()).unwrap();
    assert!(matches!(&event.slots[0], Some(Value::Text(Cow::Borrowed("é")))));
    assert!(matches!(&event.slots[1], Some(Value::Text(Cow::Owned(_)))));
    assert!(matches!(&event.slots[2], Some(Value::Number(Cow::Borrowed("1e5")))));
}

#[test]
fn a_reason_says_what_is_wrong_and_at_which_byte() {
    for (bytes, reason) in [
        (&b""[..], "the record has no value"),
        (b"  ", "the record is empty"),
        (b"[1]", "the record is not a JSON object"),
        (b"{\"a\":1}x", "invalid JSON at byte 7: trailing characters"),
        (b"{\"a\":1", "invalid JSON at byte 6: it ends too early"),
        (b"{\"a\":", "invalid JSON at byte 5: it ends too early"),
        (b"{\"a\"1}", "invalid JSON at byte 4: expected `:`"),
        (b"{\"a\":1,}", "invalid JSON at byte 7: key must be a string"),
        (b"{\"a\":[1 2]}", "invalid JSON at byte 8: expected `,` or `]`"),
        (b"{\"a\":01}", "invalid JSON at byte 6: invalid number"),
        (b"{\"a\":-}", "invalid JSON at byte 6: invalid number"),
        (b"{\"a\":nul}", "invalid JSON at byte 8: expected ident"),
        (b"{\"a\":\"\\x\"}", "invalid JSON at byte 7: invalid escape"),
        (b"{\"a\":\"\\ud800\"}", "invalid JSON at byte 12: unexpected end of hex escape"),
        (b"{\"a\":\"\t\"}", "invalid JSON at byte 6: control character (\\u0000-\\u001F) found while parsing a string"),
        (
            b"{\n\n\"a\":\"\n\"}",
            "invalid JSON at byte 8: control character (\\u0000-\\u001F) found while parsing a string",
        ),
        (b"{\n\"a\":[{\n\"b\":\"\\uDC00\"}]}", "invalid JSON at byte 19: lone leading surrogate in hex escape"),
        (b"{\"a\":1,\n\n}", "invalid JSON at byte 9: key must be a string"),
        (b"{\"a\":tru\n}", "invalid JSON at byte 8: expected ident"),
        (b"{\"a\":\"\xff\"}", "invalid UTF-8 at byte 6"),
    ] {
        assert_eq!(reject("json", &["/a"], bytes), reason);
        assert_eq!(reject("json", &[], bytes), reason, "also where nothing is asked");
        assert_eq!(reject("vote", &["", "/voter"], bytes), reason);
    }
    let mut event = Event::default();
    let tombstone = BuiltinFormats.decoder("json", &needs(&[])).decode(&record(None), &mut event);
    assert_eq!(tombstone.unwrap_err().0, "the record has no value");
}

#[test]
fn nesting_is_taken_to_127_and_refused_beyond_whatever_its_depth() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
    for pointers in [&["/a"][..], &[], &["/a/0/0"], &[""]] {
        assert!(decode("json", &needs(pointers), nested(127).as_bytes()).is_ok());
        for depth in [128, 1_000_000] {
            assert!(reject("json", pointers, nested(depth).as_bytes()).ends_with("nested too deep (127 at most)"));
        }
    }
}

#[test]
fn many_brackets_are_not_deep_ones_and_those_in_strings_do_not_count() {
    let wide = format!(r#"{{"a":[{}7]}}"#, r#"{"b":["\"]]"]},"#.repeat(1000));
    assert_eq!(slots("json", &["/a/1000", "/a/999/b/0"], &wide), ["7", r#""\"]]""#]);
    assert_eq!(slots("json", &["/a"], &format!(r#"{{"a":1,"b":"{}"}}"#, "[".repeat(500))), ["1"]);
    let hidden = format!(r#"{{"a":"\"{}","b":{}{}}}"#, "]}".repeat(200), "[".repeat(127), "]".repeat(127));
    assert_eq!(reject("json", &[], hidden.as_bytes()), "invalid JSON at byte 540: nested too deep (127 at most)");
}

#[test]
fn a_post_without_hashtags_gets_those_of_its_text() {
    let text = r#"{"id":1,"text":"So #Happy, ＃日本 and #happy \u0023two #1","at":5}"#;
    let tags = r#"["happy","日本","happy","two"]"#;
    assert_eq!(slots("post", &["/hashtags", "/hashtags/1", "/at", "/hashtags/9"], text), [tags, "\"日本\"", "5", "-"]);
    assert_eq!(slots("post", &["/hashtags", "/text"], r##"{"text":"#A"}"##), [r#"["a"]"#, "\"#A\""]);
    assert_eq!(
        slots("post", &["", "/hashtags"], r##"{"text":"#A"}"##),
        [r##"{"text":"#A","hashtags":["a"]}"##, r#"["a"]"#]
    );
    assert_eq!(slots("post", &["/hashtags"], r#"{"text":"none"}"#), ["[]"]);
    assert_eq!(slots("post", &["/hashtags", ""], r#"{"id":"1"}"#), ["-", r#"{"id":"1"}"#]);
}

#[test]
fn a_posts_own_hashtags_are_taken_in_lower_case_without_their_sign() {
    let text = r##"{"text":"#other","hashtags":["#Ä","b","＃\u0043"]}"##;
    assert_eq!(slots("post", &["/hashtags", "/hashtags/2"], text), [r#"["ä","b","c"]"#, "\"c\""]);
    assert_eq!(slots("post", &["/hashtags"], r##"{"text":"#other","hashtags":null}"##), [r#"["other"]"#]);
    assert_eq!(
        reject("post", &["/hashtags"], br#"{"hashtags":[1]}"#),
        "the post's hashtags are not an array of strings"
    );
    assert_eq!(
        slots("post", &["/text"], r#"{"text":"t","hashtags":[1]}"#),
        ["\"t\""],
        "what is not needed is not checked"
    );
}

#[test]
fn a_post_whose_text_is_null_was_deleted_whatever_is_asked_of_it() {
    let text = r#"{"id":7,"author":"a","text":null,"at":5,"hashtags":["x"]}"#;
    for pointers in [&["/id", "/at"][..], &["/id", "/at", "/text"], &["/id", "/at", "/hashtags"], &["/id", "/at", ""]] {
        for text in [text.to_owned(), text.replace("\"a\"", "\"\\ud83d\\ude00\"")] {
            let needs = needs(pointers);
            let (decoded, event) = decode_any("post", &needs, text.as_bytes()).unwrap();
            assert_eq!((decoded, event.slots.len()), (Decoded::Deleted, pointers.len()), "{pointers:?}");
            assert_eq!(event.slots[..2].iter().flatten().map(written).collect::<Vec<_>>(), ["7", "5"]);
        }
    }
    for text in [r#"{"text":null,"text":"t","id":1}"#, r#"{"id":1}"#, r#"{"id":1,"text":[null]}"#] {
        assert_eq!(slots("post", &["/id"], text), ["1"], "{text}");
    }
    assert_eq!(reject("post", &["/id"], br#"{"id":[],"text":null}"#), "the post's id is neither a string nor a number");
}

#[test]
fn a_post_says_whether_it_is_a_repost() {
    assert_eq!(slots("post", &["/repost"], r#"{"text":"t","repost":true}"#), ["true"]);
    assert_eq!(slots("post", &["/repost"], r#"{"text":"t"}"#), ["false"]);
    assert_eq!(
        reject("post", &["/repost"], br#"{"text":"t","repost":1}"#),
        "the post's repost is neither true nor false"
    );
}

#[test]
fn an_id_that_cannot_tell_records_apart_is_rejected_where_it_is_needed() {
    for id in ["{}", "[]", "true"] {
        let text = format!(r#"{{"id":{id},"text":"x"}}"#);
        assert_eq!(reject("post", &["/id"], text.as_bytes()), "the post's id is neither a string nor a number");
        assert_eq!(reject("vote", &["/id"], text.as_bytes()), "the vote's id is neither a string nor a number");
        assert_eq!(slots("post", &["/text"], &text), ["\"x\""]);
    }
    assert_eq!(slots("vote", &["/id", "/option"], r#"{"id":null,"option":null}"#), ["null", "null"]);
    assert_eq!(slots("post", &["/id"], r#"{}"#), ["-"], "a missing id is the engine's to judge");
}

#[test]
fn the_formats_say_where_their_ids_stand() {
    let find = |name| BuiltinFormats.find(name).map(|f| (f.message_id, f.claim_id));
    assert_eq!(find("json"), Some((None, None)));
    assert_eq!(find("post"), Some((Some("/id"), None)));
    assert_eq!(find("vote"), Some((None, Some("/id"))));
    assert_eq!(find("xml"), None);
}

#[test]
fn every_byte_is_judged_alike_wherever_it_stands_in_a_string() {
    for byte in 0..0x80u8 {
        for at in 0..20 {
            let mut text = [b'x'; 20];
            text[at] = byte;
            let record = [b"{\"a\":\"", &text[..], b"\"}"].concat();
            let accepted = serde_json::from_slice::<serde_json::Value>(&record).is_ok();
            assert_eq!(decode("json", &needs(&["/a"]), &record).is_ok(), accepted, "{byte:#x} at {at}");
            assert_eq!(decode("json", &needs(&[]), &record).is_ok(), accepted, "{byte:#x} at {at}, passed over");
        }
    }
}

#[test]
fn half_of_a_surrogate_pair_is_refused_on_either_side() {
    for half in ["\\ud83d", "\\uDE00", "\\ud83d\\ud83d", "\\ud83dx", "\\ud83d\\n", "\\ude00\\ud83d"] {
        let record = format!("{{\"a\":[\"{half}\", 1e999], \"b\": 1}}");
        for pointers in [&[][..], &["/a"], &["/a/0"], &["/b"], &[""]] {
            let reason = reject("json", pointers, record.as_bytes());
            let at = reason.strip_prefix("invalid JSON at byte ").and_then(|r| r.split(':').next()?.parse().ok());
            assert!(at.is_some_and(|at: usize| (7..=7 + half.len() + 1).contains(&at)), "{half}: {reason}");
        }
    }
    assert_eq!(slots("json", &["/a"], r#"{"a":1,"b":"\\ud800"}"#), ["1"], "that is a backslash and ud800");
}

#[test]
fn a_number_may_have_any_magnitude_wherever_it_stands() {
    let long = "9".repeat(400);
    for number in ["1e999", "-1E+99999999999999999999", "0.1e-99999999999", &long] {
        let record = format!(r#"{{"n":{number},"o":{{"n":[{number},"\ud83d\ude00"]}},"x":{number}}}"#);
        for pointers in [["/n", "/o/n/0"], ["/n/deeper", "/o/n/0"], ["/n/deeper", "/o/n/0/deeper"]] {
            let expected = pointers.map(|p| if p.ends_with("deeper") { "-" } else { number });
            assert_eq!(slots("json", &pointers, &record), expected);
            assert_eq!(slots("json", &pointers, &record.replace("\\ud83d\\ude00", "")), expected);
        }
        assert_eq!(slots("json", &["/o"], &record), [format!(r#"{{"n":[{number},"😀"]}}"#)]);
    }
}
