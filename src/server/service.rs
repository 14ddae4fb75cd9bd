//! The routes that watch the server itself, and its page.

use crate::node::{ClusterStatus, is_internal};
use crate::server::answer::{blocking, typed};
use crate::server::host::Asked;
use crate::server::input::Query;
use crate::server::problem::Problem;
use crate::server::{Shared, metrics};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, LazyLock};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The page at `/`.
const PAGE: &str = include_str!("page/index.html");

/// The page may run its own script, style itself and talk to this server, nothing else.
static PAGE_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let (script, style) = (hash_of("script"), hash_of("style"));
    let policy = format!(
        "default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    // Letters, digits and signs of base64 only.
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// The hash by which a policy allows the page's one element of that name.
fn hash_of(element: &str) -> String {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    let inner = PAGE.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map_or("", |(inner, _)| inner);
    format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(inner)))
}

pub fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(cluster))
        .routes(routes!(metrics_text))
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .route("/", axum::routing::get(page))
}

async fn page() -> Response {
    let mut response = typed("text/html; charset=utf-8", PAGE);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, PAGE_POLICY.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// The engine as it is now.
#[utoipa::path(
    get, path = "/api/cluster", tag = "server",
    responses(
        (status = 200, description = "Workers and restarts", body = ClusterStatus),
        (status = 400, response = Problem),
    ),
)]
async fn cluster(State(shared): State<Arc<Shared>>, query: Query) -> Result<Response, Problem> {
    query.end()?;
    Ok(Json(shared.shows.cluster()).into_response())
}

/// Metrics for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "server",
    responses(
        (status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"),
        (status = 500, response = Problem),
    ),
)]
async fn metrics_text(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    let text = blocking(move || -> Result<String, Problem> {
        // What topics hold is told by the process that leads.
        let mut topics = match &shared.asked {
            Asked::Node(node) => node.log().topics()?,
            Asked::Member(_) => Vec::new(),
        };
        topics.retain(|topic| !is_internal(&topic.name));
        metrics::render(&shared, &topics).map_err(|error| Problem::internal(error.to_string()))
    });
    Ok(typed(metrics::OPENMETRICS, text.await?))
}

/// Whether the server lives.
#[utoipa::path(
    get, path = "/healthz", tag = "server",
    responses((status = 200, description = "It lives", body = String, content_type = "text/plain")),
)]
async fn healthz() -> Response {
    typed("text/plain; charset=utf-8", "ok\n")
}

/// Whether the engine runs, and every job that should.
#[utoipa::path(
    get, path = "/readyz", tag = "server",
    responses(
        (status = 200, description = "They run", body = String, content_type = "text/plain"),
        (status = 503, description = "`detail` says what does not", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn readyz(State(shared): State<Arc<Shared>>) -> Result<Response, Problem> {
    shared.shows.ready().map_err(Problem::not_yet)?;
    Ok(typed("text/plain; charset=utf-8", "ready\n"))
}
