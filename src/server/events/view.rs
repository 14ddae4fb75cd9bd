//! What the readers of one view share: the steps from epoch to epoch, each encoded once.
//!
//! ```text
//!             tick            tick            tick
//!   e10 --------------> e14 --------> e15 --------------> e19 = tip      the chain
//!          e12 (a snapshot or a resumption was served) --> e19           a branch
//! ```
//!
//! A reader holds only the epoch it has seen. From every epoch that was handed out exactly one step
//! leads on, so a reader that is at the tip's predecessor gets the shared step, and one that fell
//! behind gets the merge of the steps in between, computed once for all who are equally late.

use crate::server::events::frame::{Frame, Merge};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use tallyflow_dataflows::accounting::Accounting;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::results::{Delta, Filter, JobResults, ReadError};

/// The shared part of a view. Not locked, does no I/O.
pub struct View {
    filter: Filter,
    /// The newest epoch that was told; 0 before the first.
    tip: Epoch,
    /// Whether a reader may hold the tip as its epoch.
    tip_told: bool,
    /// Epochs that were told and at which this view looks as it does at the tip.
    same_as_tip: BTreeSet<Epoch>,
    /// Epochs of snapshots and resumptions served since the last tick, not on the chain.
    handed_out: BTreeSet<Epoch>,
    /// By the epoch that it starts from.
    steps: BTreeMap<Epoch, Arc<Step>>,
    steps_changes: usize,
    /// Steps to the tip that skip others, by the epoch that they start from.
    merged: HashMap<Epoch, Frame>,
    accounting: Option<Accounting>,
}

struct Step {
    delta: Delta,
    frame: OnceLock<Frame>,
}

impl Step {
    fn new(delta: Delta) -> Arc<Step> {
        Arc::new(Step { delta, frame: OnceLock::new() })
    }

    fn frame(&self) -> &Frame {
        self.frame.get_or_init(|| Frame::delta(&self.delta))
    }
}

/// What a tick came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// There is nothing that a reader would have to hear of.
    Quiet,
    /// Readers have something to fetch.
    New,
}

/// What comes next for a reader.
#[derive(Debug)]
pub enum Next {
    /// It has seen everything.
    Nothing,
    Frame(Frame),
    /// The way from its epoch is not kept here: it has to [`View::resume`].
    Lost,
}

impl View {
    /// Steps kept for late readers; at ten a second they last about 50 s. Whoever is later is served
    /// from the results store.
    const STEPS_MAX: usize = 512;
    /// Changed lines kept in all of them.
    const STEPS_CHANGES_MAX: usize = 100_000;
    /// Merged steps kept for others who are as late.
    const MERGED_MAX: usize = 256;
    /// Epochs held as equal to the tip before readers are moved on by an empty delta.
    const SAME_MAX: usize = 1_024;

    pub fn new(filter: Filter) -> Self {
        View {
            filter,
            tip: Epoch(0),
            tip_told: false,
            same_as_tip: BTreeSet::new(),
            handed_out: BTreeSet::new(),
            steps: BTreeMap::new(),
            steps_changes: 0,
            merged: HashMap::new(),
            accounting: None,
        }
    }

    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Forgets everything: another job has taken the name.
    pub fn reset(&mut self) {
        *self = View::new(std::mem::take(&mut self.filter));
    }

    /// Goes on to the results' epoch. With `force` readers hear of it even if nothing of theirs
    /// changed, so that the ids they hold don't grow old.
    pub fn tick(&mut self, results: &JobResults, force: bool) -> Tick {
        let Some(epoch) = results.epoch().filter(|epoch| *epoch > self.tip) else { return Tick::Quiet };
        if self.tip == Epoch(0) {
            self.tip = epoch;
            self.accounting = Some(*results.accounting());
            // Whoever waits for the first snapshot can have it.
            return Tick::New;
        }
        let Ok(delta) = results.delta(self.tip, &self.filter) else {
            // So much happened since the last tick that it is no longer known: every reader resumes
            // on its own, which tells it of the gap.
            self.reset();
            self.tip = epoch;
            self.accounting = Some(*results.accounting());
            return Tick::New;
        };
        let quiet = self.is_quiet(&delta);
        let before = std::mem::replace(&mut self.tip, epoch);
        if quiet && !force && self.handed_out.is_empty() && self.same_as_tip.len() < Self::SAME_MAX {
            if std::mem::take(&mut self.tip_told) {
                self.same_as_tip.insert(before);
            }
            return Tick::Quiet;
        }
        self.tip_told = true;
        self.accounting = Some(delta.accounting);
        let step = Step::new(delta);
        self.keep(before, step.clone());
        for same in std::mem::take(&mut self.same_as_tip) {
            self.keep(same, step.clone());
        }
        self.branch_off(results, epoch);
        self.merged.clear();
        while self.steps.len() > Self::STEPS_MAX || self.steps_changes > Self::STEPS_CHANGES_MAX {
            let Some((_, gone)) = self.steps.pop_first() else { break };
            self.steps_changes -= gone.delta.changes.len();
        }
        Tick::New
    }

    /// Leads everyone who was served between two ticks back to the chain.
    fn branch_off(&mut self, results: &JobResults, epoch: Epoch) {
        for from in std::mem::take(&mut self.handed_out) {
            if from < epoch
                && let Ok(delta) = results.delta(from, &self.filter)
            {
                self.keep(from, Step::new(delta));
            }
        }
    }

    fn keep(&mut self, from: Epoch, step: Arc<Step>) {
        self.steps_changes += step.delta.changes.len();
        if let Some(old) = self.steps.insert(from, step) {
            self.steps_changes -= old.delta.changes.len();
        }
    }

    fn is_quiet(&self, delta: &Delta) -> bool {
        // Whoever asked for subjects is not woken because of others; the accounting is the job's.
        let of_job = self.filter.subjects.is_empty();
        delta.changes.is_empty() && delta.totals.is_empty() && (!of_job || self.accounting == Some(delta.accounting))
    }

    /// What comes after `seen`.
    pub fn next(&mut self, seen: Epoch) -> Next {
        if self.at_tip(seen) || self.handed_out.contains(&seen) {
            return Next::Nothing;
        }
        if let Some(frame) = self.merged.get(&seen) {
            return Next::Frame(frame.clone());
        }
        let Some(step) = self.steps.get(&seen) else { return Next::Lost };
        if self.at_tip(step.delta.epoch) {
            return Next::Frame(step.frame().clone());
        }
        let mut at = step.delta.epoch;
        let mut merge = Merge::new(&step.delta);
        while !self.at_tip(at) {
            let Some(step) = self.steps.get(&at) else { return Next::Lost };
            merge.add(&step.delta);
            at = step.delta.epoch;
        }
        let frame = Frame::delta(&merge.finish());
        if self.merged.len() < Self::MERGED_MAX {
            self.merged.insert(seen, frame.clone());
        }
        Next::Frame(frame)
    }

    fn at_tip(&self, epoch: Epoch) -> bool {
        epoch == self.tip || self.same_as_tip.contains(&epoch)
    }

    /// Brings a reader that comes back with an id up to date from the results store. `None`: there is
    /// nothing to tell, and it stays where it is.
    pub fn resume(&mut self, seen: Epoch, results: &JobResults) -> Result<Option<Frame>, ReadError> {
        let delta = results.delta(seen, &self.filter)?;
        if delta.epoch == seen {
            self.hand_out(seen);
            return Ok(None);
        }
        self.hand_out(delta.epoch);
        Ok(Some(Frame::delta(&delta)))
    }

    /// Notes that a reader was served up to this epoch, which is the results' newest.
    pub fn hand_out(&mut self, epoch: Epoch) {
        if self.tip == Epoch(0) {
            self.tip = epoch;
        }
        if epoch == self.tip {
            self.tip_told = true;
        } else if !self.at_tip(epoch) {
            self.handed_out.insert(epoch);
        }
    }
}
