//! The plain loops that the engine is held against: one thread, the same decoder, hashbrown maps.
//!
//! They give the same tallies over the same bytes, which the benchmark checks: the newest version of each
//! post counts, the last vote of each voter. They leave out everything else: channels, epochs,
//! accounting, names as strings from outside, dead letters, changes told to anyone.

use hashbrown::HashMap;
use std::collections::BTreeMap;
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_dataflows::decode::{Decoded, Decoder, Event, Formats, Needs, Value};
use tallyflow_dataflows::pointer::Pointer;
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::time::parse_time;

/// Tallies by name.
pub type Tallies = BTreeMap<String, i64>;

/// What a loop comes to.
#[derive(Default)]
pub struct Plain {
    pub tallies: Tallies,
    /// Voters or posts that it holds.
    pub entities: u64,
    /// In how many places of polls' options all posts are found, where there are polls.
    pub matches: Option<u64>,
}

/// A loop, to be given one record after another.
pub trait PlainLoop {
    fn record(&mut self, record: &RecordRef<'_>);
    fn finish(self: Box<Self>) -> Plain;
}

/// Names as numbers, and what each counts.
#[derive(Default)]
struct Counts {
    index: HashMap<String, u32>,
    counts: Vec<i64>,
}

impl Counts {
    fn index(&mut self, name: &str) -> u32 {
        if let Some(index) = self.index.get(name) {
            return *index;
        }
        self.counts.push(0);
        let index = self.counts.len() as u32 - 1;
        self.index.insert(name.to_owned(), index);
        index
    }

    fn finish(self) -> Tallies {
        self.index.into_iter().map(|(name, i)| (name, self.counts[i as usize])).filter(|(_, n)| *n != 0).collect()
    }
}

/// Posts by hashtag, each record as it comes.
pub fn hashtags() -> Box<dyn PlainLoop> {
    Box::new(Hashtags {
        decoder: BuiltinFormats.decoder("json", &needs(["/hashtags"])),
        tags: Counts::default(),
        now: Vec::new(),
    })
}

struct Hashtags {
    decoder: Box<dyn Decoder>,
    tags: Counts,
    now: Vec<u32>,
}

impl PlainLoop for Hashtags {
    fn record(&mut self, record: &RecordRef<'_>) {
        let mut event = Event::default();
        let Ok(Decoded::Event) = self.decoder.decode(record, &mut event) else { return };
        let [Some(Value::Array(names))] = &event.slots[..] else { return };
        self.now.clear();
        self.now.extend(names.iter().filter_map(text).map(|name| self.tags.index(name)));
        self.now.sort_unstable();
        self.now.dedup();
        self.now.iter().for_each(|tag| self.tags.counts[*tag as usize] += 1);
    }

    fn finish(self: Box<Self>) -> Plain {
        Plain { tallies: self.tags.finish(), entities: 0, matches: None }
    }
}

/// Posts by hashtag, each in its newest version.
pub fn posts() -> Box<dyn PlainLoop> {
    Box::new(Posts {
        decoder: BuiltinFormats.decoder("post", &needs(["/id", "/at", "/hashtags"])),
        posts: HashMap::new(),
        tags: Counts::default(),
    })
}

struct Posts {
    decoder: Box<dyn Decoder>,
    /// Of each post the time and the hashtags of its newest version.
    posts: HashMap<String, (i64, Box<[u32]>)>,
    tags: Counts,
}

impl PlainLoop for Posts {
    fn record(&mut self, record: &RecordRef<'_>) {
        let mut event = Event::default();
        let Ok(decoded) = self.decoder.decode(record, &mut event) else { return };
        let [Some(Value::Text(id)), Some(at), names] = &event.slots[..] else { return };
        let names = match (decoded, names) {
            (Decoded::Event, Some(Value::Array(names))) => names.as_slice(),
            (Decoded::Deleted, _) => &[],
            _ => return,
        };
        let Ok(at) = parse_time(at) else { return };
        let tags = &mut self.tags;
        let mut now: Vec<u32> = names.iter().filter_map(text).map(|name| tags.index(name)).collect();
        now.sort_unstable();
        now.dedup();
        match self.posts.get_mut(&**id) {
            Some(old) if at < old.0 => {}
            Some(old) => {
                old.1.iter().for_each(|tag| tags.counts[*tag as usize] -= 1);
                now.iter().for_each(|tag| tags.counts[*tag as usize] += 1);
                *old = (at, now.into());
            }
            None => {
                now.iter().for_each(|tag| tags.counts[*tag as usize] += 1);
                self.posts.insert(id.to_string(), (at, now.into()));
            }
        }
    }

    fn finish(self: Box<Self>) -> Plain {
        Plain { entities: self.posts.len() as u64, tallies: self.tags.finish(), matches: None }
    }
}

/// Votes by poll and option, the last of each voter.
pub fn votes() -> Box<dyn PlainLoop> {
    Box::new(Votes {
        decoder: BuiltinFormats.decoder("vote", &needs(["/poll", "/voter", "/option", "/at"])),
        voters: HashMap::new(),
        options: HashMap::new(),
        counts: Vec::new(),
    })
}

struct Votes {
    decoder: Box<dyn Decoder>,
    /// Of each voter the time and the line of the last vote.
    voters: HashMap<String, (i64, Option<u32>)>,
    /// Of each poll the lines of its options.
    options: HashMap<String, HashMap<String, u32>>,
    counts: Vec<i64>,
}

impl PlainLoop for Votes {
    fn record(&mut self, record: &RecordRef<'_>) {
        let mut event = Event::default();
        if self.decoder.decode(record, &mut event).is_err() {
            return;
        }
        let [Some(Value::Text(poll)), Some(Value::Text(voter)), Some(option), Some(at)] = &event.slots[..] else {
            return;
        };
        let Ok(at) = parse_time(at) else { return };
        let poll = match self.options.get_mut(&**poll) {
            Some(poll) => poll,
            None => self.options.entry(poll.to_string()).or_default(),
        };
        let counts = &mut self.counts;
        let now = text(option).map(|name| match poll.get(name) {
            Some(line) => *line,
            None => {
                counts.push(0);
                poll.insert(name.to_owned(), counts.len() as u32 - 1);
                counts.len() as u32 - 1
            }
        });
        match self.voters.get_mut(&**voter) {
            Some(old) if at < old.0 => {}
            Some(old) => {
                old.1.into_iter().for_each(|line| counts[line as usize] -= 1);
                now.into_iter().for_each(|line| counts[line as usize] += 1);
                *old = (at, now);
            }
            None => {
                now.into_iter().for_each(|line| counts[line as usize] += 1);
                self.voters.insert(voter.to_string(), (at, now));
            }
        }
    }

    fn finish(self: Box<Self>) -> Plain {
        let (counts, entities) = (self.counts, self.voters.len() as u64);
        let lines = self.options.into_iter().flat_map(|(poll, lines)| {
            let named = move |(option, line): (String, u32)| (format!("{poll}/{option}"), line);
            lines.into_iter().map(named).collect::<Vec<_>>()
        });
        let tallies = lines.map(|(name, line)| (name, counts[line as usize])).filter(|(_, n)| *n != 0).collect();
        Plain { tallies, entities, matches: None }
    }
}

/// Slots in the order of the pointers.
pub fn needs<const N: usize>(pointers: [&str; N]) -> Needs {
    let mut needs = Needs::default();
    for pointer in pointers.iter().filter_map(|p| Pointer::parse(p).ok()) {
        needs.slot(&pointer);
    }
    needs
}

/// The text, if it is one.
pub fn text<'v>(value: &'v Value<'_>) -> Option<&'v str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}
