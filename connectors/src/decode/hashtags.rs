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
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// A hashtag's place in its text, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashtag {
    /// Where its `#` stands.
    pub start: usize,
    /// Where its word begins.
    pub word_start: usize,
    /// Where it ends.
    pub end: usize,
}

impl Hashtag {
    /// The word without `#`.
    pub fn word(&self) -> Range<usize> {
        self.word_start..self.end
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
    if word.is_ascii() {
        return match word.bytes().any(|b| b.is_ascii_uppercase()) {
            true => Cow::Owned(word.to_ascii_lowercase()),
            false => Cow::Borrowed(word),
        };
    }
    let lower = word.to_lowercase();
    if lower == word { Cow::Borrowed(word) } else { Cow::Owned(lower) }
}

fn hashtag_at(text: &str, start: usize, word_start: usize) -> Option<Hashtag> {
    let before = text[..start].chars().next_back();
    let after_boundary = match before {
        None | Some('\u{FE0E}' | '\u{FE0F}') => true,
        Some('&') => false,
        Some(c) => class(c) == Class::Other,
    };
    // The variation selector and the keycap are marks: without this they would begin a word.
    if !after_boundary || text[word_start..].starts_with(['\u{FE0F}', '\u{20E3}']) {
        return None;
    }
    let mut letter = false;
    let mut end = text.len();
    for (at, c) in text[word_start..].char_indices() {
        match class(c) {
            Class::Letter => letter = true,
            Class::Part => {}
            Class::Other => {
                end = word_start + at;
                break;
            }
        }
    }
    let rest = &text[end..];
    if !letter || rest.starts_with(['#', '＃']) || rest.starts_with("://") {
        return None;
    }
    // A URL has no white space in it, so right behind some there is no need to look for one.
    let may_be_in_url = before.is_some_and(|c| !c.is_whitespace());
    (!may_be_in_url || !urls::within_url(text, start)).then_some(Hashtag { start, word_start, end })
}

/// What a character may be to a hashtag.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// A letter or mark: one at least must be there.
    Letter,
    /// A digit or special character.
    Part,
    /// Not part of a hashtag.
    Other,
}

#[inline]
fn class(c: char) -> Class {
    match c {
        'a'..='z' | 'A'..='Z' => Class::Letter,
        '0'..='9' | '_' => Class::Part,
        '\0'..='\x7f' => Class::Other,
        // twitter-text's special characters: joiners, Hebrew and Tibetan punctuation, tildes and
        // dashes of Japanese, voiced sound marks, katakana dots, ditto mark, middle dot.
        '\u{200c}' | '\u{200d}' | '\u{a67e}' | '\u{05be}' | '\u{05f3}' | '\u{05f4}' | '\u{ff5e}' | '\u{301c}'
        | '\u{309b}' | '\u{309c}' | '\u{30a0}' | '\u{30fb}' | '\u{3003}' | '\u{0f0b}' | '\u{0f0c}' | '\u{00b7}' => {
            Class::Part
        }
        _ => match c.general_category_group() {
            GeneralCategoryGroup::Letter | GeneralCategoryGroup::Mark => Class::Letter,
            _ if c.general_category() == GeneralCategory::DecimalNumber => Class::Part,
            _ => Class::Other,
        },
    }
}
