//! A node whose jobs' results a test writes, over a real log.

use crate::node::job::{CheckpointStatus, Job, JobState};
use crate::node::polls::{PollError, PollState, PollView, polls_job};
use crate::node::{
    CancelMode, ClusterStatus, JobError, JobText, Receipt, ReceiptState, RecountError, Recounted, RescaleError,
    SubmitError, Submitted, VoidError, VoidView, WhyAnswer, WhyQuestion,
};
use crate::server::host::{Host, Shows};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tallyflow_connectors::dead_letters::DeadLetter;
use tallyflow_connectors::history::HistoryReader;
use tallyflow_connectors::log::embedded::{EmbeddedLog, LogOptions};
use tallyflow_connectors::log::{Log, TopicConfig};
use tallyflow_dataflows::claim::LineId;
use tallyflow_dataflows::engine::facts::{ClaimChanges, RecordChanges};
use tallyflow_dataflows::engine::job::{InstallInput, Start};
use tallyflow_dataflows::ids::{Epoch, Offset, PartitionId};
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::spec::definition::{Around, PollsJob, changed_poll, new_poll};
use tallyflow_dataflows::spec::polls::{PollInForce, PollsSpec};
use tallyflow_dataflows::spec::voids::{Voided, Voids};
use tallyflow_dataflows::spec::{Aggregate, Bound, Dataflow, EntrySpec, Fault, InputSpec, JobSpec, Keep, TallySpec};
use tallyflow_dataflows::update::{EpochUpdate, Graph, JobId, ReadTo};
use tempfile::TempDir;

pub struct TestHost {
    pub jobs: Mutex<BTreeMap<String, Arc<Job>>>,
    pub polls: Mutex<BTreeMap<String, PollView>>,
    deleted: Mutex<BTreeSet<String>>,
    pub letters: Mutex<Vec<DeadLetter>>,
    log: Arc<dyn Log>,
    dir: TempDir,
}

impl TestHost {
    /// Where the history of a job is read.
    pub fn history_path(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.history"))
    }

    pub fn new() -> Arc<Self> {
        let dir = TempDir::new().unwrap();
        let options = LogOptions { record_bytes_max: 1_000, ..LogOptions::default() };
        let log = Arc::new(EmbeddedLog::open(dir.path(), options).unwrap());
        Arc::new(TestHost {
            jobs: Mutex::default(),
            polls: Mutex::default(),
            deleted: Mutex::default(),
            letters: Mutex::default(),
            log,
            dir,
        })
    }

    /// A running job, in place of any other of the name.
    pub fn add(&self, name: &str) -> Arc<Job> {
        self.run(job(name))
    }

    /// A running job of polls over inputs of these formats.
    pub fn add_polls(&self, name: &str, formats: &[&str]) -> Arc<Job> {
        let input = |format: &&str| InputSpec {
            topic: format!("{format}s"),
            format: format.to_string(),
            from: Bound::Beginning,
            until: None,
        };
        let inputs: Vec<InputSpec> = formats.iter().map(input).collect();
        let start = Start { partition: PartitionId(0), from: Offset(0), until: None };
        let resolved = |input: &InputSpec| InstallInput {
            topic: input.topic.clone(),
            incarnation: None,
            partitions: vec![start],
            from_ms: None,
            until_ms: None,
        };
        let resolved = inputs.iter().map(resolved).collect();
        let dataflow = Dataflow::Polls(PollsSpec::default());
        let spec = JobSpec { name: name.into(), dataflow, inputs, sinks: Vec::new(), voids: Voids::default() };
        self.run(Arc::new(Job::new(JobId(2), spec, resolved, 0, (Graph::default(), 0), 1, Arc::default())))
    }

    fn run(&self, job: Arc<Job>) -> Arc<Job> {
        job.set_state(JobState::Running, None);
        let before = self.jobs.lock().unwrap().insert(job.name().to_owned(), job.clone());
        if let Some(before) = before {
            before.replace();
        }
        job
    }
}

/// A job that counts by group.
pub fn job(name: &str) -> Arc<Job> {
    let tally = TallySpec {
        subject: Vec::new(),
        entries: vec![EntrySpec { group: Vec::new(), value: None }],
        entity: Vec::new(),
        keep: Keep::All,
        order: None,
        filter: None,
        aggregates: vec![Aggregate::Count],
        top: None,
        ahead: Duration::ZERO,
    };
    let input = InputSpec { topic: "posts".into(), format: "json".into(), from: Bound::Beginning, until: None };
    let spec = JobSpec {
        name: name.into(),
        dataflow: Dataflow::Tally(tally),
        inputs: vec![input],
        sinks: Vec::new(),
        voids: Voids::default(),
    };
    let start = Start { partition: PartitionId(0), from: Offset(0), until: None };
    let inputs = vec![InstallInput {
        topic: "posts".into(),
        incarnation: None,
        partitions: vec![start],
        from_ms: None,
        until_ms: None,
    }];
    Arc::new(Job::new(JobId(1), spec, inputs, 0, (Graph::default(), 0), 1, Arc::default()))
}

/// Writes the updates of a job of whole numbers.
#[derive(Default)]
pub struct Feed {
    pub epoch: u64,
    lines: BTreeMap<(u64, u64), i64>,
    subjects: Vec<u64>,
    met: Vec<(u64, u64)>,
    read: u64,
}

impl Feed {
    pub fn starting_at(epoch: u64) -> Self {
        Feed { epoch, ..Feed::default() }
    }

    /// An epoch in which lines (subject, group) take values.
    pub fn update(&mut self, changes: &[(u64, u64, Option<i64>)]) -> EpochUpdate {
        self.epoch += 1;
        self.read += 1;
        let mut update = EpochUpdate { epoch: Epoch(self.epoch), at_ms: self.epoch as i64, ..EpochUpdate::default() };
        update.offsets =
            vec![ReadTo { input: 0, partition: PartitionId(0), next: Offset(self.read), end: Offset(self.read) }];
        update.records = RecordChanges { read: 1, matched: 1, ..RecordChanges::default() };
        let last: BTreeMap<(u64, u64), Option<i64>> = changes.iter().map(|(s, g, v)| ((*s, *g), *v)).collect();
        for ((subject, group), value) in last {
            let id = LineId { subject, group };
            if !self.subjects.contains(&subject) {
                self.subjects.push(subject);
                update.subjects.push((subject, format!("s{subject}")));
            }
            if !self.met.contains(&(subject, group)) {
                self.met.push((subject, group));
                update.names.push((id, vec![format!("g{group}")]));
            }
            let before = self.lines.get(&(subject, group)).copied();
            if before == value {
                continue;
            }
            match value {
                Some(value) => self.lines.insert((subject, group), value),
                None => self.lines.remove(&(subject, group)),
            };
            update.lines.push((id, value.map(|v| vec![Decimal::from_int(v)])));
            let total = self.lines.iter().filter(|((s, _), _)| *s == subject).map(|(_, v)| v).sum();
            update.totals.retain(|(s, _)| *s != subject);
            update.totals.push((subject, Decimal::from_int(total)));
        }
        let touched: std::collections::BTreeSet<u64> = changes.iter().map(|(s, ..)| *s).collect();
        let one = ClaimChanges { claims: 1, counted: 1, ..ClaimChanges::default() };
        update.claims = touched.into_iter().map(|subject| (subject, one)).collect();
        update
    }
}

impl Shows for TestHost {
    fn brokers(&self) -> crate::node::Brokers {
        crate::node::Brokers::new()
    }
    fn jobs(&self) -> Vec<Arc<Job>> {
        self.jobs.lock().unwrap().values().cloned().collect()
    }
    fn job(&self, name: &str) -> Result<Arc<Job>, JobError> {
        self.jobs.lock().unwrap().get(name).cloned().ok_or_else(|| JobError::Unknown(name.to_owned()))
    }
    fn cluster(&self) -> ClusterStatus {
        ClusterStatus { workers: 1, engine_pid: None, engine_restarts: 0, processes: Vec::new() }
    }
    fn ready(&self) -> Result<(), String> {
        match self.jobs().iter().find(|job| job.state() == JobState::Failed) {
            Some(job) => Err(format!("job {:?} is failed", job.name())),
            None => Ok(()),
        }
    }
}

impl Host for TestHost {
    fn submit(&self, text: &JobText, _: bool) -> Result<Arc<Job>, SubmitError> {
        match text {
            JobText::Toml(text) if text == "taken" => Err(SubmitError::Taken("taken".into())),
            JobText::Toml(text) if text == "good" => Ok(self.add("good")),
            JobText::Toml(_) | JobText::Json(_) => {
                let fault = |line, key: &str| Fault { line: Some(line), key: key.into(), message: "is wrong".into() };
                Err(SubmitError::Faults(vec![fault(1, "name"), fault(2, "input[0].topic")]))
            }
        }
    }
    fn replace(&self, text: &JobText, take_over: bool) -> Result<Submitted, SubmitError> {
        match text {
            JobText::Toml(text) if text == "taken" => Err(SubmitError::InTheWay("it is paused: resume it".into())),
            JobText::Toml(text) if self.job(text).is_ok() => Ok(Submitted::Replacing(self.job(text).unwrap())),
            text => self.submit(text, take_over).map(Submitted::Anew),
        }
    }
    fn validate(&self, text: &JobText) -> Result<(), SubmitError> {
        self.submit(text, false).map(drop)
    }
    fn pause(&self, name: &str) -> Result<Arc<Job>, JobError> {
        let job = self.job(name)?;
        if job.state() == JobState::Cancelled {
            return Err(JobError::State { name: name.into(), state: "cancelled", remedy: "submit it again" });
        }
        job.set_state(JobState::Paused, None);
        Ok(job)
    }
    fn resume(&self, name: &str) -> Result<Arc<Job>, JobError> {
        let job = self.job(name)?;
        job.set_state(JobState::Running, None);
        Ok(job)
    }
    fn cancel(&self, name: &str, _: CancelMode) -> Result<Arc<Job>, JobError> {
        let job = self.job(name)?;
        job.set_state(JobState::Cancelled, None);
        Ok(job)
    }
    fn recount(&self, name: &str, _: &AtomicBool) -> Result<Recounted, RecountError> {
        let job = self.job(name)?;
        let epoch = job.read(|results| results.epoch()).flatten();
        let epoch = epoch.ok_or_else(|| RecountError::Nothing { job: name.into() })?;
        Ok(Recounted {
            job: name.into(),
            epoch,
            equal: true,
            records: 0,
            redecodable: 0,
            base: None,
            ms: 0,
            differences: Vec::new(),
        })
    }
    fn why(&self, name: &str, _: &WhyQuestion, _: &AtomicBool) -> Result<WhyAnswer, RecountError> {
        self.job(name)?;
        Err(RecountError::Nothing { job: name.into() })
    }
    fn dead_letters(
        &self,
        _: &str,
        after: Option<(String, u32, u64)>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, JobError> {
        let letters = self.letters.lock().unwrap();
        let is_new = |l: &&DeadLetter| after.as_ref().is_none_or(|(_, _, offset)| l.offset > *offset);
        Ok(letters.iter().filter(is_new).take(limit).cloned().collect())
    }
    fn void(&self, name: &str, _: Voided, _: &str) -> Result<VoidView, VoidError> {
        Err(VoidError::Refused(format!("job {name:?} is a test's")))
    }
    fn unvoid(&self, name: &str, id: u64) -> Result<Arc<Job>, VoidError> {
        Err(VoidError::Unknown { job: name.to_owned(), id })
    }
    fn voids(&self, name: &str) -> Result<Vec<VoidView>, JobError> {
        self.job(name).map(|_| Vec::new())
    }
    fn redrive(&self, name: &str) -> Result<Arc<Job>, JobError> {
        let job = self.job(name)?;
        if job.state() == JobState::Paused {
            return Err(JobError::State { name: name.into(), state: "paused", remedy: "resume it first" });
        }
        Ok(job)
    }
    fn polls(&self, job: Option<&str>, after: Option<&str>, limit: usize) -> Vec<PollView> {
        let polls = self.polls.lock().unwrap();
        let wanted = polls.iter().filter(|(id, view)| {
            after.is_none_or(|after| id.as_str() > after) && job.is_none_or(|job| view.job.name() == job)
        });
        wanted.map(|(_, view)| view.clone()).take(limit).collect()
    }
    fn poll(&self, id: &str) -> Result<PollView, PollError> {
        self.polls.lock().unwrap().get(id).cloned().ok_or_else(|| match self.deleted.lock().unwrap().contains(id) {
            true => PollError::Deleted(id.to_owned()),
            false => PollError::Unknown(id.to_owned()),
        })
    }
    fn create_poll(&self, definition: &str) -> Result<PollView, PollError> {
        let plans: Vec<_> = self.jobs().iter().map(|job| job.plan()).collect();
        let known: Vec<PollsJob<'_>> = plans.iter().filter_map(|plan| polls_job(plan)).collect();
        if known.is_empty() {
            return Err(PollError::NoJob);
        }
        let now_ns = jiff::Timestamp::now().as_millisecond() * 1_000_000;
        let is_taken = |id: &str| self.polls.lock().unwrap().contains_key(id);
        let around = Around { jobs: &known, is_taken: &is_taken, now_ns };
        let (name, poll) = new_poll(definition, &around).map_err(PollError::Faults)?;
        if is_taken(&poll.id) {
            return Err(PollError::Taken(poll.id));
        }
        let view = PollView {
            job: self.job(&name).unwrap(),
            state: if poll.opens_ns < now_ns { PollState::Filling } else { PollState::Open },
            shown: (poll.opens_ns >= now_ns).then_some(1),
            in_force: PollInForce { poll, version: 1, from: vec![vec![Offset(7)], vec![Offset(0)]] },
            refill: None,
            made_ms: 0,
            changed_ms: 0,
        };
        self.polls.lock().unwrap().insert(view.in_force.poll.id.clone(), view.clone());
        Ok(view)
    }
    fn change_poll(&self, id: &str, change: &str) -> Result<PollView, PollError> {
        let mut view = self.poll(id)?;
        let plan = view.job.plan();
        view.in_force.poll =
            changed_poll(change, &view.in_force.poll, &polls_job(&plan).unwrap()).map_err(PollError::Faults)?;
        view.in_force.version += 1;
        self.polls.lock().unwrap().insert(id.to_owned(), view.clone());
        Ok(view)
    }
    fn close_poll(&self, id: &str) -> Result<PollView, PollError> {
        let mut view = self.poll(id)?;
        if view.state == PollState::Closed {
            return Err(PollError::Closed { id: id.to_owned(), at: "then".to_owned() });
        }
        view.in_force.poll.closes_ns = Some(view.in_force.poll.opens_ns);
        view.state = PollState::Closed;
        self.polls.lock().unwrap().insert(id.to_owned(), view.clone());
        Ok(view)
    }
    fn delete_poll(&self, id: &str) -> Result<(), PollError> {
        self.poll(id)?;
        self.polls.lock().unwrap().remove(id);
        self.deleted.lock().unwrap().insert(id.to_owned());
        Ok(())
    }
    fn checkpoint(&self, name: &str) -> Result<CheckpointStatus, JobError> {
        let job = self.job(name)?;
        let remedy = "only a job that runs or is paused has a state to keep";
        let none = || JobError::State { name: name.into(), state: job.state().name(), remedy };
        job.checkpoint().ok_or_else(none)
    }
    fn restart(&self, name: &str, _: bool) -> Result<Arc<Job>, JobError> {
        self.job(name)
    }
    fn rescale(self: Arc<Self>, workers: u64) -> Result<Receipt, RescaleError> {
        match workers {
            1 => self.receipt(1),
            2 => Err(RescaleError::Running(1)),
            _ => Err(RescaleError::Bounds(workers)),
        }
    }
    fn receipt(&self, id: u64) -> Result<Receipt, RescaleError> {
        let started = jiff::Timestamp::UNIX_EPOCH;
        let (jobs, state) = (BTreeMap::new(), ReceiptState::Running);
        let receipt = Receipt { id, from: 2, to: 1, state, started, finished: None, pause_ms: None, jobs, error: None };
        if id == 1 { Ok(receipt) } else { Err(RescaleError::Unknown) }
    }
    fn history(&self, name: &str) -> Result<Option<HistoryReader>, JobError> {
        self.job(name)?;
        Ok((name != "forgetful").then(|| HistoryReader::new(self.history_path(name), name.to_owned())))
    }
    fn topic_config(&self) -> TopicConfig {
        TopicConfig::default()
    }
    fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }
    fn is_internal(&self, topic: &str) -> bool {
        topic.starts_with("__")
    }
}
