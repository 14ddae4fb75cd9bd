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
