//! The format `json`: any JSON object.

use super::plan::{Plan, Walk};
use super::values;
use serde::de::DeserializeSeed;
use std::borrow::Cow;
use tallyflow_dataflows::decode::{Decoder, Event, Needs, Reject};
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

    /// As [`Decoder::decode`]; in-line for the formats that build on it.
    #[inline]
    pub(super) fn read<'a>(&self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<(), Reject> {
        let bytes = match record.value {
            Some(bytes) if !bytes.is_empty() => bytes,
            _ => return Err(Reject(Cow::Borrowed("the record has no value"))),
        };
        let text = simdutf8::basic::from_utf8(bytes).map_err(|_| not_utf8(bytes))?;
        match bytes.iter().find(|b| !matches!(b, b' ' | b'\t' | b'\n' | b'\r')) {
            Some(b'{') => {}
            Some(_) => return Err(Reject(Cow::Borrowed("the record is not a JSON object"))),
            None => return Err(Reject(Cow::Borrowed("the record is empty"))),
        }
        if let Some(at) = too_deep(bytes) {
            return Err(Reject(Cow::Owned(format!(
                "invalid JSON at byte {at}: nested too deep ({DEPTH_MAX} at most)"
            ))));
        }
        event.slots.resize_with(self.slots, || None);
        if may_have_surrogates(bytes) || self.walk(text, event).is_err() {
            // What `serde_json` passes over unread it does not judge so strictly, and a number where an
            // object was looked for it judges too strictly: reading all of it settles both.
            let whole = values::whole(text).map_err(|fault| Reject(Cow::Owned(fault.say(text))))?;
            self.plan.fill(whole, &mut event.slots);
        }
        Ok(())
    }

    #[inline]
    fn walk<'a>(&self, text: &'a str, event: &mut Event<'a>) -> serde_json::Result<()> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        Walk { plan: &self.plan, slots: &mut event.slots }.deserialize(&mut deserializer)?;
        deserializer.end()
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
    fn decode<'a>(&mut self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<(), Reject> {
        self.read(record, event)
    }
}
