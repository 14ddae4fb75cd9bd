//! What is done to the server: places at which it ends, actions at random moments, damaged files.

use crate::fold::What;
use anyhow::Context;
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};

/// The places where the program may be ended, and up to how often it may pass them before. See
/// `tallyflow_dataflows::crash`.
const POINTS: [(&str, u32); 20] = [
    ("append::begin", 60),
    ("append::written", 60),
    ("append::committed", 60),
    ("sink::written", 12),
    ("sink::committed", 12),
    ("history::written", 4),
    ("control::note", 6),
    ("control::noted", 6),
    ("rescale::held", 1),
    ("rescale::kept", 1),
    ("rescale::started", 1),
    ("replace::taken", 1),
    ("checkpoint::file", 8),
    ("checkpoint::manifest", 8),
    ("checkpoint::written", 8),
    ("checkpoint::clean", 16),
    ("restore::claim", 6),
    ("restore::claimed", 6),
    ("restore::group", 8_000),
    ("engine::tell", 150),
];

/// A place, as `FAILPOINTS` has it, and its name.
pub fn fail_point(rng: &mut ChaCha8Rng) -> (String, &'static str) {
    if rng.random_ratio(1, 12) {
        // A thread of the engine panics; all of the engine is to end at that.
        return (format!("worker::step={}*off->panic", rng.random_range(1..3_000)), "worker::step");
    }
    let (name, passed_max) = POINTS.choose(rng).copied().unwrap_or(POINTS[0]);
    if rng.random_ratio(1, 8) {
        // Nothing ends there, and others come in between.
        return (format!("{name}=sleep({})", rng.random_range(1..200) / passed_max.min(40)), "slow");
    }
    match rng.random_range(0..passed_max) {
        0 => (format!("{name}=return"), name),
        passed => (format!("{name}={passed}*off->return"), name),
    }
}

/// What is done to a running server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    KillEngine,
    /// Stops it for so many milliseconds; then it goes on or is killed.
    StopEngine {
        ms: u64,
        kill: bool,
    },
    Rescale(usize),
    Pause(&'static str),
    Resume(&'static str),
    Checkpoint(&'static str),
    Restart {
        job: &'static str,
        ignore_state: bool,
    },
    Recount(&'static str),
    /// Kills Kafka's broker, and has it started again after so many milliseconds.
    KillBroker {
        ms: u64,
    },
    /// Stops Kafka's broker for so many milliseconds.
    FreezeBroker {
        ms: u64,
    },
    /// Another form of the job `orders`, by its number.
    Replace(usize),
    /// The poll `moods` comes, changes, or goes; options by number.
    Poll(Option<usize>),
    Void {
        job: &'static str,
        what: What,
    },
    /// One of those that the job has, by number.
    Unvoid {
        job: &'static str,
        which: usize,
    },
}

/// What is voided of a job: among the first of its records.
fn what(rng: &mut ChaCha8Rng, job: &str) -> What {
    let number = rng.random_range(0..60);
    let name = |letter: &str| format!("{letter}{number}");
    let topic = match job {
        "bank" => "transfers",
        "polls" => ["votes", "posts"][number % 2],
        _ => "orders",
    };
    match (rng.random_range(0..3), job) {
        (0, "firsts") => What::Entity(name("c")),
        (0, "orders") => What::Entity(name("o")),
        (0, "polls") => What::Entity([name("v"), name("u"), name("p")][rng.random_range(0..3)].clone()),
        (1, "firsts" | "orders") => What::Field("kind".to_owned(), ["web", "shop"][number % 2].to_owned()),
        (1, "bank") => What::Field("from".to_owned(), format!("a{}", number % 10)),
        (1, _) => What::Field("option".to_owned(), "yes".to_owned()),
        _ => {
            let (from, partition) = (rng.random_range(0..200), rng.random_range(0..3));
            What::Offsets { topic: topic.to_owned(), partition, from, to: from + rng.random_range(1..100) }
        }
    }
}

impl Action {
    pub fn any(rng: &mut ChaCha8Rng, jobs: &[&'static str], rescales: bool) -> Action {
        let job = jobs.choose(rng).copied().unwrap_or("orders");
        let kinds = if rescales { 20 } else { 18 };
        match rng.random_range(0..kinds) {
            0 | 1 => Action::KillEngine,
            2 => Action::StopEngine { ms: rng.random_range(1..400), kill: rng.random() },
            3 if rng.random_ratio(1, 8) => Action::StopEngine { ms: 4_500, kill: false },
            3 | 4 => Action::Checkpoint(job),
            5 => Action::Pause(job),
            6 => Action::Resume(job),
            7 => Action::Restart { job, ignore_state: rng.random_ratio(1, 3) },
            8 => Action::Recount(job),
            9 | 10 => Action::Replace(rng.random_range(0..3)),
            11 | 12 => Action::Poll(rng.random_ratio(3, 4).then(|| rng.random_range(0..4))),
            13..=15 => Action::Void { job, what: what(rng, job) },
            16 | 17 => Action::Unvoid { job, which: rng.random_range(0..8) },
            _ => Action::Rescale(rng.random_range(1..=4)),
        }
    }

    /// Something that is done to a broker.
    pub fn of_broker(rng: &mut ChaCha8Rng) -> Action {
        match rng.random_range(0..3) {
            0 => Action::KillBroker { ms: rng.random_range(0..3_000) },
            1 => Action::FreezeBroker { ms: rng.random_range(5_000..16_000) },
            _ => Action::FreezeBroker { ms: rng.random_range(50..2_000) },
        }
    }

    /// For the summary.
    pub fn name(&self) -> &'static str {
        match self {
            Action::KillEngine => "engine killed",
            Action::StopEngine { kill: true, .. } => "engine stopped, killed",
            Action::StopEngine { .. } => "engine stopped, gone on",
            Action::Rescale(_) => "rescale",
            Action::Pause(_) => "pause",
            Action::Resume(_) => "resume",
            Action::Checkpoint(_) => "checkpoint",
            Action::Restart { ignore_state: true, .. } => "restart --ignore-state",
            Action::Restart { .. } => "restart",
            Action::KillBroker { .. } => "broker killed",
            Action::FreezeBroker { .. } => "broker stopped",
            Action::Recount(_) => "recount meanwhile",
            Action::Replace(_) => "submit --replace",
            Action::Poll(_) => "poll changed",
            Action::Void { .. } => "void",
            Action::Unvoid { .. } => "unvoid",
        }
    }
}

/// Damages files of checkpoints, or leaves some that do not belong there; what was done. The log itself is
/// left alone: what it answered for is nowhere else.
pub fn damage(data: &Path, rng: &mut ChaCha8Rng) -> anyhow::Result<Option<String>> {
    let mut files: Vec<PathBuf> = Vec::new();
    let Ok(folders) = std::fs::read_dir(data.join("checkpoints")) else { return Ok(None) };
    for folder in folders.filter_map(|folder| Some(folder.ok()?.path())).filter(|path| path.is_dir()) {
        let mut of_job: Vec<PathBuf> = std::fs::read_dir(folder)?.filter_map(|file| Some(file.ok()?.path())).collect();
        of_job.sort();
        // The newest, with their manifests.
        files.extend(of_job.into_iter().rev().take(4));
    }
    files.sort();
    let Some(file) = files.choose(rng) else { return Ok(None) };
    let mut bytes = std::fs::read(file).with_context(|| format!("{}", file.display()))?;
    let what = match rng.random_range(0..4) {
        0 if !bytes.is_empty() => {
            let place = rng.random_range(0..bytes.len());
            bytes[place] ^= 1 << rng.random_range(0..8);
            std::fs::write(file, bytes)?;
            format!("a bit of byte {place} changed")
        }
        1 if !bytes.is_empty() => {
            bytes.truncate(rng.random_range(0..bytes.len()));
            std::fs::write(file, &bytes)?;
            format!("cut to {} bytes", bytes.len())
        }
        2 => {
            std::fs::remove_file(file)?;
            "removed".to_owned()
        }
        _ => {
            // As a writer leaves it that is killed before it has moved its file into place.
            let stray = PathBuf::from(format!("{}#1", file.display()));
            bytes.truncate(bytes.len() / 2);
            std::fs::write(stray, bytes)?;
            "a half of it left beside".to_owned()
        }
    };
    Ok(Some(format!("{}: {what}", file.display())))
}
