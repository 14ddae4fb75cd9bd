//! The recount of a `tally` job: one keep rule for all claims.

use super::judge::{Claim, Judge, Judgement, Key, Order};
use super::lines::Lines;
use super::{Counts, RecountError, RecountResult, SubjectCounts, Verdict};
use crate::decode::{Event, Formats};
use crate::record::RecordRef;
use crate::spec::{JobSpec, Keep, TallySpec};
use std::collections::{BTreeMap, HashMap};

/// A recount of a tally under way.
pub(super) struct TallyRecount {
    judge: Judge,
    keep: Keep,
    lines: Lines,
    /// By entity, the claims that stand so far, each by what tells it from a duplicate. Under `last`
    /// and `first` there is one.
    standing: HashMap<Vec<String>, HashMap<Key, Claim>>,
    /// By message, the newest version that concerns no line, or its deletion: older ones do not stand.
    replaced: HashMap<Vec<String>, Order>,
    subjects: BTreeMap<String, SubjectCounts>,
    result: Counts,
}

impl TallyRecount {
    pub fn new(job: &JobSpec, tally: &TallySpec, formats: &dyn Formats) -> TallyRecount {
        TallyRecount {
            judge: Judge::new(job, tally, formats),
            keep: job.keeping(formats).keep,
            lines: Lines::new(tally.aggregates.clone()),
            standing: HashMap::new(),
            replaced: HashMap::new(),
            subjects: BTreeMap::new(),
            result: Counts::default(),
        }
    }

    pub fn record(&mut self, input: usize, record: &RecordRef<'_>) -> Verdict {
        self.result.read += 1;
        let mut event = Event::default();
        match self.judge.judge(input, record, &mut event) {
            Judgement::Rejected(reason) => {
                self.result.rejected += 1;
                Verdict::Rejected(reason)
            }
            Judgement::Irrelevant => {
                self.result.irrelevant += 1;
                Verdict::Irrelevant
            }
            Judgement::Replaces { entity, order } => {
                self.result.irrelevant += 1;
                let newest = self.replaced.entry(entity).or_insert(order);
                *newest = order.max(*newest);
                Verdict::Irrelevant
            }
            Judgement::Claim(claim) => {
                self.result.matched += 1;
                self.subjects.entry(claim.subject.clone()).or_default().claims += 1;
                self.claim(claim);
                Verdict::Matched
            }
        }
    }

    fn claim(&mut self, claim: Claim) {
        if self.keep == Keep::All {
            // Nothing takes it back: it need not be remembered.
            self.subjects.entry(claim.subject.clone()).or_default().counted += 1;
            return self.lines.add(&claim);
        }
        let standing = self.standing.entry(claim.entity.clone()).or_default();
        // Under `last` and `first` all claims of an entity contend for one place; under `first-n` only
        // those that are one another's duplicates do.
        let key = if matches!(self.keep, Keep::FirstN(_)) { claim.key() } else { Key::Entity };
        let stays = standing.get(&key).is_some_and(|before| match self.keep {
            Keep::Last => before.order > claim.order,
            _ => before.order < claim.order,
        });
        if !stays {
            standing.insert(key, claim);
        }
        if let Keep::FirstN(n) = self.keep
            && standing.len() > n as usize
            && let Some(greatest) = standing.iter().max_by_key(|(_, claim)| claim.order).map(|(key, _)| key.clone())
        {
            standing.remove(&greatest);
        }
    }

    pub fn finish(mut self) -> Result<RecountResult, RecountError> {
        for claim in self.standing.values().flat_map(HashMap::values) {
            if self.replaced.get(&claim.entity).is_some_and(|newest| *newest > claim.order) {
                continue;
            }
            self.subjects.entry(claim.subject.clone()).or_default().counted += 1;
            self.lines.add(claim);
        }
        let (lines, totals) = self.lines.finish()?;
        let counted = self.subjects.values().map(|s| s.counted).sum();
        Ok(RecountResult {
            lines,
            totals,
            subjects: self.subjects,
            read: self.result.read,
            rejected: self.result.rejected,
            irrelevant: self.result.irrelevant,
            matched: self.result.matched,
            // In a `tally` job a matched record makes one claim.
            claims: self.result.matched,
            counted,
            rest: self.result.matched - counted,
        })
    }
}
