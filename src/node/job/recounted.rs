//! What a job knows of its recounts: the one under way, and how the last one ended.

use super::Job;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How far a recount, or another reading of all records of a job, has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecountProgress {
    /// Records read in this pass.
    pub records: u64,
    /// Of how many.
    pub of: u64,
    /// Which pass over them this is, from 1; 0: none has begun.
    pub pass: u64,
    /// Of how many, as far as is known now.
    pub passes: u64,
}

/// How a recount ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecountOutcome {
    /// When, in ms since 1970.
    pub at_ms: i64,
    pub records: u64,
    pub ms: u64,
    /// The first difference in words; `None`: equal.
    pub difference: Option<String>,
}

impl Job {
    /// Notes that the job's records begin to be read again; not if that is going on already.
    pub fn begin_recount(&self) -> bool {
        let mut inner = self.lock();
        let begins = inner.recount.is_none();
        inner.recount.get_or_insert_default();
        begins
    }

    /// Notes how far that has come; `None`: it has ended.
    pub fn set_recount(&self, progress: Option<RecountProgress>) {
        self.lock().recount = progress;
    }

    /// Notes how a recount of the numbers of that form ended.
    pub fn set_recounted(&self, form: u64, outcome: RecountOutcome) {
        self.lock().recounted = Some((form, outcome));
    }

    /// How the last recount of what is shown now ended. Once the job is replaced, there was none yet.
    pub fn recounted(&self) -> Option<RecountOutcome> {
        let inner = self.lock();
        inner.recounted.as_ref().filter(|(form, _)| *form == inner.form).map(|(_, outcome)| outcome.clone())
    }
}
