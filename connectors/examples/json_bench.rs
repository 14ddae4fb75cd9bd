//! JSON libraries on the path that a decoder walks: records in, needed fields out, the whole checked.
//!
//! ```text
//! cargo run --release -p tallyflow-connectors --example json_bench
//! ```
//!
//! Every way fills the same slots and refuses what is no JSON, invalid UTF-8 and lone surrogates
//! included; the check at the start holds each to it and says where a library alone would not.
//! Figures are the best of fifteen rounds on one core.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use simd_json::prelude::*;
use std::borrow::Cow;
use std::fmt;
use std::hint::black_box;
use std::time::Instant;
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_connectors::feeds::simulate::{SimulateOptions, Simulation, Workload};
use tallyflow_dataflows::decode::{Event, Formats, Needs, Value};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::pointer::Pointer;
use tallyflow_dataflows::record::RecordRef;

type Slots<'a> = [Option<Value<'a>>];
/// Fills the slots of the named members; false: refused.
type Way = for<'a> fn(&mut Scratch, &'a [u8], &[&str], &mut Event<'a>) -> bool;

/// What a way may keep from record to record.
struct Scratch {
    bytes: Vec<u8>,
    buffers: simd_json::Buffers,
    tree: sonic_rs::PointerTree,
}

fn main() {
    let workloads = [
        ("posts, 300 B, 2 needs", posts(), vec!["id", "text"]),
        ("posts, 300 B, 3 needs", posts(), vec!["id", "author", "at"]),
        ("votes, 100 B, 3 needs", votes(), vec!["voter", "option", "at"]),
        ("orders, 1 KB, 3 needs", orders(), vec!["region", "amount", "status"]),
    ];
    let ways: [(&str, Way); 5] = [
        ("serde_json, visitor", serde_json_visitor),
        ("sonic-rs, visitor", sonic_visitor),
        ("sonic-rs, get_many", sonic_get_many),
        ("simd-json, tape", simd_tape),
        ("serde_json, Value", serde_json_value),
    ];
    refusals(&ways);
    hashtags();
    for (name, records, needs) in &workloads {
        let bytes: usize = records.iter().map(Vec::len).sum();
        println!("\n{name} (mean {} B)", bytes / records.len());
        let mut scratch = scratch(needs);
        for (way_name, way) in &ways {
            for record in records.iter().take(1000) {
                let (a, b) = (
                    slots_of(serde_json_visitor, &mut scratch, record, needs),
                    slots_of(*way, &mut scratch, record, needs),
                );
                assert!(a.iter().all(Option::is_some));
                // The last two hand numbers over as another text, if an equal one.
                assert!(
                    a == b || *way_name == "simd-json, tape" || *way_name == "serde_json, Value",
                    "{way_name}: {b:?}"
                );
            }
        }
        // Round by round, so that a disturbance strikes all alike.
        let mut best = [f64::MAX; 5];
        for _ in 0..15 {
            for ((_, way), best) in ways.iter().zip(&mut best) {
                let start = Instant::now();
                let mut event = Event::default();
                for record in records {
                    event.slots.clear();
                    assert!(way(&mut scratch, record, needs, &mut event));
                    black_box(&event);
                }
                *best = best.min(start.elapsed().as_secs_f64());
            }
        }
        for ((way, _), seconds) in ways.iter().zip(best) {
            let (per_s, ratio) = (records.len() as f64 / seconds, best[0] / seconds);
            println!("  {way:<20} {:>6.2} M/s {:>6.0} MB/s {ratio:>6.2}", per_s / 1e6, bytes as f64 / seconds / 1e6);
        }
    }
}

/// What the hashtags cost on top: the format `post`, from simulated records with one to three of them
/// in the text.
fn hashtags() {
    let options = SimulateOptions { records: Some(50_000), ..SimulateOptions::default() };
    let mut simulation = Simulation::new(Workload::Posts, options);
    let mut records = Vec::new();
    while let Some(record) = simulation.generate() {
        records.push(record.value.to_vec());
    }
    for needs in [&["id", "at"][..], &["id", "at", "hashtags"]] {
        let mut all = Needs::default();
        for name in needs {
            all.slot(&Pointer::from_tokens(vec![(*name).to_owned()]));
        }
        let mut best = f64::MAX;
        let mut found = 0;
        for _ in 0..15 {
            let mut decoder = BuiltinFormats.decoder("post", &all);
            let start = Instant::now();
            let mut event = Event::default();
            for record in &records {
                event.slots.clear();
                let value = Some(&record[..]);
                let record =
                    RecordRef { partition: PartitionId(0), offset: Offset(0), timestamp_ms: 0, key: None, value };
                assert!(decoder.decode(&record, &mut event).is_ok());
                found += matches!(event.slots.last(), Some(Some(Value::Array(tags))) if !tags.is_empty()) as usize;
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        let per_s = records.len() as f64 / best / 1e6;
        println!("format post, {needs:?}: {per_s:.2} M/s, {} records of {} with hashtags", found / 15, records.len());
    }
}

fn scratch(needs: &[&str]) -> Scratch {
    let mut tree = sonic_rs::PointerTree::new();
    needs.iter().for_each(|name| tree.add_path([*name].iter()));
    Scratch { bytes: Vec::new(), buffers: simd_json::Buffers::default(), tree }
}

fn slots_of(way: Way, scratch: &mut Scratch, record: &[u8], needs: &[&str]) -> Vec<Option<String>> {
    let mut event = Event::default();
    assert!(way(scratch, record, needs, &mut event));
    event
        .slots
        .iter()
        .map(|s| s.as_ref().map(|v| format!("{v:?}").replace("Owned", "").replace("Borrowed", "")))
        .collect()
}

/// What must be refused, also in a member that nobody asked for.
fn refusals(ways: &[(&str, Way)]) {
    let bad: [&[u8]; 6] = [
        b"{\"a\":1,\"x\":\"\xff\"}",
        b"{\"a\":1,\"x\":\"\\ud800\"}",
        b"{\"a\":1,\"x\":\"\\q\"}",
        b"{\"a\":1,\"x\":[1,]}",
        b"{\"a\":1,\"x\":01}",
        b"{\"a\":1}}",
    ];
    let mut scratch = scratch(&["a"]);
    for (name, way) in ways {
        for record in bad {
            let refused = !way(&mut scratch, record, &["a"], &mut Event::default());
            if !refused {
                println!("{name} takes {}", String::from_utf8_lossy(record));
            }
        }
    }
}

/// A value of a captured member's text. The needs here are all strings and numbers.
fn leaf(raw: &str) -> Option<Value<'_>> {
    Some(match raw.as_bytes().first()? {
        b'"' if !raw.contains('\\') => Value::Text(Cow::Borrowed(&raw[1..raw.len() - 1])),
        b'"' => Value::Text(Cow::Owned(serde_json::from_str(raw).ok()?)),
        b't' => Value::Bool(true),
        b'f' => Value::Bool(false),
        b'n' => Value::Null,
        _ => Value::Number(Cow::Borrowed(raw)),
    })
}

/// `IgnoredAny` and `RawValue` of serde_json pass over strings without a look at their UTF-8 or at
/// surrogates: the first is checked before, a record that may have the second is parsed again.
fn utf8_and_surrogates(record: &[u8]) -> Option<&str> {
    let text = simdutf8::basic::from_utf8(record).ok()?;
    let surrogate = memchr::memchr_iter(b'\\', record)
        .any(|at| record.get(at + 1) == Some(&b'u') && matches!(record.get(at + 2), Some(b'd' | b'D')));
    (!surrogate || serde_json::from_str::<serde_json::Value>(text).is_ok()).then_some(text)
}

struct Fields<'n, 's, 'a> {
    needs: &'n [&'n str],
    slots: &'s mut Slots<'a>,
}

impl<'de> DeserializeSeed<'de> for Fields<'_, '_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_, '_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(slot) = map.next_key_seed(Name(self.needs))? {
            match slot {
                Some(slot) => self.slots[slot] = leaf(map.next_value::<&RawValue>()?.get()),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct Name<'n>(&'n [&'n str]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|n| *n == name))
    }
}

fn serde_json_visitor<'a>(_: &mut Scratch, record: &'a [u8], needs: &[&str], event: &mut Event<'a>) -> bool {
    event.slots.resize_with(needs.len(), || None);
    let Some(text) = utf8_and_surrogates(record) else { return false };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    Fields { needs, slots: &mut event.slots }.deserialize(&mut deserializer).and_then(|()| deserializer.end()).is_ok()
}

struct SonicFields<'n, 's, 'a>(Fields<'n, 's, 'a>);

impl<'de> Visitor<'de> for SonicFields<'_, '_, 'de> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(slot) = map.next_key_seed(Name(self.0.needs))? {
            match slot {
                Some(slot) => {
                    let value: sonic_rs::LazyValue<'de> = map.next_value()?;
                    self.0.slots[slot] = match value.as_raw_cow() {
                        Cow::Borrowed(raw) => leaf(raw),
                        Cow::Owned(_) => None,
                    };
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

fn sonic_visitor<'a>(_: &mut Scratch, record: &'a [u8], needs: &[&str], event: &mut Event<'a>) -> bool {
    event.slots.resize_with(needs.len(), || None);
    let Some(text) = utf8_and_surrogates(record) else { return false };
    let mut deserializer = sonic_rs::Deserializer::from_str(text);
    let fields = SonicFields(Fields { needs, slots: &mut event.slots });
    Deserializer::deserialize_map(&mut deserializer, fields).and_then(|()| deserializer.end()).is_ok()
}

fn sonic_get_many<'a>(scratch: &mut Scratch, record: &'a [u8], _: &[&str], event: &mut Event<'a>) -> bool {
    let Some(text) = utf8_and_surrogates(record) else { return false };
    let Ok(values) = sonic_rs::get_many(text, &scratch.tree) else { return false };
    event.slots.extend(values.into_iter().map(|value| match value?.as_raw_cow() {
        Cow::Borrowed(raw) => leaf(raw),
        Cow::Owned(_) => None,
    }));
    true
}

/// Parses numbers, so that their text as written is lost: an upper bound of what it could do.
fn simd_tape<'a>(scratch: &mut Scratch, record: &'a [u8], needs: &[&str], event: &mut Event<'a>) -> bool {
    scratch.bytes.clear();
    scratch.bytes.extend_from_slice(record);
    let Ok(tape) = simd_json::to_tape_with_buffers(&mut scratch.bytes, &mut scratch.buffers) else { return false };
    let tape = tape.as_value();
    let Some(object) = tape.as_object() else { return false };
    event.slots.resize_with(needs.len(), || None);
    for (name, value) in object.iter() {
        if let Some(slot) = needs.iter().position(|n| *n == name) {
            // The strings lie in the scratch bytes; what outlives them must be copied.
            event.slots[slot] = if let Some(text) = value.as_str() {
                Some(Value::Text(Cow::Owned(text.to_owned())))
            } else if let Some(n) = value.as_i64() {
                Some(Value::Number(Cow::Owned(n.to_string())))
            } else {
                value.as_f64().map(|n| Value::Number(Cow::Owned(n.to_string())))
            };
        }
    }
    true
}

fn serde_json_value<'a>(_: &mut Scratch, record: &'a [u8], needs: &[&str], event: &mut Event<'a>) -> bool {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(record) else { return false };
    event.slots.extend(needs.iter().map(|name| match &value[*name] {
        serde_json::Value::String(text) => Some(Value::Text(Cow::Owned(text.clone()))),
        serde_json::Value::Number(n) => Some(Value::Number(Cow::Owned(n.to_string()))),
        _ => None,
    }));
    true
}

/// Different records one after the other, more than the caches near the core hold.
fn many(write: impl Fn(u64) -> String) -> Vec<Vec<u8>> {
    (0..50_000u64).map(|i| write(i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20).into_bytes()).collect()
}

fn posts() -> Vec<Vec<u8>> {
    let words = ["the", "count", "goes", "on", "#happy", "all", "night", "in", "every", "county", "#vote", "naïve"];
    many(|i| {
        let mut text = String::new();
        let mut n = i;
        while text.len() < 180 {
            text.push_str(words[(n % 12) as usize]);
            text.push(' ');
            n = n.rotate_right(5).wrapping_add(7);
        }
        format!(
            r#"{{"id":"{i:018}","author":"author_{}","text":"{text}","at":"2026-11-21T10:{:02}:{:02}.{:03}Z"}}"#,
            i % 99_991,
            i % 60,
            i / 7 % 60,
            i % 1000
        )
    })
}

fn votes() -> Vec<Vec<u8>> {
    many(|i| {
        format!(
            r#"{{"poll":"election-night","voter":"v{:08}","option":"candidate-{}","at":{}}}"#,
            i % 1_000_000,
            i % 9,
            1_795_255_200_000 + i % 99_999_999
        )
    })
}

fn orders() -> Vec<Vec<u8>> {
    many(|i| {
        let line = |n: u64| {
            format!(
                r#"{{"sku":"SKU-{:06}","name":"Article number {n}","quantity":{},"price":{}.{:02},"taxed":{}}}"#,
                (i + n) % 999_983,
                n % 5 + 1,
                i % 90 + n,
                (i + n) % 100,
                n.is_multiple_of(2)
            )
        };
        let lines = (0..7).map(line).collect::<Vec<_>>().join(",");
        format!(
            concat!(
                r#"{{"order_id":"O-{:010}","region":"region-{}","customer":{{"id":"C-{:07}","name":"Customer {}","#,
                r#""address":{{"street":"Main Street {}","city":"Springfield","country":"US"}}}},"lines":[{}],"#,
                r#""amount":{}.{:02},"currency":"EUR","status":"paid","notes":null,"updated_at":"2026-11-21T10:00:{:02}Z"}}"#
            ),
            i % 9_999_999_967,
            i % 11,
            i % 999_983,
            i % 997,
            i % 200,
            lines,
            i % 2000,
            i % 100,
            i % 60
        )
    })
}
