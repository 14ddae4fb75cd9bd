//! What is known of a job's checkpoints.

use crate::node::job::{Inner, Job};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::update::{CheckpointEvent, EpochUpdate};
use utoipa::ToSchema;

/// A job's newest checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointStatus {
    /// The closed epoch that it is of.
    pub epoch: Epoch,
    /// When it was whole.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What it has added to the store.
    pub bytes: u64,
    /// How long it took from its epoch's end.
    pub ms: u64,
    /// For how long, in us, an operator was kept from its work by it, at most at one time.
    #[serde(default)]
    pub stall_us: u64,
    /// What the checkpoints take there that the job could go on from.
    pub held_bytes: u64,
    /// Why the next one can't be written, while that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why a checkpoint was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotWritten {
    /// The engine that was to has ended, or does not run the job any more; another one can be asked.
    #[error("the engine ended in the midst of it")]
    Lost,
    #[error("{0}")]
    Failed(String),
}

/// See the module.
#[derive(Default)]
pub struct Kept {
    newest: Option<CheckpointStatus>,
    error: Option<String>,
    /// The number of the one that is being written.
    taking: Option<u64>,
    /// The last that ended, and how.
    ended: Option<(u64, Result<(), NotWritten>)>,
    /// When the last one was begun; `None`: one is due.
    begun: Option<Instant>,
    /// Whether something has changed since the last one was begun.
    changed: bool,
}

impl Kept {
    pub fn status(&self) -> Option<CheckpointStatus> {
        let error = self.error.clone();
        self.newest.clone().map(|newest| CheckpointStatus { error, ..newest })
    }

    /// An update has changed what a checkpoint would hold.
    pub fn updated(&mut self, update: &EpochUpdate) {
        self.changed |= update.records.read > 0 || !update.lines.is_empty() || !update.gone.is_empty();
    }
}

impl Job {
    /// Begins a checkpoint by that number, unless one is being written: then its number.
    pub fn begin_checkpoint(&self, number: u64) -> Result<(), u64> {
        let kept = &mut self.lock().kept;
        if let Some(taking) = kept.taking {
            return Err(taking);
        }
        kept.taking = Some(number);
        kept.begun = Some(Instant::now());
        kept.changed = false;
        Ok(())
    }

    /// Whether a checkpoint is due that is to be taken so often. While the past of polls is being counted
    /// none is: it would hold every message again, and nothing of what is counted so far.
    pub fn is_checkpoint_due(&self, every: Duration) -> bool {
        let inner = self.lock();
        let kept = &inner.kept;
        inner.refill.is_none()
            && kept.taking.is_none()
            && kept.changed
            && kept.begun.is_none_or(|begun| begun.elapsed() >= every)
    }

    /// The next checkpoint is due at once.
    pub fn want_checkpoint(&self) {
        let kept = &mut self.lock().kept;
        kept.begun = None;
        kept.changed = true;
    }

    /// Takes what became of a checkpoint.
    pub fn checkpointed(&self, number: u64, event: CheckpointEvent) {
        {
            let kept = &mut self.lock().kept;
            let ended = match event {
                CheckpointEvent::Taken { epoch, at_ms, ms, stall_us, bytes, held_bytes } => {
                    let at = Timestamp::from_millisecond(at_ms).unwrap_or_default();
                    kept.newest = Some(CheckpointStatus { epoch, at, bytes, ms, stall_us, held_bytes, error: None });
                    kept.error = None;
                    Ok(())
                }
                CheckpointEvent::Failed { error, again: true } => {
                    kept.error = Some(error);
                    return;
                }
                CheckpointEvent::Failed { error, again: false } => Err(NotWritten::Failed(error)),
                CheckpointEvent::Fenced => Err(NotWritten::Failed("another server has taken the job up".to_owned())),
            };
            kept.error = ended.as_ref().err().map(ToString::to_string);
            kept.ended = Some((number, ended));
            if kept.taking == Some(number) {
                kept.taking = None;
            }
        }
        self.changed.notify_all();
    }

    /// The engine is gone, and with it what it was writing.
    pub fn checkpoint_lost(&self) {
        {
            let kept = &mut self.lock().kept;
            if let Some(number) = kept.taking.take() {
                kept.ended = Some((number, Err(NotWritten::Lost)));
                kept.begun = None;
                kept.changed = true;
            }
        }
        self.changed.notify_all();
    }

    /// Waits until a checkpoint has ended, and says how; `None`: not by the deadline. Blocks.
    pub fn wait_for_checkpoint(&self, number: u64, deadline: Instant) -> Option<Result<(), NotWritten>> {
        let mut inner = self.lock();
        loop {
            let Inner { kept, .. } = &*inner;
            match &kept.ended {
                Some((ended, how)) if *ended == number => return Some(how.clone()),
                _ if kept.taking != Some(number) => {
                    return Some(Err(NotWritten::Lost));
                }
                _ => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            (inner, _) = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
