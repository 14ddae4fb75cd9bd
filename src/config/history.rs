//! `history.keep`: how many points of the past are kept, and how long.

use std::time::Duration;
use tallyflow_connectors::history::{STEPS_MAX, Step};

/// The greatest age.
const AGE_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);
/// The most points that a job may come to.
const POINTS_MAX: u128 = 1_000_000;

/// Reads `1s for 1h, 10s for 1d`; nothing in it keeps nothing. The error completes a sentence that begins
/// with the place.
pub fn steps(text: &str) -> Result<Vec<Step>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let wrong = |part: &str| {
        format!("{:?} is no step for an age; write it like \"1s for 1h, 10s for 1d, 1m for 30d\"", part.trim())
    };
    let mut steps: Vec<Step> = Vec::new();
    for part in text.split(',') {
        let (step, age) = part.split_once(" for ").ok_or_else(|| wrong(part))?;
        let (step, age) = span(step).zip(span(age)).ok_or_else(|| wrong(part))?;
        if steps.last().is_some_and(|last| step <= last.step || age <= last.age) {
            return Err(format!(
                "{:?} does not rise: steps and ages must each be greater than those before",
                part.trim()
            ));
        }
        if step > age || age > AGE_MAX {
            return Err(format!("{:?} can't be: an age is at least its step and at most ten years", part.trim()));
        }
        steps.push(Step { step, age });
    }
    if steps.len() > STEPS_MAX {
        return Err(format!("{} steps are too many; at most {STEPS_MAX}", steps.len()));
    }
    let points: u128 = steps.iter().map(|step| step.age.as_millis() / step.step.as_millis().max(1)).sum();
    if points > POINTS_MAX {
        return Err(format!("that may come to {points} points of a job; at most {POINTS_MAX}, so choose longer steps"));
    }
    Ok(steps)
}

/// `10s`, `5m`, `1h` or `30d`; not 0.
fn span(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let unit_s = match &text[digits..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(unit_s).filter(|s| *s > 0).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_rise_and_are_bounded() {
        let seconds = Duration::from_secs;
        let step = |step, age| Step { step: seconds(step), age: seconds(age) };
        assert_eq!(
            steps("1s for 1h, 10s for 1d,1m for 30d").unwrap(),
            [step(1, 3_600), step(10, 86_400), step(60, 2_592_000)]
        );
        assert_eq!(steps(" ").unwrap(), []);
        for bad in [
            "1s",
            "1s for",
            "1 for 1h",
            "0s for 1h",
            "1s for 1h,",
            "1s for 1h 10s for 1d",
            "-1s for 1h",
            "1s for 1y",
            "10s for 1h, 1s for 1d",
            "1s for 1d, 10s for 1h",
            "2h for 1h",
            "1d for 20000d",
            "1s for 30d",
            "1s for 99999999999999999999d",
        ] {
            assert!(steps(bad).is_err(), "{bad}");
        }
        let nine: Vec<String> = (1..=9).map(|n| format!("{n}s for {n}h")).collect();
        assert!(steps(&nine.join(",")).unwrap_err().contains("9 steps"));
    }
}
