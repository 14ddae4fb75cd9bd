//! A job as a process that does not lead mirrors it.

use crate::node::job::{Inner, Job, JobState, JobStatus, Plan};
use crate::node::supervise::is_live;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tallyflow_dataflows::engine::job::InstallInput;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::results::{JobResults, Shape};
use tallyflow_dataflows::spec::JobSpec;
use tallyflow_dataflows::update::{EpochUpdate, Graph, JobId};

/// All that is told of a job, but for its status.
#[derive(Debug, Serialize, Deserialize)]
pub struct JobHead {
    pub id: JobId,
    pub submitted_ms: i64,
    pub spec: JobSpec,
    pub inputs: Vec<InstallInput>,
    pub graph: Graph,
    pub form: u64,
    /// What it shows; `None`: nothing yet.
    pub results: Option<EpochUpdate>,
}

impl Inner {
    pub(super) fn head(&self, job: &Job) -> JobHead {
        let Plan { spec, inputs, graph, form, .. } = &*self.plan;
        JobHead {
            id: job.id,
            submitted_ms: job.submitted_ms,
            spec: spec.clone(),
            inputs: inputs.clone(),
            graph: graph.clone(),
            form: *form,
            results: self.results.epoch().map(|_| self.results.as_update()),
        }
    }
}

impl Job {
    /// A job that is mirrored.
    pub fn mirror(head: JobHead) -> Job {
        let JobHead { id, submitted_ms, spec, inputs, graph, form, results } = head;
        let job = Job::new(id, spec, inputs, submitted_ms, (graph, form), 0, Arc::default());
        if let Some(results) = results {
            job.restore(results);
        }
        job
    }

    /// Takes all there is of it anew, as one change of what readers see. Where nothing is shown yet, they keep
    /// what they have.
    pub fn mirror_anew(&self, head: JobHead) {
        {
            let mut inner = self.lock();
            let JobHead { id, spec, inputs, graph, form, results: update, .. } = head;
            let shape = Shape::of(&spec, &inputs);
            let top = shape.top;
            if let Some(update) = update {
                let shown = inner.results.epoch();
                if shown == Some(update.epoch) {
                    // It is the same but for how much of it is shown.
                    inner.results.grow(&inputs);
                    if inner.results.shape().top != top {
                        inner.results.set_top(top);
                    }
                } else {
                    let mut results = JobResults::new(shape);
                    let is_later = shown.is_some_and(|shown| shown < update.epoch);
                    results.apply(update);
                    if is_later {
                        results.take_over(&inner.results);
                    }
                    inner.results = results;
                }
            }
            inner.plan = Arc::new(Plan { engine_id: id, spec, form, inputs, graph });
            inner.form += 1;
        }
        self.tell();
    }

    /// Goes on by a change.
    pub fn mirror_change(&self, update: EpochUpdate) {
        self.lock().results.apply(update);
        self.tell();
    }

    /// Takes its status.
    pub fn mirror_status(&self, status: JobStatus) {
        {
            let mut inner = self.lock();
            inner.state = status.state;
            inner.error.clone_from(&status.error);
            inner.told = Some(Box::new(status));
        }
        self.tell();
    }

    /// Whether it is mirrored here and what it shows is of before that epoch, which another process has shown.
    pub fn is_behind(&self, seen: Epoch) -> bool {
        let inner = self.lock();
        inner.told.is_some() && inner.results.epoch().is_some_and(|epoch| epoch < seen)
    }

    /// Nobody tells of it any more: readers keep what they have.
    pub fn mirror_lost(&self) {
        let state = self.state();
        if is_live(state) && state != JobState::Paused {
            self.set_state(JobState::Recovering, None);
        }
    }
}
