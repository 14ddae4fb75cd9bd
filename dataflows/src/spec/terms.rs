//! How a poll counts: what `[polls]` of a job file and a poll's definition have in common.

use super::Keep;
use super::fault::Faults;
use super::polls::{Choices, Match, Person, Poll, PollsSpec, Reposts};
use super::section::{Field, Section};
use super::tree::Kind;
use std::time::Duration;

/// The keys of [`terms`].
pub(super) const KEYS: [&str; 7] = ["match", "choices", "keep", "n", "entity", "reposts", "grace"];

const AHEAD: Duration = Duration::from_secs(3_600);

/// What decides how a poll counts, but for its options and times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub matching: Match,
    pub choices: Choices,
    pub keep: Keep,
    pub entity: Option<Person>,
    pub reposts: Reposts,
    pub grace: Duration,
}

impl Default for PollsSpec {
    fn default() -> Self {
        PollsSpec {
            matching: Match::Word,
            choices: Choices::Many,
            keep: Keep::All,
            entity: None,
            reposts: Reposts::Ignore,
            grace: Duration::from_secs(5 * 60),
            ahead: AHEAD,
        }
    }
}

impl From<&PollsSpec> for Terms {
    fn from(spec: &PollsSpec) -> Self {
        let PollsSpec { matching, choices, keep, entity, reposts, grace, ahead: _ } = *spec;
        Terms { matching, choices, keep, entity, reposts, grace }
    }
}

impl From<&Poll> for Terms {
    fn from(poll: &Poll) -> Self {
        let Poll { matching, choices, keep, entity, reposts, grace, .. } = *poll;
        Terms { matching, choices, keep, entity, reposts, grace }
    }
}

/// Reads `[polls]`.
pub(super) fn polls(field: &Field<'_>, faults: &mut Faults) -> Option<PollsSpec> {
    let section = Section::open(&*field.path, field.node, &KEYS, faults)?;
    let Terms { matching, choices, keep, entity, reposts, grace } =
        terms(&section, Terms::from(&PollsSpec::default()), faults)?;
    Some(PollsSpec { matching, choices, keep, entity, reposts, grace, ahead: AHEAD })
}

/// Reads the terms of a section; what it leaves out is as in `base`.
pub(super) fn terms(section: &Section<'_>, base: Terms, faults: &mut Faults) -> Option<Terms> {
    let matching = word(section, "match", [("word", Match::Word), ("hashtag", Match::Hashtag)], base.matching, faults);
    let choices = word(section, "choices", [("many", Choices::Many), ("one", Choices::One)], base.choices, faults);
    let reposts =
        word(section, "reposts", [("ignore", Reposts::Ignore), ("count", Reposts::Count)], base.reposts, faults);
    let entity = match section.get("entity") {
        Some(field) if matches!(field.node.kind, Kind::Null) => Some(None),
        Some(_) => {
            let persons = [("author", Person::Author), ("voter", Person::Voter)];
            word(section, "entity", persons, Person::Author, faults).map(Some)
        }
        None => Some(base.entity),
    };
    let keep = keep(section, entity, base.keep, faults);
    let grace = match section.get("grace") {
        Some(field) => field.duration("0s", "7d", faults),
        None => Some(base.grace),
    };
    Some(Terms {
        matching: matching?,
        choices: choices?,
        keep: keep?,
        entity: entity?,
        reposts: reposts?,
        grace: grace?,
    })
}

fn word<T: Copy, const N: usize>(
    section: &Section<'_>,
    key: &str,
    words: [(&str, T); N],
    base: T,
    faults: &mut Faults,
) -> Option<T> {
    let Some(field) = section.get(key) else { return Some(base) };
    let found = field.one_of(key, &words.map(|(word, _)| word), faults)?;
    words.iter().find(|(word, _)| *word == found).map(|(_, meaning)| *meaning)
}

/// `keep` and `n`. Without an entity there is nothing to choose among, so that a poll whose entity is
/// taken away counts everything, and one that is given an entity counts each one's last.
fn keep(section: &Section<'_>, entity: Option<Option<Person>>, base: Keep, faults: &mut Faults) -> Option<Keep> {
    let field = section.get("keep");
    let word = match &field {
        Some(field) => Some(field.one_of("keep rule", &["all", "first", "last", "first-n"], faults)?),
        None => None,
    };
    let n = match section.get("n") {
        Some(field) => Some(field.integer(1, i64::from(Keep::N_MAX), faults)?),
        None => None,
    };
    let n = n.and_then(|n| u32::try_from(n).ok());
    let keep = match (word, entity?) {
        (None | Some("all"), None) => Keep::All,
        (Some(word), None) => {
            let remedy = "write entity \"author\" or \"voter\", or leave keep out";
            return field.as_ref()?.fault(faults, format!("{word:?} needs to know whose vote it keeps; {remedy}"));
        }
        (Some("all"), Some(_)) => {
            let message = "\"all\" counts every message and every vote and has no entity; leave keep out, or the entity \
                           (null where the job's polls have one)";
            return field.as_ref()?.fault(faults, message);
        }
        (None, Some(_)) if base == Keep::All => Keep::Last,
        (None, Some(_)) => match (base, n) {
            (Keep::FirstN(_), Some(n)) => Keep::FirstN(n),
            (base, _) => base,
        },
        (Some("first"), Some(_)) => Keep::First,
        (Some("last"), Some(_)) => Keep::Last,
        (Some(_), Some(_)) => match (n, base) {
            (Some(n), _) | (None, Keep::FirstN(n)) => Keep::FirstN(n),
            (None, _) => {
                faults.missing(section.line, section.path_of("n"), "say how many keep \"first-n\" keeps, like 3");
                return None;
            }
        },
    };
    match section.get("n") {
        Some(field) if !matches!(keep, Keep::FirstN(_)) => {
            field.fault(faults, "has no meaning without keep \"first-n\"; leave it out")
        }
        _ => Some(keep),
    }
}
