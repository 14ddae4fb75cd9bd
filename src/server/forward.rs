//! What a process that does not lead passes on to the one that does: every change, and whatever is kept there
//! alone, as the past, the polls and the dead letters.

use crate::node::Member;
use crate::server::answer::blocking;
use crate::server::problem::Problem;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::net::TcpStream;

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
pub async fn forward(member: &Arc<Member>, request: Request) -> Response {
    match ask(member, request).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn ask(member: &Arc<Member>, request: Request) -> Result<Response, Problem> {
    let theirs = member.clone();
    let connected = blocking(move || {
        theirs.forward().map_err(|error| {
            tracing::debug!("process 0 is not asked: {error:#}");
            Problem::not_yet(theirs.without_leader())
        })
    });
    let stream = connected.await?;
    let broken = |error: &dyn std::fmt::Display| {
        let detail = format!("process 0 has not answered: {error}; it may have been done all the same");
        Problem::new(StatusCode::BAD_GATEWAY, detail)
    };
    let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
    let stream = TokioIo::new(stream.map_err(|error| broken(&error))?);
    let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| broken(&error))?;
    // It ends with what is asked over it.
    tokio::spawn(connection);
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse().unwrap_or(Uri::from_static("/"));
    parts.headers = passed(&parts.headers);
    parts.headers.insert(header::HOST, HeaderValue::from_static("tallyflow"));
    let asked = sender.send_request(axum::http::Request::from_parts(parts, body));
    let (mut parts, body) = asked.await.map_err(|error| broken(&error))?.into_parts();
    parts.headers = passed(&parts.headers);
    Ok(Response::from_parts(parts, Body::new(body)))
}

fn passed(headers: &HeaderMap) -> HeaderMap {
    let mut passed = headers.clone();
    for name in NOT_PASSED {
        passed.remove(name);
    }
    passed
}
