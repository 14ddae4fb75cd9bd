//! One input of a job on one worker: how its records become claims, or where there is no entity sums.

use crate::accounting::Class;
use crate::claim::{OrderKey, Position};
use crate::decode::{Decoded, Decoder, Event};
use crate::engine::facts::{ClaimChanges, Fact, Newest, NewestRing, RecordChanges, Rejected};
use crate::engine::ingest::Output;
use crate::engine::job::{Failure, Install, Job};
use crate::jobs::names::{LineIndex, SubjectIndex};
use crate::jobs::polls::book::Book;
use crate::jobs::polls::judge::{Outcome, Place, PollJudge};
use crate::jobs::tally::{Claims, Judged};
use crate::operators::extremes::Detail;
use crate::operators::lines::Lines;
use crate::operators::tally::Sums;
use crate::record::RecordRef;
use crate::spec::Dataflow;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// See the module.
pub struct Input {
    decoder: Box<dyn Decoder>,
    kind: Kind,
}

enum Kind {
    Tally(Box<TallyInput>),
    Polls(Box<PollInput>),
}

struct TallyInput {
    claims: Claims,
    detailed: bool,
    /// Without an entity: by line what this turn adds, and the lines that it adds to.
    sums: Vec<Sums>,
    dirty: Vec<u32>,
    /// Likewise claims by subject.
    subjects: Vec<u64>,
    /// Voided claims by subject.
    voided: BTreeMap<SubjectIndex, i64>,
}

struct PollInput {
    judge: PollJudge,
    /// What votes without voter and id add.
    lines: Lines,
}

/// One partition's read in progress.
pub struct Reading<'o> {
    pub output: &'o mut Output,
    pub newest: &'o mut NewestRing,
    /// Of a `polls` job, its polls.
    pub book: Option<&'o Book>,
    /// The refill that reads, if it is not live reading.
    pub of_refill: Option<u64>,
    pub records: RecordChanges,
    irrelevant: Option<(Position, &'static str)>,
    rejected: Option<(Position, String)>,
    /// How many records more are matched once the refill that runs is shown.
    pending: i64,
}

impl<'o> Reading<'o> {
    pub fn new(output: &'o mut Output, newest: &'o mut NewestRing, book: Option<&'o Book>) -> Self {
        Reading {
            output,
            newest,
            book,
            of_refill: None,
            records: RecordChanges::default(),
            irrelevant: None,
            rejected: None,
            pending: 0,
        }
    }

    /// Tells the newest records of the classes that no operator sees, and what is to come.
    pub fn finish(self) -> (&'o mut Output, RecordChanges) {
        let mut note = |class, position, reason| {
            let newest = Newest { class, position, other: None, reason: Some(reason) };
            self.output.facts.push(Fact::Newest(newest));
        };
        if let Some((position, reason)) = self.irrelevant {
            note(Class::Irrelevant, position, reason.to_owned());
        }
        if let Some((position, reason)) = self.rejected {
            note(Class::Rejected, position, reason);
        }
        if let Some(refill) = self.book.and_then(Book::refill).filter(|_| self.pending != 0) {
            self.output.facts.push(Fact::Pending { refill: refill.number, matched: self.pending });
        }
        (self.output, self.records)
    }

    fn irrelevant(&mut self, position: Position, reason: &'static str) {
        self.records.irrelevant += 1;
        self.irrelevant = Some((position, reason));
    }

    fn rejected(&mut self, position: Position, record: &RecordRef<'_>, reason: Cow<'static, str>) {
        self.records.rejected += 1;
        self.rejected = Some((position, reason.to_string()));
        self.output.facts.push(Fact::Rejected(Rejected {
            position,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            reason: reason.into_owned(),
        }));
    }
}

impl Input {
    pub fn new(job: &Job, install: &Install, number: usize) -> Result<Self, Failure> {
        let formats = job.formats.as_ref();
        let format = &install.spec.inputs[number].format;
        let (needs, kind) = match &install.spec.dataflow {
            Dataflow::Tally(spec) => {
                let claims = Claims::new(&install.spec, number, formats, job.hash_key).map_err(Failure::new)?;
                let detailed = spec.is_detailed();
                let (sums, dirty, subjects, voided) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
                let needs = claims.needs().clone();
                (needs, Kind::Tally(Box::new(TallyInput { claims, detailed, sums, dirty, subjects, voided })))
            }
            Dataflow::Polls(spec) => {
                let format = formats.find(format).ok_or_else(|| Failure::new("the format is not known"))?;
                let judge = PollJudge::new(&install.spec, spec, number, format, job.hash_key).map_err(Failure::new)?;
                (judge.needs().clone(), Kind::Polls(Box::new(PollInput { judge, lines: Lines::default() })))
            }
        };
        Ok(Input { decoder: formats.decoder(format, &needs), kind })
    }

    /// Judges a record and sends on what it says.
    pub fn record(&mut self, position: Position, record: RecordRef<'_>, read: &mut Reading<'_>) {
        let mut event = Event::default();
        let decoded = self.decoder.decode(&record, &mut event);
        if read.of_refill.is_none() {
            read.records.read += 1;
        }
        match &mut self.kind {
            Kind::Tally(input) => {
                let judged = match decoded {
                    Ok(decoded) => input.claims.judge(decoded, &event, &record),
                    Err(reject) => Judged::Rejected(reject.0),
                };
                let voided = input.claims.is_voided(position, &event);
                input.judged(judged, voided, position, &record, read);
            }
            Kind::Polls(input) => {
                let Some(book) = read.book else { return };
                let deleted = decoded == Ok(Decoded::Deleted);
                let place = Place { position, of_refill: read.of_refill, deleted };
                let outcome = match decoded {
                    Ok(Decoded::Event | Decoded::Deleted) => input.judge.judge(&event, &record, place, book),
                    Ok(Decoded::Irrelevant(why_not)) => Outcome::Judged { now: false, then: false, why_not },
                    Err(reject) => Outcome::Rejected(reject.0),
                };
                input.judged(outcome, position, &record, read);
            }
        }
    }

    /// Sends on what was summed up here.
    pub fn flush(&mut self, output: &mut Output) {
        match &mut self.kind {
            Kind::Tally(input) => input.flush(output),
            Kind::Polls(input) => {
                output.sums.extend(input.lines.take_sums());
                let claims = input.lines.take_subjects();
                output.facts.extend(claims.map(|(subject, changes)| Fact::Claims { subject, changes }));
            }
        }
    }
}

impl PollInput {
    fn judged(&mut self, outcome: Outcome, position: Position, record: &RecordRef<'_>, read: &mut Reading<'_>) {
        let (now, then, why_not) = match outcome {
            Outcome::Judged { now, then, why_not } => (now, then, why_not),
            // Whatever polls there are, it was rejected when it was read live.
            Outcome::Rejected(_) if read.of_refill.is_some() => return,
            Outcome::Rejected(reason) => return read.rejected(position, record, reason),
        };
        read.pending += i64::from(then) - i64::from(now);
        if read.of_refill.is_none() {
            if now {
                read.records.matched += 1;
            } else {
                read.irrelevant(position, why_not);
            }
        }
        let says = &mut self.judge.says;
        if says.voided {
            let of_version = says.version.take().map(|version| version.lines).unwrap_or_default();
            let of_version = of_version.chunk_by(|a, b| a.subject == b.subject).map(|lines| lines[0].subject);
            let of_votes = says.claims.drain(..).map(|claim| claim.line.subject);
            for subject in of_version.chain(of_votes).chain(says.ones.drain(..).map(|line| line.subject)) {
                let subject = self.lines.subject_index(subject);
                let changes = self.lines.subject(subject);
                changes.claims += 1;
                changes.voided += 1;
                read.newest.push(Class::Voided, position, None);
            }
            return;
        }
        read.output.messages.extend(says.version.take());
        read.output.claims.extend(says.claims.drain(..));
        for line in says.ones.drain(..) {
            let index = self.lines.index(line);
            self.lines.ones(index, 1);
            let subject = self.lines.subject_of(index);
            let changes = self.lines.subject(subject);
            changes.claims += 1;
            changes.counted += 1;
            read.newest.push(Class::Counted, position, None);
        }
    }
}

impl TallyInput {
    fn judged(
        &mut self,
        judged: Judged,
        voided: bool,
        position: Position,
        record: &RecordRef<'_>,
        read: &mut Reading<'_>,
    ) {
        match judged {
            Judged::Matched if voided => {
                read.records.matched += 1;
                if let Some(subject) = self.claims.said.subject {
                    *self.voided.entry(subject).or_default() += 1;
                }
                read.newest.push(Class::Voided, position, None);
            }
            Judged::Matched => {
                read.records.matched += 1;
                match self.claims.said.entity {
                    Some(entity) => read.output.claims.push(self.claims.claim(entity, position)),
                    None => self.count(position, read),
                }
            }
            Judged::Irrelevant(reason) => {
                read.irrelevant(position, reason);
                if !voided {
                    read.output.claims.extend(self.claims.replacement(position));
                }
            }
            Judged::Rejected(reason) => read.rejected(position, record, reason),
        }
    }

    /// Without an entity every claim counts: it is summed up here, before any exchange.
    fn count(&mut self, position: Position, read: &mut Reading<'_>) {
        let said = &self.claims.said;
        for (place, (_, line, value)) in said.adds.iter().enumerate() {
            let index = line.0 as usize;
            if index >= self.sums.len() {
                self.sums.resize(index + 1, Sums::default());
            }
            let sums = &mut self.sums[index];
            if sums.count == 0 {
                self.dirty.push(line.0);
            }
            sums.add(1, *value);
            if self.detailed {
                let order = OrderKey { time_ns: said.time_ns, position };
                let detail = Detail::new(order, place, *value, said.distinct.clone());
                read.output.details.push((self.claims.names.line_id(*line), detail, 1));
            }
        }
        if let Some(subject) = said.subject {
            let index = subject.0 as usize;
            if index >= self.subjects.len() {
                self.subjects.resize(index + 1, 0);
            }
            self.subjects[index] += 1;
        }
        read.newest.push(Class::Counted, position, None);
    }

    fn flush(&mut self, output: &mut Output) {
        output.facts.extend(self.claims.names.take_fresh());
        let names = &self.claims.names;
        for index in self.dirty.drain(..) {
            let sums = std::mem::take(&mut self.sums[index as usize]);
            output.sums.push((names.line_id(LineIndex(index)), sums));
        }
        for (index, count) in self.subjects.iter_mut().enumerate().filter(|(_, count)| **count > 0) {
            let n = std::mem::take(count) as i64;
            let subject = names.subject_id(SubjectIndex(index as u32));
            let changes = ClaimChanges { claims: n, counted: n, ..ClaimChanges::default() };
            output.facts.push(Fact::Claims { subject, changes });
        }
        for (index, voided) in std::mem::take(&mut self.voided) {
            let changes = ClaimChanges { claims: voided, voided, ..ClaimChanges::default() };
            output.facts.push(Fact::Claims { subject: names.subject_id(index), changes });
        }
    }
}
