//! What is said of each record adds up to what the recount counts.

use super::*;
use crate::recount::tests::{Record, TestFormats, job};
use crate::recount::{Recount, RecountResult};
use proptest::prelude::*;

pub(in crate::recount) fn lend(record: &Record<'_>, each: &mut dyn FnMut(usize, &RecordRef<'_>)) {
    let (input, partition, offset, timestamp_ms, text) = *record;
    let (partition, offset, value) = (PartitionId(partition), Offset(offset), Some(text.as_bytes()));
    each(input, &RecordRef { partition, offset, timestamp_ms, key: None, value });
}

fn ask(job: &JobSpec, records: &[Record<'_>], question: Question) -> Answer {
    let mut why = Why::new(job, &TestFormats, &[], question);
    loop {
        records.iter().for_each(|record| lend(record, &mut |input, record| why.record(input, record)));
        if !why.again().unwrap() {
            return why.finish();
        }
    }
}

fn at(record: &Record<'_>) -> At {
    At { input: record.0, partition: PartitionId(record.1), offset: Offset(record.2) }
}

fn recount(job: &JobSpec, records: &[Record<'_>]) -> RecountResult {
    let result = Recount::new(job, &TestFormats).over(|recount| {
        records.iter().for_each(|record| lend(record, &mut |input, record| drop(recount.record(input, record))));
        Ok::<_, RecountError>(())
    });
    result.unwrap()
}

#[test]
fn a_number_is_told_by_its_newest_claims_with_what_they_replaced_and_what_left_them_out() {
    let tally = "group = '/g'\nentity = '/e'\nkeep = 'last'\nvalue = '/v'";
    let texts = [
        r#"{"e": 1, "g": "a", "v": 2}"#,
        r#"{"e": 1, "g": "b", "v": 3}"#,
        r#"{"e": 2, "g": "a", "v": 5}"#,
        r#"{"e": 2, "g": "a", "v": 5}"#,
        r#"{"e": 3, "g": "a", "v": 7}"#,
        r#"{"e": 3, "g": null, "v": 7}"#,
    ];
    let records: Vec<Record<'_>> = texts.iter().enumerate().map(|(i, t)| (0, 0, i as u64, i as i64, *t)).collect();
    let job = job("json", tally);
    let line = |group: &str, limit| Question::Line { subject: "job".into(), group: group.into(), limit };
    let told = |answer: &Answer| {
        let of = |claim: &ClaimFate| {
            let other = |other: Option<Other>| other.map_or("-".into(), |o| format!("{} {:?}", o.at.offset, o.says));
            format!("{} {:?} by {} for {}", claim.at.offset, claim.fate, other(claim.by), other(claim.replaced))
        };
        answer.claims.iter().map(of).collect::<Vec<_>>()
    };
    let all = ask(&job, &records, line("a", 20));
    assert_eq!(
        told(&all),
        [
            "4 Superseded by 5 Withdrawal for -",
            "3 Counted by - for 2 Contribution",
            "2 Duplicate by 3 Contribution for -",
            "0 Superseded by 1 Contribution for -",
        ]
    );
    assert_eq!((all.claims[1].entity.as_deref(), all.claims[1].lines.len()), (Some("2"), 1));
    assert_eq!(told(&ask(&job, &records, line("a", 1))), ["4 Superseded by 5 Withdrawal for -"]);
    assert_eq!(told(&ask(&job, &records, line("b", 9))), ["1 Counted by - for 0 Contribution"]);
    assert_eq!(told(&ask(&job, &records, line("c", 9))), [""; 0]);
    let last = ask(&job, &records, Question::At(at(&records[5])));
    assert_eq!(told(&last), ["5 Counted by - for 4 Contribution"]);
    assert_eq!(last.record.unwrap().verdict, Verdict::Matched);
}

proptest! {
    #[test]
    fn what_is_said_of_each_record_adds_up_to_the_accounting(
        events in prop::collection::vec((0u8..5, 0u8..4, 0i64..4, 0u32..3, -1i8..3, 0usize..2, 0u8..3), 0..24),
        rule in prop::sample::select(vec![
            ("vote", ""), ("vote", "entity = '/e'\nkeep = 'first'"), ("json", "entity = '/e'\nkeep = 'last'"),
            ("vote", "entity = '/e'\nkeep = 'first-n'\nn = 2"), ("json", "entity = '/e'\nkeep = 'first-n'\nn = 2"),
            ("post", ""),
        ]),
    ) {
        let texts: Vec<String> = events.iter().map(|(e, g, at, _, v, _, id)| {
            let group = match g { 0 => "null".into(), 1 => "[]".into(), g => format!("[{g}, 9]") };
            let text = if *v < 0 { r#","text":null"# } else { "" };
            // Messages have the entity's number as their id.
            let id = if rule.0 == "post" { e } else { id };
            format!(r#"{{"e": {e}, "g": {group}, "at": {at}, "v": {v}, "id": {id}{text}}}"#)
        }).collect();
        let records: Vec<Record<'_>> =
            events.iter().zip(&texts).enumerate().map(|(i, (e, t))| (e.5, e.3, i as u64, 0, t.as_str())).collect();
        let job = job(rule.0, &format!("group = '/g'\norder = '/at'\nvalue = '/v'\n{}", rule.1));
        let want = recount(&job, &records);
        let (mut rejected, mut irrelevant, mut matched, mut claims, mut counted) = (0, 0, 0, 0, 0);
        let mut lines: std::collections::BTreeMap<(String, String), Decimal> = Default::default();
        for record in &records {
            let answer = ask(&job, &records, Question::At(at(record)));
            let fate = answer.record.expect("it is there");
            match fate.verdict {
                Verdict::Rejected(_) => rejected += 1,
                Verdict::Irrelevant => irrelevant += 1,
                Verdict::Matched => matched += 1,
            }
            prop_assert_eq!(fate.reason.is_some(), fate.verdict == Verdict::Irrelevant);
            claims += answer.claims.len() as u64;
            for claim in answer.claims {
                prop_assert_eq!(claim.by.is_none(), claim.fate == Fate::Counted);
                if claim.fate == Fate::Counted {
                    counted += 1;
                    for (group, value) in claim.lines {
                        let sum = lines.entry((claim.subject.clone(), group)).or_default();
                        *sum = Decimal::from_units(sum.units() + value.units());
                    }
                }
            }
        }
        prop_assert_eq!(
            (rejected, irrelevant, matched, claims, counted),
            (want.rejected, want.irrelevant, want.matched, want.claims, want.counted)
        );
        let sums = want.lines.into_iter().map(|(line, values)| (line, values[0].unwrap())).collect();
        prop_assert_eq!(&lines, &sums);
        for ((subject, group), sum) in sums {
            let answer = ask(&job, &records, Question::Line { subject, group: group.clone(), limit: 100 });
            let mut told = Decimal::default();
            for claim in answer.claims.iter().filter(|claim| claim.fate == Fate::Counted) {
                for (_, value) in claim.lines.iter().filter(|(of, _)| *of == group) {
                    told = Decimal::from_units(told.units() + value.units());
                }
            }
            prop_assert_eq!(told, sum);
        }
    }
}
