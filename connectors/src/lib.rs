//! tallyflow's connectors: everything that does I/O on the engine's behalf.
//!
//! ```text
//! feeds -> log -> decode -> (the engine) -> sinks, history
//!                                        '-> dead_letters
//! ```
//!
//! `log` is where records stand (Kafka will implement the same traits), `decode` makes events of them,
//! `feeds` write records, `sinks` are where whole closed epochs are written, `history` keeps what was
//! served at past moments.

pub mod checkpoint_store;
pub mod dead_letters;
pub mod decode;
pub mod feeds;
pub mod history;
pub mod log;
pub mod recount_base;
pub mod sinks;
