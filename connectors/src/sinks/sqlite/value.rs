//! How exact decimals and times lie in SQLite's columns.

use rusqlite::types::Value;
use tallyflow_dataflows::number::Decimal;

/// A decimal with at most this many significant digits survives the way through a double, and is
/// printed as it was by programs that print 15 digits and by those that print the shortest text that is
/// this double. (SQLite itself did so up to 3.51 and prints 17 digits since.) DBL_DIG of IEEE 754 binary64.
const DOUBLE_DIGITS: usize = 15;

/// INTEGER for whole numbers that fit; REAL where the shortest text of the double is the number; else TEXT
/// with all digits.
pub(super) fn of(value: Option<Decimal>) -> Value {
    let Some(value) = value else { return Value::Null };
    if let Some(whole) = value.to_i64() {
        return Value::Integer(whole);
    }
    let text = value.to_string();
    let digits = text.trim_start_matches(['-', '0', '.']).bytes().filter(u8::is_ascii_digit).count();
    match text.parse::<f64>() {
        Ok(double) if digits <= DOUBLE_DIGITS && double.to_string() == text => Value::Real(double),
        _ => Value::Text(text),
    }
}

/// Every aggregate by its name, with all digits: a JSON object.
pub(super) fn aggregates(names: &[String], values: &[Option<Decimal>]) -> String {
    let member = |(name, value): (&String, &Option<Decimal>)| {
        let value = value.map_or_else(|| "null".to_owned(), |value| value.to_string());
        format!("{}:{value}", serde_json::Value::from(name.as_str()))
    };
    let members: Vec<String> = names.iter().zip(values).map(member).collect();
    format!("{{{}}}", members.join(","))
}

/// RFC 3339 in UTC with milliseconds: it sorts as text, and SQLite's date functions take it.
pub(super) fn time(ms: i64) -> String {
    let (least, greatest) = (jiff::Timestamp::UNIX_EPOCH, jiff::Timestamp::MAX);
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or(greatest).max(least);
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(text: &str) -> Value {
        of(Some(Decimal::parse_json(text).unwrap()))
    }

    #[test]
    fn each_number_takes_the_first_form_that_holds_it() {
        assert_eq!(of(None), Value::Null);
        assert_eq!(value("-12"), Value::Integer(-12));
        assert_eq!(value("9223372036854775807"), Value::Integer(i64::MAX));
        assert_eq!(value("9223372036854775808"), Value::Text("9223372036854775808".into()));
        assert_eq!(value("12.5"), Value::Real(12.5));
        assert_eq!(value("-0.1"), Value::Real(-0.1));
        assert_eq!(value("0.30000000000000004"), Value::Text("0.30000000000000004".into()));
        assert_eq!(value("0.000000000000000001"), Value::Real(1e-18));
        assert_eq!(value("100000000000000000.5"), Value::Text("100000000000000000.5".into()));
    }

    #[test]
    fn aggregates_have_all_their_digits() {
        let values = [Some(Decimal::parse_json("12345678901234567.123456789012345678").unwrap()), None];
        let names = ["sum".to_owned(), "a \"name\"".to_owned()];
        assert_eq!(aggregates(&names, &values), r#"{"sum":12345678901234567.123456789012345678,"a \"name\"":null}"#);
    }

    #[test]
    fn times_sort_as_text() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(1_795_255_445_120), "2026-11-21T10:04:05.120Z");
        assert!(time(999) < time(1000));
        assert!(time(i64::MAX).starts_with("9999-"));
    }

    proptest! {
        #[test]
        fn every_number_comes_back_from_sqlite_as_it_was(units: i64, fewer in 0u32..60, shift in 0u32..20) {
            let decimal = Decimal::from_units(i128::from(units >> fewer) * 10i128.pow(shift));
            let conn = rusqlite::Connection::open_in_memory().unwrap();
            let back: Value = conn.query_row("SELECT ?1", [of(Some(decimal))], |row| row.get(0)).unwrap();
            let printed = match back {
                Value::Integer(whole) => whole.to_string(),
                Value::Real(double) => double.to_string(),
                Value::Text(text) => text,
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(Decimal::parse_json(&printed).unwrap(), decimal);
        }
    }
}
