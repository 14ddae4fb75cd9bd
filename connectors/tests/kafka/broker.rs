//! Brokers of one's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Running brokers; they end when it is dropped.
pub struct Broker {
    script: PathBuf,
    dir: tempfile::TempDir,
    /// Where they are reached.
    pub address: String,
    /// Where they are reached by TLS with SASL, if that was asked for.
    pub secure: Option<String>,
}

impl Broker {
    /// Starts brokers; `None` where the tests have none, which is said.
    pub fn start(args: &[&str]) -> Option<Broker> {
        Broker::start_in(&std::env::temp_dir(), args)
    }

    /// Starts brokers whose data lies in a directory of its own in that folder.
    pub fn start_in(folder: &Path, args: &[&str]) -> Option<Broker> {
        let Some(script) = std::env::var_os("TALLYFLOW_TEST_KAFKA").map(PathBuf::from) else {
            eprintln!("skipped: it wants a Kafka broker; run scripts/kafka-tests");
            return None;
        };
        let dir = tempfile::tempdir_in(folder).unwrap();
        let mut broker = Broker { script, dir, address: String::new(), secure: None };
        let mut up = vec!["up", "--port", "0"];
        up.extend(args);
        let said = broker.script(&up);
        let mut lines = said.lines().map(str::to_owned);
        broker.address = lines.next().expect("an address");
        broker.secure = lines.next();
        Some(broker)
    }

    /// One that all tests share which do it no harm.
    pub fn shared() -> Option<String> {
        static SHARED: OnceLock<Option<Broker>> = OnceLock::new();
        // A static is never dropped: the broker is taken down when the process ends.
        extern "C" fn down() {
            if let Some(Some(broker)) = SHARED.get() {
                broker.script(&["down"]);
                std::fs::remove_dir_all(broker.dir.path()).ok();
            }
        }
        let broker = SHARED.get_or_init(|| {
            let broker = Broker::start(&[])?;
            // SAFETY: the function may be called at the end of a process: it uses nothing that is gone by then.
            unsafe { libc::atexit(down) };
            Some(broker)
        });
        broker.as_ref().map(|broker| broker.address.clone())
    }

    /// Kills broker `number` as a crash would.
    pub fn kill(&self, number: u32) {
        self.script(&["kill", &number.to_string()]);
    }

    /// Starts a killed one again.
    pub fn revive(&self, number: u32) {
        self.script(&["start", &number.to_string()]);
    }

    /// The process id of broker `number`, as it was when it was started last.
    pub fn pid(&self, number: u32) -> Option<u32> {
        std::fs::read_to_string(self.file(&format!("{number}/pid"))).ok()?.trim().parse().ok()
    }

    /// Where a file of the brokers lies.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("kafka").join(name)
    }

    /// One of Kafka's own tools.
    pub fn tool(&self, args: &[&str]) -> String {
        let mut all = vec!["tool"];
        all.extend(args);
        self.run(&all, false)
    }

    fn script(&self, args: &[&str]) -> String {
        self.run(args, true)
    }

    fn run(&self, args: &[&str], with_dir: bool) -> String {
        let mut command = Command::new(&self.script);
        command.args(args).stderr(Stdio::piped());
        if with_dir {
            command.arg("--dir").arg(self.dir.path().join("kafka"));
        }
        let output = command.output().expect("the script of TALLYFLOW_TEST_KAFKA can be run");
        assert!(
            output.status.success(),
            "{} {}: {}",
            self.script.display(),
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let dir = self.dir.path().join("kafka");
        Command::new(&self.script).args(["down", "--dir"]).arg(dir).stderr(Stdio::null()).status().ok();
    }
}
