//! Another number of workers while jobs run: the engine is ended at a checkpoint, and one with as many
//! workers goes on from it. Readers keep the numbers meanwhile.
//!
//! ```text
//!   checkpoint of each --> all jobs held --> a small one of each --> engine ended, started with N
//!                                                                         ^            |
//!                                                                         |            v
//!        go on <--yes-- equal to before? <-- each restored and held <-----|------------'
//!                              '--no, or not in time: as many as before --'
//! ```

use crate::config::WORKERS_MAX;
use crate::node::job::{Job, JobState};
use crate::node::supervise::is_live;
use crate::node::{Node, lock};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tallyflow_dataflows::accounting::Accounting;
use tallyflow_dataflows::crash;
use tallyflow_dataflows::engine::Command;
use tallyflow_dataflows::engine::job::Halt;
use tallyflow_dataflows::ids::{Epoch, Offset};
use utoipa::ToSchema;

/// What became of a change of the number of workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Receipt {
    pub id: u64,
    /// Workers before and after.
    pub from: usize,
    pub to: usize,
    pub state: ReceiptState,
    #[schema(value_type = String, format = DateTime)]
    pub started: Timestamp,
    /// Null while it runs.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished: Option<Timestamp>,
    /// How long no new numbers came: from the last epoch before to the first after.
    pub pause_ms: Option<u64>,
    /// By job, what it came to before and after.
    pub jobs: BTreeMap<String, JobReceipt>,
    /// Why it failed; the workers are as many as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptState {
    Running,
    Done,
    Failed,
}

/// A job in a receipt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobReceipt {
    /// The last epoch before.
    pub epoch: Epoch,
    pub digest_before: String,
    /// Null until it is there again.
    pub digest_after: Option<String>,
    pub accounting_before: Accounting,
    pub accounting_after: Option<Accounting>,
}

/// Why the number of workers is not changed.
#[derive(Debug, thiserror::Error)]
pub enum RescaleError {
    #[error("{0} workers are out of bounds; choose 1 to {WORKERS_MAX}")]
    Bounds(u64),
    #[error("the number of workers is being changed just now; ask again when that is done")]
    Running(u64),
    #[error("there is no such change of workers; only the newest {RECEIPTS_KEPT} are kept")]
    Unknown,
}

/// The receipts of the newest changes.
#[derive(Default)]
pub struct Receipts {
    newest: u64,
    kept: BTreeMap<u64, Receipt>,
}

const RECEIPTS_KEPT: usize = 100;
/// How long jobs may take to settle, to stop, and to be there again.
const SETTLE_WAIT: Duration = Duration::from_secs(60);
const HOLD_WAIT: Duration = Duration::from_secs(30);
const RETURN_WAIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl Node {
    /// Begins to change the number of workers; answers the receipt as it is.
    pub fn rescale(self: &Arc<Self>, workers: u64) -> Result<Receipt, RescaleError> {
        let bounds = || RescaleError::Bounds(workers);
        let to = usize::try_from(workers).map_err(|_| bounds())?;
        if !(1..=WORKERS_MAX).contains(&to) {
            return Err(bounds());
        }
        let receipt = {
            let mut receipts = lock(&self.receipts);
            if let Some(running) = receipts.kept.values().find(|receipt| receipt.state == ReceiptState::Running) {
                return Err(RescaleError::Running(running.id));
            }
            receipts.newest += 1;
            let receipt = Receipt {
                id: receipts.newest,
                from: self.workers(),
                to,
                state: ReceiptState::Running,
                started: Timestamp::now(),
                finished: None,
                pause_ms: None,
                jobs: BTreeMap::new(),
                error: None,
            };
            receipts.kept.insert(receipt.id, receipt.clone());
            while receipts.kept.len() > RECEIPTS_KEPT {
                receipts.kept.pop_first();
            }
            receipt
        };
        let (node, id) = (self.clone(), receipt.id);
        let run = move || {
            let ended = node.change_workers(id, to);
            node.note(id, |receipt| {
                receipt.finished = Some(Timestamp::now());
                receipt.state = if ended.is_ok() { ReceiptState::Done } else { ReceiptState::Failed };
                receipt.error = ended.err();
            });
        };
        if let Err(error) = std::thread::Builder::new().name("rescale".to_owned()).spawn(run) {
            self.note(id, |receipt| {
                receipt.finished = Some(Timestamp::now());
                receipt.state = ReceiptState::Failed;
                receipt.error = Some(format!("a thread can't be started: {error}"));
            });
        }
        self.receipt(id)
    }

    /// A receipt as it is now.
    pub fn receipt(&self, id: u64) -> Result<Receipt, RescaleError> {
        lock(&self.receipts).kept.get(&id).cloned().ok_or(RescaleError::Unknown)
    }

    /// Worker threads of the engine.
    pub fn workers(&self) -> usize {
        self.workers.load(Ordering::Acquire)
    }

    fn note(&self, id: u64, note: impl FnOnce(&mut Receipt)) {
        if let Some(receipt) = lock(&self.receipts).kept.get_mut(&id) {
            note(receipt);
        }
    }

    fn change_workers(self: &Arc<Self>, id: u64, to: usize) -> Result<(), String> {
        // Nothing is submitted, paused or ended meanwhile.
        let _one_at_a_time = lock(&self.changing);
        let from = self.workers();
        let jobs: Vec<Arc<Job>> = self.jobs().into_iter().filter(|job| is_live(job.state())).collect();
        self.wait_until_settled(&jobs)?;
        // What has piled up is written while they still read: after that there is little to wait for.
        for job in &jobs {
            self.checkpoint(job.name()).map_err(|error| error.to_string())?;
        }
        let began = Instant::now();
        let held = self.hold(&jobs).inspect(|()| crash::point("rescale::held"));
        let held = held.and_then(|()| self.keep_all(&jobs, id));
        crash::point("rescale::kept");
        let before = match held {
            Ok(before) => before,
            Err(error) => {
                self.let_go(&jobs);
                return Err(error);
            }
        };
        tracing::info!(from, to, "the number of workers is being changed");
        let changed = self.start_with(to, &jobs).inspect(|()| crash::point("rescale::started"));
        let changed = changed.and_then(|()| self.compare(&jobs, &before, id));
        if changed.is_err() {
            tracing::error!(from, to, "the number of workers stays: {changed:?}");
            let back = self.start_with(from, &jobs);
            self.let_go(&jobs);
            back?;
            return changed;
        }
        self.note(id, |receipt| receipt.pause_ms = Some(began.elapsed().as_millis() as u64));
        self.let_go(&jobs);
        Ok(())
    }

    /// Waits until every job is where it can be kept and taken up again at once.
    fn wait_until_settled(&self, jobs: &[Arc<Job>]) -> Result<(), String> {
        let deadline = Instant::now() + SETTLE_WAIT;
        for job in jobs {
            loop {
                let unsettled = match job.state() {
                    _ if job.beside().is_some() => "is being replaced",
                    JobState::Running if job.halt().is_some() => "is being cancelled",
                    JobState::Starting => "is starting",
                    JobState::Recovering => "is recovering",
                    _ if lock(&self.polls).settled(job).is_none() => "counts the past of polls",
                    _ => break,
                };
                if Instant::now() > deadline || self.is_stopping() {
                    return Err(format!("job {:?} {unsettled}; try again when that is done", job.name()));
                }
                std::thread::sleep(LOOK_EVERY * 4);
            }
        }
        Ok(())
    }

    /// Stops all reading, with all that was read told.
    fn hold(&self, jobs: &[Arc<Job>]) -> Result<(), String> {
        let reading = || jobs.iter().filter(|job| job.state() == JobState::Running);
        for job in reading() {
            let halt = Halt { number: self.next_halt(), until: None };
            let running = self.running();
            job.set_halt(Some(halt.clone()), false);
            if let Some(running) = running.as_ref() {
                running.link.command(Command::Halt { job: job.plan().engine_id, halt });
            }
        }
        let deadline = Instant::now() + HOLD_WAIT;
        match reading().find(|job| !job.wait_for_halt(deadline)) {
            None => Ok(()),
            Some(job) => Err(format!("job {:?} has not stopped reading within {} s", job.name(), HOLD_WAIT.as_secs())),
        }
    }

    /// Writes a checkpoint of every job, and notes what they come to.
    fn keep_all(&self, jobs: &[Arc<Job>], id: u64) -> Result<Vec<Before>, String> {
        let mut all = Vec::new();
        for job in jobs {
            self.checkpoint(job.name()).map_err(|error| error.to_string())?;
            let before = job.read(Before::of).ok_or_else(|| format!("job {:?} has shown nothing yet", job.name()))?;
            // Wherever an engine takes it up again, it stops just here.
            let number = job.halt().map_or_else(|| self.next_halt(), |halt| halt.number);
            job.set_halt(Some(Halt { number, until: Some(before.offsets.clone()) }), job.state() == JobState::Paused);
            let (digest_before, accounting_before) = (before.digest.clone(), before.accounting);
            let of_job = JobReceipt {
                epoch: before.epoch,
                digest_before,
                digest_after: None,
                accounting_before,
                accounting_after: None,
            };
            self.note(id, |receipt| drop(receipt.jobs.insert(job.name().to_owned(), of_job)));
            all.push(before);
        }
        Ok(all)
    }

    /// Ends the engine, and waits until another with so many workers has every job where it was.
    fn start_with(&self, workers: usize, jobs: &[Arc<Job>]) -> Result<(), String> {
        self.workers.store(workers, Ordering::Release);
        let deadline = Instant::now() + RETURN_WAIT;
        let (mut ended, mut first) = (None, true);
        loop {
            let now = self.running().as_ref().map(|running| (running.link.clone(), running.workers));
            if let Some((link, has)) = now.filter(|(link, _)| ended != Some(link.pid)) {
                // Whatever runs at first was started before this; one that ended by itself may have been, too.
                if !first && has == workers {
                    break;
                }
                self.planned.store(true, Ordering::Release);
                link.kill();
                ended = Some(link.pid);
            }
            first = false;
            if Instant::now() > deadline || self.is_stopping() {
                return Err(format!("no engine with {workers} workers has started"));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.planned.store(false, Ordering::Release);
        for job in jobs {
            if !job.wait_for_halt(deadline) || job.is_catching_up() {
                let error = job.status().error.unwrap_or_else(|| format!("not within {} s", RETURN_WAIT.as_secs()));
                return Err(format!("job {:?} did not come back with {workers} workers: {error}", job.name()));
            }
        }
        Ok(())
    }

    fn compare(&self, jobs: &[Arc<Job>], before: &[Before], id: u64) -> Result<(), String> {
        let mut differs = None;
        for (job, before) in jobs.iter().zip(before) {
            let Some(after) = job.read(Before::of) else { continue };
            if (&after.digest, &after.accounting, &after.offsets)
                != (&before.digest, &before.accounting, &before.offsets)
            {
                differs.get_or_insert_with(|| format!("job {:?} came to something else", job.name()));
            }
            self.note(id, |receipt| {
                if let Some(of_job) = receipt.jobs.get_mut(job.name()) {
                    of_job.digest_after = Some(after.digest);
                    of_job.accounting_after = Some(after.accounting);
                }
            });
        }
        differs.map_or(Ok(()), Err)
    }

    /// Lets those read on that did.
    fn let_go(&self, jobs: &[Arc<Job>]) {
        for job in jobs.iter().filter(|job| job.state() != JobState::Paused) {
            job.set_halt(None, false);
            if let Some(running) = self.running().as_ref() {
                running.link.command(Command::Resume(job.plan().engine_id));
            }
        }
    }
}

/// What a job comes to.
struct Before {
    epoch: Epoch,
    digest: String,
    accounting: Accounting,
    offsets: Vec<Vec<Offset>>,
}

impl Before {
    fn of(results: &tallyflow_dataflows::results::JobResults) -> Self {
        Before {
            epoch: results.epoch().unwrap_or_default(),
            digest: results.digest().to_string(),
            accounting: *results.accounting(),
            offsets: results.inputs().map(|(_, places)| places.iter().map(|(next, _)| *next).collect()).collect(),
        }
    }
}
