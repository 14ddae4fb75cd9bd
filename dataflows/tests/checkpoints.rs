//! Checkpoints by hand: what they cost, and what becomes of them where the store does not do as asked.

use std::sync::Arc;
use std::time::Duration;
use tallyflow_dataflows::checkpoint::manifest::Place;
use tallyflow_dataflows::spec::{JobFile, JobSpec, Surroundings};
use tallyflow_dataflows::testing::{Bench, MemoryLog, MemoryRecord, PlainFormats};
use tallyflow_dataflows::update::CheckpointEvent;

const DEADLINE: Duration = Duration::from_secs(60);

fn spec() -> JobSpec {
    let text = "name = 'job'\ndataflow = 'tally'\n[[input]]\ntopic = 'a'\nformat = 'json'\n[tally]\nentity = '/e'\n\
                keep = 'last'\ngroup = '/g'\n";
    let around = Surroundings { formats: &PlainFormats, partitions: &|_| Some(1), topics: vec![] };
    JobFile::parse_toml(text, &around).unwrap()
}

struct World {
    log: MemoryLog,
    bench: Bench,
    records: u64,
}

impl World {
    fn new(workers: usize) -> Self {
        let log = MemoryLog::default();
        log.create("a", 1);
        let bench = Bench::start(&spec(), Arc::new(log.clone()), Arc::new(PlainFormats), workers);
        World { log, bench, records: 0 }
    }

    /// Each of these entities says something else than before.
    fn say(&mut self, entities: std::ops::Range<u64>) {
        let records = entities.map(|entity| {
            self.records += 1;
            let value = format!(r#"{{"e":{entity},"g":{}}}"#, self.records % 7).into_bytes();
            MemoryRecord { timestamp_ms: self.records as i64, value }
        });
        self.log.append("a", 0, records.collect::<Vec<_>>());
        self.bench.run_to(self.records, DEADLINE);
        assert_eq!(self.bench.failed, None);
    }

    /// Takes a checkpoint: what it has added, and what all take.
    fn checkpoint(&mut self) -> (u64, u64) {
        let number = self.bench.checkpoint();
        self.bench.run_until(DEADLINE, Bench::is_checkpointed);
        match self.bench.checkpoint_events.last() {
            Some((of, CheckpointEvent::Taken { bytes, held_bytes, .. })) if *of == number => (*bytes, *held_bytes),
            other => panic!("{other:?}"),
        }
    }

    /// Another engine goes on; from which checkpoint.
    fn restart(&mut self, workers: usize) -> Option<u64> {
        let digest = self.bench.results.digest().to_string();
        self.bench.restart(workers, Vec::new());
        self.bench.run_to(self.records, DEADLINE);
        assert_eq!((&self.bench.failed, self.bench.results.digest().to_string()), (&None, digest));
        self.bench.taken_up.as_ref().and_then(|(from, _)| *from)
    }
}

#[test]
fn a_checkpoint_costs_what_has_changed_and_not_what_is_held() {
    let mut world = World::new(2);
    world.say(0..50_000);
    let (all, held) = world.checkpoint();
    assert_eq!(all, held);
    for _ in 0..3 {
        world.say(700..800);
        let (some, _) = world.checkpoint();
        assert!(some * 50 < all, "{some} bytes for 100 of 50,000 entities, which took {all}");
    }
    assert!(world.restart(3).is_some());
}

#[test]
fn files_that_are_needless_go_and_the_rest_stays_bounded() {
    let mut world = World::new(2);
    world.say(0..100_000);
    let (all, _) = world.checkpoint();
    // The first half changes again and again, the second never.
    for round in 0..60 {
        let from = round * 5_000 % 50_000;
        world.say(from..from + 5_000);
        let (_, held) = world.checkpoint();
        assert!(held < all * 4, "{held} bytes are held in round {round}, of a state of {all}");
    }
    let (mut names, mut bytes) = (0, 0);
    world.bench.store.change(|objects| {
        names = objects.len();
        bytes = objects.values().map(Vec::len).sum::<usize>() as u64;
    });
    assert!(names < 100 && bytes < all * 5, "{names} objects with {bytes} bytes");
    assert!(world.restart(1).is_some());
    assert!(world.restart(4).is_some(), "one that was restored goes on being written");
}

#[test]
fn a_store_that_fails_for_a_while_costs_nothing() {
    let mut world = World::new(2);
    world.say(0..1_000);
    world.checkpoint();
    world.say(0..100);
    world.bench.store.fail_next(2);
    world.checkpoint();
    let failed = |(_, event): &&(u64, CheckpointEvent)| matches!(event, CheckpointEvent::Failed { again: true, .. });
    assert_eq!(world.bench.checkpoint_events.iter().filter(failed).count(), 1, "it is told once");
    world.say(50..150);
    let (few, _) = world.checkpoint();
    assert!(few > 0);
    assert!(world.restart(2).is_some());
}

#[test]
fn an_engine_whose_job_was_taken_up_by_another_is_fenced() {
    let mut world = World::new(2);
    world.say(0..100);
    world.checkpoint();
    let place = Place { folder: "job-1".into(), form: "a form".into() };
    let other = place.take_up(&world.bench.store, |_| Ok(())).unwrap();
    assert!(other.loaded.is_some() && other.passed_over.is_empty());
    world.say(0..100);
    world.bench.checkpoint();
    world.bench.run_until(DEADLINE, Bench::is_checkpointed);
    assert!(matches!(world.bench.checkpoint_events.last(), Some((_, CheckpointEvent::Fenced))));
}

#[test]
fn a_checkpoint_whose_newest_file_is_gone_is_passed_over_by_name() {
    let mut world = World::new(1);
    world.say(0..100);
    world.checkpoint();
    world.say(0..10);
    world.checkpoint();
    world.bench.store.change(|objects| {
        let newest = objects.keys().rfind(|name| name.ends_with(".frames")).cloned().unwrap();
        objects.remove(&newest);
    });
    let from = world.restart(2);
    let (_, passed_over) = world.bench.taken_up.clone().unwrap();
    assert!(
        from.is_some() && passed_over.len() == 1 && passed_over[0].1.contains("is gone"),
        "{from:?} {passed_over:?}"
    );
}

/// A job fails in the midst of an epoch: some operators hold half of it. None of that becomes a checkpoint,
/// and whoever goes on does so from before.
#[test]
fn what_a_failed_job_holds_becomes_no_checkpoint() {
    let text = "name = 'job'\ndataflow = 'tally'\n[[input]]\ntopic = 'a'\nformat = 'json'\n[tally]\nentity = '/e'\n\
                keep = 'last'\ngroup = '/g'\nvalue = '/v'\n";
    let around = Surroundings { formats: &PlainFormats, partitions: &|_| Some(4), topics: vec![] };
    let spec = JobFile::parse_toml(text, &around).unwrap();
    let log = MemoryLog::default();
    log.create("a", 4);
    let mut bench = Bench::start(&spec, Arc::new(log.clone()), Arc::new(PlainFormats), 4);
    let say = |entity: u64, value: &str| {
        let value = format!(r#"{{"e":{entity},"g":0,"v":{value}}}"#).into_bytes();
        log.append("a", entity as usize % 4, [MemoryRecord { timestamp_ms: 1, value }]);
    };
    (0..100).for_each(|entity| say(entity, "1"));
    bench.run_to(100, DEADLINE);
    bench.checkpoint();
    bench.run_until(DEADLINE, Bench::is_checkpointed);
    // Two sums that do not fit into one.
    (0..2).for_each(|entity| say(entity, "170000000000000000000"));
    bench.run_until(DEADLINE, |bench| bench.failed.is_some());
    assert!(bench.failed.as_deref().is_some_and(|error| error.contains("beyond")), "{:?}", bench.failed);
    bench.checkpoint();
    bench.restart(3, Vec::new());
    bench.run_until(DEADLINE, |bench| bench.results.epoch().is_some());
    assert!(bench.taken_up.as_ref().is_some_and(|(from, passed_over)| from.is_some() && passed_over.is_empty()));
    assert_eq!(bench.results.accounting().read, 100, "what it goes on from is from before");
    bench.run_until(DEADLINE, |bench| bench.failed.is_some());
}
