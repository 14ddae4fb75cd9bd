//! Records in: each non-empty line of the body is one record, taken as bytes.

use crate::server::Shared;
use crate::server::answer::blocking;
use crate::server::body::{self, Bounds};
use crate::server::input::{Name, Query};
use crate::server::problem::Problem;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::pointer::Pointer;
use tallyflow_dataflows::source::{Appended, NewRecord, ProduceError};
use utoipa::ToSchema;

/// The longest idempotency key.
const KEY_BYTES_MAX: usize = 255;

/// Where the records are.
#[derive(Debug, Serialize, ToSchema)]
pub struct AppendedOffsets {
    /// By partition that got records: the first offset, and one past the last.
    #[schema(value_type = BTreeMap<String, [u64; 2]>)]
    offsets: BTreeMap<PartitionId, [Offset; 2]>,
}

/// Appends records: each non-empty line is one, as it is. Answers once they are durable, all or none.
#[utoipa::path(
    post, path = "/api/topics/{topic}/records", tag = "topics",
    params(
        ("topic" = String, Path, description = "The topic's name"),
        ("key" = Option<String>, Query,
            description = "JSON Pointer to the key within each line; a line without it goes to any partition"),
        ("Idempotency-Key" = Option<String>, Header, pattern = "^[!-~]{1,255}$",
            description = "The same key with the same records appends nothing and answers the same offsets"),
    ),
    request_body(content = String, content_type = "application/x-ndjson", description = "One record a line"),
    responses(
        (status = 200, description = "The records are durable", body = AppendedOffsets),
        (status = 400, response = Problem),
        (status = 404, response = Problem),
        (status = 408, response = Problem),
        (status = 413, description = "The body or a line is too long; nothing was appended", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "There is no record in the body, one lacks the key of a compacted topic, or the idempotency key was used with other records", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too much is being written; try again after Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 500, response = Problem),
        (status = 507, description = "The disk is full; nothing was appended", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn append(
    State(shared): State<Arc<Shared>>,
    Name(topic): Name,
    mut query: Query,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let key = query.text("key")?;
    query.end()?;
    let key = key.map(|text| Pointer::parse(&text)).transpose().map_err(|e| Problem::bad(format!("`key`: {e}")))?;
    let idempotency_key = idempotency_key(&headers)?;
    if shared.host()?.is_internal(&topic) {
        return Err(ProduceError::UnknownTopic { topic }.into());
    }
    let bounds = Bounds {
        bytes_max: shared.config.body_bytes_max,
        line_bytes_max: Some(shared.config.record_bytes_max),
        inflight: shared.inflight.clone(),
    };
    let held = body::read(&headers, body, &bounds).await?;
    let (host, line_max, started) = (shared.host()?, shared.config.record_bytes_max, Instant::now());
    let appended = blocking(move || -> Result<Appended, Problem> {
        let lines = lines(&held.bytes, line_max)?;
        let keys: Vec<Option<Cow<'_, [u8]>>> = match &key {
            Some(pointer) => lines.iter().map(|(_, line)| key_of(line, pointer)).collect(),
            None => Vec::new(),
        };
        let key = |index: usize| keys.get(index).and_then(|key| key.as_deref());
        let mut records: Vec<NewRecord<'_>> = Vec::with_capacity(lines.len());
        for (index, (_, line)) in lines.iter().enumerate() {
            records.push(NewRecord { key: key(index), value: Some(line) });
        }
        if records.is_empty() {
            return Err(Problem::refused("the body holds no record; put one on each line"));
        }
        host.log().append(&topic, &records, idempotency_key.as_deref()).map_err(|error| match error {
            // Its index counts records, whoever sent them counts lines.
            ProduceError::TooLarge { index, max, .. } => {
                body::line_too_large(lines.get(index).map_or(index + 1, |(number, _)| *number), max)
            }
            ProduceError::KeyMissing { topic, index } => Problem::refused(format!(
                "line {} has no key, and topic {topic:?} is compacted by key; say with ?key= where the key is",
                lines.get(index).map_or(index + 1, |(number, _)| *number),
            )),
            error => error.into(),
        })
    })
    .await?;
    shared.metrics.append_seconds.observe(started.elapsed().as_secs_f64());
    let offsets = appended.ranges.into_iter().map(|(partition, first, end)| (partition, [first, end])).collect();
    Ok(Json(AppendedOffsets { offsets }).into_response())
}

pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut all = headers.get_all("idempotency-key").iter();
    let Some(value) = all.next() else { return Ok(None) };
    let fault =
        || Problem::bad(format!("Idempotency-Key must stand once, with 1 to {KEY_BYTES_MAX} visible ASCII characters"));
    match value.to_str() {
        Ok(text) if (1..=KEY_BYTES_MAX).contains(&text.len()) && all.next().is_none() => Ok(Some(text.to_owned())),
        _ => Err(fault()),
    }
}

/// The non-empty lines with their numbers from 1, without line ends.
fn lines(body: &[u8], line_max: usize) -> Result<Vec<(usize, &[u8])>, Problem> {
    let mut lines = Vec::new();
    for (index, line) in body.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > line_max {
            return Err(body::line_too_large(index + 1, line_max));
        }
        if !line.is_empty() {
            lines.push((index + 1, line));
        }
    }
    Ok(lines)
}

/// What the pointer leads to, as text: a string's text, a number or boolean as written. `None` where
/// it leads to nothing, to null, to an object or an array, or the line is no JSON.
fn key_of<'a>(line: &'a [u8], pointer: &Pointer) -> Option<Cow<'a, [u8]>> {
    let mut at: &RawValue = serde_json::from_slice(line).ok()?;
    for token in pointer.tokens() {
        let text = at.get();
        at = match text.as_bytes().first()? {
            b'{' => *serde_json::from_str::<HashMap<Key<'_>, &RawValue>>(text).ok()?.get(token.as_str())?,
            b'[' => {
                let plain = token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
                let index: usize = token.parse().ok().filter(|_| plain)?;
                *serde_json::from_str::<Vec<&RawValue>>(text).ok()?.get(index)?
            }
            _ => return None,
        };
    }
    match at.get().as_bytes().first()? {
        b'{' | b'[' | b'n' => None,
        b'"' => match serde_json::from_str::<Key<'a>>(at.get()).ok()?.0 {
            Cow::Borrowed(text) => Some(Cow::Borrowed(text.as_bytes())),
            Cow::Owned(text) => Some(Cow::Owned(text.into_bytes())),
        },
        _ => Some(Cow::Borrowed(at.get().as_bytes())),
    }
}

/// A string that is borrowed where it holds no escape.
#[derive(Deserialize, PartialEq, Eq, Hash)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl std::borrow::Borrow<str> for Key<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_that_is_not_empty_is_one_record_as_it_is() {
        let body = b"{\"a\":1}\r\n\n  \nno json \xff\n";
        let found: Vec<_> = lines(body, 100).unwrap();
        assert_eq!(found, [(1, &b"{\"a\":1}"[..]), (3, b"  "), (4, b"no json \xff")]);
        assert!(lines(b"", 100).unwrap().is_empty());
        let fault = serde_json::to_string(&lines(b"ab\nabc\n", 2).unwrap_err()).unwrap();
        assert!(fault.contains("line 2"), "{fault}");
    }

    #[test]
    fn the_key_is_what_the_pointer_leads_to_as_text() {
        let key = |line: &str, pointer: &str| {
            let key = key_of(line.as_bytes(), &Pointer::parse(pointer).unwrap());
            key.map(|key| String::from_utf8(key.into_owned()).unwrap())
        };
        assert_eq!(key(r#"{"a":{"b":["x","y"]}}"#, "/a/b/1").as_deref(), Some("y"));
        assert_eq!(key(r#"{"a":12345678901234567890.10}"#, "/a").as_deref(), Some("12345678901234567890.10"));
        assert_eq!(key(r#"{"a":true}"#, "/a").as_deref(), Some("true"));
        assert_eq!(key(r#"{"\u0061":"\u00e9"}"#, "/a").as_deref(), Some("\u{e9}"));
        assert_eq!(key(r#""z""#, "").as_deref(), Some("z"));
        for (line, pointer) in [
            (r#"{"a":null}"#, "/a"),
            (r#"{"a":[1]}"#, "/a"),
            (r#"{"a":[1]}"#, "/a/01"),
            (r#"{"b":1}"#, "/a"),
            ("no json", "/a"),
            ("", ""),
        ] {
            assert_eq!(key(line, pointer), None, "{line} {pointer}");
        }
    }
}
