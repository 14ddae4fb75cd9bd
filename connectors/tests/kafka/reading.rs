//! What is read: offsets, keys, tombstones, compressed and transactional records, bounds.

use crate::{ALL, Broker, Read, create_plain, log_at, topic, until, values};
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::time::Duration;
use tallyflow_connectors::log::Log;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::source::{Budget, NewRecord, Producer as _, Source};

const LONG: Duration = Duration::from_secs(30);

/// Another program that writes.
fn other(brokers: &str, properties: &[(&str, &str)]) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    for (name, value) in properties {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

fn put(producer: &BaseProducer, topic: &str, value: &str) {
    producer.send(BaseRecord::<(), str>::to(topic).partition(0).payload(value)).map_err(|(e, _)| e).unwrap();
}

#[test]
fn records_come_with_offsets_keys_tombstones_and_times_and_the_reader_is_woken() {
    let Some(brokers) = Broker::shared() else { return };
    let log = log_at(&brokers);
    let topic = topic(&log, "t", 3);
    let mut read: Vec<Read> = (0..3).map(|partition| Read::open(&log, &topic, partition, 0)).collect();
    let keyed = |key: &'static str, value| NewRecord { key: Some(key.as_bytes()), value };
    let before_ms = jiff::Timestamp::now().as_millisecond();
    let records = [keyed("a", Some("1".as_bytes())), keyed("b", Some(b"2")), keyed("a", None), keyed("a", Some(b""))];
    let appended = log.append(&topic, &records, None).unwrap();
    let count: u64 = appended.ranges.iter().map(|(_, from, to)| to.0 - from.0).sum();
    assert_eq!(count, 4);
    for (partition, from, to) in &appended.ranges {
        let read = &mut read[partition.0 as usize];
        assert_eq!(from.0, 0);
        read.until(to.0);
        assert!(read.timestamps.iter().all(|ms| *ms >= before_ms - 1_000 && *ms < before_ms + 60_000));
    }
    let all: Vec<_> = read.iter().flat_map(|read| read.records.values().cloned()).collect();
    let of_a: Vec<_> = all.iter().filter(|(key, _)| key.as_deref() == Some("a")).map(|(_, v)| v.as_deref()).collect();
    assert_eq!(of_a, [Some("1"), None, Some("")]);
    assert_eq!(all.len(), 4);
    let state = log.topic(&topic).unwrap().unwrap();
    assert_eq!(state.partitions.iter().map(|p| p.end.0).sum::<u64>(), 4);
    assert!(!state.compacted && state.incarnation != 0);
    assert!(log.topics().unwrap().contains(&state));
}

#[test]
fn a_reader_keeps_within_its_budget_and_its_bound() {
    let Some(brokers) = Broker::shared() else { return };
    let log = log_at(&brokers);
    let topic = topic(&log, "t", 1);
    let texts: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let records: Vec<&str> = texts.iter().map(String::as_str).collect();
    log.append(&topic, &values(&records), None).unwrap();
    let mut read = Read::open(&log, &topic, 0, 10);
    until("the first are there", || (read.poll(Budget { records_max: 7, ..ALL }).unwrap().records > 0).then_some(()));
    assert!(read.records.len() <= 7 && *read.records.first_key_value().unwrap().0 == 10);
    until("the bound is reached", || {
        let polled = read.poll(Budget { until: Offset(42), ..ALL }).unwrap();
        (polled.next == Offset(42)).then_some(())
    });
    assert_eq!(read.poll(Budget { until: Offset(42), ..ALL }).unwrap().records, 0);
    read.until(100);
    assert_eq!(read.texts(), records[10..]);
}

#[test]
fn every_compression_is_read_and_a_time_that_the_producer_gave() {
    let Some(brokers) = Broker::shared() else { return };
    let log = log_at(&brokers);
    let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
    for codec in codecs {
        // Other programs' topics have the times that producers give.
        let topic = crate::name("created");
        let time_ms = jiff::Timestamp::now().as_millisecond() - 60_000;
        let producer = other(&brokers, &[("compression.type", codec), ("linger.ms", "20")]);
        create_plain(&brokers, &topic, &[]);
        for n in 0..50 {
            let headers = OwnedHeaders::new().insert(Header { key: "h", value: Some("v") });
            let value = format!("{codec} {n} {}", "x".repeat(500));
            let record = BaseRecord::<(), str>::to(&topic).partition(0).payload(&value).headers(headers);
            producer.send(record.timestamp(time_ms + n)).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(LONG).unwrap();
        let mut read = Read::open(&log, &topic, 0, 0);
        read.until(50);
        assert!(read.texts()[49].starts_with(&format!("{codec} 49 x")));
        assert!(read.timestamps.iter().copied().eq(time_ms..time_ms + 50), "{:?}", read.timestamps);
    }
}

#[test]
fn only_what_was_committed_is_read_and_the_gaps_are_passed() {
    let Some(brokers) = Broker::shared() else { return };
    let log = log_at(&brokers);
    let topic = topic(&log, "t", 1);
    let id = crate::name("tx");
    let producer = other(&brokers, &[("transactional.id", &id)]);
    producer.init_transactions(LONG).unwrap();
    let mut read = Read::open(&log, &topic, 0, 0);
    for round in 0..4 {
        producer.begin_transaction().unwrap();
        put(&producer, &topic, &format!("{round} a"));
        put(&producer, &topic, &format!("{round} b"));
        producer.flush(LONG).unwrap();
        if round % 2 == 0 {
            producer.commit_transaction(LONG).unwrap()
        } else {
            producer.abort_transaction(LONG).unwrap()
        }
    }
    // Two records and a marker each; the last ones are of a transaction that was aborted.
    read.until(12);
    assert_eq!(read.texts(), ["0 a", "0 b", "2 a", "2 b"]);
    let state = log.topic(&topic).unwrap().unwrap();
    assert_eq!(state.partitions[0].end, Offset(12));
    // One that is open is not seen, and the end is before it.
    producer.begin_transaction().unwrap();
    put(&producer, &topic, "open");
    producer.flush(LONG).unwrap();
    assert_eq!(log.topic(&topic).unwrap().unwrap().partitions[0].end, Offset(12));
    assert_eq!(read.poll(ALL).unwrap().records, 0);
    producer.commit_transaction(LONG).unwrap();
    read.until(14);
    assert_eq!(read.texts().last(), Some(&"open"));
    // From the midst of what is left out: the next record that counts, or the bound.
    let mut read = Read::open(&log, &topic, 0, 4);
    until("the bound is reached", || {
        (read.poll(Budget { until: Offset(6), ..ALL }).unwrap().next == Offset(6)).then_some(())
    });
    assert!(read.records.is_empty());
}

#[test]
fn a_time_is_found_and_a_range_is_shown() {
    let Some(brokers) = Broker::shared() else { return };
    let log = log_at(&brokers);
    let topic = crate::name("times");
    create_plain(&brokers, &topic, &[]);
    let producer = other(&brokers, &[]);
    let between_ms = jiff::Timestamp::now().as_millisecond() - 60_000;
    for (value, time_ms) in [("a", between_ms - 20), ("b", between_ms - 20), ("c", between_ms + 20)] {
        let record = BaseRecord::<(), str>::to(&topic).partition(0).payload(value).timestamp(time_ms);
        producer.send(record).map_err(|(e, _)| e).unwrap();
        producer.flush(LONG).unwrap();
    }
    let p0 = PartitionId(0);
    assert_eq!(log.offset_at(&topic, p0, 0).unwrap(), Offset(0));
    assert_eq!(log.offset_at(&topic, p0, between_ms).unwrap(), Offset(2));
    assert_eq!(log.offset_at(&topic, p0, between_ms + 3_600_000).unwrap(), Offset(3));
    let range = log.read_range(&topic, p0, Offset(1), 10).unwrap();
    let shown: Vec<_> = range.iter().map(|r| (r.offset.0, r.value.clone().unwrap())).collect();
    assert_eq!(shown, [(1, b"b".to_vec()), (2, b"c".to_vec())]);
    assert_eq!(log.read_range(&topic, p0, Offset(0), 1).unwrap().len(), 1);
    assert!(log.read_range(&topic, p0, Offset(3), 10).unwrap().is_empty());
    assert!(log.read_range(&topic, PartitionId(1), Offset(0), 10).is_err());
    assert!(log.read_range("no-such-topic", p0, Offset(0), 10).is_err());
}

#[test]
fn two_jobs_read_one_partition_each_for_itself() {
    let Some(brokers) = Broker::shared() else { return };
    let log = log_at(&brokers);
    let topic = topic(&log, "t", 1);
    log.append(&topic, &values(&["a", "b", "c"]), None).unwrap();
    let mut first = Read::open(&log, &topic, 0, 0);
    let mut second = Read::open(&log, &topic, 0, 2);
    first.until(3);
    second.until(3);
    assert_eq!((first.records.len(), second.records.len()), (3, 1));
    drop(first);
    let mut third = Read::open(&log, &topic, 0, 1);
    third.until(3);
    log.append(&topic, &values(&["d"]), None).unwrap();
    second.until(4);
    third.until(4);
    assert_eq!((second.texts(), third.texts()), (vec!["c", "d"], vec!["b", "c", "d"]));
}
