//! Writing records quickly: digits and times without the general formatter.

/// The digits of 00 to 99.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + n as u8 / 10, b'0' + n as u8 % 10];
        n += 1;
    }
    pairs
};

/// Appends `n`, with zeros in front up to `width` digits.
pub(super) fn number(out: &mut Vec<u8>, n: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    let mut n = n;
    while n >= 10 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[(n % 100) as usize]);
        n /= 100;
    }
    if n > 0 {
        at -= 1;
        digits[at] = b'0' + n as u8;
    }
    out.extend_from_slice(&digits[at.min(digits.len() - width.clamp(1, 20))..]);
}

/// Appends the last `2 * N` digits of `n`: quicker than [`number`] where their number is known.
pub(super) fn digits<const N: usize>(out: &mut Vec<u8>, n: u64) {
    let mut digits = [[b'0'; 2]; N];
    let mut n = n;
    for pair in digits.iter_mut().rev() {
        *pair = PAIRS[(n % 100) as usize];
        n /= 100;
    }
    out.extend_from_slice(digits.as_flattened());
}

/// Writes times as RFC 3339 with milliseconds, in UTC. Remembers the day: it rarely changes.
#[derive(Default)]
pub(super) struct Clock {
    day: Option<i64>,
    date: Vec<u8>,
}

impl Clock {
    pub(super) fn write(&mut self, out: &mut Vec<u8>, at_ms: i64) {
        const DAY_MS: i64 = 86_400_000;
        let day = at_ms.div_euclid(DAY_MS);
        if self.day != Some(day) {
            // Beyond the years that jiff knows, the last one stands: a simulation does not get there.
            let at = jiff::Timestamp::from_millisecond(at_ms).unwrap_or(jiff::Timestamp::MAX);
            self.date = format!("{}T", at.strftime("%F")).into_bytes();
            self.day = Some(day);
        }
        let ms = at_ms.rem_euclid(DAY_MS) as u32;
        let pair = |n: u32| PAIRS[(n % 100) as usize];
        let ([a, b], [c, d], [e, f]) = (pair(ms / 3_600_000), pair(ms / 60_000 % 60), pair(ms / 1000 % 60));
        let ([_, g], [h, i]) = (pair(ms % 1000 / 100), pair(ms % 100));
        out.extend_from_slice(&self.date);
        out.extend_from_slice(&[a, b, b':', c, d, b':', e, f, b'.', g, h, i, b'Z']);
    }
}

/// Spreads 0..`bound` over itself, each number to another one: what comes one after the other does not
/// look so.
pub(super) struct Spread {
    bound: u64,
    factor: u64,
}

impl Spread {
    pub(super) fn new(bound: u32) -> Self {
        let bound = u64::from(bound.max(1));
        // Near the golden section of the bound, and without a divisor in common with it.
        let mut factor = (bound as f64 * 0.618_033_988) as u64 | 1;
        while gcd(factor, bound) != 1 {
            factor += 1;
        }
        Spread { bound, factor }
    }

    pub(super) fn of(&self, n: u32) -> u64 {
        u64::from(n) * self.factor % self.bound
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
