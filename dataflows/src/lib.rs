//! tallyflow's engine: the tally algebra on timely and differential dataflow, without any I/O.
//!
//! ```text
//! records -> events -> claims -> standing -> tallies -> changes at a closed epoch
//!  source     decode     jobs    operators   operators     engine, update -> results
//! ```
//!
//! A [`source::Source`] lends records, a [`decode::Decoder`] makes events of them, [`jobs`] make claims
//! of events, [`operators`] choose which claims stand and sum them up, the [`engine`] runs all of it on
//! timely workers and tells what changed at each closed epoch ([`update`]), and [`results`] holds what
//! is served. [`recount`]
//! computes the same by a plain fold, to compare.

pub mod accounting;
pub mod checkpoint;
pub mod claim;
pub mod crash;
pub mod decode;
pub mod engine;
pub mod filter;
pub mod ids;
pub mod jobs;
pub mod number;
pub mod operators;
pub mod pointer;
pub mod record;
pub mod recount;
pub mod results;
pub mod source;
pub mod spec;
pub mod testing;
pub mod time;
pub mod update;
