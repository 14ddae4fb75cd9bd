//! The recorder of a job's history follows the results: at each step a point, the whole of what is shown
//! then. Results that are not shown, while an engine catches up, never get here.

use super::Follow;
use crate::node::job::{HistoryStatus, Job};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tallyflow_connectors::history::{History, HistoryError, HistoryPoint, Keep};
use tallyflow_connectors::sinks::Ending;
use tallyflow_dataflows::ids::Epoch;

/// The recorder for a form of a job. Of any other form it writes nothing.
pub struct Recorder {
    job: Arc<Job>,
    form: u64,
    path: PathBuf,
    keep: Keep,
    /// The newest epoch it wrote, and how often the results of then had taken over from others.
    written: Option<(Epoch, u32)>,
    history: Option<History>,
    status: HistoryStatus,
}

/// How long it tidies up at a time, at most: whoever ends it waits for that.
const TIDY_MAX: Duration = Duration::from_millis(500);

impl Recorder {
    pub fn new(job: Arc<Job>, form: u64, path: PathBuf, keep: Keep) -> Recorder {
        Recorder { job, form, path, keep, written: None, history: None, status: HistoryStatus::default() }
    }
}

impl Follow for Recorder {
    type Error = HistoryError;

    fn every(&self) -> Duration {
        self.keep.steps.first().map_or(Duration::from_secs(1), |step| step.step)
    }

    fn retryable(error: &HistoryError) -> bool {
        error.retryable()
    }

    fn write(&mut self, ending: &Ending) -> Result<(), HistoryError> {
        let written = self.written;
        let found = self.job.read_form(self.form, |results| {
            let newer = results.epoch().is_some_and(|epoch| Some(epoch) != written.map(|(epoch, _)| epoch));
            // After a take-over all is compared: what it tells of changes is for readers of lines.
            let since = written.filter(|(_, takeovers)| *takeovers == results.takeovers()).map(|(epoch, _)| epoch);
            newer.then(|| (HistoryPoint::of(results, since), results.takeovers()))
        });
        let history = match &mut self.history {
            Some(history) => history,
            None if found.is_none() => return Ok(()),
            None => self.history.insert(History::open(&self.path, self.keep.clone())?),
        };
        // Where the file holds too much, room comes first: there are fewer points then.
        let until = Instant::now() + TIDY_MAX.min(self.keep.steps.first().map_or(TIDY_MAX, |step| step.step / 2));
        let now_ms = jiff::Timestamp::now().as_millisecond();
        while history.extent().bytes > self.keep.bytes_max {
            if ending.is_asked() || Instant::now() > until {
                return Ok(());
            }
            // The newest point alone may be larger.
            if !history.tidy(now_ms)? {
                break;
            }
        }
        if let Some(Some((point, takeovers))) = found {
            history.write(&point)?;
            self.written = Some((point.epoch, takeovers));
        }
        if ending.is_asked() {
            return Ok(());
        }
        // What need not be kept goes in the time that is left until the next point.
        while history.tidy(now_ms)? && Instant::now() < until {}
        Ok(())
    }

    fn note(&mut self, error: Option<&HistoryError>, is_news: bool) {
        if let Some(history) = &self.history {
            let extent = history.extent();
            self.status = HistoryStatus {
                points: extent.points,
                bytes: extent.bytes,
                oldest: extent
                    .oldest_ms
                    .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
                    .map(|t| format!("{t:.3}")),
                oldest_ms: extent.oldest_ms,
                epoch: extent.newest,
                error: None,
            };
        }
        if let Some(error) = error {
            if is_news {
                let path = self.path.display();
                tracing::warn!(job = self.job.name(), %path, "the history is behind: {error}");
            }
            self.status.error = Some(error.to_string());
            self.history = None;
            self.written = None;
        }
        self.job.set_history(self.form, self.status.clone());
    }
}
