//! The routes of event streams.

use crate::server::Shared;
use crate::server::events::channel::ChannelKey;
use crate::server::events::reader::EventStream;
use crate::server::input::{Name, Query};
use crate::server::problem::Problem;
use crate::server::tallies::nothing_yet;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::results::Filter;
use utoipa_axum::{router::OpenApiRouter, routes};

pub fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(of_job)).routes(routes!(of_jobs))
}

/// Watches a job: a snapshot, then what changes.
///
/// `event: snapshot` first, then `event: delta` with what changed, `event: status` when the job's state
/// changes, `event: gap` and another snapshot where the reader's id is too old. `event: problem` says
/// why a stream can't go on and ends it: a snapshot was needed and the view had grown past 10,000 lines.
#[utoipa::path(
    get, path = "/api/jobs/{job}/events", tag = "events",
    params(
        ("job" = String, Path, description = "The job's name"),
        ("subject" = Option<Vec<String>>, Query, description = "Only these subjects; may be repeated"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 10000, description = "At most so many lines of each subject"),
        ("every" = Option<String>, Query, pattern = "^(0|[0-9]{1,4}ms|[0-5]?[0-9]s|60s)$",
            description = "At most one delta in so long: 100ms unless said, up to 60s; 0: one each epoch"),
        ("last_event_id" = Option<String>, Query, description = "Resumes after this id"),
        ("Last-Event-ID" = Option<String>, Header, description = "Resumes after this id; goes before the parameter"),
    ),
    responses(
        (status = 200, description = "The stream", body = String, content_type = "text/event-stream"),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 422, description = "More lines than are answered at once", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "There is nothing to show yet", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn of_job(
    State(shared): State<Arc<Shared>>,
    Name(name): Name,
    mut query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (filter, every) = (query.filter()?, query.every()?);
    let id = last_event_id(&mut query, &headers)?;
    query.end()?;
    let seen = id.as_deref().map(|id| id.parse().ok());
    open(&shared, vec![(name, seen)], filter, every, false)
}

/// Watches several jobs on one connection.
///
/// As for one job, each event naming its job; the ids are opaque and hold the place in every job.
#[utoipa::path(
    get, path = "/api/events", tag = "events",
    params(
        ("job" = Vec<String>, Query, description = "A job's name; may be repeated"),
        ("subject" = Option<Vec<String>>, Query, description = "Only these subjects; may be repeated"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 10000, description = "At most so many lines of each subject"),
        ("every" = Option<String>, Query, pattern = "^(0|[0-9]{1,4}ms|[0-5]?[0-9]s|60s)$",
            description = "At most one delta of a job in so long: 100ms unless said, up to 60s; 0: one each epoch"),
        ("last_event_id" = Option<String>, Query, description = "Resumes after this id"),
        ("Last-Event-ID" = Option<String>, Header, description = "Resumes after this id; goes before the parameter"),
    ),
    responses(
        (status = 200, description = "The stream", body = String, content_type = "text/event-stream"),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 422, description = "More lines than are answered at once", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "There is nothing to show yet", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn of_jobs(State(shared): State<Arc<Shared>>, mut query: Query, headers: HeaderMap) -> Result<Response, Problem> {
    let mut names = query.all("job")?;
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        return Err(Problem::bad("`job` is missing; name at least one, like ?job=moods&job=votes"));
    }
    let (filter, every) = (query.filter()?, query.every()?);
    let id = last_event_id(&mut query, &headers)?;
    query.end()?;
    let known = id.as_deref().map(places);
    let seen = |name: &String| known.as_ref().map(|known| known.get(name.as_str()).copied());
    let jobs = names.iter().map(|name| (name.clone(), seen(name))).collect();
    open(&shared, jobs, filter, every, true)
}

/// The header, which a browser sends by itself when it connects again, else the parameter.
fn last_event_id(query: &mut Query, headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let parameter = query.text("last_event_id")?;
    let header = headers.get("last-event-id").map(|v| v.to_str().unwrap_or("?").to_owned());
    // An empty id is none: so browsers mean it.
    Ok(header.or(parameter).filter(|id| !id.is_empty()))
}

/// What a composite id says; what it does not say reads as nothing known.
fn places(id: &str) -> HashMap<&str, Epoch> {
    id.split(',').filter_map(|part| part.rsplit_once(':')).filter_map(|(job, e)| Some((job, e.parse().ok()?))).collect()
}

/// Opens a stream. By job: `None` came without an id, `Some(None)` with one that says nothing.
fn open(
    shared: &Arc<Shared>,
    jobs: Vec<(String, Option<Option<Epoch>>)>,
    filter: Filter,
    every: Duration,
    composite: bool,
) -> Result<Response, Problem> {
    let mut found = Vec::with_capacity(jobs.len());
    for (name, seen) in &jobs {
        let job = shared.shows.job(name)?;
        // Whoever needs a snapshot hears of what stands against it while there is still a status to say
        // it with.
        job.read(|results| match seen {
            Some(Some(since)) if results.knows(*since) => Ok(()),
            _ => results.fits(&filter),
        })
        .ok_or_else(|| nothing_yet(name))??;
        found.push(job);
    }
    let gap = jobs.iter().any(|(_, seen)| seen.is_some());
    let channels = found.into_iter().zip(jobs).map(|(job, (name, seen))| {
        let key = ChannelKey { job: name, filter: filter.clone(), every };
        (shared.hub.channel(key, job), seen.flatten())
    });
    let stream = EventStream::new(channels.collect(), composite, gap, shared.hub.counts.clone());
    let mut response = Response::new(Body::new(stream));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}
