//! The format `json`: any JSON object.

use super::plan::{Plan, Slots, Walk};
use super::values::{self, Name};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use tallyflow_dataflows::decode::{Decoded, Decoder, Event, Needs, Reject, Value};
use tallyflow_dataflows::record::RecordRef;

/// Arrays and objects may be nested this deep: the limit of `serde_json`.
const DEPTH_MAX: usize = 127;

/// Fills slots from any JSON object.
pub(super) struct JsonDecoder {
    plan: Plan,
    slots: usize,
}

impl JsonDecoder {
    pub(super) fn new(needs: &Needs) -> Self {
        JsonDecoder { plan: Plan::new(needs), slots: needs.pointers().len() }
    }

    /// As [`Plan::note_null`]; answers the slot, which comes after those of the needs.
    pub(super) fn note_null(&mut self, name: &str) -> usize {
        self.plan.note_null(name, self.slots);
        self.slots += 1;
        self.slots - 1
    }

    /// As [`Decoder::decode`]; in-line for the formats that build on it.
    #[inline]
    pub(super) fn read<'a>(&self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<(), Reject> {
        let text = text_of(record)?;
        event.slots.resize_with(self.slots, || None);
        fill(&self.plan, text, &mut event.slots)
    }
}

/// The text of a record that may be a JSON object; whether it is one shows when it is read.
#[inline]
pub(super) fn text_of<'a>(record: &RecordRef<'a>) -> Result<&'a str, Reject> {
    let bytes = match record.value {
        Some(bytes) if !bytes.is_empty() => bytes,
        _ => return Err(Reject(Cow::Borrowed("the record has no value"))),
    };
    let text = simdutf8::basic::from_utf8(bytes).map_err(|_| not_utf8(bytes))?;
    match first_byte(text) {
        Some(b'{') => {}
        Some(_) => return Err(Reject(Cow::Borrowed("the record is not a JSON object"))),
        None => return Err(Reject(Cow::Borrowed("the record is empty"))),
    }
    check_depth(text)?;
    Ok(text)
}

/// The first byte that is no white space.
#[inline]
pub(super) fn first_byte(text: &str) -> Option<u8> {
    text.bytes().find(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\r'))
}

/// Must be asked before a text is read.
#[inline]
pub(super) fn check_depth(text: &str) -> Result<(), Reject> {
    match too_deep(text.as_bytes()) {
        None => Ok(()),
        Some(at) => {
            Err(Reject(Cow::Owned(format!("invalid JSON at byte {at}: nested too deep ({DEPTH_MAX} at most)"))))
        }
    }
}

/// Fills slots from a text; an error if it is no JSON.
#[inline]
pub(super) fn fill<'a>(plan: &Plan, text: &'a str, slots: Slots<'_, 'a>) -> Result<(), Reject> {
    if may_have_surrogates(text.as_bytes()) || walk(Walk { plan, slots: &mut *slots }, text).is_err() {
        // What `serde_json` passes over unread it does not judge so strictly, and a number where an
        // object was looked for it judges too strictly: reading all of it settles both.
        plan.fill(whole(text)?, slots);
    }
    Ok(())
}

/// The value of a whole text; an error if it is no JSON.
pub(super) fn whole(text: &str) -> Result<Value<'_>, Reject> {
    values::whole(text).map_err(|fault| Reject(Cow::Owned(fault.say(text))))
}

/// The members `names` of an object, unread; an error if the text is no JSON.
pub(super) fn members<'a, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> Result<[Option<&'a RawValue>; N], Reject> {
    let mut found = [None; N];
    if walk(Members { names, found: &mut found }, text).is_err() || may_have_surrogates(text.as_bytes()) {
        whole(text)?;
    }
    Ok(found)
}

#[inline]
fn walk<'a>(seed: impl DeserializeSeed<'a>, text: &'a str) -> serde_json::Result<()> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    seed.deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Finds members by name; of equal names the last.
struct Members<'f, 'n, 'a, const N: usize> {
    names: [&'n str; N],
    found: &'f mut [Option<&'a RawValue>; N],
}

impl<'de, const N: usize> DeserializeSeed<'de> for Members<'_, '_, 'de, N> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Members<'_, '_, 'de, N> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            match self.names.iter().position(|wanted| *wanted == name) {
                Some(at) => self.found[at] = Some(map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

/// Whether there may be escapes of surrogates, which `serde_json` minds only in strings that it reads.
#[inline]
fn may_have_surrogates(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\\', bytes).any(|at| {
        matches!(bytes.get(at + 1..at + 4), Some([b'u', b'd' | b'D', b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F']))
    })
}

/// Where a JSON text is nested too deep. `serde_json` sees to it only in what it reads, not in what it
/// passes over or hands out raw; what it finds to be no JSON may be called too deep here.
#[inline]
fn too_deep(bytes: &[u8]) -> Option<usize> {
    // Few records have as many brackets as that, and short ones cannot have them closed. A bracket and
    // its brace differ in one bit; chunks of 255 are counted in bytes, many at a time.
    let opening = |chunk: &[u8]| usize::from(chunk.iter().map(|b| u8::from(b | 0x20 == b'{')).sum::<u8>());
    let few = bytes.len() <= 2 * DEPTH_MAX || bytes.chunks(255).map(opening).sum::<usize>() <= DEPTH_MAX;
    if few { None } else { deepest(bytes) }
}

#[cold]
fn deepest(bytes: &[u8]) -> Option<usize> {
    let mut depth = 0usize;
    let mut rest = bytes.iter().enumerate();
    while let Some((at, byte)) = rest.next() {
        match byte {
            b'{' | b'[' if depth == DEPTH_MAX => return Some(at),
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some((_, b)) = rest.next()
                    && *b != b'"'
                {
                    if *b == b'\\' {
                        rest.next();
                    }
                }
            }
            _ => {}
        }
    }
    None
}

#[cold]
fn not_utf8(bytes: &[u8]) -> Reject {
    let at = std::str::from_utf8(bytes).err().map_or(0, |e| e.valid_up_to());
    Reject(Cow::Owned(format!("invalid UTF-8 at byte {at}")))
}

impl Decoder for JsonDecoder {
    fn decode<'a>(&mut self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<Decoded, Reject> {
        self.read(record, event).map(|()| Decoded::Event)
    }
}
