//! Which voids of a job are in force, where an answer may have been lost.

use crate::fold::{Void, What};
use crate::http::Http;
use anyhow::{Context, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The voids of a job.
#[derive(Clone, Debug, Default)]
pub struct Voids {
    /// All that were ever seen, by id.
    known: BTreeMap<u64, Void>,
    /// Those in force when all was settled last.
    settled: BTreeSet<u64>,
    /// Since then: made, and that was answered or found; taken back, likewise; perhaps taken back.
    made: BTreeSet<u64>,
    gone: BTreeSet<u64>,
    perhaps_gone: BTreeSet<u64>,
    /// What was asked for and not answered.
    lost: Vec<What>,
    /// What may have been in force at some time.
    ever: Vec<BTreeSet<u64>>,
}

impl Voids {
    /// One was made.
    pub fn made(&mut self, answer: &Value) -> anyhow::Result<()> {
        let id = answer["id"].as_u64().context("a void without an id")?;
        let void = Void::shown(answer).with_context(|| format!("a void that can't be read: {answer}"))?;
        ensure!(self.known.insert(id, void).is_none(), "the id {id} was given to a second void: {answer}");
        self.made.insert(id);
        Ok(())
    }

    /// One was asked for, and nobody knows what became of it.
    pub fn lost(&mut self, what: What) {
        self.lost.push(what);
    }

    /// One was taken back, for sure or perhaps.
    pub fn taken_back(&mut self, id: u64, sure: bool) {
        if sure {
            self.gone.insert(id)
        } else {
            self.perhaps_gone.insert(id)
        };
    }

    /// Ids of those that may be in force.
    pub fn ids(&self) -> Vec<u64> {
        self.settled.union(&self.made).filter(|id| !self.gone.contains(id)).copied().collect()
    }

    /// Asks which there are, and holds that against what was answered; nothing is under way.
    pub fn find(&mut self, http: &Http, job: &str) -> anyhow::Result<()> {
        let mut found = BTreeSet::new();
        let items = http.get(&format!("/api/jobs/{job}/voids?limit=1000"))?.json()?;
        for item in items["items"].as_array().context("no voids")? {
            ensure!(item["state"] == "in_force", "{job} is settled, and a void is not: {item}");
            let id = item["id"].as_u64().context("a void without an id")?;
            let void = Void::shown(item).with_context(|| format!("a void that can't be read: {item}"))?;
            match self.known.get(&id) {
                Some(known) => ensure!(*known == void, "void {id} of {job} is {void:?}, and was {known:?}"),
                None => {
                    let place = self.lost.iter().position(|what| *what == void.what);
                    let place = place.with_context(|| format!("nobody asked for {item}"))?;
                    self.lost.remove(place);
                    self.known.insert(id, void);
                    self.made.insert(id);
                }
            }
            found.insert(id);
        }
        for id in self.ids() {
            let may_miss = self.perhaps_gone.contains(&id);
            ensure!(found.contains(&id) || may_miss, "void {id} of {job} was made, and is not there");
        }
        if let Some(id) = found.intersection(&self.gone).next() {
            anyhow::bail!("void {id} of {job} was taken back, and is there");
        }
        // Each of these sets may have been in force meanwhile.
        for set in self.meanwhile() {
            if !self.ever.contains(&set) {
                self.ever.push(set);
            }
        }
        let before = std::mem::replace(&mut self.settled, found.clone());
        self.perhaps_gone.extend(before.difference(&found));
        self.made.extend(found.difference(&before));
        Ok(())
    }

    /// What was settled is what there is from here on.
    pub fn settle(&mut self) {
        self.made.clear();
        self.gone.clear();
        self.perhaps_gone.clear();
        self.lost.clear();
    }

    fn meanwhile(&self) -> Vec<BTreeSet<u64>> {
        let changed: BTreeSet<u64> = self.made.iter().chain(&self.gone).chain(&self.perhaps_gone).copied().collect();
        let stays: BTreeSet<u64> = self.settled.difference(&changed).copied().collect();
        let changed: Vec<u64> = changed.into_iter().collect();
        let set = |bits: u32| {
            let some = changed.iter().enumerate().filter(|(place, _)| bits >> place & 1 == 1).map(|(_, id)| *id);
            stays.iter().copied().chain(some).collect()
        };
        (0..1u32 << changed.len().min(16)).map(set).collect()
    }

    fn of(&self, sets: &[BTreeSet<u64>]) -> Vec<Vec<&Void>> {
        sets.iter().map(|set| set.iter().filter_map(|id| self.known.get(id)).collect()).collect()
    }

    /// Those in force.
    pub fn settled(&self) -> Vec<Vec<&Void>> {
        self.of(std::slice::from_ref(&self.settled))
    }

    /// The sets one of which was in force since all was settled last.
    pub fn now(&self) -> Vec<Vec<&Void>> {
        self.of(&self.meanwhile())
    }

    /// Or at any time.
    pub fn ever(&self) -> Vec<Vec<&Void>> {
        let mut sets = self.meanwhile();
        sets.extend(self.ever.iter().rev().cloned());
        self.of(&sets)
    }
}
