//! What was served at a past moment is answered again, word for word: across corrections, an engine that
//! is killed, a server that is killed, and another form of the job.

use crate::replace::{BY_POLL, replace};
use crate::support::{Http, Server, eventually, refused, signal, tallyflow};
use crate::votes;
use reqwest::Method;
use serde_json::Value;
use tallyflow_dataflows::results::Tallies;

/// What was served once nothing more came, in every form in which it is asked for.
struct Served {
    read: u64,
    at: String,
    epoch: u64,
    all: Value,
    of_p0: Value,
    csv: String,
}

const OF_P0: &str = "/api/jobs/votes/tallies?subject=p0&limit=2";

/// Notes what is served once so many records are counted and the history has that.
fn served(http: &Http, read: u64) -> Served {
    let tallies = http.tallies_of("votes", read);
    wait_for_point(http, &tallies);
    let all = http.get("/api/jobs/votes/tallies").ok().json();
    assert_eq!(all["epoch"], tallies.epoch.0, "an epoch without records");
    Served {
        read,
        at: tallies.at,
        epoch: tallies.epoch.0,
        all,
        of_p0: http.get(OF_P0).ok().json(),
        csv: http.get("/api/jobs/votes/tallies?format=csv").ok().text,
    }
}

fn wait_for_point(http: &Http, tallies: &Tallies) {
    eventually("the epoch is a point", || {
        let history = http.job("votes")["history"].clone();
        assert_eq!(history["error"], Value::Null);
        (history["epoch"].as_u64() >= Some(tallies.epoch.0)).then_some(())
    });
}

/// That each of these is answered as it was.
#[track_caller]
fn assert_served(server: &Server, moments: &[&Served]) {
    let http = &server.http;
    for moment in moments {
        let at = &moment.at;
        let answer = http.get(&format!("/api/jobs/votes/tallies?as_of={at}")).ok();
        assert_eq!(answer.json(), moment.all, "as of {at}");
        assert_eq!(answer.headers["etag"], format!("\"{}\"", moment.epoch));
        let known = [("if-none-match", answer.headers["etag"].to_str().unwrap())];
        let again = http.send(Method::GET, &format!("/api/jobs/votes/tallies?as_of={at}"), &known, "").unwrap();
        assert_eq!((again.status, again.text.as_str()), (304, ""));
        assert_eq!(http.get(&format!("{OF_P0}&as_of={at}")).ok().json(), moment.of_p0);
        let json = server.cli_ok(&["results", "votes", "--as-of", at, "--format", "json"]);
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), moment.all);
        assert_eq!(server.cli_ok(&["results", "votes", "--as-of", at, "--format", "csv"]), moment.csv);
        let table = server.cli_ok(&["results", "votes", "--as-of", at, "--subject", "p0"]);
        assert!(table.starts_with(&format!("votes at epoch {}, {at}", moment.epoch)), "{table}");
        assert!(table.contains("p0") && !table.contains("p1"), "{table}");
    }
}

/// A series, page by page.
fn series(http: &Http, query: &str) -> Vec<Value> {
    let (mut items, mut after) = (Vec::new(), String::new());
    loop {
        let page = http.get(&format!("/api/jobs/votes/history?limit=3{query}{after}")).ok().json();
        items.extend(page["items"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return items,
        }
    }
}

#[test]
fn what_was_served_is_answered_again_after_the_engine_and_the_server_were_killed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    http.create_topic("votes", 2);
    http.submit(votes::JOB);
    http.append("votes", votes::lines(0, 300));
    let first = served(http, 300);
    http.append("votes", votes::lines(300, 900));
    let second = served(http, 900);
    assert_served(&server, &[&first, &second]);

    let pid = http.engine_pid(None);
    signal(pid, "KILL");
    http.engine_pid(Some(pid));
    http.wait_for_state("votes", "running");
    http.append("votes", votes::lines(900, 1_400));
    let third = served(http, 1_400);
    assert_served(&server, &[&first, &second, &third]);

    server.kill();
    let server = Server::start(dir.path(), 2);
    let http = &server.http;
    // Also before the job is where it was.
    assert_served(&server, &[&first, &second, &third]);
    http.wait_for_state("votes", "running");
    http.append("votes", votes::lines(1_400, 1_800));
    let fourth = served(http, 1_800);
    let moments = [&first, &second, &third, &fourth];
    assert_served(&server, &moments);
    // In between it is the one before, and in times to come the newest.
    let ms = fourth.at.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    assert!(
        http.get(&format!("/api/jobs/votes/tallies?as_of={}", ms - 1)).ok().json()["epoch"].as_u64()
            < Some(fourth.epoch)
    );
    assert_eq!(http.get("/api/jobs/votes/tallies?as_of=2200-01-01T00:00:00Z").ok().json(), fourth.all);
    assert_eq!(server.cli_ok(&["results", "votes", "--as-of", "now", "--format", "csv"]), fourth.csv);

    // No point is of something that was not whole: nothing falls back.
    let totals = series(http, "&subject=p0");
    let mut read = 0;
    for item in &totals {
        let then = http.get(&format!("/api/jobs/votes/tallies?as_of={}", item["at"].as_str().unwrap())).ok().json();
        assert_eq!(then["epoch"], item["epoch"]);
        assert_eq!(then["subjects"][0]["total"], item["value"]);
        let records = then["accounting"]["read"].as_u64().unwrap();
        assert!(records >= read, "{records} after {read}");
        read = records;
    }
    let line = series(http, "&subject=p1&group=o2");
    for moment in moments {
        let item = line.iter().find(|item| item["epoch"] == moment.epoch).unwrap();
        let lines = moment.all["subjects"][1]["tallies"].as_array().unwrap();
        let shown = lines.iter().find(|line| line["group"] == "o2").map_or(Value::Null, |line| line["value"].clone());
        assert_eq!((&item["value"], item["at"].as_str()), (&shown, Some(moment.at.as_str())), "{}", moment.read);
    }
    // The last point of each step; here one step holds all.
    assert_eq!(series(http, "&subject=p1&group=o2&step=365d").len(), 1);
    assert_eq!(series(http, &format!("&subject=p0&from={}&to={}", first.at, first.at)), totals[..1]);
    let metrics = http.get("/metrics").ok().text;
    assert!(metrics.contains(&format!("tallyflow_history_points{{job=\"votes\"}} {}", totals.len())), "{metrics}");
    assert!(metrics.contains("tallyflow_history_behind{job=\"votes\"} 0"));
}

#[test]
fn a_replaced_job_keeps_its_history_a_cancelled_one_too_until_its_name_is_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 1);
    let http = &server.http;
    http.create_topic("votes", 1);
    http.submit(votes::JOB);
    http.append("votes", votes::lines(0, 400));
    let first = served(http, 400);
    assert_eq!(replace(http, BY_POLL).0, 200);
    eventually("the new form is there", || (http.tallies("votes").subjects[0].subject == "votes").then_some(()));
    http.append("votes", votes::lines(400, 500));
    let tallies = http.tallies_of("votes", 500);
    wait_for_point(http, &tallies);
    let second = http.get(&format!("/api/jobs/votes/tallies?as_of={}", tallies.at)).ok().json();
    assert_eq!(second, http.get("/api/jobs/votes/tallies").ok().json());
    assert_served(&server, &[&first]);
    // The subject named like the job is meant where none is named.
    assert_eq!(series(http, "&group=p0").last().unwrap()["epoch"], tallies.epoch.0);

    server.cli_ok(&["cancel", "votes"]);
    let (status, _) = server.terminate();
    assert!(status.success());
    let server = Server::start(dir.path(), 1);
    let http = &server.http;
    assert_eq!(http.state("votes"), "cancelled");
    assert_served(&server, &[&first]);
    assert_eq!(http.get(&format!("/api/jobs/votes/tallies?as_of={}", tallies.at)).ok().json(), second);

    http.submit(votes::JOB);
    let anew = served(http, 500);
    assert_served(&server, &[&anew]);
    let gone = http.get(&format!("/api/jobs/votes/tallies?as_of={}", first.at));
    assert_eq!(gone.status, 404, "{gone:?}");
    assert!(gone.json()["detail"].as_str().unwrap().contains("the oldest point is of 20"), "{gone:?}");
    assert_eq!(
        std::fs::read_dir(dir.path().join("history/votes"))
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "db") })
            .count(),
        1
    );
}

#[test]
fn what_can_not_be_answered_of_the_past_is_told_plainly() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), 1);
    let http = &server.http;
    http.create_topic("votes", 1);
    http.submit(votes::JOB);
    http.append("votes", votes::lines(0, 50));
    served(http, 50);
    for (path, status, says) in [
        ("votes/tallies?as_of=soon", 400, "`as_of` is no time"),
        ("votes/tallies?as_of=2026-11-21", 400, "like 2026-11-21T10:00:00Z"),
        ("votes/tallies?as_of=2026-11-21T10:00:00+01:00", 400, "%2B"),
        ("votes/tallies?as_of=0", 404, "the oldest point is of 20"),
        ("votes/tallies?as_of=1&as_of=2", 400, "2 times"),
        ("none/tallies?as_of=1", 404, "no job named"),
        ("none/history", 404, "no job named"),
        ("votes/history?subject=p9", 404, "no line of that subject"),
        ("votes/history?subject=p0&group=o77", 404, "no line of that subject"),
        ("votes/history?subject=p0&step=0", 400, "`step` must be a time like 10s"),
        ("votes/history?subject=p0&step=-1s", 400, "`step` must be"),
        ("votes/history?subject=p0&from=2&to=1", 400, "`from` is after `to`"),
        ("votes/history?subject=p0&limit=1001", 400, "`limit`"),
        ("votes/history?subject=p0&after=x", 400, "`after`"),
        ("votes/history?subject=p0&until=1", 400, "no parameter \"until\""),
    ] {
        let answer = http.get(&format!("/api/jobs/{path}"));
        let detail = answer.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(answer.status == status && detail.contains(says), "{path}: {answer:?}");
    }
    let command = |args: &[&str]| refused(tallyflow().args(args).args(["--server", &http.url]));
    let (status, stderr) = command(&["results", "votes", "--as-of", "1970-01-01T00:00:00Z"]);
    assert!(status == 1 && stderr.contains("the oldest point is of 20"), "{status} {stderr}");
    let (status, stderr) = command(&["results", "votes", "--as-of", "soon"]);
    assert!(status == 2 && stderr.contains("2026-11-21T10:00:00Z"), "{status} {stderr}");
}

#[test]
fn a_server_that_keeps_no_history_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), 1, &[("TALLYFLOW_HISTORY_KEEP", "")]);
    let http = &server.http;
    http.create_topic("votes", 1);
    http.submit(votes::JOB);
    http.append("votes", votes::lines(0, 50));
    http.tallies_of("votes", 50);
    let answer = http.get("/api/jobs/votes/tallies?as_of=now");
    assert_eq!(answer.status, 400);
    let answer = http.get("/api/jobs/votes/tallies?as_of=2200-01-01T00:00:00Z");
    assert!(answer.status == 404 && answer.text.contains("history.keep"), "{answer:?}");
    assert!(!dir.path().join("history").exists());
}
