//! Times as a person gives them: a moment, or a span from now.

use crate::cli::args::duration;
use tallyflow_dataflows::time::parse_time_text;

/// A moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// As it was given.
    At(String),
    /// In ms from now.
    FromNow(i64),
}

impl When {
    /// Reads `now`, `-10m`, `+1h`, `2026-11-21T10:00:00Z` or epoch milliseconds.
    pub fn parse(text: &str) -> Result<When, String> {
        let wrong = || "write a time like 2026-11-21T10:00:00Z, now, -10m or +1h".to_owned();
        let span = |text: &str| {
            let ms = duration(text).ok().and_then(|span| i64::try_from(span.as_millis()).ok());
            ms.ok_or_else(wrong)
        };
        if text == "now" {
            return Ok(When::FromNow(0));
        }
        if let Some(text) = text.strip_prefix('+') {
            return span(text).map(When::FromNow);
        }
        // A year before 0 is no time of ours, so what begins with a minus is a span.
        if let Some(text) = text.strip_prefix('-') {
            return span(text).map(|ms| When::FromNow(-ms));
        }
        if let Ok(ms) = text.parse::<i64>() {
            return jiff::Timestamp::from_millisecond(ms).map(|time| When::At(time.to_string())).map_err(|_| wrong());
        }
        parse_time_text(text).map(|_| When::At(text.to_owned())).map_err(|_| wrong())
    }

    /// RFC 3339.
    pub fn text(&self, now_ms: i64) -> String {
        match self {
            When::At(text) => text.clone(),
            // What lies beyond the calendar is told by the server.
            When::FromNow(ms) => jiff::Timestamp::from_millisecond(now_ms.saturating_add(*ms))
                .map_or_else(|_| "beyond the year 9999".to_owned(), |time| time.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_moment_or_a_span_from_now() {
        let text = |text: &str| When::parse(text).unwrap().text(1_795_255_200_000);
        assert_eq!(text("-10m"), "2026-11-21T09:50:00Z");
        assert_eq!((text("+1h"), text("now")), ("2026-11-21T11:00:00Z".into(), "2026-11-21T10:00:00Z".into()));
        assert_eq!(text("1795255200000"), "2026-11-21T10:00:00Z");
        assert_eq!(text("2026-11-21 10:00:00"), "2026-11-21 10:00:00");
        for bad in ["", "soon", "10m", "-", "+", "-10", "--10m", "+99999999999999999999s"] {
            assert!(When::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(text(&format!("+{}h", i64::MAX / 3_600_000)), "beyond the year 9999");
    }
}
