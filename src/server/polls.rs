//! Polls: making, looking, changing, closing, deleting.

use crate::node::polls::{PollFilling, PollState, PollView};
use crate::server::Shared;
use crate::server::answer::{Items, blocking};
use crate::server::body::{self, Bounds};
use crate::server::input::{Name, Query};
use crate::server::problem::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::{Filter, SubjectTallies, Tallies};
use tallyflow_dataflows::spec::definition::DEFINITION_BYTES_MAX;
use tallyflow_dataflows::spec::written::{Definition, NewPoll};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, change, delete))
        .routes(routes!(close))
        .routes(routes!(crate::server::votes::vote))
}

/// A poll: its newest definition, and how it stands.
#[derive(Debug, Serialize, ToSchema)]
struct PollStatus {
    #[serde(flatten)]
    definition: Definition,
    /// Of the version whose numbers are shown.
    state: PollState,
    /// The version whose numbers are shown; null: none yet.
    shown: Option<u32>,
    /// How far the newest version has been counted, while another is shown or none; else null.
    refill: Option<PollFilling>,
}

/// A poll in a list.
#[derive(Debug, Serialize, ToSchema)]
struct PollItem {
    #[serde(flatten)]
    status: PollStatus,
    /// The sum of its tallies; null: there are none to show yet.
    total: Option<Decimal>,
}

/// A poll with its numbers.
#[derive(Debug, Serialize, ToSchema)]
struct PollAnswer {
    #[serde(flatten)]
    status: PollStatus,
    /// Null while its past is being counted, or the job has nothing to show yet.
    tally: Option<PollTally>,
}

/// The numbers of a poll at an epoch.
#[derive(Debug, Serialize, ToSchema)]
struct PollTally {
    epoch: Epoch,
    /// RFC 3339.
    at: String,
    #[serde(flatten)]
    subject: SubjectTallies,
}

impl PollStatus {
    fn new(view: &PollView) -> Self {
        let plan = view.job.plan();
        let topics = plan.spec.inputs.iter().map(|input| input.topic.as_str());
        PollStatus {
            definition: Definition::new(view.job.name(), &view.in_force, topics),
            state: view.state,
            shown: view.shown,
            refill: view.refill.clone(),
        }
    }
}

impl PollAnswer {
    fn new(view: &PollView) -> Self {
        let tally = || {
            let filter = Filter { subjects: vec![view.in_force.poll.id.clone()], limit: None };
            let Tallies { epoch, at, subjects, .. } = view.job.read(|results| results.snapshot(&filter).ok())??;
            Some(PollTally { epoch, at, subject: subjects.into_iter().next()? })
        };
        PollAnswer { status: PollStatus::new(view), tally: view.shown.and_then(|_| tally()) }
    }
}

/// The totals of the polls that show any, in one look at each job.
fn totals(views: &[PollView]) -> HashMap<String, Decimal> {
    let mut of_job: HashMap<&str, (&PollView, Vec<String>)> = HashMap::new();
    for view in views.iter().filter(|view| view.shown.is_some()) {
        let (_, ids) = of_job.entry(view.job.name()).or_insert_with(|| (view, Vec::new()));
        ids.push(view.in_force.poll.id.clone());
    }
    let mut totals = HashMap::new();
    for (view, subjects) in of_job.into_values() {
        // One line of each is enough: a total covers all.
        let filter = Filter { subjects, limit: Some(1) };
        let look = view.job.read(|results| results.snapshot(&filter).ok()).flatten();
        let subjects = look.into_iter().flat_map(|tallies| tallies.subjects);
        totals.extend(subjects.filter_map(|subject| Some((subject.subject, subject.total?))));
    }
    totals
}

async fn definition(shared: &Shared, headers: &HeaderMap, body: Body, media_types: &[&str]) -> Result<String, Problem> {
    let bounds = Bounds { bytes_max: DEFINITION_BYTES_MAX, line_bytes_max: None, inflight: shared.inflight.clone() };
    let held = body::json(headers, body, &bounds, "a poll", media_types).await?;
    String::from_utf8(held.bytes).map_err(|_| Problem::bad("the definition is no UTF-8"))
}

/// Makes a poll.
#[utoipa::path(
    post, path = "/api/polls", operation_id = "create_poll", tag = "polls",
    request_body = NewPoll,
    responses(
        (status = 201, description = "It is there; where it opens in the past, that is being counted", body = PollAnswer,
            headers(("Location" = String, description = "Where the poll is to be found"))),
        (status = 400, response = Problem),
        (status = 408, response = Problem),
        (status = 409, description = "A poll of that id is there already, or no job that it could belong to", body = Problem, content_type = "application/problem+json"),
        (status = 413, response = Problem),
        (status = 415, response = Problem),
        (status = 422, description = "The definition has faults; `faults` has every one and its key", body = Problem, content_type = "application/problem+json"),
        (status = 429, response = Problem),
        (status = 500, response = Problem),
        (status = 503, description = "The engine does not answer; nothing was made", body = Problem, content_type = "application/problem+json"),
        (status = 507, response = Problem),
    ),
)]
async fn create(
    State(shared): State<Arc<Shared>>,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    query.end()?;
    let text = definition(&shared, &headers, body, &["application/json"]).await?;
    let host = shared.host()?;
    let view = blocking(move || host.create_poll(&text)).await?;
    // A poll's id needs no escaping in a path.
    let location = HeaderValue::from_str(&format!("/api/polls/{}", view.in_force.poll.id))
        .map_err(|_| Problem::internal("the poll's id fits in no header"))?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(PollAnswer::new(&view))).into_response())
}

/// All polls by id.
#[utoipa::path(
    get, path = "/api/polls", operation_id = "list_polls", tag = "polls",
    params(
        ("job" = Option<String>, Query, description = "Only those of this job"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "At most so many; 100 unless said"),
        ("after" = Option<String>, Query, description = "The `next` of the answer before"),
    ),
    responses(
        (status = 200, description = "The polls, with their totals", body = Items<PollItem>),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 500, response = Problem),
    ),
)]
async fn list(State(shared): State<Arc<Shared>>, mut query: Query) -> Result<Response, Problem> {
    let page = query.page()?;
    let job = query.text("job")?;
    query.end()?;
    if let Some(job) = &job {
        shared.shows.job(job)?;
    }
    let host = shared.host()?;
    let answer = blocking(move || -> Result<_, Problem> {
        // One more tells whether there are more.
        let views = host.polls(job.as_deref(), page.after.as_deref(), page.limit + 1);
        let (views, next) = page.cut(views, |view| &view.in_force.poll.id);
        let totals = totals(&views);
        let item = |view: &PollView| PollItem {
            status: PollStatus::new(view),
            total: totals.get(&view.in_force.poll.id).copied(),
        };
        Ok((views.iter().map(item).collect::<Vec<_>>(), next))
    });
    Ok(Items::response(answer.await?))
}

/// One poll: its definition, its state and its numbers.
#[utoipa::path(
    get, path = "/api/polls/{poll}", operation_id = "show_poll", tag = "polls",
    params(("poll" = String, Path, description = "The poll's id")),
    responses(
        (status = 200, description = "The poll", body = PollAnswer),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
    ),
)]
async fn show(State(shared): State<Arc<Shared>>, Name(id): Name, query: Query) -> Result<Response, Problem> {
    query.end()?;
    Ok(Json(PollAnswer::new(&shared.host()?.poll(&id)?)).into_response())
}

/// Changes a poll: what is left out stays, `closes` null means never.
#[utoipa::path(
    patch, path = "/api/polls/{poll}", operation_id = "change_poll", tag = "polls",
    params(("poll" = String, Path, description = "The poll's id")),
    request_body(content(
        (serde_json::Value = "application/json"),
        (serde_json::Value = "application/merge-patch+json"),
    ), description = "The keys of the definition that are to change"),
    responses(
        (status = 200, description = "As it is to be; the version before is shown until its past was counted anew", body = PollAnswer),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 408, response = Problem),
        (status = 409, description = "The log no longer has what would have to be counted anew, or the job has ended", body = Problem, content_type = "application/problem+json"),
        (status = 413, response = Problem),
        (status = 415, response = Problem),
        (status = 422, description = "The change has faults; `faults` has every one and its key", body = Problem, content_type = "application/problem+json"),
        (status = 429, response = Problem),
        (status = 500, response = Problem),
        (status = 507, response = Problem),
    ),
)]
async fn change(
    State(shared): State<Arc<Shared>>,
    Name(id): Name,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    query.end()?;
    let media_types = ["application/json", "application/merge-patch+json"];
    let text = definition(&shared, &headers, body, &media_types).await?;
    let host = shared.host()?;
    let view = blocking(move || host.change_poll(&id, &text)).await?;
    Ok(Json(PollAnswer::new(&view)).into_response())
}

/// Closes a poll that is open.
#[utoipa::path(
    post, path = "/api/polls/{poll}/close", operation_id = "close_poll", tag = "polls",
    params(("poll" = String, Path, description = "The poll's id")),
    responses(
        (status = 200, description = "It takes no more", body = PollAnswer),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 409, description = "It is closed already, has not opened, or the log no longer has what would have to be counted anew", body = Problem, content_type = "application/problem+json"),
        (status = 413, response = Problem),
        (status = 500, response = Problem),
        (status = 507, response = Problem),
    ),
)]
async fn close(State(shared): State<Arc<Shared>>, Name(id): Name, query: Query) -> Result<Response, Problem> {
    query.end()?;
    let host = shared.host()?;
    let view = blocking(move || host.close_poll(&id)).await?;
    Ok(Json(PollAnswer::new(&view)).into_response())
}

/// Deletes a poll with its numbers.
#[utoipa::path(
    delete, path = "/api/polls/{poll}", operation_id = "delete_poll", tag = "polls",
    params(("poll" = String, Path, description = "The poll's id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 409, description = "Its job has ended, and its polls stay as they are", body = Problem, content_type = "application/problem+json"),
        (status = 413, response = Problem),
        (status = 500, response = Problem),
        (status = 507, response = Problem),
    ),
)]
async fn delete(State(shared): State<Arc<Shared>>, Name(id): Name, query: Query) -> Result<Response, Problem> {
    query.end()?;
    let host = shared.host()?;
    blocking(move || host.delete_poll(&id)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
