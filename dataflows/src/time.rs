//! Times as records write them.

use crate::decode::Value;

const NS_PER_MS: i64 = 1_000_000;
const NS_PER_SECOND: i64 = 1_000_000_000;

/// Nanoseconds since 1970-01-01T00:00:00Z of a time in a record: RFC 3339 text, epoch milliseconds as a
/// whole JSON number, or the text of a date and time without an offset, which is taken as UTC. The
/// error completes a sentence that begins with the field's name.
pub fn parse_time(value: &Value<'_>) -> Result<i64, String> {
    match value {
        Value::Text(text) => parse_time_text(text),
        Value::Number(text) => match text.parse::<i64>() {
            Ok(ms) => ms.checked_mul(NS_PER_MS).ok_or_else(|| out_of_range(text)),
            Err(_) if text.bytes().all(|b| b.is_ascii_digit() || b == b'-') => Err(out_of_range(text)),
            Err(_) => Err(format!("is no time: {} is no whole number of milliseconds", shown(text))),
        },
        Value::Null => Err("is null, not a time".into()),
        Value::Bool(_) => Err("is no time but true or false".into()),
        Value::Array(_) => Err("is no time but an array".into()),
        Value::Object(_) => Err("is no time but an object".into()),
    }
}

/// As [`parse_time`], of the text alone.
pub fn parse_time_text(text: &str) -> Result<i64, String> {
    match parse_utc(text.as_bytes()) {
        Some(ns) => Ok(ns),
        None => parse_any(text),
    }
}

/// The layout nearly all records use, `YYYY-MM-DDTHH:MM:SS[.f]Z`, without the general parser: this is
/// on the way of every record that names an order. `None` is no verdict, the general parser decides.
fn parse_utc(bytes: &[u8]) -> Option<i64> {
    let (head, tail) = bytes.split_at_checked(19)?;
    if head[4] != b'-' || head[7] != b'-' || head[10] != b'T' || head[13] != b':' || head[16] != b':' {
        return None;
    }
    let year = digits(&head[0..4])?;
    let month = digits(&head[5..7])?;
    let day = digits(&head[8..10])?;
    let (hour, minute, second) = (digits(&head[11..13])?, digits(&head[14..16])?, digits(&head[17..19])?);
    // The years that fit wholly into 64 bits of nanoseconds; a leap second goes to the general parser.
    if !(1678..=2261).contains(&year) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    let fraction = match tail {
        [b'Z'] => 0,
        [b'.', places @ .., b'Z'] if (1..=9).contains(&places.len()) => {
            digits(places)? * 10i64.pow(9 - places.len() as u32)
        }
        _ => return None,
    };
    let seconds = days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(seconds * NS_PER_SECOND + fraction)
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar, for years from 1: whole years counted from a first
/// of March, so that the leap day is a year's last (the known "days from civil" reckoning).
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    // 719,468 days lie between 0000-03-01 and 1970-01-01; (153 m + 2) / 5 is the days before month m.
    year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468
}

fn parse_any(text: &str) -> Result<i64, String> {
    let no_time = || format!("is no time: {} is not like 2026-11-21T10:00:00Z", shown(text));
    // jiff reads more than RFC 3339 (week dates, a date alone, zone names); only this shape is a time.
    let bytes = text.as_bytes();
    let shape = b"0000-00-00T00:00:00";
    let shaped = bytes.len() >= shape.len()
        && shape.iter().zip(bytes).all(|(want, b)| match want {
            b'0' => b.is_ascii_digit(),
            b'T' => matches!(b, b'T' | b't' | b' '),
            want => b == want,
        })
        && !text.contains('[');
    if !shaped {
        return Err(no_time());
    }
    let after = text[shape.len()..].trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let timestamp = if after.is_empty() {
        text.parse::<jiff::civil::DateTime>().ok().map(|t| t.to_zoned(jiff::tz::TimeZone::UTC).map(|z| z.timestamp()))
    } else {
        text.parse::<jiff::Timestamp>().ok().map(Ok)
    };
    match timestamp {
        Some(Ok(t)) => i64::try_from(t.as_nanosecond()).map_err(|_| out_of_range(text)),
        // The very last hours of year 9999 are no timestamp to jiff.
        Some(Err(_)) => Err(out_of_range(text)),
        None if bytes.starts_with(b"9999-12-3") => Err(out_of_range(text)),
        None => Err(no_time()),
    }
}

fn out_of_range(text: &str) -> String {
    format!("lies outside the years 1678 to 2261: {}", shown(text))
}

/// The text as an error shows it: hostile records must not fill the dead letters' reasons.
fn shown(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("{:?}...", &text[..at]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::borrow::Cow;

    fn text(t: &str) -> Result<i64, String> {
        parse_time(&Value::Text(Cow::Borrowed(t)))
    }

    fn number(t: &str) -> Result<i64, String> {
        parse_time(&Value::Number(Cow::Borrowed(t)))
    }

    #[test]
    fn times_are_rfc_3339_or_epoch_milliseconds() {
        assert_eq!(text("1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(text("2014-02-14T14:27:00Z"), Ok(1_392_388_020_000_000_000));
        assert_eq!(text("2014-02-14T14:27:00.25Z"), Ok(1_392_388_020_250_000_000));
        assert_eq!(text("2014-02-14T15:27:00+01:00"), Ok(1_392_388_020_000_000_000));
        assert_eq!(text("2014-02-14t14:27:00z"), Ok(1_392_388_020_000_000_000));
        assert_eq!(number("1392388020000"), Ok(1_392_388_020_000_000_000));
        assert_eq!(number("-1"), Ok(-1_000_000));
    }

    #[test]
    fn a_date_and_time_without_an_offset_is_utc() {
        for t in ["2014-02-14 14:27:00", "2014-02-14T14:27:00", "2014-02-14 14:27:00.000"] {
            assert_eq!(text(t), Ok(1_392_388_020_000_000_000), "{t}");
        }
    }

    #[test]
    fn a_year_beyond_the_clock_is_an_error_that_says_so() {
        for t in ["9999-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "9999-12-31 23:59:59", "1600-01-01T00:00:00Z"] {
            assert!(text(t).unwrap_err().contains("outside the years"), "{t}");
        }
        for t in ["253370764800000", "99999999999999999999999"] {
            assert!(number(t).unwrap_err().contains("outside the years"), "{t}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for t in [
            "",
            "yesterday",
            "2014-02-14",
            "2014-02-30T00:00:00Z",
            "2014-13-01T00:00:00Z",
            "2014-02-14T24:00:00Z",
            "2014-02-14 14:27:00[Europe/Paris]",
            "1392388020000",
            "2014-02-14T14:27:00.Z",
            "２014-02-14T14:27:00Z",
        ] {
            assert!(text(t).unwrap_err().contains("is no time"), "{t}");
        }
        assert!(number("1.5").is_err());
        assert!(number("1e3").is_err());
        assert!(parse_time(&Value::Bool(true)).is_err());
        assert!(text(&"9".repeat(100_000)).unwrap_err().len() < 200);
    }

    proptest! {
        #[test]
        fn the_quick_way_agrees_with_jiff(
            year in 1600i64..2300, month in 0i64..14, day in 0i64..33, hour in 0i64..25, minute in 0i64..61,
            second in 0i64..60, places in 0usize..11, fraction in 0u64..100_000_000_000,
        ) {
            let mut t = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
            if places > 0 {
                t.push('.');
                t.push_str(&format!("{fraction:011}")[..places]);
            }
            t.push('Z');
            let jiff = t.parse::<jiff::Timestamp>().ok().and_then(|t| i64::try_from(t.as_nanosecond()).ok());
            if let Some(quick) = parse_utc(t.as_bytes()) {
                prop_assert_eq!(Some(quick), jiff);
            }
            prop_assert_eq!(text(&t).ok(), jiff);
        }

        #[test]
        fn any_text_gets_an_answer(t in ".*") {
            let _ = text(&t);
        }
    }
}
