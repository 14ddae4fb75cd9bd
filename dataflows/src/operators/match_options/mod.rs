//! Which options of which polls a text speaks to.
//!
//! ```text
//! text -> tokens -> symbols -> at each place the longest sequence that options are of -> (poll, option, place)
//! ```
//!
//! **Tokens** are the word segments of UAX #29 that hold a letter or digit, each with the run of `+` and
//! `#` next to it, so that `C`, `C++`, `C#` and `#C` are four; a run between two words makes one token of
//! them (`a+b`). An emoji is a token too (👍 and 👍🏽 are two). Everything else parts tokens. Where UAX #29
//! gives ideographs, kana, Thai letters a segment each, two neighbours do not adjoin: `C` is in `C言語` and
//! `開心` in `今天很開心`. A literal "not adjoined by a letter" would find options there only at punctuation,
//! and so next to never. For the same reason a run between such a letter (or an emoji) and a word of letters
//! that do join belongs to the word: `C++` is in `我爱C++和Java`.
//!
//! **An option matches by words** where the text has its tokens one after another, without case, whatever
//! stands between them, the end of a sentence too. **It matches by hashtag** where the post has a hashtag that
//! equals its tokens put together, without apostrophes and without a `#` before them: the hashtag of
//! `Don't know` is `dontknow`. Written `#happy`, an option is by words the token `#happy`.
//!
//! Which hashtags a post has its service says. One that is followed by `+` or `#` in the text is longer than
//! services think: `#C++` is `c++` and not `c`, and needs not be listed, since services leave out `#C#`
//! altogether. A listed hashtag that the text does not show comes after the text.
//!
//! **The longest at a place wins**, in tokens, among the options of a poll that match from there; where two
//! are equally long, both match.

mod filter;
mod fold;
mod lexicon;
#[cfg(test)]
mod tests;
mod tokens;

pub use tokens::{hashtag_of, tokens_of};

use crate::spec::polls::Match;
use fold::Fold;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use lexicon::{Lexicon, Speaker, State, Symbol};
use std::cmp::Reverse;
use tokens::{each_token, push_tag, sign_at, tag_end};

/// An option that a text speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Found {
    /// As it was given to [`Matcher::insert`].
    pub poll: u32,
    /// Its index among the poll's options.
    pub option: u16,
    /// The first place where it matches: the byte in the text, or the text's length and what number the
    /// hashtag has among the post's if the text does not show it.
    pub at: u32,
}

/// Whether a text could ever speak to the option: whether it has a token.
pub fn is_matchable(option: &str, how: Match) -> bool {
    match how {
        Match::Word => !tokens_of(option).is_empty(),
        Match::Hashtag => !hashtag_of(option).is_empty(),
    }
}

/// Finds options of polls. It may be read by several threads at once; each has its own [`Scratch`].
///
/// The time that a post takes depends on its length, on what it speaks to, and on how many tokens the
/// longest options have, not on how many polls and options there are.
#[derive(Default)]
pub struct Matcher {
    lexicon: Lexicon,
    polls: HashMap<u32, Box<[Keys]>, RandomState>,
}

/// Under what an option stands in the lexicon.
struct Keys {
    words: State,
    tag: Symbol,
}

/// Memory that [`Matcher::find`] uses from one post to the next.
#[derive(Default)]
pub struct Scratch {
    fold: Fold,
    /// The text, its ASCII in lower case.
    lower: String,
    tag: String,
    tokens: Vec<Seen>,
    /// The tokens that begin with a hashtag, and where its word begins.
    tag_tokens: Vec<(usize, usize)>,
    listed: Vec<Listed>,
    hits: Vec<Hit>,
    levels: Vec<Level>,
}

/// A token of the text.
struct Seen {
    start: u32,
    end: u32,
    symbol: Symbol,
}

/// A hashtag that the post's service lists and some option has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Listed {
    symbol: Symbol,
    index: u32,
    in_text: bool,
}

/// What begins at one place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hit {
    /// The longest sequence of tokens that is an option, or [`State::NONE`].
    words: State,
    /// The hashtag, or [`Symbol::NONE`].
    tag: Symbol,
    /// Of the hashtag.
    tokens: u32,
    at: u32,
}

/// An option that matches at a place, the longest of its poll first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Level {
    poll: u32,
    tokens: Reverse<u32>,
    option: u16,
}

impl Matcher {
    /// Adds a poll, instead of what it was before. An option without a token never matches; neither do
    /// options past the 65,536th.
    pub fn insert(&mut self, poll: u32, options: &[String], how: Match) {
        self.remove(poll);
        let keys = options.iter().zip(0..=u16::MAX).map(|(text, option)| {
            let speaker = Speaker { poll, option };
            let words = match how {
                Match::Word => self.lexicon.add_words(&tokens_of(text), speaker),
                Match::Hashtag => State::NONE,
            };
            Keys { words, tag: self.lexicon.add_tag(&hashtag_of(text), speaker) }
        });
        let keys = keys.collect();
        self.polls.insert(poll, keys);
    }

    /// Removes a poll, in time that depends on its own options.
    pub fn remove(&mut self, poll: u32) {
        let keys = self.polls.remove(&poll).unwrap_or_default();
        for (keys, option) in keys.iter().zip(0..=u16::MAX) {
            let speaker = Speaker { poll, option };
            self.lexicon.remove_words(keys.words, speaker);
            self.lexicon.remove_tag(keys.tag, speaker);
        }
    }

    /// Fills `found` with everything that a post speaks to: each option once, by poll, then place, then
    /// option. `hashtags` are those that its service lists, in order and without `#`.
    pub fn find<'h>(
        &self,
        text: &str,
        hashtags: impl IntoIterator<Item = &'h str>,
        scratch: &mut Scratch,
        found: &mut Vec<Found>,
    ) {
        found.clear();
        if self.polls.is_empty() {
            return;
        }
        scratch.hits.clear();
        self.read_text(text, scratch);
        self.read_hashtags(hashtags, scratch);
        self.match_tokens(scratch);
        let tags_after = scratch.listed.iter().filter(|listed| !listed.in_text);
        scratch.hits.extend(tags_after.map(|listed| Hit {
            words: State::NONE,
            tag: listed.symbol,
            tokens: 0,
            at: place(text.len()).saturating_add(listed.index),
        }));
        self.tell(&mut scratch.hits, &mut scratch.levels, found);
        if text.len() > Scratch::KEPT_BYTES {
            *scratch = Scratch::default();
        }
    }

    fn read_text(&self, text: &str, scratch: &mut Scratch) {
        let Scratch { fold, lower, tokens, tag_tokens, .. } = scratch;
        lower.clear();
        lower.push_str(text);
        lower.make_ascii_lowercase();
        tokens.clear();
        tag_tokens.clear();
        each_token(lower, |token| {
            if let Some(word) = token.tag {
                tag_tokens.push((tokens.len(), word));
            }
            let (start, end) = (place(token.range.start), place(token.range.end));
            let word = &lower[token.range];
            let symbol = self.lexicon.symbol(if word.is_ascii() { word } else { fold.fold(word) });
            tokens.push(Seen { start, end, symbol });
        });
    }

    fn read_hashtags<'h>(&self, hashtags: impl IntoIterator<Item = &'h str>, scratch: &mut Scratch) {
        scratch.listed.clear();
        for (hashtag, index) in hashtags.into_iter().zip(0..) {
            let symbol = self.tag_symbol(hashtag, &mut scratch.fold, &mut scratch.tag);
            if symbol != Symbol::NONE {
                scratch.listed.push(Listed { symbol, index, in_text: false });
            }
        }
        scratch.listed.sort_unstable();
        scratch.listed.dedup_by_key(|listed| listed.symbol);
    }

    fn tag_symbol(&self, hashtag: &str, fold: &mut Fold, tag: &mut String) -> Symbol {
        tag.clear();
        push_tag(hashtag, fold, tag);
        self.lexicon.symbol(tag)
    }

    fn match_tokens(&self, scratch: &mut Scratch) {
        let mut tag_tokens = std::mem::take(&mut scratch.tag_tokens);
        let mut tags = tag_tokens.iter().peekable();
        for at in 0..scratch.tokens.len() {
            let (place, mut words) = (scratch.tokens[at].start, State::NONE);
            if scratch.tokens[at].symbol != Symbol::NONE {
                words = self.longest(&scratch.tokens[at..]);
            }
            let mut hit = Hit { words, tag: Symbol::NONE, tokens: 0, at: place };
            if let Some((_, word)) = tags.next_if(|(token, _)| *token == at)
                && let Some(of_tag) = self.hashtag_at(at, *word, scratch)
            {
                if of_tag.at == place {
                    hit = Hit { words, ..of_tag };
                } else {
                    scratch.hits.push(of_tag);
                }
            }
            if hit.words != State::NONE || hit.tag != Symbol::NONE {
                scratch.hits.push(hit);
            }
        }
        tag_tokens.clear();
        scratch.tag_tokens = tag_tokens;
    }

    /// The longest option at the beginning of `tokens`, whose first is known.
    fn longest(&self, tokens: &[Seen]) -> State {
        let mut state = State::from(tokens[0].symbol);
        let mut longest = State::NONE;
        for next in &tokens[1..] {
            if self.lexicon.speaks(state) {
                longest = state;
            }
            if next.symbol == Symbol::NONE || !self.lexicon.goes_on(state) {
                return longest;
            }
            match self.lexicon.step(state, next.symbol) {
                Some(next) => state = next,
                None => return longest,
            }
        }
        if self.lexicon.speaks(state) { state } else { longest }
    }

    /// The hashtag whose word begins at `word`, in the token numbered `first`.
    fn hashtag_at(&self, first: usize, word: usize, scratch: &mut Scratch) -> Option<Hit> {
        let Scratch { fold, lower, tag, tokens, listed, .. } = scratch;
        let end = tag_end(lower, word);
        let covered = tokens[first..].iter().take_while(|token| (token.start as usize) < end).count();
        let token_end = tokens[first + covered - 1].end as usize;
        let base = self.tag_symbol(&lower[word..end], fold, tag);
        let base_listed = listed.binary_search_by_key(&base, |listed| listed.symbol).ok();
        if let Some(index) = base_listed {
            listed[index].in_text = true;
        }
        let symbol = if end < token_end && sign_at(lower, end) {
            let symbol = self.tag_symbol(&lower[word..token_end], fold, tag);
            if let Ok(index) = listed.binary_search_by_key(&symbol, |listed| listed.symbol) {
                listed[index].in_text = true;
            }
            symbol
        } else {
            base_listed?;
            base
        };
        let sign = lower[..word].chars().next_back().map_or(0, char::len_utf8);
        (symbol != Symbol::NONE).then_some(Hit {
            words: State::NONE,
            tag: symbol,
            tokens: covered as u32,
            at: place(word - sign),
        })
    }

    /// Whom the hits speak to.
    fn tell(&self, hits: &mut Vec<Hit>, levels: &mut Vec<Level>, found: &mut Vec<Found>) {
        // The same at two places says nothing new at the second; so a text of one word over and over is
        // no more work here than the word.
        hits.sort_unstable();
        hits.dedup_by_key(|hit| (hit.words, hit.tag, hit.tokens));
        let mut limit = 1 << 16;
        for hit in hits {
            self.tell_hit(hit, levels, found);
            if found.len() >= limit {
                keep_first_places(found);
                limit = (2 * found.len()).max(1 << 16);
            }
        }
        if found.len() > 1 {
            keep_first_places(found);
            found.sort_by_key(|found| (found.poll, found.at, found.option));
        }
    }

    fn tell_hit(&self, hit: &Hit, levels: &mut Vec<Level>, found: &mut Vec<Found>) {
        let at = hit.at;
        let shorter = (hit.words != State::NONE).then(|| self.lexicon.parent(hit.words)).flatten();
        if shorter.is_none() && (hit.words == State::NONE || hit.tag == Symbol::NONE) {
            // One thing alone: nothing to choose between.
            let speakers = match hit.words {
                State::NONE => self.lexicon.tagged(hit.tag),
                words => self.lexicon.speakers(words),
            };
            found.extend(speakers.iter().map(|Speaker { poll, option }| Found { poll, option, at }));
            return;
        }
        levels.clear();
        let mut tokens = 1;
        let mut next = shorter;
        while let Some(state) = next {
            tokens += 1;
            next = self.lexicon.parent(state);
        }
        next = Some(hit.words).filter(|words| *words != State::NONE);
        while let Some(state) = next {
            let speakers = self.lexicon.speakers(state).iter();
            levels.extend(speakers.map(|Speaker { poll, option }| Level { poll, tokens: Reverse(tokens), option }));
            tokens -= 1;
            next = self.lexicon.parent(state);
        }
        if hit.tag != Symbol::NONE {
            let tokens = Reverse(hit.tokens);
            let speakers = self.lexicon.tagged(hit.tag).iter();
            levels.extend(speakers.map(|Speaker { poll, option }| Level { poll, tokens, option }));
        }
        levels.sort_unstable();
        let of_poll = levels.chunk_by(|a, b| a.poll == b.poll);
        let longest = of_poll.flat_map(|of_poll| of_poll.iter().take_while(|level| level.tokens == of_poll[0].tokens));
        found.extend(longest.map(|level| Found { poll: level.poll, option: level.option, at }));
    }
}

impl Scratch {
    /// The memory of a text longer than this is given back.
    const KEPT_BYTES: usize = 1 << 16;
}

/// Leaves each option once, at its first place.
fn keep_first_places(found: &mut Vec<Found>) {
    // Stable, because what many polls look for comes as sorted runs.
    found.sort_by_key(|found| (found.poll, found.option, found.at));
    found.dedup_by_key(|found| (found.poll, found.option));
}

/// A place in a text; texts are far shorter than 4 GiB.
fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
