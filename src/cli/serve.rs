//! `tallyflow serve`: the server from its start to its end.
//!
//! ```text
//! configuration -> port bound -> node opened -> HTTP -> "listening on ..." -> signal -> HTTP ends -> node ends
//! ```
//!
//! The port comes first: when it is taken, nothing has been touched.

use super::Outcome;
use super::WrongUsage;
use super::args::{ConfigArgs, ServeArgs};
use super::output::line;
use crate::config::{Config, Flags};
use crate::logging;
use crate::node::{Member, Node};
use crate::server::host::Asked;
use anyhow::{Context, anyhow, bail};
use std::future::Future;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

/// How long the HTTP server may take to end; together with [`NODE_STOP_MAX`] below the promised 10 s.
const HTTP_STOP_MAX: Duration = Duration::from_secs(4);

/// How long the node may take to flush its sinks and end its engine.
const NODE_STOP_MAX: Duration = Duration::from_secs(5);

/// Connections of other processes that wait to be taken; more are let go.
const FORWARDED_MAX: usize = 256;

/// Runs the server until a signal.
pub fn run(args: &ServeArgs) -> anyhow::Result<Outcome> {
    let only = Flags {
        data_dir: args.data_dir.clone(),
        checkpoint_url: args.checkpoint_url.clone(),
        kafka: args.kafka.clone(),
        processes: args.processes,
        process: args.process,
        hosts: args.hosts.clone(),
        ..Flags::default()
    };
    let config = load(&args.config, only)?;
    logging::to_stderr(config.log_level.clone());
    let runtime = runtime()?;
    let outcome = runtime.block_on(async {
        let Some(server) = Server::start(config).await? else { return Ok(Outcome::Done) };
        server.announce();
        server.until(async {}).await
    });
    // What did not end in its time is not waited for.
    runtime.shutdown_background();
    outcome
}

/// The configuration of a server command; `flags` are those that not all of them have.
pub fn load(args: &ConfigArgs, flags: Flags) -> anyhow::Result<Config> {
    let (listen, log_level) = (args.listen.clone(), args.log_level.clone());
    let flags = Flags { listen, workers: args.workers, log_level, ..flags };
    Config::load(args.config.as_deref(), std::env::vars_os(), flags).map_err(|e| WrongUsage(e.into()).into())
}

/// The runtime of a server command.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime can't be started")
}

/// What this process is.
#[derive(Clone)]
enum Part {
    /// The only one, or the one that leads.
    Node(Arc<Node>),
    /// One that does not lead.
    Member(Arc<Member>),
}

impl Part {
    fn open(config: &Config) -> anyhow::Result<Part> {
        let is_member = config.cluster.as_ref().is_some_and(|cluster| cluster.process > 0);
        if is_member { Member::open(config).map(Part::Member) } else { Node::open(config).map(Part::Node) }
    }

    fn asked(&self) -> Asked {
        match self {
            Part::Node(node) => Asked::Node(node.clone()),
            Part::Member(member) => Asked::Member(member.clone()),
        }
    }

    /// Blocks, some seconds at most.
    fn shutdown(&self) {
        match self {
            Part::Node(node) => node.shutdown(),
            Part::Member(member) => member.shutdown(),
        }
    }

    /// Resolves when it can't go on, with why.
    async fn refused(&self) -> String {
        match self {
            Part::Node(_) => std::future::pending().await,
            Part::Member(member) => member.refused().await,
        }
    }
}

/// A server that answers.
pub struct Server {
    addr: SocketAddr,
    part: Part,
    http: JoinHandle<anyhow::Result<()>>,
    stop: watch::Sender<bool>,
    signals: Signals,
}

impl Server {
    /// Binds, opens the node, serves. `None`: there was a signal before that was done, and the process is to end,
    /// which is as good as a crash: its engine ends with it, and nothing that was acknowledged is lost.
    pub async fn start(config: Config) -> anyhow::Result<Option<Server>> {
        let listener = bind(config.listen).await?;
        let addr = listener.local_addr().context("the address that was bound can't be read")?;
        // From here on a signal is waited for, not died of: the node may hold a lock and a child.
        let mut signals = Signals::new()?;
        check_data_dir(&config.data_dir)?;
        let server_config = crate::server::ServerConfig::from(&config);
        let part = tokio::select! {
            // It may wait for a minute for brokers that are away.
            () = signals.received() => {
                info!("stopping before it has started");
                return Ok(None);
            }
            opened = tokio::task::spawn_blocking(move || Part::open(&config)) => opened??,
        };
        let (stop, stopped) = watch::channel(false);
        let (forward, forwarded) = mpsc::channel(FORWARDED_MAX);
        if let Part::Node(node) = &part {
            node.serve_forwarded(forward);
        }
        let taken = (listener, forwarded);
        let http = tokio::spawn(crate::server::run(taken, part.asked(), server_config, stopping(stopped)));
        Ok(Some(Server { addr, part, http, stop, signals }))
    }

    /// Tells on stdout that the server is ready. Nobody has to listen.
    pub fn announce(&self) {
        let _ = line(format_args!("listening on http://{}", self.addr));
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The node; a process that does not lead has none.
    pub fn node(&self) -> Option<&Arc<Node>> {
        match &self.part {
            Part::Node(node) => Some(node),
            Part::Member(_) => None,
        }
    }

    /// Resolves when the server begins to stop.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        stopping(self.stop.subscribe())
    }

    /// Serves until a signal, then stops.
    pub async fn until(mut self, others: impl Future<Output = ()>) -> anyhow::Result<Outcome> {
        let ended = tokio::select! {
            () = self.signals.received() => return self.stop(others).await,
            ended = &mut self.http => Ok(ended),
            why = self.part.refused() => Err(anyhow!(why)),
        };
        // It ends only when asked to; the node is ended all the same.
        let failed = match ended {
            Err(refused) => {
                self.stop(others).await?;
                return Err(refused);
            }
            Ok(Ok(Ok(()))) => anyhow!("the HTTP server ended by itself; start again"),
            Ok(Ok(Err(error))) => error.context("the HTTP server failed"),
            Ok(Err(error)) => anyhow!(error).context("the HTTP server failed"),
        };
        self.http = tokio::spawn(async { Ok(()) });
        self.stop(others).await?;
        Err(failed)
    }

    /// Lets the readers go, waits for `others` to notice, and ends the node, all within 10 s.
    pub async fn stop(mut self, others: impl Future<Output = ()>) -> anyhow::Result<Outcome> {
        info!("stopping");
        self.stop.send_replace(true);
        let http = tokio::time::timeout(HTTP_STOP_MAX, async { tokio::join!(&mut self.http, others).0 }).await;
        if http.is_err() {
            warn!("some connections did not end in time and are cut");
            self.http.abort();
        }
        let part = self.part.clone();
        let ending = tokio::task::spawn_blocking(move || part.shutdown());
        tokio::select! {
            ended = tokio::time::timeout(NODE_STOP_MAX, ending) => {
                if ended.is_err() {
                    warn!("the node did not end in time; what is not flushed is made good at the next start");
                }
            }
            // Asked twice.
            () = self.signals.received() => warn!("not waiting for the node to end"),
        }
        Ok(Outcome::Done)
    }
}

async fn stopping(mut stopped: watch::Receiver<bool>) {
    // An error means that the server is gone, which is as good.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn bind(addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.map_err(|e| match e.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "{addr} is taken by another program; stop it, or choose another address with --listen (port 0 picks a free one)"
        ),
        ErrorKind::PermissionDenied => {
            anyhow!("listening on {addr} is not permitted; choose a port from 1024 with --listen")
        }
        _ => anyhow!("listening on {addr} fails: {e}; choose another address with --listen"),
    })
}

/// Whether something can be kept there, before anything is.
fn check_data_dir(dir: &Path) -> anyhow::Result<()> {
    let tried = std::fs::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir));
    if let Err(e) = tried {
        bail!("nothing can be written to the data directory {}: {e}; name another with --data-dir", dir.display());
    }
    Ok(())
}

/// SIGTERM and Ctrl-C.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
        }
        #[cfg(not(unix))]
        Ok(Signals {})
    }

    async fn received(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}
