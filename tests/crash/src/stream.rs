//! The known stream: records made from a seed, with duplicates, reordering, late ones, corrections, edits,
//! deletions, withdrawals, and some that are none.
//!
//! Each record has a number of its own, `n`, by which it is known in the log. All but that is the same in a
//! duplicate.

use rand::RngExt;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// The topics, with their partitions.
pub const TOPICS: [(&str, u32); 4] = [("orders", 3), ("transfers", 4), ("votes", 3), ("posts", 4)];

/// The time of the first event, in ms since 1970.
const BEGIN_MS: u64 = 1_600_000_000_000;
/// How far apart events are, and how far out of order.
const STEP_MS: u64 = 100;
const LATE_MAX_MS: u64 = 20_000;
/// Some of the earlier records are kept to be sent again.
const REMEMBERED: usize = 200;
const BATCH_MAX: usize = 40;

/// The records of a topic, without end.
pub struct Stream {
    topic: usize,
    /// Begins each number, so that no two streams have the same.
    whose: &'static str,
    rng: ChaCha8Rng,
    next: u64,
    earlier: Vec<String>,
}

impl Stream {
    pub fn new(topic: usize, seed: u64, whose: &'static str) -> Stream {
        let rng = ChaCha8Rng::seed_from_u64(seed ^ (topic as u64 + 1) << 56);
        Stream { topic, whose, rng, next: 0, earlier: Vec::new() }
    }

    /// The lines of the next append.
    pub fn batch(&mut self) -> Vec<String> {
        let records = if self.rng.random_ratio(1, 40) { BATCH_MAX * 5 } else { self.rng.random_range(1..=BATCH_MAX) };
        (0..records).map(|_| self.record()).collect()
    }

    fn record(&mut self) -> String {
        let (whose, number) = (self.whose, self.next);
        self.next += 1;
        if self.rng.random_ratio(1, 60) {
            return format!("broken {whose}{number}");
        }
        let rest = match self.earlier.choose(&mut self.rng) {
            Some(again) if self.rng.random_ratio(1, 8) => again.clone(),
            _ => self.event(number),
        };
        if self.earlier.len() < REMEMBERED {
            self.earlier.push(rest.clone());
        } else {
            let place = self.rng.random_range(0..REMEMBERED);
            self.earlier[place] = rest.clone();
        }
        format!("{{\"n\":\"{whose}{number}\",{rest}}}")
    }

    /// An event without its number.
    fn event(&mut self, number: u64) -> String {
        let rng = &mut self.rng;
        let late = if rng.random_ratio(1, 3) { rng.random_range(0..LATE_MAX_MS) } else { 0 };
        let at = BEGIN_MS + number * STEP_MS - late.min(number * STEP_MS);
        match TOPICS[self.topic].0 {
            "orders" => {
                // A correction is a later event of an order; one that is cancelled has no country.
                let order = rng.random_range(0..number / 3 + 5);
                let customer = rng.random_range(0..number / 20 + 5);
                let region = ["north", "south", "east", "west"][rng.random_range(0..4)];
                let country = ["\"NO\"", "\"ES\"", "\"a \\\"b\\\"\"", "\"Ö\"", "null"][rng.random_range(0..5)];
                let kind = ["web", "shop"][rng.random_range(0..2)];
                let (whole, cents) = (rng.random_range(0..1000), rng.random_range(0..100));
                let region = if rng.random_ratio(1, 80) { String::new() } else { format!("\"region\":\"{region}\",") };
                format!(
                    "\"order\":\"o{order}\",\"customer\":\"c{customer}\",{region}\"country\":{country},\"kind\":\"{kind}\",\
                     \"amount\":{whole}.{cents:02},\"at\":{at}"
                )
            }
            "transfers" => {
                let from = rng.random_range(0..10);
                let to = (from + rng.random_range(1..10)) % 10;
                format!("\"from\":\"a{from}\",\"to\":\"a{to}\",\"amount\":{},\"at\":{at}", rng.random_range(1..100))
            }
            "votes" => {
                let poll = if rng.random_ratio(1, 20) { "none" } else { "election" };
                let voter = rng.random_range(0..number / 4 + 5);
                let option = ["\"yes\"", "\"no\"", "\"maybe\"", "\"never\"", "null"][rng.random_range(0..5)];
                format!("\"poll\":\"{poll}\",\"voter\":\"v{voter}\",\"option\":{option},\"at\":{at}")
            }
            _ => {
                let id = rng.random_range(0..number / 3 + 5);
                let text = match rng.random_range(0..8) {
                    0 => "null".to_owned(),
                    1 => "\"nothing to tell\"".to_owned(),
                    _ => {
                        let word = |rng: &mut ChaCha8Rng| ["happy", "sad", "angry", "well"][rng.random_range(0..4)];
                        format!("\"so {} and {}\"", word(rng), word(rng))
                    }
                };
                // An author is of a message, not of its version.
                format!("\"id\":\"p{id}\",\"author\":\"u{}\",\"text\":{text},\"at\":{at}", id % 50)
            }
        }
    }
}
