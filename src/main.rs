//! `tallyflow`: one program that is the server, its engine and the client of both.

mod bench;
mod cli;
mod config;
mod logging;
mod node;
mod server;

use std::process::ExitCode;

/// Claims are made on one thread and dropped on another, which the system's allocator does at a quarter of the
/// engine's time on posts. So it is with librdkafka's messages: C has this allocator too (feature `override`), with
/// which a plain loop on Kafka took 10 s where it had taken 14.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tallyflow_dataflows::crash::arm();
    keep_pages_small();
    cli::main()
}

/// State that grows would otherwise come upon a page of 2 MiB now and then, and wait while the kernel
/// clears all of it: up to 7 ms on a virtual machine, for 7 % less CPU. Child processes inherit it.
fn keep_pages_small() {
    #[cfg(target_os = "linux")]
    // A kernel that knows no such pages gives none.
    rustix::thread::disable_transparent_huge_pages(true).ok();
}
