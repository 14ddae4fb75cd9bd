//! The operators between claims and tallies, one a file.

pub mod extremes;
pub mod standing;
pub mod table;
pub mod tally;
