//! Hashtags in a text, by the rules of twitter-text.
//!
//! The rules are those that <https://github.com/twitter/twitter-text> publishes (`regexp/*.js` of its
//! JavaScript edition and `conformance/extract.yml`): a `#` or `＃`, not followed by U+FE0F or U+20E3
//! (a keycap), at the start of the text or after a character that is neither `&` nor one that a
//! hashtag may consist of (variation selectors may stand before it), then a run of letters, marks,
//! decimal digits and the special characters below with at least one letter or mark in it, not
//! followed by another `#` or by `://`, and not within a URL.

use super::urls;
use memchr::memchr2_iter;
use std::borrow::Cow;
use std::ops::Range;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// A hashtag's place in its text, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashtag {
    /// Where its `#` stands.
    pub start: usize,
    /// Where its word begins.
    pub word_start: usize,
    /// Where it ends.
    pub end: usize,
    /// Whether its word is ASCII without capitals.
    plain: bool,
}

impl Hashtag {
    /// The word without `#`.
    pub fn word(&self) -> Range<usize> {
        self.word_start..self.end
    }

    /// Its word in lower case; `text` is where it was found.
    pub fn lower_case<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let word = &text[self.word()];
        if self.plain { Cow::Borrowed(word) } else { lower_case(word) }
    }
}

/// `＃` (U+FF03) in UTF-8. It is looked for by its second byte, which is rarer in running text than its
/// first: that begins every full-width form.
const WIDE_SIGN: [u8; 3] = [0xEF, 0xBC, 0x83];

/// The hashtags of `text`, in order. A text without a sign costs one `memchr`.
pub fn extract(text: &str) -> impl Iterator<Item = Hashtag> + '_ {
    let bytes = text.as_bytes();
    memchr2_iter(b'#', WIDE_SIGN[1], bytes).filter_map(move |at| {
        if bytes[at] == b'#' {
            return hashtag_at(text, at, at + 1);
        }
        let start = at.checked_sub(1)?;
        (bytes.get(start..start + 3)? == WIDE_SIGN).then(|| hashtag_at(text, start, start + 3)).flatten()
    })
}

/// In lower case, without copying where it is so already.
pub fn lower_case(word: &str) -> Cow<'_, str> {
    if word.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
        return Cow::Borrowed(word);
    }
    if word.is_ascii() {
        return Cow::Owned(word.to_ascii_lowercase());
    }
    let lower = word.to_lowercase();
    if lower == word { Cow::Borrowed(word) } else { Cow::Owned(lower) }
}

fn hashtag_at(text: &str, start: usize, word_start: usize) -> Option<Hashtag> {
    let before = text[..start].chars().next_back();
    let after_boundary = match before {
        None | Some('\u{FE0E}' | '\u{FE0F}') => true,
        Some('&') => false,
        Some(c) => class(c) == OTHER,
    };
    // The variation selector and the keycap are marks: without this they would begin a word.
    if !after_boundary || text[word_start..].starts_with(['\u{FE0F}', '\u{20E3}']) {
        return None;
    }
    let (end, seen) = word_at(text, word_start);
    let spoilt = match &text.as_bytes()[end..] {
        [b'#', ..] | [b':', b'/', b'/', ..] => true,
        rest => rest.starts_with(&WIDE_SIGN),
    };
    if seen & LETTER == 0 || spoilt {
        return None;
    }
    // A URL has no white space in it, so right behind some there is no need to look for one.
    let may_be_in_url = before.is_some_and(|c| !c.is_whitespace());
    (!may_be_in_url || !urls::within_url(text, start)).then_some(Hashtag {
        start,
        word_start,
        end,
        plain: seen & (CAPITAL | WIDE) == 0,
    })
}

/// Where the word from `start` on ends, and what is in it.
fn word_at(text: &str, start: usize) -> (usize, u8) {
    let mut seen = 0;
    // Most words are ASCII to their end, so bytes are looked at before characters.
    for (at, &byte) in text.as_bytes().iter().enumerate().skip(start) {
        match BYTES[usize::from(byte)] {
            OTHER => return (at, seen),
            WIDE => return wide_word_at(text, at, seen),
            class => seen |= class,
        }
    }
    (text.len(), seen)
}

fn wide_word_at(text: &str, start: usize, mut seen: u8) -> (usize, u8) {
    seen |= WIDE;
    for (at, c) in text[start..].char_indices() {
        match class(c) {
            OTHER => return (start + at, seen),
            class => seen |= class,
        }
    }
    (text.len(), seen)
}

/// What characters may be to a hashtag, as bits. Not part of one:
const OTHER: u8 = 0;
/// A letter or mark: one at least must be there.
const LETTER: u8 = 1;
/// A capital of ASCII.
const CAPITAL: u8 = 2;
/// A digit or special character.
const PART: u8 = 4;
/// Of a byte: part of a character beyond ASCII.
const WIDE: u8 = 8;

const BYTES: [u8; 256] = {
    let mut classes = [WIDE; 256];
    let mut byte = 0u8;
    while byte < 128 {
        classes[byte as usize] = match byte {
            b'a'..=b'z' => LETTER,
            b'A'..=b'Z' => LETTER | CAPITAL,
            b'0'..=b'9' | b'_' => PART,
            _ => OTHER,
        };
        byte += 1;
    }
    classes
};

fn class(c: char) -> u8 {
    use GeneralCategory::*;
    match c {
        '\0'..='\x7f' => BYTES[c as usize],
        // twitter-text's special characters: joiners, Hebrew and Tibetan punctuation, tildes and
        // dashes of Japanese, voiced sound marks, katakana dots, ditto mark, middle dot.
        '\u{200c}' | '\u{200d}' | '\u{a67e}' | '\u{05be}' | '\u{05f3}' | '\u{05f4}' | '\u{ff5e}' | '\u{301c}'
        | '\u{309b}' | '\u{309c}' | '\u{30a0}' | '\u{30fb}' | '\u{3003}' | '\u{0f0b}' | '\u{0f0c}' | '\u{00b7}' => PART,
        _ => match c.general_category() {
            UppercaseLetter | LowercaseLetter | TitlecaseLetter | ModifierLetter | OtherLetter => LETTER,
            NonspacingMark | SpacingMark | EnclosingMark => LETTER,
            DecimalNumber => PART,
            _ => OTHER,
        },
    }
}
