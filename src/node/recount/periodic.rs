//! Recounts from time to time, and what is known of the last one of each job.

use crate::node::job::{JobState, RecountOutcome};
use crate::node::{Node, RecountError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is looked whether the server is being stopped.
const LOOK: Duration = Duration::from_millis(200);

impl Node {
    /// Starts the thread that recounts every running job from time to time, where that is asked for.
    pub(in crate::node) fn recount_periodically(self: &Arc<Self>) -> std::io::Result<()> {
        let Some(every) = self.config.recount.every else { return Ok(()) };
        let node = Arc::downgrade(self);
        std::thread::Builder::new().name("recounts".to_owned()).spawn(move || {
            let mut due = Instant::now() + every;
            while let Some(node) = node.upgrade().filter(|node| !node.is_stopping()) {
                if Instant::now() >= due {
                    node.recount_all();
                    due = Instant::now() + every;
                }
                drop(node);
                std::thread::sleep(LOOK.min(every));
            }
        })?;
        Ok(())
    }

    /// Recounts every running job, one after another. What comes out is told by the recount itself.
    fn recount_all(&self) {
        for job in self.jobs() {
            if self.is_stopping() {
                return;
            }
            if job.state() != JobState::Running {
                continue;
            }
            match self.recount(job.name(), &self.stopping) {
                Ok(_) | Err(RecountError::UnderWay { .. } | RecountError::BrokenOff { .. }) => {}
                // It is tried again when it is due again.
                Err(RecountError::Nothing { .. } | RecountError::Unsettled { .. } | RecountError::Job(_)) => {}
                Err(error) => tracing::warn!(job = job.name(), "it can't be recounted: {error}"),
            }
        }
    }

    /// The job whose numbers differ from the last recount of them, if there is one; in words.
    pub(in crate::node) fn recount_differs(&self) -> Option<String> {
        self.jobs().iter().filter(|job| job.state() != JobState::Cancelled).find_map(|job| {
            let RecountOutcome { difference, .. } = job.recounted()?;
            Some(format!("the last recount of job {:?} differs: {}", job.name(), difference?))
        })
    }
}
