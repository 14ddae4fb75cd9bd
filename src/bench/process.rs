//! What the system says of processes, and what they say first.

use anyhow::{Context, bail};
use tokio::io::AsyncReadExt;
use tokio::process::Child;

/// The first line that a process prints.
pub async fn first_line(child: &mut Child) -> anyhow::Result<String> {
    let stdout = child.stdout.as_mut().context("the process has no output")?;
    let mut line = Vec::new();
    loop {
        match stdout.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) => line.push(byte),
            Err(_) => bail!("the process ended before it said what was expected"),
        }
    }
    Ok(String::from_utf8(line)?)
}

/// The CPU time of a process in seconds, from proc(5); 0 where there is none.
pub fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything but ends with the last parenthesis: utime and stime are
    // the 12th and 13th field, in ticks of 10 ms.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

/// The memory of a process in RAM; 0 where there is no proc(5).
pub fn rss_bytes(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The most that it has had in RAM; 0 where there is no proc(5).
pub fn peak_bytes(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The machine's processors from some time on.
pub struct Machine {
    /// How long they were at work and how long they could have been by then, in ticks.
    before: (f64, f64),
}

impl Machine {
    pub fn watch() -> Machine {
        Machine { before: machine_ticks() }
    }

    /// How much of them was at work since then, of 1; 0 where there is no proc(5).
    pub fn busy(&self) -> f64 {
        let (busy, total) = machine_ticks();
        if total > self.before.1 { (busy - self.before.0) / (total - self.before.1) } else { 0.0 }
    }
}

/// How long the machine's processors were at work and how long they could have been, since it was started, in
/// ticks; zeros where there is no proc(5).
fn machine_ticks() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let all = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    let all: Vec<f64> = all.filter_map(|ticks| ticks.parse().ok()).collect();
    let total: f64 = all.iter().sum();
    // The 4th is idle, the 5th waits for a disk.
    (total - all.iter().skip(3).take(2).sum::<f64>(), total)
}
