//! A sink follows the results.

use super::Follow;
use crate::node::generation::Generation;
use crate::node::job::{Job, SinkStatus};
use crate::node::lock;
use crate::node::polls::Polls;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tallyflow_connectors::log::Log;
use tallyflow_connectors::sinks::{self, Ending, Grain, Opening, Sink, SinkEpoch, SinkError, SinkLine, SinkPoll};
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
    log: Arc<dyn Log>,
    opening: Opening,
    generation: Arc<Generation>,
    polls: Arc<Mutex<Polls>>,
    written: Option<Epoch>,
    status: SinkStatus,
    sink: Option<Box<dyn Sink>>,
}

impl SinkFollower {
    /// The sink of that number.
    pub fn new(
        job: Arc<Job>,
        form: u64,
        (index, spec): (usize, SinkSpec),
        (data_dir, log): (&Path, Arc<dyn Log>),
        generation: Arc<Generation>,
        polls: Arc<Mutex<Polls>>,
    ) -> SinkFollower {
        let path = sinks::place(&spec, data_dir);
        let status = SinkStatus { kind: spec.kind().to_owned(), path, epoch: None, error: None };
        job.set_sink(form, index, status.clone());
        let opening = Opening {
            job: job.name().to_owned(),
            aggregates: Vec::new(),
            data_dir: data_dir.to_owned(),
            writer: generation.writer(),
            take_over_ms: job.take_over_ms(),
        };
        SinkFollower { job, form, index, spec, log, opening, generation, polls, written: None, status, sink: None }
    }

    /// What the changed subjects are polls of. Not asked while the results are held: it has a lock of its own.
    fn definitions(&self, epoch: &SinkEpoch) -> BTreeMap<String, SinkPoll> {
        let polls = lock(&self.polls);
        let definition = |subject: &str| {
            let poll = polls.definition(self.job.id, subject)?;
            Some((subject.to_owned(), SinkPoll { title: poll.title.clone(), options: poll.options.clone() }))
        };
        epoch.subjects.iter().filter_map(|subject| definition(&subject.subject)).collect()
    }
}

impl Follow for SinkFollower {
    type Error = SinkError;

    fn every(&self) -> Duration {
        self.spec.every()
    }

    fn retryable(error: &SinkError) -> bool {
        error.retryable()
    }

    fn write(&mut self, ending: &Ending) -> Result<(), SinkError> {
        if let Some(why) = self.generation.must_not_write() {
            return Err(SinkError::Fenced(why));
        }
        let written = self.written;
        let newer = self.job.read_form(self.form, |results| {
            let is_newer = results.epoch().is_some_and(|epoch| Some(epoch) != written);
            is_newer.then(|| results.shape().aggregates.clone())
        });
        let Some(Some(aggregates)) = newer else { return Ok(()) };
        // Opened first: what is copied of the results waits for nothing.
        let sink = match &mut self.sink {
            Some(sink) => sink,
            None => {
                self.opening.aggregates = aggregates;
                self.sink.insert(sinks::open(&self.spec, &self.opening, &self.log, ending)?)
            }
        };
        let grain = sink.grain();
        let Some(mut epoch) = self.job.read_form(self.form, |results| epoch_of(results, written, grain)) else {
            return Ok(());
        };
        if grain == Grain::Polls {
            epoch.polls = self.definitions(&epoch);
        }
        if let Some(sink) = &mut self.sink {
            sink.take(&epoch, ending)?;
        }
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
fn epoch_of(results: &JobResults, written: Option<Epoch>, grain: Grain) -> SinkEpoch {
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    let epoch = SinkEpoch {
        epoch: results.epoch().unwrap_or_default(),
        at_ms: results.at_ms(),
        offsets_json: json(serde_json::to_string(&results.offsets())),
        digest: results.digest().to_string(),
        accounting_json: json(serde_json::to_string(results.accounting())),
        ..SinkEpoch::default()
    };
    if grain.is_whole() {
        let changed = written.and_then(|since| results.whole_subjects_since(Some(since)));
        let reset = changed.is_none();
        let (subjects, gone) = changed.or_else(|| results.whole_subjects_since(None)).unwrap_or_default();
        return SinkEpoch { reset, subjects, gone, ..epoch };
    }
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
    SinkEpoch { reset, totals, lines, ..epoch }
}
