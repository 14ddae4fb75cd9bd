//! Simulated feeds whose outcome is known.
//!
//! ```text
//! seed -> fresh claims in order of their time -> delivery: some twice, some behind others, some late
//!             '-> truth: what counts in the end -> Expect
//! ```
//!
//! The same seed and options give the same bytes on every machine. Every entity's claims have
//! different times, so that the newest is never a matter of how records were sent.

mod delivery;
mod expect;
mod orders;
mod polls;
mod posts;
mod sayings;
#[cfg(test)]
mod tests;
mod votes;
mod write;

pub use expect::{Accounting, Expect, Line, PollExpect};
pub use posts::hashtag_name;
pub use sayings::{LANGUAGES, MOODS};

use delivery::Delivery;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::BTreeMap;

/// Hashtags and options are kept as 16-bit numbers.
const CHOICES_MAX: u32 = 65_000;
/// Records that are sent behind others lie in memory until then.
const SPAN_MAX: u32 = 10_000_000;
const RATE_MIN: f64 = 0.001;
const RATE_MAX: f64 = 1e9;

/// Which feed is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// `post` records of about 300 bytes. Counted by the job: `format = "post"`, `group = ["/hashtags"]`,
    /// `keep = "last"`, `order = "/at"`, no subject and the name [`SimulateOptions::subject`]. And by two
    /// polls that match words and are open all the time: `moods` with the options [`MOODS`], many choices
    /// and no entity; `languages` with the options [`LANGUAGES`], one choice, and of each author the last.
    Posts,
    /// `vote` records of about 100 bytes. Counted by the job: `format = "vote"`, `subject = "/poll"`,
    /// `group = ["/option"]`, `entity = ["/voter"]`, `keep = "last"`, `order = "/at"`. A voter votes in
    /// one poll only.
    Votes,
    /// Orders for the demo. Summed by the job: `format = "json"`, `subject = "/region"`,
    /// `group = ["/country"]`, `entity = ["/order_id"]`, `keep = "last"`, `order = "/updated_at"`,
    /// `value = "/amount"`. A correction may change the amount and the country; a cancelled order's
    /// amount is 0.
    Orders,
}

impl Workload {
    /// As it is written in a command.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Posts => "posts",
            Workload::Votes => "votes",
            Workload::Orders => "orders",
        }
    }
}

/// What is simulated. Proportions are of the fresh claims (between 0 and 1), and independent of one
/// another.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulateOptions {
    /// Where all chance comes from. Default 1.
    pub seed: u64,
    /// How many records in all, those sent twice included; `None` (default): until [`Simulation::stop`].
    pub records: Option<u64>,
    /// Fresh claims per second of event time. Default 1000. It paces the times in the records; when
    /// they are sent is the caller's business.
    pub rate: f64,
    /// The time of the first claim, in milliseconds since 1970. Default 2026-11-21T10:00:00Z.
    pub start_ms: i64,
    /// Records that are sent again later, byte for byte. Default 0.02.
    pub duplicates: f64,
    /// Claims that change what an entity said before: edits of a post, changes of mind, corrections of
    /// an order. Default 0.1. Where all voters have voted, all further votes are changes.
    pub changes: f64,
    /// Posts that are deleted. Default 0.03. A post that was chosen to be edited or deleted and is deleted
    /// already gives way to a new one.
    pub deletions: f64,
    /// Of the new posts, those that repost another. Default 0.03.
    pub reposts: f64,
    /// Of the changes in votes, those that withdraw the vote. Default 0.1.
    pub withdrawals: f64,
    /// Records sent behind up to [`Self::reorder_span`] later ones. Default 0.05.
    pub reordered: f64,
    /// Default 64 records.
    pub reorder_span: u32,
    /// Records sent behind [`Self::late_span`] later ones or up to twice as many. Default 0.005.
    pub late: f64,
    /// Default 10,000 records (10 s at the default rate).
    pub late_span: u32,
    /// The exponent of Zipf's law that hashtags, options and countries follow. Default 1.
    pub zipf: f64,
    /// Different hashtags. Default 1000, at most 65,000.
    pub hashtags: u32,
    /// Different authors or customers. Default 50,000.
    pub authors: u32,
    /// Different voters, in all polls together. Default 1,000,000.
    pub voters: u32,
    /// Default 3.
    pub polls: u32,
    /// Options of each poll. Default 8, at most 65,000.
    pub options: u32,
    /// The name of the job that counts posts, which is its subject. Default `hashtags`.
    pub subject: String,
}

impl Default for SimulateOptions {
    fn default() -> Self {
        SimulateOptions {
            seed: 1,
            records: None,
            rate: 1000.0,
            start_ms: 1_795_255_200_000,
            duplicates: 0.02,
            changes: 0.1,
            deletions: 0.03,
            reposts: 0.03,
            withdrawals: 0.1,
            reordered: 0.05,
            reorder_span: 64,
            late: 0.005,
            late_span: 10_000,
            zipf: 1.0,
            hashtags: 1000,
            authors: 50_000,
            voters: 1_000_000,
            polls: 3,
            options: 8,
            subject: "hashtags".to_owned(),
        }
    }
}

impl SimulateOptions {
    /// Whether they make sense; the error names the first that does not.
    pub fn check(&self) -> Result<(), String> {
        let shares = [
            ("duplicates", self.duplicates),
            ("changes", self.changes),
            ("deletions", self.deletions),
            ("reposts", self.reposts),
            ("withdrawals", self.withdrawals),
            ("reordered", self.reordered),
            ("late", self.late),
        ];
        if let Some((name, share)) = shares.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return Err(format!("{name} must be a proportion from 0 to 1, not {share}"));
        }
        let sizes = [
            ("reorder_span", self.reorder_span, SPAN_MAX),
            ("late_span", self.late_span, SPAN_MAX),
            ("hashtags", self.hashtags, CHOICES_MAX),
            ("options", self.options, CHOICES_MAX),
            ("polls", self.polls, 10_000),
            ("authors", self.authors, u32::MAX),
            ("voters", self.voters, u32::MAX),
        ];
        if let Some((name, size, max)) = sizes.into_iter().find(|(_, size, max)| !(1..=*max).contains(size)) {
            return Err(format!("{name} must be from 1 to {max}, not {size}"));
        }
        if !(RATE_MIN..=RATE_MAX).contains(&self.rate) {
            return Err(format!("rate must be from {RATE_MIN} to {RATE_MAX} records per second, not {}", self.rate));
        }
        if !(0.0..=10.0).contains(&self.zipf) {
            return Err(format!("zipf must be from 0 to 10, not {}", self.zipf));
        }
        Ok(())
    }
}

/// A record as the simulation lends it, until the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Simulated<'a> {
    /// Its entity: the post's id, the voter, the order's id.
    pub key: &'a [u8],
    /// One JSON object on one line.
    pub value: &'a [u8],
    /// Its event time in milliseconds since 1970.
    pub at_ms: i64,
}

/// A record in the making. Its buffers are used again.
#[derive(Clone, Debug, Default)]
struct Made {
    key: Vec<u8>,
    value: Vec<u8>,
    at_ms: i64,
}

/// Makes fresh claims and keeps what counts in the end.
trait Claims: Send {
    /// Writes the next claim, which happens at `made.at_ms` or, where its entity has spoken in that
    /// millisecond already, a little later.
    fn next(&mut self, dice: &mut Dice, made: &mut Made);
    /// The claim that was made last is sent once more.
    fn sent(&mut self) {}
    /// How many claims count in the end.
    fn counted(&self) -> u64;
    /// How many records make no claim.
    fn irrelevant(&self) -> u64 {
        0
    }
    /// The lines there are now, in any order.
    fn lines(&self) -> Vec<Line>;
    /// What polls must show now.
    fn polls(&self) -> BTreeMap<&'static str, PollExpect> {
        BTreeMap::new()
    }
}

/// A seeded feed.
pub struct Simulation {
    workload: Workload,
    options: SimulateOptions,
    dice: Dice,
    claims: Box<dyn Claims>,
    delivery: Delivery,
    made: Made,
    fresh: u64,
    /// Records sent or waiting to be sent.
    records: u64,
    stopped: bool,
}

impl Simulation {
    /// A feed from its beginning. The options are taken as [`SimulateOptions::check`] allows them;
    /// others are brought to the nearest that make sense.
    pub fn new(workload: Workload, mut options: SimulateOptions) -> Self {
        options.rate = if options.rate.is_nan() { RATE_MIN } else { options.rate.clamp(RATE_MIN, RATE_MAX) };
        options.polls = options.polls.clamp(1, 10_000);
        options.reorder_span = options.reorder_span.clamp(1, SPAN_MAX);
        options.late_span = options.late_span.clamp(1, SPAN_MAX);
        let claims: Box<dyn Claims> = match workload {
            Workload::Posts => Box::new(posts::Posts::new(&options)),
            Workload::Votes => Box::new(votes::Votes::new(&options)),
            Workload::Orders => Box::new(orders::Orders::new(&options)),
        };
        Simulation {
            workload,
            dice: Dice(ChaCha8Rng::seed_from_u64(options.seed)),
            options,
            claims,
            delivery: Delivery::default(),
            made: Made::default(),
            fresh: 0,
            records: 0,
            stopped: false,
        }
    }

    /// The next record as it is sent; `None` once all are.
    pub fn generate(&mut self) -> Option<Simulated<'_>> {
        loop {
            if self.delivery.due(&mut self.made) {
                break;
            }
            let room = self.options.records.map_or(u64::MAX, |all| all - self.records);
            if self.stopped || room == 0 {
                // Nothing comes any more that the others could wait for.
                if self.delivery.rest(&mut self.made) {
                    break;
                }
                return None;
            }
            if self.fresh(room) {
                break;
            }
        }
        Some(Simulated { key: &self.made.key, value: &self.made.value, at_ms: self.made.at_ms })
    }

    /// Makes a claim; whether it is sent at once.
    fn fresh(&mut self, room: u64) -> bool {
        self.made.at_ms = self.options.start_ms + (self.fresh as f64 * 1000.0 / self.options.rate) as i64;
        self.claims.next(&mut self.dice, &mut self.made);
        self.fresh += 1;
        self.records += 1;
        let (dice, options) = (&mut self.dice, &self.options);
        if room > 1 && dice.chance(options.duplicates) {
            self.records += 1;
            self.claims.sent();
            let behind = 1 + dice.below(options.reorder_span);
            self.delivery.wait(&self.made, behind);
        }
        let behind = if dice.chance(options.late) {
            options.late_span + dice.below(options.late_span)
        } else if dice.chance(options.reordered) {
            1 + dice.below(options.reorder_span)
        } else {
            0
        };
        self.delivery.step();
        if behind > 0 {
            self.delivery.wait(&self.made, behind);
        }
        behind == 0
    }

    /// Makes no more claims: [`Simulation::generate`] goes on with the records that are still to be
    /// sent, then ends.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// What must come out of the records that were sent; `None` before all are: before
    /// [`Simulation::generate`] has answered `None`.
    pub fn expect(&self) -> Option<Expect> {
        let more = self.options.records.is_none_or(|all| self.records < all) && !self.stopped;
        if more || !self.delivery.is_empty() {
            return None;
        }
        Some(Expect::new(self.workload.name(), self.options.seed, self.records, &*self.claims))
    }
}

/// Chance.
struct Dice(ChaCha8Rng);

impl Dice {
    fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Less than `bound`, which must not be 0.
    fn below(&mut self, bound: u32) -> u32 {
        // The bias is below bound / 2^32: nothing that a simulation shows.
        ((u64::from(self.0.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    fn chance(&mut self, proportion: f64) -> bool {
        proportion > 0.0 && f64::from(self.0.next_u32()) < proportion * 4_294_967_296.0
    }
}

/// Numbers below a bound by Zipf's law: number k has the weight 1 / (k + 1)^s.
struct Zipf {
    /// The shares up to each number, of 2^32.
    up_to: Vec<u32>,
}

impl Zipf {
    fn new(bound: u32, exponent: f64) -> Self {
        // The power 1 is exact on every machine; a fractional one may differ in its last bit.
        let weight = |k: u32| 1.0 / f64::from(k + 1).powf(exponent);
        let total: f64 = (0..bound.max(1)).map(weight).sum();
        let mut sum = 0.0;
        let up_to = (0..bound.max(1)).map(|k| {
            sum += weight(k);
            (sum / total * 4_294_967_295.0) as u32
        });
        Zipf { up_to: up_to.collect() }
    }

    fn pick(&self, dice: &mut Dice) -> u32 {
        let at = dice.0.next_u32();
        (self.up_to.partition_point(|&share| share < at) as u32).min(self.up_to.len() as u32 - 1)
    }
}
