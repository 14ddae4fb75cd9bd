//! The recount of a `tally` job: one keep rule for all claims.

use super::base::{self, Piece};
use super::judge::{Claim, Judge, Judgement, Key, Order};
use super::lines::Lines;
use super::share::Share;
use super::{Counts, ENTRY_BYTES, Passes, RecountError, RecountResult, SubjectCounts, Verdict};
use crate::decode::{Event, Formats};
use crate::record::RecordRef;
use crate::spec::{JobSpec, Keep, TallySpec};
use std::collections::{BTreeMap, HashMap};

/// A recount of a tally under way.
///
/// ```text
/// round:  a share of the distinct values, mostly all of them
///   pass: a share of the entities: what stands is known when all records were read, and goes to the lines
/// ```
pub(super) struct TallyRecount {
    judge: Judge,
    lines: Lines,
    standing: Standing,
    /// By message, the newest version that concerns no line, or its deletion: older ones do not stand.
    replaced: HashMap<Vec<String>, Order>,
    subjects: BTreeMap<String, SubjectCounts>,
    result: Counts,
    share: Share,
    pass: u64,
    /// Of `standing` and `replaced`.
    bytes: usize,
    bytes_max: usize,
    /// Takes what this comes to, in pieces.
    keep: Option<Keeper>,
    /// Nothing is looked at any more.
    failed: Option<RecountError>,
}

/// Takes the pieces of a base.
pub(super) type Keeper = Box<dyn FnMut(&[u8])>;

/// By entity, what stands of what was read so far.
enum Standing {
    /// Every claim does, and none is remembered.
    Every,
    /// One claim: of the greatest order, or of the least.
    One { last: bool, claims: HashMap<Vec<String>, Claim> },
    /// At most so many, each by what tells it from a duplicate.
    Few { n: usize, claims: HashMap<Vec<String>, HashMap<Key, Claim>> },
}

impl Standing {
    fn new(keep: Keep) -> Standing {
        match keep {
            Keep::All => Standing::Every,
            Keep::Last | Keep::First => Standing::One { last: keep == Keep::Last, claims: HashMap::new() },
            Keep::FirstN(n) => Standing::Few { n: n as usize, claims: HashMap::new() },
        }
    }

    /// Adds a claim; how many bytes more, and how many fewer, are held.
    fn add(&mut self, claim: Claim) -> (usize, usize) {
        let added = held_bytes(&claim);
        let mut dropped = 0;
        match self {
            Standing::Every => dropped = added,
            Standing::One { last, claims } => {
                let newer = claims.get(&claim.entity).map(|before| (claim.order > before.order) == *last);
                if newer == Some(false) {
                    dropped = added;
                } else if let Some(before) = claims.insert(claim.entity.clone(), claim) {
                    dropped = held_bytes(&before);
                }
            }
            Standing::Few { n, claims } => {
                let standing = claims.entry(claim.entity.clone()).or_default();
                let key = claim.key();
                if standing.get(&key).is_some_and(|before| before.order < claim.order) {
                    dropped = added;
                } else if let Some(before) = standing.insert(key, claim) {
                    dropped = held_bytes(&before);
                }
                if standing.len() > *n
                    && let Some(greatest) = standing.iter().max_by_key(|(_, c)| c.order).map(|(key, _)| key.clone())
                    && let Some(greatest) = standing.remove(&greatest)
                {
                    dropped += held_bytes(&greatest);
                }
            }
        }
        (added, dropped)
    }

    /// Leaves those of a share.
    fn retain(&mut self, share: Share) {
        match self {
            Standing::Every => {}
            Standing::One { claims, .. } => claims.retain(|entity, _| share.holds(entity)),
            Standing::Few { claims, .. } => claims.retain(|entity, _| share.holds(entity)),
        }
    }

    fn claims(&self) -> Box<dyn Iterator<Item = &Claim> + '_> {
        match self {
            Standing::Every => Box::new(std::iter::empty()),
            Standing::One { claims, .. } => Box::new(claims.values()),
            Standing::Few { claims, .. } => Box::new(claims.values().flat_map(HashMap::values)),
        }
    }

    fn clear(&mut self) {
        match self {
            Standing::Every => {}
            Standing::One { claims, .. } => claims.clear(),
            Standing::Few { claims, .. } => claims.clear(),
        }
    }
}

/// What a claim takes that stands: twice its entity, and where keys tell claims apart, twice all of it.
fn held_bytes(claim: &Claim) -> usize {
    2 * claim.bytes() + ENTRY_BYTES
}

fn replaced_bytes(entity: &[String]) -> usize {
    entity.iter().map(|part| super::text_bytes(part) + size_of::<String>()).sum::<usize>() + ENTRY_BYTES
}

impl TallyRecount {
    pub fn new(job: &JobSpec, tally: &TallySpec, formats: &dyn Formats) -> TallyRecount {
        TallyRecount {
            judge: Judge::new(job, tally, formats),
            lines: Lines::new(tally.aggregates.clone()),
            standing: Standing::new(job.keeping(formats).keep),
            replaced: HashMap::new(),
            subjects: BTreeMap::new(),
            result: Counts::default(),
            share: Share::WHOLE,
            pass: 1,
            bytes: 0,
            bytes_max: usize::MAX,
            keep: None,
            failed: None,
        }
    }

    pub fn within(&mut self, bytes_max: usize) {
        // Distinct values are held beside the claims.
        let part = if self.lines.has_distinct() { bytes_max / 2 } else { bytes_max };
        self.bytes_max = part;
        self.lines.within(part);
    }

    pub fn in_parts(&mut self, parts: u32) {
        if !matches!(self.standing, Standing::Every) {
            self.share = Share::one_of(parts);
        }
        self.lines.in_parts(parts);
    }

    pub fn passes(&self) -> Passes {
        let rounds_after = self.lines.rounds_left().saturating_sub(1);
        let left = self.share.left().saturating_add(rounds_after.saturating_mul(self.share.first().left()));
        Passes { pass: self.pass, passes: self.pass + left.saturating_sub(1) }
    }

    pub fn record(&mut self, input: usize, record: &RecordRef<'_>) -> Option<Verdict> {
        let mut event = Event::default();
        let judgement = self.judge.judge(input, record, &mut event);
        let verdict = (self.pass == 1).then(|| {
            self.result.read += 1;
            match &judgement {
                Judgement::Rejected(reason) => {
                    self.result.rejected += 1;
                    Verdict::Rejected(reason.clone())
                }
                Judgement::Irrelevant(_) | Judgement::Replaces { .. } => {
                    self.result.irrelevant += 1;
                    Verdict::Irrelevant
                }
                Judgement::Claim(claim) => {
                    self.result.matched += 1;
                    let subject = self.subjects.entry(claim.subject.clone()).or_default();
                    subject.claims += 1;
                    subject.voided += u64::from(claim.voided.is_some());
                    Verdict::Matched
                }
            }
        });
        if self.failed.is_none() {
            let held = self.hold(judgement);
            self.fail(held);
        }
        verdict
    }

    pub fn rejected(&mut self, input: usize, record: &RecordRef<'_>) -> bool {
        if self.pass == 1 {
            self.result.read += 1;
            self.result.rejected += 1;
        }
        !matches!(self.judge.judge(input, record, &mut Event::default()), Judgement::Rejected(_))
    }

    /// Has `keep` take what this comes to, in pieces.
    pub fn keep(&mut self, keep: Keeper) {
        self.keep = Some(keep);
    }

    /// Adds a piece of a base, as a record in each pass; whether it is one.
    pub fn piece(&mut self, bytes: &[u8]) -> bool {
        let Ok(piece) = postcard::from_bytes(bytes) else { return false };
        let is_first = self.pass == 1;
        let held = match piece {
            Piece::Records { read, rejected, irrelevant, matched } if is_first => {
                self.result.read += read;
                self.result.rejected += rejected;
                self.result.irrelevant += irrelevant;
                self.result.matched += matched;
                Ok(())
            }
            Piece::Subject { subject, claims, counted, voided } if is_first => {
                let of = self.subjects.entry(subject).or_default();
                of.claims += claims;
                of.counted += counted;
                of.voided += voided;
                Ok(())
            }
            Piece::Records { .. } | Piece::Subject { .. } => Ok(()),
            Piece::Claim { subject, entity, order, id, event_time, contributions, distinct } => {
                let contributions = base::contributions(contributions);
                let claim = Claim { subject, entity, order, id, event_time, contributions, distinct, voided: None };
                self.hold(Judgement::Claim(claim))
            }
            Piece::Replaced { entity, order } => self.hold(Judgement::Replaces { entity, order, reason: "" }),
            Piece::Line { subject, group, sums } => {
                self.lines.sum(&subject, &group, &sums);
                Ok(())
            }
            Piece::Marks { subject, group, place, values } => {
                values.iter().for_each(|value| self.lines.mark(&subject, &group, place, value));
                self.lines.bound()
            }
        };
        self.fail(held);
        true
    }

    fn fail(&mut self, held: Result<(), RecountError>) {
        if let (None, Err(error)) = (&self.failed, held) {
            self.failed = Some(error);
            self.standing.clear();
            self.replaced.clear();
        }
    }

    fn hold(&mut self, judgement: Judgement) -> Result<(), RecountError> {
        match judgement {
            Judgement::Claim(Claim { voided: Some(_), .. }) => {}
            Judgement::Claim(claim) if matches!(self.standing, Standing::Every) => {
                // Nothing takes it back: it need not be remembered.
                return self.stands(&claim);
            }
            Judgement::Claim(claim) if self.share.holds(&claim.entity) => {
                let (added, dropped) = self.standing.add(claim);
                self.bytes = self.bytes + added - dropped;
            }
            Judgement::Replaces { entity, order, .. } if self.share.holds(&entity) => {
                let bytes = replaced_bytes(&entity);
                let newest = self.replaced.entry(entity).or_insert_with(|| {
                    self.bytes += bytes;
                    order
                });
                *newest = order.max(*newest);
            }
            _ => {}
        }
        while self.bytes > self.bytes_max {
            let share = self.share.halved().ok_or(RecountError::Memory { bytes_max: self.bytes_max })?;
            self.share = share;
            self.standing.retain(share);
            self.replaced.retain(|entity, _| share.holds(entity));
            let claims = self.standing.claims().map(held_bytes).sum::<usize>();
            self.bytes = claims + self.replaced.keys().map(|entity| replaced_bytes(entity)).sum::<usize>();
        }
        Ok(())
    }

    /// A claim stands.
    fn stands(&mut self, claim: &Claim) -> Result<(), RecountError> {
        if self.lines.is_first() {
            self.subjects.entry(claim.subject.clone()).or_default().counted += 1;
        }
        self.lines.add(claim)
    }

    pub fn again(&mut self) -> Result<bool, RecountError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let standing = std::mem::replace(&mut self.standing, Standing::Every);
        for claim in standing.claims() {
            let is_replaced = self.replaced.get(&claim.entity).is_some_and(|newest| *newest > claim.order);
            if !is_replaced {
                self.stands(claim)?;
                // Each is there once in every round.
                if let Some(keep) = self.keep.as_mut().filter(|_| self.lines.is_first()) {
                    keep(&Piece::of_claim(claim).to_bytes());
                }
            }
        }
        if let Some(keep) = &mut self.keep {
            if self.lines.is_first() {
                for (entity, order) in &self.replaced {
                    keep(&Piece::Replaced { entity: entity.clone(), order: *order }.to_bytes());
                }
            }
            // Else the claims tell.
            if matches!(standing, Standing::Every) {
                self.lines.pieces(|piece| keep(&piece.to_bytes()));
            }
        }
        self.standing = standing;
        self.standing.clear();
        self.replaced.clear();
        let room = std::mem::take(&mut self.bytes) < self.bytes_max / 3;
        match self.share.next(room) {
            Some(next) => self.share = next,
            // A further round begins with the first of the entities again.
            None if self.lines.again() => self.share = self.share.first(),
            None => return Ok(false),
        }
        self.pass += 1;
        Ok(true)
    }

    pub fn finish(mut self) -> Result<RecountResult, RecountError> {
        if let Some(keep) = &mut self.keep {
            let Counts { read, rejected, irrelevant, matched } = self.result;
            keep(&Piece::Records { read, rejected, irrelevant, matched }.to_bytes());
            let every = matches!(self.standing, Standing::Every);
            for (subject, of) in &self.subjects {
                let counted = if every { of.counted } else { 0 };
                let (subject, claims, voided) = (subject.clone(), of.claims, of.voided);
                keep(&Piece::Subject { subject, claims, counted, voided }.to_bytes());
            }
        }
        let (lines, totals) = self.lines.finish()?;
        let counted = self.subjects.values().map(|s| s.counted).sum();
        let voided = self.subjects.values().map(|s| s.voided).sum();
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
            voided,
            rest: self.result.matched - counted - voided,
        })
    }
}
