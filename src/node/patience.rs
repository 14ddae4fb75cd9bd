//! Waiting at the start for a log that is away: what is started at the same time may take a while.

use std::fmt::Display;
use std::time::{Duration, Instant};
use tallyflow_connectors::log::TopicError;
use tallyflow_dataflows::source::{ProduceError, SourceError};

/// How long it is waited for, and how long between two tries.
const WAIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);

/// An error that may say that the log is away for a while.
pub trait Away: Display {
    fn is_away(&self) -> bool;
}

impl Away for SourceError {
    fn is_away(&self) -> bool {
        matches!(self, SourceError::Away(_))
    }
}

impl Away for ProduceError {
    fn is_away(&self) -> bool {
        matches!(self, ProduceError::Away(_))
    }
}

impl Away for TopicError {
    fn is_away(&self) -> bool {
        matches!(self, TopicError::Away(_))
    }
}

/// Asks until the answer is another one than that the log is away, or that was so for too long. What is asked may
/// have been done already.
pub fn patiently<T, E: Away>(mut ask: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let started = Instant::now();
    loop {
        match ask() {
            Err(error) if error.is_away() && started.elapsed() < WAIT => {
                tracing::warn!("{error}; it is waited for");
            }
            answer => return answer,
        }
        std::thread::sleep(PAUSE);
    }
}
