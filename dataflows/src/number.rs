//! Exact decimals: fixed point with 18 places.

use primitive_fixed_point_decimal::{ConstScaleFpdec, ParseError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::fmt;

type Fixed = ConstScaleFpdec<i128, 18>;

/// Units of a [`Decimal`] in one.
pub const SCALE: i128 = 1_000_000_000_000_000_000;

/// A decimal with 18 places after the point and about 20 before it (|d| < 1.7 * 10^20).
///
/// In JSON it is a number with all its digits; read and written through `serde_json` only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal(Fixed);

/// Why a text is no [`Decimal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    #[error("is no number")]
    Syntax,
    #[error("has more than 18 digits after the point")]
    Precision,
    #[error("is beyond the fixed point (about 1.7e20)")]
    Range,
}

impl Decimal {
    /// One.
    pub const ONE: Decimal = Decimal(Fixed::from_mantissa(SCALE));
    /// Zero.
    pub const ZERO: Decimal = Decimal(Fixed::from_mantissa(0));

    /// From units of 10^-18.
    pub const fn from_units(units: i128) -> Self {
        Decimal(Fixed::from_mantissa(units))
    }

    /// In units of 10^-18.
    pub const fn units(self) -> i128 {
        self.0.mantissa()
    }

    /// From a whole number.
    pub const fn from_int(n: i64) -> Self {
        Decimal::from_units(n as i128 * SCALE)
    }

    /// The value as a double, for drawing; not exact.
    pub fn to_f64(self) -> f64 {
        self.units() as f64 / SCALE as f64
    }

    /// Whether nothing stands after the point; if so, and it fits, the whole number.
    pub fn to_i64(self) -> Option<i64> {
        (self.units() % SCALE == 0).then(|| i64::try_from(self.units() / SCALE).ok()).flatten()
    }

    /// The negative; `None` for the one value that has none.
    pub fn checked_neg(self) -> Option<Self> {
        self.units().checked_neg().map(Decimal::from_units)
    }

    /// Reads a JSON number exactly, also with an exponent. More than 18 places after the point that
    /// are not zero are an error, never rounded.
    pub fn parse_json(text: &str) -> Result<Self, DecimalError> {
        // The common case, a short whole number, without the general parser.
        let bytes = text.as_bytes();
        let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
        if (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) {
            let n = digits.iter().fold(0i64, |n, d| n * 10 + i64::from(d - b'0'));
            return Ok(Decimal::from_int(if bytes[0] == b'-' { -n } else { n }));
        }
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            None => (text, 0),
            Some(at) => {
                let exponent = &text[at + 1..];
                (&text[..at], exponent.parse::<i64>().map_err(|_| DecimalError::Range)?)
            }
        };
        let negative = mantissa.starts_with('-');
        let unsigned = mantissa.strip_prefix('-').unwrap_or(mantissa);
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        if whole.is_empty() && fraction.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit())
        {
            return Err(DecimalError::Syntax);
        }
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_start_matches('0').trim_end_matches('0');
        if significant.is_empty() {
            return Ok(Decimal::ZERO);
        }
        // The value is digits * 10^(exponent - places); move the point where it belongs.
        let trailing = digits.len() - digits.trim_end_matches('0').len();
        let power = exponent.saturating_sub(fraction.len() as i64).saturating_add(trailing as i64);
        if power < -18 {
            return Err(DecimalError::Precision);
        }
        if power > 20 || significant.len() as i64 + power > 21 {
            return Err(DecimalError::Range);
        }
        let shifted = if power >= 0 {
            format!("{significant}{}", "0".repeat(power as usize))
        } else {
            let places = (-power) as usize;
            let padded = format!("{significant:0>width$}", width = places + 1);
            let (whole, fraction) = padded.split_at(padded.len() - places);
            format!("{whole}.{fraction}")
        };
        let value: Fixed = shifted.parse().map_err(|e| match e {
            ParseError::Overflow => DecimalError::Range,
            ParseError::Precision => DecimalError::Precision,
            _ => DecimalError::Syntax,
        })?;
        let value = Decimal(value);
        if negative { value.checked_neg().ok_or(DecimalError::Range) } else { Ok(value) }
    }
}

impl fmt::Display for Decimal {
    /// All its digits, without trailing zeros after the point: the form in answers and digests.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            RawValue::from_string(self.to_string()).map_err(serde::ser::Error::custom)?.serialize(serializer)
        } else {
            self.units().serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let raw = Box::<RawValue>::deserialize(deserializer)?;
            Decimal::parse_json(raw.get()).map_err(serde::de::Error::custom)
        } else {
            i128::deserialize(deserializer).map(Decimal::from_units)
        }
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Decimal {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        f64::schema()
    }
}
#[cfg(feature = "schema")]
impl utoipa::ToSchema for Decimal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_every_digit_as_written() {
        for (text, written) in [
            ("0", "0"),
            ("-0", "0"),
            ("12", "12"),
            ("-12.50", "-12.5"),
            ("51.846000000000004", "51.846000000000004"),
            ("1e3", "1000"),
            ("1.25E-2", "0.0125"),
            ("0.000000000000000001", "0.000000000000000001"),
            ("100000000000000000000", "100000000000000000000"),
            ("1.0000000000000000000000", "1"),
            ("0e999999", "0"),
            ("1234567890123456789", "1234567890123456789"),
        ] {
            assert_eq!(Decimal::parse_json(text).unwrap().to_string(), written, "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error_and_never_rounded() {
        assert_eq!(Decimal::parse_json("0.0000000000000000001"), Err(DecimalError::Precision));
        assert_eq!(Decimal::parse_json("1e21"), Err(DecimalError::Range));
        assert_eq!(Decimal::parse_json("1e-999999999999999999999"), Err(DecimalError::Range));
        assert_eq!(Decimal::parse_json("200000000000000000000"), Err(DecimalError::Range));
        assert_eq!(Decimal::parse_json("abc"), Err(DecimalError::Syntax));
    }

    #[test]
    fn json_carries_all_digits_both_ways() {
        let d = Decimal::parse_json("12345678901234567.123456789012345678").unwrap();
        let json = serde_json::to_string(&d).unwrap();
        assert_eq!(json, "12345678901234567.123456789012345678");
        assert_eq!(serde_json::from_str::<Decimal>(&json).unwrap(), d);
    }
}
