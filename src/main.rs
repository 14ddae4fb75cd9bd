//! `tallyflow`: one program that is the server, its engine and the client of both.

mod bench;
mod cli;
mod config;
mod node;
mod server;

use std::process::ExitCode;

/// Claims are made on one thread and dropped on another, which the system's allocator does at a
/// quarter of the engine's time on posts.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
