//! Topics: making and listing them, and reading their records.

use crate::server::Shared;
use crate::server::answer::{Items, blocking, rfc3339, text_or_base64};
use crate::server::body::{self, Bounds};
use crate::server::input::{Name, Query};
use crate::server::problem::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tallyflow_connectors::log::OwnedRecord;
use tallyflow_connectors::log::TopicConfig;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::{PartitionState, SourceError, TopicState};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The longest description of a topic.
const TOPIC_BYTES_MAX: usize = 64 << 10;
/// At about so many bytes a read of records ends: the log's own bound.
const READ_BYTES_MAX: usize = 4 << 20;

pub fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(read, crate::server::records::append))
}

/// A topic to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTopic {
    /// 1 to 249 of `a-z A-Z 0-9 . _ -`.
    #[schema(min_length = 1, max_length = 249, pattern = "^[a-zA-Z0-9._-]+$")]
    name: String,
    /// How many partitions; 1 unless said.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 1024, default = 1)]
    partitions: u32,
}

fn one() -> u32 {
    1
}

/// A topic.
#[derive(Debug, Serialize, ToSchema)]
struct TopicItem {
    name: String,
    /// Whether only the newest record of each key is kept.
    compacted: bool,
    retention: Retention,
    partitions: Vec<PartitionItem>,
}

/// How long a topic keeps its records.
#[derive(Debug, Serialize, ToSchema)]
struct Retention {
    /// Null: however old.
    age_ms: Option<u64>,
    /// Of the whole topic; null: however many.
    bytes: Option<u64>,
}

/// A partition.
#[derive(Debug, Serialize, ToSchema)]
struct PartitionItem {
    partition: PartitionId,
    /// The first offset that is kept.
    start_offset: Offset,
    /// One past the last.
    end_offset: Offset,
    /// Bytes of keys and values held; null where the log does not say it (Kafka).
    bytes: Option<u64>,
}

impl TopicItem {
    fn new(state: TopicState, config: TopicConfig) -> Self {
        let partition = |(index, p): (usize, &PartitionState)| PartitionItem {
            partition: PartitionId(index as u32),
            start_offset: p.start,
            end_offset: p.end,
            bytes: p.bytes,
        };
        TopicItem {
            partitions: state.partitions.iter().enumerate().map(partition).collect(),
            name: state.name,
            compacted: state.compacted,
            retention: Retention {
                age_ms: config.retention.age.map(|age| age.as_millis() as u64),
                bytes: config.retention.bytes,
            },
        }
    }
}

/// All topics by name.
#[utoipa::path(
    get, path = "/api/topics", operation_id = "list_topics", tag = "topics",
    params(
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "At most so many; 100 unless said"),
        ("after" = Option<String>, Query, description = "The `next` of the answer before"),
    ),
    responses(
        (status = 200, description = "The topics, their offsets and retention", body = Items<TopicItem>),
        (status = 400, response = Problem),
        (status = 500, response = Problem),
    ),
)]
async fn list(State(shared): State<Arc<Shared>>, mut query: Query) -> Result<Response, Problem> {
    let page = query.page()?;
    query.end()?;
    let host = shared.host()?;
    let look = move || -> Result<_, SourceError> {
        let log = host.log();
        let topics = log.topics()?.into_iter().filter(|topic| !host.is_internal(&topic.name));
        let (topics, next) = page.cut(topics, |topic| &topic.name);
        let item = |topic: TopicState| -> Result<TopicItem, SourceError> {
            let config = log.topic_config(&topic.name)?.unwrap_or_default();
            Ok(TopicItem::new(topic, config))
        };
        Ok((topics.into_iter().map(item).collect::<Result<Vec<_>, _>>()?, next))
    };
    Ok(Items::response(blocking(look).await?))
}

/// Makes a topic.
#[utoipa::path(
    post, path = "/api/topics", operation_id = "create_topic", tag = "topics",
    request_body = NewTopic,
    responses(
        (status = 201, description = "It is there", body = TopicItem,
            headers(("Location" = String, description = "Where its records are"))),
        (status = 400, response = Problem),
        (status = 408, response = Problem),
        (status = 409, description = "There is a topic of that name", body = Problem, content_type = "application/problem+json"),
        (status = 413, response = Problem),
        (status = 415, response = Problem),
        (status = 422, description = "The name or the number of partitions can't be", body = Problem, content_type = "application/problem+json"),
        (status = 429, response = Problem),
        (status = 500, response = Problem),
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
    let bounds = Bounds { bytes_max: TOPIC_BYTES_MAX, line_bytes_max: None, inflight: shared.inflight.clone() };
    let held = body::json(&headers, body, &bounds, "a topic", &["application/json"]).await?;
    let new: NewTopic = match serde_json::from_slice(&held.bytes) {
        Ok(new) => new,
        Err(error) if error.is_data() => return Err(Problem::refused(format!("the topic: {error}"))),
        Err(error) => return Err(Problem::bad(format!("the body is no JSON: {error}"))),
    };
    if shared.host()?.is_internal(&new.name) {
        return Err(Problem::refused(format!("names like {:?} are kept for the server's own topics", new.name)));
    }
    let host = shared.host()?;
    let topic = blocking(move || -> Result<TopicItem, Problem> {
        let (log, config) = (host.log(), host.topic_config());
        log.create_topic(&new.name, new.partitions, config)?;
        let state = log.topic(&new.name)?.ok_or_else(|| Problem::unknown("the topic was deleted at once"))?;
        Ok(TopicItem::new(state, config))
    });
    let topic = topic.await?;
    let location = HeaderValue::from_str(&format!("/api/topics/{}/records", topic.name))
        .map_err(|_| Problem::internal("the topic's name fits in no header"))?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(topic)).into_response())
}

/// A record as it stands in the log.
#[derive(Debug, Serialize, ToSchema)]
struct RecordItem {
    offset: Offset,
    /// The log's time of the record, RFC 3339.
    timestamp: String,
    /// The key as text; null: it has none, or it is no UTF-8.
    key: Option<String>,
    /// The key where it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    /// The value as text; null: it has none (a tombstone), or it is no UTF-8.
    value: Option<String>,
    /// The value where it is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl From<OwnedRecord> for RecordItem {
    fn from(record: OwnedRecord) -> Self {
        let (key, key_base64) = text_or_base64(record.key);
        let (value, value_base64) = text_or_base64(record.value);
        let timestamp = rfc3339(record.timestamp_ms);
        RecordItem { offset: record.offset, timestamp, key, key_base64, value, value_base64 }
    }
}

/// Reads the records of a partition.
#[utoipa::path(
    get, path = "/api/topics/{topic}/records", tag = "topics",
    params(
        ("topic" = String, Path, description = "The topic's name"),
        ("partition" = Option<u32>, Query, maximum = 65535, description = "0 unless said"),
        ("from" = Option<u64>, Query, maximum = 1099511627775_i64,
            description = "The first offset; the first that is kept unless said"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 1000, description = "At most so many; 100 unless said"),
    ),
    responses(
        (status = 200, description = "The records; `next` is the `from` to go on with", body = Items<RecordItem>),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 410, description = "The records from there on are no longer kept", body = Problem, content_type = "application/problem+json"),
        (status = 500, response = Problem),
    ),
)]
async fn read(State(shared): State<Arc<Shared>>, Name(topic): Name, mut query: Query) -> Result<Response, Problem> {
    let partition = query.number("partition", 0..=u64::from(PartitionId::MAX.0))?.unwrap_or(0);
    let from = query.number("from", 0..=Offset::MAX.0)?;
    let limit = query.number("limit", 1..=1_000)?.unwrap_or(100) as usize;
    query.end()?;
    let partition = PartitionId(partition as u32);
    if shared.host()?.is_internal(&topic) {
        return Err(Problem::unknown(format!("there is no topic {topic:?}")));
    }
    let host = shared.host()?;
    let read = move || -> Result<_, SourceError> {
        let log = host.log();
        let state = log.topic(&topic)?.ok_or_else(|| SourceError::UnknownTopic { topic: topic.clone() })?;
        let state = state.partitions.get(partition.0 as usize);
        let from = from.map_or_else(|| state.map_or(Offset(0), |p| p.start), Offset);
        if state.is_some_and(|state| from > state.end) {
            // Nothing stands there yet.
            return Ok(Vec::new());
        }
        log.read_range(&topic, partition, from, limit + 1)
    };
    let mut records = blocking(read).await?;
    // The read ends with the limit, or with the bytes that one answer holds.
    let bytes: usize = records.iter().map(|record| record.value.as_ref().map_or(0, Vec::len)).sum();
    let cut = records.len() > limit || bytes >= READ_BYTES_MAX;
    let last = records.get(limit.min(records.len()).saturating_sub(1));
    let next = last.filter(|_| cut).map(|record| (record.offset.0 + 1).to_string());
    records.truncate(limit);
    Ok(Items::response((records.into_iter().map(RecordItem::from).collect(), next)))
}
