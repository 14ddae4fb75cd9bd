//! A scanner over one JSON text (RFC 8259): it checks every byte and builds only what it is asked for.
//!
//! The text has been checked as UTF-8 once, whole, before: what is lent out of it needs no second
//! check. It accepts what `serde_json` accepts, with its limit on nesting, except that a number may
//! have any magnitude: numbers are handed on as written and judged where they are used.

use std::borrow::Cow;
use std::collections::HashSet;
use tallyflow_dataflows::decode::Value;

/// Arrays and objects may be nested this deep: the limit that `serde_json` has too.
pub(super) const DEPTH_MAX: u32 = 127;

/// From this many members on, equal names in an object are looked for with a hash set. Below, looking
/// back over the members is quicker.
const NAMES_BY_LOOKING_BACK_MAX: usize = 16;

/// What is wrong with a text; where is [`Scanner::at`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    End,
    Value,
    Name,
    Colon,
    CommaOrBrace,
    CommaOrBracket,
    Number,
    Control,
    Escape,
    Surrogate,
    Depth,
    Trailing,
}

impl Fault {
    /// What is wrong, to stand after "invalid JSON at byte N: ".
    pub(super) fn what(self) -> &'static str {
        match self {
            Fault::End => "it ends too early",
            Fault::Value => "expected a value",
            Fault::Name => "expected a member name in quotes",
            Fault::Colon => "expected \":\"",
            Fault::CommaOrBrace => "expected \",\" or \"}\"",
            Fault::CommaOrBracket => "expected \",\" or \"]\"",
            Fault::Number => "not a number",
            Fault::Control => "a control character in a string must be escaped",
            Fault::Escape => "no such escape",
            Fault::Surrogate => "half of a surrogate pair",
            Fault::Depth => "nested too deep (127 at most)",
            Fault::Trailing => "something follows the value",
        }
    }
}

pub(super) type Scan<T> = Result<T, Fault>;

/// A string as it stands in the text, without its quotes.
#[derive(Clone, Copy)]
pub(super) struct RawText<'a> {
    raw: &'a str,
    escaped: bool,
}

impl<'a> RawText<'a> {
    /// The string that is meant.
    #[inline]
    pub(super) fn text(self) -> Cow<'a, str> {
        if self.escaped { Cow::Owned(unescape(self.raw)) } else { Cow::Borrowed(self.raw) }
    }

    /// What stands between the quotes, where it is what is meant: where it has no escapes.
    #[inline(always)]
    pub(super) fn plain(self) -> Option<&'a str> {
        (!self.escaped).then_some(self.raw)
    }
}

/// A place in a JSON text, moving forward.
pub(super) struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Scanner { text, bytes: text.as_bytes(), at: 0 }
    }

    /// The byte where it stands; after a fault, where the fault is.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next byte that is no white space, not taken.
    #[inline(always)]
    pub(super) fn peek(&mut self) -> Option<u8> {
        // Compact records have none: the first look is the only one.
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    /// Nothing but white space may follow.
    pub(super) fn end(&mut self) -> Scan<()> {
        if self.peek().is_none() { Ok(()) } else { Err(Fault::Trailing) }
    }

    /// Takes `wanted` or says `fault`.
    #[inline(always)]
    fn expect(&mut self, wanted: u8, fault: Fault) -> Scan<()> {
        match self.peek() {
            Some(b) if b == wanted => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(fault),
            None => Err(Fault::End),
        }
    }

    /// After `{` or a member: the next member's name and its colon; `None` is the object's end.
    #[inline(always)]
    pub(super) fn member(&mut self, first: bool) -> Scan<Option<RawText<'a>>> {
        match self.peek() {
            Some(b'}') => {
                self.at += 1;
                return Ok(None);
            }
            Some(b',') if !first => {
                self.at += 1;
                self.peek();
            }
            Some(_) if first => {}
            Some(_) => return Err(Fault::CommaOrBrace),
            None => return Err(Fault::End),
        }
        self.expect(b'"', Fault::Name)?;
        let name = self.string()?;
        self.expect(b':', Fault::Colon)?;
        Ok(Some(name))
    }

    /// After `[` or an element: whether another element follows.
    #[inline(always)]
    pub(super) fn element(&mut self, first: bool) -> Scan<bool> {
        match self.peek() {
            Some(b']') => {
                self.at += 1;
                Ok(false)
            }
            Some(b',') if !first => {
                self.at += 1;
                Ok(true)
            }
            Some(_) if first => Ok(true),
            Some(_) => Err(Fault::CommaOrBracket),
            None => Err(Fault::End),
        }
    }

    /// Checks a value and passes over it. `depth` is how many arrays and objects are open.
    #[inline(always)]
    pub(super) fn skip(&mut self, depth: u32) -> Scan<()> {
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                self.string().map(|_| ())
            }
            Some(b'-' | b'0'..=b'9') => self.number().map(|_| ()),
            Some(b'{' | b'[') => self.skip_nested(depth),
            Some(_) => self.word().map(|_| ()),
            None => Err(Fault::End),
        }
    }

    #[inline(never)]
    fn skip_nested(&mut self, depth: u32) -> Scan<()> {
        let object = self.bytes.get(self.at) == Some(&b'{');
        let depth = self.deeper(depth)?;
        let mut first = true;
        if object {
            while self.member(first)?.is_some() {
                self.skip(depth)?;
                first = false;
            }
        } else {
            while self.element(first)? {
                self.skip(depth)?;
                first = false;
            }
        }
        Ok(())
    }

    /// Reads a value whole, into its place: handing it over as a result costs more than reading it.
    #[inline(always)]
    pub(super) fn value_into(&mut self, slot: &mut Option<Value<'a>>, depth: u32) -> Scan<()> {
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                *slot = Some(Value::Text(self.string()?.text()));
            }
            Some(b'-' | b'0'..=b'9') => *slot = Some(Value::Number(Cow::Borrowed(self.number()?))),
            Some(_) => *slot = Some(self.value(depth)?),
            None => return Err(Fault::End),
        }
        Ok(())
    }

    #[inline(never)]
    fn value(&mut self, depth: u32) -> Scan<Value<'a>> {
        match self.peek() {
            Some(b'"') => {
                self.at += 1;
                Ok(Value::Text(self.string()?.text()))
            }
            Some(b'-' | b'0'..=b'9') => Ok(Value::Number(Cow::Borrowed(self.number()?))),
            Some(b'{' | b'[') => self.nested_value(depth),
            Some(_) => self.word(),
            None => Err(Fault::End),
        }
    }

    #[inline(never)]
    fn nested_value(&mut self, depth: u32) -> Scan<Value<'a>> {
        let object = self.bytes.get(self.at) == Some(&b'{');
        let depth = self.deeper(depth)?;
        if object {
            let mut members = Vec::new();
            while let Some(name) = self.member(members.is_empty())? {
                let value = self.value(depth)?;
                members.push((name.text(), value));
            }
            keep_last_of_each_name(&mut members);
            Ok(Value::Object(members))
        } else {
            let mut elements = Vec::new();
            while self.element(elements.is_empty())? {
                elements.push(self.value(depth)?);
            }
            Ok(Value::Array(elements))
        }
    }

    /// Takes the bracket or brace that was seen.
    #[inline(always)]
    pub(super) fn deeper(&mut self, depth: u32) -> Scan<u32> {
        if depth >= DEPTH_MAX {
            return Err(Fault::Depth);
        }
        self.at += 1;
        Ok(depth + 1)
    }

    /// One of the three words.
    #[inline]
    fn word(&mut self) -> Scan<Value<'a>> {
        let words = [("null", Value::Null), ("true", Value::Bool(true)), ("false", Value::Bool(false))];
        for (word, value) in words {
            if self.bytes[self.at..].starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(Fault::Value)
    }

    #[inline(always)]
    fn number(&mut self) -> Scan<&'a str> {
        let start = self.at;
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    /// One digit at least.
    #[inline(always)]
    fn digits(&mut self) -> Scan<()> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.bytes.get(self.at) {
            self.at += 1;
        }
        match self.at > start {
            true => Ok(()),
            false if self.at == self.bytes.len() => Err(Fault::End),
            false => Err(Fault::Number),
        }
    }

    /// The string whose opening quote was taken.
    #[inline(always)]
    pub(super) fn string(&mut self) -> Scan<RawText<'a>> {
        let start = self.at;
        self.plain();
        if self.bytes.get(self.at) == Some(&b'"') {
            let raw = &self.text[start..self.at];
            self.at += 1;
            return Ok(RawText { raw, escaped: false });
        }
        self.string_with_escapes(start)
    }

    #[cold]
    fn string_with_escapes(&mut self, start: usize) -> Scan<RawText<'a>> {
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    let raw = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(RawText { raw, escaped: true });
                }
                Some(b'\\') => self.escape()?,
                Some(_) => return Err(Fault::Control),
                None => return Err(Fault::End),
            }
            self.plain();
        }
    }

    /// Moves to the next quote, backslash or control character, or to the end.
    ///
    /// Eight bytes at a time, as numbers: a byte is one of those where the subtraction borrows into
    /// its highest bit ("Bit Twiddling Hacks", Sean Eron Anderson, "Determine if a word has a byte
    /// less than n"). A borrow can only mark bytes above a true one, so the lowest mark is right.
    #[inline(always)]
    fn plain(&mut self) {
        const ONES: u64 = u64::MAX / 255;
        const HIGHS: u64 = ONES << 7;
        while let Some(chunk) = self.bytes[self.at..].first_chunk::<8>() {
            let word = u64::from_le_bytes(*chunk);
            let quote = word ^ (ONES * b'"' as u64);
            let backslash = word ^ (ONES * b'\\' as u64);
            let marks = (quote.wrapping_sub(ONES) & !quote)
                | (backslash.wrapping_sub(ONES) & !backslash)
                | (word.wrapping_sub(ONES * 0x20) & !word);
            let marks = marks & HIGHS;
            if marks != 0 {
                self.at += (marks.trailing_zeros() / 8) as usize;
                return;
            }
            self.at += 8;
        }
        while let Some(&b) = self.bytes.get(self.at) {
            if b == b'"' || b == b'\\' || b < 0x20 {
                return;
            }
            self.at += 1;
        }
    }

    /// Checks one escape and passes over it; a surrogate must be followed by its other half.
    fn escape(&mut self) -> Scan<()> {
        let start = self.at;
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let unit = self.hex4(start)?;
                self.at += 6;
                if (0xD800..0xE000).contains(&unit) {
                    let pair = unit < 0xDC00
                        && self.bytes[self.at..].starts_with(b"\\u")
                        && (0xDC00..0xE000).contains(&self.hex4(self.at)?);
                    if !pair {
                        self.at = start;
                        return Err(Fault::Surrogate);
                    }
                    self.at += 6;
                }
            }
            Some(_) => return Err(Fault::Escape),
            None => return Err(Fault::End),
        }
        Ok(())
    }

    /// The four digits of the `\uXXXX` at `start`.
    fn hex4(&self, start: usize) -> Scan<u32> {
        let digits = self.bytes.get(start + 2..start + 6).ok_or(Fault::End)?;
        digits.iter().try_fold(0, |n, &d| (d as char).to_digit(16).map(|d| n * 16 + d).ok_or(Fault::Escape))
    }
}

/// What a string with escapes means; its escapes have been checked.
#[cold]
fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let (c, length) = match rest.as_bytes().get(at + 1) {
            Some(b'b') => ('\u{8}', 2),
            Some(b'f') => ('\u{c}', 2),
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(b'u') => {
                let unit = |at: usize| rest.get(at + 2..at + 6).and_then(|d| u32::from_str_radix(d, 16).ok());
                let first = unit(at).unwrap_or(0);
                if (0xD800..0xDC00).contains(&first) {
                    let second = unit(at + 6).unwrap_or(0) & 0x3FF;
                    (char::from_u32(0x10000 + ((first & 0x3FF) << 10) + second).unwrap_or('\u{FFFD}'), 12)
                } else {
                    (char::from_u32(first).unwrap_or('\u{FFFD}'), 6)
                }
            }
            // The quote, the backslash and the slash stand for themselves.
            other => (other.map_or('\\', |&b| b as char), 2),
        };
        out.push(c);
        rest = rest.get(at + length..).unwrap_or("");
    }
    out.push_str(rest);
    out
}

/// Of equal names only the last stays, at its own place.
fn keep_last_of_each_name(members: &mut Vec<(Cow<'_, str>, Value<'_>)>) {
    let repeated: Vec<bool> = if members.len() <= NAMES_BY_LOOKING_BACK_MAX {
        let later = |i: usize| members[i + 1..].iter().any(|(name, _)| *name == members[i].0);
        if !(0..members.len()).any(later) {
            return;
        }
        (0..members.len()).map(later).collect()
    } else {
        let mut seen = HashSet::with_capacity(members.len());
        let mut repeated: Vec<bool> = members.iter().rev().map(|(name, _)| !seen.insert(&**name)).collect();
        repeated.reverse();
        repeated
    };
    let mut repeated = repeated.into_iter();
    members.retain(|_| !repeated.next().unwrap_or(false));
}
