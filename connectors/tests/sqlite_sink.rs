//! The SQLite sink seen from outside: by other connections, and after its process was killed.

use rusqlite::Connection;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tallyflow_connectors::sinks::sqlite::SqliteSink;
use tallyflow_connectors::sinks::{SinkEpoch, SinkError, SinkLine, Writer};
use tallyflow_dataflows::ids::Epoch;
use tallyflow_dataflows::number::Decimal;

const FILE: &str = "TALLYFLOW_TEST_SINK";

fn sink(path: &Path, job: &str) -> SqliteSink {
    SqliteSink::open(path, job, vec!["count".into()], Duration::from_secs(1), Duration::from_secs(60)).unwrap()
}

fn decimal(text: &str) -> Decimal {
    Decimal::parse_json(text).unwrap()
}

fn line(subject: &str, group: &str, values: &[&str]) -> SinkLine {
    let values = Some(values.iter().map(|value| Some(decimal(value))).collect());
    SinkLine { subject: subject.into(), group: group.into(), values }
}

fn gone(subject: &str, group: &str) -> SinkLine {
    SinkLine { subject: subject.into(), group: group.into(), values: None }
}

/// An epoch with one subject `s`; the epoch's number is in everything that goes with it.
fn epoch(number: u64, at_ms: i64, total: i64, lines: Vec<SinkLine>) -> SinkEpoch {
    SinkEpoch {
        epoch: Epoch(number),
        at_ms,
        offsets_json: format!(r#"{{"t":[{number}]}}"#),
        digest: format!("sha256:{number}"),
        accounting_json: format!(r#"{{"read":{number}}}"#),
        reset: false,
        totals: vec![("s".into(), Some(Decimal::from_int(total)))],
        lines,
        ..SinkEpoch::default()
    }
}

/// Rows of a query, each as its columns' text with `|` between, as the `sqlite3` shell prints them.
fn rows(conn: &Connection, query: &str) -> Vec<String> {
    let mut statement = conn.prepare(query).unwrap();
    let columns = statement.column_count();
    let text = |value: rusqlite::types::Value| match value {
        rusqlite::types::Value::Null => String::new(),
        rusqlite::types::Value::Integer(n) => n.to_string(),
        rusqlite::types::Value::Real(n) => n.to_string(),
        rusqlite::types::Value::Text(text) => text,
        rusqlite::types::Value::Blob(_) => panic!("no column holds a blob"),
    };
    let row =
        |row: &rusqlite::Row<'_>| Ok((0..columns).map(|at| text(row.get(at).unwrap())).collect::<Vec<_>>().join("|"));
    statement.query_map([], row).unwrap().map(Result::unwrap).collect()
}

const TALLIES: &str =
    r#"SELECT job, subject, "group", value, share, epoch FROM tallies ORDER BY CAST(value AS REAL) DESC, "group""#;
const HISTORY: &str = r#"SELECT "group", at, epoch, value FROM tally_history ORDER BY at, "group""#;

#[test]
fn tallies_are_those_of_the_newest_epoch_with_shares_of_the_new_total() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.db");
    let mut sink = sink(&path, "moods");
    let reader = Connection::open(&path).unwrap();
    assert_eq!(sink.newest_epoch(), Ok(None));
    sink.write(&epoch(7, 0, 4, vec![line("s", "happy", &["3"]), line("s", "sad", &["1"])])).unwrap();
    assert_eq!(rows(&reader, TALLIES), ["moods|s|happy|3|0.75|7", "moods|s|sad|1|0.25|7"]);
    sink.write(&epoch(9, 500, 6, vec![line("s", "sad", &["3"])])).unwrap();
    assert_eq!(rows(&reader, TALLIES), ["moods|s|happy|3|0.5|9", "moods|s|sad|3|0.5|9"]);
    sink.write(&epoch(10, 900, 3, vec![gone("s", "sad")])).unwrap();
    assert_eq!(rows(&reader, TALLIES), ["moods|s|happy|3|1|10"]);
    let snapshot = "10|1970-01-01T00:00:00.900Z|{\"t\":[10]}|sha256:10|{\"read\":10}";
    assert_eq!(rows(&reader, "SELECT epoch, at, offsets, digest, accounting FROM snapshots"), [snapshot]);
    assert_eq!(sink.newest_epoch(), Ok(Some(Epoch(10))));
}

#[test]
fn a_subject_without_a_total_has_no_shares() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.db");
    let mut sink = sink(&path, "j");
    let mut first = epoch(1, 0, 0, vec![line("s", "a", &["0"]), line("s", "b", &["5"])]);
    sink.write(&first).unwrap();
    let shares = "SELECT share FROM tallies";
    assert_eq!(rows(&Connection::open(&path).unwrap(), shares), ["", ""], "nor has one whose total is 0");
    first.epoch = Epoch(2);
    first.totals = vec![("s".into(), None)];
    sink.write(&first).unwrap();
    assert_eq!(rows(&Connection::open(&path).unwrap(), shares), ["", ""]);
}

#[test]
fn several_aggregates_stand_beside_the_first_with_all_digits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.db");
    let names = vec!["sum".to_owned(), "count".to_owned()];
    let mut sink = SqliteSink::open(&path, "j", names, Duration::from_secs(1), Duration::ZERO).unwrap();
    let exact = "12345678901234567.123456789012345678";
    sink.write(&epoch(1, 0, 0, vec![line("s", "a", &[exact, "2"])])).unwrap();
    let reader = Connection::open(&path).unwrap();
    let wanted = format!(r#"{exact}|text|{{"sum":{exact},"count":2}}|2"#);
    let query = "SELECT value, typeof(value), aggregates, aggregates ->> 'count' FROM tallies";
    assert_eq!(rows(&reader, query), [wanted]);
    let wrong = sink.write(&epoch(2, 0, 0, vec![line("s", "a", &["1"])]));
    let (subject, group) = ("s".to_owned(), "a".to_owned());
    assert_eq!(wrong, Err(SinkError::Aggregates { subject, group, found: 1, wanted: 2 }));
}

#[test]
fn an_epoch_repeated_changes_nothing_and_an_older_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.db");
    sink(&path, "j").write(&epoch(5, 0, 1, vec![line("s", "a", &["1"])])).unwrap();
    let reader = Connection::open(&path).unwrap();
    let mut sink = sink(&path, "j");
    sink.write(&epoch(5, 9, 99, vec![line("s", "a", &["99"])])).unwrap();
    let error = sink.write(&epoch(4, 9, 99, vec![line("s", "a", &["99"])])).unwrap_err();
    assert_eq!(error, SinkError::NewerEpoch { stored: Epoch(5), offered: Epoch(4) });
    assert!(!error.retryable());
    let mut reset = epoch(3, 9, 99, vec![]);
    reset.reset = true;
    assert!(sink.write(&reset).is_err(), "not by starting anew either");
    assert_eq!(rows(&reader, TALLIES), ["j|s|a|1|1|5"]);
}

#[test]
fn the_first_write_of_a_run_replaces_all_of_the_job_and_nothing_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.db");
    let (mut one, mut other) = (sink(&path, "one"), sink(&path, "other"));
    let lines = vec![line("s", "a", &["1"]), line("s", "b", &["2"]), line("s", "c", &["3"])];
    one.write(&epoch(1, 0, 6, lines.clone())).unwrap();
    other.write(&epoch(8, 0, 6, lines)).unwrap();
    let mut again = epoch(2, 5000, 5, vec![line("s", "a", &["1"]), line("s", "b", &["4"])]);
    again.reset = true;
    one.write(&again).unwrap();
    let reader = Connection::open(&path).unwrap();
    assert_eq!(
        rows(&reader, r#"SELECT job, "group", value, epoch FROM tallies ORDER BY job, "group""#),
        ["one|a|1|2", "one|b|4|2", "other|a|1|8", "other|b|2|8", "other|c|3|8"]
    );
    let changed = r#"SELECT "group", value FROM tally_history WHERE job = 'one' AND epoch = 2 ORDER BY "group""#;
    assert_eq!(rows(&reader, changed), ["b|4", "c|"], "what is as it was has no history");
}

#[test]
fn history_has_the_last_value_of_each_step_for_as_long_as_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.db");
    let mut sink =
        SqliteSink::open(&path, "j", vec!["count".into()], Duration::from_secs(10), Duration::from_secs(30)).unwrap();
    let reader = Connection::open(&path).unwrap();
    sink.write(&epoch(1, 1_000, 1, vec![line("s", "a", &["1"])])).unwrap();
    sink.write(&epoch(2, 9_999, 2, vec![line("s", "a", &["2"])])).unwrap();
    sink.write(&epoch(3, 10_000, 3, vec![line("s", "b", &["1"])])).unwrap();
    sink.write(&epoch(4, 12_000, 3, vec![gone("s", "b")])).unwrap();
    assert_eq!(rows(&reader, HISTORY), ["a|1970-01-01T00:00:00.000Z|2|2", "b|1970-01-01T00:00:10.000Z|4|"]);
    let snapshots = "SELECT epoch FROM snapshots ORDER BY epoch";
    assert_eq!(rows(&reader, snapshots), ["2", "4"]);
    sink.write(&epoch(5, 49_000, 4, vec![line("s", "a", &["4"])])).unwrap();
    assert_eq!(rows(&reader, HISTORY), ["b|1970-01-01T00:00:10.000Z|4|", "a|1970-01-01T00:00:40.000Z|5|4"]);
    assert_eq!(rows(&reader, snapshots), ["4", "5"]);
    sink.write(&epoch(6, 99_000, 4, vec![])).unwrap();
    assert!(rows(&reader, HISTORY).is_empty());
    assert_eq!(rows(&reader, snapshots), ["6"], "the newest snapshot always stays");
    assert_eq!(rows(&reader, TALLIES), ["j|s|a|4|1|6"]);
}

#[test]
fn errors_say_whether_trying_again_helps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.db");
    let mut sink = sink(&path, "j");
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let first = epoch(1, 0, 1, vec![line("s", "a", &["1"])]);
    let error = sink.write(&first).unwrap_err();
    assert!(matches!(error, SinkError::Locked { .. }) && error.retryable(), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    sink.write(&first).unwrap();

    let foreign = dir.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    let open = |path: &Path| {
        SqliteSink::open(path, "j", vec!["count".into()], Duration::from_secs(1), Duration::ZERO).unwrap_err()
    };
    assert!(matches!(open(&foreign), SinkError::NotASink { .. }));
    other.pragma_update(None, "user_version", 2).unwrap();
    assert!(matches!(open(&path), SinkError::Newer { found: 2, known: 1, .. }));
    assert!(matches!(open(&dir.path().join("missing/results.db")), SinkError::Io { .. }));
}

/// The process that is killed: it writes epochs of ten accounts between which money moves, as fast
/// as it can. Line `epoch` of subject `clock` holds the epoch's number.
#[test]
fn another_process_writes_epochs() {
    let Ok(path) = std::env::var(FILE) else { return };
    let mut sink = sink(Path::new(&path), "bank");
    let first = sink.newest_epoch().unwrap().map_or(1, |epoch| epoch.0 + 1);
    let mut balances = [0i64; 10];
    for number in first.. {
        let (from, to) = (number as usize % 10, number as usize * 7 % 9);
        balances[from] -= 1;
        balances[to] += 1;
        let account = |at: usize| line("s", &format!("account {at}"), &[&balances[at].to_string()]);
        let all = number == first;
        let mut lines: Vec<SinkLine> =
            if all { (0..10).map(account).collect() } else { [from, to].map(account).to_vec() };
        lines.dedup();
        lines.push(line("clock", "epoch", &[&number.to_string()]));
        let mut next = epoch(number, number as i64 * 100, 0, lines);
        next.reset = all;
        sink.write(&next).unwrap();
        eprintln!("{number}");
    }
}

/// What a reader sees in one statement; panics unless it is one whole epoch. Answers that epoch.
fn whole_epoch(reader: &Connection) -> Option<u64> {
    let query = "SELECT sum(value) FILTER (WHERE subject = 's'), count(*), min(epoch), max(epoch),
                        max(value) FILTER (WHERE subject = 'clock') FROM tallies";
    let (sum, lines, min, max, clock): (Option<i64>, u64, Option<u64>, Option<u64>, Option<u64>) = reader
        .query_row(query, [], |row| {
            let number = |at: usize| row.get::<_, Option<i64>>(at).map(|n| n.map(|n| n as u64));
            Ok((row.get(0)?, number(1)?.unwrap_or(0), number(2)?, number(3)?, number(4)?))
        })
        .unwrap();
    if lines > 0 {
        assert_eq!((sum, lines, min, max), (Some(0), 11, clock, clock));
    }
    clock
}

#[test]
fn whoever_reads_sees_one_whole_epoch_also_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.db");
    drop(sink(&path, "bank"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let reader = Connection::open(&path).unwrap();
            let (mut looks, mut last) = (0, None);
            while !stop.load(Ordering::Relaxed) {
                let seen = whole_epoch(&reader);
                assert!(seen >= last, "{seen:?} after {last:?}");
                last = seen;
                looks += 1;
            }
            looks
        });
        let mut written = 0;
        for round in 0..10 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "another_process_writes_epochs", "--nocapture"])
                .env(FILE, &path)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stderr.take().unwrap()).lines();
            // Killed after a number of epochs, at whatever it is doing then.
            for line in lines.map_while(Result::ok).take(3 + round * 5) {
                written = line.parse().unwrap();
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let held = whole_epoch(&Connection::open(&path).unwrap());
            assert!(held >= Some(written), "{held:?}, but {written} was written");
        }
        stop.store(true, Ordering::Relaxed);
        assert!(watching.join().unwrap() > 100);
    });
}

#[test]
fn a_later_start_of_the_server_takes_the_file_over_and_an_earlier_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.db");
    let start = |server: &str, generation, run: &str| {
        sink(&path, "moods").written_by(Writer { server: server.into(), generation, run: run.into() })
    };
    let first_write = |number, lines| SinkEpoch { reset: true, ..epoch(number, 0, 3, lines) };
    let reader = Connection::open(&path).unwrap();
    let mut first = start("a", 7, "one");
    first.write(&first_write(20, vec![line("s", "happy", &["1"]), line("s", "sad", &["2"])])).unwrap();
    // A copy that has the same number is another one all the same.
    assert!(matches!(
        start("a", 7, "two").write(&first_write(30, vec![])),
        Err(SinkError::Superseded { theirs: 7, own: 7, .. })
    ));
    // One over a copy of the directory has used the same epochs for something else.
    let mut later = start("a", 8, "three");
    later.write(&first_write(20, vec![line("s", "happy", &["3"])])).unwrap();
    assert_eq!(rows(&reader, TALLIES), ["moods|s|happy|3|1|20"]);
    let refused = first.write(&epoch(21, 0, 9, vec![line("s", "sad", &["9"])]));
    assert!(matches!(refused, Err(SinkError::Superseded { theirs: 8, own: 7, .. })), "{refused:?}");
    later.write(&epoch(21, 0, 5, vec![line("s", "sad", &["2"])])).unwrap();
    assert_eq!(rows(&reader, TALLIES), ["moods|s|happy|3|0.6|21", "moods|s|sad|2|0.4|21"]);
    // Of another server nothing is known but its epochs.
    let refused = start("b", 1, "four").write(&first_write(3, vec![]));
    assert!(matches!(refused, Err(SinkError::NewerEpoch { .. })), "{refused:?}");
}

#[test]
fn a_job_started_anew_takes_a_file_over_when_told_to_and_no_earlier_submission_takes_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("results.db");
    let start = |server: &str, generation, take_over_ms| {
        let writer = Writer { server: server.into(), generation, run: format!("{server}{generation}") };
        sink(&path, "moods").written_by(writer).taking_over(take_over_ms)
    };
    let first_write = |number, lines| SinkEpoch { reset: true, ..epoch(number, 0, 3, lines) };
    let reader = Connection::open(&path).unwrap();
    start("a", 1, Some(1_000)).write(&first_write(500, vec![line("s", "happy", &["1"])])).unwrap();
    let refused = start("b", 1, None).write(&first_write(3, vec![])).unwrap_err();
    assert!(matches!(refused, SinkError::NewerEpoch { .. }), "{refused}");
    assert!(refused.to_string().contains("--take-over"), "{refused}");
    let mut told = start("b", 1, Some(2_000));
    told.write(&first_write(3, vec![line("s", "sad", &["2"])])).unwrap();
    told.write(&epoch(4, 0, 3, vec![line("s", "sad", &["3"])])).unwrap();
    assert_eq!(rows(&reader, TALLIES), ["moods|s|sad|3|1|4"]);
    // One that another has taken over from stays out, however often it is started again.
    start("b", 1, Some(2_000)).write(&epoch(900, 0, 3, vec![line("s", "sad", &["4"])])).unwrap();
    let refused = start("a", 2, Some(1_000)).write(&first_write(501, vec![])).unwrap_err();
    assert!(matches!(refused, SinkError::NewerEpoch { .. }), "{refused}");
}
