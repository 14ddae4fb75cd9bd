//! The client commands against a server that answers what the test says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A request as it came: first line, headers in lower case, body.
#[derive(Clone, Debug)]
struct Request {
    line: String,
    headers: Vec<String>,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|h| h.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// A server that gives each request to `answer`; what that returns goes out and the connection ends.
struct Fake {
    url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    fn new(answer: impl Fn(&Request, usize) -> String + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read(&stream) else { continue };
                let count = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(request.clone());
                    seen.len()
                };
                let _ = stream.write_all(answer(&request, count).as_bytes());
            }
        });
        Fake { url, requests }
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tallyflow"));
        command.args(args).args(["--server", &self.url]).stdin(Stdio::null());
        command
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let line = lines.first()?.clone();
    let headers: Vec<String> = lines[1..].iter().map(|l| l.to_lowercase()).collect();
    let length = headers.iter().find_map(|h| h.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { line, headers, body: String::from_utf8(body).ok()? })
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const ACCOUNTING: &str = r#"{"read":1702,"rejected":5,"irrelevant":15,"matched":1682,"claims":1682,"counted":1602,"superseded":60,"duplicate":20,"late":0,"voided":0}"#;

fn tallies() -> String {
    format!(
        r#"{{"job":"moods","epoch":7,"at":"2026-11-21T10:04:05.120Z","offsets":{{}},"digest":"sha256:0","accounting":{ACCOUNTING},
        "subjects":[{{"subject":"moods","total":1602,"claims":1682,"counted":1602,"superseded":60,"duplicate":20,"late":0,"voided":0,
        "tallies":[{{"group":"happy","value":1201.5,"share":0.75}},{{"group":["a","b"],"value":400.5,"share":0.25}}]}}]}}"#
    )
    .replace('\n', "")
}

#[test]
fn results_are_an_aligned_table_with_shares_total_epoch_and_time() {
    let server = Fake::new(|_, _| answer("200 OK", &tallies()));
    let output = server.run(&["results", "moods", "--subject", "a b", "--subject", "c", "--limit", "5"]);
    let expected = "\
moods at epoch 7, 2026-11-21T10:04:05.120Z
read 1702 = rejected 5 + irrelevant 15 + matched 1682
claims 1682 = counted 1602 + superseded 60 + duplicate 20 + late 0 + voided 0

moods
group       value   share
happy      1201.5  75.0 %
[\"a\",\"b\"]   400.5  25.0 %
= total      1602
";
    assert_eq!(stdout(&output), expected, "{}", stderr(&output));
    assert_eq!(server.requests()[0].line, "GET /api/jobs/moods/tallies?subject=a+b&subject=c&limit=5 HTTP/1.1");
}

#[test]
fn results_as_json_are_the_servers_document_with_every_digit() {
    let server = Fake::new(|_, _| answer("200 OK", r#"{"value":12345678901234567.123456789012345678}"#));
    let output = server.run(&["results", "moods", "--format", "json"]);
    assert_eq!(stdout(&output), "{\"value\":12345678901234567.123456789012345678}\n");
}

#[test]
fn a_list_of_several_pages_is_one_json_document() {
    let server = Fake::new(|request, _| match request.line.contains("after=a") {
        false => answer("200 OK", r#"{"items":[{"name":"a","n":1.10}],"next":"a"}"#),
        true => answer("200 OK", r#"{"items":[{"name":"b"}],"next":null}"#),
    });
    let output = server.run(&["topics", "--format", "json"]);
    assert_eq!(stdout(&output), "{\"items\":[{\"name\":\"a\",\"n\":1.10},{\"name\":\"b\"}],\"next\":null}\n");
}

#[test]
fn every_fault_of_a_job_file_is_printed_with_line_and_key() {
    let problem = r#"{"type":"about:blank","title":"Unprocessable Content","status":422,"detail":"the job file has 2 faults",
        "faults":[{"line":3,"key":"input[0].topic","message":"is missing"},{"line":null,"key":"","message":"is odd"}]}"#;
    let server = Fake::new(move |_, _| answer("422 Unprocessable Entity", problem));
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    file.write_all(b"name = \"x\"\n").unwrap();
    let path = file.path().to_str().unwrap();
    let output = server.run(&["submit", path]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!(
        "{path}: line 3: input[0].topic: is missing\n{path}: is odd\n\
         tallyflow: the job was not started: {path} has 2 faults; mend them and submit again\n"
    );
    assert_eq!(stderr(&output), expected);
    let request = &server.requests()[0];
    assert_eq!((request.header("content-type"), &*request.body), (Some("application/toml"), "name = \"x\"\n"));
}

fn job(state: &str, replacing: &str) -> String {
    format!(
        r#"{{"name":"moods","dataflow":"tally","state":"{state}","workers":1,"epoch":9,"inputs":[],"accounting":{ACCOUNTING},
        "sinks":[],"error":null,"replacing":{replacing}}}"#
    )
}

const UNDER_WAY: &str = r#"{"records":5,"of":20}"#;

/// Submits in the place of a job; the server says these things of it, one after the other.
fn replaced(answers: &'static [(&'static str, &'static str)], args: &[&str]) -> (Fake, Output) {
    let server = Fake::new(|_, count| match answers.get(count - 1) {
        Some((state, replacing)) => answer("200 OK", &job(state, replacing)),
        // Nothing that is HTTP: the connection is lost.
        None => String::new(),
    });
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    file.write_all(b"name = \"moods\"\n").unwrap();
    let output = server.run(&[&["submit", "--replace", file.path().to_str().unwrap()], args].concat());
    (server, output)
}

#[test]
fn a_replacement_is_waited_for() {
    let (server, output) = replaced(&[("running", UNDER_WAY), ("recovering", UNDER_WAY), ("running", "null")], &[]);
    assert_eq!(stdout(&output), "replaced moods, from epoch 9 on\n", "{}", stderr(&output));
    let lines: Vec<String> = server.requests().into_iter().map(|request| request.line).collect();
    let ask = "GET /api/jobs/moods HTTP/1.1";
    assert_eq!(lines, ["POST /api/jobs?replace=true HTTP/1.1", ask, ask]);
    let (server, _) = replaced(&[("running", "null")], &["--take-over"]);
    assert_eq!(server.requests()[0].line, "POST /api/jobs?replace=true&take_over=true HTTP/1.1");
    let (_, output) = replaced(&[("running", UNDER_WAY), ("running", "null")], &["--format", "json"]);
    assert_eq!(stdout(&output), job("running", "null") + "\n");
}

#[test]
fn a_replacement_that_does_not_come_to_its_end_ends_with_status_1_and_what_to_do() {
    let ends = |answers| {
        let (_, output) = replaced(answers, &[]);
        assert_eq!((output.status.code(), &*stdout(&output)), (Some(1), ""));
        stderr(&output)
    };
    let failed = ends(&[("running", UNDER_WAY), ("running", r#"{"records":0,"of":0,"error":"a sum is too large"}"#)]);
    assert_eq!(
        failed,
        "tallyflow: the new form of moods was given up, and what ran before goes on: a sum is too large\n"
    );
    let cancelled = ends(&[("running", UNDER_WAY), ("cancelled", "null")]);
    assert_eq!(cancelled, "tallyflow: moods was cancelled meanwhile; submit it again\n");
    let lost = ends(&[("running", UNDER_WAY)]);
    assert!(lost.starts_with("tallyflow: the connection to http://127.0.0.1:"), "{lost}");
    assert!(lost.ends_with(
        " is lost; the replacement goes on there, after a restart too: see how far it is with `tallyflow job moods`\n"
    ));
}

#[test]
fn a_redrive_is_waited_for_and_says_how_many_letters_there_were_and_are_left() {
    let letter = |offset| {
        format!(
            r#"{{"topic":"t","partition":0,"offset":{offset},"timestamp":"T","key":null,"value":"x","reason":"bad"}}"#
        )
    };
    let server = Fake::new(move |request, count| match (request.line.contains("/dead-letters?"), count) {
        (true, 1) => answer("200 OK", &format!(r#"{{"items":[{},{}],"next":null}}"#, letter(1), letter(2))),
        (true, _) => answer("200 OK", &format!(r#"{{"items":[{}],"next":null}}"#, letter(2))),
        (false, 2) => answer("202 Accepted", &job("running", UNDER_WAY)),
        (false, _) => answer("200 OK", &job("running", "null")),
    });
    let output = server.run(&["dead-letters", "moods", "--redrive"]);
    assert_eq!(stdout(&output), "redrove moods: of 2 dead letters 1 are left\n", "{}", stderr(&output));
    assert_eq!(server.requests()[1].line, "POST /api/jobs/moods/dead-letters/redrive HTTP/1.1");
}

const POLL: &str = r#"{"id":"moods","job":"polls","title":"Moods","options":["happy","sad"],"state":"filling","shown":null,
    "refill":{"version":1,"records":120,"of":5000},"opens":"2026-11-21T10:00:00Z","closes":null,"total":null,"tally":null}"#;

#[test]
fn a_poll_is_made_of_options_or_of_a_file() {
    let server = Fake::new(|_, _| answer("201 Created", POLL));
    let args =
        ["poll", "create", "moods", "--option", "happy", "--option", "sad", "--entity", "voter", "--keep", "first-n"];
    let output =
        server.run(&[&args[..], &["--n", "2", "--match", "hashtag", "--opens", "-10m", "--closes", "+1h"]].concat());
    let expected = "made moods; its past is being counted; see `tallyflow watch polls --subject moods`\n";
    assert_eq!(stdout(&output), expected, "{}", stderr(&output));
    let request = &server.requests()[0];
    assert_eq!(
        (&*request.line, request.header("content-type")),
        ("POST /api/polls HTTP/1.1", Some("application/json"))
    );
    let mut body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    let mut time = |key: &str| {
        let time = body.as_object_mut().unwrap().remove(key).unwrap();
        time.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond()
    };
    assert_eq!(time("closes") - time("opens"), 70 * 60_000);
    let expected = serde_json::json!({"id": "moods", "options": ["happy", "sad"], "match": "hashtag", "entity": "voter",
        "keep": "first-n", "n": 2});
    assert_eq!(body, expected);

    let mut file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    file.write_all(b"{\"id\": \"x\"}").unwrap();
    let output = server.run(&["poll", "create", "--file", file.path().to_str().unwrap(), "--format", "json"]);
    assert_eq!((stdout(&output), &*server.requests()[1].body), (format!("{POLL}\n"), "{\"id\": \"x\"}"));
}

#[test]
fn every_fault_of_a_definition_is_printed_with_its_key() {
    let problem = r#"{"status":422,"detail":"the poll's definition has 1 fault",
        "faults":[{"line":1,"key":"options","message":"is an empty list; name at least one option"}]}"#;
    let server = Fake::new(move |_, _| answer("422 Unprocessable Entity", problem));
    let output = server.run(&["poll", "create", "moods", "--option", "x"]);
    let expected = "the poll: line 1: options: is an empty list; name at least one option\n\
                    tallyflow: no poll was made: the poll has 1 fault; mend it and submit again\n";
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(1), expected));
}

#[test]
fn polls_are_listed_with_state_and_total() {
    let open = r#"{"id":"a","job":"polls","options":["x"],"state":"open","shown":1,"refill":null,
        "opens":"2026-11-21T09:00:00Z","closes":"2026-11-22T09:00:00Z","total":12345678901234567890}"#;
    let body = format!("{{\"items\":[{open},{POLL}],\"next\":null}}");
    let server = Fake::new(move |_, _| answer("200 OK", &body));
    let output = server.run(&["poll", "list", "--job", "polls"]);
    let expected = "\
poll   state                          options                 total  opens                 closes
a      open                                 1  12345678901234567890  2026-11-21T09:00:00Z  2026-11-22T09:00:00Z
moods  filling (120 of 5000 records)        2                     -  2026-11-21T10:00:00Z  -
";
    assert_eq!(stdout(&output), expected, "{}", stderr(&output));
    assert_eq!(server.requests()[0].line, "GET /api/polls?job=polls&limit=1000 HTTP/1.1");
}

#[test]
fn a_poll_is_closed_deleted_and_voted_in() {
    let server = Fake::new(|request, _| match request.line.split(' ').next() {
        Some("DELETE") => answer("204 No Content", ""),
        _ if request.line.contains("/votes") => {
            answer("201 Created", r#"{"poll":"moods","topic":"votes","partition":0,"offset":5}"#)
        }
        _ => answer("200 OK", POLL),
    });
    let said = |args: &[&str]| stdout(&server.run(args));
    assert_eq!(said(&["poll", "close", "moods"]), "moods takes no more; its last numbers are being counted\n");
    assert_eq!(said(&["poll", "delete", "a b"]), "a b is deleted\n");
    assert_eq!(said(&["poll", "vote", "moods", "happy", "--voter", "ada"]), "ada voted happy in moods\n");
    assert_eq!(said(&["poll", "vote", "moods", "--withdraw", "--voter", "ada"]), "ada has no vote in moods any more\n");
    let requests = server.requests();
    let lines: Vec<&str> = requests.iter().map(|r| r.line.as_str()).collect();
    assert_eq!(
        lines[..3],
        [
            "POST /api/polls/moods/close HTTP/1.1",
            "DELETE /api/polls/a%20b HTTP/1.1",
            "POST /api/polls/moods/votes HTTP/1.1"
        ]
    );
    let bodies: Vec<serde_json::Value> = requests[2..].iter().map(|r| serde_json::from_str(&r.body).unwrap()).collect();
    assert_eq!(
        bodies,
        [serde_json::json!({"voter": "ada", "option": "happy"}), serde_json::json!({"voter": "ada", "option": null})]
    );
}

#[test]
fn a_recount_that_differs_ends_with_status_1_and_names_the_first_line() {
    let body = r#"{"job":"j","epoch":9,"equal":false,"records":3,"ms":1,"differences":[
        {"subject":"s","group":["a","b"],"tally":[2],"recount":null}]}"#;
    let server = Fake::new(move |_, _| answer("200 OK", body));
    let output = server.run(&["recount", "j"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("the recount of j at epoch 9 differs: subject \"s\""), "{text}");
    assert!(text.contains("has tally 2 and recount none"), "{text}");

    let equal = r#"{"job":"j","epoch":9,"equal":true,"records":3,"ms":1,"differences":[]}"#;
    let server = Fake::new(move |_, _| answer("200 OK", equal));
    let output = server.run(&["recount", "j"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output), "recount equal: j over 3 records at epoch 9, in 1 ms\n");
}

#[test]
fn a_refusal_is_the_servers_sentence_and_nothing_else() {
    let server =
        Fake::new(|_, _| answer("404 Not Found", r#"{"title":"Not Found","detail":"there is no job named \"x\""}"#));
    for command in [["job", "x"], ["pause", "x"], ["results", "x"], ["watch", "x"], ["dead-letters", "x"]] {
        let output = server.run(&command);
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert_eq!(stderr(&output), "tallyflow: there is no job named \"x\"\n", "{command:?}");
    }
}

#[test]
fn control_characters_of_records_do_not_reach_the_terminal() {
    let body = r#"{"items":[{"topic":"t","partition":0,"offset":5,"timestamp":"T","key":null,"value":"a\u001b[2J","reason":"bad"}],"next":null}"#;
    let server = Fake::new(move |_, _| answer("200 OK", body));
    let text = stdout(&server.run(&["dead-letters", "x"]));
    assert!(text.contains("a\\u{1b}[2J") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let server = Fake::new(|_, _| answer("200 OK", &tallies()));
    let mut child =
        server.command(&["results", "moods"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
}

/// Waits for the lines that a command prints.
fn lines_of(command: &mut Command, count: usize) -> Vec<String> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let reader = BufReader::new(child.stdout.take().unwrap());
    let lines = reader.lines().take(count).map(Result::unwrap).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    lines
}

#[test]
fn watch_into_a_pipe_prints_changes_and_resumes_after_a_break_by_id_and_in_the_servers_time() {
    let delta = |epoch: u64, value: &str| {
        let changes = format!(r#"[{{"subject":"moods","group":"happy","value":{value},"was":1}}]"#);
        format!(
            "id: {epoch}\nevent: delta\ndata: {{\"job\":\"moods\",\"epoch\":{epoch},\"at\":\"T\",\"changes\":{changes},\"totals\":{{}},\"accounting\":{ACCOUNTING}}}\n\n"
        )
    };
    let server = Fake::new(move |_, count| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
        let events = match count {
            1 => format!(
                "retry: 50\n\nid: 7\nevent: snapshot\ndata: {}\n\n: still here\n\n{}id: 9\ndata: cut",
                tallies(),
                delta(8, "5")
            ),
            2 => delta(9, "null"),
            _ => delta(10 + count as u64, "1"),
        };
        format!("{head}{events}")
    });
    let began = Instant::now();
    let lines = lines_of(&mut server.command(&["watch", "moods", "--subject", "moods"]), 4);
    assert_eq!(
        lines,
        ["7\tmoods\thappy\t1201.5", "7\tmoods\t[\"a\",\"b\"]\t400.5", "8\tmoods\thappy\t5", "9\tmoods\thappy\t-"]
    );
    assert!(began.elapsed() < Duration::from_secs(2), "the server asked to wait 50 ms");
    let requests = server.requests();
    assert_eq!(requests[0].line, "GET /api/jobs/moods/events?subject=moods HTTP/1.1");
    assert_eq!((requests[0].header("last-event-id"), requests[1].header("last-event-id")), (None, Some("8")));
}

#[test]
fn a_replay_sends_every_record_once_with_the_key_for_its_partition() {
    let server = Fake::new(|_, count| match count {
        1 => answer("503 Service Unavailable", "{}"),
        _ => answer("200 OK", r#"{"offsets":{}}"#),
    });
    let mut file = tempfile::NamedTempFile::with_suffix(".csv").unwrap();
    file.write_all(b"k,v\na,1\nb,2\n").unwrap();
    let output = server.run(&["feed", "replay", file.path().to_str().unwrap(), "--topic", "t", "--key", "/k"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("wrote 2 records to t in "), "{}", stdout(&output));
    let requests = server.requests();
    assert_eq!(requests[0].line, "POST /api/topics/t/records?key=%2Fk HTTP/1.1");
    assert_eq!(requests[0].header("idempotency-key"), requests[1].header("idempotency-key"));
    let arrived: String = requests[1..].iter().map(|r| r.body.as_str()).collect();
    assert_eq!(arrived, "{\"k\":\"a\",\"v\":1}\n{\"k\":\"b\",\"v\":2}\n");
}

#[test]
fn a_simulation_is_the_same_for_the_same_seed_and_says_what_must_come_out() {
    let expect = tempfile::NamedTempFile::new().unwrap();
    let expect = expect.path().to_str().unwrap();
    let sent = |seed: &str| {
        let server = Fake::new(|_, _| answer("200 OK", r#"{"offsets":{}}"#));
        let output = server.run(&[
            "feed",
            "simulate",
            "votes",
            "--records",
            "5000",
            "--seed",
            seed,
            "--voters",
            "1000",
            "--expect",
            expect,
        ]);
        assert!(output.status.success(), "{}", stderr(&output));
        server.requests().iter().map(|r| r.body.clone()).collect::<String>()
    };
    let first = sent("7");
    assert_eq!(first.lines().count(), 5_000);
    let expected: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(expect).unwrap()).unwrap();
    assert_eq!(expected["accounting"]["read"], 5_000);
    assert_eq!(sent("7"), first);
    assert_ne!(sent("8"), first);
}

#[test]
fn a_simulation_that_is_stopped_by_time_still_says_what_must_come_out_of_what_it_sent() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let server = Fake::new(|_, _| answer("200 OK", r#"{"offsets":{}}"#));
    let output = server.run(&["feed", "simulate", "posts", "--for", "200ms", "--expect", path]);
    assert!(output.status.success(), "{}", stderr(&output));
    let sent = server.requests().iter().map(|r| r.body.lines().count() as u64).sum::<u64>();
    let expected: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(sent > 0);
    assert_eq!(expected["records"], sent);
}
