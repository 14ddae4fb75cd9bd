//! Which options of a poll a message speaks to.
//!
//! Written straight from the rule: words are the segments of UAX #29 that hold a letter or digit, with the
//! runs of `+` and `#` that adjoin them; an option is found where its words stand in a row, or where a
//! hashtag equals it with its spaces removed; of what is found at one place the longest is left.

use crate::spec::polls::{Choices, Match, Poll};
use caseless::Caseless;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_segmentation::UnicodeSegmentation;

#[cfg(test)]
mod tests;

/// What glues words together and lengthens a hashtag: C, C++ and C# are three.
const SIGNS: [char; 2] = ['+', '#'];

/// A message's text as options are looked for in it.
pub(super) struct Reading {
    /// The words without case, and beside them where each begins and ends in the text, in bytes.
    words: Vec<String>,
    spans: Vec<(usize, usize)>,
    hashtags: Vec<Hashtag>,
}

struct Hashtag {
    /// Without case, its sign and spaces.
    name: String,
    /// Those that are not in the text lie behind its end.
    span: (usize, usize),
}

/// The options of a poll as they are looked for.
pub(super) struct Options {
    choices: Choices,
    /// By words and by hashtag, the places in the definition. Options that differ in case only are found
    /// together.
    by_words: HashMap<Vec<String>, Vec<usize>>,
    by_hashtag: HashMap<String, Vec<usize>>,
    /// The most words of an option.
    words_max: usize,
}

/// An option that was found.
struct Found {
    /// Where it begins and ends in the text.
    span: (usize, usize),
    option: usize,
}

impl Reading {
    /// `hashtags` are the record's, which need not stand in its text.
    pub fn new(text: &str, hashtags: &[String]) -> Reading {
        let spans = word_spans(text);
        let words = spans.iter().map(|(start, end)| without_case(&text[*start..*end])).collect();
        let hashtags = placed(text, &spans, hashtags);
        Reading { words, spans, hashtags }
    }
}

impl Options {
    pub fn new(poll: &Poll) -> Options {
        let mut options =
            Options { choices: poll.choices, by_words: HashMap::new(), by_hashtag: HashMap::new(), words_max: 0 };
        for (place, option) in poll.options.iter().enumerate() {
            let hashtag: String = option.chars().filter(|c| !c.is_whitespace()).collect();
            options.by_hashtag.entry(without_case(&hashtag)).or_default().push(place);
            let words: Vec<String> = word_spans(option).iter().map(|(s, e)| without_case(&option[*s..*e])).collect();
            // An option of signs only has no words, and would else be found everywhere.
            if poll.matching == Match::Word && !words.is_empty() {
                options.words_max = options.words_max.max(words.len());
                options.by_words.entry(words).or_default().push(place);
            }
        }
        options
    }

    /// The places, in the definition, of the options that the text speaks to.
    pub fn in_text(&self, reading: &Reading) -> BTreeSet<usize> {
        let mut found = Vec::new();
        for first in 0..reading.words.len() {
            for end in first + 1..=reading.words.len().min(first + self.words_max) {
                let options = self.by_words.get(&reading.words[first..end]).into_iter().flatten();
                let span = (reading.spans[first].0, reading.spans[end - 1].1);
                found.extend(options.map(|option| Found { span, option: *option }));
            }
        }
        for hashtag in &reading.hashtags {
            let options = self.by_hashtag.get(&hashtag.name).into_iter().flatten();
            found.extend(options.map(|option| Found { span: hashtag.span, option: *option }));
        }

        let mut longest: HashMap<usize, usize> = HashMap::new();
        for Found { span: (start, end), .. } in &found {
            let longest = longest.entry(*start).or_insert(*end);
            *longest = *end.max(longest);
        }
        found.retain(|f| longest.get(&f.span.0) == Some(&f.span.1));
        match self.choices {
            Choices::Many => found.iter().map(|f| f.option).collect(),
            Choices::One => {
                let first = found.iter().min_by_key(|f| (f.span.0, Reverse(f.span.1), f.option));
                first.map(|f| f.option).into_iter().collect()
            }
        }
    }
}

/// By Unicode's default case folding, so that "Straße" is "STRASSE"; composed, so that it does not matter
/// how an accent is written.
fn without_case(text: &str) -> String {
    text.chars().nfd().default_case_fold().nfc().collect()
}

/// Where the words of a text begin and end, with the signs that adjoin them.
fn word_spans(text: &str) -> Vec<(usize, usize)> {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    for (start, segment) in text.split_word_bound_indices() {
        if !segment.chars().any(char::is_alphanumeric) {
            continue;
        }
        let end = past_signs(text, start + segment.len());
        let start = text[..start].trim_end_matches(SIGNS).len();
        match spans.last_mut() {
            // The signs between two words belong to both: all of it is one. Words that only touch, as
            // those of scripts without spaces do, are two.
            Some(before) if start < before.1 => before.1 = end,
            _ => spans.push((start, end)),
        }
    }
    spans
}

/// The end of the run of signs that begins at `at`.
fn past_signs(text: &str, at: usize) -> usize {
    text.len() - text[at..].trim_start_matches(SIGNS).len()
}

/// The hashtags given, at each place where they stand in the text, else behind it in their order.
fn placed(text: &str, words: &[(usize, usize)], given: &[String]) -> Vec<Hashtag> {
    let given: Vec<String> = given.iter().map(|hashtag| without_case(hashtag)).collect();
    let mut placed = Vec::new();
    let mut in_text = BTreeSet::new();
    for (at, sign) in text.char_indices().filter(|(_, c)| matches!(c, '#' | '＃')) {
        let start = at + sign.len_utf8();
        let end = text[start..].find(|c| !may_be_in_hashtag(c)).map_or(text.len(), |length| start + length);
        let name = without_case(&text[start..end]);
        if text[..at].ends_with(may_be_in_hashtag) || !given.contains(&name) {
            continue;
        }
        // It stands where its word does, so that of a word and a hashtag the longest can win.
        let word = words.iter().find(|word| (word.0..word.1).contains(&at));
        let span = (word.map_or(at, |word| word.0), past_signs(text, end));
        placed.push(Hashtag { name: format!("{name}{}", &text[end..span.1]), span });
        in_text.insert(name);
    }
    for (place, name) in given.into_iter().enumerate() {
        if !in_text.contains(&name) {
            let behind = text.len() + place;
            placed.push(Hashtag { name, span: (behind, behind) });
        }
    }
    placed
}

/// As twitter-text has it: letters, marks, digits, `_`, and joiners, marks and dots of some scripts.
fn may_be_in_hashtag(c: char) -> bool {
    c.is_alphanumeric()
        || is_combining_mark(c)
        || matches!(c, '_' | '\u{200c}' | '\u{200d}' | '\u{a67e}' | '\u{05be}' | '\u{05f3}' | '\u{05f4}' | '\u{ff5e}')
        || matches!(c, '\u{301c}' | '\u{309b}' | '\u{309c}' | '\u{30a0}' | '\u{30fb}' | '\u{3003}' | '\u{0f0b}')
        || matches!(c, '\u{0f0c}' | '\u{00b7}')
}
