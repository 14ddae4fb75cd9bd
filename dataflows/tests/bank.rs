//! The bank of Jamie Brandon, "Internal consistency in streaming systems" (scattered-thoughts.net,
//! 2021): transfers of 1 between 10 accounts, at 60 distinct event times, up to 10 s out of order.
//! Whatever was read so far, the balances add up to 0: an update that shows one side of a transfer
//! without the other, or a correction without what it corrects, is inconsistent.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::Filter;
use tallyflow_dataflows::spec::{JobFile, Surroundings};
use tallyflow_dataflows::testing::{Bench, MemoryLog, MemoryRecord, PlainFormats};

const TRANSFERS: u64 = 100_000;
const ACCOUNTS: u64 = 10;
const PARTITIONS: usize = 4;
const BATCH: u64 = 500;
/// How many records may be unread while more are appended.
const AHEAD: u64 = 2_000;

const ENTRIES: &str = r#"
aggregates = ["sum", "count", "min"]
[[tally.entry]]
group = "/from_account"
value = "-/amount"
[[tally.entry]]
group = "/to_account"
value = "/amount"
"#;

/// A transfer's accounts and its event time, by plain arithmetic on its number.
fn transfer(id: u64) -> (u64, u64, u64) {
    let mixed = (id + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let from = mixed % ACCOUNTS;
    let to = (from + 1 + mixed / ACCOUNTS % (ACCOUNTS - 1)) % ACCOUNTS;
    let second = id * 60 / TRANSFERS;
    (from, to, second.saturating_sub(mixed / 1_000 % 11) * 1_000)
}

/// Runs the job at `workers` while the transfers are appended, each of `redelivered` (every so many)
/// a second time, later and elsewhere.
fn run(keep: &str, redelivered: Option<u64>, workers: usize) {
    let job = format!(
        "name = 'bank'\ndataflow = 'tally'\n[[input]]\ntopic = 'transfers'\nformat = 'json'\n[tally]\norder = '/at'\n{keep}{ENTRIES}"
    );
    let around = Surroundings { formats: &PlainFormats, partitions: &|_| Some(PARTITIONS as u32), topics: vec![] };
    let spec = JobFile::parse_toml(&job, &around).unwrap();
    let log = MemoryLog::default();
    log.create("transfers", PARTITIONS);
    let mut bench = Bench::start(&spec, Arc::new(log.clone()), Arc::new(PlainFormats), workers);
    let updates = Rc::new(Cell::new(0u64));
    let counted = updates.clone();
    bench.check = Box::new(move |results| {
        counted.set(counted.get() + 1);
        let snapshot = results.snapshot(&Filter::default()).unwrap();
        assert!(results.accounting().is_even(), "{:?}", results.accounting());
        for bank in &snapshot.subjects {
            let sum: i128 = bank.tallies.iter().map(|account| account.value.units()).sum();
            assert_eq!((sum, bank.total), (0, Some(Decimal::ZERO)), "at epoch {}", snapshot.epoch);
        }
    });

    let record = |id: u64| {
        let (from, to, at) = transfer(id);
        let value = format!(r#"{{"id":{id},"from_account":"{from}","to_account":"{to}","amount":1,"at":{at}}}"#);
        MemoryRecord { timestamp_ms: 60_000, value: value.into_bytes() }
    };
    let again = |id: u64| redelivered.is_some_and(|every| id.is_multiple_of(every));
    let mut records = 0;
    for batch in 0..TRANSFERS / BATCH {
        let ids = || batch * BATCH..(batch + 1) * BATCH;
        log.append("transfers", batch as usize % PARTITIONS, ids().map(record));
        log.append("transfers", (batch as usize + 1) % PARTITIONS, ids().filter(|id| again(*id)).map(record));
        records += BATCH + ids().filter(|id| again(*id)).count() as u64;
        // The workers read beside this, never far behind: or all would be in a few updates.
        bench.run_to(records.saturating_sub(AHEAD), Duration::from_secs(120));
    }
    bench.run_to(records, Duration::from_secs(120));
    assert_eq!(bench.failed, None);
    assert!(updates.get() >= TRANSFERS / AHEAD / 2, "only {} updates: nothing was seen on the way", updates.get());

    let mut balances: BTreeMap<String, i64> = BTreeMap::new();
    for (from, to, _) in (0..TRANSFERS).map(transfer) {
        *balances.entry(from.to_string()).or_default() -= 1;
        *balances.entry(to.to_string()).or_default() += 1;
    }
    let shown = bench.results.lines().map(|(_, account, values)| (account.text(), values[0].to_i64().unwrap()));
    assert_eq!(shown.collect::<BTreeMap<_, _>>(), balances);
    assert_eq!(bench.results.accounting().counted, TRANSFERS);
    assert_eq!(bench.results.accounting().duplicate, records - TRANSFERS);
}

#[test]
fn the_balances_add_up_to_0_in_every_update() {
    [1, 2, 4].into_iter().for_each(|workers| run("", None, workers));
}

#[test]
fn the_balances_add_up_to_0_in_every_update_with_transfers_delivered_twice() {
    [1, 2, 4].into_iter().for_each(|workers| run("entity = '/id'\nkeep = 'last'\n", Some(7), workers));
}
