//! The formats of the social services, rule by rule. The records are written for these tests after the
//! published data dictionaries, which the decoders' own files cite.

use super::{decode_any, needs, reject, slots, written};
use serde_json::{Value, json};
use tallyflow_dataflows::decode::Decoded;
use tallyflow_dataflows::time::parse_time;

pub(super) const EVENT: [&str; 6] = ["/id", "/author", "/text", "/at", "/hashtags", "/repost"];

fn event(format: &str, record: &Value) -> [String; 6] {
    slots(format, &EVENT, &record.to_string()).try_into().unwrap()
}

fn deleted(format: &str, record: &Value) -> Vec<String> {
    let (text, needs) = (record.to_string(), needs(&EVENT));
    let (decoded, event) = decode_any(format, &needs, text.as_bytes()).unwrap();
    assert_eq!(decoded, Decoded::Deleted, "{text}");
    event.slots.iter().map(|slot| slot.as_ref().map_or("-".to_owned(), written)).collect()
}

fn irrelevant(format: &str, record: &Value) -> &'static str {
    let text = record.to_string();
    match decode_any(format, &needs(&EVENT), text.as_bytes()).unwrap().0 {
        Decoded::Irrelevant(why) => why,
        other => panic!("{other:?}: {text}"),
    }
}

fn refused(format: &str, record: &Value) -> String {
    reject(format, &EVENT, record.to_string().as_bytes())
}

/// The record with something else, or nothing, at a place in it.
fn with(record: &Value, pointer: &str, value: Value) -> Value {
    let mut record = record.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let members = record.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    if value == json!("gone") {
        members.remove(name)
    } else {
        members.insert(name.to_owned(), value)
    };
    record
}

pub(super) fn x_v2() -> Value {
    json!({
        "data": {
            "id": "1900000000000000001", "author_id": "42", "text": "Vote #Yes now", "lang": "en",
            "created_at": "2026-11-21T10:00:00.000Z", "edit_history_tweet_ids": ["1900000000000000001"],
            "entities": {"hashtags": [{"start": 5, "end": 9, "tag": "Yes"}]}
        },
        "includes": {"users": [{"id": "42", "username": "anna"}]},
        "matching_rules": [{"id": "7", "tag": "votes"}]
    })
}

pub(super) fn x_v2_repost() -> Value {
    let long = "Everybody who has not voted yet please do so before the stations close #Turnout";
    let original = json!({
        "id": "11", "author_id": "43", "text": "Everybody who has...", "entities": {"hashtags": []},
        "note_tweet": {"text": long, "entities": {"hashtags": [{"start": 71, "end": 79, "tag": "Turnout"}]}}
    });
    let mut record = x_v2();
    record["data"]["text"] = json!("RT @bob: Everybody who...");
    record["data"]["referenced_tweets"] = json!([{"type": "retweeted", "id": "11"}]);
    record["includes"]["tweets"] = json!([{"id": "10", "text": "another"}, original]);
    record
}

pub(super) fn x_v2_deletion() -> Value {
    json!({"data": {"delete": {"tweet": {"id": "11", "author_id": "43"}, "event_at": "2026-11-21T11:00:00.000Z"}}})
}

#[test]
fn a_post_of_x_v2_is_an_event() {
    assert_eq!(
        event("x-v2", &x_v2()),
        [
            "\"1900000000000000001\"",
            "\"42\"",
            "\"Vote #Yes now\"",
            "\"2026-11-21T10:00:00.000Z\"",
            "[\"yes\"]",
            "false"
        ]
    );
}

#[test]
fn an_edit_of_x_v2_has_the_id_of_its_first_version_and_its_own_time() {
    let edit = with(&x_v2(), "/data/edit_history_tweet_ids", json!(["5", "1900000000000000001"]));
    assert_eq!(event("x-v2", &edit)[0], "\"5\"");
    assert_eq!(event("x-v2", &with(&edit, "/data/edit_history_tweet_ids", json!([])))[0], "\"1900000000000000001\"");
}

#[test]
fn a_long_post_of_x_v2_has_its_full_text_and_its_hashtags() {
    let note = json!({"text": "long #A", "entities": {"hashtags": [{"tag": "A"}, {"tag": "B"}]}});
    let long = with(&x_v2(), "/data/note_tweet", note);
    assert_eq!(event("x-v2", &long)[2..5], ["\"long #A\"", "\"2026-11-21T10:00:00.000Z\"", "[\"a\",\"b\"]"]);
    let untagged = with(&long, "/data/note_tweet/entities", json!("gone"));
    assert_eq!(event("x-v2", &untagged)[4], "[\"a\"]", "not those of the shortened text");
}

#[test]
fn a_repost_of_x_v2_has_the_words_of_the_original() {
    let [id, author, text, _, hashtags, repost] = event("x-v2", &x_v2_repost());
    assert_eq!([&*id, &author], ["\"1900000000000000001\"", "\"42\""]);
    assert!(text.starts_with("\"Everybody who has not voted yet"), "{text}");
    assert_eq!([&*hashtags, &repost], ["[\"turnout\"]", "true"]);
    let not_sent = with(&x_v2_repost(), "/includes", json!("gone"));
    assert_eq!(event("x-v2", &not_sent)[2], "\"RT @bob: Everybody who...\"");
    assert_eq!(event("x-v2", &not_sent)[5], "true");
}

#[test]
fn quotes_and_replies_of_x_v2_are_posts_of_their_own() {
    for kind in ["quoted", "replied_to"] {
        let post = with(&x_v2_repost(), "/data/referenced_tweets", json!([{"type": kind, "id": "11"}]));
        assert_eq!(event("x-v2", &post)[2], "\"RT @bob: Everybody who...\"");
        assert_eq!(event("x-v2", &post)[5], "false");
    }
}

#[test]
fn a_deletion_of_x_v2_says_whose_and_when() {
    assert_eq!(deleted("x-v2", &x_v2_deletion()), ["\"11\"", "\"43\"", "-", "\"2026-11-21T11:00:00.000Z\"", "-", "-"]);
    let nameless = with(&x_v2_deletion(), "/data/delete/tweet/id", json!("gone"));
    assert_eq!(refused("x-v2", &nameless), "`data.delete.tweet.id` is missing");
}

#[test]
fn notices_of_x_v2_are_irrelevant() {
    for notice in [
        json!({"errors": [{"title": "operational-disconnect", "detail": "bye"}]}),
        json!({"title": "ConnectionException", "type": "about:blank"}),
        json!({"data": {"tweet_edit": {"tweet": {"id": "2"}, "event_at": "2026-11-21T11:00:00Z"}}}),
        json!({"data": {"user_delete": {"user": {"id": "3"}}}}),
    ] {
        assert_eq!(irrelevant("x-v2", &notice), "a notice, no post");
    }
}

#[test]
fn what_is_wrong_with_a_post_of_x_v2_is_named() {
    for (pointer, value, reason) in [
        ("/data/id", json!(7), "`data.id` is not a string"),
        ("/data/author_id", json!(7), "`data.author_id` is not a string"),
        ("/data/text", json!([]), "`data.text` is not a string"),
        ("/data/created_at", json!(1), "`data.created_at` is not a string"),
        ("/data/referenced_tweets", json!({}), "`data.referenced_tweets` is not an array"),
        (
            "/data/entities/hashtags",
            json!([{"tag": 1}]),
            "`data.entities.hashtags` is not an array of objects with a string tag",
        ),
    ] {
        assert_eq!(refused("x-v2", &with(&x_v2(), pointer, value)), reason);
    }
    let nameless = json!({"data": {"text": "t"}});
    assert_eq!(refused("x-v2", &nameless), "`data.id` is missing");
    assert_eq!(refused("x-v2", &json!({})), "`data.id` is missing");
}

pub(super) fn x_v1() -> Value {
    json!({
        "created_at": "Sat Nov 21 10:00:00 +0000 2026", "id": 9, "id_str": "9", "text": "A &amp; B #Yes...",
        "truncated": true, "user": {"id": 42, "id_str": "42", "screen_name": "anna"}, "lang": "en",
        "extended_tweet": {
            "full_text": "A &amp; B #Yes and #No", "display_text_range": [0, 22],
            "entities": {"hashtags": [{"text": "Yes", "indices": [6, 10]}, {"text": "No", "indices": [15, 18]}]}
        },
        "entities": {"hashtags": [{"text": "Yes", "indices": [6, 10]}]}, "retweeted_status": null,
        "timestamp_ms": "1795255200123"
    })
}

pub(super) fn x_v1_repost() -> Value {
    let mut record = x_v1();
    let mut original = x_v1();
    original["id_str"] = json!("8");
    original["extended_tweet"]["full_text"] = json!("The original");
    original["extended_tweet"]["entities"] = json!({"hashtags": []});
    record["text"] = json!("RT @bob: The ori...");
    record["extended_tweet"] = Value::Null;
    record["retweeted_status"] = original;
    record
}

pub(super) fn x_v1_deletion() -> Value {
    let status = json!({"id": 9, "id_str": "9", "user_id": 42, "user_id_str": "42"});
    json!({"delete": {"status": status, "timestamp_ms": "1795255300000"}})
}

#[test]
fn a_status_of_x_v1_is_an_event_with_its_full_text_as_it_was_written() {
    let expected = ["\"9\"", "\"42\"", "\"A & B #Yes and #No\"", "1795255200123", "[\"yes\",\"no\"]", "false"];
    assert_eq!(event("x-v1.1", &x_v1()), expected);
    let compat = with(&x_v1(), "/extended_tweet", json!("gone"));
    assert_eq!(event("x-v1.1", &compat)[2], "\"A & B #Yes...\"");
    assert_eq!(event("x-v1.1", &with(&compat, "/full_text", json!("full")))[2], "\"full\"");
}

#[test]
fn a_status_of_x_v1_without_milliseconds_has_the_time_of_its_own_form() {
    let untimed = with(&x_v1(), "/timestamp_ms", json!("gone"));
    assert_eq!(event("x-v1.1", &untimed)[3], "\"2026-11-21T10:00:00Z\"");
    let bad = with(&untimed, "/created_at", json!("2026-11-21"));
    assert_eq!(refused("x-v1.1", &bad), "`created_at` is not a time like Wed Oct 10 20:19:24 +0000 2018");
    for ms in [json!("soon"), json!(""), json!("01"), json!([])] {
        let bad = with(&x_v1(), "/timestamp_ms", ms);
        assert_eq!(refused("x-v1.1", &bad), "`timestamp_ms` is not a number of milliseconds");
    }
}

#[test]
fn a_repost_of_x_v1_has_the_words_of_the_original() {
    let expected = ["\"9\"", "\"42\"", "\"The original\"", "1795255200123", "[]", "true"];
    assert_eq!(event("x-v1.1", &x_v1_repost()), expected);
    let quote = with(&x_v1(), "/quoted_status", x_v1());
    assert_eq!(event("x-v1.1", &quote)[5], "false");
}

#[test]
fn a_deletion_of_x_v1_says_whose_and_when_it_is_told() {
    assert_eq!(deleted("x-v1.1", &x_v1_deletion()), ["\"9\"", "\"42\"", "-", "1795255300000", "-", "-"]);
    assert_eq!(deleted("x-v1.1", &with(&x_v1_deletion(), "/delete/timestamp_ms", json!("gone")))[3], "-");
    let nameless = with(&x_v1_deletion(), "/delete/status/id_str", json!("gone"));
    assert_eq!(refused("x-v1.1", &nameless), "`delete.status.id_str` is missing");
}

#[test]
fn notices_of_x_v1_are_irrelevant_and_what_else_has_no_id_is_refused() {
    for name in ["limit", "scrub_geo", "disconnect", "warning", "status_withheld", "user_withheld", "event"] {
        assert_eq!(irrelevant("x-v1.1", &json!({name: {"id": 1}})), "a notice, no status");
    }
    assert_eq!(refused("x-v1.1", &json!({"text": "t"})), "`id_str` is missing");
    assert_eq!(refused("x-v1.1", &with(&x_v1(), "/user/id_str", json!(42))), "`user.id_str` is not a string");
}

pub(super) fn jetstream() -> Value {
    json!({
        "did": "did:plc:anna", "time_us": 1795255200123456i64, "kind": "commit",
        "commit": {
            "rev": "r", "operation": "create", "collection": "app.bsky.feed.post", "rkey": "3k", "cid": "c",
            "record": {
                "$type": "app.bsky.feed.post", "createdAt": "1999-01-01T00:00:00Z", "text": "see #Yes #no",
                "facets": [{
                    "index": {"byteStart": 4, "byteEnd": 8},
                    "features": [{"$type": "app.bsky.richtext.facet#tag", "tag": "Yes"}]
                }, {
                    "index": {"byteStart": 0, "byteEnd": 3},
                    "features": [{"$type": "app.bsky.richtext.facet#link", "uri": "https://example.org"}]
                }]
            }
        }
    })
}

pub(super) fn jetstream_deletion() -> Value {
    let record = with(&jetstream(), "/commit/operation", json!("delete"));
    with(&record, "/commit/record", json!("gone"))
}

#[test]
fn a_post_of_bluesky_is_an_event_at_the_time_that_jetstream_saw_it() {
    let expected = [
        "\"at://did:plc:anna/app.bsky.feed.post/3k\"",
        "\"did:plc:anna\"",
        "\"see #Yes #no\"",
        "\"2026-11-21T10:00:00.123456Z\"",
        "[\"yes\"]",
        "false",
    ];
    assert_eq!(event("jetstream", &jetstream()), expected);
    assert_eq!(event("jetstream", &with(&jetstream(), "/commit/operation", json!("update"))), expected);
    let text = jetstream().to_string();
    let (_, at) = decode_any("jetstream", &needs(&["/at"]), text.as_bytes()).unwrap();
    assert_eq!(parse_time(at.slots[0].as_ref().unwrap()), Ok(1_795_255_200_123_456_000), "no microsecond is lost");
}

#[test]
fn a_post_of_bluesky_without_marked_tags_has_those_of_its_text() {
    assert_eq!(event("jetstream", &with(&jetstream(), "/commit/record/facets", json!("gone")))[4], "[\"yes\",\"no\"]");
    assert_eq!(event("jetstream", &with(&jetstream(), "/commit/record/facets", json!([])))[4], "[\"yes\",\"no\"]");
}

#[test]
fn a_deletion_on_bluesky_names_the_same_post() {
    assert_eq!(
        deleted("jetstream", &jetstream_deletion()),
        [
            "\"at://did:plc:anna/app.bsky.feed.post/3k\"",
            "\"did:plc:anna\"",
            "-",
            "\"2026-11-21T10:00:00.123456Z\"",
            "-",
            "-"
        ]
    );
}

#[test]
fn what_is_no_post_on_bluesky_is_irrelevant() {
    for (pointer, value, why) in [
        ("/kind", "identity", "an identity or account event"),
        ("/kind", "account", "an identity or account event"),
        ("/kind", "other", "an event of another kind"),
        ("/commit/collection", "app.bsky.feed.like", "a record of another collection"),
        ("/commit/collection", "app.bsky.feed.repost", "a repost, which has no text"),
    ] {
        assert_eq!(irrelevant("jetstream", &with(&jetstream(), pointer, json!(value))), why);
    }
}

#[test]
fn what_is_wrong_with_a_post_of_bluesky_is_named() {
    for (pointer, value, reason) in [
        ("/did", json!("gone"), "`did` is missing"),
        ("/kind", json!("gone"), "`kind` is missing"),
        ("/commit/rkey", json!("gone"), "`commit.rkey` is missing"),
        ("/commit/collection", json!(1), "`commit.collection` is not a string"),
        ("/commit/operation", json!("move"), "`commit.operation` is not create, update or delete"),
        ("/time_us", json!("1"), "`time_us` is not a number of microseconds"),
        ("/time_us", json!(i64::MAX), "`time_us` is not a number of microseconds"),
        ("/commit/record/text", json!(1), "`commit.record.text` is not a string"),
        ("/commit/record/facets", json!(1), "`commit.record.facets` is not an array"),
    ] {
        assert_eq!(refused("jetstream", &with(&jetstream(), pointer, value)), reason);
    }
}

#[test]
fn what_jetstream_really_sends_is_told_apart() {
    let Some(data) = super::conformance::data() else { return };
    let text = std::fs::read_to_string(data.join("bluesky/golden_v1.jsonl")).unwrap();
    let (mut posts, mut irrelevant) = (0, 0);
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        match decode_any("jetstream", &needs(&EVENT), line.as_bytes()).unwrap() {
            (Decoded::Event, event) => {
                posts += 1;
                assert_eq!(written(event.slots[2].as_ref().unwrap()), record["commit"]["record"]["text"].to_string());
                assert!(parse_time(event.slots[3].as_ref().unwrap()).is_ok());
            }
            (Decoded::Irrelevant(_), _) => irrelevant += 1,
            (Decoded::Deleted, _) => panic!("{line}"),
        }
    }
    assert_eq!((posts, irrelevant), (1, text.lines().count() - 1));
}

pub(super) fn mastodon_status() -> Value {
    json!({
        "id": "109", "created_at": "2026-11-21T10:00:00.000Z", "edited_at": null, "language": "en",
        "uri": "https://example.org/users/anna/statuses/109",
        "content": "<p>A &amp; B<br>say <a href=\"https://example.org/tags/yes\">#<span>Yes</span></a></p><p>Now</p>",
        "account": {"id": "1", "acct": "anna", "url": "https://example.org/@anna"},
        "tags": [{"name": "yes", "url": "https://example.org/tags/yes"}], "reblog": null
    })
}

pub(super) fn mastodon(event: &str, payload: &Value) -> Value {
    let payload = payload.as_str().map_or_else(|| payload.to_string(), str::to_owned);
    json!({"stream": ["public"], "event": event, "payload": payload})
}

#[test]
fn a_status_of_mastodon_is_an_event_however_it_is_wrapped() {
    let status = mastodon_status();
    let expected = [
        "\"109\"",
        "\"https://example.org/@anna\"",
        "\"A & B\\nsay #Yes\\nNow\"",
        "\"2026-11-21T10:00:00.000Z\"",
        "[\"yes\"]",
        "false",
    ];
    for record in [
        status.clone(),
        mastodon("update", &status),
        mastodon("status.update", &status),
        json!({"event": "update", "payload": status}),
    ] {
        assert_eq!(event("mastodon", &record), expected, "{record}");
        assert_eq!(slots("mastodon", &["/raw/language"], &record.to_string()), ["\"en\""]);
    }
}

#[test]
fn an_edited_status_has_the_time_of_the_edit() {
    let edited = with(&mastodon_status(), "/edited_at", json!("2026-11-21T12:00:00.000Z"));
    assert_eq!(event("mastodon", &mastodon("status.update", &edited))[3], "\"2026-11-21T12:00:00.000Z\"");
}

#[test]
fn a_status_without_a_list_of_tags_has_those_of_its_text() {
    assert_eq!(event("mastodon", &with(&mastodon_status(), "/tags", json!("gone")))[4], "[\"yes\"]");
    assert_eq!(event("mastodon", &with(&mastodon_status(), "/tags", json!([])))[4], "[]");
}

#[test]
fn a_boost_has_the_words_of_the_original() {
    let original = with(&mastodon_status(), "/id", json!("100"));
    let boost = with(&with(&original, "/content", json!("")), "/tags", json!([]));
    let boost = with(&with(&boost, "/reblog", original), "/id", json!("110"));
    let [id, _, text, _, hashtags, repost] = event("mastodon", &mastodon("update", &boost));
    assert_eq!([id, text, hashtags, repost], ["\"110\"", "\"A & B\\nsay #Yes\\nNow\"", "[\"yes\"]", "true"]);
}

#[test]
fn a_deletion_of_mastodon_has_only_the_id() {
    assert_eq!(deleted("mastodon", &mastodon("delete", &json!("109"))), ["\"109\"", "-", "-", "-", "-", "-"]);
    assert_eq!(deleted("mastodon", &json!({"event": "delete", "payload": 109}))[0], "\"109\"");
    assert_eq!(refused("mastodon", &json!({"event": "delete"})), "`payload` is missing");
    assert_eq!(refused("mastodon", &json!({"event": "delete", "payload": {}})), "`payload` is not an id");
}

#[test]
fn other_events_of_mastodon_are_irrelevant() {
    for kind in ["notification", "filters_changed", "conversation", "announcement", "announcement.delete"] {
        assert_eq!(irrelevant("mastodon", &mastodon(kind, &json!("1"))), "an event about no status");
    }
}

#[test]
fn what_is_wrong_with_a_status_of_mastodon_is_named() {
    for (pointer, value, reason) in [
        ("/id", json!("gone"), "`id` is missing"),
        ("/id", json!(1), "`id` is not a string"),
        ("/account/url", json!(1), "`account.url` is not a string"),
        ("/content", json!(1), "`content` is not a string"),
        ("/created_at", json!(1), "`created_at` is not a string"),
        ("/tags", json!([1]), "`tags` is not an array of objects with a string name"),
    ] {
        let status = with(&mastodon_status(), pointer, value);
        assert_eq!(refused("mastodon", &status), reason);
        assert_eq!(refused("mastodon", &mastodon("update", &status)), reason);
    }
    let broken = json!({"event": "update", "payload": "{\"id\":"});
    assert_eq!(refused("mastodon", &broken), "in `payload`: invalid JSON at byte 6: it ends too early");
    assert_eq!(
        refused("mastodon", &json!({"event": "update", "payload": "7"})),
        "`payload` is not the text of a JSON object"
    );
    assert_eq!(refused("mastodon", &json!({"event": 7})), "`event` is not a string");
}

#[test]
fn raw_leads_to_the_record_and_the_empty_pointer_to_the_whole_event() {
    let text = x_v2().to_string();
    assert_eq!(
        slots("x-v2", &["/raw/data/lang", "/raw/none", "/none", "/hashtags/0"], &text),
        ["\"en\"", "-", "-", "\"yes\""]
    );
    let whole: Value = serde_json::from_str(&slots("x-v2", &["", "/id"], &text)[0]).unwrap();
    assert_eq!((&whole["raw"], &whole["hashtags"], &whole["repost"]), (&x_v2(), &json!(["yes"]), &json!(false)));
    assert_eq!(slots("x-v2", &["/id"], &text), ["\"1900000000000000001\""]);
    assert_eq!(slots("x-v2", &["/text/0", "/text"], &text), ["-", "\"Vote #Yes now\""]);
}
