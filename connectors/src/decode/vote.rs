//! The format `vote`: `poll`, `voter`, `option` (`null` withdraws), `at` and, optionally, `id`.

use super::json::JsonDecoder;
use super::plan::member_pointer;
use std::borrow::Cow;
use tallyflow_dataflows::decode::{Decoded, Decoder, Event, Needs, Reject, Value};
use tallyflow_dataflows::record::RecordRef;

/// Fills slots from a vote. Only what is needed is checked: the rules of `tally` judge the fields, so
/// what is left to the format is an `id` that can tell duplicates.
pub(super) struct VoteDecoder {
    json: JsonDecoder,
    id: Option<usize>,
}

impl VoteDecoder {
    pub(super) fn new(needs: &Needs) -> Self {
        let id = member_pointer("id");
        VoteDecoder { json: JsonDecoder::new(needs), id: needs.pointers().iter().position(|p| *p == id) }
    }
}

impl Decoder for VoteDecoder {
    fn decode<'a>(&mut self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<Decoded, Reject> {
        self.json.read(record, event)?;
        match self.id.and_then(|slot| event.slots[slot].as_ref()) {
            None | Some(Value::Null | Value::Text(_) | Value::Number(_)) => Ok(Decoded::Event),
            Some(_) => Err(Reject(Cow::Borrowed("the vote's id is neither a string nor a number"))),
        }
    }
}
