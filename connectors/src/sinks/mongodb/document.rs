//! What stands in the documents, and the statements that write them. docs/mongodb-sink.md describes them to
//! those who query them.

use super::number;
use crate::sinks::{SinkEpoch, SinkPoll};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::raw::{CString, RawArrayBuf, RawDocumentBuf, cstr};
use mongodb::bson::{Bson, DateTime, Document, RawBson, doc};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use tallyflow_dataflows::results::{Group, SubjectTallies, Tally};
use tallyflow_dataflows::spec::MongodbShape;

/// The most bytes of a subject's lines: a document of MongoDB has at most 16 MiB, with all else in it.
/// <https://www.mongodb.com/docs/manual/reference/limits/>
pub(super) const LINES_BYTES_MAX: usize = 15 << 20;

/// Which command a statement is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Command {
    #[default]
    Update,
    Delete,
}

/// What is to be done to one document.
pub(super) struct Statement {
    pub command: Command,
    pub id: Bson,
    pub subject: String,
    pub raw: RawDocumentBuf,
}

/// What the documents of a job look like.
pub(super) struct Shape {
    shape: MongodbShape,
    job: String,
}

/// A moment as MongoDB has it.
pub(super) fn time(ms: i64) -> DateTime {
    DateTime::from_millis(ms)
}

impl Shape {
    pub fn new(shape: MongodbShape, job: &str) -> Shape {
        Shape { shape, job: job.to_owned() }
    }

    pub fn is_socialpoll(&self) -> bool {
        self.shape == MongodbShape::Socialpoll
    }

    /// A job's name has no `/`, so that no two jobs share an id. The programs of socialpoll want an ObjectId.
    fn id(&self, subject: &str) -> Bson {
        let id = format!("{}/{subject}", self.job);
        if !self.is_socialpoll() {
            return Bson::String(id);
        }
        let mut bytes = [0; 12];
        bytes.copy_from_slice(&Sha256::digest(id.as_bytes())[..12]);
        Bson::ObjectId(ObjectId::from_bytes(bytes))
    }

    /// Finds every document of the job, those of removed subjects too.
    pub fn all_of_job(&self) -> Document {
        if self.is_socialpoll() {
            return doc! { "job": &self.job };
        }
        // By the index that is always there; `0` comes after `/`.
        doc! { "_id": { "$gte": format!("{}/", self.job), "$lt": format!("{}0", self.job) } }
    }

    /// The statements of an epoch, one for each subject that it changed.
    pub fn statements<'a>(&'a self, epoch: &'a SinkEpoch, turn: i64) -> impl Iterator<Item = Statement> + 'a {
        let there =
            epoch.subjects.iter().map(move |subject| self.replace(epoch, turn, &subject.subject, Some(subject)));
        let gone = epoch.gone.iter().map(move |subject| match self.shape {
            MongodbShape::Tallies => self.replace(epoch, turn, subject, None),
            MongodbShape::Socialpoll => self.delete(epoch, turn, subject),
        });
        there.chain(gone)
    }

    /// What a run's first epoch does before all else, where epochs begin anew: what later ones have left is
    /// removed.
    pub fn clearing(&self, epoch: &SinkEpoch, turn: i64) -> (Command, Document) {
        let mut filter = self.all_of_job();
        filter.extend(doc! { "turn": { "$lt": turn }, "epoch": { "$gt": epoch.epoch.0 as i64 } });
        self.remove(filter, epoch, turn)
    }

    /// And last, to the documents that it did not write: those subjects are gone.
    pub fn leftovers(&self, epoch: &SinkEpoch, turn: i64) -> (Command, Document) {
        let older = doc! { "turn": turn, "epoch": { "$lt": epoch.epoch.0 as i64 } };
        let mut filter = self.all_of_job();
        filter.insert("$or", vec![doc! { "turn": { "$lt": turn } }, older]);
        self.remove(filter, epoch, turn)
    }

    fn remove(&self, filter: Document, epoch: &SinkEpoch, turn: i64) -> (Command, Document) {
        match self.shape {
            MongodbShape::Socialpoll => (Command::Delete, doc! { "q": filter, "limit": 0 }),
            MongodbShape::Tallies => {
                let none = Bson::Array(Vec::new());
                let set = doc! {
                    "epoch": epoch.epoch.0 as i64, "turn": turn, "at": time(epoch.at_ms), "removed": true,
                    "total": Bson::Null, "lines": 0_i64, "tallies": none,
                };
                let change = doc! { "$set": set, "$unset": { "truncated": 1 } };
                (Command::Update, doc! { "q": filter, "u": change, "multi": true })
            }
        }
    }

    /// The document, unless a later one stands there.
    fn filter(&self, epoch: &SinkEpoch, turn: i64, id: &Bson) -> RawBson {
        raw(doc! { "_id": id, "turn": { "$lte": turn }, "epoch": { "$lte": epoch.epoch.0 as i64 } })
    }

    fn delete(&self, epoch: &SinkEpoch, turn: i64, subject: &str) -> Statement {
        let id = self.id(subject);
        let mut statement = RawDocumentBuf::new();
        statement.append(cstr!("q"), self.filter(epoch, turn, &id));
        statement.append(cstr!("limit"), 1_i32);
        Statement { command: Command::Delete, id, subject: subject.to_owned(), raw: statement }
    }

    fn replace(&self, epoch: &SinkEpoch, turn: i64, subject: &str, there: Option<&SubjectTallies>) -> Statement {
        let id = self.id(subject);
        let mut document = RawDocumentBuf::new();
        match &id {
            Bson::ObjectId(id) => document.append(cstr!("_id"), *id),
            Bson::String(id) => document.append(cstr!("_id"), id.as_str()),
            _ => {}
        }
        document.append(cstr!("job"), self.job.as_str());
        document.append(cstr!("subject"), subject);
        document.append(cstr!("epoch"), epoch.epoch.0 as i64);
        document.append(cstr!("turn"), turn);
        document.append(cstr!("at"), time(epoch.at_ms));
        match (there, self.shape) {
            (None, _) => {
                document.append(cstr!("removed"), true);
                append_tallies(&mut document, None, &[]);
            }
            (Some(there), MongodbShape::Tallies) => {
                append_tallies(&mut document, there.total.map(number::of), &there.tallies)
            }
            (Some(there), MongodbShape::Socialpoll) => append_poll(&mut document, there, epoch.polls.get(subject)),
        }
        let mut statement = RawDocumentBuf::new();
        statement.append(cstr!("q"), self.filter(epoch, turn, &id));
        statement.append(cstr!("u"), document);
        statement.append(cstr!("upsert"), true);
        Statement { command: Command::Update, id, subject: subject.to_owned(), raw: statement }
    }
}

/// Only what can be in a document is put in there.
fn raw(document: Document) -> RawBson {
    RawBson::try_from(Bson::Document(document)).unwrap_or(RawBson::Null)
}

/// `total`, `lines` and `tallies`, as answers have them, as far as they fit.
fn append_tallies(document: &mut RawDocumentBuf, total: Option<RawBson>, tallies: &[Tally]) {
    document.append(cstr!("total"), total.unwrap_or(RawBson::Null));
    document.append(cstr!("lines"), tallies.len() as i64);
    let (mut array, mut bytes, mut fit) = (RawArrayBuf::new(), 0, 0);
    for tally in tallies {
        let line = line(tally);
        // With its type and the digits of its index.
        bytes += line.as_bytes().len() + 12;
        if bytes > LINES_BYTES_MAX {
            break;
        }
        array.push(line);
        fit += 1;
    }
    if fit < tallies.len() {
        document.append(cstr!("truncated"), true);
    }
    document.append(cstr!("tallies"), array);
}

fn line(tally: &Tally) -> RawDocumentBuf {
    let mut line = RawDocumentBuf::new();
    match tally.group.0.as_slice() {
        [] => line.append(cstr!("group"), ""),
        [one] => line.append(cstr!("group"), one.as_str()),
        several => {
            let mut parts = RawArrayBuf::new();
            several.iter().for_each(|part| parts.push(part.as_str()));
            line.append(cstr!("group"), parts);
        }
    }
    line.append(cstr!("value"), number::of(tally.value));
    if let Some(share) = tally.share {
        line.append(cstr!("share"), share);
    }
    if let Some(aggregates) = &tally.aggregates {
        // A name like `distinct:/a.b` is no name of a field to every server.
        let mut named = RawArrayBuf::new();
        for (name, value) in aggregates {
            let mut aggregate = RawDocumentBuf::new();
            aggregate.append(cstr!("name"), name.as_str());
            aggregate.append(cstr!("value"), number::of(*value));
            named.push(aggregate);
        }
        line.append(cstr!("aggregates"), named);
    }
    line
}

/// `title`, `options` and `results`: options in the order of the poll's definition.
fn append_poll(document: &mut RawDocumentBuf, there: &SubjectTallies, poll: Option<&SinkPoll>) {
    document.append(cstr!("title"), poll.map_or(there.subject.as_str(), |poll| poll.title.as_str()));
    let lines: HashMap<&Group, &Tally> = there.tallies.iter().map(|tally| (&tally.group, tally)).collect();
    let defined: Vec<Group> =
        poll.map_or_else(Vec::new, |poll| poll.options.iter().map(|o| Group(vec![o.clone()])).collect());
    let known: HashSet<&Group> = defined.iter().collect();
    let ordered = defined.iter().filter_map(|group| lines.get(group).copied());
    let others = there.tallies.iter().filter(|tally| !known.contains(&tally.group));
    let (mut options, mut results, mut bytes, mut fit) = (RawArrayBuf::new(), RawDocumentBuf::new(), 0, 0);
    for tally in ordered.chain(others) {
        // No name of a field holds a NUL: its picture stands for it.
        let option = tally.group.text().replace('\0', "\u{2400}");
        let Ok(key) = CString::try_from(option.as_str()) else { continue };
        bytes += 2 * option.len() + 48;
        if bytes > LINES_BYTES_MAX {
            break;
        }
        options.push(option.as_str());
        results.append(key, number::of(tally.value));
        fit += 1;
    }
    if fit < there.tallies.len() {
        document.append(cstr!("truncated"), true);
    }
    document.append(cstr!("options"), options);
    document.append(cstr!("results"), results);
}
