//! The MongoDB sink under the real server, while one of them is stopped, killed or frozen.
//!
//! Each record adds to several lines of its subject at once, so that how many of a subject's records a
//! document stands for says all that it must hold: whoever looks can tell a whole epoch from half of one.
//! There is one partition, and record `n` is of subject `n % SUBJECTS`: so a snapshot's offset says how
//! many records of each subject must be in.
//!
//! `TALLYFLOW_TEST_MONGODB` names a program that starts a server: `up --dir DIR --port PORT` prints its
//! address once it answers and leaves its pid in DIR/pid, `down --dir DIR` stops it. Without it these tests
//! say that they were left out, and pass.

use crate::support::{Http, Server, eventually, signal};
use mongodb::Client;
use mongodb::bson::{Bson, Document, doc};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Some more than fit into one write of the sink.
const SUBJECTS: u64 = 1_200;
/// How many rounds, of one record a subject, may be uncounted while more are written.
const AHEAD: u64 = 3;

fn job(uri: &str) -> String {
    format!(
        r#"
name = "sums"
dataflow = "tally"
[[input]]
topic = "numbers"
format = "json"
[tally]
subject = "/s"
[[tally.entry]]
group = ["/count"]
value = "/one"
[[tally.entry]]
group = ["/sum"]
value = "/k"
[[tally.entry]]
group = ["/less"]
value = "-/k"
[[tally.entry]]
group = ["/third"]
value = "/one"
[[sink]]
kind = "sqlite"
path = "sums.db"
every = "100ms"
[[sink]]
kind = "mongodb"
uri = "{uri}"
database = "results"
collection = "sums"
every = "100ms"
"#
    )
}

/// Record `n`: the `k`-th of its subject, from 1.
fn record(n: u64) -> String {
    let (subject, k) = (n % SUBJECTS, n / SUBJECTS + 1);
    format!(r#"{{"s":"s{subject:04}","count":"count","one":1,"sum":"sum","less":"less","third":"t{}","k":{k}}}"#, k % 3)
        + "\n"
}

/// What the first `m` records of a subject come to, in the order of answers.
fn fold(m: i64) -> Vec<(String, i64)> {
    let mut lines: BTreeMap<String, i64> = BTreeMap::new();
    for k in 1..=m {
        for (group, value) in
            [("count".to_owned(), 1), ("sum".into(), k), ("less".into(), -k), (format!("t{}", k % 3), 1)]
        {
            *lines.entry(group).or_default() += value;
        }
    }
    let mut lines: Vec<_> = lines.into_iter().collect();
    lines.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
    lines
}

/// A server of MongoDB's protocol, of a test's own.
struct Mongod {
    script: PathBuf,
    dir: TempDir,
    port: u16,
    /// How often it was ended or put back: a look across that is none.
    upsets: Arc<AtomicU64>,
}

impl Mongod {
    /// `None`, and a line that says why, where there is none to be had.
    fn up() -> Option<Mongod> {
        let Some(script) = std::env::var_os("TALLYFLOW_TEST_MONGODB").filter(|path| !path.is_empty()) else {
            println!("SKIPPED: TALLYFLOW_TEST_MONGODB names no program that starts a server, as scripts/mongodb does");
            return None;
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let upsets = Arc::new(AtomicU64::new(0));
        let mongod = Mongod { script: script.into(), dir: tempfile::tempdir().unwrap(), port, upsets };
        mongod.start();
        Some(mongod)
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
        self.upsets.fetch_add(1, Ordering::AcqRel);
        self.run(&["down"]);
    }

    fn kill(&self) {
        self.upsets.fetch_add(1, Ordering::AcqRel);
        signal(self.pid(), "KILL");
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn pid(&self) -> u32 {
        std::fs::read_to_string(self.data().join("pid")).unwrap().trim().parse().unwrap()
    }

    fn copy(&self, from: &Path, to: &Path) {
        std::fs::remove_dir_all(to).ok();
        assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    }

    fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}", self.port)
    }

    fn reader(&self) -> Reader {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let uri = format!("{}/?serverSelectionTimeoutMS=1000&connectTimeoutMS=1000&retryReads=false", self.uri());
        let client = runtime.block_on(Client::with_uri_str(uri)).unwrap();
        Reader { runtime, client, upsets: self.upsets.clone() }
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        let Ok(pid) = std::fs::read_to_string(self.data().join("pid")) else { return };
        Command::new("sh").args(["-c", &format!("kill -CONT {0}; kill -KILL {0}", pid.trim())]).output().ok();
    }
}

/// A program that reads the database.
struct Reader {
    runtime: tokio::runtime::Runtime,
    client: Client,
    upsets: Arc<AtomicU64>,
}

/// The snapshot document's epoch and offset, and by subject a document's epoch and lines.
struct Seen {
    snapshot: Option<(i64, i64)>,
    subjects: BTreeMap<String, (i64, Vec<(String, i64)>)>,
}

impl Reader {
    fn all(&self, collection: &str) -> mongodb::error::Result<Vec<Document>> {
        let collection = self.client.database("results").collection::<Document>(collection);
        self.runtime.block_on(async {
            let mut found = collection.find(doc! {}).batch_size(10_000).await?;
            let mut all = Vec::new();
            while found.advance().await? {
                all.push(found.deserialize_current()?);
            }
            Ok(all)
        })
    }

    /// The snapshot first, then the subjects; `None` where the server is not there, or was not in between.
    fn look(&self) -> Option<Seen> {
        let upsets = self.upsets.load(Ordering::Acquire);
        let snapshot = self.all("sums_snapshots").ok()?.into_iter().find_map(|found| {
            let next = found.get_array("offsets").ok()?[0].as_document()?.get_array("next").ok()?;
            Some((found.get_i64("epoch").ok()?, next[0].as_i64()?))
        });
        let line = |line: &Bson| {
            let line = line.as_document().unwrap();
            (line.get_str("group").unwrap().to_owned(), line.get_i64("value").unwrap())
        };
        let document = |found: Document| {
            let lines = found.get_array("tallies").unwrap().iter().map(line).collect();
            (found.get_str("subject").unwrap().to_owned(), (found.get_i64("epoch").unwrap(), lines))
        };
        let subjects = self.all("sums").ok()?.into_iter().map(document).collect();
        (self.upsets.load(Ordering::Acquire) == upsets).then_some(Seen { snapshot, subjects })
    }

    /// Once an epoch is there in part.
    fn in_the_middle(&self) {
        eventually("a sink is in the middle of an epoch", || {
            let seen = self.look()?;
            let (epoch, _) = seen.snapshot?;
            seen.subjects.values().any(|(of, _)| *of > epoch).then_some(())
        });
    }
}

impl Seen {
    /// That every subject is one whole epoch, and the snapshot names one that all have reached.
    fn check(&self) {
        for (subject, (epoch, lines)) in &self.subjects {
            let m = lines.iter().find(|(group, _)| group == "count").map_or(0, |(_, count)| *count);
            assert_eq!(*lines, fold(m), "{subject} at {epoch} is not whole");
            if let Some((_, offset)) = self.snapshot {
                let number: i64 = subject[1..].parse().unwrap();
                let wanted = (offset - number + SUBJECTS as i64 - 1) / SUBJECTS as i64;
                assert!(m >= wanted, "{subject} has {m} records at {epoch}, the snapshot {:?} {wanted}", self.snapshot);
            }
        }
        if let Some((_, offset)) = self.snapshot {
            assert!(self.subjects.len() as i64 >= offset.min(SUBJECTS as i64), "{:?}", self.snapshot);
        }
    }
}

/// Somebody who looks all the time.
struct Looking {
    stop: Arc<AtomicBool>,
    looks: Arc<AtomicU64>,
    thread: Option<JoinHandle<u64>>,
}

impl Looking {
    fn start(mongod: &Mongod) -> Looking {
        let (reader, stop, looks) = (mongod.reader(), Arc::new(AtomicBool::new(false)), Arc::<AtomicU64>::default());
        let (stopped, looked) = (stop.clone(), looks.clone());
        let thread = std::thread::spawn(move || {
            let mut in_part = 0;
            while !stopped.load(Ordering::Acquire) {
                let Some(seen) = reader.look() else { continue };
                seen.check();
                looked.fetch_add(1, Ordering::AcqRel);
                in_part +=
                    u64::from(seen.snapshot.is_some_and(|(at, _)| seen.subjects.values().any(|(of, _)| *of > at)));
            }
            in_part
        });
        Looking { stop, looks, thread: Some(thread) }
    }

    /// It saw enough, some of it in the middle of an epoch, and nothing wrong.
    fn end(mut self) {
        let thread = self.thread.take().unwrap();
        // One that has found something wrong looks no more.
        let has_seen_enough = || self.looks.load(Ordering::Acquire) > 20 || thread.is_finished();
        eventually("it has looked often", || has_seen_enough().then_some(()));
        self.stop.store(true, Ordering::Release);
        let in_part = thread.join().unwrap();
        assert!(in_part > 0, "no look was in the middle of an epoch");
    }
}

/// Records being written, a round at a time.
struct Feeding {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Feeding {
    fn start(url: &str, from: u64) -> Feeding {
        let (http, stop, rounds) = (Http::new(url), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(from)));
        let (stopped, written) = (stop.clone(), rounds.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                let round = written.load(Ordering::Acquire);
                if http.tallies_read() / SUBJECTS + AHEAD < round {
                    continue;
                }
                http.append("numbers", (round * SUBJECTS..(round + 1) * SUBJECTS).map(record).collect::<String>());
                written.store(round + 1, Ordering::Release);
            }
        });
        Feeding { stop, rounds, thread }
    }

    /// How many rounds were written in all.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap();
        self.rounds.load(Ordering::Acquire)
    }
}

impl Http {
    fn tallies_read(&self) -> u64 {
        self.job("sums")["accounting"]["read"].as_u64().unwrap()
    }
}

/// The job's sink of that kind.
fn sink(http: &Http, kind: &str) -> serde_json::Value {
    let sinks = http.job("sums")["sinks"].as_array().unwrap().clone();
    sinks.into_iter().find(|sink| sink["kind"] == kind).unwrap()
}

/// In the end the documents are the rows of SQLite and what the API answers, and all that the fold says.
fn assert_all_the_same(server: &Server, mongod: &Mongod, dir: &Path, rounds: u64) {
    let tallies = server.http.tallies_of("sums", rounds * SUBJECTS);
    let epoch = tallies.epoch.0 as i64;
    let reader = mongod.reader();
    let seen = eventually("the document sink has caught up", || {
        // Epochs may close without a record; what another server left has another digest.
        let snapshot = reader.all("sums_snapshots").ok()?.pop()?;
        snapshot.get_str("digest").is_ok_and(|digest| digest == tallies.digest).then_some(())?;
        reader.look().filter(|seen| seen.snapshot.is_some_and(|(at, _)| at >= epoch))
    });
    seen.check();
    let whole = |value: tallyflow_dataflows::number::Decimal| value.to_i64().unwrap();
    let of_api: BTreeMap<String, Vec<(String, i64)>> = tallies
        .subjects
        .iter()
        .map(|s| (s.subject.clone(), s.tallies.iter().map(|t| (t.group.text(), whole(t.value))).collect()))
        .collect();
    let of_documents: BTreeMap<_, _> =
        seen.subjects.into_iter().map(|(subject, (_, lines))| (subject, lines)).collect();
    assert_eq!(of_documents.len() as u64, SUBJECTS);
    assert!(of_documents.values().all(|lines| *lines == fold(rounds as i64)));
    assert!(of_documents == of_api, "documents and API differ");
    let db = Connection::open(dir.join("sums.db")).unwrap();
    eventually("the file has caught up", || {
        let newest = "SELECT digest FROM snapshots ORDER BY epoch DESC LIMIT 1";
        let digest: String = db.query_row(newest, [], |row| row.get(0)).ok()?;
        (digest == tallies.digest).then_some(())
    });
    let query = r#"SELECT subject, "group", value FROM tallies ORDER BY subject, value DESC, "group""#;
    let mut query = db.prepare(query).unwrap();
    let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let mut of_rows: BTreeMap<String, Vec<(String, i64)>> = BTreeMap::new();
    for (subject, group, value) in rows.map(Result::<(String, String, i64), _>::unwrap) {
        of_rows.entry(subject).or_default().push((group, value));
    }
    assert!(of_rows == of_documents, "rows and documents differ");
    let snapshot = reader.all("sums_snapshots").unwrap().remove(0);
    assert_eq!(snapshot.get_str("digest").unwrap(), tallies.digest);
}

fn begin(server: &Server, mongod: &Mongod) {
    server.http.create_topic("numbers", 1);
    server.http.submit(&job(&mongod.uri()));
    server.http.append("numbers", (0..SUBJECTS).map(record).collect::<String>());
    server.http.tallies_of("sums", SUBJECTS);
}

#[test]
fn a_mongodb_that_is_stopped_killed_and_put_back_while_it_is_written_holds_whole_subjects_and_in_the_end_all() {
    let Some(mongod) = Mongod::up() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    begin(&server, &mongod);
    let (looking, feeding) = (Looking::start(&mongod), Feeding::start(&server.http.url, 1));
    let reader = mongod.reader();
    let older = mongod.dir.path().join("older");
    for how in ["stop", "kill", "stop", "kill", "put back"] {
        reader.in_the_middle();
        match how {
            "kill" => mongod.kill(),
            _ => mongod.stop(),
        }
        let read = server.http.tallies_read();
        eventually("the sink says why it is behind", || sink(&server.http, "mongodb")["error"].as_str().map(drop));
        eventually("nothing waits for it", || (server.http.tallies_read() > read + 2 * SUBJECTS).then_some(()));
        match how {
            "put back" => {
                mongod.copy(&older, &mongod.data());
                std::fs::remove_file(mongod.data().join("pid")).ok();
            }
            _ => mongod.copy(&mongod.data(), &older),
        }
        mongod.start();
        let epoch = server.http.tallies("sums").epoch.0;
        eventually("the sink has caught up", || {
            (sink(&server.http, "mongodb")["epoch"].as_u64() > Some(epoch)).then_some(())
        });
        assert_eq!(sink(&server.http, "mongodb")["error"], serde_json::Value::Null);
    }
    looking.end();
    let rounds = feeding.end();
    assert_all_the_same(&server, &mongod, dir.path(), rounds);
}

#[test]
fn a_server_that_is_killed_in_the_middle_of_a_sinks_epoch_leaves_whole_subjects_and_writes_the_rest_when_it_is_back() {
    let Some(mongod) = Mongod::up() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), 2);
    begin(&server, &mongod);
    let (looking, reader) = (Looking::start(&mongod), mongod.reader());
    let mut rounds = 1;
    for _ in 0..3 {
        // The feed ends with the server that it writes to: rounds of its own.
        let rows: String = (rounds * SUBJECTS..(rounds + 4) * SUBJECTS).map(record).collect();
        server.http.append("numbers", rows);
        rounds += 4;
        reader.in_the_middle();
        server.kill();
        let left = eventually("the database answers", || reader.look());
        left.check();
        server = Server::start(dir.path(), 2);
        server.http.tallies_of("sums", rounds * SUBJECTS);
    }
    assert_all_the_same(&server, &mongod, dir.path(), rounds);
    looking.end();
}

#[test]
fn a_mongodb_that_hangs_stalls_nothing_and_does_not_hold_up_the_end_of_the_server() {
    let Some(mongod) = Mongod::up() else { return };
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    begin(&server, &mongod);
    let (feeding, reader) = (Feeding::start(&server.http.url, 1), mongod.reader());
    reader.in_the_middle();
    signal(mongod.pid(), "STOP");
    let (read, epoch) = (server.http.tallies_read(), sink(&server.http, "sqlite")["epoch"].as_u64());
    eventually("counting goes on", || (server.http.tallies_read() > read + 5 * SUBJECTS).then_some(()));
    eventually("the other sink goes on", || (sink(&server.http, "sqlite")["epoch"].as_u64() > epoch).then_some(()));
    let rounds = feeding.end();
    let (status, took) = server.terminate();
    assert!(status.success() && took < Duration::from_secs(10), "{status} after {took:?}");
    signal(mongod.pid(), "CONT");
    let server = Server::start(dir.path(), 2);
    assert_all_the_same(&server, &mongod, dir.path(), rounds);
    // Where it only hangs for a while, the same server catches up.
    signal(mongod.pid(), "STOP");
    server.http.append("numbers", (rounds * SUBJECTS..(rounds + 1) * SUBJECTS).map(record).collect::<String>());
    server.http.tallies_of("sums", (rounds + 1) * SUBJECTS);
    let began = Instant::now();
    eventually("the sink says why it is behind", || sink(&server.http, "mongodb")["error"].as_str().map(drop));
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
    signal(mongod.pid(), "CONT");
    assert_all_the_same(&server, &mongod, dir.path(), rounds + 1);
}

#[test]
fn a_job_started_anew_takes_its_sinks_over_only_when_told_to() {
    let Some(mongod) = Mongod::up() else { return };
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = dir.path().join("job.toml");
    let shared = dir.path().join("sums.db");
    let text = job(&mongod.uri()).replace("\"sums.db\"", &format!("{:?}", shared.display().to_string()));
    std::fs::write(&file, text).unwrap();
    let server = Server::start(&dir.path().join("first"), 1);
    server.http.create_topic("numbers", 1);
    server.cli_ok(&["submit", file.to_str().unwrap()]);
    // Many epochs, so that those of a new directory lie below.
    for round in 0..5 {
        server.http.append("numbers", (round * SUBJECTS..(round + 1) * SUBJECTS).map(record).collect::<String>());
        server.http.tallies_of("sums", (round + 1) * SUBJECTS);
    }
    assert_all_the_same(&server, &mongod, dir.path(), 5);
    let epoch = server.http.tallies("sums").epoch.0;
    assert!(server.terminate().0.success());

    let server = Server::start(other.path(), 1);
    server.http.create_topic("numbers", 1);
    server.http.append("numbers", (0..SUBJECTS).map(record).collect::<String>());
    server.cli_ok(&["submit", file.to_str().unwrap()]);
    let tallies = server.http.tallies_of("sums", SUBJECTS);
    assert!(tallies.epoch.0 < epoch, "{} is not below {epoch}", tallies.epoch);
    for kind in ["sqlite", "mongodb"] {
        let error = eventually("it is refused", || sink(&server.http, kind)["error"].as_str().map(str::to_owned));
        assert!(error.contains("--take-over"), "{kind}: {error}");
    }
    assert!(mongod.reader().look().unwrap().snapshot.unwrap().0 >= epoch as i64, "nothing was written");
    server.cli_ok(&["submit", "--replace", "--take-over", file.to_str().unwrap()]);
    assert_all_the_same(&server, &mongod, dir.path(), 1);
    // It is theirs now, after a restart too.
    assert!(server.terminate().0.success());
    let server = Server::start(other.path(), 1);
    server.http.append("numbers", (SUBJECTS..2 * SUBJECTS).map(record).collect::<String>());
    assert_all_the_same(&server, &mongod, dir.path(), 2);
}

#[test]
fn polls_are_kept_as_the_programs_of_socialpoll_read_them() {
    let Some(mongod) = Mongod::up() else { return };
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("uri");
    std::fs::write(&uri, mongod.uri()).unwrap();
    let server = Server::start(&dir.path().join("data"), 1);
    server.http.create_topic("votes", 1);
    server.http.submit(&format!(
        "name = \"polls\"\ndataflow = \"polls\"\n[[input]]\ntopic = \"votes\"\nformat = \"vote\"\n\
         [[sink]]\nkind = \"mongodb\"\nuri_file = {:?}\nshape = \"socialpoll\"\nevery = \"100ms\"\n",
        uri.display().to_string()
    ));
    let poll = serde_json::json!({
        "id": "moods", "title": "Your mood", "options": ["happy", "sad", "so so"], "entity": "voter"
    });
    server.http.post_json("/api/polls", &poll).ok();
    for (voter, option) in [("a", "sad"), ("b", "sad"), ("c", "happy"), ("a", "so so"), ("d", "sad")] {
        let vote = serde_json::json!({ "voter": voter, "option": option });
        server.http.post_json("/api/polls/moods/votes", &vote).ok();
    }
    let reader = mongod.reader();
    let polls = reader.client.database("ballots").collection::<Document>("polls");
    let find = || reader.runtime.block_on(async { polls.find_one(doc! {}).await }).unwrap();
    let found = eventually("all votes are there", || {
        find().filter(|found| found.get_document("results").unwrap().get_i64("sad").unwrap() == 2)
    });
    assert_eq!(found.get_str("title").unwrap(), "Your mood");
    assert_eq!(*found.get_array("options").unwrap(), ["happy", "sad", "so so"].map(Bson::from));
    assert_eq!(*found.get_document("results").unwrap(), doc! { "happy": 1_i64, "sad": 2_i64, "so so": 1_i64 });
    found.get_object_id("_id").unwrap();
    server.http.delete("/api/polls/moods").ok();
    eventually("a deleted poll is gone", || find().is_none().then_some(()));
}

#[test]
fn a_password_is_shown_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let server = Server::start_with(dir.path(), 1, &[("TALLYFLOW_LOG_LEVEL", "debug")]);
    server.http.create_topic("numbers", 1);
    let uri = format!("mongodb://me:hunter2@{nobody}/?serverSelectionTimeoutMS=200");
    server.http.submit(&job(&uri));
    server.http.append("numbers", record(0));
    let sink =
        eventually("the sink is behind", || Some(sink(&server.http, "mongodb")).filter(|s| s["error"].is_string()));
    assert_eq!(sink["path"], format!("mongodb://me:***@{nobody}/results.sums"));
    let answers = ["/api/jobs", "/api/jobs/sums", "/api/jobs/sums/graph", "/metrics", "/api/topics"];
    for text in answers.map(|path| server.http.get(path).ok().text) {
        assert!(!text.contains("hunter2"), "{text}");
    }
    assert!(!server.cli_ok(&["job", "sums"]).contains("hunter2"));
    let refused = server.http.post("/api/jobs", job("mysql://me:hunter2@host"));
    assert!(refused.status == 422 && !refused.text.contains("hunter2"), "{refused:?}");
    let refused = server.http.post("/api/jobs", job("mongodb://me:hunter2@host\" ="));
    assert!(refused.status == 422 && !refused.text.contains("hunter2"), "{refused:?}");
    assert!(server.stderr().contains("the sink is behind") && !server.stderr().contains("hunter2"));
}
