//! The server under test: built with the places where it may be ended, started, signalled.

use crate::http::Http;
use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to listen, and to end when it is asked to.
const START_MAX: Duration = Duration::from_secs(60);
const END_MAX: Duration = Duration::from_secs(30);

/// Builds the program with the feature `failpoints`, beside the one that everybody else uses.
pub fn build() -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    // What cargo tells those that it runs itself would have the build scripts of crates run again, and all that
    // hangs on them be built again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            build.env_remove(&*name);
        }
    }
    let built = build
        .args(["build", "--locked", "--workspace", "--bin", "tallyflow", "--features", "failpoints"])
        .args(["--message-format", "json"])
        .current_dir(&root)
        .stderr(Stdio::inherit())
        .output()
        .context("cargo can't be run")?;
    ensure!(built.status.success(), "the program can't be built: {}", built.status);
    // The last artifact with an executable is the program.
    let lines = built.stdout.split(|byte| *byte == b'\n').rev();
    let messages = lines.filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok());
    let program = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next();
    let program = program.context("cargo names no program")?;
    // Cargo puts the one without the feature into the same place.
    let kept = program.with_file_name("tallyflow-failpoints");
    let beside = program.with_file_name(format!("tallyflow-failpoints.{}", std::process::id()));
    std::fs::copy(&program, &beside).with_context(|| format!("{} can't be copied", program.display()))?;
    std::fs::rename(&beside, &kept)?;
    Ok(kept)
}

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    pub workers: usize,
    /// What `FAILPOINTS` says.
    pub fail_points: String,
}

/// A running server. It is killed when it is dropped.
pub struct Server {
    pub url: String,
    child: Child,
    /// Whether there are places at which it may end by itself.
    may_end: bool,
}

impl Server {
    /// Starts a server over a directory; `Ok(None)`: it ended before it listened, which is for the caller
    /// to judge. Its log goes to `log`.
    /// `kafka`: its brokers and the server's name there, where the log is not the embedded one.
    pub fn start(
        program: &Path,
        dir: &Path,
        kafka: Option<(&str, &str)>,
        log: &Path,
        start: &Start,
    ) -> anyhow::Result<Option<Server>> {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TALLYFLOW_") {
                command.env_remove(name);
            }
        }
        if let Some((brokers, prefix)) = kafka {
            command.env("TALLYFLOW_KAFKA_BROKERS", brokers).env("TALLYFLOW_KAFKA_PREFIX", prefix);
        }
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--log-level", "info"])
            .args(["--workers", &start.workers.to_string(), "--data-dir"])
            .arg(dir)
            .env("FAILPOINTS", &start.fail_points)
            .env("TALLYFLOW_CHECKPOINT_EVERY", "1s")
            .env("TALLYFLOW_ENGINE_HANG_S", "3")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(log).with_context(|| format!("{} can't be made", log.display()))?)
            .spawn()
            .with_context(|| format!("{} can't be started", program.display()))?;
        let stdout = child.stdout.take().context("the server has no stdout")?;
        let (send, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).ok();
            send.send(line).ok();
        });
        let line = said.recv_timeout(START_MAX);
        if let Ok(url) = &line
            && let Some(url) = url.trim_end().strip_prefix("listening on ")
        {
            return Ok(Some(Server { url: url.to_owned(), child, may_end: !start.fail_points.is_empty() }));
        }
        child.kill()?;
        child.wait()?;
        match line {
            Ok(_) => Ok(None),
            Err(_) => bail!("the server does not listen within {} s; see {}", START_MAX.as_secs(), log.display()),
        }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it as a power cut would, as far as processes go.
    pub fn kill(mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Asks it to end and waits until it has.
    pub fn terminate(mut self) -> anyhow::Result<()> {
        signal(self.child.id(), Signal::TERM);
        let asked = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() || self.may_end => return Ok(()),
                Some(status) => bail!("the server was asked to end and did with {status}"),
                None if asked.elapsed() > END_MAX => bail!("the server does not end within {} s", END_MAX.as_secs()),
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// The process id of its engine, where it has one just now.
    pub fn engine(&self, http: &Http) -> Option<u32> {
        let answer = http.get("/api/cluster").ok().filter(|answer| answer.is_ok())?;
        answer.json().ok()?["engine_pid"].as_u64().and_then(|pid| pid.try_into().ok())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Sends a signal to one process, if it is still there.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        kill_process(pid, signal).ok();
    }
}
