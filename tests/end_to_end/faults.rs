//! Faults of the disk, of other programs, of the processor and of the clock, while votes are written and
//! read: what is shown afterwards is what a plain count of the votes says, and nothing else was meanwhile.

use crate::support::{Http, Mount, Server, eventually, preloaded, signal};
use crate::votes::{self, Flow};
use rusqlite::Connection;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use tallyflow_dataflows::results::Tallies;

const MIB: usize = 1 << 20;
const CHECKPOINT_EVERY: (&str, &str) = ("TALLYFLOW_CHECKPOINT_EVERY", "1s");

fn with_sink(path: &Path) -> String {
    format!("{}[[sink]]\nkind = \"sqlite\"\npath = \"{}\"\nevery = \"100ms\"\n", votes::JOB, path.display())
}

/// Waits until more votes than now are counted, and a reader has been told.
fn goes_on(http: &Http, flow: &Flow) {
    let more = flow.written() + 100;
    eventually("votes are counted meanwhile", || (http.tallies("votes").accounting.read > more).then_some(()));
    http.get("/healthz").ok();
}

/// Ends the writing; the tallies of all of it, which are right.
fn settled(http: &Http, flow: Flow) -> Tallies {
    let written = flow.stop();
    let tallies = http.tallies_of("votes", written);
    votes::assert_counts(&tallies, written);
    http.recount("votes");
    tallies
}

fn checkpoint_error(http: &Http) -> Option<String> {
    http.job("votes")["checkpoint"]["error"].as_str().map(str::to_owned)
}

fn checkpoint_epoch(http: &Http) -> Option<u64> {
    http.job("votes")["checkpoint"]["epoch"].as_u64()
}

/// Waits for the checkpoints to fail, and sees that all else goes on.
fn checkpoints_fail(server: &Server, flow: &Flow) {
    let error = eventually("the checkpoint can't be written", || checkpoint_error(&server.http));
    let epoch = checkpoint_epoch(&server.http);
    goes_on(&server.http, flow);
    assert_eq!(server.http.state("votes"), "running");
    assert_eq!(checkpoint_epoch(&server.http), epoch, "its age shows");
    assert!(server.stderr().contains("can't be written (it is tried again)"), "{error}: {}", server.stderr());
    let metrics = server.http.get("/metrics").ok().text;
    assert!(metrics.contains("tallyflow_job_checkpoint_failing{job=\"votes\"} 1"), "{metrics}");
}

/// Waits for a newer checkpoint, and has another server go on from it, to the same.
fn checkpoints_recover(server: Server, flow: Flow, again: impl FnOnce() -> Server) {
    let epoch = checkpoint_epoch(&server.http);
    eventually("a newer checkpoint is there", || {
        (checkpoint_epoch(&server.http) > epoch && checkpoint_error(&server.http).is_none()).then_some(())
    });
    let tallies = settled(&server.http, flow);
    server.kill();
    let server = again();
    let after = server.http.tallies_of("votes", tallies.accounting.read);
    assert_eq!((after.digest, after.accounting), (tallies.digest, tallies.accounting));
    assert!(server.stderr().contains("goes on from a checkpoint"), "{}", server.stderr());
}

/// A server whose checkpoints lie in a folder, with votes being written and a checkpoint.
fn begun(data: &Path, store: &Path) -> (Server, Flow) {
    let server = serve(data, store);
    server.http.create_topic("votes", 2);
    server.http.submit(votes::JOB);
    let flow = Flow::start(&server.http.url);
    eventually("a checkpoint is there", || checkpoint_epoch(&server.http));
    (server, flow)
}

fn serve(data: &Path, store: &Path) -> Server {
    Server::start_with(data, 2, &[CHECKPOINT_EVERY, ("TALLYFLOW_CHECKPOINT_URL", store.to_str().unwrap())])
}

#[test]
fn a_disk_that_is_full_of_something_else_holds_up_checkpoints_and_nothing_else() {
    let Some(mount) = Mount::new("size=2m") else { return };
    let data = tempfile::tempdir().unwrap();
    let (server, flow) = begun(data.path(), mount.path());
    let ballast = mount.path().join("ballast");
    // As much as there is room for.
    std::fs::write(&ballast, vec![1; 4 * MIB]).unwrap_err();
    checkpoints_fail(&server, &flow);
    std::fs::remove_file(&ballast).unwrap();
    checkpoints_recover(server, flow, || serve(data.path(), mount.path()));
}

#[test]
fn a_store_that_turns_read_only_holds_up_checkpoints_and_nothing_else() {
    let Some(mount) = Mount::new("size=16m") else { return };
    let data = tempfile::tempdir().unwrap();
    let (server, flow) = begun(data.path(), mount.path());
    // It can't be done in the midst of a write.
    eventually("it is read-only", || mount.try_remount("ro").then_some(()));
    checkpoints_fail(&server, &flow);
    mount.remount("rw");
    checkpoints_recover(server, flow, || serve(data.path(), mount.path()));
}

#[test]
fn something_else_in_the_place_of_a_jobs_checkpoints_holds_them_up_until_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (data, store) = (dir.path().join("data"), dir.path().join("store"));
    let (server, flow) = begun(&data, &store);
    std::fs::rename(store.join("job-1"), store.join("aside")).unwrap();
    // One that was being written may have made it anew.
    eventually("a file stands there", || {
        std::fs::remove_dir_all(store.join("job-1")).ok();
        std::fs::File::create_new(store.join("job-1")).ok()
    });
    checkpoints_fail(&server, &flow);
    std::fs::remove_file(store.join("job-1")).unwrap();
    std::fs::rename(store.join("aside"), store.join("job-1")).unwrap();
    checkpoints_recover(server, flow, || serve(&data, &store));
}

/// Reads a sink's file once: its epoch's digest, if it has one. Its lines are what a plain count of as many
/// votes says, the topic having one partition.
fn look_into(file: &Path) -> Option<String> {
    let db = Connection::open(file).ok()?;
    db.busy_timeout(Duration::from_secs(30)).unwrap();
    let newest = "SELECT digest, accounting FROM snapshots WHERE job = 'votes' ORDER BY epoch DESC LIMIT 1";
    let tx = db.unchecked_transaction().ok()?;
    let (digest, accounting): (String, String) = tx.query_row(newest, [], |row| Ok((row.get(0)?, row.get(1)?))).ok()?;
    let read = serde_json::from_str::<Value>(&accounting).unwrap()["read"].as_u64().unwrap();
    let mut lines = tx.prepare(r#"SELECT subject, "group", value FROM tallies WHERE job = 'votes'"#).unwrap();
    let line = |row: &rusqlite::Row| Ok(((row.get(0)?, row.get(1)?), row.get::<_, i64>(2)?));
    let lines: Vec<((String, String), i64)> = lines.query_map([], line).unwrap().map(Result::unwrap).collect();
    let counted = votes::count(read);
    assert_eq!(lines.len(), counted.len(), "the file shows what no epoch was");
    for ((subject, group), value) in lines {
        let (_, expected) = counted.iter().find(|((s, g), _)| *s == subject && *g == group).unwrap();
        assert_eq!(value.to_string(), expected.to_string(), "{subject} {group} after {read} votes");
    }
    Some(digest)
}

fn sink_error(http: &Http) -> Option<String> {
    http.job("votes")["sinks"][0]["error"].as_str().map(str::to_owned)
}

/// Waits until the sink holds what is shown.
fn sink_catches_up(http: &Http, file: &Path, shown: &Tallies) {
    eventually("the sink has caught up", || (look_into(file)? == shown.digest).then_some(()));
    eventually("its error is gone", || sink_error(http).is_none().then_some(()));
}

#[test]
fn a_results_file_that_another_program_locks_for_ten_seconds_is_behind_and_catches_up() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("results.db");
    let server = Server::start(&dir.path().join("data"), 2);
    let http = &server.http;
    http.create_topic("votes", 1);
    http.submit(&with_sink(&file));
    let flow = Flow::start(&http.url);
    eventually("the sink has something", || look_into(&file));
    let other = Connection::open(&file).unwrap();
    other.busy_timeout(Duration::from_secs(30)).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let locked = Instant::now();
    let held = look_into(&file).unwrap();
    while locked.elapsed() < Duration::from_secs(10) {
        goes_on(http, &flow);
        assert_eq!(look_into(&file).unwrap(), held, "readers of the file see the last epoch");
    }
    let error = eventually("the sink says why it is behind", || sink_error(http));
    assert!(error.contains("locked"), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    eventually("another epoch is there", || (look_into(&file).unwrap() != held).then_some(()));
    let shown = settled(http, flow);
    sink_catches_up(http, &file, &shown);
}

#[test]
fn a_results_file_on_a_full_disk_is_behind_and_catches_up() {
    let Some(mount) = Mount::new("size=4m") else { return };
    let data = tempfile::tempdir().unwrap();
    let file = mount.path().join("results.db");
    let server = Server::start(data.path(), 2);
    let http = &server.http;
    http.create_topic("votes", 1);
    http.submit(&with_sink(&file));
    let flow = Flow::start(&http.url);
    eventually("the sink has something", || look_into(&file));
    let ballast = mount.path().join("ballast");
    std::fs::write(&ballast, vec![1; 8 * MIB]).unwrap_err();
    let error = eventually("the sink says why it is behind", || {
        goes_on(http, &flow);
        sink_error(http)
    });
    assert!(error.contains("full"), "{error}");
    goes_on(http, &flow);
    assert_eq!(http.state("votes"), "running");
    std::fs::remove_file(&ballast).unwrap();
    let shown = settled(http, flow);
    sink_catches_up(http, &file, &shown);
}

#[test]
fn an_engine_that_crashes_in_any_way_is_started_again_and_the_sink_never_shows_half_an_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("results.db");
    let server = Server::start_with(&dir.path().join("data"), 3, &[CHECKPOINT_EVERY]);
    let http = &server.http;
    http.create_topic("votes", 1);
    http.submit(&with_sink(&file));
    let flow = Flow::start(&http.url);
    // What a panic of a worker ends in, an instruction that is none, and a sum that the processor refuses.
    for crash in ["ABRT", "ILL", "FPE"] {
        goes_on(http, &flow);
        let pid = http.engine_pid(None);
        signal(pid, crash);
        http.engine_pid(Some(pid));
        http.wait_for_state("votes", "running");
        look_into(&file);
    }
    let shown = settled(http, flow);
    sink_catches_up(http, &file, &shown);
    assert_eq!(http.get("/api/cluster").json()["engine_restarts"], 3);
}

/// A clock that a person sets: the time of day jumps, and time goes on.
#[test]
fn a_clock_that_is_set_back_an_hour_and_forward_a_day_changes_no_number_and_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let shim = preloaded(dir.path(), "shift_clock");
    let shift = dir.path().join("shift");
    let set_clock = |seconds: i64| {
        // As a whole: a file that is half written would be another time.
        std::fs::write(dir.path().join("next"), seconds.to_string()).unwrap();
        std::fs::rename(dir.path().join("next"), &shift).unwrap();
    };
    set_clock(0);
    let file = dir.path().join("results.db");
    let options = [
        CHECKPOINT_EVERY,
        ("LD_PRELOAD", shim.to_str().unwrap()),
        ("SHIFT_CLOCK", shift.to_str().unwrap()),
        ("TALLYFLOW_HISTORY_KEEP", "1s for 10d"),
    ];
    let server = Server::start_with(&dir.path().join("data"), 2, &options);
    let http = &server.http;
    http.create_topic("votes", 1);
    http.submit(&with_sink(&file));
    let flow = Flow::start(&http.url);
    let points = || http.job("votes")["history"]["points"].as_u64().unwrap_or(0);
    for seconds in [0, -3_600, 86_400, -3_600, 0] {
        set_clock(seconds);
        goes_on(http, &flow);
        let (epoch, kept, digest) = (checkpoint_epoch(http), points(), look_into(&file));
        eventually("checkpoints go on", || (checkpoint_epoch(http) > epoch).then_some(()));
        eventually("the history goes on, and loses nothing", || (points() > kept).then_some(()));
        eventually("the sink goes on", || (look_into(&file) != digest).then_some(()));
    }
    let shown = settled(http, flow);
    sink_catches_up(http, &file, &shown);
    let records = http.get("/api/topics/votes/records?limit=1000").ok().json();
    let times: Vec<&str> =
        records["items"].as_array().unwrap().iter().map(|item| item["timestamp"].as_str().unwrap()).collect();
    assert!(times.len() > 100 && times.is_sorted(), "the log's times never fall: {times:?}");
    // What is asked for as of now is the newest, whatever points lie ahead.
    let kept = eventually("the newest point is kept", || {
        let now = http.get(&format!("/api/jobs/votes/tallies?as_of={:.3}", jiff::Timestamp::now()));
        let kept: Value = serde_json::from_str(&now.text).ok()?;
        (kept["digest"] == shown.digest.as_str()).then_some(kept)
    });
    assert_eq!(kept["accounting"]["read"], shown.accounting.read);
    assert_eq!(http.get("/api/cluster").json()["engine_restarts"], 0);
}
