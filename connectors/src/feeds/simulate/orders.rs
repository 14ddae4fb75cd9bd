//! Orders of the demo's shop, of which some are corrected later.

use super::write::{Clock, number};
use super::{Claims, Dice, Line, Made, SimulateOptions, Zipf};
use tallyflow_dataflows::number::{Decimal, SCALE};

/// How many orders back a correction may reach.
const CORRECTABLE: usize = 16_384;

/// Countries with their regions, the most orders first.
const COUNTRIES: [(&str, &str); 12] = [
    ("US", "Americas"),
    ("DE", "Europe"),
    ("JP", "Asia-Pacific"),
    ("FR", "Europe"),
    ("BR", "Americas"),
    ("IN", "Asia-Pacific"),
    ("GB", "Europe"),
    ("CA", "Americas"),
    ("AU", "Asia-Pacific"),
    ("KE", "Africa"),
    ("NG", "Africa"),
    ("MX", "Americas"),
];
/// Most of the changes only move an order along.
const STATUSES: [&str; 4] = ["placed", "paid", "shipped", "cancelled"];
const CANCELLED: u8 = 3;

#[derive(Clone, Copy)]
struct Order {
    at_ms: i64,
    customer: u32,
    country: u8,
    status: u8,
    cents: u32,
}

pub(super) struct Orders {
    changes: f64,
    customers: u32,
    zipf: Zipf,
    clock: Clock,
    orders: u64,
    /// The newest orders, order n at n modulo the number of places.
    recent: Vec<Order>,
    /// By country: orders, and cents in all.
    sums: [(i64, i64); COUNTRIES.len()],
}

impl Orders {
    pub(super) fn new(options: &SimulateOptions) -> Self {
        Orders {
            changes: options.changes,
            customers: options.authors.max(1),
            zipf: Zipf::new(COUNTRIES.len() as u32, options.zipf),
            clock: Clock::default(),
            orders: 0,
            recent: Vec::new(),
            sums: Default::default(),
        }
    }

    fn count(&mut self, order: Order, by: i64) {
        let (orders, cents) = &mut self.sums[usize::from(order.country)];
        *orders += by;
        *cents += by * i64::from(order.cents);
    }
}

impl Claims for Orders {
    fn next(&mut self, dice: &mut Dice, made: &mut Made) {
        // Most orders are small.
        let cents = 100 + dice.below(20_000) * (1 + dice.below(4)) / 2;
        let (n, order) = if self.orders > 0 && dice.chance(self.changes) {
            let n = self.orders - 1 - u64::from(dice.below(self.recent.len() as u32));
            let before = self.recent[n as usize % CORRECTABLE];
            let mut order = Order { at_ms: made.at_ms.max(before.at_ms + 1), ..before };
            match dice.below(10) {
                0 => (order.status, order.cents) = (CANCELLED, 0),
                1 => order.country = self.zipf.pick(dice) as u8,
                2 | 3 => order.cents = cents,
                _ => order.status = (order.status + 1).min(CANCELLED - 1),
            }
            self.count(before, -1);
            (n, order)
        } else {
            let country = self.zipf.pick(dice) as u8;
            let order = Order { at_ms: made.at_ms, customer: dice.below(self.customers), country, status: 0, cents };
            self.orders += 1;
            (self.orders - 1, order)
        };
        self.count(order, 1);
        match self.recent.get_mut(n as usize % CORRECTABLE) {
            Some(place) => *place = order,
            None => self.recent.push(order),
        }

        made.at_ms = order.at_ms;
        made.key.clear();
        made.key.extend_from_slice(b"o-");
        number(&mut made.key, n, 10);
        let (country, region) = COUNTRIES[usize::from(order.country)];
        let out = &mut made.value;
        out.clear();
        out.extend_from_slice(br#"{"order_id":""#);
        out.extend_from_slice(&made.key);
        out.extend_from_slice(br#"","region":""#);
        out.extend_from_slice(region.as_bytes());
        out.extend_from_slice(br#"","country":""#);
        out.extend_from_slice(country.as_bytes());
        out.extend_from_slice(br#"","customer":"c"#);
        number(out, u64::from(order.customer), 6);
        out.extend_from_slice(br#"","amount":"#);
        number(out, u64::from(order.cents / 100), 1);
        out.push(b'.');
        number(out, u64::from(order.cents % 100), 2);
        out.extend_from_slice(br#","status":""#);
        out.extend_from_slice(STATUSES[usize::from(order.status)].as_bytes());
        out.extend_from_slice(br#"","updated_at":""#);
        self.clock.write(out, made.at_ms);
        out.extend_from_slice(br#""}"#);
    }

    fn counted(&self) -> u64 {
        self.orders
    }

    fn lines(&self) -> Vec<Line> {
        let line = |((country, region), (_, cents)): (&(&str, &str), &(i64, i64))| Line {
            subject: (*region).to_owned(),
            group: (*country).to_owned(),
            value: Decimal::from_units(i128::from(*cents) * (SCALE / 100)),
        };
        COUNTRIES.iter().zip(&self.sums).filter(|(_, (orders, _))| *orders > 0).map(line).collect()
    }
}
