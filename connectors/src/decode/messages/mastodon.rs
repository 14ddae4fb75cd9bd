//! The format `mastodon`: what the streaming interface of Mastodon sends, and bare statuses.
//!
//! Sources: <https://docs.joinmastodon.org/methods/streaming/>,
//! <https://docs.joinmastodon.org/entities/Status/>, <https://docs.joinmastodon.org/entities/Account/>.

use super::super::json;
use super::super::values::owned;
use super::fields::{Field, Fields, Read, missing, text, wrong};
use super::html;
use super::{ALWAYS, AT, AUTHOR, HASHTAGS, Message, REPOST, Shape, TEXT};
use serde_json::value::RawValue;
use std::borrow::Cow;
use tallyflow_dataflows::decode::{Decoded, Decoder, Event, Needs, Reject, Value};
use tallyflow_dataflows::record::RecordRef;

const WORDS: u8 = TEXT | HASHTAGS;

/// The fields of a status. The author is the address of the profile: an account's `id` is that of the
/// server that sends it, and its `acct` lacks the domain where the account is the server's own, while
/// the address is the same on every server.
const FIELDS: [Field; 9] = [
    ("id", ALWAYS),
    ("account.url", AUTHOR),
    ("edited_at", AT),
    ("created_at", AT),
    ("content", WORDS),
    ("tags", HASHTAGS),
    ("reblog.id", WORDS | REPOST),
    ("reblog.content", WORDS),
    ("reblog.tags", HASHTAGS),
];
const ID: usize = 0;
const ACCOUNT: usize = 1;
const EDITED_AT: usize = 2;
const CREATED_AT: usize = 3;
const CONTENT: usize = 4;
const TAGS: usize = 5;
const REBLOG: usize = 6;
const REBLOG_CONTENT: usize = 7;
const REBLOG_TAGS: usize = 8;

pub(in super::super) struct MastodonDecoder {
    shape: Shape,
    fields: Fields,
}

impl MastodonDecoder {
    pub(in super::super) fn new(needs: &Needs) -> Self {
        let shape = Shape::new(needs);
        MastodonDecoder { fields: Fields::new(&FIELDS, &shape), shape }
    }

    fn status<'a>(&self, json: &'a str, event: &mut Event<'a>) -> Result<Decoded, Reject> {
        let fields = &self.fields;
        let mut read = fields.read(json)?;
        let id = fields.required(&mut read, ID)?;
        let repost = fields.text(&mut read, REBLOG)?.is_some();
        let (content, tags) = if repost { (REBLOG_CONTENT, REBLOG_TAGS) } else { (CONTENT, TAGS) };
        let content = fields.text(&mut read, content)?;
        let hashtags = fields.hashtags(&mut read, tags, "name")?;
        let is_text_needed = self.shape.needs_text(hashtags.is_some());
        let edited = fields.text(&mut read, EDITED_AT)?;
        let created = fields.text(&mut read, CREATED_AT)?;
        let message = Message {
            id,
            author: fields.text(&mut read, ACCOUNT)?,
            text: content.filter(|_| is_text_needed).map(|html| Cow::Owned(html::text_of(&html))),
            at: edited.or(created).map(Value::Text),
            hashtags,
            repost: Some(repost),
        };
        self.shape.fill(message, &mut read, event);
        Ok(Decoded::Event)
    }

    /// A status that is sent as the text of its JSON, or as it is.
    fn payload<'a>(&self, payload: Option<&'a RawValue>, event: &mut Event<'a>) -> Result<Decoded, Reject> {
        let Some(raw) = payload.map(RawValue::get) else { return Err(missing("payload")) };
        if raw.starts_with('{') {
            return self.status(raw, event);
        }
        match json::whole(raw)? {
            Value::Text(Cow::Borrowed(json)) => self.inner(json, event),
            Value::Text(Cow::Owned(json)) => {
                // The text goes away, and what was read of it is copied.
                let mut inner = Event::default();
                let decoded = self.inner(&json, &mut inner)?;
                event.slots.extend(inner.slots.into_iter().map(|slot| slot.map(owned)));
                Ok(decoded)
            }
            _ => Err(wrong("payload", "a status or the text of one")),
        }
    }

    fn inner<'a>(&self, json: &'a str, event: &mut Event<'a>) -> Result<Decoded, Reject> {
        if json::first_byte(json) != Some(b'{') {
            return Err(wrong("payload", "the text of a JSON object"));
        }
        let status = json::check_depth(json).and_then(|()| self.status(json, event));
        status.map_err(|Reject(reason)| match &*reason {
            fault if fault.starts_with("invalid JSON") => Reject(Cow::Owned(format!("in `payload`: {fault}"))),
            _ => Reject(reason),
        })
    }

    /// Of a deletion there is only the id, which some programs make a number of.
    fn deletion<'a>(&self, payload: Option<&'a RawValue>, event: &mut Event<'a>) -> Result<Decoded, Reject> {
        let raw = payload.map(|raw| json::whole(raw.get())).transpose()?;
        let id = match raw.clone() {
            None | Some(Value::Null) => return Err(missing("payload")),
            Some(Value::Text(id) | Value::Number(id)) => id,
            Some(_) => return Err(wrong("payload", "an id")),
        };
        let mut read = Read::of_raw(&raw.unwrap_or(Value::Null), &self.shape);
        self.shape.fill(Message { id, ..Message::default() }, &mut read, event);
        Ok(Decoded::Deleted)
    }
}

impl Decoder for MastodonDecoder {
    fn decode<'a>(&mut self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<Decoded, Reject> {
        let json = json::text_of(record)?;
        let [kind, payload] = json::members(json, ["event", "payload"])?;
        let kind = kind.map(|raw| json::whole(raw.get())).transpose()?;
        match text(kind, "event")?.as_deref() {
            None => self.status(json, event),
            Some("update" | "status.update") => self.payload(payload, event),
            Some("delete") => self.deletion(payload, event),
            Some(_) => Ok(Decoded::Irrelevant("an event about no status")),
        }
    }
}
