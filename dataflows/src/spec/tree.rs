//! A job file as a tree of values that know their lines, the same from TOML and JSON.

use super::fault::Faults;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Node {
    pub line: Option<u32>,
    pub kind: Kind,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Kind {
    Text(String),
    /// `None`: beyond 64 bits.
    Integer(Option<i64>),
    /// A number that is not whole.
    Number,
    Bool(bool),
    /// Of JSON, where [`from_json`] is asked to keep it.
    Null,
    /// A TOML date or time, as text.
    Time(String),
    List(Vec<Node>),
    Table(Vec<Member>),
}

/// A key of a table with its value.
#[derive(Debug)]
pub(super) struct Member {
    pub key: String,
    pub key_line: Option<u32>,
    pub node: Node,
}

impl Kind {
    /// With its article, for "... is a text".
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Text(_) => "a text",
            Kind::Integer(_) => "a whole number",
            Kind::Number => "a number with a fraction",
            Kind::Bool(_) => "true or false",
            Kind::Null => "null",
            Kind::Time(_) => "a time",
            Kind::List(_) => "a list",
            Kind::Table(_) => "a table",
        }
    }
}

/// Where lines begin, to turn a byte's place into its line.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Self {
        Lines { starts: std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect() }
    }

    fn at(&self, byte: usize) -> Option<u32> {
        u32::try_from(self.starts.partition_point(|start| *start <= byte)).ok()
    }
}

/// Reads TOML. Lines that are none go to `faults`; what could be read besides is in the tree.
pub(super) fn from_toml(text: &str, faults: &mut Faults) -> Node {
    let lines = Lines::of(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let line = error.span().and_then(|span| lines.at(span.start));
        faults.syntax(line, format!("is no TOML: {}", error.message()));
    }
    Node { line: Some(1), kind: toml_table(table.into_inner(), &lines) }
}

fn toml_table(table: DeTable<'_>, lines: &Lines) -> Kind {
    let members = table.into_iter().map(|(key, value)| {
        let key_line = lines.at(key.span().start);
        Member { key: key.into_inner().into_owned(), key_line, node: toml_node(value, lines) }
    });
    Kind::Table(members.collect())
}

fn toml_node(value: Spanned<DeValue<'_>>, lines: &Lines) -> Node {
    let line = lines.at(value.span().start);
    let kind = match value.into_inner() {
        DeValue::String(text) => Kind::Text(text.into_owned()),
        DeValue::Integer(n) => Kind::Integer(i64::from_str_radix(n.as_str(), n.radix()).ok()),
        DeValue::Float(_) => Kind::Number,
        DeValue::Boolean(yes) => Kind::Bool(yes),
        DeValue::Datetime(time) => Kind::Time(time.to_string()),
        DeValue::Array(elements) => Kind::List(elements.into_iter().map(|e| toml_node(e, lines)).collect()),
        DeValue::Table(table) => toml_table(table, lines),
    };
    Node { line, kind }
}

/// What a `null` of JSON is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Nulls {
    /// As if the key were not there.
    LeftOut,
    Kept,
}

/// Reads JSON. `None`: it is none, and `faults` says so.
pub(super) fn from_json(text: &str, nulls: Nulls, faults: &mut Faults) -> Option<Node> {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(raw) => json_node(raw, &Json { text, lines: Lines::of(text), nulls }, faults),
        Err(e) => {
            faults.syntax(u32::try_from(e.line()).ok(), format!("is no JSON: {e}"));
            None
        }
    }
}

struct Json<'a> {
    text: &'a str,
    lines: Lines,
    nulls: Nulls,
}

impl Json<'_> {
    /// The line of a value that is borrowed from the text: its place is told by its address.
    fn line(&self, raw: &RawValue) -> Option<u32> {
        self.lines.at((raw.get().as_ptr() as usize).checked_sub(self.text.as_ptr() as usize)?)
    }
}

/// `None` for a `null` that is left out. `serde_json` has already read the whole
/// text with its limit of 128 levels, which bounds the recursion.
fn json_node(raw: &RawValue, json: &Json<'_>, faults: &mut Faults) -> Option<Node> {
    let line = json.line(raw);
    let text = raw.get();
    let kind = match text.as_bytes().first()? {
        b'n' if json.nulls == Nulls::LeftOut => return None,
        b'n' => Kind::Null,
        b't' => Kind::Bool(true),
        b'f' => Kind::Bool(false),
        b'"' => Kind::Text(serde_json::from_str(text).ok()?),
        b'[' => {
            let elements = serde_json::Deserializer::from_str(text).deserialize_seq(Elements).ok()?;
            Kind::List(elements.into_iter().filter_map(|e| json_node(e, json, faults)).collect())
        }
        b'{' => {
            let members = serde_json::Deserializer::from_str(text).deserialize_map(Members).ok()?;
            let mut table: Vec<Member> = Vec::with_capacity(members.len());
            let mut seen = std::collections::HashSet::new();
            for (key, raw) in members {
                let key_line = json.line(raw);
                if !seen.insert(key.clone()) {
                    faults.syntax(
                        key_line,
                        format!("is no JSON: the key {} stands there twice", super::fault::shown(&key)),
                    );
                } else if let Some(node) = json_node(raw, json, faults) {
                    table.push(Member { key, key_line, node });
                }
            }
            Kind::Table(table)
        }
        _ if text.bytes().any(|b| matches!(b, b'.' | b'e' | b'E')) => Kind::Number,
        _ => Kind::Integer(text.parse().ok()),
    };
    Some(Node { line, kind })
}

struct Elements;

impl<'de> Visitor<'de> for Elements {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(element) = access.next_element()? {
            all.push(element);
        }
        Ok(all)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut all = Vec::new();
        while let Some(member) = access.next_entry()? {
            all.push(member);
        }
        Ok(all)
    }
}
