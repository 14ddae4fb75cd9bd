//! What one poll counts: of the messages and votes of a share of the persons, sorted out at its end.

use super::matching::{Options, Reading};
use crate::recount::judge::Order;
use crate::recount::share::Share;
use crate::recount::{ENTRY_BYTES, text_bytes};
use crate::spec::Keep;
use crate::spec::polls::{PollInForce, Reposts};
use std::collections::{BTreeSet, HashMap};

/// A poll and what it has come to so far.
pub(super) struct Counting {
    in_force: PollInForce,
    options: Options,
    /// Of the share, by id where every vote counts, else by voter: what stands of what was read.
    votes: HashMap<String, Vec<Vote>>,
    /// By option, of the shares before.
    counts: Vec<i64>,
    claims: u64,
    counted: u64,
    voided: u64,
}

#[derive(Clone)]
struct Vote {
    order: Order,
    id: Option<String>,
    /// `None`: withdrawn.
    option: Option<usize>,
}

/// What a poll came to.
pub(super) struct Counted {
    pub id: String,
    /// By option.
    pub lines: Vec<(String, i64)>,
    pub claims: u64,
    pub counted: u64,
    pub voided: u64,
}

/// A version of a message that makes a claim, and no newer one of it is known.
pub(super) struct Version {
    pub author: String,
    pub order: Order,
    /// The places of the options that it speaks to.
    pub options: BTreeSet<usize>,
}

impl Version {
    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        size_of::<Version>() + text_bytes(&self.author) + ENTRY_BYTES + self.options.len() * 2 * size_of::<usize>()
    }
}

impl Vote {
    fn bytes(&self) -> usize {
        size_of::<Vote>() + self.id.as_deref().map_or(0, text_bytes)
    }

    /// Whether they take one place.
    fn is_same(&self, other: &Vote) -> bool {
        match (&self.id, &other.id) {
            (None, None) => (self.order.0, self.option) == (other.order.0, other.option),
            (id, other) => id == other,
        }
    }
}

impl Counting {
    pub fn new(in_force: &PollInForce) -> Counting {
        Counting {
            in_force: in_force.clone(),
            options: Options::new(&in_force.poll),
            votes: HashMap::new(),
            counts: vec![0; in_force.poll.options.len()],
            claims: 0,
            counted: 0,
            voided: 0,
        }
    }

    pub fn id(&self) -> &str {
        &self.in_force.poll.id
    }

    /// Whether a record of this order that reached the log at that time concerns the poll.
    pub fn in_range(&self, order: Order, timestamp_ms: i64) -> bool {
        let poll = &self.in_force.poll;
        let (time_ns, input, partition, offset) = order;
        let from = self.in_force.from.get(input).and_then(|input| input.get(partition as usize));
        let in_time = poll.closes_ns.is_none_or(|closes_ns| {
            let closes_ns = i128::from(closes_ns);
            let sealed_ns = closes_ns.saturating_add(i128::try_from(poll.grace.as_nanos()).unwrap_or(i128::MAX));
            time_ns < closes_ns && i128::from(timestamp_ms) * 1_000_000 < sealed_ns
        });
        in_time && time_ns >= i128::from(poll.opens_ns) && from.is_none_or(|from| offset >= from.0)
    }

    /// The places of the options that a message in range speaks to.
    pub fn spoken_to(&self, reading: &Reading, repost: bool) -> BTreeSet<usize> {
        let ignored = repost && self.in_force.poll.reposts == Reposts::Ignore;
        if ignored { BTreeSet::new() } else { self.options.in_text(reading) }
    }

    /// What decides to which share a version of a message belongs: who may hold only so many, else itself.
    pub fn share_of<'a>(&self, message: &'a str, author: &'a str) -> &'a str {
        if self.in_force.poll.keep == Keep::All { message } else { author }
    }

    /// Which claims stand.
    pub fn keep(&self) -> Keep {
        self.in_force.poll.keep
    }

    /// The name of an option.
    pub fn option(&self, place: usize) -> &str {
        self.in_force.poll.options.get(place).map_or("", String::as_str)
    }

    /// Counts a claim that was made, and perhaps voided.
    pub fn claimed(&mut self, voided: Option<u64>) {
        self.claims += 1;
        self.voided += u64::from(voided.is_some());
    }

    /// The option that a vote is for, none for a withdrawal; `None` where it makes no claim.
    pub fn voted_for(&self, option: Option<&str>) -> Option<Option<usize>> {
        let poll = &self.in_force.poll;
        match option {
            // It replaces what stood, which only the last can.
            None => (poll.keep == Keep::Last).then_some(None),
            Some(option) => poll.options.iter().position(|known| known == option).map(Some),
        }
    }

    /// Takes a vote that makes a claim; how many bytes more, and how many fewer, are held.
    pub fn vote(
        &mut self,
        share: Share,
        is_first: bool,
        (voter, id): (&str, Option<&str>),
        option: Option<usize>,
        order: Order,
    ) -> (usize, usize) {
        let keep = self.in_force.poll.keep;
        let vote = Vote { order, id: id.map(str::to_owned), option };
        let key = match (keep, id) {
            // Nothing takes it back.
            (Keep::All, None) => {
                if is_first {
                    self.stands(option);
                }
                return (0, 0);
            }
            (Keep::All, Some(id)) => id,
            _ => voter,
        };
        if !share.holds(key) {
            return (0, 0);
        }
        let mut added = 0;
        let votes = self.votes.entry(key.to_owned()).or_insert_with(|| {
            added += ENTRY_BYTES + text_bytes(key);
            Vec::new()
        });
        let before: usize = votes.iter().map(Vote::bytes).sum();
        match keep {
            // Of those with one id the last counts.
            Keep::All | Keep::Last => {
                votes.push(vote);
                let last = votes.iter().max_by_key(|vote| vote.order).cloned();
                *votes = last.into_iter().collect();
            }
            Keep::First => {
                votes.push(vote);
                let first = votes.iter().min_by_key(|vote| vote.order).cloned();
                *votes = first.into_iter().collect();
            }
            // Equal ones take one place, that of the first.
            Keep::FirstN(n) => {
                match votes.iter_mut().find(|known| known.is_same(&vote)) {
                    Some(known) if vote.order < known.order => *known = vote,
                    Some(_) => {}
                    None => votes.push(vote),
                }
                votes.sort_by_key(|vote| vote.order);
                votes.truncate(n as usize);
            }
        }
        (added + votes.iter().map(Vote::bytes).sum::<usize>(), before)
    }

    /// Leaves the votes of a share; how many bytes they are.
    pub fn retain(&mut self, share: Share) -> usize {
        self.votes.retain(|key, _| share.holds(key.as_str()));
        let bytes = |(key, votes): (&String, &Vec<Vote>)| {
            ENTRY_BYTES + text_bytes(key) + votes.iter().map(Vote::bytes).sum::<usize>()
        };
        self.votes.iter().map(bytes).sum()
    }

    /// Nothing is counted any more.
    pub fn forget_votes(&mut self) {
        self.votes.clear();
    }

    fn stands(&mut self, options: impl IntoIterator<Item = usize>) {
        self.counted += 1;
        for option in options {
            self.counts[option] += 1;
        }
    }

    /// Counts the share's votes, and of its messages those that stand by the keep rule. These are the newest
    /// versions of each.
    pub fn end_of_share(&mut self, mut messages: Vec<Version>) {
        for vote in std::mem::take(&mut self.votes).into_values().flatten() {
            self.stands(vote.option);
        }
        let keep = self.in_force.poll.keep;
        let of_each = match keep {
            Keep::All => usize::MAX,
            Keep::First | Keep::Last => 1,
            Keep::FirstN(n) => n as usize,
        };
        messages.sort_by(|a, b| a.author.cmp(&b.author).then(a.order.cmp(&b.order)));
        for claims in messages.chunk_by(|a, b| a.author == b.author) {
            let skipped = if keep == Keep::Last { claims.len() - 1 } else { 0 };
            for version in claims.iter().skip(skipped).take(of_each) {
                self.stands(version.options.iter().copied());
            }
        }
    }

    pub fn finish(self) -> Counted {
        let lines = self.in_force.poll.options.iter().cloned().zip(self.counts);
        Counted {
            id: self.in_force.poll.id,
            lines: lines.collect(),
            claims: self.claims,
            counted: self.counted,
            voided: self.voided,
        }
    }
}
