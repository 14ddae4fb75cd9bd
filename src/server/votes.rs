//! Votes in: each becomes a record of the job's input of votes.

use crate::node::job::JobState;
use crate::node::polls::{PollError, PollView};
use crate::server::Shared;
use crate::server::answer::{blocking, rfc3339};
use crate::server::body::{self, Bounds};
use crate::server::input::{Name, Query};
use crate::server::problem::Problem;
use crate::server::records::idempotency_key;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::NewRecord;
use tallyflow_dataflows::spec::written::time_text;
use tallyflow_dataflows::spec::{Keep, VOTE};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};

/// The longest vote.
const VOTE_BYTES_MAX: usize = 16 << 10;
/// The longest name of a voter, in characters.
const VOTER_CHARS_MAX: usize = 256;
/// How many options an error names.
const OPTIONS_NAMED: usize = 20;

/// A vote.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewVote<'a> {
    /// Who votes: a text or a number. Equal ones are one voter.
    #[serde(borrow)]
    #[schema(schema_with = voter_schema)]
    voter: &'a RawValue,
    /// One of the poll's options, as written there; null withdraws the vote where the last one counts.
    #[serde(deserialize_with = "required")]
    #[schema(required)]
    option: Option<String>,
}

fn voter_schema() -> Schema {
    let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(VOTER_CHARS_MAX));
    OneOfBuilder::new().item(text).item(ObjectBuilder::new().schema_type(Type::Number)).into()
}

/// A key that must be there, if only with null.
fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)
}

/// Where the vote is in the log.
#[derive(Debug, Serialize, ToSchema)]
struct VoteAnswer {
    poll: String,
    topic: String,
    partition: PartitionId,
    offset: Offset,
}

/// What a client has said.
#[derive(Serialize)]
struct Said<'a> {
    poll: &'a str,
    voter: &'a RawValue,
    option: Option<&'a str>,
}

/// The record, of the format `vote`.
#[derive(Serialize)]
struct Record<'a> {
    #[serde(flatten)]
    said: &'a Said<'a>,
    at: String,
}

/// Votes in a poll. Answers once the vote is durable.
#[utoipa::path(
    post, path = "/api/polls/{poll}/votes", tag = "polls",
    params(
        ("poll" = String, Path, description = "The poll's id"),
        ("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,255}$",
            description = "The same key with the same vote appends nothing and answers the same place"),
    ),
    request_body = NewVote,
    responses(
        (status = 201, description = "The vote is durable", body = VoteAnswer),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 408, response = Problem),
        (status = 409, description = "The poll takes no votes: it has not opened, is closed or was deleted, or its job reads none", body = Problem, content_type = "application/problem+json"),
        (status = 413, response = Problem),
        (status = 415, response = Problem),
        (status = 422, description = "The vote is none, names no option of the poll, or the idempotency key was used with another", body = Problem, content_type = "application/problem+json"),
        (status = 429, response = Problem),
        (status = 500, response = Problem),
        (status = 507, response = Problem),
    ),
)]
pub async fn vote(
    State(shared): State<Arc<Shared>>,
    Name(id): Name,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    query.end()?;
    let idempotency_key = idempotency_key(&headers)?;
    let bounds = Bounds { bytes_max: VOTE_BYTES_MAX, line_bytes_max: None, inflight: shared.inflight.clone() };
    let held = body::json(&headers, body, &bounds, "a vote", &["application/json"]).await?;
    let host = shared.host()?;
    let answer = blocking(move || -> Result<VoteAnswer, Problem> {
        let vote: NewVote<'_> = match serde_json::from_slice(&held.bytes) {
            Ok(vote) => vote,
            Err(error) if error.is_data() => return Err(Problem::refused(format!("the vote: {error}"))),
            Err(error) => return Err(Problem::bad(format!("the body is no JSON: {error}"))),
        };
        let key = voter_key(vote.voter)?;
        let view = host.poll(&id).map_err(|error| match error {
            PollError::Deleted(_) => Problem::new(StatusCode::CONFLICT, error.to_string()),
            error => error.into(),
        })?;
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let topic = takes(&view, vote.option.as_deref(), now_ms)?;
        let said = Said { poll: &id, voter: vote.voter, option: vote.option.as_deref() };
        let json = |value: serde_json::Result<Vec<u8>>| value.map_err(|e| Problem::internal(e.to_string()));
        let record = json(serde_json::to_vec(&Record { said: &said, at: rfc3339(now_ms) }))?;
        let records = [NewRecord { key: Some(key.as_bytes()), value: Some(&record) }];
        let appended = match idempotency_key {
            Some(key) => host.log().append_once(&topic, &records, &key, &json(serde_json::to_vec(&said))?)?,
            None => host.log().append(&topic, &records, None)?,
        };
        let place = appended.ranges.first().ok_or_else(|| Problem::internal("the vote went nowhere"))?;
        Ok(VoteAnswer { topic: topic.to_owned(), partition: place.0, offset: place.1, poll: id })
    });
    Ok((StatusCode::CREATED, Json(answer.await?)).into_response())
}

/// The voter as a text, by which votes are shared out to partitions.
fn voter_key(voter: &RawValue) -> Result<String, Problem> {
    let wrong = || {
        let what = format!("the vote: `voter` must be a text of 1 to {VOTER_CHARS_MAX} characters or a number");
        Problem::refused(what)
    };
    let text = match voter.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str(voter.get()).map_err(|_| wrong())?,
        Some(b'-' | b'0'..=b'9') => voter.get().to_owned(),
        _ => return Err(wrong()),
    };
    let chars = text.chars().take(VOTER_CHARS_MAX + 1).count();
    if (1..=VOTER_CHARS_MAX).contains(&chars) { Ok(text) } else { Err(wrong()) }
}

/// The topic that takes the vote, if the poll does.
fn takes(view: &PollView, option: Option<&str>, now_ms: i64) -> Result<String, Problem> {
    let poll = &view.in_force.poll;
    let conflict = |detail: String| Problem::new(StatusCode::CONFLICT, detail);
    if view.job.state() == JobState::Cancelled {
        return Err(PollError::JobEnded(view.job.name().to_owned()).into());
    }
    let now_ns = now_ms.saturating_mul(1_000_000);
    if poll.opens_ns > now_ns {
        let opens = time_text(poll.opens_ns);
        return Err(conflict(format!("poll {:?} opens at {opens}; vote from then on", poll.id)));
    }
    if let Some(closes) = poll.closes_ns.filter(|closes| *closes <= now_ns) {
        let closes = time_text(closes);
        return Err(conflict(format!("poll {:?} has been closed since {closes} and takes no votes", poll.id)));
    }
    match option {
        Some(option) if !poll.options.iter().any(|o| o == option) => {
            let shown: String = option.chars().take(100).collect();
            let named: Vec<&str> = poll.options.iter().take(OPTIONS_NAMED).map(String::as_str).collect();
            let more = if poll.options.len() > OPTIONS_NAMED { " and others" } else { "" };
            let detail = format!("poll {:?} has no option {shown:?}; it has {}{more}", poll.id, named.join(", "));
            return Err(Problem::refused(detail));
        }
        None if poll.keep != Keep::Last => {
            let detail = format!(
                "a vote in poll {:?} can't be withdrawn: that needs a poll that keeps the last of each voter",
                poll.id
            );
            return Err(Problem::refused(detail));
        }
        _ => {}
    }
    let plan = view.job.plan();
    let input = plan.spec.inputs.iter().find(|input| input.format == VOTE);
    input.map(|input| input.topic.clone()).ok_or_else(|| {
        let job = view.job.name();
        conflict(format!("job {job:?} reads no votes; submit one with an [[input]] of format = \"vote\""))
    })
}
