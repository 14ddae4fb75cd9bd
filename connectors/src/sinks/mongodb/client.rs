//! The driver, with a bound on everything: time, bytes, connections, and what an error may say.

use super::document::{Command, Statement};
use super::uri;
use crate::sinks::{Ending, SinkError};
use mongodb::bson::raw::{RawArrayBuf, RawDocumentBuf, cstr};
use mongodb::bson::{Bson, Document, RawBson, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::event::EventHandler;
use mongodb::event::cmap::CmapEvent;
use mongodb::options::{Acknowledgment, ClientOptions, WriteConcern};
use mongodb::{Client, ClientSession, Database};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tallyflow_dataflows::ids::Epoch;
use tokio::runtime::Runtime;

/// How long one call may take, with looking for the server.
const CALL_MAX: Duration = Duration::from_secs(30);
/// How long a server is looked for, and a connection made, unless the uri says otherwise.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long the server may wait for its replicas, unless the uri says otherwise.
const CONFIRM_MAX: Duration = Duration::from_secs(20);
/// How often it is looked whether the follower is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The most documents and bytes of one write; one document may be larger. MongoDB takes 100,000 and 48 MB.
const STATEMENTS_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 8 << 20;
/// What is told of an error.
const ERROR_CHARS_MAX: usize = 400;

/// MongoDB's code of a key that is there already.
pub(super) const DUPLICATE_KEY: i32 = 11_000;
/// Unauthorized and AuthenticationFailed.
const NOT_ALLOWED: [i32; 2] = [13, 18];
/// IllegalOperation: transactions on a server that is no member of a replica set.
const ILLEGAL: i32 = 20;

/// A document that the server did not take.
pub(super) struct Rejected {
    pub id: Bson,
    pub subject: String,
    pub code: i32,
    pub what: String,
}

/// Statements of one command.
#[derive(Default)]
pub(super) struct Batch {
    command: Command,
    statements: RawArrayBuf,
    bytes: usize,
    of: Vec<(Bson, String)>,
}

impl Batch {
    pub fn has_room(&self, next: &Statement) -> bool {
        self.of.is_empty()
            || self.command == next.command
                && self.of.len() < STATEMENTS_MAX
                && self.bytes + next.raw.as_bytes().len() <= BATCH_BYTES_MAX
    }

    pub fn push(&mut self, statement: Statement) {
        self.command = statement.command;
        self.bytes += statement.raw.as_bytes().len();
        self.of.push((statement.id, statement.subject));
        self.statements.push(statement.raw);
    }
}

/// A connection to a database, and no more than one: so it can be told whether all of an epoch went to one
/// run of the server.
pub(super) struct Link {
    calls: Calls,
    db: Database,
    client: Client,
    collection: String,
    write_concern: Document,
    /// How many connections were made.
    connections: Arc<AtomicU64>,
    /// While an epoch is a transaction.
    session: Option<ClientSession>,
}

/// How the driver is called.
struct Calls {
    runtime: &'static Runtime,
    place: String,
    secrets: Vec<String>,
}

/// One for all sinks, with a thread of its own that keeps their connections watched between writes.
fn runtime() -> Result<&'static Runtime, String> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("mongodb").enable_all().build().map_err(|error| error.to_string())
    });
    made.as_ref().map_err(|error| format!("no runtime for the driver: {error}"))
}

impl Calls {
    /// Waits for a call, as long as it and the ending allow.
    fn run<T>(
        &self,
        what: &str,
        ending: &Ending,
        call: impl Future<Output = mongodb::error::Result<T>>,
    ) -> Result<T, SinkError> {
        let until = Instant::now() + CALL_MAX;
        self.runtime.block_on(async {
            let mut call = pin!(call);
            loop {
                match tokio::time::timeout(LOOK_EVERY, &mut call).await {
                    Ok(answer) => return answer.map_err(|error| self.error(what, &error)),
                    Err(_) if ending.is_over() => return Err(self.again("it was broken off, to end in time")),
                    Err(_) if Instant::now() >= until => {
                        return Err(self.again(&format!("{what}: no answer within {CALL_MAX:?}")));
                    }
                    Err(_) => {}
                }
            }
        })
    }

    fn again(&self, what: &str) -> SinkError {
        SinkError::Io { path: self.place.clone(), what: what.to_owned() }
    }

    fn error(&self, what: &str, error: &Error) -> SinkError {
        let text = self.clean(&error.kind.to_string());
        let remedy = match &*error.kind {
            ErrorKind::Authentication { .. } => "see that its uri has the right user and password",
            ErrorKind::Command(command) if NOT_ALLOWED.contains(&command.code) => {
                "see that its user may read and write there"
            }
            ErrorKind::Command(command) if command.code == ILLEGAL && self.is_of_transactions(&command.message) => {
                "it has no transactions, which only replica sets have; leave out `transactions`"
            }
            ErrorKind::SessionsNotSupported => {
                "it has no transactions, which only replica sets have; leave out `transactions`"
            }
            ErrorKind::InvalidArgument { .. } | ErrorKind::InvalidTlsConfig { .. } => "see to its uri",
            ErrorKind::IncompatibleServer { .. } => "use MongoDB 4.4 or newer",
            _ => return self.again(&format!("{what}: {text}")),
        };
        SinkError::Unusable { path: self.place.clone(), what: format!("{what}: {text}; {remedy}") }
    }

    fn is_of_transactions(&self, message: &str) -> bool {
        message.to_ascii_lowercase().contains("transaction")
    }

    /// An error's text in one line that is not too long, and without secrets.
    fn clean(&self, text: &str) -> String {
        let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let text = uri::without(text, &self.secrets);
        match text.char_indices().nth(ERROR_CHARS_MAX) {
            Some((at, _)) => format!("{}...", &text[..at]),
            None => text,
        }
    }
}

impl Link {
    /// Reads the uri. The server is not looked for yet.
    pub fn open(text: &str, place: String, database: &str, collection: &str) -> Result<Link, SinkError> {
        let unusable = |what: String| SinkError::Unusable { path: place.clone(), what };
        let calls = Calls { runtime: runtime().map_err(unusable)?, place: place.clone(), secrets: uri::secrets(text) };
        if text.starts_with("mongodb+srv://") && !cfg!(feature = "tls") {
            return Err(unusable(
                "this program is built without the names of mongodb+srv://; build it with --features tls, or name the servers"
                    .to_owned(),
            ));
        }
        let mut options = calls.run("its uri", &Ending::default(), async { ClientOptions::parse(text).await })?;
        let connections = Arc::new(AtomicU64::new(0));
        let made = connections.clone();
        options.app_name.get_or_insert_with(|| "tallyflow".to_owned());
        options.server_selection_timeout.get_or_insert(CONNECT_MAX);
        options.connect_timeout.get_or_insert(CONNECT_MAX);
        options.max_pool_size = Some(1);
        options.min_pool_size = None;
        options.selection_criteria = None;
        // What fails is written again as a whole: the driver need not guess.
        options.retry_writes = Some(false);
        options.retry_reads = Some(false);
        options.cmap_event_handler = Some(EventHandler::callback(move |event| {
            if matches!(event, CmapEvent::ConnectionReady(_)) {
                made.fetch_add(1, Ordering::AcqRel);
            }
        }));
        let write_concern = confirmed(options.write_concern.take()).map_err(unusable)?;
        // The driver spawns what watches the server.
        let _entered = calls.runtime.enter();
        let client = Client::with_options(options).map_err(|error| calls.error("its uri", &error))?;
        let db = client.database(database);
        let collection = collection.to_owned();
        Ok(Link { calls, db, client, collection, write_concern, connections, session: None })
    }

    /// Where it writes, to be shown.
    pub fn place(&self) -> &str {
        &self.calls.place
    }

    /// The collection of snapshot documents.
    pub fn snapshots(&self) -> String {
        format!("{}_snapshots", self.collection)
    }

    /// Something that may work when it is tried again.
    pub fn again(&self, what: &str) -> SinkError {
        self.calls.again(what)
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Acquire)
    }

    /// That the connection is still that one.
    pub fn still(&self, connections: u64) -> Result<(), SinkError> {
        if self.connections() == connections {
            return Ok(());
        }
        Err(self.again("the connection was lost in the middle of an epoch, which is written again"))
    }

    /// The job's snapshot document.
    pub fn snapshot(&self, job: &str, ending: &Ending) -> Result<Option<Document>, SinkError> {
        let snapshots = self.db.collection::<Document>(&self.snapshots());
        self.calls.run("reading the snapshot", ending, async { snapshots.find_one(doc! { "_id": job }).await })
    }

    /// A subject's document.
    pub fn document(&self, id: &Bson, ending: &Ending) -> Result<Option<Document>, SinkError> {
        let documents = self.db.collection::<Document>(&self.collection);
        let fields = doc! { "turn": 1, "epoch": 1 };
        self.calls.run("reading a document", ending, async {
            documents.find_one(doc! { "_id": id }).projection(fields).await
        })
    }

    /// The greatest epoch of the documents that a filter finds.
    pub fn newest(&self, filter: &Document, ending: &Ending) -> Result<Option<Epoch>, SinkError> {
        let documents = self.db.collection::<Document>(&self.collection);
        let found = self.calls.run("reading the documents", ending, async {
            documents.find_one(filter.clone()).sort(doc! { "epoch": -1 }).projection(doc! { "epoch": 1 }).await
        })?;
        Ok(found.and_then(|found| found.get_i64("epoch").ok()).map(|epoch| Epoch(epoch as u64)))
    }

    /// Begins a transaction, in which all is written until [`Link::commit`].
    pub fn begin(&mut self, ending: &Ending) -> Result<(), SinkError> {
        self.session = None;
        let (client, w) = (&self.client, self.write_concern.clone());
        let session = self.calls.run("beginning a transaction", ending, async {
            let mut session = client.start_session().await?;
            let w: WriteConcern = mongodb::bson::deserialize_from_document(w)?;
            session.start_transaction().write_concern(w).await?;
            Ok(session)
        })?;
        self.session = Some(session);
        Ok(())
    }

    /// Ends the transaction, where there is one.
    pub fn commit(&mut self, ending: &Ending) -> Result<(), SinkError> {
        let Some(mut session) = self.session.take() else { return Ok(()) };
        self.calls.run("committing the transaction", ending, async { session.commit_transaction().await })
    }

    /// Changes the snapshot document that the filter finds; whether there was one, or one was made.
    pub fn set_snapshot(
        &mut self,
        filter: Document,
        change: Document,
        upsert: bool,
        ending: &Ending,
    ) -> Result<bool, SinkError> {
        let command = doc! {
            "update": self.snapshots(),
            "updates": [{ "q": filter, "u": change, "upsert": upsert }],
        };
        let command = RawDocumentBuf::try_from(&command).map_err(|error| self.again(&error.to_string()))?;
        let answer = self.command("writing the snapshot", command, ending)?;
        match errors(&answer).next() {
            Some((_, DUPLICATE_KEY, _)) => Ok(false),
            Some((_, _, what)) => Err(self.again(&format!("writing the snapshot: {}", self.calls.clean(&what)))),
            None => Ok(number(&answer, "n") > 0),
        }
    }

    /// Writes statements, each for itself; those that the server did not take.
    pub fn write(&mut self, batch: Batch, ending: &Ending) -> Result<Vec<Rejected>, SinkError> {
        if batch.of.is_empty() {
            return Ok(Vec::new());
        }
        let Batch { command, statements, of, .. } = batch;
        let answer = self.statements(command, statements, ending)?;
        let rejected = errors(&answer).map(|(index, code, what)| {
            let (id, subject) = of.get(index).cloned().unwrap_or((Bson::Null, String::new()));
            Rejected { id, subject, code, what: self.calls.clean(&what) }
        });
        Ok(rejected.collect())
    }

    /// Writes one statement about many documents.
    pub fn write_many(&mut self, command: Command, statement: &Document, ending: &Ending) -> Result<(), SinkError> {
        let statement = RawDocumentBuf::try_from(statement).map_err(|error| self.again(&error.to_string()))?;
        let mut statements = RawArrayBuf::new();
        statements.push(statement);
        let answer = self.statements(command, statements, ending)?;
        match errors(&answer).next() {
            Some((_, _, what)) => Err(self.again(&format!("writing: {}", self.calls.clean(&what)))),
            None => Ok(()),
        }
    }

    fn statements(
        &mut self,
        command: Command,
        statements: RawArrayBuf,
        ending: &Ending,
    ) -> Result<Document, SinkError> {
        let mut raw = RawDocumentBuf::new();
        match command {
            Command::Update => {
                raw.append(cstr!("update"), self.collection.as_str());
                raw.append(cstr!("updates"), statements);
            }
            Command::Delete => {
                raw.append(cstr!("delete"), self.collection.as_str());
                raw.append(cstr!("deletes"), statements);
            }
        }
        // In a transaction the first error ends it.
        raw.append(cstr!("ordered"), self.session.is_some());
        self.command("writing", raw, ending)
    }

    fn command(&mut self, what: &str, mut raw: RawDocumentBuf, ending: &Ending) -> Result<Document, SinkError> {
        let (db, session) = (&self.db, &mut self.session);
        if session.is_none() {
            let concern = RawBson::try_from(Bson::Document(self.write_concern.clone()));
            raw.append(cstr!("writeConcern"), concern.map_err(|error| self.calls.again(&error.to_string()))?);
        }
        let answer = self.calls.run(what, ending, async {
            let call = db.run_raw_command(raw);
            match session {
                Some(session) => call.session(session).await,
                None => call.await,
            }
        })?;
        // Whatever was not confirmed may be lost.
        if let Ok(error) = answer.get_document("writeConcernError") {
            let text = self.calls.clean(error.get_str("errmsg").unwrap_or("no reason was given"));
            return Err(self.calls.again(&format!("{what}: it was not confirmed: {text}")));
        }
        Ok(answer)
    }
}

/// As the uri has it, but always confirmed; in the journal and by most replicas where it says nothing.
fn confirmed(concern: Option<WriteConcern>) -> Result<Document, String> {
    let mut concern = concern.unwrap_or_default();
    if matches!(concern.w, Some(Acknowledgment::Nodes(0))) {
        return Err("w=0 in its uri: what is not confirmed can be lost unseen; leave it out".to_owned());
    }
    concern.w.get_or_insert(Acknowledgment::Majority);
    concern.journal.get_or_insert(true);
    concern.w_timeout.get_or_insert(CONFIRM_MAX);
    mongodb::bson::serialize_to_document(&concern).map_err(|error| error.to_string())
}

fn number(answer: &Document, key: &str) -> i64 {
    match answer.get(key) {
        Some(Bson::Int32(n)) => i64::from(*n),
        Some(Bson::Int64(n)) => *n,
        Some(Bson::Double(n)) => *n as i64,
        _ => 0,
    }
}

/// Of an answer, each statement that failed: its place, the code, and the text.
fn errors(answer: &Document) -> impl Iterator<Item = (usize, i32, String)> {
    let errors = answer.get_array("writeErrors").into_iter().flatten().filter_map(Bson::as_document);
    errors.map(|error| {
        let text = error.get_str("errmsg").unwrap_or("no reason was given").to_owned();
        (number(error, "index") as usize, number(error, "code") as i32, text)
    })
}
