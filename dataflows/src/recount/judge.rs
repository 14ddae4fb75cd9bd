//! What a record says: nothing that can be read, nothing that concerns the job, or a claim.

use super::text_bytes;
use super::voids::Voids;
use crate::decode::{Decoded, Decoder, Event, Formats, Needs, Value};
use crate::filter::Filter;
use crate::number::Decimal;
use crate::pointer::Pointer;
use crate::record::RecordRef;
use crate::spec::{Aggregate, FAN_OUT_MAX, JobSpec, Keep, TallySpec};
use crate::time::parse_time;
use std::collections::BTreeSet;

/// Time in nanoseconds, the input's place in the job file, partition, offset. The greater is later.
pub(super) type Order = (i128, usize, u32, u64);

/// All that one event says for its entity.
#[derive(Debug)]
pub(super) struct Claim {
    pub subject: String,
    /// Empty where every event counts.
    pub entity: Vec<String>,
    pub order: Order,
    /// The id by which the format tells duplicates.
    pub id: Option<String>,
    /// Where the job names one.
    pub event_time: Option<i128>,
    /// Empty: a withdrawal.
    pub contributions: Vec<Contribution>,
    /// By `distinct` of the job file, the event's value with its type.
    pub distinct: Vec<String>,
    /// The void that reaches its record: it contends with no other claim.
    pub voided: Option<u64>,
}

/// What an event adds to one line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Contribution {
    /// The place of its `[[tally.entry]]`.
    pub entry: usize,
    pub group: String,
    pub value: Decimal,
}

/// What claims of one entity contend for: those with equal keys take one place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Id(String),
    /// Event time and all that it adds.
    Content(Option<i128>, String, Vec<Contribution>, Vec<String>),
}

impl Claim {
    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        let entity = self.entity.iter().map(|part| text_bytes(part) + size_of::<String>());
        let added = self.contributions.iter().map(|c| text_bytes(&c.group) + size_of::<Contribution>());
        let distinct = self.distinct.iter().map(|value| text_bytes(value) + size_of::<String>());
        let texts = text_bytes(&self.subject) + self.id.as_deref().map_or(0, text_bytes);
        size_of::<Claim>() + texts + entity.chain(added).chain(distinct).sum::<usize>()
    }

    /// What tells this claim from a duplicate of it.
    pub fn key(&self) -> Key {
        match &self.id {
            Some(id) => Key::Id(id.clone()),
            None => {
                Key::Content(self.event_time, self.subject.clone(), self.contributions.clone(), self.distinct.clone())
            }
        }
    }
}

/// The verdict on a record.
pub(super) enum Judgement {
    Rejected(String),
    /// The reason in a few words.
    Irrelevant(&'static str),
    /// Irrelevant, and the newest word of its message yet: nothing that it said before stands.
    Replaces {
        entity: Vec<String>,
        order: Order,
        /// Why it is irrelevant, in a few words.
        reason: &'static str,
    },
    Claim(Claim),
}

/// Reads claims out of records.
pub(super) struct Judge {
    job: String,
    keep: Keep,
    inputs: Vec<Input>,
    /// A checked job's expression compiles; where it does not, every record is rejected for it.
    filter: Option<Result<Filter, String>>,
    negate: Vec<bool>,
    ahead_ns: i128,
    /// Whether the entity is a message.
    messages: bool,
}

struct Input {
    decoder: Box<dyn Decoder>,
    subject: Vec<Named>,
    entity: Vec<Named>,
    order: Option<Named>,
    id: Option<Named>,
    /// By entry, the group's parts and the value.
    entries: Vec<(Vec<Named>, Option<Named>)>,
    distinct: Vec<Named>,
    filter: Vec<usize>,
    voids: Voids,
}

/// A slot and what a rejection calls it.
pub(super) struct Named {
    pub slot: usize,
    pub name: String,
}

/// What one entry of an event comes to.
enum Groups {
    /// Every group of it has a null part.
    Withdrawn,
    /// An array of it is empty.
    Empty,
    Of(BTreeSet<String>),
}

impl Judge {
    pub fn new(job: &JobSpec, tally: &TallySpec, formats: &dyn Formats) -> Judge {
        let keeping = job.keeping(formats);
        let filter = tally.filter.as_deref().map(Filter::compile);
        let inputs = job.inputs.iter().zip(&keeping.entities).enumerate().map(|(number, (input, entity))| {
            let mut needs = Needs::default();
            let mut named = |what: &str, p: &Pointer| Named { slot: needs.slot(p), name: format!("{what} {p}") };
            let subject = tally.subject.iter().map(|p| named("subject", p)).collect();
            let entity = entity.iter().map(|p| named("entity", p)).collect();
            let order = tally.order.as_ref().map(|p| named("order", p));
            // Only under `first-n` does it matter to the tally which claims are duplicates.
            let id = formats.find(&input.format).and_then(|f| f.claim_id);
            let id = id.filter(|_| matches!(keeping.keep, Keep::FirstN(_))).and_then(|p| Pointer::parse(p).ok());
            let id = id.map(|p| named("id", &p));
            let entries = tally.entries.iter().map(|e| {
                let group = e.group.iter().map(|p| named("group", p)).collect();
                (group, e.value.as_ref().map(|v| named("value", &v.pointer)))
            });
            let entries = entries.collect();
            let distinct = tally.aggregates.iter().filter_map(|a| match a {
                Aggregate::Distinct(p) => Some(named("distinct", p)),
                _ => None,
            });
            let distinct = distinct.collect();
            let pointers = filter.as_ref().and_then(|f| f.as_ref().ok()).map(Filter::pointers).unwrap_or_default();
            let filter = pointers.iter().map(|p| needs.slot(p)).collect();
            let voids = Voids::new(job, number, &mut needs);
            let decoder = formats.decoder(&input.format, &needs);
            Input { decoder, subject, entity, order, id, entries, distinct, filter, voids }
        });
        Judge {
            job: job.name.clone(),
            keep: keeping.keep,
            inputs: inputs.collect(),
            filter,
            negate: tally.entries.iter().map(|e| e.value.as_ref().is_some_and(|v| v.negate)).collect(),
            ahead_ns: i128::try_from(tally.ahead.as_nanos()).unwrap_or(i128::MAX),
            messages: tally.entity.is_empty() && keeping.keep == Keep::Last,
        }
    }

    pub fn judge<'a>(&mut self, input: usize, record: &RecordRef<'a>, event: &mut Event<'a>) -> Judgement {
        match self.inputs[input].decoder.decode(record, event) {
            Err(reject) => return Judgement::Rejected(reject.0.into_owned()),
            Ok(Decoded::Irrelevant(reason)) => return Judgement::Irrelevant(reason),
            Ok(Decoded::Deleted) => return self.deletion(input, record, event),
            Ok(Decoded::Event) => {}
        }
        match self.read(input, record, event) {
            Ok(Ok(claim)) => {
                let voided = self.voided(input, record, event, &claim.entity);
                Judgement::Claim(Claim { voided, ..claim })
            }
            Ok(Err(reason)) => match self.place(input, record, event) {
                Ok((entity, order)) if self.messages && self.voided(input, record, event, &entity).is_none() => {
                    Judgement::Replaces { entity, order, reason }
                }
                _ => Judgement::Irrelevant(reason),
            },
            Err(reason) => Judgement::Rejected(reason),
        }
    }

    fn voided(&self, at: usize, record: &RecordRef<'_>, event: &Event<'_>, entity: &[String]) -> Option<u64> {
        let names = if entity.is_empty() { Vec::new() } else { vec![joined(entity.to_vec())] };
        self.inputs[at].voids.of(record, event, &names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A deleted message is as one whose newest version concerns no line. Where the record tells no
    /// time the deletion happened when the log took it.
    fn deletion(&self, at: usize, record: &RecordRef<'_>, event: &Event<'_>) -> Judgement {
        if !self.messages {
            return Judgement::Irrelevant("a deletion, and nothing is counted by message");
        }
        let untimed = self.inputs[at].order.as_ref().is_some_and(|order| present(event, order).is_err());
        let placed = if untimed { self.placed(at, record, event, None) } else { self.place(at, record, event) };
        match placed {
            Ok((entity, _)) if self.voided(at, record, event, &entity).is_some() => {
                Judgement::Irrelevant("a deletion, which is voided")
            }
            Ok((entity, order)) => Judgement::Replaces { entity, order, reason: "a deletion" },
            Err(reason) => Judgement::Rejected(reason),
        }
    }

    fn read(
        &self,
        at: usize,
        record: &RecordRef<'_>,
        event: &Event<'_>,
    ) -> Result<Result<Claim, &'static str>, String> {
        let input = &self.inputs[at];
        if let Some(filter) = &self.filter
            && !filter
                .as_ref()
                .map_err(String::clone)?
                .matches_with(|i| event.slots.get(input.filter[i]).and_then(Option::as_ref))?
        {
            return Ok(Err("its `where` is false"));
        }

        let subject = scalars(event, &input.subject)?;
        let (entity, order) = self.place(at, record, event)?;
        let groups = fan_out(event, &input.entries)?;
        if !groups.iter().any(|g| matches!(g, Groups::Of(_))) {
            // Nothing is added. A withdrawal says so with a null in every entry, and replaces something
            // only where the last claim stands.
            let withdrawn = groups.iter().all(|g| matches!(g, Groups::Withdrawn));
            if !withdrawn {
                return Ok(Err("its group is empty"));
            }
            if self.keep != Keep::Last {
                return Ok(Err("it withdraws, and what counts here can't be withdrawn"));
            }
        }
        let mut contributions = Vec::new();
        for (entry, groups) in groups.into_iter().enumerate() {
            // What an entry that adds nothing would have added is not looked at.
            let Groups::Of(groups) = groups else { continue };
            let value = match &input.entries[entry].1 {
                None => Decimal::ONE,
                Some(value) => number(event, value, self.negate[entry])?,
            };
            contributions.extend(groups.into_iter().map(|group| Contribution { entry, group, value }));
        }
        let mut distinct = Vec::new();
        if !contributions.is_empty() {
            for named in &input.distinct {
                distinct.push(typed(present(event, named)?).ok_or_else(|| no_scalar(named))?);
            }
        }
        let id = input.id.as_ref().and_then(|id| scalar(present(event, id).ok()?));
        let subject = if input.subject.is_empty() { self.job.clone() } else { joined(subject) };
        let event_time = input.order.is_some().then_some(order.0);
        Ok(Ok(Claim { subject, entity, order, id, event_time, contributions, distinct, voided: None }))
    }

    /// The entity and what orders its claims.
    fn place(&self, at: usize, record: &RecordRef<'_>, event: &Event<'_>) -> Result<(Vec<String>, Order), String> {
        self.placed(at, record, event, self.inputs[at].order.as_ref())
    }

    /// As [`Judge::place`], by the log's time without `order`.
    fn placed(
        &self,
        at: usize,
        record: &RecordRef<'_>,
        event: &Event<'_>,
        order: Option<&Named>,
    ) -> Result<(Vec<String>, Order), String> {
        let entity = scalars(event, &self.inputs[at].entity)?;
        let logged_ns = i128::from(record.timestamp_ms) * 1_000_000;
        let time_ns = match order {
            None => logged_ns,
            Some(order) => {
                let ns = parse_time(present(event, order)?).map_err(|what| format!("{} {what}", order.name))?;
                if i128::from(ns) - logged_ns > self.ahead_ns {
                    return Err(format!("{} is too far ahead of the log", order.name));
                }
                i128::from(ns)
            }
        };
        Ok((entity, (time_ns, at, record.partition.0, record.offset.0)))
    }
}

/// What a slot holds; nothing and null are both missing.
pub(super) fn present<'e, 'a>(event: &'e Event<'a>, named: &Named) -> Result<&'e Value<'a>, String> {
    match event.slots.get(named.slot) {
        Some(Some(value)) if *value != Value::Null => Ok(value),
        _ => Err(format!("{} is missing", named.name)),
    }
}

/// A text as it is, a number as it is written, true or false; `None` for the rest.
pub(super) fn scalar(value: &Value<'_>) -> Option<String> {
    match value {
        Value::Text(text) | Value::Number(text) => Some(text.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// As [`scalar`], with a letter for the type: 1 and "1" are two values.
fn typed(value: &Value<'_>) -> Option<String> {
    let letter = match value {
        Value::Text(_) => 't',
        Value::Number(_) => 'n',
        _ => 'b',
    };
    scalar(value).map(|text| format!("{letter}{text}"))
}

pub(super) fn no_scalar(named: &Named) -> String {
    format!("{} is an array or an object", named.name)
}

fn scalars(event: &Event<'_>, all: &[Named]) -> Result<Vec<String>, String> {
    all.iter().map(|named| scalar(present(event, named)?).ok_or_else(|| no_scalar(named))).collect()
}

fn number(event: &Event<'_>, named: &Named, negate: bool) -> Result<Decimal, String> {
    let Value::Number(text) = present(event, named)? else {
        return Err(format!("{} is no number", named.name));
    };
    let value = Decimal::parse_json(text).map_err(|e| format!("{} {e}", named.name))?;
    let value = if negate { value.checked_neg() } else { Some(value) };
    value.ok_or_else(|| format!("{} is beyond the fixed point", named.name))
}

/// One part is itself; several are their JSON array as text; none is "".
pub(super) fn joined(mut parts: Vec<String>) -> String {
    match parts.len() {
        0 => String::new(),
        1 => parts.remove(0),
        _ => serde_json::Value::from(parts).to_string(),
    }
}

/// The groups of each entry: every combination of its parts' elements, each once.
fn fan_out(event: &Event<'_>, entries: &[(Vec<Named>, Option<Named>)]) -> Result<Vec<Groups>, String> {
    let mut combinations: usize = 0;
    let mut all_parts = Vec::new();
    for (group, _) in entries {
        let parts = group.iter().map(|named| elements(event, named)).collect::<Result<Vec<_>, _>>()?;
        let of_this = parts.iter().fold(1usize, |n, part| n.saturating_mul(part.len()));
        combinations = combinations.saturating_add(of_this);
        all_parts.push(parts);
    }
    if combinations > FAN_OUT_MAX {
        return Err(format!("its groups have {combinations} combinations, more than the {FAN_OUT_MAX} of one event"));
    }
    Ok(all_parts.into_iter().map(|parts| combined(&parts)).collect())
}

/// The distinct elements of a part, null as `None`.
fn elements(event: &Event<'_>, named: &Named) -> Result<BTreeSet<Option<String>>, String> {
    let element = |value: &Value<'_>| match value {
        Value::Null => Ok(None),
        value => scalar(value).map(Some).ok_or_else(|| no_scalar(named)),
    };
    match event.slots.get(named.slot).and_then(Option::as_ref) {
        None => Err(format!("{} is missing", named.name)),
        Some(Value::Array(all)) => all.iter().map(element).collect(),
        Some(value) => Ok(BTreeSet::from([element(value)?])),
    }
}

fn combined(parts: &[BTreeSet<Option<String>>]) -> Groups {
    // Asked first: the parts before an empty one have combinations without bound.
    if parts.iter().any(BTreeSet::is_empty) {
        return Groups::Empty;
    }
    let mut tuples: Vec<Vec<Option<String>>> = vec![Vec::new()];
    for part in parts {
        let longer = |tuple: &Vec<Option<String>>| {
            let tuple = tuple.clone();
            part.iter().map(move |element| [tuple.clone(), vec![element.clone()]].concat()).collect::<Vec<_>>()
        };
        tuples = tuples.iter().flat_map(longer).collect();
    }
    let whole = tuples.into_iter().filter_map(|tuple| tuple.into_iter().collect::<Option<Vec<String>>>());
    let groups: BTreeSet<String> = whole.map(joined).collect();
    if groups.is_empty() { Groups::Withdrawn } else { Groups::Of(groups) }
}
