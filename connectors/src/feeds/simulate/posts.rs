//! Posts with hashtags, moods and programming languages, of which some are edited or deleted later.

use super::polls::{Polls, Said};
use super::sayings::{self, LANGUAGES, MOODS, Saying, Sayings, hashtag_of};
use super::write::{Clock, digits, number};
use super::{CHOICES_MAX, Claims, Dice, Line, Made, PollExpect, SimulateOptions, Zipf};
use std::collections::BTreeMap;
use tallyflow_dataflows::number::Decimal;

/// How many posts back an edit or a deletion may reach.
const EDITABLE: usize = 16_384;
/// The places of a text: a phrase or a saying in each, and a hashtag behind it.
const PLACES: usize = 3;
/// The proportions of posts that speak of a mood and of a language, independent of one another.
const OF_MOODS: f64 = 0.25;
const OF_LANGUAGES: f64 = 0.15;
/// Of the new posts about languages, those whose authors have spoken of one lately and now name another.
const MINDS_CHANGED: f64 = 0.3;
/// How many of those who have spoken lately are remembered.
const SPEAKERS: usize = 1_024;

/// What posts talk about, without a sign or an option of a poll. The text of a post is some of these, with
/// hashtags between.
const PHRASES: [&str; 16] = [
    "The count goes on in every county tonight, and nobody dares to call it.",
    "Standing in line since seven, coffee is out, spirits are high.",
    "Did anybody else see that swing in the last update?",
    "Polls close in an hour: run, run, run!",
    "Turnout looks higher than four years ago, says the man at the door.",
    "Can't sleep before the last precinct has reported.",
    "Naïve question: why do the figures fall between two updates?",
    "My grandmother voted for the first time since 1972.",
    "They are reading out the totals now, quiet please.",
    "Somebody brought soup for the whole queue, faith restored.",
    "Two recounts, one winner, no sleep.",
    "The map is turning and so is my stomach.",
    "Breaking: the mail ballots are in, all of them.",
    "One more cup of tea and then straight to bed.",
    "If this holds, it will be the closest race on record.",
    "Live from the town hall, where the heating has failed.",
];

/// What hashtags are made of, with a number where there are more of them.
const TAGS: [&str; 10] =
    ["Vote", "Election", "happy", "TurnOut", "democracy", "recount", "ÖPNV", "live", "Results", "sad"];

/// Numbers of different hashtags, one for each place.
type Tags = [u16; PLACES];
const NONE: u16 = u16::MAX;

/// What a version of a post says.
#[derive(Clone, Copy)]
struct Content {
    tags: Tags,
    /// The hashtags that are in its sayings and not among `tags`: a bit for each of [`Posts::spoken`].
    spoken: u16,
    said: Said,
}

impl Content {
    const DELETED: Content = Content { tags: [NONE; PLACES], spoken: 0, said: Said::NOTHING };
}

#[derive(Clone, Copy)]
struct Post {
    at_ms: i64,
    author: u32,
    repost: bool,
    deleted: bool,
    content: Content,
}

/// A text before it is written.
struct Draft {
    /// Of the places, where no saying stands: a phrase each.
    phrases: u64,
    tags: Tags,
    mood: Option<(u8, Saying)>,
    language: Option<(u8, Saying)>,
}

/// What becomes of the posts there are.
enum Change {
    Edit,
    Deletion,
}

pub(super) struct Posts {
    changes: f64,
    deletions: f64,
    reposts: f64,
    authors: u32,
    /// Hashtags by number, with the sign and the space around them.
    tags: Vec<String>,
    subject: String,
    zipf: Zipf,
    clock: Clock,
    posts: u64,
    /// The newest posts, post n at n modulo the number of places.
    recent: Vec<Post>,
    counts: Vec<i64>,
    moods: Sayings,
    languages: Sayings,
    /// By number in lower case, those of sayings that are not among the others behind them.
    names: Vec<String>,
    /// The numbers of the hashtags that sayings have.
    spoken: Vec<u16>,
    /// By option, which of these is its hashtag; [`sayings::NONE`] if none is.
    mood_tags: Vec<u8>,
    language_tags: Vec<u8>,
    /// By the number of a hashtag of [`TAGS`], the mood that it is, as [`Said`] has it.
    moods_of_tags: [u8; TAGS.len()],
    /// Authors who have named a language lately, the n-th at n modulo the number of places.
    speakers: Vec<u32>,
    spoke: usize,
    polls: Polls,
    /// Posts that are deleted, and records that say so.
    deleted: u64,
    deletions_sent: u64,
    /// What the newest claim says; none where it is a deletion.
    newest: Option<Said>,
}

impl Posts {
    pub(super) fn new(options: &SimulateOptions) -> Self {
        let hashtags = options.hashtags.clamp(1, CHOICES_MAX);
        let mut names: Vec<String> = (0..hashtags).map(|n| hashtag_name(n as u16).to_lowercase()).collect();
        let mut spoken = Vec::new();
        let mut tag_of = |option: &&str| {
            let Some(name) = hashtag_of(option) else { return sayings::NONE };
            let number = names.iter().position(|known| *known == name).unwrap_or(names.len());
            if number == names.len() {
                names.push(name);
            }
            let bit = spoken.iter().position(|known| *known == number as u16).unwrap_or(spoken.len());
            if bit == spoken.len() {
                spoken.push(number as u16);
            }
            bit as u8
        };
        let mood_tags: Vec<u8> = MOODS.iter().map(&mut tag_of).collect();
        let language_tags = LANGUAGES.iter().map(&mut tag_of).collect();
        let mut moods_of_tags = [0; TAGS.len()];
        for (mood, name) in MOODS.iter().enumerate() {
            TAGS.iter().zip(&mut moods_of_tags).filter(|(tag, _)| *tag == name).for_each(|(_, of)| *of |= 1 << mood);
        }
        Posts {
            changes: options.changes,
            deletions: options.deletions,
            reposts: options.reposts,
            authors: options.authors.max(1),
            tags: (0..hashtags).map(|number| format!("#{} ", hashtag_name(number as u16))).collect(),
            subject: options.subject.clone(),
            zipf: Zipf::new(hashtags, options.zipf),
            clock: Clock::default(),
            posts: 0,
            recent: Vec::new(),
            counts: vec![0; names.len()],
            moods: Sayings::of_moods(),
            languages: Sayings::of_languages(),
            names,
            spoken,
            mood_tags,
            language_tags,
            moods_of_tags,
            speakers: Vec::new(),
            spoke: 0,
            polls: Polls::default(),
            deleted: 0,
            deletions_sent: 0,
            newest: None,
        }
    }

    /// A version begins (1) or ceases (-1) to stand.
    fn stand(&mut self, content: &Content, by: i64) {
        for tag in content.tags.into_iter().filter(|tag| *tag != NONE) {
            self.counts[usize::from(tag)] += by;
        }
        let mut spoken = content.spoken;
        while spoken != 0 {
            self.counts[usize::from(self.spoken[spoken.trailing_zeros() as usize])] += by;
            spoken &= spoken - 1;
        }
        self.polls.stand(content.said, by);
    }

    /// What happens next: a change of a post, by its place among the recent, or a new post.
    fn change(&self, dice: &mut Dice) -> Option<(Change, usize)> {
        let change = if dice.chance(self.changes) {
            Change::Edit
        } else if dice.chance(self.deletions) {
            Change::Deletion
        } else {
            return None;
        };
        if self.recent.is_empty() {
            return None;
        }
        // Who has deleted a post says nothing more of it.
        let at = dice.below(self.recent.len() as u32) as usize;
        (!self.recent[at].deleted).then_some((change, at))
    }

    fn draft(&self, dice: &mut Dice) -> Draft {
        let mut bits = dice.bits();
        let mut draft = Draft { phrases: bits, tags: [NONE; PLACES], mood: None, language: None };
        // One to three different ones: a post without would concern nobody.
        for place in 0..1 + dice.below(PLACES as u32) as usize {
            let tag = self.zipf.pick(dice) as u16;
            if !draft.tags.contains(&tag) {
                draft.tags[place] = tag;
            }
        }
        bits >>= 4 * PLACES;
        let place = (bits & 0xff) as u8 % PLACES as u8;
        if dice.chance(OF_MOODS) {
            draft.mood = Some((place, self.moods.pick(dice)));
        }
        if dice.chance(OF_LANGUAGES) {
            let beside = 1 + (bits >> 8 & 1) as u8;
            draft.language = Some(((place + beside) % PLACES as u8, self.languages.pick(dice)));
        }
        draft
    }

    /// What the draft says, to everybody and to the polls.
    fn content(&self, draft: &Draft, repost: bool) -> Content {
        let mut content = Content { tags: draft.tags, ..Content::DELETED };
        let sayings = [(draft.mood, &self.mood_tags), (draft.language, &self.language_tags)];
        for (saying, tags) in sayings.into_iter().filter_map(|(saying, tags)| Some((saying?.1, tags))) {
            for bit in saying.hashtags().map(|option| tags[usize::from(option)]) {
                if bit != sayings::NONE && !draft.tags.contains(&self.spoken[usize::from(bit)]) {
                    content.spoken |= 1 << bit;
                }
            }
        }
        if repost {
            return content;
        }
        for tag in draft.tags {
            content.said.moods |= self.moods_of_tags.get(usize::from(tag)).copied().unwrap_or(0);
        }
        if let Some((_, saying)) = draft.mood {
            for mood in saying.options.into_iter().filter(|mood| *mood != sayings::NONE) {
                content.said.moods |= 1 << mood;
            }
        }
        content.said.language = draft.language.map_or(sayings::NONE, |(_, saying)| saying.options[0]);
        content
    }

    /// Of a new post, who writes it: any author or, of those about a language, one who has changed their
    /// mind.
    fn author(&mut self, dice: &mut Dice, draft: &mut Draft) -> u32 {
        let mut author = dice.below(self.authors);
        let Some((_, saying)) = &mut draft.language else { return author };
        if !self.speakers.is_empty() && dice.chance(MINDS_CHANGED) {
            author = self.speakers[dice.below(self.speakers.len() as u32) as usize];
            self.languages.avoid(saying, self.polls.last_language(author));
        }
        match self.speakers.get_mut(self.spoke % SPEAKERS) {
            Some(place) => *place = author,
            None => self.speakers.push(author),
        }
        self.spoke += 1;
        author
    }

    fn write(&mut self, made: &mut Made, n: u64, post: &Post, draft: Option<&Draft>, of: Option<u32>) {
        made.at_ms = post.at_ms;
        made.key.clear();
        made.key.extend_from_slice(b"190");
        digits::<8>(&mut made.key, n);
        let out = &mut made.value;
        out.clear();
        out.extend_from_slice(br#"{"id":""#);
        out.extend_from_slice(&made.key);
        out.extend_from_slice(br#"","author":"author_"#);
        number(out, u64::from(post.author), 5);
        match draft {
            None => out.extend_from_slice(br#"","text":null,"at":""#),
            Some(draft) => {
                out.extend_from_slice(br#"","text":""#);
                if let Some(author) = of {
                    out.extend_from_slice(b"RT @author_");
                    number(out, u64::from(author), 5);
                    out.extend_from_slice(b": ");
                }
                self.write_text(out, draft);
                out.extend_from_slice(br#"","at":""#);
            }
        }
        self.clock.write(out, post.at_ms);
        let repost = post.repost && draft.is_some();
        out.extend_from_slice(if repost { br#"","repost":true}"# } else { br#""}"# });
    }

    fn write_text(&self, out: &mut Vec<u8>, draft: &Draft) {
        let mut phrases = draft.phrases;
        for (place, tag) in (0..).zip(draft.tags) {
            match (draft.mood, draft.language) {
                (Some((at, saying)), _) if at == place => self.moods.write(out, saying),
                (_, Some((at, saying))) if at == place => self.languages.write(out, saying),
                _ => out.extend_from_slice(PHRASES[(phrases % 16) as usize].as_bytes()),
            }
            out.push(b' ');
            phrases >>= 4;
            if tag != NONE {
                out.extend_from_slice(self.tags[usize::from(tag)].as_bytes());
            }
        }
        out.pop();
    }
}

/// The hashtag of this number as posts have it, without a sign. With [`SimulateOptions::hashtags`] of them
/// the numbers go from 0, the most used, up to that.
pub fn hashtag_name(number: u16) -> String {
    let (of, round) = (TAGS[usize::from(number) % TAGS.len()], usize::from(number) / TAGS.len());
    if round > 0 { format!("{of}{round}") } else { of.to_owned() }
}

impl Claims for Posts {
    fn next(&mut self, dice: &mut Dice, made: &mut Made) {
        let change = self.change(dice);
        let mut draft = match change {
            Some((Change::Deletion, _)) => None,
            _ => Some(self.draft(dice)),
        };
        let (n, mut post, of) = match change {
            Some((_, at)) => {
                // The newest post lies right before the one that the next would take the place of.
                let places = self.recent.len() as u64;
                let newest = self.posts - 1;
                let n = newest - (newest % places + places - at as u64) % places;
                let before = self.recent[at];
                self.stand(&before.content, -1);
                let at_ms = made.at_ms.max(before.at_ms + 1);
                // Whose repost it was is not told again.
                (n, Post { at_ms, deleted: draft.is_none(), ..before }, None)
            }
            None => {
                let author = draft.as_mut().map_or(0, |draft| self.author(dice, draft));
                let of = match dice.chance(self.reposts) && !self.recent.is_empty() {
                    true => Some(self.recent[dice.below(self.recent.len() as u32) as usize].author),
                    false => None,
                };
                let (repost, content) = (of.is_some(), Content::DELETED);
                self.posts += 1;
                (self.posts - 1, Post { at_ms: made.at_ms, author, repost, deleted: false, content }, of)
            }
        };
        post.content = draft.as_ref().map_or(Content::DELETED, |draft| self.content(draft, post.repost));
        let said = post.content.said;
        if said.language != sayings::NONE {
            post.at_ms = self.polls.names(post.author, said.language, post.at_ms);
        }
        self.stand(&post.content, 1);
        match self.recent.get_mut(n as usize % EDITABLE) {
            Some(place) => {
                if change.is_none() {
                    self.polls.settle(place.author, place.at_ms, place.content.said);
                }
                *place = post;
            }
            None => self.recent.push(post),
        }
        self.deleted += u64::from(post.deleted);
        self.newest = (!post.deleted).then_some(said);
        self.sent();
        self.write(made, n, &post, draft.as_ref(), of);
    }

    fn sent(&mut self) {
        match self.newest {
            Some(said) => self.polls.claim(said),
            None => self.deletions_sent += 1,
        }
    }

    fn counted(&self) -> u64 {
        self.posts - self.deleted
    }

    fn irrelevant(&self) -> u64 {
        self.deletions_sent
    }

    fn lines(&self) -> Vec<Line> {
        let line = |(tag, &count): (usize, &i64)| Line {
            subject: self.subject.clone(),
            group: self.names[tag].clone(),
            value: Decimal::from_int(count),
        };
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(line).collect()
    }

    fn polls(&self) -> BTreeMap<&'static str, PollExpect> {
        self.polls.expect(self.recent.iter().map(|post| (post.author, post.at_ms, post.content.said)))
    }
}
