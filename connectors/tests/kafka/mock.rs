//! What a real broker can't be asked to do: slow answers, leaders that come and go.
//! librdkafka's mock cluster does. It throttles nobody, and ends itself where a partition without a leader is
//! read, so that neither is tested. It names no controller, so that the first question for topics waits in vain.

use crate::{ALL, DEADLINE, Read, log_at};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tallyflow_connectors::log::kafka::KafkaLog;
use tallyflow_dataflows::source::{NewRecord, ProduceError, Producer, Source};

type Mock = MockCluster<'static, DefaultProducerContext>;

const TOPIC: &str = "t";
const PARTITIONS: u32 = 2;
/// A poll that waited for an answer would take longer than this, on the busiest machine: answers take 2 s.
const POLL_MAX: Duration = Duration::from_millis(500);

fn cluster(brokers: i32) -> (Mock, KafkaLog) {
    let cluster = Mock::new(brokers).unwrap();
    cluster.create_topic(TOPIC, PARTITIONS as i32, brokers).unwrap();
    let log = log_at(&cluster.bootstrap_servers());
    (cluster, log)
}

/// What was written, by number.
#[derive(Default)]
struct Written {
    acknowledged: BTreeSet<String>,
    unsure: BTreeSet<String>,
}

impl Written {
    fn write(&mut self, log: &KafkaLog, n: u32) {
        let text = n.to_string();
        let record = NewRecord { key: Some(text.as_bytes()), value: Some(text.as_bytes()) };
        match log.append(TOPIC, &[record], None) {
            Ok(_) => self.acknowledged.insert(text),
            Err(ProduceError::Away(_) | ProduceError::UnknownTopic { .. }) => self.unsure.insert(text),
            Err(error) => panic!("{error}"),
        };
    }
}

/// Reads both partitions while others write and `trouble` is made, until all is there that was acknowledged.
/// The longest poll.
fn read_while(log: &KafkaLog, records: u32, trouble: impl Fn(u32), mend: impl FnOnce()) -> Duration {
    let written = AtomicBool::new(false);
    let mut read: Vec<Read> = (0..PARTITIONS).map(|partition| Read::open(log, TOPIC, partition, 0)).collect();
    let mut longest = Duration::ZERO;
    let poll = |read: &mut Vec<Read>, longest: &mut Duration| {
        for read in read {
            let began = Instant::now();
            let polled = read.poll(ALL);
            *longest = (*longest).max(began.elapsed());
            assert!(polled.as_ref().err().is_none_or(|error| error.retryable()), "{polled:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let all = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut all = Written::default();
            (0..records).for_each(|n| all.write(log, n));
            written.store(true, Ordering::Release);
            all
        });
        let (mut turn, mut at) = (0, Instant::now());
        while !written.load(Ordering::Acquire) {
            poll(&mut read, &mut longest);
            if Instant::now() >= at {
                trouble(turn);
                (turn, at) = (turn + 1, Instant::now() + Duration::from_millis(40));
            }
        }
        writer.join().unwrap()
    });
    mend();
    let started = Instant::now();
    loop {
        poll(&mut read, &mut longest);
        let texts: Vec<&str> = read.iter().flat_map(Read::texts).collect();
        let there: BTreeSet<&str> = texts.iter().copied().collect();
        assert_eq!(there.len(), texts.len(), "a record came twice");
        if all.acknowledged.iter().all(|text| there.contains(&**text)) {
            let known = |text: &&str| all.acknowledged.contains(*text) || all.unsure.contains(*text);
            assert!(there.iter().all(known), "nobody wrote some of {there:?}");
            break;
        }
        let lost = || all.acknowledged.iter().filter(|text| !there.contains(&***text)).collect::<Vec<_>>();
        assert!(started.elapsed() < DEADLINE, "acknowledged and not read: {:?}", lost());
    }
    assert!(all.acknowledged.len() > all.unsure.len(), "{} of {records} acknowledged", all.acknowledged.len());
    longest
}

#[test]
fn slow_answers_hold_no_reader_up() {
    let (cluster, log) = cluster(1);
    let slow = Duration::from_secs(2);
    let trouble = |turn: u32| {
        if turn == 1 {
            cluster.broker_round_trip_time(-1, slow).unwrap();
        }
    };
    let longest = read_while(&log, 8, trouble, || ());
    assert!(longest < POLL_MAX, "a poll took {longest:?}");
    // One that is opened meanwhile waits no more than that either.
    let began = Instant::now();
    let mut late = Read::open(&log, TOPIC, 0, 0);
    late.poll(ALL).ok();
    assert!(began.elapsed() < POLL_MAX, "opening took {:?}", began.elapsed());
    cluster.broker_round_trip_time(-1, Duration::ZERO).unwrap();
    late.until(log.topic(TOPIC).unwrap().unwrap().partitions[0].end.0);
}

#[test]
fn leaders_that_come_and_go_lose_nothing_and_repeat_nothing() {
    let (cluster, log) = cluster(3);
    let lead = |partition: i32, broker: i32| cluster.partition_leader(TOPIC, partition, Some(broker)).unwrap();
    let trouble = |turn: u32| {
        lead((turn % PARTITIONS) as i32, (turn / 3 % 3 + 1) as i32);
    };
    let longest = read_while(&log, 40, trouble, || (0..PARTITIONS as i32).for_each(|p| lead(p, 1)));
    assert!(longest < POLL_MAX, "a poll took {longest:?}");
}

#[test]
fn errors_that_pass_lose_nothing_and_repeat_nothing() {
    use RDKafkaApiKey::{Fetch, ListOffsets, Metadata, Produce};
    use RDKafkaRespErr as E;
    // One that a client tries again by itself, and one that it hands on, of each kind that there is.
    let errors: [(RDKafkaApiKey, &[E]); 4] = [
        (
            Fetch,
            &[
                E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                E::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE,
                E::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
                E::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
                E::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
                E::RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH,
                E::RD_KAFKA_RESP_ERR__TRANSPORT,
            ],
        ),
        (
            Produce,
            &[
                E::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
                E::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
                E::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                E::RD_KAFKA_RESP_ERR__TRANSPORT,
            ],
        ),
        (ListOffsets, &[E::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION]),
        (Metadata, &[E::RD_KAFKA_RESP_ERR__TRANSPORT]),
    ];
    let (cluster, log) = cluster(2);
    let trouble = |turn: u32| {
        let (of, errors) = &errors[turn as usize % errors.len()];
        let error = errors[turn as usize / 4 % errors.len()];
        // One at a time: what nobody has met by then is taken back.
        cluster.clear_request_errors(*of);
        cluster.request_errors(*of, &[error]);
    };
    let mend = || errors.iter().for_each(|(of, _)| cluster.clear_request_errors(*of));
    let longest = read_while(&log, 40, trouble, mend);
    assert!(longest < POLL_MAX, "a poll took {longest:?}");
}

#[test]
fn brokers_that_hang_up_and_come_back_lose_nothing_and_repeat_nothing() {
    let (cluster, log) = cluster(2);
    let trouble = |turn: u32| {
        let broker = (turn / 20 % 2 + 1) as i32;
        match turn % 20 {
            5 => cluster.broker_down(broker).unwrap(),
            15 => cluster.broker_up(broker).unwrap(),
            _ => {}
        }
    };
    let longest = read_while(&log, 30, trouble, || (1..=2).for_each(|broker| cluster.broker_up(broker).unwrap()));
    assert!(longest < POLL_MAX, "a poll took {longest:?}");
}
