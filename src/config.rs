//! Configuration: what a person wrote, and what it means once checked.
//!
//! ```text
//! default.toml -> --config FILE -> TALLYFLOW_* -> flags      (later ones win)
//!      '-------------- RawConfig --------------'  --check-->  Config
//! ```
//!
//! `default.toml` is both the reference of options and the lowest layer, so that the two can't differ.

mod cluster;
mod history;
mod kafka;

pub use cluster::{Cluster, Host, PROCESSES_MAX};
pub use kafka::Kafka;

use serde::Deserialize;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tallyflow_connectors::checkpoint_store::CheckpointPlace;
use tallyflow_connectors::history::Keep;
use tallyflow_dataflows::spec::parse_duration;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// The defaults, and the reference of every option.
pub const DEFAULT_TOML: &str = include_str!("../default.toml");

/// The section whose keys are librdkafka's.
const PROPERTIES: &str = "kafka.properties";

/// What every option's name in the environment begins with.
const ENV_PREFIX: &str = "TALLYFLOW_";

/// The most worker threads.
pub const WORKERS_MAX: usize = 64;

/// How often checkpoints may be written.
const CHECKPOINT_EVERY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// How often recounts may be asked for.
const RECOUNT_EVERY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(365 * 86_400);

/// Everything the server needs to know, checked: past this point nothing is checked twice.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where the server listens; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The directory that holds everything that lasts.
    pub data_dir: PathBuf,
    /// Worker threads of the engine, 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// What is written to stderr.
    pub log_level: Targets,
    /// Dead letters kept of each job.
    pub dead_letters_max: usize,
    /// What is kept of each job's history; `None`: nothing.
    pub history: Option<Keep>,
    pub log: LogConfig,
    /// Kafka as the log; `None`: the embedded one.
    pub kafka: Option<Kafka>,
    /// `None`: there is this process only.
    pub cluster: Option<Cluster>,
    pub server: ServerConfig,
    pub engine: EngineConfig,
    /// How often a checkpoint of each job is written; `None`: only when asked for and at a clean stop.
    pub checkpoint_every: Option<Duration>,
    /// Where checkpoints are kept; `None`: in the data directory.
    pub checkpoint_place: Option<CheckpointPlace>,
    pub recount: RecountConfig,
}

/// The embedded log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The longest record, key and value together.
    pub record_bytes_max: usize,
    /// `None` keeps records however old.
    pub retention_age: Option<Duration>,
    /// Of a whole topic; `None` keeps all.
    pub retention_bytes: Option<u64>,
    /// Bytes of records that may be waiting to be written.
    pub inflight_bytes_max: usize,
}

/// The HTTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// The largest body of a request.
    pub body_bytes_max: usize,
    /// Connections open at once.
    pub connections_max: usize,
}

/// The engine's supervision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// How long without a sign of life until it counts as hung.
    pub hang: Duration,
}

/// Recounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecountConfig {
    /// How often every running job is recounted; `None`: only when asked for.
    pub every: Option<Duration>,
    /// What a recount may hold of what entities have said, in bytes.
    pub memory_max: usize,
}

/// The options as written, each of the right type and not yet within bounds. `default.toml` says what
/// each means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    listen: String,
    data_dir: PathBuf,
    workers: u64,
    log_level: String,
    dead_letters_max: u64,
    history: RawHistory,
    log: RawLog,
    kafka: kafka::RawKafka,
    cluster: cluster::RawCluster,
    server: RawServer,
    engine: RawEngine,
    checkpoint: RawCheckpoint,
    recount: RawRecount,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCheckpoint {
    every: String,
    url: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHistory {
    keep: String,
    bytes_max: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLog {
    record_bytes_max: u64,
    retention_age_s: u64,
    retention_bytes: u64,
    inflight_bytes_max: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawServer {
    body_bytes_max: u64,
    connections_max: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEngine {
    hang_s: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRecount {
    every: String,
    memory_max: u64,
}

/// Why there is no configuration. Each is one sentence that names the place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("the configuration file {path} can't be read: {why}; name one that can with --config")]
    Unreadable { path: String, why: String },
    #[error("{path}, line {line}: {what}")]
    File { path: String, line: usize, what: String },
    #[error("{place}: {what}")]
    Value { place: String, what: String },
}

/// What the command line sets.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub listen: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub workers: Option<u64>,
    pub log_level: Option<String>,
    pub checkpoint_url: Option<String>,
    pub kafka: Option<String>,
    pub processes: Option<u64>,
    pub process: Option<u64>,
    pub hosts: Option<PathBuf>,
}

impl Config {
    /// Puts the layers on one another and checks the result.
    pub fn load(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        flags: Flags,
    ) -> Result<Config, ConfigError> {
        let mut layers = Layers { table: defaults(), places: Vec::new() };
        if let Some(path) = file {
            layers.add_file(path)?;
        }
        layers.add_environment(env)?;
        layers.add_flags(flags)?;
        layers.check()
    }

    /// Where checkpoints are kept.
    pub fn checkpoints_place(&self) -> CheckpointPlace {
        self.checkpoint_place.clone().unwrap_or_else(|| CheckpointPlace::Folder(self.data_dir.join("checkpoints")))
    }
}

fn defaults() -> Table {
    // A test parses it; it can't change after that.
    DEFAULT_TOML.parse().unwrap_or_default()
}

/// The options so far, and where those not from `default.toml` were set.
struct Layers {
    table: Table,
    places: Vec<(String, String)>,
}

impl Layers {
    fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError::Unreadable { path: name.clone(), why: e.to_string() })?;
        let file = File { name, text: &text };
        let syntax = |e: toml::de::Error| file.error(e.span().unwrap_or_default(), e.message().replace('\n', ", "));
        // Read twice: for the values, and for where the keys stand.
        let values: Table = text.parse().map_err(syntax)?;
        let tree = DeTable::parse(&text).map_err(syntax)?;
        self.merge(&file, &values, tree.get_ref(), "")
    }

    fn merge(&mut self, file: &File, values: &Table, tree: &DeTable, section: &str) -> Result<(), ConfigError> {
        for (key, node) in tree {
            let path = format!("{section}{}", key.get_ref());
            let Some(value) = values.get(key.get_ref().as_ref()) else { continue };
            let Some(default) = lookup(&self.table, &path) else {
                let what = format!("there is no option {path:?}; default.toml lists them all");
                return Err(file.error(key.span(), what));
            };
            if !default.same_type(value) {
                let what = format!("{path:?} wants {}, not {}", kind(default), kind(value));
                return Err(file.error(key.span(), what));
            }
            match (value, node.get_ref()) {
                (Value::Table(inner), DeValue::Table(tree)) if path != PROPERTIES => {
                    self.merge(file, inner, tree, &format!("{path}."))?
                }
                _ => self.set(&path, value.clone(), format!("{}, line {}, {path:?}", file.name, file.line(key.span()))),
            }
        }
        Ok(())
    }

    fn add_environment(&mut self, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<(), ConfigError> {
        // Names that are no option are left alone: orchestrators put TALLYFLOW_PORT and the like there.
        let keys = keys();
        for (name, text) in env {
            let Some(path) = name.to_str().and_then(|n| keys.iter().find(|key| env_name(key) == n)) else { continue };
            let place = env_name(path);
            let Some(text) = text.to_str() else {
                return Err(ConfigError::Value { place, what: "is no UTF-8 text".into() });
            };
            let value = match lookup(&self.table, path) {
                Some(Value::Integer(_)) => match text.trim().replace('_', "").parse() {
                    Ok(number) => Value::Integer(number),
                    Err(_) => {
                        return Err(ConfigError::Value { place, what: format!("wants a whole number, not {text:?}") });
                    }
                },
                _ => Value::String(text.to_owned()),
            };
            self.set(path, value, place);
        }
        Ok(())
    }

    fn add_flags(&mut self, flags: Flags) -> Result<(), ConfigError> {
        let Flags { listen, data_dir, workers, log_level, checkpoint_url, kafka, processes, process, hosts } = flags;
        let text = |flag: &str, path: Option<PathBuf>| match path.map(|path| path.into_os_string().into_string()) {
            Some(Err(_)) => Err(ConfigError::Value { place: flag.into(), what: "is no UTF-8 text".into() }),
            Some(Ok(path)) => Ok(Some(path)),
            None => Ok(None),
        };
        let (data_dir, hosts) = (text("--data-dir", data_dir)?, text("--hosts", hosts)?);
        for (path, flag, text) in [
            ("listen", "--listen", listen),
            ("data_dir", "--data-dir", data_dir),
            ("log_level", "--log-level", log_level),
            ("checkpoint.url", "--checkpoint-url", checkpoint_url),
            ("kafka.brokers", "--kafka", kafka),
            ("cluster.hosts", "--hosts", hosts),
        ] {
            if let Some(text) = text {
                self.set(path, Value::String(text), flag.into());
            }
        }
        for (path, flag, number) in [
            ("workers", "--workers", workers),
            ("cluster.processes", "--processes", processes),
            ("cluster.process", "--process", process),
        ] {
            if let Some(number) = number {
                // A number beyond i64 is beyond the bounds all the same.
                self.set(path, Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)), flag.into());
            }
        }
        Ok(())
    }

    fn set(&mut self, path: &str, value: Value, place: String) {
        let (section, key) = path.split_once('.').map_or((None, path), |(s, k)| (Some(s), k));
        let table = match section {
            None => Some(&mut self.table),
            Some(section) => self.table.get_mut(section).and_then(Value::as_table_mut),
        };
        if let Some(table) = table {
            table.insert(key.to_owned(), value);
        }
        self.places.retain(|(p, _)| p != path);
        self.places.push((path.to_owned(), place));
    }

    /// Where a value came from, as its error message begins.
    fn place(&self, path: &str) -> String {
        let set = self.places.iter().find(|(p, _)| p == path);
        set.map_or_else(|| format!("default.toml, {path:?}"), |(_, place)| place.clone())
    }

    fn bounded(&self, path: &str, value: u64, min: u64, max: u64) -> Result<u64, ConfigError> {
        if (min..=max).contains(&value) {
            return Ok(value);
        }
        let what = format!("{value} is out of bounds; choose {min} to {max}");
        Err(ConfigError::Value { place: self.place(path), what })
    }

    /// 0 is nothing, otherwise at least `min`.
    fn optional(&self, path: &str, value: u64, min: u64) -> Result<Option<u64>, ConfigError> {
        match value {
            0 => Ok(None),
            value if value >= min => Ok(Some(value)),
            value => {
                let what = format!("{value} is too little; choose 0 to keep everything, or {min} and more");
                Err(ConfigError::Value { place: self.place(path), what })
            }
        }
    }

    fn check(self) -> Result<Config, ConfigError> {
        // The layers hold known keys of the right kinds; what is left to go wrong is a number below 0.
        let raw: RawConfig = Value::Table(self.table.clone()).try_into().map_err(|e: toml::de::Error| {
            let negative = self
                .places
                .iter()
                .find(|(path, _)| lookup(&self.table, path).and_then(Value::as_integer).is_some_and(i64::is_negative));
            match negative {
                Some((_, place)) => {
                    ConfigError::Value { place: place.clone(), what: "is below 0; choose a whole number from 0".into() }
                }
                None => ConfigError::Value { place: "configuration".into(), what: e.message().to_owned() },
            }
        })?;
        let refused = |path: &str, what: String| ConfigError::Value { place: self.place(path), what };

        let listen = raw.listen.parse().map_err(|_| {
            refused(
                "listen",
                format!("{:?} is no address; write IP:PORT, as in 127.0.0.1:8080 or [::1]:8080", raw.listen),
            )
        })?;
        if raw.data_dir.as_os_str().is_empty() {
            return Err(refused("data_dir", "is empty; name a directory".into()));
        }
        let workers = match self.bounded("workers", raw.workers, 0, WORKERS_MAX as u64)? {
            0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(WORKERS_MAX),
            n => n as usize,
        };
        let log_level = log_filter(&raw.log_level).ok_or_else(|| {
            let what = format!("{:?} is no log level; write error, warn, info, debug or trace", raw.log_level);
            refused("log_level", what)
        })?;
        let every = |path: &str, text: &str, bounds: &RangeInclusive<Duration>, told: &str| match text {
            "off" => Ok(None),
            text => match parse_duration(text).filter(|every| bounds.contains(every)) {
                Some(every) => Ok(Some(every)),
                None => Err(refused(path, format!("{text:?} is not how often; write off, or a time {told}"))),
            },
        };
        let told = "from 1s to 365d like 10m, 1h or 1d";
        let recount_every = every("recount.every", &raw.recount.every, &RECOUNT_EVERY, told)?;
        let told = "from 1s to 1d like 10s or 1m";
        let checkpoint_every = every("checkpoint.every", &raw.checkpoint.every, &CHECKPOINT_EVERY, told)?;
        let checkpoint_place = match raw.checkpoint.url.as_str() {
            "" => None,
            text => Some(CheckpointPlace::parse(text).map_err(|error| refused("checkpoint.url", error.to_string()))?),
        };
        let body_bytes_max = self.bounded("server.body_bytes_max", raw.server.body_bytes_max, 1 << 10, 1 << 30)?;
        let log = LogConfig {
            record_bytes_max: self.bounded("log.record_bytes_max", raw.log.record_bytes_max, 1, 64 << 20)? as usize,
            retention_age: self.optional("log.retention_age_s", raw.log.retention_age_s, 60)?.map(Duration::from_secs),
            retention_bytes: self.optional("log.retention_bytes", raw.log.retention_bytes, 1 << 20)?,
            inflight_bytes_max: self.bounded(
                "log.inflight_bytes_max",
                raw.log.inflight_bytes_max,
                body_bytes_max,
                1 << 40,
            )? as usize,
        };
        self.bounded("kafka.replication_factor", raw.kafka.replication_factor, 0, 1_000)?;
        self.bounded("kafka.queue_bytes_max", raw.kafka.queue_bytes_max, 1 << 20, 1 << 34)?;
        let kafka = raw.kafka.check().map_err(|(path, what)| refused(path, what))?;
        self.bounded("cluster.processes", raw.cluster.processes, 1, PROCESSES_MAX as u64)?;
        let cluster = raw.cluster.check().map_err(|(path, what)| refused(path, what))?;
        if cluster.is_some() && kafka.is_none() {
            let what = "several processes read one log: name Kafka's brokers with --kafka";
            return Err(refused("cluster.processes", what.to_owned()));
        }
        if cluster.is_some() && checkpoint_place.is_none() {
            let what = "several processes keep their checkpoints in one place: name one that all of them reach with --checkpoint-url";
            return Err(refused("cluster.processes", what.to_owned()));
        }
        let bytes_max = self.bounded("history.bytes_max", raw.history.bytes_max, 1 << 20, 1 << 40)?;
        let steps = history::steps(&raw.history.keep).map_err(|what| refused("history.keep", what))?;
        let history = (!steps.is_empty()).then_some(Keep { steps, bytes_max });
        Ok(Config {
            listen,
            history,
            workers,
            dead_letters_max: self.bounded("dead_letters_max", raw.dead_letters_max, 1, 1_000_000)? as usize,
            log,
            kafka,
            cluster,
            server: ServerConfig {
                body_bytes_max: body_bytes_max as usize,
                connections_max: self.bounded("server.connections_max", raw.server.connections_max, 1, 1_000_000)?
                    as usize,
            },
            engine: EngineConfig {
                hang: Duration::from_secs(self.bounded("engine.hang_s", raw.engine.hang_s, 1, 3600)?),
            },
            checkpoint_every,
            checkpoint_place,
            recount: RecountConfig {
                every: recount_every,
                memory_max: self.bounded("recount.memory_max", raw.recount.memory_max, 1 << 20, 1 << 40)? as usize,
            },
            data_dir: raw.data_dir,
            log_level,
        })
    }
}

/// A configuration file, to name places in it.
struct File<'a> {
    name: String,
    text: &'a str,
}

impl File<'_> {
    /// From 1.
    fn line(&self, span: Range<usize>) -> usize {
        self.text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1
    }

    fn error(&self, span: Range<usize>, what: String) -> ConfigError {
        ConfigError::File { path: self.name.clone(), line: self.line(span), what }
    }
}

/// Reads `info` or `info,tallyflow::server=debug`. Stricter than `Targets`, which takes a misspelt level
/// for a part of the program.
fn log_filter(text: &str) -> Option<Targets> {
    let mut filter = Targets::new();
    for part in text.split(',').map(str::trim) {
        let (target, level) = part.split_once('=').map_or((None, part), |(t, l)| (Some(t), l));
        let level: LevelFilter = level.parse().ok()?;
        filter = match target {
            None => filter.with_default(level),
            Some(target) => filter.with_target(target, level),
        };
    }
    Some(filter)
}

/// All options by their path: `workers`, `log.record_bytes_max`.
fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    for (key, value) in defaults() {
        match value {
            Value::Table(section) => {
                let paths = section.keys().map(|inner| format!("{key}.{inner}"));
                keys.extend(paths.filter(|path| path != PROPERTIES));
            }
            _ => keys.push(key),
        }
    }
    keys
}

/// An option's name in the environment.
fn env_name(path: &str) -> String {
    format!("{ENV_PREFIX}{}", path.replace('.', "_").to_uppercase())
}

fn lookup<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    match path.split_once('.') {
        None => table.get(path),
        Some((section, key)) => table.get(section)?.as_table()?.get(key),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a point",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a time",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
