//! Does what a program says, as the node would: it keeps the definitions, asks for one refill at a time,
//! and waits for where an opened poll begins.

use super::check::{Check, Seen, Update};
use super::program::{AHEAD_MS, Edit, From, Kind, Program, Record, START_MS, Step, Terms, Wait, What};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tallyflow_dataflows::engine::{PollChange, Refill};
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::source::{Budget, PartitionSource, Polled, Source, SourceError, TopicState, Waker};
use tallyflow_dataflows::spec::polls::{Choices, Match, Poll, PollInForce, PollKey, PollsSpec, Reposts};
use tallyflow_dataflows::spec::voids::{Voided, Voids};
use tallyflow_dataflows::spec::{Bound, Dataflow, InputSpec, JobSpec, Keep};
use tallyflow_dataflows::testing::{Bench, Crew, MemoryLog, MemoryRecord, PlainFormats};
use tallyflow_dataflows::update::PollEvent;

const DEADLINE: Duration = Duration::from_secs(30);
const POSTS: &str = "posts";
const VOTES: &str = "votes";

/// The job that all programs run.
pub fn spec() -> JobSpec {
    let input = |topic: &str, format: &str| InputSpec {
        topic: topic.into(),
        format: format.into(),
        from: Bound::Beginning,
        until: None,
    };
    let polls = PollsSpec {
        matching: Match::Word,
        choices: Choices::Many,
        keep: Keep::All,
        entity: None,
        reposts: Reposts::Ignore,
        grace: Duration::ZERO,
        ahead: Duration::from_millis(AHEAD_MS as u64),
    };
    JobSpec {
        name: "job".into(),
        dataflow: Dataflow::Polls(polls),
        inputs: vec![input(POSTS, "post"), input(VOTES, "vote")],
        sinks: vec![],
        voids: Voids::default(),
    }
}

/// A log that is written as a program says.
struct Writer {
    log: MemoryLog,
    partitions: usize,
    clock_ms: i64,
    written: u64,
    /// By topic, what was written, to be delivered again.
    before: Vec<(&'static str, Vec<u8>)>,
}

impl Writer {
    fn append(&mut self, records: &[Record]) {
        for record in records {
            self.clock_ms += record.after_ms;
            let (topic, value) = match &record.kind {
                Kind::Post(members, at) => (POSTS, self.value(members, *at)),
                Kind::Vote(members, at) => (VOTES, self.value(members, *at)),
                Kind::Again(_) if self.before.is_empty() => continue,
                Kind::Again(back) => self.before[self.before.len() - 1 - back % self.before.len()].clone(),
            };
            let partitions = if topic == POSTS { self.partitions } else { 2 };
            self.before.push((topic, value.clone()));
            let record_of = MemoryRecord { timestamp_ms: self.clock_ms, value };
            self.log.append(topic, record.partition % partitions, [record_of]);
            self.written += 1;
        }
    }

    fn value(&self, members: &str, at: Option<i64>) -> Vec<u8> {
        match at {
            Some(after) => format!(r#"{{{members},"at":{}}}"#, self.clock_ms + after).into_bytes(),
            None => format!("{{{members}}}").into_bytes(),
        }
    }

    fn offsets(&self, of: impl Fn(&str, usize) -> Offset) -> Vec<Vec<Offset>> {
        let partitions = [(POSTS, self.partitions), (VOTES, 2)];
        partitions.iter().map(|(topic, partitions)| (0..*partitions).map(|p| of(topic, p)).collect()).collect()
    }

    fn from(&self, from: From) -> Vec<Vec<Offset>> {
        match from {
            From::Beginning => self.offsets(|_, _| Offset(0)),
            From::End => self.offsets(|topic, p| Offset(self.log.records(topic, p).len() as u64)),
        }
    }

    /// Where a poll begins that opened in the past.
    fn offsets_at(&self, opens_ns: i64) -> Vec<Vec<Offset>> {
        let ms = opens_ns.div_euclid(1_000_000) - AHEAD_MS;
        self.offsets(|topic, p| self.log.offset_at(topic, PartitionId(p as u32), ms).expect("the log answers"))
    }

    /// A void as an operator says it.
    fn voided(&self, what: What) -> Voided {
        match what {
            What::Entity(entity) => Voided::Entity([entity.to_owned()].into()),
            What::Where(source) => Voided::Where(source.to_owned()),
            What::Offsets { posts, partition, from, to } => {
                let topic = if posts { POSTS } else { VOTES };
                let ends = &self.from(From::End)[usize::from(!posts)];
                let partition = partition % ends.len();
                let part = |sixteenths: u64| Offset(ends[partition].0 * sixteenths / 16);
                let (from, to) = (part(from), part(to));
                Voided::Offsets { topic: topic.to_owned(), partition: PartitionId(partition as u32), from, to }
            }
        }
    }

    fn poll(&self, id: usize, terms: &Terms, opens_in_ms: i64) -> Poll {
        let ns = |in_ms: i64| (self.clock_ms + in_ms) * 1_000_000;
        let opens_ns = ns(opens_in_ms);
        Poll {
            id: format!("p{id}"),
            title: String::new(),
            options: terms.options.clone(),
            matching: terms.matching,
            choices: terms.choices,
            keep: terms.keep,
            entity: terms.entity,
            reposts: terms.reposts,
            opens_ns,
            // A checked definition closes after it opens.
            closes_ns: terms.closes_in_ms.map(|ms| (ns(ms) + terms.closes_ns).max(opens_ns + 1)),
            grace: terms.grace,
        }
    }
}

/// A program under way.
struct Node {
    /// The job as it is now.
    spec: JobSpec,
    bench: Bench,
    /// By the number that a program names, the engines after a restart.
    next: fn(usize) -> Crew,
    writer: Writer,
    seen: Rc<RefCell<Vec<Seen>>>,
    /// How many of the bench's events were looked at.
    events: usize,
    /// By id, as the node knows it: filling ones too.
    polls: BTreeMap<String, PollInForce>,
    /// By id, the version that was shown last.
    shown: BTreeMap<String, PollKey>,
    versions: BTreeMap<String, u32>,
    opened: Option<(PollKey, Vec<Vec<Offset>>)>,
    running: Option<Refill>,
    waiting: Refill,
}

/// Runs the program by the engines of a crew, and after each restart by those that `next` says, and holds
/// all that was published against recounts.
pub fn run(program: &Program, crew: Crew, next: fn(usize) -> Crew) {
    let spec = spec();
    let log = MemoryLog::default();
    log.create(POSTS, program.partitions);
    log.create(VOTES, 2);
    let partitions = program.partitions;
    let mut writer = Writer { log: log.clone(), partitions, clock_ms: START_MS, written: 0, before: Vec::new() };
    writer.append(&program.before);
    let mut first: Vec<PollInForce> = Vec::new();
    for (id, poll) in program.first.iter().enumerate() {
        let Some((terms, from)) = poll else { continue };
        // It opened before the job was started.
        let poll = writer.poll(id, terms, terms.opens_in_ms - 1_000);
        first.push(PollInForce { poll, version: 1, from: writer.from(*from) });
    }

    let source: Arc<dyn Source> = if program.drip { Arc::new(Drip(log.clone())) } else { Arc::new(log.clone()) };
    let mut bench = Bench::start_crew(&spec, first.clone(), source, Arc::new(PlainFormats), crew);
    let seen = Rc::new(RefCell::new(Vec::new()));
    bench.check = {
        let seen = seen.clone();
        Box::new(move |results| seen.borrow_mut().push(Seen::Update(Box::new(Update::of(results)))))
    };
    let by_id = |poll: &PollInForce| (poll.poll.id.clone(), poll.clone());
    let mut node = Node {
        spec: spec.clone(),
        bench,
        next,
        writer,
        seen,
        events: 0,
        polls: first.iter().map(by_id).collect(),
        shown: first.iter().map(|poll| (poll.poll.id.clone(), poll.key())).collect(),
        versions: first.iter().map(|poll| (poll.poll.id.clone(), poll.version)).collect(),
        opened: None,
        running: None,
        waiting: Refill { number: 1, add: Vec::new(), remove: Vec::new() },
    };
    for (step, wait) in &program.steps {
        node.step(step);
        node.start_refill();
        match wait {
            Wait::No => {}
            Wait::Read => node.until(Node::has_read),
            Wait::Idle => node.until(Node::is_idle),
        }
    }
    node.until(Node::is_idle);
    // Read after every command was taken, so that its update shows what they all have come to.
    let kind = Kind::Vote(String::new(), None);
    node.writer.append(&[Record { after_ms: 0, partition: 0, kind }]);
    node.until(|node| {
        let shown = node.bench.results.snapshot(&Default::default()).expect("few lines").subjects;
        node.is_idle() && shown.iter().map(|s| &s.subject).eq(node.polls.keys())
    });
    let in_force: Vec<PollInForce> = node.polls.values().cloned().collect();
    Check::new(&spec, &log, &first).all(&node.seen.borrow(), &in_force);
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (running, waiting, events) = (&self.running, &self.waiting, &self.bench.poll_events);
            eprintln!("running {running:#?}\nwaiting {waiting:#?}\nevents {events:#?}");
            eprintln!("{} written, read {:?}", self.writer.written, self.seen.borrow().last());
        }
    }
}

impl Node {
    fn has_read(&self) -> bool {
        self.bench.results.accounting().read >= self.writer.written
    }

    fn is_idle(&self) -> bool {
        self.has_read() && self.running.is_none() && self.waiting.add.is_empty() && self.waiting.remove.is_empty()
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Records(records) => self.writer.append(records),
            Step::Open(id, terms, from) => {
                let poll = self.writer.poll(*id, terms, terms.opens_in_ms);
                if !self.polls.contains_key(&poll.id) {
                    self.open(poll, *from);
                }
            }
            Step::OpenPast(id, terms, ago_ms) => {
                let poll = self.writer.poll(*id, terms, -ago_ms);
                if !self.polls.contains_key(&poll.id) {
                    let (version, from) = (self.next_version(&poll.id), self.writer.offsets_at(poll.opens_ns));
                    self.refill(PollInForce { poll, version, from });
                }
            }
            Step::Change(id, edit) => {
                if let Some(before) = self.polls.get(&format!("p{id}")).cloned() {
                    let poll = self.edited(&before.poll, edit);
                    if !poll.counts_as(&before.poll) {
                        let version = self.next_version(&poll.id);
                        self.refill(PollInForce { poll, version, from: before.from });
                    }
                }
            }
            Step::Delete(id) => self.delete(&format!("p{id}")),
            Step::Checkpoint(wait) => {
                self.until(|node| node.bench.is_checkpointed());
                self.bench.checkpoint();
                if *wait {
                    self.until(|node| node.bench.is_checkpointed());
                }
            }
            Step::Restart(workers) => self.restart(*workers, None),
            Step::Void(what) => {
                let mut spec = self.spec.clone();
                let what = self.writer.voided(*what);
                let ends =
                    [(POSTS, self.writer.from(From::End)[0].clone()), (VOTES, self.writer.from(From::End)[1].clone())];
                let ends = ends.into_iter().map(|(topic, ends)| (topic.to_owned(), ends)).collect();
                if spec.voids.add(&self.spec, what, "a test", 0, ends).is_ok() {
                    self.restart(2, Some(spec));
                }
            }
            Step::Unvoid(id) => {
                let mut spec = self.spec.clone();
                if spec.voids.take_back(*id) {
                    self.restart(2, Some(spec));
                }
            }
            Step::Seal => {
                self.until(Node::is_idle);
                let clock_ms = self.writer.clock_ms;
                let sealed = |poll: &&PollInForce| poll.poll.sealed_ms().is_some_and(|ms| ms <= clock_ms);
                let keys: Vec<PollKey> = self.polls.values().filter(sealed).map(PollInForce::key).collect();
                self.bench.polls(PollChange::Seal(keys));
            }
        }
    }

    /// The engine ends wherever it is, and another goes on, with other voids perhaps.
    fn restart(&mut self, workers: usize, spec: Option<JobSpec>) {
        self.until(|node| node.bench.is_checkpointed());
        // What was told before it ended belongs to what it told it of.
        self.bench.end();
        while self.bench.take_one() {
            self.take_events();
        }
        if let Some(spec) = spec {
            self.bench.reform(&spec);
            self.spec = spec;
        }
        let polls: Vec<PollInForce> = self.polls.values().cloned().collect();
        self.bench.restart_crew((self.next)(workers), polls.clone());
        self.running = None;
        self.waiting.number += 1;
        self.waiting.add.clear();
        self.waiting.remove.clear();
        self.shown = polls.iter().map(|poll| (poll.poll.id.clone(), poll.key())).collect();
        self.seen.borrow_mut().push(Seen::Restarted(polls, self.spec.voids.clone()));
    }

    fn next_version(&mut self, id: &str) -> u32 {
        let version = self.versions.entry(id.to_owned()).or_insert(0);
        *version += 1;
        *version
    }

    fn open(&mut self, poll: Poll, from: From) {
        let version = self.next_version(&poll.id);
        let asked = PollInForce { poll, version, from: self.writer.from(from) };
        let key = asked.key();
        // Only the engine knows where it begins; until then what is shown of it can't be checked, so that it
        // is told to be so from the command on, once known.
        let place = self.seen.borrow().len();
        self.opened = None;
        self.bench.polls(PollChange::Open(asked.clone()));
        self.until(|node| node.opened.is_some());
        let (opened, from) = self.opened.take().expect("it was waited for");
        assert_eq!(opened, key);
        let ends = self.writer.from(From::End);
        for ((asked, from), ends) in asked.from.iter().flatten().zip(from.iter().flatten()).zip(ends.iter().flatten()) {
            assert!(asked <= from && from <= ends, "{key:?} begins at {from}, asked for {asked} of {ends}");
        }
        assert_eq!(from.iter().map(Vec::len).collect::<Vec<_>>(), ends.iter().map(Vec::len).collect::<Vec<_>>());
        let poll = PollInForce { from, ..asked };
        self.seen.borrow_mut().insert(place, Seen::May(poll.poll.id.clone(), Some(poll.clone())));
        self.shown.insert(poll.poll.id.clone(), key);
        self.polls.insert(poll.poll.id.clone(), poll);
    }

    fn edited(&self, poll: &Poll, edit: &Edit) -> Poll {
        let mut poll = poll.clone();
        match edit {
            Edit::Options(options) => poll.options.clone_from(options),
            Edit::Match(matching) => poll.matching = *matching,
            Edit::Choices(choices) => poll.choices = *choices,
            Edit::Keep(keep, entity) => (poll.keep, poll.entity) = (*keep, *entity),
            Edit::Reposts(reposts) => poll.reposts = *reposts,
            Edit::Opens(later_ms) => poll.opens_ns += later_ms * 1_000_000,
            Edit::Closes(in_ms) => poll.closes_ns = in_ms.map(|ms| (self.writer.clock_ms + ms) * 1_000_000),
        }
        poll.closes_ns = poll.closes_ns.map(|closes| closes.max(poll.opens_ns + 1));
        poll
    }

    /// The poll is counted anew by the next pass over the past.
    fn refill(&mut self, poll: PollInForce) {
        self.waiting.add.retain(|waiting| waiting.poll.id != poll.poll.id);
        self.waiting.add.push(poll.clone());
        self.polls.insert(poll.poll.id.clone(), poll);
    }

    fn delete(&mut self, id: &str) {
        if self.polls.remove(id).is_none() {
            return;
        }
        // What a running pass is to show has to be shown before it can be hidden.
        let is_filling = |node: &Node| node.running.iter().flat_map(|r| &r.add).any(|poll| poll.poll.id == id);
        self.waiting.add.retain(|waiting| waiting.poll.id != id);
        self.until(|node| !is_filling(node));
        if let Some(key) = self.shown.remove(id) {
            self.bench.polls(PollChange::Hide(key.clone()));
            self.waiting.remove.push(key);
            self.seen.borrow_mut().extend([Seen::May(id.to_owned(), None), Seen::Hidden]);
        }
    }

    fn start_refill(&mut self) {
        if self.running.is_none() && !(self.waiting.add.is_empty() && self.waiting.remove.is_empty()) {
            let next = Refill { number: self.waiting.number + 1, add: Vec::new(), remove: Vec::new() };
            let refill = std::mem::replace(&mut self.waiting, next);
            self.bench.polls(PollChange::Refill(refill.clone()));
            self.running = Some(refill);
        }
    }

    /// Takes events until it is so.
    fn until(&mut self, done: impl Fn(&Node) -> bool) {
        loop {
            self.take_events();
            self.start_refill();
            if done(self) {
                return;
            }
            let (events, epoch) = (self.events, self.bench.results.epoch());
            let checkpoints = self.bench.checkpoint_events.len();
            // Each event is taken by itself, so that it is known which update it came after.
            self.bench.run_until(DEADLINE, |bench| {
                bench.poll_events.len() > events
                    || bench.results.epoch() != epoch
                    || bench.checkpoint_events.len() > checkpoints
                    || bench.failed.is_some()
            });
            assert_eq!(self.bench.failed, None);
        }
    }

    fn take_events(&mut self) {
        let events = self.bench.poll_events[self.events..].to_vec();
        self.events = self.bench.poll_events.len();
        for event in events {
            match event {
                PollEvent::Opened { poll, from } => self.opened = Some((poll, from)),
                PollEvent::Refilling { number, records, of } => {
                    assert_eq!(self.running.as_ref().map(|refill| refill.number), Some(number));
                    assert!(records <= of, "{records} of {of}");
                }
                PollEvent::RefillFailed { number, error } => panic!("refill {number}: {error}"),
                PollEvent::Refilled { number } => {
                    let refill = self.running.take().expect("a refill runs");
                    assert_eq!(refill.number, number);
                    self.shown.extend(refill.add.iter().map(|poll| (poll.poll.id.clone(), poll.key())));
                    let (added, removed) = (refill.add, refill.remove.len());
                    self.seen.borrow_mut().push(Seen::Refilled { added, removed });
                }
            }
        }
    }
}

/// A log that hands out two records at a time.
struct Drip(MemoryLog);

struct DripReader(Box<dyn PartitionSource>);

impl Source for Drip {
    fn topic(&self, topic: &str) -> Result<Option<TopicState>, SourceError> {
        self.0.topic(topic)
    }

    fn offset_at(&self, topic: &str, partition: PartitionId, timestamp_ms: i64) -> Result<Offset, SourceError> {
        self.0.offset_at(topic, partition, timestamp_ms)
    }

    fn open(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError> {
        Ok(Box::new(DripReader(self.0.open(topic, partition, from, waker)?)))
    }
}

impl PartitionSource for DripReader {
    fn poll(&mut self, budget: Budget, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<Polled, SourceError> {
        self.0.poll(Budget { records_max: budget.records_max.min(2), ..budget }, each)
    }

    fn end(&self) -> Offset {
        self.0.end()
    }
}
