//! The `polls` dataflow: which polls there are, and how a message or a vote becomes claims for them.

pub mod book;
pub mod judge;
