//! `tallyflow`: one program that is the server, its engine and the client of both.

mod cli;
mod config;
mod node;

use std::process::ExitCode;

/// To be joined: the HTTP server and the engine's process are being written elsewhere.
mod server {
    use crate::{config::ServerConfig, node::Node};
    use std::{future::Future, sync::Arc};

    pub async fn run(
        _listener: tokio::net::TcpListener,
        _node: Arc<Node>,
        _config: ServerConfig,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<()> {
        stop.await;
        Ok(())
    }
}

fn main() -> ExitCode {
    cli::main()
}
