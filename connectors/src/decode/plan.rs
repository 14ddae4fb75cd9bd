//! What a job needs of a record, as a trie over the pointers' tokens: one walk fills all slots.

use super::values::value;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use tallyflow_dataflows::decode::{Needs, Value};
use tallyflow_dataflows::pointer::Pointer;

/// The slots to fill, one per need.
pub(super) type Slots<'s, 'a> = &'s mut [Option<Value<'a>>];

/// A place that some pointer leads to or through.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The slots whose pointer ends here.
    slots: Vec<usize>,
    /// The slot that only says whether null stands here: what else does is checked and passed over.
    null: Option<usize>,
    children: Vec<Child>,
}

#[derive(Debug)]
struct Child {
    token: Box<str>,
    /// The token as an array index, if it is one: RFC 6901 allows no leading zeros.
    index: Option<usize>,
    plan: Plan,
}

impl Plan {
    pub(super) fn new(needs: &Needs) -> Self {
        let mut root = Plan::default();
        for (slot, pointer) in needs.pointers().iter().enumerate() {
            root.add(pointer.tokens(), slot);
        }
        root
    }

    pub(super) fn add(&mut self, tokens: &[String], slot: usize) {
        let Some((token, rest)) = tokens.split_first() else {
            self.slots.push(slot);
            return;
        };
        let at = self.children.iter().position(|c| *c.token == **token).unwrap_or_else(|| {
            let child = Child { token: token.as_str().into(), index: array_index(token), plan: Plan::default() };
            self.children.push(child);
            self.children.len() - 1
        });
        self.children[at].plan.add(rest, slot);
    }

    /// Has `slot` filled where the member `name` of the record is null, and only then. Nothing else
    /// may be asked of that member.
    pub(super) fn note_null(&mut self, name: &str, slot: usize) {
        let plan = Plan { null: Some(slot), ..Plan::default() };
        self.children.push(Child { token: name.into(), index: array_index(name), plan });
    }

    /// Fills the slots below this place from a value read before.
    pub(super) fn fill<'a>(&self, value: Value<'a>, slots: Slots<'_, 'a>) {
        self.share(&Some(value), &self.slots, slots);
    }

    #[inline(always)]
    fn child(&self, name: &str) -> Option<&Plan> {
        self.children.iter().find(|c| same(&c.token, name)).map(|c| &c.plan)
    }

    fn clear(&self, slots: Slots<'_, '_>) {
        self.slots.iter().chain(&self.null).for_each(|&slot| slots[slot] = None);
        self.children.iter().for_each(|child| child.plan.clear(slots));
    }

    /// Gives a value that was read whole to the slots below, and a copy to others here.
    #[cold]
    fn share<'a>(&self, value: &Option<Value<'a>>, others: &[usize], slots: Slots<'_, 'a>) {
        others.iter().for_each(|&slot| slots[slot] = value.clone());
        if let Some(slot) = self.null {
            slots[slot] = matches!(value, Some(Value::Null)).then_some(Value::Null);
        }
        for child in &self.children {
            let found = value.as_ref().and_then(|v| step(v, &child.token, child.index)).cloned();
            child.plan.share(&found, &child.plan.slots, slots);
        }
    }
}

/// The walk over one value: what leads to slots is read, the rest checked and passed over.
pub(super) struct Walk<'p, 's, 'a> {
    pub(super) plan: &'p Plan,
    pub(super) slots: Slots<'s, 'a>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_, '_, 'de> {
    type Value = ();

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let Walk { plan, slots } = self;
        if let Some((&last, others)) = plan.slots.split_last() {
            let raw: &RawValue = Deserialize::deserialize(deserializer)?;
            slots[last] = Some(value(raw.get()).map_err(|_| D::Error::custom("not a value"))?);
            if !others.is_empty() || !plan.children.is_empty() {
                let value = slots[last].clone();
                plan.share(&value, others, slots);
            }
            Ok(())
        } else if plan.children.is_empty() {
            let Some(slot) = plan.null else { return IgnoredAny::deserialize(deserializer).map(drop) };
            let found = Option::<IgnoredAny>::deserialize(deserializer)?;
            slots[slot] = found.is_none().then_some(Value::Null);
            Ok(())
        } else {
            deserializer.deserialize_any(Walk { plan, slots })
        }
    }
}

/// What a pointer leads into; it leads nowhere in what is no object and no array.
impl<'de> Visitor<'de> for Walk<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(child) = map.next_key_seed(Names(self.plan))? {
            match child {
                Some(plan) => {
                    // Of equal names the last one wins, whole.
                    if plan.slots.is_empty() {
                        plan.clear(self.slots);
                    }
                    map.next_value_seed(Walk { plan, slots: &mut *self.slots })?;
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        for index in 0.. {
            let more = match self.plan.children.iter().find(|c| c.index == Some(index)) {
                Some(child) => elements.next_element_seed(Walk { plan: &child.plan, slots: &mut *self.slots })?,
                None => elements.next_element::<IgnoredAny>()?.map(drop),
            };
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// Finds the place that a member's name leads to.
struct Names<'p>(&'p Plan);

impl<'de, 'p> DeserializeSeed<'de> for Names<'p> {
    type Value = Option<&'p Plan>;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'p> Visitor<'_> for Names<'p> {
    type Value = Option<&'p Plan>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    #[inline]
    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.child(name))
    }
}

/// Whether two names are equal. Names differ in length mostly, and few are long: a call to compare
/// the bytes would cost more than it does here.
#[inline(always)]
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| a == b)
}

/// What `tokens` lead to from `value`.
pub(super) fn resolve<'v, 'a>(value: &'v Value<'a>, tokens: &[String]) -> Option<&'v Value<'a>> {
    tokens.iter().try_fold(value, |value, token| step(value, token, array_index(token)))
}

fn step<'v, 'a>(value: &'v Value<'a>, token: &str, index: Option<usize>) -> Option<&'v Value<'a>> {
    match value {
        Value::Object(members) => members.iter().find(|(name, _)| name == token).map(|(_, value)| value),
        Value::Array(elements) => elements.get(index?),
        _ => None,
    }
}

fn array_index(token: &str) -> Option<usize> {
    let digits = !token.is_empty() && token.bytes().all(|b| b.is_ascii_digit());
    (digits && (token == "0" || !token.starts_with('0'))).then(|| token.parse().ok()).flatten()
}

/// A pointer to the member `name` of the record.
pub(super) fn member_pointer(name: &str) -> Pointer {
    Pointer::from_tokens(vec![name.to_owned()])
}
