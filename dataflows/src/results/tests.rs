//! The store against a plain model of it, over generated updates.

use super::*;
use crate::claim::LineId;
use crate::engine::facts::{ClaimChanges, RecordChanges};
use crate::ids::{Epoch, Offset, PartitionId};
use crate::number::Decimal;
use crate::update::{EpochUpdate, ReadTo};
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// A line and what it comes to: `None` takes it away.
type Op = (u8, u8, Option<(i64, i64)>);

/// What the store must hold.
#[derive(Clone, Default)]
struct World {
    epoch: u64,
    aggregates: usize,
    lines: BTreeMap<(u8, u8), Vec<Decimal>>,
    claims: BTreeMap<u8, u64>,
    named: BTreeSet<LineId>,
}

fn shape(aggregates: usize, top: Option<usize>) -> Shape {
    let names = ["sum", "max"].map(str::to_owned);
    let inputs = vec![("t".to_owned(), vec![Offset(0)])];
    Shape { job: "job".into(), aggregates: names[..aggregates].to_vec(), has_total: true, top, inputs }
}

fn subject(s: u8) -> String {
    format!("s{s}")
}

fn group(g: u8) -> Group {
    // One part and several, to see their order.
    if g.is_multiple_of(3) { Group(vec![format!("g{g}"), "x".into()]) } else { Group(vec![format!("g{g}")]) }
}

impl World {
    /// Applies the operations and makes the update that tells them.
    fn step(&mut self, ops: &[Op]) -> EpochUpdate {
        self.epoch += 1;
        let mut update = EpochUpdate { epoch: Epoch(self.epoch), at_ms: 1_000, ..EpochUpdate::default() };
        let mut touched = BTreeMap::new();
        for (s, g, values) in ops {
            let (subject_id, id) = (u64::from(*s) + 1, LineId { subject: u64::from(*s) + 1, group: u64::from(*g) + 1 });
            if self.named.insert(LineId::withdrawn(subject_id)) {
                update.subjects.push((subject_id, subject(*s)));
            }
            if self.named.insert(id) {
                update.names.push((id, group(*g).0));
            }
            let values = values.map(|(a, b)| [a, b].map(Decimal::from_int)[..self.aggregates].to_vec());
            match values.clone() {
                Some(values) => self.lines.insert((*s, *g), values),
                None => self.lines.remove(&(*s, *g)),
            };
            touched.insert(id, values);
            *self.claims.entry(*s).or_default() += 1;
            update.claims.push((subject_id, ClaimChanges { claims: 1, counted: 1, ..ClaimChanges::default() }));
        }
        let subjects: BTreeSet<u8> = ops.iter().map(|(s, ..)| *s).collect();
        update.totals = subjects.iter().map(|s| (u64::from(*s) + 1, self.total(*s))).collect();
        update.lines = touched.into_iter().collect();
        let n = ops.len() as u64;
        update.records = RecordChanges { read: n as i64, matched: n as i64, ..RecordChanges::default() };
        let next = Offset(self.claims.values().sum());
        update.offsets = vec![ReadTo { input: 0, partition: PartitionId(0), next, end: next }];
        update
    }

    fn total(&self, of: u8) -> Decimal {
        let values = self.lines.iter().filter(|((s, _), _)| *s == of).map(|(_, values)| values[0].units());
        Decimal::from_units(values.sum())
    }

    /// The rows of a subject, in their order, at most `limit`.
    fn rows(&self, of: u8, limit: usize) -> Vec<(Group, Vec<Decimal>)> {
        let lines = self.lines.iter().filter(|((s, _), _)| *s == of);
        let mut rows: Vec<_> = lines.map(|((_, g), values)| (group(*g), values.clone())).collect();
        rows.sort_by_key(|(group, values)| (Reverse(values[0]), group.0.clone()));
        rows.truncate(limit);
        rows
    }

    fn check(&self, results: &JobResults, filter: &Filter, top: Option<usize>) {
        let limit = filter.limit.or(top).unwrap_or(usize::MAX);
        let snapshot = results.snapshot(filter).unwrap();
        let wanted = |s: &u8| filter.subjects.is_empty() || filter.subjects.contains(&subject(*s));
        let subjects: Vec<u8> = self.claims.keys().copied().filter(wanted).collect();
        assert_eq!(
            snapshot.subjects.iter().map(|s| s.subject.clone()).collect::<Vec<_>>(),
            subjects.iter().map(|s| subject(*s)).collect::<Vec<_>>()
        );
        for (shown, s) in snapshot.subjects.iter().zip(subjects) {
            assert_eq!((shown.claims, shown.counted), (self.claims[&s], self.claims[&s]));
            assert_eq!(shown.total, Some(self.total(s)));
            let rows = self.rows(s, limit);
            let total = self.total(s).to_f64();
            for (row, (group, values)) in shown.tallies.iter().zip(&rows) {
                assert_eq!((&row.group, row.value), (group, values[0]));
                assert_eq!(row.share, (total != 0.0).then(|| values[0].to_f64() / total));
                let named = row.aggregates.as_ref().map(|a| (a["sum"], a["max"]));
                assert_eq!(named, (values.len() > 1).then(|| (values[0], values[1])));
            }
            assert_eq!(shown.tallies.len(), rows.len());
        }
        let mut digest = Digest::default();
        for ((s, g), values) in &self.lines {
            digest.add(Digest::of_line(&subject(*s), &group(*g), values));
        }
        assert_eq!(snapshot.digest, digest.to_string());
        assert_eq!(results.line_count(), self.lines.len());
        assert!(snapshot.accounting.is_even());
        assert_eq!(snapshot.accounting.claims, self.claims.values().sum::<u64>());
    }
}

type Row = (Decimal, Option<indexmap::IndexMap<String, Decimal>>);

/// One who got a snapshot once and follows by deltas.
#[derive(Clone)]
struct Reader {
    filter: Filter,
    epoch: Epoch,
    rows: BTreeMap<(String, Group), Row>,
    totals: BTreeMap<String, Decimal>,
}

impl Reader {
    fn new(results: &JobResults, filter: Filter) -> Self {
        let (rows, totals) = Self::snapshot(results, &filter);
        Reader { filter, epoch: results.epoch().unwrap_or_default(), rows, totals }
    }

    #[allow(clippy::type_complexity)]
    fn snapshot(results: &JobResults, filter: &Filter) -> (BTreeMap<(String, Group), Row>, BTreeMap<String, Decimal>) {
        let tallies = results.snapshot(filter).unwrap();
        let mut rows = BTreeMap::new();
        let mut totals = BTreeMap::new();
        for subject in tallies.subjects {
            totals.extend(subject.total.filter(|t| *t != Decimal::ZERO).map(|t| (subject.subject.clone(), t)));
            for row in subject.tallies {
                rows.insert((subject.subject.clone(), row.group), (row.value, row.aggregates));
            }
        }
        (rows, totals)
    }

    /// Goes on to the newest epoch by a delta, and must then hold what a snapshot would have told.
    fn follow(&mut self, results: &JobResults) {
        let delta = results.delta(self.epoch, &self.filter).unwrap();
        for change in delta.changes {
            let line = (change.subject, change.group);
            assert_eq!(self.rows.get(&line).map(|row| row.0), change.was, "{line:?} was");
            match change.value {
                Some(value) => self.rows.insert(line, (value, change.aggregates)),
                None => self.rows.remove(&line),
            };
        }
        self.totals.extend(delta.totals);
        self.totals.retain(|_, total| *total != Decimal::ZERO);
        self.epoch = delta.epoch;
        let (rows, totals) = Self::snapshot(results, &self.filter);
        assert_eq!(self.rows, rows, "{:?}", self.filter);
        assert_eq!(self.totals, totals, "{:?}", self.filter);
        assert_eq!(delta.accounting, *results.accounting());
    }
}

fn ops() -> impl Strategy<Value = Vec<Vec<Op>>> {
    let values = prop::option::weighted(0.7, (-2..4i64, 0..2i64));
    prop::collection::vec(prop::collection::vec((0..3u8, 0..7u8, values), 0..5), 1..12)
}

fn filters() -> impl Strategy<Value = Vec<Filter>> {
    let subjects = prop::sample::subsequence(vec!["s0", "s1", "s2", "unknown"], 0..=2);
    let filter = (subjects, prop::option::of(1..=5usize));
    let filter = filter
        .prop_map(|(subjects, limit)| Filter { subjects: subjects.into_iter().map(str::to_owned).collect(), limit });
    prop::collection::vec(filter, 1..5)
}

fn tops() -> impl Strategy<Value = Option<usize>> {
    prop::option::of(1..4usize)
}

proptest! {
    #[test]
    fn a_reader_of_deltas_holds_what_a_snapshot_tells(
        ops in ops(), filters in filters(), top in tops(), aggregates in 1..3usize, follows in any::<u64>(),
    ) {
        let mut world = World { aggregates, ..World::default() };
        let mut results = JobResults::new(shape(aggregates, top));
        let mut readers = Vec::new();
        for (n, ops) in ops.iter().enumerate() {
            results.apply(world.step(ops));
            // Some readers skip this epoch; new ones come.
            for (r, reader) in readers.iter_mut().enumerate() {
                if follows >> ((n * 7 + r * 3) % 64) & 1 == 1 {
                    Reader::follow(reader, &results);
                }
            }
            for filter in &filters {
                world.check(&results, filter, top);
                readers.push(Reader::new(&results, filter.clone()));
            }
        }
        readers.iter_mut().for_each(|reader| reader.follow(&results));
    }

    #[test]
    fn taking_over_is_one_change_from_the_old_state_to_the_new(
        before in ops(), again in ops(), then in ops(), filters in filters(), top in tops(), aggregates in 1..3usize,
    ) {
        let mut world = World { aggregates, ..World::default() };
        let mut old = JobResults::new(shape(aggregates, top));
        // Also those who are some epochs behind when it happens.
        let mut readers: Vec<Reader> = Vec::new();
        for ops in &before {
            old.apply(world.step(ops));
            readers.extend(filters.iter().map(|f| Reader::new(&old, f.clone())));
        }
        // Some come back only later.
        let late = readers.clone();

        let mut world = World { aggregates, epoch: world.epoch + 10, ..World::default() };
        let mut new = JobResults::new(shape(aggregates, top));
        again.iter().for_each(|ops| new.apply(world.step(ops)));
        new.take_over(&old);
        readers.iter_mut().for_each(|reader| reader.follow(&new));
        prop_assert_eq!(new.delta(Epoch(0), &Filter::default()).err(), Some(ReadError::Gap { since: Epoch(0) }));
        for ops in &then {
            new.apply(world.step(ops));
            filters.iter().for_each(|filter| world.check(&new, filter, top));
            readers.iter_mut().for_each(|reader| reader.follow(&new));
        }
        for mut reader in late {
            reader.follow(&new);
        }
    }

    #[test]
    fn where_what_is_shown_has_another_form_readers_begin_with_a_snapshot_again(
        before in ops(), again in ops(), then in ops(), tops in (tops(), tops()), aggregates in (1..3usize, 1..3usize),
    ) {
        prop_assume!(tops.0 != tops.1 || aggregates.0 != aggregates.1);
        let mut world = World { aggregates: aggregates.0, ..World::default() };
        let mut old = JobResults::new(shape(aggregates.0, tops.0));
        before.iter().for_each(|ops| old.apply(world.step(ops)));
        let mut world = World { aggregates: aggregates.1, epoch: world.epoch + 10, ..World::default() };
        let mut new = JobResults::new(shape(aggregates.1, tops.1));
        again.iter().for_each(|ops| new.apply(world.step(ops)));
        new.take_over(&old);
        let since = old.epoch().unwrap_or_default();
        prop_assert_eq!(new.delta(since, &Filter::default()).err(), Some(ReadError::Gap { since }));
        let mut reader = Reader::new(&new, Filter::default());
        for ops in &then {
            new.apply(world.step(ops));
            world.check(&new, &Filter::default(), tops.1);
            reader.follow(&new);
        }
    }

    #[test]
    fn all_as_one_update_makes_the_same_results(ops in ops(), aggregates in 1..3usize, then in ops()) {
        let mut world = World { aggregates, ..World::default() };
        let mut results = JobResults::new(shape(aggregates, None));
        ops.iter().for_each(|ops| results.apply(world.step(ops)));
        let mut copy = JobResults::new(shape(aggregates, None));
        copy.apply(results.as_update());
        for ops in &then {
            prop_assert_eq!(results.snapshot(&Filter::default()), copy.snapshot(&Filter::default()));
            prop_assert_eq!(results.digest(), copy.digest());
            prop_assert_eq!(results.accounting(), copy.accounting());
            prop_assert!(results.inputs().eq(copy.inputs()));
            let update = world.step(ops);
            results.apply(update.clone());
            copy.apply(update);
        }
    }
}

#[test]
fn what_is_no_longer_kept_is_a_gap() {
    let mut world = World { aggregates: 1, ..World::default() };
    let mut results = JobResults::new(shape(1, None));
    for n in 0..5_000 {
        results.apply(world.step(&[(0, 0, Some((n, 0)))]));
    }
    let filter = Filter::default();
    let gap = |since| results.delta(Epoch(since), &filter) == Err(ReadError::Gap { since: Epoch(since) });
    assert!(gap(0) && gap(1) && gap(5_000 - 4_097) && gap(5_001));
    assert_eq!(results.delta(Epoch(5_000 - 4_096), &filter).unwrap().changes.len(), 1);
    assert_eq!(results.delta(Epoch(5_000), &filter).unwrap().changes, []);
}

#[test]
fn more_lines_than_are_answered_at_once_are_refused_unless_narrowed() {
    let mut results = JobResults::new(shape(1, None));
    let mut update = EpochUpdate { epoch: Epoch(1), ..EpochUpdate::default() };
    for subject in 1..3 {
        update.subjects.push((subject, format!("s{subject}")));
        update.claims.push((subject, ClaimChanges { claims: 1, counted: 1, ..ClaimChanges::default() }));
    }
    for n in 1..=10_001 {
        let id = LineId { subject: if n == 1 { 1 } else { 2 }, group: n };
        update.names.push((id, vec![n.to_string()]));
        update.lines.push((id, Some(vec![Decimal::ONE])));
    }
    results.apply(update);
    assert_eq!(results.snapshot(&Filter::default()), Err(ReadError::TooManyLines { lines: 10_001 }));
    let one = Filter { subjects: vec!["s2".into()], limit: None };
    assert_eq!(results.snapshot(&one).unwrap().subjects[0].tallies.len(), 10_000);
    let few = Filter { subjects: vec![], limit: Some(3) };
    let rows = |s: &SubjectTallies| s.tallies.len();
    assert_eq!(results.snapshot(&few).unwrap().subjects.iter().map(rows).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_line_is_told_once_also_where_its_subject_went_and_came_back() {
    let mut results = JobResults::new(shape(1, None));
    let line = |subject| LineId { subject, group: 1 };
    let update = |epoch| EpochUpdate { epoch: Epoch(epoch), ..EpochUpdate::default() };
    let value = |n| Some(vec![Decimal::from_int(n)]);
    let named = |subject: u64| (vec![(subject, "s".to_owned())], vec![(line(subject), vec!["g".to_owned()])]);
    let (subjects, names) = named(1);
    results.apply(EpochUpdate { subjects, names, lines: vec![(line(1), value(1))], ..update(1) });
    let mut reader = Reader::new(&results, Filter::default());
    // Nothing stands in it when its subject goes and another of the same name comes.
    results.apply(EpochUpdate { lines: vec![(line(1), None)], ..update(2) });
    let (subjects, names) = named(2);
    results.apply(EpochUpdate { gone: vec![1], subjects, names, lines: vec![(line(2), value(5))], ..update(3) });
    let (lines, _) = results.changed_since(Epoch(1)).unwrap();
    assert_eq!(lines, [("s", &Group(vec!["g".into()]), Some(&[Decimal::from_int(5)][..]))]);
    reader.follow(&results);
}
