//! Engines of several processes: what becomes of jobs, and what the others see when one is lost or frozen.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command as Program, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tallyflow_dataflows::checkpoint::{CheckpointStore, StoreError};
use tallyflow_dataflows::claim::HashKey;
use tallyflow_dataflows::engine::cluster::{Meeting, Membership};
use tallyflow_dataflows::engine::job::{Halt, Install, InstallInput, Start};
use tallyflow_dataflows::engine::{Command, Engine, EngineConfig};
use tallyflow_dataflows::ids::{Epoch, Offset, PartitionId};
use tallyflow_dataflows::results::{JobResults, Shape};
use tallyflow_dataflows::spec::{JobFile, JobSpec, Surroundings};
use tallyflow_dataflows::testing::{self, Bench, Crew, Engines, MemoryLog, MemoryRecord, MemoryStore, PlainFormats};
use tallyflow_dataflows::update::{CheckpointEvent, EngineEvent, JobId};

const PARTITIONS: usize = 4;
const DEADLINE: Duration = Duration::from_secs(60);
/// How soon a process that is gone must be seen to be.
const SEEN_WITHIN: Duration = Duration::from_secs(2);
const CREWS: [(usize, usize); 3] = [(2, 1), (2, 2), (4, 1)];

fn crews() -> impl Iterator<Item = Crew> {
    CREWS.into_iter().map(|(processes, workers)| Crew { processes, workers })
}

fn spec(tally: &str) -> JobSpec {
    let text = format!("name = 'job'\ndataflow = 'tally'\n[[input]]\ntopic = 't'\nformat = 'json'\n[tally]\n{tally}");
    let around = Surroundings { formats: &PlainFormats, partitions: &|_| Some(PARTITIONS as u32), topics: vec![] };
    JobFile::parse_toml(&text, &around).unwrap()
}

const LAST: &str = "group = '/g'\nentity = '/e'\nkeep = 'last'\naggregates = ['count', 'max']";

fn record(n: u64) -> MemoryRecord {
    MemoryRecord { timestamp_ms: n as i64, value: format!(r#"{{"g":"g{}","e":"e{}"}}"#, n % 7, n % 97).into_bytes() }
}

fn log() -> MemoryLog {
    let log = MemoryLog::default();
    log.create("t", PARTITIONS);
    log
}

fn fill(log: &MemoryLog, per_partition: u64) {
    (0..PARTITIONS).for_each(|p| log.append("t", p, (0..per_partition).map(record)));
}

fn install(job: u64, spec: &JobSpec) -> Install {
    let start = |p| Start { partition: PartitionId(p as u32), from: Offset(0), until: None };
    Install {
        job: JobId(job),
        spec: spec.clone(),
        inputs: vec![InstallInput {
            topic: "t".into(),
            incarnation: None,
            partitions: (0..PARTITIONS).map(start).collect(),
            from_ms: None,
            until_ms: None,
        }],
        first_epoch: Epoch(1),
        epoch_limit: Epoch(1 << 53),
        halt: None,
        beside: false,
        polls: Vec::new(),
        keep: None,
    }
}

fn config(log: &MemoryLog) -> EngineConfig {
    EngineConfig {
        workers: 1,
        hash_key: HashKey([3, 5]),
        source: Arc::new(log.clone()),
        formats: Arc::new(PlainFormats),
        checkpoints: None,
        deliver: Arc::new(|_| {}),
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < until, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Takes events until one is such.
fn wait(engines: &mut Engines, what: &str, mut is: impl FnMut(&EngineEvent) -> bool) {
    let until = Instant::now() + DEADLINE;
    loop {
        match engines.next(until.saturating_duration_since(Instant::now())) {
            Some(event) if is(&event) => return,
            Some(_) => {}
            None => panic!("not within {DEADLINE:?}: {what}"),
        }
    }
}

// ---- jobs

#[test]
fn jobs_of_a_cluster_come_halt_step_forward_and_go() {
    for crew in crews() {
        let log = log();
        fill(&log, 100);
        let mut engines = Engines::start(&config(&log), crew);
        let spec = spec(LAST);
        // The collectors are spread over the leader's workers.
        for job in 1..4 {
            engines.command(Command::Install(Box::new(install(job, &spec))));
            wait(&mut engines, "it is installed", |event| *event == EngineEvent::Installed { job: JobId(job) });
        }
        let until = [50u64, 60, 0, 200].map(Offset).to_vec();
        let halt = Halt { number: 5, until: Some(vec![until]) };
        let (job, beside) = (JobId(2), JobId(3));
        engines.command(Command::Halt { job, halt });
        fill(&log, 100);
        wait(&mut engines, "the halt", |event| matches!(event, EngineEvent::Halted { job: of, halt: 5 } if *of == job));
        engines.command(Command::StepForward { job: beside, at_least: Epoch(1 << 20) });
        wait(
            &mut engines,
            "an epoch far above",
            |event| matches!(event, EngineEvent::Closed { job, update } if *job == beside && update.epoch >= Epoch(1 << 20)),
        );
        for job in 1..4 {
            engines.command(Command::Remove(JobId(job)));
            wait(&mut engines, "it is gone", |event| *event == EngineEvent::Removed { job: JobId(job) });
        }
        fill(&log, 100);
        assert_eq!(engines.next(Duration::from_millis(300)), None, "all is gone");
        // And yet there can be another.
        engines.command(Command::Install(Box::new(install(9, &spec))));
        let mut results = JobResults::new(Shape::of(&spec, &install(9, &spec).inputs));
        wait(&mut engines, "all is read", |event| {
            if let EngineEvent::Closed { update, .. } = event {
                results.apply((**update).clone());
            }
            results.accounting().read == 1_200
        });
        assert_eq!(results.accounting().counted, 97);
    }
}

#[test]
fn jobs_of_a_cluster_come_and_go_while_records_flow() {
    for crew in crews() {
        let log = log();
        let (stop, feed) = (Arc::new(AtomicBool::new(false)), log.clone());
        let stopped = stop.clone();
        let feed = std::thread::spawn(move || {
            let mut n = 0;
            // Bounded, so that a test that fails ends.
            while !stopped.load(Ordering::Acquire) && n < 100_000 {
                feed.append("t", n as usize % PARTITIONS, (n..n + 20).map(record));
                n += 20;
                std::thread::yield_now();
            }
        });
        let mut engines = Engines::start(&config(&log), crew);
        let spec = spec(LAST);
        for round in 0..6 {
            engines.command(Command::Install(Box::new(install(round * 2, &spec))));
            engines.command(Command::Install(Box::new(install(round * 2 + 1, &spec))));
            // Taken down as soon as it stands, or before.
            engines.command(Command::Remove(JobId(round * 2 + 1)));
            wait(
                &mut engines,
                "the job reads",
                |event| matches!(event, EngineEvent::Closed { job, update } if job.0 == round * 2 && update.records.read > 0),
            );
            engines.command(Command::Remove(JobId(round * 2)));
        }
        stop.store(true, Ordering::Release);
        wait(&mut engines, "the last one is gone", |event| *event == EngineEvent::Removed { job: JobId(10) });
        feed.join().unwrap();
    }
}

#[test]
fn epochs_of_a_cluster_stop_at_their_limit_until_it_is_raised() {
    let log = log();
    let mut engines = Engines::start(&config(&log), Crew { processes: 3, workers: 1 });
    let mut install = install(1, &spec(LAST));
    (install.first_epoch, install.epoch_limit) = (Epoch(100), Epoch(103));
    engines.command(Command::Install(Box::new(install)));
    let (mut read, mut last) = (0, 0);
    for n in 0..8 {
        log.append("t", n as usize % PARTITIONS, [record(n)]);
        while let Some(event) = engines.next(Duration::from_millis(50)) {
            if let EngineEvent::Closed { update, .. } = event {
                read += update.records.read;
                last = last.max(update.epoch.0);
            }
        }
    }
    assert!(last < 102 && read < 8, "epoch {last}, {read} records");
    engines.command(Command::RaiseEpochLimit(Epoch(200)));
    wait(&mut engines, "what was held back", |event| {
        if let EngineEvent::Closed { update, .. } = event {
            read += update.records.read;
        }
        read == 8
    });
}

/// The leader's node takes nothing: the sources of all processes wait, and read on once it does.
#[test]
fn a_node_that_is_behind_holds_back_the_sources_of_all_processes() {
    let log = log();
    let (send, told) = channel();
    let engines: Vec<Engine> = (testing::meet(Crew { processes: 2, workers: 1 }).into_iter())
        .map(|cluster| {
            let send = send.clone();
            let deliver = Arc::new(move |event| drop(send.send(event)));
            Engine::start_in(EngineConfig { deliver, ..config(&log) }, cluster).unwrap()
        })
        .collect();
    engines[0].command(Command::Install(Box::new(install(1, &spec(LAST)))));
    let (mut events, mut read) = (0, 0);
    let mut take = |wait: Duration| {
        let event = told.recv_timeout(wait).ok()?;
        if let EngineEvent::Closed { update, .. } = event {
            read += update.records.read;
        }
        events += 1;
        Some((events, read))
    };
    let mut at_most = 0;
    for n in 0..400 {
        log.append("t", n as usize % PARTITIONS, [record(n)]);
        while let Some((events, _)) = take(Duration::from_millis(2)) {
            at_most = events;
        }
    }
    assert!((30..150).contains(&at_most), "{at_most} events of which 64 may wait");
    (0..at_most).for_each(|_| engines[0].taken());
    let mut all = false;
    until("all is read", || {
        while let Some((_, read)) = take(Duration::ZERO) {
            engines[0].taken();
            all = read == 400;
        }
        all
    });
    engines.iter().for_each(Engine::stop);
}

#[test]
fn an_idle_cluster_tells_nothing() {
    let log = log();
    fill(&log, 10);
    let mut bench = Bench::start_crew(
        &spec(LAST),
        vec![],
        Arc::new(log.clone()),
        Arc::new(PlainFormats),
        Crew { processes: 3, workers: 1 },
    );
    bench.run_to(40, DEADLINE);
    let quiet = Duration::from_millis(500);
    // What is still on its way.
    let mut on_its_way = 0;
    while bench.take_within(quiet) {
        on_its_way += 1;
        assert!(on_its_way < 20, "no epochs without input");
    }
    assert!(!bench.take_within(quiet));
    log.append("t", 3, [record(1)]);
    bench.run_to(41, DEADLINE);
}

/// One process can't read its partition any more: all stop, and no epoch that lacks it is told.
#[test]
fn what_can_not_be_read_for_a_while_is_told_and_so_is_that_it_is_read_again() {
    for crew in crews() {
        let log = log();
        fill(&log, 50);
        let mut bench = Bench::start_crew(&spec(LAST), vec![], Arc::new(log.clone()), Arc::new(PlainFormats), crew);
        bench.run_to(200, DEADLINE);
        assert_eq!(bench.waits, []);
        log.fail_next("t", 5);
        fill(&log, 50);
        bench.run_to(400, DEADLINE);
        let why = |bench: &Bench| -> BTreeMap<PartitionId, Option<String>> {
            bench.waits.iter().map(|(_, partition, why)| (*partition, why.clone())).collect()
        };
        bench.run_until(DEADLINE, |bench| !why(bench).is_empty() && why(bench).values().all(Option::is_none));
        let told = bench.waits.iter().filter_map(|(input, _, why)| Some((*input, why.as_deref()?)));
        assert!(told.clone().all(|(input, why)| input == 0 && why.contains("the test said so")), "{:?}", bench.waits);
        assert_eq!(told.count() * 2, bench.waits.len(), "each is told once, and that it is over");
    }
}

#[test]
fn a_job_that_fails_in_one_process_fails_in_all() {
    for crew in crews() {
        let log = log();
        fill(&log, 50);
        let mut spec = spec(LAST);
        spec.name = "job".into();
        // Partition 3 is read by the last worker, and what it goes on from is gone.
        log.take_before("t", PARTITIONS - 1, 20);
        let mut bench = Bench::start_crew(&spec, vec![], Arc::new(log.clone()), Arc::new(PlainFormats), crew);
        bench.run_until(DEADLINE, |bench| bench.failed.is_some());
        assert!(
            bench.failed.as_deref().is_some_and(|why| why.contains("offsets 0 to 19 of t/3")),
            "{:?}",
            bench.failed
        );
        fill(&log, 50);
        while bench.take_within(Duration::from_millis(300)) {}
        assert_eq!(bench.results.accounting().read, 0, "nothing is told of a job that never stood");
    }
}

// ---- checkpoints

#[test]
fn a_cluster_goes_on_from_what_any_other_one_has_written() {
    let log = log();
    let spec = spec(LAST);
    let mut bench = Bench::start(&spec, Arc::new(log.clone()), Arc::new(PlainFormats), 2);
    let mut written = 0;
    for (processes, workers) in [(3, 1), (1, 1), (2, 2), (4, 1), (2, 1), (1, 3), (2, 1)] {
        fill(&log, 300);
        written += 1_200;
        bench.run_to(written, DEADLINE);
        let number = bench.checkpoint();
        bench.run_until(DEADLINE, Bench::is_checkpointed);
        let event = bench.checkpoint_events.last();
        assert!(matches!(event, Some((of, CheckpointEvent::Taken { .. })) if *of == number), "{event:?}");
        let (digest, accounting) = (bench.results.digest().to_string(), *bench.results.accounting());
        // Nothing of the log from before is needed.
        (0..PARTITIONS).for_each(|p| log.take_before("t", p, written / PARTITIONS as u64));
        bench.restart_crew(Crew { processes, workers }, Vec::new());
        bench.run_to(written, DEADLINE);
        assert_eq!(bench.failed, None);
        assert_eq!((bench.results.digest().to_string(), *bench.results.accounting()), (digest, accounting));
        assert!(bench.taken_up.as_ref().is_some_and(|(from, over)| from.is_some() && over.is_empty()));
    }
}

/// A store that takes its time with what it is asked for a second time: by a process that does not lead.
#[derive(Clone)]
struct Slow(MemoryStore, Arc<Mutex<BTreeSet<String>>>);

impl CheckpointStore for Slow {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.0.put(name, bytes)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<bool, StoreError> {
        self.0.put_new(name, bytes)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        if name.ends_with(".frames") && !self.1.lock().unwrap().insert(name.to_owned()) {
            std::thread::sleep(Duration::from_millis(300));
        }
        self.0.get(name)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.0.list(folder)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.0.delete(name)
    }
}

/// What was told while a process was still reading its checkpoint reaches it.
#[test]
fn a_process_that_comes_late_catches_up_with_the_others() {
    let log = log();
    let crew = Crew { processes: 2, workers: 1 };
    let mut bench = Bench::start_crew(&spec(LAST), vec![], Arc::new(log.clone()), Arc::new(PlainFormats), crew);
    fill(&log, 100);
    bench.run_to(400, DEADLINE);
    bench.checkpoint();
    bench.run_until(DEADLINE, Bench::is_checkpointed);
    let store = Slow(bench.store.clone(), Arc::default());
    bench.restart_in(Arc::new(store.clone()), 1);
    bench.run_to(400, DEADLINE);
    store.1.lock().unwrap().clear();
    bench.restart_crew(crew, Vec::new());
    // The leader's epochs go on: it has told where it stands, and then that it reads no more.
    std::thread::sleep(Duration::from_millis(100));
    bench.pause(true);
    bench.run_until(DEADLINE, Bench::is_paused);
    assert_eq!((bench.results.accounting().read, &bench.failed), (400, &None));
}

#[test]
fn a_store_that_fails_one_process_for_a_while_costs_nothing() {
    let log = log();
    let crew = Crew { processes: 3, workers: 1 };
    let mut bench = Bench::start_crew(&spec(LAST), vec![], Arc::new(log.clone()), Arc::new(PlainFormats), crew);
    fill(&log, 300);
    bench.run_to(1_200, DEADLINE);
    bench.store.fail_next(2);
    bench.checkpoint();
    bench.run_until(DEADLINE, Bench::is_checkpointed);
    assert!(matches!(bench.checkpoint_events.last(), Some((_, CheckpointEvent::Taken { .. }))));
    let digest = bench.results.digest().to_string();
    bench.restart_crew(Crew { processes: 2, workers: 1 }, Vec::new());
    bench.run_to(1_200, DEADLINE);
    assert_eq!((bench.results.digest().to_string(), bench.failed), (digest, None));
}

#[test]
fn files_that_are_needless_go_whichever_process_has_written_them() {
    let log = log();
    let crew = Crew { processes: 2, workers: 1 };
    let mut bench = Bench::start_crew(&spec(LAST), vec![], Arc::new(log.clone()), Arc::new(PlainFormats), crew);
    let mut written = 0;
    for _ in 0..20 {
        fill(&log, 200);
        written += 800;
        bench.run_to(written, DEADLINE);
        bench.checkpoint();
        bench.run_until(DEADLINE, Bench::is_checkpointed);
    }
    let mut names = Vec::new();
    bench.store.change(|objects| names.extend(objects.keys().cloned()));
    assert!(names.iter().any(|name| name.contains("-p0001-")), "{names:?}");
    assert!(names.len() < 30, "{names:?}");
}

// ---- a process that is gone

#[test]
fn a_process_that_ends_is_seen_by_all_others_within_two_seconds() {
    let log = log();
    let mut engines = Engines::start(&config(&log), Crew { processes: 3, workers: 1 });
    engines.command(Command::Install(Box::new(install(1, &spec(LAST)))));
    wait(&mut engines, "it is installed", |event| matches!(event, EngineEvent::Installed { .. }));
    assert!(engines.peers().iter().flatten().all(|peer| peer.lost.is_none()));
    let killed = Instant::now();
    engines.kill(1);
    until("the others see that", || {
        engines.peers().iter().all(|peers| peers.iter().any(|peer| peer.process == 1 && peer.lost.is_some()))
    });
    assert!(killed.elapsed() < SEEN_WITHIN, "{:?}", killed.elapsed());
}

/// What a process of its own runs: see `processes`.
const ROLE: &str = "TALLYFLOW_TEST_PROCESS";

/// One process of a cluster of real ones: tells its address, is told those of all, and then says what it
/// knows of the others as soon as one is silent for a second, or lost.
#[test]
fn processes() {
    let Some(role) = std::env::var_os(ROLE) else { return };
    let process: usize = role.to_str().unwrap().parse().unwrap();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::abort();
    }));
    let meeting = Meeting::open(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    println!("\nat {}", meeting.address());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let addresses: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let (processes, token) = (addresses.len(), [3; 16]);
    let us = Membership { process, processes, workers: 1, token, digest: "one".into() };
    let cluster = meeting.join(&us, &addresses, DEADLINE).unwrap();
    let log = log();
    fill(&log, 100);
    let (send, events) = channel();
    let deliver = Arc::new(move |event| drop(send.send(event)));
    let engine = Engine::start_in(EngineConfig { deliver, ..config(&log) }, cluster).unwrap();
    if process == 0 {
        engine.command(Command::Install(Box::new(install(1, &spec(LAST)))));
        let mut read = 0;
        while read < 400 {
            let event = events.recv_timeout(DEADLINE).unwrap();
            engine.taken();
            if let EngineEvent::Closed { update, .. } = event {
                read += update.records.read;
            }
        }
        println!("read {read}");
    }
    // The whole cluster must be gone before the test's deadline, whatever becomes of the test.
    let (until, mut told) = (Instant::now() + DEADLINE, false);
    while Instant::now() < until {
        let silent = engine.peers().into_iter().find(|peer| peer.silence > Duration::from_secs(1));
        if let Some(peer) = silent.filter(|_| !told) {
            println!("silent {}", peer.process);
            told = true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    std::process::exit(1);
}

/// A process that the test ends, whatever becomes of it.
struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    fn start(process: usize) -> Self {
        let mut child = Program::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes", "--nocapture", "--test-threads=1"])
            .env(ROLE, process.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Process { child, lines }
    }

    /// What follows the word in the next line that begins with it; `None`: the process has ended.
    fn told(&mut self, word: &str) -> Option<String> {
        self.lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix(word).map(|rest| rest.trim().to_owned()))
    }

    fn signal(&self, signal: &str) {
        let status = Program::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn start_processes() -> Vec<Process> {
    let mut processes: Vec<Process> = (0..3).map(Process::start).collect();
    let addresses: Vec<String> = processes.iter_mut().map(|process| process.told("at ").unwrap()).collect();
    for process in &mut processes {
        let mut stdin = process.child.stdin.take().unwrap();
        writeln!(stdin, "{}", addresses.join(" ")).unwrap();
    }
    assert_eq!(processes[0].told("read ").as_deref(), Some("400"));
    processes
}

#[test]
fn a_frozen_process_is_seen_by_all_others_within_two_seconds() {
    let mut processes = start_processes();
    let frozen = Instant::now();
    processes[2].signal("-STOP");
    for process in &mut processes[..2] {
        assert_eq!(process.told("silent ").as_deref(), Some("2"));
    }
    assert!(frozen.elapsed() < SEEN_WITHIN, "{:?}", frozen.elapsed());
}

#[test]
fn a_killed_process_ends_all_others_within_two_seconds() {
    let mut processes = start_processes();
    let killed = Instant::now();
    processes[1].child.kill().unwrap();
    for process in [0, 2] {
        let process = &mut processes[process];
        assert_eq!(process.told("silent "), None, "its engine ends before that");
        assert!(!process.child.wait().unwrap().success());
    }
    assert!(killed.elapsed() < SEEN_WITHIN, "{:?}", killed.elapsed());
}
