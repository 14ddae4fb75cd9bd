//! The operators between claims and tallies, one a file.

pub mod extremes;
pub mod lines;
pub mod slab;
pub mod standing;
pub mod table;
pub mod tally;
