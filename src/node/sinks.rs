//! Sinks: followers of the results, each with a thread of its own, so that one that is down falls
//! behind and catches up without stalling anything.

use crate::node::job::{Job, SinkStatus};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tallyflow_connectors::sinks::{SinkEpoch, SinkError, SinkLine, sqlite::SqliteSink};
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::JobResults;
use tallyflow_dataflows::spec::SinkSpec;

/// A running sink.
pub struct SinkHandle {
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl SinkHandle {
    /// Starts the sink of that number of a form of the job. Of any other form it writes nothing.
    pub fn start(
        job: Arc<Job>,
        form: u64,
        index: usize,
        spec: SinkSpec,
        data_dir: &Path,
    ) -> std::io::Result<SinkHandle> {
        let SinkSpec::Sqlite { path, .. } = &spec;
        let path = data_dir.join(path);
        let (stop, stopped) = channel();
        let name = format!("sink-{}-{index}", job.name());
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let status =
                SinkStatus { kind: "sqlite".to_owned(), path: path.display().to_string(), epoch: None, error: None };
            job.set_sink(form, index, status.clone());
            Follower { job, form, index, spec, written: None, status, sink: None }.run(&stopped);
        })?;
        Ok(SinkHandle { stop, thread: Some(thread) })
    }

    /// Writes what is there and ends. Blocks.
    pub fn flush(mut self) {
        self.stop.send(()).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct Follower {
    job: Arc<Job>,
    form: u64,
    index: usize,
    spec: SinkSpec,
    written: Option<Epoch>,
    status: SinkStatus,
    sink: Option<SqliteSink>,
}

impl Follower {
    fn run(mut self, stopped: &Receiver<()>) {
        let SinkSpec::Sqlite { every, .. } = self.spec;
        let mut pause = every;
        loop {
            let stop = match stopped.recv_timeout(pause) {
                Err(RecvTimeoutError::Timeout) => false,
                Ok(()) | Err(RecvTimeoutError::Disconnected) => true,
            };
            match self.write() {
                Ok(()) => pause = every,
                Err(error) => {
                    if self.status.error.is_none() {
                        tracing::warn!(job = self.job.name(), sink = self.status.path, "the sink is behind: {error}");
                    }
                    self.status.error = Some(error.to_string());
                    // What another try can't mend is still tried again, but seldom: a person may.
                    let longest = Duration::from_secs(if error.retryable() { 10 } else { 60 });
                    pause = (pause * 2).clamp(every, longest.max(every));
                    self.sink = None;
                    self.written = None;
                }
            }
            self.job.set_sink(self.form, self.index, self.status.clone());
            if stop {
                return;
            }
        }
    }

    fn write(&mut self) -> Result<(), SinkError> {
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
                self.sink.insert(SqliteSink::open(path, self.job.name(), aggregates, *history_step, *history_keep)?)
            }
        };
        sink.write(&epoch)?;
        self.written = Some(epoch.epoch);
        self.status.epoch = self.written;
        self.status.error = None;
        Ok(())
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
