//! `tallyflow`: one program that is the server, its engine and the client of both.

mod bench;
mod cli;
mod config;
mod node;
mod server;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
