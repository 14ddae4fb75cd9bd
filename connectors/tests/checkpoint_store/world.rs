//! An engine with a job whose checkpoints lie in a store.

use std::sync::Arc;
use std::time::Duration;
use tallyflow_dataflows::checkpoint::CheckpointStore;
use tallyflow_dataflows::spec::{JobFile, JobSpec, Surroundings};
use tallyflow_dataflows::testing::{Bench, MemoryLog, MemoryRecord, PlainFormats};
use tallyflow_dataflows::update::CheckpointEvent;

pub const DEADLINE: Duration = Duration::from_secs(60);

fn spec() -> JobSpec {
    let text = "name = 'job'\ndataflow = 'tally'\n[[input]]\ntopic = 'a'\nformat = 'json'\n[tally]\nentity = '/e'\n\
                keep = 'last'\ngroup = '/g'\n";
    let around = Surroundings { formats: &PlainFormats, partitions: &|_| Some(1), topics: vec![] };
    JobFile::parse_toml(text, &around).unwrap()
}

/// See the module.
pub struct World {
    log: MemoryLog,
    pub bench: Bench,
    records: u64,
}

impl World {
    pub fn new(store: Arc<dyn CheckpointStore>, workers: usize) -> Self {
        let log = MemoryLog::default();
        log.create("a", 1);
        let mut bench = Bench::start(&spec(), Arc::new(log.clone()), Arc::new(PlainFormats), workers);
        bench.restart_in(store, workers);
        World { log, bench, records: 0 }
    }

    /// Each of these entities says something else than before; returns once that is tallied.
    pub fn say(&mut self, entities: std::ops::Range<u64>) {
        let records = entities.map(|entity| {
            self.records += 1;
            let value = format!(r#"{{"e":{entity},"g":{}}}"#, self.records % 7).into_bytes();
            MemoryRecord { timestamp_ms: self.records as i64, value }
        });
        self.log.append("a", 0, records.collect::<Vec<_>>());
        self.bench.run_to(self.records, DEADLINE);
        assert_eq!(self.bench.failed, None);
    }

    /// Waits for the checkpoint that was asked for last, and how it ended.
    #[track_caller]
    pub fn ended(&mut self) -> CheckpointEvent {
        self.bench.run_until(DEADLINE, Bench::is_checkpointed);
        self.bench.checkpoint_events.last().unwrap().1.clone()
    }

    /// Takes a checkpoint, which must end well.
    #[track_caller]
    pub fn checkpoint(&mut self) {
        self.bench.checkpoint();
        let ended = self.ended();
        assert!(matches!(ended, CheckpointEvent::Taken { .. }), "{ended:?}");
    }

    /// How often it was told that a checkpoint can't be written yet.
    pub fn failures(&self) -> usize {
        let failed =
            |(_, event): &&(u64, CheckpointEvent)| matches!(event, CheckpointEvent::Failed { again: true, .. });
        self.bench.checkpoint_events.iter().filter(failed).count()
    }

    /// Another engine goes on from a checkpoint and comes to the same; so does one that never had any.
    #[track_caller]
    pub fn restart(&mut self, workers: usize) {
        let digest = self.bench.results.digest().to_string();
        self.bench.restart(workers, Vec::new());
        self.bench.run_to(self.records, DEADLINE);
        assert_eq!((&self.bench.failed, self.bench.results.digest().to_string()), (&None, digest.clone()));
        let (from, passed_over) = self.bench.taken_up.clone().unwrap();
        assert!(from.is_some() && passed_over.is_empty(), "{from:?} {passed_over:?}");
        let mut undisturbed = Bench::start(&spec(), Arc::new(self.log.clone()), Arc::new(PlainFormats), 1);
        undisturbed.run_to(self.records, DEADLINE);
        assert_eq!(undisturbed.results.digest().to_string(), digest);
    }
}
