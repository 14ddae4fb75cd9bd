//! What is read back equals plain vectors, over generated appends, reads and restarts.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use tallyflow_connectors::log::partition_of;
use tallyflow_connectors::log::{Log as _, TopicConfig};

type Record = (Option<u8>, Option<(u8, usize)>);

#[derive(Clone, Debug)]
enum Step {
    Append { topic: usize, records: Vec<Record> },
    Read { topic: usize, partition: u32, from: f64, records_max: usize, bytes_max: usize },
    Reopen,
}

const PARTITIONS: [u32; 3] = [1, 3, 8];

fn record() -> impl Strategy<Value = Record> {
    let length = prop_oneof![8 => 0usize..200, 1 => 0usize..70_000];
    (prop::option::of(0u8..20), prop::option::weighted(0.9, (any::<u8>(), length)))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3usize, prop::collection::vec(record(), 0..40))
            .prop_map(|(topic, records)| Step::Append { topic, records }),
        1 => (0..3usize, 4000usize..9000, any::<u8>())
            .prop_map(|(topic, count, byte)| Step::Append { topic, records: vec![(None, Some((byte, 9))); count] }),
        4 => (0..3usize, 0u32..8, 0.0..1.0f64, 1usize..300, 1usize..100_000)
            .prop_map(|(topic, partition, from, records_max, bytes_max)|
                Step::Read { topic, partition: partition % PARTITIONS[topic], from, records_max, bytes_max }),
        1 => Just(Step::Reopen),
    ]
}

type Stored = (Option<Vec<u8>>, Option<Vec<u8>>);

fn stored((key, value): &Record) -> Stored {
    (key.map(|key| vec![key]), value.map(|(byte, length)| vec![byte; length]))
}

/// Appends to the log and to the model, which learns from the answer where keyless records went.
fn append_to_both(
    log: &EmbeddedLog,
    topic: &str,
    model: &mut [Vec<Stored>],
    records: &[Record],
) -> Result<(), TestCaseError> {
    let records: Vec<Stored> = records.iter().map(stored).collect();
    let new: Vec<NewRecord<'_>> =
        records.iter().map(|(key, value)| NewRecord { key: key.as_deref(), value: value.as_deref() }).collect();
    let appended = log.append(topic, &new, None).unwrap();
    let partitions = model.len() as u32;
    let partition_of = |key: &[u8]| partition_of(key, partitions).0;
    let mut keyed: BTreeMap<u32, u64> = BTreeMap::new();
    for key in records.iter().filter_map(|(key, _)| key.as_deref()) {
        *keyed.entry(partition_of(key)).or_default() += 1;
    }
    let keyless: Vec<u32> = appended
        .ranges
        .iter()
        .filter(|(partition, first, end)| end.0 - first.0 > keyed.get(&partition.0).copied().unwrap_or(0))
        .map(|(partition, ..)| partition.0)
        .collect();
    prop_assert!(keyless.len() <= 1, "keyless records of one append stay together");
    let ends: Vec<u64> = model.iter().map(|partition| partition.len() as u64).collect();
    for record in records {
        let partition = record.0.as_deref().map_or_else(|| keyless[0], partition_of);
        model[partition as usize].push(record);
    }
    let wanted: Vec<(PartitionId, Offset, Offset)> = (0..model.len())
        .filter(|&p| model[p].len() as u64 > ends[p])
        .map(|p| (PartitionId(p as u32), Offset(ends[p]), Offset(model[p].len() as u64)))
        .collect();
    prop_assert_eq!(appended.ranges, wanted);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_back_is_what_was_appended(steps in prop::collection::vec(step(), 1..25)) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path());
        let topics = ["a", "b", "c"];
        let mut model: Vec<Vec<Vec<Stored>>> = PARTITIONS.iter().map(|n| vec![Vec::new(); *n as usize]).collect();
        for (topic, partitions) in topics.iter().zip(PARTITIONS) {
            log.create_topic(topic, partitions, TopicConfig::default()).unwrap();
        }
        for step in steps {
            match step {
                Step::Append { topic, records } =>
                    append_to_both(&log, topics[topic], &mut model[topic], &records)?,
                Step::Reopen => {
                    drop(log);
                    log = open(dir.path());
                }
                Step::Read { topic, partition, from, records_max, bytes_max } => {
                    let wanted = &model[topic][partition as usize];
                    let from = (from * (wanted.len() + 1) as f64) as usize;
                    let partition = PartitionId(partition);
                    let mut reader = log.open(topics[topic], partition, Offset(from as u64), no_waker()).unwrap();
                    let got = drain(&mut *reader, Budget { records_max, bytes_max, ..ALL });
                    prop_assert_eq!(got.len(), wanted.len() - from);
                    let mut last_ms = 0;
                    for (at, record) in got.iter().enumerate() {
                        prop_assert_eq!(record.offset, Offset((from + at) as u64));
                        prop_assert_eq!(&record.key, &wanted[from + at].0);
                        prop_assert_eq!(&record.value, &wanted[from + at].1);
                        prop_assert!(record.timestamp_ms >= last_ms);
                        last_ms = record.timestamp_ms;
                    }
                    let range = log.read_range(topics[topic], partition, Offset(from as u64), 7).unwrap();
                    prop_assert_eq!(&range[..], &got[..got.len().min(7)]);
                }
            }
        }
        for (topic, partitions) in topics.iter().zip(&model) {
            let state = log.topic(topic).unwrap().unwrap();
            for (state, records) in state.partitions.iter().zip(partitions) {
                let bytes: usize = records.iter().map(|(key, value)| {
                    key.as_ref().map_or(0, Vec::len) + value.as_ref().map_or(0, Vec::len)
                }).sum();
                prop_assert_eq!((state.start, state.end), (Offset(0), Offset(records.len() as u64)));
                prop_assert_eq!(state.bytes, Some(bytes as u64));
            }
        }
    }

    #[test]
    fn a_compacted_topic_keeps_the_newest_record_of_each_key(
        appends in prop::collection::vec(prop::collection::vec((0u8..6, prop::option::of(0usize..50)), 1..8), 1..12),
        from in 0.0..1.0f64,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path());
        log.create_topic("jobs", 1, TopicConfig { compacted: true, ..TopicConfig::default() }).unwrap();
        let mut newest: BTreeMap<u8, (u64, Option<usize>)> = BTreeMap::new();
        let mut end = 0;
        let zeros = [0u8; 50];
        let mut early = log.open("jobs", P0, Offset(0), no_waker()).unwrap();
        for records in &appends {
            let keys: Vec<[u8; 1]> = records.iter().map(|(key, _)| [*key]).collect();
            let new: Vec<NewRecord<'_>> = records.iter().zip(&keys)
                .map(|((_, length), key)| NewRecord { key: Some(key), value: length.map(|n| &zeros[..n]) }).collect();
            log.append("jobs", &new, None).unwrap();
            for (key, length) in records {
                newest.insert(*key, (end, *length));
                end += 1;
            }
            drain(&mut *early, ALL);
        }
        let mut wanted: Vec<(u64, u8, Option<usize>)> =
            newest.into_iter().map(|(key, (offset, length))| (offset, key, length)).collect();
        wanted.sort();
        let bytes: usize = wanted.iter().map(|(_, _, length)| 1 + length.unwrap_or(0)).sum();
        prop_assert_eq!(start_of(&log, "jobs"), (Offset(0), Offset(end), bytes as u64));
        let from = (from * end as f64) as u64;
        wanted.retain(|(offset, ..)| *offset >= from);
        let mut reader = log.open("jobs", P0, Offset(from), no_waker()).unwrap();
        let got: Vec<(u64, u8, Option<usize>)> = drain(&mut *reader, Budget { records_max: 2, bytes_max: 100, ..ALL })
            .into_iter().map(|r| (r.offset.0, r.key.unwrap()[0], r.value.map(|v| v.len()))).collect();
        prop_assert_eq!(got, wanted);
    }
}
