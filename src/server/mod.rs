//! The HTTP server: the API, event streams, metrics, and a small page.
//!
//! ```text
//!   listener --accept--> connection (hyper) --> router (axum) --> handlers --> Host (the node)
//!                                                    '--> EventStream --> Hub --> Job
//! ```
//!
//! Every error is a problem document ([`problem`]), every parameter is checked ([`input`]), every body
//! is bounded ([`body`]). What blocks runs on threads for that.

mod accept;
pub mod answer;
mod body;
pub mod events;
mod forward;
mod history;
pub mod host;
mod input;
mod jobs;
mod keeping;
mod looks;
mod metrics;
mod polls;
mod problem;
mod records;
mod service;
mod tallies;
mod topics;
mod voids;
mod votes;

#[cfg(test)]
mod poll_tests;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

pub use accept::raise_open_files;

use crate::config::Config;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use events::hub::Hub;
use host::{Asked, Host, Shows};
use metrics::{Method, Metrics, RequestLabels};
use problem::{PROBLEM_JSON, Problem};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::SwaggerUi;

/// The server's bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// The largest body of records.
    pub body_bytes_max: usize,
    /// The longest record.
    pub record_bytes_max: usize,
    /// What all bodies that are being read or written may hold together.
    pub inflight_bytes_max: usize,
    /// Connections open at once; more wait to be accepted.
    pub connections_max: usize,
    /// How long a client may take for the head of a request, and between two requests.
    pub header_timeout: Duration,
    /// How long open requests may take to end when the server stops.
    pub stop_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            body_bytes_max: 16 << 20,
            record_bytes_max: 1 << 20,
            inflight_bytes_max: 64 << 20,
            connections_max: 16_000,
            header_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(3),
        }
    }
}

impl From<&Config> for ServerConfig {
    fn from(config: &Config) -> Self {
        ServerConfig {
            body_bytes_max: config.server.body_bytes_max,
            record_bytes_max: config.log.record_bytes_max,
            inflight_bytes_max: config.log.inflight_bytes_max,
            connections_max: config.server.connections_max,
            ..ServerConfig::default()
        }
    }
}

/// How many readings of history run at once; more wait.
const HISTORY_READS_MAX: usize = 4;

/// What handlers share.
pub struct Shared {
    shows: Arc<dyn Shows>,
    asked: Asked,
    config: ServerConfig,
    hub: Hub,
    inflight: Arc<Semaphore>,
    /// Readings of history: each holds what it answers in memory.
    history_reads: Semaphore,
    metrics: Metrics,
}

impl Shared {
    pub fn new(asked: Asked, config: ServerConfig) -> Arc<Self> {
        let shows: Arc<dyn Shows> = match &asked {
            Asked::Node(node) => node.clone(),
            Asked::Member(member) => member.clone(),
        };
        // A body holds at most u32::MAX permits at once; the configuration stays far below.
        let inflight = Arc::new(Semaphore::new(config.inflight_bytes_max.min(Semaphore::MAX_PERMITS)));
        Arc::new(Shared {
            hub: Hub::new(shows.clone()),
            shows,
            asked,
            config,
            inflight,
            history_reads: Semaphore::new(HISTORY_READS_MAX),
            metrics: Metrics::default(),
        })
    }

    /// The node. A process that does not lead has none: what wants it is passed on to the one that does, see
    /// [`forward`].
    fn host(&self) -> Result<Arc<dyn Host>, Problem> {
        match &self.asked {
            Asked::Node(node) => Ok(node.clone()),
            Asked::Member(member) => Err(Problem::not_yet(member.without_leader())),
        }
    }
}

/// Serves whoever connects, and the connections of other processes, until `shutdown` is done, then ends every event stream with a `status` event and returns
/// when the open requests have ended, at the latest after [`ServerConfig::stop_timeout`].
pub async fn run(
    (listener, forwarded): (TcpListener, mpsc::Receiver<std::net::TcpStream>),
    asked: Asked,
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let shared = Shared::new(asked, config);
    accept::run((listener, forwarded), router(shared.clone()), shared, shutdown).await;
    Ok(())
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "tallyflow",
        description = "Keeps tallies current and exact: records in, live counts out. Errors are RFC 9457 problem documents.",
        license(name = "MIT OR Apache-2.0"),
    ),
    // Named by parameters, which don't bring their schemas along.
    components(responses(Problem), schemas(crate::node::CancelMode, tallies::Format)),
    tags(
        (name = "jobs", description = "Submitting, looking after and ending jobs"),
        (name = "results", description = "What jobs come to, and what became of records"),
        (name = "events", description = "Live results as Server-Sent Events"),
        (name = "polls", description = "Polls: making, changing, closing them, and voting"),
        (name = "topics", description = "The embedded log"),
        (name = "server", description = "The server itself"),
    ),
)]
struct Api;

/// Every route.
pub fn router(shared: Arc<Shared>) -> Router {
    let routes = OpenApiRouter::with_openapi(Api::openapi())
        .merge(jobs::routes())
        .merge(tallies::routes())
        .merge(history::routes())
        .merge(looks::routes())
        .merge(events::routes::routes())
        .merge(polls::routes())
        .merge(topics::routes())
        .merge(keeping::routes())
        .merge(voids::routes())
        .merge(service::routes());
    let (routes, api) = routes.split_for_parts();
    routes
        .merge(SwaggerUi::new("/docs").url("/openapi.json", api))
        .layer(middleware::from_fn_with_state(shared.clone(), around))
        .with_state(shared)
}

/// Counts every request, and sees to it that no error leaves in another form than a problem document:
/// the router refuses unknown paths and methods on its own.
async fn around(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let method = Method::of(request.method());
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let mut response = match &shared.asked {
        Asked::Member(member) if !forward::is_answered_here(&request, &route) => {
            forward::forward(member, request).await
        }
        Asked::Node(_) | Asked::Member(_) => next.run(request).await,
    };
    let status = response.status();
    if (status.is_client_error() || status.is_server_error()) && !is_problem(response.headers()) {
        let allow = response.headers_mut().remove(header::ALLOW);
        response = problem::of_router(status).into_response();
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    shared.metrics.requests.get_or_create(&RequestLabels { method, route, status: status.as_u16() }).inc();
    response
}

fn is_problem(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(PROBLEM_JSON.as_bytes()))
}
