//! Results as they once were: what a history keeps of them, and results made from that again.

use super::{JobResults, Line, Recent, Shape, Subject};
use crate::accounting::{Accounting, ClaimAccounting};
use crate::claim::LineId;
use crate::ids::{Epoch, Offset};
use crate::number::Decimal;
use crate::results::Digest;
use crate::results::model::Group;
use crate::results::order::Ranking;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// What is known of a subject beside its lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubjectState {
    /// The sum of its values, where there is one.
    pub total: Option<Decimal>,
    pub claims: ClaimAccounting,
}

/// A job's results at an epoch, or those of some of its subjects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Past {
    pub job: String,
    pub epoch: Epoch,
    /// When it closed, in ms since 1970.
    pub at_ms: i64,
    /// By the job's order.
    pub aggregates: Vec<String>,
    /// Whether subjects have totals and lines shares.
    pub has_total: bool,
    /// How many lines of a subject were shown unless a reader asked for another number.
    pub top: Option<usize>,
    pub offsets: BTreeMap<String, Vec<Offset>>,
    pub accounting: Accounting,
    /// By name.
    pub subjects: BTreeMap<String, PastSubject>,
}

/// A subject with its lines.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PastSubject {
    pub state: SubjectState,
    /// Each with its values, by the job's order; in any order.
    pub lines: Vec<(Group, Vec<Decimal>)>,
}

impl JobResults {
    /// How often these results took over from others: what another number of them told of changes may
    /// be less than all that differs.
    pub fn takeovers(&self) -> u32 {
        self.takeovers
    }

    /// The state of every subject that readers see, in no order.
    pub fn subject_states(&self) -> impl Iterator<Item = (&str, SubjectState)> {
        self.subjects.iter().filter(|s| s.is_there()).map(|s| (s.name.as_str(), s.state()))
    }

    /// The state of each subject of which anything may have changed after `since`; `None`: it is gone.
    /// Nothing at all if what changed is no longer known. What was taken over since is not told in full.
    pub fn subjects_since(&self, since: Epoch) -> Option<Vec<(&str, Option<SubjectState>)>> {
        if since < self.known_since {
            return None;
        }
        let mut changed: HashSet<u32> = HashSet::new();
        for Recent { lines, totals, claims, .. } in self.recent.iter().rev().take_while(|r| r.epoch > since) {
            changed.extend(totals.iter().chain(claims));
            changed.extend(lines.iter().map(|(line, _)| self.lines[*line as usize].subject));
        }
        let state = |index: u32| {
            let subject = &self.subjects[index as usize];
            (subject.name.as_str(), subject.is_there().then(|| subject.state()))
        };
        Some(changed.into_iter().map(state).collect())
    }

    /// Results as they once were, to be read like any others. Their digest is computed anew from the
    /// lines; they know of no changes.
    pub fn of_past(past: Past) -> JobResults {
        let (topics, places): (Vec<_>, Vec<_>) = past.offsets.into_iter().unzip();
        let places: Vec<Vec<(Offset, Offset)>> =
            places.into_iter().map(|of: Vec<Offset>| of.into_iter().map(|next| (next, next)).collect()).collect();
        let mut results = JobResults::new(Shape {
            job: past.job,
            aggregates: past.aggregates,
            has_total: past.has_total,
            top: past.top,
            inputs: topics.into_iter().map(|topic| (topic, Vec::new())).collect(),
        });
        results.inputs = places;
        (results.epoch, results.at_ms, results.known_since) = (past.epoch, past.at_ms, past.epoch);
        results.accounting = past.accounting;
        for (name, PastSubject { state, lines }) in past.subjects {
            let SubjectState { total, claims } = state;
            let subject = results.subjects.len() as u32;
            results.subjects.push(Subject { name, total, claims, ranking: Ranking::default(), lines: Vec::new() });
            for (group, values) in lines {
                let index = results.lines.len() as u32;
                // No update comes for them: they need no ids that tell them apart.
                let id = LineId { subject: 0, group: 0 };
                let line = Line { id, subject, group: Arc::new(group), values: None, digest: Digest::default() };
                results.lines.push(line);
                results.set_line(index, Some(values));
            }
        }
        results
    }
}

impl Subject {
    fn state(&self) -> SubjectState {
        SubjectState { total: self.total, claims: self.claims }
    }
}
