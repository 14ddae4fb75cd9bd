//! The sink in a topic, seen by a consumer: whole epochs, each once, whatever happens to its writer; in the
//! embedded log, and in Kafka where `TALLYFLOW_TEST_KAFKA` names what starts a broker (`scripts/kafka-tests`).

#[allow(dead_code)]
#[path = "kafka/broker.rs"]
mod broker;

use broker::Broker;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use tallyflow_connectors::log::embedded::{EmbeddedLog, LogOptions};
use tallyflow_connectors::log::kafka::{KafkaConfig, KafkaLog};
use tallyflow_connectors::log::{Log, RangeReader, TopicConfig};
use tallyflow_connectors::sinks::topic::TopicSink;
use tallyflow_connectors::sinks::{Ending, Opening, Sink, SinkEpoch, SinkError, SinkLine, Writer};
use tallyflow_dataflows::ids::{Epoch, Offset, PartitionId};
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::source::Budget;

/// What a job shows: by subject and group a count.
type Shown = BTreeMap<(String, String), i64>;

fn opening(job: &str, take_over_ms: Option<i64>) -> Opening {
    Opening {
        job: job.into(),
        aggregates: vec!["count".into(), "sum".into()],
        data_dir: "/nowhere".into(),
        writer: Writer { server: "s".into(), generation: 1, run: "r".into() },
        take_over_ms,
    }
}

fn open(log: &Arc<dyn Log>, topic: &str, job: &str) -> TopicSink {
    TopicSink::open(log, topic, &opening(job, None)).unwrap()
}

fn totals(shown: &Shown) -> BTreeMap<String, i64> {
    shown.iter().fold(BTreeMap::new(), |mut totals, ((subject, _), count)| {
        *totals.entry(subject.clone()).or_default() += count;
        totals
    })
}

/// The epoch that goes from one state to another, or tells all of it.
fn epoch(number: u64, from: Option<&Shown>, to: &Shown) -> SinkEpoch {
    let empty = Shown::new();
    let before = from.unwrap_or(&empty);
    let line = |(subject, group): &(String, String), count: Option<i64>| SinkLine {
        subject: subject.clone(),
        group: group.clone(),
        values: count.map(|count| vec![Some(Decimal::from_int(count)), Some(Decimal::from_int(2 * count))]),
    };
    let changed = to.iter().filter(|(key, count)| before.get(key) != Some(count));
    let mut lines: Vec<SinkLine> = changed.map(|(key, count)| line(key, Some(*count))).collect();
    lines.extend(before.keys().filter(|key| !to.contains_key(key)).map(|key| line(key, None)));
    let (old, new) = (totals(before), totals(to));
    let mut sums: Vec<_> = new
        .iter()
        .filter(|(subject, total)| old.get(*subject) != Some(total))
        .map(|(subject, total)| (subject.clone(), Some(Decimal::from_int(*total))))
        .collect();
    sums.extend(old.keys().filter(|subject| !new.contains_key(*subject)).map(|subject| (subject.clone(), None)));
    SinkEpoch {
        epoch: Epoch(number),
        at_ms: number as i64,
        offsets_json: format!(r#"{{"t":[{number}]}}"#),
        digest: format!("sha256:{number}"),
        accounting_json: format!(r#"{{"read":{number}}}"#),
        reset: from.is_none(),
        totals: sums,
        lines,
        ..SinkEpoch::default()
    }
}

/// Every record of the topic's only partition: key and value.
fn records(log: &Arc<dyn Log>, topic: &str) -> Vec<(Value, Option<Value>)> {
    let state = log.topic(topic).unwrap().unwrap();
    assert_eq!(state.partitions.len(), 1);
    let bounds = (state.partitions[0].start, state.partitions[0].end);
    let mut reader = RangeReader::open(log.as_ref(), (topic, None), PartitionId(0), bounds).unwrap();
    let budget = Budget { records_max: 1_000, bytes_max: 1 << 20, until: Offset(u64::MAX) };
    let mut records = Vec::new();
    let mut take = |record: tallyflow_dataflows::record::RecordRef<'_>| {
        let json = |bytes: &[u8]| serde_json::from_slice(bytes).unwrap();
        records.push((json(record.key.unwrap()), record.value.map(json)));
    };
    while reader.read(budget, &mut take).unwrap().is_some() {}
    records
}

/// What a consumer that folds the records sees of a job at each epoch.
fn seen(log: &Arc<dyn Log>, topic: &str, job: &str) -> Vec<(u64, Shown)> {
    let (mut shown, mut sums, mut epochs) = (Shown::new(), BTreeMap::<String, i64>::new(), Vec::new());
    for (key, value) in records(log, topic).into_iter().filter(|(key, _)| key["job"] == job) {
        let text = |field: &str| key[field].as_str().map(str::to_owned);
        match (text("subject"), text("group"), value) {
            (Some(subject), Some(group), Some(value)) => {
                assert_eq!(value["aggregates"]["sum"].as_i64(), value["value"].as_i64().map(|n| 2 * n));
                shown.insert((subject, group), value["value"].as_i64().unwrap());
            }
            (Some(subject), Some(group), None) => {
                assert!(shown.remove(&(subject, group)).is_some(), "a tombstone of what was there");
            }
            (Some(subject), None, Some(value)) => drop(sums.insert(subject, value["total"].as_i64().unwrap())),
            (Some(subject), None, None) => drop(sums.remove(&subject)),
            (None, _, value) => {
                let value = value.unwrap();
                let epoch = value["epoch"].as_u64().unwrap();
                assert_eq!(value["offsets"]["t"][0].as_u64(), Some(epoch));
                assert_eq!(sums, totals(&shown), "at epoch {epoch}");
                epochs.push((epoch, shown.clone()));
            }
        }
    }
    epochs
}

/// Random epochs, written by sinks that are opened again and again, told all or what changed, some twice.
fn a_consumer_sees_whole_epochs_once(log: &Arc<dyn Log>, seed: u64, topic: &str, rounds: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut shown, mut written) = (Shown::new(), Vec::new());
    // Not compacted, so that all that was ever written can be seen.
    log.create_topic(topic, 1, TopicConfig::default()).unwrap();
    let mut sink: Option<TopicSink> = None;
    let ending = Ending::default();
    for number in 1..=rounds {
        let before = shown.clone();
        for _ in 0..rng.random_range(0..6) {
            let key = (format!("s{}", rng.random_range(0..3)), format!("\"g{}\"", rng.random_range(0..4)));
            if rng.random_bool(0.3) {
                shown.remove(&key);
            } else {
                shown.insert(key, rng.random_range(0..9));
            }
        }
        let is_new = rng.random_bool(0.3) || sink.is_none();
        if is_new {
            sink = Some(open(log, topic, "j"));
        }
        let told = epoch(number, (!is_new).then_some(&before), &shown);
        let there = sink.as_mut().unwrap();
        there.take(&told, &ending).unwrap();
        if rng.random_bool(0.2) {
            // One that did not hear that it was written writes it again, from the start.
            sink = Some(open(log, topic, "j"));
            sink.as_mut().unwrap().take(&epoch(number, None, &shown), &ending).unwrap();
        }
        written.push((number, shown.clone()));
    }
    assert_eq!(seen(log, topic, "j"), written);
    let older = epoch(rounds - 1, None, &Shown::new());
    let refused = open(log, topic, "j").take(&older, &ending);
    assert!(matches!(refused, Err(SinkError::NewerEpoch { .. })), "{refused:?}");
    // Another job of the same topic is left alone, and one that was told to takes over.
    open(log, topic, "k").take(&epoch(1, None, &shown), &ending).unwrap();
    let mut taking = TopicSink::open(log, topic, &opening("j", Some(5))).unwrap();
    taking.take(&epoch(2, None, &Shown::new()), &ending).unwrap();
    assert_eq!(seen(log, topic, "j").last().unwrap(), &(2, Shown::new()));
    assert_eq!(seen(log, topic, "k"), [(1, shown)]);
    let again =
        TopicSink::open(log, topic, &opening("j", Some(5))).unwrap().take(&epoch(1, None, &Shown::new()), &ending);
    assert!(matches!(again, Err(SinkError::NewerEpoch { .. })), "what was told once is no leave for ever: {again:?}");
}

#[test]
fn in_the_embedded_log_a_consumer_sees_whole_epochs_once() {
    for seed in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(dir.path(), LogOptions::default()).unwrap());
        a_consumer_sees_whole_epochs_once(&log, seed, "results", 40);
    }
}

#[test]
fn in_kafka_a_consumer_sees_whole_epochs_once_and_an_earlier_writer_is_fenced() {
    let Some(broker) = Broker::start(&[]) else { return };
    let config = KafkaConfig::new(&broker.address, BTreeMap::new()).unwrap();
    let log: Arc<dyn Log> = Arc::new(KafkaLog::open(config, "tallyflow-test").unwrap());
    for seed in 0..3 {
        a_consumer_sees_whole_epochs_once(&log, seed, &format!("results-{seed}"), 25);
    }
    log.create_topic("fenced", 1, TopicConfig::default()).unwrap();
    let (ending, shown) = (Ending::default(), Shown::from([(("s".into(), "g".into()), 1)]));
    let mut earlier = open(&log, "fenced", "j");
    earlier.take(&epoch(1, None, &shown), &ending).unwrap();
    let mut later = open(&log, "fenced", "j");
    later.take(&epoch(2, None, &shown), &ending).unwrap();
    let refused = earlier.take(&epoch(3, Some(&Shown::new()), &Shown::new()), &ending);
    assert!(refused.is_err(), "{refused:?}");
    later.take(&epoch(4, Some(&shown), &shown), &ending).unwrap();
    let epochs: Vec<u64> = seen(&log, "fenced", "j").into_iter().map(|(epoch, _)| epoch).collect();
    assert_eq!(epochs, [1, 2, 4]);
}
