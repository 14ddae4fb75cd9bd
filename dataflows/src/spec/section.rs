//! Typed values out of a table of a job file or of a poll's definition. Each reader answers `None` after telling a fault.

use super::fault::{Faults, instead, shown};
use super::tree::{Kind, Member, Node};
use crate::pointer::Pointer;
use std::time::Duration;

/// The tokens of the longest pointer.
const POINTER_TOKENS_MAX: usize = 32;

/// A table of the file: `[tally]`, one `[[input]]`.
pub(super) struct Section<'a> {
    /// Like `input[0]`; empty for the file itself.
    path: String,
    /// Where it begins.
    pub line: Option<u32>,
    members: &'a [Member],
}

impl<'a> Section<'a> {
    /// Opens a table that may hold the `known` keys and no others.
    pub fn open(path: impl Into<String>, node: &'a Node, known: &[&str], faults: &mut Faults) -> Option<Self> {
        let path = path.into();
        let Kind::Table(members) = &node.kind else {
            let keys = known.join(", ");
            faults.push(node.line, path, format!("is {}, but must be a table with the keys {keys}", node.kind.name()));
            return None;
        };
        let section = Section { path, line: node.line, members };
        for member in members.iter().filter(|m| !known.contains(&m.key.as_str())) {
            let key = section.path_of(&member.key);
            faults.push(member.key_line, key, format!("is no key that is known here; {}", instead(&member.key, known)));
        }
        Some(section)
    }

    /// The whole path of a key in here.
    pub fn path_of(&self, key: &str) -> String {
        // A key is anything in quotes; a fault shows as much of it as can be a slip of the pen.
        let key = match key.char_indices().nth(60) {
            Some((at, _)) => format!("{}...", &key[..at]),
            None => key.to_string(),
        };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    /// A key's value, if it is there.
    pub fn get(&self, key: &str) -> Option<Field<'a>> {
        let member = self.members.iter().find(|m| m.key == key)?;
        Some(Field { path: self.path_of(key), node: &member.node })
    }

    /// A key's value that must be there; `remedy` says what to write.
    pub fn need(&self, key: &str, remedy: &str, faults: &mut Faults) -> Option<Field<'a>> {
        let field = self.get(key);
        if field.is_none() {
            faults.missing(self.line, self.path_of(key), remedy);
        }
        field
    }
}

/// A value and its path.
pub(super) struct Field<'a> {
    pub path: String,
    pub node: &'a Node,
}

impl<'a> Field<'a> {
    /// Tells a fault of this value.
    pub fn fault<T>(&self, faults: &mut Faults, message: impl Into<String>) -> Option<T> {
        faults.push(self.node.line, self.path.clone(), message);
        None
    }

    fn wrong_type<T>(&self, faults: &mut Faults, wanted: &str) -> Option<T> {
        self.fault(faults, format!("is {}, but must be {wanted}", self.node.kind.name()))
    }

    /// A text; `wanted` names it with an example.
    pub fn text(&self, wanted: &str, faults: &mut Faults) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Text(text) => Some(text),
            _ => self.wrong_type(faults, wanted),
        }
    }

    /// One of the names there are.
    pub fn one_of<'k>(&self, what: &str, known: &[&'k str], faults: &mut Faults) -> Option<&'k str> {
        let wanted = format!("{what}: {}", known.join(", "));
        let text = self.text(&wanted, faults)?;
        let found = known.iter().copied().find(|k| *k == text);
        if found.is_none() {
            self.fault::<()>(faults, format!("{} is no {what} that is known; {}", shown(text), instead(text, known)));
        }
        found
    }

    /// A whole number within bounds, both included.
    pub fn integer(&self, min: i64, max: i64, faults: &mut Faults) -> Option<i64> {
        match self.node.kind {
            Kind::Integer(Some(n)) if (min..=max).contains(&n) => Some(n),
            Kind::Integer(_) => self.fault(faults, format!("must lie between {min} and {max}")),
            _ => self.wrong_type(faults, &format!("a whole number between {min} and {max}")),
        }
    }

    /// A span of time within bounds, both included, written like `"10s"`.
    pub fn duration(&self, min: &str, max: &str, faults: &mut Faults) -> Option<Duration> {
        let wanted = "a span of time like \"250ms\", \"10s\", \"5m\", \"1h\" or \"7d\"";
        let text = self.text(wanted, faults)?;
        let Some(span) = parse_duration(text) else {
            return self.fault(faults, format!("{} must be {wanted}", shown(text)));
        };
        let within =
            parse_duration(min).is_none_or(|min| span >= min) && parse_duration(max).is_none_or(|max| span <= max);
        if within {
            Some(span)
        } else {
            self.fault(faults, format!("{} must lie between {min} and {max}", shown(text)))
        }
    }

    /// The elements of a list of at least one.
    pub fn list(&self, wanted: &str, max: usize, faults: &mut Faults) -> Option<Vec<Field<'a>>> {
        match &self.node.kind {
            Kind::List(nodes) if nodes.is_empty() => {
                self.fault(faults, "is an empty list; put something into it or leave the key out")
            }
            Kind::List(nodes) if nodes.len() > max => {
                self.fault(faults, format!("has {} elements, more than the {max} that are possible", nodes.len()))
            }
            Kind::List(nodes) => Some(
                nodes.iter().enumerate().map(|(i, node)| Field { path: format!("{}[{i}]", self.path), node }).collect(),
            ),
            _ => self.wrong_type(faults, wanted),
        }
    }

    /// A JSON Pointer.
    pub fn pointer(&self, faults: &mut Faults) -> Option<Pointer> {
        let text = self.text("a JSON Pointer like \"/region\"", faults)?;
        self.pointer_in(text, faults)
    }

    /// The JSON Pointer that is a part of this value.
    pub fn pointer_in(&self, text: &str, faults: &mut Faults) -> Option<Pointer> {
        let pointer = match Pointer::parse(text) {
            Ok(pointer) => pointer,
            Err(_) if text.len() > 200 => return self.fault(faults, format!("{} is no JSON Pointer", shown(text))),
            Err(what) => return self.fault(faults, what),
        };
        match pointer.tokens().len() {
            0..=POINTER_TOKENS_MAX => Some(pointer),
            n => self
                .fault(faults, format!("has {n} tokens, more than the {POINTER_TOKENS_MAX} that a pointer may have")),
        }
    }

    /// One JSON Pointer or a list of them; all that are none are told.
    pub fn pointers(&self, max: usize, faults: &mut Faults) -> Option<Vec<Pointer>> {
        if matches!(self.node.kind, Kind::Text(_)) {
            return Some(vec![self.pointer(faults)?]);
        }
        let fields = self.list("a JSON Pointer like \"/region\" or a list of them", max, faults)?;
        let pointers: Vec<_> = fields.iter().map(|f| f.pointer(faults)).collect();
        pointers.into_iter().collect()
    }
}

/// `250ms`, `10s`, `5m`, `1h`, `7d`: one whole number and one unit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(ms).map(Duration::from_millis)
}
