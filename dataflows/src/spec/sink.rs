//! `[[sink]]`: where results are written besides.

use super::fault::Faults;
use super::file::PATH_BYTES_MAX;
use super::section::{Field, Section};
use super::tree::Kind;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One `[[sink]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SinkSpec {
    Sqlite {
        /// A relative path lies under the data directory.
        path: String,
        /// At most this often.
        every: Duration,
        /// A line's history keeps its last value of each such span of time.
        history_step: Duration,
        /// How long history is kept.
        history_keep: Duration,
    },
}

impl SinkSpec {
    /// As job files spell it.
    pub fn kind(&self) -> &'static str {
        match self {
            SinkSpec::Sqlite { .. } => "sqlite",
        }
    }

    /// At most this often it is written.
    pub fn every(&self) -> Duration {
        match self {
            SinkSpec::Sqlite { every, .. } => *every,
        }
    }
}

pub(super) fn read(field: &Field<'_>, faults: &mut Faults) -> Option<SinkSpec> {
    let known = ["kind", "path", "every", "history_step", "history_keep"];
    let sink = Section::open(&*field.path, field.node, &known, faults)?;
    let kind = sink.need("kind", "say where results go: kind = \"sqlite\"", faults);
    let kind = kind.and_then(|f| f.one_of("kind of sink", &["sqlite"], faults));
    let path = sink.need("path", "name the file to write, like path = \"results.db\"", faults).and_then(|f| {
        let text = f.text("a path like \"results.db\"", faults)?;
        if text.is_empty() || text.len() > PATH_BYTES_MAX || text.contains('\0') {
            return f.fault(faults, "is no path of a file; write one like \"results.db\"");
        }
        Some(text.to_string())
    });
    let mut span = |key: &str, default: Duration, min: &str, max: &str| match sink.get(key) {
        Some(f) => f.duration(min, max, faults),
        None => Some(default),
    };
    let every = span("every", Duration::from_secs(1), "100ms", "1h");
    let step = span("history_step", Duration::from_secs(10), "100ms", "1d");
    let keep = span("history_keep", Duration::from_secs(7 * 86_400), "1s", "36500d");
    if let (Some(step), Some(keep), Some(f)) = (step, keep, sink.get("history_keep"))
        && keep < step
    {
        return f.fault(faults, "is shorter than history_step; keep at least one step");
    }
    kind?;
    Some(SinkSpec::Sqlite { path: path?, every: every?, history_step: step?, history_keep: keep? })
}

/// Two sinks of a job can't write one file: each would hold the other's rows for its own.
pub(super) fn unshared(sinks: &[SinkSpec], field: &Field<'_>, faults: &mut Faults) {
    let Kind::List(nodes) = &field.node.kind else { return };
    for (i, (SinkSpec::Sqlite { path, .. }, node)) in sinks.iter().zip(nodes).enumerate() {
        let first = sinks[..i].iter().position(|SinkSpec::Sqlite { path: other, .. }| other == path);
        if let Some(first) = first {
            let at = format!("{}[{i}].path", field.path);
            faults.push(node.line, at, format!("is the file of sink[{first}] already; name another"));
        }
    }
}
