//! The workload `polls`: many polls over posts, which have enough different words for all of their options.

use crate::bench::plain::{Plain, PlainLoop, needs, text};
use hashbrown::HashMap;
use std::time::Duration;
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_connectors::feeds::simulate::{LANGUAGES, MOODS, SimulateOptions, hashtag_name};
use tallyflow_dataflows::decode::{Decoded, Decoder, Event, Formats, Value};
use tallyflow_dataflows::operators::match_options::{Found, Matcher, Scratch};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::spec::Keep;
use tallyflow_dataflows::spec::polls::{Choices, Match, Poll, PollInForce, Reposts};
use tallyflow_dataflows::time::parse_time;

const POLLS: usize = 1_000;
const OPTIONS: usize = 4;

pub const JOB: &str = r#"
    name = "polls"
    dataflow = "polls"
    [[input]]
    topic = "records"
    format = "post"
"#;

/// Words of the posts' phrases; each is in one of them.
const WORDS: [&str; 2] = ["grandmother", "soup"];

/// The options, each of one poll: words of the text that are said often, then hashtags.
fn options() -> Vec<String> {
    let spoken = MOODS.iter().chain(&LANGUAGES).chain(&WORDS).map(|option| (*option).to_owned());
    let hashtags = (0..u16::MAX).map(hashtag_name).filter(|name| !MOODS.contains(&name.as_str()));
    spoken.chain(hashtags).take(POLLS * OPTIONS).collect()
}

/// Posts have as many different hashtags as there are options; which is said how often goes by Zipf's law.
pub fn simulate(options: &mut SimulateOptions) {
    options.hashtags = (POLLS * OPTIONS) as u32;
}

/// The polls, all open from the first post on.
pub fn polls() -> Vec<PollInForce> {
    let words = options();
    let poll = |number: usize| Poll {
        id: format!("poll-{number}"),
        title: format!("Poll {number}"),
        options: words.iter().skip(number).step_by(POLLS).cloned().collect(),
        matching: Match::Word,
        choices: Choices::Many,
        keep: Keep::All,
        entity: None,
        reposts: Reposts::Ignore,
        opens_ns: 0,
        closes_ns: None,
        grace: Duration::from_secs(300),
    };
    (0..POLLS).map(|number| PollInForce { poll: poll(number), version: 1, from: Vec::new() }).collect()
}

/// Options of polls, each post in its newest version. With the engine's matcher: what is measured is all
/// that the engine does besides.
pub fn plain() -> Box<dyn PlainLoop> {
    let polls = polls();
    let mut matcher = Matcher::default();
    for (number, poll) in (0..).zip(&polls) {
        matcher.insert(number, &poll.poll.options, Match::Word);
    }
    Box::new(Polled {
        polls,
        matcher,
        decoder: BuiltinFormats.decoder("post", &needs(["/id", "/at", "/text", "/hashtags", "/repost"])),
        scratch: Scratch::default(),
        found: Vec::new(),
        matches: 0,
        posts: HashMap::new(),
        counts: vec![0; POLLS * OPTIONS],
    })
}

struct Polled {
    polls: Vec<PollInForce>,
    matcher: Matcher,
    decoder: Box<dyn Decoder>,
    scratch: Scratch,
    found: Vec<Found>,
    matches: u64,
    posts: HashMap<String, (i64, Box<[u32]>)>,
    counts: Vec<i64>,
}

impl PlainLoop for Polled {
    fn record(&mut self, record: &RecordRef<'_>) {
        let mut event = Event::default();
        let Ok(decoded) = self.decoder.decode(record, &mut event) else { return };
        let [Some(Value::Text(id)), Some(at), said, hashtags, repost] = &event.slots[..] else { return };
        let Ok(at) = parse_time(at) else { return };
        self.found.clear();
        if let (Decoded::Event, Some(Value::Text(said)), Some(Value::Array(hashtags)), Some(Value::Bool(false))) =
            (decoded, said, hashtags, repost)
        {
            self.matcher.find(said, hashtags.iter().filter_map(text), &mut self.scratch, &mut self.found);
            self.matches += self.found.len() as u64;
        }
        let now = self.found.iter().map(|found| found.poll * OPTIONS as u32 + u32::from(found.option));
        let counts = &mut self.counts;
        match self.posts.get_mut(&**id) {
            Some(old) if at < old.0 => {}
            Some(old) => {
                old.1.iter().for_each(|line| counts[*line as usize] -= 1);
                now.clone().for_each(|line| counts[line as usize] += 1);
                *old = (at, now.collect());
            }
            None => {
                now.clone().for_each(|line| counts[line as usize] += 1);
                self.posts.insert(id.to_string(), (at, now.collect()));
            }
        }
    }

    fn finish(self: Box<Self>) -> Plain {
        let options = self.polls.iter().flat_map(|poll| poll.poll.options.iter().map(|option| (&poll.poll.id, option)));
        let lines = options.zip(&self.counts).filter(|(_, count)| **count != 0);
        let tallies = lines.map(|((poll, option), count)| (format!("{poll}/{option}"), *count)).collect();
        Plain { tallies, entities: self.posts.len() as u64, matches: Some(self.matches) }
    }
}
