//! What a process that does not lead passes on to the one that does: every change, and whatever is kept there
//! alone, as the past, the polls and the dead letters.

use crate::node::Member;
use crate::server::problem::Problem;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::sync::LazyLock;
use std::time::Duration;

/// How long the leader may take to take a connection.
const CONNECT: Duration = Duration::from_secs(1);

static CLIENT: LazyLock<reqwest::Result<reqwest::Client>> = LazyLock::new(|| {
    // Within the cluster, whatever the environment says of proxies; a redirect is for the client.
    let client = reqwest::Client::builder().connect_timeout(CONNECT).no_proxy();
    client.redirect(reqwest::redirect::Policy::none()).build()
});

/// Of the connection, not of what goes over it (RFC 9110, section 7.6.1); and the host, which is another.
const NOT_PASSED: [HeaderName; 9] = [
    header::CONNECTION,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// Whether a process that does not lead answers that request by itself.
pub fn is_answered_here(request: &Request, route: &str) -> bool {
    let is_of_the_past = || {
        let query = request.uri().query().unwrap_or_default();
        form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "as_of")
    };
    matches!(*request.method(), Method::GET | Method::HEAD)
        && match route {
            "/api/jobs/{job}/tallies" => !is_of_the_past(),
            "/api/jobs" | "/api/jobs/{job}" | "/api/jobs/{job}/subjects" | "/api/jobs/{job}/events" => true,
            "/api/events" | "/api/cluster" | "/metrics" | "/healthz" | "/readyz" => true,
            // The page, the description, and what there is not.
            route => !route.starts_with("/api/"),
        }
}

/// Asks the leader, and answers what it answers.
pub async fn forward(member: &Member, request: Request) -> Response {
    match ask(member, request).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn ask(member: &Member, request: Request) -> Result<Response, Problem> {
    let away = || Problem::not_yet(member.without_leader());
    let url = member.leader().ok_or_else(away)?;
    let client = CLIENT.as_ref().map_err(|error| Problem::internal(format!("a client can't be made: {error}")))?;
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let asked = client
        .request(parts.method, format!("{url}{path}"))
        .headers(passed(&parts.headers))
        .body(reqwest::Body::wrap_stream(body.into_data_stream()))
        .send();
    let answered = asked.await.map_err(|error| match error.is_connect() {
        true => away(),
        // It may have been done.
        false => Problem::new(StatusCode::BAD_GATEWAY, format!("process 0 has not answered: {error}; ask what became of it")),
    })?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answered.status();
    *response.headers_mut() = passed(answered.headers());
    *response.body_mut() = Body::from_stream(answered.bytes_stream());
    Ok(response)
}

fn passed(headers: &HeaderMap) -> HeaderMap {
    let mut passed = headers.clone();
    for name in NOT_PASSED {
        passed.remove(name);
    }
    passed
}
