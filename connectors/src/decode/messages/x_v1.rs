//! The format `x-v1.1`: statuses as the streams and the REST interface of version 1.1 send them.
//!
//! Sources: <https://developer.x.com/en/docs/x-api/v1/data-dictionary/object-model/tweet>,
//! <https://developer.x.com/en/docs/x-api/v1/data-dictionary/object-model/extended-entities>, and of
//! the notices <https://developer.x.com/en/docs/x-api/v1/tweets/filter-realtime/guides/streaming-message-types>.

use super::super::json;
use super::fields::{Field, Fields, find, missing, text, wrong};
use super::x::body;
use super::{ALWAYS, AT, AUTHOR, HASHTAGS, Message, REPOST, Shape, TEXT};
use jiff::Timestamp;
use std::borrow::Cow;
use tallyflow_dataflows::decode::{Decoded, Decoder, Event, Needs, Reject, Value};
use tallyflow_dataflows::record::RecordRef;

const WORDS: u8 = TEXT | HASHTAGS;

const FIELDS: [Field; 15] = [
    ("id_str", ALWAYS),
    ("user.id_str", AUTHOR),
    ("timestamp_ms", AT),
    ("created_at", AT),
    ("extended_tweet.full_text", WORDS),
    ("full_text", WORDS),
    ("text", WORDS),
    ("extended_tweet.entities.hashtags", HASHTAGS),
    ("entities.hashtags", HASHTAGS),
    ("retweeted_status.id_str", WORDS | REPOST),
    ("retweeted_status.extended_tweet.full_text", WORDS),
    ("retweeted_status.full_text", WORDS),
    ("retweeted_status.text", WORDS),
    ("retweeted_status.extended_tweet.entities.hashtags", HASHTAGS),
    ("retweeted_status.entities.hashtags", HASHTAGS),
];
const ID: usize = 0;
const USER: usize = 1;
const TIMESTAMP_MS: usize = 2;
const CREATED_AT: usize = 3;
const ORIGINAL: usize = 9;
/// Texts and their hashtags, by place above: those of the original first, then the status's own.
const BODIES: [(usize, usize); 6] = [(10, 13), (11, 14), (12, 14), (4, 7), (5, 8), (6, 8)];
const OWN: usize = 3;

/// What else the streams send.
const NOTICES: [&str; 10] = [
    "limit",
    "scrub_geo",
    "disconnect",
    "warning",
    "status_withheld",
    "user_withheld",
    "event",
    "friends",
    "friends_str",
    "control",
];

/// As `Wed Oct 10 20:19:24 +0000 2018`.
const CREATED_AT_FORM: &str = "%a %b %d %H:%M:%S %z %Y";

pub(in super::super) struct XV1Decoder {
    shape: Shape,
    fields: Fields,
}

impl XV1Decoder {
    pub(in super::super) fn new(needs: &Needs) -> Self {
        let shape = Shape::new(needs);
        XV1Decoder { fields: Fields::new(&FIELDS, &shape), shape }
    }
}

impl Decoder for XV1Decoder {
    fn decode<'a>(&mut self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<Decoded, Reject> {
        let json = json::text_of(record)?;
        let fields = &self.fields;
        let mut read = fields.read(json)?;
        let Some(id) = fields.text(&mut read, ID)? else {
            return match notice(&json::whole(json)?)? {
                Some(message) => {
                    self.shape.fill(message, &mut read, event);
                    Ok(Decoded::Deleted)
                }
                None => Ok(Decoded::Irrelevant("a notice, no status")),
            };
        };
        let repost = fields.text(&mut read, ORIGINAL)?.is_some();
        let own = if repost { 0 } else { OWN };
        let body = body(fields, &mut read, &BODIES[own..], "text")?;
        let at = match read.take(TIMESTAMP_MS) {
            Some(ms) => Some(milliseconds(ms, FIELDS[TIMESTAMP_MS].0)?),
            None => fields.text(&mut read, CREATED_AT)?.map(|text| rfc_3339(&text)).transpose()?,
        };
        let message = Message {
            id,
            author: fields.text(&mut read, USER)?,
            text: body.text,
            at,
            hashtags: body.hashtags,
            repost: Some(repost),
        };
        self.shape.fill(message, &mut read, event);
        Ok(Decoded::Event)
    }
}

/// What a record that is no status says: the message that it deletes, or nothing.
fn notice<'a>(whole: &Value<'a>) -> Result<Option<Message<'a>>, Reject> {
    let told = |path: &str| text(find(whole, path).cloned(), path);
    if find(whole, "delete").is_some() {
        let at = find(whole, "delete.timestamp_ms").filter(|ms| **ms != Value::Null).cloned();
        return Ok(Some(Message {
            id: told("delete.status.id_str")?.ok_or_else(|| missing("delete.status.id_str"))?,
            author: told("delete.status.user_id_str")?,
            at: at.map(|ms| milliseconds(ms, "delete.timestamp_ms")).transpose()?,
            ..Message::default()
        }));
    }
    let is_notice = NOTICES.iter().any(|name| find(whole, name).is_some());
    if is_notice { Ok(None) } else { Err(missing(FIELDS[ID].0)) }
}

/// Epoch milliseconds, which are sent as a string of digits.
fn milliseconds<'a>(sent: Value<'a>, name: &str) -> Result<Value<'a>, Reject> {
    match sent {
        Value::Text(digits)
            if digits.bytes().all(|b| b.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0')) =>
        {
            // A text without digits would be no number.
            if digits.is_empty() { Err(wrong(name, "a number of milliseconds")) } else { Ok(Value::Number(digits)) }
        }
        number @ Value::Number(_) => Ok(number),
        _ => Err(wrong(name, "a number of milliseconds")),
    }
}

fn rfc_3339(created_at: &str) -> Result<Value<'static>, Reject> {
    match Timestamp::strptime(CREATED_AT_FORM, created_at) {
        Ok(at) => Ok(Value::Text(Cow::Owned(at.to_string()))),
        Err(_) => Err(wrong(FIELDS[CREATED_AT].0, "a time like Wed Oct 10 20:19:24 +0000 2018")),
    }
}
