//! The format `x-v2`: posts as the filtered and the sampled stream of version 2 send them, and the
//! events of its compliance stream.
//!
//! Sources: <https://docs.x.com/x-api/fundamentals/data-dictionary>, of edits
//! <https://docs.x.com/x-api/fundamentals/edit-posts>, and of deletions
//! <https://developer.x.com/en/docs/x-api/compliance/streams/integrate/compliance-data-objects>.

use super::super::json;
use super::fields::{Field, Fields, Read, find, missing, text, wrong};
use super::x::{Body, body};
use super::{ALWAYS, AT, AUTHOR, HASHTAGS, Message, REPOST, Shape, TEXT};
use tallyflow_dataflows::decode::{Decoded, Decoder, Event, Needs, Reject, Value};
use tallyflow_dataflows::record::RecordRef;

const WORDS: u8 = TEXT | HASHTAGS;

const FIELDS: [Field; 9] = [
    ("data.id", ALWAYS),
    ("data.edit_history_tweet_ids.0", ALWAYS),
    ("data.author_id", AUTHOR),
    ("data.created_at", AT),
    ("data.referenced_tweets", WORDS | REPOST),
    ("data.note_tweet.text", WORDS),
    ("data.text", WORDS),
    ("data.note_tweet.entities.hashtags", HASHTAGS),
    ("data.entities.hashtags", HASHTAGS),
];
const ID: usize = 0;
const FIRST_VERSION: usize = 1;
const AUTHOR_ID: usize = 2;
const CREATED_AT: usize = 3;
const REFERENCES: usize = 4;
const BODIES: [(usize, usize); 2] = [(5, 7), (6, 8)];

/// Where the posts are that others refer to. Read for reposts alone: replies and quotes, whose posts are
/// sent there too, are not to pay for them.
const INCLUDES: [Field; 1] = [("includes.tweets", WORDS)];

/// The fields of a post that another refers to.
const ORIGINAL: [Field; 5] = [
    ("id", ALWAYS),
    ("note_tweet.text", WORDS),
    ("text", WORDS),
    ("note_tweet.entities.hashtags", HASHTAGS),
    ("entities.hashtags", HASHTAGS),
];
const ORIGINAL_BODIES: [(usize, usize); 2] = [(1, 3), (2, 4)];

/// What the compliance streams send besides deletions of posts; those of users begin with `user_`.
const COMPLIANCE: [&str; 5] = ["tweet_edit", "withheld", "drop", "undrop", "scrub_geo"];

pub(in super::super) struct XV2Decoder {
    shape: Shape,
    fields: Fields,
    includes: Fields,
    original: Fields,
}

impl XV2Decoder {
    pub(in super::super) fn new(needs: &Needs) -> Self {
        let shape = Shape::new(needs);
        XV2Decoder {
            fields: Fields::new(&FIELDS, &shape),
            includes: Fields::of(&INCLUDES, |_| true),
            original: Fields::of(&ORIGINAL, |of| shape.asks(of)),
            shape,
        }
    }

    /// The full text of the post that a repost refers to: its own is cut off. `None` if it was not sent.
    fn original_body<'a>(&self, json: &'a str, id: &str) -> Result<Option<Body<'a>>, Reject> {
        let posts = match self.includes.read(json)?.take(0) {
            None => return Ok(None),
            Some(Value::Array(posts)) => posts,
            Some(_) => return Err(wrong(INCLUDES[0].0, "an array")),
        };
        let is_it = |post: &Value<'_>| matches!(find(post, ORIGINAL[0].0), Some(Value::Text(of)) if of == id);
        let Some(post) = posts.into_iter().find(is_it) else { return Ok(None) };
        body(&self.original, &mut self.original.read_value(post), &ORIGINAL_BODIES, "tag").map(Some)
    }

    fn body<'a>(&self, json: &'a str, read: &mut Read<'a>, reposted: Option<&Value<'a>>) -> Result<Body<'a>, Reject> {
        if let Some(Value::Text(id)) = reposted.and_then(|reference| find(reference, "id"))
            && self.shape.asks(WORDS)
            && let Some(body) = self.original_body(json, id)?
        {
            return Ok(body);
        }
        body(&self.fields, read, &BODIES, "tag")
    }
}

impl Decoder for XV2Decoder {
    fn decode<'a>(&mut self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<Decoded, Reject> {
        let json = json::text_of(record)?;
        let fields = &self.fields;
        let mut read = fields.read(json)?;
        let id = fields.text(&mut read, ID)?;
        // An edit is a post of its own; its first version names them all.
        let Some(id) = fields.text(&mut read, FIRST_VERSION)?.or(id) else {
            return match notice(&json::whole(json)?)? {
                Some(message) => {
                    self.shape.fill(message, &mut read, event);
                    Ok(Decoded::Deleted)
                }
                None => Ok(Decoded::Irrelevant("a notice, no post")),
            };
        };
        let references = match read.take(REFERENCES) {
            None => Vec::new(),
            Some(Value::Array(references)) => references,
            Some(_) => return Err(wrong(FIELDS[REFERENCES].0, "an array")),
        };
        let is_repost = |of: &&Value<'_>| matches!(find(of, "type"), Some(Value::Text(kind)) if kind == "retweeted");
        let reposted = references.iter().find(is_repost);
        let body = self.body(json, &mut read, reposted)?;
        let message = Message {
            id,
            author: fields.text(&mut read, AUTHOR_ID)?,
            text: body.text,
            at: fields.text(&mut read, CREATED_AT)?.map(Value::Text),
            hashtags: body.hashtags,
            repost: Some(reposted.is_some()),
        };
        self.shape.fill(message, &mut read, event);
        Ok(Decoded::Event)
    }
}

/// What a record that is no post says: the message that it deletes, or nothing.
fn notice<'a>(whole: &Value<'a>) -> Result<Option<Message<'a>>, Reject> {
    let told = |path: &str| text(find(whole, path).cloned(), path);
    if find(whole, "data.delete").is_some() {
        return Ok(Some(Message {
            id: told("data.delete.tweet.id")?.ok_or_else(|| missing("data.delete.tweet.id"))?,
            author: told("data.delete.tweet.author_id")?,
            at: told("data.delete.event_at")?.map(Value::Text),
            ..Message::default()
        }));
    }
    let is_notice = match find(whole, "data") {
        Some(Value::Object(members)) => {
            members.iter().any(|(name, _)| COMPLIANCE.contains(&&**name) || name.starts_with("user_"))
        }
        Some(_) => false,
        // Errors, and problem documents of the stream itself.
        None => ["errors", "title"].iter().any(|name| find(whole, name).is_some()),
    };
    if is_notice { Ok(None) } else { Err(missing(FIELDS[ID].0)) }
}
