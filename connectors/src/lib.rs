//! tallyflow's connectors: everything that does I/O on the engine's behalf.
//!
//! ```text
//! log    where records stand: the embedded log (Kafka implements the same traits)
//! sinks  where whole closed epochs are written
//! ```

pub mod log;
pub mod sinks;
