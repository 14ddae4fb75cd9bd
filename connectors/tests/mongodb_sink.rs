//! The MongoDB sink seen by another client of its server, which is killed, frozen and put back meanwhile.
//!
//! `TALLYFLOW_TEST_MONGODB` names a program that starts a server: `up --dir DIR --port PORT` prints its
//! address once it answers and leaves its pid in DIR/pid, `down --dir DIR` stops it. Without it these tests
//! say that they were left out, and pass.

use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tallyflow_connectors::sinks::mongodb::MongodbSink;
use tallyflow_connectors::sinks::{self, Ending, Opening, Sink, SinkEpoch, SinkError, SinkPoll, Writer};
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::number::Decimal;
use tallyflow_dataflows::results::{Group, SubjectTallies, Tally};
use tallyflow_dataflows::spec::{MongodbShape, MongodbSpec, SinkSpec, Uri};

/// A server of a test's own, and a client of it that is none of the sink's.
struct Stand {
    script: PathBuf,
    dir: tempfile::TempDir,
    port: u16,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Stand {
    /// `None`, and a line that says why, where there is no server to be had.
    fn up() -> Option<Stand> {
        let Some(script) = std::env::var_os("TALLYFLOW_TEST_MONGODB").filter(|path| !path.is_empty()) else {
            println!("SKIPPED: TALLYFLOW_TEST_MONGODB names no program that starts a server, as scripts/mongodb does");
            return None;
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let uri = format!("mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=20000");
        let client = runtime.block_on(Client::with_uri_str(uri)).unwrap();
        let stand = Stand { script: script.into(), dir: tempfile::tempdir().unwrap(), port, runtime, client };
        stand.start();
        Some(stand)
    }

    fn run(&self, args: &[&str]) {
        let data = self.data();
        let output = Command::new(&self.script).args(args).arg("--dir").arg(data).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn start(&self) {
        self.run(&["up", "--port", &self.port.to_string()]);
    }

    fn stop(&self) {
        self.run(&["down"]);
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(self.data().join("pid")).unwrap();
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", pid.trim())]).status().unwrap();
        assert!(sent.success());
    }

    /// Copies its files, while it is stopped.
    fn copy(&self, from: &Path, to: &Path) {
        std::fs::remove_dir_all(to).ok();
        assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    }

    fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}", self.port)
    }

    fn all(&self, collection: &str, filter: Document) -> Vec<Document> {
        let collection = self.client.database("results").collection::<Document>(collection);
        self.runtime.block_on(async {
            let mut found = collection.find(filter).sort(doc! { "_id": 1 }).await.unwrap();
            let mut all = Vec::new();
            while found.advance().await.unwrap() {
                all.push(found.deserialize_current().unwrap());
            }
            all
        })
    }

    /// By subject what it holds, of those that are not removed: epoch, and value by group.
    fn subjects(&self, job: &str) -> BTreeMap<String, (i64, Vec<(String, i64)>)> {
        let line = |line: &Bson| {
            let line = line.as_document().unwrap();
            (line.get_str("group").unwrap().to_owned(), line.get_i64("value").unwrap())
        };
        let document = |found: Document| {
            let lines = found.get_array("tallies").unwrap().iter().map(line).collect();
            (found.get_str("subject").unwrap().to_owned(), (found.get_i64("epoch").unwrap(), lines))
        };
        self.all("tallies", doc! { "job": job, "removed": { "$ne": true } }).into_iter().map(document).collect()
    }

    fn snapshot(&self, job: &str) -> Document {
        self.all("tallies_snapshots", doc! { "_id": job }).remove(0)
    }

    fn update(&self, filter: Document, change: Document) {
        let collection = self.client.database("results").collection::<Document>("tallies");
        self.runtime.block_on(async { collection.update_one(filter, change).await }).unwrap();
    }

    fn insert(&self, document: Document) {
        let collection = self.client.database("results").collection::<Document>("tallies");
        self.runtime.block_on(async { collection.insert_one(document).await }).unwrap();
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // A frozen one could not be stopped.
        let pid = std::fs::read_to_string(self.data().join("pid")).unwrap_or_default();
        Command::new("sh").args(["-c", &format!("kill -CONT {0}; kill -KILL {0}", pid.trim())]).output().ok();
    }
}

fn spec(uri: &str) -> MongodbSpec {
    MongodbSpec {
        uri: Uri::Text(uri.to_owned()),
        database: "results".into(),
        collection: "tallies".into(),
        every: Duration::from_secs(1),
        transactions: false,
        shape: MongodbShape::Tallies,
    }
}

fn opening(job: &str, server: &str, generation: u64) -> Opening {
    Opening {
        job: job.into(),
        aggregates: vec!["count".into()],
        data_dir: PathBuf::from("/"),
        writer: Writer { server: server.into(), generation, run: format!("{server}-{generation}") },
        take_over_ms: None,
    }
}

fn open(stand: &Stand, opening: &Opening) -> MongodbSink {
    MongodbSink::open(&spec(&stand.uri()), opening, &Ending::default()).unwrap()
}

fn sink(stand: &Stand, job: &str) -> MongodbSink {
    open(stand, &opening(job, "a", 1))
}

fn take(sink: &mut MongodbSink, epoch: &SinkEpoch) -> Result<(), SinkError> {
    sink.take(epoch, &Ending::default())
}

fn decimal(text: &str) -> Decimal {
    Decimal::parse_json(text).unwrap()
}

fn subject(name: &str, lines: &[(&str, &str)]) -> SubjectTallies {
    let tally = |(group, value): &(&str, &str)| Tally {
        group: Group(vec![(*group).to_owned()]),
        value: decimal(value),
        share: None,
        aggregates: None,
    };
    SubjectTallies {
        subject: name.into(),
        total: Some(Decimal::from_int(7)),
        claims: 0,
        counted: 0,
        superseded: 0,
        duplicate: 0,
        late: 0,
        voided: 0,
        tallies: lines.iter().map(tally).collect(),
    }
}

fn epoch(number: u64, reset: bool, subjects: Vec<SubjectTallies>) -> SinkEpoch {
    SinkEpoch {
        epoch: Epoch(number),
        at_ms: number as i64,
        offsets_json: format!(r#"{{"a.topic":[{number},3]}}"#),
        digest: format!("sha256:{number}"),
        accounting_json: format!(r#"{{"read":{number}}}"#),
        reset,
        subjects,
        ..SinkEpoch::default()
    }
}

/// So many subjects, each with the epoch's number in its line.
fn many(number: u64, reset: bool, count: usize) -> SinkEpoch {
    let value = number.to_string();
    epoch(number, reset, (0..count).map(|n| subject(&format!("s{n:06}"), &[("n", &value)])).collect())
}

#[test]
fn a_subject_is_one_document_and_the_snapshot_says_what_all_have_reached() {
    let Some(stand) = Stand::up() else { return };
    let mut sink = sink(&stand, "moods");
    assert_eq!(sink.newest_epoch(&Ending::default()), Ok(None));
    let long = "12345678901234567890.123456789012345678";
    let mut rich = subject("moods", &[("much", long), ("more", "0.5"), ("one", "1")]);
    rich.tallies[0].group = Group(vec!["a".into(), "b".into()]);
    rich.tallies[1].share = Some(0.25);
    rich.tallies[2].aggregates = Some([("sum".to_owned(), decimal("1")), ("avg".to_owned(), decimal("0.1"))].into());
    take(&mut sink, &epoch(7, true, vec![rich, subject("other", &[])])).unwrap();
    let found = stand.all("tallies", doc! {});
    let (moods, other) = (&found[0], &found[1]);
    assert_eq!(moods.get_str("_id").ok(), Some("moods/moods"));
    assert_eq!((moods.get_str("job").ok(), moods.get_str("subject").ok()), (Some("moods"), Some("moods")));
    assert_eq!(
        (moods.get_i64("epoch").ok(), moods.get_i64("total").ok(), moods.get_i64("lines").ok()),
        (Some(7), Some(7), Some(3))
    );
    assert_eq!(moods.get_datetime("at").unwrap().timestamp_millis(), 7);
    let wanted = vec![
        Bson::Document(doc! { "group": ["a", "b"], "value": long }),
        Bson::Document(doc! { "group": "more", "value": Bson::Decimal128("0.5".parse().unwrap()), "share": 0.25 }),
        Bson::Document(doc! { "group": "one", "value": 1_i64, "aggregates": [
            { "name": "sum", "value": 1_i64 }, { "name": "avg", "value": Bson::Decimal128("0.1".parse().unwrap()) },
        ] }),
    ];
    assert_eq!(moods.get_array("tallies").ok(), Some(&wanted));
    assert_eq!(other.get_array("tallies").ok(), Some(&vec![]));
    let snapshot = stand.snapshot("moods");
    assert_eq!((snapshot.get_i64("epoch").ok(), snapshot.get_str("digest").ok()), (Some(7), Some("sha256:7")));
    let offsets = vec![Bson::Document(doc! { "topic": "a.topic", "next": [7_i64, 3_i64] })];
    assert_eq!(snapshot.get_array("offsets").ok(), Some(&offsets));
    assert_eq!(snapshot.get_document("accounting").ok(), Some(&doc! { "read": 7_i64 }));
    assert_eq!(snapshot.get_array("aggregates").ok(), Some(&vec![Bson::String("count".into())]));

    // What did not change stays at its epoch, what is gone leaves a tombstone.
    let mut next = epoch(9, false, vec![subject("third", &[("x", "1")])]);
    next.gone = vec!["other".into()];
    take(&mut sink, &next).unwrap();
    assert_eq!(sink.newest_epoch(&Ending::default()), Ok(Some(Epoch(9))));
    let found = stand.all("tallies", doc! {});
    let epochs: Vec<_> = found.iter().map(|d| (d.get_str("subject").unwrap(), d.get_i64("epoch").unwrap())).collect();
    assert_eq!(epochs, [("moods", 7), ("other", 9), ("third", 9)]);
    assert_eq!(found[1].get_bool("removed").ok(), Some(true));
    assert_eq!((found[1].get_array("tallies").ok(), found[1].get("total")), (Some(&vec![]), Some(&Bson::Null)));
    // The subject comes back in the place of its tombstone.
    take(&mut sink, &epoch(10, false, vec![subject("other", &[("x", "2")])])).unwrap();
    assert!(!stand.all("tallies", doc! { "subject": "other" })[0].contains_key("removed"));
}

#[test]
fn an_epoch_repeated_changes_nothing_and_where_a_later_one_stands_nothing_is_written() {
    let Some(stand) = Stand::up() else { return };
    let mut sink = sink(&stand, "j");
    take(&mut sink, &epoch(5, true, vec![subject("s", &[("a", "1")]), subject("t", &[("a", "1")])])).unwrap();
    take(&mut sink, &epoch(5, false, vec![subject("s", &[("a", "99")])])).unwrap();
    let error = take(&mut sink, &epoch(4, false, vec![subject("s", &[("a", "99")])])).unwrap_err();
    assert_eq!(error, SinkError::NewerEpoch { stored: Epoch(5), offered: Epoch(4) });
    assert_eq!(stand.subjects("j")["s"], (5, vec![("a".into(), 1)]));
    // The server answers 11000 where a later epoch stands; the snapshot stays behind.
    stand.update(doc! { "subject": "s" }, doc! { "$set": { "epoch": 800_i64 } });
    let both = vec![subject("s", &[("a", "2")]), subject("t", &[("a", "2")])];
    let error = take(&mut sink, &epoch(6, false, both)).unwrap_err();
    assert_eq!(error, SinkError::NewerEpoch { stored: Epoch(800), offered: Epoch(6) });
    assert!(!error.retryable());
    assert_eq!(stand.subjects("j")["s"], (800, vec![("a".into(), 1)]));
    assert_eq!(stand.subjects("j")["t"], (6, vec![("a".into(), 2)]), "the others are not held up");
    assert_eq!(stand.snapshot("j").get_i64("epoch").ok(), Some(5));
}

#[test]
fn a_document_of_somebody_else_is_left_alone_and_named() {
    let Some(stand) = Stand::up() else { return };
    stand.insert(doc! { "_id": "j/s", "mine": true });
    let both = vec![subject("s", &[("a", "1")]), subject("t", &[("a", "1")])];
    let error = take(&mut sink(&stand, "j"), &epoch(1, true, both)).unwrap_err();
    assert!(matches!(&error, SinkError::Refused { subject, others: 0, .. } if subject == "s"), "{error}");
    assert_eq!(stand.all("tallies", doc! { "_id": "j/s" }), [doc! { "_id": "j/s", "mine": true }]);
    assert_eq!(stand.all("tallies", doc! { "subject": "t" }).len(), 1, "the others are not held up");
}

#[test]
fn the_first_write_of_a_run_replaces_all_of_the_job_and_nothing_of_another() {
    let Some(stand) = Stand::up() else { return };
    let lines = || vec![subject("a", &[("x", "1")]), subject("b", &[("x", "2")])];
    take(&mut sink(&stand, "one"), &epoch(3, true, lines())).unwrap();
    // Names that the range of the first one's ids must leave out.
    for other in ["one-more", "one.more", "one0", "on"] {
        take(&mut sink(&stand, other), &epoch(8, true, lines())).unwrap();
    }
    let mut later = open(&stand, &opening("one", "a", 2));
    take(&mut later, &epoch(4, true, vec![subject("b", &[("x", "5")])])).unwrap();
    assert_eq!(stand.subjects("one"), [("b".to_owned(), (4, vec![("x".into(), 5)]))].into());
    let gone = stand.all("tallies", doc! { "job": "one", "subject": "a" }).remove(0);
    assert_eq!(
        (gone.get_bool("removed").ok(), gone.get_i64("epoch").ok(), gone.get_i64("lines").ok()),
        (Some(true), Some(4), Some(0))
    );
    for other in ["one-more", "one.more", "one0", "on"] {
        assert_eq!(stand.subjects(other).len(), 2, "{other}");
    }
}

#[test]
fn a_job_started_anew_takes_over_when_told_to_and_no_earlier_submission_takes_it_back() {
    let Some(stand) = Stand::up() else { return };
    let told = |server: &str, generation, at| Opening { take_over_ms: at, ..opening("j", server, generation) };
    let write = |opening: &Opening, number, reset| {
        take(&mut open(&stand, opening), &epoch(number, reset, vec![subject("s", &[("a", &number.to_string())])]))
    };
    let mut first = open(&stand, &told("a", 1, Some(1_000)));
    take(&mut first, &epoch(500, true, vec![subject("s", &[("a", "1")]), subject("t", &[("a", "1")])])).unwrap();
    let refused = write(&told("b", 1, None), 3, true).unwrap_err();
    assert_eq!(refused, SinkError::NewerEpoch { stored: Epoch(500), offered: Epoch(3) });
    assert!(refused.to_string().contains("--take-over"), "{refused}");
    let mut second = open(&stand, &told("b", 1, Some(2_000)));
    take(&mut second, &epoch(3, true, vec![subject("s", &[("b", "3")])])).unwrap();
    take(&mut second, &epoch(4, false, vec![subject("u", &[("b", "4")])])).unwrap();
    let wanted =
        BTreeMap::from([("s".to_owned(), (3, vec![("b".into(), 3)])), ("u".to_owned(), (4, vec![("b".into(), 4)]))]);
    assert_eq!(stand.subjects("j"), wanted);
    // The other one goes on for a moment, with epochs that are greater: nothing of it gets in.
    let late = take(&mut first, &epoch(501, false, vec![subject("s", &[("a", "9")])])).unwrap_err();
    assert!(matches!(late, SinkError::TakenOver { .. }), "{late}");
    assert_eq!(stand.subjects("j"), wanted);
    // Started again, it may write where its epochs are later, but takes nothing over a second time.
    take(&mut open(&stand, &told("b", 2, Some(2_000))), &epoch(900, true, vec![subject("s", &[("b", "9")])])).unwrap();
    let refused = write(&told("a", 2, Some(1_000)), 600, true).unwrap_err();
    assert_eq!(refused, SinkError::NewerEpoch { stored: Epoch(900), offered: Epoch(600) });
}

#[test]
fn without_its_snapshot_the_documents_tell_that_later_epochs_stand() {
    let Some(stand) = Stand::up() else { return };
    take(&mut sink(&stand, "j"), &epoch(500, true, vec![subject("s", &[("a", "1")])])).unwrap();
    let snapshots = stand.client.database("results").collection::<Document>("tallies_snapshots");
    stand.runtime.block_on(async { snapshots.delete_many(doc! {}).await }).unwrap();
    let refused = take(&mut open(&stand, &opening("j", "b", 1)), &epoch(3, true, vec![])).unwrap_err();
    assert_eq!(refused, SinkError::NewerEpoch { stored: Epoch(500), offered: Epoch(3) });
}

#[test]
fn a_later_start_of_the_server_takes_over_and_an_earlier_one_is_refused() {
    let Some(stand) = Stand::up() else { return };
    let mut first = open(&stand, &opening("j", "a", 7));
    take(&mut first, &epoch(20, true, vec![subject("s", &[("x", "1")]), subject("t", &[("x", "1")])])).unwrap();
    let mut copy = opening("j", "a", 7);
    copy.writer.run = "another".into();
    let refused = take(&mut open(&stand, &copy), &epoch(30, true, vec![])).unwrap_err();
    assert!(matches!(refused, SinkError::Superseded { theirs: 7, own: 7, .. }), "{refused}");
    // One over a copy of the directory has used the same epochs for something else.
    let mut later = open(&stand, &opening("j", "a", 8));
    take(&mut later, &epoch(12, true, vec![subject("s", &[("x", "3")])])).unwrap();
    assert_eq!(stand.subjects("j"), [("s".to_owned(), (12, vec![("x".into(), 3)]))].into());
    let refused = take(&mut first, &epoch(21, false, vec![subject("s", &[("x", "9")])])).unwrap_err();
    assert!(matches!(refused, SinkError::Superseded { theirs: 8, own: 7, .. }), "{refused}");
    assert_eq!(stand.subjects("j")["s"].0, 12);
}

#[test]
fn a_server_that_comes_back_without_what_it_confirmed_is_noticed_and_all_is_written_again() {
    let Some(stand) = Stand::up() else { return };
    let older = stand.dir.path().join("older");
    let mut sink = sink(&stand, "j");
    take(&mut sink, &epoch(1, true, vec![subject("s", &[("x", "1")]), subject("t", &[("x", "1")])])).unwrap();
    stand.stop();
    stand.copy(&stand.data(), &older);
    stand.start();
    // The connection is gone: an error, and then all anew, as a follower does it.
    let second = || epoch(2, true, vec![subject("s", &[("x", "2")]), subject("t", &[("x", "1")])]);
    let began = Instant::now();
    while let Err(error) = take(&mut sink, &second()) {
        assert!(error.retryable() && began.elapsed() < Duration::from_secs(30), "{error}");
    }
    stand.stop();
    stand.copy(&older, &stand.data());
    stand.start();
    assert_eq!(stand.subjects("j")["s"].0, 1, "the server has lost the second epoch");
    let error = loop {
        match take(&mut sink, &epoch(3, false, vec![subject("t", &[("x", "3")])])) {
            Err(SinkError::Io { .. }) if began.elapsed() < Duration::from_secs(60) => {}
            other => break other.unwrap_err(),
        }
    };
    assert!(
        matches!(error, SinkError::LostWrites { written: Epoch(2), found: Some(Epoch(1)), .. }) && error.retryable(),
        "{error}"
    );
    assert_eq!(stand.subjects("j")["t"].0, 1, "nothing is built upon what is lost");
    let all = vec![subject("s", &[("x", "2")]), subject("t", &[("x", "3")])];
    take(&mut open(&stand, &opening("j", "a", 1)), &epoch(3, true, all)).unwrap();
    assert_eq!(stand.snapshot("j").get_i64("epoch").ok(), Some(3));
    let lines: Vec<_> = stand.subjects("j").into_values().map(|(_, lines)| lines[0].1).collect();
    assert_eq!(lines, [2, 3]);
}

#[test]
fn a_server_that_is_killed_while_an_epoch_is_written_has_whole_subjects_and_gets_the_rest_later() {
    let Some(stand) = Stand::up() else { return };
    const COUNT: usize = 2_500;
    let mut sink = sink(&stand, "j");
    take(&mut sink, &many(1, true, COUNT)).unwrap();
    for number in 2..5 {
        let failed = std::thread::scope(|scope| {
            let writing = scope.spawn(|| take(&mut sink, &many(number, true, COUNT)));
            // As soon as the epoch is there in part.
            let began = Instant::now();
            while stand.all("tallies", doc! { "_id": "j/s000000", "epoch": number as i64 }).is_empty() {
                assert!(began.elapsed() < Duration::from_secs(30) && !writing.is_finished());
            }
            stand.signal("KILL");
            writing.join().unwrap()
        });
        stand.start();
        let error = failed.expect_err("it was killed before the epoch was written");
        assert!(error.retryable(), "{error}");
        // It may have lost what it had confirmed; then it has lost all that came after, too.
        let reached = stand.snapshot("j").get_i64("epoch").unwrap_or(0);
        for (name, (epoch, lines)) in stand.subjects("j") {
            assert!(lines == [("n".to_owned(), epoch)] && epoch >= reached, "{name} at {epoch}: {lines:?}");
        }
        let began = Instant::now();
        while let Err(error) = take(&mut sink, &many(number, true, COUNT)) {
            assert!(error.retryable() && began.elapsed() < Duration::from_secs(30), "{error}");
        }
        let all = stand.subjects("j");
        assert_eq!(all.len(), COUNT);
        assert!(all.values().all(|(epoch, _)| *epoch == number as i64));
    }
}

#[test]
fn a_server_that_hangs_holds_nobody_up_who_wants_to_end() {
    let Some(stand) = Stand::up() else { return };
    let mut sink = sink(&stand, "j");
    take(&mut sink, &many(1, true, 10)).unwrap();
    stand.signal("STOP");
    let ending = Ending::default();
    let (asked, ended) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let result = sink.take(&many(2, false, 10), &ending);
            (result, Instant::now())
        });
        let asked = Instant::now();
        ending.ask(asked + Duration::from_millis(500));
        (asked, writing.join().unwrap())
    });
    stand.signal("CONT");
    let (result, at) = ended;
    assert!(result.unwrap_err().retryable());
    assert!(at - asked < Duration::from_secs(3), "{:?}", at - asked);
    // Neither does one that is not there be opened for long.
    stand.signal("STOP");
    let began = Instant::now();
    let gone = MongodbSink::open(&spec(&stand.uri()), &opening("j", "a", 1), &ending);
    assert!(gone.is_err_and(|error| error.retryable()) && began.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_poll_is_a_document_as_the_programs_of_socialpoll_read_it() {
    let Some(stand) = Stand::up() else { return };
    let spec = MongodbSpec { shape: MongodbShape::Socialpoll, collection: "polls".into(), ..spec(&stand.uri()) };
    let mut sink = MongodbSink::open(&spec, &opening("j", "a", 1), &Ending::default()).unwrap();
    assert_eq!(sink.grain(), sinks::Grain::Polls);
    let mut first =
        epoch(1, true, vec![subject("moods", &[("sad", "4"), ("happy", "3")]), subject("b", &[("x", "1")])]);
    let options = vec!["happy".to_owned(), "sad".to_owned()];
    first.polls.insert("moods".into(), SinkPoll { title: "Your mood".into(), options });
    take(&mut sink, &first).unwrap();
    let found = stand.all("polls", doc! { "title": "Your mood" }).remove(0);
    assert!(found.get_object_id("_id").is_ok());
    assert_eq!(found.get_array("options").ok(), Some(&vec![Bson::from("happy"), Bson::from("sad")]));
    assert_eq!(found.get_document("results").ok(), Some(&doc! { "happy": 3_i64, "sad": 4_i64 }));
    // What is gone is gone: those programs know no tombstones. Nor do they find the snapshot there.
    let mut second = epoch(2, false, vec![subject("moods", &[("sad", "5"), ("happy", "3")])]);
    second.gone = vec!["b".into()];
    second.polls = first.polls.clone();
    take(&mut sink, &second).unwrap();
    let all = stand.all("polls", doc! {});
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].get_object_id("_id").ok(), found.get_object_id("_id").ok());
    assert_eq!(all[0].get_document("results").ok(), Some(&doc! { "happy": 3_i64, "sad": 5_i64 }));
    assert_eq!(stand.all("polls_snapshots", doc! {})[0].get_i64("epoch").ok(), Some(2));
    // Polls that others have made stay.
    let polls = stand.client.database("results").collection::<Document>("polls");
    stand.runtime.block_on(async { polls.insert_one(doc! { "title": "theirs" }).await }).unwrap();
    let mut later = MongodbSink::open(&spec, &opening("j", "a", 2), &Ending::default()).unwrap();
    take(&mut later, &epoch(3, true, vec![])).unwrap();
    let left = stand.all("polls", doc! {});
    assert_eq!(left.iter().map(|d| d.get_str("title").unwrap()).collect::<Vec<_>>(), ["theirs"]);
}

#[test]
fn a_subject_that_does_not_fit_is_cut_and_says_so() {
    let Some(stand) = Stand::up() else { return };
    let long = "x".repeat(20_000);
    let mut large = subject("large", &[]);
    large.tallies = (0..1_000)
        .map(|n| Tally {
            group: Group(vec![format!("{n:04}{long}")]),
            value: Decimal::from_int(1_000 - n),
            share: None,
            aggregates: None,
        })
        .collect();
    let mut sink = sink(&stand, "j");
    take(&mut sink, &epoch(1, true, vec![large, subject("small", &[("x", "1")])])).unwrap();
    let found = stand.all("tallies", doc! { "subject": "large" }).remove(0);
    let kept = found.get_array("tallies").unwrap();
    assert_eq!((found.get_bool("truncated").ok(), found.get_i64("lines").ok()), (Some(true), Some(1_000)));
    assert!(kept.len() > 700 && kept.len() < 1_000, "{}", kept.len());
    let first = kept[0].as_document().unwrap();
    assert_eq!(first.get_i64("value").ok(), Some(1_000), "the first lines are kept");
    assert!(!stand.all("tallies", doc! { "subject": "small" })[0].contains_key("truncated"));
    assert_eq!(stand.snapshot("j").get_i64("epoch").ok(), Some(1));
}

#[test]
fn transactions_where_there_are_none_are_refused_with_what_to_do() {
    let Some(stand) = Stand::up() else { return };
    let spec = MongodbSpec { transactions: true, ..spec(&stand.uri()) };
    let mut sink = MongodbSink::open(&spec, &opening("j", "a", 1), &Ending::default()).unwrap();
    let error = take(&mut sink, &epoch(1, true, vec![subject("s", &[])])).unwrap_err();
    assert!(matches!(error, SinkError::Unusable { .. }) && error.to_string().contains("leave out"), "{error}");
    assert!(stand.all("tallies", doc! {}).is_empty());
}

#[test]
fn no_error_and_no_place_shows_a_password() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let within = "serverSelectionTimeoutMS=200&connectTimeoutMS=200";
    for uri in [
        format!("mongodb://me:hunter2@{nobody}/?{within}"),
        format!("mongodb://me:hun%74er2@{nobody}/?{within}"),
        format!("mongodb://me:x@hunter2@{nobody}/?{within}"),
        format!("mongodb://me:x/hunter2@{nobody}/?{within}"),
        "mongodb://me:hunter2".to_owned(),
        format!("mongodb://me@{nobody}/?w=hunter2=3&{within}"),
        format!("mongodb://{nobody}/?tlsCertificateKeyFilePassword=hunter2&{within}"),
        format!("mongodb://me:hunter2@{nobody}/?authMechanism=none&{within}"),
    ] {
        let spec = spec(&uri);
        let error = MongodbSink::open(&spec, &opening("j", "a", 1), &Ending::default()).err().expect("it can't work");
        let place = sinks::place(&SinkSpec::Mongodb(spec.clone()), Path::new("/"));
        for text in [error.to_string(), format!("{error:?}"), place, format!("{spec:?}")] {
            assert!(!text.contains("hunter2") && !text.contains("hun%74er2"), "{text}");
        }
    }
    // Of what is found elsewhere, not even that.
    let mut elsewhere = spec("");
    elsewhere.uri = Uri::Env("TALLYFLOW_TEST_NO_SUCH_VARIABLE".into());
    let error = MongodbSink::open(&elsewhere, &opening("j", "a", 1), &Ending::default()).err().unwrap();
    assert!(matches!(error, SinkError::Unusable { .. }) && error.to_string().contains("NO_SUCH_VARIABLE"), "{error}");
}
