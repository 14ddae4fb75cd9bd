//! Jobs come and go, halt, resume and fail while others run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tallyflow_dataflows::claim::HashKey;
use tallyflow_dataflows::decode::{Decoded, Decoder, Event, FormatInfo, Formats, Needs, Reject};
use tallyflow_dataflows::engine::job::{Halt, Install, InstallInput, Start};
use tallyflow_dataflows::engine::{Command, Engine, EngineConfig};
use tallyflow_dataflows::ids::{Epoch, Offset, PartitionId};
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::results::{JobResults, Shape};
use tallyflow_dataflows::source::{Budget, PartitionSource, Polled, Source, SourceError, TopicState, Waker};
use tallyflow_dataflows::spec::{JobFile, JobSpec, Surroundings};
use tallyflow_dataflows::testing::{MemoryLog, MemoryRecord, PlainFormats};
use tallyflow_dataflows::update::{EngineEvent, JobId};

const PARTITIONS: usize = 4;
const DEADLINE: Duration = Duration::from_secs(30);
/// How long nothing must come for nothing to be coming.
const QUIET: Duration = Duration::from_millis(300);

/// An engine with several jobs.
struct Node {
    engine: Engine,
    events: Receiver<EngineEvent>,
    results: BTreeMap<JobId, JobResults>,
    epochs: BTreeMap<JobId, Vec<u64>>,
    installed: BTreeSet<JobId>,
    removed: BTreeSet<JobId>,
    halted: BTreeSet<(JobId, u64)>,
    failed: BTreeMap<JobId, Vec<String>>,
}

impl Node {
    fn start(source: Arc<dyn Source>, workers: usize) -> Self {
        Self::start_with(source, Arc::new(PlainFormats), workers)
    }

    fn start_with(source: Arc<dyn Source>, formats: Arc<dyn Formats>, workers: usize) -> Self {
        let (send, events) = channel();
        let send = Mutex::new(send);
        let engine = Engine::start(EngineConfig {
            workers,
            hash_key: HashKey([3, 5]),
            source,
            formats,
            checkpoints: None,
            deliver: Arc::new(move |event| drop(send.lock().unwrap().send(event))),
        });
        Node {
            engine: engine.unwrap(),
            events,
            results: BTreeMap::new(),
            epochs: BTreeMap::new(),
            installed: BTreeSet::new(),
            removed: BTreeSet::new(),
            halted: BTreeSet::new(),
            failed: BTreeMap::new(),
        }
    }

    fn install(&mut self, job: u64, spec: &JobSpec, change: impl FnOnce(&mut Install)) {
        let start = |p| Start { partition: PartitionId(p as u32), from: Offset(0), until: None };
        let partitions: Vec<Start> = (0..PARTITIONS).map(start).collect();
        let input = |topic: &String| InstallInput {
            topic: topic.clone(),
            incarnation: None,
            partitions: partitions.clone(),
            from_ms: None,
            until_ms: None,
        };
        let mut install = Install {
            job: JobId(job),
            spec: spec.clone(),
            inputs: spec.inputs.iter().map(|i| input(&i.topic)).collect(),
            first_epoch: Epoch(1),
            epoch_limit: Epoch(1 << 53),
            halt: None,
            beside: false,
            polls: Vec::new(),
            keep: None,
        };
        change(&mut install);
        self.results.insert(install.job, JobResults::new(Shape::of(spec, &install.inputs)));
        self.engine.command(Command::Install(Box::new(install)));
    }

    fn take(&mut self, event: EngineEvent) {
        self.engine.taken();
        let (EngineEvent::Installed { job }
        | EngineEvent::Closed { job, .. }
        | EngineEvent::Halted { job, .. }
        | EngineEvent::Failed { job, .. }
        | EngineEvent::Waits { job, .. }
        | EngineEvent::Polls { job, .. }
        | EngineEvent::TakenUp { job, .. }
        | EngineEvent::Checkpoint { job, .. }
        | EngineEvent::Removed { job }) = &event;
        assert!(!self.removed.contains(job), "{event:?} after the job was gone");
        match event {
            EngineEvent::Installed { job } => assert!(self.installed.insert(job)),
            EngineEvent::Closed { job, update } => {
                assert!(!self.failed.contains_key(&job), "an update of a failed job: {update:?}");
                self.epochs.entry(job).or_default().push(update.epoch.0);
                self.results.get_mut(&job).unwrap().apply(*update);
            }
            EngineEvent::Halted { job, halt } => assert!(self.halted.insert((job, halt))),
            EngineEvent::Failed { job, error, .. } => self.failed.entry(job).or_default().push(error),
            EngineEvent::Waits { why, .. } => panic!("{why:?}: this log can always be read"),
            EngineEvent::Polls { event, .. } => panic!("{event:?} of a job without polls"),
            EngineEvent::TakenUp { .. } | EngineEvent::Checkpoint { .. } => panic!("{event:?} where nothing is kept"),
            EngineEvent::Removed { job } => assert!(self.removed.insert(job)),
        }
    }

    /// Takes events until `done`.
    fn wait(&mut self, what: &str, done: impl Fn(&Node) -> bool) {
        let until = Instant::now() + DEADLINE;
        while !done(self) {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) => self.take(event),
                Err(_) => panic!("not within {DEADLINE:?}: {what}"),
            }
        }
    }

    /// Takes what comes until nothing does for a while; tells whether there was an update.
    fn is_quiet(&mut self) -> bool {
        let mut quiet = true;
        loop {
            match self.events.recv_timeout(QUIET) {
                Ok(event) => {
                    quiet = false;
                    self.take(event);
                }
                Err(RecvTimeoutError::Timeout) => return quiet,
                Err(RecvTimeoutError::Disconnected) => panic!("the engine is gone"),
            }
        }
    }

    fn read(&self, job: u64) -> u64 {
        self.results[&JobId(job)].accounting().read
    }

    fn offsets(&self, job: u64) -> Vec<u64> {
        let inputs = self.results[&JobId(job)].inputs().flat_map(|(_, places)| places.iter().map(|(next, _)| next.0));
        inputs.collect()
    }
}

fn spec(tally: &str, topic: &str) -> JobSpec {
    let text =
        format!("name = 'job'\ndataflow = 'tally'\n[[input]]\ntopic = '{topic}'\nformat = 'json'\n[tally]\n{tally}");
    let around = Surroundings { formats: &PlainFormats, partitions: &|_| Some(PARTITIONS as u32), topics: vec![] };
    JobFile::parse_toml(&text, &around).unwrap()
}

const COUNT: &str = "group = '/g'";
const LAST: &str = "group = '/g'\nentity = '/e'\nkeep = 'last'\naggregates = ['count', 'max']";

fn record(n: u64) -> MemoryRecord {
    MemoryRecord { timestamp_ms: n as i64, value: format!(r#"{{"g":"g{}","e":"e{}"}}"#, n % 7, n % 97).into_bytes() }
}

fn log(topics: &[&str]) -> MemoryLog {
    let log = MemoryLog::default();
    topics.iter().for_each(|topic| log.create(topic, PARTITIONS));
    log
}

fn fill(log: &MemoryLog, topic: &str, per_partition: u64) {
    (0..PARTITIONS).for_each(|p| log.append(topic, p, (0..per_partition).map(record)));
}

#[test]
fn jobs_come_and_go_while_records_flow() {
    let log = log(&["t"]);
    let stop = Arc::new(AtomicBool::new(false));
    let feed = {
        let (log, stop) = (log.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut n = 0;
            // Bounded, so that a test that fails ends.
            while !stop.load(Ordering::Acquire) && n < 200_000 {
                log.append("t", n as usize % PARTITIONS, (n..n + 20).map(record));
                n += 20;
                std::thread::yield_now();
            }
            n
        })
    };
    let mut node = Node::start(Arc::new(log), 4);
    let (count, last) = (spec(COUNT, "t"), spec(LAST, "t"));
    for round in 0..8 {
        let job = round * 3;
        node.install(job, &count, |_| {});
        node.install(job + 1, &last, |_| {});
        // Taken down as soon as it stands, or before.
        node.install(job + 2, &last, |_| {});
        node.engine.command(Command::Remove(JobId(job + 2)));
        node.wait("the jobs read", |node| node.read(job) > 0 && node.read(job + 1) > 0);
        if round < 7 {
            node.engine.command(Command::Remove(JobId(job + round % 2)));
        }
        if let Some(before) = job.checked_sub(3) {
            node.engine.command(Command::Remove(JobId(before + 1 - (round - 1) % 2)));
        }
    }
    stop.store(true, Ordering::Release);
    let records = feed.join().unwrap();
    node.wait("the last two have read all", |node| node.read(21) == records && node.read(22) == records);
    node.wait("all others are gone", |node| node.removed.len() == 22 && node.installed.len() == 24);
    assert_eq!(node.failed, BTreeMap::new());
    assert_eq!(node.results[&JobId(21)].accounting().counted, records);
    assert_eq!(node.results[&JobId(22)].accounting().counted, records.min(97));
}

#[test]
fn a_halt_reaches_its_offsets_exactly_and_resuming_reads_on() {
    let log = log(&["t"]);
    fill(&log, "t", 1_000);
    let mut node = Node::start(Arc::new(log.clone()), 4);
    let job = JobId(1);
    let halt = |number, until: &[u64]| Halt { number, until: Some(vec![until.iter().copied().map(Offset).collect()]) };
    node.install(1, &spec(LAST, "t"), |install| install.halt = Some(halt(7, &[100, 50, 0, 250])));
    node.wait("the first halt", |node| node.halted.contains(&(job, 7)));
    assert_eq!(node.offsets(1), [100, 50, 0, 250]);
    assert_eq!(node.read(1), 400);

    // A bound behind what was read stops there and gives nothing back.
    node.engine.command(Command::Halt { job, halt: halt(8, &[900, 40, 0, 251]) });
    node.wait("the second halt", |node| node.halted.contains(&(job, 8)));
    assert_eq!(node.offsets(1), [900, 50, 0, 251]);

    // Past the end of the log: reached as soon as it is written.
    node.engine.command(Command::Halt { job, halt: halt(9, &[1_010, 50, 0, 251]) });
    node.wait("all that is there", |node| node.offsets(1) == [1_000, 50, 0, 251]);
    assert!(!node.halted.contains(&(job, 9)));
    log.append("t", 0, (0..20).map(record));
    node.wait("the third halt", |node| node.halted.contains(&(job, 9)));
    assert_eq!(node.offsets(1), [1_010, 50, 0, 251]);

    // At once: and then nothing is read, whatever is written.
    node.engine.command(Command::Resume(job));
    node.engine.command(Command::Halt { job, halt: Halt { number: 10, until: None } });
    node.wait("the fourth halt", |node| node.halted.contains(&(job, 10)));
    let offsets = node.offsets(1);
    fill(&log, "t", 100);
    node.engine.command(Command::Halt { job, halt: Halt { number: 11, until: None } });
    node.wait("the fifth halt", |node| node.halted.contains(&(job, 11)));
    assert_eq!(node.offsets(1), offsets);

    node.engine.command(Command::Resume(job));
    node.wait("the rest", |node| node.offsets(1) == [1_120, 1_100, 1_100, 1_100]);
    assert_eq!(node.halted.len(), 5);
}

#[test]
fn a_halt_is_reached_where_the_jobs_own_bound_lies_before_it() {
    let log = log(&["t"]);
    fill(&log, "t", 30);
    let mut node = Node::start(Arc::new(log), 2);
    node.install(1, &spec(COUNT, "t"), |install| {
        install.inputs[0].partitions[1] = Start { partition: PartitionId(1), from: Offset(5), until: Some(Offset(5)) };
        install.inputs[0].partitions[2].until = Some(Offset(10));
        install.halt = Some(Halt { number: 1, until: Some(vec![vec![Offset(20); PARTITIONS]]) });
    });
    node.wait("the halt", |node| node.halted.contains(&(JobId(1), 1)));
    assert_eq!(node.offsets(1), [20, 5, 10, 20]);
}

/// A log of which some topics can't be read.
struct Broken(MemoryLog);

/// Reads until an offset that is gone.
struct Fading(Box<dyn PartitionSource>, SourceError);

fn gone(topic: &str, partition: PartitionId) -> SourceError {
    SourceError::Gone { topic: topic.to_owned(), partition, wanted: Offset(10), start: Offset(20) }
}

impl Source for Broken {
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
        match topic {
            "shut" => Err(SourceError::UnknownPartition { topic: topic.to_owned(), partition }),
            "fading" => Ok(Box::new(Fading(self.0.open(topic, partition, from, waker)?, gone(topic, partition)))),
            _ => self.0.open(topic, partition, from, waker),
        }
    }
}

impl PartitionSource for Fading {
    fn poll(&mut self, budget: Budget, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<Polled, SourceError> {
        let polled = self.0.poll(Budget { until: Offset(10), ..budget }, each)?;
        if polled.records == 0 { Err(self.1.clone()) } else { Ok(polled) }
    }

    fn end(&self) -> Offset {
        self.0.end()
    }
}

#[test]
fn a_job_whose_log_fails_is_told_once_and_the_others_go_on() {
    let log = log(&["t", "shut", "fading"]);
    ["t", "shut", "fading"].into_iter().for_each(|topic| fill(&log, topic, 100));
    let mut node = Node::start(Arc::new(Broken(log.clone())), 4);
    node.install(1, &spec(COUNT, "t"), |_| {});
    node.install(2, &spec(COUNT, "shut"), |_| {});
    node.install(3, &spec(LAST, "fading"), |_| {});
    // Gone again before every worker has met the failure.
    for job in 10..30 {
        node.install(job, &spec(COUNT, "shut"), |_| {});
        node.engine.command(Command::Remove(JobId(job)));
    }
    node.wait("both fail", |node| node.failed.contains_key(&JobId(2)) && node.failed.contains_key(&JobId(3)));
    node.wait("the others are gone", |node| node.removed.len() == 20);
    fill(&log, "t", 100);
    fill(&log, "fading", 100);
    node.wait("the sound job reads on", |node| node.read(1) == 800);
    node.engine.command(Command::Remove(JobId(2)));
    node.engine.command(Command::Remove(JobId(3)));
    node.wait("the failed ones go", |node| node.removed.len() == 22);
    assert!(node.failed.values().all(|errors| errors.len() == 1), "{:?}", node.failed);
    assert!(node.failed[&JobId(2)][0].contains("no partition"), "{:?}", node.failed);
    assert!(node.failed[&JobId(3)][0].contains("offsets 10 to 19 of fading/"), "{:?}", node.failed);
}

#[test]
fn a_sum_beyond_the_fixed_point_fails_the_job_and_shows_no_wrong_number() {
    for (tally, what) in [
        ("subject = '/s'\ngroup = '/g'\nvalue = '/v'", "the sum of subject \"north\", group \"a\""),
        ("subject = '/s'\ngroup = '/h'\nvalue = '/v'", "the total of subject \"north\""),
        ("subject = '/s'\ngroup = '/h'\nvalue = '/v'\nentity = '/h'\nkeep = 'last'", "the total of subject \"north\""),
    ] {
        let log = log(&["t"]);
        let mut node = Node::start(Arc::new(log.clone()), 2);
        node.install(1, &spec(tally, "t"), |_| {});
        let record = |h: &str| {
            let value = format!(r#"{{"s":"north","g":"a","h":"{h}","v":100000000000000000000}}"#);
            [MemoryRecord { timestamp_ms: 0, value: value.into_bytes() }]
        };
        log.append("t", 0, record("x"));
        node.wait("the first record", |node| node.read(1) == 1);
        log.append("t", 1, record("y"));
        node.wait("the failure", |node| node.failed.contains_key(&JobId(1)));
        assert!(node.failed[&JobId(1)][0].starts_with(what), "{:?}", node.failed);
        assert!(node.failed[&JobId(1)][0].contains("beyond the fixed point"), "{:?}", node.failed);
        log.append("t", 2, record("z"));
        assert!(node.is_quiet());
        assert_eq!(node.read(1), 1);
        let values: Vec<String> = node.results[&JobId(1)].lines().map(|(.., values)| values[0].to_string()).collect();
        assert_eq!(values, ["100000000000000000000"]);
    }
}

#[test]
fn an_idle_engine_makes_no_updates() {
    let log = log(&["t"]);
    fill(&log, "t", 10);
    let mut node = Node::start(Arc::new(log.clone()), 2);
    (0..10).for_each(|job| node.install(job, &spec(LAST, "t"), |_| {}));
    node.wait("all is read", |node| (0..10).all(|job| node.read(job) == 40));
    // What is still on its way.
    node.is_quiet();
    assert!(node.is_quiet());
    log.append("t", 3, [record(1)]);
    node.wait("the engine still reads", |node| (0..10).all(|job| node.read(job) == 41));
}

#[test]
fn epochs_stop_at_their_limit_until_it_is_raised() {
    let log = log(&["t"]);
    let mut node = Node::start(Arc::new(log.clone()), 4);
    node.install(1, &spec(COUNT, "t"), |install| {
        (install.first_epoch, install.epoch_limit) = (Epoch(100), Epoch(103));
    });
    for n in 0..10 {
        log.append("t", n as usize % PARTITIONS, [record(n)]);
        node.is_quiet();
    }
    assert!(node.epochs[&JobId(1)].iter().all(|epoch| (100..102).contains(epoch)), "{:?}", node.epochs);
    node.engine.command(Command::RaiseEpochLimit(Epoch(110)));
    node.wait("what was held back", |node| node.read(1) == 10);
    assert!(node.epochs[&JobId(1)].iter().all(|epoch| (100..109).contains(epoch)), "{:?}", node.epochs);
}

/// Formats whose decoders reject every seventh offset, until they are mended.
#[derive(Clone, Default)]
struct Mended(Arc<AtomicBool>);

struct Rejecting(Box<dyn Decoder>, bool);

impl Formats for Mended {
    fn all(&self) -> &[FormatInfo] {
        PlainFormats.all()
    }

    fn decoder(&self, format: &str, needs: &Needs) -> Box<dyn Decoder> {
        Box::new(Rejecting(PlainFormats.decoder(format, needs), !self.0.load(Ordering::Acquire)))
    }
}

impl Decoder for Rejecting {
    fn decode<'a>(&mut self, record: &RecordRef<'a>, event: &mut Event<'a>) -> Result<Decoded, Reject> {
        if self.1 && record.offset.0.is_multiple_of(7) {
            return Err(Reject("it is not understood".into()));
        }
        self.0.decode(record, event)
    }
}

#[test]
fn records_that_a_mended_decoder_takes_are_counted_when_the_job_is_computed_anew_beside() {
    for (workers, tally) in [(1, COUNT), (4, COUNT), (4, LAST)] {
        let log = log(&["t"]);
        fill(&log, "t", 7_000);
        let formats = Mended::default();
        let mut node = Node::start_with(Arc::new(log.clone()), Arc::new(formats.clone()), workers);
        let (running, beside, spec) = (JobId(1), JobId(2), spec(tally, "t"));
        node.install(1, &spec, |_| {});
        node.wait("all is read", |node| node.read(1) == 28_000);
        assert_eq!(node.results[&running].accounting().rejected, 4_000);
        formats.0.store(true, Ordering::Release);
        node.install(2, &spec, |install| install.beside = true);
        node.wait("all is read beside", |node| node.read(2) == 28_000);
        assert_eq!(node.results[&beside].accounting().rejected, 0);
        // Nothing is written any more, and yet an epoch comes from where it goes on.
        node.is_quiet();
        node.engine.command(Command::StepForward { job: beside, at_least: Epoch(1 << 20) });
        node.wait("an epoch far above", |node| node.results[&beside].epoch() >= Some(Epoch(1 << 20)));
        node.engine.command(Command::Remove(running));
        node.wait("the old one is gone", |node| node.removed.contains(&running));
        fill(&log, "t", 10);
        node.wait("it reads on", |node| node.read(2) == 28_040);
        assert!(node.epochs[&beside].is_sorted_by(|a, b| a < b));
        assert!(node.results[&beside].accounting().is_even());
        // As the same log is counted by an engine that had the mended decoder from the start.
        let mut plain = Node::start(Arc::new(log), workers);
        plain.install(1, &spec, |_| {});
        plain.wait("all is read", |plain| plain.read(1) == 28_040);
        assert_eq!(node.results[&beside].digest(), plain.results[&running].digest());
        assert_eq!(node.failed, BTreeMap::new());
    }
}
