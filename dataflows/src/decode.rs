//! The boundary to formats: how a record becomes an event.
//!
//! A decoder reads only what its job asks for ([`Needs`]): parsing is the largest cost there is. It
//! hands over the fields as they stand in the record, borrowed from its bytes.

use crate::pointer::Pointer;
use crate::record::RecordRef;
use smallvec::SmallVec;
use std::borrow::Cow;

/// A JSON value, borrowed from the record. Numbers keep the text they were written with.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    /// A valid JSON number, as written.
    Number(Cow<'a, str>),
    Text(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    /// Members in the order in which they stand; of equal names only the last is kept.
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

/// What a job wants of each event: slot `i` of the event is what pointer `i` leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pointers: Vec<Pointer>,
}

impl Needs {
    /// The slot of `pointer`, made if it is new. The empty pointer is the whole event.
    pub fn slot(&mut self, pointer: &Pointer) -> usize {
        if let Some(slot) = self.pointers.iter().position(|p| p == pointer) {
            return slot;
        }
        self.pointers.push(pointer.clone());
        self.pointers.len() - 1
    }

    /// The pointers by slot.
    pub fn pointers(&self) -> &[Pointer] {
        &self.pointers
    }
}

/// An event: per slot of [`Needs`] what its pointer leads to, `None` where it leads to nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event<'a> {
    pub slots: SmallVec<[Option<Value<'a>>; 6]>,
}

/// Why a record did not decode: one short sentence, for the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject(pub Cow<'static, str>);

/// What a record that decoded is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// An event; the slots hold what was asked of it.
    Event,
    /// It says that a message was deleted. The slots hold what the record knows of that message (its
    /// id, and its author and the time of the deletion where they are told), and nothing else.
    Deleted,
    /// It is no event at all, for this reason, a few words: a like, a limit notice, another
    /// collection. The slots hold nothing of use.
    Irrelevant(&'static str),
}

/// Decodes the records of one input on one worker.
pub trait Decoder: Send {
    /// Fills `event.slots` (empty when called) with one entry per slot of the needs it was made with,
    /// and says what the record is. Only formats whose records are messages answer
    /// [`Decoded::Deleted`]. Never panics, whatever the bytes. The answer depends on the record alone;
    /// of an error or of [`Decoded::Irrelevant`] the slots are not read.
    fn decode<'a>(&mut self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<Decoded, Reject>;
}

/// What the engine must know of a format beyond its decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatInfo {
    /// As a job file names it.
    pub name: &'static str,
    /// Where its records are messages: the pointer to the message's id. A message is an entity by
    /// its id, keep last.
    pub message_id: Option<&'static str>,
    /// Where an event may carry an id that tells duplicates: the pointer to it.
    pub claim_id: Option<&'static str>,
}

/// The formats there are. Implemented above the engine.
pub trait Formats: Send + Sync {
    /// All formats, for submission and its errors.
    fn all(&self) -> &[FormatInfo];
    /// A decoder for `format` (one of [`Formats::all`]) that fills the slots of `needs`.
    fn decoder(&self, format: &str, needs: &Needs) -> Box<dyn Decoder>;

    /// The format of that name.
    fn find(&self, format: &str) -> Option<FormatInfo> {
        self.all().iter().copied().find(|f| f.name == format)
    }
}
