//! Voids: what an operator takes out of a job, and takes back.
//!
//! The job is computed anew with its other voids, as it is when it is replaced: a job of tallies beside
//! itself, until the new form takes its place in one change; a job of polls in its own place, while readers
//! keep the numbers that it had. One that is made while another is being counted begins that anew, with both.

use crate::node::job::{Job, Plan};
use crate::node::replace::can_be_computed_anew;
use crate::node::{JobError, Node, lock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use tallyflow_connectors::decode::BuiltinFormats;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::SourceError;
use tallyflow_dataflows::spec::voids::{Void, Voided};
use tallyflow_dataflows::spec::written::time_text;
use tallyflow_dataflows::spec::{Dataflow, JobSpec, Keep};
use utoipa::ToSchema;

/// A void as it is shown.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct VoidView {
    /// Of this job alone; never used again.
    pub id: u64,
    pub state: VoidState,
    /// As the operator gave it.
    pub reason: String,
    /// When it was made, RFC 3339.
    pub at: String,
    /// By topic and partition, the first offset that it does not reach.
    pub until: BTreeMap<String, Vec<Offset>>,
    /// Where it is by entity: how many, and the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entities: Option<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entity: Vec<String>,
    /// Where it is by offsets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offsets: Option<VoidedOffsets>,
    /// Where it is by an expression.
    #[serde(default, rename = "where", skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
}

/// Records of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VoidedOffsets {
    pub topic: String,
    pub partition: PartitionId,
    /// The first offset.
    pub from: Offset,
    /// The first that is not voided any more.
    pub to: Offset,
}

/// Whether a void counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VoidState {
    /// Not yet: the job is being computed with it.
    Counting,
    /// What is shown is without what it voids.
    InForce,
    /// Still; the job is being computed without it.
    TakingBack,
}

/// How many of a void's entities are shown.
const ENTITIES_SHOWN: usize = 100;

/// Why a void can't be made or taken back.
#[derive(Debug, thiserror::Error)]
pub enum VoidError {
    #[error(transparent)]
    Job(#[from] JobError),
    /// What it says can't be.
    #[error("{0}")]
    Refused(String),
    #[error("job {job:?} has no void {id}; `tallyflow job {job}` names those that it has")]
    Unknown { job: String, id: u64 },
    /// What it would take to count without it is not there any more.
    #[error("{0}")]
    Gone(String),
}

impl From<SourceError> for VoidError {
    fn from(error: SourceError) -> Self {
        VoidError::Job(JobError::Failed(error.to_string()))
    }
}

impl Node {
    /// Voids records that the log has by now. Blocks for a durable write; once it has answered, the void is
    /// counted after any restart too. The job's status tells how far that has come.
    pub fn void(&self, name: &str, what: Voided, reason: &str) -> Result<VoidView, VoidError> {
        let _one_at_a_time = lock(&self.changing);
        let (job, plan) = self.to_be_voided(name)?;
        let is_entity = matches!(what, Voided::Entity(_));
        let has_none =
            matches!(plan.spec.dataflow, Dataflow::Tally(_)) && plan.spec.keeping(&BuiltinFormats).keep == Keep::All;
        if is_entity && has_none {
            let what = format!("job {name:?} has no entities; void by offsets or by an expression");
            return Err(VoidError::Refused(what));
        }
        let mut ends = BTreeMap::new();
        for input in &plan.inputs {
            if let Some(topic) = self.log.topic(&input.topic)? {
                ends.insert(input.topic.clone(), topic.partitions.iter().map(|state| state.end).collect());
            }
        }
        let mut spec = plan.spec.clone();
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let void = spec.voids.add(&plan.spec, what, reason, now_ms, ends).map_err(VoidError::Refused)?.clone();
        self.compute_with(&job, &plan, spec)?;
        tracing::info!(job = name, void = void.id, reason = void.reason, "a void was made");
        Ok(view(&job, &void))
    }

    /// Takes a void back. Blocks for a durable write; the job's status tells how far that has come.
    pub fn unvoid(&self, name: &str, id: u64) -> Result<Arc<Job>, VoidError> {
        let _one_at_a_time = lock(&self.changing);
        let (job, plan) = self.to_be_voided(name)?;
        let mut spec = plan.spec.clone();
        if !spec.voids.take_back(id) {
            return Err(VoidError::Unknown { job: name.to_owned(), id });
        }
        self.compute_with(&job, &plan, spec)?;
        tracing::info!(job = name, void = id, "a void was taken back");
        Ok(job)
    }

    /// The voids of a job by id: those in force, those to come and those to go.
    pub fn voids(&self, name: &str) -> Result<Vec<VoidView>, JobError> {
        let job = self.job(name)?;
        let (shown, target) = job.voids();
        let mut all: BTreeMap<u64, Void> = BTreeMap::new();
        all.extend(shown.all.into_iter().chain(target.all).map(|void| (void.id, void)));
        Ok(all.values().map(|void| view(&job, void)).collect())
    }

    /// The job, and the form of it that is to be: another void is added to that.
    fn to_be_voided(&self, name: &str) -> Result<(Arc<Job>, Arc<Plan>), VoidError> {
        let job = self.job(name)?;
        can_be_computed_anew(&job)?;
        let plan = job.beside().unwrap_or_else(|| job.plan());
        Ok((job, plan))
    }

    fn compute_with(&self, job: &Arc<Job>, plan: &Plan, spec: JobSpec) -> Result<(), VoidError> {
        for input in &plan.inputs {
            let Some(topic) = self.log.topic(&input.topic)? else { continue };
            for start in &input.partitions {
                let kept = topic.partitions.get(start.partition.0 as usize).map_or(start.from, |state| state.start);
                if kept > start.from {
                    return Err(VoidError::Gone(format!(
                        "retention has taken {}/{} from offset {} to {kept}, which job {:?} has counted: it can't be \
                         counted again with other voids",
                        input.topic,
                        start.partition,
                        start.from,
                        job.name()
                    )));
                }
            }
        }
        match spec.dataflow {
            Dataflow::Tally(_) => {
                self.end_beside(job);
                self.begin_beside(job, spec, plan.inputs.clone())?;
            }
            Dataflow::Polls(_) => self
                .read_anew(job, Some(spec))
                .map_err(|error| VoidError::Job(JobError::Failed(format!("{error:#}"))))?,
        }
        Ok(())
    }
}

fn view(job: &Job, void: &Void) -> VoidView {
    let (shown, target) = job.voids();
    let has = |voids: &[Void]| voids.iter().any(|known| known.id == void.id);
    let state = match (has(&shown.all), has(&target.all)) {
        (true, true) => VoidState::InForce,
        (true, false) => VoidState::TakingBack,
        (false, _) => VoidState::Counting,
    };
    let mut view = VoidView {
        id: void.id,
        state,
        reason: void.reason.clone(),
        at: time_text(void.made_ms.saturating_mul(1_000_000)),
        until: void.until.clone(),
        entities: None,
        entity: Vec::new(),
        offsets: None,
        expression: None,
    };
    match &void.what {
        Voided::Entity(entities) => {
            view.entities = Some(entities.len());
            view.entity = entities.iter().take(ENTITIES_SHOWN).cloned().collect();
        }
        Voided::Offsets { topic, partition, from, to } => {
            view.offsets = Some(VoidedOffsets { topic: topic.clone(), partition: *partition, from: *from, to: *to });
        }
        Voided::Where(source) => view.expression = Some(source.clone()),
    }
    view
}
