//! Topics that change or come to be while a server runs: partitions that are added, and the dead letters' topic.

use super::{Broker, Posted, assert_counted, job, name, read_topic, record, serve};
use crate::support::{Board, Server, eventually};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::TopicPartitionList;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Another program that writes: values to partitions.
fn write<'a>(brokers: &str, topic: &str, values: impl IntoIterator<Item = (i32, &'a [u8])>) {
    let other: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    for (partition, value) in values {
        let record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).key(b"k").payload(value);
        other.send(record).map_err(|(error, _)| error).unwrap();
    }
    other.flush(Duration::from_secs(20)).unwrap();
}

#[test]
fn partitions_that_are_added_while_a_job_runs_are_counted_from_their_beginning() {
    let Some(brokers) = Broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (topic, prefix) = (name("grown"), name("grown-server"));
    let server = serve(dir.path(), &brokers, &prefix);
    let http = &server.http;
    http.create_topic(&topic, 1);
    http.submit(&job(&topic));
    http.append(&topic, (0..100).map(|n| record(n) + "\n").collect::<String>());
    http.tallies_of(&topic, 100);
    let (events, mut board) = (server.events(&format!("/api/jobs/{topic}/events?every=0")), Board::default());
    board.follow(&events.next().unwrap());
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &brokers).create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (grown, options) = (NewPartitions::new(&topic, 3), AdminOptions::new());
    runtime.block_on(admin.create_partitions([&grown], &options)).unwrap().pop().unwrap().unwrap();
    let records: Vec<String> = (100..400).map(record).collect();
    write(&brokers, &topic, records.iter().zip(0..).map(|(record, n)| (n % 3, record.as_bytes())));
    let posted = Posted { acknowledged: (0..400).collect(), ..Posted::default() };
    assert_counted(http, &brokers, &topic, 3, &posted);
    while board.accounting.read < 400 {
        board.follow(&events.next().expect("the stream goes on"));
    }
    let before = http.tallies(&topic);
    board.assert_shows(&before);
    // And after a restart, of which the added ones are a part.
    server.terminate();
    let server = serve(dir.path(), &brokers, &prefix);
    let after = server.http.tallies_of(&topic, 400);
    assert_eq!((after.digest, after.accounting), (before.digest, before.accounting));
    server.http.recount(&topic);
}

#[test]
fn a_copy_of_every_dead_letter_stands_in_its_topic_under_its_place() {
    let Some(brokers) = Broker::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (topic, letters, prefix) = (name("letters"), name("letters-copies"), name("letters-server"));
    let options = [
        ("TALLYFLOW_KAFKA_BROKERS", brokers.as_str()),
        ("TALLYFLOW_KAFKA_PREFIX", &prefix),
        ("TALLYFLOW_KAFKA_DEAD_LETTERS", &letters),
    ];
    let server = Server::start_with(dir.path(), 2, &options);
    let http = &server.http;
    http.create_topic(&topic, 2);
    http.submit(&job(&topic));
    let (good, long) = (record(1), vec![b'x'; 700_000]);
    let values: [(i32, &[u8]); 4] = [(0, good.as_bytes()), (0, b"no json"), (1, b"\xff\xfe"), (1, &long)];
    write(&brokers, &topic, values);
    assert_eq!(http.tallies_of(&topic, 4).accounting.rejected, 3);
    eventually("the topic is there", || {
        (http.get(&format!("/api/topics/{letters}/records")).status == 200).then_some(())
    });
    let copies = eventually("all of them are there", || {
        let copies = read_topic(&brokers, &letters, 1);
        (copies.len() >= 3).then_some(copies)
    });
    // At least once: the place tells those apart that stand there twice.
    let copies: BTreeMap<(u64, u64), Value> = copies
        .iter()
        .map(|copy| serde_json::from_str::<Value>(copy).unwrap())
        .map(|copy| ((copy["partition"].as_u64().unwrap(), copy["offset"].as_u64().unwrap()), copy))
        .collect();
    assert_eq!(copies.keys().copied().collect::<Vec<_>>(), [(0, 1), (1, 0), (1, 1)]);
    for copy in copies.values() {
        assert_eq!((copy["job"].as_str(), copy["topic"].as_str()), (Some(&*topic), Some(&*topic)));
        assert_eq!(copy["key"], "k");
        assert!(!copy["reason"].as_str().unwrap().is_empty() && copy["timestamp_ms"].as_i64() > Some(0), "{copy}");
    }
    assert_eq!(copies[&(0, 1)]["value"], "no json");
    assert_eq!(copies[&(1, 0)]["value_base64"], BASE64_STANDARD.encode(b"\xff\xfe"));
    assert!(copies[&(1, 1)]["value"].is_null() && copies[&(1, 1)]["value_left_out"] == true);
}

#[test]
fn tools_see_how_far_a_job_has_read_and_what_brokers_do() {
    // A broker of its own: another test sees to it that there are no groups.
    let Some(broker) = Broker::start(&[]) else { return };
    let brokers = broker.address.clone();
    let dir = tempfile::tempdir().unwrap();
    let (topic, prefix) = (name("told"), name("told-server"));
    let options = [
        ("TALLYFLOW_KAFKA_BROKERS", &*brokers),
        ("TALLYFLOW_KAFKA_PREFIX", &*prefix),
        ("TALLYFLOW_KAFKA_LAG_GROUPS", "of-"),
    ];
    let server = Server::start_with(dir.path(), 1, &options);
    server.http.create_topic(&topic, 2);
    server.http.submit(&job(&topic));
    server.http.append(&topic, (0..100).map(|n| record(n) + "\n").collect::<String>());
    let shown = server.http.tallies_of(&topic, 100);
    // As a tool asks.
    let mut config = ClientConfig::new();
    let consumer: BaseConsumer =
        config.set("bootstrap.servers", &brokers).set("group.id", format!("of-{topic}")).create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..2 {
        list.add_partition(&topic, partition);
    }
    eventually("its offsets are committed", || {
        let committed = consumer.committed_offsets(list.clone(), Duration::from_secs(10)).ok()?;
        let committed = committed.elements().iter().map(|element| element.offset().to_raw()).collect::<Vec<_>>();
        let shown: Vec<_> = shown.offsets[&topic].iter().map(|offset| Some(offset.0 as i64)).collect();
        (committed == shown).then_some(())
    });
    eventually("librdkafka has told of the broker", || {
        let metrics = server.http.get("/metrics").ok().text;
        let line = metrics.lines().find(|line| line.starts_with("tallyflow_kafka_received_bytes_total{broker="))?;
        let bytes: f64 = line.rsplit_once(' ')?.1.parse().ok()?;
        (line.contains(&*brokers) && bytes > 100.0 && metrics.contains("tallyflow_kafka_rtt_p99_seconds{"))
            .then_some(())
    });
}

#[test]
fn a_broker_that_holds_answers_back_is_told_of_and_costs_no_record() {
    let Some(broker) = Broker::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = serve(dir.path(), &broker.address, "t");
    server.http.create_topic("slow", 1);
    server.http.submit(&job("slow"));
    let quota = |change: &[&str]| {
        let of = ["--entity-type", "clients", "--entity-default"];
        let to = ["kafka.admin.ConfigCommand", "--bootstrap-server", &broker.address, "--alter"];
        broker.tool(&[&to[..], &of[..], change].concat());
    };
    // Over ten seconds a client may read 200 kB, and there is more.
    quota(&["--add-config", "consumer_byte_rate=20000"]);
    let posted = Posted { acknowledged: (0..50_000).collect(), ..Posted::default() };
    for part in (0..50_000).collect::<Vec<u64>>().chunks(10_000) {
        server.http.append("slow", part.iter().map(|n| record(*n) + "\n").collect::<String>());
    }
    eventually("the metrics tell of it", || {
        let metrics = server.http.get("/metrics").ok().text;
        let mut lines = metrics.lines().filter(|line| line.starts_with("tallyflow_kafka_throttle_seconds{"));
        lines
            .any(|line| line.rsplit_once(' ').is_some_and(|(_, seconds)| seconds.parse::<f64>().unwrap() > 0.0))
            .then_some(())
    });
    assert!(server.http.tallies("slow").accounting.read < 50_000, "it is still held back");
    quota(&["--delete-config", "consumer_byte_rate"]);
    assert_counted(&server.http, &broker.address, "slow", 1, &posted);
    server.http.recount("slow");
}
