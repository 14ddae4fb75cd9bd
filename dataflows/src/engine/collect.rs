//! The job's one collector: gathers the facts of an epoch from all workers and, once the frontier has
//! passed it, tells the node what changed.

use crate::claim::LineId;
use crate::engine::checkpoints::Piece;
use crate::engine::facts::{ClaimChanges, Fact, NEWEST_KEPT, Newest};
use crate::engine::job::{Failure, Job};
use crate::engine::showing::Showing;
use crate::engine::taking::Taker;
use crate::engine::told::{Line, Told};
use crate::ids::Epoch;
use crate::number::Decimal;
use crate::operators::tally::Sums;
use crate::spec::Aggregate;
use crate::update::{EngineEvent, EpochUpdate, PollEvent, ReadTo};
use ethnum::I256;
use hashbrown::{HashMap, HashSet};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the collector knows of a job.
pub struct Collector {
    job: Arc<Job>,
    aggregates: Vec<Aggregate>,
    workers: usize,
    is_home: bool,
    /// The last epoch that was told.
    told_epoch: Epoch,
    /// Facts of epochs that are still open.
    open: BTreeMap<u64, Vec<Fact>>,
    told: Told,
    /// The epoch in which it is told what the job goes on from, until that has closed.
    restored: Option<Epoch>,
    /// By halt, how many workers have stopped.
    halted: BTreeMap<u64, usize>,
    /// Of a `polls` job, which of its polls are shown.
    showing: Option<Showing>,
}

/// What closed epochs come to.
#[derive(Default)]
struct Closed {
    update: EpochUpdate,
    halted: Vec<u64>,
    polls: Vec<PollEvent>,
}

impl Collector {
    /// Of `workers`; `is_home`: facts come to this one, and to no other worker's. `restored`: in which epoch
    /// it is told what the job goes on from.
    pub fn new(
        job: Arc<Job>,
        aggregates: Vec<Aggregate>,
        (workers, is_home): (usize, bool),
        restored: Option<Epoch>,
    ) -> Self {
        Collector {
            showing: job.book().map(|_| Showing::new(job.clone(), workers)),
            job,
            aggregates,
            workers,
            is_home,
            told_epoch: Epoch(0),
            open: BTreeMap::new(),
            told: Told::default(),
            restored,
            halted: BTreeMap::new(),
        }
    }

    /// Holds facts until their epoch has closed: `epoch`, but for those that carry one of their own.
    pub fn gather(&mut self, epoch: u64, facts: Vec<Fact>) {
        for fact in facts {
            let epoch = match &fact {
                Fact::Line { epoch, .. } | Fact::Total { epoch, .. } => *epoch,
                _ => epoch,
            };
            self.open.entry(epoch).or_default().push(fact);
        }
    }

    /// Tells what changed in the epochs before `frontier` (all of them without one). What is restored, and
    /// what a checkpoint ends with, are told by themselves.
    pub fn close(&mut self, frontier: Option<u64>, taker: &mut Taker) {
        let has_passed = |epoch: u64| frontier.is_none_or(|frontier| epoch < frontier);
        if let Some(restored) = self.restored.take_if(|restored| has_passed(restored.0)) {
            self.tell(Some(restored.0 + 1));
            self.told.is_as_written();
        }
        if let Some((_, due)) = self.job.due().filter(|(_, due)| has_passed(*due)) {
            self.tell(Some(due + 1));
            // What a failed job holds may be half an epoch: it never becomes a checkpoint.
            if !self.job.has_failed()
                && let Some(stall) = taker.take_at_once(due, &mut self.told)
            {
                if self.is_home {
                    let polls = self.showing.as_ref().map(Showing::keys).unwrap_or_default();
                    let (offsets, records) = (self.told.offsets.values().copied().collect(), self.told.records);
                    self.job.give(Piece::Told { epoch: self.told_epoch, offsets, records, polls });
                }
                self.job.give(Piece::Done { stall });
            }
        }
        self.tell(frontier);
    }

    fn tell(&mut self, frontier: Option<u64>) {
        let still_open = match frontier {
            Some(frontier) => self.open.split_off(&frontier),
            None => BTreeMap::new(),
        };
        let closed = std::mem::replace(&mut self.open, still_open);
        let Some(epoch) = closed.last_key_value().map(|(epoch, _)| Epoch(*epoch)) else { return };
        if self.job.has_failed() {
            return;
        }
        match self.update(epoch, closed) {
            Ok(Closed { update, halted, polls }) => {
                self.told_epoch = epoch;
                let job = self.job.id;
                self.job.outbox.send(EngineEvent::Closed { job, update: Box::new(update) });
                for halt in halted {
                    self.job.outbox.send(EngineEvent::Halted { job, halt });
                }
                for event in polls {
                    self.job.outbox.send(EngineEvent::Polls { job, event });
                }
            }
            Err(failure) => self.job.fail(failure),
        }
    }

    fn update(&mut self, epoch: Epoch, closed: BTreeMap<u64, Vec<Fact>>) -> Result<Closed, Failure> {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        let mut update = EpochUpdate { epoch, at_ms, ..EpochUpdate::default() };
        let mut touched = HashSet::new();
        let mut totals: HashMap<u64, Sums> = HashMap::new();
        let mut offsets = BTreeMap::new();
        let mut claims: BTreeMap<u64, ClaimChanges> = BTreeMap::new();
        let mut halted = Vec::new();
        for mut facts in closed.into_values() {
            // Names come before what uses them, and old sums go before new ones come.
            facts.sort_by_key(|fact| match fact {
                Fact::LineName { .. } | Fact::SubjectName { .. } => 0,
                Fact::Line { diff, .. } | Fact::Total { diff, .. } if *diff < 0 => 1,
                _ => 2,
            });
            for fact in facts {
                match fact {
                    Fact::SubjectName { id, name } => self.name_subject(id, name, &mut update)?,
                    Fact::LineName { id, subject, group } => self.name_line(id, subject, group, &mut update)?,
                    Fact::Line { id, sums, diff, .. } => {
                        if !self.names_line(id) {
                            continue;
                        }
                        self.line(id)?.sums = if diff > 0 { sums } else { Sums::default() };
                        touched.insert(id);
                    }
                    Fact::Total { subject, sums, diff, .. } => {
                        totals.insert(subject, if diff > 0 { sums } else { Sums::default() });
                    }
                    Fact::Extreme { id, extreme } => {
                        self.line(id)?.extreme = extreme;
                        touched.insert(id);
                    }
                    Fact::Read { input, partition, next, end, records } => {
                        offsets.insert((input, partition), ReadTo { input, partition, next, end });
                        update.records.read += records.read;
                        update.records.rejected += records.rejected;
                        update.records.irrelevant += records.irrelevant;
                        update.records.matched += records.matched;
                    }
                    Fact::Claims { subject, changes } => {
                        claims.entry(subject).or_default().add(&changes);
                    }
                    Fact::Newest(newest) => update.newest.push(newest),
                    Fact::Rejected(rejected) => update.rejected.push(rejected),
                    Fact::Halted { halt } => {
                        let workers = self.halted.entry(halt).or_insert(0);
                        *workers += 1;
                        if *workers == self.workers {
                            halted.push(halt);
                        }
                    }
                    Fact::PollsChanged => {}
                    Fact::Pending { .. }
                    | Fact::Refilling { .. }
                    | Fact::Refilled { .. }
                    | Fact::RefillFailed { .. } => {
                        if let Some(showing) = &mut self.showing {
                            showing.refill(fact);
                        }
                    }
                }
            }
        }
        let mut polls = Vec::new();
        if let Some(mut showing) = self.showing.take() {
            polls = showing.settle(&mut update);
            for (poll, lines) in showing.come(&mut update) {
                for (id, option) in lines {
                    self.told.add_line(id, || Line::named(poll.clone(), vec![option]));
                    touched.insert(id);
                }
            }
            touched.retain(|id| showing.shows(id.subject));
            self.told.forget(&update.gone);
            totals = showing.totals(totals);
            claims = showing.claims(claims);
            self.showing = Some(showing);
        }
        for id in touched {
            let stands = self.told.line(id).is_some_and(|line| line.sums.count != 0) || self.showing.is_some();
            let values = if stands { Some(self.values(id)?) } else { None };
            update.lines.push((id, values));
        }
        if self.aggregates.first().is_some_and(Aggregate::has_total) {
            for (subject, sums) in totals {
                let total = self.total(subject, sums)?;
                update.totals.push((subject, total));
            }
        }
        for (subject, changes) in &claims {
            self.told.subject_mut(*subject).claims.add(changes);
        }
        self.told.records.add(&update.records);
        self.told.offsets.extend(offsets.iter().map(|(place, read)| (*place, *read)));
        update.offsets = offsets.into_values().collect();
        update.claims = claims.into_iter().collect();
        keep_newest(&mut update.newest);
        Ok(Closed { update, halted, polls })
    }

    /// Whether a line is known by name; those of a poll that is gone are not.
    fn names_line(&mut self, id: LineId) -> bool {
        let Some(showing) = self.showing.as_ref().filter(|_| self.told.line(id).is_none()) else { return true };
        let Some((poll, option)) = showing.name(id) else { return false };
        self.told.add_line(id, || Line::named(poll, vec![option]));
        true
    }

    fn line(&mut self, id: LineId) -> Result<&mut Line, Failure> {
        self.told.line_mut(id).ok_or_else(|| Failure::new("a line changed before it was named; this is a defect"))
    }

    fn name_subject(&mut self, id: u64, name: String, update: &mut EpochUpdate) -> Result<(), Failure> {
        match self.told.subject(id).and_then(|subject| subject.name.as_ref()) {
            None => {
                update.subjects.push((id, name.clone()));
                self.told.subject_mut(id).name = Some(name);
                Ok(())
            }
            Some(known) if *known == name => Ok(()),
            Some(known) => Err(met("subjects", known, &name)),
        }
    }

    fn name_line(
        &mut self,
        id: LineId,
        subject: String,
        group: Vec<String>,
        update: &mut EpochUpdate,
    ) -> Result<(), Failure> {
        match self.told.line(id) {
            None => {
                update.names.push((id, group.clone()));
                self.told.add_line(id, || Line::named(subject, group));
                Ok(())
            }
            Some(known) if known.group == group => Ok(()),
            Some(known) => Err(met("groups", &known.group.join(","), &group.join(","))),
        }
    }

    fn values(&self, id: LineId) -> Result<Vec<Decimal>, Failure> {
        let unnamed = || Failure::new("a line changed before it was named; this is a defect");
        let line = self.told.line(id).ok_or_else(unnamed)?;
        let mut distinct = line.extreme.distinct.iter();
        let values = self.aggregates.iter().map(|aggregate| {
            Some(match aggregate {
                Aggregate::Count => Decimal::from_int(line.sums.count),
                Aggregate::Sum => fit(line.sums.sum)?,
                Aggregate::Avg => fit(average(line.sums))?,
                Aggregate::Min => line.extreme.min,
                Aggregate::Max => line.extreme.max,
                Aggregate::Last => line.extreme.last,
                Aggregate::Distinct(_) => Decimal::from_int(distinct.next().map_or(0, |n| *n as i64)),
            })
        });
        values.collect::<Option<_>>().ok_or_else(|| {
            let group = line.group.join(", ");
            Failure::new(format!(
                "the sum of subject {:?}, group {group:?} is beyond the fixed point (about 1.7e20)",
                line.subject
            ))
        })
    }

    fn total(&self, subject: u64, sums: Sums) -> Result<Decimal, Failure> {
        match self.aggregates.first() {
            Some(Aggregate::Count) => Ok(Decimal::from_int(sums.count)),
            _ => fit(sums.sum).ok_or_else(|| {
                let subject =
                    self.told.subject(subject).and_then(|subject| subject.name.as_deref()).unwrap_or_default();
                Failure::new(format!("the total of subject {subject:?} is beyond the fixed point (about 1.7e20)"))
            }),
        }
    }
}

/// Two names with one hash: the numbers could not be told apart, so there are none.
fn met(what: &str, known: &str, name: &str) -> Failure {
    Failure::new(format!(
        "the {what} {known:?} and {name:?} have the same hash; submit the job to another data directory"
    ))
}

fn fit(sum: I256) -> Option<Decimal> {
    i128::try_from(sum).ok().map(Decimal::from_units)
}

/// The mean, rounded half-even at 18 places.
fn average(sums: Sums) -> I256 {
    let count = I256::from(sums.count);
    let (quotient, rest) = (sums.sum.div_euclid(count), sums.sum.rem_euclid(count));
    let twice = rest * I256::from(2);
    let up = twice > count || (twice == count && quotient & I256::ONE == I256::ONE);
    if up { quotient + I256::ONE } else { quotient }
}

fn keep_newest(newest: &mut Vec<Newest>) {
    let mut kept = BTreeMap::new();
    let mut from_the_end: Vec<Newest> = std::mem::take(newest);
    from_the_end.reverse();
    from_the_end.retain(|n| {
        let count = kept.entry(n.class).or_insert(0);
        *count += 1;
        *count <= NEWEST_KEPT
    });
    from_the_end.reverse();
    *newest = from_the_end;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_waits_for_its_own_epoch_where_differential_sends_it_with_an_earlier_one() {
        use crate::engine::job::Install;
        use crate::engine::outbox::Outbox;
        use crate::spec::{Dataflow, EntrySpec, JobSpec, Keep};
        use std::sync::{Mutex, mpsc};

        let spec = crate::spec::TallySpec {
            subject: vec![],
            entries: vec![EntrySpec { group: vec![], value: None }],
            entity: vec![],
            keep: Keep::All,
            order: None,
            filter: None,
            aggregates: vec![Aggregate::Count],
            top: None,
            ahead: std::time::Duration::ZERO,
        };
        let job = JobSpec {
            name: "job".into(),
            dataflow: Dataflow::Tally(spec.clone()),
            inputs: vec![],
            sinks: vec![],
            voids: crate::spec::voids::Voids::default(),
        };
        let (id, first_epoch, epoch_limit) = (crate::update::JobId(1), Epoch(1), Epoch(9));
        let install = Install {
            job: id,
            spec: job,
            inputs: vec![],
            first_epoch,
            epoch_limit,
            halt: None,
            beside: false,
            polls: vec![],
            keep: None,
        };
        let (send, events) = mpsc::channel();
        let send = Mutex::new(send);
        let outbox = Outbox::new(Arc::new(move |event| send.lock().unwrap().send(event).unwrap()), Arc::default());
        let formats = Arc::new(crate::testing::PlainFormats);
        let job = Arc::new(Job::new(&install, formats, crate::claim::HashKey([1, 2]), outbox, Default::default()));
        let mut collector = Collector::new(job, spec.aggregates, (1, true), None);

        let sums = |count| Sums { count, sum: I256::ZERO };
        let total = |epoch, count, diff| Fact::Total { subject: 7, sums: sums(count), diff, epoch };
        let mut facts = vec![Fact::SubjectName { id: 7, name: "s".into() }];
        facts.extend([total(1, 2, 1), total(2, 2, -1), total(2, 1, 1)]);
        collector.gather(1, facts);
        let totals = |event| match event {
            EngineEvent::Closed { update, .. } => (update.epoch, update.totals),
            other => panic!("{other:?}"),
        };
        collector.tell(Some(2));
        assert_eq!(totals(events.try_recv().unwrap()), (Epoch(1), vec![(7, Decimal::from_int(2))]));
        collector.tell(Some(2));
        assert!(events.try_recv().is_err());
        collector.tell(Some(3));
        assert_eq!(totals(events.try_recv().unwrap()), (Epoch(2), vec![(7, Decimal::from_int(1))]));
    }

    #[test]
    fn an_average_is_rounded_half_to_even_below_zero_too() {
        let avg = |sum: i128, count| average(Sums { count, sum: I256::from(sum) });
        for (sum, count, rounded) in
            [(1, 2, 0), (3, 2, 2), (-1, 2, 0), (-3, 2, -2), (10, 3, 3), (11, 3, 4), (-11, 3, -4)]
        {
            assert_eq!(avg(sum, count), I256::from(rounded), "{sum} / {count}");
        }
    }
}
