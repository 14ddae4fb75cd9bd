//! Voters who change their mind, written while other things happen, and the plain count of them.

use crate::support::Http;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::Tallies;

/// One vote a voter; the last by its own time counts.
pub const JOB: &str = r#"
name = "votes"
dataflow = "tally"
[[input]]
topic = "votes"
format = "json"
[tally]
subject = "/poll"
group = ["/option"]
entity = ["/poll", "/voter"]
keep = "last"
order = "/at"
"#;

const VOTERS: u64 = 400;
const BATCH: u64 = 20;

/// Vote number `n` as JSON: who, in which poll, for what.
fn vote(n: u64) -> (String, (String, String), String) {
    // Any fixed mixing will do.
    let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    let (poll, voter) = (format!("p{}", mixed % 2), format!("v{}", mixed / 2 % VOTERS));
    let option = format!("o{}", mixed / 1_000 % 5);
    let at = 1_700_000_000_000 + n;
    let line = format!(r#"{{"poll":"{poll}","voter":"{voter}","option":"{option}","at":{at}}}"#);
    (line, (poll, voter), option)
}

/// How many of the first `n` are of each poll, without those of voter `v7`.
pub fn count_by_poll(n: u64) -> BTreeMap<String, Decimal> {
    let mut tallies = BTreeMap::new();
    for (_, (poll, voter), _) in (0..n).map(vote) {
        if voter != "v7" {
            let value = tallies.entry(poll).or_insert(Decimal::from_units(0));
            *value = Decimal::from_units(value.units() + Decimal::ONE.units());
        }
    }
    tallies
}

/// Votes `from..to`, one a line.
pub fn lines(from: u64, to: u64) -> String {
    (from..to).map(|n| vote(n).0 + "\n").collect()
}

/// What the first `n` votes come to, by poll and option.
pub fn count(n: u64) -> BTreeMap<(String, String), Decimal> {
    let mut standing = HashMap::new();
    for (_, entity, option) in (0..n).map(vote) {
        standing.insert(entity, option);
    }
    let mut tallies: BTreeMap<(String, String), Decimal> = BTreeMap::new();
    for ((poll, _), option) in standing {
        let value = tallies.entry((poll, option)).or_insert(Decimal::from_units(0));
        *value = Decimal::from_units(value.units() + Decimal::ONE.units());
    }
    tallies
}

/// Fails where the tallies are not those of the first `n` votes.
#[track_caller]
pub fn assert_counts(tallies: &Tallies, n: u64) {
    assert_eq!(crate::support::Board::of(tallies).lines, count(n));
    assert_eq!(tallies.accounting.read, n);
    assert_eq!(tallies.accounting.claims, n);
    assert!(tallies.accounting.is_even());
}

/// Votes being written, until it is told to stop.
pub struct Flow {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Flow {
    /// Writes votes from number 0 on, in batches, each durable before the next.
    pub fn start(url: &str) -> Flow {
        Flow::start_after(url, 0)
    }

    /// Likewise after the first `n`.
    pub fn start_after(url: &str, n: u64) -> Flow {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(n)));
        let (stopped, so_far, url) = (stop.clone(), written.clone(), url.to_owned());
        let thread = std::thread::spawn(move || {
            let http = Http::new(&url);
            while !stopped.load(Ordering::Acquire) {
                let n = so_far.load(Ordering::Acquire);
                http.append("votes", lines(n, n + BATCH));
                so_far.store(n + BATCH, Ordering::Release);
            }
        });
        Flow { stop, written, thread }
    }

    /// How many are durable.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Ends the writing; how many were written.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap();
        self.written.load(Ordering::Acquire)
    }
}
