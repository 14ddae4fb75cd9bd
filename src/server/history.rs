//! What was served at past moments, and how a line went.

use crate::server::Shared;
use crate::server::answer::{Items, blocking, rfc3339};
use crate::server::input::{Name, Query};
use crate::server::problem::Problem;
use crate::server::tallies::{Look, names};
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tallyflow_connectors::history::{HistoryError, HistoryReader, SeriesItem, Wanted};
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::Filter;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

pub fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(history))
}

/// A line, or a subject's total, at a past point.
#[derive(Debug, Serialize, ToSchema)]
struct HistoryItem {
    /// RFC 3339.
    at: String,
    epoch: Epoch,
    /// Null: the line was not there.
    value: Option<Decimal>,
    /// Where the job asks for several aggregates, each by its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregates: Option<BTreeMap<String, Decimal>>,
}

impl From<SeriesItem> for HistoryItem {
    fn from(item: SeriesItem) -> Self {
        let aggregates = item.aggregates.map(|all| all.into_iter().collect());
        HistoryItem { at: rfc3339(item.at_ms), epoch: item.epoch, value: item.value, aggregates }
    }
}

/// What was served at a time, for whoever does not have it already.
pub async fn as_of(
    shared: &Shared,
    name: String,
    at_ms: i64,
    filter: Filter,
    known: Option<&str>,
) -> Result<Look, Problem> {
    let known = known.map(str::to_owned);
    let is_known = move |epoch: Epoch| known.is_some_and(|known| names(&known, &tag(epoch)));
    let read = move |history: &HistoryReader| history.as_of(at_ms, &filter, is_known);
    let (epoch, moment) = ask(shared, name, read).await?;
    Ok((tag(epoch), moment.map(|moment| (moment.tallies, moment.aggregates))))
}

/// The points of a line, or of a subject's total, by time.
///
/// `next` is there where more points are kept than are answered.
#[utoipa::path(
    get, path = "/api/jobs/{job}/history", operation_id = "history", tag = "results",
    params(
        ("job" = String, Path, description = "The job's name"),
        ("subject" = Option<String>, Query, description = "The subject; the one named like the job unless said"),
        ("group" = Option<String>, Query, description = "The line's group, of several parts as their JSON array; the subject's total unless said"),
        ("from" = Option<String>, Query, description = "No point before this time: RFC 3339 or epoch milliseconds"),
        ("to" = Option<String>, Query, description = "No point after this time"),
        ("step" = Option<String>, Query, description = "The last point of each step, like 10s, 5m or 1h; all that are kept unless said"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "At most so many; 100 unless said"),
        ("after" = Option<String>, Query, description = "The `next` of the answer before"),
    ),
    responses(
        (status = 200, description = "The points", body = Items<HistoryItem>),
        (status = 400, response = Problem),
        (status = 404, description = "There is no such job or line, or nothing is kept yet", body = Problem, content_type = "application/problem+json"),
        (status = 500, response = Problem),
        (status = 503, description = "It can't be read just now", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn history(State(shared): State<Arc<Shared>>, Name(name): Name, mut query: Query) -> Result<Response, Problem> {
    let page = query.page()?;
    let after = page.after.as_deref().map(|after| match after.parse() {
        Ok(epoch) if epoch <= i64::MAX as u64 => Ok(Epoch(epoch)),
        _ => Err(Problem::bad("`after` must be the `next` of the answer before")),
    });
    let (from, to) = (query.time_ms("from")?.unwrap_or(i64::MIN), query.time_ms("to")?.unwrap_or(i64::MAX));
    if from > to {
        return Err(Problem::bad("`from` is after `to`"));
    }
    let wanted = Wanted {
        subject: query.text("subject")?.unwrap_or_else(|| name.clone()),
        group: query.group()?,
        between: from..=to,
        step: query.step()?,
        after: after.transpose()?,
        limit: page.limit,
    };
    query.end()?;
    let series = ask(&shared, name, move |history: &HistoryReader| history.series(&wanted)).await?;
    let next = series.items.last().filter(|_| series.more).map(|last| last.epoch.to_string());
    Ok(Items::response((series.items.into_iter().map(HistoryItem::from).collect(), next)))
}

/// Reads in the history of a job, on a thread that may block, a few at a time.
async fn ask<T: Send + 'static>(
    shared: &Shared,
    name: String,
    read: impl FnOnce(&HistoryReader) -> Result<T, HistoryError> + Send + 'static,
) -> Result<T, Problem> {
    let history = shared.host()?.history(&name)?.ok_or_else(|| {
        Problem::unknown("no history is kept on this server; `history.keep` in its configuration says what is")
    })?;
    let _one_of_a_few = shared.history_reads.acquire().await;
    blocking(move || read(&history).map_err(|error| problem(&name, error))).await
}

fn tag(epoch: Epoch) -> String {
    format!("\"{epoch}\"")
}

fn problem(name: &str, error: HistoryError) -> Problem {
    match error {
        HistoryError::Before { oldest_ms } => Problem::unknown(format!(
            "nothing is kept of job {name:?} at that time; the oldest point is of {}",
            rfc3339(oldest_ms)
        )),
        HistoryError::NoneYet => {
            Problem::unknown(format!("nothing is kept of the past of job {name:?} yet; try again in a moment"))
        }
        HistoryError::UnknownLine => Problem::unknown(format!(
            "no line of that subject and group is in what is kept of job {name:?}; its tallies name those of now"
        )),
        HistoryError::Read(error) => error.into(),
        HistoryError::Locked { .. } => Problem::not_yet(format!("the history of job {name:?}: {error}")),
        error => Problem::internal(format!("the history of job {name:?}: {error}")),
    }
}
