//! What goes wrong: brokers that crash, topics that go and come again, records that are gone.

use crate::{ALL, Broker, Read, log_at, topic, until, values};
use tallyflow_connectors::log::{Log, TopicConfig};
use tallyflow_dataflows::ids::Offset;
use tallyflow_dataflows::source::{ProduceError, Producer, Source, SourceError};

const ADMIN: &str = "org.apache.kafka.tools.TopicCommand";

#[test]
fn a_broker_that_crashes_is_waited_for_and_nothing_acknowledged_is_lost() {
    let Some(broker) = Broker::start(&[]) else { return };
    let log = log_at(&broker.address);
    let topic = topic(&log, "t", 1);
    log.append(&topic, &values(&["a"]), None).unwrap();
    let mut read = Read::open(&log, &topic, 0, 0);
    read.until(1);
    broker.kill(1);
    let refused = log.append(&topic, &values(&["lost?"]), None);
    assert!(matches!(refused, Err(ProduceError::Away(_))), "{refused:?}");
    assert!(refused.unwrap_err().to_string().contains(&broker.address));
    // One that is opened meanwhile says that it waits.
    let mut late = Read::open(&log, &topic, 0, 0);
    assert!(matches!(late.error(), SourceError::Away(_)));
    broker.revive(1);
    let appended = until("it can be appended again", || log.append(&topic, &values(&["b"]), None).ok());
    let end = appended.ranges[0].2.0;
    read.until(end);
    assert_eq!((read.texts()[0], *read.texts().last().unwrap()), ("a", "b"));
    until("the late one reads", || (late.poll(ALL).is_ok_and(|_| late.next.0 >= end)).then_some(()));
    assert_eq!(late.texts(), read.texts());
}

#[test]
fn a_topic_that_is_gone_is_waited_for_and_one_that_was_made_again_is_not_read_on() {
    let Some(broker) = Broker::start(&[]) else { return };
    let log = log_at(&broker.address);
    let topic = topic(&log, "t", 1);
    log.append(&topic, &values(&["a", "b"]), None).unwrap();
    let before = log.topic(&topic).unwrap().unwrap().incarnation;
    let mut read = Read::open(&log, &topic, 0, 0);
    read.until(2);
    broker.tool(&[ADMIN, "--bootstrap-server", &broker.address, "--delete", "--topic", &topic]);
    let SourceError::Away(why) = read.error() else { panic!("it is waited for") };
    assert!(why.contains(&topic), "{why}");
    until("it can be made again", || log.create_topic(&topic, 1, TopicConfig::default()).ok());
    log.append(&topic, &values(&["x", "y", "z"]), None).unwrap();
    until("it is named", || {
        let error = read.poll(ALL).err()?;
        (error == SourceError::Recreated { topic: topic.clone() }).then_some(())
    });
    assert_eq!(read.texts(), ["a", "b"], "nothing of the new topic was handed over");
    assert_ne!(log.topic(&topic).unwrap().unwrap().incarnation, before);
    // Whoever reads it as it is now reads it.
    let mut anew = Read::open(&log, &topic, 0, 0);
    anew.until(3);
}

#[test]
fn offsets_that_are_gone_or_never_were_are_named() {
    let Some(broker) = Broker::start(&[]) else { return };
    let log = log_at(&broker.address);
    let topic = topic(&log, "t", 1);
    let texts: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    log.append(&topic, &values(&texts.iter().map(String::as_str).collect::<Vec<_>>()), None).unwrap();
    let json = broker.file("delete.json");
    let delete = format!("{{\"partitions\":[{{\"topic\":\"{topic}\",\"partition\":0,\"offset\":6}}],\"version\":1}}");
    std::fs::write(&json, delete).unwrap();
    let tool = "org.apache.kafka.tools.DeleteRecordsCommand";
    broker.tool(&[tool, "--bootstrap-server", &broker.address, "--offset-json-file", json.to_str().unwrap()]);
    let error = Read::open(&log, &topic, 0, 2).error();
    assert_eq!(error.to_string(), format!("offsets 2 to 5 of {topic}/0 are gone: the log now starts at 6"));
    let error = Read::open(&log, &topic, 0, 11).error();
    assert!(matches!(error, SourceError::CutShort { end: Offset(10), .. }), "{error:?}");
    let error = Read::open(&log, &topic, 1, 0).error();
    assert!(matches!(error, SourceError::UnknownPartition { .. }), "{error:?}");
    let mut rest = Read::open(&log, &topic, 0, 6);
    rest.until(10);
    assert_eq!(rest.records.len(), 4);
}

#[test]
fn with_three_brokers_the_loss_of_a_leader_loses_nothing() {
    let session = ["--set", "broker.session.timeout.ms=3000", "--set", "broker.heartbeat.interval.ms=500"];
    let args: Vec<&str> = ["--brokers", "3"].into_iter().chain(session).collect();
    let Some(broker) = Broker::start(&args) else { return };
    let log = log_at(&broker.address);
    let topic = topic(&log, "t", 3);
    let mut read: Vec<Read> = (0..3).map(|partition| Read::open(&log, &topic, partition, 0)).collect();
    let mut acknowledged = Vec::new();
    let mut put = |n: u32| {
        let text = n.to_string();
        let record =
            tallyflow_dataflows::source::NewRecord { key: Some(text.as_bytes()), value: Some(text.as_bytes()) };
        if log.append(&topic, &[record], None).is_ok() {
            acknowledged.push(text.clone());
        }
    };
    (0..50).for_each(&mut put);
    broker.kill(2);
    (50..100).for_each(&mut put);
    broker.revive(2);
    (100..150).for_each(&mut put);
    assert!(acknowledged.len() >= 100, "{} acknowledged", acknowledged.len());
    let ends = log.topic(&topic).unwrap().unwrap().partitions;
    for (read, bounds) in read.iter_mut().zip(&ends) {
        read.until(bounds.end.0);
    }
    let mut texts: Vec<&str> = read.iter().flat_map(Read::texts).collect();
    texts.sort_unstable();
    let before = texts.len();
    texts.dedup();
    assert_eq!(texts.len(), before, "none came twice");
    for text in &acknowledged {
        assert!(texts.binary_search(&text.as_str()).is_ok(), "{text} was acknowledged");
    }
}
