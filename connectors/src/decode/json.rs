//! The format `json`: any JSON object.

use super::plan::Plan;
use super::scan::Scanner;
use std::borrow::Cow;
use tallyflow_dataflows::decode::{Decoder, Event, Needs, Reject};
use tallyflow_dataflows::record::RecordRef;

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
        let mut scanner = Scanner::new(text);
        match scanner.peek() {
            Some(b'{') => {}
            Some(_) => return Err(Reject(Cow::Borrowed("the record is not a JSON object"))),
            None => return Err(Reject(Cow::Borrowed("the record is empty"))),
        }
        event.slots.resize_with(self.slots, || None);
        self.plan
            .read(&mut scanner, &mut event.slots, 0)
            .and_then(|()| scanner.end())
            .map_err(|fault| Reject(Cow::Owned(format!("invalid JSON at byte {}: {}", scanner.at(), fault.what()))))
    }
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
