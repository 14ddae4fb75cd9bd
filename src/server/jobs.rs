//! Jobs: submitting, looking, pausing, resuming, cancelling, recounting.

use crate::node::job::Job;
use crate::node::job::{JobState, JobStatus};
use crate::node::{CancelMode, JobText, Recounted, Submitted};
use crate::server::Shared;
use crate::server::answer::{Items, blocking, blocking_until_gone};
use crate::server::body::{self, Bounds};
use crate::server::input::{Name, Query};
use crate::server::problem::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use tallyflow_dataflows::spec::JOB_FILE_BYTES_MAX;
use tallyflow_dataflows::update::Graph;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(list, submit))
        .routes(routes!(validate))
        .routes(routes!(show, cancel))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(recount))
        .routes(routes!(graph))
}

/// That a job file holds no fault.
#[derive(Debug, Serialize, ToSchema)]
struct Valid {
    valid: bool,
}

/// Reads a job file. Its media type may say what it is; where it does not, its first character does.
async fn job_text(shared: &Shared, headers: &HeaderMap, body: Body) -> Result<JobText, Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).map(|v| v.to_str().unwrap_or("?").to_ascii_lowercase());
    let media_type = media_type.as_deref().map(|v| v.split(';').next().unwrap_or_default().trim());
    let json = match media_type {
        Some("application/json") => Some(true),
        Some("application/toml" | "text/x-toml" | "text/toml") => Some(false),
        // What clients send who were not told a type.
        None => None,
        Some(untold) if body::UNTOLD.contains(&untold) => None,
        Some(other) => {
            let detail = format!("a job file is application/toml or application/json, not {other:?}");
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
    };
    let bounds = Bounds { bytes_max: JOB_FILE_BYTES_MAX, line_bytes_max: None, inflight: shared.inflight.clone() };
    let held = body::read(headers, body, &bounds).await?;
    let text = String::from_utf8(held.bytes).map_err(|_| Problem::bad("the job file is no UTF-8"))?;
    let json = json.unwrap_or_else(|| text.trim_start().starts_with('{'));
    Ok(if json { JobText::Json(text) } else { JobText::Toml(text) })
}

/// Submits a job; with `replace` in the place of the one of its name.
///
/// Other sinks, another `top` and other defaults of polls are taken over at once. Anything else is computed
/// from the log beside the running job, whose readers keep its numbers until the new ones take their place
/// in one change; `replacing` in the job's status tells how far that has come.
#[utoipa::path(
    post, path = "/api/jobs", tag = "jobs",
    params(("replace" = Option<bool>, Query, description = "true: in the place of the job of that name, if there is one"),
        ("take_over" = Option<bool>, Query, description = "true: its sinks write over what another server left there, whatever its epochs")),
    request_body(content(
        (String = "application/toml"),
        (serde_json::Value = "application/json"),
    ), description = "The job file, as TOML or JSON"),
    responses(
        (status = 200, description = "The job of that name is replaced, or is being replaced", body = JobStatus,
            headers(("Location" = String, description = "Where the job is to be found"))),
        (status = 201, description = "The job is starting", body = JobStatus,
            headers(("Location" = String, description = "Where the job is to be found"))),
        (status = 400, response = Problem),
        (status = 408, response = Problem),
        (status = 409, description = "A job of that name is there already, or can't be replaced as it is now", body = Problem, content_type = "application/problem+json"),
        (status = 413, response = Problem),
        (status = 415, response = Problem),
        (status = 422, description = "The job file has faults; `faults` has every one and its place", body = Problem, content_type = "application/problem+json"),
        (status = 429, response = Problem),
        (status = 500, response = Problem),
    ),
)]
async fn submit(
    State(shared): State<Arc<Shared>>,
    mut query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let replace = query.word("replace", &[("true", true), ("false", false)])?.unwrap_or_default();
    let take_over = query.word("take_over", &[("true", true), ("false", false)])?.unwrap_or_default();
    query.end()?;
    let text = job_text(&shared, &headers, body).await?;
    let host = shared.host()?;
    let submit = move || match replace {
        true => host.replace(&text, take_over),
        false => host.submit(&text, take_over).map(Submitted::Anew),
    };
    match blocking(submit).await? {
        Submitted::Anew(job) => located(StatusCode::CREATED, &job),
        Submitted::Replacing(job) => located(StatusCode::OK, &job),
    }
}

/// A job's status, with where it is to be found.
pub fn located(status: StatusCode, job: &Job) -> Result<Response, Problem> {
    // A job's name needs no escaping in a path.
    let location = HeaderValue::from_str(&format!("/api/jobs/{}", job.name()))
        .map_err(|_| Problem::internal("the job's name fits in no header"))?;
    Ok((status, [(header::LOCATION, location)], Json(job.status())).into_response())
}

/// Checks a job file without starting anything.
#[utoipa::path(
    post, path = "/api/jobs/validate", tag = "jobs",
    request_body(content(
        (String = "application/toml"),
        (serde_json::Value = "application/json"),
    ), description = "The job file, as TOML or JSON"),
    responses(
        (status = 200, description = "It could be submitted", body = Valid),
        (status = 400, response = Problem),
        (status = 408, response = Problem),
        (status = 409, description = "A job of that name is there already", body = Problem, content_type = "application/problem+json"),
        (status = 413, response = Problem),
        (status = 415, response = Problem),
        (status = 422, description = "The job file has faults; `faults` has every one and its place", body = Problem, content_type = "application/problem+json"),
        (status = 429, response = Problem),
        (status = 500, response = Problem),
    ),
)]
async fn validate(
    State(shared): State<Arc<Shared>>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    query.end()?;
    let text = job_text(&shared, &headers, body).await?;
    let host = shared.host()?;
    blocking(move || host.validate(&text)).await?;
    Ok(Json(Valid { valid: true }).into_response())
}

/// All jobs by name.
#[utoipa::path(
    get, path = "/api/jobs", tag = "jobs",
    params(
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "At most so many; 100 unless said"),
        ("after" = Option<String>, Query, description = "The `next` of the answer before"),
    ),
    responses(
        (status = 200, description = "The jobs", body = Items<JobStatus>),
        (status = 400, response = Problem),
    ),
)]
async fn list(State(shared): State<Arc<Shared>>, mut query: Query) -> Result<Response, Problem> {
    let page = query.page()?;
    query.end()?;
    let jobs = shared.shows.jobs();
    let (jobs, next) = page.cut(&jobs, |job| job.name());
    Ok(Items::response((jobs.into_iter().map(|job| job.status()).collect(), next)))
}

/// One job: its state, inputs, lag and accounting.
#[utoipa::path(
    get, path = "/api/jobs/{job}", tag = "jobs",
    params(("job" = String, Path, description = "The job's name")),
    responses(
        (status = 200, description = "The job", body = JobStatus),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
    ),
)]
async fn show(State(shared): State<Arc<Shared>>, Name(name): Name, query: Query) -> Result<Response, Problem> {
    query.end()?;
    Ok(Json(shared.shows.job(&name)?.status()).into_response())
}

/// Ends a job. Its last results stay readable until the name is used again.
#[utoipa::path(
    delete, path = "/api/jobs/{job}", tag = "jobs",
    params(
        ("job" = String, Path, description = "The job's name"),
        ("mode" = Option<CancelMode>, Query,
            description = "drain: reads to the log ends of now and flushes the sinks first; checkpoint: stops where it is and writes a checkpoint, from which a restart goes on; now: stops where it is"),
    ),
    responses(
        (status = 200, description = "It has ended", body = JobStatus),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 409, description = "It is in a state in which that can't be", body = Problem, content_type = "application/problem+json"),
        (status = 500, response = Problem),
    ),
)]
async fn cancel(State(shared): State<Arc<Shared>>, Name(name): Name, mut query: Query) -> Result<Response, Problem> {
    let modes = [("drain", CancelMode::Drain), ("checkpoint", CancelMode::Checkpoint), ("now", CancelMode::Now)];
    let mode = query.word("mode", &modes)?.unwrap_or_default();
    query.end()?;
    let host = shared.host()?;
    let job = blocking(move || host.cancel(&name, mode)).await?;
    Ok(Json(job.status()).into_response())
}

/// Stops a job's reading; its results stay.
#[utoipa::path(
    post, path = "/api/jobs/{job}/pause", tag = "jobs",
    params(("job" = String, Path, description = "The job's name")),
    responses(
        (status = 200, description = "It reads no more", body = JobStatus),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 409, description = "It is in a state in which that can't be", body = Problem, content_type = "application/problem+json"),
        (status = 500, response = Problem),
    ),
)]
async fn pause(State(shared): State<Arc<Shared>>, Name(name): Name, query: Query) -> Result<Response, Problem> {
    query.end()?;
    let host = shared.host()?;
    let job = blocking(move || host.pause(&name)).await?;
    Ok(Json(job.status()).into_response())
}

/// Lets a paused job read on.
#[utoipa::path(
    post, path = "/api/jobs/{job}/resume", tag = "jobs",
    params(("job" = String, Path, description = "The job's name")),
    responses(
        (status = 200, description = "It reads on", body = JobStatus),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 409, description = "It is in a state in which that can't be", body = Problem, content_type = "application/problem+json"),
        (status = 500, response = Problem),
    ),
)]
async fn resume(State(shared): State<Arc<Shared>>, Name(name): Name, query: Query) -> Result<Response, Problem> {
    query.end()?;
    let host = shared.host()?;
    let job = blocking(move || host.resume(&name)).await?;
    Ok(Json(job.status()).into_response())
}

/// Recounts a job from the log by a plain fold and compares.
///
/// The job goes on meanwhile; `recount` in its status tells how far this has come. It ends when the client
/// goes away.
#[utoipa::path(
    post, path = "/api/jobs/{job}/recount", tag = "jobs",
    params(("job" = String, Path, description = "The job's name")),
    responses(
        (status = 200, description = "How it compares", body = Recounted),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 409, description = "Its records are being read again already, or the job has ended meanwhile", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "Retention has taken records that it has counted", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "One entity does not fit in memory", body = Problem, content_type = "application/problem+json"),
        (status = 500, response = Problem),
        (status = 503, description = "The job has shown nothing yet, or polls of it are being counted beside it", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn recount(State(shared): State<Arc<Shared>>, Name(name): Name, query: Query) -> Result<Response, Problem> {
    query.end()?;
    let host = shared.host()?;
    Ok(Json(blocking_until_gone(move |stop| host.recount(&name, stop)).await?).into_response())
}

/// The operators of a job and how they are joined.
#[utoipa::path(
    get, path = "/api/jobs/{job}/graph", tag = "jobs",
    params(("job" = String, Path, description = "The job's name")),
    responses(
        (status = 200, description = "The graph", body = Graph),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 503, description = "The dataflow is still being built", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn graph(State(shared): State<Arc<Shared>>, Name(name): Name, query: Query) -> Result<Response, Problem> {
    query.end()?;
    let job = shared.shows.job(&name)?;
    let plan = job.plan();
    if plan.graph.operators.is_empty() && job.state() == JobState::Starting {
        return Err(Problem::not_yet(format!("the dataflow of job {name:?} is still being built")));
    }
    Ok(Json(&plan.graph).into_response())
}
