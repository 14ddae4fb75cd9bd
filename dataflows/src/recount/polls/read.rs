//! What a record says, before any poll is looked at: whether it is rejected depends on the record alone.

use crate::decode::{Decoded, Decoder, Event, Formats, Needs, Value};
use crate::pointer::Pointer;
use crate::record::RecordRef;
use crate::recount::judge::{Named, Order, no_scalar, present, scalar};
use crate::recount::voids::Voids;
use crate::spec::JobSpec;
use crate::time::parse_time;
use std::time::Duration;

/// An event of a `polls` job.
pub(super) enum Said {
    /// A version of a message: as posted, edited or delivered again.
    Message {
        id: String,
        author: String,
        text: String,
        hashtags: Vec<String>,
        repost: bool,
    },
    /// The last version of a message.
    Deletion {
        id: String,
    },
    Vote {
        poll: String,
        voter: String,
        option: Option<String>,
        id: Option<String>,
    },
}

/// A record that was read.
pub(super) struct Heard {
    pub said: Said,
    pub order: Order,
    /// The void that reaches it, whatever it says.
    pub voided: Option<u64>,
}

/// Reads the records of a job's inputs.
pub(super) struct Reader {
    ahead_ns: i128,
    inputs: Vec<Input>,
    voids: Vec<Voids>,
}

enum Input {
    Messages {
        decoder: Box<dyn Decoder>,
        id: Named,
        author: Named,
        text: Named,
        hashtags: Named,
        at: Named,
        repost: Named,
    },
    Votes {
        decoder: Box<dyn Decoder>,
        poll: Named,
        voter: Named,
        option: Named,
        at: Named,
        id: Named,
    },
}

impl Reader {
    pub fn new(job: &JobSpec, ahead: Duration, formats: &dyn Formats) -> Reader {
        let mut voids = Vec::new();
        let inputs = job.inputs.iter().enumerate().map(|(number, input)| {
            let mut needs = Needs::default();
            let mut member = |name: &str| {
                let pointer = Pointer::from_tokens(vec![name.to_owned()]);
                Named { slot: needs.slot(&pointer), name: format!("{pointer}") }
            };
            if formats.find(&input.format).is_some_and(|format| format.message_id.is_some()) {
                let (id, author, text) = (member("id"), member("author"), member("text"));
                let (hashtags, at, repost) = (member("hashtags"), member("at"), member("repost"));
                voids.push(Voids::new(job, number, &mut needs));
                let decoder = formats.decoder(&input.format, &needs);
                Input::Messages { decoder, id, author, text, hashtags, at, repost }
            } else {
                let (poll, voter, option) = (member("poll"), member("voter"), member("option"));
                let (at, id) = (member("at"), member("id"));
                voids.push(Voids::new(job, number, &mut needs));
                let decoder = formats.decoder(&input.format, &needs);
                Input::Votes { decoder, poll, voter, option, at, id }
            }
        });
        let inputs = inputs.collect();
        Reader { ahead_ns: i128::try_from(ahead.as_nanos()).unwrap_or(i128::MAX), inputs, voids }
    }

    /// What the record says; an error is why it is rejected, `None` that it is no event.
    pub fn read(&mut self, input: usize, record: &RecordRef<'_>) -> Result<Option<Heard>, String> {
        let mut event = Event::default();
        let decoder = match &mut self.inputs[input] {
            Input::Messages { decoder, .. } | Input::Votes { decoder, .. } => decoder,
        };
        let decoded = decoder.decode(record, &mut event).map_err(|reject| reject.0.into_owned())?;
        if let Decoded::Irrelevant(_) = decoded {
            return Ok(None);
        }
        let event = &event;
        let (said, time) = match &self.inputs[input] {
            Input::Messages { id, at, .. } if decoded == Decoded::Deleted => {
                let time = if present(event, at).is_ok() { time(event, at)? } else { logged_ns(record) };
                (Said::Deletion { id: text_or_number(event, id)? }, time)
            }
            Input::Messages { id, author, text, hashtags, at, repost, .. } => {
                let message = Said::Message {
                    id: text_or_number(event, id)?,
                    author: text_or_number(event, author)?,
                    text: text_of(event, text)?,
                    hashtags: texts(event, hashtags)?,
                    repost: flag(event, repost)?,
                };
                (message, time(event, at)?)
            }
            Input::Votes { poll, voter, option, at, id, .. } => {
                let vote = Said::Vote {
                    poll: scalar(present(event, poll)?).ok_or_else(|| no_scalar(poll))?,
                    voter: scalar(present(event, voter)?).ok_or_else(|| no_scalar(voter))?,
                    option: option_of(event, option)?,
                    id: if present(event, id).is_ok() { Some(text_or_number(event, id)?) } else { None },
                };
                (vote, time(event, at)?)
            }
        };
        if time - logged_ns(record) > self.ahead_ns {
            return Err("/at is too far ahead of the log".into());
        }
        let order = (time, input, record.partition.0, record.offset.0);
        // A deletion that knows its message's author is the author's too.
        let author = match &self.inputs[input] {
            Input::Messages { author, .. } => text_or_number(event, author).ok(),
            Input::Votes { .. } => None,
        };
        let entities = match &said {
            Said::Message { id, .. } | Said::Deletion { id } => [Some(id.as_str()), author.as_deref()],
            Said::Vote { voter, .. } => [Some(voter.as_str()), None],
        };
        let entities: Vec<&str> = entities.into_iter().flatten().collect();
        let voided = self.voids[input].of(record, event, &entities);
        Ok(Some(Heard { said, order, voided }))
    }
}

fn logged_ns(record: &RecordRef<'_>) -> i128 {
    i128::from(record.timestamp_ms) * 1_000_000
}

fn time(event: &Event<'_>, at: &Named) -> Result<i128, String> {
    let ns = parse_time(present(event, at)?).map_err(|what| format!("{} {what}", at.name))?;
    Ok(i128::from(ns))
}

fn text_or_number(event: &Event<'_>, named: &Named) -> Result<String, String> {
    match present(event, named)? {
        Value::Text(text) | Value::Number(text) => Ok(text.to_string()),
        _ => Err(format!("{} is neither a text nor a number", named.name)),
    }
}

fn text_of(event: &Event<'_>, named: &Named) -> Result<String, String> {
    match present(event, named)? {
        Value::Text(text) => Ok(text.to_string()),
        _ => Err(format!("{} is no text", named.name)),
    }
}

/// Nothing and null are no hashtags.
fn texts(event: &Event<'_>, named: &Named) -> Result<Vec<String>, String> {
    let no_texts = || format!("{} is no array of texts", named.name);
    let text = |value: &Value<'_>| match value {
        Value::Text(text) => Ok(text.to_string()),
        _ => Err(no_texts()),
    };
    match present(event, named) {
        Err(_) => Ok(Vec::new()),
        Ok(Value::Array(all)) => all.iter().map(text).collect(),
        Ok(_) => Err(no_texts()),
    }
}

/// Nothing and null are false.
fn flag(event: &Event<'_>, named: &Named) -> Result<bool, String> {
    match present(event, named) {
        Err(_) => Ok(false),
        Ok(Value::Bool(flag)) => Ok(*flag),
        Ok(_) => Err(format!("{} is neither true nor false", named.name)),
    }
}

/// Null withdraws, and is not the same as nothing.
fn option_of(event: &Event<'_>, named: &Named) -> Result<Option<String>, String> {
    match event.slots.get(named.slot) {
        Some(Some(Value::Null)) => Ok(None),
        _ => scalar(present(event, named)?).map(Some).ok_or_else(|| no_scalar(named)),
    }
}
