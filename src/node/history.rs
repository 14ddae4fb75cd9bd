//! Where the history of each job is. A job of its own has a file of its own: `history/NAME/ID-TIME.db`, by
//! its id and the time when it was submitted, so that a name used again begins anew.

use crate::node::job::Job;
use crate::node::{JobError, Node};
use std::path::PathBuf;
use tallyflow_connectors::history::HistoryReader;

impl Node {
    /// The history of the job of that name; `None`: none is kept.
    pub fn history(&self, name: &str) -> Result<Option<HistoryReader>, JobError> {
        let job = self.job(name)?;
        let reader = || HistoryReader::new(self.history_path(&job), job.name().to_owned());
        Ok(self.config.history.is_some().then(reader))
    }

    pub(super) fn history_path(&self, job: &Job) -> PathBuf {
        self.history_dir(job.name()).join(format!("{}-{}.db", job.id.0, job.submitted_ms))
    }

    /// Forgets the history of the jobs that had a name. Whoever reads it just now reads it to the end.
    pub(super) fn forget_history(&self, name: &str) {
        let dir = self.history_dir(name);
        if let Err(error) = std::fs::remove_dir_all(&dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            // It is in nobody's way: the new job has another file.
            tracing::warn!(job = name, "the history in {} can't be removed: {error}", dir.display());
        }
    }

    fn history_dir(&self, name: &str) -> PathBuf {
        self.config.data_dir.join("history").join(name)
    }
}
