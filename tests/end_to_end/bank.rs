//! The bank of Jamie Brandon, "Internal consistency in streaming systems" (scattered-thoughts.net,
//! 2021), from outside: transfers of 1 between 10 accounts, at 60 distinct event times, up to 10 s out
//! of order. Each takes from one account what it gives to another, so whatever has been read so far, the
//! balances add up to 0; a state in which they don't shows one side of a transfer without the other.
//!
//! Three who look at once: a reader of every epoch's event, a poller of the tallies, and a program that
//! reads the sink's file. `BANK_TRANSFERS` says how many transfers, where 20,000 are too few.

use crate::support::{Board, Http, Server};
use rusqlite::{Connection, OpenFlags};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tallyflow_dataflows::number::Decimal;

const JOB: &str = r#"
name = "bank"
dataflow = "tally"
[[input]]
topic = "transfers"
format = "json"
[tally]
order = "/at"
[[tally.entry]]
group = ["/from_account"]
value = "-/amount"
[[tally.entry]]
group = ["/to_account"]
value = "/amount"
[[sink]]
kind = "sqlite"
path = "bank.db"
every = "100ms"
"#;

const ACCOUNTS: u64 = 10;
const BATCH: u64 = 50;
/// How many transfers may be uncounted while more are written: so that there are many states to see.
const AHEAD: u64 = 1_000;

fn transfers() -> u64 {
    std::env::var("BANK_TRANSFERS").map_or(20_000, |n| n.parse().expect("BANK_TRANSFERS is a number"))
}

/// A transfer's accounts and event time, by plain arithmetic on its number.
fn transfer(id: u64, of: u64) -> (u64, u64, u64) {
    let mixed = (id + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let from = mixed % ACCOUNTS;
    let to = (from + 1 + mixed / ACCOUNTS % (ACCOUNTS - 1)) % ACCOUNTS;
    let second = id * 60 / of;
    (from, to, 1_600_000_000_000 + second.saturating_sub(mixed / 1_000 % 11) * 1_000)
}

/// The balances after all transfers, by a plain loop.
fn balances(of: u64) -> BTreeMap<String, Decimal> {
    let mut balances: BTreeMap<String, i128> = BTreeMap::new();
    for (from, to, _) in (0..of).map(|id| transfer(id, of)) {
        *balances.entry(from.to_string()).or_default() -= Decimal::ONE.units();
        *balances.entry(to.to_string()).or_default() += Decimal::ONE.units();
    }
    balances.into_iter().map(|(account, units)| (account, Decimal::from_units(units))).collect()
}

/// Reads the sink's file until told to stop, once more after that; how many epochs it saw.
fn look_into(file: &Path, stop: &AtomicBool) -> usize {
    let mut epochs = std::collections::BTreeSet::new();
    loop {
        let last = stop.load(Ordering::Acquire);
        // Opened anew now and then by whoever reads such files; each look is one SELECT.
        if let Ok(db) = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)
            && db.busy_timeout(Duration::from_secs(10)).is_ok()
            && let Ok(mut query) =
                db.prepare("SELECT count(*), sum(value), min(epoch), max(epoch) FROM tallies WHERE job = 'bank'")
        {
            let row = query.query_row([], |row| {
                Ok((row.get(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, Option<i64>>(2)?, row.get(3)?))
            });
            let (lines, sum, first, newest): (i64, _, _, Option<i64>) = row.unwrap();
            if lines > 0 {
                assert_eq!((sum, first), (Some(0), newest), "the file shows {lines} lines that don't belong together");
                assert!(newest.unwrap() >= epochs.last().copied().unwrap_or(0), "the file's epoch fell");
                epochs.insert(newest.unwrap());
            }
        }
        if last {
            return epochs.len();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks for the tallies until told to stop; how many epochs it saw.
fn poll(url: &str, stop: &AtomicBool) -> usize {
    let (http, mut epochs) = (Http::new(url), std::collections::BTreeSet::new());
    while !stop.load(Ordering::Acquire) {
        let tallies = http.tallies("bank");
        for bank in &tallies.subjects {
            let sum: i128 = bank.tallies.iter().map(|account| account.value.units()).sum();
            assert_eq!((sum, bank.total), (0, Some(Decimal::from_units(0))), "{tallies:?}");
        }
        assert!(tallies.accounting.is_even(), "{tallies:?}");
        epochs.insert(tallies.epoch);
    }
    epochs.len()
}

fn run(workers: usize) {
    let all = transfers();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), workers);
    let http = &server.http;
    http.create_topic("transfers", 4);
    http.submit(JOB);
    let stop = Arc::new(AtomicBool::new(false));
    let (file, url) = (dir.path().join("bank.db"), http.url.clone());
    let stopped = stop.clone();
    let looking = std::thread::spawn(move || look_into(&file, &stopped));
    let enough = Arc::new(AtomicBool::new(false));
    let stopped = enough.clone();
    let polling = std::thread::spawn(move || poll(&url, &stopped));
    let events = server.events("/api/jobs/bank/events?every=0");
    let reading = std::thread::spawn(move || {
        let mut board = Board::default();
        while board.accounting.read < all {
            let event = events.next().expect("the stream stays open");
            board.follow(&event);
            assert_eq!(board.sum("bank"), 0, "after {event:?}: {board:?}");
        }
        board
    });

    for first in (0..all).step_by(BATCH as usize) {
        let line = |id| {
            let (from, to, at) = transfer(id, all);
            format!("{{\"id\":{id},\"from_account\":{from},\"to_account\":{to},\"amount\":1,\"at\":{at}}}\n")
        };
        let lines: String = (first..all.min(first + BATCH)).map(line).collect();
        http.append("transfers", lines);
        if first % AHEAD == 0 && first > AHEAD {
            crate::support::eventually("transfers are counted", || {
                (http.tallies("bank").accounting.read + AHEAD > first).then_some(())
            });
        }
    }
    let tallies = http.tallies_of("bank", all);
    let board = reading.join().unwrap();
    board.assert_shows(&tallies);
    let shown: BTreeMap<String, Decimal> =
        board.lines.iter().map(|((_, account), value)| (account.clone(), *value)).collect();
    assert_eq!(shown, balances(all));
    enough.store(true, Ordering::Release);
    let polled = polling.join().unwrap();
    // The file holds the last epoch once the server has ended.
    assert!(server.terminate().0.success());
    stop.store(true, Ordering::Release);
    let looked = looking.join().unwrap();
    assert!(board.deltas > 20 && polled > 10 && looked > 2, "{} {polled} {looked}", board.deltas);
    let db = Connection::open(dir.path().join("bank.db")).unwrap();
    let mut query = db.prepare("SELECT \"group\", value FROM tallies WHERE job = 'bank'").unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?))).unwrap();
    let held: BTreeMap<String, Decimal> = rows
        .map(|row| row.map(|(account, value)| (account, Decimal::parse_json(&value.to_string()).unwrap())).unwrap())
        .collect();
    assert_eq!(held, balances(all), "the file");
}

#[test]
fn the_balances_add_up_to_0_in_every_state_seen_at_one_worker() {
    run(1);
}

#[test]
fn the_balances_add_up_to_0_in_every_state_seen_at_two_workers() {
    run(2);
}

#[test]
fn the_balances_add_up_to_0_in_every_state_seen_at_four_workers() {
    run(4);
}
