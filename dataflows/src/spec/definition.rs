//! A poll's definition: what a person writes, and how it becomes a [`Poll`].

use super::fault::{self, Fault, Faults, shown};
use super::polls::{Match, Poll, PollsSpec};
use super::section::{Field, Section};
use super::terms::{self, Terms, terms};
use super::tree::{self, Kind, Node, Nulls};
use super::written::time_text;
use crate::operators::match_options::is_matchable;
use crate::time::parse_time_text;
use std::collections::HashMap;

/// The longest definition, in bytes: all its options at their longest, escaped.
pub const DEFINITION_BYTES_MAX: usize = 2 << 20;

/// The longest id that is made of a title.
const SLUG_BYTES_MAX: usize = 64;

/// A job that a poll may belong to.
#[derive(Clone, Copy, Debug)]
pub struct PollsJob<'a> {
    pub name: &'a str,
    pub defaults: &'a PollsSpec,
    /// Whether it looks for options in texts.
    pub reads_messages: bool,
}

/// What a new definition is checked against.
pub struct Around<'a> {
    /// The jobs of polls, at least one.
    pub jobs: &'a [PollsJob<'a>],
    /// Whether an id is in use, so that one made of a title is another.
    pub is_taken: &'a dyn Fn(&str) -> bool,
    /// When a poll opens that does not say, in nanoseconds since 1970.
    pub now_ns: i64,
}

/// Checks the definition of a new poll, in JSON; a null is as if the key were not there, but for an
/// entity that the job's polls have. Answers the job's name and the poll, or every fault.
pub fn new_poll(text: &str, around: &Around<'_>) -> Result<(String, Poll), Vec<Fault>> {
    read(text, |root, faults| create(root, around, faults))
}

/// Checks a change of a poll, in JSON: what is left out stays. Answers the changed poll, or every fault.
pub fn changed_poll(text: &str, poll: &Poll, job: &PollsJob<'_>) -> Result<Poll, Vec<Fault>> {
    read(text, |root, faults| change(root, poll, job, faults))
}

fn read<T>(text: &str, check: impl FnOnce(Node, &mut Faults) -> Option<T>) -> Result<T, Vec<Fault>> {
    let mut faults = Faults::default();
    if text.len() > DEFINITION_BYTES_MAX {
        let message = format!("the definition is longer than the {DEFINITION_BYTES_MAX} bytes that one may have");
        faults.push(None, "", message);
        return Err(faults.into_vec());
    }
    let read = tree::from_json(text, Nulls::Kept, &mut faults).and_then(|node| check(node, &mut faults));
    match read {
        Some(read) if faults.is_empty() => Ok(read),
        _ => Err(faults.into_vec()),
    }
}

const KEYS: [&str; 6] = ["id", "title", "options", "opens", "closes", "job"];

fn open<'a>(node: &'a Node, faults: &mut Faults) -> Option<Section<'a>> {
    Section::open("", node, &[&KEYS[..], &terms::KEYS[..]].concat(), faults)
}

fn create(mut node: Node, around: &Around<'_>, faults: &mut Faults) -> Option<(String, Poll)> {
    if let Kind::Table(members) = &mut node.kind {
        members.retain(|member| member.key == "entity" || !matches!(member.node.kind, Kind::Null));
    }
    let root = open(&node, faults)?;
    let job = job(&root, around.jobs, faults);
    // Where the job is not known, what its polls are by default isn't either; all else is judged.
    let fallback = PollsSpec::default();
    let defaults = job.map_or(&fallback, |job| job.defaults);
    let title = optional(root.get("title"), |f| title(&f, faults));
    let id = match root.get("id") {
        Some(field) => id(&field, faults),
        None => match &title {
            Some(Some(title)) => Some(made_id(title, around.is_taken)),
            Some(None) => {
                faults.missing(root.line, "id", "give the poll an id, or a title that one can be made of");
                None
            }
            None => None,
        },
    };
    let terms = terms(&root, Terms::from(defaults), faults);
    let options = root.need("options", "name what can be chosen, like [\"happy\", \"sad\"]", faults);
    let options = options.and_then(|f| options_of(&f, faults));
    if let (Some(options), Some(terms), Some(job), Some(field)) = (&options, &terms, job, root.get("options")) {
        matchable(options, terms.matching, &job, &field, faults);
    }
    let opens = match root.get("opens") {
        Some(field) => time(&field, faults),
        None => Some(around.now_ns),
    };
    let closes = optional(root.get("closes"), |f| time(&f, faults));
    in_order(opens, closes.flatten(), &root, faults);
    let id = id?;
    let title = title?.unwrap_or_else(|| id.clone());
    Some((job?.name.to_owned(), poll(id, title, options?, terms?, opens?, closes?)))
}

fn change(node: Node, before: &Poll, job: &PollsJob<'_>, faults: &mut Faults) -> Option<Poll> {
    let root = open(&node, faults)?;
    for (key, stays) in [("id", before.id.as_str()), ("job", job.name)] {
        let Some(field) = root.get(key) else { continue };
        if !matches!(&field.node.kind, Kind::Text(text) if text == stays) {
            field.fault::<()>(faults, format!("is {stays:?} and stays that; leave it out, or make another poll"));
        }
    }
    let title = match root.get("title") {
        Some(field) => title(&field, faults),
        None => Some(before.title.clone()),
    };
    let terms = terms(&root, Terms::from(before), faults);
    let options = match root.get("options") {
        Some(field) => options_of(&field, faults),
        None => Some(before.options.clone()),
    };
    // Options that stay are judged too where it is the way of matching that changes.
    if let (Some(options), Some(terms), Some(field)) =
        (&options, &terms, root.get("options").or_else(|| root.get("match")))
    {
        matchable(options, terms.matching, job, &field, faults);
    }
    let opens = match root.get("opens") {
        Some(field) => time(&field, faults),
        None => Some(before.opens_ns),
    };
    let closes = match root.get("closes") {
        Some(field) if matches!(field.node.kind, Kind::Null) => Some(None),
        Some(field) => time(&field, faults).map(Some),
        None => Some(before.closes_ns),
    };
    in_order(opens, closes.flatten(), &root, faults);
    Some(poll(before.id.clone(), title?, options?, terms?, opens?, closes?))
}

fn poll(id: String, title: String, options: Vec<String>, terms: Terms, opens_ns: i64, closes_ns: Option<i64>) -> Poll {
    let Terms { matching, choices, keep, entity, reposts, grace } = terms;
    Poll { id, title, options, matching, choices, keep, entity, reposts, opens_ns, closes_ns, grace }
}

/// `Some(None)` where the key is not there, `None` where it is wrong.
fn optional<T>(field: Option<Field<'_>>, read: impl FnOnce(Field<'_>) -> Option<T>) -> Option<Option<T>> {
    match field {
        Some(field) => read(field).map(Some),
        None => Some(None),
    }
}

fn job<'a>(root: &Section<'_>, jobs: &'a [PollsJob<'a>], faults: &mut Faults) -> Option<PollsJob<'a>> {
    let names: Vec<&str> = jobs.iter().map(|job| job.name).collect();
    match (root.get("job"), jobs) {
        (None, [only]) => Some(*only),
        (None, _) => {
            let names: Vec<&str> = names.into_iter().take(20).collect();
            let remedy = format!("there are several jobs of polls, name one of {}", names.join(", "));
            faults.missing(root.line, "job", &remedy);
            None
        }
        (Some(field), _) => {
            let text = field.text("the name of a job of polls", faults)?;
            let found = jobs.iter().find(|job| job.name == text).copied();
            if found.is_none() {
                let known = fault::instead(text, &names[..names.len().min(20)]);
                field.fault::<()>(faults, format!("there is no job of polls named {}; {known}", shown(text)));
            }
            found
        }
    }
}

fn id(field: &Field<'_>, faults: &mut Faults) -> Option<String> {
    let text = field.text("a text like \"moods\"", faults)?;
    let good = (1..=Poll::ID_CHARS_MAX).contains(&text.len())
        && !text.starts_with(['-', '.'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    if !good {
        let rule = format!(
            "1 to {} of a-z, A-Z, 0-9, \"_\", \"-\" and \".\", not starting with \"-\" or \".\"",
            Poll::ID_CHARS_MAX
        );
        return field.fault(faults, format!("{} is no id of a poll; one has {rule}", shown(text)));
    }
    Some(text.to_owned())
}

/// An id made of a title: its letters a to z and digits, `-` for whatever lies between, and a number
/// where that is taken.
fn made_id(title: &str, is_taken: &dyn Fn(&str) -> bool) -> String {
    let mut slug = String::new();
    for c in title.chars().flat_map(char::to_lowercase) {
        if slug.len() >= SLUG_BYTES_MAX {
            break;
        }
        match c {
            c if c.is_ascii_alphanumeric() => slug.push(c),
            _ if slug.is_empty() || slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
    }
    let slug = match slug.trim_end_matches('-') {
        "" => "poll",
        slug => slug,
    };
    let numbered = (2u64..).map(|n| format!("{slug}-{n}"));
    // There are fewer polls than numbers.
    std::iter::once(slug.to_owned()).chain(numbered).find(|id| !is_taken(id)).unwrap_or_default()
}

fn title(field: &Field<'_>, faults: &mut Faults) -> Option<String> {
    let text = field.text("a text like \"How do you feel?\"", faults)?;
    plain(field, text, "title", Poll::TITLE_CHARS_MAX, faults)
}

/// A text that people see: not blank, of bounded length, without control characters.
fn plain(field: &Field<'_>, text: &str, what: &str, chars_max: usize, faults: &mut Faults) -> Option<String> {
    let chars = text.chars().count();
    if text.trim().is_empty() {
        return field.fault(faults, format!("is blank; write the {what} or leave it out"));
    }
    if chars > chars_max {
        let message = format!("has {chars} characters, more than the {chars_max} that a poll's {what} may have");
        return field.fault(faults, message);
    }
    if text.chars().any(char::is_control) {
        return field.fault(faults, format!("{} holds a control character; leave that out", shown(text)));
    }
    Some(text.to_owned())
}

fn options_of(field: &Field<'_>, faults: &mut Faults) -> Option<Vec<String>> {
    if matches!(&field.node.kind, Kind::List(nodes) if nodes.is_empty()) {
        return field.fault(faults, "is an empty list; name at least one option");
    }
    let fields = field.list("a list of texts like [\"happy\", \"sad\"]", Poll::OPTIONS_MAX, faults)?;
    let mut first: HashMap<String, usize> = HashMap::new();
    let mut options = Vec::with_capacity(fields.len());
    for (index, field) in fields.iter().enumerate() {
        let Some(text) = field.text("a text like \"happy\"", faults) else { continue };
        let Some(text) = plain(field, text, "option", Poll::OPTION_CHARS_MAX, faults) else { continue };
        match first.get(&folded(&text)) {
            None => {
                first.insert(folded(&text), index);
                options.push(text);
            }
            Some(first) => {
                let how = if matches!(&fields[*first].node.kind, Kind::Text(other) if *other == text) {
                    "is".to_owned()
                } else {
                    format!("{} is but for case and spaces", shown(&text))
                };
                field.fault::<()>(faults, format!("{how} the same as options[{first}]; leave one of them out"));
            }
        }
    }
    (options.len() == fields.len()).then_some(options)
}

/// A text without case, and with single spaces only between words. Capitals first, so that ß is ss and
/// both forms of the small sigma are one.
fn folded(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").to_uppercase().to_lowercase()
}

/// Refuses options that no text can speak of, where texts are what options are looked for in.
fn matchable(options: &[String], how: Match, job: &PollsJob<'_>, field: &Field<'_>, faults: &mut Faults) {
    if !job.reads_messages {
        return;
    }
    for (index, option) in options.iter().enumerate().filter(|(_, option)| !is_matchable(option, how)) {
        let key = format!("options[{index}]");
        let message = format!("{} has no letter or digit that a text could match; name another", shown(option));
        faults.push(field.node.line, key, message);
    }
}

fn time(field: &Field<'_>, faults: &mut Faults) -> Option<i64> {
    const TIME: &str = "a time like \"2026-11-21T10:00:00Z\" or whole epoch milliseconds";
    match &field.node.kind {
        Kind::Text(text) => match parse_time_text(text) {
            Ok(ns) => Some(ns),
            Err(what) => field.fault(faults, format!("{what}; it must be {TIME}")),
        },
        Kind::Integer(ms) => match ms.and_then(|ms| ms.checked_mul(1_000_000)) {
            Some(ns) => Some(ns),
            None => field.fault(faults, format!("lies outside the years 1678 to 2261; it must be {TIME}")),
        },
        kind => field.fault(faults, format!("is {}, but must be {TIME}", kind.name())),
    }
}

fn in_order(opens: Option<i64>, closes: Option<i64>, root: &Section<'_>, faults: &mut Faults) {
    let (Some(opens), Some(closes)) = (opens, closes) else { return };
    // One of them is what is wrong, and need not be the one that stands there.
    if let Some(field) = root.get("closes").or_else(|| root.get("opens"))
        && closes <= opens
    {
        let message = format!(
            "the poll would close at {} and open at {}; it must close after it opens",
            time_text(closes),
            time_text(opens)
        );
        field.fault::<()>(faults, message);
    }
}
