//! Sinks: where whole closed epochs are written.
