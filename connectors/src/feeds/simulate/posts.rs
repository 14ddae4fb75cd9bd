//! Posts with hashtags, of which some are edited later.

use super::write::{Clock, number};
use super::{CHOICES_MAX, Claims, Dice, Line, Made, SimulateOptions, Zipf};
use tallyflow_dataflows::number::Decimal;

/// How many posts back an edit may reach.
const EDITABLE: usize = 16_384;
const TAGS_MAX: usize = 3;

/// What posts talk about, without a sign. The text of a post is some of these, with hashtags between.
const PHRASES: [&str; 16] = [
    "The count goes on in every county tonight, and nobody dares to call it.",
    "Standing in line since seven, coffee is out, spirits are high.",
    "Did anybody else see that swing in the last update?",
    "Polls close in an hour: go, go, go!",
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

type Tags = [u16; TAGS_MAX];
const NONE: u16 = u16::MAX;

#[derive(Clone, Copy)]
struct Post {
    at_ms: i64,
    author: u32,
    tags: Tags,
}

pub(super) struct Posts {
    changes: f64,
    authors: u32,
    subject: String,
    zipf: Zipf,
    clock: Clock,
    posts: u64,
    /// The newest posts, post n at n modulo the number of places.
    recent: Vec<Post>,
    counts: Vec<i64>,
}

impl Posts {
    pub(super) fn new(options: &SimulateOptions) -> Self {
        let hashtags = options.hashtags.clamp(1, CHOICES_MAX);
        Posts {
            changes: options.changes,
            authors: options.authors.max(1),
            subject: options.subject.clone(),
            zipf: Zipf::new(hashtags, options.zipf),
            clock: Clock::default(),
            posts: 0,
            recent: Vec::new(),
            counts: vec![0; hashtags as usize],
        }
    }

    fn count(&mut self, tags: Tags, by: i64) {
        for tag in tags.into_iter().filter(|tag| *tag != NONE) {
            self.counts[usize::from(tag)] += by;
        }
    }

    /// One to three different ones: a post without would concern nobody.
    fn tags(&self, dice: &mut Dice) -> Tags {
        let mut tags = [NONE; TAGS_MAX];
        for place in 0..1 + dice.below(TAGS_MAX as u32) as usize {
            let tag = self.zipf.pick(dice) as u16;
            if !tags.contains(&tag) {
                tags[place] = tag;
            }
        }
        tags
    }
}

fn tag_name(out: &mut Vec<u8>, tag: u16) {
    out.extend_from_slice(TAGS[usize::from(tag) % TAGS.len()].as_bytes());
    let round = usize::from(tag) / TAGS.len();
    if round > 0 {
        number(out, round as u64, 1);
    }
}

impl Claims for Posts {
    fn next(&mut self, dice: &mut Dice, made: &mut Made) {
        let edit = self.posts > 0 && dice.chance(self.changes);
        let tags = self.tags(dice);
        let (n, author) = if edit {
            let back = dice.below(self.recent.len() as u32);
            let n = self.posts - 1 - u64::from(back);
            let post = &mut self.recent[n as usize % EDITABLE];
            made.at_ms = made.at_ms.max(post.at_ms + 1);
            post.at_ms = made.at_ms;
            let (author, before) = (post.author, std::mem::replace(&mut post.tags, tags));
            self.count(before, -1);
            (n, author)
        } else {
            let post = Post { at_ms: made.at_ms, author: dice.below(self.authors), tags };
            let n = self.posts;
            match self.recent.get_mut(n as usize % EDITABLE) {
                Some(place) => *place = post,
                None => self.recent.push(post),
            }
            self.posts += 1;
            (n, post.author)
        };
        self.count(tags, 1);

        made.key.clear();
        number(&mut made.key, 1_900_000_000_000_000_000 + n, 19);
        let out = &mut made.value;
        out.clear();
        out.extend_from_slice(br#"{"id":""#);
        out.extend_from_slice(&made.key);
        out.extend_from_slice(br#"","author":"author_"#);
        number(out, u64::from(author), 5);
        out.extend_from_slice(br#"","text":""#);
        let mut phrases = dice.bits();
        for tag in tags {
            out.extend_from_slice(PHRASES[(phrases % 16) as usize].as_bytes());
            out.push(b' ');
            phrases >>= 4;
            if tag != NONE {
                out.push(b'#');
                tag_name(out, tag);
                out.push(b' ');
            }
        }
        out.pop();
        out.extend_from_slice(br#"","at":""#);
        self.clock.write(out, made.at_ms);
        out.extend_from_slice(br#""}"#);
    }

    fn entities(&self) -> u64 {
        self.posts
    }

    fn lines(&self) -> Vec<Line> {
        let line = |(tag, &count): (usize, &i64)| {
            let mut name = Vec::new();
            tag_name(&mut name, tag as u16);
            let group = String::from_utf8_lossy(&name).to_lowercase();
            Line { subject: self.subject.clone(), group, value: Decimal::from_int(count) }
        };
        self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(line).collect()
    }
}
