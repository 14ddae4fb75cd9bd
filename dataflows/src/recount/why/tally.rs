//! The question in a `tally` job.

use super::{Answer, At, ClaimFate, Fate, Question, RecordFate, Says, Told, fates};
use crate::decode::{Event, Formats};
use crate::record::RecordRef;
use crate::recount::judge::{Claim, Judge, Judgement, Order, joined};
use crate::recount::{ENTRY_BYTES, Verdict};
use crate::spec::{JobSpec, Keep, TallySpec};
use std::collections::{BTreeMap, HashMap};

pub(super) struct TallyWhy {
    judge: Judge,
    keep: Keep,
    question: Question,
    record: Option<RecordFate>,
    /// Where the record that is asked for makes no claim and takes the place of one.
    replaces: Option<(Vec<String>, Order)>,
    /// The claims that are asked for.
    claims: BTreeMap<Order, Claim>,
    /// In the second pass, all that their entities have said.
    told: Option<HashMap<Vec<String>, Vec<Told>>>,
    pub bytes: usize,
}

impl TallyWhy {
    pub fn new(job: &JobSpec, tally: &TallySpec, formats: &dyn Formats, question: Question) -> TallyWhy {
        TallyWhy {
            judge: Judge::new(job, tally, formats),
            keep: job.keeping(formats).keep,
            question,
            record: None,
            replaces: None,
            claims: BTreeMap::new(),
            told: None,
            bytes: 0,
        }
    }

    /// Without an entity nothing gives way.
    pub fn passes(&self) -> u64 {
        if self.keep == Keep::All { 1 } else { 2 }
    }

    pub fn record(&mut self, input: usize, record: &RecordRef<'_>) {
        let at = At { input, partition: record.partition, offset: record.offset };
        if self.told.is_none() && matches!(&self.question, Question::At(asked) if *asked != at) {
            return;
        }
        let mut event = Event::default();
        let judgement = self.judge.judge(input, record, &mut event);
        if let Some(told) = &mut self.told {
            let (entity, said) = match judgement {
                Judgement::Claim(Claim { voided: Some(_), .. }) => return,
                Judgement::Claim(claim) => {
                    let says = if claim.contributions.is_empty() { Says::Withdrawal } else { Says::Contribution };
                    let said = Told { order: claim.order, key: format!("{:?}", claim.key()), says };
                    (claim.entity, said)
                }
                Judgement::Replaces { entity, order, .. } => {
                    (entity, Told { order, key: String::new(), says: Says::Nothing })
                }
                Judgement::Rejected(_) | Judgement::Irrelevant(_) => return,
            };
            if let Some(told) = told.get_mut(&entity) {
                self.bytes += said.bytes();
                told.push(said);
            }
            return;
        }
        match &self.question {
            Question::Line { subject, group, limit } => {
                if let Judgement::Claim(claim) = judgement
                    && claim.subject == *subject
                    && claim.contributions.iter().any(|contribution| contribution.group == *group)
                {
                    self.bytes += claim.bytes() + ENTRY_BYTES;
                    self.claims.insert(claim.order, claim);
                    if self.claims.len() > *limit
                        && let Some((_, oldest)) = self.claims.pop_first()
                    {
                        self.bytes -= oldest.bytes() + ENTRY_BYTES;
                    }
                }
            }
            Question::At(_) => {
                let (verdict, reason) = match judgement {
                    Judgement::Rejected(reason) => (Verdict::Rejected(reason), None),
                    Judgement::Irrelevant(reason) => (Verdict::Irrelevant, Some(reason)),
                    Judgement::Replaces { entity, order, reason } => {
                        self.replaces = Some((entity, order));
                        (Verdict::Irrelevant, Some(reason))
                    }
                    Judgement::Claim(claim) => {
                        self.claims.insert(claim.order, claim);
                        (Verdict::Matched, None)
                    }
                };
                self.record = Some(RecordFate { verdict, reason, replaced: None });
            }
        }
    }

    pub fn again(&mut self) -> bool {
        if self.keep == Keep::All || self.told.is_some() {
            return false;
        }
        let entities =
            self.claims.values().map(|claim| &claim.entity).chain(self.replaces.iter().map(|(entity, _)| entity));
        let told: HashMap<Vec<String>, Vec<Told>> = entities.map(|entity| (entity.clone(), Vec::new())).collect();
        let again = !told.is_empty();
        self.told = Some(told);
        again
    }

    pub fn finish(mut self) -> Answer {
        let all: HashMap<Order, _> =
            self.told.unwrap_or_default().into_values().flat_map(|told| fates(self.keep, told)).collect();
        if let (Some(record), Some((_, order))) = (&mut self.record, &self.replaces) {
            record.replaced = all.get(order).and_then(|(.., replaced)| *replaced);
        }
        let has_entity = self.keep != Keep::All;
        let claims = self.claims.into_values().rev().map(|claim| {
            let found = match claim.voided {
                Some(id) => Some((Fate::Voided(id), None, None)),
                None => all.get(&claim.order).copied(),
            };
            let (fate, by, replaced) = found.unwrap_or((Fate::Counted, None, None));
            ClaimFate {
                at: At::of(claim.order),
                time_ns: claim.order.0,
                subject: claim.subject,
                lines: claim.contributions.into_iter().map(|c| (c.group, c.value)).collect(),
                entity: has_entity.then(|| joined(claim.entity)),
                fate,
                by,
                replaced,
            }
        });
        Answer { record: self.record, claims: claims.collect() }
    }
}
