//! Voids: making them, looking at them, taking them back.

use crate::node::job::JobStatus;
use crate::node::{VoidView, VoidedOffsets};
use crate::server::Shared;
use crate::server::answer::{Items, blocking};
use crate::server::body::{self, Bounds};
use crate::server::input::{Name, Query};
use crate::server::keeping::location;
use crate::server::problem::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::sync::Arc;
use tallyflow_dataflows::spec::voids::Voided;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// No void is longer, in bytes.
const VOID_BYTES_MAX: usize = 4 << 20;

pub fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(list, make)).routes(routes!(show, take_back))
}

/// What is to be voided: by one of `entity`, `offsets` and `where`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewVoid {
    /// One entity or several, as `why` writes them: in a job of polls voters, authors, or messages by their id.
    entity: Option<Entities>,
    offsets: Option<VoidedOffsets>,
    /// A CEL expression over `event`.
    #[serde(rename = "where")]
    expression: Option<String>,
    /// Why these do not count; shown wherever they are.
    #[schema(min_length = 1, max_length = 1024)]
    reason: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum Entities {
    One(String),
    Several(Vec<String>),
}

impl NewVoid {
    fn what(self) -> Result<(Voided, String), Problem> {
        let what = match (self.entity, self.offsets, self.expression) {
            (Some(Entities::One(entity)), None, None) => Voided::Entity([entity].into()),
            (Some(Entities::Several(entities)), None, None) => Voided::Entity(entities.into_iter().collect()),
            (None, Some(VoidedOffsets { topic, partition, from, to }), None) => {
                Voided::Offsets { topic, partition, from, to }
            }
            (None, None, Some(source)) => Voided::Where(source),
            _ => return Err(Problem::refused("a void is by one of `entity`, `offsets` and `where`; give just one")),
        };
        Ok((what, self.reason))
    }
}

/// A job's voids by id: those in force, those to come and those to go.
#[utoipa::path(
    get, path = "/api/jobs/{job}/voids", operation_id = "list_voids", tag = "jobs",
    params(
        ("job" = String, Path, description = "The job's name"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "At most so many; 100 unless said"),
        ("after" = Option<u64>, Query, description = "`next` of the answer before"),
    ),
    responses(
        (status = 200, description = "In pages", body = inline(Items<VoidView>)),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
    ),
)]
async fn list(State(shared): State<Arc<Shared>>, Name(name): Name, mut query: Query) -> Result<Response, Problem> {
    let page = query.page()?;
    query.end()?;
    let after = match &page.after {
        None => 0,
        Some(text) => {
            // As far as JSON's description of numbers goes.
            let id = text.parse().ok().filter(|id| *id <= i64::MAX as u64);
            id.ok_or_else(|| Problem::bad(format!("`after` must be the id of a void, not {text:?}")))?
        }
    };
    let mut voids: Vec<VoidView> = shared.host()?.voids(&name)?.into_iter().filter(|void| void.id > after).collect();
    let more = voids.len() > page.limit;
    voids.truncate(page.limit);
    let next = voids.last().filter(|_| more).map(|void| void.id.to_string());
    Ok(Items::response((voids, next)))
}

/// Voids records that the log has by now.
#[utoipa::path(
    post, path = "/api/jobs/{job}/voids", operation_id = "make_void", tag = "jobs",
    params(("job" = String, Path, description = "The job's name")),
    request_body = NewVoid,
    responses(
        (status = 201, description = "It is noted, and the job is being computed with it", body = VoidView,
            headers(("Location" = String, description = "The void, whose state tells whether it is in force"))),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 408, response = Problem),
        (status = 409, description = "The job is in a state in which that can't be, or retention has taken what it would take", body = Problem, content_type = "application/problem+json"),
        (status = 413, response = Problem),
        (status = 415, response = Problem),
        (status = 422, description = "What it says can't be", body = Problem, content_type = "application/problem+json"),
        (status = 429, response = Problem),
        (status = 500, response = Problem),
        (status = 507, response = Problem),
    ),
)]
async fn make(
    State(shared): State<Arc<Shared>>,
    Name(name): Name,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    query.end()?;
    let bounds = Bounds { bytes_max: VOID_BYTES_MAX, line_bytes_max: None, inflight: shared.inflight.clone() };
    let held = body::json(&headers, body, &bounds, "a void", &["application/json"]).await?;
    let void: NewVoid = match serde_json::from_slice(&held.bytes) {
        Ok(void) => void,
        Err(error) if error.is_data() => return Err(Problem::refused(format!("the void: {error}"))),
        Err(error) => return Err(Problem::bad(format!("the body is no JSON: {error}"))),
    };
    let (what, reason) = void.what()?;
    let (host, job) = (shared.host()?, name.clone());
    let void = blocking(move || host.void(&job, what, &reason)).await?;
    Ok((StatusCode::CREATED, location(&format!("/api/jobs/{name}/voids/{}", void.id))?, Json(void)).into_response())
}

/// One void.
#[utoipa::path(
    get, path = "/api/jobs/{job}/voids/{id}", operation_id = "show_void", tag = "jobs",
    params(("job" = String, Path, description = "The job's name"), ("id" = u64, Path, description = "The void's id")),
    responses(
        (status = 200, description = "As it is now", body = VoidView),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
    ),
)]
async fn show(
    State(shared): State<Arc<Shared>>,
    Path((name, id)): Path<(String, String)>,
    query: Query,
) -> Result<Response, Problem> {
    query.end()?;
    let id = void_id(&name, &id)?;
    let void = shared.host()?.voids(&name)?.into_iter().find(|void| void.id == id);
    void.map(|void| Json(void).into_response()).ok_or_else(|| no_such(&name, &id.to_string()))
}

/// Takes a void back.
#[utoipa::path(
    delete, path = "/api/jobs/{job}/voids/{id}", operation_id = "take_back_void", tag = "jobs",
    params(("job" = String, Path, description = "The job's name"), ("id" = u64, Path, description = "The void's id")),
    responses(
        (status = 202, description = "It is noted, and the job is being computed without it", body = JobStatus,
            headers(("Location" = String, description = "The job, whose `replacing` and state tell how far that has come"))),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 409, description = "The job is in a state in which that can't be, or retention has taken what it would take", body = Problem, content_type = "application/problem+json"),
        (status = 500, response = Problem),
        (status = 507, response = Problem),
    ),
)]
async fn take_back(
    State(shared): State<Arc<Shared>>,
    Path((name, id)): Path<(String, String)>,
    query: Query,
) -> Result<Response, Problem> {
    query.end()?;
    let id = void_id(&name, &id)?;
    let host = shared.host()?;
    let job = blocking(move || host.unvoid(&name, id)).await?;
    Ok((StatusCode::ACCEPTED, location(&format!("/api/jobs/{}", job.name()))?, Json(job.status())).into_response())
}

fn void_id(job: &str, id: &str) -> Result<u64, Problem> {
    id.parse().map_err(|_| no_such(job, id))
}

fn no_such(job: &str, id: &str) -> Problem {
    Problem::unknown(format!("job {job:?} has no void {id:?}"))
}
