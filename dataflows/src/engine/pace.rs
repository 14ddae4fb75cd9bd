//! How fast the past is read beside live reading.
//!
//! While live records come, a piece of the past is read, and the next one only after what the first one
//! made others do was done and as long again has gone by; pieces are as large as can be done in
//! [`Pace::PIECE`]. So a live record waits for one piece at most, and finds half of the time free. Where
//! nothing comes, or more than can be read, nobody is kept waiting and pieces are large.

use std::time::{Duration, Instant};

/// See the module.
pub struct Pace {
    /// Records in a piece.
    records: u64,
    step: Step,
    /// When something was last read live.
    live_at: Option<Instant>,
}

/// Where the piece that was last read has come to.
#[derive(Clone, Copy)]
enum Step {
    /// Read in an epoch that has not ended.
    Read { epoch: u64, took: Duration },
    /// Its epoch ended then, and is not done with.
    Ended { epoch: u64, took: Duration, at: Instant },
    /// Done.
    Rest { until: Instant },
}

impl Pace {
    /// What a piece should take, with all that it makes others do.
    const PIECE: Duration = Duration::from_millis(1);
    /// How few and how many records a piece has.
    const RECORDS_MIN: u64 = 16;
    pub const RECORDS_MAX: u64 = 512;
    /// For how long after a live record there may be another.
    const LIVE: Duration = Duration::from_secs(1);
    /// How long until it is looked again whether an epoch is done with.
    const LOOK: Duration = Duration::from_micros(200);

    pub fn new(now: Instant) -> Self {
        Pace { records: Self::RECORDS_MAX, step: Step::Rest { until: now }, live_at: None }
    }

    /// Something was read live.
    pub fn live(&mut self, now: Instant) {
        self.live_at = Some(now);
    }

    /// How many records the next piece may have, or how long to wait before asking again. `epoch` is the
    /// one that is open, `oldest` the first that is not done with, `behind` whether live reading is.
    pub fn next(&mut self, now: Instant, epoch: u64, oldest: u64, behind: bool) -> Result<u64, Duration> {
        if behind || self.live_at.is_none_or(|at| now - at > Self::LIVE) {
            return Ok(Self::RECORDS_MAX);
        }
        if let Step::Read { epoch: of, took } = self.step
            && epoch > of
        {
            self.step = Step::Ended { epoch: of, took, at: now };
        }
        if let Step::Ended { epoch: of, took, at } = self.step
            && oldest > of
        {
            let took = took + (now - at);
            if took > Self::PIECE {
                self.records = (self.records / 2).max(Self::RECORDS_MIN);
            } else if took < Self::PIECE / 2 {
                self.records = (self.records * 2).min(Self::RECORDS_MAX);
            }
            self.step = Step::Rest { until: now + took };
        }
        match self.step {
            Step::Rest { until } if until <= now => Ok(self.records),
            Step::Rest { until } => Err(until - now),
            _ => Err(Self::LOOK),
        }
    }

    /// A piece was read in `epoch`, which took so long.
    pub fn read(&mut self, epoch: u64, took: Duration) {
        self.step = Step::Read { epoch, took };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn beside_live_records_a_piece_waits_until_the_one_before_is_done_and_as_long_again() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.live(start);
        let first = pace.next(start, 7, 7, false).unwrap();
        pace.read(7, MS);
        assert!(pace.next(start + MS, 7, 7, false).is_err(), "its epoch is open");
        assert!(pace.next(start + MS * 2, 8, 7, false).is_err(), "its epoch is not done with");
        assert_eq!(pace.next(start + MS * 5, 8, 8, false), Err(MS * 4), "1 ms to read it, 3 ms for the others");
        assert_eq!(pace.next(start + MS * 9, 8, 8, false), Ok(first / 2), "it was too large");
        pace.read(8, MS / 10);
        assert!(pace.next(start + MS * 10, 9, 9, false).is_err());
        assert_eq!(pace.next(start + MS * 11, 9, 9, false), Ok(first), "it was small");
    }

    #[test]
    fn where_nobody_waits_pieces_are_large() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.read(7, MS);
        assert_eq!(pace.next(start, 7, 7, false), Ok(Pace::RECORDS_MAX));
        pace.live(start);
        assert!(pace.next(start, 7, 7, false).is_err());
        assert_eq!(pace.next(start, 7, 7, true), Ok(Pace::RECORDS_MAX), "live reading is behind");
        assert_eq!(pace.next(start + Pace::LIVE * 2, 7, 7, false), Ok(Pace::RECORDS_MAX), "live records have ended");
    }
}
