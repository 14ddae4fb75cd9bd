//! The engine equals the plain recount, for generated jobs over generated records.
//!
//! Method: a job file and a log are generated together, from so few names and times that duplicates,
//! corrections, withdrawals, ties and redeliveries meet all the time. Records are appended in chunks
//! while engines of 1, 2 and 4 workers read them. Every update that an engine publishes is compared
//! with a recount of exactly the records before that update's offsets: so epochs are true cuts, not
//! only the end is right. The digest is computed a second time here, with code of its own.
//!
//! `PROPTEST_CASES` sets how many cases are tried.

mod generated;

use generated::case;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tallyflow_dataflows::ids::{Offset, PartitionId};
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::record::RecordRef;
use tallyflow_dataflows::recount::{Recount, RecountError, RecountResult};
use tallyflow_dataflows::results::{Filter, JobResults};
use tallyflow_dataflows::source::{Budget, PartitionSource, Polled, Source, SourceError, TopicState, Waker};
use tallyflow_dataflows::spec::voids::Voided;
use tallyflow_dataflows::spec::{Dataflow, JobFile, JobSpec, Surroundings};
use tallyflow_dataflows::testing::{Bench, Crew, MemoryLog, MemoryRecord, PlainFormats};

const DEADLINE: Duration = Duration::from_secs(60);
const TOPICS: [&str; 2] = ["a", "b"];

/// A job file, how many partitions each topic has, and what is appended.
#[derive(Clone, Debug)]
struct Case {
    job: String,
    partitions: [usize; 2],
    chunks: Vec<Chunk>,
}

/// Records appended together.
#[derive(Clone, Debug)]
struct Chunk {
    records: Vec<Record>,
    then: Then,
}

/// What happens before the next chunk is appended.
#[derive(Clone, Copy, Debug)]
enum Then {
    Nothing,
    /// All is read.
    Wait,
    /// A checkpoint is asked for, and perhaps there.
    Checkpoint(bool),
    /// The engine ends wherever it is, and another goes on with so many workers.
    Restart(usize),
    /// The job stops reading; nothing more is told before the next chunk is there, and it reads on.
    Pause,
    /// An operator voids something; all is read again.
    Void(What),
    /// And takes one of the voids back.
    Unvoid(usize),
}

/// What is voided.
#[derive(Clone, Copy, Debug)]
enum What {
    Entity(&'static str),
    /// Of a partition of a topic, modulo their numbers, and of its offsets from such a part on to such a part, in 16ths.
    Offsets(usize, usize, u64, u64),
    Where(&'static str),
}

#[derive(Clone, Debug)]
struct Record {
    topic: usize,
    /// Modulo the number of the topic's partitions.
    partition: usize,
    /// How much later by the log's clock than the record before it in the case.
    after_ms: i64,
    value: Bytes,
}

#[derive(Clone, Debug)]
enum Bytes {
    Of(String),
    /// The bytes of the record so many before this one, delivered again.
    Again(usize),
}

fn job_spec(text: &str, partitions: [usize; 2]) -> JobSpec {
    let of = |topic: &str| TOPICS.iter().position(|t| *t == topic).map(|at| partitions[at] as u32);
    let around = Surroundings { formats: &PlainFormats, partitions: &of, topics: vec![] };
    JobFile::parse_toml(text, &around).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"))
}

/// Voids up to the ends of the log; whether the job takes it.
fn void(spec: &mut JobSpec, log: &MemoryLog, partitions: [usize; 2], what: What) -> bool {
    let ends = |topic: &String| {
        let at = TOPICS.iter().position(|t| t == topic).expect("one of both");
        let ends = (0..partitions[at]).map(|p| Offset(log.records(topic, p).len() as u64)).collect::<Vec<_>>();
        (topic.clone(), ends)
    };
    let ends: BTreeMap<String, Vec<Offset>> = spec.inputs.iter().map(|input| ends(&input.topic)).collect();
    let what = match what {
        What::Entity(entity) => Voided::Entity([entity.to_owned()].into()),
        What::Where(source) => Voided::Where(source.to_owned()),
        What::Offsets(topic, partition, from, to) => {
            let partition = PartitionId((partition % partitions[topic]) as u32);
            let end = ends.get(TOPICS[topic]).map_or(0, |ends| ends[partition.0 as usize].0);
            let part = |sixteenths: u64| Offset(end * sixteenths / 16);
            Voided::Offsets { topic: TOPICS[topic].to_owned(), partition, from: part(from), to: part(to) }
        }
    };
    let job = spec.clone();
    spec.voids.add(&job, what, "a test", 0, ends).is_ok()
}

// ---- what it must come to

/// What the recount says of the records before these offsets, by input and partition.
fn recount(spec: &JobSpec, log: &MemoryLog, offsets: &[(String, Vec<u64>)]) -> RecountResult {
    let one = recount_in(Recount::new(spec, &PlainFormats), log, offsets);
    let many = Recount::new(spec, &PlainFormats).in_parts(3).within(50_000);
    assert_eq!(recount_in(many, log, offsets), one, "in many passes");
    let halves = |offsets: &[(String, Vec<u64>)]| {
        let half = |ends: &Vec<u64>| ends.iter().map(|end| end / 2).collect::<Vec<u64>>();
        offsets.iter().map(|(topic, ends)| (topic.clone(), half(ends))).collect::<Vec<_>>()
    };
    for in_parts in [1, 3] {
        let base = Rc::new(RefCell::new(Vec::new()));
        let keep = base.clone();
        let mut first = Recount::new(spec, &PlainFormats).in_parts(in_parts);
        assert!(first.keep(move |piece| keep.borrow_mut().push(piece.to_vec())));
        recount_in(first, log, &halves(offsets));
        let rest = Recount::new(spec, &PlainFormats).in_parts(4 - in_parts);
        let rest = recount_from(rest, log, Some((&base.borrow(), &halves(offsets))), offsets);
        assert_eq!(rest, one, "going on from what the first half came to");
    }
    one
}

fn recount_in(recount: Recount, log: &MemoryLog, offsets: &[(String, Vec<u64>)]) -> RecountResult {
    recount_from(recount, log, None, offsets)
}

/// Likewise from a base, which stands for the records before offsets of its own.
type Base<'a> = (&'a [Vec<u8>], &'a [(String, Vec<u64>)]);

fn recount_from(
    recount: Recount,
    log: &MemoryLog,
    base: Option<Base<'_>>,
    offsets: &[(String, Vec<u64>)],
) -> RecountResult {
    let result = recount.over(|recount| {
        base.iter().flat_map(|(pieces, _)| *pieces).for_each(|piece| assert!(recount.piece(piece)));
        for (input, (topic, ends)) in offsets.iter().enumerate() {
            for (partition, end) in ends.iter().enumerate() {
                let from = base.map_or(0, |(_, offsets)| offsets[input].1[partition]) as usize;
                for (offset, record) in log.records(topic, partition).iter().enumerate().take(*end as usize).skip(from)
                {
                    let record = RecordRef {
                        partition: PartitionId(partition as u32),
                        offset: Offset(offset as u64),
                        timestamp_ms: record.timestamp_ms,
                        key: None,
                        value: Some(&record.value),
                    };
                    recount.record(input, &record);
                }
            }
        }
        Ok::<_, RecountError>(())
    });
    result.expect("no sum is beyond the fixed point")
}

/// The group as the recount names it: what was one part is itself, several are a JSON array.
fn group_json(group: &str) -> String {
    if group.starts_with('[') { group.to_owned() } else { serde_json::Value::from(group).to_string() }
}

fn decimal(value: Decimal) -> String {
    let units = value.units();
    let digits = format!("{:019}", units.unsigned_abs());
    let (whole, fraction) = digits.split_at(digits.len() - 18);
    let fraction = fraction.trim_end_matches('0');
    let sign = if units < 0 { "-" } else { "" };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// The digest of the recount's lines: SHA-256 of each, added as 256-bit numbers, byte by byte.
fn digest(of: &RecountResult) -> String {
    let mut sum = [0u8; 32];
    for ((subject, group), values) in &of.lines {
        let values: String = values.iter().map(|v| format!(",{}", decimal(v.expect("each aggregate")))).collect();
        let line = format!("[{},{}{values}]", serde_json::Value::from(subject.as_str()), group_json(group));
        let mut carry = 0;
        for (sum, byte) in sum.iter_mut().zip(Sha256::digest(line)).rev() {
            let added = u16::from(*sum) + u16::from(byte) + carry;
            *sum = added as u8;
            carry = added >> 8;
        }
    }
    format!("sha256:{}", sum.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// The rows of each subject as they must be shown: by value, greatest first, then by group.
fn rows(of: &RecountResult, top: usize) -> BTreeMap<String, Vec<(String, Decimal)>> {
    let parts = |group: &str| match serde_json::from_str::<Vec<String>>(group) {
        Ok(several) => several,
        Err(_) => vec![group.to_owned()],
    };
    let mut rows: BTreeMap<String, Vec<(String, Decimal)>> = BTreeMap::new();
    let with_claims = of.subjects.iter().filter(|(_, counts)| counts.claims > 0);
    rows.extend(with_claims.map(|(subject, _)| (subject.clone(), Vec::new())));
    for ((subject, group), values) in &of.lines {
        rows.get_mut(subject).expect("a line has claims").push((group.clone(), values[0].expect("a value")));
    }
    for rows in rows.values_mut() {
        rows.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| parts(&a.0).cmp(&parts(&b.0))));
        rows.truncate(top);
    }
    rows
}

/// Compares what is published with a recount of the same records.
fn check(spec: &JobSpec, log: &MemoryLog, results: &JobResults) {
    let Dataflow::Tally(tally) = &spec.dataflow else { panic!("is a tally") };
    let offsets: Vec<(String, Vec<u64>)> = results
        .inputs()
        .map(|(topic, places)| (topic.to_owned(), places.iter().map(|(next, _)| next.0).collect()))
        .collect();
    let told = format!("at epoch {:?}, offsets {offsets:?}", results.epoch());
    let want = recount(spec, log, &offsets);

    let mut lines = BTreeMap::new();
    for (subject, group, values) in results.lines() {
        let values: Vec<Option<Decimal>> = values.iter().copied().map(Some).collect();
        let twice = lines.insert((subject.to_owned(), group.text()), values);
        assert_eq!(twice, None, "{group:?} of {subject:?} is there twice {told}");
    }
    assert_eq!(lines, want.lines, "{told}");
    assert_eq!(results.digest().to_string(), digest(&want), "{told}");

    let a = results.accounting();
    assert!(a.is_even(), "{a:?} {told}");
    let same = [a.read, a.rejected, a.irrelevant, a.matched, a.claims, a.counted, a.voided, a.superseded + a.duplicate];
    let wanted =
        [want.read, want.rejected, want.irrelevant, want.matched, want.claims, want.counted, want.voided, want.rest];
    assert_eq!(same, wanted, "read, rejected, irrelevant, matched, claims, counted, voided, rest {told}");

    let snapshot = results.snapshot(&Filter::default()).expect("few lines");
    let rows = rows(&want, tally.top.unwrap_or(usize::MAX));
    assert_eq!(
        snapshot.subjects.iter().map(|s| &s.subject).collect::<Vec<_>>(),
        rows.keys().collect::<Vec<_>>(),
        "{told}"
    );
    for subject in &snapshot.subjects {
        let told = format!("subject {:?} {told}", subject.subject);
        assert!(subject.accounting().is_even(), "{subject:?} {told}");
        let counts = want.subjects[&subject.subject];
        let is = (subject.claims, subject.counted, subject.voided);
        assert_eq!(is, (counts.claims, counts.counted, counts.voided), "claims, counted, voided of {told}");
        let total = want.totals.get(&subject.subject).copied().unwrap_or_default();
        let has_total = tally.aggregates[0].has_total();
        assert_eq!(subject.total, has_total.then_some(total), "total of {told}");
        let shown: Vec<(String, Decimal)> = subject.tallies.iter().map(|t| (t.group.text(), t.value)).collect();
        assert_eq!(shown, rows[&subject.subject], "rows of {told}");
        assert!(subject.tallies.iter().all(|t| t.share.is_some() == (has_total && total != Decimal::ZERO)), "{told}");
    }
}

/// Runs the job while the records are appended, by the engines of a crew, and after each restart by those
/// that `next` says; answers the last digest.
fn run(case: &Case, crew: Crew, next: fn(usize) -> Crew) -> String {
    let spec = job_spec(&case.job, case.partitions);
    let log = MemoryLog::default();
    TOPICS.iter().zip(case.partitions).for_each(|(topic, partitions)| log.create(topic, partitions));
    let mut bench = Bench::start_crew(&spec, vec![], Arc::new(log.clone()), Arc::new(PlainFormats), crew);
    let updates = Rc::new(RefCell::new(0));
    // Its voids come and go.
    let in_force = Rc::new(RefCell::new(spec.clone()));
    bench.check = {
        let (spec, log, updates) = (in_force.clone(), log.clone(), updates.clone());
        Box::new(move |results| {
            *updates.borrow_mut() += 1;
            check(&spec.borrow(), &log, results);
        })
    };
    let readers = |topic: &str| spec.inputs.iter().filter(|input| input.topic == topic).count() as u64;
    let (mut timestamp_ms, mut read, mut before, mut is_paused) = (1_000, 0, Vec::<Vec<u8>>::new(), false);
    for chunk in &case.chunks {
        for record in &chunk.records {
            timestamp_ms += record.after_ms;
            let value = match &record.value {
                // Invalid UTF-8 stands for itself: a text can't hold it.
                Bytes::Of(text) if text == "\u{fffd}" => b"{\"g\":\"\xff\"}".to_vec(),
                Bytes::Of(text) => text.clone().into_bytes(),
                Bytes::Again(_) if before.is_empty() => continue,
                Bytes::Again(back) => before[before.len() - 1 - back % before.len()].clone(),
            };
            before.push(value.clone());
            let at = record.topic;
            log.append(TOPICS[at], record.partition % case.partitions[at], [MemoryRecord { timestamp_ms, value }]);
            read += readers(TOPICS[at]);
        }
        if std::mem::take(&mut is_paused) {
            let read = bench.results.accounting().read;
            bench.checkpoint();
            bench.run_until(DEADLINE, Bench::is_checkpointed);
            assert_eq!(bench.results.accounting().read, read, "a paused job reads nothing");
            bench.pause(false);
        }
        match chunk.then {
            Then::Nothing => {}
            Then::Wait => bench.run_to(read, DEADLINE),
            Then::Checkpoint(wait) => {
                bench.run_until(DEADLINE, Bench::is_checkpointed);
                bench.checkpoint();
                if wait {
                    bench.run_until(DEADLINE, Bench::is_checkpointed);
                }
            }
            Then::Restart(workers) => {
                // Which is there or is not, but never half.
                bench.run_until(DEADLINE, Bench::is_checkpointed);
                bench.restart_crew(next(workers), Vec::new());
            }
            Then::Pause => {
                bench.pause(true);
                bench.run_until(DEADLINE, Bench::is_paused);
                is_paused = true;
            }
            Then::Void(_) | Then::Unvoid(_) => {
                bench.run_until(DEADLINE, Bench::is_checkpointed);
                bench.end();
                while bench.take_one() {}
                let mut changed = in_force.borrow().clone();
                let is_changed = match chunk.then {
                    Then::Void(what) => void(&mut changed, &log, case.partitions, what),
                    Then::Unvoid(id) => changed.voids.take_back(id as u64),
                    _ => false,
                };
                if is_changed {
                    bench.reform(&changed);
                }
                *in_force.borrow_mut() = changed;
                bench.restart_crew(crew, Vec::new());
            }
        }
        assert_eq!(bench.failed, None);
    }
    bench.pause(false);
    bench.run_to(read, DEADLINE);
    assert_eq!(bench.failed, None);
    assert!(read == 0 || *updates.borrow() > 0);
    bench.results.digest().to_string()
}

/// Both for a log of one topic `a` of one partition, read by each input.
fn equals(inputs: &[&str], tally: &str, values: &[&str]) {
    let inputs: String = inputs.iter().map(|f| format!("[[input]]\ntopic = 'a'\nformat = '{f}'\n")).collect();
    let record = |value: &&str| Record { topic: 0, partition: 0, after_ms: 0, value: Bytes::Of((*value).to_owned()) };
    run_all(&Case {
        job: format!("name = 'job'\ndataflow = 'tally'\n{inputs}[tally]\n{tally}\n"),
        partitions: [1, 1],
        chunks: vec![Chunk { records: values.iter().map(record).collect(), then: Then::Nothing }],
    });
}

fn run_all(case: &Case) {
    let digests = [1, 2, 4].map(|workers| run(case, Crew::of(workers), Crew::of));
    assert!(digests[0] == digests[1] && digests[1] == digests[2], "{digests:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/equals_recount.txt"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_engine_equals_a_plain_recount_at_every_epoch(case in case()) {
        run_all(&case);
    }
}

fn clusters() -> impl Strategy<Value = Crew> {
    prop::sample::select(vec![(2, 1), (2, 2), (4, 1), (4, 2)])
        .prop_map(|(processes, workers)| Crew { processes, workers })
}

/// Another crew for each number that a case names.
fn another(number: usize) -> Crew {
    let (processes, workers) = [(2, 1), (1, 2), (4, 1), (2, 2), (3, 1)][number % 5];
    Crew { processes, workers }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/equals_recount.txt"))),
        cases: if std::env::var_os("PROPTEST_CASES").is_none() { 64 } else { ProptestConfig::default().cases },
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_cluster_equals_a_plain_recount_at_every_epoch(case in case(), crew in clusters()) {
        run(&case, crew, another);
    }
}

// ---- what was found

/// What equals a claim with an id is another claim if it has no id: equality must carry over from one
/// pair to the next, or what `first-n` keeps would hang on the order of reading.
#[test]
fn a_claim_without_an_id_is_no_duplicate_of_one_with_an_id() {
    equals(
        &["vote", "json"],
        "entity = '/e'\nkeep = 'first-n'\nn = 2\ngroup = '/g'\nvalue = '/v'",
        &[r#"{"e":"e0","g":"g0","v":2,"id":"i0"}"#],
    );
}

/// `["a", "b"]` and `["b", "a"]` add the same: one place of two, not both.
#[test]
fn the_same_groups_in_another_order_are_a_duplicate() {
    equals(
        &["json"],
        "entity = '/e'\nkeep = 'first-n'\nn = 2\ngroup = '/g'",
        &[r#"{"e":"e0","g":["g0","g1","g2"]}"#, r#"{"e":"e0","g":["g2","g1","g0"]}"#, r#"{"e":"e0","g":["g2"]}"#],
    );
}

/// An entry without a group and a group that is an empty text both name the line "".
#[test]
fn the_line_without_a_group_is_the_line_of_an_empty_one() {
    equals(&["json"], "[[tally.entry]]\n[[tally.entry]]\ngroup = '/g'", &[r#"{"g":""}"#, r#"{"g":"g0"}"#]);
}

/// The deletion tells no time, so it happened when the log took it: after the post, wherever that stands.
#[test]
fn a_deletion_takes_back_what_its_message_says_whatever_comes_first() {
    let (said, deleted) = (r#"{"id":"i0","g":"g0","t":900}"#, r#"{"id":"i0","text":null}"#);
    for values in [[said, deleted], [deleted, said]] {
        equals(&["post"], "order = '/t'\ngroup = '/g'", &values);
    }
}

/// A log of which one partition is slow to read: its worker holds an epoch open while the others go on
/// to later ones.
struct Slow(MemoryLog);

struct SlowReader(Box<dyn PartitionSource>);

impl Source for Slow {
    fn topic(&self, topic: &str) -> Result<Option<TopicState>, SourceError> {
        self.0.topic(topic)
    }

    fn offset_at(&self, topic: &str, partition: PartitionId, timestamp_ms: i64) -> Result<Offset, SourceError> {
        self.0.offset_at(topic, partition, timestamp_ms)
    }

    fn open(
        &self,
        topic: &str,
        partition: PartitionId,
        from: Offset,
        waker: Waker,
    ) -> Result<Box<dyn PartitionSource>, SourceError> {
        let reader = self.0.open(topic, partition, from, waker)?;
        Ok(if partition == PartitionId(0) { Box::new(SlowReader(reader)) } else { reader })
    }
}

impl PartitionSource for SlowReader {
    fn poll(&mut self, budget: Budget, each: &mut dyn FnMut(RecordRef<'_>)) -> Result<Polled, SourceError> {
        let polled = self.0.poll(budget, each);
        std::thread::sleep(Duration::from_millis(4));
        polled
    }

    fn end(&self) -> Offset {
        self.0.end()
    }
}

/// Claims of a later epoch reach the entity's worker before those of an earlier one, and counts of
/// several epochs are told at once: neither may show before its time.
#[test]
fn no_update_holds_what_a_faster_worker_has_read_since() {
    for (workers, keep) in [(2, "last"), (4, "last"), (4, "first")] {
        let text = format!(
            "name = 'job'\ndataflow = 'tally'\n[[input]]\ntopic = 'a'\nformat = 'json'\n[tally]\nentity = '/e'\nkeep = \
             '{keep}'\ngroup = '/g'\naggregates = ['count', 'max']\n"
        );
        let spec = job_spec(&text, [4, 1]);
        let log = MemoryLog::default();
        log.create("a", 4);
        let mut bench = Bench::start(&spec, Arc::new(Slow(log.clone())), Arc::new(PlainFormats), workers);
        bench.check = {
            let (spec, log) = (spec.clone(), log.clone());
            Box::new(move |results| check(&spec, &log, results))
        };
        let mut records = 0u64;
        for _ in 0..150 {
            for partition in 0..4 {
                // Each supersedes those before it.
                let at = if keep == "first" { 10_000 - records } else { records };
                let value = format!(r#"{{"e":{},"g":{}}}"#, records * 7 % 5, records * 5 % 11).into_bytes();
                log.append("a", partition, [MemoryRecord { timestamp_ms: at as i64, value }]);
                records += 1;
            }
            bench.run_to(records.saturating_sub(12), DEADLINE);
        }
        bench.run_to(records, DEADLINE);
        assert_eq!(bench.failed, None);
    }
}
