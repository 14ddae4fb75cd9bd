//! What is wrong with a job file or a poll's definition, all of it at once.

use serde::{Deserialize, Serialize};

/// How many faults are told at most; the last then says that there are more.
const FAULTS_MAX: usize = 100;

/// One thing that is wrong with a job file or a poll's definition, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Fault {
    /// The line in the file, from 1. `None` where the file has no text of its own for it.
    pub line: Option<u32>,
    /// The key, like `input[0].topic`; empty where the file as a whole is meant.
    pub key: String,
    /// What is wrong and what to do, in one plain sentence.
    pub message: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Collects faults.
#[derive(Debug, Default)]
pub(super) struct Faults {
    all: Vec<Fault>,
    /// Lines that are no TOML or JSON: what was read there is a guess, and not judged further.
    broken: Vec<u32>,
}

impl Faults {
    /// A fault of what was read.
    pub fn push(&mut self, line: Option<u32>, key: impl Into<String>, message: impl Into<String>) {
        if !line.is_some_and(|line| self.broken.contains(&line)) {
            self.all.push(Fault { line, key: key.into(), message: message.into() });
        }
    }

    /// A key that should be there. Where a line could not be read it may have been that one.
    pub fn missing(&mut self, line: Option<u32>, key: impl Into<String>, remedy: &str) {
        if self.broken.is_empty() {
            self.push(line, key, format!("is missing; {remedy}"));
        }
    }

    /// A line that is no TOML or JSON.
    pub fn syntax(&mut self, line: Option<u32>, message: impl Into<String>) {
        self.push(line, "", message);
        self.broken.extend(line);
    }

    /// Whether nothing was found yet.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All faults by line, those without a line first.
    pub fn into_vec(mut self) -> Vec<Fault> {
        self.all.sort_by_key(|f| f.line);
        if self.all.len() > FAULTS_MAX {
            let more = self.all.len() - FAULTS_MAX;
            self.all.truncate(FAULTS_MAX);
            self.all.push(Fault { line: None, key: String::new(), message: format!("and {more} more faults") });
        }
        self.all
    }
}

/// "did you mean ..." where a known name is near, and all the names there are.
pub(super) fn instead(given: &str, known: &[&str]) -> String {
    let all = if known.is_empty() { "there are none".to_string() } else { format!("there are {}", known.join(", ")) };
    // Long texts are no slips of the pen, and their distance is costly.
    let nearest = (given.len() <= 64)
        .then(|| known.iter().map(|k| (strsim::damerau_levenshtein(&given.to_lowercase(), k), *k)).min())
        .flatten()
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1));
    match nearest {
        Some((_, name)) => format!("did you mean {name:?}? ({all})"),
        None => all,
    }
}

/// A text of the file as a fault shows it.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{:?}...", &text[..at]),
        None => format!("{text:?}"),
    }
}
