//! The built-in formats: `json`, `post`, `vote`, and those of the social services.
//!
//! ```text
//! record bytes -> UTF-8 checked once, whole -> one walk over the JSON text -> slots of the event
//!                                              '- what no need leads to is checked and passed over
//! ```
//!
//! The whole record must be one JSON object, also where nothing is asked of it: a truncated record is
//! rejected whichever fields it still has. Numbers keep their text, whatever their magnitude. Arrays
//! and objects may be nested 127 deep. Why the reader is `serde_json`: ADR 0003.

pub mod hashtags;
mod json;
mod messages;
mod plan;
mod post;
mod tags;
#[cfg(test)]
mod tests;
mod urls;
mod values;
mod vote;

use json::JsonDecoder;
use tallyflow_dataflows::decode::{Decoder, FormatInfo, Formats, Needs};

/// All formats, as a job file names them.
const FORMATS: [FormatInfo; 7] = [
    FormatInfo { name: "json", message_id: None, claim_id: None },
    FormatInfo { name: "post", message_id: Some("/id"), claim_id: None },
    FormatInfo { name: "vote", message_id: None, claim_id: Some("/id") },
    FormatInfo { name: "x-v2", message_id: Some("/id"), claim_id: None },
    FormatInfo { name: "x-v1.1", message_id: Some("/id"), claim_id: None },
    FormatInfo { name: "jetstream", message_id: Some("/id"), claim_id: None },
    FormatInfo { name: "mastodon", message_id: Some("/id"), claim_id: None },
];

/// The formats that tallyflow brings along.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuiltinFormats;

impl Formats for BuiltinFormats {
    fn all(&self) -> &[FormatInfo] {
        &FORMATS
    }

    /// A name that is not in [`BuiltinFormats::all`] is read as `json`; submission refuses it before.
    fn decoder(&self, format: &str, needs: &Needs) -> Box<dyn Decoder> {
        match format {
            "post" => Box::new(post::PostDecoder::new(needs)),
            "vote" => Box::new(vote::VoteDecoder::new(needs)),
            "x-v2" => Box::new(messages::x_v2::XV2Decoder::new(needs)),
            "x-v1.1" => Box::new(messages::x_v1::XV1Decoder::new(needs)),
            "jetstream" => Box::new(messages::jetstream::JetstreamDecoder::new(needs)),
            "mastodon" => Box::new(messages::mastodon::MastodonDecoder::new(needs)),
            _ => Box::new(JsonDecoder::new(needs)),
        }
    }
}
