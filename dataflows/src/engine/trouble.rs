//! Reading that fails in a way that may pass: tried again in a while, and given up after a while. A log that
//! is away is waited for.

use crate::source::SourceError;
use std::time::{Duration, Instant};

/// How long what can't be read is left alone, and after how long it is given up.
const PAUSE: Duration = Duration::from_millis(200);
const MAX: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Clone, Copy)]
pub struct Trouble {
    since: Instant,
    again: Instant,
}

impl Trouble {
    /// The trouble that follows an error after what there was before; `None`: trying again does not help,
    /// or no more.
    pub fn after(before: Option<Trouble>, error: &SourceError) -> Option<Trouble> {
        let now = Instant::now();
        let since = before.map_or(now, |trouble| trouble.since);
        (error.retryable() && (now - since < MAX || matches!(error, SourceError::Away(_))))
            .then_some(Trouble { since, again: now + PAUSE })
    }

    /// How long until the next try; zero: now.
    pub fn rest(self) -> Duration {
        self.again.saturating_duration_since(Instant::now())
    }
}
