//! The options of a cluster.

use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The most processes.
pub const PROCESSES_MAX: usize = 64;
/// The longest hosts file.
const HOSTS_BYTES_MAX: u64 = 1 << 16;

/// A cluster, and which of its processes this one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// From 0; process 0 leads.
    pub process: usize,
    /// By process.
    pub hosts: Vec<Host>,
}

/// Where a process waits for the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// A name or an IP address, an IPv6 one without brackets.
    pub name: String,
    pub port: u16,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCluster {
    pub processes: u64,
    pub process: u64,
    pub hosts: PathBuf,
}

impl Cluster {
    pub fn processes(&self) -> usize {
        self.hosts.len()
    }

    /// This process's own place.
    pub fn own(&self) -> &Host {
        &self.hosts[self.process]
    }
}

impl Host {
    /// Reads `HOST:PORT`.
    fn parse(text: &str) -> Option<Host> {
        let (name, port) = text.rsplit_once(':')?;
        let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let name = bracketed.unwrap_or(name);
        let is_name =
            !name.is_empty() && !name.contains(char::is_whitespace) && name.contains(':') == bracketed.is_some();
        let port = port.parse().ok().filter(|port| *port > 0)?;
        is_name.then(|| Host { name: name.to_owned(), port })
    }

    /// As it is written with another port.
    pub fn with_port(&self, port: u16) -> String {
        if self.name.contains(':') { format!("[{}]:{port}", self.name) } else { format!("{}:{port}", self.name) }
    }
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.with_port(self.port))
    }
}

impl RawCluster {
    /// What was written, checked; `None`: there is one process. The error names the option.
    pub fn check(self) -> Result<Option<Cluster>, (&'static str, String)> {
        let (processes, process) = (self.processes as usize, self.process as usize);
        if processes == 1 && process == 0 && self.hosts.as_os_str().is_empty() {
            return Ok(None);
        }
        if process >= processes {
            let what = format!("there is no process {process} of {processes}: they count from 0");
            return Err(("cluster.process", what));
        }
        if self.hosts.as_os_str().is_empty() {
            let what = "is empty; name a file with a HOST:PORT for each process, process I on line I".to_owned();
            return Err(("cluster.hosts", what));
        }
        let hosts = read(&self.hosts).map_err(|what| ("cluster.hosts", what))?;
        if hosts.len() != processes {
            let what = format!("{} names {} processes, and there are {processes}", self.hosts.display(), hosts.len());
            return Err(("cluster.hosts", what));
        }
        Ok(Some(Cluster { process, hosts }))
    }
}

/// The hosts of a file, a line each. Empty lines and what follows a `#` are left out.
fn read(path: &Path) -> Result<Vec<Host>, String> {
    let unreadable = |error: std::io::Error| format!("{} can't be read: {error}", path.display());
    let long = std::fs::metadata(path).map_err(unreadable)?.len();
    if long > HOSTS_BYTES_MAX {
        return Err(format!("{} has {long} bytes; a list of hosts has at most {HOSTS_BYTES_MAX}", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let mut hosts: Vec<Host> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let at = |what: String| format!("{}, line {}: {what}", path.display(), number + 1);
        let host = Host::parse(line).ok_or_else(|| at(format!("{line:?} is no HOST:PORT")))?;
        if let Some(other) = hosts.iter().position(|other| *other == host) {
            return Err(at(format!("{host} is process {other} already")));
        }
        hosts.push(host);
    }
    Ok(hosts)
}
