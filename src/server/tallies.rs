//! A job's tallies, as JSON and as CSV, and its subjects.

use crate::server::Shared;
use crate::server::answer::{Items, typed};
use crate::server::history;
use crate::server::input::{Name, Query};
use crate::server::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::{Filter, Tallies};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(tallies)).routes(routes!(subjects))
}

/// A subject of a job.
#[derive(Debug, Serialize, ToSchema)]
struct SubjectItem {
    subject: String,
    /// The sum of its values, where the first aggregate is a count or a sum.
    total: Option<Decimal>,
    /// How many lines it has.
    lines: usize,
    claims: u64,
    counted: u64,
    superseded: u64,
    duplicate: u64,
    late: u64,
    voided: u64,
}

/// Why a job has no numbers yet.
pub fn nothing_yet(name: &str) -> Problem {
    Problem::not_yet(format!("job {name:?} has nothing to show yet; try again in a moment"))
}

/// The tallies at the newest closed epoch, or as of a past time.
///
/// With `as_of`, what was served at the newest point that is kept at or before that time; a time to come is
/// now.
#[utoipa::path(
    get, path = "/api/jobs/{job}/tallies", tag = "results",
    params(
        ("job" = String, Path, description = "The job's name"),
        ("subject" = Option<Vec<String>>, Query, description = "Only these subjects; may be repeated"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 10000, description = "At most so many lines of each subject"),
        ("as_of" = Option<String>, Query, description = "A time: RFC 3339 or epoch milliseconds"),
        ("format" = Option<Format>, Query, description = "json unless said"),
        ("If-None-Match" = Option<String>, Header, description = "An ETag: 304 if nothing has changed since"),
    ),
    responses(
        (status = 200, description = "The tallies", content((Tallies = "application/json"), (String = "text/csv")),
            headers(("ETag" = String, description = "The epoch, quoted; with a number behind it where `top` was changed"))),
        (status = 304, description = "Nothing has changed"),
        (status = 400, response = Problem),
        (status = 404, description = "There is no such job, or nothing is kept of that time", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "More lines than are answered at once", body = Problem, content_type = "application/problem+json"),
        (status = 500, response = Problem),
        (status = 503, description = "There is nothing to show yet", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn tallies(
    State(shared): State<Arc<Shared>>,
    Name(name): Name,
    mut query: Query,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let filter = query.filter()?;
    let csv = query.word("format", &[("json", Format::Json), ("csv", Format::Csv)])? == Some(Format::Csv);
    let as_of_ms = query.time_ms("as_of")?;
    query.end()?;
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let (tag, found) = match as_of_ms {
        Some(at_ms) => history::as_of(&shared, name, at_ms, filter, known).await?,
        None => now(&shared, &name, &filter, known)?,
    };
    let mut response = match found {
        None => StatusCode::NOT_MODIFIED.into_response(),
        Some((tallies, aggregates)) if csv => {
            let text = as_csv(&tallies, &aggregates).map_err(|e| Problem::internal(e.to_string()))?;
            typed("text/csv; charset=utf-8", text)
        }
        Some((tallies, _)) => Json(tallies).into_response(),
    };
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// The tag of a look at results, and what is shown, with the names of the aggregates; nothing for whoever
/// has it already.
pub type Look = (String, Option<(Tallies, Vec<String>)>);

/// The newest look, and its tag in the same reading.
fn now(shared: &Shared, name: &str, filter: &Filter, known: Option<&str>) -> Result<Look, Problem> {
    let look = shared.shows.job(name)?.read(|results| {
        let tag = format!("\"{}\"", results.tag());
        if known.is_some_and(|known| names(known, &tag)) {
            return Ok((tag, None));
        }
        let found = results.snapshot(filter).map(|tallies| (tallies, results.shape().aggregates.clone()));
        found.map(|found| (tag, Some(found)))
    });
    Ok(look.ok_or_else(|| nothing_yet(name))??)
}

/// How tallies are answered.
#[derive(Clone, Copy, PartialEq, Eq, ToSchema)]
#[schema(rename_all = "lowercase")]
pub enum Format {
    Json,
    Csv,
}

/// Whether an If-None-Match holds the tag (RFC 9110, 13.1.2: compared weakly).
pub fn names(known: &str, wanted: &str) -> bool {
    known.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|tag| tag == "*" || tag == wanted)
}

/// `subject,group,value,share` and each aggregate where there are several. A group of several parts is
/// the text of its JSON array.
fn as_csv(tallies: &Tallies, aggregates: &[String]) -> Result<Vec<u8>, csv::Error> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    let named = if aggregates.len() > 1 { aggregates } else { &[] };
    csv.write_record(["subject", "group", "value", "share"].into_iter().chain(named.iter().map(String::as_str)))?;
    for subject in &tallies.subjects {
        for line in &subject.tallies {
            csv.write_field(&subject.subject)?;
            csv.write_field(line.group.text())?;
            csv.write_field(line.value.to_string())?;
            csv.write_field(line.share.map(|share| share.to_string()).unwrap_or_default())?;
            for name in named {
                let value = line.aggregates.as_ref().and_then(|all| all.get(name));
                csv.write_field(value.map(Decimal::to_string).unwrap_or_default())?;
            }
            csv.write_record(None::<&[u8]>)?;
        }
    }
    csv.into_inner().map_err(|error| error.into_error().into())
}

/// The subjects of a job, with their totals.
#[utoipa::path(
    get, path = "/api/jobs/{job}/subjects", tag = "results",
    params(
        ("job" = String, Path, description = "The job's name"),
        ("q" = Option<String>, Query, description = "Only subjects whose name holds this"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "At most so many; 100 unless said"),
        ("after" = Option<String>, Query, description = "The `next` of the answer before"),
    ),
    responses(
        (status = 200, description = "The subjects by name", body = Items<SubjectItem>),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 503, description = "There is nothing to show yet", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn subjects(State(shared): State<Arc<Shared>>, Name(name): Name, mut query: Query) -> Result<Response, Problem> {
    let page = query.page()?;
    let q = query.text("q")?.unwrap_or_default();
    query.end()?;
    let found = shared.shows.job(&name)?.read(|results| results.subjects(&q)).ok_or_else(|| nothing_yet(&name))?;
    let (found, next) = page.cut(found, |(subject, ..)| subject);
    let item = |(subject, total, lines, c): (
        String,
        Option<Decimal>,
        usize,
        tallyflow_dataflows::accounting::ClaimAccounting,
    )| SubjectItem {
        subject,
        total,
        lines,
        claims: c.claims,
        counted: c.counted,
        superseded: c.superseded,
        duplicate: c.duplicate,
        late: c.late,
        voided: c.voided,
    };
    Ok(Items::response((found.into_iter().map(item).collect(), next)))
}
