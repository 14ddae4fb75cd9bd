//! JSON texts as [`Value`]s, by `serde_json`.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use tallyflow_dataflows::decode::Value;

/// From this many members on, equal names in an object are looked for with a hash set. Below, looking
/// back over the members is quicker.
const NAMES_BY_LOOKING_BACK_MAX: usize = 16;

/// What is wrong with a part of a JSON text.
pub(super) struct Fault<'a> {
    /// The part that was read.
    part: &'a str,
    error: serde_json::Error,
}

impl Fault<'_> {
    /// The byte of `text` that is wrong, and how; `text` is what the part is of.
    pub(super) fn say(&self, text: &str) -> String {
        let start = self.part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
        if self.error.is_eof() {
            return format!("invalid JSON at byte {}: it ends too early", start + self.part.len());
        }
        let what = self.error.to_string();
        let what = what.rsplit_once(" at line ").map_or(&*what, |(what, _)| what);
        let line = self.error.line().checked_sub(2);
        let line = line.and_then(|newline| memchr::memchr_iter(b'\n', self.part.as_bytes()).nth(newline));
        // Columns count bytes from 1 (a newline is column 0 of what it begins), except that a control
        // character is met before it is counted.
        let read = line.map_or(0, |newline| newline + 1) + self.error.column();
        let at = if what.starts_with("control character") { read } else { read.saturating_sub(1) };
        format!("invalid JSON at byte {}: {what}", start + at)
    }
}

/// The value of a whole JSON text: every escape in it is judged.
pub(super) fn whole(text: &str) -> Result<Value<'_>, Fault<'_>> {
    value(parse::<&RawValue>(text)?.get())
}

/// The value of what was found to be JSON but for its surrogates. It calls itself for what lies
/// within: how deep that may be is the caller's to see to.
#[inline]
pub(super) fn value(raw: &str) -> Result<Value<'_>, Fault<'_>> {
    Ok(match raw.as_bytes() {
        [b'"', text @ .., b'"'] if memchr::memchr(b'\\', text).is_none() => {
            Value::Text(Cow::Borrowed(&raw[1..raw.len() - 1]))
        }
        [b'[', ..] => match texts(raw) {
            Some(elements) => Value::Array(elements),
            None => escaped_or_nested(raw)?,
        },
        [b'"' | b'{', ..] => escaped_or_nested(raw)?,
        [b't', ..] => Value::Bool(true),
        [b'f', ..] => Value::Bool(false),
        [b'n', ..] => Value::Null,
        _ => Value::Number(Cow::Borrowed(raw)),
    })
}

/// The elements of an array of texts without escapes, which is what stands in most arrays of records; `None`: it is
/// none. That it is JSON was seen before: what stands between two quotes is a text or parts two of them.
#[inline]
fn texts(raw: &str) -> Option<Vec<Value<'_>>> {
    let is_between = |between: &str| matches!(between.trim_ascii(), "," | "[");
    let mut quotes = memchr::memchr_iter(b'"', raw.as_bytes());
    let (mut elements, mut end) = (Vec::new(), 0);
    while let Some(quote) = quotes.next() {
        let text = raw.get(quote + 1..quotes.next()?)?;
        if !is_between(raw.get(end..quote)?) || text.contains('\\') {
            return None;
        }
        elements.push(Value::Text(Cow::Borrowed(text)));
        end = quote + text.len() + 2;
    }
    (end > 0 && raw.get(end..)?.trim_ascii() == "]").then_some(elements)
}

#[inline(never)]
fn escaped_or_nested(raw: &str) -> Result<Value<'_>, Fault<'_>> {
    Ok(match raw.as_bytes().first() {
        Some(b'{') => {
            let members = parse::<Members<'_>>(raw)?.0;
            let members = members.into_iter().map(|(name, raw)| Ok((name, value(raw.get())?)));
            let mut members = members.collect::<Result<_, _>>()?;
            keep_last_of_each_name(&mut members);
            Value::Object(members)
        }
        Some(b'[') => {
            let elements = parse::<Vec<&RawValue>>(raw)?;
            Value::Array(elements.into_iter().map(|raw| value(raw.get())).collect::<Result<_, _>>()?)
        }
        _ => Value::Text(Cow::Owned(parse(raw)?)),
    })
}

/// The value apart from the text that it was read from.
pub(super) fn owned(value: Value<'_>) -> Value<'static> {
    let text = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
    match value {
        Value::Null => Value::Null,
        Value::Bool(b) => Value::Bool(b),
        Value::Number(number) => Value::Number(text(number)),
        Value::Text(t) => Value::Text(text(t)),
        Value::Array(elements) => Value::Array(elements.into_iter().map(owned).collect()),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(name, value)| (text(name), owned(value))).collect())
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(part: &'a str) -> Result<T, Fault<'a>> {
    serde_json::from_str(part).map_err(|error| Fault { part, error })
}

/// An object's members as they stand, their values unread.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A member's name, borrowed where it has no escapes.
#[derive(Deserialize)]
pub(super) struct Name<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members(Vec::new()))
    }
}

impl<'de: 'a, 'a> Visitor<'de> for Members<'a> {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some((Name(name), raw)) = map.next_entry()? {
            self.0.push((name, raw));
        }
        Ok(self)
    }
}

/// Of equal names only the last stays, at its own place.
fn keep_last_of_each_name(members: &mut Vec<(Cow<'_, str>, Value<'_>)>) {
    let repeated: Vec<bool> = if members.len() <= NAMES_BY_LOOKING_BACK_MAX {
        let later = |i: usize| members[i + 1..].iter().any(|(name, _)| *name == members[i].0);
        if !(0..members.len()).any(later) {
            return;
        }
        (0..members.len()).map(later).collect()
    } else {
        let mut seen = HashSet::with_capacity(members.len());
        let mut repeated: Vec<bool> = members.iter().rev().map(|(name, _)| !seen.insert(&**name)).collect();
        repeated.reverse();
        repeated
    };
    let mut repeated = repeated.into_iter();
    members.retain(|_| !repeated.next().unwrap_or(false));
}
