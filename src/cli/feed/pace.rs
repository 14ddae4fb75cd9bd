//! When each record is due.

use std::time::Duration;

/// How fast records go out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as it goes.
    Free,
    /// So many a second.
    Rate(u64),
    /// So many times as fast as the records' own times.
    Speed(f64),
}

/// Tells when records are due, counted from the first.
#[derive(Debug)]
pub struct Pacer {
    pace: Pace,
    records: u64,
    first_ms: Option<i64>,
    /// Times may fall from record to record; what is due never does.
    due: Duration,
}

impl Pacer {
    pub fn new(pace: Pace) -> Self {
        Pacer { pace, records: 0, first_ms: None, due: Duration::ZERO }
    }

    /// When the next record is due. `time_ms` is its own time, needed for [`Pace::Speed`] only; a record
    /// without one goes with the record before.
    pub fn due(&mut self, time_ms: Option<i64>) -> Duration {
        match self.pace {
            Pace::Free => {}
            Pace::Rate(rate) => self.due = Duration::from_secs_f64(self.records as f64 / rate as f64),
            Pace::Speed(factor) => {
                if let Some(time_ms) = time_ms {
                    let first_ms = *self.first_ms.get_or_insert(time_ms);
                    let since_ms = time_ms.saturating_sub(first_ms).max(0);
                    let due = Duration::try_from_secs_f64(since_ms as f64 / 1_000.0 / factor);
                    self.due = self.due.max(due.unwrap_or(Duration::MAX));
                }
            }
        }
        self.records += 1;
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_spaces_records_evenly() {
        let mut pacer = Pacer::new(Pace::Rate(1_000));
        let due: Vec<_> = (0..3).map(|_| pacer.due(None)).collect();
        assert_eq!(due, [0, 1, 2].map(Duration::from_millis));
    }

    #[test]
    fn speed_goes_by_the_records_time_and_never_backwards() {
        let mut pacer = Pacer::new(Pace::Speed(60.0));
        assert_eq!(pacer.due(Some(1_000_000)), Duration::ZERO);
        assert_eq!(pacer.due(Some(1_060_000)), Duration::from_secs(1));
        assert_eq!(pacer.due(Some(1_030_000)), Duration::from_secs(1));
        assert_eq!(pacer.due(None), Duration::from_secs(1));
        assert_eq!(pacer.due(Some(1_120_000)), Duration::from_secs(2));
    }

    #[test]
    fn without_a_pace_all_is_due_at_once() {
        let mut pacer = Pacer::new(Pace::Free);
        assert!((0..3).all(|n| pacer.due(Some(n)) == Duration::ZERO));
    }
}
