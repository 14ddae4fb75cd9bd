//! The format `jetstream`: posts of Bluesky as Jetstream sends them.
//!
//! Sources: <https://github.com/bluesky-social/jetstream>, and of posts and facets the lexicons
//! `app.bsky.feed.post` and `app.bsky.richtext.facet` in
//! <https://github.com/bluesky-social/atproto/tree/main/lexicons/app/bsky>.

use super::super::json;
use super::super::tags;
use super::fields::{Field, Fields, Read, find, missing, wrong};
use super::{ALWAYS, AT, HASHTAGS, Message, Shape, TEXT};
use jiff::Timestamp;
use std::borrow::Cow;
use tallyflow_dataflows::decode::{Decoded, Decoder, Event, Needs, Reject, Value};
use tallyflow_dataflows::record::RecordRef;

const FIELDS: [Field; 8] = [
    ("kind", ALWAYS),
    ("did", ALWAYS),
    ("commit.collection", ALWAYS),
    ("commit.operation", ALWAYS),
    ("commit.rkey", ALWAYS),
    ("time_us", AT),
    ("commit.record.text", TEXT | HASHTAGS),
    ("commit.record.facets", HASHTAGS),
];
const KIND: usize = 0;
const DID: usize = 1;
const COLLECTION: usize = 2;
const OPERATION: usize = 3;
const RKEY: usize = 4;
const TIME_US: usize = 5;
const RECORD_TEXT: usize = 6;
const FACETS: usize = 7;

const POSTS: &str = "app.bsky.feed.post";
const REPOSTS: &str = "app.bsky.feed.repost";
const TAG: &str = "app.bsky.richtext.facet#tag";

pub(in super::super) struct JetstreamDecoder {
    shape: Shape,
    fields: Fields,
}

impl JetstreamDecoder {
    pub(in super::super) fn new(needs: &Needs) -> Self {
        let shape = Shape::new(needs);
        JetstreamDecoder { fields: Fields::new(&FIELDS, &shape), shape }
    }
}

impl Decoder for JetstreamDecoder {
    fn decode<'a>(&mut self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<Decoded, Reject> {
        let fields = &self.fields;
        let mut read = fields.read(json::text_of(record)?)?;
        match &*fields.required(&mut read, KIND)? {
            "commit" => {}
            "identity" | "account" => return Ok(Decoded::Irrelevant("an identity or account event")),
            _ => return Ok(Decoded::Irrelevant("an event of another kind")),
        }
        let collection = fields.required(&mut read, COLLECTION)?;
        match &*collection {
            POSTS => {}
            REPOSTS => return Ok(Decoded::Irrelevant("a repost, which has no text")),
            _ => return Ok(Decoded::Irrelevant("a record of another collection")),
        }
        let deleted = match &*fields.required(&mut read, OPERATION)? {
            "create" | "update" => false,
            "delete" => true,
            _ => return Err(wrong(FIELDS[OPERATION].0, "create, update or delete")),
        };
        let (did, rkey) = (fields.required(&mut read, DID)?, fields.required(&mut read, RKEY)?);
        let mut message = Message {
            id: Cow::Owned(format!("at://{did}/{POSTS}/{rkey}")),
            author: Some(did),
            at: time(&mut read)?,
            ..Message::default()
        };
        if !deleted {
            message.text = fields.text(&mut read, RECORD_TEXT)?;
            message.hashtags = hashtags(&mut read)?;
            message.repost = Some(false);
        }
        self.shape.fill(message, &mut read, event);
        Ok(if deleted { Decoded::Deleted } else { Decoded::Event })
    }
}

/// The time at which Jetstream saw the commit, with its microseconds. Not the record's `createdAt`:
/// that is whatever the client wrote, and a deletion has none.
fn time<'a>(read: &mut Read<'a>) -> Result<Option<Value<'a>>, Reject> {
    let Some(us) = read.take(TIME_US) else { return Ok(None) };
    let us = if let Value::Number(us) = &us { us.parse().ok() } else { None };
    match us.and_then(|us| Timestamp::from_microsecond(us).ok()) {
        Some(at) => Ok(Some(Value::Text(Cow::Owned(at.to_string())))),
        None => Err(wrong(FIELDS[TIME_US].0, "a number of microseconds")),
    }
}

/// The tags that the client has marked in the text; none if it has marked none.
fn hashtags<'a>(read: &mut Read<'a>) -> Result<Option<Vec<Value<'a>>>, Reject> {
    let facets = match read.take(FACETS) {
        None => return Ok(None),
        Some(Value::Array(facets)) => facets,
        Some(_) => return Err(wrong(FIELDS[FACETS].0, "an array")),
    };
    let features = facets.iter().filter_map(|facet| match find(facet, "features") {
        Some(Value::Array(features)) => Some(features),
        _ => None,
    });
    let tags = features.flatten().filter(|of| matches!(find(of, "$type"), Some(Value::Text(kind)) if kind == TAG));
    let tags: Option<Vec<_>> = tags.map(|tag| find(tag, "tag").cloned()).collect();
    let tags = tags.and_then(tags::normal).ok_or_else(|| missing("commit.record.facets.features.tag"))?;
    Ok(Some(tags).filter(|tags| !tags.is_empty()))
}
