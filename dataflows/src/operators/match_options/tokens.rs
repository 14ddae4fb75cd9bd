//! The tokens of a text.

use super::fold::Fold;
use icu_properties::props::{ExtendedPictographic, GeneralCategory, GeneralCategoryGroup, WordBreak};
use icu_properties::{
    CodePointMapData, CodePointMapDataBorrowed, CodePointSetData, CodePointSetDataBorrowed, props::RegionalIndicator,
};
use std::ops::Range;
use unicode_segmentation::UnicodeSegmentation;

const PICTURES: CodePointSetDataBorrowed = CodePointSetData::new::<ExtendedPictographic>();
const FLAG_LETTERS: CodePointSetDataBorrowed = CodePointSetData::new::<RegionalIndicator>();
const CATEGORY: CodePointMapDataBorrowed<GeneralCategory> = CodePointMapData::<GeneralCategory>::new();
const WORD_BREAK: CodePointMapDataBorrowed<WordBreak> = CodePointMapData::<WordBreak>::new();

/// A token's place in its text, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) range: Range<usize>,
    /// Where its first word begins, if a `#` (or ＃) stands right before that.
    pub(super) tag: Option<usize>,
}

/// Calls `take` with each token of `text`, in order.
///
/// White space of ASCII parts the text first. (By the letter of UAX #29 a combining mark behind a space
/// belongs to the space; here it begins a word.) Between, ASCII is looked at byte by byte, which is what
/// most posts need; the Unicode tables are asked from the first token on whose bounds might depend on a
/// character beyond ASCII, up to the next white space.
pub(super) fn each_token(text: &str, mut take: impl FnMut(Token)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let from = match CLASS[usize::from(byte)] {
            SPACE | OTHER | MID..=MID_BOTH => {
                at += 1;
                continue;
            }
            // The character may be a mark, which belongs to what stands before it.
            WIDE if at > 0 && CLASS[usize::from(bytes[at - 1])] != SPACE => at - 1,
            WIDE => at,
            _ => match ascii_token(bytes, at) {
                Ascii::Token(token) => {
                    at = token.range.end;
                    take(token);
                    continue;
                }
                Ascii::Nothing { end } => {
                    at = end;
                    continue;
                }
                Ascii::Unsure => at,
            },
        };
        let rest = &bytes[at..];
        at += rest.iter().position(|b| CLASS[usize::from(*b)] == SPACE).unwrap_or(rest.len());
        segmented_tokens(text, from..at, &mut take);
    }
}

// What a byte is to the rules WB5 to WB13b of UAX #29.
const OTHER: u8 = 0;
const SPACE: u8 = 1;
const WIDE: u8 = 2;
const SIGN: u8 = 3;
const UNDERSCORE: u8 = 4;
const LETTER: u8 = 5;
const DIGIT: u8 = 6;
/// Does not part digits when it is between two.
const MID: u8 = 8;
const MID_NUMBER: u8 = MID | 1;
/// Does not part letters.
const MID_LETTER: u8 = MID | 2;
const MID_BOTH: u8 = MID_NUMBER | MID_LETTER;

const CLASS: [u8; 256] = {
    let mut classes = [WIDE; 256];
    let mut byte = 0u8;
    while byte < 128 {
        classes[byte as usize] = match byte {
            b'\t'..=b'\r' | b' ' => SPACE,
            b'+' | b'#' => SIGN,
            b'_' => UNDERSCORE,
            b'a'..=b'z' | b'A'..=b'Z' => LETTER,
            b'0'..=b'9' => DIGIT,
            b',' | b';' => MID_NUMBER,
            b':' => MID_LETTER,
            b'.' | b'\'' => MID_BOTH,
            _ => OTHER,
        };
        byte += 1;
    }
    classes
};

fn class(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).map_or(SPACE, |byte| CLASS[usize::from(*byte)])
}

enum Ascii {
    Token(Token),
    /// Signs or underscores alone.
    Nothing {
        end: usize,
    },
    /// What follows decides, and it is not ASCII.
    Unsure,
}

/// The token from a sign, underscore, letter or digit on.
fn ascii_token(bytes: &[u8], start: usize) -> Ascii {
    let word = signs_end(bytes, start);
    let (mut end, holds) = match word_end(bytes, word) {
        None => return Ascii::Unsure,
        Some((end, holds)) => (end, holds),
    };
    if !holds {
        return Ascii::Nothing { end };
    }
    loop {
        let next = signs_end(bytes, end);
        if next == end {
            break;
        }
        match word_end(bytes, next) {
            None => return Ascii::Unsure,
            Some((_, false)) => {
                end = next;
                break;
            }
            Some((word_end, true)) => end = word_end,
        }
    }
    let tag = (word > start && bytes[word - 1] == b'#').then_some(word);
    Ascii::Token(Token { range: start..end, tag })
}

fn signs_end(bytes: &[u8], start: usize) -> usize {
    (start..).find(|at| class(bytes, *at) != SIGN).unwrap_or(start)
}

/// Where the word from `start` on ends and whether a letter or digit is in it; none where a character
/// beyond ASCII decides.
fn word_end(bytes: &[u8], start: usize) -> Option<(usize, bool)> {
    let (mut at, mut holds) = (start, false);
    loop {
        match class(bytes, at) {
            LETTER | DIGIT => holds = true,
            UNDERSCORE => {}
            WIDE => return None,
            mid @ MID..=MID_BOTH if at > start => {
                let (before, after) = (class(bytes, at - 1), class(bytes, at + 1));
                let part_of = match before {
                    LETTER => mid & MID_LETTER == MID_LETTER,
                    DIGIT => mid & MID_NUMBER == MID_NUMBER,
                    _ => false,
                };
                if after == WIDE {
                    return None;
                }
                if !part_of || after != before {
                    return Some((at, holds));
                }
            }
            _ => return Some((at, holds)),
        }
        at += 1;
    }
}

/// The tokens of a piece of `text` by the tables of Unicode.
fn segmented_tokens(text: &str, piece: Range<usize>, take: &mut impl FnMut(Token)) {
    let mut signs: Option<usize> = None;
    // The token at hand and its last word.
    let mut open: Option<(Token, Range<usize>)> = None;
    for (at, segment) in text[piece.clone()].split_word_bound_indices() {
        let range = piece.start + at..piece.start + at + segment.len();
        if is_sign(segment) {
            signs.get_or_insert(range.start);
            continue;
        }
        let run = signs.take();
        let mut start = range.start;
        if let Some((mut token, word)) = open.take() {
            let (mut signs_before, mut joins) = (true, false);
            if run.is_some() && is_word(segment) {
                let (before, here) = (stands_alone(&text[word]), stands_alone(segment));
                joins = before == here;
                // The signs are those of the word that is spelled with spaces around it.
                signs_before = !before || here;
            }
            if joins {
                token.range.end = range.end;
                open = Some((token, range));
                continue;
            }
            if let Some(run) = run {
                if signs_before { token.range.end = range.start } else { start = run }
            }
            take(token);
        } else if let Some(run) = run {
            start = run;
        }
        if is_word(segment) {
            let tag = text[start..range.start].ends_with(['#', '＃']).then_some(range.start);
            open = Some((Token { range: start..range.end, tag }, range));
        }
    }
    if let Some((mut token, _)) = open {
        if signs.is_some() {
            token.range.end = piece.end;
        }
        take(token);
    }
}

fn is_sign(segment: &str) -> bool {
    matches!(segment, "+" | "#" | "＋" | "＃")
}

fn is_word(segment: &str) -> bool {
    segment.chars().any(|c| is_letter(c) || is_emoji(c))
}

/// Letters, digits, numbers. Some vowels are marks and letters both; one that hangs on punctuation makes no
/// word of it.
fn is_letter(c: char) -> bool {
    c.is_ascii_alphanumeric() || !c.is_ascii() && c.is_alphanumeric() && !is_mark(c)
}

fn is_mark(c: char) -> bool {
    GeneralCategoryGroup::Mark.contains(CATEGORY.get(c))
}

/// Emoji and their like: pictographs, flags, keycaps. Below the arrows Unicode counts signs such as © and
/// ‼ among the pictographs, which stand in a text as punctuation does.
fn is_emoji(c: char) -> bool {
    c == '\u{20E3}' || c >= '\u{2190}' && (PICTURES.contains(c) || FLAG_LETTERS.contains(c))
}

/// Whether a word is of a script that has no spaces between words, or an emoji.
fn stands_alone(word: &str) -> bool {
    let first = word.chars().find(|c| is_letter(*c) || is_emoji(*c));
    first.is_some_and(|c| matches!(WORD_BREAK.get(c), WordBreak::Other | WordBreak::Katakana) || is_emoji(c))
}

/// The end of the hashtag whose word begins at `start`: letters, marks, digits, `_`, joiners, middle dots.
pub(super) fn tag_end(text: &str, start: usize) -> usize {
    let part_of = |c: char| {
        c.is_alphanumeric() || matches!(c, '_' | '\u{200C}' | '\u{200D}' | '·' | '・') || !c.is_ascii() && is_mark(c)
    };
    let rest = &text[start..];
    start + rest.find(|c| !part_of(c)).unwrap_or(rest.len())
}

/// Whether a sign stands at `at`.
pub(super) fn sign_at(text: &str, at: usize) -> bool {
    text[at..].starts_with(['+', '#', '＋', '＃'])
}

/// Appends what is compared of a hashtag, or of an option as a hashtag: its tokens without anything
/// between them, without a `#` before them, and without apostrophes, which no service has in hashtags.
pub(super) fn push_tag(text: &str, fold: &mut Fold, tag: &mut String) {
    if text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        tag.extend(text.bytes().map(|b| char::from(b.to_ascii_lowercase())));
        return;
    }
    let start = tag.len();
    each_token(text, |token| {
        let folded = fold.fold(&text[token.range]);
        let folded = if tag.len() == start { folded.trim_start_matches('#') } else { folded };
        tag.extend(folded.chars().filter(|c| *c != '\''));
    });
}

/// The tokens of an option, folded as they are compared.
pub fn tokens_of(option: &str) -> Vec<String> {
    let mut fold = Fold::default();
    let mut tokens = Vec::new();
    each_token(option, |token| tokens.push(fold.fold(&option[token.range]).to_owned()));
    tokens
}

/// The hashtag of an option, without `#`, folded as it is compared; empty where the option has no token.
pub fn hashtag_of(option: &str) -> String {
    let mut tag = String::new();
    push_tag(option, &mut Fold::default(), &mut tag);
    tag
}
