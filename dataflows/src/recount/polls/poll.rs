//! What one poll counts: everything that concerns it is collected, and sorted out at the end.

use super::matching::{Options, Reading};
use crate::recount::judge::Order;
use crate::spec::Keep;
use crate::spec::polls::{PollInForce, Reposts};
use std::collections::{BTreeMap, BTreeSet};

/// A poll and what concerns it.
pub(super) struct Counting {
    in_force: PollInForce,
    options: Options,
    versions: Vec<Version>,
    votes: Vec<Vote>,
}

/// What a message was at some time.
struct Version {
    message: String,
    /// `None` for a deletion.
    author: Option<String>,
    order: Order,
    /// The places of the options that it speaks to. Without one it is kept since it replaces others.
    options: BTreeSet<usize>,
}

#[derive(Clone)]
struct Vote {
    voter: String,
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
}

/// A claim that stands, and where it stands in the order of its author's or voter's.
struct Standing {
    order: Order,
    options: BTreeSet<usize>,
}

impl Counting {
    pub fn new(in_force: &PollInForce) -> Counting {
        let options = Options::new(&in_force.poll);
        Counting { in_force: in_force.clone(), options, versions: Vec::new(), votes: Vec::new() }
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

    /// Takes a version of a message that is in range; whether it makes a claim.
    pub fn message(&mut self, message: &str, author: &str, reading: &Reading, repost: bool, order: Order) -> bool {
        let ignored = repost && self.in_force.poll.reposts == Reposts::Ignore;
        let options = if ignored { BTreeSet::new() } else { self.options.in_text(reading) };
        let claims = !options.is_empty();
        self.versions.push(Version { message: message.to_owned(), author: Some(author.to_owned()), order, options });
        claims
    }

    /// Takes a deletion that is in range.
    pub fn deletion(&mut self, message: &str, order: Order) {
        self.versions.push(Version { message: message.to_owned(), author: None, order, options: BTreeSet::new() });
    }

    /// Takes a vote that is in range; whether it makes a claim.
    pub fn vote(&mut self, voter: &str, option: Option<&str>, id: Option<&str>, order: Order) -> bool {
        let poll = &self.in_force.poll;
        let option = match option {
            // It replaces what stood, which only the last can.
            None if poll.keep != Keep::Last => return false,
            None => None,
            Some(option) => match poll.options.iter().position(|known| known == option) {
                None => return false,
                place => place,
            },
        };
        self.votes.push(Vote { voter: voter.to_owned(), order, id: id.map(str::to_owned), option });
        true
    }

    pub fn finish(self) -> Counted {
        let matching = self.versions.iter().filter(|version| !version.options.is_empty()).count();
        let claims = matching as u64 + self.votes.len() as u64;
        let mut standing = self.standing_messages();
        standing.extend(self.standing_votes());

        let mut lines: Vec<(String, i64)> = self.in_force.poll.options.iter().map(|o| (o.clone(), 0)).collect();
        for option in standing.iter().flat_map(|claim| &claim.options) {
            lines[*option].1 += 1;
        }
        Counted { id: self.in_force.poll.id, lines, claims, counted: standing.len() as u64 }
    }

    fn standing_messages(&self) -> Vec<Standing> {
        let mut newest: BTreeMap<&str, &Version> = BTreeMap::new();
        for version in &self.versions {
            let newest = newest.entry(&version.message).or_insert(version);
            if version.order > newest.order {
                *newest = version;
            }
        }
        let mut by_author: BTreeMap<&str, Vec<Standing>> = BTreeMap::new();
        for version in newest.into_values() {
            if let (Some(author), false) = (&version.author, version.options.is_empty()) {
                let claim = Standing { order: version.order, options: version.options.clone() };
                by_author.entry(author).or_default().push(claim);
            }
        }
        by_author.into_values().flat_map(|claims| self.kept(claims)).collect()
    }

    fn standing_votes(&self) -> Vec<Standing> {
        let mut votes = self.votes.clone();
        votes.sort_by_key(|vote| vote.order);
        match self.in_force.poll.keep {
            // Of those with one id the last counts.
            Keep::All => {
                votes.reverse();
                let mut ids = BTreeSet::new();
                votes.retain(|vote| vote.id.as_ref().is_none_or(|id| ids.insert(id.clone())));
            }
            // Equal ones take one place, that of the first.
            Keep::FirstN(_) => {
                let mut seen = BTreeSet::new();
                votes.retain(|vote| {
                    let same_as = match &vote.id {
                        Some(id) => (Some(id.clone()), None),
                        None => (None, Some((vote.order.0, vote.option))),
                    };
                    seen.insert((vote.voter.clone(), same_as))
                });
            }
            Keep::First | Keep::Last => {}
        }
        let mut by_voter: BTreeMap<&str, Vec<Standing>> = BTreeMap::new();
        for vote in &votes {
            let claim = Standing { order: vote.order, options: vote.option.into_iter().collect() };
            by_voter.entry(&vote.voter).or_default().push(claim);
        }
        by_voter.into_values().flat_map(|claims| self.kept(claims)).collect()
    }

    /// Those of one author's or voter's claims that count.
    fn kept(&self, mut claims: Vec<Standing>) -> Vec<Standing> {
        claims.sort_by_key(|claim| claim.order);
        match self.in_force.poll.keep {
            Keep::All => claims,
            Keep::First => claims.into_iter().take(1).collect(),
            Keep::FirstN(n) => claims.into_iter().take(n as usize).collect(),
            Keep::Last => claims.into_iter().next_back().into_iter().collect(),
        }
    }
}
