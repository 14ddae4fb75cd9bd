//! The housekeeper thread: WAL checkpoints and retention, out of the appends' way.
//!
//! Commits go to the WAL; a checkpoint carries them into the database file so that the WAL can start
//! anew. PASSIVE checkpoints hold up neither readers nor the writer but can't finish while commits
//! follow one another without a pause. So rounds of them first bring what is left down to little, and
//! only when the WAL has become very long is the writer kept out for that little.

use super::schema::PAGE_BYTES;
use super::tail::lock;
use rusqlite::Connection;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Checkpoint when this much was written since the last one ...
const CHECKPOINT_BYTES: u64 = 16 << 20;
/// ... or when the oldest of it has waited this long.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);
/// Keep the writer out to finish a checkpoint when the WAL is longer than this.
const WAL_BYTES_MAX: u64 = 256 << 20;
/// What rounds of passive checkpoints try to get below before that.
const REST_BYTES: u64 = 1 << 20;
const ROUNDS_MAX: usize = 8;

/// What the writer and the housekeeper know of the WAL.
pub(super) struct WalMeter {
    /// Held during a commit, and during the checkpoint that keeps commits out: waiting for a mutex
    /// is over at once when it is free, waiting for SQLite's lock means sleeping and trying again.
    pub commit: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    unchecked_bytes: u64,
    dirty_since: Option<Instant>,
    closed: bool,
}

impl WalMeter {
    pub fn new() -> Self {
        WalMeter { commit: Mutex::default(), state: Mutex::default(), changed: Condvar::new() }
    }

    /// A commit added about `bytes` to the WAL.
    pub fn wrote(&self, bytes: u64) {
        let mut state = lock(&self.state);
        let before = state.unchecked_bytes;
        state.unchecked_bytes += bytes;
        let first = state.dirty_since.is_none();
        state.dirty_since.get_or_insert_with(Instant::now);
        if first || before < CHECKPOINT_BYTES && state.unchecked_bytes >= CHECKPOINT_BYTES {
            self.changed.notify_one();
        }
    }

    /// Ends the housekeeper.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_one();
    }

    /// Waits until a checkpoint is due or `until` has come; `None` when closed.
    fn wait(&self, until: Instant) -> Option<Due> {
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            if state.closed {
                return None;
            }
            let checkpoint_at = state.dirty_since.map(|since| since + CHECKPOINT_EVERY);
            if state.unchecked_bytes >= CHECKPOINT_BYTES || checkpoint_at.is_some_and(|at| at <= now) {
                *state = State::default();
                return Some(Due::Checkpoint);
            }
            if until <= now {
                return Some(Due::Retention);
            }
            let until = checkpoint_at.map_or(until, |at| at.min(until));
            state = self.changed.wait_timeout(state, until - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

enum Due {
    Checkpoint,
    Retention,
}

/// The housekeeper's thread, until the meter is closed, which is after the last commit. `enforce`
/// applies retention.
pub(super) fn run(conn: &Connection, meter: &WalMeter, every: Duration, mut enforce: impl FnMut()) {
    let mut retention_at = Instant::now() + every;
    while let Some(due) = meter.wait(retention_at) {
        match due {
            Due::Checkpoint => {
                if let Err(error) = checkpoint(conn, meter) {
                    // A full disk, most likely. The WAL still has everything; the next one tries again.
                    tracing::warn!(error = %error, "a checkpoint of the log's WAL failed");
                }
            }
            Due::Retention => {
                enforce();
                retention_at = Instant::now() + every;
            }
        }
    }
    // SQLite itself does this only if the last connection to be closed may write.
    if let Err(error) = pragma(conn, "TRUNCATE") {
        tracing::warn!(error = %error, "the last checkpoint of the log's WAL failed");
    }
}

/// Pages in the WAL, and how many of them are in the database file by now.
#[derive(Clone, Copy, Debug)]
struct Progress {
    pages: u64,
    done: u64,
}

impl Progress {
    fn rest_bytes(self) -> u64 {
        (self.pages - self.done.min(self.pages)) * PAGE_BYTES
    }
}

fn checkpoint(conn: &Connection, meter: &WalMeter) -> rusqlite::Result<()> {
    let mut progress = pragma(conn, "PASSIVE")?;
    if progress.pages * PAGE_BYTES < WAL_BYTES_MAX {
        return Ok(());
    }
    for _ in 0..ROUNDS_MAX {
        if progress.rest_bytes() < REST_BYTES {
            break;
        }
        progress = pragma(conn, "PASSIVE")?;
    }
    let _commit = lock(&meter.commit);
    // If a reader holds out longer than the connection waits, this is tried again in a while.
    pragma(conn, "RESTART").map(drop)
}

fn pragma(conn: &Connection, mode: &str) -> rusqlite::Result<Progress> {
    conn.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        Ok(Progress { pages: row.get::<_, i64>(1)?.max(0) as u64, done: row.get::<_, i64>(2)?.max(0) as u64 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_by_bytes_at_once_and_else_in_time() {
        let meter = WalMeter::new();
        let soon = Instant::now() + Duration::from_millis(20);
        meter.wrote(10);
        assert!(matches!(meter.wait(soon), Some(Due::Retention)));
        meter.wrote(CHECKPOINT_BYTES);
        assert!(matches!(meter.wait(Instant::now()), Some(Due::Checkpoint)));
        assert!(matches!(meter.wait(Instant::now()), Some(Due::Retention)));
        meter.close();
        assert!(meter.wait(Instant::now()).is_none());
    }
}
