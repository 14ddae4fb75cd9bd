//! Votes: each voter votes in one poll, some change their mind, some withdraw.

use super::write::{Clock, Spread, number};
use super::{CHOICES_MAX, Claims, Dice, Line, Made, SimulateOptions, Zipf};
use tallyflow_dataflows::number::Decimal;

const WITHDRAWN: u16 = u16::MAX;

/// What a voter said last.
#[derive(Clone, Copy)]
struct Voter {
    at_ms: i64,
    option: u16,
}

pub(super) struct Votes {
    polls: u32,
    options: u32,
    voters_max: usize,
    changes: f64,
    withdrawals: f64,
    spread: Spread,
    zipf: Zipf,
    clock: Clock,
    /// Those who have voted, in the order in which they first did.
    voters: Vec<Voter>,
}

impl Votes {
    pub(super) fn new(options: &SimulateOptions) -> Self {
        let of_a_poll = options.options.clamp(1, CHOICES_MAX);
        Votes {
            polls: options.polls,
            options: of_a_poll,
            voters_max: options.voters.max(1) as usize,
            changes: options.changes,
            withdrawals: options.withdrawals,
            spread: Spread::new(options.voters),
            zipf: Zipf::new(of_a_poll, options.zipf),
            clock: Clock::default(),
            voters: Vec::new(),
        }
    }

    fn poll(&self, voter: usize) -> u32 {
        voter as u32 % self.polls + 1
    }
}

/// Options differ in popularity from poll to poll: each begins the order at another one.
fn option_name(out: &mut Vec<u8>, option: u16) {
    out.extend_from_slice(b"candidate-");
    number(out, u64::from(option) + 1, 1);
}

impl Claims for Votes {
    fn next(&mut self, dice: &mut Dice, made: &mut Made) {
        let voted = self.voters.len();
        let change = voted > 0 && (voted >= self.voters_max || dice.chance(self.changes));
        let voter = if change { dice.below(voted as u32) as usize } else { voted };
        let poll = self.poll(voter);
        let option = match change && dice.chance(self.withdrawals) {
            true => WITHDRAWN,
            false => ((self.zipf.pick(dice) + poll) % self.options) as u16,
        };
        if change {
            made.at_ms = made.at_ms.max(self.voters[voter].at_ms + 1);
            self.voters[voter] = Voter { at_ms: made.at_ms, option };
        } else {
            self.voters.push(Voter { at_ms: made.at_ms, option });
        }

        made.key.clear();
        made.key.push(b'v');
        number(&mut made.key, self.spread.of(voter as u32), 8);
        let out = &mut made.value;
        out.clear();
        out.extend_from_slice(br#"{"poll":"poll-"#);
        number(out, u64::from(poll), 1);
        out.extend_from_slice(br#"","voter":""#);
        out.extend_from_slice(&made.key);
        if option == WITHDRAWN {
            out.extend_from_slice(br#"","option":null,"at":""#);
        } else {
            out.extend_from_slice(br#"","option":""#);
            option_name(out, option);
            out.extend_from_slice(br#"","at":""#);
        }
        self.clock.write(out, made.at_ms);
        out.extend_from_slice(br#""}"#);
    }

    /// A withdrawal counts as the voter's word, too.
    fn counted(&self) -> u64 {
        self.voters.len() as u64
    }

    fn lines(&self) -> Vec<Line> {
        let mut counts = vec![0i64; (self.polls * self.options) as usize];
        for (voter, Voter { option, .. }) in self.voters.iter().enumerate() {
            if *option != WITHDRAWN {
                counts[((self.poll(voter) - 1) * self.options) as usize + usize::from(*option)] += 1;
            }
        }
        let line = |(i, &count): (usize, &i64)| {
            let mut group = Vec::new();
            option_name(&mut group, (i as u32 % self.options) as u16);
            let subject = format!("poll-{}", i as u32 / self.options + 1);
            Line { subject, group: String::from_utf8_lossy(&group).into_owned(), value: Decimal::from_int(count) }
        };
        counts.iter().enumerate().filter(|(_, count)| **count > 0).map(line).collect()
    }
}
