//! Polls and votes as a client meets them.

use crate::node::job::JobState;
use crate::node::polls::{PollFilling, PollState};
use crate::server::testing::Feed;
use crate::server::tests::{Answer, Server};
use axum::body::Body;
use axum::http::StatusCode;
use serde_json::{Value, json};
use tallyflow_connectors::log::TopicConfig;
use tallyflow_dataflows::ids::{Offset, PartitionId};

/// A server with a job of polls that reads posts and votes.
fn server() -> Server {
    let server = Server::new();
    for topic in ["posts", "votes"] {
        crate::server::host::Host::log(&*server.host).create_topic(topic, 2, TopicConfig::default()).unwrap();
    }
    server.host.add_polls("polls", &["post", "vote"]);
    server
}

impl Server {
    async fn patch(&self, path: &str, body: impl Into<Body>) -> Answer {
        self.send("PATCH", path, &[("content-type", "application/json")], body).await
    }
}

#[tokio::test]
async fn a_poll_is_made_looked_at_changed_closed_and_deleted() {
    let server = server();
    let made = server.post("/api/polls", r#"{"id": "s1", "options": ["g1", "g2"]}"#).await;
    assert_eq!((made.status.as_u16(), made.header("location")), (201, "/api/polls/s1"), "{}", made.text());
    let body = made.json();
    assert_eq!((&body["state"], &body["version"], &body["tally"]), (&json!("open"), &json!(1), &Value::Null));
    assert_eq!((&body["from"], &body["title"]), (&json!({"posts": [7], "votes": [0]}), &json!("s1")));
    // Numbers come as soon as there are any.
    let job = server.host.jobs.lock().unwrap()["polls"].clone();
    job.apply(job.id, Feed::default().update(&[(1, 1, Some(3)), (1, 2, Some(1)), (2, 1, Some(9))]));
    let shown = server.get("/api/polls/s1").await.json();
    let tally = &shown["tally"];
    assert_eq!((&tally["epoch"], &tally["total"], &tally["subject"]), (&json!(1), &json!(4), &json!("s1")));
    assert_eq!(tally["tallies"][0], json!({"group": "g1", "value": 3, "share": 0.75}));
    assert!(tally["at"].as_str().unwrap().starts_with("1970-01-01T"));
    let changed = server.patch("/api/polls/s1", r#"{"title": "One", "closes": "2200-01-01T00:00:00Z"}"#).await.json();
    assert_eq!((&changed["title"], &changed["version"]), (&json!("One"), &json!(2)));
    let merged = [("content-type", "application/merge-patch+json")];
    let never = server.send("PATCH", "/api/polls/s1", &merged, r#"{"closes": null}"#).await.json();
    assert_eq!(never["closes"], Value::Null);
    assert_eq!(server.post("/api/polls/s1/close", "").await.json()["state"], "closed");
    assert_eq!(server.post("/api/polls/s1/close", "").await.status, StatusCode::CONFLICT);
    assert_eq!(server.send("DELETE", "/api/polls/s1", &[], Body::empty()).await.status, StatusCode::NO_CONTENT);
    assert_eq!(server.get("/api/polls/s1").await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.send("DELETE", "/api/polls/s1", &[], Body::empty()).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_poll_whose_past_is_being_counted_shows_no_numbers_and_says_how_far_it_is() {
    let server = server();
    let made = server.post("/api/polls", r#"{"id": "s1", "options": ["g1"], "opens": "2020-01-01T00:00:00Z"}"#).await;
    assert_eq!(made.json()["state"], "filling");
    let job = server.host.jobs.lock().unwrap()["polls"].clone();
    job.apply(job.id, Feed::default().update(&[(1, 1, Some(3))]));
    let filling = PollFilling { version: 1, records: 120, of: Some(5_000), error: None };
    server.host.polls.lock().unwrap().get_mut("s1").unwrap().refill = Some(filling);
    let shown = server.get("/api/polls/s1").await.json();
    assert_eq!((&shown["tally"], &shown["shown"]), (&Value::Null, &Value::Null));
    assert_eq!(shown["refill"], json!({"version": 1, "records": 120, "of": 5000}));
    let listed = server.get("/api/polls").await.json();
    assert_eq!((&listed["items"][0]["total"], &listed["items"][0]["state"]), (&Value::Null, &json!("filling")));
}

#[tokio::test]
async fn polls_are_listed_in_parts_with_their_totals() {
    let server = server();
    server.host.add_polls("others", &["vote"]);
    for (id, job) in [("s1", "polls"), ("s2", "polls"), ("s3", "others")] {
        let made = server.post("/api/polls", format!(r#"{{"id": "{id}", "options": ["g1", "g2"], "job": "{job}"}}"#));
        assert_eq!(made.await.status, StatusCode::CREATED);
    }
    let job = server.host.jobs.lock().unwrap()["polls"].clone();
    job.apply(job.id, Feed::default().update(&[(1, 1, Some(3)), (1, 2, Some(1)), (2, 1, Some(9))]));
    let first = server.get("/api/polls?limit=2").await.json();
    let of = |list: &Value, key: &str| -> Vec<Value> {
        list["items"].as_array().unwrap().iter().map(|poll| poll[key].clone()).collect()
    };
    assert_eq!((of(&first, "id"), of(&first, "total")), (vec![json!("s1"), json!("s2")], vec![json!(4), json!(9)]));
    assert_eq!(first["next"], "s2");
    let rest = server.get("/api/polls?limit=2&after=s2").await.json();
    assert_eq!(
        (of(&rest, "id"), of(&rest, "total"), &rest["next"]),
        (vec![json!("s3")], vec![Value::Null], &Value::Null)
    );
    assert_eq!(of(&server.get("/api/polls?job=others").await.json(), "id"), [json!("s3")]);
    assert_eq!(server.get("/api/polls?job=none").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_definition_is_refused_with_every_fault_and_its_remedy() {
    let server = Server::new();
    let none = server.post("/api/polls", r#"{"id": "a", "options": ["x"]}"#).await;
    assert_eq!(none.status, StatusCode::CONFLICT);
    assert!(none.text().contains("dataflow = \\\"polls\\\""), "{}", none.text());
    let server = self::server();
    assert_eq!(server.post("/api/polls", r#"{"id": "a", "options": ["x"]}"#).await.status, StatusCode::CREATED);
    assert_eq!(server.post("/api/polls", r#"{"id": "a", "options": ["x"]}"#).await.status, StatusCode::CONFLICT);
    let faulty = server.post("/api/polls", r#"{"id": "a b", "options": [], "colour": "red"}"#).await;
    assert_eq!(faulty.status, StatusCode::UNPROCESSABLE_ENTITY);
    let faults = faulty.json()["faults"].clone();
    let keys: Vec<&str> = faults.as_array().unwrap().iter().map(|f| f["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["colour", "id", "options"], "{faults}");
    assert_eq!(server.patch("/api/polls/a", r#"{"id": "b"}"#).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(server.patch("/api/polls/none", "{}").await.status, StatusCode::NOT_FOUND);
    let many: Vec<String> = (0..10_000).map(|n| format!("\"o{n}\"")).collect();
    let many = server.post("/api/polls", format!(r#"{{"id": "c", "options": [{}]}}"#, many.join(","))).await;
    assert_eq!(many.json()["faults"][0]["key"], "options");
    for (body, status) in [(&b"\xff"[..], 400), (b"", 422), (b"{", 422), (b"[]", 422), (b"null", 422)] {
        let answer = server.post("/api/polls", body).await;
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
    }
    assert_eq!(server.post("/api/polls", vec![b' '; 3 << 20]).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let image = server.send("POST", "/api/polls", &[("content-type", "image/png")], "x").await;
    assert_eq!(image.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    server.host.add_polls("others", &["vote"]);
    let ambiguous = server.post("/api/polls", r#"{"id": "d", "options": ["x"]}"#).await.json();
    assert!(ambiguous["faults"][0]["message"].as_str().unwrap().ends_with("name one of others, polls"), "{ambiguous}");
}

#[tokio::test]
async fn a_vote_is_a_record_with_the_time_and_the_same_voter_goes_to_the_same_partition() {
    let server = server();
    server.post("/api/polls", r#"{"id": "moods", "options": ["happy", "sad"], "entity": "voter"}"#).await;
    let vote = |voter: &'static str, option: &'static str| {
        server.post("/api/polls/moods/votes", format!(r#"{{"voter": {voter}, "option": {option}}}"#))
    };
    let first = vote("\"ada\"", "\"happy\"").await;
    assert_eq!(first.status, StatusCode::CREATED, "{}", first.text());
    let second = vote("\"ada\"", "null").await.json();
    assert_eq!((&second["topic"], &second["offset"]), (&json!("votes"), &json!(1)));
    assert_eq!(first.json()["partition"], second["partition"]);
    let number = vote("7.50", "\"sad\"").await.json();
    let place = PartitionId(number["partition"].as_u64().unwrap() as u32);
    let offset = Offset(number["offset"].as_u64().unwrap());
    let log = crate::server::host::Host::log(&*server.host);
    let record = log.read_range("votes", place, offset, 1).unwrap().remove(0);
    assert_eq!(record.key.as_deref(), Some(&b"7.50"[..]));
    let value = String::from_utf8(record.value.unwrap()).unwrap();
    assert!(value.starts_with(r#"{"poll":"moods","voter":7.50,"option":"sad","at":"20"#), "{value}");
    assert!(value.ends_with("Z\"}"), "{value}");
}

#[tokio::test]
async fn a_vote_sent_again_with_its_idempotency_key_is_there_once() {
    let server = server();
    server.post("/api/polls", r#"{"id": "moods", "options": ["happy", "sad"]}"#).await;
    let vote = |option: &'static str| {
        let headers = [("content-type", "application/json"), ("idempotency-key", "k1")];
        let body = format!(r#"{{"voter": "ada", "option": "{option}"}}"#);
        let server = &server;
        async move { server.send("POST", "/api/polls/moods/votes", &headers, body).await }
    };
    let first = vote("happy").await;
    assert_eq!(first.status, StatusCode::CREATED);
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    assert_eq!(vote("happy").await.json(), first.json());
    assert_eq!(vote("sad").await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_vote_that_can_not_count_is_refused_with_what_to_do() {
    let server = server();
    server.post("/api/polls", r#"{"id": "moods", "options": ["happy", "sad"]}"#).await;
    for (body, status, said) in [
        (r#"{"voter": "a", "option": "angry"}"#, 422, "happy, sad"),
        (r#"{"voter": "a", "option": "Happy"}"#, 422, "happy, sad"),
        (r#"{"voter": "a", "option": null}"#, 422, "withdrawn"),
        (r#"{"voter": "a"}"#, 422, "option"),
        (r#"{"option": "happy"}"#, 422, "voter"),
        (r#"{"voter": "", "option": "happy"}"#, 422, "voter"),
        (r#"{"voter": null, "option": "happy"}"#, 422, "voter"),
        (r#"{"voter": ["a"], "option": "happy"}"#, 422, "voter"),
        (r#"{"voter": "a", "option": 3}"#, 422, "the vote"),
        (r#"{"voter": "a", "option": "happy", "at": 5}"#, 422, "at"),
        ("", 400, "JSON"),
        ("{", 400, "JSON"),
    ] {
        let answer = server.post("/api/polls/moods/votes", body).await;
        assert_eq!(answer.status.as_u16(), status, "{body}: {}", answer.text());
        assert!(answer.json()["detail"].as_str().unwrap().contains(said), "{body}: {}", answer.text());
    }
    let long = format!(r#"{{"voter": "{}", "option": "happy"}}"#, "x".repeat(257));
    assert_eq!(server.post("/api/polls/moods/votes", long).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    let huge = server.post("/api/polls/moods/votes", vec![b' '; 20 << 10]).await;
    assert_eq!(huge.status, StatusCode::PAYLOAD_TOO_LARGE);
    let good = r#"{"voter": "a", "option": "happy"}"#;
    assert_eq!(server.post("/api/polls/none/votes", good).await.status, StatusCode::NOT_FOUND);
    server.post("/api/polls", r#"{"id": "later", "options": ["happy"], "opens": "2200-01-01T00:00:00Z"}"#).await;
    let early = server.post("/api/polls/later/votes", good).await;
    assert_eq!(early.status, StatusCode::CONFLICT);
    assert!(early.text().contains("opens at 2200-01-01T00:00:00Z"), "{}", early.text());
    server.post("/api/polls/moods/close", "").await;
    let closed = server.post("/api/polls/moods/votes", good).await;
    assert!(
        closed.status == StatusCode::CONFLICT && closed.text().contains("has been closed since"),
        "{}",
        closed.text()
    );
    server.send("DELETE", "/api/polls/moods", &[], Body::empty()).await;
    let deleted = server.post("/api/polls/moods/votes", good).await;
    assert!(deleted.status == StatusCode::CONFLICT && deleted.text().contains("was deleted"), "{}", deleted.text());
}

#[tokio::test]
async fn a_job_that_reads_no_votes_or_has_ended_takes_none() {
    let server = Server::new();
    let job = server.host.add_polls("texts", &["post"]);
    server.post("/api/polls", r#"{"id": "moods", "options": ["happy"]}"#).await;
    let good = r#"{"voter": "a", "option": "happy"}"#;
    let refused = server.post("/api/polls/moods/votes", good).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.text().contains("[[input]] of format"), "{}", refused.text());
    job.set_state(JobState::Cancelled, None);
    let ended = server.post("/api/polls/moods/votes", good).await;
    assert!(ended.status == StatusCode::CONFLICT && ended.text().contains("is cancelled"), "{}", ended.text());
    assert_eq!(server.host.polls.lock().unwrap()["moods"].state, PollState::Open);
}
