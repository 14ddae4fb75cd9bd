//! The real server, started by a test: its process, an HTTP client, a reader of events.
//!
//! Every wait is for something to be so, and has a deadline; nothing is taken to be so after a while.

mod events;
mod mount;

pub use events::{Board, Events};
pub use mount::Mount;

use reqwest::Method;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tallyflow_dataflows::results::Tallies;

/// For whatever takes a moment, on a machine that has much else to do.
pub const SOON: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer. A probe every few milliseconds, a deadline for all.
#[track_caller]
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < SOON, "{what}: not within {} s", SOON.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The program, without what the surroundings may have set.
pub fn tallyflow() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyflow"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TALLYFLOW_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Builds a library of `support/` to be preloaded into a server: its path.
pub fn preloaded(to: &Path, name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/end_to_end/support/{name}.c"));
    let library = to.join(format!("{name}.so"));
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl").status();
    assert!(built.expect("a C compiler").success());
    library
}

/// Sends a signal to one process.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(sent.success(), "kill -{name} {pid}: {sent}");
}

/// What is asked of a server over HTTP, from a thread of the test. One connection is kept open.
pub struct Http {
    pub url: String,
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// The answer of a request that went well.
    #[track_caller]
    pub fn ok(self) -> Answer {
        assert!((200..300).contains(&self.status), "{self:?}");
        self
    }
}

impl Http {
    pub fn new(url: &str) -> Http {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(SOON).build().unwrap();
        Http { url: url.to_owned(), runtime, client }
    }

    /// Sends a request; an error is a connection that failed.
    pub fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> reqwest::Result<Answer> {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.runtime.block_on(async {
            let response = request.send().await?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            Ok(Answer { status, headers, text: response.text().await? })
        })
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").unwrap()
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.send(Method::POST, path, &[], body).unwrap()
    }

    #[track_caller]
    pub fn post_json(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], body.to_string()).unwrap()
    }

    #[track_caller]
    pub fn patch_json(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PATCH, path, &[("content-type", "application/json")], body.to_string()).unwrap()
    }

    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], "").unwrap()
    }

    #[track_caller]
    pub fn create_topic(&self, name: &str, partitions: u32) {
        self.post("/api/topics", format!(r#"{{"name":"{name}","partitions":{partitions}}}"#)).ok();
    }

    #[track_caller]
    pub fn submit(&self, job: &str) {
        self.post("/api/jobs", job.to_owned()).ok();
    }

    /// Appends records, one a line.
    #[track_caller]
    pub fn append(&self, topic: &str, lines: impl Into<reqwest::Body>) -> Value {
        self.post(&format!("/api/topics/{topic}/records"), lines).ok().json()
    }

    #[track_caller]
    pub fn job(&self, name: &str) -> Value {
        self.get(&format!("/api/jobs/{name}")).ok().json()
    }

    #[track_caller]
    pub fn state(&self, name: &str) -> String {
        self.job(name)["state"].as_str().unwrap().to_owned()
    }

    pub fn wait_for_state(&self, name: &str, state: &str) {
        eventually(&format!("job {name} is {state}"), || (self.state(name) == state).then_some(()));
    }

    /// The tallies, as soon as there are any.
    #[track_caller]
    pub fn tallies(&self, name: &str) -> Tallies {
        eventually("tallies", || {
            let answer = self.get(&format!("/api/jobs/{name}/tallies"));
            match answer.status {
                503 => None,
                _ => Some(serde_json::from_str(&answer.ok().text).unwrap()),
            }
        })
    }

    /// The tallies once so many records are accounted for.
    #[track_caller]
    pub fn tallies_of(&self, name: &str, read: u64) -> Tallies {
        eventually(&format!("{name} has read {read} records"), || {
            let tallies = self.tallies(name);
            assert!(tallies.accounting.read <= read, "more was read than was written: {:?}", tallies.accounting);
            (tallies.accounting.read == read).then_some(tallies)
        })
    }

    /// The process id of the engine that runs, once one does that is not `other`.
    pub fn engine_pid(&self, other: Option<u32>) -> u32 {
        eventually("an engine runs", || {
            let pid = self.get("/api/cluster").ok().json()["engine_pid"].as_u64()?;
            Some(pid as u32).filter(|pid| Some(*pid) != other)
        })
    }

    /// Recounts a job from its log; fails if that differs.
    #[track_caller]
    pub fn recount(&self, name: &str) {
        let recounted = self.post(&format!("/api/jobs/{name}/recount"), "").ok().json();
        assert_eq!(recounted["equal"], true, "{recounted}");
    }
}

/// A running server. It is killed when it is dropped.
pub struct Server {
    pub http: Http,
    child: Child,
    stderr: Arc<Mutex<String>>,
    reading: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Starts a server over a directory.
    pub fn start(dir: &Path, workers: usize) -> Server {
        Server::start_with(dir, workers, &[])
    }

    /// Starts a server with options in the environment. Returns when it listens.
    #[track_caller]
    pub fn start_with(dir: &Path, workers: usize, options: &[(&str, &str)]) -> Server {
        let mut child = tallyflow()
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(["--workers", &workers.to_string(), "--data-dir"])
            .arg(dir)
            .env("TALLYFLOW_LOG_LEVEL", "info")
            .envs(options.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let kept = stderr.clone();
        let reading = std::thread::spawn(move || {
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
                line.clear();
            }
        });
        // Reading a line ends when the server says it, or has ended.
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(url) = line.trim_end().strip_prefix("listening on ") else {
            child.wait().unwrap();
            reading.join().unwrap();
            panic!("the server did not start: {line:?}\n{}", stderr.lock().unwrap());
        };
        Server { http: Http::new(url), child, stderr, reading: Some(reading) }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Ends it as a power cut would, as far as processes go.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and waits until it has: how, and after what time.
    pub fn terminate(mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        signal(self.child.id(), "TERM");
        let status = eventually("the server ends", || self.child.try_wait().unwrap());
        (status, asked.elapsed())
    }

    /// Runs a client command against it.
    pub fn cli(&self, args: &[&str]) -> Output {
        tallyflow().args(args).args(["--server", &self.http.url]).output().unwrap()
    }

    /// Runs a client command that must go well; its stdout.
    #[track_caller]
    pub fn cli_ok(&self, args: &[&str]) -> String {
        let output = self.cli(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Opens an event stream, like `/api/jobs/votes/events?every=0`, once there is something to show.
    pub fn events(&self, path: &str) -> Events {
        Events::open(&self.http.url, path)
    }

    /// The most memory that the process has held, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
        // Its engine holds the same stderr until it has noticed, which is at once.
        if let Some(reading) = self.reading.take().filter(|_| !std::thread::panicking()) {
            reading.join().ok();
        } else if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.stderr());
        }
    }
}

/// Runs a command that must fail: its status and stderr.
pub fn refused(command: &mut Command) -> (i32, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if started.elapsed() > SOON => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("it should have failed and runs: {command:?}");
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (status.code().unwrap_or(-1), stderr)
}

/// The folder of real inputs; none, and a line that says so, where it is not named.
pub fn test_data() -> Option<PathBuf> {
    let data = std::env::var_os("TALLYFLOW_TEST_DATA").filter(|data| !data.is_empty()).map(PathBuf::from);
    if data.is_none() {
        println!("SKIPPED: TALLYFLOW_TEST_DATA does not name the folder of the real inputs");
    }
    data
}
