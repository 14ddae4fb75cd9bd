//! The formats of the social services against a plain decoder of their rules.
//!
//! Method: the fixtures of the rule tests are altered at random places (members taken out, exchanged
//! for null, for another type, for another text) and decoded by both. The plain one parses all of the
//! record with `serde_json` and looks up what it wants by pointers; it knows only as much of hashtags and
//! of HTML as the fixtures have. What a record is, and every member of its event, must be the same;
//! reasons are not compared. Then the altered records are
//! cut off at every byte, and their bytes changed: nothing may panic, and what one job sees of a record
//! must not depend on what else it asks for.

use super::messages::{self as fixtures, EVENT};
use super::{decode_any, needs, written};
use proptest::prelude::*;
use serde_json::{Value, json};
use tallyflow_dataflows::decode::Decoded;

/// What a record comes to: `None` if it is rejected.
type Verdict = Option<(&'static str, Value)>;

const FORMATS: [&str; 4] = ["x-v2", "x-v1.1", "jetstream", "mastodon"];

fn decoded(format: &str, text: &str) -> Verdict {
    let needs = needs(&EVENT);
    let (decoded, event) = decode_any(format, &needs, text.as_bytes()).ok()?;
    let kind = match decoded {
        Decoded::Event => "event",
        Decoded::Deleted => "deleted",
        Decoded::Irrelevant(_) => return Some(("irrelevant", Value::Null)),
    };
    let value = |slot: &Option<_>| slot.as_ref().map_or(Value::Null, |v| serde_json::from_str(&written(v)).unwrap());
    Some((kind, event.slots.iter().map(value).collect()))
}

// ---- the plain decoder

/// A string where there is something; `None`: it is of another type.
fn string(value: Option<&Value>) -> Option<Value> {
    match value {
        None | Some(Value::Null) => Some(Value::Null),
        Some(Value::String(text)) => Some(json!(text)),
        Some(_) => None,
    }
}

fn words(value: Option<&Value>, key: &str) -> Option<Option<Vec<String>>> {
    match value {
        None | Some(Value::Null) => Some(None),
        Some(Value::Array(all)) => {
            let word = |of: &Value| Some(of.get(key)?.as_str()?.trim_start_matches('#').to_lowercase());
            all.iter().map(word).collect::<Option<Vec<_>>>().map(Some)
        }
        Some(_) => None,
    }
}

/// The texts of these tests have their hashtags after white space, of ASCII letters.
fn in_text(text: &Value) -> Value {
    let Some(text) = text.as_str() else { return Value::Null };
    let tags = text.split([' ', '\n']).filter_map(|word| word.strip_prefix('#'));
    tags.map(|tag| tag.split(|c: char| !c.is_ascii_alphabetic()).next().map(str::to_lowercase)).collect()
}

fn event(id: Value, author: Value, text: Value, at: Value, sent: Option<Vec<String>>, repost: bool) -> Verdict {
    let tags = sent.map_or_else(|| in_text(&text), |sent| json!(sent));
    Some(("event", json!([id, author, text, at, tags, repost])))
}

fn gone(id: Value, author: Value, at: Value) -> Verdict {
    (!id.is_null()).then(|| ("deleted", json!([id, author, null, at, null, null])))
}

const IRRELEVANT: Verdict = Some(("irrelevant", Value::Null));

fn unescape(text: Value) -> Value {
    match text.as_str() {
        Some(text) => json!(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")),
        None => text,
    }
}

/// The first text of these with the hashtags beside it.
fn words_of_x(of: &Value, pairs: &[(&str, &str)], key: &str) -> Option<(Value, Option<Vec<String>>)> {
    let there = |(text, _): &&(&str, &str)| of.pointer(text).is_some_and(|text| !text.is_null());
    let (text, tags) = pairs.iter().find(there).or(pairs.last())?;
    Some((unescape(string(of.pointer(text))?), words(of.pointer(tags), key)?))
}

fn x_v2(of: &Value) -> Verdict {
    let id = string(of.pointer("/data/id"))?;
    let first = string(of.pointer("/data/edit_history_tweet_ids/0"))?;
    if id.is_null() && first.is_null() {
        if let Some(delete) = of.pointer("/data/delete") {
            let member = |pointer| string(delete.pointer(pointer));
            return gone(member("/tweet/id")?, member("/tweet/author_id")?, member("/event_at")?);
        }
        let compliance = ["tweet_edit", "withheld", "drop", "undrop", "scrub_geo"];
        return match of.get("data") {
            None if of.get("errors").is_some() || of.get("title").is_some() => IRRELEVANT,
            Some(Value::Object(data))
                if data.keys().any(|k| compliance.contains(&k.as_str()) || k.starts_with("user_")) =>
            {
                IRRELEVANT
            }
            _ => None,
        };
    }
    let references = match of.pointer("/data/referenced_tweets") {
        None | Some(Value::Null) => vec![],
        Some(Value::Array(all)) => all.clone(),
        Some(_) => return None,
    };
    let reposted = references.iter().find(|r| r["type"] == "retweeted");
    let mut own = (of.get("data")?, None);
    if let Some(id) = reposted.and_then(|r| r["id"].as_str()) {
        own.1 = match of.pointer("/includes/tweets") {
            None | Some(Value::Null) => None,
            Some(Value::Array(all)) => all.iter().find(|post| post["id"] == id),
            Some(_) => return None,
        };
    }
    let pairs = [("/note_tweet/text", "/note_tweet/entities/hashtags"), ("/text", "/entities/hashtags")];
    let (text, tags) = words_of_x(own.1.unwrap_or(own.0), &pairs, "tag")?;
    let author = string(of.pointer("/data/author_id"))?;
    let at = string(of.pointer("/data/created_at"))?;
    event(if first.is_null() { id } else { first }, author, text, at, tags, reposted.is_some())
}

fn milliseconds(value: Option<&Value>) -> Option<Value> {
    match value {
        None | Some(Value::Null) => Some(Value::Null),
        Some(Value::Number(n)) => Some(json!(n)),
        Some(Value::String(text)) => text.parse::<u64>().ok().filter(|n| n.to_string() == *text).map(|n| json!(n)),
        Some(_) => None,
    }
}

fn x_v1(of: &Value) -> Verdict {
    let id = string(of.get("id_str"))?;
    if id.is_null() {
        if let Some(delete) = of.get("delete") {
            let member = |pointer| string(delete.pointer(pointer));
            let at = milliseconds(delete.get("timestamp_ms"))?;
            return gone(member("/status/id_str")?, member("/status/user_id_str")?, at);
        }
        return if of.get("limit").is_some() { IRRELEVANT } else { None };
    }
    let repost = !string(of.pointer("/retweeted_status/id_str"))?.is_null();
    let pairs = [
        ("/extended_tweet/full_text", "/extended_tweet/entities/hashtags"),
        ("/full_text", "/entities/hashtags"),
        ("/text", "/entities/hashtags"),
    ];
    let original = of.get("retweeted_status").filter(|original| {
        repost && pairs.iter().any(|(text, _)| original.pointer(text).is_some_and(|text| !text.is_null()))
    });
    let (text, tags) = words_of_x(original.unwrap_or(of), &pairs, "text")?;
    let mut at = milliseconds(of.get("timestamp_ms"))?;
    if at.is_null() {
        let created = string(of.get("created_at"))?;
        if let Some(created) = created.as_str() {
            // The only well-formed one that these tests have.
            at = (created == "Sat Nov 21 10:00:00 +0000 2026").then(|| json!("2026-11-21T10:00:00Z"))?;
        }
    }
    event(id, string(of.pointer("/user/id_str"))?, text, at, tags, repost)
}

fn jetstream(of: &Value) -> Verdict {
    match of.get("kind")?.as_str()? {
        "commit" => {}
        _ => return IRRELEVANT,
    }
    if of.pointer("/commit/collection")?.as_str()? != "app.bsky.feed.post" {
        return IRRELEVANT;
    }
    let operation = of.pointer("/commit/operation")?.as_str()?;
    let (did, rkey) = (of.get("did")?.as_str()?, of.pointer("/commit/rkey")?.as_str()?);
    let id = json!(format!("at://{did}/app.bsky.feed.post/{rkey}"));
    let at = match of.get("time_us") {
        None | Some(Value::Null) => Value::Null,
        Some(us) => json!(jiff::Timestamp::from_microsecond(us.as_i64()?).ok()?.to_string()),
    };
    match operation {
        "create" | "update" => {}
        "delete" => return gone(id, json!(did), at),
        _ => return None,
    }
    let mut tags = vec![];
    match of.pointer("/commit/record/facets") {
        None | Some(Value::Null) => {}
        Some(Value::Array(facets)) => {
            for feature in facets.iter().filter_map(|f| f.get("features")?.as_array()).flatten() {
                if feature["$type"] == "app.bsky.richtext.facet#tag" {
                    tags.push(feature.get("tag")?.as_str()?.to_lowercase());
                }
            }
        }
        Some(_) => return None,
    }
    let text = string(of.pointer("/commit/record/text"))?;
    event(id, json!(did), text, at, Some(tags).filter(|tags| !tags.is_empty()), false)
}

fn mastodon(of: &Value) -> Verdict {
    let kind = string(of.get("event"))?;
    let payload = of.get("payload");
    match kind.as_str() {
        None => status(of),
        Some("update" | "status.update") => match payload? {
            Value::String(text) => status(serde_json::from_str::<Value>(text).ok().filter(Value::is_object).as_ref()?),
            object @ Value::Object(_) => status(object),
            _ => None,
        },
        Some("delete") => match payload? {
            Value::String(id) => gone(json!(id), Value::Null, Value::Null),
            Value::Number(id) => gone(json!(id.to_string()), Value::Null, Value::Null),
            _ => None,
        },
        Some(_) => IRRELEVANT,
    }
}

fn status(of: &Value) -> Verdict {
    let id = string(of.get("id")).filter(|id| !id.is_null())?;
    let repost = !string(of.pointer("/reblog/id"))?.is_null();
    let words_of = if repost { of.get("reblog")? } else { of };
    let mut text = string(words_of.get("content"))?;
    if let Some(html) = text.as_str() {
        // All the tags and entities that these tests write.
        let html = html.replace("</p><p>", "\n").replace("<br>", "\n");
        let bare = ["<p>", "</p>", "<a href=\"https://example.org/tags/yes\">", "</a>", "<span>", "</span>"];
        let bare = bare.iter().fold(html, |html, tag| html.replace(tag, ""));
        text = unescape(json!(bare));
    }
    let tags = words(words_of.get("tags"), "name")?;
    let edited = string(of.get("edited_at"))?;
    let created = string(of.get("created_at"))?;
    let at = if edited.is_null() { created } else { edited };
    event(id, string(of.pointer("/account/url"))?, text, at, tags, repost)
}

fn plain(format: &str, text: &str) -> Verdict {
    let whole: Value = serde_json::from_str(text).ok().filter(Value::is_object)?;
    match format {
        "x-v2" => x_v2(&whole),
        "x-v1.1" => x_v1(&whole),
        "jetstream" => jetstream(&whole),
        _ => mastodon(&whole),
    }
}

// ---- what is generated

fn fixtures(format: &str) -> Vec<Value> {
    use fixtures::*;
    match format {
        "x-v2" => vec![x_v2(), x_v2_repost(), x_v2_deletion(), json!({"errors": [{"title": "t"}]})],
        "x-v1.1" => vec![x_v1(), x_v1_repost(), x_v1_deletion(), json!({"limit": {"track": 1}})],
        "jetstream" => vec![jetstream(), jetstream_deletion()],
        _ => {
            let mut boost = mastodon_status();
            boost["reblog"] = mastodon_status();
            vec![mastodon_status(), boost.clone(), boost]
        }
    }
}

/// Every member and element in it, by pointer.
fn places(value: &Value, at: &str, places: &mut Vec<String>) {
    let mut add = |name: &str, value: &Value| {
        let at = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
        places_below(value, at, places);
    };
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| add(name, value)),
        Value::Array(elements) => elements.iter().enumerate().for_each(|(i, value)| add(&i.to_string(), value)),
        _ => {}
    }
}

fn places_below(value: &Value, at: String, all: &mut Vec<String>) {
    all.push(at.clone());
    places(value, &at, all);
}

fn alteration() -> impl Strategy<Value = Option<Value>> {
    prop::sample::select(vec![
        None,
        None,
        Some(Value::Null),
        Some(json!(7)),
        Some(json!("so #Be it &amp; #more")),
        Some(json!("12")),
        Some(json!([])),
        Some(json!({})),
        Some(json!({"id": "5", "text": "t"})),
        Some(json!("delete")),
        Some(json!("app.bsky.feed.like")),
    ])
}

type Alterations = Vec<(prop::sample::Index, Option<Value>)>;

fn alterations() -> impl Strategy<Value = Alterations> {
    prop::collection::vec((any::<prop::sample::Index>(), alteration()), 0..4)
}

fn altered(mut record: Value, alterations: &Alterations) -> Value {
    for (at, value) in alterations {
        let mut all = Vec::new();
        places(&record, "", &mut all);
        if all.is_empty() {
            break;
        }
        let pointer = at.get(&all);
        match value {
            Some(value) => *record.pointer_mut(pointer).unwrap() = value.clone(),
            None => {
                let (parent, name) = pointer.rsplit_once('/').unwrap();
                match record.pointer_mut(parent).unwrap() {
                    Value::Object(members) => drop(members.remove(&name.replace("~1", "/").replace("~0", "~"))),
                    Value::Array(elements) => drop(elements.remove(name.parse().unwrap())),
                    _ => unreachable!("a parent has members"),
                }
            }
        }
    }
    record
}

/// A format, and a record of it, altered; a status of Mastodon in any wrapping.
fn record() -> impl Strategy<Value = (&'static str, Value)> {
    (prop::sample::select(FORMATS.to_vec()), any::<prop::sample::Index>(), alterations(), 0..5u8).prop_map(
        |(format, fixture, alterations, wrapping)| {
            let of = altered(fixture.get(&fixtures(format)).clone(), &alterations);
            let of = match (format, wrapping) {
                ("mastodon", 0) => json!({"event": "update", "payload": of}),
                ("mastodon", 1) => fixtures::mastodon("status.update", &of),
                ("mastodon", 2) => json!({"event": "delete", "payload": of.get("id")}),
                ("mastodon", 3) => altered(fixtures::mastodon("update", &of), &alterations),
                _ => of,
            };
            (format, of)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_record_is_what_the_plain_decoder_finds((format, record) in record()) {
        let text = record.to_string();
        prop_assert_eq!(decoded(format, &text), plain(format, &text), "{}: {}", format, text);
    }

    #[test]
    fn what_is_asked_besides_changes_nothing((format, record) in record(), asked in prop::sample::subsequence(EVENT.to_vec(), 0..6)) {
        let text = record.to_string();
        if let Some((kind, all)) = decoded(format, &text).filter(|(kind, _)| *kind != "irrelevant") {
            let needs = needs(&asked);
            let (decoded, event) = decode_any(format, &needs, text.as_bytes()).unwrap();
            prop_assert_eq!(decoded == Decoded::Deleted, kind == "deleted");
            for (slot, pointer) in event.slots.iter().zip(&asked) {
                let place = EVENT.iter().position(|p| p == pointer).unwrap();
                let value = slot.as_ref().map_or(Value::Null, |v| serde_json::from_str(&written(v)).unwrap());
                prop_assert_eq!(&value, &all[place], "{} of {}", pointer, text);
            }
        }
    }

    #[test]
    fn changed_bytes_never_panic((format, record) in record(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = record.to_string().into_bytes();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for pointers in [&EVENT[..], &["", "/raw/data", "/hashtags/0"], &[]] {
            let _ = decode_any(format, &needs(pointers), &bytes);
        }
    }
}

#[test]
fn a_record_cut_off_at_any_byte_is_rejected() {
    for format in FORMATS {
        for record in fixtures(format) {
            let text = record.to_string();
            for end in 0..text.len() {
                assert_eq!(decoded(format, &text[..text.floor_char_boundary(end)]), None, "{format}: {end} of {text}");
            }
        }
    }
    let wrapped = fixtures::mastodon_status().to_string();
    for end in 0..wrapped.len() {
        let record = fixtures::mastodon("update", &json!(wrapped[..end]));
        assert_eq!(decoded("mastodon", &record.to_string()), None, "{end}");
    }
}
