//! The routes of what keeps a job: its checkpoints, a restart from them, and the number of workers.

use crate::node::job::{CheckpointStatus, JobStatus};
use crate::node::{Receipt, RescaleError};
use crate::server::Shared;
use crate::server::answer::blocking;
use crate::server::body::{self, Bounds};
use crate::server::input::{Name, Query};
use crate::server::problem::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// No change of the cluster is longer.
const CHANGE_BYTES_MAX: usize = 4 << 10;

pub fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(checkpoint))
        .routes(routes!(restart))
        .routes(routes!(rescale))
        .routes(routes!(receipt))
}

/// Writes a checkpoint of a job, and answers once it is there.
#[utoipa::path(
    post, path = "/api/jobs/{job}/checkpoint", operation_id = "checkpoint_job", tag = "jobs",
    params(("job" = String, Path, description = "The job's name")),
    responses(
        (status = 200, description = "It is there", body = CheckpointStatus),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 409, description = "The job has ended", body = Problem, content_type = "application/problem+json"),
        (status = 500, response = Problem),
    ),
)]
async fn checkpoint(State(shared): State<Arc<Shared>>, Name(name): Name, query: Query) -> Result<Response, Problem> {
    query.end()?;
    let host = shared.host()?;
    let checkpoint = blocking(move || host.checkpoint(&name)).await?;
    Ok(Json(checkpoint).into_response())
}

/// Takes a job down and up again: from its newest checkpoint, or from where its inputs begin.
#[utoipa::path(
    post, path = "/api/jobs/{job}/restart", operation_id = "restart_job", tag = "jobs",
    params(
        ("job" = String, Path, description = "The job's name"),
        ("ignore_state" = Option<bool>, Query, description = "Whether to begin where the inputs do, as far as the log still has that"),
    ),
    responses(
        (status = 202, description = "It is being taken up", body = JobStatus,
            headers(("Location" = String, description = "The job, whose state tells how far it has come"))),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 409, description = "It is in a state in which that can't be", body = Problem, content_type = "application/problem+json"),
        (status = 500, response = Problem),
    ),
)]
async fn restart(State(shared): State<Arc<Shared>>, Name(name): Name, mut query: Query) -> Result<Response, Problem> {
    let ignore_state = query.word("ignore_state", &[("true", true), ("false", false)])?.unwrap_or(false);
    query.end()?;
    let host = shared.host()?;
    let job = blocking(move || host.restart(&name, ignore_state)).await?;
    Ok((StatusCode::ACCEPTED, location(&format!("/api/jobs/{}", job.name()))?, Json(job.status())).into_response())
}

/// What is to be changed of the cluster.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ClusterChange {
    /// Worker threads of the engine, 1 to 64.
    #[schema(minimum = 1, maximum = 64)]
    workers: u64,
}

/// Changes the number of workers while jobs run.
#[utoipa::path(
    patch, path = "/api/cluster", operation_id = "rescale_cluster", tag = "server",
    request_body = ClusterChange,
    responses(
        (status = 202, description = "It is being changed", body = Receipt,
            headers(("Location" = String, description = "The receipt, which tells how far that has come"))),
        (status = 400, response = Problem),
        (status = 408, response = Problem),
        (status = 409, description = "One change is under way", body = Problem, content_type = "application/problem+json",
            headers(("Location" = String, description = "Its receipt"))),
        (status = 413, response = Problem),
        (status = 415, response = Problem),
        (status = 422, description = "So many can't be", body = Problem, content_type = "application/problem+json"),
        (status = 429, response = Problem),
        (status = 500, response = Problem),
    ),
)]
async fn rescale(
    State(shared): State<Arc<Shared>>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    query.end()?;
    let bounds = Bounds { bytes_max: CHANGE_BYTES_MAX, line_bytes_max: None, inflight: shared.inflight.clone() };
    let held = body::json(&headers, body, &bounds, "a change of the cluster", &["application/json"]).await?;
    let change: ClusterChange = match serde_json::from_slice(&held.bytes) {
        Ok(change) => change,
        Err(error) if error.is_data() => return Err(Problem::refused(format!("the change: {error}"))),
        Err(error) => return Err(Problem::bad(format!("the body is no JSON: {error}"))),
    };
    match shared.host()?.rescale(change.workers) {
        Ok(receipt) => Ok((StatusCode::ACCEPTED, at(receipt.id)?, Json(receipt)).into_response()),
        Err(error @ RescaleError::Running(id)) => {
            Ok((at(id)?, Problem::new(StatusCode::CONFLICT, error.to_string())).into_response())
        }
        Err(error) => Err(Problem::refused(error.to_string())),
    }
}

/// What became of a change of the number of workers.
#[utoipa::path(
    get, path = "/api/cluster/receipts/{id}", operation_id = "show_receipt", tag = "server",
    params(("id" = u64, Path, description = "The receipt's id")),
    responses(
        (status = 200, description = "As it is now", body = Receipt),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
    ),
)]
async fn receipt(State(shared): State<Arc<Shared>>, Path(id): Path<String>, query: Query) -> Result<Response, Problem> {
    query.end()?;
    let id = id.parse().map_err(|_| Problem::unknown(RescaleError::Unknown.to_string()))?;
    let receipt = shared.host()?.receipt(id).map_err(|error| Problem::unknown(error.to_string()))?;
    Ok(Json(receipt).into_response())
}

fn at(receipt: u64) -> Result<[(header::HeaderName, HeaderValue); 1], Problem> {
    location(&format!("/api/cluster/receipts/{receipt}"))
}

pub(super) fn location(of: &str) -> Result<[(header::HeaderName, HeaderValue); 1], Problem> {
    let value = HeaderValue::from_str(of).map_err(|_| Problem::internal("the name fits in no header"))?;
    Ok([(header::LOCATION, value)])
}
