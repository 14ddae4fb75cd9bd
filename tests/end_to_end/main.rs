//! The real program from outside: `tallyflow serve` as a process, asked over HTTP, by event streams, by
//! its own command line and by other readers of its files. What it answers is held against a plain count
//! of what was written.
//!
//! Nothing here waits for a time to pass: each wait is for something to be so, with a deadline.

mod bad_input;
mod bank;
mod checkpoints;
mod engine;
mod faults;
mod history;
mod kafka;
mod lifecycle;
#[cfg(feature = "mongodb")]
mod mongodb;
mod node;
mod polls;
mod power_cut;
mod real_data;
mod recounts;
mod redrive;
mod replace;
mod replace_harm;
mod simulated;
mod stores;
mod support;
mod voids;
mod votes;
