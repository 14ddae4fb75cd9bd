//! Checkpoints in a place of their own: whose they are, and what becomes of two servers that name one.

use crate::support::{Http, Server, eventually, refused, signal, tallyflow};
use crate::votes::{self, Flow};
use rusqlite::Connection;
use std::path::Path;
use std::process::Command;
use tallyflow_connectors::checkpoint_store::ObjectCheckpoints;
use tallyflow_dataflows::checkpoint::manifest::Place;
use tempfile::TempDir;

/// Two data directories' worth of room, a place for checkpoints, and a results file beside them.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> World {
        World { dir: tempfile::tempdir().unwrap() }
    }

    fn server(&self, data: &str, every: &str) -> Server {
        let url = format!("file://{}", self.dir.path().join("store").display());
        let options = [("TALLYFLOW_CHECKPOINT_EVERY", every), ("TALLYFLOW_CHECKPOINT_URL", &url)];
        Server::start_with(&self.dir.path().join(data), 2, &options)
    }

    fn results(&self) -> Connection {
        Connection::open(self.dir.path().join("results.db")).unwrap()
    }

    /// Votes with a sink beside the data directories, so that copies of them share it.
    fn begin(&self, server: &Server) {
        let path = self.dir.path().join("results.db");
        let sink = format!("[[sink]]\nkind = \"sqlite\"\npath = \"{}\"\nevery = \"100ms\"\n", path.display());
        server.http.create_topic("votes", 2);
        server.http.submit(&format!("{}{sink}", votes::JOB));
    }

    /// Copies the data directory of a server that has ended.
    fn copy(&self, from: &str, to: &str) {
        let copied = Command::new("cp").arg("-a").args([from, to]).current_dir(self.dir.path()).status().unwrap();
        assert!(copied.success());
    }

    /// The digest of the newest epoch in the results file.
    fn digest(&self) -> String {
        let newest = "SELECT digest FROM snapshots WHERE job = 'votes' ORDER BY epoch DESC LIMIT 1";
        self.results().query_row(newest, [], |row| row.get(0)).unwrap()
    }

    /// What was written there of whichever epochs: changes when anything is.
    fn version(&self, results: &Connection) -> i64 {
        results.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap()
    }
}

#[test]
fn checkpoints_lie_where_the_url_says_and_a_job_goes_on_from_there() {
    let world = World::new();
    let server = world.server("data", "off");
    world.begin(&server);
    server.http.append("votes", votes::lines(0, 500));
    let shown = server.http.tallies_of("votes", 500);
    assert!(server.terminate().0.success());
    assert!(world.dir.path().join("store/job-1").is_dir());
    assert!(!world.dir.path().join("data/checkpoints").exists());
    let server = world.server("data", "off");
    assert_eq!(server.http.tallies_of("votes", 500).digest, shown.digest);
    assert!(server.stderr().contains("goes on from a checkpoint"), "{}", server.stderr());
    server.cli_ok(&["cancel", "votes", "--mode", "now"]);
    assert!(!world.dir.path().join("store/job-1").exists(), "what is of no use any more is removed");
}

#[test]
fn two_data_directories_can_not_share_a_place_and_both_are_named() {
    let world = World::new();
    let server = world.server("data", "1s");
    let place = world.dir.path().join("store");
    let mut other = tallyflow();
    other.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "error", "--data-dir"]);
    other.arg(world.dir.path().join("other")).arg("--checkpoint-url").arg(&place);
    let (status, said) = refused(&mut other);
    assert_eq!((status, said.lines().count()), (1, 1), "{said}");
    for named in [&place, &world.dir.path().join("data"), &world.dir.path().join("other")] {
        assert!(said.contains(named.to_str().unwrap()), "{said}");
    }
    assert!(said.contains("--checkpoint-url"), "{said}");
    server.http.get("/readyz").ok();
}

#[test]
fn a_place_that_is_none_is_refused_at_the_start_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let serve = |url: &str| {
        let mut serve = tallyflow();
        serve.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "error", "--data-dir"]);
        serve.arg(dir.path().join("data")).args(["--checkpoint-url", url]);
        refused(&mut serve)
    };
    let (status, said) = serve("ftp://host/path");
    assert!(status == 2 && said.contains("--checkpoint-url") && said.contains("s3://BUCKET/PREFIX"), "{said}");
    let (status, said) = serve("s3://key:hunter2@bucket/path");
    assert!(status == 2 && said.contains("AWS_*") && !said.contains("hunter2"), "{said}");
    assert!(!dir.path().join("data").exists(), "nothing was touched");
    #[cfg(not(feature = "cloud"))]
    {
        let (status, said) = serve("s3://bucket/path");
        assert!(status == 1 && said.contains("--features cloud"), "{said}");
    }
    std::fs::write(dir.path().join("file"), "no folder").unwrap();
    let (status, said) = serve(dir.path().join("file").to_str().unwrap());
    assert!(status == 1 && said.contains("can't be used") && said.lines().count() == 1, "{said}");
}

/// A server and a later one over a copy of its data directory: what the first one still writes.
fn of_two_servers_the_later_one_goes_on(freeze: bool) {
    let world = World::new();
    let first = world.server("data", "1s");
    world.begin(&first);
    first.http.append("votes", votes::lines(0, 300));
    first.http.tallies_of("votes", 300);
    first.terminate();
    world.copy("data", "copy");
    // It has written no checkpoint of what the copy's log does not have when the second one starts.
    let first = world.server("data", "10s");
    let engine = first.http.engine_pid(None);
    first.http.append("votes", votes::lines(300, 1_000));
    let theirs = first.http.tallies_of("votes", 1_000);
    eventually("the first one's sink has it", || (world.digest() == theirs.digest).then_some(()));
    if freeze {
        signal(first.pid(), "STOP");
        signal(engine, "STOP");
    }

    let second = world.server("copy", "1s");
    second.http.append("votes", votes::lines(300, 400));
    let shown = second.http.tallies_of("votes", 400);
    votes::assert_counts(&shown, 400);
    eventually("the sink has the second one's, whatever the first one wrote", || {
        (world.digest() == shown.digest).then_some(())
    });
    let lines = || -> i64 { world.results().query_row("SELECT count(*) FROM lines", [], |row| row.get(0)).unwrap() };
    assert_eq!(lines() as usize, votes::count(400).len());
    let results = world.results();
    let version = world.version(&results);
    if freeze {
        signal(first.pid(), "CONT");
        signal(engine, "CONT");
    }

    // It is written to until it has noticed, and after; none of that comes out.
    let flow = Flow::start_after(&first.http.url, 1_000);
    first.http.wait_for_state("votes", "failed");
    let error = first.http.job("votes")["error"].as_str().unwrap().to_owned();
    assert!(error.contains("another server has taken"), "{error}");
    eventually("it is not ready", || {
        let ready = first.http.get("/readyz");
        (ready.status == 503 && ready.text.contains("another server")).then_some(())
    });
    flow.stop();
    let refusal = first.http.post("/api/jobs", votes::JOB.replace("name = \"votes\"", "name = \"more\""));
    assert!(refusal.status >= 500 && refusal.text.contains("another server"), "{refusal:?}");
    assert!(!first.cli(&["restart", "votes"]).status.success());
    assert!(!first.cli(&["checkpoint", "votes"]).status.success());
    assert!(first.stderr().contains("stop it, and run no two servers"), "{}", first.stderr());
    assert_eq!((world.version(&results), world.digest()), (version, shown.digest.clone()), "the sink is as it was");

    // The later one goes on as if nothing had been, and so does one after it.
    second.cli_ok(&["checkpoint", "votes"]);
    assert!(first.terminate().0.success());
    // The connection of before may have been idle for too long.
    let http = Http::new(&second.http.url);
    http.append("votes", votes::lines(400, 700));
    votes::assert_counts(&http.tallies_of("votes", 700), 700);
    assert_eq!(http.state("votes"), "running");
    second.kill();
    let third = world.server("copy", "1s");
    let shown = third.http.tallies_of("votes", 700);
    votes::assert_counts(&shown, 700);
    eventually("the sink follows the third", || (world.digest() == shown.digest).then_some(()));
}

#[test]
fn of_two_servers_over_copies_of_one_directory_the_later_one_goes_on() {
    of_two_servers_the_later_one_goes_on(false);
}

#[test]
fn a_server_that_was_frozen_while_another_took_over_writes_nothing_after() {
    of_two_servers_the_later_one_goes_on(true);
}

/// As it is where an earlier server, that has not noticed yet, starts its engine again.
#[test]
fn a_job_that_another_engine_has_taken_is_taken_back_while_no_later_server_is_there() {
    let world = World::new();
    let server = world.server("data", "1s");
    world.begin(&server);
    server.http.append("votes", votes::lines(0, 300));
    server.http.tallies_of("votes", 300);
    server.cli_ok(&["checkpoint", "votes"]);
    let store = ObjectCheckpoints::in_folder(&world.dir.path().join("store")).unwrap();
    let place = Place { folder: "job-1".into(), form: "whichever".into() };
    place.take_up(&store, |_| Ok(())).unwrap();
    server.http.append("votes", votes::lines(300, 500));
    eventually("it has found that out", || server.stderr().contains("the job is taken up again").then_some(()));
    server.http.wait_for_state("votes", "running");
    server.http.append("votes", votes::lines(500, 700));
    let shown = server.http.tallies_of("votes", 700);
    votes::assert_counts(&shown, 700);
    server.http.recount("votes");
    server.http.get("/readyz").ok();
    server.cli_ok(&["checkpoint", "votes"]);
    eventually("its sink writes again", || (world.digest() == shown.digest).then_some(()));
}

/// What the folder holds of a job stays within bounds however often a server is started.
#[test]
fn starts_on_record_are_bounded() {
    let world = World::new();
    for _ in 0..14 {
        world.server("data", "off").kill();
    }
    let servers = |path: &Path| std::fs::read_dir(path).unwrap().count();
    assert!((2..=11).contains(&servers(&world.dir.path().join("store/servers"))));
}

/// Needs a bucket, see `scripts/s3-tests`.
#[test]
fn a_server_keeps_its_checkpoints_in_s3_and_goes_on_from_there() {
    let Some(bucket) = std::env::var("TALLYFLOW_TEST_S3").ok().filter(|_| cfg!(feature = "cloud")) else {
        println!("SKIPPED: it takes a bucket and the feature `cloud`; scripts/s3-tests has both");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let url = format!("{bucket}/server-{}", since.as_nanos());
    let serve = |workers| {
        let options = [("TALLYFLOW_CHECKPOINT_EVERY", "1s"), ("TALLYFLOW_CHECKPOINT_URL", url.as_str())];
        Server::start_with(&dir.path().join("data"), workers, &options)
    };
    let server = serve(2);
    server.http.create_topic("votes", 2);
    server.http.submit(votes::JOB);
    server.http.append("votes", votes::lines(0, 500));
    server.cli_ok(&["checkpoint", "votes"]);
    server.http.append("votes", votes::lines(500, 600));
    let shown = server.http.tallies_of("votes", 600);
    server.kill();
    let server = serve(3);
    let after = server.http.tallies_of("votes", 600);
    assert_eq!((after.digest, after.accounting), (shown.digest, shown.accounting));
    assert!(server.stderr().contains("goes on from a checkpoint"), "{}", server.stderr());
    assert!(!dir.path().join("data/checkpoints").exists());

    let mut nowhere = tallyflow();
    nowhere.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "error", "--data-dir"]);
    nowhere.arg(dir.path().join("other")).args(["--checkpoint-url", "s3://tallyflow-no-such-bucket/prefix"]);
    let (status, said) = refused(&mut nowhere);
    assert!(status == 1 && said.lines().count() == 1, "{said}");
    for part in ["s3://tallyflow-no-such-bucket/prefix", "NoSuchBucket", "--checkpoint-url"] {
        assert!(said.contains(part), "{said}");
    }
}
