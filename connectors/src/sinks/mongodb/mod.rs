//! The MongoDB sink: a document per subject, and one that says which epoch they have all reached.
//!
//! ```text
//!   an epoch:  read the snapshot document --> subjects, in bulk writes --> snapshot document
//!              (is it still ours, is all       (each whole, with the      (its epoch, offsets,
//!               there that was confirmed?)      fence of its epoch)        digest, accounting)
//! ```
//!
//! No transaction is needed: a document is always one whole epoch of its subject, and the snapshot names an
//! epoch that every subject has reached. A crash in between leaves some subjects further than the snapshot,
//! and the next run writes all of them again.
//!
//! **The fence.** Each run that begins to write takes a *turn*, a number above all before, in the snapshot
//! document, and each document holds the turn and the epoch that wrote it. A write replaces a document only
//! where neither is later than its own: `{_id, turn: {$lte: t}, epoch: {$lte: e}}` with upsert. Where that
//! does not match, the upsert meets the `_id` that is there, and the server answers 11000: a later one
//! stands. So whoever was frozen in the middle of an epoch writes nothing over others when it wakes up.
//! Where epochs begin anew (`--take-over`), what later ones have left is removed first, under the new turn.
//!
//! **Lost writes.** A server may come back without what it has confirmed. The snapshot document is then
//! older than what was written last, or not there; and within an epoch the connection was another. Both end
//! in an error, after which everything is written anew.

mod client;
mod document;
mod number;

use super::uri;
use super::{Ending, Grain, Opening, Sink, SinkEpoch, SinkError, Writer};
use client::{Batch, Link, Rejected};
use document::Shape;
use mongodb::bson::{Bson, Document, doc};
use tallyflow_dataflows::crash;
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::spec::MongodbSpec;

/// Of the snapshot document.
const FORMAT: i64 = 1;

/// A job's place in a database. Several jobs may share a collection.
pub struct MongodbSink {
    link: Link,
    shape: Shape,
    job: String,
    aggregates: Vec<String>,
    writer: Writer,
    take_over_ms: Option<i64>,
    transactions: bool,
    /// What it writes under, once it has begun.
    turn: Option<i64>,
    written: Option<Epoch>,
}

/// The snapshot document as it stands.
struct Held {
    turn: i64,
    /// `None`: there was none yet since the turn was taken.
    epoch: Option<Epoch>,
    writer: Writer,
    taken_over_ms: Option<i64>,
}

impl MongodbSink {
    /// Connects. Nothing is written yet.
    pub fn open(spec: &MongodbSpec, opening: &Opening, ending: &Ending) -> Result<Self, SinkError> {
        let place = uri::shown(&spec.uri, &format!("{}.{}", spec.database, spec.collection));
        let unusable = |what| SinkError::Unusable { path: place.clone(), what };
        let text = uri::find(&spec.uri, &opening.data_dir).map_err(unusable)?;
        let link = Link::open(&text, place.clone(), &spec.database, &spec.collection)?;
        let sink = MongodbSink {
            link,
            shape: Shape::new(spec.shape, &opening.job),
            job: opening.job.clone(),
            aggregates: opening.aggregates.clone(),
            writer: opening.writer.clone(),
            take_over_ms: opening.take_over_ms,
            transactions: spec.transactions,
            turn: None,
            written: None,
        };
        sink.held(ending)?;
        Ok(sink)
    }

    /// The newest epoch that every subject has reached.
    pub fn newest_epoch(&self, ending: &Ending) -> Result<Option<Epoch>, SinkError> {
        Ok(self.held(ending)?.and_then(|held| held.epoch))
    }

    fn path(&self) -> String {
        self.link.place().to_owned()
    }

    /// Reads the snapshot document.
    fn held(&self, ending: &Ending) -> Result<Option<Held>, SinkError> {
        let Some(found) = self.link.snapshot(&self.job, ending)? else { return Ok(None) };
        let foreign = || SinkError::Unusable {
            path: self.path(),
            what: format!(
                "the document {:?} in {} is none of a sink; move it away or choose another collection",
                self.job,
                self.link.snapshots()
            ),
        };
        let number = |key: &str| found.get_i64(key).ok();
        let format = number("format").ok_or_else(foreign)?;
        if format > FORMAT {
            return Err(SinkError::Newer { path: self.path(), found: format, known: FORMAT });
        }
        let writer = found.get_document("writer").map_err(|_| foreign())?;
        let text = |key: &str| writer.get_str(key).map(str::to_owned).map_err(|_| foreign());
        Ok(Some(Held {
            turn: number("turn").ok_or_else(foreign)?,
            epoch: number("epoch").map(|epoch| Epoch(epoch as u64)),
            writer: Writer {
                server: text("server")?,
                generation: writer.get_i64("generation").map_err(|_| foreign())? as u64,
                run: text("run")?,
            },
            taken_over_ms: number("taken_over_ms"),
        }))
    }

    /// That the turn is still ours, and that all is there that was confirmed.
    fn check(&self, held: Option<Held>, turn: i64) -> Result<(), SinkError> {
        let lost = |found| match self.written {
            Some(written) => SinkError::LostWrites { path: self.path(), written, found },
            None => self.link.again("the turn to write was lost"),
        };
        let Some(held) = held else { return Err(lost(None)) };
        if held.writer.run == self.writer.run && held.turn == turn {
            return if held.epoch < self.written { Err(lost(held.epoch)) } else { Ok(()) };
        }
        if held.turn < turn {
            return Err(lost(held.epoch));
        }
        self.yield_to(&held.writer)?;
        Err(SinkError::TakenOver { path: self.path() })
    }

    /// Refuses where a later start of the same server writes.
    fn yield_to(&self, theirs: &Writer) -> Result<(), SinkError> {
        let own = self.writer.generation;
        if theirs.server == self.writer.server && theirs.run != self.writer.run && theirs.generation >= own {
            return Err(SinkError::Superseded { path: self.path(), theirs: theirs.generation, own });
        }
        Ok(())
    }

    /// Takes the turn to write, unless that is another's.
    fn enter(&mut self, held: Option<Held>, offered: Epoch, ending: &Ending) -> Result<i64, SinkError> {
        let newer = |stored: Epoch| SinkError::NewerEpoch { stored, offered };
        if let Some(held) = &held {
            if held.writer.run == self.writer.run {
                return match held.epoch.filter(|epoch| *epoch > offered) {
                    Some(stored) => Err(newer(stored)),
                    None => Ok(held.turn),
                };
            }
            self.yield_to(&held.writer)?;
        }
        let is_own = held.as_ref().is_some_and(|held| held.writer.server == self.writer.server);
        let stored = match held.as_ref().and_then(|held| held.epoch) {
            Some(epoch) => Some(epoch),
            // Nobody has come to the end of an epoch, or the snapshot is gone: the documents tell.
            None if !is_own => self.link.newest(&self.shape.all_of_job(), ending)?,
            None => None,
        };
        let taken_over_ms = held.as_ref().and_then(|held| held.taken_over_ms);
        let taking_over = self.take_over_ms.filter(|told| taken_over_ms.is_none_or(|taken| *told > taken));
        let stands_later = stored.filter(|stored| *stored > offered);
        if let Some(stored) = stands_later.filter(|_| !is_own && taking_over.is_none()) {
            return Err(newer(stored));
        }
        // Above every turn before, also one that the server has lost.
        let before = held.as_ref().map(|held| held.turn);
        let turn = jiff::Timestamp::now().as_millisecond().max(before.map_or(0, |turn| turn + 1));
        let mut set = doc! {
            "format": FORMAT,
            "turn": turn,
            "writer": {
                "server": &self.writer.server,
                "generation": self.writer.generation as i64,
                "run": &self.writer.run,
            },
        };
        if let Some(told) = taking_over.filter(|_| !is_own) {
            set.insert("taken_over_ms", told);
        }
        let mut change = doc! { "$set": set };
        if stands_later.is_some() {
            // No subject has reached what begins now.
            change.insert("$unset", doc! { "epoch": 1, "at": 1, "offsets": 1, "digest": 1, "accounting": 1 });
        }
        let taken = match before {
            Some(before) => self.link.set_snapshot(doc! { "_id": &self.job, "turn": before }, change, false, ending)?,
            None => self.link.set_snapshot(doc! { "_id": &self.job, "turn": turn }, change, true, ending)?,
        };
        if taken { Ok(turn) } else { Err(self.link.again("another server began to write at the same time")) }
    }

    /// Writes the subjects of an epoch, all but those that the server refuses.
    fn subjects(&mut self, epoch: &SinkEpoch, turn: i64, ending: &Ending) -> Result<(), SinkError> {
        if epoch.reset {
            let (command, statement) = self.shape.clearing(epoch, turn);
            self.link.write_many(command, &statement, ending)?;
        }
        let mut refused: Vec<Rejected> = Vec::new();
        let mut batch = Batch::default();
        for statement in self.shape.statements(epoch, turn) {
            if !batch.has_room(&statement) {
                refused.extend(self.link.write(std::mem::take(&mut batch), ending)?);
                crash::point("sink::part");
                // It has ended the transaction.
                if self.transactions && !refused.is_empty() {
                    break;
                }
            }
            batch.push(statement);
        }
        if !self.transactions || refused.is_empty() {
            refused.extend(self.link.write(batch, ending)?);
        }
        if epoch.reset && refused.is_empty() {
            let (command, statement) = self.shape.leftovers(epoch, turn);
            self.link.write_many(command, &statement, ending)?;
        }
        // A later one that stands tells more than a document that does not fit.
        let others = refused.len().saturating_sub(1);
        let at = refused.iter().position(|rejected| rejected.code == client::DUPLICATE_KEY).unwrap_or(0);
        match refused.into_iter().nth(at) {
            None => Ok(()),
            Some(first) => Err(self.refusal(first, others, epoch, turn, ending)),
        }
    }

    /// Why a document was not taken.
    fn refusal(&self, first: Rejected, others: usize, epoch: &SinkEpoch, turn: i64, ending: &Ending) -> SinkError {
        let refused = |what| SinkError::Refused { path: self.path(), subject: first.subject.clone(), what, others };
        if first.code != client::DUPLICATE_KEY {
            return refused(first.what);
        }
        let there = match self.link.document(&first.id, ending) {
            Ok(Some(there)) => there,
            Ok(None) => return self.link.again("a document was removed meanwhile"),
            Err(error) => return error,
        };
        match (there.get_i64("turn"), there.get_i64("epoch")) {
            (Ok(theirs), Ok(_)) if theirs > turn => SinkError::TakenOver { path: self.path() },
            (_, Ok(stored)) if stored as u64 > epoch.epoch.0 => {
                SinkError::NewerEpoch { stored: Epoch(stored as u64), offered: epoch.epoch }
            }
            (Ok(_), Ok(_)) => self.link.again("another server wrote at the same time"),
            _ => refused("a document that is none of a sink has its _id; move that away".to_owned()),
        }
    }

    fn snapshot(&self, epoch: &SinkEpoch) -> Document {
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
        let whole = |value: &serde_json::Value| Bson::Int64(value.as_i64().unwrap_or_default());
        let members = |value: &serde_json::Value| value.as_object().cloned().unwrap_or_default();
        // A topic may have a dot in its name, which not every server takes in a name of a field.
        let offsets = members(&json(&epoch.offsets_json)).into_iter().map(|(topic, next)| {
            let next: Vec<Bson> = next.as_array().into_iter().flatten().map(whole).collect();
            Bson::Document(doc! { "topic": topic, "next": next })
        });
        let accounting: Document =
            members(&json(&epoch.accounting_json)).iter().map(|(key, value)| (key.clone(), whole(value))).collect();
        doc! {
            "epoch": epoch.epoch.0 as i64,
            "at": document::time(epoch.at_ms),
            "offsets": offsets.collect::<Vec<Bson>>(),
            "digest": &epoch.digest,
            "accounting": accounting,
            "aggregates": self.aggregates.clone(),
        }
    }
}

impl Sink for MongodbSink {
    fn grain(&self) -> Grain {
        if self.shape.is_socialpoll() { Grain::Polls } else { Grain::Subjects }
    }

    fn take(&mut self, epoch: &SinkEpoch, ending: &Ending) -> Result<(), SinkError> {
        match self.written.filter(|_| !epoch.reset) {
            Some(written) if written == epoch.epoch => return Ok(()),
            Some(written) if written > epoch.epoch => {
                return Err(SinkError::NewerEpoch { stored: written, offered: epoch.epoch });
            }
            _ => {}
        }
        let held = self.held(ending)?;
        let turn = match self.turn {
            Some(turn) if !epoch.reset => {
                self.check(held, turn)?;
                turn
            }
            _ => self.enter(held, epoch.epoch, ending)?,
        };
        self.turn = Some(turn);
        // From the first answer of this epoch on, all goes over one connection, to one run of the server.
        let connections = self.link.connections();
        if self.transactions {
            self.link.begin(ending)?;
        }
        self.subjects(epoch, turn, ending)?;
        self.link.still(connections)?;
        crash::point("sink::written");
        let whose = doc! { "_id": &self.job, "turn": turn, "writer.run": &self.writer.run };
        if !self.link.set_snapshot(whose, doc! { "$set": self.snapshot(epoch) }, false, ending)? {
            return Err(self.link.again("the turn to write was lost or is another's"));
        }
        self.link.commit(ending)?;
        self.link.still(connections)?;
        crash::point("sink::committed");
        self.written = Some(epoch.epoch);
        Ok(())
    }
}
