//! What two polls over all posts must come to, kept by the generator of what it put into each version.
//!
//! `moods` counts each message with all options that it names, `languages` of each author the newest
//! message that names one, with the first in its text. Reposts speak to neither.

use super::expect::{Line, PollExpect};
use super::sayings::{LANGUAGES, MOODS, NONE};
use std::collections::{BTreeMap, HashMap};
use tallyflow_dataflows::number::Decimal;

/// What a version of a post says to the polls.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Said {
    /// A bit for each mood.
    pub(super) moods: u8,
    /// The first language, or [`NONE`].
    pub(super) language: u8,
}

impl Said {
    pub(super) const NOTHING: Said = Said { moods: 0, language: NONE };
}

/// What is known of an author who has named a language.
#[derive(Clone, Copy)]
struct Author {
    /// When an author last named one, in whatever version: two at one time would leave it to the order of
    /// the log which is the newest.
    last_ms: i64,
    last: u8,
    /// Of the messages that no longer change, when the newest standing one was, and what it names.
    settled: Option<(i64, u8)>,
}

#[derive(Default)]
pub(super) struct Polls {
    moods_claims: u64,
    moods_counted: i64,
    moods: [i64; MOODS.len()],
    languages_claims: u64,
    authors: HashMap<u32, Author>,
}

impl Polls {
    /// The language that an author named last; [`NONE`] if none yet.
    pub(super) fn last_language(&self, author: u32) -> u8 {
        self.authors.get(&author).map_or(NONE, |author| author.last)
    }

    /// An author names a language at `at_ms` or, where that is not after the last time, later: when.
    pub(super) fn names(&mut self, author: u32, language: u8, at_ms: i64) -> i64 {
        let first = Author { last_ms: i64::MIN, last: NONE, settled: None };
        let author = self.authors.entry(author).or_insert(first);
        author.last_ms = at_ms.max(author.last_ms.saturating_add(1));
        author.last = language;
        author.last_ms
    }

    /// A record that says this is sent.
    pub(super) fn claim(&mut self, said: Said) {
        self.moods_claims += u64::from(said.moods != 0);
        self.languages_claims += u64::from(said.language != NONE);
    }

    /// A version begins (1) or ceases (-1) to stand. For languages that is known of messages that can't
    /// change, from [`Polls::settle`], and of the others at the end.
    pub(super) fn stand(&mut self, said: Said, by: i64) {
        if said.moods == 0 {
            return;
        }
        self.moods_counted += by;
        for (mood, count) in self.moods.iter_mut().enumerate() {
            *count += by * i64::from(said.moods >> mood & 1);
        }
    }

    /// What stands of a message changes no more.
    pub(super) fn settle(&mut self, author: u32, at_ms: i64, said: Said) {
        if said.language != NONE
            && let Some(author) = self.authors.get_mut(&author)
        {
            author.settled = author.settled.max(Some((at_ms, said.language)));
        }
    }

    /// What must come out, with what stands of the messages that could still change.
    pub(super) fn expect(&self, recent: impl Iterator<Item = (u32, i64, Said)>) -> BTreeMap<&'static str, PollExpect> {
        let mut newest: HashMap<u32, (i64, u8)> =
            self.authors.iter().filter_map(|(author, known)| Some((*author, known.settled?))).collect();
        for (author, at_ms, said) in recent.filter(|(_, _, said)| said.language != NONE) {
            let one = newest.entry(author).or_insert((at_ms, said.language));
            *one = (*one).max((at_ms, said.language));
        }
        let mut languages = [0; LANGUAGES.len()];
        newest.values().for_each(|(_, language)| languages[usize::from(*language)] += 1);
        let counted = newest.len() as u64;
        BTreeMap::from([
            ("moods", poll("moods", &MOODS, &self.moods, self.moods_claims, self.moods_counted.unsigned_abs())),
            ("languages", poll("languages", &LANGUAGES, &languages, self.languages_claims, counted)),
        ])
    }
}

fn poll(id: &str, options: &[&str], counts: &[i64], claims: u64, counted: u64) -> PollExpect {
    let line = |(option, count): (&&str, &i64)| Line {
        subject: id.to_owned(),
        group: (*option).to_owned(),
        value: Decimal::from_int(*count),
    };
    let mut lines: Vec<Line> = options.iter().zip(counts).map(line).collect();
    lines.sort_unstable();
    PollExpect { total: Decimal::from_int(counts.iter().sum()), claims, counted, lines }
}
