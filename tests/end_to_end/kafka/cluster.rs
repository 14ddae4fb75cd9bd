//! One dataflow over several processes of this machine, some of which are killed, stand still or are cut off.

use super::{Broker, Poster, assert_counted, job, record};
use crate::support::{Board, Http, Server, eventually, refused, signal, tallyflow};
use reqwest::Method;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

/// The processes of a cluster, each with a loopback address of its own.
struct Cluster {
    dir: tempfile::TempDir,
    brokers: String,
    hosts: Vec<String>,
    servers: Vec<Option<Server>>,
}

/// Addresses that no other test of this machine has: 127.A.B.C by process id and number.
fn hosts(processes: usize) -> Vec<String> {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let pid = std::process::id();
    let host = || {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("127.{}.{}.{}:7101", 1 + pid % 250, pid / 250 % 250, n)
    };
    (0..processes).map(|_| host()).collect()
}

impl Cluster {
    fn start(broker: &Broker, processes: usize) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let servers = (0..processes).map(|_| None).collect();
        let mut cluster = Cluster { dir, brokers: broker.address.clone(), hosts: hosts(processes), servers };
        (0..processes).for_each(|process| cluster.bring_back(process));
        cluster
    }

    fn hosts_file(&self) -> PathBuf {
        let path = self.dir.path().join("hosts");
        std::fs::write(&path, self.hosts.join("\n")).unwrap();
        path
    }

    /// Starts a process.
    fn bring_back(&mut self, process: usize) {
        let (hosts, checkpoints) = (self.hosts_file(), self.dir.path().join("checkpoints"));
        let (processes, number) = (self.hosts.len().to_string(), process.to_string());
        let mut options = vec![
            ("TALLYFLOW_KAFKA_BROKERS", &*self.brokers),
            ("TALLYFLOW_CHECKPOINT_URL", checkpoints.to_str().unwrap()),
            ("TALLYFLOW_CHECKPOINT_EVERY", "1s"),
        ];
        if self.hosts.len() > 1 {
            options.extend([
                ("TALLYFLOW_CLUSTER_PROCESSES", &*processes),
                ("TALLYFLOW_CLUSTER_PROCESS", &*number),
                ("TALLYFLOW_CLUSTER_HOSTS", hosts.to_str().unwrap()),
            ]);
        }
        let dir = self.dir.path().join(format!("data-{process}"));
        self.servers[process] = Some(Server::start_with(&dir, 1, &options));
    }

    fn server(&self, process: usize) -> &Server {
        self.servers[process].as_ref().unwrap()
    }

    fn http(&self, process: usize) -> &Http {
        &self.server(process).http
    }

    fn kill(&mut self, process: usize) {
        self.servers[process].take().unwrap().kill();
    }

    /// Waits until all have come together.
    fn wait_until_ready(&self) {
        for process in 0..self.hosts.len() {
            eventually("it is ready", || (self.http(process).get("/readyz").status == 200).then_some(()));
        }
    }

    /// The process ids of all engines, once there are all.
    fn engines(&self) -> Vec<u32> {
        eventually("all engines are there", || {
            let status = self.http(0).get("/api/cluster").ok().json();
            let engines = status["processes"].as_array().unwrap().iter();
            engines.map(|process| process["engine_pid"].as_u64().map(|pid| pid as u32)).collect()
        })
    }

    fn wait_for_other_engines(&self, engines: &[u32]) {
        eventually("all engines are others", || self.engines().iter().all(|pid| !engines.contains(pid)).then_some(()));
    }

    /// Holds what every process shows against the topic.
    #[track_caller]
    fn assert_counted(&self, topic: &str, partitions: i32, posted: &super::Posted) {
        let records = assert_counted(self.http(0), &self.brokers, topic, partitions, posted);
        let shown = self.http(0).tallies_of(topic, records);
        for process in 1..self.hosts.len() {
            let there = self.http(process).tallies_of(topic, records);
            assert_eq!((&there.digest, &there.accounting), (&shown.digest, &shown.accounting), "process {process}");
            assert_eq!(there.offsets, shown.offsets, "process {process}");
            self.http(process).recount(topic);
        }
    }
}

/// Writes on until more has been counted than there was.
fn more(http: &Http, topic: &str) {
    let read = http.tallies(topic).accounting.read;
    eventually("counting goes on", || (http.tallies(topic).accounting.read > read + 100).then_some(()));
}

#[test]
fn whichever_process_is_asked_the_answer_is_the_same() {
    let Some(broker) = Broker::start(&[]) else { return };
    let cluster = Cluster::start(&broker, 2);
    cluster.wait_until_ready();
    let (leader, other) = (cluster.http(0), cluster.http(1));
    // Every change, asked of the one that does not lead.
    other.create_topic("moods", 4);
    other.submit(&job("moods"));
    assert_eq!(
        other.send(Method::POST, "/api/jobs", &[("content-type", "application/toml")], job("moods")).unwrap().status,
        409
    );
    let mut boards =
        [0, 1].map(|process| (cluster.server(process).events("/api/jobs/moods/events?every=0"), Board::default()));
    let lines: String = (0..1_000).map(|n| record(n) + "\n").collect();
    for (n, line) in lines.split_inclusive('\n').collect::<Vec<_>>().chunks(100).enumerate() {
        cluster.http(n % 2).append("moods", line.concat());
    }
    let shown = leader.tallies_of("moods", 1_000);
    assert_eq!(other.tallies_of("moods", 1_000).digest, shown.digest);
    for (events, board) in &mut boards {
        while board.accounting.read < 1_000 {
            board.follow(&events.next().expect("the stream goes on"));
        }
        board.assert_shows(&shown);
        assert_eq!(board.snapshots, 1);
    }
    // What is kept by the leader alone.
    other.recount("moods");
    let why = other.get("/api/jobs/moods/why?subject=moods&group=o1").ok().json();
    assert_eq!(why, leader.get("/api/jobs/moods/why?subject=moods&group=o1").ok().json());
    eventually("there is a past", || {
        (other.get("/api/jobs/moods/tallies?as_of=2100-01-01T00:00:00Z").status == 200).then_some(())
    });
    assert_eq!(other.get("/api/topics").ok().json(), leader.get("/api/topics").ok().json());
    assert_eq!(other.get("/api/jobs/nobody/tallies").status, 404);
    assert_eq!(other.get("/api/nothing").status, 404);
    // Its state is seen everywhere.
    other.post("/api/jobs/moods/pause", "").ok();
    other.wait_for_state("moods", "paused");
    other.post("/api/jobs/moods/resume", "").ok();
    other.wait_for_state("moods", "running");
    leader.wait_for_state("moods", "running");
    // Another number of workers in each process.
    let receipt = other.patch_json("/api/cluster", &serde_json::json!({"workers": 2})).ok();
    let receipt = receipt.headers["location"].to_str().unwrap().to_owned();
    let done = eventually("the change is over", || {
        let receipt = other.get(&receipt).ok().json();
        (receipt["state"] != "running").then_some(receipt)
    });
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(done["jobs"]["moods"]["digest_before"], done["jobs"]["moods"]["digest_after"]);
    let rest: String = (1_000..1_500).map(|n| record(n) + "\n").collect();
    other.append("moods", rest);
    let posted = super::Posted { acknowledged: (0..1_500).collect(), ..Default::default() };
    cluster.assert_counted("moods", 4, &posted);
    // A job of that name anew is another one everywhere.
    other.delete("/api/jobs/moods").ok();
    other.wait_for_state("moods", "cancelled");
    other.submit(&job("moods"));
    cluster.assert_counted("moods", 4, &posted);
}

/// Disturbs a cluster in every way there is, and holds what comes out against the topic each time.
fn disturb(processes: usize) {
    let Some(broker) = Broker::start(&[]) else { return };
    let mut cluster = Cluster::start(&broker, processes);
    cluster.wait_until_ready();
    let last = processes - 1;
    cluster.http(0).create_topic("moods", 4);
    cluster.http(0).submit(&job("moods"));

    let poster = Poster::start(cluster.http(0), "moods");
    let events = cluster.server(0).events("/api/jobs/moods/events?every=0");
    let mut board = Board::default();
    more(cluster.http(0), "moods");
    // Killed.
    cluster.kill(last);
    cluster.http(0).wait_for_state("moods", "recovering");
    let shown = cluster.http(0).tallies("moods");
    assert_eq!(cluster.http(0).tallies("moods").digest, shown.digest, "nothing moves, and it stays readable");
    cluster.bring_back(last);
    more(cluster.http(0), "moods");
    // The server stands still, its engine does not.
    signal(cluster.server(last).pid(), "STOP");
    cluster.http(0).wait_for_state("moods", "recovering");
    signal(cluster.server(last).pid(), "CONT");
    more(cluster.http(last), "moods");
    // The engine stands still, its server does not.
    let engines = cluster.engines();
    let frozen = *engines.last().unwrap();
    signal(frozen, "STOP");
    cluster.wait_for_other_engines(&engines);
    more(cluster.http(last), "moods");
    // All connections with the one that leads are cut: the others call it.
    let engines = cluster.engines();
    let host = cluster.hosts[0].split(':').next().unwrap();
    if cut(host) {
        cluster.wait_for_other_engines(&engines);
        more(cluster.http(last), "moods");
    }
    // Its reader was there all the time.
    let posted = poster.stop();
    cluster.assert_counted("moods", 4, &posted);
    let shown = cluster.http(0).tallies("moods");
    while board.accounting.read < shown.accounting.read {
        board.follow(&events.next().expect("the stream goes on"));
    }
    board.assert_shows(&shown);
    assert_eq!(board.snapshots, 1, "the reader has never been cut off");
    drop(events);

    // The one that leads is killed: its reader goes on at another process, where its id is.
    let from = board.epoch;
    cluster.kill(0);
    let other = cluster.server(last);
    let kept = other.http.tallies("moods");
    assert_eq!((&kept.digest, &kept.accounting), (&shown.digest, &shown.accounting));
    let events = other.events(&format!("/api/jobs/moods/events?every=0&last_event_id={from}"));
    other.http.wait_for_state("moods", "recovering");
    let refused = other.http.send(Method::POST, "/api/topics/moods/records", &[], record(0)).unwrap();
    assert!(refused.status == 503 && refused.headers.contains_key("retry-after"), "{refused:?}");
    assert!(refused.text.contains("process 0"), "{refused:?}");
    assert_eq!(other.http.get("/healthz").status, 200);
    assert_eq!(other.http.get("/readyz").status, 503);
    cluster.bring_back(0);
    cluster.wait_until_ready();
    let first = posted.acknowledged.len() as u64 + posted.unsure.len() as u64;
    let lines: String = (first..first + 500).map(|n| record(n) + "\n").collect();
    cluster.http(last).append("moods", lines);
    let mut posted = posted;
    posted.acknowledged.extend(first..first + 500);
    cluster.assert_counted("moods", 4, &posted);
    let shown = cluster.http(last).tallies("moods");
    while board.accounting.read < shown.accounting.read {
        board.follow(&events.next().expect("the stream goes on"));
    }
    board.assert_shows(&shown);
    assert_eq!(board.snapshots, 1, "the reader goes on without a gap");
}

/// Cuts the connections with a host of this machine; says so where the system does not let us.
fn cut(host: &str) -> bool {
    let cut = Command::new("ss").args(["--kill", "--no-header", "dst", host]).output();
    let is_cut = cut.is_ok_and(|output| output.status.success() && !output.stdout.is_empty());
    if !is_cut {
        eprintln!("left out: `ss --kill` can't cut connections here, which takes root and a kernel that lets it");
    }
    is_cut
}

#[test]
fn two_processes_of_which_each_is_lost_in_every_way_lose_no_vote() {
    disturb(2);
}

#[test]
fn four_processes_of_which_some_are_lost_in_every_way_lose_no_vote() {
    disturb(4);
}

#[test]
fn another_number_of_processes_goes_on_from_the_checkpoint() {
    let Some(broker) = Broker::start(&[]) else { return };
    let mut cluster = Cluster::start(&broker, 2);
    cluster.wait_until_ready();
    cluster.http(0).create_topic("moods", 4);
    cluster.http(0).submit(&job("moods"));
    let mut posted = super::Posted::default();
    for (round, processes) in [2, 3, 1, 2].into_iter().enumerate() {
        if round > 0 {
            // All are stopped, and others are started over what they have left.
            let before = cluster.http(0).tallies("moods");
            while let Some(server) = cluster.servers.pop() {
                server.unwrap().terminate();
            }
            cluster.hosts = hosts(processes);
            cluster.servers = (0..processes).map(|_| None).collect();
            (0..processes).for_each(|process| cluster.bring_back(process));
            cluster.wait_until_ready();
            let after = cluster.http(0).tallies_of("moods", before.accounting.read);
            assert_eq!((after.digest, after.accounting), (before.digest, before.accounting), "{processes}");
            assert!(cluster.server(0).stderr().contains("goes on from a checkpoint"), "{processes}");
        }
        let first = posted.acknowledged.len() as u64;
        posted.acknowledged.extend(first..first + 700);
        let lines: String = (first..first + 700).map(|n| record(n) + "\n").collect();
        cluster.http(processes - 1).append("moods", lines);
        cluster.assert_counted("moods", 4, &posted);
    }
}

#[test]
fn a_process_of_another_configuration_or_version_is_refused_with_both_named() {
    let Some(broker) = Broker::start(&[]) else { return };
    let cluster = Cluster::start(&broker, 2);
    cluster.wait_until_ready();
    let other = |processes: usize, process: usize, hosts: &Path, prefix: &str| {
        let dir = tempfile::tempdir().unwrap();
        let mut command = tallyflow();
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "error", "--kafka", &broker.address]);
        command.args(["--processes", &processes.to_string(), "--process", &process.to_string(), "--hosts"]).arg(hosts);
        command.arg("--checkpoint-url").arg(cluster.dir.path().join("checkpoints"));
        command.arg("--data-dir").arg(dir.path()).env("TALLYFLOW_KAFKA_PREFIX", prefix);
        refused(&mut command)
    };
    // Three processes, of which the first two are those that are there.
    let three = cluster.dir.path().join("three");
    let more = format!("{}\n{}", cluster.hosts.join("\n"), hosts(1)[0]);
    std::fs::write(&three, &more).unwrap();
    let (status, said) = other(3, 2, &three, "tallyflow");
    assert_eq!(status, 1);
    assert!(said.contains("is configured for 3 processes") && said.contains("for 2 processes"), "{said}");
    // A stranger with another version.
    let mut stream = TcpStream::connect(&cluster.hosts[0]).unwrap();
    let greeting = heard(&mut stream);
    assert!(greeting["version"].is_string() && greeting["nonce"].is_array(), "{greeting}");
    say(&mut stream, &serde_json::json!({"version": "0.0.1-0", "process": 1}));
    let answer = heard(&mut stream);
    let why = answer["Refused"]["why"].as_str().unwrap();
    assert!(
        why.contains("process 1") && why.contains("0.0.1-0") && why.contains(greeting["version"].as_str().unwrap()),
        "{why}"
    );
    // One that does not know what lies in Kafka.
    let mut stream = TcpStream::connect(&cluster.hosts[0]).unwrap();
    let greeting = heard(&mut stream);
    let checkpoints = cluster.dir.path().join("checkpoints");
    let configuration = format!(
        "2 processes at {}, the topic __tallyflow, checkpoints in {}",
        cluster.hosts.join(", "),
        checkpoints.display()
    );
    say(
        &mut stream,
        &serde_json::json!({"version": greeting["version"], "process": 1, "purpose": "Follow", "configuration": configuration,
            "proof": "0".repeat(64), "nonce": greeting["nonce"]}),
    );
    let why = heard(&mut stream).to_string();
    assert!(why.contains("does not know what lies in Kafka"), "{why}");
    // Who says nothing keeps nobody waiting.
    let _silent: Vec<TcpStream> = (0..10).map(|_| TcpStream::connect(&cluster.hosts[0]).unwrap()).collect();
    cluster.wait_until_ready();
    assert_eq!(cluster.engines().len(), 2);
}

fn say(stream: &mut TcpStream, what: &serde_json::Value) {
    let body = what.to_string();
    stream.write_all(&(body.len() as u32).to_le_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
}

fn heard(stream: &mut TcpStream) -> serde_json::Value {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}
