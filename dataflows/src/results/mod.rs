//! The results store: all tallies of a job at its newest closed epoch, and how they got there.
//!
//! The node applies each [`crate::update::EpochUpdate`] and serves from here: whole snapshots, and the changes
//! between any recent epoch and now. Sinks and readers follow it; nothing here blocks or does I/O.

mod digest;
mod model;
mod order;
mod store;

pub use digest::{Digest, line_text};
pub use model::{Change, Delta, Filter, Group, ReadError, SubjectTallies, Tallies, Tally};
pub use store::{JobResults, Past, Shape, SubjectState};

#[cfg(test)]
mod tests;
