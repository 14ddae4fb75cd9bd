//! Others who use the same topics: who abort what they wrote, who delete a topic and make another.

use super::{Broker, Posted, assert_counted, job, name, record, serve};
use crate::support::{Board, eventually};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);

fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|n| record(n) + "\n").collect()
}

#[test]
fn what_another_producer_aborts_never_counts_and_what_it_commits_does() {
    let Some(brokers) = Broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = name("aborted");
    let server = serve(dir.path(), &brokers, &name("aborted-server"));
    server.http.create_topic(&topic, 2);
    server.http.submit(&job(&topic));
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &brokers).set("transactional.id", &topic);
    let other: BaseProducer = config.create().unwrap();
    other.init_transactions(WAIT).unwrap();
    let write = |numbers: std::ops::Range<u64>| {
        other.begin_transaction().unwrap();
        for n in numbers {
            let line = record(n);
            other.send(BaseRecord::<(), str>::to(&topic).partition((n % 2) as i32).payload(&line)).unwrap();
        }
        other.flush(WAIT).unwrap();
    };
    let mut posted = Posted::default();
    for round in 0..5 {
        let from = round * 1_000;
        write(from..from + 100);
        other.abort_transaction(WAIT).unwrap();
        write(from + 100..from + 150);
        other.commit_transaction(WAIT).unwrap();
        server.http.append(&topic, lines(from + 150..from + 200));
        posted.acknowledged.extend(from + 100..from + 200);
        server.http.tallies_of(&topic, posted.acknowledged.len() as u64);
    }
    // What comes after an open transaction waits for its end.
    write(9_000..9_100);
    server.http.append(&topic, lines(9_100..9_200));
    assert_eq!(server.http.tallies(&topic).accounting.read, posted.acknowledged.len() as u64);
    other.abort_transaction(WAIT).unwrap();
    posted.acknowledged.extend(9_100..9_200);
    assert_counted(&server.http, &brokers, &topic, 2, &posted);
}

#[test]
fn a_topic_that_is_deleted_and_made_again_ends_its_job_by_name_and_keeps_its_numbers() {
    let Some(brokers) = Broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = name("again");
    let server = serve(dir.path(), &brokers, &name("again-server"));
    let http = &server.http;
    http.create_topic(&topic, 2);
    http.submit(&job(&topic));
    http.append(&topic, lines(0..100));
    let before = http.tallies_of(&topic, 100);
    let (events, mut board) = (server.events(&format!("/api/jobs/{topic}/events?every=0")), Board::default());
    board.follow(&events.next().unwrap());
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let deleted = wait_for(admin.delete_topics(&[&topic], &AdminOptions::new()));
    deleted.unwrap().pop().unwrap().unwrap();
    // Until it is gone everywhere, there is one already.
    let body = format!("{{\"name\":\"{topic}\",\"partitions\":2}}");
    eventually("it can be made again", || (http.post("/api/topics", body.clone()).status == 201).then_some(()));
    http.append(&topic, lines(0..300));
    http.wait_for_state(&topic, "failed");
    let error = http.job(&topic)["error"].to_string();
    assert!(error.contains(&topic) && error.contains("was deleted and made again"), "{error}");
    let after = http.tallies(&topic);
    assert_eq!((&after.digest, after.accounting), (&before.digest, before.accounting));
    while !board.states.contains(&"failed".to_owned()) {
        board.follow(&events.next().expect("the stream goes on"));
    }
    board.assert_shows(&after);
}

#[test]
fn a_job_whose_topic_is_gone_when_it_starts_again_waits_and_says_so() {
    let Some(brokers) = Broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (topic, prefix) = (name("gone"), name("gone-server"));
    let server = serve(dir.path(), &brokers, &prefix);
    server.http.create_topic(&topic, 1);
    server.http.submit(&job(&topic));
    server.http.append(&topic, lines(0..100));
    let before = server.http.tallies_of(&topic, 100);
    server.terminate();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    wait_for(admin.delete_topics(&[&topic], &AdminOptions::new())).unwrap().pop().unwrap().unwrap();
    let server = serve(dir.path(), &brokers, &prefix);
    let said = format!("{topic}/0 can't be read just now: there is no topic {topic:?} at the brokers");
    eventually("it says what it waits for", || server.stderr().contains(&said).then_some(()));
    assert_eq!(server.http.tallies_of(&topic, 100).digest, before.digest);
    let waits = eventually("its status says so too", || {
        let job = server.http.job(&topic);
        assert!(job["error"].is_null());
        job["waits"].get(0).cloned()
    });
    let why = format!("there is no topic {topic:?} at the brokers");
    assert_eq!(waits, serde_json::json!({"topic": topic, "partition": 0, "why": why}));
}

/// Waits for an answer that comes from a thread of librdkafka's.
fn wait_for<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(answer)
}
