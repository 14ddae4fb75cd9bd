//! The jobs of the dataflow `tally`.

use super::lines::{Lines, hundredths, parse_hundredths, quoted};
use super::{Accounting, Event, Folded, OrderKey, Partition, Void, before};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The job files that the fold knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// `keep = "last"` by order: sums, counts, extremes, different customers by region and country.
    Orders,
    /// The same by region, country and kind.
    OrdersByKind,
    /// The same of one kind only.
    OrdersOfTheWeb,
    /// `keep = "first-n"`: the first three orders of each customer.
    Firsts,
    /// Both sides of each transfer.
    Bank,
}

/// What one event adds to one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Addition {
    subject: String,
    group: String,
    units: i128,
    customer: Option<String>,
}

/// What an event says for its entity.
struct Claim {
    entity: Option<String>,
    key: OrderKey,
    adds: Vec<Addition>,
}

enum Said {
    Rejected,
    Irrelevant,
    Claim(Claim),
}

impl Form {
    /// Its topic, and the field that names its entity.
    fn reads(self) -> (&'static str, Option<&'static str>) {
        match self {
            Form::Orders | Form::OrdersByKind | Form::OrdersOfTheWeb => ("orders", Some("order")),
            Form::Firsts => ("orders", Some("customer")),
            Form::Bank => ("transfers", None),
        }
    }
}

/// What a job comes to at these offsets, with these voids.
pub fn tally(form: Form, partitions: &[Partition], offsets: &[u64], voids: &[&Void]) -> Folded {
    let (topic, entity) = form.reads();
    let mut accounting = Accounting::default();
    let mut claims: BTreeMap<Option<String>, Vec<Claim>> = BTreeMap::new();
    for (partition, offset, event) in before(partitions, offsets) {
        accounting.read += 1;
        match said(form, partition, offset, event) {
            Said::Rejected => accounting.rejected += 1,
            Said::Irrelevant => accounting.irrelevant += 1,
            Said::Claim(claim) => {
                accounting.matched += 1;
                accounting.claims += 1;
                let Some(event) = event else { continue };
                let of: Vec<&Value> = entity.iter().map(|field| &event[*field]).collect();
                if voids.iter().any(|void| void.reaches(topic, partition, offset, event, &of)) {
                    accounting.voided += 1;
                    continue;
                }
                claims.entry(claim.entity.clone()).or_default().push(claim);
            }
        }
    }
    let standing: Vec<Claim> = claims.into_values().flat_map(|claims| kept(form, claims)).collect();
    accounting.counted = standing.len() as u64;
    Folded { lines: lines(form, &standing), accounting }
}

fn said(form: Form, partition: u32, offset: u64, event: &Event) -> Said {
    let Some(event) = event else { return Said::Rejected };
    let text = |name: &str| event[name].as_str().map(str::to_owned);
    let Some(at) = event["at"].as_u64() else { return Said::Rejected };
    let key = (at, 0, partition, offset);
    let units = event["amount"].to_string();
    let Some(units) = parse_hundredths(&units) else { return Said::Rejected };
    if form == Form::Bank {
        let side = |name: &str, units| {
            text(name).map(|group| Addition { subject: quoted("bank"), group: quoted(&group), units, customer: None })
        };
        return match (side("from", -units), side("to", units)) {
            (Some(from), Some(to)) => Said::Claim(Claim { entity: None, key, adds: vec![from, to] }),
            _ => Said::Rejected,
        };
    }
    if form == Form::OrdersOfTheWeb && event["kind"] != "web" {
        return Said::Irrelevant;
    }
    let (Some(region), Some(order), Some(customer), Some(kind)) =
        (text("region"), text("order"), text("customer"), text("kind"))
    else {
        return Said::Rejected;
    };
    let group = match (&event["country"], form) {
        (Value::String(country), Form::OrdersByKind) => Some(format!("[{},{}]", quoted(country), quoted(&kind))),
        (Value::String(country), _) => Some(quoted(country)),
        _ => None,
    };
    let entity = if form == Form::Firsts { customer.clone() } else { order };
    let customer = (form != Form::Firsts).then_some(customer);
    let adds = group.map(|group| Addition { subject: quoted(&region), group, units, customer });
    match adds {
        // Under the other rules a group that is null concerns nothing.
        None if form == Form::Firsts => Said::Irrelevant,
        adds => Said::Claim(Claim { entity: Some(entity), key, adds: adds.into_iter().collect() }),
    }
}

/// What stands of an entity's claims.
fn kept(form: Form, mut claims: Vec<Claim>) -> Vec<Claim> {
    claims.sort_by_key(|claim| claim.key);
    match form {
        Form::Bank => claims,
        Form::Firsts => {
            // Equal ones take one place, that of the first.
            let mut seen = BTreeSet::new();
            claims.retain(|claim| seen.insert((claim.key.0, claim.adds.clone())));
            claims.truncate(3);
            claims
        }
        _ => claims.pop().into_iter().collect(),
    }
}

fn lines(form: Form, standing: &[Claim]) -> Lines {
    let mut by_line: BTreeMap<(String, String), Vec<(OrderKey, &Addition)>> = BTreeMap::new();
    for claim in standing {
        for adds in &claim.adds {
            by_line.entry((adds.subject.clone(), adds.group.clone())).or_default().push((claim.key, adds));
        }
    }
    let values = |mut adds: Vec<(OrderKey, &Addition)>| {
        adds.sort_by_key(|(key, _)| *key);
        let units = || adds.iter().map(|(_, adds)| adds.units);
        let number = |units: Option<i128>| hundredths(units.unwrap_or_default());
        let sum = number(Some(units().sum()));
        match form {
            Form::Bank => vec![sum],
            Form::Firsts => vec![adds.len().to_string(), sum],
            _ => {
                let customers: BTreeSet<_> = adds.iter().map(|(_, adds)| &adds.customer).collect();
                vec![
                    sum,
                    adds.len().to_string(),
                    number(units().min()),
                    number(units().max()),
                    number(units().next_back()),
                    customers.len().to_string(),
                ]
            }
        }
    };
    by_line.into_iter().map(|(line, adds)| (line, values(adds))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn order(order: &str, at: u64, country: Option<&str>, amount: f64) -> Event {
        let event = json!({"order": order, "customer": "c", "region": "north", "country": country, "kind": "web",
            "amount": amount, "at": at});
        Some(event)
    }

    #[test]
    fn the_last_claim_of_an_order_and_the_first_three_of_a_customer_stand() {
        let partitions = [
            vec![order("a", 2, Some("NO"), 1.5), order("a", 1, Some("ES"), 9.0), None],
            // The same again, and one that is taken back.
            vec![order("a", 2, Some("NO"), 1.5), order("b", 3, Some("NO"), 2.0), order("b", 4, None, 2.0)],
        ];
        let partitions = partitions.map(|events| (0..).zip(events).collect::<Partition>());
        let line = |group: &str| (quoted("north"), quoted(group));
        let orders = tally(Form::Orders, &partitions, &[3, 3], &[]);
        let values = ["1.5", "1", "1.5", "1.5", "1.5", "1"].map(str::to_owned).to_vec();
        assert_eq!(orders.lines, Lines::from([(line("NO"), values)]));
        let accounting =
            Accounting { read: 6, rejected: 1, irrelevant: 0, matched: 5, claims: 5, counted: 2, voided: 0 };
        assert_eq!(orders.accounting, accounting);
        let firsts = tally(Form::Firsts, &partitions, &[3, 3], &[]);
        let two = |values: [&str; 2]| values.map(str::to_owned).to_vec();
        assert_eq!(firsts.lines, Lines::from([(line("ES"), two(["1", "9"])), (line("NO"), two(["2", "3.5"]))]));
        let accounting =
            Accounting { read: 6, rejected: 1, irrelevant: 1, matched: 4, claims: 4, counted: 3, voided: 0 };
        assert_eq!(firsts.accounting, accounting);
        // Before the second partition was read.
        assert_eq!(
            tally(Form::Firsts, &partitions, &[1, 0], &[]).lines,
            Lines::from([(line("NO"), two(["1", "1.5"]))])
        );
    }
}
