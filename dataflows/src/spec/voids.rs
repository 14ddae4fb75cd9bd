//! Voids: what an operator has taken out of a job, and may take back.
//!
//! A void is about records: the claims that a voided record makes are of class voided and contend with no
//! others, and where a message or a deletion is voided it replaces nothing. It reaches, in each partition,
//! to the end that the log had when the void was made, and touches nothing after.

use crate::filter::Filter;
use crate::ids::{Offset, PartitionId};
use crate::spec::{Dataflow, JobSpec};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A job's voids in force, and how many it ever had.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Voids {
    /// The greatest id that was given.
    pub made: u64,
    /// By id, ascending.
    pub all: Vec<Void>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Void {
    /// Of this job alone; never used again.
    pub id: u64,
    pub what: Voided,
    /// As the operator gave it.
    pub reason: String,
    /// When it was made, in ms since 1970.
    pub made_ms: i64,
    /// By topic and partition, the first offset that it does not reach.
    pub until: BTreeMap<String, Vec<Offset>>,
}

/// Which records are voided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Voided {
    /// Those of these entities. In a `tally` job as `why` writes them, one of several parts as a JSON array.
    /// In a `polls` job votes by their voter, and messages by their author or their id.
    Entity(BTreeSet<String>),
    /// Those of a partition with an offset from `from` to before `to`.
    Offsets { topic: String, partition: PartitionId, from: Offset, to: Offset },
    /// Those for which a CEL expression over the event is true. One on which it fails is not voided.
    Where(String),
}

/// How many voids a job may have in force.
pub const VOIDS_MAX: usize = 1_000;
/// How many of them by an expression: each is asked of every record that it reaches.
pub const EXPRESSIONS_MAX: usize = 32;
/// How many entities one void may name, and how many bytes each may have.
pub const ENTITIES_MAX: usize = 10_000;
const ENTITY_BYTES_MAX: usize = 4 << 10;
/// The longest reason, in bytes.
const REASON_BYTES_MAX: usize = 1 << 10;

impl Voids {
    /// Adds a void, and answers it; the error says why it can't be. `ends` are the ends of the log by
    /// topic and partition, of every topic that the job reads.
    pub fn add(
        &mut self,
        job: &JobSpec,
        what: Voided,
        reason: &str,
        made_ms: i64,
        ends: BTreeMap<String, Vec<Offset>>,
    ) -> Result<&Void, String> {
        let reason = reason.trim();
        if reason.is_empty() {
            return Err("a void needs a reason; say why these do not count".to_owned());
        }
        if reason.len() > REASON_BYTES_MAX {
            return Err(format!("the reason is longer than the {REASON_BYTES_MAX} bytes that one may have"));
        }
        if self.all.len() >= VOIDS_MAX {
            return Err(format!("the job has {VOIDS_MAX} voids, as many as one may have; take some back"));
        }
        self.check(job, &what, &ends)?;
        self.made += 1;
        self.all.push(Void { id: self.made, what, reason: reason.to_owned(), made_ms, until: ends });
        Ok(&self.all[self.all.len() - 1])
    }

    /// Takes a void back; whether it was in force.
    pub fn take_back(&mut self, id: u64) -> bool {
        let before = self.all.len();
        self.all.retain(|void| void.id != id);
        self.all.len() < before
    }

    fn check(&self, job: &JobSpec, what: &Voided, ends: &BTreeMap<String, Vec<Offset>>) -> Result<(), String> {
        match what {
            Voided::Entity(entities) => {
                if entities.is_empty() || entities.len() > ENTITIES_MAX {
                    let n = entities.len();
                    return Err(format!("a void names 1 to {ENTITIES_MAX} entities, not {n}"));
                }
                if entities.iter().any(|entity| entity.len() > ENTITY_BYTES_MAX) {
                    return Err(format!("an entity is longer than the {ENTITY_BYTES_MAX} bytes that it may have here"));
                }
                if let Dataflow::Tally(tally) = &job.dataflow
                    && tally.entity.len() > 1
                {
                    let parts = tally.entity.len();
                    let wrong = entities.iter().find(|entity| entity_parts(entity, parts).is_none());
                    if let Some(wrong) = wrong {
                        return Err(format!(
                            "the job's entities have {parts} parts; write {wrong:?} as a JSON array of so many strings, \
                             as `why` shows it"
                        ));
                    }
                }
                Ok(())
            }
            Voided::Offsets { topic, partition, from, to } => {
                let Some(ends) = ends.get(topic) else {
                    let topics: Vec<&str> = ends.keys().map(String::as_str).collect();
                    return Err(format!("the job does not read topic {topic:?}; it reads {}", topics.join(", ")));
                };
                let Some(end) = ends.get(partition.0 as usize) else {
                    return Err(format!("topic {topic:?} has no partition {partition}; it has {}", ends.len()));
                };
                if from >= to {
                    return Err(format!("no offset lies between {from} and {to}; the second must be the greater"));
                }
                if to > end {
                    return Err(format!("{topic}/{partition} ends at {end}: what is not there yet can't be voided"));
                }
                Ok(())
            }
            Voided::Where(source) => {
                let expressions = self.all.iter().filter(|void| matches!(void.what, Voided::Where(_))).count();
                if expressions >= EXPRESSIONS_MAX {
                    return Err(format!(
                        "the job has {EXPRESSIONS_MAX} voids by an expression, as many as one may have; put them into one \
                         with || or take some back"
                    ));
                }
                Filter::compile(source).map(drop).map_err(|error| format!("where: {error}"))
            }
        }
    }
}

/// The parts of an entity as `why` writes it; `None` where it has not so many.
pub fn entity_parts(entity: &str, parts: usize) -> Option<Vec<String>> {
    if parts == 1 {
        return Some(vec![entity.to_owned()]);
    }
    serde_json::from_str::<Vec<String>>(entity).ok().filter(|found| found.len() == parts)
}
