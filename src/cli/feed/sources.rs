//! Where a feed's records come from: files, or a simulation.

use crate::cli::args::Simulation;
use std::path::PathBuf;

/// A record that was read or made.
pub struct Record {
    /// One JSON value without line breaks.
    pub value: Vec<u8>,
    /// Its own time, where one was asked for.
    pub time_ms: Option<i64>,
    /// How much of the input has been read with it: bytes of files, records of a simulation.
    pub done: u64,
}

/// Records one after the other.
pub trait Records: Send {
    /// The next record; `None` at the end.
    fn next(&mut self) -> anyhow::Result<Option<Record>>;
}

/// The records of files, and how many bytes they have where that is known.
pub fn files(_files: &[PathBuf], _time: Option<&str>) -> anyhow::Result<(Box<dyn Records>, Option<u64>)> {
    anyhow::bail!("the feeds are not joined yet")
}

/// Made-up records, at most so many.
pub fn simulation(_simulation: &Simulation, _records_max: Option<u64>) -> anyhow::Result<Box<dyn Records>> {
    anyhow::bail!("the feeds are not joined yet")
}

/// What must come out of the first `records` records, as JSON.
pub fn expectation(_simulation: &Simulation, _records: u64) -> anyhow::Result<Vec<u8>> {
    anyhow::bail!("the feeds are not joined yet")
}

/// Endless made-up records, as key and value.
pub fn made(_topic: &str, _seed: u64) -> anyhow::Result<Box<dyn Iterator<Item = (String, Vec<u8>)> + Send>> {
    anyhow::bail!("the feeds are not joined yet")
}
