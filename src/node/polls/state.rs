//! What is known of all polls, of whatever job.

use super::passes::{Filling, Passes, Places};
use super::{OPTIONS_MAX, POLLS_MAX, PollError};
use crate::node::control::PollRecord;
use crate::node::job::Job;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use tallyflow_dataflows::spec::polls::{Poll, PollInForce};
use tallyflow_dataflows::update::JobId;
use utoipa::ToSchema;

/// How many deleted polls are remembered, so that a version of an id never comes twice. They also go with
/// their job.
const DELETED_MAX: usize = 100_000;

/// Whether a poll counts, and whether its numbers are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PollState {
    /// It has not opened yet.
    Waiting,
    /// Its past is being counted; it shows no numbers yet.
    Filling,
    Open,
    Closed,
}

impl PollState {
    /// As the API spells it.
    pub fn name(self) -> &'static str {
        match self {
            PollState::Waiting => "waiting",
            PollState::Filling => "filling",
            PollState::Open => "open",
            PollState::Closed => "closed",
        }
    }
}

/// A version of a poll whose past is being counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PollFilling {
    pub version: u32,
    /// Records read so far.
    pub records: u64,
    /// Of how many; null: it waits for its turn.
    pub of: Option<u64>,
    /// Why it failed; it is tried again by and by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl From<Filling> for PollFilling {
    fn from(filling: Filling) -> Self {
        let Filling { version, records, of, error } = filling;
        PollFilling { version, records, of, error }
    }
}

/// A pass over the past that runs beside a job of polls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobRefill {
    /// Records read so far.
    pub records: u64,
    /// Of how many; 0 until that is known.
    pub of: u64,
}

/// A poll as it is now.
#[derive(Clone)]
pub struct PollView {
    pub job: Arc<Job>,
    /// The newest version.
    pub in_force: PollInForce,
    /// Of the version whose numbers are shown.
    pub state: PollState,
    /// The version whose numbers are shown.
    pub shown: Option<u32>,
    /// The newest version, while that is not the one shown.
    pub refill: Option<PollFilling>,
    /// When it was made, in ms since 1970.
    pub made_ms: i64,
    pub changed_ms: i64,
}

/// All polls.
#[derive(Default)]
pub struct Polls {
    by_id: BTreeMap<String, Kept>,
    deleted: BTreeMap<String, Deleted>,
    /// Versions that only the engine that runs may know of.
    given_up: BTreeMap<String, u32>,
    jobs: HashMap<JobId, Passes>,
}

/// A poll that was written; its definition is with its job.
struct Kept {
    job: Arc<Job>,
    made_ms: i64,
    changed_ms: i64,
}

struct Deleted {
    job: JobId,
    version: u32,
    at_ms: i64,
}

impl Polls {
    /// What the engine knows of the job's polls.
    pub fn job(&mut self, job: &Job) -> &mut Passes {
        self.jobs.entry(job.id).or_default()
    }

    /// Takes up a poll, or what is left of a deleted one, from before the node was started.
    pub fn restore(&mut self, job: &Arc<Job>, id: String, record: PollRecord) {
        match record {
            PollRecord::Kept { in_force, made_ms, changed_ms, sealed, .. } => {
                self.job(job).restore(in_force, sealed);
                self.by_id.insert(id, Kept { job: job.clone(), made_ms, changed_ms });
            }
            PollRecord::Deleted { version, at_ms, .. } => {
                self.deleted.insert(id, Deleted { job: job.id, version, at_ms });
            }
        }
    }

    /// A poll was written, made and changed at these times, and is there for everybody.
    pub fn know(&mut self, job: &Arc<Job>, in_force: &PollInForce, (made_ms, changed_ms): (i64, i64)) {
        let id = in_force.poll.id.clone();
        self.given_up.remove(&id);
        self.deleted.remove(&id);
        self.by_id.insert(id, Kept { job: job.clone(), made_ms, changed_ms });
    }

    /// Notes a version that is not to be used again.
    pub fn give_up(&mut self, in_force: &PollInForce) {
        self.given_up.insert(in_force.poll.id.clone(), in_force.version);
    }

    /// Notes that a poll was deleted; the id whose record is to be forgotten for it, where they are too
    /// many.
    pub fn delete(&mut self, id: &str, record: &PollRecord) -> Option<String> {
        self.by_id.remove(id);
        if let PollRecord::Deleted { job, version, at_ms } = *record {
            self.deleted.insert(id.to_owned(), Deleted { job: JobId(job), version, at_ms });
        }
        if self.deleted.len() <= DELETED_MAX {
            return None;
        }
        let oldest = self.deleted.iter().min_by_key(|(_, deleted)| deleted.at_ms).map(|(id, _)| id.clone())?;
        self.deleted.remove(&oldest);
        Some(oldest)
    }

    /// Forgets a job with all its polls; their ids.
    pub fn forget_job(&mut self, job: JobId) -> Vec<String> {
        let kept = self.by_id.extract_if(.., |_, kept| kept.job.id == job).map(|(id, _)| id);
        let deleted = self.deleted.extract_if(.., |_, deleted| deleted.job == job).map(|(id, _)| id);
        let ids = kept.chain(deleted).collect();
        self.jobs.remove(&job);
        ids
    }

    pub fn contains(&self, id: &str) -> bool {
        self.by_id.contains_key(id)
    }

    /// Whether there is or was a poll of that id.
    pub fn is_taken(&self, id: &str) -> bool {
        self.contains(id) || self.deleted.contains_key(id)
    }

    /// A version that no poll of that id has had.
    pub fn next_version(&self, id: &str) -> u32 {
        let kept = self.by_id.get(id).and_then(|kept| self.in_force(kept.job.id, id)).map(|poll| poll.version);
        let deleted = self.deleted.get(id).map(|deleted| deleted.version);
        let given_up = self.given_up.get(id).copied();
        kept.max(deleted).max(given_up).unwrap_or(0).saturating_add(1)
    }

    /// The newest definition of a job's poll.
    pub fn definition(&self, job: JobId, id: &str) -> Option<&Poll> {
        self.in_force(job, id).map(|in_force| &in_force.poll)
    }

    fn in_force(&self, job: JobId, id: &str) -> Option<&PollInForce> {
        self.jobs.get(&job)?.in_force().get(id)
    }

    /// Whether the job can have a poll of so many options, `instead` of one that it has.
    pub fn has_room(&self, job: &Job, options: usize, instead: Option<&str>) -> Result<(), PollError> {
        let Some(passes) = self.jobs.get(&job.id) else { return Ok(()) };
        let others = || passes.in_force().iter().filter(|(id, _)| Some(id.as_str()) != instead);
        let too_many = |what: String| PollError::TooMany { job: job.name().to_owned(), what };
        if others().count() >= POLLS_MAX {
            return Err(too_many(format!("{POLLS_MAX} polls")));
        }
        if others().map(|(_, poll)| poll.poll.options.len()).sum::<usize>() + options > OPTIONS_MAX {
            return Err(too_many(format!("{OPTIONS_MAX} options in all its polls, or would have")));
        }
        Ok(())
    }

    /// Up to where a poll of this version counts at most, if that is known.
    pub fn sealed_at(&self, job: &Job, in_force: &PollInForce) -> Option<Places> {
        let passes = self.jobs.get(&job.id)?;
        let same = passes.in_force().get(&in_force.poll.id).is_some_and(|poll| poll.version == in_force.version);
        passes.sealed_at(&in_force.poll.id).filter(|_| same).cloned()
    }

    /// The polls whose end is not known yet, with the job and when no record can count any more, in ms
    /// since 1970.
    pub fn unsealed(&self) -> impl Iterator<Item = (&str, &Arc<Job>, i64)> {
        self.by_id.iter().filter_map(|(id, kept)| {
            let passes = self.jobs.get(&kept.job.id)?;
            let sealed_ms = passes.in_force().get(id)?.poll.sealed_ms()?;
            passes.sealed_at(id).is_none().then_some((id.as_str(), &kept.job, sealed_ms))
        })
    }

    /// The polls of a job whose numbers are all shown.
    pub fn settled(&self, job: &Job) -> Option<Vec<PollInForce>> {
        match self.jobs.get(&job.id) {
            Some(passes) => passes.settled(job.is_catching_up()),
            None => Some(Vec::new()),
        }
    }

    /// The jobs in which something has failed that could be tried again.
    pub fn failed(&self) -> Vec<JobId> {
        self.jobs.iter().filter(|(_, passes)| passes.has_failed()).map(|(job, _)| *job).collect()
    }

    pub fn views(&self, job: Option<&str>, after: Option<&str>, limit: usize, now_ms: i64) -> Vec<PollView> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let all = self.by_id.range::<str, _>((after, Bound::Unbounded));
        let wanted = all.filter(|(_, kept)| job.is_none_or(|job| kept.job.name() == job));
        wanted.filter_map(|(id, kept)| self.view_of(id, kept, now_ms)).take(limit).collect()
    }

    pub fn view(&self, id: &str, now_ms: i64) -> Result<PollView, PollError> {
        let view = self.by_id.get(id).and_then(|kept| self.view_of(id, kept, now_ms));
        view.ok_or_else(|| match self.deleted.contains_key(id) {
            true => PollError::Deleted(id.to_owned()),
            false => PollError::Unknown(id.to_owned()),
        })
    }

    fn view_of(&self, id: &str, kept: &Kept, now_ms: i64) -> Option<PollView> {
        let passes = self.jobs.get(&kept.job.id)?;
        let in_force = passes.in_force().get(id)?.clone();
        let catching_up = kept.job.is_catching_up();
        let shown = passes.shown(id, catching_up);
        let now_ns = now_ms.saturating_mul(1_000_000);
        let state = match shown {
            None if in_force.poll.opens_ns > now_ns => PollState::Waiting,
            None => PollState::Filling,
            Some(shown) if shown.opens_ns > now_ns => PollState::Waiting,
            Some(shown) if shown.closes_ns.is_some_and(|closes| closes <= now_ns) => PollState::Closed,
            Some(_) => PollState::Open,
        };
        Some(PollView {
            job: kept.job.clone(),
            in_force,
            state,
            shown: shown.map(|shown| shown.version),
            refill: passes.filling(id, catching_up).map(PollFilling::from),
            made_ms: kept.made_ms,
            changed_ms: kept.changed_ms,
        })
    }
}
