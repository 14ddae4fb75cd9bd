//! Which server it is that writes. Two may have copies of one data directory and name one place for
//! their checkpoints: the one that started last goes on, the other one writes nothing more.
//!
//! ```text
//!   tallyflow.json            whose checkpoints lie there: no other data directory's are let in
//!   servers/0000000012.json   a start of the server: put only where there is none of its number
//! ```

use crate::node::Node;
use crate::node::supervise::is_live;
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tallyflow_connectors::checkpoint_store::{CheckpointPlace, ObjectCheckpoints};
use tallyflow_connectors::sinks::Writer;
use tallyflow_dataflows::checkpoint::{CheckpointStore, StoreError};

const MARKER: &str = "tallyflow.json";
const SERVERS: &str = "servers";
/// How many starts are kept on record.
const KEPT: u64 = 10;
/// How often it is looked whether another server has started.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a store that does not answer is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// A start of a server, as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// A digest of the data directory's secret; copies of it have the same.
    server: String,
    generation: u64,
    /// Tells two starts apart whatever their numbers.
    run: String,
    data_dir: String,
    host: String,
    at: jiff::Timestamp,
}

/// This start of the server, and whether it may write.
pub struct Generation {
    store: ObjectCheckpoints,
    place: String,
    own: Entry,
    stop: Mutex<Stop>,
}

#[derive(Clone, Default)]
enum Stop {
    #[default]
    No,
    /// It looks as if another one writes: nothing is written until that is known.
    Perhaps(String),
    Fenced(String),
}

impl Generation {
    /// Claims a place of checkpoints for this start of the server: a number above every one there, and
    /// above `last`, the data directory's own. Blocks. The error says in one sentence what is in the way.
    pub fn claim(place: &CheckpointPlace, server: String, last: u64, data_dir: &Path) -> anyhow::Result<Generation> {
        let store = ObjectCheckpoints::at(place)?;
        let place = place.to_string();
        let unusable = || {
            format!(
                "the checkpoints in {place} can't be used; see that the place exists and may be written, or name another with --checkpoint-url"
            )
        };
        let mut random = [0u8; 8];
        getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
        let mut own = Entry {
            server,
            generation: last,
            run: random.iter().map(|byte| format!("{byte:02x}")).collect(),
            data_dir: std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned()).display().to_string(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            at: jiff::Timestamp::now(),
        };
        if !store.put_new(MARKER, &own.to_bytes()).with_context(unusable)? {
            let marker = store.get(MARKER).with_context(unusable)?.unwrap_or_default();
            let there: Entry = serde_json::from_slice(&marker)
                .with_context(|| format!("{MARKER} in {place} is damaged; name another place with --checkpoint-url"))?;
            if there.server != own.server {
                bail!(
                    "the checkpoints in {place} are those of the data directory {} on {} (identity {}), and this is {} on {} (identity {}); give each its own place with --checkpoint-url, or remove what lies there if that directory is gone for good",
                    there.data_dir,
                    there.host,
                    there.server,
                    own.data_dir,
                    own.host,
                    own.server
                );
            }
        }
        loop {
            let numbers = numbers(&store).with_context(unusable)?;
            own.generation = own.generation.max(numbers.last().copied().unwrap_or(0)) + 1;
            // Where the answer was lost the number is left out.
            if store.put_new(&name(own.generation), &own.to_bytes()).with_context(unusable)? {
                for old in numbers.iter().filter(|old| **old + KEPT < own.generation) {
                    store.delete(&name(*old)).with_context(unusable)?;
                }
                return Ok(Generation { store, place, own, stop: Mutex::default() });
            }
        }
    }

    pub fn number(&self) -> u64 {
        self.own.generation
    }

    /// The store that was claimed.
    pub fn store(&self) -> &ObjectCheckpoints {
        &self.store
    }

    /// What this server is to sinks.
    pub fn writer(&self) -> Writer {
        let Entry { server, generation, run, .. } = self.own.clone();
        Writer { server, generation, run }
    }

    /// Why nothing may be written now; `None`: it may.
    pub fn must_not_write(&self) -> Option<String> {
        match &*self.stop() {
            Stop::No => None,
            Stop::Perhaps(why) | Stop::Fenced(why) => Some(why.clone()),
        }
    }

    /// Likewise, but not where that is not known yet.
    pub fn is_fenced(&self) -> Option<String> {
        match &*self.stop() {
            Stop::Fenced(why) => Some(why.clone()),
            Stop::No | Stop::Perhaps(_) => None,
        }
    }

    /// Who has started since, in a sentence. Blocks.
    fn taken_over(&self) -> Result<Option<String>, StoreError> {
        let Some(last) = numbers(&self.store)?.pop().filter(|last| *last > self.own.generation) else {
            return Ok(None);
        };
        let who = self.store.get(&name(last))?.and_then(|bytes| serde_json::from_slice::<Entry>(&bytes).ok());
        let who = who.map(|who| format!(" over {} on {} at {}", who.data_dir, who.host, who.at)).unwrap_or_default();
        Ok(Some(format!(
            "another server has taken over the checkpoints in {} (its generation is {last}, started{who}; this one's is {}): this one writes nothing more; stop it, and run no two servers over copies of one data directory",
            self.place, self.own.generation
        )))
    }

    fn stop(&self) -> std::sync::MutexGuard<'_, Stop> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn suspect(&self, why: &str) {
        let mut stop = self.stop();
        if matches!(*stop, Stop::No) {
            *stop = Stop::Perhaps(why.to_owned());
        }
    }

    fn unsuspect(&self) {
        let mut stop = self.stop();
        if matches!(*stop, Stop::Perhaps(_)) {
            *stop = Stop::No;
        }
    }
}

impl Entry {
    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("an entry has a JSON form")
    }
}

fn name(generation: u64) -> String {
    format!("{SERVERS}/{generation:010}.json")
}

/// The starts on record, ascending.
fn numbers(store: &ObjectCheckpoints) -> Result<Vec<u64>, StoreError> {
    let number =
        |name: &String| name.strip_prefix(SERVERS)?.strip_prefix('/')?.strip_suffix(".json")?.parse::<u64>().ok();
    Ok(store.list(SERVERS)?.iter().filter_map(number).collect())
}

impl Node {
    /// Starts the thread that looks whether another server has taken over.
    pub(super) fn watch_generation(self: &Arc<Self>) -> std::io::Result<()> {
        let node = Arc::downgrade(self);
        std::thread::Builder::new().name("generation".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(LOOK_EVERY);
                let Some(node) = node.upgrade().filter(|node| !node.is_stopping()) else { return };
                // A store that does not answer says nothing of others; its checkpoints say that it fails.
                if node.is_still_ours().is_ok_and(|ours| !ours) {
                    return;
                }
            }
        })?;
        Ok(())
    }

    /// Whether no other server has taken over; where one has, this one stops writing. Blocks.
    pub(super) fn is_still_ours(self: &Arc<Self>) -> Result<bool, StoreError> {
        if self.generation.is_fenced().is_some() {
            return Ok(false);
        }
        let Some(why) = self.generation.taken_over()? else { return Ok(true) };
        *self.generation.stop() = Stop::Fenced(why.clone());
        tracing::error!("{why}");
        for job in self.jobs().iter().filter(|job| is_live(job.state())) {
            self.on_failed(job, job.plan().engine_id, &why, None);
        }
        if let Some(running) = self.running().as_ref() {
            running.link.kill();
        }
        Ok(false)
    }

    /// The engine has found a job taken up by another. Nothing is written until it is known by whom: by a
    /// server that has taken over, or by one that has not noticed yet that this one has.
    pub(super) fn ask_who_writes(self: &Arc<Self>, job: &str, why: &str) {
        self.generation.suspect(why);
        let (node, job) = (self.clone(), job.to_owned());
        let thread = std::thread::Builder::new().name("who-writes".to_owned());
        let asking = thread.spawn(move || {
            while !node.is_stopping() {
                match node.is_still_ours() {
                    Ok(true) => {
                        node.generation.unsuspect();
                        tracing::warn!(job, "no later server is there: the job is taken up again");
                        if let Err(error) = node.restart(&job, false) {
                            tracing::error!(job, "it can't be taken up again: {error}");
                        }
                        return;
                    }
                    Ok(false) => return,
                    Err(error) => {
                        tracing::warn!("who has taken job {job:?} up is not known yet: {error}");
                        std::thread::sleep(PAUSE);
                    }
                }
            }
        });
        if let Err(error) = asking {
            tracing::error!("no thread to ask who has taken job {why:?} up: {error}");
        }
    }
}
