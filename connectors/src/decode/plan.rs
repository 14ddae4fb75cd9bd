//! What a job needs of a record, as a trie over the pointers' tokens: one walk fills all slots.

use super::scan::{Fault, RawText, Scan, Scanner};
use tallyflow_dataflows::decode::{Needs, Value};
use tallyflow_dataflows::pointer::Pointer;

/// The slots to fill, one per need.
pub(super) type Slots<'s, 'a> = &'s mut [Option<Value<'a>>];

/// A place that some pointer leads to or through.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The slots whose pointer ends here.
    slots: Vec<usize>,
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

    fn add(&mut self, tokens: &[String], slot: usize) {
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

    /// Reads the object whose brace stands next, with all within, and fills the slots below this place.
    #[inline]
    pub(super) fn read<'a>(&self, scanner: &mut Scanner<'a>, slots: Slots<'_, 'a>, depth: u32) -> Scan<()> {
        if let Some((&last, others)) = self.slots.split_last() {
            scanner.value_into(&mut slots[last], depth)?;
            if !others.is_empty() || !self.children.is_empty() {
                let value = slots[last].clone();
                self.share(&value, others, slots);
            }
            return Ok(());
        }
        match scanner.peek() {
            Some(b'{') if !self.children.is_empty() => {
                let depth = scanner.deeper(depth)?;
                let mut first = true;
                while let Some(name) = scanner.member(first)? {
                    first = false;
                    match self.child(name) {
                        Some(child) => child.read_again(scanner, slots, depth)?,
                        None => scanner.skip(depth)?,
                    }
                }
                Ok(())
            }
            Some(b'[') if !self.children.is_empty() => {
                let depth = scanner.deeper(depth)?;
                let mut index = 0;
                while scanner.element(index == 0)? {
                    match self.children.iter().find(|c| c.index == Some(index)) {
                        Some(child) => child.plan.read(scanner, slots, depth)?,
                        None => scanner.skip(depth)?,
                    }
                    index += 1;
                }
                Ok(())
            }
            Some(_) => scanner.skip(depth),
            None => Err(Fault::End),
        }
    }

    /// Reads a member that may have come before under the same name: the last one wins, whole.
    #[inline]
    fn read_again<'a>(&self, scanner: &mut Scanner<'a>, slots: Slots<'_, 'a>, depth: u32) -> Scan<()> {
        if self.slots.is_empty() {
            self.clear(slots);
        }
        self.read(scanner, slots, depth)
    }

    #[inline(always)]
    fn child(&self, name: RawText<'_>) -> Option<&Plan> {
        let child = match name.plain() {
            Some(name) => self.children.iter().find(|c| same(&c.token, name)),
            None => self.children.iter().find(|c| *c.token == *name.text()),
        };
        child.map(|c| &c.plan)
    }

    fn clear(&self, slots: Slots<'_, '_>) {
        self.slots.iter().for_each(|&slot| slots[slot] = None);
        self.children.iter().for_each(|child| child.plan.clear(slots));
    }

    /// Gives a value that was read whole to the slots below, and a copy to others here.
    #[cold]
    fn share<'a>(&self, value: &Option<Value<'a>>, others: &[usize], slots: Slots<'_, 'a>) {
        others.iter().for_each(|&slot| slots[slot] = value.clone());
        for child in &self.children {
            let found = value.as_ref().and_then(|v| step(v, &child.token, child.index)).cloned();
            child.plan.share(&found, &child.plan.slots, slots);
        }
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
