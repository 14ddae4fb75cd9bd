//! The lines of a tally as any program may compute them: numbers with all their digits, and the digest.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Subject and group, both as JSON: the canonical text begins with them.
pub type Key = (String, String);

/// By line, the value of each aggregate as its canonical text.
pub type Lines = BTreeMap<Key, Vec<String>>;

/// A number with two places after the point, in hundredths.
pub fn hundredths(units: i128) -> String {
    let (sign, units) = (if units < 0 { "-" } else { "" }, units.unsigned_abs());
    let (whole, rest) = (units / 100, units % 100);
    match (rest, rest % 10) {
        (0, _) => format!("{sign}{whole}"),
        (_, 0) => format!("{sign}{whole}.{}", rest / 10),
        _ => format!("{sign}{whole}.{rest:02}"),
    }
}

/// A number's text in hundredths; `None`: it has more places, or is none.
pub fn parse_hundredths(text: &str) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, rest) = digits.split_once('.').unwrap_or((digits, ""));
    let rest = match rest.len() {
        0 => 0,
        1 => rest.parse::<i128>().ok()? * 10,
        2 => rest.parse().ok()?,
        _ => return None,
    };
    Some(sign * (whole.parse::<i128>().ok()? * 100 + rest))
}

/// A text as JSON writes it.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The digest of lines, as docs/concepts.md has it.
pub fn digest(lines: &Lines) -> String {
    let mut sum = [0u8; 32];
    for ((subject, group), values) in lines {
        let text = format!("[{subject},{group},{}]", values.join(","));
        let mut carry = 0u16;
        for (place, byte) in sum.iter_mut().zip(Sha256::digest(text)).rev() {
            carry += u16::from(*place) + u16::from(byte);
            *place = carry as u8;
            carry >>= 8;
        }
    }
    let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_needless_places() {
        for (units, text) in [(0, "0"), (1250, "12.5"), (-5, "-0.05"), (100, "1"), (-12_345, "-123.45")] {
            assert_eq!(hundredths(units), text);
            assert_eq!(parse_hundredths(text), Some(units));
        }
        assert_eq!(parse_hundredths("1.234"), None);
    }

    #[test]
    fn the_digest_of_no_lines_is_0() {
        assert_eq!(digest(&Lines::new()), format!("sha256:{}", "0".repeat(64)));
    }
}
