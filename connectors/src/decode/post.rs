//! The format `post`: `id`, `author`, `text`, `at` and, optionally, `hashtags` and `repost`.

use super::json::JsonDecoder;
use super::plan::{member_pointer, resolve};
use super::tags;
use std::borrow::Cow;
use tallyflow_dataflows::decode::{Decoded, Decoder, Event, Needs, Reject, Value};
use tallyflow_dataflows::pointer::Pointer;
use tallyflow_dataflows::record::RecordRef;

const HASHTAGS: &str = "hashtags";

/// Fills slots from a post. `hashtags`, where asked for, are in lower case and without `#`: those of
/// the record, or where it has none those of its text. A post whose text is null was deleted.
pub(super) struct PostDecoder {
    json: JsonDecoder,
    /// How many slots the job asked for; those after them are ours.
    slots: usize,
    id: Option<usize>,
    repost: Option<usize>,
    /// A slot that holds null where the text is null; what it holds else is of no account.
    text: usize,
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
        // Whether there is a text must be known of every post; the text itself is read only if needed.
        let is_text_read = inner.pointers().iter().any(|p| p.tokens().first().is_some_and(|first| first == "text"));
        let text = is_text_read.then(|| inner.slot(&member_pointer("text")));
        let mut json = JsonDecoder::new(&inner);
        let text = text.unwrap_or_else(|| json.note_null("text"));
        let asked = |name: &str| pointers.iter().position(|p| *p == member_pointer(name));
        PostDecoder { json, slots: pointers.len(), id: asked("id"), repost: asked("repost"), text, tags }
    }
}

impl Decoder for PostDecoder {
    fn decode<'a>(&mut self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<Decoded, Reject> {
        self.json.read(record, event)?;
        match self.id.and_then(|slot| event.slots[slot].as_ref()) {
            None | Some(Value::Text(_) | Value::Number(_)) => {}
            Some(_) => return Err(Reject(Cow::Borrowed("the post's id is neither a string nor a number"))),
        }
        if matches!(event.slots[self.text], Some(Value::Null)) {
            event.slots.truncate(self.slots);
            return Ok(Decoded::Deleted);
        }
        if let Some(slot) = self.repost {
            match event.slots[slot] {
                Some(Value::Bool(_)) => {}
                // So that a `where` can ask for it whether or not it is told.
                None | Some(Value::Null) => event.slots[slot] = Some(Value::Bool(false)),
                Some(_) => return Err(Reject(Cow::Borrowed("the post's repost is neither true nor false"))),
            }
        }
        if let Some(tags) = &self.tags {
            tags.fill(self.slots, event)?;
        }
        event.slots.truncate(self.slots);
        Ok(Decoded::Event)
    }
}

impl Tags {
    fn fill<'a>(&self, asked: usize, event: &mut Event<'a>) -> Result<(), Reject> {
        let slots = &mut event.slots;
        let tags = match slots[self.own].take() {
            Some(Value::Array(given)) => Some(tags::normal(given).ok_or_else(not_strings)?),
            None | Some(Value::Null) => {
                // The job may want the text, too.
                let text = if self.text < asked { slots[self.text].clone() } else { slots[self.text].take() };
                match text {
                    Some(Value::Text(text)) => Some(tags::of_text(&text)),
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
