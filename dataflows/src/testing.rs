//! For tests, and for whoever embeds the engine: a log in memory, plain decoders, and an engine whose
//! results can be waited for.
//!
//! The decoder here is written for plainness, not speed: it parses the whole record.

use crate::checkpoint::manifest::Place;
use crate::checkpoint::{CheckpointStore, StoreError};
use crate::claim::HashKey;
use crate::decode::{Decoded, Decoder, Event, FormatInfo, Formats, Needs, Reject, Value};
use crate::engine::PollChange;
use crate::engine::job::{Halt, Install, InstallInput, Start};
use crate::engine::{Command, EngineConfig};
use crate::ids::{Epoch, Offset, PartitionId};
use crate::pointer::Pointer;
use crate::record::RecordRef;
use crate::results::{JobResults, Shape};
use crate::source::{Budget, PartitionSource, PartitionState, Polled, Source, SourceError, TopicState, Waker};
use crate::spec::JobSpec;
use crate::spec::polls::PollInForce;
use crate::update::{CheckpointEvent, EngineEvent, JobId, PollEvent};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

mod crew;

pub use crew::{Crew, Engines, meet};

/// A record of a [`MemoryLog`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryRecord {
    pub timestamp_ms: i64,
    pub value: Vec<u8>,
}

#[derive(Default)]
struct MemoryTopic {
    partitions: Vec<Vec<MemoryRecord>>,
    /// By partition, the first offset that is kept.
    starts: BTreeMap<usize, u64>,
    wakers: Vec<(usize, Waker)>,
    /// How many reads are still to fail.
    fails: usize,
}

/// A log in memory.
#[derive(Clone, Default)]
pub struct MemoryLog(Arc<Mutex<BTreeMap<String, MemoryTopic>>>);

impl MemoryLog {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, MemoryTopic>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a topic, or leaves the one that is there.
    pub fn create(&self, topic: &str, partitions: usize) {
        let mut topics = self.lock();
        topics.entry(topic.to_owned()).or_default().partitions.resize_with(partitions, Vec::new);
    }

    /// Appends to a partition and wakes its readers.
    pub fn append(&self, topic: &str, partition: usize, records: impl IntoIterator<Item = MemoryRecord>) {
        let mut topics = self.lock();
        let topic = topics.get_mut(topic).expect("the topic was made");
        topic.partitions[partition].extend(records);
        topic.wakers.iter().filter(|(p, _)| *p == partition).for_each(|(_, waker)| waker());
    }

    /// Lets retention take the records of a partition before `start`.
    pub fn take_before(&self, topic: &str, partition: usize, start: u64) {
        self.lock().get_mut(topic).expect("the topic was made").starts.insert(partition, start);
    }

    /// Lets the next reads of a topic fail in a way that passes.
    pub fn fail_next(&self, topic: &str, reads: usize) {
        self.lock().get_mut(topic).expect("the topic was made").fails = reads;
    }

    /// How many reads of a topic are still to fail.
    pub fn fails(&self, topic: &str) -> usize {
        self.lock()[topic].fails
    }

    /// All records of a partition, those that retention took too.
    pub fn records(&self, topic: &str, partition: usize) -> Vec<MemoryRecord> {
        self.lock()[topic].partitions[partition].clone()
    }
}

impl Source for MemoryLog {
    fn topic(&self, topic: &str) -> Result<Option<TopicState>, SourceError> {
        Ok(self.lock().get(topic).map(|t| TopicState {
            name: topic.to_owned(),
            incarnation: 1,
            compacted: false,
            partitions: (t.partitions.iter())
                .map(|p| PartitionState { start: Offset(0), end: Offset(p.len() as u64), bytes: None })
                .collect(),
        }))
    }

    fn offset_at(&self, topic: &str, partition: PartitionId, timestamp_ms: i64) -> Result<Offset, SourceError> {
        let topics = self.lock();
        let records = &topics[topic].partitions[partition.0 as usize];
        Ok(Offset(records.partition_point(|r| r.timestamp_ms < timestamp_ms) as u64))
    }

    fn open(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError> {
        let mut topics = self.lock();
        let unknown = || SourceError::UnknownTopic { topic: topic.to_owned() };
        let of = topics.get_mut(topic).ok_or_else(unknown)?;
        let start = of.starts.get(&(partition.0 as usize)).copied().map(Offset).unwrap_or_default();
        if from < start {
            return Err(SourceError::Gone { topic: topic.to_owned(), partition, wanted: from, start });
        }
        of.wakers.push((partition.0 as usize, waker));
        Ok(Box::new(MemoryReader { log: self.clone(), topic: topic.to_owned(), partition, next: from }))
    }
}

struct MemoryReader {
    log: MemoryLog,
    topic: String,
    partition: PartitionId,
    next: Offset,
}

impl PartitionSource for MemoryReader {
    fn poll(&mut self, budget: Budget, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<Polled, SourceError> {
        let mut topics = self.log.lock();
        let topic = topics.get_mut(&self.topic).expect("topics are not deleted");
        if topic.fails > 0 {
            topic.fails -= 1;
            return Err(SourceError::Io("the test said so".into()));
        }
        let records = &topic.partitions[self.partition.0 as usize];
        let from = self.next.0 as usize;
        let to = records.len().min(from + budget.records_max).min(budget.until.0 as usize).max(from);
        for (offset, record) in (from..to).zip(&records[from..to]) {
            each(RecordRef {
                partition: self.partition,
                offset: Offset(offset as u64),
                timestamp_ms: record.timestamp_ms,
                key: None,
                value: Some(&record.value),
            });
        }
        self.next = Offset(to as u64);
        Ok(Polled { records: to - from, next: self.next, end: Offset(records.len() as u64) })
    }

    fn end(&self) -> Offset {
        Offset(self.log.lock()[&self.topic].partitions[self.partition.0 as usize].len() as u64)
    }
}

/// The formats `json`, `post` and `vote`, without what `post` fills in. Of `post`, besides, a record whose
/// `text` is a number is no message: other formats have such records, and a test may want one.
pub struct PlainFormats;

impl Formats for PlainFormats {
    fn all(&self) -> &[FormatInfo] {
        &[
            FormatInfo { name: "json", message_id: None, claim_id: None },
            FormatInfo { name: "post", message_id: Some("/id"), claim_id: None },
            FormatInfo { name: "vote", message_id: None, claim_id: Some("/id") },
        ]
    }

    fn decoder(&self, format: &str, needs: &Needs) -> Box<dyn Decoder> {
        Box::new(PlainDecoder { messages: format == "post", needs: needs.clone() })
    }
}

struct PlainDecoder {
    messages: bool,
    needs: Needs,
}

impl Decoder for PlainDecoder {
    fn decode<'a>(&mut self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<Decoded, Reject> {
        let bytes = record.value.ok_or(Reject("the record has no value".into()))?;
        let json: &RawValue =
            serde_json::from_slice(bytes).map_err(|e| Reject(format!("no valid JSON: {e}").into()))?;
        let whole = value(json.get())?;
        if !matches!(whole, Value::Object(_)) {
            return Err(Reject("the record is no JSON object".into()));
        }
        event.slots.extend(self.needs.pointers().iter().map(|p| find(&whole, p).cloned()));
        let text = Pointer::from_tokens(vec!["text".into()]);
        Ok(match find(&whole, &text).filter(|_| self.messages) {
            Some(Value::Null) => Decoded::Deleted,
            Some(Value::Number(_)) => Decoded::Irrelevant("no message"),
            _ => Decoded::Event,
        })
    }
}

fn find<'v, 'a>(whole: &'v Value<'a>, pointer: &Pointer) -> Option<&'v Value<'a>> {
    pointer.tokens().iter().try_fold(whole, |at, token| match at {
        Value::Object(members) => members.iter().find(|(name, _)| name == token).map(|(_, value)| value),
        Value::Array(elements) => token.parse::<usize>().ok().and_then(|index| elements.get(index)),
        _ => None,
    })
}

/// The value of a JSON text; numbers keep theirs, so that no digit is lost on the way.
fn value(text: &str) -> Result<Value<'static>, Reject> {
    let wrong = |e: serde_json::Error| Reject(format!("no valid JSON: {e}").into());
    Ok(match text.as_bytes().first() {
        Some(b'n') => Value::Null,
        Some(b't' | b'f') => Value::Bool(text == "true"),
        Some(b'"') => Value::Text(Cow::Owned(serde_json::from_str(text).map_err(wrong)?)),
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(wrong)?;
            Value::Array(elements.into_iter().map(|element| value(element.get())).collect::<Result<_, _>>()?)
        }
        Some(b'{') => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(wrong)?;
            let member = |(name, of): (String, &RawValue)| Ok((Cow::Owned(name), value(of.get())?));
            Value::Object(members.into_iter().map(member).collect::<Result<_, _>>()?)
        }
        _ => Value::Number(Cow::Owned(text.to_owned())),
    })
}

/// Checkpoints in memory.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<MemoryObjects>>);

#[derive(Default)]
struct MemoryObjects {
    objects: BTreeMap<String, Vec<u8>>,
    /// How many calls are still to fail.
    fails: usize,
}

impl MemoryStore {
    fn call<R>(&self, call: impl FnOnce(&mut BTreeMap<String, Vec<u8>>) -> R) -> Result<R, StoreError> {
        let mut store = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if store.fails > 0 {
            store.fails -= 1;
            return Err(StoreError("the test said so".into()));
        }
        Ok(call(&mut store.objects))
    }

    /// Lets the next calls fail.
    pub fn fail_next(&self, calls: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fails = calls;
    }

    /// Changes what is stored.
    pub fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).objects);
    }
}

impl CheckpointStore for MemoryStore {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.call(|objects| drop(objects.insert(name.to_owned(), bytes.to_vec())))
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        self.call(|objects| {
            let is_new = !objects.contains_key(name);
            objects.entry(name.to_owned()).or_insert_with(|| bytes.to_vec());
            is_new
        })
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.call(|objects| objects.get(name).cloned())
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.call(|objects| objects.keys().filter(|name| name.starts_with(&format!("{folder}/"))).cloned().collect())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.call(|objects| drop(objects.remove(name)))
    }
}

/// From which checkpoint an engine went on, and which ones were of no use.
pub type TakenUp = (Option<u64>, Vec<(u64, String)>);

/// An engine with one job, alone or of several processes, and its results.
pub struct Bench {
    /// What it is started with again.
    config: EngineConfig,
    install: Install,
    engines: Engines,
    pub results: JobResults,
    /// Where its checkpoints are.
    pub store: MemoryStore,
    /// The last checkpoint that was asked for, and what became of those so far.
    asked: u64,
    pub checkpoint_events: Vec<(u64, CheckpointEvent)>,
    /// What was told of partitions that are waited for: by input, and why, `None` where they are read again.
    pub waits: Vec<(u32, PartitionId, Option<String>)>,
    /// From which checkpoint the engine went on, and which ones were of no use.
    pub taken_up: Option<TakenUp>,
    /// The last pause that was asked for, and the last one that was reached.
    halts: u64,
    halted: u64,
    /// Why the job failed, if it did.
    pub failed: Option<String>,
    /// What became of changes of polls, all of it so far.
    pub poll_events: Vec<PollEvent>,
    /// Called with the results after every update.
    pub check: Box<dyn FnMut(&JobResults)>,
}

impl Bench {
    /// Starts an engine with `workers` and installs the job, from the beginning of its topics.
    pub fn start(spec: &JobSpec, source: Arc<dyn Source>, formats: Arc<dyn Formats>, workers: usize) -> Self {
        Self::start_polls(spec, Vec::new(), source, formats, workers)
    }

    /// Starts a `polls` job with polls that are there already.
    pub fn start_polls(
        spec: &JobSpec,
        polls: Vec<PollInForce>,
        source: Arc<dyn Source>,
        formats: Arc<dyn Formats>,
        workers: usize,
    ) -> Self {
        Self::start_crew(spec, polls, source, formats, Crew::of(workers))
    }

    /// Likewise with several processes.
    pub fn start_crew(
        spec: &JobSpec,
        polls: Vec<PollInForce>,
        source: Arc<dyn Source>,
        formats: Arc<dyn Formats>,
        crew: Crew,
    ) -> Self {
        let store = MemoryStore::default();
        let inputs = spec.inputs.iter().map(|input| {
            let topic = source.topic(&input.topic).expect("the source answers").expect("the topic was made");
            let start = |p| Start { partition: PartitionId(p as u32), from: Offset(0), until: None };
            let (topic, partitions) = (topic.name, (0..topic.partitions.len()).map(start).collect());
            InstallInput { topic, incarnation: None, partitions, from_ms: None, until_ms: None }
        });
        let install = Install {
            keep: Some(Place { folder: "job-1".into(), form: "a form".into() }),
            job: JobId(1),
            spec: spec.clone(),
            inputs: inputs.collect(),
            first_epoch: Epoch(1),
            epoch_limit: Epoch(1 << 53),
            halt: None,
            beside: false,
            polls,
        };
        let config = EngineConfig {
            checkpoints: Some(Arc::new(store.clone())),
            workers: crew.workers,
            hash_key: HashKey([17, 4]),
            source,
            formats,
            deliver: Arc::new(|_| {}),
        };
        let engines = Engines::start(&config, crew);
        engines.command(Command::Install(Box::new(install.clone())));
        let results = JobResults::new(Shape::of(spec, &install.inputs));
        Bench {
            config,
            install,
            engines,
            results,
            store,
            asked: 0,
            checkpoint_events: Vec::new(),
            waits: Vec::new(),
            taken_up: None,
            halts: 0,
            halted: 0,
            failed: None,
            poll_events: Vec::new(),
            check: Box::new(|_| {}),
        }
    }

    /// Ends the engine wherever it is. What it has told can still be taken.
    pub fn end(&mut self) {
        self.engines.end();
    }

    /// Ends the engine wherever it is, and starts another, with that many workers, which goes on from the
    /// newest checkpoint; the polls of a `polls` job are these by now.
    pub fn restart(&mut self, workers: usize, polls: Vec<PollInForce>) {
        self.restart_crew(Crew::of(workers), polls);
    }

    /// Likewise with several processes.
    pub fn restart_crew(&mut self, crew: Crew, polls: Vec<PollInForce>) {
        self.end();
        while self.take_one() {}
        self.install.polls = polls;
        // Numbers of epochs never come back.
        self.install.first_epoch = Epoch(self.results.epoch().unwrap_or_default().0 + 1_000);
        self.engines = Engines::start(&self.config, crew);
        self.command(Command::Install(Box::new(self.install.clone())));
        self.results = JobResults::new(Shape::of(&self.install.spec, &self.install.inputs));
        (self.taken_up, self.failed, self.halted) = (None, None, self.halts);
    }

    /// Likewise from the beginning, with checkpoints elsewhere from now on.
    pub fn restart_in(&mut self, store: Arc<dyn CheckpointStore>, workers: usize) {
        self.config.checkpoints = Some(store);
        self.restart(workers, Vec::new());
    }

    /// What the job is from its next start on: another form, to which no checkpoint is of use.
    pub fn reform(&mut self, spec: &JobSpec) {
        self.install.spec = spec.clone();
        if let Some(place) = &mut self.install.keep {
            place.form.push_str(" anew");
        }
    }

    fn command(&self, command: Command) {
        self.engines.command(command);
    }

    /// Has the job stop reading where it is, which `EngineEvent::Halted` tells, or read on.
    pub fn pause(&mut self, is_paused: bool) {
        let job = JobId(1);
        if is_paused {
            self.halts += 1;
            let halt = Halt { number: self.halts, until: None };
            self.command(Command::Halt { job, halt });
        } else {
            self.command(Command::Resume(job));
        }
    }

    /// Whether the last pause is reached.
    pub fn is_paused(&self) -> bool {
        self.halted == self.halts
    }

    /// Asks for a checkpoint; answers its number.
    pub fn checkpoint(&mut self) -> u64 {
        self.asked += 1;
        self.command(Command::Checkpoint { job: JobId(1), number: self.asked });
        self.asked
    }

    /// Whether nothing more will become of the last checkpoint that was asked for.
    pub fn is_checkpointed(&self) -> bool {
        let is_over = |(number, event): &(u64, CheckpointEvent)| {
            *number == self.asked && !matches!(event, CheckpointEvent::Failed { again: true, .. })
        };
        self.asked == 0 || self.checkpoint_events.iter().any(is_over)
    }

    /// Changes the polls of a `polls` job.
    pub fn polls(&self, change: PollChange) {
        self.command(Command::Polls { job: JobId(1), change });
    }

    /// Takes events until the results stand for `records` records, or the job fails.
    pub fn run_to(&mut self, records: u64, deadline: Duration) {
        self.run_until(deadline, |bench| bench.results.accounting().read >= records);
    }

    /// Takes events until `done`, or the job fails.
    pub fn run_until(&mut self, deadline: Duration, done: impl Fn(&Self) -> bool) {
        let until = Instant::now() + deadline;
        while !done(self) && self.failed.is_none() {
            let wait = until.saturating_duration_since(Instant::now());
            let event = self.engines.next(wait).unwrap_or_else(|| {
                let (read, peers) = (self.results.accounting().read, self.engines.peers());
                panic!("not done after {deadline:?}: {read} records read; {peers:?}")
            });
            self.take(event);
        }
    }

    /// Takes an event that is there; whether there was one.
    pub fn take_one(&mut self) -> bool {
        self.take_within(Duration::ZERO)
    }

    /// Takes an event if one comes within so long; whether one came.
    pub fn take_within(&mut self, within: Duration) -> bool {
        self.engines.next(within).map(|event| self.take(event)).is_some()
    }

    fn take(&mut self, event: EngineEvent) {
        match event {
            EngineEvent::Closed { update, .. } => {
                self.results.apply(*update);
                (self.check)(&self.results);
            }
            EngineEvent::Failed { error, .. } => self.failed = Some(error),
            EngineEvent::Polls { event, .. } => self.poll_events.push(event),
            EngineEvent::Checkpoint { number, event, .. } => self.checkpoint_events.push((number, event)),
            EngineEvent::TakenUp { from, passed_over, .. } => {
                self.taken_up = Some((from.map(|(number, _)| number), passed_over));
            }
            EngineEvent::Halted { halt, .. } => self.halted = halt,
            EngineEvent::Waits { input, partition, why, .. } => self.waits.push((input, partition, why)),
            EngineEvent::Installed { .. } | EngineEvent::Removed { .. } => {}
        }
    }
}
