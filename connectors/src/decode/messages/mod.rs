//! The one event that every format of a social service yields, so that a job's pointers and
//! expressions are the same for all of them.
//!
//! ```text
//! id author text at hashtags repost      what the format's rules find
//! raw                                    the record as sent, or the status within it
//! ```
//!
//! A format lists the fields of its records and what each is good for ([`Fields`]); those that the job
//! does not need are not read. Its rules make a [`Message`] of what was read, and [`Shape`] hands that
//! out to the slots.

pub(super) mod fields;
mod html;
pub(super) mod jetstream;
pub(super) mod mastodon;
mod x;
pub(super) mod x_v1;
pub(super) mod x_v2;

use super::plan::resolve;
use super::tags;
use fields::Read;
use std::borrow::Cow;
use tallyflow_dataflows::decode::{Event, Needs, Value};

/// What a field is good for, as bits; a field may serve several members.
pub(super) type Use = u8;
/// It tells what the record is, and is always read.
pub(super) const ALWAYS: Use = 1 << 7;
pub(super) const AUTHOR: Use = 1 << 1;
pub(super) const TEXT: Use = 1 << 2;
pub(super) const AT: Use = 1 << 3;
pub(super) const HASHTAGS: Use = 1 << 4;
pub(super) const REPOST: Use = 1 << 5;

/// The members of the event but `raw`; a member's place here is its bit.
const MEMBERS: [&str; 6] = ["id", "author", "text", "at", "hashtags", "repost"];
const RAW: &str = "raw";

/// What a record says of a message.
#[derive(Default)]
pub(super) struct Message<'a> {
    pub id: Cow<'a, str>,
    pub author: Option<Cow<'a, str>>,
    pub text: Option<Cow<'a, str>>,
    pub at: Option<Value<'a>>,
    /// The hashtags that the service sends, in lower case; without them they come from the text.
    pub hashtags: Option<Vec<Value<'a>>>,
    /// Nothing for a message that was deleted.
    pub repost: Option<bool>,
}

/// How a job's pointers lead into the event.
pub(super) struct Shape {
    slots: usize,
    asked: Use,
    targets: Vec<Target>,
    /// The slot of the whole event.
    whole: Option<usize>,
    /// The slots that lead to or into `raw`, and the tokens after it.
    pub raw: Vec<(usize, Vec<String>)>,
}

struct Target {
    slot: usize,
    member: usize,
    /// The tokens after the member.
    rest: Vec<String>,
    /// Whether no later target wants the member.
    last: bool,
}

impl Shape {
    pub(super) fn new(needs: &Needs) -> Self {
        let pointers = needs.pointers();
        let mut shape = Shape { slots: pointers.len(), asked: 0, targets: Vec::new(), whole: None, raw: Vec::new() };
        for (slot, pointer) in pointers.iter().enumerate() {
            let Some((first, rest)) = pointer.tokens().split_first() else {
                shape.whole = Some(slot);
                shape.asked = !0;
                shape.raw.push((slot, Vec::new()));
                continue;
            };
            if first == RAW {
                shape.raw.push((slot, rest.to_vec()));
            } else if let Some(member) = MEMBERS.iter().position(|name| name == first) {
                shape.asked |= 1 << member;
                shape.targets.push(Target { slot, member, rest: rest.to_vec(), last: false });
            }
        }
        for member in 0..MEMBERS.len() {
            if let Some(last) = shape.targets.iter_mut().rfind(|target| target.member == member) {
                last.last = true;
            }
        }
        shape
    }

    /// Whether something of this use is needed.
    pub(super) fn asks(&self, of: Use) -> bool {
        of & (self.asked | ALWAYS) != 0
    }

    /// Whether the text is needed: for itself, or for hashtags that were not sent.
    pub(super) fn needs_text(&self, hashtags_sent: bool) -> bool {
        let asked = self.asked;
        asked & TEXT != 0 || asked & HASHTAGS != 0 && !hashtags_sent
    }

    /// Fills the event's slots; `read` has what the pointers into `raw` lead to.
    pub(super) fn fill<'a>(&self, message: Message<'a>, read: &mut Read<'a>, event: &mut Event<'a>) {
        let Message { id, author, text, at, hashtags, repost } = message;
        // A message that was deleted has none, whatever else is known of it.
        let hashtags = hashtags.or_else(|| Some(tags::of_text(text.as_ref().filter(|_| self.asks(HASHTAGS))?)));
        let mut members: [Option<Value<'a>>; MEMBERS.len()] = [
            Some(Value::Text(id)),
            author.map(Value::Text),
            text.map(Value::Text),
            at,
            hashtags.map(Value::Array),
            repost.map(Value::Bool),
        ];
        let slots = &mut event.slots;
        slots.resize_with(self.slots, || None);
        for (place, (slot, _)) in self.raw.iter().enumerate() {
            slots[*slot] = read.take_raw(place);
        }
        if let Some(slot) = self.whole {
            let raw = slots[slot].take();
            let named = MEMBERS.iter().zip(members.clone()).chain([(&RAW, raw)]);
            let there = named.filter_map(|(name, value)| Some((Cow::Borrowed(*name), value?)));
            slots[slot] = Some(Value::Object(there.collect()));
        }
        for Target { slot, member, rest, last } in &self.targets {
            let member = &mut members[*member];
            slots[*slot] = match rest.as_slice() {
                [] if *last => member.take(),
                rest => member.as_ref().and_then(|value| resolve(value, rest)).cloned(),
            };
        }
    }
}
