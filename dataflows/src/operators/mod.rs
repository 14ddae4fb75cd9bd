//! The operators between claims and tallies, one a file.

pub mod extremes;
pub mod match_options;
pub mod standing;
pub mod table;
pub mod tally;
