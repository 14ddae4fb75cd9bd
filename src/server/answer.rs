//! The forms that answers share.

use crate::server::problem::Problem;
use axum::Json;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use utoipa::ToSchema;

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Items<T> {
    pub items: Vec<T>,
    /// The `after` of the next part; null: this is the last.
    pub next: Option<String>,
}

impl<T: Serialize> Items<T> {
    pub fn response((items, next): (Vec<T>, Option<String>)) -> Response {
        Json(Items { items, next }).into_response()
    }
}

/// Runs what blocks on a thread that may.
pub async fn blocking<T: Send + 'static, E: Into<Problem> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(Problem::internal(format!("the work was broken off: {error}"))),
    }
}

/// As [`blocking`], for what takes long: it is told to stop when nobody waits for the answer any more.
pub async fn blocking_until_gone<T: Send + 'static, E: Into<Problem> + Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> Result<T, E> + Send + 'static,
) -> Result<T, Problem> {
    struct StopWhenGone(Arc<AtomicBool>);
    impl Drop for StopWhenGone {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let stop = StopWhenGone(Arc::default());
    let told = stop.0.clone();
    blocking(move || work(&told)).await
}

/// Milliseconds since 1970 as RFC 3339; empty beyond the year 9999.
pub fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| String::new(), |t| format!("{t:.3}"))
}

/// Bytes as JSON can hold them: text where they are UTF-8, else base64.
pub fn text_or_base64(bytes: Option<Vec<u8>>) -> (Option<String>, Option<String>) {
    use base64::Engine as _;
    match bytes.map(String::from_utf8) {
        None => (None, None),
        Some(Ok(text)) => (Some(text), None),
        Some(Err(error)) => (None, Some(base64::prelude::BASE64_STANDARD.encode(error.as_bytes()))),
    }
}

/// A body of a media type.
pub fn typed(media_type: &'static str, body: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
