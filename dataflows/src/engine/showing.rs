//! Which polls of a job readers see. What is counted for a poll that they do not see yet is kept here, so
//! that it comes whole, at one epoch.

use crate::claim::LineId;
use crate::engine::cluster::{Note, Order};
use crate::engine::facts::{ClaimChanges, Fact};
use crate::engine::job::Job;
use crate::operators::tally::Sums;
use crate::spec::polls::PollKey;
use crate::update::{EpochUpdate, PollEvent};
use hashbrown::{HashMap, HashSet};
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module.
pub struct Showing {
    job: Arc<Job>,
    workers: usize,
    shown: HashSet<u64>,
    /// Polls that readers see no more and that records are still classed by, until a refill has taken that
    /// back.
    leaving: HashMap<u64, PollKey>,
    /// By subject that is not shown, its claims and its total so far.
    hidden_claims: HashMap<u64, ClaimChanges>,
    hidden_totals: HashMap<u64, Sums>,
    /// By refill, how many records more are matched once it is shown.
    pending: BTreeMap<u64, i64>,
    refill: Option<Progress>,
    /// The refills that were shown or given up.
    over: Over,
}

/// A refill as its workers tell of it.
#[derive(Default)]
struct Progress {
    number: u64,
    /// By worker, how many records it has read, and of how many.
    read: BTreeMap<usize, (u64, u64)>,
    /// How many workers have come to the end.
    ended: usize,
    failed: Option<String>,
    told: bool,
}

#[derive(Default)]
struct Over {
    shown: HashSet<u64>,
    given_up: HashSet<u64>,
}

/// Ends a refill here, and in the other processes of a cluster before they are ordered anything else.
fn end(job: &Job, number: u64, shown: bool) {
    if let Some(mut book) = job.book_mut() {
        if shown {
            book.finish_refill(number);
        } else {
            book.give_up_refill(number);
        }
    }
    if let Some(wire) = job.wire() {
        wire.tell_all(Note::Order(Box::new(Order::EndRefill { job: job.id, number, shown })));
    }
}

impl Showing {
    pub fn new(job: Arc<Job>, workers: usize) -> Self {
        Showing {
            job,
            workers,
            shown: HashSet::new(),
            leaving: HashMap::new(),
            hidden_claims: HashMap::new(),
            hidden_totals: HashMap::new(),
            pending: BTreeMap::new(),
            refill: None,
            over: Over::default(),
        }
    }

    /// Takes what workers tell of a refill.
    pub fn refill(&mut self, fact: Fact) {
        if let Fact::Pending { refill, matched } = fact {
            *self.pending.entry(refill).or_default() += matched;
            return;
        }
        let (Fact::Refilling { refill, .. } | Fact::Refilled { refill } | Fact::RefillFailed { refill, .. }) = &fact
        else {
            return;
        };
        let number = *refill;
        // Some workers hear later than others that it is over.
        if self.over.shown.contains(&number) || self.over.given_up.contains(&number) {
            return;
        }
        let progress = self.refill.get_or_insert_with(|| Progress { number, ..Progress::default() });
        match fact {
            Fact::Refilling { worker, records, of, .. } => {
                progress.read.insert(worker, (records, of));
                progress.told = false;
            }
            Fact::Refilled { .. } => progress.ended += 1,
            Fact::RefillFailed { error, .. } => progress.failed = Some(error),
            _ => {}
        }
    }

    /// Ends a refill that has come to its end, and makes what is pending of those that are over part of
    /// the update.
    pub fn settle(&mut self, update: &mut EpochUpdate) -> Vec<PollEvent> {
        let mut events = Vec::new();
        if let Some(progress) = &mut self.refill {
            let number = progress.number;
            if let Some(error) = progress.failed.take() {
                end(&self.job, number, false);
                self.over.given_up.insert(number);
                events.push(PollEvent::RefillFailed { number, error });
            } else if progress.ended == self.workers {
                end(&self.job, number, true);
                self.over.shown.insert(number);
                events.push(PollEvent::Refilled { number });
            } else if !progress.told {
                progress.told = true;
                let (records, of) = progress.read.values().fold((0, 0), |(a, b), (read, of)| (a + read, b + of));
                events.push(PollEvent::Refilling { number, records, of });
            }
            if self.over.shown.contains(&number) || self.over.given_up.contains(&number) {
                self.refill = None;
            }
        }
        let (over, records) = (&self.over, &mut update.records);
        self.pending.retain(|refill, matched| {
            if over.shown.contains(refill) {
                records.matched += *matched;
                records.irrelevant -= *matched;
            }
            !over.shown.contains(refill) && !over.given_up.contains(refill)
        });
        events
    }

    /// Makes part of the update the polls that readers see no more, and those that they see now. Answers
    /// the latter's lines, by name.
    pub fn come(&mut self, update: &mut EpochUpdate) -> Vec<(String, Vec<(LineId, String)>)> {
        let Some(mut book) = self.job.book_mut() else { return Vec::new() };
        let mut come = Vec::new();
        for subject in book.take_changed() {
            match book.entry(subject).filter(|entry| entry.is_shown()) {
                None => {
                    if self.shown.remove(&subject) {
                        update.gone.push(subject);
                    }
                    match book.entry(subject) {
                        // Also one that readers have never seen: it was hidden before the first update.
                        Some(hidden) => drop(self.leaving.insert(subject, hidden.in_force.key())),
                        None => {
                            self.leaving.remove(&subject);
                            self.hidden_claims.remove(&subject);
                            self.hidden_totals.remove(&subject);
                        }
                    }
                }
                Some(entry) if self.shown.insert(subject) => {
                    let poll = entry.poll();
                    update.subjects.push((subject, poll.id.clone()));
                    let groups = poll.options.iter().map(|option| vec![option.clone()]);
                    update.names.extend(entry.lines.iter().copied().zip(groups));
                    let lines = entry.lines.iter().copied().zip(poll.options.iter().cloned());
                    come.push((poll.id.clone(), lines.collect()));
                }
                Some(_) => {}
            }
        }
        come
    }

    /// The polls that what is told stands for: those that readers see, and those that they see no more but
    /// that records are still classed by.
    pub fn keys(&self) -> Vec<PollKey> {
        let Some(book) = self.job.book() else { return Vec::new() };
        let shown = self.shown.iter().filter_map(|subject| book.entry(*subject)).map(|entry| entry.in_force.key());
        shown.chain(self.leaving.values().cloned()).collect()
    }

    pub fn shows(&self, subject: u64) -> bool {
        self.shown.contains(&subject)
    }

    /// The names of a poll's line; `None`: the poll is gone.
    pub fn name(&self, id: LineId) -> Option<(String, String)> {
        let book = self.job.book()?;
        let entry = book.entry(id.subject)?;
        let option = entry.lines.iter().position(|line| *line == id)?;
        Some((entry.poll().id.clone(), entry.poll().options[option].clone()))
    }

    /// Of changed totals those that are shown, with those of polls that just came.
    pub fn totals(&mut self, changed: HashMap<u64, Sums>) -> HashMap<u64, Sums> {
        let known = self.job.book();
        let is_known = |subject: &u64| known.as_ref().is_some_and(|book| book.entry(*subject).is_some());
        self.hidden_totals.extend(changed.into_iter().filter(|(subject, _)| is_known(subject)));
        let shown = &self.shown;
        self.hidden_totals.extract_if(|subject, _| shown.contains(subject)).collect()
    }

    /// Likewise of claims.
    pub fn claims(&mut self, changed: BTreeMap<u64, ClaimChanges>) -> BTreeMap<u64, ClaimChanges> {
        let known = self.job.book();
        let is_known = |subject: &u64| known.as_ref().is_some_and(|book| book.entry(*subject).is_some());
        for (subject, changes) in changed.into_iter().filter(|(subject, _)| is_known(subject)) {
            self.hidden_claims.entry(subject).or_default().add(&changes);
        }
        let shown = &self.shown;
        self.hidden_claims.extract_if(|subject, _| shown.contains(subject)).collect()
    }
}
