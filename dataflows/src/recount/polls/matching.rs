//! Which options of a poll a message speaks to.
//!
//! Written from the rule as [`crate::operators::match_options`] states it, and not from how it is done there:
//! words are the segments of UAX #29 that hold a letter or digit, and emoji, with the runs of `+` and `#` that
//! adjoin them; an option is found where its words stand in a row, or where a hashtag equals them put together;
//! of what is found at one place the longest is left.

use crate::spec::polls::{Choices, Match, Poll};
use caseless::Caseless;
use icu_properties::props::{ExtendedPictographic, GeneralCategory, RegionalIndicator, VariationSelector, WordBreak};
use icu_properties::{CodePointMapData, CodePointSetData};
use std::collections::{BTreeSet, HashMap};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_segmentation::UnicodeSegmentation;

#[cfg(test)]
mod tests;

/// What glues words together and lengthens a hashtag: C, C++ and C# are three. The latter two are what some
/// keyboards have.
const SIGNS: [char; 4] = ['+', '#', '＋', '＃'];
const HASH_SIGNS: [char; 2] = ['#', '＃'];

/// A message's text as options are looked for in it.
pub(super) struct Reading {
    /// Without case.
    words: Vec<String>,
    /// Beside them, where each begins in the text, in bytes.
    starts: Vec<usize>,
    hashtags: Vec<Hashtag>,
}

struct Hashtag {
    name: String,
    /// Those that are not in the text lie behind its end.
    start: usize,
    /// How many words of the text it is.
    words: usize,
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
    start: usize,
    words: usize,
    option: usize,
}

/// A word's place in its text, in bytes.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    /// Behind the signs before it.
    letters: usize,
    end: usize,
    /// Whether its letters join those next to them, as they do not in scripts without spaces.
    joins: bool,
}

impl Reading {
    /// `hashtags` are the record's, which need not stand in its text.
    pub fn new(text: &str, hashtags: &[String]) -> Reading {
        let spans = spans(text);
        Reading {
            words: spans.iter().map(|span| without_case(&text[span.start..span.end])).collect(),
            starts: spans.iter().map(|span| span.start).collect(),
            hashtags: placed(text, &spans, hashtags),
        }
    }
}

impl Options {
    pub fn new(poll: &Poll) -> Options {
        let (by_words, by_hashtag) = (HashMap::new(), HashMap::new());
        let mut options = Options { choices: poll.choices, by_words, by_hashtag, words_max: 0 };
        for (place, option) in poll.options.iter().enumerate() {
            let words = words(option);
            // One of signs only has no words, and would else be found everywhere.
            if words.is_empty() {
                continue;
            }
            options.by_hashtag.entry(as_hashtag(option)).or_default().push(place);
            if poll.matching == Match::Word {
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
            for words in 1..=self.words_max.min(reading.words.len() - first) {
                let options = self.by_words.get(&reading.words[first..first + words]).into_iter().flatten();
                found.extend(options.map(|option| Found { start: reading.starts[first], words, option: *option }));
            }
        }
        for Hashtag { name, start, words } in &reading.hashtags {
            let options = self.by_hashtag.get(name).into_iter().flatten();
            found.extend(options.map(|option| Found { start: *start, words: *words, option: *option }));
        }

        let mut longest: HashMap<usize, usize> = HashMap::new();
        for Found { start, words, .. } in &found {
            let longest = longest.entry(*start).or_insert(*words);
            *longest = *words.max(longest);
        }
        found.retain(|f| longest.get(&f.start) == Some(&f.words));
        match self.choices {
            Choices::Many => found.iter().map(|f| f.option).collect(),
            Choices::One => {
                let first = found.iter().min_by_key(|f| (f.start, f.option));
                first.map(|f| f.option).into_iter().collect()
            }
        }
    }
}

/// What makes two words one: the text by Unicode's default case folding, composed, without the characters
/// that nobody sees, with one kind of apostrophe and of signs, and without a dot over an i, so that neither
/// i is another than that of İstanbul.
fn without_case(text: &str) -> String {
    let seen = text.chars().filter(|c| !is_unseen(*c)).map(|c| match c {
        '’' => '\'',
        '＋' => '+',
        '＃' => '#',
        c => c,
    });
    let folded: String = seen.nfd().default_case_fold().nfc().collect();
    folded.replace("i\u{307}", "i").nfc().collect()
}

fn is_unseen(c: char) -> bool {
    let is_format = CodePointMapData::<GeneralCategory>::new().get(c) == GeneralCategory::Format;
    // Tags tell England's flag from Scotland's.
    let is_tag = ('\u{E0020}'..='\u{E007F}').contains(&c);
    (is_format || CodePointSetData::new::<VariationSelector>().contains(c)) && !is_tag
}

fn words(text: &str) -> Vec<String> {
    spans(text).iter().map(|span| without_case(&text[span.start..span.end])).collect()
}

/// A text as it would be written as a hashtag: its words put together, without `#` before them and
/// without apostrophes.
fn as_hashtag(text: &str) -> String {
    words(text).concat().trim_start_matches('#').replace('\'', "")
}

/// Where the words of a text stand, with the signs that adjoin them.
fn spans(text: &str) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    // The run of signs that the segment before ended, if it was one.
    let mut signs = 0..0;
    for (start, segment) in segments(text) {
        let end = start + segment.len();
        if is_sign(segment) {
            let begins = if signs.end == start { signs.start } else { start };
            // Until a word comes that it belongs to rather.
            if let Some(before) = spans.last_mut().filter(|before| before.end == start) {
                before.end = end;
            }
            signs = begins..end;
            continue;
        }
        let Some(joins) = segment.chars().find_map(joins) else { continue };
        let signs_start = if signs.end == start { signs.start } else { start };
        let mut span = Span { start: signs_start, letters: start, end, joins };
        match spans.last_mut().filter(|before| signs_start < start && before.end == start) {
            // The signs between two words glue them where they are of one kind, and else belong to the one
            // that joins: C++ is in 我爱C++和.
            Some(before) if before.joins == joins => {
                before.end = end;
                continue;
            }
            Some(before) if joins => before.end = signs_start,
            Some(_) => span.start = start,
            // Words that only touch are two.
            None => {}
        }
        spans.push(span);
    }
    spans
}

/// A sign that carries a mark is none: that of a keycap is not.
fn is_sign(segment: &str) -> bool {
    segment.trim_start_matches(SIGNS).is_empty()
}

/// The segments of UAX #29 between white space, so that no mark hangs on a space.
fn segments(text: &str) -> Vec<(usize, &str)> {
    let mut segments = Vec::new();
    let mut start = 0;
    for piece in text.split(|c: char| c.is_ascii_whitespace() || c == '\u{b}') {
        segments.extend(piece.split_word_bound_indices().map(|(at, segment)| (start + at, segment)));
        // White space of ASCII is a byte long.
        start += piece.len() + 1;
    }
    segments
}

/// Whether a letter or digit joins those next to it; an emoji does not. `None`: it is neither.
fn joins(c: char) -> Option<bool> {
    // Unicode has signs such as © among the pictographs, below the arrows.
    let is_pictograph = c >= '\u{2190}' && CodePointSetData::new::<ExtendedPictographic>().contains(c);
    if is_pictograph || c == '\u{20e3}' || CodePointSetData::new::<RegionalIndicator>().contains(c) {
        return Some(false);
    }
    // Some vowels are letters and marks both.
    (c.is_alphanumeric() && !is_combining_mark(c)).then(|| {
        let kind = CodePointMapData::<WordBreak>::new().get(c);
        matches!(kind, WordBreak::ALetter | WordBreak::HebrewLetter | WordBreak::Numeric)
    })
}

/// The hashtags given, at each place where they stand in the text, else behind it in their order. One that
/// signs follow is longer than services think: `#C++` is no `c`, and need not be given.
fn placed(text: &str, spans: &[Span], given: &[String]) -> Vec<Hashtag> {
    let given: Vec<String> = given.iter().map(|hashtag| as_hashtag(hashtag)).collect();
    let mut placed = Vec::new();
    let mut in_text = BTreeSet::new();
    for (place, span) in spans.iter().enumerate() {
        let sign = text[span.start..span.letters].chars().next_back();
        let Some(sign) = sign.filter(|c| HASH_SIGNS.contains(c)) else { continue };
        let after = &text[span.letters..];
        let end = span.letters + after.find(|c| !may_be_in_hashtag(c)).unwrap_or(after.len());
        // The word itself, though it may be an emoji, which is in no hashtag.
        let words = 1 + spans[place + 1..].iter().take_while(|span| span.start < end).count();
        let last = spans[place + words - 1].end;
        let is_longer = last > end && text[end..].starts_with(SIGNS);
        let short = as_hashtag(&text[span.letters..end]);
        let name = if is_longer { as_hashtag(&text[span.letters..last]) } else { short.clone() };
        if is_longer || given.contains(&short) {
            placed.push(Hashtag { name: name.clone(), start: span.letters - sign.len_utf8(), words });
        }
        in_text.extend([short, name]);
    }
    for (place, name) in given.into_iter().enumerate() {
        if !in_text.contains(&name) {
            placed.push(Hashtag { name, start: text.len() + place, words: 0 });
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
