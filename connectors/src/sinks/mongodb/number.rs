//! How exact decimals lie in documents.

use mongodb::bson::{Decimal128, RawBson};
use tallyflow_dataflows::number::Decimal;

/// The significant digits that a Decimal128 holds (IEEE 754-2008, decimal128).
const DECIMAL128_DIGITS: usize = 34;

/// A 64-bit integer for whole numbers that fit; a Decimal128 where it holds every digit; else a text. Never a
/// wrong digit.
pub(super) fn of(value: Decimal) -> RawBson {
    if let Some(whole) = value.to_i64() {
        return RawBson::Int64(whole);
    }
    let text = value.to_string();
    let digits = text.trim_start_matches(['-', '0', '.']).bytes().filter(u8::is_ascii_digit).count();
    match text.parse::<Decimal128>() {
        Ok(decimal) if digits <= DECIMAL128_DIGITS => RawBson::Decimal128(decimal),
        _ => RawBson::String(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(text: &str) -> RawBson {
        of(Decimal::parse_json(text).unwrap())
    }

    fn text(value: &RawBson) -> String {
        match value {
            RawBson::Int64(whole) => whole.to_string(),
            RawBson::Decimal128(decimal) => decimal.to_string(),
            RawBson::String(text) => text.clone(),
            other => panic!("{other:?} is no number"),
        }
    }

    #[test]
    fn each_number_takes_the_first_form_that_holds_it() {
        assert_eq!(value("-12"), RawBson::Int64(-12));
        assert_eq!(value("9223372036854775807"), RawBson::Int64(i64::MAX));
        assert!(matches!(value("9223372036854775808"), RawBson::Decimal128(_)));
        assert!(matches!(value("0.1"), RawBson::Decimal128(_)));
        // 20 digits before the point and 14 after it, and then one more.
        assert!(matches!(value("12345678901234567890.12345678901234"), RawBson::Decimal128(_)));
        let long = "12345678901234567890.123456789012345";
        assert_eq!(value(long), RawBson::String(long.into()));
    }

    proptest! {
        #[test]
        fn every_number_is_read_back_as_it_was(units: i64, shift in 0u32..20, more in 0i64..1_000_000) {
            let decimal = Decimal::from_units(i128::from(units) * 10i128.pow(shift) + i128::from(more));
            let held = text(&of(decimal));
            // As MongoDB writes it, `1E-18` too.
            prop_assert_eq!(Decimal::parse_json(&held.replace("E+", "E")).unwrap(), decimal);
        }
    }
}
