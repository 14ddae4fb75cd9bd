//! The state of a job's results.

mod delta;
mod past;
mod succession;

pub use past::{Past, SubjectState};

use crate::accounting::{Accounting, ClaimAccounting, Class};
use crate::claim::LineId;
use crate::engine::facts::{ClaimChanges, NEWEST_KEPT, Newest};
use crate::engine::job::InstallInput;
use crate::ids::{Epoch, Offset};
use crate::number::Decimal;
use crate::results::Digest;
use crate::results::model::{Filter, Group, ReadError, SubjectTallies, Tallies, Tally};
use crate::results::order::{Place, Ranking};
use crate::spec::{Aggregate, Dataflow, JobSpec};
use crate::update::{EpochUpdate, ReadTo};
use indexmap::IndexMap;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// What does not change while a job runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    pub job: String,
    /// By the job's order.
    pub aggregates: Vec<String>,
    /// Whether subjects have totals and lines shares.
    pub has_total: bool,
    /// How many lines of a subject are shown unless a reader asks for another number.
    pub top: Option<usize>,
    /// By input its topic, and where each partition starts.
    pub inputs: Vec<(String, Vec<Offset>)>,
}

/// All tallies of a job at its newest closed epoch.
#[derive(Clone, Debug)]
pub struct JobResults {
    shape: Shape,
    epoch: Epoch,
    at_ms: i64,
    inputs: Vec<Vec<(Offset, Offset)>>,
    accounting: Accounting,
    digest: Digest,
    lines: Vec<Line>,
    line_index: HashMap<LineId, u32>,
    subjects: Vec<Subject>,
    subject_index: HashMap<u64, u32>,
    /// By name, the subjects that are gone, with their lines: both come back to their places.
    gone: HashMap<String, (u32, Vec<u32>)>,
    newest: BTreeMap<Class, VecDeque<Newest>>,
    /// Oldest first.
    recent: VecDeque<Recent>,
    recent_lines: usize,
    /// Deltas can be told from this epoch on.
    known_since: Epoch,
    /// How often what is shown of an epoch has changed without an epoch of its own.
    looks: u32,
    /// How often other results were taken over.
    takeovers: u32,
}

#[derive(Clone, Debug)]
struct Line {
    id: LineId,
    subject: u32,
    group: Arc<Group>,
    /// `None`: no contribution of it stands.
    values: Option<Vec<Decimal>>,
    digest: Digest,
}

#[derive(Clone, Debug)]
struct Subject {
    name: String,
    total: Option<Decimal>,
    claims: ClaimAccounting,
    ranking: Ranking,
    /// All that ever stood in it: they come and go with it, and each is one line only.
    lines: Vec<u32>,
}

impl Subject {
    /// Whether readers see it: a line of it stands, or claims were made for it.
    fn is_there(&self) -> bool {
        self.claims.claims > 0 || self.ranking.len() > 0
    }
}

/// What an epoch changed, kept for readers that come back.
#[derive(Clone, Debug)]
struct Recent {
    epoch: Epoch,
    /// The epoch that it has changed; there is none between them that is known here.
    before: Epoch,
    /// Each line with its first aggregate before the epoch.
    lines: Vec<(u32, Option<Decimal>)>,
    totals: Vec<u32>,
    /// The subjects whose accounting changed.
    claims: Vec<u32>,
}

impl Shape {
    /// The shape of a job's results; `inputs` are the spec's, resolved.
    pub fn of(spec: &JobSpec, inputs: &[InstallInput]) -> Self {
        let starts = |input: &InstallInput| (input.topic.clone(), input.partitions.iter().map(|p| p.from).collect());
        let (aggregates, top) = match &spec.dataflow {
            Dataflow::Tally(tally) => (tally.aggregates.as_slice(), tally.top),
            Dataflow::Polls(_) => ([Aggregate::Count].as_slice(), None),
        };
        Shape {
            job: spec.name.clone(),
            aggregates: aggregates.iter().map(Aggregate::name).collect(),
            has_total: aggregates.first().is_some_and(Aggregate::has_total),
            top,
            inputs: inputs.iter().map(starts).collect(),
        }
    }
}

impl JobResults {
    /// How many past epochs, and how many changed lines in all, are kept for readers that come back.
    const RECENT_EPOCHS_MAX: usize = 4_096;
    const RECENT_LINES_MAX: usize = 1_000_000;

    /// Nothing known yet, not even an epoch.
    pub fn new(shape: Shape) -> Self {
        let inputs = shape.inputs.iter().map(|(_, starts)| starts.iter().map(|s| (*s, *s)).collect()).collect();
        JobResults {
            shape,
            epoch: Epoch(0),
            at_ms: 0,
            inputs,
            accounting: Accounting::default(),
            digest: Digest::default(),
            lines: Vec::new(),
            line_index: HashMap::new(),
            subjects: Vec::new(),
            subject_index: HashMap::new(),
            gone: HashMap::new(),
            newest: BTreeMap::new(),
            recent: VecDeque::new(),
            recent_lines: 0,
            known_since: Epoch(0),
            looks: 0,
            takeovers: 0,
        }
    }

    /// Has a place for every partition of the inputs, of which more may have come.
    pub fn grow(&mut self, inputs: &[InstallInput]) {
        for ((input, (_, starts)), places) in inputs.iter().zip(&mut self.shape.inputs).zip(&mut self.inputs) {
            for start in input.partitions.iter().skip(starts.len()) {
                starts.push(start.from);
                places.push((start.from, start.from));
            }
        }
    }

    /// Goes on to the update's epoch.
    pub fn apply(&mut self, update: EpochUpdate) {
        debug_assert!(update.epoch > self.epoch);
        let before = std::mem::replace(&mut self.epoch, update.epoch);
        self.at_ms = update.at_ms;
        if before == Epoch(0) {
            self.known_since = update.epoch;
        }
        for ReadTo { input, partition, next, end } in update.offsets {
            if let Some(place) = self.inputs.get_mut(input as usize).and_then(|i| i.get_mut(partition.0 as usize)) {
                *place = (next, end.max(next));
            }
        }
        let mut recent = Recent {
            epoch: update.epoch,
            before,
            lines: Vec::with_capacity(update.lines.len()),
            totals: Vec::new(),
            claims: Vec::with_capacity(update.claims.len()),
        };
        for subject in update.gone {
            self.take_away(subject, &mut recent);
        }
        let known = self.subjects.len() as u32;
        for (id, name) in update.subjects {
            // What [`JobResults::take_over`] has kept a place for comes back to it.
            if self.subject_index.contains_key(&id) {
                continue;
            }
            // Another version of what was there before takes its place.
            if let Some((place, lines)) = self.gone.remove(&name) {
                self.subject_index.insert(id, place);
                for index in lines {
                    let line = &mut self.lines[index as usize].id;
                    line.subject = id;
                    self.line_index.insert(*line, index);
                }
                continue;
            }
            self.subject_index.insert(id, self.subjects.len() as u32);
            let ranking = Ranking::default();
            let total = self.shape.has_total.then_some(Decimal::ZERO);
            self.subjects.push(Subject { name, total, claims: ClaimAccounting::default(), ranking, lines: Vec::new() });
        }
        for (id, group) in update.names {
            let Some(subject) = self.subject_index.get(&id.subject).copied() else { continue };
            if self.line_index.contains_key(&id) {
                continue;
            }
            self.line_index.insert(id, self.lines.len() as u32);
            self.subjects[subject as usize].lines.push(self.lines.len() as u32);
            let group = Arc::new(Group(group));
            self.lines.push(Line { id, subject, group, values: None, digest: Digest::default() });
        }
        let taken: HashMap<u32, Option<Decimal>> = recent.lines.iter().copied().collect();
        for (id, values) in update.lines {
            if let Some(index) = self.line_index.get(&id).copied() {
                let was = self.set_line(index, values);
                // Of a line that another version has, what it was is told already.
                if !taken.contains_key(&index) {
                    recent.lines.push((index, was));
                }
            }
        }
        // A subject that is new is told even if nothing stands in it yet.
        recent.totals.extend(known..self.subjects.len() as u32);
        for (subject, total) in update.totals {
            if let Some(index) = self.subject_index.get(&subject).copied() {
                self.subjects[index as usize].total = Some(total);
                recent.totals.push(index);
            }
        }
        let add = |n: &mut u64, by: i64| *n = n.saturating_add_signed(by);
        add(&mut self.accounting.read, update.records.read);
        add(&mut self.accounting.rejected, update.records.rejected);
        add(&mut self.accounting.irrelevant, update.records.irrelevant);
        add(&mut self.accounting.matched, update.records.matched);
        for (subject, changes) in update.claims {
            if let Some(index) = self.subject_index.get(&subject).copied() {
                self.count(index, changes);
                recent.claims.push(index);
            }
        }
        for newest in update.newest {
            let kept = self.newest.entry(newest.class).or_default();
            kept.push_back(newest);
            if kept.len() > NEWEST_KEPT {
                kept.pop_front();
            }
        }
        self.remember(recent);
    }

    fn set_line(&mut self, index: u32, values: Option<Vec<Decimal>>) -> Option<Decimal> {
        let line = &mut self.lines[index as usize];
        let subject = &mut self.subjects[line.subject as usize];
        let was = line.values.as_ref().and_then(|v| v.first().copied());
        if let Some(was) = was {
            subject.ranking.remove(was, &line.group, index);
            self.digest.remove(line.digest);
        }
        if let Some(values) = &values
            && let Some(value) = values.first()
        {
            subject.ranking.insert(*value, &line.group, index);
            line.digest = Digest::of_line(&subject.name, &line.group, values);
            self.digest.add(line.digest);
        }
        line.values = values;
        was
    }

    fn count(&mut self, subject: u32, changes: ClaimChanges) {
        let add = |n: &mut u64, by: i64| *n = n.saturating_add_signed(by);
        let claims = &mut self.subjects[subject as usize].claims;
        add(&mut claims.claims, changes.claims);
        add(&mut claims.counted, changes.counted);
        add(&mut claims.superseded, changes.superseded);
        add(&mut claims.duplicate, changes.duplicate);
        add(&mut claims.voided, changes.voided);
        let all = &mut self.accounting;
        add(&mut all.claims, changes.claims);
        add(&mut all.counted, changes.counted);
        add(&mut all.superseded, changes.superseded);
        add(&mut all.duplicate, changes.duplicate);
        add(&mut all.voided, changes.voided);
    }

    fn remember(&mut self, recent: Recent) {
        self.recent_lines += recent.lines.len();
        self.recent.push_back(recent);
        while self.recent.len() > Self::RECENT_EPOCHS_MAX || self.recent_lines > Self::RECENT_LINES_MAX {
            let Some(gone) = self.recent.pop_front() else { break };
            self.recent_lines -= gone.lines.len();
            self.known_since = gone.epoch;
        }
    }

    /// Shows another number of lines of each subject. Readers of deltas begin with a snapshot again.
    pub fn set_top(&mut self, top: Option<usize>) {
        self.shape.top = top;
        self.looks += 1;
        self.recent.clear();
        self.recent_lines = 0;
        self.known_since = Epoch(self.epoch.0 + 1);
    }

    /// The newest closed epoch; `None` before the first.
    pub fn epoch(&self) -> Option<Epoch> {
        (self.epoch > Epoch(0)).then_some(self.epoch)
    }

    /// What tells this look at the results from every other: the epoch, and how often what is shown has
    /// changed between epochs, where it has.
    pub fn tag(&self) -> String {
        match self.looks {
            0 => self.epoch.to_string(),
            looks => format!("{}-{looks}", self.epoch),
        }
    }

    /// When it closed, in ms since 1970.
    pub fn at_ms(&self) -> i64 {
        self.at_ms
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn accounting(&self) -> &Accounting {
        &self.accounting
    }

    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// By input and partition: the next offset, and the partition's end as last heard of.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &[(Offset, Offset)])> {
        self.shape.inputs.iter().zip(&self.inputs).map(|((topic, _), places)| (topic.as_str(), places.as_slice()))
    }

    /// The offsets that these tallies stand for. Where two inputs read one topic, those that both have
    /// come to.
    pub fn offsets(&self) -> BTreeMap<String, Vec<Offset>> {
        let mut offsets: BTreeMap<String, Vec<Offset>> = BTreeMap::new();
        for (topic, places) in self.inputs() {
            let next: Vec<Offset> = places.iter().map(|(next, _)| *next).collect();
            match offsets.get_mut(topic) {
                Some(of_both) => of_both.iter_mut().zip(next).for_each(|(a, b)| *a = b.min(*a)),
                None => drop(offsets.insert(topic.to_owned(), next)),
            }
        }
        offsets
    }

    /// The newest records of a class, oldest first.
    pub fn newest(&self, class: Class) -> impl Iterator<Item = &Newest> {
        self.newest.get(&class).into_iter().flatten()
    }

    /// The subjects whose name contains `query`, with their totals, by name.
    pub fn subjects(&self, query: &str) -> Vec<(String, Option<Decimal>, usize, ClaimAccounting)> {
        let matching = self.subjects.iter().filter(|s| s.is_there() && s.name.contains(query));
        let mut found: Vec<_> = matching.map(|s| (s.name.clone(), s.total, s.ranking.len(), s.claims)).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// How many lines there are.
    pub fn line_count(&self) -> usize {
        self.subjects.iter().map(|s| s.ranking.len()).sum()
    }

    /// Every line, in no order.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &Group, &[Decimal])> {
        self.lines.iter().filter_map(|line| {
            let values = line.values.as_deref()?;
            Some((self.subjects[line.subject as usize].name.as_str(), &*line.group, values))
        })
    }

    /// Every subject that has claims, with its total, in no order.
    pub fn totals(&self) -> impl Iterator<Item = (&str, Option<Decimal>)> {
        self.subjects.iter().filter(|s| s.is_there()).map(|s| (s.name.as_str(), s.total))
    }

    /// The lines and the subjects that changed after `since`, as they are now; `None` if that is no
    /// longer known.
    #[allow(clippy::type_complexity)]
    pub fn changed_since(
        &self,
        since: Epoch,
    ) -> Option<(Vec<(&str, &Group, Option<&[Decimal]>)>, Vec<(&str, Option<Decimal>)>)> {
        if since < self.known_since {
            return None;
        }
        let recent = || self.recent.iter().rev().take_while(|recent| recent.epoch > since);
        let lines: HashSet<u32> = recent().flat_map(|r| r.lines.iter().map(|(line, _)| *line)).collect();
        let subjects: HashSet<u32> = recent().flat_map(|r| r.totals.iter().copied()).collect();
        let line = |index: u32| {
            let line = &self.lines[index as usize];
            (self.subjects[line.subject as usize].name.as_str(), &*line.group, line.values.as_deref())
        };
        let subject = |index: u32| {
            let subject = &self.subjects[index as usize];
            (subject.name.as_str(), subject.total)
        };
        Some((lines.into_iter().map(line).collect(), subjects.into_iter().map(subject).collect()))
    }

    /// Whether what changed since that epoch can still be told.
    pub fn knows(&self, since: Epoch) -> bool {
        // One that others have shown and this one has not, as where it was told of several at once, is not known.
        let next = self.recent.partition_point(|recent| recent.epoch <= since);
        let is_between = self.recent.get(next).is_some_and(|recent| recent.before < since);
        (self.known_since..=self.epoch).contains(&since) && !is_between
    }

    /// Whether a snapshot of what the filter selects can be answered at once.
    pub fn fits(&self, filter: &Filter) -> Result<(), ReadError> {
        let limit = self.limit(filter);
        let of = |subject: u32| self.subjects[subject as usize].ranking.len().min(limit);
        let lines: usize = self.selected(filter).into_iter().map(of).sum();
        if lines > Filter::LINES_MAX { Err(ReadError::TooManyLines { lines }) } else { Ok(()) }
    }

    /// A snapshot of what the filter selects. A subject that is asked for by name and unknown is left
    /// out.
    pub fn snapshot(&self, filter: &Filter) -> Result<Tallies, ReadError> {
        let subjects = self.selected(filter);
        let limit = self.limit(filter);
        let lines: usize = subjects.iter().map(|s| self.subjects[*s as usize].ranking.len().min(limit)).sum();
        if lines > Filter::LINES_MAX {
            return Err(ReadError::TooManyLines { lines });
        }
        let subjects = subjects.into_iter().map(|index| self.subject(&self.subjects[index as usize], limit));
        Ok(Tallies {
            job: self.shape.job.clone(),
            epoch: self.epoch,
            at: rfc3339(self.at_ms),
            offsets: self.offsets(),
            digest: self.digest.to_string(),
            accounting: self.accounting,
            subjects: subjects.collect(),
        })
    }

    fn subject(&self, subject: &Subject, limit: usize) -> SubjectTallies {
        let c = subject.claims;
        SubjectTallies {
            subject: subject.name.clone(),
            total: subject.total,
            claims: c.claims,
            counted: c.counted,
            superseded: c.superseded,
            duplicate: c.duplicate,
            late: c.late,
            voided: c.voided,
            tallies: subject.ranking.iter().take(limit).map(|place| self.tally(subject, place)).collect(),
        }
    }

    /// The subjects in which a line or the total changed after `since`, with all their lines, and the names
    /// of those that are gone; of `None`, all there are. `None` if that is no longer known.
    pub fn whole_subjects_since(&self, since: Option<Epoch>) -> Option<(Vec<SubjectTallies>, Vec<String>)> {
        let changed: BTreeSet<u32> = match since {
            None => (0..self.subjects.len() as u32).filter(|s| self.subjects[*s as usize].is_there()).collect(),
            Some(since) if since < self.known_since => return None,
            Some(since) => {
                let recent = || self.recent.iter().rev().take_while(|recent| recent.epoch > since);
                let of_lines = recent().flat_map(|r| r.lines.iter().map(|(l, _)| self.lines[*l as usize].subject));
                of_lines.chain(recent().flat_map(|r| r.totals.iter().copied())).collect()
            }
        };
        let (there, gone): (Vec<&Subject>, Vec<&Subject>) =
            changed.into_iter().map(|s| &self.subjects[s as usize]).partition(|subject| subject.is_there());
        let whole = there.into_iter().map(|subject| self.subject(subject, usize::MAX)).collect();
        Some((whole, gone.into_iter().map(|subject| subject.name.clone()).collect()))
    }

    fn value(&self, line: u32) -> Option<Decimal> {
        self.lines[line as usize].values.as_ref().and_then(|v| v.first().copied())
    }

    fn named(&self, values: &[Decimal]) -> Option<IndexMap<String, Decimal>> {
        (values.len() > 1).then(|| self.shape.aggregates.iter().cloned().zip(values.iter().copied()).collect())
    }

    fn tally(&self, subject: &Subject, (Reverse(value), group, line): &Place) -> Tally {
        let total = subject.total.filter(|total| *total != Decimal::ZERO);
        Tally {
            group: (**group).clone(),
            value: *value,
            share: total.map(|total| value.to_f64() / total.to_f64()),
            aggregates: self.lines[*line as usize].values.as_deref().and_then(|v| self.named(v)),
        }
    }

    fn limit(&self, filter: &Filter) -> usize {
        filter.limit.or(self.shape.top).unwrap_or(usize::MAX)
    }

    /// Indexes of the selected subjects, by name.
    fn selected(&self, filter: &Filter) -> Vec<u32> {
        let wanted: HashSet<&str> = filter.subjects.iter().map(String::as_str).collect();
        let all = self.subjects.iter().enumerate();
        let mut found: Vec<u32> = all
            .filter(|(_, s)| s.is_there() && (wanted.is_empty() || wanted.contains(s.name.as_str())))
            .map(|(index, _)| index as u32)
            .collect();
        found.sort_by(|a, b| self.subjects[*a as usize].name.cmp(&self.subjects[*b as usize].name));
        found
    }
}

/// Milliseconds since 1970 as RFC 3339.
fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}
