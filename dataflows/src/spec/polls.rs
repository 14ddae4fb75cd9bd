//! What a poll is, once its definition has been checked, and the defaults of a `polls` job.

use crate::ids::Offset;
use crate::spec::Keep;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `[polls]`: what the job's polls are where their definitions do not say otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollsSpec {
    pub matching: Match,
    pub choices: Choices,
    pub keep: Keep,
    pub entity: Option<Person>,
    pub reposts: Reposts,
    /// How long after a poll has closed its records may still reach the log.
    pub grace: Duration,
    /// An event time further than this ahead of the log's timestamp is rejected.
    pub ahead: Duration,
}

/// How a poll's options are looked for in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Match {
    /// As words of the text, or as its hashtag.
    Word,
    /// As its hashtag only.
    Hashtag,
}

/// How many options one message can speak to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Choices {
    /// Each that matches counts once.
    Many,
    /// The first in the text.
    One,
}

/// Who may hold only one standing vote. Both names mean the same: the author of a message and the voter
/// of a vote, which are two name spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Person {
    Author,
    Voter,
}

/// What a repost counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Reposts {
    /// Nothing.
    Ignore,
    /// A message of who reposts, with the text of what is reposted.
    Count,
}

/// A poll's definition, checked: everything that decides what it counts, and its title.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    /// The subject of its tallies.
    pub id: String,
    pub title: String,
    /// At least one, no two of them equal. The groups of its tallies.
    pub options: Vec<String>,
    pub matching: Match,
    pub choices: Choices,
    /// [`Keep::All`] exactly where `entity` is `None`.
    pub keep: Keep,
    /// `None`: each message and each vote counts for itself.
    pub entity: Option<Person>,
    pub reposts: Reposts,
    /// Event times from here on count, in nanoseconds since 1970.
    pub opens_ns: i64,
    /// Event times before this count.
    pub closes_ns: Option<i64>,
    /// Records count that have reached the log before `closes` and this.
    pub grace: Duration,
}

/// Names a version of a poll: each is a subject of its own within the engine, and readers see one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PollKey {
    pub id: String,
    /// From 1; greater than that of every poll that had this id before.
    pub version: u32,
}

/// A version of a poll with where it begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollInForce {
    pub poll: Poll,
    pub version: u32,
    /// By input and partition: records before it never count. A partition that is not here counts from
    /// its beginning.
    pub from: Vec<Vec<Offset>>,
}

impl PollInForce {
    pub fn key(&self) -> PollKey {
        PollKey { id: self.poll.id.clone(), version: self.version }
    }
}

impl Poll {
    /// The most options.
    pub const OPTIONS_MAX: usize = 1_000;
    /// The longest option, title and id, in characters.
    pub const OPTION_CHARS_MAX: usize = 256;
    pub const TITLE_CHARS_MAX: usize = 1_000;
    pub const ID_CHARS_MAX: usize = 128;

    /// The log time, in ms since 1970, from which on no record can count any more.
    pub fn sealed_ms(&self) -> Option<i64> {
        let closes = i128::from(self.closes_ns?) + i128::try_from(self.grace.as_nanos()).unwrap_or(i128::MAX >> 1);
        // The log's timestamps are whole milliseconds: the first that is not before it.
        let whole = closes.div_euclid(1_000_000) + i128::from(closes.rem_euclid(1_000_000) > 0);
        Some(i64::try_from(whole).unwrap_or(i64::MAX))
    }

    /// Whether what it counts differs: all but the title does.
    pub fn counts_as(&self, other: &Poll) -> bool {
        *self == Poll { title: self.title.clone(), ..other.clone() }
    }
}
