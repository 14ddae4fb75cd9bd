//! Looking at single records: the newest of each class, and the dead letters.

use crate::node::job::JobStatus;
use crate::node::{WhyAnswer, WhyQuestion};
use crate::server::Shared;
use crate::server::answer::{Items, blocking, blocking_until_gone, rfc3339, text_or_base64};
use crate::server::input::{Name, Query};
use crate::server::jobs::located;
use crate::server::problem::Problem;
use crate::server::tallies::nothing_yet;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use tallyflow_connectors::dead_letters::DeadLetter;
use tallyflow_dataflows::accounting::Class;
use tallyflow_dataflows::claim::Position;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(newest))
        .routes(routes!(why))
        .routes(routes!(dead_letters))
        .routes(routes!(redrive))
}

/// Where a record stands.
#[derive(Debug, Serialize, ToSchema)]
struct Place {
    topic: String,
    partition: PartitionId,
    offset: Offset,
}

/// One of the newest records of its class.
#[derive(Debug, Serialize, ToSchema)]
struct NewestItem {
    class: Class,
    topic: String,
    partition: PartitionId,
    offset: Offset,
    /// Why, where the class alone does not say it.
    reason: Option<String>,
    /// The record that took its place or keeps it out.
    other: Option<Place>,
}

/// The newest records of each class, newest first within a class.
#[utoipa::path(
    get, path = "/api/jobs/{job}/newest", tag = "results",
    params(
        ("job" = String, Path, description = "The job's name"),
        ("class" = Option<Class>, Query, description = "Only this class"),
    ),
    responses(
        (status = 200, description = "At most some dozens of each class", body = Items<NewestItem>),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 503, description = "There is nothing to show yet", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn newest(State(shared): State<Arc<Shared>>, Name(name): Name, mut query: Query) -> Result<Response, Problem> {
    let words = [
        ("rejected", Class::Rejected),
        ("irrelevant", Class::Irrelevant),
        ("counted", Class::Counted),
        ("superseded", Class::Superseded),
        ("duplicate", Class::Duplicate),
        ("voided", Class::Voided),
    ];
    let wanted = query.word("class", &words)?;
    query.end()?;
    let job = shared.shows.job(&name)?;
    let found = job.read(|results| {
        let topics: Vec<&str> = results.inputs().map(|(topic, _)| topic).collect();
        let place = |position: Position| Place {
            topic: topics.get(position.input()).copied().unwrap_or_default().to_owned(),
            partition: position.partition(),
            offset: position.offset(),
        };
        let classes = Class::ALL.into_iter().filter(|class| wanted.is_none_or(|w| w == *class));
        let newest = classes.flat_map(|class| {
            let mut all: Vec<_> = results.newest(class).collect();
            all.reverse();
            all
        });
        let item = |newest: &tallyflow_dataflows::engine::facts::Newest| {
            let Place { topic, partition, offset } = place(newest.position);
            let other = newest.other.map(place);
            NewestItem { class: newest.class, topic, partition, offset, reason: newest.reason.clone(), other }
        };
        newest.map(item).collect::<Vec<_>>()
    });
    Ok(Items::response((found.ok_or_else(|| nothing_yet(&name))?, None)))
}

/// How many claims a `why` tells unless asked for another number, and at most.
const WHY_CLAIMS: u64 = 20;
const WHY_CLAIMS_MAX: u64 = 1_000;

/// Where a number comes from, or what became of a record.
///
/// `subject` and `group` name a line: its values, the accounting of its subject, and the newest claims that
/// speak to it with what each replaced, or why it does not count. `at` names a record. The log is read for it
/// from the job's beginning, beside the job; `recount` in its status tells how far that has come.
#[utoipa::path(
    get, path = "/api/jobs/{job}/why", tag = "results",
    params(
        ("job" = String, Path, description = "The job's name"),
        ("subject" = Option<String>, Query, description = "The line's subject"),
        ("group" = Option<String>, Query, description = "Its group; of several parts their JSON array"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Of at most so many claims; 20 unless said, up to 1,000"),
        ("at" = Option<String>, Query, description = "A record instead: TOPIC/PARTITION/OFFSET"),
    ),
    responses(
        (status = 200, description = "Of a line, or of a record", body = WhyAnswer),
        (status = 400, response = Problem),
        (status = 404, description = "There is no such job, subject, line or record", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Its records are being read again already, or the job has ended meanwhile", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "Retention has taken records that it has counted", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "What the entities concerned have said does not fit in memory", body = Problem, content_type = "application/problem+json"),
        (status = 500, response = Problem),
        (status = 503, description = "There is nothing to show yet, or polls of it are being counted beside it", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn why(State(shared): State<Arc<Shared>>, Name(name): Name, mut query: Query) -> Result<Response, Problem> {
    let (subject, group, at) = (query.text("subject")?, query.text("group")?, query.text("at")?);
    let limit = query.number("limit", 1..=WHY_CLAIMS_MAX)?;
    query.end()?;
    let question = match (subject, group, at, limit) {
        (Some(subject), Some(group), None, limit) => {
            WhyQuestion::Line { subject, group, limit: limit.unwrap_or(WHY_CLAIMS) as usize }
        }
        (None, None, Some(at), None) => WhyQuestion::At(at.parse().map_err(Problem::bad)?),
        _ => return Err(Problem::bad("name a line with `subject` and `group`, or a record with `at`, one of the two")),
    };
    let host = shared.host()?;
    Ok(Json(blocking_until_gone(move |stop| host.why(&name, &question, stop)).await?).into_response())
}

/// A record that a job had no use for, as it was.
#[derive(Debug, Serialize, ToSchema)]
struct DeadLetterItem {
    topic: String,
    partition: u32,
    offset: u64,
    /// The log's time of the record, RFC 3339.
    timestamp: String,
    /// The key as text; null: it has none, or it is no UTF-8.
    key: Option<String>,
    /// The key where it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    /// The value as text; null: it has none, or it is no UTF-8.
    value: Option<String>,
    /// The value where it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    reason: String,
}

impl From<DeadLetter> for DeadLetterItem {
    fn from(letter: DeadLetter) -> Self {
        let (key, key_base64) = text_or_base64(letter.key);
        let (value, value_base64) = text_or_base64(letter.value);
        DeadLetterItem {
            topic: letter.topic,
            partition: letter.partition,
            offset: letter.offset,
            timestamp: rfc3339(letter.timestamp_ms),
            key,
            key_base64,
            value,
            value_base64,
            reason: letter.reason,
        }
    }
}

/// The records that did not decode or lacked what the job needs, oldest first.
#[utoipa::path(
    get, path = "/api/jobs/{job}/dead-letters", tag = "results",
    params(
        ("job" = String, Path, description = "The job's name"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "At most so many; 100 unless said"),
        ("after" = Option<String>, Query, pattern = "^.+/[0-9]{1,5}/[0-9]{1,13}$",
            description = "The `next` of the answer before: topic/partition/offset"),
    ),
    responses(
        (status = 200, description = "The dead letters", body = Items<DeadLetterItem>),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 500, response = Problem),
    ),
)]
async fn dead_letters(
    State(shared): State<Arc<Shared>>,
    Name(name): Name,
    mut query: Query,
) -> Result<Response, Problem> {
    let page = query.page()?;
    query.end()?;
    let after = match &page.after {
        None => None,
        Some(text) => {
            let place = place_of(text);
            Some(place.ok_or_else(|| Problem::bad(format!("`after` must be topic/partition/offset, not {text:?}")))?)
        }
    };
    let (host, limit) = (shared.host()?, page.limit);
    let mut letters = blocking(move || host.dead_letters(&name, after, limit + 1)).await?;
    let more = letters.len() > limit;
    letters.truncate(limit);
    let last = letters.last().filter(|_| more).map(|l| format!("{}/{}/{}", l.topic, l.partition, l.offset));
    Ok(Items::response((letters.into_iter().map(DeadLetterItem::from).collect(), last)))
}

/// Decodes the job's records again at their own offsets, and so its dead letters; nothing is appended.
///
/// They are counted from the log beside the running job, whose readers keep its numbers until then;
/// `replacing` in the job's status tells how far that has come. A job of polls is read again in its own
/// place: its state is `recovering` meanwhile.
#[utoipa::path(
    post, path = "/api/jobs/{job}/dead-letters/redrive", tag = "results",
    params(("job" = String, Path, description = "The job's name")),
    responses(
        (status = 202, description = "It has begun", body = JobStatus,
            headers(("Location" = String, description = "The job, whose status tells how far it has come"))),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 409, description = "The job is in a state in which that can't be", body = Problem, content_type = "application/problem+json"),
        (status = 500, response = Problem),
    ),
)]
async fn redrive(State(shared): State<Arc<Shared>>, Name(name): Name, query: Query) -> Result<Response, Problem> {
    query.end()?;
    let host = shared.host()?;
    let job = blocking(move || host.redrive(&name)).await?;
    located(StatusCode::ACCEPTED, &job)
}

fn place_of(text: &str) -> Option<(String, u32, u64)> {
    let mut parts = text.rsplitn(3, '/');
    let (offset, partition, topic) = (parts.next()?, parts.next()?, parts.next()?);
    Some((topic.to_owned(), partition.parse().ok()?, offset.parse().ok()?))
}
