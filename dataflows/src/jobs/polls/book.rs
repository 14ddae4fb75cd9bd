//! The polls of a job as its workers know them, shared by those of one process; those of the processes of
//! a cluster are changed alike.
//!
//! A worker holds the book for reading during each turn of its source, so a change happens between turns
//! and every record is judged by one state of it.

use crate::claim::{HashKey, LineId, OrderKey};
use crate::engine::job::InstallInput;
use crate::engine::{PollChange, Refill};
use crate::ids::{Offset, PartitionId};
use crate::operators::match_options::{Found, Matcher, Scratch};
use crate::spec::Keep;
use crate::spec::polls::{Poll, PollInForce, PollKey};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the module.
pub struct Book {
    key: HashKey,
    /// At stable places; a place is used again once its poll is gone.
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_subject: HashMap<u64, u32>,
    /// More than one while a version takes another's place.
    by_id: HashMap<String, SmallVec<[u32; 1]>>,
    /// The options of polls that records can still count for, and of those that are sealed.
    open: Matcher,
    sealed: Matcher,
    /// By input and partition, how far live reading has come.
    positions: Vec<Vec<AtomicU64>>,
    /// Likewise where the job begins.
    starts: Vec<Vec<Offset>>,
    refill: Option<RefillPlan>,
    /// Whether sources are to read nothing.
    frozen: bool,
    /// Rises when something that operators hold has become needless.
    sweeps: u64,
    range: Range,
    /// Subjects that readers are to see now, or no more.
    changed: Vec<u64>,
}

/// A version of a poll.
pub struct Entry {
    pub in_force: PollInForce,
    /// What its tallies are keyed by.
    pub subject: u64,
    /// By option.
    pub lines: Vec<LineId>,
    pub phase: Phase,
    /// Readers see it no more.
    pub hidden: bool,
    /// No record can count for it any more.
    pub sealed: bool,
}

/// How far a version is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    InForce,
    /// It will be when the refill of this number is shown.
    Arriving(u64),
    /// It will not be any more then.
    Leaving(u64),
}

/// What a refill is to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefillPlan {
    pub number: u64,
    /// By input and partition, from where to where.
    pub ranges: Vec<Vec<(Offset, Offset)>>,
    /// Likewise from where on polls are to be counted. What lies before only puts right the class of
    /// records of polls that leave; where retention has taken that, it stays as it is.
    pub counted_from: Vec<Vec<Offset>>,
}

/// Bounds over the polls that are neither sealed nor leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub opens_min_ns: i64,
    pub closes_min_ns: i64,
    pub closes_max_ns: i64,
    pub sealed_min_ms: i64,
}

impl Range {
    const NOTHING: Range =
        Range { opens_min_ns: i64::MAX, closes_min_ns: i64::MAX, closes_max_ns: i64::MIN, sealed_min_ms: i64::MAX };

    fn add(&mut self, entry: &Entry) {
        let closes = entry.closes_ns();
        self.opens_min_ns = self.opens_min_ns.min(entry.in_force.poll.opens_ns);
        self.closes_min_ns = self.closes_min_ns.min(closes);
        self.closes_max_ns = self.closes_max_ns.max(closes);
        self.sealed_min_ms = self.sealed_min_ms.min(entry.in_force.poll.sealed_ms().unwrap_or(i64::MAX));
    }

    /// Whether some poll may want an event of this time.
    pub fn wants(&self, time_ns: i64) -> bool {
        (self.opens_min_ns..self.closes_max_ns).contains(&time_ns)
    }
}

impl Entry {
    pub fn poll(&self) -> &Poll {
        &self.in_force.poll
    }

    fn closes_ns(&self) -> i64 {
        self.poll().closes_ns.unwrap_or(i64::MAX)
    }

    /// Whether a record is in the poll's range.
    pub fn contains(&self, order: OrderKey, log_ms: i64) -> bool {
        (self.poll().opens_ns..self.closes_ns()).contains(&order.time_ns)
            && self.poll().sealed_ms().is_none_or(|sealed| log_ms < sealed)
            && order.position.offset() >= self.from(order.position.input(), order.position.partition())
    }

    fn from(&self, input: usize, partition: PartitionId) -> Offset {
        let of_input = self.in_force.from.get(input);
        of_input.and_then(|i| i.get(partition.0 as usize)).copied().unwrap_or_default()
    }

    /// Whether readers see it.
    pub fn is_shown(&self) -> bool {
        !self.hidden && !matches!(self.phase, Phase::Arriving(_))
    }

    /// Whether claims are made for it of what is read live, or of what a refill reads.
    fn takes_claims(&self, of_refill: Option<u64>) -> bool {
        match of_refill {
            None => !self.hidden,
            Some(number) => self.phase == Phase::Arriving(number),
        }
    }

    /// Whether it decides the class of a record now, and once the refill that runs is shown.
    pub fn is_in_force(&self) -> (bool, bool) {
        match self.phase {
            Phase::InForce => (true, true),
            Phase::Arriving(_) => (false, true),
            Phase::Leaving(_) => (true, false),
        }
    }
}

/// What a record comes to for one poll that it concerns.
pub struct Concerned<'b> {
    pub entry: &'b Entry,
    /// Whether a claim is to be made, or only the record's class is touched.
    pub claims: bool,
}

impl Book {
    /// The book of a job with the polls it starts with; live reading starts at the inputs' starts.
    pub fn new(key: HashKey, inputs: &[InstallInput], polls: &[PollInForce]) -> Self {
        let starts = |input: &InstallInput| {
            let mut starts = Vec::new();
            for start in &input.partitions {
                let at = start.partition.0 as usize;
                if starts.len() <= at {
                    starts.resize_with(at + 1, AtomicU64::default);
                }
                starts[at] = AtomicU64::new(start.from.0);
            }
            starts
        };
        let mut book = Book {
            key,
            entries: Vec::new(),
            free: Vec::new(),
            by_subject: HashMap::new(),
            by_id: HashMap::new(),
            open: Matcher::default(),
            sealed: Matcher::default(),
            positions: inputs.iter().map(starts).collect(),
            starts: Vec::new(),
            refill: None,
            frozen: false,
            sweeps: 0,
            range: Range::NOTHING,
            changed: Vec::new(),
        };
        book.starts = book.positions();
        for poll in polls {
            book.insert(poll.clone(), Phase::InForce);
        }
        book
    }

    /// The subject of a poll's version.
    pub fn subject_of(key: HashKey, poll: &PollKey) -> u64 {
        key.name(&[poll.id.as_bytes(), &poll.version.to_le_bytes()])
    }

    /// Notes how far live reading of a partition has come.
    pub fn reached(&self, input: usize, partition: PartitionId, next: Offset) {
        if let Some(position) = self.positions.get(input).and_then(|i| i.get(partition.0 as usize)) {
            position.store(next.0, Ordering::Release);
        }
    }

    /// Has the sources of the process read nothing, or read on; answers where they stand.
    pub fn freeze(&mut self, frozen: bool) -> Vec<Vec<Offset>> {
        self.frozen = frozen;
        self.positions()
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Notes how far live reading has come in all processes.
    pub fn set_positions(&self, positions: &[Vec<Offset>]) {
        for (of, positions) in self.positions.iter().zip(positions) {
            of.iter().zip(positions).for_each(|(of, position)| of.store(position.0, Ordering::Release));
        }
    }

    /// Changes the polls. Answers where a poll was opened.
    pub fn obey(&mut self, change: &PollChange) -> Option<(PollKey, Vec<Vec<Offset>>)> {
        let mut opened = None;
        match change {
            PollChange::Open(poll) => {
                let mut poll = poll.clone();
                let positions = self.positions();
                poll.from.resize(positions.len(), Vec::new());
                for (from, positions) in poll.from.iter_mut().zip(positions) {
                    from.resize(positions.len().max(from.len()), Offset(0));
                    from.iter_mut().zip(positions).for_each(|(from, position)| *from = position.max(*from));
                }
                opened = Some((poll.key(), poll.from.clone()));
                self.insert(poll, Phase::InForce);
            }
            PollChange::Refill(refill) => self.start_refill(refill),
            PollChange::Hide(key) => {
                if let Some(entry) = self.place_of(key).and_then(|place| self.entries[place as usize].as_mut()) {
                    entry.hidden = true;
                    self.changed.push(entry.subject);
                }
            }
            PollChange::Seal(keys) => {
                for key in keys {
                    self.seal(key);
                }
                self.sweeps += 1;
                self.measure();
            }
        }
        opened
    }

    fn positions(&self) -> Vec<Vec<Offset>> {
        let of = |i: &Vec<AtomicU64>| i.iter().map(|p| Offset(p.load(Ordering::Acquire))).collect();
        self.positions.iter().map(of).collect()
    }

    fn place_of(&self, key: &PollKey) -> Option<u32> {
        self.by_subject.get(&Self::subject_of(self.key, key)).copied()
    }

    fn insert(&mut self, in_force: PollInForce, phase: Phase) -> Option<u32> {
        let key = in_force.key();
        let subject = Self::subject_of(self.key, &key);
        if self.by_subject.contains_key(&subject) {
            return None;
        }
        let line = |option: &String| LineId { subject, group: self.key.name(&[option.as_bytes()]) };
        let lines = in_force.poll.options.iter().map(line).collect();
        let place = self.free.pop().unwrap_or(self.entries.len() as u32);
        if place as usize == self.entries.len() {
            self.entries.push(None);
        }
        self.open.insert(place, &in_force.poll.options, in_force.poll.matching);
        self.by_subject.insert(subject, place);
        self.by_id.entry(key.id).or_default().push(place);
        let entry = Entry { in_force, subject, lines, phase, hidden: false, sealed: false };
        self.range.add(&entry);
        self.entries[place as usize] = Some(entry);
        if phase == Phase::InForce {
            self.changed.push(subject);
        }
        Some(place)
    }

    fn remove(&mut self, place: u32) {
        let Some(entry) = self.entries[place as usize].take() else { return };
        let of = if entry.sealed { &mut self.sealed } else { &mut self.open };
        of.remove(place);
        self.by_subject.remove(&entry.subject);
        let id = entry.in_force.poll.id;
        if let Some(places) = self.by_id.get_mut(&id) {
            places.retain(|p| *p != place);
            if places.is_empty() {
                self.by_id.remove(&id);
            }
        }
        self.free.push(place);
    }

    fn seal(&mut self, key: &PollKey) {
        let Some(place) = self.place_of(key) else { return };
        let Some(entry) = self.entries[place as usize].as_mut().filter(|entry| !entry.sealed) else { return };
        entry.sealed = true;
        let poll = &entry.in_force.poll;
        self.sealed.insert(place, &poll.options, poll.matching);
        self.open.remove(place);
    }

    fn start_refill(&mut self, refill: &Refill) {
        let number = refill.number;
        let cuts = self.positions();
        let mut ranges: Vec<Vec<(Offset, Offset)>> =
            cuts.iter().map(|input| input.iter().map(|cut| (*cut, *cut)).collect()).collect();
        let mut counted_from = cuts;
        let mut concerned = Vec::new();
        for poll in &refill.add {
            // The version that is shown gives way to it.
            let before = self.by_id.get(&poll.poll.id).cloned().unwrap_or_default();
            concerned.extend(before);
            concerned.extend(self.insert(poll.clone(), Phase::Arriving(number)));
        }
        concerned.extend(refill.remove.iter().filter_map(|key| self.place_of(key)));
        for place in concerned {
            let Some(entry) = self.entries[place as usize].as_mut() else { continue };
            if entry.phase == Phase::InForce {
                entry.phase = Phase::Leaving(number);
            }
            let arrives = entry.phase == Phase::Arriving(number);
            for (input, partitions) in ranges.iter_mut().enumerate() {
                for (partition, (start, _)) in partitions.iter_mut().enumerate() {
                    // A poll may begin before its job.
                    let from = entry.from(input, PartitionId(partition as u32)).max(self.starts[input][partition]);
                    *start = (*start).min(from);
                    if arrives {
                        let counted = &mut counted_from[input][partition];
                        *counted = (*counted).min(from);
                    }
                }
            }
        }
        self.refill = Some(RefillPlan { number, ranges, counted_from });
    }

    /// Shows what a refill has counted: what was arriving is in force, what was leaving is gone.
    pub fn finish_refill(&mut self, number: u64) {
        if self.refill.as_ref().is_none_or(|plan| plan.number != number) {
            return;
        }
        for place in 0..self.entries.len() {
            match self.entries[place].as_mut() {
                Some(entry) if entry.phase == Phase::Arriving(number) => {
                    entry.phase = Phase::InForce;
                    self.changed.push(entry.subject);
                }
                Some(entry) if entry.phase == Phase::Leaving(number) => {
                    self.changed.push(entry.subject);
                    self.remove(place as u32);
                }
                _ => {}
            }
        }
        self.end_refill();
    }

    /// Gives a refill up: what was arriving is gone, what was leaving stays.
    pub fn give_up_refill(&mut self, number: u64) {
        if self.refill.as_ref().is_none_or(|plan| plan.number != number) {
            return;
        }
        for place in 0..self.entries.len() {
            match self.entries[place].as_mut() {
                Some(entry) if entry.phase == Phase::Leaving(number) => entry.phase = Phase::InForce,
                Some(entry) if entry.phase == Phase::Arriving(number) => self.remove(place as u32),
                _ => {}
            }
        }
        self.end_refill();
    }

    fn end_refill(&mut self) {
        self.refill = None;
        self.sweeps += 1;
        self.measure();
    }

    fn measure(&mut self) {
        self.range = Range::NOTHING;
        for entry in self.entries.iter().flatten().filter(|entry| !entry.sealed) {
            self.range.add(entry);
        }
    }

    /// Takes the subjects that readers are to see, or see no more, since the last call.
    pub fn take_changed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.changed)
    }

    /// The refill that runs.
    pub fn refill(&self) -> Option<&RefillPlan> {
        self.refill.as_ref()
    }

    /// How often something that operators hold has become needless.
    pub fn sweeps(&self) -> u64 {
        self.sweeps
    }

    /// Bounds over the polls that records can count for.
    pub fn range(&self) -> &Range {
        &self.range
    }

    /// The poll of a subject; `None`: it is gone.
    pub fn entry(&self, subject: u64) -> Option<&Entry> {
        self.by_subject.get(&subject).and_then(|place| self.entries[*place as usize].as_ref())
    }

    /// All polls.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten()
    }

    /// How the claims of a subject are kept; a subject that is gone has none that matter.
    pub fn keep_of(&self, subject: u64) -> Keep {
        match self.entry(subject).map(|entry| entry.poll().keep) {
            // Only votes with ids come to be kept without an entity.
            None | Some(Keep::All) => Keep::Last,
            Some(keep) => keep,
        }
    }

    /// The polls that a message's text speaks to and that have it in range, with its options.
    pub fn matching(
        &self,
        (text, hashtags): (&str, &[&str]),
        (order, log_ms): (OrderKey, i64),
        of_refill: Option<u64>,
        found: &mut Vec<Found>,
        scratch: &mut Scratch,
        mut each: impl FnMut(Concerned<'_>, &[Found]),
    ) {
        // A record that is read again may have counted for what is sealed now.
        for matcher in [Some(&self.open), of_refill.map(|_| &self.sealed)].into_iter().flatten() {
            matcher.find(text, hashtags.iter().copied(), scratch, found);
            for options in found.chunk_by(|a, b| a.poll == b.poll) {
                let Some(entry) = self.entries[options[0].poll as usize].as_ref() else { continue };
                if entry.contains(order, log_ms) {
                    each(Concerned { entry, claims: entry.takes_claims(of_refill) }, options);
                }
            }
        }
    }

    /// The polls of that id that have a vote in range.
    pub fn with_id(
        &self,
        id: &str,
        (order, log_ms): (OrderKey, i64),
        of_refill: Option<u64>,
    ) -> impl Iterator<Item = Concerned<'_>> {
        let places = self.by_id.get(id).map_or(&[][..], |places| places.as_slice());
        let entries = places.iter().filter_map(|place| self.entries[*place as usize].as_ref());
        let in_range = entries.filter(move |entry| entry.contains(order, log_ms));
        in_range.map(move |entry| Concerned { entry, claims: entry.takes_claims(of_refill) })
    }
}
