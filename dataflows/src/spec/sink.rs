//! `[[sink]]`: where results are written besides.

use super::fault::Faults;
use super::file::PATH_BYTES_MAX;
use super::section::{Field, Section};
use super::tree::Kind;
use crate::spec::InputSpec;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// The longest `uri`, the longest name of a variable.
const URI_BYTES_MAX: usize = 4 * 1024;
/// MongoDB's own bound.
const DATABASE_BYTES_MAX: usize = 63;
/// Below MongoDB's 255 for both names together, with what the sink appends to this one.
const COLLECTION_BYTES_MAX: usize = 100;
/// As in Kafka.
const TOPIC_BYTES_MAX: usize = 249;

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
    Mongodb(MongodbSpec),
    /// A topic of the log that the server has.
    Topic {
        topic: String,
        /// At most this often.
        every: Duration,
    },
}

/// A sink of the kind `mongodb`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MongodbSpec {
    pub uri: Uri,
    pub database: String,
    /// Documents of subjects; their snapshots lie in the one of this name with `_snapshots`.
    pub collection: String,
    /// At most this often.
    pub every: Duration,
    /// Whether an epoch is one transaction.
    pub transactions: bool,
    pub shape: MongodbShape,
}

/// Where a connection string is to be found. It may hold a password: it is shown nowhere.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub enum Uri {
    /// In the job file.
    Text(String),
    /// In a variable of the server's environment.
    Env(String),
    /// In a file of the server's; a relative path lies under the data directory.
    File(String),
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Uri::Text(_) => f.write_str("Text(..)"),
            Uri::Env(name) => f.debug_tuple("Env").field(name).finish(),
            Uri::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// What the documents of subjects look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MongodbShape {
    /// `job`, `subject`, `epoch`, `total`, `tallies`.
    Tallies,
    /// `title`, `options`, `results`, as the programs of socialpoll read them.
    Socialpoll,
}

impl SinkSpec {
    /// As job files spell it.
    pub fn kind(&self) -> &'static str {
        match self {
            SinkSpec::Sqlite { .. } => "sqlite",
            SinkSpec::Mongodb(_) => "mongodb",
            SinkSpec::Topic { .. } => "topic",
        }
    }

    /// At most this often it is written.
    pub fn every(&self) -> Duration {
        match self {
            SinkSpec::Sqlite { every, .. }
            | SinkSpec::Mongodb(MongodbSpec { every, .. })
            | SinkSpec::Topic { every, .. } => *every,
        }
    }
}

const SQLITE: &[&str] = &["kind", "path", "every", "history_step", "history_keep"];
const TOPIC: &[&str] = &["kind", "topic", "every"];
const MONGODB: &[&str] =
    &["kind", "uri", "uri_env", "uri_file", "database", "collection", "every", "transactions", "shape"];

pub(super) fn read(field: &Field<'_>, faults: &mut Faults) -> Option<SinkSpec> {
    let is = |wanted: &str| match &field.node.kind {
        Kind::Table(members) => {
            members.iter().any(|m| m.key == "kind" && matches!(&m.node.kind, Kind::Text(kind) if kind == wanted))
        }
        _ => false,
    };
    let (is_mongodb, is_topic) = (is("mongodb"), is("topic"));
    let keys = if is_mongodb {
        MONGODB
    } else if is_topic {
        TOPIC
    } else {
        SQLITE
    };
    let sink = Section::open(&*field.path, field.node, keys, faults)?;
    let kind = sink.need("kind", "say where results go: kind = \"sqlite\", \"mongodb\" or \"topic\"", faults);
    let kind = kind.and_then(|f| f.one_of("kind of sink", &["sqlite", "mongodb", "topic"], faults));
    let every = span(&sink, "every", Duration::from_secs(1), ("100ms", "1h"), faults);
    if is_mongodb {
        let spec = mongodb(&sink, faults);
        return Some(SinkSpec::Mongodb(MongodbSpec { every: every?, ..spec? }));
    }
    if is_topic {
        let topic = sink.need("topic", "name the topic to write, like topic = \"results\"", faults)?;
        let name = topic.text("the name of a topic", faults)?;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_good = (1..=TOPIC_BYTES_MAX).contains(&name.len()) && name.chars().all(good);
        if !is_good || name == "." || name == ".." || name.starts_with("__") {
            let what = "is no name of a topic: 1 to 249 letters, digits, '.', '_' or '-', not beginning with \"__\"";
            return topic.fault(faults, what);
        }
        return Some(SinkSpec::Topic { topic: name.to_owned(), every: every? });
    }
    let path = sink
        .need("path", "name the file to write, like path = \"results.db\"", faults)
        .and_then(|f| path(&f, "results.db", faults));
    let step = span(&sink, "history_step", Duration::from_secs(10), ("100ms", "1d"), faults);
    let keep = span(&sink, "history_keep", Duration::from_secs(7 * 86_400), ("1s", "36500d"), faults);
    if let (Some(step), Some(keep), Some(f)) = (step, keep, sink.get("history_keep"))
        && keep < step
    {
        return f.fault(faults, "is shorter than history_step; keep at least one step");
    }
    kind?;
    Some(SinkSpec::Sqlite { path: path?, every: every?, history_step: step?, history_keep: keep? })
}

fn span(
    sink: &Section<'_>,
    key: &str,
    default: Duration,
    (min, max): (&str, &str),
    faults: &mut Faults,
) -> Option<Duration> {
    match sink.get(key) {
        Some(f) => f.duration(min, max, faults),
        None => Some(default),
    }
}

fn path(f: &Field<'_>, example: &str, faults: &mut Faults) -> Option<String> {
    let text = f.text(&format!("a path like {example:?}"), faults)?;
    if text.is_empty() || text.len() > PATH_BYTES_MAX || text.contains('\0') {
        return f.fault(faults, format!("is no path of a file; write one like {example:?}"));
    }
    Some(text.to_string())
}

/// All but `every`.
fn mongodb(sink: &Section<'_>, faults: &mut Faults) -> Option<MongodbSpec> {
    let uri = uri(sink, faults);
    let shape = match sink.get("shape") {
        Some(f) => f.one_of("shape", &["tallies", "socialpoll"], faults),
        None => Some("tallies"),
    };
    let is_socialpoll = shape == Some("socialpoll");
    let shape = shape.map(|_| if is_socialpoll { MongodbShape::Socialpoll } else { MongodbShape::Tallies });
    let mut name = |key: &str, socialpoll: &str, bytes_max: usize, bad: &[char]| {
        if is_socialpoll && sink.get(key).is_none() {
            return Some(socialpoll.to_owned());
        }
        let f = sink.need(key, &format!("name the {key}, like {key} = \"results\""), faults)?;
        let text = f.text(&format!("the name of a {key}"), faults)?;
        let is_bad = text.is_empty() || text.len() > bytes_max || text.contains(bad) || text.starts_with("system.");
        if is_bad || text.starts_with('.') || text.ends_with('.') {
            return f.fault(faults, format!("is no name of a {key}; write one like \"results\""));
        }
        Some(text.to_owned())
    };
    let bad = ['/', '\\', '.', ' ', '"', '$', '*', '<', '>', ':', '|', '?', '\0'];
    let database = name("database", "ballots", DATABASE_BYTES_MAX, &bad);
    let collection = name("collection", "polls", COLLECTION_BYTES_MAX, &['$', '\0']);
    let transactions = match sink.get("transactions") {
        None => Some(false),
        Some(f) => match f.node.kind {
            Kind::Bool(yes) => Some(yes),
            _ => f.fault(faults, "must be true or false"),
        },
    };
    Some(MongodbSpec {
        uri: uri?,
        database: database?,
        collection: collection?,
        every: Duration::ZERO,
        transactions: transactions?,
        shape: shape?,
    })
}

/// What is written there stands in no fault.
fn uri(sink: &Section<'_>, faults: &mut Faults) -> Option<Uri> {
    let given: Vec<&str> = ["uri", "uri_env", "uri_file"].into_iter().filter(|key| sink.get(key).is_some()).collect();
    let remedy =
        "name the server, like uri = \"mongodb://localhost:27017\"; or uri_env or uri_file, where that is found";
    let [key] = given[..] else {
        if let Some(f) = given.get(1).and_then(|key| sink.get(key)) {
            return f.fault(faults, format!("stands beside {}; keep one of them", given[0]));
        }
        sink.need("uri", remedy, faults)?;
        return None;
    };
    let f = sink.get(key)?;
    if key == "uri_file" {
        return path(&f, "secrets/mongodb", faults).map(Uri::File);
    }
    let text = f.text("a text", faults)?;
    if text.len() > URI_BYTES_MAX {
        return f.fault(faults, format!("is longer than {URI_BYTES_MAX} bytes"));
    }
    if key == "uri_env" {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if text.is_empty() || !text.chars().all(is_name) {
            return f.fault(faults, "is no name of a variable; write one like \"MONGODB_URI\"");
        }
        return Some(Uri::Env(text.to_owned()));
    }
    if !text.starts_with("mongodb://") && !text.starts_with("mongodb+srv://") {
        return f.fault(faults, "must begin with mongodb:// or mongodb+srv://");
    }
    Some(Uri::Text(text.to_owned()))
}

/// Two sinks of a job can't write one place: each would hold the other's rows for its own.
pub(super) fn unshared(sinks: &[SinkSpec], field: &Field<'_>, faults: &mut Faults) {
    let Kind::List(nodes) = &field.node.kind else { return };
    let share = |a: &SinkSpec, b: &SinkSpec| match (a, b) {
        (SinkSpec::Sqlite { path: a, .. }, SinkSpec::Sqlite { path: b, .. }) => a == b,
        (SinkSpec::Topic { topic: a, .. }, SinkSpec::Topic { topic: b, .. }) => a == b,
        (SinkSpec::Mongodb(a), SinkSpec::Mongodb(b)) => {
            (&a.uri, &a.database, &a.collection) == (&b.uri, &b.database, &b.collection)
        }
        _ => false,
    };
    for (i, (sink, node)) in sinks.iter().zip(nodes).enumerate() {
        if let Some(first) = sinks[..i].iter().position(|other| share(other, sink)) {
            let (key, what) = match sink {
                SinkSpec::Sqlite { .. } => ("path", "file"),
                SinkSpec::Mongodb(_) => ("collection", "collection"),
                SinkSpec::Topic { .. } => ("topic", "topic"),
            };
            let at = format!("{}[{i}].{key}", field.path);
            faults.push(node.line, at, format!("is the {what} of sink[{first}] already; name another"));
        }
    }
}

/// A job that reads what it writes would never come to an end.
pub(super) fn apart(sinks: &[SinkSpec], inputs: &[InputSpec], field: &Field<'_>, faults: &mut Faults) {
    let Kind::List(nodes) = &field.node.kind else { return };
    for (i, (sink, node)) in sinks.iter().zip(nodes).enumerate() {
        if let SinkSpec::Topic { topic, .. } = sink
            && inputs.iter().any(|input| input.topic == *topic)
        {
            faults.push(node.line, format!("{}[{i}].topic", field.path), "is read by this job; name another");
        }
    }
}
