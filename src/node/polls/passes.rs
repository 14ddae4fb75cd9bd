//! What the engine was told of a job's polls and what it has told: which versions it shows, what waits
//! for a pass over the past, and the pass that runs.
//!
//! ```text
//!              open ---------- opened ----------------------.
//!                                                           v
//!   changed, opened in the past --> waiting --> running --> shown --delete--> hidden --> running --> gone
//!                                      ^           '- failed -'                             (removed)
//!                                      '--- apart <---'
//! ```
//!
//! One pass runs at a time, and what came meanwhile shares the next. Plain data without clocks or locks:
//! each method answers what is to be told to the engine, in order.

use std::collections::{BTreeMap, BTreeSet};
use tallyflow_dataflows::engine::{PollChange, Refill};
use tallyflow_dataflows::ids::Offset;
use tallyflow_dataflows::spec::polls::{PollInForce, PollKey};

/// By input and partition.
pub type Places = Vec<Vec<Offset>>;

/// The polls of one job.
#[derive(Debug, Default)]
pub struct Passes {
    /// The newest version of each poll.
    in_force: BTreeMap<String, PollInForce>,
    /// Whether an engine runs the job.
    installed: bool,
    /// What that engine shows.
    shown: BTreeMap<String, Shown>,
    /// What readers see while the job catches up, or no engine runs it.
    before: BTreeMap<String, Shown>,
    /// What the engine still knows and no reader sees: to be removed.
    hidden: BTreeSet<PollKey>,
    opening: Option<Opening>,
    /// Whose newest version the engine does not know yet.
    waiting: BTreeSet<String>,
    /// Of those, what failed together with others and is tried by itself, and what has failed by itself.
    apart: BTreeSet<String>,
    failed: BTreeMap<String, String>,
    removal: Removal,
    running: Option<Pass>,
    number: u64,
    /// Up to where the job must have read before a poll that is over needs to remember nothing.
    sealed_at: BTreeMap<String, Places>,
    /// Of those, what the engine has not been told yet.
    to_seal: BTreeSet<String>,
}

/// A version that readers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    pub version: u32,
    pub opens_ns: i64,
    pub closes_ns: Option<i64>,
}

/// A poll that the engine was asked to open.
#[derive(Debug)]
enum Opening {
    Asked(Box<PollInForce>),
    Told(Box<PollInForce>),
    /// The engine is gone and has told nothing.
    Lost,
}

/// How an opening ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is in force from where it says.
    At(Box<PollInForce>),
    /// No engine knows of it.
    Lost,
}

/// How what is hidden goes along with the passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Removal {
    #[default]
    Shared,
    Apart,
    Failed,
}

#[derive(Debug)]
struct Pass {
    number: u64,
    add: Vec<(String, Shown)>,
    remove: Vec<PollKey>,
    records: u64,
    of: Option<u64>,
}

/// A version that is being counted, or waits for it, while an older one is shown or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filling {
    pub version: u32,
    pub records: u64,
    /// `None`: it has not begun.
    pub of: Option<u64>,
    /// Why it failed; it will be tried again.
    pub error: Option<String>,
}

impl From<&PollInForce> for Shown {
    fn from(in_force: &PollInForce) -> Self {
        let poll = &in_force.poll;
        Shown { version: in_force.version, opens_ns: poll.opens_ns, closes_ns: poll.closes_ns }
    }
}

impl Passes {
    /// Takes up a poll from before the node was started.
    pub fn restore(&mut self, poll: PollInForce, sealed_at: Option<Places>) {
        let id = poll.poll.id.clone();
        self.before.insert(id.clone(), Shown::from(&poll));
        if let Some(places) = sealed_at {
            self.sealed_at.insert(id.clone(), places);
        }
        self.in_force.insert(id, poll);
    }

    /// An engine takes the job up with these polls. It reads all anew, so nothing waits or runs any more.
    pub fn install(&mut self) -> Vec<PollInForce> {
        self.forget_engine();
        self.installed = true;
        self.shown = self.in_force.iter().map(|(id, poll)| (id.clone(), Shown::from(poll))).collect();
        self.to_seal = self.sealed_at.keys().cloned().collect();
        self.in_force.values().cloned().collect()
    }

    /// No engine runs the job any more. `catching_up`: whether what the engine showed was not what
    /// readers saw.
    pub fn engine_gone(&mut self, catching_up: bool) {
        if self.installed && !catching_up {
            self.before = std::mem::take(&mut self.shown);
        }
        self.forget_engine();
    }

    fn forget_engine(&mut self) {
        if matches!(self.opening, Some(Opening::Asked(_))) {
            self.opening = Some(Opening::Lost);
        }
        self.installed = false;
        self.shown.clear();
        self.hidden.clear();
        self.waiting.clear();
        self.apart.clear();
        self.failed.clear();
        self.removal = Removal::Shared;
        self.running = None;
        self.to_seal.clear();
    }

    /// Asks the engine to open a poll; `None` where none runs.
    pub fn open(&mut self, poll: PollInForce) -> Option<PollChange> {
        if !self.installed {
            return None;
        }
        self.opening = Some(Opening::Asked(Box::new(poll.clone())));
        Some(PollChange::Open(poll))
    }

    /// The engine has opened a poll.
    pub fn opened(&mut self, key: &PollKey, from: Places) {
        if let Some(Opening::Asked(poll)) = &mut self.opening
            && poll.key() == *key
        {
            poll.from = from;
            let poll = poll.clone();
            // From now on it goes along with every installation.
            self.shown.insert(key.id.clone(), Shown::from(&*poll));
            self.in_force.insert(key.id.clone(), (*poll).clone());
            self.opening = Some(Opening::Told(poll));
        }
    }

    /// How the opening ended, once it has.
    pub fn take_opened(&mut self) -> Option<Opened> {
        match self.opening.take() {
            Some(Opening::Told(poll)) => Some(Opened::At(poll)),
            Some(Opening::Lost) => Some(Opened::Lost),
            asked => {
                self.opening = asked;
                None
            }
        }
    }

    /// Does not wait for an opening any more: whatever the engine makes of it is not to be seen.
    pub fn give_up_opening(&mut self) -> Vec<PollChange> {
        match self.opening.take() {
            Some(Opening::Asked(poll)) => self.hide(poll.key()),
            Some(Opening::Told(poll)) => self.delete(&poll.poll.id),
            Some(Opening::Lost) | None => Vec::new(),
        }
    }

    /// A poll, or a new version of it, whose past is to be counted.
    pub fn add(&mut self, poll: PollInForce) -> Vec<PollChange> {
        let id = poll.poll.id.clone();
        self.sealed_at.remove(&id);
        self.to_seal.remove(&id);
        self.apart.remove(&id);
        self.failed.remove(&id);
        self.in_force.insert(id.clone(), poll);
        if !self.installed {
            return Vec::new();
        }
        self.waiting.insert(id);
        self.next()
    }

    /// Another title, which changes nothing that is counted.
    pub fn retitle(&mut self, id: &str, title: &str) {
        if let Some(poll) = self.in_force.get_mut(id) {
            title.clone_into(&mut poll.poll.title);
        }
    }

    /// A poll that nobody is to see any more.
    pub fn delete(&mut self, id: &str) -> Vec<PollChange> {
        self.in_force.remove(id);
        self.before.remove(id);
        self.sealed_at.remove(id);
        self.to_seal.remove(id);
        self.waiting.remove(id);
        self.apart.remove(id);
        self.failed.remove(id);
        let shown = self.shown.remove(id).map(|shown| shown.version);
        let running = self.running.iter().flat_map(|pass| &pass.add);
        let arriving = running.filter(|(running, _)| running == id).map(|(_, shown)| shown.version);
        let versions: BTreeSet<u32> = arriving.chain(shown).collect();
        versions.into_iter().flat_map(|version| self.hide(PollKey { id: id.to_owned(), version })).collect()
    }

    fn hide(&mut self, key: PollKey) -> Vec<PollChange> {
        if !self.installed || !self.hidden.insert(key.clone()) {
            return Vec::new();
        }
        if self.removal == Removal::Failed {
            self.removal = Removal::Apart;
        }
        let mut changes = vec![PollChange::Hide(key)];
        changes.extend(self.next());
        changes
    }

    /// Starts the next pass, unless one runs or there is nothing to do.
    fn next(&mut self) -> Vec<PollChange> {
        if !self.installed || self.running.is_some() {
            return Vec::new();
        }
        let by_itself = |id: &&String| self.apart.contains(*id) || self.failed.contains_key(*id);
        let mut add: Vec<String> = self.waiting.iter().filter(|id| !by_itself(id)).cloned().collect();
        let mut remove = Vec::new();
        if self.removal == Removal::Shared {
            remove = self.hidden.iter().cloned().collect();
        }
        if add.is_empty() && remove.is_empty() {
            match self.apart.pop_first() {
                Some(id) => add.push(id),
                None if self.removal == Removal::Apart => remove = self.hidden.iter().cloned().collect(),
                None => {}
            }
        }
        let add: Vec<PollInForce> = add.iter().filter_map(|id| self.in_force.get(id).cloned()).collect();
        if add.is_empty() && remove.is_empty() {
            return Vec::new();
        }
        for poll in &add {
            self.waiting.remove(&poll.poll.id);
        }
        self.number += 1;
        self.running = Some(Pass {
            number: self.number,
            add: add.iter().map(|poll| (poll.poll.id.clone(), Shown::from(poll))).collect(),
            remove: remove.clone(),
            records: 0,
            of: None,
        });
        vec![PollChange::Refill(Refill { number: self.number, add, remove })]
    }

    /// How far a pass has come.
    pub fn refilling(&mut self, number: u64, records: u64, of: u64) {
        if let Some(pass) = self.running.as_mut().filter(|pass| pass.number == number) {
            (pass.records, pass.of) = (records, Some(of));
        }
    }

    fn take_running(&mut self, number: u64) -> Option<Pass> {
        if self.running.as_ref().is_some_and(|pass| pass.number == number) { self.running.take() } else { None }
    }

    /// A pass has come to its end, and what it has counted is shown.
    pub fn refilled(&mut self, number: u64) -> Vec<PollChange> {
        let Some(pass) = self.take_running(number) else { return Vec::new() };
        for key in &pass.remove {
            self.hidden.remove(key);
        }
        for (id, shown) in pass.add {
            // What was deleted meanwhile is hidden, and goes with the next.
            if !self.hidden.contains(&PollKey { id: id.clone(), version: shown.version }) {
                self.shown.insert(id, shown);
            }
        }
        if self.hidden.is_empty() {
            self.removal = Removal::Shared;
        }
        self.next()
    }

    /// A pass has failed: the engine does not know what it was to add, and still knows what it was to
    /// remove. One part of it may be at fault for all, so each is tried by itself.
    pub fn refill_failed(&mut self, number: u64, error: &str) -> Vec<PollChange> {
        let Some(pass) = self.take_running(number) else { return Vec::new() };
        let alone = pass.add.len() + usize::from(!pass.remove.is_empty()) == 1;
        if !pass.remove.is_empty() {
            self.removal = if alone { Removal::Failed } else { Removal::Apart };
        }
        for (id, shown) in pass.add {
            let key = PollKey { id, version: shown.version };
            self.hidden.remove(&key);
            // A newer version of it, or none, is what is wanted by now.
            let still = self.in_force.get(&key.id).is_some_and(|poll| poll.version == key.version);
            if !still || self.waiting.contains(&key.id) {
                continue;
            }
            self.waiting.insert(key.id.clone());
            if alone {
                self.failed.insert(key.id, error.to_owned());
            } else {
                self.apart.insert(key.id);
            }
        }
        self.next()
    }

    /// Whether something has failed that could be tried again.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty() || self.removal == Removal::Failed
    }

    /// Tries again what has failed.
    pub fn retry(&mut self) -> Vec<PollChange> {
        self.apart.extend(std::mem::take(&mut self.failed).into_keys());
        if self.removal == Removal::Failed {
            self.removal = Removal::Apart;
        }
        self.next()
    }

    /// No record from these places on can count for the poll.
    pub fn seal_at(&mut self, id: &str, places: Places) {
        if self.in_force.contains_key(id) {
            self.sealed_at.insert(id.to_owned(), places);
            if self.installed {
                self.to_seal.insert(id.to_owned());
            }
        }
    }

    pub fn sealed_at(&self, id: &str) -> Option<&Places> {
        self.sealed_at.get(id)
    }

    /// Whether the engine is still to be told of polls that are over.
    pub fn has_to_seal(&self) -> bool {
        !self.to_seal.is_empty()
    }

    /// Tells the engine of polls that are over, of which the job has read all that counts.
    pub fn seal(&mut self, progress: &[Vec<Offset>]) -> Option<PollChange> {
        let mut keys = Vec::new();
        for id in &self.to_seal {
            let (Some(poll), Some(places)) = (self.in_force.get(id), self.sealed_at.get(id)) else { continue };
            // What is being read again for a poll counts for it however late it comes.
            let shown = self.shown.get(id).is_some_and(|shown| shown.version == poll.version);
            let mut pairs = places.iter().flatten().zip(progress.iter().flatten());
            if shown && pairs.all(|(place, next)| next >= place) {
                keys.push(poll.key());
            }
        }
        for key in &keys {
            self.to_seal.remove(&key.id);
        }
        (!keys.is_empty()).then_some(PollChange::Seal(keys))
    }

    /// The newest version of each poll.
    pub fn in_force(&self) -> &BTreeMap<String, PollInForce> {
        &self.in_force
    }

    /// The version that readers see. `catching_up`: whether they see what was before the engine began.
    pub fn shown(&self, id: &str, catching_up: bool) -> Option<Shown> {
        let seen = if self.installed && !catching_up { &self.shown } else { &self.before };
        seen.get(id).copied()
    }

    /// The version that is to be shown next.
    pub fn filling(&self, id: &str, catching_up: bool) -> Option<Filling> {
        let version = self.in_force.get(id)?.version;
        if self.shown(id, catching_up).is_some_and(|shown| shown.version == version) {
            return None;
        }
        let of_it = |pass: &&Pass| pass.add.iter().any(|(added, shown)| added == id && shown.version == version);
        let (records, of) = self.running.as_ref().filter(of_it).map_or((0, None), |pass| (pass.records, pass.of));
        Some(Filling { version, records, of, error: self.failed.get(id).cloned() })
    }

    /// The polls, if what readers see is all of them in their newest versions and nothing else, and what
    /// was removed is no longer in the way of anything.
    pub fn settled(&self, catching_up: bool) -> Option<Vec<PollInForce>> {
        let nothing_left =
            self.opening.is_none() && self.hidden.is_empty() && self.waiting.is_empty() && self.running.is_none();
        let newest = self.in_force.keys().all(|id| self.filling(id, catching_up).is_none());
        (nothing_left && newest).then(|| self.in_force.values().cloned().collect())
    }

    /// How many records the pass that runs has read, and of how many.
    pub fn progress(&self) -> Option<(u64, u64)> {
        self.running.as_ref().map(|pass| (pass.records, pass.of.unwrap_or(0)))
    }
}
