//! A process that does not lead: it runs its engine when it is told to, and shows the jobs as the leader does.

use super::hello::{Called, Purpose, read};
use super::{BEAT, News, SILENCE_MAX, ToLeader, ToMember, Us};
use crate::config::Config;
use crate::node::job::{Job, JobStatus};
use crate::node::link::{Link, next_frame};
use crate::node::wire::{Brokers, FromEngine, LogPlace, Membership, ToEngine, write_frame};
use crate::node::{ClusterStatus, JobError, ProcessStatus, control, lock, lock_dir, open_log};
use anyhow::{Context, bail, ensure};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::process::ChildStdout;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tallyflow_dataflows::update::JobId;
use tokio::sync::watch;

/// The first wait before the leader is called again, doubled up to the last.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often it is said that the leader can't be reached.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How long the leader may take to have made its topic, and how often it is looked.
const SECRET_WAIT: Duration = Duration::from_secs(60);
const SECRET_PAUSE: Duration = Duration::from_millis(200);

/// One running process that does not lead.
pub struct Member {
    us: Us,
    config: Config,
    jobs: RwLock<Jobs>,
    /// The engine, and the run that it is of.
    engine: Mutex<Option<(u64, Arc<Link>)>>,
    news: Mutex<Option<News>>,
    brokers: Mutex<Brokers>,
    /// The connection with the leader, while it is there.
    leader: Mutex<Option<TcpStream>>,
    /// Why it was refused for good.
    refused: watch::Sender<Option<String>>,
    stopping: AtomicBool,
    _lock: File,
}

#[derive(Default)]
struct Jobs {
    by_name: BTreeMap<String, Arc<Job>>,
    by_id: HashMap<JobId, Arc<Job>>,
}

impl Member {
    /// Begins to call the leader. Blocks until the secret of the cluster is in Kafka, which the leader puts
    /// there when it is first started.
    pub fn open(config: &Config) -> anyhow::Result<Arc<Member>> {
        let cluster = config.cluster.clone().context("there is no cluster")?;
        let dir = &config.data_dir;
        std::fs::create_dir_all(dir).with_context(|| format!("the data directory {} can't be made", dir.display()))?;
        let lock = lock_dir(dir)?;
        let (log, topic) = open_log(config)?;
        let started = Instant::now();
        let mut has_said = false;
        let hash_key = loop {
            match control::hash_key(log.as_ref(), &topic) {
                Ok(Some(key)) => break key,
                Ok(None) if started.elapsed() > SECRET_WAIT => {
                    bail!("process 0 ({}) has never run with this Kafka; start it too", cluster.hosts[0])
                }
                Ok(None) => {}
                Err(error) => return Err(error),
            }
            if !std::mem::replace(&mut has_said, true) {
                tracing::info!("waiting for process 0 ({}), which has never run with this Kafka", cluster.hosts[0]);
            }
            std::thread::sleep(SECRET_PAUSE);
        };
        let us = Us { configuration: super::configuration(config, &topic), cluster, hash_key };
        let member = Arc::new(Member {
            us,
            config: config.clone(),
            jobs: RwLock::default(),
            engine: Mutex::default(),
            news: Mutex::default(),
            brokers: Mutex::default(),
            leader: Mutex::default(),
            refused: watch::channel(None).0,
            stopping: AtomicBool::new(false),
            _lock: lock,
        });
        let theirs = member.clone();
        std::thread::Builder::new().name("leader".to_owned()).spawn(move || theirs.call())?;
        Ok(member)
    }

    /// All jobs by name.
    pub fn jobs(&self) -> Vec<Arc<Job>> {
        self.read_jobs().by_name.values().cloned().collect()
    }

    /// The job of that name.
    pub fn job(&self, name: &str) -> Result<Arc<Job>, JobError> {
        self.read_jobs().by_name.get(name).cloned().ok_or_else(|| JobError::Unknown(name.to_owned()))
    }

    /// The cluster as the leader last told of it.
    pub fn cluster(&self) -> ClusterStatus {
        let told = lock(&self.news).as_ref().map(|news| news.cluster.clone());
        let is_there = self.has_leader();
        let mut status = told.unwrap_or_else(|| ClusterStatus {
            workers: self.config.workers,
            engine_pid: None,
            engine_restarts: 0,
            processes: self.us.cluster.hosts.iter().enumerate().map(ProcessStatus::unknown).collect(),
        });
        if !is_there {
            status.engine_pid = None;
            for process in &mut status.processes {
                process.engine_pid = None;
                process.connected = process.process == self.us.cluster.process;
            }
        }
        status
    }

    /// What its engine knows of the brokers that it reads from.
    pub fn brokers(&self) -> Brokers {
        lock(&self.brokers).clone()
    }

    /// As the leader last said of itself, where it is there.
    pub fn ready(&self) -> Result<(), String> {
        if !self.has_leader() {
            return Err(self.without_leader());
        }
        match lock(&self.news).as_ref() {
            None => Err("process 0 has not told of itself yet".to_owned()),
            Some(news) => news.unready.clone().map_or(Ok(()), Err),
        }
    }

    fn has_leader(&self) -> bool {
        lock(&self.leader).is_some()
    }

    /// Opens a connection over which the leader answers HTTP. Blocks.
    pub fn forward(&self) -> anyhow::Result<TcpStream> {
        ensure!(self.has_leader(), "it is not there");
        let mut stream = self.connect()?;
        match self.us.call(&mut stream, Purpose::Forward)? {
            Called::Welcome => Ok(stream),
            Called::Refused(why) => bail!(why),
        }
    }

    fn connect(&self) -> anyhow::Result<TcpStream> {
        let mut addresses = self.us.cluster.hosts[0].to_string().to_socket_addrs()?;
        let address = addresses.next().context("its name has no address")?;
        let stream = TcpStream::connect_timeout(&address, SILENCE_MAX)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        Ok(stream)
    }

    /// What to say where the leader would have to be asked.
    pub fn without_leader(&self) -> String {
        format!(
            "process 0 ({}) can't be reached: what was last shown stays readable; try again in a moment",
            self.us.cluster.hosts[0]
        )
    }

    /// Resolves once the leader has refused this process for good.
    pub fn refused(&self) -> impl Future<Output = String> + Send + use<> {
        let mut refused = self.refused.subscribe();
        async move {
            match refused.wait_for(Option::is_some).await.map(|why| why.clone()) {
                Ok(Some(why)) => why,
                _ => std::future::pending().await,
            }
        }
    }

    /// Ends the engine.
    pub fn shutdown(&self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(leader) = &*lock(&self.leader) {
            leader.shutdown(Shutdown::Both).ok();
        }
        self.end_engine();
    }

    fn read_jobs(&self) -> std::sync::RwLockReadGuard<'_, Jobs> {
        self.jobs.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a connection with the leader.
    fn call(self: Arc<Self>) {
        let (mut pause, mut said) = (PAUSE_MIN, None::<Instant>);
        while !self.stopping.load(Ordering::Acquire) {
            let followed = self.follow(&mut pause);
            lock(&self.leader).take();
            self.end_engine();
            self.jobs().iter().for_each(|job| job.mirror_lost());
            match followed {
                Ok(why) => {
                    self.refused.send_replace(Some(why));
                    return;
                }
                Err(error) => {
                    if said.is_none_or(|at| at.elapsed() > SAY_EVERY) || pause == PAUSE_MIN {
                        let host = &self.us.cluster.hosts[0];
                        tracing::warn!("process 0 ({host}) is not there ({error:#}); readers keep the last numbers");
                        said = Some(Instant::now());
                    }
                }
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Follows the leader until it is lost, which the error tells. `Ok`: it has refused us for good.
    fn follow(self: &Arc<Self>, pause: &mut Duration) -> anyhow::Result<String> {
        let host = &self.us.cluster.hosts[0];
        let mut stream = self.connect()?;
        match self.us.call(&mut stream, Purpose::Follow)? {
            Called::Welcome => {}
            Called::Refused(why) => return Ok(why),
        }
        *pause = PAUSE_MIN;
        tracing::info!("process 0 ({host}) is there");
        *lock(&self.leader) = Some(stream.try_clone()?);
        let (say, said) = channel();
        let mut to = stream.try_clone()?;
        std::thread::Builder::new().name("to-leader".to_owned()).spawn(move || {
            loop {
                let frame = match said.recv_timeout(BEAT) {
                    Ok(frame) => frame,
                    Err(RecvTimeoutError::Timeout) => ToLeader::Beat,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                if write_frame(&mut to, &frame).and_then(|()| to.flush()).is_err() {
                    to.shutdown(Shutdown::Both).ok();
                    return;
                }
            }
        })?;
        let mut from = BufReader::with_capacity(1 << 16, stream);
        loop {
            ensure!(!self.stopping.load(Ordering::Acquire), "this process is ending");
            self.take(read(&mut from)?, &say)?;
        }
    }

    fn take(self: &Arc<Self>, frame: ToMember, say: &Sender<ToLeader>) -> anyhow::Result<()> {
        match frame {
            // Whether it hangs the leader sees.
            ToMember::Beat => {
                if let Some((_, link)) = &*lock(&self.engine) {
                    link.ping(0);
                }
            }
            ToMember::Job(head) => match self.by_id(head.id) {
                Some(job) => job.mirror_anew(*head),
                None => {
                    let job = Arc::new(Job::mirror(*head));
                    let mut jobs = self.jobs.write().unwrap_or_else(PoisonError::into_inner);
                    let before = jobs.by_name.insert(job.name().to_owned(), job.clone());
                    if let Some(before) = before {
                        jobs.by_id.remove(&before.id);
                        before.replace();
                    }
                    jobs.by_id.insert(job.id, job);
                }
            },
            ToMember::Changes { job, updates } => {
                let job = self.by_id(job).context("it tells of a job that it has not told before")?;
                updates.into_iter().for_each(|update| job.mirror_change(update));
            }
            ToMember::Status { job, status } => {
                let status: JobStatus = serde_json::from_str(&status)?;
                if let Some(job) = self.by_id(job) {
                    job.mirror_status(status);
                }
            }
            ToMember::News(news) => *lock(&self.news) = Some(serde_json::from_str(&news)?),
            ToMember::Start { run, workers, token } => {
                self.end_engine();
                if let Err(error) = self.start_engine(run, workers, token, say) {
                    tracing::error!("the engine can't be started: {error:#}");
                    say.send(ToLeader::Ended { run, why: format!("it could not be started: {error:#}") }).ok();
                }
            }
            ToMember::Meet { run, addresses } => {
                if let Some((_, link)) = lock(&self.engine).as_ref().filter(|(ours, _)| *ours == run) {
                    link.meet(addresses);
                }
            }
            ToMember::Stop { run } => {
                let is_of_run = lock(&self.engine).as_ref().is_some_and(|(ours, _)| *ours == run);
                if is_of_run {
                    self.end_engine();
                }
            }
        }
        Ok(())
    }

    fn by_id(&self, id: JobId) -> Option<Arc<Job>> {
        self.read_jobs().by_id.get(&id).cloned()
    }

    fn start_engine(
        self: &Arc<Self>,
        run: u64,
        workers: usize,
        token: [u8; 16],
        say: &Sender<ToLeader>,
    ) -> anyhow::Result<()> {
        let cluster = &self.us.cluster;
        let host = cluster.own().name.clone();
        let member = Membership { process: cluster.process, processes: cluster.processes(), token, host };
        let kafka = self.config.kafka.as_ref().context("there is no Kafka")?;
        let (link, from) = Link::start(ToEngine::Start {
            workers,
            log_level: self.config.log_level.to_string(),
            hash_key: self.us.hash_key,
            log: LogPlace::Kafka(kafka.config.clone()),
            checkpoints: self.config.checkpoints_place(),
            cluster: Some(member),
        })?;
        tracing::info!(pid = link.pid, workers, "the engine was started");
        *lock(&self.engine) = Some((run, link.clone()));
        let (say, theirs) = (say.clone(), self.clone());
        std::thread::Builder::new().name("engine".to_owned()).spawn(move || theirs.watch(run, &link, from, &say))?;
        Ok(())
    }

    /// Ends the engine, if there is one, and waits for its end.
    fn end_engine(&self) {
        let engine = lock(&self.engine).take();
        if let Some((_, link)) = engine {
            link.kill();
            link.wait();
        }
    }

    /// Reads what an engine says until it ends. What it tells of jobs comes from the leader.
    fn watch(&self, run: u64, link: &Link, mut from: BufReader<ChildStdout>, say: &Sender<ToLeader>) {
        let mut why = None;
        while let Some(frame) = next_frame(&mut from) {
            match frame {
                FromEngine::Waits(port) => {
                    say.send(ToLeader::Waits { run, port, pid: link.pid }).ok();
                }
                FromEngine::Refused(error) => {
                    tracing::error!("the engine: {error}");
                    why = Some(error);
                }
                FromEngine::Pong { brokers, .. } => *lock(&self.brokers) = brokers,
                FromEngine::Ready | FromEngine::Event(_) => {}
            }
        }
        link.kill();
        let status = link.wait();
        say.send(ToLeader::Ended { run, why: why.unwrap_or_else(|| format!("it ended with {status}")) }).ok();
    }
}
