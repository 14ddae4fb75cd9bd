//! Appends with an Idempotency-Key, and a server that is killed while one is under way.

use super::{Broker, Posted, assert_counted, job, name, record, serve};
use crate::support::Http;
use reqwest::Method;
use std::time::Duration;

#[test]
fn an_append_with_a_key_is_written_once_whenever_the_server_is_killed() {
    let Some(brokers) = Broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (topic, prefix) = (name("once"), name("once-server"));
    let mut server = serve(dir.path(), &brokers, &prefix);
    server.http.create_topic(&topic, 2);
    server.http.submit(&job(&topic));
    let path = format!("/api/topics/{topic}/records");
    let mut posted = Posted::default();
    // From before the append is begun to after it was answered.
    for (round, delay_ms) in [0, 2, 5, 10, 20, 40, 300].into_iter().enumerate() {
        let numbers = round as u64 * 100..round as u64 * 100 + 100;
        let lines: String = numbers.clone().map(|n| record(n) + "\n").collect();
        let key = format!("{topic}-{round}");
        let send = |http: &Http| http.send(Method::POST, &path, &[("idempotency-key", &key)], lines.clone());
        // The first append of a server has transactions to begin.
        let warm = format!("{topic}-warm-{round}");
        let warmed =
            server.http.send(Method::POST, &path, &[("idempotency-key", &warm)], record(10_000 + round as u64));
        assert_eq!(warmed.unwrap().status, 200);
        posted.acknowledged.push(10_000 + round as u64);
        let url = server.http.url.clone();
        let first = std::thread::scope(|scope| {
            let first = scope.spawn(|| send(&Http::new(&url)).ok().filter(|answer| answer.status == 200));
            std::thread::sleep(Duration::from_millis(delay_ms));
            server.kill();
            first.join().unwrap()
        });
        server = serve(dir.path(), &brokers, &prefix);
        let again = crate::support::eventually("the append is answered", || {
            send(&server.http).ok().filter(|answer| answer.status == 200)
        });
        if let Some(first) = first {
            assert_eq!(first.json(), again.json(), "the same append has the same offsets");
        }
        posted.acknowledged.extend(numbers);
    }
    assert_counted(&server.http, &brokers, &topic, 2, &posted);
}
