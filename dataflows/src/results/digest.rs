//! The digest of all lines, by which two runs are compared.

use crate::number::Decimal;
use crate::results::Group;
use ethnum::U256;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// The sum modulo 2^256 of the SHA-256 of each line's canonical text: kept line by line, and the same
/// in whatever order the lines come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(U256);

impl Default for Digest {
    fn default() -> Self {
        Digest(U256::ZERO)
    }
}

impl Digest {
    /// The digest of one line.
    pub fn of_line(subject: &str, group: &Group, values: &[Decimal]) -> Self {
        Digest(U256::from_be_bytes(Sha256::digest(line_text(subject, group, values)).into()))
    }

    /// Adds a line.
    pub fn add(&mut self, line: Digest) {
        self.0 = self.0.wrapping_add(line.0);
    }

    /// Takes a line away.
    pub fn remove(&mut self, line: Digest) {
        self.0 = self.0.wrapping_sub(line.0);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{:064x}", self.0)
    }
}

/// The canonical text of a line: a JSON array, without spaces, of the subject, the group as in every
/// answer, and every aggregate's value in the job's order: `["moods","happy",801]`. Strings are
/// escaped as `serde_json` does: `"`, `\` and control characters, nothing else.
pub fn line_text(subject: &str, group: &Group, values: &[Decimal]) -> String {
    let json = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
    let mut text = format!("[{},{}", json(serde_json::to_string(subject)), json(serde_json::to_string(group)));
    for value in values {
        text.push(',');
        text.push_str(&value.to_string());
    }
    text.push(']');
    text
}
