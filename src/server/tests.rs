//! The routes as a client meets them, over a real log and jobs whose results the test writes.

use crate::node::job::JobState;
use crate::server::host::Asked;
use crate::server::testing::{Feed, TestHost};
use crate::server::{ServerConfig, Shared, accept, router};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tallyflow_connectors::dead_letters::DeadLetter;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

pub(super) struct Server {
    pub host: Arc<TestHost>,
    router: Router,
}

pub(super) struct Answer {
    pub status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

impl Server {
    pub fn new() -> Self {
        let host = TestHost::new();
        let config = ServerConfig { body_bytes_max: 10_000, record_bytes_max: 1_000, ..ServerConfig::default() };
        Server { router: router(Shared::new(Asked::Node(host.clone()), config)), host }
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        let answer = Answer { status: parts.status, headers: parts.headers, body };
        if answer.status.as_u16() >= 400 {
            assert_eq!(answer.header("content-type"), "application/problem+json", "{method} {path}");
            let problem = answer.json();
            assert_eq!(problem["status"], answer.status.as_u16());
            assert!(problem["detail"].as_str().unwrap().len() > 10, "{problem}");
            if matches!(answer.status.as_u16(), 429 | 503) {
                assert!(answer.header("retry-after").parse::<u32>().is_ok());
            }
        }
        answer
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Body::empty()).await
    }

    pub async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body).await
    }
}

#[tokio::test]
async fn every_refusal_is_a_problem_document() {
    let server = Server::new();
    server.host.add("empty");
    server.host.add("forgetful");
    server.post("/api/topics", r#"{"name":"t"}"#).await;
    for (method, path, status) in [
        ("GET", "/nowhere", 404),
        ("GET", "/api/nowhere", 404),
        ("GET", "/api/jobs/none", 404),
        ("GET", "/api/jobs/none/tallies", 404),
        ("GET", "/api/jobs/%ff", 400),
        ("PUT", "/api/jobs", 405),
        ("DELETE", "/api/cluster", 405),
        ("GET", "/api/jobs?limit=0", 400),
        ("GET", "/api/jobs?limit=1001", 400),
        ("GET", "/api/jobs?nonsense=1", 400),
        ("GET", "/api/jobs/empty/tallies", 503),
        ("GET", "/api/jobs/empty/tallies?as_of=soon", 400),
        ("GET", "/api/jobs/empty/tallies?as_of=1", 404),
        ("GET", "/api/jobs/forgetful/tallies?as_of=1", 404),
        ("GET", "/api/jobs/none/tallies?as_of=1", 404),
        ("GET", "/api/jobs/none/history", 404),
        ("GET", "/api/jobs/empty/history", 404),
        ("GET", "/api/jobs/empty/history?step=0", 400),
        ("GET", "/api/jobs/empty/history?from=2&to=1", 400),
        ("GET", "/api/jobs/empty/events", 503),
        ("GET", "/api/jobs/empty/events?every=soon", 400),
        ("GET", "/api/jobs/empty/newest?class=odd", 400),
        ("GET", "/api/jobs/empty/dead-letters?after=x", 400),
        ("GET", "/api/events", 400),
        ("GET", "/api/events?job=none", 404),
        ("POST", "/api/jobs/none/pause", 404),
        ("POST", "/api/jobs/empty/recount", 503),
        ("GET", "/api/jobs/empty/why?subject=s&group=g", 503),
        ("GET", "/api/jobs/none/why?at=t/0/1", 404),
        ("GET", "/api/jobs/empty/why", 400),
        ("GET", "/api/jobs/empty/why?subject=s", 400),
        ("GET", "/api/jobs/empty/why?at=t/0", 400),
        ("GET", "/api/jobs/empty/why?at=t/0/1&subject=s", 400),
        ("GET", "/api/jobs/empty/why?at=t/0/1&limit=3", 400),
        ("GET", "/api/jobs/empty/why?subject=s&group=g&limit=0", 400),
        ("DELETE", "/api/jobs/empty?mode=gently", 400),
        ("GET", "/api/topics/none/records", 404),
        ("GET", "/api/topics/__tallyflow/records", 404),
        ("GET", "/api/topics/t/records?partition=7", 404),
        ("POST", "/api/topics/t/records", 422),
        ("POST", "/api/topics", 400),
    ] {
        let answer = server.send(method, path, &[], Body::empty()).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {}", answer.text());
        if status == 405 {
            assert!(answer.header("allow").contains("GET"), "{path}");
        }
    }
}

#[tokio::test]
async fn a_job_file_is_answered_with_every_fault_or_the_job() {
    let server = Server::new();
    let toml = [("content-type", "application/toml")];
    let created = server.send("POST", "/api/jobs", &toml, "good").await;
    assert_eq!((created.status.as_u16(), created.header("location")), (201, "/api/jobs/good"));
    assert_eq!((&created.json()["name"], &created.json()["epoch"]), (&json!("good"), &Value::Null));
    assert_eq!(server.send("POST", "/api/jobs", &toml, "taken").await.status, StatusCode::CONFLICT);
    let faulty = server.send("POST", "/api/jobs/validate", &toml, "bad").await;
    assert_eq!(faulty.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(faulty.json()["faults"][1], json!({"line": 2, "key": "input[0].topic", "message": "is wrong"}));
    let image = server.send("POST", "/api/jobs", &[("content-type", "image/png")], "x").await;
    assert_eq!(image.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let long = server.send("POST", "/api/jobs", &toml, vec![b'#'; 20 << 20]).await;
    assert_eq!(long.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(server.send("POST", "/api/jobs", &toml, &b"\xff"[..]).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_job_is_replaced_or_submitted_and_its_dead_letters_are_redriven() {
    let server = Server::new();
    let toml = [("content-type", "application/toml")];
    for status in [201, 200] {
        let answer = server.send("POST", "/api/jobs?replace=true", &toml, "good").await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("location")),
            (status, "/api/jobs/good"),
            "{}",
            answer.text()
        );
        assert_eq!(answer.json()["name"], "good");
    }
    assert_eq!(server.send("POST", "/api/jobs?replace=false", &toml, "taken").await.status, StatusCode::CONFLICT);
    let in_the_way = server.send("POST", "/api/jobs?replace=true", &toml, "taken").await;
    assert_eq!((in_the_way.status.as_u16(), &in_the_way.json()["detail"]), (409, &json!("it is paused: resume it")));
    assert_eq!(server.send("POST", "/api/jobs?replace=true", &toml, "bad").await.status.as_u16(), 422);
    assert_eq!(server.send("POST", "/api/jobs?replace=yes", &toml, "good").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(server.send("POST", "/api/jobs?take_over=yes", &toml, "good").await.status, StatusCode::BAD_REQUEST);
    let told = server.send("POST", "/api/jobs?replace=true&take_over=true", &toml, "good").await;
    assert_eq!(told.status, StatusCode::OK);
    let redriven = server.post("/api/jobs/good/dead-letters/redrive", "").await;
    assert_eq!((redriven.status.as_u16(), redriven.header("location")), (202, "/api/jobs/good"));
    assert_eq!(server.post("/api/jobs/none/dead-letters/redrive", "").await.status, StatusCode::NOT_FOUND);
    server.post("/api/jobs/good/pause", "").await;
    assert_eq!(server.post("/api/jobs/good/dead-letters/redrive", "").await.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn jobs_are_listed_in_parts_paused_resumed_and_cancelled() {
    let server = Server::new();
    for name in ["c", "a", "b"] {
        server.host.add(name);
    }
    let first = server.get("/api/jobs?limit=2").await.json();
    let names = |list: &Value| list["items"].as_array().unwrap().iter().map(|j| j["name"].clone()).collect::<Vec<_>>();
    assert_eq!((names(&first), &first["next"]), (vec![json!("a"), json!("b")], &json!("b")));
    let rest = server.get("/api/jobs?limit=2&after=b").await.json();
    assert_eq!((names(&rest), &rest["next"]), (vec![json!("c")], &Value::Null));
    assert_eq!(server.post("/api/jobs/a/pause", "").await.json()["state"], "paused");
    assert_eq!(server.post("/api/jobs/a/resume", "").await.json()["state"], "running");
    let gone = server.send("DELETE", "/api/jobs/a?mode=now", &[], Body::empty()).await;
    assert_eq!((gone.status.as_u16(), &gone.json()["state"]), (200, &json!("cancelled")));
    assert_eq!(server.post("/api/jobs/a/pause", "").await.status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn tallies_come_as_json_and_csv_with_the_epoch_as_etag() {
    let server = Server::new();
    let job = server.host.add("moods");
    let mut feed = Feed::default();
    job.apply(job.id, feed.update(&[(1, 1, Some(3)), (1, 2, Some(1)), (2, 1, Some(5))]));
    let all = server.get("/api/jobs/moods/tallies").await;
    assert_eq!((all.header("etag"), &all.json()["epoch"]), ("\"1\"", &json!(1)));
    let line = &all.json()["subjects"][0]["tallies"][0];
    assert_eq!(line, &json!({"group": "g1", "value": 3, "share": 0.75}));
    let one = server.get("/api/jobs/moods/tallies?subject=s1&limit=1").await.json();
    assert_eq!((one["subjects"].as_array().unwrap().len(), &one["subjects"][0]["total"]), (1, &json!(4)));
    assert_eq!(one["subjects"][0]["tallies"].as_array().unwrap().len(), 1);
    for (known, status) in [("\"1\"", 304), ("W/\"1\"", 304), ("\"0\", \"1\"", 304), ("*", 304), ("\"11\"", 200)] {
        let path = "/api/jobs/moods/tallies";
        let answer = server.send("GET", path, &[("if-none-match", known)], Body::empty()).await;
        assert_eq!((answer.status.as_u16(), answer.header("etag")), (status, "\"1\""), "{known}");
    }
    let csv = server.get("/api/jobs/moods/tallies?format=csv").await;
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
    assert_eq!(csv.text(), "subject,group,value,share\ns1,g1,3,0.75\ns1,g2,1,0.25\ns2,g1,5,1\n");
    let subjects = server.get("/api/jobs/moods/subjects?q=2").await.json();
    assert_eq!((&subjects["items"][0]["subject"], &subjects["items"][0]["total"]), (&json!("s2"), &json!(5)));
    let many: Vec<_> = (0..10_001).map(|group| (3, group, Some(1))).collect();
    job.apply(job.id, feed.update(&many));
    for path in ["tallies", "events"] {
        let answer = server.get(&format!("/api/jobs/moods/{path}")).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(answer.text().contains("10004 lines"), "{}", answer.text());
    }
    assert_eq!(server.get("/api/jobs/moods/tallies?limit=100").await.status, StatusCode::OK);
}

#[tokio::test]
async fn records_go_in_line_by_line_and_can_be_read_back() {
    let server = Server::new();
    let topic = server.post("/api/topics", r#"{"name": "posts", "partitions": 2}"#).await;
    assert_eq!((topic.status.as_u16(), topic.header("location")), (201, "/api/topics/posts/records"));
    assert_eq!(server.post("/api/topics", r#"{"name": "posts"}"#).await.status, StatusCode::CONFLICT);
    for bad in [r#"{"name": "a b"}"#, r#"{"name": "__x"}"#, r#"{"name": "x", "partitions": 0}"#, r#"{"nam": "x"}"#] {
        assert_eq!(server.post("/api/topics", bad).await.status, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
    }
    let records = "/api/topics/posts/records";
    let body = &b"{\"k\":\"a\"}\r\n\nno json\n\xff\xfe"[..];
    let appended = server.post(&format!("{records}?key=/k"), body).await;
    assert_eq!(appended.status, StatusCode::OK, "{}", appended.text());
    let offsets = appended.json()["offsets"].clone();
    let written: u64 =
        offsets.as_object().unwrap().values().map(|r| r[1].as_u64().unwrap() - r[0].as_u64().unwrap()).sum();
    assert_eq!(written, 3);
    let mut found = Vec::new();
    for partition in 0..2 {
        let answer = server.get(&format!("{records}?partition={partition}")).await.json();
        found.extend(
            answer["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| (r["key"].clone(), r["value"].clone(), r["value_base64"].clone())),
        );
    }
    found.sort_by_key(|(_, value, _)| value.to_string());
    assert_eq!(found[0], (Value::Null, json!("no json"), Value::Null));
    assert_eq!(found[1], (json!("a"), json!("{\"k\":\"a\"}"), Value::Null));
    assert_eq!(found[2], (Value::Null, Value::Null, json!("//4=")));
    let topics = server.get("/api/topics").await.json();
    assert_eq!((&topics["items"][0]["name"], topics["items"].as_array().unwrap().len()), (&json!("posts"), 1));
}

#[tokio::test]
async fn records_in_are_bounded_and_idempotent() {
    let server = Server::new();
    server.post("/api/topics", r#"{"name": "t"}"#).await;
    let records = "/api/topics/t/records";
    let long = format!("ok\n{}\n", "x".repeat(1_001));
    let answer = server.post(records, long).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer.text().contains("line 2"), "{}", answer.text());
    assert_eq!(server.post(records, "a\n".repeat(6_000)).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(server.post(records, "\n\r\n").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let once = |body: &'static str| server.send("POST", records, &[("idempotency-key", "k1")], body);
    let first = once("a\nb").await.json();
    assert_eq!(first["offsets"], json!({"0": [0, 2]}));
    assert_eq!(once("a\nb").await.json(), first);
    assert_eq!(once("a\nc").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let key = "k".repeat(256);
    let answer = server.send("POST", records, &[("idempotency-key", &key)], "a").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let page = server.get(&format!("{records}?limit=1")).await.json();
    assert_eq!((&page["items"][0]["value"], &page["next"]), (&json!("a"), &json!("1")));
}

#[tokio::test]
async fn too_many_bytes_at_once_are_refused_for_the_moment() {
    let host = TestHost::new();
    let config = ServerConfig { inflight_bytes_max: 5, ..ServerConfig::default() };
    let server = Server { router: router(Shared::new(Asked::Node(host.clone()), config)), host };
    assert_eq!(server.post("/api/topics/t/records", "123456").await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(server.post("/api/topics/t/records", "1234").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn dead_letters_are_shown_with_their_bytes_in_parts() {
    let server = Server::new();
    server.host.add("moods");
    for offset in 0..3 {
        server.host.letters.lock().unwrap().push(DeadLetter {
            topic: "posts".into(),
            partition: 0,
            offset,
            timestamp_ms: 0,
            key: None,
            value: Some(vec![0xff]),
            reason: "is no JSON".into(),
        });
    }
    let first = server.get("/api/jobs/moods/dead-letters?limit=2").await.json();
    assert_eq!((&first["items"][0]["value_base64"], &first["next"]), (&json!("/w=="), &json!("posts/0/1")));
    let rest = server.get("/api/jobs/moods/dead-letters?limit=2&after=posts/0/1").await.json();
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null));
}

#[tokio::test]
async fn the_server_describes_and_measures_itself() {
    let server = Server::new();
    let job = server.host.add("moods");
    job.apply(job.id, Feed::default().update(&[(1, 1, Some(3))]));
    let api = server.get("/openapi.json").await.json();
    let mut ids = std::collections::HashSet::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].as_str().is_some_and(|s| s.ends_with('.')), "{method} {path}");
            assert!(ids.insert(operation["operationId"].to_string()), "{method} {path} has the id of another");
        }
    }
    assert!(api["paths"]["/api/topics/{topic}/records"]["post"]["responses"]["507"].is_object());
    assert!(server.get("/docs/").await.text().contains("swagger"));
    let page = server.get("/").await;
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    assert_eq!(server.get("/healthz").await.status, StatusCode::OK);
    assert_eq!(server.get("/readyz").await.status, StatusCode::OK);
    let metrics = server.get("/metrics").await.text();
    for line in [
        "tallyflow_job_records_total{job=\"moods\",class=\"matched\"} 1",
        "tallyflow_job_epoch{job=\"moods\"} 1",
        "tallyflow_job_state{job=\"moods\",state=\"running\"} 1",
        "tallyflow_http_requests_total{method=\"GET\",route=\"/healthz\",status=\"200\"} 1",
        "tallyflow_sse_readers 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    assert!(metrics.ends_with("# EOF\n"));
    job.set_state(JobState::Failed, Some("no more".into()));
    let answer = server.get("/readyz").await;
    assert!(answer.status == StatusCode::SERVICE_UNAVAILABLE && answer.text().contains("moods"));
}

async fn read_until(socket: &mut TcpStream, what: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(what) {
        let read = tokio::time::timeout(Duration::from_secs(5), socket.read(&mut buffer)).await.unwrap().unwrap();
        assert!(read > 0, "the connection ended before {what:?}: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    text
}

#[tokio::test]
async fn a_reader_is_served_over_a_socket_and_told_when_the_server_stops() {
    let host = TestHost::new();
    let job = host.add("moods");
    let mut feed = Feed::default();
    job.apply(job.id, feed.update(&[(1, 1, Some(1))]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shared = Shared::new(Asked::Node(host), ServerConfig::default());
    let server = tokio::spawn(accept::run(
        (listener, tokio::sync::mpsc::channel(1).1),
        router(shared.clone()),
        shared,
        async move {
            let _ = stopped.await;
        },
    ));
    let mut reader = TcpStream::connect(address).await.unwrap();
    reader.write_all(b"GET /api/jobs/moods/events HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let head = read_until(&mut reader, "event: snapshot").await;
    for part in ["content-type: text/event-stream", "cache-control: no-cache", "x-accel-buffering: no", "retry: 2000"] {
        assert!(head.contains(part), "{part}: {head}");
    }
    job.apply(job.id, feed.update(&[(1, 1, Some(2))]));
    assert!(read_until(&mut reader, "event: delta").await.contains("id: 2\n"));
    let mut resumed = TcpStream::connect(address).await.unwrap();
    resumed.write_all(b"GET /api/jobs/moods/events HTTP/1.1\r\nhost: x\r\nlast-event-id: 1\r\n\r\n").await.unwrap();
    let text = read_until(&mut resumed, "\"value\":2").await;
    assert!(text.contains("event: delta") && !text.contains("event: snapshot"), "{text}");
    let mut lost = TcpStream::connect(address).await.unwrap();
    lost.write_all(b"GET /api/jobs/moods/events?last_event_id=x HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let text = read_until(&mut lost, "event: snapshot").await;
    assert!(text.contains("event: gap"), "{text}");
    // Somebody who never asks for anything does not keep the server from stopping.
    let _idle = TcpStream::connect(address).await.unwrap();
    let started = Instant::now();
    stop.send(()).unwrap();
    read_until(&mut reader, "\"state\":\"stopping\"").await;
    server.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}
