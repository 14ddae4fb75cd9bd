//! The built-in dataflows: how each makes claims of events.

pub mod names;
pub mod polls;
pub mod tally;
pub mod voids;
