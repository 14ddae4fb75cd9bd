//! The fields of a service's records: which there are, what each is good for, and reading those that
//! are needed.

use super::super::json;
use super::super::plan::{Plan, resolve};
use super::super::tags;
use super::{Shape, Use};
use smallvec::SmallVec;
use std::borrow::Cow;
use tallyflow_dataflows::decode::{Reject, Value};

/// A field: the names that lead to it, with dots between them, and what it is good for.
pub(in super::super) type Field = (&'static str, Use);

/// The fields of a format that a job needs.
pub(super) struct Fields {
    names: &'static [Field],
    plan: Plan,
    /// Slots: those of the fields, then those of the pointers into `raw`.
    slots: usize,
}

/// What was read of a record, by field.
pub(in super::super) struct Read<'a> {
    fields: usize,
    slots: SmallVec<[Option<Value<'a>>; 16]>,
}

impl Read<'_> {
    /// Whether a field is there and not null.
    pub(super) fn has(&self, field: usize) -> bool {
        !matches!(self.slots[field], None | Some(Value::Null))
    }
}

impl<'a> Read<'a> {
    /// The value of a field; null is nothing.
    pub(super) fn take(&mut self, field: usize) -> Option<Value<'a>> {
        self.slots[field].take().filter(|value| *value != Value::Null)
    }

    /// What a pointer into `raw` leads to, by its place in [`Shape::raw`].
    pub(super) fn take_raw(&mut self, place: usize) -> Option<Value<'a>> {
        self.slots.get_mut(self.fields + place).and_then(Option::take)
    }

    /// A record of which nothing but `raw` is of use, as the pointers of a shape lead into it.
    pub(super) fn of_raw(raw: &Value<'a>, shape: &Shape) -> Self {
        Read { fields: 0, slots: shape.raw.iter().map(|(_, rest)| resolve(raw, rest).cloned()).collect() }
    }
}

impl Fields {
    /// The fields that `shape` needs, of the text that `raw` leads to.
    pub(super) fn new(names: &'static [Field], shape: &Shape) -> Self {
        let mut fields = Fields::of(names, |of| shape.asks(of));
        for (_, rest) in &shape.raw {
            fields.plan.add(rest, fields.slots);
            fields.slots += 1;
        }
        fields
    }

    /// The fields of these uses, without `raw`.
    pub(super) fn of(names: &'static [Field], asks: impl Fn(Use) -> bool) -> Self {
        let mut plan = Plan::default();
        for (slot, (name, of)) in names.iter().enumerate() {
            if asks(*of) {
                plan.add(&name.split('.').map(str::to_owned).collect::<Vec<_>>(), slot);
            }
        }
        Fields { names, plan, slots: names.len() }
    }

    /// Reads them from a text, whose depth has been checked.
    pub(super) fn read<'a>(&self, text: &'a str) -> Result<Read<'a>, Reject> {
        let mut slots = SmallVec::new();
        slots.resize_with(self.slots, || None);
        json::fill(&self.plan, text, &mut slots)?;
        Ok(Read { fields: self.names.len(), slots })
    }

    /// Reads them from a value.
    pub(super) fn read_value<'a>(&self, value: Value<'a>) -> Read<'a> {
        let mut slots = SmallVec::new();
        slots.resize_with(self.slots, || None);
        self.plan.fill(value, &mut slots);
        Read { fields: self.names.len(), slots }
    }

    /// A field that is a string where it is there.
    pub(super) fn text<'a>(&self, read: &mut Read<'a>, field: usize) -> Result<Option<Cow<'a, str>>, Reject> {
        text(read.take(field), self.names[field].0)
    }

    /// A field that is a string, or the reason why it must be there.
    pub(super) fn required<'a>(&self, read: &mut Read<'a>, field: usize) -> Result<Cow<'a, str>, Reject> {
        self.text(read, field)?.ok_or_else(|| missing(self.names[field].0))
    }

    /// Hashtags that a service sends as objects with the word at `key`, as an event has them.
    pub(super) fn hashtags<'a>(
        &self,
        read: &mut Read<'a>,
        field: usize,
        key: &str,
    ) -> Result<Option<Vec<Value<'a>>>, Reject> {
        let word = |object: Value<'a>| match object {
            Value::Object(members) => members.into_iter().find(|(name, _)| name == key).map(|(_, word)| word),
            _ => None,
        };
        let sent = match read.take(field) {
            None => return Ok(None),
            Some(Value::Array(sent)) => sent.into_iter().map(word).collect::<Option<Vec<_>>>(),
            Some(_) => None,
        };
        let wrong = || wrong(self.names[field].0, &format!("an array of objects with a string {key}"));
        sent.and_then(tags::normal).ok_or_else(wrong).map(Some)
    }
}

/// A string where there is something.
pub(super) fn text<'a>(value: Option<Value<'a>>, name: &str) -> Result<Option<Cow<'a, str>>, Reject> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(_) => Err(wrong(name, "a string")),
    }
}

/// What the names in `path`, with dots between them, lead to.
pub(super) fn find<'v, 'a>(value: &'v Value<'a>, path: &str) -> Option<&'v Value<'a>> {
    path.split('.').try_fold(value, |value, name| match value {
        Value::Object(members) => members.iter().find(|(member, _)| member == name).map(|(_, value)| value),
        _ => None,
    })
}

pub(super) fn missing(name: &str) -> Reject {
    Reject(Cow::Owned(format!("`{name}` is missing")))
}

pub(super) fn wrong(name: &str, what: &str) -> Reject {
    Reject(Cow::Owned(format!("`{name}` is not {what}")))
}
