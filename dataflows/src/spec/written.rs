//! A poll in JSON, as it is written in requests and in answers.

use super::Keep;
use super::polls::{Choices, Match, Person, PollInForce, Reposts};
use crate::ids::Offset;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A poll to be made, as one writes it. What is left out is as the job's `[polls]` says.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NewPoll {
    /// Made from the title unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(max_length = 128, pattern = "^[a-zA-Z0-9_][a-zA-Z0-9_.-]*$"))]
    pub id: Option<String>,
    /// The id unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(min_length = 1, max_length = 1000))]
    pub title: Option<String>,
    /// No two the same, case and spaces aside; each of 1 to 256 characters.
    #[cfg_attr(feature = "schema", schema(min_items = 1, max_items = 1000))]
    pub options: Vec<String>,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<Match>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choices: Option<Choices>,
    /// Other than `all` only with an entity; with one, `last` unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<KeepRule>,
    /// How many `first-n` keeps; only with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 1000))]
    pub n: Option<u32>,
    /// Whose votes are told apart; null: each message and each vote counts for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entity: Option<Person>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reposts: Option<Reposts>,
    /// RFC 3339, or whole epoch milliseconds; now unless given. Event times from here on count.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(format = DateTime))]
    pub opens: Option<String>,
    /// RFC 3339, or whole epoch milliseconds; never unless given. Event times before this count.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(format = DateTime))]
    pub closes: Option<String>,
    /// How long after it has closed its records may still reach the log: `0s` to `7d`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(pattern = "^[0-9]+(ms|s|m|h|d)$"))]
    pub grace: Option<String>,
    /// The job that it belongs to; needed only where there are several jobs of polls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
}

/// A poll as it is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Definition {
    pub id: String,
    pub job: String,
    pub title: String,
    pub options: Vec<String>,
    #[serde(rename = "match")]
    pub matching: Match,
    pub choices: Choices,
    pub keep: KeepRule,
    /// How many `first-n` keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// Null: each message and each vote counts for itself.
    pub entity: Option<Person>,
    pub reposts: Reposts,
    /// RFC 3339. Event times from here on count.
    pub opens: String,
    /// RFC 3339. Event times before this count; null: it never closes.
    pub closes: Option<String>,
    /// How long after it has closed its records may still reach the log.
    pub grace: String,
    pub version: u32,
    /// By topic and partition: records before these offsets never count.
    pub from: BTreeMap<String, Vec<Offset>>,
}

/// Which of an entity's messages or votes count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum KeepRule {
    All,
    First,
    Last,
    FirstN,
}

impl Definition {
    /// `topics`: those of the job's inputs, in order.
    pub fn new<'a>(job: &str, in_force: &PollInForce, topics: impl IntoIterator<Item = &'a str>) -> Self {
        let poll = &in_force.poll;
        let mut from: BTreeMap<String, Vec<Offset>> = BTreeMap::new();
        for (topic, places) in topics.into_iter().zip(&in_force.from) {
            // A topic that is read twice: what lies before both.
            from.entry(topic.to_owned())
                .and_modify(|least| least.iter_mut().zip(places).for_each(|(least, at)| *least = (*least).min(*at)))
                .or_insert_with(|| places.clone());
        }
        let (keep, n) = match poll.keep {
            Keep::All => (KeepRule::All, None),
            Keep::First => (KeepRule::First, None),
            Keep::Last => (KeepRule::Last, None),
            Keep::FirstN(n) => (KeepRule::FirstN, Some(n)),
        };
        Definition {
            id: poll.id.clone(),
            job: job.to_owned(),
            title: poll.title.clone(),
            options: poll.options.clone(),
            matching: poll.matching,
            choices: poll.choices,
            keep,
            n,
            entity: poll.entity,
            reposts: poll.reposts,
            opens: time_text(poll.opens_ns),
            closes: poll.closes_ns.map(time_text),
            grace: span_text(poll.grace),
            version: in_force.version,
            from,
        }
    }
}

/// Nanoseconds since 1970 as RFC 3339, with the digits that there are.
pub fn time_text(ns: i64) -> String {
    // 64 bits of nanoseconds lie well within jiff's years.
    jiff::Timestamp::from_nanosecond(i128::from(ns)).map_or_else(|_| String::new(), |time| time.to_string())
}

/// A span as a definition writes it: a whole number of the greatest unit that fits.
fn span_text(span: Duration) -> String {
    let ms = span.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.into_iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None if ms == 0 => "0s".to_owned(),
        None => format!("{ms}ms"),
    }
}
