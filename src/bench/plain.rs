//! The plain loop that the engine is held against: one thread, the same decoder, hashbrown maps.
//!
//! It gives the same tallies over the same bytes, which the benchmark checks: the newest version of each
//! post counts, the last vote of each voter. It leaves out everything else: channels, epochs,
//! accounting, names as strings from outside, dead letters, changes told to anyone.

use crate::bench::arena::Arena;
use hashbrown::HashMap;
use std::collections::BTreeMap;
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_dataflows::decode::{Decoded, Event, Formats, Needs, Value};
use tallyflow_dataflows::pointer::Pointer;
use tallyflow_dataflows::time::parse_time;

/// Tallies by name.
pub type Tallies = BTreeMap<String, i64>;

/// What a loop comes to.
pub struct Plain {
    pub tallies: Tallies,
    /// Voters or posts that it holds.
    pub entities: u64,
    /// In how many places of polls' options all posts are found, where there are polls.
    pub matches: Option<u64>,
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

/// Posts by hashtag, each in its newest version.
pub fn posts(arena: &Arena) -> Plain {
    let mut decoder = BuiltinFormats.decoder("post", &needs(["/id", "/at", "/hashtags"]));
    let mut posts: HashMap<String, (i64, Box<[u32]>)> = HashMap::new();
    let mut tags = Counts::default();
    for record in arena.records() {
        let mut event = Event::default();
        let Ok(decoded) = decoder.decode(&record, &mut event) else { continue };
        let [Some(Value::Text(id)), Some(at), names] = &event.slots[..] else { continue };
        let names = match (decoded, names) {
            (Decoded::Event, Some(Value::Array(names))) => names.as_slice(),
            (Decoded::Deleted, _) => &[],
            _ => continue,
        };
        let Ok(at) = parse_time(at) else { continue };
        let mut now: Vec<u32> = names.iter().filter_map(text).map(|name| tags.index(name)).collect();
        now.sort_unstable();
        now.dedup();
        match posts.get_mut(&**id) {
            Some(old) if at < old.0 => {}
            Some(old) => {
                old.1.iter().for_each(|tag| tags.counts[*tag as usize] -= 1);
                now.iter().for_each(|tag| tags.counts[*tag as usize] += 1);
                *old = (at, now.into());
            }
            None => {
                now.iter().for_each(|tag| tags.counts[*tag as usize] += 1);
                posts.insert(id.to_string(), (at, now.into()));
            }
        }
    }
    Plain { entities: posts.len() as u64, tallies: tags.finish(), matches: None }
}

/// Votes by poll and option, the last of each voter.
pub fn votes(arena: &Arena) -> Plain {
    let mut decoder = BuiltinFormats.decoder("vote", &needs(["/poll", "/voter", "/option", "/at"]));
    let mut voters: HashMap<String, (i64, Option<u32>)> = HashMap::new();
    let mut options: HashMap<String, Counts> = HashMap::new();
    let mut counts = Vec::new();
    for record in arena.records() {
        let mut event = Event::default();
        if decoder.decode(&record, &mut event).is_err() {
            continue;
        }
        let [Some(Value::Text(poll)), Some(Value::Text(voter)), Some(option), Some(at)] = &event.slots[..] else {
            continue;
        };
        let Ok(at) = parse_time(at) else { continue };
        let poll = match options.get_mut(&**poll) {
            Some(poll) => poll,
            None => options.entry(poll.to_string()).or_default(),
        };
        // A line of any poll has a number of its own, kept in the poll's counts.
        let now = text(option).map(|name| match poll.index.get(name) {
            Some(line) => *line,
            None => {
                counts.push(0i64);
                poll.index.insert(name.to_owned(), counts.len() as u32 - 1);
                counts.len() as u32 - 1
            }
        });
        match voters.get_mut(&**voter) {
            Some(old) if at < old.0 => {}
            Some(old) => {
                old.1.into_iter().for_each(|line| counts[line as usize] -= 1);
                now.into_iter().for_each(|line| counts[line as usize] += 1);
                *old = (at, now);
            }
            None => {
                now.into_iter().for_each(|line| counts[line as usize] += 1);
                voters.insert(voter.to_string(), (at, now));
            }
        }
    }
    let lines = options.into_iter().flat_map(|(poll, lines)| {
        let named = move |(option, line): (String, u32)| (format!("{poll}/{option}"), line);
        lines.index.into_iter().map(named).collect::<Vec<_>>()
    });
    let tallies = lines.map(|(name, line)| (name, counts[line as usize])).filter(|(_, n)| *n != 0).collect();
    Plain { entities: voters.len() as u64, tallies, matches: None }
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
