//! Checkpoints in object stores: the engine over a store that fails in every way that one can, and over
//! S3. Whatever the store does, the results are those of an engine that was left alone.

mod faults;
mod faulty;
mod s3;
mod world;
