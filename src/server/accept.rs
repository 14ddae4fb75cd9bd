//! The accept loop and the connections.

use crate::server::Shared;
use axum::Router;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

/// What a connection may hold of what it reads and writes, the least that hyper takes. Larger bodies
/// go through it; an event stream that nobody reads stops here and in the socket.
const BUFFER_BYTES: usize = 8 << 10;

/// How long to wait when the system has no more sockets.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Accepts until `shutdown` is done, then ends what is open.
pub async fn run(
    (listener, mut forwarded): (TcpListener, mpsc::Receiver<std::net::TcpStream>),
    router: Router,
    shared: Arc<Shared>,
    shutdown: impl Future<Output = ()>,
) {
    raise_open_files();
    let permits = Arc::new(Semaphore::new(shared.config.connections_max));
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            // Closed never; one more connection than allowed waits in the system's queue.
            let permit = permits.clone().acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => break,
            // Ended connections are cleared away as they end.
            Some(_) = connections.join_next() => {}
            Some(stream) = forwarded.recv() => {
                // Other processes have as many as they let in.
                match stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                    Ok(socket) => {
                        connections.spawn(serve(socket, router.clone(), shared.clone(), stopping.clone()));
                    }
                    Err(error) => tracing::warn!(%error, "a connection of another process could not be taken"),
                }
            }
            (permit, accepted) = accepted => match accepted {
                Ok((socket, _)) => {
                    let connection = serve(socket, router.clone(), shared.clone(), stopping.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of sockets, or a connection that was gone before it was taken.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    drop(listener);
    shared.hub.stop();
    drop(stop);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(shared.config.stop_timeout, ended).await.is_err() {
        tracing::info!(left = connections.len(), "connections that would not end are closed");
        connections.shutdown().await;
    }
}

async fn serve(socket: TcpStream, router: Router, shared: Arc<Shared>, mut stopping: watch::Receiver<()>) {
    // Every event is one write, and nobody wants it later.
    let _ = socket.set_nodelay(true);
    shared.metrics.connections.inc();
    let service =
        service_fn(move |request: Request<Incoming>| router.clone().oneshot(request.map(axum::body::Body::new)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.config.header_timeout)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // A connection that breaks is its client's business.
        _ = &mut connection => {}
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
    shared.metrics.connections.dec();
}

/// Each connection is an open file; the soft limit is often far below the hard one.
pub fn raise_open_files() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit on open files could not be raised"),
    }
}
