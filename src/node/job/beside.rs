//! What is computed beside a job, to take its place.

use crate::node::job::{Inner, Job, JobState, Plan};
use std::sync::Arc;
use tallyflow_dataflows::ids::{Epoch, Offset};
use tallyflow_dataflows::results::{JobResults, Shape};
use tallyflow_dataflows::update::EpochUpdate;

/// What is computed beside a running job, to take its place.
pub struct Beside {
    pub plan: Arc<Plan>,
    pub results: JobResults,
    /// Where it must have come before it is let forward.
    pub target: Vec<Vec<Offset>>,
    /// Once it was: the epoch from which on it goes on.
    forward: Option<Epoch>,
    /// Whether it was told to be there.
    there: bool,
}

/// What an update of a job that is computed beside has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It has not come far enough.
    Behind,
    /// It has come to its target, and is to be let forward.
    Near,
    /// It is where the job is: it can take its place.
    There,
}

impl Job {
    /// Begins to compute another plan beside what is shown.
    pub fn begin_beside(&self, plan: Arc<Plan>, target: Vec<Vec<Offset>>) {
        let mut inner = self.lock();
        let results = JobResults::new(Shape::of(&plan.spec, &plan.inputs));
        inner.beside = Some(Beside { plan, results, target, forward: None, there: false });
        inner.beside_error = None;
    }

    /// What is computed beside.
    pub fn beside(&self) -> Option<Arc<Plan>> {
        self.lock().beside.as_ref().map(|beside| beside.plan.clone())
    }

    /// What is computed beside begins anew, in another engine.
    pub fn beside_anew(&self) -> Option<Arc<Plan>> {
        let mut inner = self.lock();
        let beside = inner.beside.as_mut()?;
        beside.results = JobResults::new(beside.results.shape().clone());
        beside.forward = None;
        beside.there = false;
        Some(beside.plan.clone())
    }

    /// Goes on to an update's epoch with what is computed beside.
    pub fn apply_beside(&self, update: EpochUpdate) -> Progress {
        let mut inner = self.lock();
        let Some(beside) = &mut inner.beside else { return Progress::Behind };
        beside.results.apply(update);
        let reached = |(places, target): (&[(Offset, Offset)], &Vec<Offset>)| {
            places.iter().zip(target).all(|((next, _), target)| next >= target)
        };
        if !beside.results.inputs().map(|(_, places)| places).zip(&beside.target).all(reached) {
            return Progress::Behind;
        }
        if beside.forward.is_none() {
            return Progress::Near;
        }
        let there = inner.beside_is_there();
        match inner.beside.as_mut().filter(|beside| there && !beside.there) {
            Some(beside) => {
                beside.there = true;
                Progress::There
            }
            None => Progress::Behind,
        }
    }

    /// What is computed beside goes on from this epoch, above all that the job has shown.
    pub fn let_forward(&self, epoch: Epoch) {
        if let Some(beside) = self.lock().beside.as_mut() {
            beside.forward = Some(epoch);
        }
    }

    /// What was computed beside takes the job's place, as one change, if it is as far as the job. Answers
    /// the plan that is over.
    pub fn take_place(&self) -> Option<Arc<Plan>> {
        let over = {
            let mut inner = self.lock();
            let inner = &mut *inner;
            if !inner.beside_is_there() {
                return None;
            }
            let Beside { plan, mut results, .. } = inner.beside.take()?;
            if inner.results.epoch().is_some() {
                results.take_over(&inner.results);
            }
            inner.results = results;
            inner.catching_up = None;
            inner.state = JobState::Running;
            inner.error = None;
            inner.sinks.clear();
            std::mem::replace(&mut inner.plan, plan)
        };
        self.tell();
        Some(over)
    }

    /// Nothing takes the job's place, for this reason.
    pub fn give_up_beside(&self, error: Option<String>) -> Option<Arc<Plan>> {
        let mut inner = self.lock();
        inner.beside_error = error;
        inner.beside.take().map(|beside| beside.plan)
    }
}

impl Inner {
    /// Whether what is computed beside has come as far as what is shown: no reader may see less of a
    /// topic than it saw.
    fn beside_is_there(&self) -> bool {
        let Some((beside, forward)) = self.beside.as_ref().and_then(|beside| Some((beside, beside.forward?))) else {
            return false;
        };
        let shown = self.results.offsets();
        let as_far = beside.results.offsets().iter().all(|(topic, next)| {
            shown.get(topic).is_none_or(|shown| next.iter().zip(shown).all(|(next, shown)| next >= shown))
        });
        as_far && beside.results.epoch() >= Some(forward) && beside.results.epoch() > self.results.epoch()
    }
}
