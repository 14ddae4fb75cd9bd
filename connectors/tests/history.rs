//! A history against a plain list of what the results store served.
//!
//! Generated programs change a job's results, let a virtual clock go on, record points, tidy up in
//! portions, open the file anew, start the engine anew and replace the job. The test keeps what the store
//! served at each recorded epoch, as JSON; whatever has become of the file since, an answer as of any time
//! must be one of these, and the newest that can be.

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use tallyflow_connectors::history::{
    History, HistoryError, HistoryPoint, HistoryReader, Keep, SeriesItem, Step, Wanted,
};
use tallyflow_dataflows::claim::LineId;
use tallyflow_dataflows::engine::facts::{ClaimChanges, RecordChanges};
use tallyflow_dataflows::ids::{Epoch, Offset, PartitionId};
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::{Filter, Group, JobResults, Shape, Tallies};
use tallyflow_dataflows::update::{EpochUpdate, ReadTo};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Act {
    /// An epoch: lines take values or go, subjects get claims that change nothing, subjects go.
    Update {
        lines: Vec<(u8, u8, Option<i64>)>,
        duplicates: Vec<u8>,
        gone: Option<u8>,
    },
    /// The clock goes on, by so many seconds.
    Wait(u16),
    Record,
    Tidy(u8),
    /// The recorder begins anew on the file.
    Reopen,
    /// The engine begins anew and shows nothing until it is where it was.
    Restart,
    /// Another form of the job takes its place.
    Replace {
        aggregates: usize,
        top: Option<usize>,
    },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let lines = prop::collection::vec((0..3u8, 0..5u8, prop::option::weighted(0.7, -2..4i64)), 0..4);
    let update = (lines, prop::collection::vec(0..3u8, 0..2), prop::option::weighted(0.1, 0..3u8));
    let update = update.prop_map(|(lines, duplicates, gone)| Act::Update { lines, duplicates, gone });
    let act = prop_oneof![
        8 => update,
        6 => Just(Act::Record),
        3 => (1..4u16).prop_map(Act::Wait),
        1 => (10..400u16).prop_map(Act::Wait),
        3 => (1..6u8).prop_map(Act::Tidy),
        1 => Just(Act::Reopen),
        1 => Just(Act::Restart),
        1 => (1..3usize, prop::option::of(1..4usize))
            .prop_map(|(aggregates, top)| Act::Replace { aggregates, top }),
    ];
    prop::collection::vec(act, 1..120)
}

/// What the job comes to, and how it tells that to new results.
#[derive(Clone)]
struct World {
    epoch: u64,
    aggregates: usize,
    top: Option<usize>,
    lines: BTreeMap<(u8, u8), i64>,
    claims: BTreeMap<u8, ClaimChanges>,
    read: u64,
    /// A subject that went comes back as another.
    versions: BTreeMap<u8, u64>,
}

impl World {
    fn shape(&self) -> Shape {
        let names = ["sum", "max"].map(str::to_owned);
        let inputs = vec![("t".to_owned(), vec![Offset(0)])];
        let aggregates = names[..self.aggregates].to_vec();
        Shape { job: "job".into(), aggregates, has_total: true, top: self.top, inputs }
    }

    fn id(&self, subject: u8) -> u64 {
        u64::from(subject) + 1 + 10 * self.versions.get(&subject).copied().unwrap_or(0)
    }

    fn line(&self, subject: u8, group: u8) -> LineId {
        LineId { subject: self.id(subject), group: u64::from(group) + 1 }
    }

    fn values(&self, value: i64) -> Vec<Decimal> {
        [value, value * 7 % 5].map(Decimal::from_int)[..self.aggregates].to_vec()
    }

    fn total(&self, subject: u8) -> Decimal {
        Decimal::from_int(self.lines.iter().filter(|((s, _), _)| *s == subject).map(|(_, value)| value).sum())
    }

    /// The names, told again each time: results take what is new to them.
    fn named(
        &self,
        update: &mut EpochUpdate,
        subjects: impl Iterator<Item = u8>,
        lines: impl Iterator<Item = (u8, u8)>,
    ) {
        update.subjects.extend(subjects.map(|s| (self.id(s), format!("s{s}"))));
        // One part, and several.
        let group = |g: u8| if g.is_multiple_of(2) { vec![format!("g{g}")] } else { vec![format!("g{g}"), "x".into()] };
        update.names.extend(lines.map(|(s, g)| (self.line(s, g), group(g))));
    }

    fn update(
        &mut self,
        at_ms: i64,
        lines: &[(u8, u8, Option<i64>)],
        duplicates: &[u8],
        gone: Option<u8>,
    ) -> EpochUpdate {
        self.epoch += 1;
        self.read += 1;
        let mut update = EpochUpdate { epoch: Epoch(self.epoch), at_ms, ..EpochUpdate::default() };
        if let Some(gone) = gone.filter(|gone| self.claims.contains_key(gone)) {
            update.gone.push(self.id(gone));
            self.claims.remove(&gone);
            self.lines.retain(|(s, _), _| *s != gone);
            *self.versions.entry(gone).or_default() += 1;
        }
        let touched: BTreeSet<u8> = lines.iter().map(|(s, ..)| *s).chain(duplicates.iter().copied()).collect();
        self.named(&mut update, touched.iter().copied(), lines.iter().map(|(s, g, _)| (*s, *g)));
        let mut last = BTreeMap::new();
        for (s, g, value) in lines {
            match value {
                Some(value) => self.lines.insert((*s, *g), *value),
                None => self.lines.remove(&(*s, *g)),
            };
            last.insert(self.line(*s, *g), value.map(|value| self.values(value)));
        }
        update.lines = last.into_iter().collect();
        let changed: BTreeSet<u8> = lines.iter().map(|(s, ..)| *s).collect();
        update.totals = changed.iter().map(|s| (self.id(*s), self.total(*s))).collect();
        for s in lines.iter().map(|(s, ..)| s) {
            self.claim(&mut update, *s, ClaimChanges { claims: 1, counted: 1, ..ClaimChanges::default() });
        }
        for s in duplicates {
            self.claim(&mut update, *s, ClaimChanges { claims: 1, duplicate: 1, ..ClaimChanges::default() });
        }
        self.tell_records(&mut update, RecordChanges { read: 1, matched: 1, ..RecordChanges::default() });
        update
    }

    fn claim(&mut self, update: &mut EpochUpdate, subject: u8, changes: ClaimChanges) {
        let all = self.claims.entry(subject).or_default();
        all.claims += changes.claims;
        all.counted += changes.counted;
        all.duplicate += changes.duplicate;
        update.claims.push((self.id(subject), changes));
    }

    fn tell_records(&self, update: &mut EpochUpdate, records: RecordChanges) {
        let next = Offset(self.read);
        update.offsets = vec![ReadTo { input: 0, partition: PartitionId(0), next, end: next }];
        update.records = records;
    }

    /// Results computed anew: all there is, in one epoch.
    fn anew(&mut self, at_ms: i64) -> JobResults {
        self.epoch += 1;
        let mut update = EpochUpdate { epoch: Epoch(self.epoch), at_ms, ..EpochUpdate::default() };
        self.named(&mut update, self.claims.keys().copied(), self.lines.keys().copied());
        update.lines = self.lines.iter().map(|((s, g), v)| (self.line(*s, *g), Some(self.values(*v)))).collect();
        update.totals = self.claims.keys().map(|s| (self.id(*s), self.total(*s))).collect();
        update.claims = self.claims.iter().map(|(s, changes)| (self.id(*s), *changes)).collect();
        let read = self.read as i64;
        self.tell_records(&mut update, RecordChanges { read, matched: read, ..RecordChanges::default() });
        let mut results = JobResults::new(self.shape());
        results.apply(update);
        results
    }
}

/// What was served at a recorded epoch.
struct Served {
    epoch: Epoch,
    at_ms: i64,
    all: String,
    one: String,
}

fn json(results: &JobResults, filter: &Filter) -> String {
    serde_json::to_string(&results.snapshot(filter).unwrap()).unwrap()
}

fn one_subject() -> Filter {
    Filter { subjects: vec!["s1".into()], limit: Some(2) }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Each second for 20, each 5 s for 100, each 50 s for 600.
fn keep(bytes_max: u64) -> Keep {
    let step = |step, age| Step { step: seconds(step), age: seconds(age) };
    Keep { steps: vec![step(1, 20), step(5, 100), step(50, 600)], bytes_max }
}

/// That every answer is what was served, and that the right points are there.
fn check(path: &Path, served: &[Served], now_ms: i64, is_tidy: bool) {
    let reader = HistoryReader::new(path.to_owned(), "job".into());
    let as_of = |at_ms: i64, filter: &Filter| {
        let (epoch, moment) = reader.as_of(at_ms, filter, |_| false).unwrap();
        (epoch, serde_json::to_string(&moment.unwrap().tallies).unwrap())
    };
    let Some(newest) = served.last() else { return };
    assert_eq!(as_of(i64::MAX, &Filter::default()), (newest.epoch, newest.all.clone()));
    let oldest_ms = match reader.as_of(-1, &Filter::default(), |_| false) {
        Err(HistoryError::Before { oldest_ms }) => oldest_ms,
        other => panic!("{other:?}"),
    };
    let mut kept: Vec<i64> = Vec::new();
    for point in served {
        if point.at_ms < oldest_ms {
            assert!(matches!(
                reader.as_of(point.at_ms, &Filter::default(), |_| false),
                Err(HistoryError::Before { oldest_ms: o }) if o == oldest_ms
            ));
            continue;
        }
        let (epoch, all) = as_of(point.at_ms, &Filter::default());
        let of = served.iter().find(|s| s.epoch == epoch).expect("an epoch that was recorded");
        assert!(of.at_ms <= point.at_ms);
        assert_eq!(all, of.all, "as of {}", point.at_ms);
        assert_eq!(as_of(point.at_ms, &one_subject()), (epoch, of.one.clone()));
        if epoch == point.epoch {
            kept.push(point.at_ms);
        }
        // Between two points, the one before.
        assert_eq!(reader.as_of(point.at_ms, &Filter::default(), |e| e == epoch).unwrap(), (epoch, None));
    }
    let age = |at_ms: i64| now_ms - at_ms;
    for point in served {
        if age(point.at_ms) <= 20_000 {
            assert!(kept.contains(&point.at_ms), "a point of {} ms ago is gone", age(point.at_ms));
        }
    }
    if is_tidy {
        let others = &kept[..kept.len() - 1];
        assert!(others.iter().all(|at| age(*at) <= 600_000), "beyond the greatest age");
        for (step, older_than) in [(5_000, 20_000), (50_000, 100_000)] {
            // Whole steps that are old enough; the newest may have come while all was tidied already.
            let slots: Vec<i64> =
                others.iter().map(|at| at / step).filter(|slot| (slot + 1) * step <= now_ms - older_than).collect();
            let different: BTreeSet<&i64> = slots.iter().collect();
            assert!(slots.len() <= different.len() * 2, "{slots:?} of {step} ms");
            let old = served.iter().filter(|s| age(s.at_ms) < 550_000).map(|s| s.at_ms / step);
            let old: BTreeSet<i64> = old.filter(|slot| (slot + 1) * step <= now_ms - older_than).collect();
            let all: BTreeSet<i64> = kept.iter().map(|at| at / step).collect();
            assert!(step == 5_000 || old.is_subset(&all), "{old:?} of {step}: {slots:?}");
        }
    }
}

fn tidy_up(history: &mut History, now_ms: i64) {
    let mut portions = 0;
    while history.tidy(now_ms).unwrap() {
        portions += 1;
        assert!(portions < 10_000, "it never ends");
    }
}

/// A line at every kept point, from the answers as of them.
fn plain_series(served: &[Served], kept: &[Epoch], subject: &str, group: &Group) -> Vec<(Epoch, Option<Decimal>)> {
    let of = |s: &Served| {
        let tallies: Tallies = serde_json::from_str(&s.all).unwrap();
        let subject = tallies.subjects.into_iter().find(|of| of.subject == subject);
        (s.epoch, subject.and_then(|s| Some(s.tallies.into_iter().find(|line| line.group == *group)?.value)))
    };
    served.iter().filter(|s| kept.contains(&s.epoch)).map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        // Each case asks a file hundreds of times.
        cases: ProptestConfig::default().cases.div_ceil(4),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/history.txt"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn as_of_a_kept_point_is_what_was_served_then(acts in acts()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job").join("1.db");
        let keep = keep(1 << 30);
        let mut history = History::open(&path, keep.clone()).unwrap();
        let mut world = World {
            epoch: 0, aggregates: 1, top: None, lines: BTreeMap::new(), claims: BTreeMap::new(), read: 0,
            versions: BTreeMap::new(),
        };
        let mut results = JobResults::new(world.shape());
        let mut written: Option<(Epoch, u32)> = None;
        let mut now_ms = 1_000_000;
        let mut served: Vec<Served> = Vec::new();
        let mut has_had_top = false;
        for act in acts {
            match act {
                Act::Update { lines, duplicates, gone } => {
                    now_ms += 1;
                    results.apply(world.update(now_ms, &lines, &duplicates, gone));
                }
                Act::Wait(s) => now_ms += i64::from(s) * 1_000,
                Act::Record => {
                    let newer = results.epoch().is_some_and(|e| served.last().is_none_or(|s| s.epoch < e));
                    if results.epoch().is_none() {
                        continue;
                    }
                    let since = written.filter(|(_, takeovers)| *takeovers == results.takeovers()).map(|(e, _)| e);
                    history.write(&HistoryPoint::of(&results, since)).unwrap();
                    written = results.epoch().map(|e| (e, results.takeovers()));
                    if newer {
                        served.push(Served {
                            epoch: results.epoch().unwrap(),
                            at_ms: results.at_ms(),
                            all: json(&results, &Filter::default()),
                            one: json(&results, &one_subject()),
                        });
                    }
                }
                Act::Tidy(portions) => {
                    for _ in 0..portions {
                        history.tidy(now_ms).unwrap();
                    }
                    // Each look asks for all of them.
                    if served.len() % 4 == 1 {
                        check(&path, &served, now_ms, false);
                    }
                }
                Act::Reopen => {
                    drop(history);
                    history = History::open(&path, keep.clone()).unwrap();
                    written = None;
                }
                Act::Restart | Act::Replace { .. } => {
                    if let Act::Replace { aggregates, top } = act {
                        (world.aggregates, world.top) = (aggregates, top);
                        has_had_top |= top.is_some();
                    }
                    now_ms += 1;
                    let mut anew = world.anew(now_ms);
                    if results.epoch().is_some() {
                        anew.take_over(&results);
                    }
                    results = anew;
                }
            }
        }
        tidy_up(&mut history, now_ms);
        check(&path, &served, now_ms, true);
        let reader = HistoryReader::new(path.clone(), "job".into());
        let wanted = |group: Option<Group>, after, limit| Wanted {
            subject: "s1".into(), group, between: 0..=i64::MAX, step: None, after, limit,
        };
        // A line's course is what the answers as of its points have of it; page by page too.
        let group = Group(vec!["g2".into()]);
        match reader.series(&wanted(Some(group.clone()), None, usize::MAX)) {
            Err(HistoryError::UnknownLine | HistoryError::NoneYet) => {}
            Err(other) => panic!("{other}"),
            Ok(series) => {
                let kept: Vec<Epoch> = series.items.iter().map(|item| item.epoch).collect();
                prop_assert_eq!(kept.len() as u64, history.extent().points);
                let shown: Vec<_> = series.items.iter().map(|item| (item.epoch, item.value)).collect();
                if !has_had_top {
                    prop_assert_eq!(shown, plain_series(&served, &kept, "s1", &group));
                }
                let mut pages: Vec<SeriesItem> = Vec::new();
                loop {
                    let after = pages.last().map(|item| item.epoch);
                    let page = reader.series(&wanted(Some(group.clone()), after, 3)).unwrap();
                    pages.extend(page.items);
                    if !page.more {
                        break;
                    }
                }
                prop_assert_eq!(pages, series.items);
            }
        }
    }
}

#[test]
fn a_history_stays_below_its_size_and_keeps_the_newest_points() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("1.db");
    let bytes_max = 1 << 20;
    let mut keep = keep(bytes_max);
    keep.steps = vec![Step { step: seconds(1), age: seconds(1_000_000) }];
    let mut history = History::open(&path, keep).unwrap();
    let mut lines: BTreeMap<u64, i64> = BTreeMap::new();
    let mut points: Vec<(i64, String)> = Vec::new();
    let mut mixed = 1u64;
    for n in 1..=150u64 {
        let mut changed = BTreeMap::new();
        for _ in 0..200 {
            mixed = mixed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            changed.insert((mixed >> 33) % 1_000, (mixed >> 20) as i64 % 1_000_000);
        }
        lines.extend(changed.clone());
        let at_ms = n as i64 * 1_000;
        let mut results = JobResults::new(
            World {
                epoch: 0,
                aggregates: 1,
                top: Some(3),
                lines: BTreeMap::new(),
                claims: BTreeMap::new(),
                read: 0,
                versions: BTreeMap::new(),
            }
            .shape(),
        );
        let id = |group: &u64| LineId { subject: 1, group: group + 1 };
        results.apply(EpochUpdate {
            epoch: Epoch(n),
            at_ms,
            subjects: vec![(1, "s".into())],
            names: lines.keys().map(|g| (id(g), vec![format!("g{g}")])).collect(),
            lines: lines.iter().map(|(g, v)| (id(g), Some(vec![Decimal::from_int(*v)]))).collect(),
            ..EpochUpdate::default()
        });
        history.write(&HistoryPoint::of(&results, None)).unwrap();
        points.push((at_ms, json(&results, &Filter::default())));
        tidy_up(&mut history, at_ms);
        let length = std::fs::metadata(&path).unwrap().len();
        assert!(history.extent().bytes < bytes_max && length <= bytes_max, "{} {length}", history.extent().bytes);
    }
    let kept = history.extent().points as usize;
    assert!((20..150).contains(&kept), "{kept} points");
    let reader = HistoryReader::new(path, "job".into());
    for (at_ms, all) in &points[points.len() - kept..] {
        let (_, moment) = reader.as_of(*at_ms, &Filter::default(), |_| false).unwrap();
        assert_eq!(&serde_json::to_string(&moment.unwrap().tallies).unwrap(), all);
    }
    assert_eq!(history.extent().oldest_ms, Some(points[points.len() - kept].0));
}

/// Whoever asks while the file is being made hears that nothing is kept yet, and never that it is no history.
#[test]
fn a_history_that_is_being_made_is_none_yet() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..100 {
        let path = dir.path().join(format!("{n}.db"));
        let reader = HistoryReader::new(path.clone(), "job".into());
        std::thread::scope(|scope| {
            let making = scope.spawn(|| History::open(&path, keep(1 << 20)).map(drop));
            while !making.is_finished() {
                let asked = reader.as_of(0, &Filter::default(), |_| false).map(drop).unwrap_err();
                assert!(matches!(asked, HistoryError::NoneYet | HistoryError::Locked { .. }), "{asked}");
            }
            making.join().unwrap().unwrap();
        });
    }
}
