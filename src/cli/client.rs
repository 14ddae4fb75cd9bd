//! The server as the client commands see it: JSON over HTTP, errors as one sentence.

use anyhow::{Context, anyhow};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use std::fmt;
use std::time::Duration;

/// How long a connection may take to come about. A server on the way up is on this machine or near.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How many items a page of a list has.
const PAGE_ITEMS: usize = 1_000;

/// A server.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    server: Url,
}

/// Why a request failed.
#[derive(Debug)]
pub enum RequestError {
    /// No connection came about.
    Unreachable { server: String },
    /// A connection broke, or its answer could not be read.
    Broken { server: String, why: String },
    /// The server refused.
    Refused { status: StatusCode, retry_after: Option<Duration>, problem: Problem },
}

/// An RFC 9457 problem.
#[derive(Debug, Default, Deserialize)]
pub struct Problem {
    title: Option<String>,
    detail: Option<String>,
    /// Of a job file.
    #[serde(default, alias = "errors")]
    pub faults: Vec<JobFault>,
}

/// One fault of a job file.
#[derive(Debug, Deserialize)]
pub struct JobFault {
    line: Option<u64>,
    #[serde(default)]
    key: String,
    message: String,
}

impl fmt::Display for JobFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Unreachable { server } => write!(
                f,
                "no tallyflow server answers at {server}; start one with `tallyflow serve` or name it with --server"
            ),
            RequestError::Broken { server, why } => {
                write!(f, "the connection to {server} broke ({why}); try again")
            }
            RequestError::Refused { status, problem, .. } => match (&problem.detail, &problem.title) {
                (Some(text), _) | (None, Some(text)) => f.write_str(text),
                (None, None) => write!(f, "the server answered {status}; is it a tallyflow server of this version?"),
            },
        }
    }
}

impl std::error::Error for RequestError {}

impl RequestError {
    /// Whether the same request may work later.
    pub fn retryable(&self) -> bool {
        match self {
            RequestError::Unreachable { .. } | RequestError::Broken { .. } => true,
            RequestError::Refused { status, .. } => {
                matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }
}

/// A page of a list, its items as they came: printed as JSON, no digit is lost.
#[derive(Deserialize)]
struct Page {
    items: Vec<Box<RawValue>>,
    next: Option<String>,
}

impl Client {
    pub fn new(server: Url) -> anyhow::Result<Self> {
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("tallyflow/", env!("CARGO_PKG_VERSION")));
        // A proxy set for the outside world can't reach this machine's own addresses.
        let host = server.host_str().unwrap_or_default().trim_matches(['[', ']']);
        if host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
            http = http.no_proxy();
        }
        Ok(Client { http: http.build().context("the HTTP client can't be started")?, server })
    }

    /// The server as its user named it.
    pub fn server(&self) -> &str {
        self.server.as_str().trim_end_matches('/')
    }

    /// A URL below `/api`, each segment encoded.
    pub fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.server.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("api").extend(segments);
        }
        url
    }

    pub fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        self.http.request(method, self.url(segments))
    }

    /// Sends a request; a refusal is an error.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, RequestError> {
        let answer = request.send().await.map_err(|e| self.failed(&e))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let seconds = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
        let problem = answer.bytes().await.ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default();
        Err(RequestError::Refused { status, retry_after: seconds.map(Duration::from_secs), problem })
    }

    /// What failed below HTTP.
    pub fn failed(&self, error: &reqwest::Error) -> RequestError {
        let server = self.server().to_owned();
        if error.is_connect() {
            return RequestError::Unreachable { server };
        }
        let mut why: &dyn std::error::Error = error;
        while let Some(deeper) = why.source() {
            why = deeper;
        }
        RequestError::Broken { server, why: why.to_string() }
    }

    /// The answer's text.
    pub async fn text(&self, request: RequestBuilder) -> Result<String, RequestError> {
        self.send(request).await?.text().await.map_err(|e| self.failed(&e))
    }

    /// The answer's text and what it says.
    pub async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<(String, T)> {
        let text = self.text(request).await?;
        let value = read(&text)?;
        Ok((text, value))
    }

    /// The newest records of each class; none before the first epoch has closed.
    pub async fn newest(&self, job: &str) -> anyhow::Result<Vec<Box<RawValue>>> {
        match self.json::<Page>(self.request(Method::GET, &["jobs", job, "newest"])).await {
            Ok((_, page)) => Ok(page.items),
            Err(error) => match error.downcast_ref() {
                Some(RequestError::Refused { status: StatusCode::SERVICE_UNAVAILABLE, .. }) => Ok(Vec::new()),
                _ => Err(error),
            },
        }
    }

    /// A whole list, page by page, up to `limit` items.
    pub async fn list(
        &self,
        segments: &[&str],
        query: &[(&str, String)],
        limit: usize,
    ) -> anyhow::Result<Vec<Box<RawValue>>> {
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        while items.len() < limit {
            let page = (limit - items.len()).min(PAGE_ITEMS).to_string();
            let mut request = self.request(Method::GET, segments).query(query).query(&[("limit", &page)]);
            if let Some(after) = &after {
                request = request.query(&[("after", after)]);
            }
            let (_, page): (_, Page) = self.json(request).await?;
            let empty = page.items.is_empty();
            items.extend(page.items);
            after = page.next;
            if after.is_none() || empty {
                break;
            }
        }
        Ok(items)
    }
}

/// Reads an answer.
pub fn read<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    serde_json::from_str(text)
        .map_err(|e| anyhow!("the server's answer is not understood ({e}); is it a tallyflow server of this version?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_into_one_segment() {
        let client = Client::new("http://h:1/base/".parse().unwrap()).unwrap();
        assert_eq!(client.url(&["jobs", "a/b c?"]).as_str(), "http://h:1/base/api/jobs/a%2Fb%20c%3F");
        let client = Client::new("http://h:1".parse().unwrap()).unwrap();
        assert_eq!(client.url(&["jobs"]).as_str(), "http://h:1/api/jobs");
        assert_eq!(client.server(), "http://h:1");
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words() {
        let problem =
            serde_json::from_str(r#"{"title": "Not Found", "detail": "there is no job named \"x\""}"#).unwrap();
        let error = RequestError::Refused { status: StatusCode::NOT_FOUND, retry_after: None, problem };
        assert_eq!(error.to_string(), "there is no job named \"x\"");
        assert!(!error.retryable());
    }
}
