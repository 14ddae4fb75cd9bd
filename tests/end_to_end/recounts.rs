//! Recounts and questions: in many passes, from time to time, broken off, of what is not there any more.

use crate::support::{Server, eventually};
use crate::votes;
use rusqlite::Connection;
use serde_json::Value;
use std::path::Path;
use tallyflow_connectors::log::embedded::{EmbeddedLog, LogOptions};

const YES_OR_NO: &str = r#"
name = "ballot"
dataflow = "tally"
[[input]]
topic = "ballots"
format = "json"
[tally]
group = "/option"
entity = "/voter"
keep = "last"
order = "/at"
"#;

/// Ballots of so many voters, each of whom has voted once.
fn ballots(from: u64, to: u64) -> String {
    let line = |n: u64| {
        let option = if n.is_multiple_of(3) { "yes" } else { "nay" };
        format!("{{\"voter\":\"a-voter-with-a-name-of-some-length-{n}\",\"option\":\"{option}\",\"at\":{n}}}\n")
    };
    (from..to).map(line).collect()
}

fn start_ballot(server: &Server, ballots_max: u64) {
    server.http.create_topic("ballots", 2);
    for from in (0..ballots_max).step_by(10_000) {
        server.http.append("ballots", ballots(from, ballots_max.min(from + 10_000)));
    }
    server.http.submit(YES_OR_NO);
    server.http.tallies_of("ballot", ballots_max);
}

#[test]
fn a_recount_of_more_than_fits_in_its_memory_takes_several_passes_one_recount_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), 1, &[("TALLYFLOW_RECOUNT_MEMORY_MAX", "1048576")]);
    start_ballot(&server, 20_000);
    std::thread::scope(|scope| {
        let recount = scope.spawn(|| server.cli(&["recount", "ballot", "--format", "json"]));
        let progress = eventually("a pass that is not the first", || {
            let progress = server.http.job("ballot")["recount"].clone();
            assert!(!recount.is_finished(), "it had several passes to make");
            progress["pass"].as_u64().is_some_and(|pass| pass > 1).then_some(progress)
        });
        assert_eq!(progress["of"], 20_000);
        assert!(progress["passes"].as_u64() >= progress["pass"].as_u64(), "{progress}");
        // The job goes on, but a second recount of it waits.
        let refused = server.http.post("/api/jobs/ballot/recount", "");
        assert_eq!(refused.status, 409, "{refused:?}");
        assert!(refused.text.contains("being read again already"), "{refused:?}");
        let output = recount.join().unwrap();
        assert!(output.status.success(), "{output:?}");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&answer["equal"], &answer["records"]), (&true.into(), &20_000.into()));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    });
    assert!(server.http.job("ballot")["recount"].is_null());
}

#[test]
fn a_recount_ends_with_whoever_asked_for_it_and_with_the_job_and_with_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), 1, &[("TALLYFLOW_RECOUNT_MEMORY_MAX", "1048576")]);
    start_ballot(&server, 60_000);
    let begin = || {
        let args = ["recount", "ballot", "--format", "json", "--server", &server.http.url];
        let client = crate::support::tallyflow().args(args).stderr(std::process::Stdio::piped()).spawn().unwrap();
        eventually("it reads", || server.http.job("ballot")["recount"]["records"].as_u64().filter(|n| *n > 0));
        client
    };
    let mut client = begin();
    client.kill().unwrap();
    client.wait().unwrap();
    eventually("it has ended", || server.http.job("ballot")["recount"].is_null().then_some(()));

    let client = begin();
    server.http.delete("/api/jobs/ballot?mode=now").ok();
    let output = client.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("broken off: the job was cancelled"), "{told}");
    // What a cancelled job last showed can be recounted; the server does not wait for it.
    let client = begin();
    let (status, _) = server.terminate();
    assert!(status.success());
    assert!(!client.wait_with_output().unwrap().status.success());
}

/// Changes what stands in the log behind the server's back, as no program should.
fn falsify(dir: &Path, from: &[u8], to: &[u8]) {
    let conn = Connection::open(dir.join("log.db")).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
    let mut rows = conn.prepare("SELECT id, records, at_ms, body FROM batches").unwrap();
    let rows: Vec<(i64, u32, i64, Vec<u8>)> = rows
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    for (id, records, at_ms, mut body) in rows {
        let Some(at) = body.windows(from.len()).position(|bytes| bytes == from) else { continue };
        body[at..at + to.len()].copy_from_slice(to);
        let mut crc = flate2::Crc::new();
        [&id.to_le_bytes()[..], &records.to_le_bytes(), &at_ms.to_le_bytes(), &body].iter().for_each(|b| crc.update(b));
        conn.execute("UPDATE batches SET body = ?2, crc = ?3 WHERE id = ?1", (id, body, crc.sum())).unwrap();
        return;
    }
    panic!("it is not in the log");
}

#[test]
fn a_difference_that_a_periodic_recount_finds_is_logged_counted_and_turns_readiness_red_until_the_job_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let options = [("TALLYFLOW_RECOUNT_EVERY", "1s")];
    let server = Server::start_with(dir.path(), 1, &options);
    start_ballot(&server, 300);
    let metric = |name: &str| {
        let text = server.http.get("/metrics").ok().text;
        let line = text.lines().find(|line| line.starts_with(&format!("tallyflow_job_{name}{{")))?.to_owned();
        line.rsplit_once(' ').map(|(_, value)| value.to_owned())
    };
    eventually("a recount", || metric("recount_equal").filter(|equal| equal == "1"));
    assert_eq!(metric("recount_records"), Some("300".to_owned()));
    assert!(metric("recount_timestamp_seconds").is_some() && metric("recount_seconds").is_some());
    eventually("it is ready", || (server.http.get("/readyz").status == 200).then_some(()));

    falsify(dir.path(), b"\"option\":\"yes\"", b"\"option\":\"nay\"");
    eventually("a difference", || metric("recount_equal").filter(|equal| equal == "0"));
    let red = server.http.get("/readyz");
    assert_eq!(red.status, 503, "{red:?}");
    let named = "subject \\\"ballot\\\", group \\\"nay\\\" has tally 200 and recount 201";
    assert!(red.text.contains("the last recount of job \\\"ballot\\\" differs") && red.text.contains(named), "{red:?}");
    let told = "a recount differs: subject \"ballot\", group \"nay\" has tally 200 and recount 201";
    eventually("it is logged", || server.stderr().contains(told).then_some(()));

    // What is there now is what a job counts that begins anew.
    server.http.delete("/api/jobs/ballot?mode=now").ok();
    assert_eq!(server.http.get("/readyz").status, 200);
    server.http.submit(YES_OR_NO);
    server.http.tallies_of("ballot", 300);
    eventually("an equal one", || metric("recount_equal").filter(|equal| equal == "1"));
    assert_eq!(server.http.get("/readyz").status, 200);
}

#[test]
fn why_names_the_records_behind_a_number_and_what_became_of_any_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    http.create_topic("ballots", 1);
    let lines = r#"{"voter":"ada","option":"yes","at":1}
{"voter":"bob","option":"yes","at":2}
{"voter":"ada","option":"nay","at":3}
{"voter":"eve","option":"yes","at":4}
{"voter":"eve","option":null,"at":5}
no JSON
{"voter":"fay","option":[],"at":6}
"#;
    http.append("ballots", lines);
    http.submit(YES_OR_NO);
    http.tallies_of("ballot", 7);

    let answer = http.get("/api/jobs/ballot/why?subject=ballot&group=yes").ok().json();
    assert_eq!(answer["values"], serde_json::json!([1]));
    assert_eq!((&answer["accounting"]["claims"], &answer["records"]), (&5.into(), &14.into()));
    let offsets =
        |claims: &Value| claims.as_array().unwrap().iter().map(|c| c["offset"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(offsets(&answer["contributions"]), [1]);
    assert_eq!(offsets(&answer["left_out"]), [3, 0]);
    let ada = &answer["left_out"][1];
    assert_eq!((&ada["entity"], &ada["class"], &ada["by"]["offset"]), (&"ada".into(), &"superseded".into(), &2.into()));
    assert_eq!(
        (&ada["topic"], &ada["partition"], &ada["at"]),
        (&"ballots".into(), &0.into(), &"1970-01-01T00:00:00.001Z".into())
    );
    assert_eq!(answer["left_out"][0]["by"]["says"], "withdrawal");
    let limited = http.get("/api/jobs/ballot/why?subject=ballot&group=yes&limit=1").ok().json();
    assert_eq!((offsets(&limited["contributions"]), offsets(&limited["left_out"])), (vec![], vec![3]));

    let at = |offset: u64| {
        http.get(&format!("/api/jobs/ballot/why?at=ballots/0/{offset}")).ok().json()["readings"][0].clone()
    };
    assert_eq!(
        (at(2)["class"].clone(), at(2)["claims"][0]["replaced"]["offset"].clone()),
        ("matched".into(), 0.into())
    );
    assert_eq!(at(4)["claims"][0]["lines"], serde_json::json!([]));
    assert_eq!(at(5)["class"], "rejected");
    assert!(at(5)["reason"].as_str().unwrap().contains("JSON"), "{}", at(5));
    assert_eq!((at(6)["class"].clone(), at(6)["reason"].clone()), ("irrelevant".into(), "its group is empty".into()));

    let table = server.cli_ok(&["why", "ballot", "ballot", "yes"]);
    for part in [
        "ballot, yes: 1\n",
        "newest contributions",
        "left out",
        "ballots/0/1",
        "superseded by ballots/0/4, a withdrawal",
    ] {
        assert!(table.contains(part), "{part:?} in {table}");
    }
    let one = server.cli_ok(&["why", "ballot", "--at", "ballots/0/2"]);
    assert!(one.starts_with("ballots/0/2 is matched\n") && one.contains("ballot, nay: 1"), "{one}");
    let one = server.cli_ok(&["why", "ballot", "--at", "ballots/0/6"]);
    assert!(one.starts_with("ballots/0/6 is irrelevant: its group is empty\n"), "{one}");

    for (query, status, told) in [
        ("subject=none&group=yes", 404, "no subject"),
        ("subject=ballot&group=none", 404, "no group"),
        ("at=none/0/1", 404, "does not read none/0"),
        ("at=ballots/1/1", 404, "does not read ballots/1"),
        ("at=ballots/0/7", 404, "it has read offsets 0 to 6 there"),
        ("at=ballots/x/7", 400, "TOPIC/PARTITION/OFFSET"),
        ("at=ballots", 400, "TOPIC/PARTITION/OFFSET"),
        ("group=yes", 400, "name a line"),
    ] {
        let answer = http.get(&format!("/api/jobs/ballot/why?{query}"));
        assert!(answer.status == status && answer.text.contains(told), "{query}: {answer:?}");
    }
    let wrong: [(&[&str], i32); 4] = [
        (&["why", "ballot"], 2),
        (&["why", "ballot", "ballot"], 2),
        (&["why", "ballot", "--at", "ballots/0"], 2),
        (&["why", "ballot", "--at", "ballots/0/99"], 1),
    ];
    for (args, status) in wrong {
        assert_eq!(server.cli(args).status.code(), Some(status), "{args:?}");
    }
}

#[test]
fn why_tells_of_polls_what_a_vote_replaced_and_that_a_deletion_took_a_post_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    http.create_topic("votes", 1);
    http.create_topic("posts", 1);
    http.submit(
        "name = \"polls\"\ndataflow = \"polls\"\n[[input]]\ntopic = \"votes\"\nformat = \"vote\"\n[[input]]\ntopic = \
         \"posts\"\nformat = \"post\"\n",
    );
    http.wait_for_state("polls", "running");
    http.post("/api/polls", r#"{"id":"a","options":["yes","no"],"entity":"voter","keep":"last"}"#).ok();
    for (voter, option) in [("ada", "yes"), ("ada", "no"), ("bob", "no")] {
        http.post("/api/polls/a/votes", format!(r#"{{"voter":"{voter}","option":"{option}"}}"#)).ok();
    }
    let now = jiff::Timestamp::now();
    http.append("posts", format!("{{\"id\":\"1\",\"author\":\"eve\",\"text\":\"no no\",\"at\":\"{now}\"}}\n"));
    let later = now + jiff::SignedDuration::from_millis(1);
    http.append("posts", format!("{{\"id\":\"1\",\"author\":\"eve\",\"text\":null,\"at\":\"{later}\"}}\n"));
    http.tallies_of("polls", 5);
    let answer = http.get("/api/jobs/polls/why?subject=a&group=no").ok().json();
    assert_eq!((&answer["values"], &answer["accounting"]["claims"]), (&serde_json::json!([2]), &4.into()));
    let counted = answer["contributions"].as_array().unwrap();
    assert_eq!(counted.len(), 2, "{answer}");
    assert_eq!((&counted[0]["entity"], &counted[1]["entity"]), (&"bob".into(), &"ada".into()));
    assert_eq!(counted[1]["replaced"]["offset"], 0);
    let left = answer["left_out"].as_array().unwrap();
    assert_eq!(
        (left.len(), &left[0]["by"]["says"], &left[0]["by"]["offset"]),
        (1, &"nothing".into(), &1.into()),
        "{answer}"
    );
    let deletion = http.get("/api/jobs/polls/why?at=posts/0/1").ok().json();
    assert_eq!(deletion["readings"][0]["replaced"]["offset"], 0, "{deletion}");
    http.recount("polls");
}

#[test]
fn why_adds_up_to_the_tally_that_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    server.http.create_topic("votes", 3);
    server.http.append("votes", votes::lines(0, 600));
    server.http.submit(votes::JOB);
    server.http.tallies_of("votes", 600);
    for ((poll, option), value) in votes::count(600) {
        let answer =
            server.http.get(&format!("/api/jobs/votes/why?subject={poll}&group={option}&limit=1000")).ok().json();
        let counted = answer["contributions"].as_array().unwrap().len();
        assert_eq!(value.to_string(), counted.to_string(), "{poll} {option}");
    }
}

#[test]
fn where_retention_has_taken_the_beginning_a_recount_goes_on_from_an_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = [("TALLYFLOW_LOG_RETENTION_BYTES", "1048576")];
    let server = Server::start_with(dir.path(), 2, &options);
    start_ballot(&server, 38_000);
    let recount = |server: &Server| -> Value {
        serde_json::from_str(&server.cli_ok(&["recount", "ballot", "--format", "json"])).unwrap()
    };
    let first = recount(&server);
    assert_eq!((&first["equal"], &first["base"]), (&Value::Bool(true), &Value::Null));
    // Some vote again.
    server.http.append("ballots", ballots(38_000, 40_000).replace("-length-3", "-length-1"));
    let shown = server.http.tallies_of("ballot", 40_000);
    server.terminate();
    // What would come with time.
    let log = EmbeddedLog::open(dir.path(), LogOptions::default()).unwrap();
    assert!(log.enforce_retention().unwrap() > 0);
    drop(log);
    let server = Server::start_with(dir.path(), 1, &options);
    let again = server.http.tallies_of("ballot", 40_000);
    assert_eq!(again.digest, shown.digest);
    let topics = server.http.get("/api/topics").ok().json();
    let starts: Vec<u64> = topics["items"][0]["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["start_offset"].as_u64().unwrap())
        .collect();
    assert!(starts.iter().any(|start| *start > 0), "{topics}");
    let second = recount(&server);
    assert_eq!((&second["equal"], &second["base"]["epoch"]), (&Value::Bool(true), &first["epoch"]), "{second}");
    assert!(server.cli_ok(&["recount", "ballot"]).contains("retention has taken what was before"));
    // A base that is damaged is an error, and no answer.
    let bases: Vec<_> =
        std::fs::read_dir(dir.path().join("recounts/job-1")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(bases.len(), 2, "the oldest of use and the newest: {bases:?}");
    for base in bases {
        let bytes = std::fs::read(&base).unwrap();
        std::fs::write(&base, &bytes[..bytes.len() / 2]).unwrap();
    }
    let refused = server.http.post("/api/jobs/ballot/recount", "");
    assert!(refused.status == 500 && refused.text.contains("recounts/job-1"), "{refused:?}");
}
