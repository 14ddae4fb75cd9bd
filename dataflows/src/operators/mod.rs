//! The operators between claims and tallies, one a file.

pub mod extremes;
pub mod lines;
pub mod match_options;
pub mod messages;
pub mod people;
pub mod slab;
pub mod standing;
pub mod table;
pub mod tally;
