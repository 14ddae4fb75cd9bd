//! Made-up orders, some of which are corrected later.

use super::Made;
use std::collections::VecDeque;

/// Regions and their countries.
const PLACES: [(&str, &[&str]); 3] = [
    ("emea", &["DE", "FR", "GB", "NG", "PL"]),
    ("amer", &["BR", "CA", "MX", "US"]),
    ("apac", &["AU", "IN", "JP"]),
];

/// Orders that can still be corrected.
const OPEN_MAX: usize = 1_000;

/// An endless run of orders, the same one for the same seed: 1 in 10 records corrects an earlier order
/// (its amount, its region or its status), 1 in 50 is sent twice, 1 in 10 is not paid.
pub struct Orders {
    random: u64,
    made: u64,
    recent: VecDeque<u64>,
    again: Option<Made>,
}

impl Orders {
    pub fn new(seed: u64) -> Self {
        Orders { random: seed, made: 0, recent: VecDeque::new(), again: None }
    }

    /// SplitMix64 (Steele, Lea and Flood 2014): small, and good enough for a demo.
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

impl Iterator for Orders {
    type Item = Made;

    fn next(&mut self) -> Option<Made> {
        if let Some(again) = self.again.take() {
            return Some(again);
        }
        let correction = !self.recent.is_empty() && self.random(10) == 0;
        let number = if correction {
            let at = self.random(self.recent.len() as u64) as usize;
            self.recent[at]
        } else {
            self.made += 1;
            if self.recent.len() == OPEN_MAX {
                self.recent.pop_front();
            }
            self.recent.push_back(self.made);
            self.made
        };
        let (region, countries) = PLACES[self.random(PLACES.len() as u64) as usize];
        let country = countries[self.random(countries.len() as u64) as usize];
        let (euros, cents) = (1 + self.random(500), self.random(100));
        let status = if self.random(10) == 0 { "open" } else { "paid" };
        let updated_at = jiff::Timestamp::now();
        let id = format!("o-{number}");
        let value = format!(
            r#"{{"order_id":"{id}","region":"{region}","country":"{country}","amount":{euros}.{cents:02},"status":"{status}","updated_at":"{updated_at:.3}"}}"#
        );
        let made = (id, value.into_bytes());
        if self.random(50) == 0 {
            self.again = Some(made.clone());
        }
        Some(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_json_and_some_come_again_or_are_corrected() {
        let made: Vec<_> = Orders::new(1).take(2_000).collect();
        let mut ids = std::collections::HashMap::new();
        for (id, value) in &made {
            let order: serde_json::Value = serde_json::from_slice(value).unwrap();
            assert_eq!(order["order_id"], **id);
            assert!(order["amount"].as_f64().unwrap() >= 1.0);
            *ids.entry(id).or_insert(0) += 1;
        }
        assert!(ids.len() > 1_500 && ids.values().any(|n| *n > 1));
        assert!(made.windows(2).any(|pair| pair[0] == pair[1]));
    }
}
