//! Request bodies, read within bounds.

use crate::server::problem::Problem;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use futures_util::StreamExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a client may be silent in the middle of a body.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// What is read and thrown away of a body that is refused, so that its sender gets to read why
/// rather than a reset connection.
const DISCARDED_MAX: u64 = 256 << 20;
const DISCARD_FOR: Duration = Duration::from_secs(5);

/// The bounds of one body.
pub struct Bounds {
    pub bytes_max: usize,
    /// The longest line, and what a line is called, where lines are bounded.
    pub line_bytes_max: Option<usize>,
    /// What all bodies together may hold.
    pub inflight: Arc<Semaphore>,
}

/// A body and its share of what may be held at once, given back when it is dropped.
pub struct Held {
    pub bytes: Vec<u8>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Media types that say nothing of the body: what clients send that were not told which it is.
pub const UNTOLD: [&str; 4] = ["", "text/plain", "application/octet-stream", "application/x-www-form-urlencoded"];

/// Reads a JSON document within its bounds; `what` it describes, as in "a topic".
pub async fn json(
    headers: &HeaderMap,
    body: Body,
    bounds: &Bounds,
    what: &str,
    media_types: &[&str],
) -> Result<Held, Problem> {
    let given = headers.get(header::CONTENT_TYPE).map_or(media_types[0], |v| v.to_str().unwrap_or("?"));
    let name = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !media_types.contains(&name.as_str()) && !UNTOLD.contains(&name.as_str()) {
        let detail = format!("{what} is described in {}, not {given:?}", media_types.join(" or "));
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    read(headers, body, bounds).await
}

/// Reads a body within its bounds. A body that goes beyond is never held.
pub async fn read(headers: &HeaderMap, body: Body, bounds: &Bounds) -> Result<Held, Problem> {
    let told = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    let mut stream = body.into_data_stream();
    if told.is_some_and(|told| told > bounds.bytes_max as u64) {
        // Whoever asks first has not sent it.
        if !headers.contains_key(header::EXPECT) {
            discard(&mut stream).await;
        }
        return Err(too_large(bounds.bytes_max));
    }
    let mut held = Held { bytes: Vec::new(), _permit: None };
    let mut line_start = 0;
    loop {
        let chunk: Bytes = match tokio::time::timeout(SILENCE_MAX, stream.next()).await {
            Err(_) => {
                let detail = "the body stopped in the middle; send it without such pauses";
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, detail));
            }
            Ok(None) => return Ok(held),
            Ok(Some(Err(_))) => return Err(Problem::bad("the body broke off")),
            Ok(Some(Ok(chunk))) => chunk,
        };
        if held.bytes.len() + chunk.len() > bounds.bytes_max {
            drop(held);
            discard(&mut stream).await;
            return Err(too_large(bounds.bytes_max));
        }
        let Ok(permit) = bounds.inflight.clone().try_acquire_many_owned(chunk.len() as u32) else {
            drop(held);
            discard(&mut stream).await;
            let detail = "too many bytes are being written at once; try again in a moment";
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(1));
        };
        match &mut held._permit {
            Some(all) => all.merge(permit),
            none => *none = Some(permit),
        }
        held.bytes.extend_from_slice(&chunk);
        if let Some(line_max) = bounds.line_bytes_max {
            let seen = held.bytes.len() - chunk.len();
            if let Some(newline) = chunk.iter().rposition(|b| *b == b'\n') {
                line_start = seen + newline + 1;
            }
            if held.bytes.len() - line_start > line_max.saturating_add(1) {
                let line = held.bytes.iter().filter(|b| **b == b'\n').count() + 1;
                drop(held);
                discard(&mut stream).await;
                return Err(line_too_large(line, line_max));
            }
        }
    }
}

/// 413 for a line.
pub fn line_too_large(line: usize, max: usize) -> Problem {
    let detail = format!("line {line} is longer than the {max} bytes that a record may have; nothing was appended");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

fn too_large(max: usize) -> Problem {
    let detail = format!("the body is longer than {max} bytes; send it in several requests");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

async fn discard(stream: &mut axum::body::BodyDataStream) {
    let rest = async {
        let mut discarded = 0;
        while let Some(Ok(chunk)) = stream.next().await {
            discarded += chunk.len() as u64;
            if discarded > DISCARDED_MAX {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_FOR, rest).await;
}
