//! The job file: what a person writes, and how it becomes a [`JobSpec`].

use super::fault::{Fault, Faults, instead, shown};
use super::polls::PollsSpec;
use super::section::{Field, Section};
use super::tree::{self, Kind, Node, Nulls};
use super::voids::Voids;
use super::{Bound, Dataflow, InputSpec, JobSpec, sink, tally, terms};
use crate::decode::{FormatInfo, Formats};
use crate::ids::{Offset, PartitionId};
use crate::time::parse_time_text;
use std::collections::BTreeMap;

/// The longest job file, in bytes.
pub const JOB_FILE_BYTES_MAX: usize = 256 * 1024;
const INPUTS_MAX: usize = 16;
const SINKS_MAX: usize = 16;
pub(super) const PATH_BYTES_MAX: usize = 4 * 1024;
/// The format of votes.
pub const VOTE: &str = "vote";
const NAME_CHARS_MAX: usize = 64;

const DATAFLOWS: [&str; 2] = ["tally", "polls"];

/// What a job file is checked against.
pub struct Surroundings<'a> {
    /// The formats there are.
    pub formats: &'a dyn Formats,
    /// How many partitions a topic has; `None`: there is no such topic.
    pub partitions: &'a dyn Fn(&str) -> Option<u32>,
    /// The topics there are, for the remedy of an unknown one; may be cut off.
    pub topics: Vec<String>,
}

/// Reads job files.
pub struct JobFile;

impl JobFile {
    /// Reads and checks a job file in TOML. The error has all its faults, by line.
    pub fn parse_toml(text: &str, around: &Surroundings<'_>) -> Result<JobSpec, Vec<Fault>> {
        parse(text, around, |text, faults| Some(tree::from_toml(text, faults)))
    }

    /// Reads and checks a job file in JSON: the same keys; a null is as if the key were not there.
    pub fn parse_json(text: &str, around: &Surroundings<'_>) -> Result<JobSpec, Vec<Fault>> {
        parse(text, around, |text, faults| tree::from_json(text, Nulls::LeftOut, faults))
    }
}

fn parse(
    text: &str,
    around: &Surroundings<'_>,
    read: impl FnOnce(&str, &mut Faults) -> Option<Node>,
) -> Result<JobSpec, Vec<Fault>> {
    let mut faults = Faults::default();
    if text.len() > JOB_FILE_BYTES_MAX {
        let message =
            format!("the file has {} bytes, more than the {JOB_FILE_BYTES_MAX} that a job file may have", text.len());
        faults.push(None, "", message);
        return Err(faults.into_vec());
    }
    let spec = read(text, &mut faults).and_then(|node| job(&node, around, &mut faults));
    match spec {
        Some(spec) if faults.is_empty() => Ok(spec),
        _ => {
            if faults.is_empty() {
                faults.push(None, "", "is no job: it must be a table with the keys name, dataflow, input");
            }
            Err(faults.into_vec())
        }
    }
}

fn job(node: &Node, around: &Surroundings<'_>, faults: &mut Faults) -> Option<JobSpec> {
    let root = Section::open("", node, &["name", "dataflow", "input", "tally", "polls", "sink"], faults)?;
    let name = root.need("name", "give the job a name, like name = \"revenue\"", faults).and_then(|f| name(&f, faults));
    let remedy = "say what the job computes: dataflow = \"tally\" or \"polls\"";
    let dataflow = root.need("dataflow", remedy, faults).and_then(|f| f.one_of("dataflow", &DATAFLOWS, faults));
    let wanted = (dataflow == Some("polls")).then_some("messages or votes");
    let inputs = root
        .need("input", "name what is read in an [[input]] with topic and format", faults)
        .and_then(|f| each(&f, "[[input]]", INPUTS_MAX, faults, |f, faults| input(f, wanted, around, faults)));
    // Whether the inputs are messages is judged only where all their formats are known.
    let formats = inputs.as_ref().map(|inputs| inputs.iter().map(|i: &InputSpec| &*i.format));
    let messages =
        formats.map(|names| names.map(|f| around.formats.find(f).is_some_and(|f| f.message_id.is_some())).collect());
    // Where the dataflow is not known, whichever table is there is judged.
    let judged = |table: &str| root.get(table).filter(|_| dataflow.is_none_or(|dataflow| dataflow == table));
    let tally = judged("tally").map(|field| tally::tally(&field, messages, faults));
    let polls = judged("polls").map(|field| terms::polls(&field, faults));
    let dataflow = match dataflow {
        Some("polls") => {
            other_section(&root, "tally", "polls", faults);
            polls.unwrap_or_else(|| Some(PollsSpec::default())).map(Dataflow::Polls)
        }
        Some(_) => {
            other_section(&root, "polls", "tally", faults);
            if tally.is_none() {
                faults.missing(root.line, "tally", "say what is counted in [tally], which may be empty");
            }
            tally.flatten().map(Dataflow::Tally)
        }
        None => None,
    };
    let sinks = match root.get("sink") {
        Some(field) => each(&field, "[[sink]]", SINKS_MAX, faults, sink::read),
        None => Some(Vec::new()),
    };
    if let (Some(sinks), Some(field)) = (&sinks, root.get("sink")) {
        sink::unshared(sinks, &field, faults);
        sink::apart(sinks, inputs.as_deref().unwrap_or_default(), &field, faults);
    }
    Some(JobSpec { name: name?, dataflow: dataflow?, inputs: inputs?, sinks: sinks?, voids: Voids::default() })
}

/// The table of another dataflow than the job's.
fn other_section(root: &Section<'_>, other: &str, dataflow: &str, faults: &mut Faults) {
    if let Some(field) = root.get(other) {
        let message =
            format!("has no place in a job with dataflow = {dataflow:?}; leave it out, or write dataflow = {other:?}");
        field.fault::<()>(faults, message);
    }
}

/// All elements of an array of tables, every one of them judged.
pub(super) fn each<T>(
    field: &Field<'_>,
    header: &str,
    max: usize,
    faults: &mut Faults,
    mut read: impl FnMut(&Field<'_>, &mut Faults) -> Option<T>,
) -> Option<Vec<T>> {
    let fields = field.list(&format!("an array of tables, each headed {header}"), max, faults)?;
    let read: Vec<Option<T>> = fields.iter().map(|f| read(f, faults)).collect();
    read.into_iter().collect()
}

fn name(field: &Field<'_>, faults: &mut Faults) -> Option<String> {
    let text = field.text("a text like \"revenue\"", faults)?;
    let rule = text.len() <= NAME_CHARS_MAX
        && !text.is_empty()
        && !text.starts_with('-')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if !rule {
        let rule = format!("1 to {NAME_CHARS_MAX} letters, digits, \"_\" and \"-\", not starting with \"-\"");
        return field.fault(faults, format!("{} is no name of a job; one has {rule}", shown(text)));
    }
    Some(text.to_string())
}

/// Whether polls can be counted from records of this format.
fn counts_in_polls(format: &FormatInfo) -> bool {
    format.message_id.is_some() || format.name == VOTE
}

/// `wanted`: what the records must be, where not any will do.
fn input(field: &Field<'_>, wanted: Option<&str>, around: &Surroundings<'_>, faults: &mut Faults) -> Option<InputSpec> {
    let input = Section::open(&*field.path, field.node, &["topic", "format", "from", "until"], faults)?;
    let topic = input.need("topic", "name the topic to read, like topic = \"orders\"", faults);
    let topic = topic.and_then(|f| topic_of(&f, around, faults));
    let names: Vec<&str> = around.formats.all().iter().map(|f| f.name).collect();
    let format = input.need("format", "say how records are written, like format = \"json\"", faults).and_then(|f| {
        let format = f.one_of("format", &names, faults)?;
        let Some(wanted) = wanted else { return Some(format) };
        let fit: Vec<&str> =
            around.formats.all().iter().filter(|f| counts_in_polls(f)).map(|format| format.name).collect();
        if fit.contains(&format) {
            return Some(format);
        }
        f.fault(faults, format!("{format:?} has no {wanted}, which polls count; name one of {}", fit.join(", ")))
    });
    let partitions = topic.as_ref().map(|(_, partitions)| *partitions);
    let from_field = input.get("from");
    let from = match &from_field {
        Some(f) => bound(f, partitions, faults),
        None => Some(Bound::Beginning),
    };
    let until = match input.get("until") {
        Some(f) => match bound(&f, partitions, faults) {
            Some(Bound::Beginning) => {
                f.fault(faults, "leaves nothing to read; give a later bound or leave the key out")
            }
            Some(until) => {
                if from.as_ref().is_some_and(|from| ends_before_it_starts(from, &until)) {
                    f.fault::<()>(faults, "lies before from; give a later bound or leave the key out");
                }
                Some(Some(until))
            }
            None => None,
        },
        None => Some(None),
    };
    Some(InputSpec { topic: topic?.0, format: format?.to_string(), from: from?, until: until? })
}

fn topic_of(field: &Field<'_>, around: &Surroundings<'_>, faults: &mut Faults) -> Option<(String, u32)> {
    let text = field.text("a topic's name like \"orders\"", faults)?;
    match (around.partitions)(text) {
        Some(partitions) => Some((text.to_string(), partitions)),
        None => {
            let known: Vec<&str> = around.topics.iter().take(20).map(String::as_str).collect();
            let known = instead(text, &known);
            field.fault(faults, format!("there is no topic {}; create it first, or name another: {known}", shown(text)))
        }
    }
}

const BOUND: &str = "\"beginning\", \"end\", a time like \"2026-11-21T10:00:00Z\" or offsets like { \"0\" = 812 }";

/// `partitions`: of the topic, where that is known.
fn bound(field: &Field<'_>, partitions: Option<u32>, faults: &mut Faults) -> Option<Bound> {
    match &field.node.kind {
        Kind::Text(text) if text == "beginning" => Some(Bound::Beginning),
        Kind::Text(text) if text == "end" => Some(Bound::End),
        Kind::Text(text) | Kind::Time(text) => match parse_time_text(text) {
            // The first whole millisecond at or after it: the log's timestamps have no finer part.
            Ok(ns) => Some(Bound::Time(ns.div_euclid(1_000_000) + i64::from(ns.rem_euclid(1_000_000) > 0))),
            Err(what) => field.fault(faults, format!("{what}; it must be {BOUND}")),
        },
        // A time too: epoch milliseconds, as in records. The bound is that of times as text.
        Kind::Integer(Some(ms)) if ms.checked_mul(1_000_000).is_some() => Some(Bound::Time(*ms)),
        Kind::Table(members) if members.is_empty() => {
            field.fault(faults, format!("names no partition; it must be {BOUND}"))
        }
        Kind::Table(members) => {
            let mut offsets = BTreeMap::new();
            let mut whole = true;
            for member in members {
                let at = Field { path: format!("{}.{}", field.path, member.key), node: &member.node };
                let partition = match member.key.parse::<u32>() {
                    Ok(p) if p.to_string() == member.key && p <= PartitionId::MAX.0 => match partitions {
                        Some(n) if p >= n => {
                            let message = format!(
                                "there is no partition {p}; the topic has {n}, from 0 to {}",
                                n.saturating_sub(1)
                            );
                            at.fault(faults, message)
                        }
                        _ => Some(PartitionId(p)),
                    },
                    _ => at.fault(faults, "is no partition; a partition is a number from 0, like { \"0\" = 812 }"),
                };
                let offset = at.integer(0, Offset::MAX.0 as i64, faults);
                match (partition, offset) {
                    (Some(partition), Some(offset)) => drop(offsets.insert(partition, Offset(offset as u64))),
                    _ => whole = false,
                }
            }
            whole.then_some(Bound::Offsets(offsets))
        }
        kind => field.fault(faults, format!("is {}, but must be {BOUND}", kind.name())),
    }
}

fn ends_before_it_starts(from: &Bound, until: &Bound) -> bool {
    match (from, until) {
        (Bound::Time(from), Bound::Time(until)) => until < from,
        (Bound::Offsets(from), Bound::Offsets(until)) => {
            until.iter().any(|(partition, end)| from.get(partition).is_some_and(|start| end < start))
        }
        _ => false,
    }
}
