//! What a message or a vote says to the polls there are.

use crate::claim::{Add, Claim, EntityHash, HashKey, LineId, More, OrderKey, Position};
use crate::decode::{Event, FormatInfo, Needs, Value};
use crate::jobs::polls::book::{Book, Concerned};
use crate::jobs::voids::Voids;
use crate::number::SCALE;
use crate::operators::match_options::{Found, Scratch};
use crate::operators::messages::Version;
use crate::pointer::Pointer;
use crate::record::RecordRef;
use crate::spec::polls::{Choices, PollsSpec, Reposts};
use crate::spec::{JobSpec, Keep};
use crate::time::parse_time;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::HashSet;

type Reason = Cow<'static, str>;

/// What a record comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It lacks what the job needs, for this reason; which polls there are is of no account.
    Rejected(Reason),
    Judged {
        /// Whether it matches a poll that is in force now.
        now: bool,
        /// Whether it matches one that will be when the refill that runs is shown.
        then: bool,
        /// Why it matches none, if it does not.
        why_not: &'static str,
    },
}

/// What the record says; filled anew by each [`PollJudge::judge`].
#[derive(Default)]
pub struct Says {
    /// A version of a message.
    pub version: Option<Version>,
    /// Votes that contend with others of their voter or id.
    pub claims: SmallVec<[Claim; 1]>,
    /// Lines that a vote without voter and id adds one to.
    pub ones: SmallVec<[LineId; 1]>,
    /// Whether an operator has voided the record, with all that it says.
    pub voided: bool,
}

/// Judges the records of one input of a `polls` job on one worker.
pub struct PollJudge {
    pub says: Says,
    key: HashKey,
    ahead_ns: i64,
    voids: Voids<String>,
    needs: Needs,
    at: usize,
    kind: Kind,
    found: Vec<Found>,
    scratch: Scratch,
}

/// The slots of each kind of record.
#[derive(Clone, Copy)]
enum Kind {
    Message { id: usize, author: usize, text: usize, hashtags: usize, repost: usize },
    Vote { poll: usize, voter: usize, option: usize, id: usize },
}

/// What was read of the record around it.
#[derive(Clone, Copy)]
pub struct Place {
    pub position: Position,
    /// The refill that reads it, if it is not read live.
    pub of_refill: Option<u64>,
    /// Whether it says that a message was deleted.
    pub deleted: bool,
}

impl PollJudge {
    /// Of a job's input with that place. Errors: see [`Voids::new`].
    pub fn new(
        job: &JobSpec,
        spec: &PollsSpec,
        input: usize,
        format: FormatInfo,
        key: HashKey,
    ) -> Result<Self, String> {
        let mut needs = Needs::default();
        let mut slot = |name: &str| needs.slot(&Pointer::from_tokens(vec![name.to_owned()]));
        let at = slot("at");
        let kind = if format.message_id.is_some() {
            let (id, author, text) = (slot("id"), slot("author"), slot("text"));
            Kind::Message { id, author, text, hashtags: slot("hashtags"), repost: slot("repost") }
        } else {
            Kind::Vote { poll: slot("poll"), voter: slot("voter"), option: slot("option"), id: slot("id") }
        };
        let voids = Voids::new(job, input, &mut needs, |entity| Some(entity.to_owned()))?;
        Ok(PollJudge {
            says: Says::default(),
            key,
            ahead_ns: i64::try_from(spec.ahead.as_nanos()).unwrap_or(i64::MAX),
            voids,
            needs,
            at,
            kind,
            found: Vec::new(),
            scratch: Scratch::default(),
        })
    }

    /// What the decoder is to fill the slots of an event with.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// Judges an event by the polls of the book.
    pub fn judge(&mut self, event: &Event<'_>, record: &RecordRef<'_>, place: Place, book: &Book) -> Outcome {
        self.says.version = None;
        self.says.claims.clear();
        self.says.ones.clear();
        let judged = match self.kind {
            Kind::Message { .. } => self.message(event, record, place, book),
            Kind::Vote { .. } => self.vote(event, record, place, book),
        };
        self.says.voided = self.is_voided(event, place.position);
        judged.unwrap_or_else(Outcome::Rejected)
    }

    /// An entity is a vote's voter, a message's author and the message itself.
    fn is_voided(&self, event: &Event<'_>, position: Position) -> bool {
        self.voids.reach(position, event, |voided: &HashSet<String>| match self.kind {
            Kind::Message { id, author, .. } => {
                [id, author].iter().any(|slot| message_name(event, *slot, "").is_ok_and(|name| voided.contains(name)))
            }
            Kind::Vote { voter, .. } => name(event, voter, "").is_ok_and(|name| voided.contains(name)),
        })
    }

    fn message(
        &mut self,
        event: &Event<'_>,
        record: &RecordRef<'_>,
        place: Place,
        book: &Book,
    ) -> Result<Outcome, Reason> {
        let Kind::Message { id, author, text, hashtags, repost } = self.kind else { unreachable!("is a message") };
        let id = message_name(event, id, "the message's id (/id)")?;
        let time_ns = self.time(event, record, place.deleted)?;
        let order = OrderKey { time_ns, position: place.position };
        let mut version = Version { order, log_ms: record.timestamp_ms, ..Version::default() };
        let (mut now, mut then) = (false, false);
        if !place.deleted {
            let author = message_name(event, author, "the author (/author)")?;
            let text = match event.slots[text].as_ref() {
                Some(Value::Text(text)) => &**text,
                None | Some(Value::Null) => return Err("the text (/text) is missing".into()),
                Some(_) => return Err("the text (/text) is no string".into()),
            };
            let hashtags = tags(event.slots[hashtags].as_ref())?;
            let is_repost = match event.slots[repost].as_ref() {
                None | Some(Value::Null) => false,
                Some(Value::Bool(is)) => *is,
                Some(_) => return Err("the mark of a repost (/repost) is neither true nor false".into()),
            };
            let mut by_person = false;
            let lines = &mut version.lines;
            let each = |concerned: Concerned<'_>, options: &[Found]| {
                let Concerned { entry, claims } = concerned;
                let poll = entry.poll();
                if is_repost && poll.reposts == Reposts::Ignore {
                    return;
                }
                let (in_force, will_be) = entry.is_in_force();
                now |= in_force;
                then |= will_be;
                if claims {
                    by_person |= poll.entity.is_some();
                    let options = if poll.choices == Choices::One { &options[..1] } else { options };
                    lines.extend(options.iter().map(|found| entry.lines[usize::from(found.option)]));
                }
            };
            let when = (order, record.timestamp_ms);
            book.matching((text, &hashtags), when, place.of_refill, &mut self.found, &mut self.scratch, each);
            version.lines.sort_unstable();
            if by_person {
                version.author = self.key.entity(&[b"a", author.as_bytes()]);
            }
        }
        // A version that says nothing may yet replace one that does.
        if !version.lines.is_empty() || book.range().wants(time_ns) {
            version.message = self.key.entity(&[b"m", id.as_bytes()]);
            self.says.version = Some(version);
        }
        let why_not =
            if place.deleted { "it deletes a message" } else { "no poll in range has an option that it names" };
        Ok(Outcome::Judged { now, then, why_not })
    }

    fn vote(
        &mut self,
        event: &Event<'_>,
        record: &RecordRef<'_>,
        place: Place,
        book: &Book,
    ) -> Result<Outcome, Reason> {
        let Kind::Vote { poll, voter, option, id } = self.kind else { unreachable!("is a vote") };
        let poll = name(event, poll, "the poll (/poll)")?;
        let voter = name(event, voter, "the voter (/voter)")?;
        let option = match event.slots[option].as_ref() {
            None => return Err("the option (/option) is missing".into()),
            Some(Value::Null) => None,
            Some(_) => Some(name(event, option, "the option (/option)")?),
        };
        let id = match event.slots[id].as_ref() {
            None | Some(Value::Null) => None,
            Some(Value::Text(id) | Value::Number(id)) => Some(&**id),
            Some(_) => return Err("the vote's id is neither a string nor a number".into()),
        };
        let order = OrderKey { time_ns: self.time(event, record, false)?, position: place.position };
        let (mut now, mut then) = (false, false);
        let mut why_not = "there is no such poll in range";
        for Concerned { entry, claims } in book.with_id(poll, (order, record.timestamp_ms), place.of_refill) {
            let of = entry.poll();
            let line = match option {
                None if of.keep == Keep::Last => None,
                None => {
                    why_not = "its option is null";
                    continue;
                }
                Some(option) => match of.options.iter().position(|o| o == option) {
                    Some(at) => Some(entry.lines[at]),
                    None => {
                        why_not = "the poll has no such option";
                        continue;
                    }
                },
            };
            let (in_force, will_be) = entry.is_in_force();
            now |= in_force;
            then |= will_be;
            if !claims {
                continue;
            }
            let subject = entry.subject.to_le_bytes();
            let entity = match (of.entity, id) {
                (Some(_), _) => self.key.entity(&[&b"v"[..], &subject, voter.as_bytes()]),
                (None, Some(id)) => self.key.entity(&[&b"i"[..], &subject, id.as_bytes()]),
                (None, None) => {
                    self.says.ones.extend(line);
                    continue;
                }
            };
            self.says.claims.push(claim(entity, order, entry.subject, line, id.map(|id| self.key.name(&[id]))));
        }
        Ok(Outcome::Judged { now, then, why_not })
    }

    fn time(&self, event: &Event<'_>, record: &RecordRef<'_>, may_lack: bool) -> Result<i64, Reason> {
        let log_ns = record.timestamp_ms.saturating_mul(1_000_000);
        let time = match event.slots[self.at].as_ref() {
            None | Some(Value::Null) if may_lack => return Ok(log_ns),
            None | Some(Value::Null) => return Err("the time (/at) is missing".into()),
            Some(value) => parse_time(value).map_err(|e| format!("the time (/at) {e}"))?,
        };
        if time > log_ns.saturating_add(self.ahead_ns) {
            return Err("the time (/at) is ahead of the log's time by more than the job allows".into());
        }
        Ok(time)
    }
}

fn claim(entity: EntityHash, order: OrderKey, subject: u64, line: Option<LineId>, id: Option<u64>) -> Claim {
    let line = line.unwrap_or(LineId::withdrawn(subject));
    if id.is_none() {
        return Claim { entity, order, line, more: None };
    }
    let add = (line.group != 0).then_some(Add { group: line.group, entry: 0, value: SCALE });
    let more = More { id, adds: add.into_iter().collect(), distinct: SmallVec::new() };
    Claim { entity, order, line: LineId::withdrawn(subject), more: Some(Box::new(more)) }
}

/// The text of a scalar that must be there.
fn name<'e>(event: &'e Event<'_>, slot: usize, what: &str) -> Result<&'e str, Reason> {
    match event.slots[slot].as_ref() {
        None | Some(Value::Null) => Err(format!("{what} is missing").into()),
        Some(Value::Text(text) | Value::Number(text)) => Ok(text),
        Some(Value::Bool(is)) => Ok(if *is { "true" } else { "false" }),
        Some(Value::Array(_)) => Err(format!("{what} is an array").into()),
        Some(Value::Object(_)) => Err(format!("{what} is an object").into()),
    }
}

/// Likewise a name in a message, where true and false are none.
fn message_name<'e>(event: &'e Event<'_>, slot: usize, what: &str) -> Result<&'e str, Reason> {
    match event.slots[slot].as_ref() {
        Some(Value::Bool(_)) => Err(format!("{what} is neither a string nor a number").into()),
        _ => name(event, slot, what),
    }
}

fn tags<'e>(value: Option<&'e Value<'_>>) -> Result<SmallVec<[&'e str; 8]>, Reason> {
    match value {
        None | Some(Value::Null) => Ok(SmallVec::new()),
        Some(Value::Array(tags)) => {
            let text = |tag: &'e Value<'_>| match tag {
                Value::Text(tag) => Ok(&**tag),
                _ => Err(Reason::from("the hashtags (/hashtags) are not all strings")),
            };
            tags.iter().map(text).collect()
        }
        Some(_) => Err("the hashtags (/hashtags) are no array".into()),
    }
}
