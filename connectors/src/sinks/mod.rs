//! Sinks: where whole closed epochs are written.
//!
//! ```text
//! a follower of the job's results (a thread) --- open, take, take, ... ---> sqlite: tables in a file
//!                                                                       |-> mongodb: a document per subject
//!                                                                       '-> topic: a record per line
//! ```
//!
//! A sink takes epochs one after another, each as a whole, with the offsets that it stands for. What it
//! takes are absolute values, so that an epoch may be repeated; an older one than it holds is refused,
//! unless the job was told to take over ([`Opening::take_over_ms`]).

mod epoch;
mod error;
#[cfg(feature = "mongodb")]
pub mod mongodb;
pub mod sqlite;
pub mod topic;
mod uri;

pub use epoch::{Ending, Grain, SinkEpoch, SinkLine, SinkPoll, Writer};
pub use error::SinkError;

use crate::log::Log;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tallyflow_dataflows::spec::SinkSpec;

/// A job's place in a sink.
///
/// A follower opens it, gives it the first epoch with `reset` and then what changed, in rising epochs. After
/// an error it drops it and begins anew, sooner or later by [`SinkError::retryable`]. A crash at any moment
/// leaves what a reader may see: for each kind its own documentation says what that is.
pub trait Sink: Send {
    /// In what pieces it wants the changes.
    fn grain(&self) -> Grain {
        Grain::Lines
    }

    /// Writes an epoch, durable when it returns. Blocks, not longer than `ending` allows: it gives up with an
    /// error then. An epoch that it holds already changes nothing.
    fn take(&mut self, epoch: &SinkEpoch, ending: &Ending) -> Result<(), SinkError>;
}

/// Who opens a sink.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The job whose results it takes.
    pub job: String,
    /// The names of the job's aggregates.
    pub aggregates: Vec<String>,
    /// Relative paths lie under it.
    pub data_dir: PathBuf,
    /// Who writes.
    pub writer: Writer,
    /// When the job was last submitted to take over whatever epochs another server has left there, in
    /// milliseconds since 1970. Once a sink was taken over, no submission from before takes it back.
    pub take_over_ms: Option<i64>,
}

/// Opens a sink. Blocks, as [`Sink::take`] does.
pub fn open(
    spec: &SinkSpec,
    opening: &Opening,
    log: &Arc<dyn Log>,
    ending: &Ending,
) -> Result<Box<dyn Sink>, SinkError> {
    let Opening { job, aggregates, data_dir, writer, take_over_ms } = opening;
    match spec {
        SinkSpec::Sqlite { path, history_step, history_keep, .. } => {
            let path = data_dir.join(path);
            let sink = sqlite::SqliteSink::open(&path, job, aggregates.clone(), *history_step, *history_keep)?;
            Ok(Box::new(sink.written_by(writer.clone()).taking_over(*take_over_ms)))
        }
        SinkSpec::Topic { topic, .. } => Ok(Box::new(topic::TopicSink::open(log, topic, opening)?)),
        #[cfg(feature = "mongodb")]
        SinkSpec::Mongodb(mongodb) => Ok(Box::new(mongodb::MongodbSink::open(mongodb, opening, ending)?)),
        #[cfg(not(feature = "mongodb"))]
        SinkSpec::Mongodb(_) => {
            let _ = ending;
            Err(SinkError::Unusable { path: place(spec, data_dir), what: WITHOUT_MONGODB.to_owned() })
        }
    }
}

#[cfg(not(feature = "mongodb"))]
const WITHOUT_MONGODB: &str = "this program is built without MongoDB; build it with --features mongodb";

/// Why this program can't have such a sink.
pub fn not_built(spec: &SinkSpec) -> Option<&'static str> {
    match spec {
        #[cfg(not(feature = "mongodb"))]
        SinkSpec::Mongodb(_) => Some(WITHOUT_MONGODB),
        _ => None,
    }
}

/// Where a sink writes, to be shown: without secrets.
pub fn place(spec: &SinkSpec, data_dir: &Path) -> String {
    match spec {
        SinkSpec::Sqlite { path, .. } => data_dir.join(path).display().to_string(),
        SinkSpec::Topic { topic, .. } => format!("topic {topic:?}"),
        SinkSpec::Mongodb(to) => uri::shown(&to.uri, &format!("{}.{}", to.database, to.collection)),
    }
}
