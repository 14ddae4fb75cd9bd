//! Bases of recounts: what an equal recount has come to, kept where retention takes the log's beginning, so
//! that a later one goes on from there.
//!
//! There are two at most: the oldest whose offsets the log still has, and the newest.

use crate::node::job::{Job, Plan};
use crate::node::{Node, RecountError};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tallyflow_connectors::recount_base::{BaseReader, BaseWriter};
use tallyflow_dataflows::ids::{Epoch, Offset};
use tallyflow_dataflows::recount::Recount;
use tallyflow_dataflows::update::JobId;
use utoipa::ToSchema;

/// Of the head; another one is of no use.
const VERSION: u32 = 1;

/// What a base stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RecountBase {
    /// The epoch that was recounted, and found equal.
    pub epoch: Epoch,
    /// When, RFC 3339.
    pub at: String,
    /// By input and partition, the first offset that is not in it.
    pub offsets: Vec<Vec<Offset>>,
}

/// The head of a file.
#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    /// Of the job: another form counts otherwise.
    form: u64,
    base: RecountBase,
}

/// A base that a recount goes on from.
pub(super) struct From {
    path: PathBuf,
    pub base: RecountBase,
}

impl From {
    /// Adds it to a recount.
    pub fn read(&self, recount: &mut Recount) -> Result<(), RecountError> {
        let failed = |what: &dyn std::fmt::Display| {
            RecountError::Failed(format!("the base of the recount in {} can't be read: {what}", self.path.display()))
        };
        let (mut reader, _) = BaseReader::open(&self.path).map_err(|error| failed(&error))?;
        while let Some(piece) = reader.next_piece().map_err(|error| failed(&error))? {
            if !recount.piece(piece) {
                return Err(failed(&"a piece of it is of another program; remove it"));
            }
        }
        Ok(())
    }
}

/// A base that is being written while a recount goes on.
pub(super) struct Keeping {
    writer: Rc<RefCell<BaseWriter>>,
    path: PathBuf,
}

impl Keeping {
    /// The recount was equal: it is put where the next one finds it.
    pub fn finish(self) -> std::io::Result<()> {
        // The recount that wrote to it is over.
        let writer = Rc::try_unwrap(self.writer).map_err(|_| std::io::Error::other("it is still being written"))?;
        writer.into_inner().finish()
    }
}

impl Node {
    fn bases_dir(&self, job: JobId) -> PathBuf {
        self.config.data_dir.join("recounts").join(format!("job-{}", job.0))
    }

    /// Removes what recounts of a job that is gone have kept.
    pub(in crate::node) fn forget_bases(&self, job: JobId) {
        let dir = self.bases_dir(job);
        if let Err(error) = std::fs::remove_dir_all(&dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("what recounts have kept in {} can't be removed: {error}", dir.display());
        }
    }

    /// The base to go on from where the log has not all that the job has counted up to `next`: the oldest that
    /// is of use. `None`: the log has all, or there is no such base.
    pub(super) fn base(&self, job: &Job, plan: &Plan, next: &[Vec<Offset>]) -> Result<Option<From>, RecountError> {
        let starts = self.starts(plan)?;
        let begins = plan.inputs.iter().map(|input| input.partitions.iter().map(|start| start.from));
        let is_whole = begins.zip(&starts).all(|(from, starts)| from.zip(starts).all(|(from, start)| from >= *start));
        if is_whole {
            return Ok(None);
        }
        let is_of_use = |base: &RecountBase| {
            let within = |((base, start), next): ((&Vec<Offset>, &Vec<Offset>), &Vec<Offset>)| {
                base.len() == start.len()
                    && base.iter().zip(start).zip(next).all(|((base, start), next)| start <= base && base <= next)
            };
            base.offsets.len() == starts.len() && base.offsets.iter().zip(&starts).zip(next).all(within)
        };
        let mut all = self.bases_of(job.id, plan.form);
        all.retain(|from| is_of_use(&from.base));
        Ok(all.into_iter().next())
    }

    /// Has a recount keep what it comes to, where retention may take what it has read; `None` where not.
    pub(super) fn keep_base(
        &self,
        job: &Job,
        plan: &Plan,
        recount: &mut Recount,
        base: RecountBase,
    ) -> Option<Keeping> {
        let goes = |topic: &str| matches!(self.log.topic_config(topic), Ok(Some(config)) if config.retention != Default::default());
        if !plan.inputs.iter().any(|input| goes(&input.topic)) {
            return None;
        }
        let path = self.bases_dir(job.id).join(format!("{:020}.base", base.epoch.0));
        let head = serde_json::to_vec(&Head { version: VERSION, form: plan.form, base }).ok()?;
        let writer = match BaseWriter::create(&path, &head) {
            Ok(writer) => Rc::new(RefCell::new(writer)),
            Err(error) => {
                tracing::warn!(job = job.name(), "what the recount comes to can't be kept: {error}");
                return None;
            }
        };
        let pieces = writer.clone();
        recount.keep(move |piece| pieces.borrow_mut().piece(piece)).then_some(Keeping { writer, path })
    }

    /// Puts a base in its place, and removes those that are needless then.
    pub(super) fn kept_base(&self, job: &Job, plan: &Plan, keeping: Keeping) {
        let path = keeping.path.clone();
        if let Err(error) = keeping.finish() {
            tracing::warn!(job = job.name(), "what the recount came to can't be kept in {}: {error}", path.display());
            return;
        }
        let Ok(starts) = self.starts(plan) else { return };
        let has = |base: &RecountBase| {
            let within = |(base, start): (&Vec<Offset>, &Vec<Offset>)| base.iter().zip(start).all(|(b, s)| s <= b);
            base.offsets.iter().zip(&starts).all(within)
        };
        let all = self.bases_of(job.id, plan.form);
        let oldest = all.iter().find(|from| has(&from.base)).map(|from| from.path.clone());
        let Ok(files) = std::fs::read_dir(self.bases_dir(job.id)) else { return };
        for file in files.flatten().map(|entry| entry.path()) {
            if file != path && Some(&file) != oldest.as_ref() {
                std::fs::remove_file(&file).ok();
            }
        }
    }

    /// The bases of a form of a job, oldest first.
    fn bases_of(&self, job: JobId, form: u64) -> Vec<From> {
        let Ok(files) = std::fs::read_dir(self.bases_dir(job)) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = files.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "base"));
        paths.sort_unstable();
        let head = |path: &Path| {
            let (_, head) = BaseReader::open(path).ok()?;
            let Head { version, form: of, base } = serde_json::from_slice(&head).ok()?;
            (version == VERSION && of == form).then_some(base)
        };
        paths.into_iter().filter_map(|path| head(&path).map(|base| From { path, base })).collect()
    }

    /// Where the log begins, by input and partition.
    fn starts(&self, plan: &Plan) -> Result<Vec<Vec<Offset>>, RecountError> {
        let of_input = |input: &tallyflow_dataflows::engine::job::InstallInput| {
            let topic = self.log.topic(&input.topic)?;
            let start = |partition: usize| {
                topic.as_ref().and_then(|topic| topic.partitions.get(partition)).map_or(Offset(0), |p| p.start)
            };
            Ok(input.partitions.iter().map(|of| start(of.partition.0 as usize)).collect())
        };
        let starts = plan.inputs.iter().map(of_input).collect::<Result<Vec<Vec<Offset>>, _>>();
        starts.map_err(|error: tallyflow_dataflows::source::SourceError| RecountError::Failed(error.to_string()))
    }
}
