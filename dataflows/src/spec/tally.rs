//! `[tally]` of a job file.

use super::fault::{Faults, instead, shown};
use super::file::each;
use super::section::{Field, Section};
use super::{Aggregate, EntrySpec, Keep, TallySpec, ValueSpec};
use crate::filter::Filter;
use crate::pointer::Pointer;
use std::time::Duration;

const ENTRIES_MAX: usize = 64;
/// Of a subject, a group or an entity.
const PARTS_MAX: usize = 8;
const AGGREGATES_MAX: usize = 32;
const TOP_MAX: i64 = 10_000;
const AHEAD_DEFAULT: Duration = Duration::from_secs(3_600);

const KEYS: [&str; 12] =
    ["subject", "group", "entity", "keep", "n", "order", "value", "where", "aggregates", "top", "ahead", "entry"];
const KEEPS: [&str; 4] = ["all", "first", "last", "first-n"];
const AGGREGATES: [&str; 7] = ["count", "sum", "min", "max", "avg", "last", "distinct:/pointer"];

/// Reads `[tally]`. `messages`: whether each input's records are messages; `None` where that could not
/// be told.
pub(super) fn tally(field: &Field<'_>, messages: Option<Vec<bool>>, faults: &mut Faults) -> Option<TallySpec> {
    let section = Section::open(&*field.path, field.node, &KEYS, faults)?;
    let parts = |key: &str, faults: &mut Faults| match section.get(key) {
        Some(f) => f.pointers(PARTS_MAX, faults),
        None => Some(Vec::new()),
    };
    let subject = parts("subject", faults);
    let entity = parts("entity", faults);
    let keep = keep(&section, messages, faults);
    let order = optional(section.get("order"), |f| f.pointer(faults));
    let filter = optional(section.get("where"), |f| condition(&f, faults));
    let entries = entries(&section, faults);
    // Where the entries can't be read, which default applies makes no difference.
    let valued = entries.iter().flatten().any(|e| e.value.is_some());
    let aggregates = match section.get("aggregates") {
        Some(f) => aggregates(&f, faults),
        None => Some(vec![if valued { Aggregate::Sum } else { Aggregate::Count }]),
    };
    let top = optional(section.get("top"), |f| f.integer(1, TOP_MAX, faults));
    let ahead = match section.get("ahead") {
        Some(f) if section.get("order").is_none() => {
            f.fault(faults, "has no meaning without order; name the event time in order or leave the key out")
        }
        Some(f) => f.duration("0s", "36500d", faults),
        None => Some(AHEAD_DEFAULT),
    };
    Some(TallySpec {
        subject: subject?,
        entries: entries?,
        entity: entity?,
        keep: keep?,
        order: order?,
        filter: filter?,
        aggregates: aggregates?,
        top: top?.map(|n| n as usize),
        ahead: ahead?,
    })
}

/// A key that may be left out: `Some(None)` if it is, `None` if it is wrong.
fn optional<T>(field: Option<Field<'_>>, read: impl FnOnce(Field<'_>) -> Option<T>) -> Option<Option<T>> {
    match field {
        Some(field) => read(field).map(Some),
        None => Some(None),
    }
}

fn keep(section: &Section<'_>, messages: Option<Vec<bool>>, faults: &mut Faults) -> Option<Keep> {
    let field = section.get("keep");
    let entity = section.get("entity");
    let n = section.get("n");
    let word = match &field {
        Some(f) => Some(f.one_of("keep rule", &KEEPS, faults)?),
        None => None,
    };
    let n = match (&n, word) {
        (Some(f), Some("first-n")) => Some(f.integer(1, i64::from(Keep::N_MAX), faults)?),
        (Some(f), _) => return f.fault(faults, "has no meaning without keep = \"first-n\"; leave it out"),
        (None, _) => None,
    };
    // "At fault" is the line of keep, or of entity where keep is what is missing.
    let some_messages = messages.as_ref().is_some_and(|m| m.contains(&true));
    let all_messages = messages.as_ref().is_some_and(|m| !m.contains(&false));
    if entity.is_none() && some_messages && !all_messages {
        let message = "some inputs have records that are messages and some have not, so that there is no one way to count \
                       them; name an entity, or make two jobs";
        faults.push(section.line, section.path_of("entity"), message);
        return None;
    }
    let rule = match (word, &entity) {
        (None | Some("all"), None) => Keep::All,
        // A message is kept by its id and its last version counts: `last` says no more than that.
        (Some("last"), None) if all_messages => Keep::All,
        (Some(word), None) => {
            // Where a format is unknown that is told already, and which rule holds can't be judged.
            messages.as_ref()?;
            let f = field.as_ref()?;
            return f.fault(
                faults,
                if all_messages {
                    format!(
                        "{word:?} is not possible for messages by themselves: of a message the last version counts; leave keep \
                         out"
                    )
                } else {
                    format!("{word:?} needs an entity to keep by; name it, like entity = [\"/order_id\"], or leave keep out")
                },
            );
        }
        (None, Some(_)) => {
            let rules = "say which of an entity's events counts: keep = \"first\", \"last\" or \"first-n\" with n";
            faults.missing(section.line, section.path_of("keep"), rules);
            return None;
        }
        (Some("all"), Some(_)) => {
            let message = "\"all\" counts every event and has no entity; leave out entity, or keep \"first\", \"last\" or \
                           \"first-n\"";
            return field.as_ref()?.fault(faults, message);
        }
        (Some("last"), Some(_)) => Keep::Last,
        (Some(_), Some(_)) if some_messages => {
            let message = "of messages only the last of an entity can be kept, for a message can be edited or deleted; write \
                           keep = \"last\"";
            return field.as_ref()?.fault(faults, message);
        }
        (Some("first"), Some(_)) => Keep::First,
        (Some(_), Some(_)) => match n {
            Some(n) => Keep::FirstN(u32::try_from(n).ok()?),
            None => {
                faults.missing(section.line, section.path_of("n"), "say how many keep = \"first-n\" keeps, like n = 3");
                return None;
            }
        },
    };
    Some(rule)
}

fn condition(field: &Field<'_>, faults: &mut Faults) -> Option<String> {
    let source = field.text("a CEL expression like \"event.status == 'paid'\"", faults)?;
    match Filter::compile(source) {
        Ok(_) => Some(source.to_string()),
        Err(what) => field.fault(faults, format!("{what}; write one like \"event.status == 'paid'\"")),
    }
}

fn entries(section: &Section<'_>, faults: &mut Faults) -> Option<Vec<EntrySpec>> {
    let Some(field) = section.get("entry") else {
        return Some(vec![entry(section, faults)?]);
    };
    for key in ["group", "value"] {
        if let Some(f) = section.get(key) {
            f.fault::<()>(faults, format!("stands beside [[tally.entry]]; put {key} into the entries"));
        }
    }
    each(&field, "[[tally.entry]]", ENTRIES_MAX, faults, |f, faults| {
        let section = Section::open(&*f.path, f.node, &["group", "value"], faults)?;
        entry(&section, faults)
    })
}

fn entry(section: &Section<'_>, faults: &mut Faults) -> Option<EntrySpec> {
    let group = match section.get("group") {
        Some(f) => f.pointers(PARTS_MAX, faults),
        None => Some(Vec::new()),
    };
    let value = optional(section.get("value"), |f| value(&f, faults));
    Some(EntrySpec { group: group?, value: value? })
}

fn value(field: &Field<'_>, faults: &mut Faults) -> Option<ValueSpec> {
    let text = field.text("a JSON Pointer like \"/amount\", or \"-/amount\" for what is taken away", faults)?;
    let (negate, pointer) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    Some(ValueSpec { pointer: field.pointer_in(pointer, faults)?, negate })
}

fn aggregates(field: &Field<'_>, faults: &mut Faults) -> Option<Vec<Aggregate>> {
    let fields = field.list("a list like [\"sum\", \"count\"]", AGGREGATES_MAX, faults)?;
    let mut all: Vec<Aggregate> = Vec::with_capacity(fields.len());
    let mut whole = true;
    for f in &fields {
        match aggregate(f, faults) {
            Some(aggregate) if all.contains(&aggregate) => {
                f.fault::<()>(faults, format!("{} is asked for twice; leave one out", shown(&aggregate.name())));
            }
            Some(aggregate) => all.push(aggregate),
            None => whole = false,
        }
    }
    whole.then_some(all)
}

fn aggregate(field: &Field<'_>, faults: &mut Faults) -> Option<Aggregate> {
    let text = field.text("the name of an aggregate, like \"sum\"", faults)?;
    Some(match text {
        "count" => Aggregate::Count,
        "sum" => Aggregate::Sum,
        "min" => Aggregate::Min,
        "max" => Aggregate::Max,
        "avg" => Aggregate::Avg,
        "last" => Aggregate::Last,
        text => match text.strip_prefix("distinct:") {
            Some(pointer) => Aggregate::Distinct(distinct(field, pointer, faults)?),
            None => {
                let known = instead(text, &AGGREGATES);
                return field.fault(faults, format!("{} is no aggregate that is known; {known}", shown(text)));
            }
        },
    })
}

fn distinct(field: &Field<'_>, pointer: &str, faults: &mut Faults) -> Option<Pointer> {
    if pointer.is_empty() {
        return field.fault(faults, "\"distinct:\" needs a pointer to what is told apart, like \"distinct:/customer\"");
    }
    field.pointer_in(pointer, faults)
}
