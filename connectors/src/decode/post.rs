//! The format `post`: `id`, `author`, `text`, `at` and, optionally, `hashtags`.

use super::hashtags::{self, Hashtag};
use super::json::JsonDecoder;
use super::plan::{member_pointer, resolve};
use std::borrow::Cow;
use tallyflow_dataflows::decode::{Decoder, Event, Needs, Reject, Value};
use tallyflow_dataflows::pointer::Pointer;
use tallyflow_dataflows::record::RecordRef;

const HASHTAGS: &str = "hashtags";

/// Fills slots from a post. `hashtags`, where asked for, are in lower case and without `#`: those of
/// the record, or where it has none those of its text.
pub(super) struct PostDecoder {
    json: JsonDecoder,
    /// How many slots the job asked for; those after them are ours.
    slots: usize,
    id: Option<usize>,
    tags: Option<Tags>,
}

/// Where the hashtags come from and go to.
struct Tags {
    /// The slot of the record's own hashtags.
    own: usize,
    /// The slot of the text.
    text: usize,
    /// Slots that lead to the hashtags or into them, by the tokens after the first.
    targets: Vec<(usize, Vec<String>)>,
    /// The slot of the whole event.
    whole: Option<usize>,
}

impl PostDecoder {
    pub(super) fn new(needs: &Needs) -> Self {
        let mut inner = needs.clone();
        let pointers = needs.pointers();
        let below =
            |p: &Pointer| p.tokens().split_first().filter(|(first, _)| *first == HASHTAGS).map(|(_, r)| r.to_vec());
        let targets: Vec<_> = pointers.iter().enumerate().filter_map(|(slot, p)| Some((slot, below(p)?))).collect();
        let whole = pointers.iter().position(|p| p.tokens().is_empty());
        let tags = (!targets.is_empty() || whole.is_some()).then(|| Tags {
            own: inner.slot(&member_pointer(HASHTAGS)),
            text: inner.slot(&member_pointer("text")),
            targets,
            whole,
        });
        let id = member_pointer("id");
        PostDecoder {
            json: JsonDecoder::new(&inner),
            slots: pointers.len(),
            id: pointers.iter().position(|p| *p == id),
            tags,
        }
    }
}

impl Decoder for PostDecoder {
    fn decode<'a>(&mut self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<(), Reject> {
        self.json.read(record, event)?;
        match self.id.and_then(|slot| event.slots[slot].as_ref()) {
            None | Some(Value::Text(_) | Value::Number(_)) => {}
            Some(_) => return Err(Reject(Cow::Borrowed("the post's id is neither a string nor a number"))),
        }
        if let Some(tags) = &self.tags {
            tags.fill(self.slots, event)?;
            event.slots.truncate(self.slots);
        }
        Ok(())
    }
}

impl Tags {
    fn fill<'a>(&self, asked: usize, event: &mut Event<'a>) -> Result<(), Reject> {
        let slots = &mut event.slots;
        let tags = match slots[self.own].take() {
            Some(Value::Array(given)) => Some(as_given(given)?),
            None | Some(Value::Null) => {
                // The job may want the text, too.
                let text = if self.text < asked { slots[self.text].clone() } else { slots[self.text].take() };
                match text {
                    Some(Value::Text(text)) => Some(from_text(text)),
                    _ => None,
                }
            }
            Some(_) => return Err(not_strings()),
        };
        let tags = tags.map(Value::Array);
        if let Some(Value::Object(members)) = self.whole.and_then(|slot| slots[slot].as_mut()) {
            members.retain(|(name, _)| name != HASHTAGS);
            members.extend(tags.clone().map(|tags| (Cow::Borrowed(HASHTAGS), tags)));
        }
        if let [(slot, tokens)] = self.targets.as_slice()
            && tokens.is_empty()
        {
            slots[*slot] = tags;
        } else {
            for (slot, tokens) in &self.targets {
                slots[*slot] = tags.as_ref().and_then(|tags| resolve(tags, tokens)).cloned();
            }
        }
        Ok(())
    }
}

fn not_strings() -> Reject {
    Reject(Cow::Borrowed("the post's hashtags are not an array of strings"))
}

fn as_given(given: Vec<Value<'_>>) -> Result<Vec<Value<'_>>, Reject> {
    let normal = |tag| match tag {
        Value::Text(Cow::Borrowed(tag)) => Ok(Value::Text(hashtags::lower_case(strip_sign(tag)))),
        Value::Text(Cow::Owned(tag)) => {
            Ok(Value::Text(Cow::Owned(hashtags::lower_case(strip_sign(&tag)).into_owned())))
        }
        _ => Err(not_strings()),
    };
    given.into_iter().map(normal).collect()
}

fn strip_sign(tag: &str) -> &str {
    tag.strip_prefix(['#', '＃']).unwrap_or(tag)
}

fn from_text(text: Cow<'_, str>) -> Vec<Value<'_>> {
    match text {
        Cow::Borrowed(text) => hashtags::extract(text).map(|tag| Value::Text(tag.lower_case(text))).collect(),
        // The text was unescaped and goes away: its tags are copied.
        Cow::Owned(text) => {
            let copied = |tag: Hashtag| Value::Text(Cow::Owned(tag.lower_case(&text).into_owned()));
            hashtags::extract(&text).map(copied).collect()
        }
    }
}
