//! Writes checkpoints, on a thread of its own: gathers what operators give, and makes the checkpoint exist
//! once it has all of it.
//!
//! What could not be written is kept and tried again: operators have forgotten that it had changed. So
//! there is one checkpoint of a job at a time, and the next waits.
//!
//! In a cluster each process has this thread and writes the files of its own key groups. The leader's is
//! told of them, and puts the manifest.

use crate::checkpoint::frame::{self, Frame};
use crate::checkpoint::manifest::{Checkpoint, File, Manifest, Place, Summary, What};
use crate::checkpoint::{CheckpointStore, Kind, StoreError};
use crate::crash;
use crate::engine::cluster::{Note, PartFrame, Wire};
use crate::engine::facts::RecordChanges;
use crate::engine::outbox::Outbox;
use crate::ids::Epoch;
use crate::spec::polls::PollKey;
use crate::update::{CheckpointEvent, EngineEvent, JobId, ReadTo};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What goes to the thread, of one job.
pub struct Message {
    pub job: JobId,
    pub piece: Piece,
}

/// See [`Message`].
pub enum Piece {
    /// The job was taken up, by a claim of that number and perhaps from a checkpoint.
    TakenUp {
        place: Place,
        claim: u64,
        from: Option<Summary>,
    },
    /// A checkpoint begins, to which so many operators will contribute.
    Begin {
        number: u64,
        takers: usize,
        outbox: Outbox,
        rewrite: Rewrite,
        /// Where the number of the last manifest is noted.
        last: Arc<AtomicU64>,
        /// In a cluster.
        part: Option<Part>,
    },
    Frame(Frame),
    /// What the manifest says besides.
    Told {
        epoch: Epoch,
        offsets: Vec<ReadTo>,
        records: RecordChanges,
        polls: Vec<PollKey>,
    },
    /// An operator has given all it has; so long at most was it kept from its work in one turn.
    Done {
        stall: Duration,
    },
    /// Another process has written its part of the checkpoint of that number, or can't yet.
    PartOf {
        number: u64,
        written: Result<(Vec<File>, Vec<PartFrame>, Duration), String>,
    },
    /// The job is gone.
    Gone,
}

/// A process's part in a checkpoint of a cluster.
pub enum Part {
    /// The leader's: it waits for so many others.
    OfAll { parts: usize },
    /// Another's, of which the leader is told.
    OfOne { manifest: u64, wire: Arc<Wire> },
}

/// Key groups that the next checkpoint is to hold whole.
pub type Rewrite = Arc<Mutex<Vec<(Kind, u16)>>>;

/// How large a file gets before the next is begun.
const FILE_BYTES: usize = 32 << 20;
/// How many checkpoints are kept: the newest, and one to fall back to.
const KEPT: usize = 2;
/// How many claims are kept: an engine that should be dead finds the number it would use taken by one.
const CLAIMS_KEPT: usize = 100;
/// How many times what is needed of them files may hold before groups are written again to free the oldest,
/// and how many groups then.
const HELD_MAX: u64 = 2;
const REWRITTEN_MAX: usize = 64;
/// How long what could not be written is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the thread. It ends when every sender is gone.
pub fn start(store: Arc<dyn CheckpointStore>) -> std::io::Result<Sender<Message>> {
    let (send, receive) = channel();
    let thread = std::thread::Builder::new().name("checkpoints".to_owned());
    thread.spawn(move || Writer { store, jobs: HashMap::new() }.run(&receive))?;
    Ok(send)
}

struct Writer {
    store: Arc<dyn CheckpointStore>,
    jobs: HashMap<JobId, Folder>,
}

/// A job's checkpoints.
struct Folder {
    place: Place,
    /// The number of the last manifest.
    last: u64,
    /// By kind and group, the first file that it needs, and how many bytes of all of them.
    needed: HashMap<(Kind, u16), (String, u64)>,
    /// The checkpoints that are kept, oldest first.
    kept: Vec<(u64, Vec<File>)>,
    /// Older manifests that are known to be claims.
    claims: BTreeSet<String>,
    taking: Option<Taking>,
}

/// A checkpoint that is being written.
struct Taking {
    number: u64,
    outbox: Outbox,
    rewrite: Rewrite,
    last: Arc<AtomicU64>,
    began: Instant,
    /// The number that its manifest will have.
    manifest_number: u64,
    /// How many operators, and in a cluster other processes, have not given all they have.
    left: usize,
    parts_left: usize,
    /// Where another process leads: what is written here, for it to know.
    of_one: Option<(Arc<Wire>, Vec<PartFrame>)>,
    stall: Duration,
    file: Vec<u8>,
    /// Files that are full: by name, until they are written.
    files: Vec<(File, Option<Vec<u8>>)>,
    /// Those of other processes, which are.
    parts: Vec<File>,
    told: Option<(Epoch, Vec<ReadTo>, RecordChanges, Vec<PollKey>)>,
    /// Once there was a try to write it: the store may have it though it did not answer.
    manifest: Option<(Manifest, Checkpoint)>,
    /// Since when it can't be written.
    failed: bool,
}

impl Writer {
    fn run(mut self, receive: &Receiver<Message>) {
        loop {
            match receive.recv_timeout(PAUSE) {
                Ok(Message { job, piece }) => self.take(job, piece),
                Err(RecvTimeoutError::Timeout) => {
                    let jobs: Vec<JobId> = self.jobs.keys().copied().collect();
                    jobs.into_iter().for_each(|job| self.write(job));
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn take(&mut self, job: JobId, piece: Piece) {
        let folder = self.jobs.get_mut(&job);
        match piece {
            Piece::TakenUp { place, claim, from } => {
                let mut folder = Folder::new(place, claim);
                if let Some(from) = from {
                    folder.kept.push((from.number, from.files));
                    folder.needed = from.needed;
                }
                self.jobs.insert(job, folder);
            }
            Piece::Begin { number, takers, outbox, rewrite, last, part } => {
                let Some(folder) = folder else {
                    let event = CheckpointEvent::Failed { error: "the job was not taken up".to_owned(), again: false };
                    return outbox.send(EngineEvent::Checkpoint { job, number, event });
                };
                let (manifest_number, parts_left, of_one) = match part {
                    None => (folder.last + 1, 0, None),
                    Some(Part::OfAll { parts }) => (folder.last + 1, parts, None),
                    Some(Part::OfOne { manifest, wire }) => (manifest, 0, Some((wire, Vec::new()))),
                };
                folder.taking = Some(Taking {
                    number,
                    outbox,
                    rewrite,
                    last,
                    began: Instant::now(),
                    manifest_number,
                    left: takers,
                    parts_left,
                    of_one,
                    stall: Duration::ZERO,
                    file: frame::begin(),
                    files: Vec::new(),
                    parts: Vec::new(),
                    told: None,
                    manifest: None,
                    failed: false,
                });
            }
            Piece::Gone => drop(self.jobs.remove(&job)),
            Piece::Frame(frame) => {
                if let Some(folder) = folder {
                    folder.add(&frame);
                }
            }
            Piece::Told { epoch, offsets, records, polls } => {
                if let Some(taking) = folder.and_then(|folder| folder.taking.as_mut()) {
                    taking.told = Some((epoch, offsets, records, polls));
                }
            }
            Piece::Done { stall } => {
                if let Some(taking) = folder.and_then(|folder| folder.taking.as_mut()) {
                    taking.stall = taking.stall.max(stall);
                    taking.left = taking.left.saturating_sub(1);
                    self.write(job);
                }
            }
            Piece::PartOf { number, written } => {
                let Some(folder) = folder else { return };
                match written {
                    Ok((files, frames, stall)) => {
                        if folder.add_part(number, files, &frames, stall) {
                            self.write(job);
                        }
                    }
                    Err(error) => folder.fails(job, error),
                }
            }
        }
    }

    /// Writes what there is to be written of a job.
    fn write(&mut self, job: JobId) {
        let Some(folder) = self.jobs.get_mut(&job) else { return };
        let Some(taking) = folder.taking.as_ref() else { return };
        let (number, outbox, stall) = (taking.number, taking.outbox.clone(), taking.stall);
        let tell = |event| outbox.send(EngineEvent::Checkpoint { job, number, event });
        match folder.write(self.store.as_ref()) {
            Ok(Written::NotYet) => {}
            Ok(Written::Part { wire, files, frames }) => {
                folder.taking = None;
                wire.tell_leader(Note::Part { job, number, files, frames, stall });
            }
            Ok(Written::Whole(checkpoint)) => {
                folder.taking = None;
                tell(CheckpointEvent::Taken {
                    epoch: checkpoint.epoch,
                    at_ms: checkpoint.at_ms,
                    ms: checkpoint.ms,
                    stall_us: stall.as_micros() as u64,
                    bytes: checkpoint.bytes,
                    held_bytes: checkpoint.files.iter().map(|file| file.bytes).sum(),
                });
                if let Err(error) = folder.clean(self.store.as_ref()) {
                    tracing::warn!("old checkpoints can't be removed yet: {error}");
                }
            }
            Ok(Written::Fenced) => {
                folder.taking = None;
                tell(CheckpointEvent::Fenced);
            }
            Err(error) => folder.fails(job, error.to_string()),
        }
    }
}

enum Written {
    NotYet,
    /// What this process has of it is, and the leader is to be told.
    Part {
        wire: Arc<Wire>,
        files: Vec<File>,
        frames: Vec<PartFrame>,
    },
    Whole(Checkpoint),
    /// Another engine has taken the job up.
    Fenced,
}

impl Folder {
    fn new(place: Place, last: u64) -> Self {
        Folder { place, last, needed: HashMap::new(), kept: Vec::new(), claims: BTreeSet::new(), taking: None }
    }

    fn add(&mut self, frame: &Frame) {
        let Some(taking) = &mut self.taking else { return };
        let file = taking.files.len();
        let bytes = frame::append(&mut taking.file, frame) as u64;
        match &mut taking.of_one {
            Some((_, frames)) => {
                let Frame { kind, group, all, .. } = *frame;
                frames.push(PartFrame { kind, group, all, bytes, file: file as u32 });
            }
            None => {
                let name = self.place.file(taking.manifest_number, taking.process(), file);
                need(&mut self.needed, (frame.kind, frame.group), name, bytes, frame.all);
            }
        }
        if taking.file.len() > FILE_BYTES {
            taking.end_file(&self.place);
        }
    }

    /// Adds what another process has written for the checkpoint of that number; whether that is the one that
    /// is being written.
    fn add_part(&mut self, number: u64, files: Vec<File>, frames: &[PartFrame], stall: Duration) -> bool {
        let Some(taking) = self.taking.as_mut().filter(|taking| taking.number == number) else { return false };
        for frame in frames {
            if let Some(file) = files.get(frame.file as usize) {
                need(&mut self.needed, (frame.kind, frame.group), file.name.clone(), frame.bytes, frame.all);
            }
        }
        taking.parts.extend(files);
        taking.stall = taking.stall.max(stall);
        taking.parts_left = taking.parts_left.saturating_sub(1);
        true
    }

    /// Writing fails, and is tried again: that is told once.
    fn fails(&mut self, job: JobId, error: String) {
        let Some(taking) = self.taking.as_mut() else { return };
        if std::mem::replace(&mut taking.failed, true) {
            return;
        }
        let number = taking.number;
        match &taking.of_one {
            Some((wire, _)) => wire.tell_leader(Note::PartFailed { job, number, error }),
            None => {
                let event = CheckpointEvent::Failed { error, again: true };
                taking.outbox.send(EngineEvent::Checkpoint { job, number, event });
            }
        }
    }

    fn write(&mut self, store: &dyn CheckpointStore) -> Result<Written, StoreError> {
        let Some(taking) = &mut self.taking else { return Ok(Written::NotYet) };
        let whole = taking.left == 0;
        if whole && !taking.file.is_empty() {
            taking.end_file(&self.place);
        }
        for (file, bytes) in &mut taking.files {
            if let Some(unwritten) = bytes {
                crash::point("checkpoint::file");
                store.put(&file.name, unwritten)?;
                *bytes = None;
            }
        }
        if !whole || taking.parts_left > 0 {
            return Ok(Written::NotYet);
        }
        if let Some((wire, frames)) = taking.of_one.take() {
            let files = taking.files.drain(..).map(|(file, _)| file).collect();
            return Ok(Written::Part { wire, files, frames });
        }
        let number = taking.manifest_number;
        let (manifest, checkpoint) = match &taking.manifest {
            // Where the store has it already, another engine may have gone on since.
            Some(_) if self.place.is_superseded(store, number)? => return Ok(Written::Fenced),
            Some(tried) => tried,
            None => {
                let Some(told) = taking.told.take() else { return Ok(Written::NotYet) };
                let before = self.kept.last().map(|(_, files)| files.as_slice()).unwrap_or_default();
                let checkpoint = taking.checkpoint(told, &self.place, before, &self.needed);
                let manifest = Manifest::new(number, What::Checkpoint(checkpoint.clone()));
                taking.manifest.insert((manifest, checkpoint))
            }
        };
        crash::point("checkpoint::manifest");
        if !self.place.put_manifest(store, manifest)? {
            return Ok(Written::Fenced);
        }
        crash::point("checkpoint::written");
        let checkpoint = checkpoint.clone();
        self.last = number;
        taking.last.store(number, Ordering::Release);
        self.kept.push((number, checkpoint.files.clone()));
        *taking.rewrite.lock().unwrap_or_else(PoisonError::into_inner) = to_rewrite(&self.needed, &checkpoint.files);
        Ok(Written::Whole(checkpoint))
    }

    /// Removes what no checkpoint that is kept needs.
    fn clean(&mut self, store: &dyn CheckpointStore) -> Result<(), StoreError> {
        let old = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..old);
        let mut needed: BTreeSet<String> = BTreeSet::new();
        for (number, files) in &self.kept {
            needed.insert(self.place.manifest(*number));
            needed.extend(files.iter().map(|file| file.name.clone()));
        }
        let below = self.place.manifest(self.last);
        let names = store.list(&self.place.folder)?;
        for name in names.into_iter().filter(|name| *name < below && !needed.contains(name)) {
            if self.claims.contains(&name) {
                continue;
            }
            if name.ends_with(".manifest") && self.place.is_claim(store, &name)? {
                self.claims.insert(name);
            } else {
                crash::point("checkpoint::clean");
                store.delete(&name)?;
            }
        }
        while self.claims.len() > CLAIMS_KEPT {
            let Some(oldest) = self.claims.pop_first() else { break };
            store.delete(&oldest)?;
        }
        Ok(())
    }
}

/// A frame of that file is needed; of all there is of its group, or besides what was before.
fn need(needed: &mut HashMap<(Kind, u16), (String, u64)>, key: (Kind, u16), name: String, bytes: u64, all: bool) {
    let needed = needed.entry(key).or_insert_with(|| (name.clone(), 0));
    *needed = if all { (name, bytes) } else { (std::mem::take(&mut needed.0), needed.1 + bytes) };
}

/// What keeps the oldest files needed, where the files hold much more than what is needed of them.
fn to_rewrite(needed: &HashMap<(Kind, u16), (String, u64)>, files: &[File]) -> Vec<(Kind, u16)> {
    let held: u64 = files.iter().map(|file| file.bytes).sum();
    let live: u64 = needed.values().map(|(_, bytes)| bytes).sum();
    if held < live * HELD_MAX + FILE_BYTES as u64 / 32 {
        return Vec::new();
    }
    let mut oldest: Vec<_> = needed.iter().map(|(key, (first, _))| (first, *key)).collect();
    oldest.sort_unstable();
    oldest.into_iter().take(REWRITTEN_MAX).map(|(_, key)| key).collect()
}

impl Taking {
    /// What the manifest is to say, all files being written.
    fn checkpoint(
        &self,
        (epoch, offsets, records, polls): (Epoch, Vec<ReadTo>, RecordChanges, Vec<PollKey>),
        place: &Place,
        before: &[File],
        needed: &HashMap<(Kind, u16), (String, u64)>,
    ) -> Checkpoint {
        let added: Vec<File> = self.files.iter().map(|(file, _)| file).chain(&self.parts).cloned().collect();
        // Names rise with the numbers of checkpoints.
        let first = needed.values().map(|(first, _)| first).min();
        let is_needed = |file: &&File| first.is_some_and(|first| file.name >= *first);
        Checkpoint {
            form: place.form.clone(),
            epoch,
            at_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64),
            ms: self.began.elapsed().as_millis() as u64,
            bytes: added.iter().map(|file| file.bytes).sum(),
            offsets,
            records,
            polls,
            files: before.iter().filter(is_needed).cloned().chain(added).collect(),
        }
    }

    fn process(&self) -> usize {
        self.of_one.as_ref().map_or(0, |(wire, _)| wire.process())
    }

    fn end_file(&mut self, place: &Place) {
        let bytes = std::mem::replace(&mut self.file, frame::begin());
        if bytes.len() > frame::begin().len() {
            let name = place.file(self.manifest_number, self.process(), self.files.len());
            self.files.push((File { name, bytes: bytes.len() as u64 }, Some(bytes)));
        }
    }
}
