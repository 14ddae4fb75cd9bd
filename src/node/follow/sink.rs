//! A sink follows the results.

use super::Follow;
use crate::node::generation::Generation;
use crate::node::job::{Job, SinkStatus};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tallyflow_connectors::sinks::{SinkEpoch, SinkError, SinkLine, sqlite::SqliteSink};
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::JobResults;
use tallyflow_dataflows::spec::SinkSpec;

/// A sink of a form of a job. Of any other form it writes nothing.
pub struct SinkFollower {
    job: Arc<Job>,
    form: u64,
    index: usize,
    spec: SinkSpec,
    generation: Arc<Generation>,
    written: Option<Epoch>,
    status: SinkStatus,
    sink: Option<SqliteSink>,
}

impl SinkFollower {
    /// The sink of that number.
    pub fn new(
        job: Arc<Job>,
        form: u64,
        (index, spec): (usize, SinkSpec),
        data_dir: &Path,
        generation: Arc<Generation>,
    ) -> SinkFollower {
        let SinkSpec::Sqlite { path, .. } = &spec;
        let path = data_dir.join(path).display().to_string();
        let status = SinkStatus { kind: "sqlite".to_owned(), path, epoch: None, error: None };
        job.set_sink(form, index, status.clone());
        SinkFollower { job, form, index, spec, generation, written: None, status, sink: None }
    }
}

impl Follow for SinkFollower {
    type Error = SinkError;

    fn every(&self) -> Duration {
        let SinkSpec::Sqlite { every, .. } = self.spec;
        every
    }

    fn retryable(error: &SinkError) -> bool {
        error.retryable()
    }

    fn write(&mut self, _: bool) -> Result<(), SinkError> {
        if let Some(why) = self.generation.must_not_write() {
            return Err(SinkError::Fenced(why));
        }
        let written = self.written;
        let Some(Some((epoch, aggregates))) = self.job.read_form(self.form, |results| {
            let newer = results.epoch().is_some_and(|epoch| Some(epoch) != written);
            newer.then(|| (epoch_of(results, written), results.shape().aggregates.clone()))
        }) else {
            return Ok(());
        };
        let sink = match &mut self.sink {
            Some(sink) => sink,
            None => {
                let SinkSpec::Sqlite { history_step, history_keep, .. } = &self.spec;
                let path = Path::new(&self.status.path);
                let sink = SqliteSink::open(path, self.job.name(), aggregates, *history_step, *history_keep)?;
                self.sink.insert(sink.written_by(self.generation.writer()))
            }
        };
        sink.write(&epoch)?;
        self.written = Some(epoch.epoch);
        self.status.epoch = self.written;
        self.status.error = None;
        Ok(())
    }

    fn note(&mut self, error: Option<&SinkError>, is_news: bool) {
        if let Some(error) = error {
            if is_news {
                tracing::warn!(job = self.job.name(), sink = self.status.path, "the sink is behind: {error}");
            }
            self.status.error = Some(error.to_string());
            self.sink = None;
            self.written = None;
        }
        self.job.set_sink(self.form, self.index, self.status.clone());
    }
}

/// What a sink that holds `written` is to be told: the changes since, or everything.
fn epoch_of(results: &JobResults, written: Option<Epoch>) -> SinkEpoch {
    let changed = written.and_then(|since| results.changed_since(since));
    let reset = changed.is_none();
    let line = |subject: &str, group: String, values: Option<&[Decimal]>| SinkLine {
        subject: subject.to_owned(),
        group,
        values: values.map(|values| values.iter().copied().map(Some).collect()),
    };
    let (lines, totals) = match changed {
        Some((lines, totals)) => (
            lines.into_iter().map(|(subject, group, values)| line(subject, group.text(), values)).collect(),
            totals.into_iter().map(|(subject, total)| (subject.to_owned(), total)).collect(),
        ),
        None => (
            results.lines().map(|(subject, group, values)| line(subject, group.text(), Some(values))).collect(),
            results.totals().map(|(subject, total)| (subject.to_owned(), total)).collect(),
        ),
    };
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    SinkEpoch {
        epoch: results.epoch().unwrap_or_default(),
        at_ms: results.at_ms(),
        offsets_json: json(serde_json::to_string(&results.offsets())),
        digest: results.digest().to_string(),
        accounting_json: json(serde_json::to_string(results.accounting())),
        reset,
        totals,
        lines,
    }
}
