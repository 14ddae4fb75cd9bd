//! A campaign: one data directory, one stream, and rounds of faults over it, each of which ends with a look
//! at everything.

use crate::check;
use crate::faults::{self, Action};
use crate::feeder::{Feeder, Shared, lock};
use crate::fold::{Form, Partition, Poll};
use crate::http::Http;
use crate::jobs::{FORMS, JOBS, POLLS, changing_poll, definition, file, standing_polls};
use crate::kafka::{Kafka, Log};
use crate::log::Topic;
use crate::lookers::{Noted, Read, asker, looker, reader};
use crate::program::{Server, Start, signal};
use crate::stranger::{Stranger, Written};
use crate::stream::TOPICS;
use crate::voids::Voids;
use anyhow::{Context, bail, ensure};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reqwest::Method;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an action waits for its answer. One that is given up may be done or not.
const ACTION_MAX: Duration = Duration::from_secs(10);

/// What of several is in force, where an answer may have been lost.
#[derive(Clone, Debug)]
pub struct Known<T> {
    /// One of these, once all is settled.
    pub settled: Vec<T>,
    /// One of these is shown meanwhile.
    pub shown: Vec<T>,
    /// One of these has been shown in the past.
    pub ever: Vec<T>,
}

impl<T: Clone + PartialEq> Known<T> {
    pub fn new(first: T) -> Known<T> {
        Known { settled: vec![first.clone()], shown: vec![first.clone()], ever: vec![first] }
    }

    /// It was asked for; `sure`: and acknowledged.
    fn asked(&mut self, next: T, sure: bool) {
        if sure {
            self.settled.clear();
        }
        for list in [&mut self.settled, &mut self.shown, &mut self.ever] {
            if !list.contains(&next) {
                list.push(next.clone());
            }
        }
    }

    /// It was found out.
    pub fn found(&mut self, one: &T) {
        self.settled = vec![one.clone()];
        self.shown = vec![one.clone()];
    }
}

/// What was done, for the summary.
pub type Counts = BTreeMap<String, u64>;

pub struct Campaign {
    program: PathBuf,
    /// Everything of it: the data directory, the servers' logs.
    pub dir: PathBuf,
    pub shared: Arc<Shared>,
    /// `None`: the log is the embedded one.
    pub kafka: Option<Kafka>,
    server: Option<Server>,
    starts: u64,
    feeders: Vec<Feeder>,
    stranger: Option<Stranger>,
    readers: Vec<JoinHandle<Read>>,
    lookers: Vec<JoinHandle<()>>,
    pub noted: BTreeMap<&'static str, Noted>,
    pub topics: Vec<Topic>,
    /// By topic and partition.
    pub events: Vec<Vec<Partition>>,
    pub form: Known<Form>,
    pub poll: Known<Option<Poll>>,
    pub voids: BTreeMap<&'static str, Voids>,
    pub counts: Counts,
    /// What was done, in words, newest last.
    pub story: Vec<String>,
    /// Changes of workers that may still run on the server that runs.
    receipts: Vec<u64>,
}

impl Campaign {
    /// Starts a server on a directory of its own, with topics, jobs and polls, and all who write and look on.
    pub fn start(program: &Path, dir: &Path, seed: u64, log: &Log) -> anyhow::Result<Campaign> {
        ensure!(
            !dir.join("data").exists(),
            "{} is there from a run before; remove it, or name another folder",
            dir.display()
        );
        std::fs::create_dir_all(dir)?;
        let shared = Arc::<Shared>::default();
        let topics: Vec<Topic> = TOPICS.iter().map(|(_, partitions)| Topic::new(*partitions)).collect();
        let mut campaign = Campaign {
            program: program.to_owned(),
            dir: dir.to_owned(),
            shared: shared.clone(),
            kafka: Kafka::start(log, format!("crash-{seed:x}"))?,
            server: None,
            starts: 0,
            feeders: Vec::new(),
            stranger: None,
            readers: Vec::new(),
            lookers: Vec::new(),
            noted: JOBS.iter().map(|(job, _)| (*job, Noted::default())).collect(),
            events: topics.iter().map(|topic| vec![Vec::new(); topic.partitions.len()]).collect(),
            topics,
            form: Known::new(FORMS[0]),
            poll: Known::new(None),
            voids: JOBS.iter().map(|(job, _)| (*job, Voids::default())).collect(),
            counts: Counts::new(),
            story: Vec::new(),
            receipts: Vec::new(),
        };
        campaign.start_server(&Start { workers: 2, ..Start::default() })?;
        let http = campaign.http(ACTION_MAX)?;
        let done = |answer: reqwest::Result<crate::http::Answer>| match answer {
            Ok(answer) if answer.is_ok() => Ok(()),
            other => Err(anyhow::anyhow!("setting up: {other:?}")),
        };
        for (name, partitions) in TOPICS {
            done(http.post("/api/topics", format!("{{\"name\":\"{name}\",\"partitions\":{partitions}}}")))?;
        }
        for form in [Form::Orders, Form::Firsts, Form::Bank] {
            done(http.post("/api/jobs", file(form)))?;
        }
        done(http.post("/api/jobs", POLLS.to_owned()))?;
        for poll in standing_polls() {
            done(http.with_json(Method::POST, "/api/polls", &definition(&poll, true)))?;
        }
        campaign.feeders = (0..TOPICS.len()).map(|topic| Feeder::start(topic, seed, shared.clone())).collect();
        campaign.stranger = campaign
            .kafka
            .as_ref()
            .map(|kafka| Stranger::start(&kafka.address, &format!("{}-stranger", kafka.prefix), seed, shared.clone()));
        let noted = |job: &str| campaign.noted[job].clone();
        let jobs = JOBS.iter().map(|(job, _)| *job);
        campaign.readers = jobs
            .clone()
            .chain(["bank", "orders"])
            .enumerate()
            .map(|(number, job)| reader(job, seed + number as u64, shared.clone(), noted(job)))
            .collect();
        campaign.lookers = vec![asker(jobs.map(|job| (job, noted(job))).collect(), seed, shared.clone())];
        for job in ["orders", "bank"] {
            let file = campaign.data().join(format!("{job}.db"));
            campaign.lookers.push(looker(job, file, seed, shared.clone(), noted(job)));
        }
        Ok(campaign)
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub fn http(&self, timeout: Duration) -> anyhow::Result<Http> {
        Http::new(&self.shared.url().context("no server runs")?, timeout)
    }

    fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    fn tell(&mut self, what: String) {
        self.story.push(what);
    }

    /// What was acknowledged of a topic so far.
    pub fn book(&self, topic: usize) -> Vec<crate::feeder::Acknowledged> {
        lock(&self.feeders[topic].book).clone()
    }

    /// What the other producer has written to a topic so far.
    pub fn written(&self, topic: usize) -> Written {
        self.stranger.as_ref().map(|stranger| lock(&stranger.book).topics[topic].clone()).unwrap_or_default()
    }

    /// Waits until the broker is there that was harmed.
    pub fn broker_is_back(&mut self) -> anyhow::Result<()> {
        self.kafka.as_mut().map_or(Ok(()), Kafka::back)
    }

    /// Starts a server; whether it listens. Only one that is to end somewhere may not.
    pub fn start_server(&mut self, start: &Start) -> anyhow::Result<bool> {
        self.starts += 1;
        let log = self.dir.join(format!("server-{:04}.log", self.starts));
        self.tell(format!("server {} starts: {} workers, {:?}", self.starts, start.workers, start.fail_points));
        self.receipts.clear();
        let kafka = self.kafka.as_ref().map(|kafka| (&*kafka.address, &*kafka.prefix));
        self.server = Server::start(&self.program, &self.data(), kafka, &log, start)?;
        if self.server.is_none() {
            let ended = std::fs::read_to_string(&log)?;
            ensure!(!start.fail_points.is_empty(), "server {} ended before it listened: {ended}", self.starts);
            self.count("ended while it started");
        }
        self.shared.set_url(self.server.as_ref().map(|server| server.url.clone()));
        Ok(self.server.is_some())
    }

    /// Ends the server that runs.
    pub fn end_server(&mut self, kindly: bool) -> anyhow::Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        if server.has_ended() {
            self.count("server ended at a place");
            self.tell("the server has ended by itself".to_owned());
        } else if kindly {
            self.count("server: SIGTERM");
            self.tell("SIGTERM".to_owned());
            server.terminate()?;
        } else {
            self.count("server: SIGKILL");
            self.tell("SIGKILL".to_owned());
            server.kill();
        }
        self.shared.set_url(None);
        Ok(())
    }

    /// One round.
    pub fn round(&mut self, seed: u64) -> anyhow::Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        self.story.clear();
        self.go_on();
        let mut on_the_same = self.server.is_some() && rng.random_ratio(1, 4);
        let runs = if on_the_same { 1 } else { rng.random_range(1..=3) };
        for _ in 0..runs {
            let mut points = Vec::new();
            if !on_the_same {
                let kindly = rng.random_ratio(1, 4);
                self.end_server(kindly)?;
                if rng.random_ratio(1, 3)
                    && let Some(damaged) = faults::damage(&self.data(), &mut rng)?
                {
                    self.count("files damaged");
                    self.tell(damaged);
                }
                for _ in 0..rng.random_range(0..=2) {
                    points.push(faults::fail_point(&mut rng));
                }
                let fail_points = points.iter().map(|(point, _)| point.as_str()).collect::<Vec<_>>().join(";");
                let start = Start { workers: rng.random_range(1..=4), fail_points };
                points.iter().for_each(|(_, name)| self.count(&format!("armed: {name}")));
                if !self.start_server(&start)? {
                    continue;
                }
            }
            let armed = |with: &str| points.iter().any(|(_, name)| name.starts_with(with));
            let (rescales, replaces) = (armed("rescale"), armed("replace"));
            self.disturb(&mut rng, rescales, replaces, !points.is_empty())?;
            on_the_same = on_the_same && points.is_empty();
        }
        if !on_the_same {
            let kindly = rng.random_ratio(1, 6) && self.story.iter().all(|what| !what.contains("=panic"));
            self.end_server(kindly)?;
            self.start_server(&Start { workers: rng.random_range(1..=4), ..Start::default() })?;
        }
        check::all(self)?;
        self.check_logs()
    }

    /// Actions at random moments.
    fn disturb(&mut self, rng: &mut ChaCha8Rng, rescales: bool, replaces: bool, armed: bool) -> anyhow::Result<()> {
        let jobs: Vec<&'static str> = JOBS.iter().map(|(job, _)| *job).collect();
        let mut actions: Vec<Action> = (0..rng.random_range(0..5)).map(|_| Action::any(rng, &jobs, true)).collect();
        if self.kafka.as_ref().is_some_and(Kafka::is_own) && rng.random_ratio(1, 2) {
            let place = rng.random_range(0..=actions.len());
            actions.insert(place, Action::of_broker(rng));
        }
        if rescales {
            actions.push(Action::Rescale(rng.random_range(1..=4)));
        }
        if replaces {
            actions.push(Action::Replace(rng.random_range(0..3)));
        }
        for action in actions {
            std::thread::sleep(Duration::from_millis(rng.random_range(0..300)));
            if self.has_ended(armed)? {
                return Ok(());
            }
            self.count(action.name());
            self.act(&action).with_context(|| format!("{action:?}"))?;
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(0..1_200)));
        self.has_ended(armed).map(drop)
    }

    pub fn has_ended(&mut self, armed: bool) -> anyhow::Result<bool> {
        let ended = self.server.as_mut().is_none_or(Server::has_ended);
        ensure!(!ended || armed, "the server has ended, and nobody had asked for that");
        Ok(ended)
    }

    pub fn act(&mut self, action: &Action) -> anyhow::Result<()> {
        let http = self.http(ACTION_MAX)?;
        let engine = || self.server.as_ref().and_then(|server| server.engine(&http));
        let told = match action {
            Action::KillEngine => {
                let engine = engine();
                engine.into_iter().for_each(|pid| signal(pid, Signal::KILL));
                format!("engine {engine:?} killed")
            }
            Action::StopEngine { ms, kill } => {
                let engine = engine();
                if let Some(pid) = engine {
                    signal(pid, Signal::STOP);
                    std::thread::sleep(Duration::from_millis(*ms));
                    signal(pid, if *kill { Signal::KILL } else { Signal::CONT });
                }
                format!("engine {engine:?} stopped for {ms} ms, killed then: {kill}")
            }
            Action::KillBroker { ms } => {
                let done = self.kafka.as_mut().is_some_and(|kafka| kafka.kill(*ms));
                format!("the broker killed, for {ms} ms and what it takes to start: {done}")
            }
            Action::FreezeBroker { ms } => {
                let done = self.kafka.as_mut().is_some_and(|kafka| kafka.freeze(*ms));
                format!("the broker stopped for {ms} ms: {done}")
            }
            Action::Replace(form) => {
                let form = FORMS[*form];
                let answer = http.post("/api/jobs?replace=true", file(form));
                match &answer {
                    Ok(answer) if answer.is_ok() => self.form.asked(form, true),
                    // It is in a state in which that can't be, or nothing could be noted.
                    Ok(answer) if answer.status == 409 => {}
                    Ok(answer) if answer.status < 500 => bail!("refused: {answer:?}"),
                    _ => self.form.asked(form, false),
                }
                format!("{form:?} in the place of orders: {}", short(&answer))
            }
            Action::Poll(number) => {
                let poll = number.map(changing_poll);
                let there = self.poll.settled.iter().any(Option::is_some);
                let answer = match &poll {
                    None => http.send(Method::DELETE, "/api/polls/moods", &[], String::new()),
                    Some(poll) if there => http.with_json(Method::PATCH, "/api/polls/moods", &definition(poll, false)),
                    Some(poll) => http.with_json(Method::POST, "/api/polls", &definition(poll, true)),
                };
                match &answer {
                    Ok(answer) if answer.is_ok() => self.poll.asked(poll.clone(), true),
                    // It is there already, or it is not.
                    Ok(answer) if [404, 409].contains(&answer.status) => {}
                    Ok(answer) if answer.status < 500 => bail!("refused: {answer:?}"),
                    _ => self.poll.asked(poll.clone(), false),
                }
                format!("the poll is to be {poll:?}: {}", short(&answer))
            }
            Action::Void { job, what } => {
                let answer = http.with_json(Method::POST, &format!("/api/jobs/{job}/voids"), &what.asked());
                let voids = self.voids.entry(job).or_default();
                match &answer {
                    Ok(answer) if answer.is_ok() => voids.made(&answer.json()?)?,
                    // It is in a state in which that can't be, or the offsets are not there yet.
                    Ok(answer) if [409, 422].contains(&answer.status) => {}
                    Ok(answer) if answer.status < 500 => bail!("refused: {answer:?}"),
                    _ => voids.lost(what.clone()),
                }
                format!("{job} is to be without {what:?}: {}", short(&answer))
            }
            Action::Unvoid { job, which } => {
                let voids = self.voids.entry(job).or_default();
                let ids = voids.ids();
                let Some(id) = ids.get(which % ids.len().max(1)) else { return Ok(()) };
                let answer = http.send(Method::DELETE, &format!("/api/jobs/{job}/voids/{id}"), &[], String::new());
                match &answer {
                    Ok(answer) if answer.is_ok() => voids.taken_back(*id, true),
                    Ok(answer) if [404, 409].contains(&answer.status) => {}
                    Ok(answer) if answer.status < 500 => bail!("refused: {answer:?}"),
                    _ => voids.taken_back(*id, false),
                }
                format!("void {id} of {job} is to be taken back: {}", short(&answer))
            }
            Action::Rescale(workers) => {
                let answer = http.with_json(Method::PATCH, "/api/cluster", &serde_json::json!({"workers": workers}));
                if let Ok(answer) = &answer
                    && answer.status == 202
                {
                    self.receipts.extend(answer.json()?["id"].as_u64());
                }
                format!("{workers} workers: {}", short(&answer))
            }
            Action::Pause(job) => {
                format!("pause {job}: {}", short(&http.post(&format!("/api/jobs/{job}/pause"), String::new())))
            }
            Action::Resume(job) => {
                format!("resume {job}: {}", short(&http.post(&format!("/api/jobs/{job}/resume"), String::new())))
            }
            Action::Checkpoint(job) => {
                format!(
                    "checkpoint of {job}: {}",
                    short(&http.post(&format!("/api/jobs/{job}/checkpoint"), String::new()))
                )
            }
            Action::Restart { job, ignore_state } => {
                let path = format!("/api/jobs/{job}/restart?ignore_state={ignore_state}");
                format!("restart {job}, without its state: {ignore_state}: {}", short(&http.post(&path, String::new())))
            }
            Action::Recount(job) => {
                let answer = http.post(&format!("/api/jobs/{job}/recount"), String::new());
                if let Ok(answer) = &answer
                    && answer.status == 200
                {
                    ensure!(answer.json()?["equal"] == true, "the recount of {job} differs: {}", answer.text);
                }
                format!("recount of {job}: {}", short(&answer))
            }
        };
        self.tell(told);
        Ok(())
    }

    /// Nothing is written any more, and all that was is acknowledged.
    pub fn quiet(&self, deadline: Instant) -> anyhow::Result<()> {
        self.shared.quiet.store(true, Ordering::SeqCst);
        let stranger = self.stranger.iter().map(|stranger| (&stranger.is_idle, "the topics, in a transaction"));
        let feeders = self.feeders.iter().zip(TOPICS).map(|(feeder, (topic, _))| (&feeder.is_idle, topic));
        for (is_idle, topic) in feeders.chain(stranger) {
            // Idle once may be just before it begins another.
            let mut idle = 0;
            while idle < 3 {
                idle = if is_idle.load(Ordering::SeqCst) { idle + 1 } else { 0 };
                ensure!(Instant::now() < deadline, "an append to {topic} is not answered");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// Has what is written go on.
    pub fn go_on(&self) {
        self.shared.quiet.store(false, Ordering::SeqCst);
    }

    /// Waits until no change of the workers runs, and sees that one that was made changed no number.
    pub fn receipts(&mut self, http: &Http, deadline: Instant) -> anyhow::Result<()> {
        for id in std::mem::take(&mut self.receipts) {
            loop {
                let receipt = http.get(&format!("/api/cluster/receipts/{id}"))?.json()?;
                let jobs = receipt["jobs"].as_object().cloned().unwrap_or_default();
                match receipt["state"].as_str() {
                    Some("running") => ensure!(Instant::now() < deadline, "it does not end: {receipt}"),
                    Some("done") => {
                        for (job, came) in jobs {
                            let equal = came["digest_before"] == came["digest_after"]
                                && came["accounting_before"] == came["accounting_after"];
                            ensure!(equal, "{job} came to something else with other workers: {came}");
                        }
                        self.count("rescales seen done");
                        break;
                    }
                    Some("failed") => {
                        let error = receipt["error"].as_str().unwrap_or_default();
                        ensure!(!error.contains("something else"), "another number of workers: {error}");
                        self.count("rescales seen given up");
                        break;
                    }
                    _ => bail!("a receipt {receipt}"),
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    /// No server has panicked but where it was told to.
    fn check_logs(&mut self) -> anyhow::Result<()> {
        for number in 1..=self.starts {
            let log = self.dir.join(format!("server-{number:04}.log"));
            let Ok(text) = std::fs::read_to_string(&log) else { continue };
            let mut lines = text.lines();
            while let Some(line) = lines.next() {
                let next = if line.contains("panicked at") { lines.next().unwrap_or_default() } else { "" };
                let planned = next.contains("failpoint") || line.contains("fail-0.5");
                ensure!(!line.contains("panicked at") || planned, "{}: {line} {next}", log.display());
                self.goes_on(line);
            }
            // What was looked at is needed only where something is wrong.
            if number < self.starts {
                std::fs::remove_file(&log)?;
            }
        }
        Ok(())
    }

    /// Counts what servers say they went on from.
    fn goes_on(&mut self, line: &str) {
        for (said, what) in [
            ("the job goes on from a checkpoint", "jobs gone on from a checkpoint"),
            ("no checkpoint is of use", "jobs begun anew for want of a checkpoint"),
            ("is of no use", "checkpoints passed over"),
            ("the engine is gone", "engines started again"),
            ("the job was replaced", "jobs replaced"),
            ("no sign of life", "engines found hung"),
        ] {
            if line.contains(said) {
                self.count(what);
            }
        }
    }

    /// Ends everybody. What the readers have come to is counted.
    pub fn end(mut self) -> anyhow::Result<Counts> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.broker_is_back()?;
        self.end_server(true)?;
        let counts = self.join();
        if let Some(kafka) = &mut self.kafka {
            kafka.clear()?;
        }
        match self.shared.faults().first() {
            Some(fault) => bail!("{fault}"),
            None => Ok(counts),
        }
    }

    fn join(&mut self) -> Counts {
        self.feeders.drain(..).for_each(Feeder::join);
        if let Some(stranger) = self.stranger.take() {
            let book = stranger.book.clone();
            stranger.join();
            let book = lock(&book);
            let ends = [("aborted", book.aborted), ("committed", book.committed), ("unknown", book.unknown)];
            for (end, many) in ends {
                *self.counts.entry(format!("transactions of another: {end}")).or_default() += many;
            }
        }
        for reader in self.readers.drain(..) {
            let read = reader.join().unwrap_or_default();
            for (what, many) in
                [("deltas", read.deltas), ("snapshots", read.snapshots), ("gaps", read.gaps), ("resumed", read.resumed)]
            {
                *self.counts.entry(format!("readers: {what}")).or_default() += many;
            }
        }
        self.lookers.drain(..).for_each(|looker| drop(looker.join()));
        std::mem::take(&mut self.counts)
    }
}

impl Drop for Campaign {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.server = None;
        self.join();
    }
}

fn short(answer: &reqwest::Result<crate::http::Answer>) -> String {
    match answer {
        Ok(answer) if answer.is_ok() => answer.status.to_string(),
        Ok(answer) => format!("{} {}", answer.status, answer.text),
        Err(error) => format!("no answer ({error})"),
    }
}
