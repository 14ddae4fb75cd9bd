//! The matcher against the rules read plainly.
//!
//! The plain matcher segments with the Unicode tables alone, compares every option with every place of the
//! text, collects all matches and strikes out what is not the longest at its place. It shares no code with
//! the matcher; what a text is without case it takes from the standard library, which for the letters used
//! here says the same.

use super::super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use unicode_segmentation::UnicodeSegmentation;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Sign,
    /// A word whose letters join those next to them.
    Joining,
    Alone,
    Other,
}

fn kind(segment: &str) -> Kind {
    if "+#＋＃".contains(segment) {
        return Kind::Sign;
    }
    let emoji = |c: char| "👍❤🎉\u{20E3}🇫🇷".contains(c);
    let Some(c) = segment.chars().find(|c| c.is_alphanumeric() && *c != '\u{93E}' || emoji(*c)) else {
        return Kind::Other;
    };
    let katakana = ('ァ'..='ヺ').contains(&c);
    let twice = format!("{c}{c}");
    let parts = twice.split_word_bounds().count() == 2;
    if katakana || emoji(c) || parts { Kind::Alone } else { Kind::Joining }
}

fn folded(text: &str) -> String {
    let seen = text.chars().filter(|c| !matches!(c, '\u{FE0F}' | '\u{200D}'));
    let text: String = seen.collect::<String>().replace('’', "'").replace('＋', "+").replace('＃', "#");
    let text = text.to_lowercase().replace('ß', "ss").replace('ς', "σ");
    let composed = icu_normalizer::ComposingNormalizerBorrowed::new_nfc().normalize(&text).into_owned();
    icu_normalizer::ComposingNormalizerBorrowed::new_nfc().normalize(&composed.replace("i\u{307}", "i")).into_owned()
}

/// Start, end, and where the first word begins.
type Span = (usize, usize, usize);

fn spans(text: &str) -> Vec<Span> {
    let mut segments = Vec::new();
    for piece in text.split(|c: char| c.is_ascii_whitespace() || c == '\u{B}') {
        let start = piece.as_ptr() as usize - text.as_ptr() as usize;
        segments.extend(piece.split_word_bound_indices().map(|(at, s)| (start + at, start + at + s.len(), kind(s))));
    }
    // Which segment each belongs to the token of: itself at first.
    let mut root: Vec<usize> = (0..segments.len()).collect();
    let touch = |a: usize, b: usize| segments[a].1 == segments[b].0;
    let word = |i: usize| matches!(segments[i].2, Kind::Joining | Kind::Alone);
    let mut i = 0;
    while i < segments.len() {
        if segments[i].2 != Kind::Sign {
            i += 1;
            continue;
        }
        let mut end = i;
        while end + 1 < segments.len() && segments[end + 1].2 == Kind::Sign && touch(end, end + 1) {
            end += 1;
        }
        let left = (i > 0 && touch(i - 1, i) && word(i - 1)).then(|| i - 1);
        let right = (end + 1 < segments.len() && touch(end, end + 1) && word(end + 1)).then_some(end + 1);
        let owner = match (left, right) {
            (Some(l), Some(r)) if segments[l].2 == segments[r].2 => {
                root[r] = root[l];
                Some(root[l])
            }
            (Some(_), Some(r)) if segments[r].2 == Kind::Joining => Some(r),
            (Some(l), _) => Some(root[l]),
            (None, r) => r,
        };
        if let Some(owner) = owner {
            root[i..=end].fill(owner);
        }
        i = end + 1;
    }
    let mut tokens = BTreeMap::new();
    for (i, segment) in segments.iter().enumerate() {
        let token = tokens.entry(root[i]).or_insert((segment.0, segment.1, None));
        token.0 = token.0.min(segment.0);
        token.1 = token.1.max(segment.1);
        if word(i) && token.2.is_none() {
            token.2 = Some(segment.0);
        }
    }
    let mut tokens: Vec<Span> =
        tokens.into_values().filter_map(|(start, end, word)| Some((start, end, word?))).collect();
    tokens.sort();
    tokens
}

fn tokens(text: &str) -> Vec<String> {
    spans(text).iter().map(|span| folded(&text[span.0..span.1])).collect()
}

fn hashtag(text: &str) -> String {
    tokens(text).concat().trim_start_matches('#').replace('\'', "")
}

type Poll = (Vec<String>, Match);

fn naive(polls: &BTreeMap<u32, Poll>, text: &str, hashtags: &[String]) -> Vec<Found> {
    let (spans, words) = (spans(text), tokens(text));
    // What hashtags there are: place, text, tokens.
    let mut tags: Vec<(usize, String, usize)> = Vec::new();
    let mut in_text: Vec<String> = Vec::new();
    let listed = |tag: &String| hashtags.iter().any(|h| hashtag(h) == *tag);
    for (i, span) in spans.iter().enumerate() {
        let Some(sign) = text[span.0..span.2].chars().next_back().filter(|c| "#＃".contains(*c)) else { continue };
        let mut end = span.2;
        while let Some(c) = text[end..].chars().next() {
            let mark = "\u{301}\u{307}\u{FE0F}\u{200D}\u{20E3}\u{93E}\u{E31}".contains(c);
            if !(c.is_alphanumeric() || c == '_' || mark) {
                break;
            }
            end += c.len_utf8();
        }
        let covered = spans[i..].iter().filter(|s| s.0 < end).count();
        let last = spans[i + covered - 1].1;
        let base = hashtag(&text[span.2..end]);
        let longer = last > end && "+#＋＃".contains(text[end..].chars().next().unwrap());
        let tag = if longer { hashtag(&text[span.2..last]) } else { base.clone() };
        in_text.extend([base.clone(), tag.clone()]);
        if longer || listed(&base) {
            tags.push((span.2 - sign.len_utf8(), tag, covered));
        }
    }
    for (index, h) in hashtags.iter().enumerate() {
        if !in_text.contains(&hashtag(h)) {
            tags.push((text.len() + index, hashtag(h), 0));
        }
    }
    let mut found = Vec::new();
    for (poll, (options, how)) in polls {
        let mut matches = Vec::new();
        for (option, text) in options.iter().enumerate() {
            let (sequence, tag) = (tokens(text), hashtag(text));
            if sequence.is_empty() {
                continue;
            }
            for i in 0..words.len() {
                if *how == Match::Word && words[i..].starts_with(&sequence) {
                    matches.push((spans[i].0, sequence.len(), option));
                }
            }
            matches.extend(tags.iter().filter(|t| t.1 == tag).map(|t| (t.0, t.2, option)));
        }
        let standing = matches.iter().filter(|m| matches.iter().all(|n| n.0 != m.0 || n.1 <= m.1));
        let mut first: BTreeMap<usize, usize> = BTreeMap::new();
        for (at, _, option) in standing {
            let place = first.entry(*option).or_insert(*at);
            *place = *at.min(place);
        }
        found.extend(first.iter().map(|(o, at)| Found { poll: *poll, option: *o as u16, at: *at as u32 }));
    }
    found.sort_by_key(|f| (f.poll, f.at, f.option));
    found
}

fn pieces(most: usize) -> impl Strategy<Value = String> {
    let often = prop::sample::select(vec!["a", "b", "c", "A", " ", " ", "+", "#", "開", "心"]);
    let seldom = prop::sample::select(vec![
        "C", "1", "2", "_", ".", "'", "’", ",", ":", "-", "\n", "é", "e\u{301}", "ß", "SS", "ς", "Σ", "İ", "i", "I",
        "＃", "＋", "カ", "タ", "ก", "ด", "👍", "👍🏽", "❤️", "❤", "🇫🇷", "1️⃣", "#️⃣", "行", "\u{301}", "\u{93E}",
        "\u{3000}", "א", "\"", "&",
    ]);
    prop::collection::vec(prop_oneof![3 => often, 2 => seldom], 0..most).prop_map(|p| p.concat())
}

fn poll() -> impl Strategy<Value = Poll> {
    let how = prop_oneof![3 => Just(Match::Word), 1 => Just(Match::Hashtag)];
    (prop::collection::vec(pieces(5), 0..8), how)
}

fn found_by(matcher: &Matcher, text: &str, hashtags: &[String], scratch: &mut Scratch) -> Vec<Found> {
    let mut found = Vec::new();
    matcher.find(text, hashtags.iter().map(String::as_str), scratch, &mut found);
    found
}

/// The bounds of the tokens by the matcher's own way.
fn quick_spans(text: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    tokens::each_token(text, |t| spans.push((t.range.start, t.range.end, t.tag.unwrap_or(0))));
    spans
}

fn tagged_spans(text: &str) -> Vec<Span> {
    let tagged =
        |(start, end, word): Span| (start, end, if text[start..word].ends_with(['#', '＃']) { word } else { 0 });
    spans(text).into_iter().map(tagged).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn tokens_of_ascii_are_those_of_the_tables(text in "[ -~\t\n]{0,40}", dense in "[aB1_.:,;'+# ]{0,40}") {
        prop_assert_eq!(quick_spans(&text), tagged_spans(&text));
        prop_assert_eq!(quick_spans(&dense), tagged_spans(&dense));
    }

    #[test]
    fn tokens_of_mixed_text_are_those_of_the_tables(text in pieces(30)) {
        prop_assert_eq!(quick_spans(&text), tagged_spans(&text));
        prop_assert_eq!(tokens_of(&text), tokens(&text));
        prop_assert_eq!(hashtag_of(&text), hashtag(&text));
    }

    #[test]
    fn the_matcher_equals_a_plain_reading_of_the_rules(
        program in prop::collection::vec((0u32..5, prop::option::weighted(0.8, poll())), 1..12),
        texts in prop::collection::vec((pieces(40), prop::collection::vec(pieces(4), 0..4)), 1..4),
    ) {
        let (mut matcher, mut polls) = (Matcher::default(), BTreeMap::new());
        for (id, poll) in program {
            match poll {
                Some((options, how)) => {
                    matcher.insert(id, &options, how);
                    polls.insert(id, (options, how));
                }
                None => {
                    matcher.remove(id);
                    polls.remove(&id);
                }
            }
        }
        let mut afresh = Matcher::default();
        for (id, (options, how)) in polls.iter().rev() {
            afresh.insert(*id, options, *how);
        }
        let mut scratch = Scratch::default();
        for (text, hashtags) in texts {
            // Most texts of any alphabet speak to nothing, so the polls' own options stand in between.
            let option = polls.values().flat_map(|p| &p.0).nth(text.len() % 7).cloned().unwrap_or_default();
            let text = format!("{text}{option} {text} #{option}");
            let hashtags: Vec<String> = hashtags.into_iter().chain([option]).map(|h| h.to_lowercase()).collect();
            let found = found_by(&matcher, &text, &hashtags, &mut scratch);
            prop_assert_eq!(&found, &naive(&polls, &text, &hashtags), "{:?} {:?}", text, hashtags);
            prop_assert_eq!(found, found_by(&afresh, &text, &hashtags, &mut scratch));
        }
    }
}
