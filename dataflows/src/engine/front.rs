//! Commands pass here on their way to the workers: a job that goes on from a checkpoint comes to them with
//! what was read of it. On a thread of its own, since reading may take seconds.
//!
//! In a cluster commands come to the leader's front, which orders the other processes' fronts what is to be
//! done; see [`cluster`](crate::engine::cluster).

use crate::checkpoint::StoreError;
use crate::checkpoint::manifest::{Checkpoint, Latest, LoadError, Loaded, Place};
use crate::crash;
use crate::engine::checkpoints::{Message, Piece};
use crate::engine::cluster::{Note, Order, Taken, Wire};
use crate::engine::job::{Install, Origin};
use crate::engine::{Command, PollChange, Shared, Task};
use crate::ids::Offset;
use crate::spec::polls::PollKey;
use crate::update::{EngineEvent, JobId};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// How often a store that does not answer is asked, and how long it is left alone in between.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether the engine ends while another process is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// See the module.
pub struct Front {
    passed: Sender<Passed>,
}

/// Where the notes of other processes go that are for the front.
pub struct Back {
    passed: Sender<Passed>,
    /// To the leader's front: where reading stands in a process, and which order that answers.
    obeyed: Sender<(u64, Vec<Vec<Offset>>)>,
}

enum Passed {
    Command(Command),
    Order(Order),
    /// The engine ends.
    End,
}

/// The ends of the front's thread, which [`Front::start`] starts.
pub struct Ends {
    passed: Receiver<Passed>,
    obeyed: Receiver<(u64, Vec<Vec<Offset>>)>,
}

/// A front that is to be started, and what notes go through to it.
pub fn ends() -> (Front, Back, Ends) {
    let (pass, passed) = channel();
    let (obey, obeyed) = channel();
    (Front { passed: pass.clone() }, Back { passed: pass, obeyed: obey }, Ends { passed, obeyed })
}

impl Front {
    pub fn start(&self, ends: Ends, shared: Arc<Shared>) -> std::io::Result<()> {
        let run = move || Fronting { shared, obeyed: ends.obeyed, orders: 0 }.run(&ends.passed);
        std::thread::Builder::new().name("commands".to_owned()).spawn(run).map(drop)
    }

    /// Passes a command on, after all that came before it.
    pub fn pass(&self, command: Command) {
        // The thread ends when this is dropped.
        self.passed.send(Passed::Command(command)).ok();
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.passed.send(Passed::End).ok();
    }
}

impl Back {
    /// Passes on what the leader orders.
    pub fn order(&self, order: Order) {
        self.passed.send(Passed::Order(order)).ok();
    }

    /// A process has obeyed.
    pub fn obeyed(&self, order: u64, positions: Vec<Vec<Offset>>) {
        self.obeyed.send((order, positions)).ok();
    }
}

struct Fronting {
    shared: Arc<Shared>,
    obeyed: Receiver<(u64, Vec<Vec<Offset>>)>,
    /// The last order that is answered.
    orders: u64,
}

impl Fronting {
    fn run(mut self, passed: &Receiver<Passed>) {
        while let Ok(passed) = passed.recv() {
            match passed {
                Passed::Command(command) => self.command(command),
                Passed::Order(order) => self.order(order),
                Passed::End => return,
            }
        }
    }

    fn command(&mut self, command: Command) {
        if self.shared.wire.as_ref().is_some_and(|wire| !wire.is_leader()) {
            return tracing::error!("a command was given to a process of the cluster that does not lead: {command:?}");
        }
        match command {
            Command::Install(install) => {
                let is_of_use = |checkpoint: &Checkpoint| is_of_use(&install, checkpoint);
                let up = install.keep.as_ref().map(|place| self.take_up(install.job, place, &is_of_use));
                let Up { taken, origin, told } = up.unwrap_or_default();
                let job = self.shared.make_job(&install, origin);
                if let Taken::Claimed { claim, .. } = taken {
                    job.claimed(claim);
                }
                self.tell(Order::Install { install: install.clone(), taken });
                if let Some(told) = told {
                    job.outbox.send(told);
                }
                self.shared.push(Task::Install(job, Arc::new(*install)));
            }
            Command::Keep { job, place } => {
                let of_another_form = |_: &Checkpoint| Err("it is of what was there before".to_owned());
                let Up { taken, .. } = self.take_up(job, &place, &of_another_form);
                if let (Taken::Claimed { claim, .. }, Some(job)) = (&taken, self.shared.job(job)) {
                    job.claimed(*claim);
                }
                self.tell(Order::Keep { job, place, taken });
            }
            Command::Polls { job, change } => {
                self.change_polls(job, &change);
                self.shared.push(Task::Other(Arc::new(Command::Polls { job, change })));
            }
            command => {
                self.tell(Order::Pass(command.clone()));
                self.pass(command);
            }
        }
    }

    fn pass(&self, command: Command) {
        if let Command::RaiseEpochLimit(limit) = command {
            // It holds for jobs that come after it too.
            self.shared.epoch_limit.fetch_max(limit.0, Ordering::AcqRel);
        }
        self.shared.push(Task::Other(Arc::new(command)));
    }

    /// Does what the leader orders.
    fn order(&mut self, order: Order) {
        let Some(wire) = self.shared.wire.clone() else { return };
        match order {
            Order::Install { install, taken } => {
                let origin = install.keep.as_ref().and_then(|place| self.taken_by_leader(install.job, place, taken));
                let job = self.shared.make_job(&install, origin);
                wire.tell_all(Note::Joined { job: job.id });
                self.shared.push(Task::Install(job, Arc::new(*install)));
            }
            Order::Keep { job, place, taken } => drop(self.taken_by_leader(job, &place, taken)),
            Order::Pass(command) => self.pass(command),
            Order::Freeze { job, order } => {
                let positions = self.shared.job(job).map(|job| job.freeze_polls()).unwrap_or_default();
                wire.tell_leader(Note::Obeyed { order, positions });
            }
            Order::Change { job, change, positions } => {
                if let Some(job) = self.shared.job(job) {
                    if let Some((_, positions)) = &positions {
                        job.set_positions(positions);
                    }
                    job.change_polls(&change);
                }
                if let Some((order, _)) = positions {
                    wire.tell_leader(Note::Obeyed { order, positions: Vec::new() });
                }
                self.shared.push(Task::Other(Arc::new(Command::Polls { job, change: *change })));
            }
            Order::Thaw { job } => {
                if let Some(job) = self.shared.job(job) {
                    job.thaw_polls();
                }
            }
            Order::EndRefill { job, number, shown } => {
                if let Some(job) = self.shared.job(job) {
                    job.end_refill(number, shown);
                }
            }
        }
    }

    fn tell(&self, order: Order) {
        if let Some(wire) = &self.shared.wire {
            wire.tell_all(Note::Order(Box::new(order)));
        }
    }

    fn change_polls(&mut self, id: JobId, change: &PollChange) {
        let Some(job) = self.shared.job(id) else { return };
        let Some(wire) = self.shared.wire.clone() else { return job.change_polls(change) };
        let boxed = Box::new(change.clone());
        if matches!(change, PollChange::Hide(_) | PollChange::Seal(_)) {
            self.tell(Order::Change { job: id, change: boxed, positions: None });
            return job.change_polls(change);
        }
        // No source reads on before every process knows the poll.
        self.orders += 1;
        self.tell(Order::Freeze { job: id, order: self.orders });
        let mut positions = job.freeze_polls();
        if self.wait_for(&wire, &mut positions) {
            self.orders += 1;
            let all = Some((self.orders, positions.clone()));
            self.tell(Order::Change { job: id, change: boxed, positions: all });
            job.set_positions(&positions);
            job.change_polls(change);
            self.wait_for(&wire, &mut positions);
        }
        self.tell(Order::Thaw { job: id });
        job.thaw_polls();
    }

    /// Waits until all other processes have obeyed the last order, and merges where they stand; whether the
    /// engine does not end.
    fn wait_for(&self, wire: &Arc<Wire>, positions: &mut [Vec<Offset>]) -> bool {
        let mut left = wire.processes() - 1;
        while left > 0 {
            match self.obeyed.recv_timeout(LOOK) {
                Ok((order, theirs)) if order == self.orders => {
                    left -= 1;
                    for (of, theirs) in positions.iter_mut().zip(theirs) {
                        of.iter_mut().zip(theirs).for_each(|(of, theirs)| *of = theirs.max(*of));
                    }
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if !self.shared.stop.load(Ordering::Acquire) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Asks the store until it answers, or for too long.
    fn ask<T>(&self, place: &Place, ask: impl Fn() -> Result<T, LoadError>) -> Result<T, LoadError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match ask() {
                Err(LoadError::Store(StoreError(why)))
                    if tries < TRIES && !self.shared.stop.load(Ordering::Acquire) =>
                {
                    tracing::warn!("the checkpoints in {} can't be read ({why}); trying again", place.folder);
                    std::thread::sleep(PAUSE);
                }
                answer => return answer,
            }
        }
    }

    /// Claims a job's place and reads what it goes on from.
    fn take_up(&self, job: JobId, place: &Place, is_of_use: &dyn Fn(&Checkpoint) -> Result<(), String>) -> Up {
        let (Some(store), Some(writer)) = (&self.shared.config.checkpoints, &self.shared.writer) else {
            return Up::default();
        };
        crash::point("restore::claim");
        let latest = self.ask(place, || place.take_up(store.as_ref(), is_of_use));
        let Latest { loaded, passed_over, claim } = match latest {
            Ok(latest) => latest,
            Err(error) => {
                let why = error.to_string();
                return Up { taken: Taken::Refused(why.clone()), origin: Some(Origin::Refused(why)), told: None };
            }
        };
        crash::point("restore::claimed");
        let from = loaded.as_ref().map(|loaded| (loaded.number, loaded.checkpoint.epoch));
        let kept = loaded.as_ref().map(Loaded::summary);
        writer.send(Message { job, piece: Piece::TakenUp { place: place.clone(), claim, from: kept } }).ok();
        let origin = loaded.map(|mut loaded| {
            if let Some(wire) = &self.shared.wire {
                loaded.retain(|group| wire.owns(group));
            }
            Origin::Checkpoint(Arc::new(loaded))
        });
        Up {
            taken: Taken::Claimed { claim, from: from.map(|(number, _)| number) },
            origin,
            told: Some(EngineEvent::TakenUp { job, from, passed_over }),
        }
    }

    /// Reads what the leader has found: this process's key groups.
    fn taken_by_leader(&self, job: JobId, place: &Place, taken: Taken) -> Option<Origin> {
        let wire = self.shared.wire.as_ref()?;
        match taken {
            Taken::Unkept => None,
            Taken::Refused(why) => Some(Origin::Refused(why)),
            Taken::Claimed { claim, from } => {
                let (Some(store), Some(writer)) = (&self.shared.config.checkpoints, &self.shared.writer) else {
                    let why = format!("process {} has no store of checkpoints, the leader has", wire.process());
                    return Some(Origin::Refused(why));
                };
                writer.send(Message { job, piece: Piece::TakenUp { place: place.clone(), claim, from: None } }).ok();
                let load = |number| {
                    let loaded = self.ask(place, || place.load(store.as_ref(), number, |group| wire.owns(group)));
                    match loaded {
                        Ok(loaded) => Origin::Checkpoint(Arc::new(loaded)),
                        Err(error) => Origin::Refused(format!("process {}: {error}", wire.process())),
                    }
                };
                from.map(load)
            }
        }
    }
}

/// What a job was taken up with.
struct Up {
    taken: Taken,
    origin: Option<Origin>,
    /// What is to be told of it.
    told: Option<EngineEvent>,
}

impl Default for Up {
    fn default() -> Self {
        Up { taken: Taken::Unkept, origin: None, told: None }
    }
}

/// Whether a job can go on from a checkpoint: its polls must be those that were shown then, and such as
/// have opened since.
fn is_of_use(install: &Install, checkpoint: &Checkpoint) -> Result<(), String> {
    let shown: HashSet<&PollKey> = checkpoint.polls.iter().collect();
    let keys: Vec<PollKey> = install.polls.iter().map(|poll| poll.key()).collect();
    if let Some(gone) = checkpoint.polls.iter().find(|shown| !keys.contains(shown)) {
        return Err(format!("poll {:?} was changed or deleted since", gone.id));
    }
    for (poll, key) in install.polls.iter().zip(&keys).filter(|(_, key)| !shown.contains(key)) {
        let has_opened_since = checkpoint.offsets.iter().all(|read| {
            let of_input = poll.from.get(read.input as usize);
            of_input.and_then(|from| from.get(read.partition.0 as usize)).is_some_and(|from| *from >= read.next)
        });
        if !has_opened_since {
            return Err(format!("poll {:?} counts records from before it and is not in it", key.id));
        }
    }
    Ok(())
}
