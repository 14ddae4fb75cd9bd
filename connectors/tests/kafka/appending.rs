//! What is appended: once, durable, with or without a key, and what is refused.

use crate::{Broker, Read, create_plain, log_alone, log_at, topic, values};
use tallyflow_connectors::log::{Log, Retention, TopicConfig, TopicError, partition_of};
use tallyflow_dataflows::source::{NewRecord, ProduceError, Producer, Source};

#[test]
fn a_key_goes_where_kafkas_own_clients_put_it() {
    let Some(brokers) = Broker::shared() else { return };
    let log = log_at(&brokers);
    let topic = topic(&log, "t", 7);
    for key in ["a", "voter-12", "", "ключ"] {
        let record = NewRecord { key: Some(key.as_bytes()), value: Some(b"v") };
        let appended = log.append(&topic, &[record], None).unwrap();
        assert_eq!(appended.ranges[0].0, partition_of(key.as_bytes(), 7));
    }
}

#[test]
fn an_append_with_a_key_is_written_once_whoever_asks() {
    let Some(brokers) = Broker::shared() else { return };
    let log = log_at(&brokers);
    let (topic, beside) = (topic(&log, "t", 2), topic(&log, "t", 1));
    let key = crate::name("key");
    let first = log.append(&topic, &values(&["a", "b"]), Some(&key)).unwrap();
    assert_eq!(log.append(&topic, &values(&["a", "b"]), Some(&key)).unwrap(), first);
    let other = log.append(&topic, &values(&["a", "c"]), Some(&key));
    assert!(matches!(other, Err(ProduceError::KeyReused { .. })), "{other:?}");
    // In another topic it is another append.
    let there = log.append(&beside, &values(&["a", "b"]), Some(&key)).unwrap().ranges[0].2;
    let mut read = Read::open(&log, &beside, 0, 0);
    read.until(there.0);
    assert_eq!(read.texts(), ["a", "b"]);
    // A server that starts later knows it too, and takes the appends over from the first.
    let later = log_at(&brokers);
    assert_eq!(later.append(&topic, &values(&["a", "b"]), Some(&key)).unwrap(), first);
    let once = later.append_once(&topic, &values(&["c"]), &crate::name("key"), b"said").unwrap();
    let fenced = log.append(&topic, &values(&["x"]), Some(&crate::name("key")));
    assert!(fenced.is_err(), "{fenced:?}");
    let (partition, from, _) = first.ranges[0];
    let mut read = Read::open(&log, &topic, partition.0, from.0);
    read.until(first.ranges[0].2.0);
    assert_eq!(read.texts()[..2], ["a", "b"]);
    assert!(!read.texts().contains(&"x"), "what was refused was not written");
    assert_eq!(once.ranges.len(), 1);
}

#[test]
fn appends_with_keys_that_come_together_are_written_together_and_each_hears_its_own() {
    const APPENDS: usize = 200;
    let Some(brokers) = Broker::shared() else { return };
    let log = log_alone(&brokers);
    let (topic, missing, long) = (topic(&log, "t", 1), crate::name("missing"), "x".repeat(1_000_001));
    log.append(&topic, &values(&["first"]), Some(&crate::name("key"))).unwrap();
    let keys: Vec<String> = (0..APPENDS).map(|_| crate::name("key")).collect();
    let reused = crate::name("key");
    let start = std::sync::Barrier::new(2 * APPENDS + 4);
    std::thread::scope(|scope| {
        let (log, topic, start, missing, long, reused) = (&log, &topic, &start, &missing, &long, &reused);
        let ask = move |topic: &str, text: &str, key: &str| {
            start.wait();
            log.append(topic, &values(&[text]), Some(key))
        };
        // Each is asked for twice at a time.
        let twice = |key| [0, 1].map(|_| scope.spawn(move || ask(topic, key, key)));
        let good: Vec<_> = keys.iter().map(|key| twice(key.as_str())).collect();
        let bad = [(missing, "a"), (topic, long)];
        let bad = bad.map(|(topic, text)| scope.spawn(move || ask(topic, text, &crate::name("key"))));
        let differing = ["this", "that"].map(|text| scope.spawn(move || ask(topic, text, reused)));
        for asked in good {
            let [one, other] = asked.map(|asked| asked.join().unwrap().unwrap());
            assert_eq!(one, other);
        }
        let [unknown, refused] = bad.map(|asked| asked.join().unwrap());
        assert_eq!(unknown, Err(ProduceError::UnknownTopic { topic: missing.clone() }));
        assert!(matches!(refused, Err(ProduceError::TooLarge { .. })), "{refused:?}");
        let differing = differing.map(|asked| asked.join().unwrap());
        assert_eq!(differing.iter().filter(|asked| asked.is_ok()).count(), 1, "{differing:?}");
    });
    let last = log.append(&topic, &values(&["last"]), Some(&crate::name("key"))).unwrap().ranges[0].2.0;
    let mut read = Read::open(&log, &topic, 0, 0);
    read.until(last);
    let (records, mut texts) = (read.texts().len(), read.texts().to_vec());
    assert_eq!(records, APPENDS + 3, "each is there once");
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), records);
    // What is no record is the marker of a transaction.
    let transactions = last - records as u64;
    assert!(transactions < APPENDS as u64 / 4, "{transactions} transactions");
}

#[test]
fn an_append_that_the_broker_refuses_takes_no_other_with_it() {
    const APPENDS: usize = 5;
    let Some(brokers) = Broker::shared() else { return };
    let log = log_alone(&brokers);
    // Compressed too it is too long.
    let long: String = (0..2_000_u64).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let (wide, narrow) = (topic(&log, "t", 1), crate::name("narrow"));
    create_plain(&brokers, &narrow, &[("max.message.bytes", "2000")]);
    log.append(&wide, &values(&["first"]), Some(&crate::name("key"))).unwrap();
    let start = std::sync::Barrier::new(3 * APPENDS);
    std::thread::scope(|scope| {
        let (log, start) = (&log, &start);
        let ask = move |topic: &str, text: &str| {
            start.wait();
            log.append(topic, &values(&[text]), Some(&crate::name("key")))
        };
        let asked: Vec<_> = [(&wide, "fits"), (&narrow, "fits"), (&narrow, &*long)]
            .into_iter()
            .flat_map(|asked| [asked; APPENDS])
            .map(|(topic, text)| (text, scope.spawn(move || ask(topic, text))))
            .collect();
        for (text, asked) in asked {
            match asked.join().unwrap() {
                Ok(_) => assert!(text == "fits", "what is too long was taken"),
                Err(error) => assert!(text == long && matches!(error, ProduceError::TooLarge { .. }), "{error:?}"),
            }
        }
    });
    for (topic, count) in [(&wide, APPENDS + 2), (&narrow, APPENDS + 1)] {
        let last = log.append(topic, &values(&["last"]), Some(&crate::name("key"))).unwrap().ranges[0].2.0;
        let mut read = Read::open(&log, topic, 0, 0);
        read.until(last);
        assert_eq!(read.texts().len(), count);
        assert!(!read.texts().contains(&&*long));
    }
}

#[test]
fn what_can_not_be_is_refused_in_a_sentence() {
    let Some(brokers) = Broker::shared() else { return };
    let log = log_at(&brokers);
    let missing = crate::name("missing");
    let unknown = log.append(&missing, &values(&["a"]), None);
    assert_eq!(unknown, Err(ProduceError::UnknownTopic { topic: missing.clone() }));
    assert_eq!(log.topic(&missing).unwrap(), None);
    assert_eq!(log.topic_config(&missing).unwrap(), None);
    let there = topic(&log, "t", 1);
    let again = log.create_topic(&there, 1, TopicConfig::default());
    assert_eq!(again, Err(TopicError::AlreadyExists { topic: there.clone() }));
    let long = "x".repeat(1_000_001);
    let refused = log.append(&there, &values(&["a", &long]), None);
    assert!(matches!(refused, Err(ProduceError::TooLarge { index: 1, .. })), "{refused:?}");
    let compacted = crate::name("compacted");
    log.create_topic(&compacted, 1, TopicConfig { compacted: true, ..TopicConfig::default() }).unwrap();
    let refused = log.append(&compacted, &values(&["a"]), None);
    assert!(matches!(refused, Err(ProduceError::KeyMissing { .. })), "{refused:?}");
    assert!(log.topic(&compacted).unwrap().unwrap().compacted);
    let retention = Retention { age: Some(std::time::Duration::from_secs(7_200)), bytes: Some(1 << 20) };
    let kept = crate::name("kept");
    log.create_topic(&kept, 2, TopicConfig { compacted: false, retention }).unwrap();
    assert_eq!(log.topic_config(&kept).unwrap().unwrap().retention.age, retention.age);
}
