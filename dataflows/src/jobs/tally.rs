//! The `tally` dataflow: how an event becomes a claim.

use crate::claim::{Add, Claim, EntityHash, HashKey, LineId, More, OrderKey, Position};
use crate::decode::{Decoded, Event, Formats, Needs, Value};
use crate::filter::Filter;
use crate::jobs::names::{LineIndex, Names, SubjectIndex};
use crate::jobs::voids::Voids;
use crate::number::Decimal;
use crate::pointer::Pointer;
use crate::record::RecordRef;
use crate::spec::voids::entity_parts;
use crate::spec::{Aggregate, Dataflow, FAN_OUT_MAX, JobSpec, Keep, TallySpec};
use crate::time::parse_time;
use smallvec::SmallVec;
use std::borrow::Cow;

/// Up to so many elements of an array each is compared with those before it.
const COMPARED_MAX: usize = 64;

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// It lacks what the job needs, for this reason.
    Rejected(Cow<'static, str>),
    /// It concerns no subject, for this reason.
    Irrelevant(&'static str),
    /// It makes the claim that is now in [`Claims::said`].
    Matched,
}

/// What a matched record says.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub entity: Option<EntityHash>,
    pub time_ns: i64,
    pub subject: Option<SubjectIndex>,
    /// The entry, the line it adds to and the value in units; none: it withdraws.
    pub adds: SmallVec<[(u32, LineIndex, i128); 4]>,
    pub id: Option<u64>,
    pub distinct: SmallVec<[EntityHash; 1]>,
}

/// Makes the claims of one input of a `tally` job on one worker.
pub struct Claims {
    pub names: Names,
    pub said: Said,
    key: HashKey,
    keep: Keep,
    detailed: bool,
    ahead_ns: i64,
    job_subject: Option<SubjectIndex>,
    subject: Vec<usize>,
    entity: Vec<usize>,
    order: Option<usize>,
    entries: Vec<Entry>,
    distinct: Vec<usize>,
    claim_id: Option<usize>,
    is_message: bool,
    filter: Option<(Filter, Vec<usize>)>,
    voids: Voids<EntityHash>,
    needs: Needs,
}

struct Entry {
    group: Vec<usize>,
    value: Option<(usize, bool)>,
}

/// What became of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Added {
    /// It adds to lines.
    Lines,
    /// An array of its group is empty.
    Nothing,
    /// Each of its groups has a null part.
    Withdrawn,
}

impl Added {
    fn of(groups: usize, added: usize) -> Self {
        match (groups, added) {
            (0, _) => Added::Nothing,
            (_, 0) => Added::Withdrawn,
            _ => Added::Lines,
        }
    }
}

impl Entry {
    /// How many groups it has if no element repeats.
    fn lines_at_most(&self, event: &Event<'_>) -> usize {
        self.group.iter().fold(1, |lines: usize, slot| match event.slots[*slot].as_ref() {
            Some(Value::Array(elements)) => lines.saturating_mul(elements.len()),
            _ => lines,
        })
    }

    /// How many groups it has, those with a null part too.
    fn lines(&self, event: &Event<'_>, needs: &Needs) -> Result<usize, Cow<'static, str>> {
        self.group.iter().try_fold(1usize, |lines, slot| match event.slots[*slot].as_ref() {
            Some(array @ Value::Array(_)) => {
                Ok(lines.saturating_mul(parts(Some(array), &needs.pointers()[*slot])?.len()))
            }
            other => part(other, &needs.pointers()[*slot]).map(|_| lines),
        })
    }

    fn value(&self, event: &Event<'_>, needs: &Needs) -> Result<i128, Cow<'static, str>> {
        match self.value {
            None => Ok(Decimal::ONE.units()),
            Some((slot, negate)) => value_of(event.slots[slot].as_ref(), &needs.pointers()[slot], negate),
        }
    }
}

/// A group's part: absent for null.
type Part<'v> = Option<Cow<'v, str>>;
type Parts<'v> = SmallVec<[Part<'v>; 8]>;

impl Claims {
    /// Errors: a filter that does not compile, which submission has ruled out.
    pub fn new(job: &JobSpec, input: usize, formats: &dyn Formats, key: HashKey) -> Result<Self, String> {
        let Dataflow::Tally(spec) = &job.dataflow else { return Err("the job is no tally".to_owned()) };
        let keeping = job.keeping(formats);
        let entity = keeping.entities.get(input).map_or(&[][..], Vec::as_slice);
        let format = job.inputs.get(input).and_then(|input| formats.find(&input.format));
        let mut needs = Needs::default();
        let mut slots = |pointers: &[Pointer]| pointers.iter().map(|p| needs.slot(p)).collect::<Vec<_>>();
        let claim_id = format.and_then(|f| f.claim_id).filter(|_| keeping.keep != Keep::All);
        let claim_id = claim_id.map(Pointer::parse).transpose()?;
        let filter = match &spec.filter {
            Some(source) => {
                let filter = Filter::compile(source)?;
                let slots = slots(filter.pointers());
                Some((filter, slots))
            }
            None => None,
        };
        let distinct = spec.aggregates.iter().filter_map(|a| match a {
            Aggregate::Distinct(pointer) => Some(pointer.clone()),
            _ => None,
        });
        let entries = spec.entries.iter().map(|entry| Entry {
            group: slots(&entry.group),
            value: entry.value.as_ref().map(|v| (slots(std::slice::from_ref(&v.pointer))[0], v.negate)),
        });
        let entries = entries.collect();
        let parts = entity.len();
        let mut names = Names::new(key);
        let (distinct, subject) = (slots(&distinct.collect::<Vec<_>>()), slots(&spec.subject));
        let order = spec.order.as_ref().map(|p| slots(std::slice::from_ref(p))[0]);
        let (entity, claim_id) = (slots(entity), claim_id.map(|p| slots(&[p])[0]));
        let voids = Voids::new(job, input, &mut needs, |entity| entity_parts(entity, parts).map(|e| key.entity(&e)))?;
        Ok(Claims {
            entries,
            distinct,
            subject,
            order,
            job_subject: spec.subject.is_empty().then(|| names.subject(&job.name)),
            names,
            said: Said::default(),
            key,
            keep: keeping.keep,
            detailed: spec.is_detailed(),
            ahead_ns: i64::try_from(spec.ahead.as_nanos()).unwrap_or(i64::MAX),
            is_message: spec.entity.is_empty() && parts > 0,
            entity,
            claim_id,
            filter,
            voids,
            needs,
        })
    }

    /// What the decoder is to fill the slots of an event with.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Judges a record that decoded. The answer depends on the event and its record alone.
    pub fn judge(&mut self, decoded: Decoded, event: &Event<'_>, record: &RecordRef<'_>) -> Judged {
        let judged = match decoded {
            Decoded::Event => self.try_judge(event, record),
            Decoded::Deleted => self.deletion(event, record),
            Decoded::Irrelevant(reason) => {
                self.said.entity = None;
                Ok(Judged::Irrelevant(reason))
            }
        };
        judged.unwrap_or_else(Judged::Rejected)
    }

    /// A deletion replaces what its message said before. Where the job names an entity of its own the
    /// record does not tell whose claim to take back.
    fn deletion(&mut self, event: &Event<'_>, record: &RecordRef<'_>) -> Result<Judged, Cow<'static, str>> {
        self.said.entity = None;
        if self.is_message {
            let untold = self.order.is_none_or(|slot| matches!(event.slots[slot], None | Some(Value::Null)));
            let entity = self.entity_of(event, &self.entity)?;
            // Services that tell no time of a deletion send it when it happens.
            self.said.time_ns = if untold { log_ns(record) } else { self.time_of(event, record)? };
            self.said.entity = Some(entity);
        }
        Ok(Judged::Irrelevant("it deletes a message"))
    }

    fn try_judge(&mut self, event: &Event<'_>, record: &RecordRef<'_>) -> Result<Judged, Cow<'static, str>> {
        self.said.adds.clear();
        self.said.distinct.clear();
        self.said.entity = None;
        let id = self.claim_id.and_then(|slot| event.slots[slot].as_ref());
        let id = id.and_then(|id| scalar(id, &"the id").ok().flatten());
        self.said.id = id.map(|id| self.key.name(&[id.as_bytes()]));
        if let Some((filter, slots)) = &self.filter {
            match filter.matches_with(|i| event.slots[slots[i]].as_ref()) {
                Ok(true) => {}
                Ok(false) => {
                    if self.place(event, record).is_err() {
                        self.said.entity = None;
                    }
                    return Ok(Judged::Irrelevant("`where` is false"));
                }
                Err(reason) => return Err(format!("`where` failed: {reason}").into()),
            }
        }
        let subject = match self.job_subject {
            Some(subject) => subject,
            None => self.subject_of(event)?,
        };
        self.said.subject = Some(subject);
        self.place(event, record)?;
        // The exact number is only counted where repeated elements decide.
        let mut lines: usize = self.entries.iter().map(|entry| entry.lines_at_most(event)).sum();
        if lines > FAN_OUT_MAX {
            lines = 0;
            for entry in &self.entries {
                lines += entry.lines(event, &self.needs)?;
            }
        }
        if lines > FAN_OUT_MAX {
            let reason = format!("its groups are {lines} lines, more than the {FAN_OUT_MAX} that one event may add to");
            return Err(reason.into());
        }
        let mut withdrawn = true;
        for at in 0..self.entries.len() {
            withdrawn &= self.add_entry(at, subject, event)? == Added::Withdrawn;
        }
        if self.said.adds.is_empty() {
            return Ok(match (withdrawn, self.keep) {
                (true, Keep::Last) => Judged::Matched,
                (true, _) => Judged::Irrelevant("its group is null"),
                (false, _) => Judged::Irrelevant("an array of its group is empty"),
            });
        }
        for slot in &self.distinct {
            let hash = distinct_hash(self.key, event.slots[*slot].as_ref(), &self.needs.pointers()[*slot])?;
            self.said.distinct.push(hash);
        }
        Ok(Judged::Matched)
    }

    /// Whether an operator has voided the record that was judged last.
    pub fn is_voided(&self, position: Position, event: &Event<'_>) -> bool {
        let entity = &self.said.entity;
        self.voids.reach(position, event, |voided| entity.as_ref().is_some_and(|entity| voided.contains(entity)))
    }

    /// The claim that [`Claims::said`] makes for its entity.
    pub fn claim(&mut self, entity: EntityHash, position: Position) -> Claim {
        let said = &mut self.said;
        let order = OrderKey { time_ns: said.time_ns, position };
        let subject = said.subject.map_or(0, |s| self.names.subject_id(s));
        let common = said.id.is_none() && !self.detailed;
        let (line, more) = match said.adds.as_slice() {
            [] if common => (LineId::withdrawn(subject), None),
            [(_, line, value)] if common && *value == Decimal::ONE.units() => (self.names.line_id(*line), None),
            adds => {
                let names = &self.names;
                let add = |(entry, line, value): &(u32, LineIndex, i128)| Add {
                    group: names.line_id(*line).group,
                    entry: *entry,
                    value: *value,
                };
                let mut adds: SmallVec<[Add; 1]> = adds.iter().map(add).collect();
                // Of one entry the value is the same: an array says the same in whatever order.
                adds.sort_unstable_by_key(|add| (add.entry, add.group));
                let more = More { id: said.id, adds, distinct: said.distinct.clone() };
                (LineId::withdrawn(subject), Some(Box::new(more)))
            }
        };
        Claim { entity, order, line, more }
    }

    /// What an irrelevant record leaves where it is a message or deletes one: it counts for nothing and
    /// replaces what the message said before. `None` where records are no messages.
    pub fn replacement(&self, position: Position) -> Option<Claim> {
        let entity = self.said.entity.filter(|_| self.is_message)?;
        let order = OrderKey { time_ns: self.said.time_ns, position };
        Some(Claim { entity, order, line: LineId::REPLACES, more: None })
    }

    /// Finds the entity and the event time.
    fn place(&mut self, event: &Event<'_>, record: &RecordRef<'_>) -> Result<(), Cow<'static, str>> {
        self.said.entity = match self.entity.as_slice() {
            [] => None,
            slots => Some(self.entity_of(event, slots)?),
        };
        self.said.time_ns = self.time_of(event, record)?;
        Ok(())
    }

    fn entity_of(&self, event: &Event<'_>, slots: &[usize]) -> Result<EntityHash, Cow<'static, str>> {
        if let [slot] = slots {
            let part = self.text(event, *slot, "the entity")?;
            return Ok(self.key.entity(&[part.as_bytes()]));
        }
        let parts = slots.iter().map(|slot| self.text(event, *slot, "the entity"));
        let parts = parts.collect::<Result<SmallVec<[Cow<'_, str>; 4]>, _>>()?;
        Ok(self.key.entity(&parts.iter().map(|p| p.as_bytes()).collect::<SmallVec<[&[u8]; 4]>>()))
    }

    fn time_of(&self, event: &Event<'_>, record: &RecordRef<'_>) -> Result<i64, Cow<'static, str>> {
        let log_ns = log_ns(record);
        let Some(slot) = self.order else { return Ok(log_ns) };
        let pointer = &self.needs.pointers()[slot];
        let time = match event.slots[slot].as_ref() {
            None | Some(Value::Null) => return Err(format!("the order ({pointer}) is missing").into()),
            Some(value) => parse_time(value).map_err(|e| format!("the order ({pointer}) {e}"))?,
        };
        if time > log_ns.saturating_add(self.ahead_ns) {
            return Err(format!("the order ({pointer}) is ahead of the log's time by more than the job allows").into());
        }
        Ok(time)
    }

    fn subject_of(&mut self, event: &Event<'_>) -> Result<SubjectIndex, Cow<'static, str>> {
        if let [slot] = self.subject.as_slice() {
            let name = self.text(event, *slot, "the subject")?;
            return Ok(self.names.subject(&name));
        }
        let parts = self.subject.iter().map(|slot| self.text(event, *slot, "the subject"));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        Ok(self.names.subject(&json_array(&parts)))
    }

    /// Adds what an entry contributes.
    fn add_entry(&mut self, at: usize, subject: SubjectIndex, event: &Event<'_>) -> Result<Added, Cow<'static, str>> {
        let entry = &self.entries[at];
        let place = at as u32;
        if entry.group.is_empty() {
            // The line named "", which a group that is an empty text names too.
            let value = entry.value(event, &self.needs)?;
            let line = self.names.line(subject, &[""]);
            self.said.adds.push((place, line, value));
            return Ok(Added::Lines);
        }
        // The common case: one part, no array.
        if let [slot] = entry.group.as_slice()
            && !matches!(event.slots[*slot], Some(Value::Array(_)))
        {
            let pointer = &self.needs.pointers()[*slot];
            let Some(part) = part(event.slots[*slot].as_ref(), pointer)? else { return Ok(Added::Withdrawn) };
            let value = entry.value(event, &self.needs)?;
            let line = self.names.line(subject, &[part]);
            self.said.adds.push((place, line, value));
            return Ok(Added::Lines);
        }
        let before = self.said.adds.len();
        // An array in its place, as hashtags: what repeats is found by its line.
        if let [slot] = entry.group.as_slice()
            && let Some(Value::Array(elements)) = event.slots[*slot].as_ref()
            && elements.len() <= COMPARED_MAX
        {
            let pointer = &self.needs.pointers()[*slot];
            // One that can't be a part is told before any line is named.
            let mut named = false;
            for element in elements {
                named |= part(Some(element), pointer)?.is_some();
            }
            let units = if named { entry.value(event, &self.needs)? } else { 0 };
            for element in elements {
                let Some(part) = part(Some(element), pointer)? else { continue };
                let line = self.names.line(subject, &[part]);
                if !self.said.adds[before..].iter().any(|add| add.1 == line) {
                    self.said.adds.push((place, line, units));
                }
            }
            return Ok(Added::of(elements.len(), self.said.adds.len() - before));
        }
        let mut choices: SmallVec<[Parts<'_>; 2]> = SmallVec::new();
        for slot in &entry.group {
            choices.push(parts(event.slots[*slot].as_ref(), &self.needs.pointers()[*slot])?);
        }
        let mut value = None;
        let lines = choices.iter().map(|choice| choice.len()).product::<usize>();
        for n in 0..lines {
            let mut rest = n;
            let part = |choice: &Parts<'_>| {
                let part = choice[rest % choice.len()].as_deref().map(str::to_owned);
                rest /= choice.len();
                part
            };
            let Some(group) = choices.iter().map(part).collect::<Option<SmallVec<[String; 4]>>>() else { continue };
            // What an entry that adds nothing would have added is not looked at.
            let units = match value {
                Some(units) => units,
                None => *value.insert(entry.value(event, &self.needs)?),
            };
            self.said.adds.push((place, self.names.line(subject, &group), units));
        }
        Ok(Added::of(lines, self.said.adds.len() - before))
    }

    fn text<'v>(&self, event: &'v Event<'_>, slot: usize, what: &str) -> Result<Cow<'v, str>, Cow<'static, str>> {
        let pointer = &self.needs.pointers()[slot];
        match event.slots[slot].as_ref() {
            None | Some(Value::Null) => Err(format!("{what} ({pointer}) is missing").into()),
            Some(value) => Ok(scalar(value, &format_args!("{what} ({pointer})"))?.unwrap_or_default()),
        }
    }
}

fn log_ns(record: &RecordRef<'_>) -> i64 {
    record.timestamp_ms.saturating_mul(1_000_000)
}

/// The text of a scalar, `None` for null; arrays and objects are refused.
fn scalar<'v>(value: &'v Value<'_>, what: &dyn std::fmt::Display) -> Result<Option<Cow<'v, str>>, Cow<'static, str>> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(b) => Ok(Some(Cow::Borrowed(if *b { "true" } else { "false" }))),
        Value::Number(text) | Value::Text(text) => Ok(Some(Cow::Borrowed(text))),
        Value::Array(_) => Err(format!("{what} is an array").into()),
        Value::Object(_) => Err(format!("{what} is an object").into()),
    }
}

fn part<'v>(value: Option<&'v Value<'_>>, pointer: &Pointer) -> Result<Part<'v>, Cow<'static, str>> {
    match value {
        None => Err(format!("the group ({pointer}) is missing").into()),
        Some(Value::Null) => Ok(None),
        Some(Value::Number(text) | Value::Text(text)) => Ok(Some(Cow::Borrowed(text))),
        Some(value) => scalar(value, &format_args!("the group ({pointer})")),
    }
}

/// The different parts that a group pointer leads to: several for an array.
fn parts<'v>(value: Option<&'v Value<'_>>, pointer: &Pointer) -> Result<Parts<'v>, Cow<'static, str>> {
    let Some(Value::Array(elements)) = value else {
        return Ok(smallvec::smallvec![part(value, pointer)?]);
    };
    let mut parts: Parts<'v> = SmallVec::with_capacity(elements.len());
    for element in elements {
        let part = part(Some(element), pointer)?;
        // Arrays in records are short; past that a sorted copy finds the repetitions.
        if elements.len() > COMPARED_MAX || !parts.contains(&part) {
            parts.push(part);
        }
    }
    if elements.len() > COMPARED_MAX {
        parts.sort_unstable();
        parts.dedup();
    }
    Ok(parts)
}

fn value_of(value: Option<&Value<'_>>, pointer: &Pointer, negate: bool) -> Result<i128, Cow<'static, str>> {
    let Some(Value::Number(text)) = value else {
        let what = if value.is_none_or(|v| *v == Value::Null) { "is missing" } else { "is no number" };
        return Err(format!("the value ({pointer}) {what}").into());
    };
    let units = Decimal::parse_json(text).map_err(|e| format!("the value ({pointer}) {e}"))?;
    let units = if negate { units.checked_neg() } else { Some(units) };
    units.map(Decimal::units).ok_or_else(|| format!("the value ({pointer}) is beyond the fixed point").into())
}

fn distinct_hash(key: HashKey, value: Option<&Value<'_>>, pointer: &Pointer) -> Result<EntityHash, Cow<'static, str>> {
    // 1, "1" and true are three values: their kind is hashed with them.
    let (kind, text) = match value {
        None | Some(Value::Null) => return Err(format!("the value to tell apart ({pointer}) is missing").into()),
        Some(Value::Bool(b)) => ("b", if *b { "true" } else { "false" }),
        Some(Value::Number(text)) => ("n", &**text),
        Some(Value::Text(text)) => ("t", &**text),
        Some(Value::Array(_) | Value::Object(_)) => {
            return Err(format!("the value to tell apart ({pointer}) is an array or an object").into());
        }
    };
    Ok(key.entity(&[kind, text]))
}

/// Names as the text of a JSON array.
pub fn json_array(parts: &[impl AsRef<str>]) -> String {
    let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
    serde_json::Value::from(parts).to_string()
}

impl TallySpec {
    /// Whether an aggregate needs the single contributions.
    pub fn is_detailed(&self) -> bool {
        !self.aggregates.iter().all(|a| matches!(a, Aggregate::Count | Aggregate::Sum | Aggregate::Avg))
    }
}
