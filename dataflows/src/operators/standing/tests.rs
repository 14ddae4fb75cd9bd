//! Each keep rule by hand, and that no order of applying makes a difference.

use super::*;
use crate::claim::{Add, HashKey, Position};
use crate::engine::facts::ClaimChanges;
use crate::ids::{Offset, PartitionId};
use crate::number::SCALE;
use proptest::prelude::*;
use std::collections::BTreeMap;

const SUBJECT: u64 = 9;

/// A claim at a time in ns, at an offset: for a group that counts 1, or a withdrawal (0).
fn claim(entity: &str, time_ns: i64, offset: u64, group: u64) -> Claim {
    let position = Position::new(0, PartitionId(0), Offset(offset)).unwrap();
    let line = LineId { subject: SUBJECT, group };
    Claim { entity: HashKey([1, 2]).entity(&[entity]), order: OrderKey { time_ns, position }, line, more: None }
}

/// The same with an id and a value.
fn with_more(claim: Claim, id: Option<u64>, value: i128) -> Claim {
    let add = Add { group: claim.line.group, entry: 0, value };
    let more = More { id, adds: [add].into_iter().collect(), distinct: Default::default() };
    Claim { line: LineId::withdrawn(SUBJECT), more: Some(Box::new(more)), ..claim }
}

/// What an operator has told so far: count and sum by group, and its claims.
#[derive(Debug, Default, PartialEq)]
struct Told {
    lines: BTreeMap<u64, (i64, i128)>,
    claims: ClaimChanges,
    details: BTreeMap<(LineId, Detail), i64>,
}

struct Bench(Standing, Told);

impl Bench {
    fn new(keep: Keep, event_time: bool) -> Self {
        Bench(Standing::new(Keeps::Same(keep), event_time, false), Told::default())
    }

    /// Applies an epoch's claims. Answers count by group, and (claims, counted, superseded, duplicate).
    fn epoch(&mut self, claims: impl IntoIterator<Item = Claim>) -> (Vec<(u64, i64)>, [i64; 4]) {
        self.0.apply(claims.into_iter().collect());
        let changes = self.0.take_changes();
        for (line, sums) in changes.lines {
            assert_eq!(line.subject, SUBJECT);
            let told = self.1.lines.entry(line.group).or_default();
            *told = (told.0 + sums.count, told.1 + i128::try_from(sums.sum).unwrap());
        }
        self.1.lines.retain(|_, told| *told != (0, 0));
        for (subject, changes) in changes.subjects {
            assert_eq!(subject, SUBJECT);
            let told = &mut self.1.claims;
            told.claims += changes.claims;
            told.counted += changes.counted;
            told.superseded += changes.superseded;
            told.duplicate += changes.duplicate;
        }
        for (line, detail, diff) in changes.details {
            *self.1.details.entry((line, detail)).or_default() += diff;
        }
        self.1.details.retain(|_, count| *count != 0);
        let c = self.1.claims;
        assert_eq!(c.claims, c.counted + c.superseded + c.duplicate);
        let lines = self.1.lines.iter().map(|(group, (count, _))| (*group, *count)).collect();
        (lines, [c.claims, c.counted, c.superseded, c.duplicate])
    }
}

#[test]
fn under_last_the_greatest_order_key_stands_however_late_the_others_come() {
    let mut bench = Bench::new(Keep::Last, false);
    assert_eq!(bench.epoch([claim("a", 5, 0, 1)]), (vec![(1, 1)], [1, 1, 0, 0]));
    assert_eq!(bench.epoch([claim("a", 7, 1, 2)]), (vec![(2, 1)], [2, 1, 1, 0]));
    // Earlier by event time, later in the log.
    assert_eq!(bench.epoch([claim("a", 6, 2, 3)]), (vec![(2, 1)], [3, 1, 2, 0]));
    // A tie in time goes by the position.
    assert_eq!(bench.epoch([claim("a", 7, 3, 3)]), (vec![(3, 1)], [4, 1, 3, 0]));
    assert_eq!(bench.epoch([claim("b", 1, 4, 3)]), (vec![(3, 2)], [5, 2, 3, 0]));
}

#[test]
fn under_last_a_withdrawal_stands_and_adds_nothing() {
    let mut bench = Bench::new(Keep::Last, false);
    assert_eq!(bench.epoch([claim("a", 5, 0, 1), claim("a", 6, 1, 0)]), (vec![], [2, 1, 1, 0]));
    assert_eq!(bench.epoch([claim("a", 5, 2, 2)]), (vec![], [3, 1, 2, 0]));
    assert_eq!(bench.epoch([claim("a", 7, 3, 2)]), (vec![(2, 1)], [4, 1, 3, 0]));
}

#[test]
fn under_last_the_same_again_is_a_duplicate_and_the_later_one_stays() {
    let mut bench = Bench::new(Keep::Last, false);
    assert_eq!(bench.epoch([claim("a", 5, 0, 1), claim("a", 6, 1, 1)]), (vec![(1, 1)], [2, 1, 0, 1]));
    // Between the two: had the earlier one stayed, this would stand.
    assert_eq!(bench.epoch([claim("a", 5, 5, 2)]), (vec![(1, 1)], [3, 1, 1, 1]));
}

#[test]
fn where_the_job_names_an_event_time_it_tells_duplicates() {
    let mut bench = Bench::new(Keep::Last, true);
    assert_eq!(bench.epoch([claim("a", 5, 0, 1), claim("a", 6, 1, 1)]), (vec![(1, 1)], [2, 1, 1, 0]));
    assert_eq!(bench.epoch([claim("a", 6, 2, 1)]), (vec![(1, 1)], [3, 1, 1, 1]));
}

#[test]
fn under_first_the_least_order_key_stands() {
    let mut bench = Bench::new(Keep::First, false);
    assert_eq!(bench.epoch([claim("a", 5, 1, 1)]), (vec![(1, 1)], [1, 1, 0, 0]));
    assert_eq!(bench.epoch([claim("a", 6, 2, 2)]), (vec![(1, 1)], [2, 1, 1, 0]));
    assert_eq!(bench.epoch([claim("a", 5, 0, 2)]), (vec![(2, 1)], [3, 1, 2, 0]));
    assert_eq!(bench.epoch([claim("a", 4, 3, 2)]), (vec![(2, 1)], [4, 1, 2, 1]));
    // The duplicate has taken the earlier place, so that this one comes too late.
    assert_eq!(bench.epoch([claim("a", 4, 4, 3)]), (vec![(2, 1)], [5, 1, 3, 1]));
}

#[test]
fn under_first_n_the_least_n_stand_and_equal_ones_take_one_place() {
    let mut bench = Bench::new(Keep::FirstN(2), false);
    assert_eq!(bench.epoch([claim("a", 5, 0, 1), claim("a", 6, 1, 2)]), (vec![(1, 1), (2, 1)], [2, 2, 0, 0]));
    assert_eq!(bench.epoch([claim("a", 7, 2, 3)]), (vec![(1, 1), (2, 1)], [3, 2, 1, 0]));
    assert_eq!(bench.epoch([claim("a", 4, 3, 3)]), (vec![(1, 1), (3, 1)], [4, 2, 2, 0]));
    assert_eq!(bench.epoch([claim("a", 3, 4, 1)]), (vec![(1, 1), (3, 1)], [5, 2, 2, 1]));
    // 1 stands at time 3 now: 3, at 4, is the one that gives way.
    assert_eq!(bench.epoch([claim("a", 3, 5, 2)]), (vec![(1, 1), (2, 1)], [6, 2, 3, 1]));
}

#[test]
fn an_id_tells_duplicates_whatever_they_say() {
    let mut bench = Bench::new(Keep::FirstN(3), false);
    let with = |offset, group, id| with_more(claim("a", 5, offset, group), id, SCALE);
    assert_eq!(bench.epoch([with(0, 1, Some(8)), with(1, 2, Some(8))]), (vec![(1, 1)], [2, 1, 0, 1]));
    assert_eq!(bench.epoch([with(2, 1, Some(9))]), (vec![(1, 2)], [3, 2, 0, 1]));
    // Without an id it is another claim, and equal to others without.
    assert_eq!(bench.epoch([with(3, 1, None)]), (vec![(1, 3)], [4, 3, 0, 1]));
    assert_eq!(bench.epoch([with(4, 1, None)]), (vec![(1, 3)], [5, 3, 0, 2]));
}

#[test]
fn what_only_replaces_counts_nowhere() {
    let mut bench = Bench::new(Keep::Last, false);
    let replaces = |offset| Claim { line: LineId::REPLACES, ..claim("a", 5, offset, 0) };
    assert_eq!(bench.epoch([replaces(1)]), (vec![], [0; 4]));
    assert_eq!(bench.epoch([claim("a", 5, 0, 1)]), (vec![], [1, 0, 1, 0]));
    assert_eq!(bench.epoch([claim("a", 5, 2, 1)]), (vec![(1, 1)], [2, 1, 1, 0]));
    assert_eq!(bench.epoch([replaces(3)]), (vec![], [2, 0, 2, 0]));
    assert_eq!(bench.epoch([replaces(4)]), (vec![], [2, 0, 2, 0]));
}

#[test]
fn what_comes_and_goes_within_an_epoch_leaves_nothing() {
    let mut standing = Standing::new(Keeps::Same(Keep::Last), false, true);
    standing.apply(vec![with_more(claim("a", 5, 0, 1), None, 3), with_more(claim("a", 6, 1, 1), None, 3)]);
    let changes = standing.take_changes();
    assert_eq!(changes.lines.len(), 1);
    let mut details: BTreeMap<_, i64> = BTreeMap::new();
    changes.details.into_iter().for_each(|(line, detail, diff)| *details.entry((line, detail)).or_default() += diff);
    assert_eq!(details.values().copied().collect::<Vec<_>>(), [0, 1]);
    assert_eq!(standing.entities(), 1);
}

fn claims() -> impl Strategy<Value = Vec<Claim>> {
    let id = prop::option::of(0..3u64);
    let one = (0..3usize, 0..4i64, 0..4u64, id, any::<bool>());
    prop::collection::vec(one, 0..30).prop_map(|all| {
        let one = |(offset, (entity, time, group, id, plain)): (usize, (usize, i64, u64, Option<u64>, bool))| {
            let claim = claim(["a", "b", "c"][entity], time, offset as u64, group);
            if group == 0 || plain { claim } else { with_more(claim, id, 2) }
        };
        all.into_iter().enumerate().map(one).collect()
    })
}

proptest! {
    #[test]
    fn what_stands_does_not_depend_on_the_order_of_reading(
        (claims, mixed) in claims().prop_flat_map(|claims| (Just(claims.clone()), Just(claims).prop_shuffle())),
        keep in prop_oneof![Just(Keep::First), Just(Keep::Last), Just(Keep::FirstN(1)), Just(Keep::FirstN(3))],
        event_time in any::<bool>(),
        chunk in 1..8usize,
    ) {
        let (mut one, mut other) = (Bench::new(keep, event_time), Bench::new(keep, event_time));
        one.epoch(claims.iter().cloned());
        for chunk in mixed.chunks(chunk) {
            other.epoch(chunk.iter().cloned());
        }
        prop_assert_eq!(&one.1.lines, &other.1.lines);
        prop_assert_eq!(one.1.claims.counted, other.1.claims.counted);
        prop_assert_eq!(one.0.more.len(), other.0.more.len());
    }
}
