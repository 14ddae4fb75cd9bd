//! Errors as RFC 9457 problem documents: the only form in which this server says that something
//! went wrong.

use crate::node::polls::PollError;
use crate::node::{JobError, RecountError, SubmitError, VoidError};
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tallyflow_connectors::log::TopicError;
use tallyflow_dataflows::results::ReadError;
use tallyflow_dataflows::source::{ProduceError, SourceError};
use tallyflow_dataflows::spec::Fault;
use utoipa::{ToResponse, ToSchema};

/// The media type.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What went wrong and what to do about it.
#[derive(Clone, Debug, Serialize, ToSchema, ToResponse)]
#[response(
    description = "What went wrong and what to do about it (RFC 9457)",
    content_type = "application/problem+json"
)]
pub struct Problem {
    /// Always `about:blank`: the status says the kind.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    #[schema(value_type = u16)]
    #[serde(serialize_with = "as_number")]
    status: StatusCode,
    /// What went wrong and what to do about it.
    detail: String,
    /// Every fault of a job file or of a poll's definition, with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<Fault>,
    #[serde(skip)]
    retry_after_s: Option<u32>,
}

fn as_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        Problem { kind: "about:blank", title, status, detail: detail.into(), faults: Vec::new(), retry_after_s: None }
    }

    /// 400: a parameter or the form of the request.
    pub fn bad(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 404.
    pub fn unknown(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::NOT_FOUND, detail)
    }

    /// 422: understood, and can't be done.
    pub fn refused(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// 503: ask again in a moment.
    pub fn not_yet(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1)
    }

    /// 500. The cause goes to the log, too.
    pub fn internal(detail: impl Into<String>) -> Self {
        let problem = Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail);
        tracing::error!(detail = %problem.detail, "a request failed");
        problem
    }

    /// With a Retry-After header.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// With the faults of a job file or a definition.
    pub fn with_faults(mut self, faults: Vec<Fault>) -> Self {
        self.faults = faults;
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What is said where the router alone refused a request.
pub fn of_router(status: StatusCode) -> Problem {
    let detail = match status {
        StatusCode::NOT_FOUND => "there is nothing at this path; /docs lists every route",
        StatusCode::METHOD_NOT_ALLOWED => "this path does not take that method; the Allow header says which it takes",
        _ => "the request could not be served",
    };
    Problem::new(status, detail)
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        let detail = error.to_string();
        match error {
            SubmitError::Taken(_) | SubmitError::InTheWay(_) => Problem::new(StatusCode::CONFLICT, detail),
            SubmitError::Faults(faults) => Problem::refused(detail).with_faults(faults),
            SubmitError::Log(error) => error.into(),
            SubmitError::Source(error) => error.into(),
            SubmitError::Failed(_) => Problem::internal(detail),
        }
    }
}

impl From<JobError> for Problem {
    fn from(error: JobError) -> Self {
        let detail = error.to_string();
        match error {
            JobError::Unknown(_) => Problem::unknown(detail),
            JobError::State { .. } => Problem::new(StatusCode::CONFLICT, detail),
            JobError::Log(error) => error.into(),
            JobError::Failed(_) => Problem::internal(detail),
        }
    }
}

impl From<VoidError> for Problem {
    fn from(error: VoidError) -> Self {
        let detail = error.to_string();
        match error {
            VoidError::Job(error) => error.into(),
            VoidError::Refused(_) => Problem::refused(detail),
            VoidError::Unknown { .. } => Problem::unknown(detail),
            VoidError::Gone(_) => Problem::new(StatusCode::CONFLICT, detail),
        }
    }
}

impl From<PollError> for Problem {
    fn from(error: PollError) -> Self {
        let detail = error.to_string();
        match error {
            PollError::Unknown(_) | PollError::Deleted(_) => Problem::unknown(detail),
            PollError::Faults(faults) => Problem::refused(detail).with_faults(faults),
            PollError::Taken(_)
            | PollError::NoJob
            | PollError::JobEnded(_)
            | PollError::TooMany { .. }
            | PollError::Closed { .. }
            | PollError::NotOpen { .. }
            | PollError::Gone { .. } => Problem::new(StatusCode::CONFLICT, detail),
            PollError::NoAnswer => Problem::not_yet(detail),
            PollError::Log(error) => error.into(),
            PollError::Source(error) => error.into(),
            PollError::Failed(_) => Problem::internal(detail),
        }
    }
}

impl From<RecountError> for Problem {
    fn from(error: RecountError) -> Self {
        let detail = error.to_string();
        match error {
            RecountError::Job(error) => error.into(),
            RecountError::Nothing { .. } | RecountError::Unsettled { .. } | RecountError::Away(_) => {
                Problem::not_yet(detail)
            }
            RecountError::UnderWay { .. } | RecountError::BrokenOff { .. } => {
                Problem::new(StatusCode::CONFLICT, detail)
            }
            RecountError::Unknown(_) => Problem::unknown(detail),
            RecountError::Gone(_) => Problem::new(StatusCode::GONE, detail),
            RecountError::Memory(_) => Problem::refused(detail),
            RecountError::Fold(_) | RecountError::Failed(_) => Problem::internal(detail),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let detail = error.to_string();
        match error {
            ReadError::TooManyLines { .. } => Problem::refused(detail),
            ReadError::Gap { .. } => Problem::new(StatusCode::GONE, detail),
        }
    }
}

impl From<ProduceError> for Problem {
    fn from(error: ProduceError) -> Self {
        let detail = error.to_string();
        match error {
            ProduceError::UnknownTopic { .. } => Problem::unknown(detail),
            ProduceError::TooLarge { .. } => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail),
            ProduceError::KeyTooLong { .. } => Problem::bad(detail),
            ProduceError::KeyMissing { .. } | ProduceError::KeyReused { .. } => Problem::refused(detail),
            ProduceError::Busy => Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(1),
            ProduceError::Away(_) => Problem::not_yet(detail),
            ProduceError::Full => Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail),
            ProduceError::Io(_) => Problem::internal(detail),
        }
    }
}

impl From<TopicError> for Problem {
    fn from(error: TopicError) -> Self {
        let detail = error.to_string();
        match error {
            TopicError::AlreadyExists { .. } => Problem::new(StatusCode::CONFLICT, detail),
            TopicError::Unknown { .. } => Problem::unknown(detail),
            TopicError::Name { .. } | TopicError::Partitions { .. } | TopicError::CompactedRetention => {
                Problem::refused(detail)
            }
            TopicError::Away(_) => Problem::not_yet(detail),
            TopicError::Full => Problem::new(StatusCode::INSUFFICIENT_STORAGE, detail),
            TopicError::Io(_) => Problem::internal(detail),
        }
    }
}

impl From<SourceError> for Problem {
    fn from(error: SourceError) -> Self {
        let detail = error.to_string();
        match error {
            SourceError::UnknownTopic { .. } | SourceError::UnknownPartition { .. } => Problem::unknown(detail),
            SourceError::Gone { .. } | SourceError::CutShort { .. } => Problem::new(StatusCode::GONE, detail),
            SourceError::Away(_) => Problem::not_yet(detail),
            SourceError::Recreated { .. } => Problem::new(StatusCode::CONFLICT, detail),
            SourceError::Io(_) | SourceError::Damaged { .. } => Problem::internal(detail),
        }
    }
}
