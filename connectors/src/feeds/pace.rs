//! When a record is due: by its own time, faster or slower, or at a steady rate.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use std::time::{Duration, Instant};

/// At what pace records go out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as it goes.
    Full,
    /// So many records a second.
    Rate(f64),
    /// By the records' own times, so many times as fast as they passed.
    Speed(f64),
}

impl Pace {
    /// Reads a speed like `60x`, `0.5x` or `60`.
    pub fn parse_speed(text: &str) -> Result<Pace, String> {
        positive(text.strip_suffix('x').unwrap_or(text))
            .map(Pace::Speed)
            .ok_or_else(|| format!("{text:?} is no speed; write how many times as fast as it happened, like 60x"))
    }

    /// Reads a rate like `1000`, in records a second.
    pub fn parse_rate(text: &str) -> Result<Pace, String> {
        positive(text)
            .map(Pace::Rate)
            .ok_or_else(|| format!("{text:?} is no rate; write the records per second, like 1000"))
    }
}

fn positive(text: &str) -> Option<f64> {
    text.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0)
}

/// Says of each record how long to wait before it is sent.
///
/// It goes by the first record, never by the one before: waits that came out too long are made up
/// for, and no error adds up.
#[derive(Clone, Debug)]
pub struct Pacer {
    pace: Pace,
    start: Option<Instant>,
    start_ms: Option<i64>,
    records: u64,
}

impl Pacer {
    /// Begins with the first record.
    pub fn new(pace: Pace) -> Self {
        Pacer { pace, start: None, start_ms: None, records: 0 }
    }

    /// How long to wait from `now` until the next record is due, which happened at `time_ms`. A record
    /// without a time, or one from before the first, is due at once.
    pub fn wait(&mut self, now: Instant, time_ms: Option<i64>) -> Duration {
        let start = *self.start.get_or_insert(now);
        let after_s = match self.pace {
            Pace::Full => return Duration::ZERO,
            Pace::Rate(rate) => self.records as f64 / rate,
            Pace::Speed(speed) => match time_ms {
                None => return Duration::ZERO,
                Some(time_ms) => {
                    let start_ms = *self.start_ms.get_or_insert(time_ms);
                    (time_ms as f64 - start_ms as f64) / 1000.0 / speed
                }
            },
        };
        self.records += 1;
        // What cannot be told as a duration lies centuries ahead or in the past.
        let due = match Duration::try_from_secs_f64(after_s) {
            Ok(after) => after,
            Err(_) if after_s > 0.0 => Duration::MAX,
            Err(_) => Duration::ZERO,
        };
        due.saturating_sub(now.saturating_duration_since(start))
    }
}

/// Reads a record's time, in milliseconds since 1970: RFC 3339, epoch milliseconds, or a date and time
/// without an offset, which is UTC.
pub fn parse_time_ms(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(ms) = text.parse() {
        return Some(ms);
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.as_millisecond());
    }
    let at: DateTime = text.parse().ok()?;
    at.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_the_three_forms() {
        for (text, ms) in [
            ("1970-01-01T00:00:01Z", Some(1000)),
            ("1970-01-01T01:00:00.250+01:00", Some(250)),
            ("1970-01-01 00:00:02", Some(2000)),
            ("2020-11-04 13:28:22.084000", Some(1_604_496_502_084)),
            ("1604496502084", Some(1_604_496_502_084)),
            (" -5 ", Some(-5)),
            ("9999-12-30T00:00:00Z", Some(253_402_128_000_000)),
            ("yesterday", None),
            ("2020-13-01 00:00:00", None),
            ("", None),
        ] {
            assert_eq!(parse_time_ms(text), ms, "{text}");
        }
    }

    #[test]
    fn a_speed_goes_by_the_distance_to_the_first_record() {
        let start = Instant::now();
        let mut pacer = Pacer::new(Pace::Speed(60.0));
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(pacer.wait(start, Some(1_000_000)), Duration::ZERO);
        assert_eq!(pacer.wait(start, Some(1_060_000)), Duration::from_secs(1));
        assert_eq!(pacer.wait(at(1500), Some(1_120_000)), Duration::from_millis(500), "a long wait is made up for");
        assert_eq!(pacer.wait(at(1500), Some(900_000)), Duration::ZERO, "from before the first");
        assert_eq!(pacer.wait(at(1500), None), Duration::ZERO);
        assert_eq!(pacer.wait(at(5000), Some(1_120_000)), Duration::ZERO, "overdue");
        assert!(pacer.wait(at(0), Some(i64::MAX)) > Duration::from_secs(1 << 30));
    }

    #[test]
    fn a_rate_spaces_records_evenly_and_full_speed_never_waits() {
        let start = Instant::now();
        let mut pacer = Pacer::new(Pace::Rate(1000.0));
        let waits: Vec<_> = (0..4).map(|_| pacer.wait(start, None).as_micros()).collect();
        assert_eq!(waits, [0, 1000, 2000, 3000]);
        assert_eq!(Pacer::new(Pace::Full).wait(start, Some(5)), Duration::ZERO);
    }

    #[test]
    fn speeds_and_rates_are_positive_numbers() {
        assert_eq!(Pace::parse_speed("60x"), Ok(Pace::Speed(60.0)));
        assert_eq!(Pace::parse_rate("0.5"), Ok(Pace::Rate(0.5)));
        for bad in ["", "x", "-1x", "0", "inf", "NaN"] {
            assert!(Pace::parse_speed(bad).is_err_and(|e| e.contains("60x")), "{bad}");
            assert!(Pace::parse_rate(bad).is_err(), "{bad}");
        }
    }
}
