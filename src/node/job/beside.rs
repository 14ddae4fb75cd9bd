//! Another form of a job, computed beside it to take its place; and which of the two the engine speaks of.
//!
//! Each method looks and acts under one lock: between two of them the one may have become the other.

use crate::node::job::{Inner, Job, JobState, Plan, has_reached};
use crate::node::supervise::is_live;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tallyflow_connectors::dead_letters::Again;
use tallyflow_dataflows::ids::{Epoch, Offset};
use tallyflow_dataflows::results::{JobResults, Shape};
use tallyflow_dataflows::spec::JobSpec;
use tallyflow_dataflows::update::{EpochUpdate, JobId};

/// What is computed beside a running job.
pub struct Beside {
    pub plan: Arc<Plan>,
    pub results: JobResults,
    /// Where it must have come before it is let forward.
    pub target: Vec<Vec<Offset>>,
    /// Once it was: the epoch from which on it goes on.
    forward: Option<Epoch>,
}

/// What an update was applied to.
pub enum Applied {
    /// To nothing: the job is cancelled, or does not compute that any more.
    Not,
    /// To what readers see, or will see once it has caught up; these offsets were read once more.
    Shown(Arc<Plan>, Vec<Again>),
    /// To what is computed beside. `near`: it has come to its target, and is to be let forward.
    Beside { plan: Arc<Plan>, near: bool },
}

/// What has failed.
pub enum Failed {
    /// Nothing that still mattered.
    Nothing,
    /// The job, with this error.
    Job(String),
    /// What was computed beside it, which is given up, with this error.
    Beside(Arc<Plan>, String),
}

/// Whether what is computed beside can take the job's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    NotYet,
    /// It is where the job is.
    There,
    /// It was given up, has taken the place, or its engine is gone.
    Over,
}

impl Job {
    /// Goes on to an update's epoch with what the engine knows by that id.
    pub fn apply(&self, id: JobId, update: EpochUpdate) -> Applied {
        let applied = {
            let mut inner = self.lock();
            let inner = &mut *inner;
            if inner.state == JobState::Cancelled {
                return Applied::Not;
            }
            if inner.plan.engine_id != id {
                let Some(beside) = inner.beside.as_mut().filter(|beside| beside.plan.engine_id == id) else {
                    return Applied::Not;
                };
                beside.results.apply(update);
                let near = beside.forward.is_none() && has_reached(&beside.results, &beside.target);
                // Whoever waits for it to be there looks again; readers have nothing to hear.
                self.changed.notify_all();
                return Applied::Beside { plan: beside.plan.clone(), near };
            }
            // What has caught up is another state, not the one before and a change.
            let change = inner.catching_up.is_none().then(|| self.feeds.copy(&update)).flatten();
            let (told, again) = inner.apply(update);
            if told {
                self.feeds.change(self.id, change);
            }
            let applied = Applied::Shown(inner.plan.clone(), again);
            if !told {
                return applied;
            }
            applied
        };
        self.tell();
        applied
    }

    /// What the engine knows by that id can't go on: notes it, as `error` says it of the plan.
    pub fn fail(&self, id: JobId, error: impl FnOnce(&Plan) -> String) -> Failed {
        let failed = {
            let mut inner = self.lock();
            if inner.plan.engine_id == id {
                if !is_live(inner.state) {
                    return Failed::Nothing;
                }
                let error = error(&inner.plan);
                inner.state = JobState::Failed;
                inner.error = Some(error.clone());
                Failed::Job(error)
            } else {
                let Some(beside) = inner.beside.take_if(|beside| beside.plan.engine_id == id) else {
                    return Failed::Nothing;
                };
                let error = error(&beside.plan);
                inner.beside_error = Some(error.clone());
                Failed::Beside(beside.plan, error)
            }
        };
        self.tell();
        failed
    }

    /// Begins to compute another plan beside what is shown.
    pub fn begin_beside(&self, plan: Arc<Plan>, target: Vec<Vec<Offset>>) {
        let mut inner = self.lock();
        let results = JobResults::new(Shape::of(&plan.spec, &plan.inputs));
        inner.beside = Some(Beside { plan, results, target, forward: None });
        inner.beside_error = None;
    }

    /// What is computed beside.
    pub fn beside(&self) -> Option<Arc<Plan>> {
        self.lock().beside.as_ref().map(|beside| beside.plan.clone())
    }

    /// The engine is gone: what is computed beside begins anew, in another.
    pub fn beside_anew(&self) -> Option<Arc<Plan>> {
        let mut inner = self.lock();
        let beside = inner.beside.as_mut()?;
        beside.results = JobResults::new(beside.results.shape().clone());
        beside.forward = None;
        self.changed.notify_all();
        Some(beside.plan.clone())
    }

    /// What is computed beside goes on from this epoch, above all that the job has shown.
    pub fn let_forward(&self, id: JobId, epoch: Epoch) {
        let mut inner = self.lock();
        if let Some(beside) = inner.beside.as_mut().filter(|beside| beside.plan.engine_id == id) {
            beside.forward = Some(epoch);
        }
    }

    /// Waits until what is computed beside is where the job is, at most for a time. Blocks.
    pub fn wait_for_beside(&self, id: JobId, at_most: Duration) -> Place {
        let deadline = Instant::now() + at_most;
        let mut inner = self.lock();
        loop {
            let place = inner.place(id);
            let left = deadline.saturating_duration_since(Instant::now());
            if place != Place::NotYet || left.is_zero() {
                return place;
            }
            (inner, _) = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What was computed beside takes the job's place, as one change, if it is as far as the job. Answers
    /// the plan that is over.
    pub fn take_place(&self, id: JobId) -> Option<Arc<Plan>> {
        let over = {
            let mut inner = self.lock();
            let inner = &mut *inner;
            if inner.place(id) != Place::There {
                return None;
            }
            let Beside { plan, mut results, .. } = inner.beside.take()?;
            if inner.results.epoch().is_some() {
                results.take_over(&inner.results);
            }
            inner.results = results;
            inner.voids = plan.spec.voids.clone();
            inner.catching_up = None;
            inner.state = JobState::Running;
            inner.error = None;
            inner.form += 1;
            inner.sinks.clear();
            self.feeds.renew(self.id);
            std::mem::replace(&mut inner.plan, plan)
        };
        self.tell();
        Some(over)
    }

    /// Nothing takes the job's place.
    pub fn give_up_beside(&self) -> Option<Arc<Plan>> {
        let given_up = self.lock().beside.take().map(|beside| beside.plan);
        self.changed.notify_all();
        given_up
    }

    /// Takes other sinks and another `top`, which change nothing that is counted.
    pub fn retune(&self, spec: JobSpec) {
        {
            let mut inner = self.lock();
            let top = Shape::of(&spec, &inner.plan.inputs).top;
            if inner.results.shape().top != top {
                inner.results.set_top(top);
                if let Some((results, _)) = &mut inner.catching_up {
                    results.set_top(top);
                }
            }
            let Plan { engine_id, form, inputs, graph, .. } = &*inner.plan;
            let (inputs, graph) = (inputs.clone(), graph.clone());
            inner.plan = Arc::new(Plan { engine_id: *engine_id, spec, form: *form, inputs, graph });
            inner.form += 1;
            inner.sinks.clear();
            inner.beside_error = None;
            self.feeds.renew(self.id);
        }
        self.tell();
    }
}

impl Inner {
    /// Whether what is computed beside has come as far as what is shown: no reader may see less of a
    /// topic than it saw, but where the new form ends before.
    fn place(&self, id: JobId) -> Place {
        let beside = self.beside.as_ref().filter(|beside| beside.plan.engine_id == id);
        let Some((beside, forward)) = beside.and_then(|beside| Some((beside, beside.forward?))) else {
            return Place::Over;
        };
        let shown = self.results.offsets();
        let as_far =
            beside.results.inputs().zip(&beside.plan.inputs).all(|((topic, places), input)| {
                let Some(shown) = shown.get(topic) else { return true };
                // Where a time ends it, its own log decides where that is: its target is all that is known.
                input.until_ms.is_some()
                    || places.iter().zip(&input.partitions).zip(shown).all(|(((next, _), start), shown)| {
                        *next >= start.until.map_or(*shown, |until| until.min(*shown))
                    })
            });
        let epoch = beside.results.epoch();
        let is_there = as_far && epoch >= Some(forward) && epoch > self.results.epoch();
        if is_there { Place::There } else { Place::NotYet }
    }
}
