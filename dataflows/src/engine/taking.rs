//! How an operator's state comes into a checkpoint: a few key groups at a time, and each group before its
//! first change of a later epoch.

use crate::checkpoint::Grouped;
use crate::checkpoint::frame::Frame;
use crate::claim::EntityHash;
use crate::engine::checkpoints::Piece;
use crate::engine::job::Job;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use timely::progress::frontier::MutableAntichain;
use timely::scheduling::Activator;

/// An operator's part in the checkpoints of its job. Every worker has one for each operator with state.
pub struct Taker {
    job: Arc<Job>,
    activator: Activator,
    /// The last checkpoint that it has begun.
    begun: u64,
    /// By key group, whether it is still to be written; and the first that may be.
    left: Option<(Vec<bool>, usize)>,
    /// How long it has kept its operator from its work in this turn, and of the checkpoint at most in one.
    spent: Duration,
    longest: Duration,
}

impl Taker {
    /// How long an operator writes before others have their turn.
    const TURN: Duration = Duration::from_micros(300);

    pub fn new(job: &Arc<Job>, activator: Activator) -> Self {
        job.takers.fetch_add(1, Ordering::AcqRel);
        Taker { job: job.clone(), activator, begun: 0, left: None, spent: Duration::ZERO, longest: Duration::ZERO }
    }

    /// To be called before something of `epoch` is applied.
    pub fn before(&mut self, epoch: u64, state: &mut impl Grouped) {
        if let Some((number, of)) = self.job.due()
            && number > self.begun
            && epoch > of
        {
            self.begin(number, state);
        }
    }

    /// Whether groups are still to be written: [`Taker::before_group`] must be called then.
    pub fn is_taking(&self) -> bool {
        self.left.is_some()
    }

    /// Whether nothing is, nor will be before the next epoch has passed.
    pub fn is_idle(&self) -> bool {
        self.left.is_none() && self.job.due().is_none_or(|(number, _)| number <= self.begun)
    }

    /// To be called before a group is changed.
    pub fn before_group(&mut self, group: usize, state: &mut impl Grouped) {
        if let Some((left, _)) = &mut self.left
            && std::mem::take(&mut left[group])
        {
            self.write(group, state);
        }
    }

    /// To be called at the end of each turn, with all applied that the frontier has passed.
    pub fn go_on(&mut self, frontier: &MutableAntichain<u64>, state: &mut impl Grouped) {
        if let Some((number, of)) = self.job.due()
            && number > self.begun
            && !frontier.less_equal(&of)
        {
            self.begin(number, state);
        }
        let before = self.spent;
        while let Some((left, next)) = &mut self.left {
            if *next == left.len() {
                self.left = None;
                self.end_turn();
                let stall = std::mem::take(&mut self.longest);
                return self.job.give(Piece::Done { stall });
            }
            let group = *next;
            *next += 1;
            if std::mem::take(&mut left[group]) {
                self.write(group, state);
                if self.spent - before > Self::TURN {
                    self.activator.activate();
                    break;
                }
            }
        }
        self.end_turn();
    }

    fn end_turn(&mut self) {
        self.longest = self.longest.max(std::mem::take(&mut self.spent));
    }

    fn begin(&mut self, number: u64, state: &mut impl Grouped) {
        self.begun = number;
        let started = Instant::now();
        let left = self.changed(state);
        self.spent += started.elapsed();
        self.left = Some((left, 0));
        self.activator.activate();
    }

    /// Writes all at once; to be called between the last of the checkpoint's epoch and the first after it.
    /// Answers how long that took, if there is a checkpoint of that epoch to be written now.
    pub fn take_at_once(&mut self, closed: u64, state: &mut impl Grouped) -> Option<Duration> {
        let (number, _) = self.job.due().filter(|(number, of)| *number > self.begun && *of <= closed)?;
        let started = Instant::now();
        self.begun = number;
        for (group, _) in self.changed(state).into_iter().enumerate().filter(|(_, changed)| *changed) {
            self.write(group, state);
        }
        self.spent = Duration::ZERO;
        Some(started.elapsed())
    }

    /// By group, whether there is something to write; with those that are to be written whole.
    fn changed<S: Grouped>(&self, state: &mut S) -> Vec<bool> {
        self.job.rewrite(S::KIND).into_iter().for_each(|group| state.mark_all(group));
        (0..EntityHash::KEY_GROUPS).map(|group| state.has_changed(group)).collect()
    }

    fn write<S: Grouped>(&mut self, group: usize, state: &mut S) {
        let started = Instant::now();
        let mut body = Vec::new();
        let all = state.write(group, &mut body);
        self.job.give(Piece::Frame(Frame { kind: S::KIND, group: group as u16, all, body }));
        self.spent += started.elapsed();
    }
}
