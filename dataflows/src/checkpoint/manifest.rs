//! Which checkpoints there are of a job, and what the newest whole one holds.

use crate::checkpoint::frame::{self, Damaged, Found};
use crate::checkpoint::{CheckpointStore, Kind, StoreError};
use crate::engine::facts::RecordChanges;
use crate::ids::Epoch;
use crate::spec::polls::PollKey;
use crate::update::ReadTo;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// Of manifests.
const VERSION: u32 = 2;

/// Where a job's checkpoints lie, and of which form of the job they are of use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    pub folder: String,
    /// A digest of all that decides what is counted: the dataflow, the inputs and the secret of the hashes.
    pub form: String,
}

/// A manifest, as JSON in an object of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    pub number: u64,
    /// Says who wrote it: whose answer was lost finds its own again.
    #[serde(default)]
    by: String,
    #[serde(flatten)]
    pub what: What,
}

/// What a manifest is for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub enum What {
    /// An engine has taken the job up.
    Claim,
    Checkpoint(Checkpoint),
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub form: String,
    /// The closed epoch that it is of.
    pub epoch: Epoch,
    /// When it was whole, in ms since 1970, and how long it took from its epoch's end.
    pub at_ms: i64,
    pub ms: u64,
    /// What it has added to the store.
    pub bytes: u64,
    /// Where reading stood.
    pub offsets: Vec<ReadTo>,
    /// What had become of records.
    pub records: RecordChanges,
    /// Of a `polls` job, the polls that readers saw, and those that were about to go.
    pub polls: Vec<PollKey>,
    /// All that it needs, oldest first.
    pub files: Vec<File>,
}

/// A file of frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub name: String,
    pub bytes: u64,
}

/// A checkpoint as it was read.
pub struct Loaded {
    pub number: u64,
    pub checkpoint: Checkpoint,
    files: Vec<Vec<u8>>,
    /// By kind and group, from the last that holds all on: the place of the file, and the frame.
    frames: HashMap<(Kind, u16), Vec<(usize, Found)>>,
}

/// What a checkpoint needs of the store.
pub struct Summary {
    pub number: u64,
    pub files: Vec<File>,
    /// By kind and group, the first file that is needed, and how many bytes of all of them.
    pub needed: HashMap<(Kind, u16), (String, u64)>,
}

/// What was found of a job.
#[derive(Default)]
pub struct Latest {
    pub loaded: Option<Loaded>,
    /// Newer ones that are of no use, and why.
    pub passed_over: Vec<(u64, String)>,
    /// The number that this engine's claim has.
    pub claim: u64,
}

/// Why a job can't be taken up from its checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("the checkpoints can't be read: {0}")]
    Store(#[from] StoreError),
    #[error("checkpoint {name} {why}")]
    NotUnderstood { name: String, why: String },
}

impl Place {
    pub fn manifest(&self, number: u64) -> String {
        format!("{}/{number:010}.manifest", self.folder)
    }

    /// A file of a process of a cluster, or of the only one, which is 0.
    pub fn file(&self, number: u64, process: usize, part: usize) -> String {
        match process {
            0 => format!("{}/{number:010}-{part:04}.frames", self.folder),
            _ => format!("{}/{number:010}-p{process:04}-{part:04}.frames", self.folder),
        }
    }

    /// The numbers of the manifests there are, ascending.
    fn numbers(&self, store: &dyn CheckpointStore) -> Result<Vec<u64>, StoreError> {
        let number =
            |name: &String| name.strip_prefix(&self.folder)?.strip_prefix('/')?.strip_suffix(".manifest")?.parse().ok();
        Ok(store.list(&self.folder)?.iter().filter_map(number).collect())
    }

    /// Makes a manifest exist; whether that number was free. It was also where the store took it before and
    /// the answer was lost.
    pub fn put_manifest(&self, store: &dyn CheckpointStore, manifest: &Manifest) -> Result<bool, StoreError> {
        let (name, bytes) = (self.manifest(manifest.number), manifest.to_bytes());
        if store.put_new(&name, &bytes)? {
            return Ok(true);
        }
        match store.get(&name)? {
            Some(there) => Ok(there == bytes),
            // Some stores refuse while another writer is at it, of whom nothing may be left.
            None => Err(StoreError(format!("writing {name}: the store refused it, and holds none of that name"))),
        }
    }

    /// Whether there is a later manifest than that.
    pub fn is_superseded(&self, store: &dyn CheckpointStore, number: u64) -> Result<bool, StoreError> {
        Ok(self.numbers(store)?.last().is_some_and(|last| *last > number))
    }

    /// Claims the job and reads its newest checkpoint that is whole and of use.
    pub fn take_up(
        &self,
        store: &dyn CheckpointStore,
        is_of_use: impl Fn(&Checkpoint) -> Result<(), String>,
    ) -> Result<Latest, LoadError> {
        let claim = loop {
            let claim = self.numbers(store)?.last().map_or(1, |last| last + 1);
            if self.put_manifest(store, &Manifest::new(claim, What::Claim))? {
                break claim;
            }
        };
        let mut latest = Latest { claim, ..Latest::default() };
        for number in self.numbers(store)?.into_iter().rev().filter(|number| *number < claim) {
            match self.read(store, number, &is_of_use) {
                Ok(None) => {}
                Ok(Some(loaded)) => {
                    latest.loaded = Some(loaded);
                    break;
                }
                Err(NoUse::Load(error)) => return Err(error),
                Err(NoUse::Why(why)) => latest.passed_over.push((number, why)),
            }
        }
        Ok(latest)
    }

    /// Reads the checkpoint of that number, of whose key groups only these are wanted.
    pub fn load(
        &self,
        store: &dyn CheckpointStore,
        number: u64,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<Loaded, LoadError> {
        let not_understood = |why: String| LoadError::NotUnderstood { name: self.manifest(number), why };
        match self.read(store, number, &|_| Ok(())) {
            Ok(Some(mut loaded)) => {
                loaded.retain(wanted);
                Ok(loaded)
            }
            Ok(None) => Err(not_understood("is none but a claim".to_owned())),
            Err(NoUse::Load(error)) => Err(error),
            Err(NoUse::Why(why)) => Err(not_understood(format!("is of no use: {why}"))),
        }
    }

    /// Whether a manifest is a claim; one that can't be read is none.
    pub fn is_claim(&self, store: &dyn CheckpointStore, name: &str) -> Result<bool, StoreError> {
        let manifest = store.get(name)?.and_then(|bytes| Manifest::from_bytes(name, &bytes).ok());
        Ok(manifest.is_some_and(|manifest| manifest.what == What::Claim))
    }

    /// `None`: that was a claim.
    fn read(
        &self,
        store: &dyn CheckpointStore,
        number: u64,
        is_of_use: &impl Fn(&Checkpoint) -> Result<(), String>,
    ) -> Result<Option<Loaded>, NoUse> {
        let name = self.manifest(number);
        let bytes = store.get(&name)?.ok_or("its manifest is gone")?;
        let manifest = Manifest::from_bytes(&name, &bytes)?;
        let What::Checkpoint(checkpoint) = manifest.what else { return Ok(None) };
        if checkpoint.form != self.form {
            return Err(NoUse::Why("it is of another form of the job".to_owned()));
        }
        is_of_use(&checkpoint).map_err(NoUse::Why)?;
        let (mut files, mut frames) = (Vec::new(), HashMap::<_, Vec<(usize, Found)>>::new());
        for (place, file) in checkpoint.files.iter().enumerate() {
            let bytes = store.get(&file.name)?.ok_or_else(|| format!("its file {} is gone", file.name))?;
            if bytes.len() as u64 != file.bytes {
                let why = format!("its file {} has {} bytes, not {}", file.name, bytes.len(), file.bytes);
                return Err(NoUse::Why(why));
            }
            let found = frame::read(&bytes).map_err(|damaged| NoUse::damaged(&file.name, &damaged))?;
            for found in found {
                let of_group = frames.entry((found.kind, found.group)).or_default();
                if found.all {
                    of_group.clear();
                }
                of_group.push((place, found));
            }
            files.push(bytes);
        }
        Ok(Some(Loaded { number, checkpoint, files, frames }))
    }
}

/// Why a checkpoint is of no use.
enum NoUse {
    /// Nor is any other: something must be done first.
    Load(LoadError),
    /// An older one may be.
    Why(String),
}

impl NoUse {
    fn damaged(name: &str, damaged: &Damaged) -> Self {
        match damaged {
            Damaged::Version(_) => {
                NoUse::Load(LoadError::NotUnderstood { name: name.to_owned(), why: damaged.to_string() })
            }
            _ => NoUse::Why(format!("its file {name} is of no use: {damaged}")),
        }
    }
}

impl From<StoreError> for NoUse {
    fn from(error: StoreError) -> Self {
        NoUse::Load(error.into())
    }
}

impl From<String> for NoUse {
    fn from(why: String) -> Self {
        NoUse::Why(why)
    }
}

impl From<&str> for NoUse {
    fn from(why: &str) -> Self {
        NoUse::Why(why.to_owned())
    }
}

impl Manifest {
    /// A manifest like no other, whatever it says.
    pub fn new(number: u64, what: What) -> Self {
        let by = RandomState::new().hash_one(std::process::id());
        Manifest { version: VERSION, number, by: format!("{by:016x}"), what }
    }

    /// The JSON and, in the last line, its CRC-32.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("a manifest has a JSON form");
        let crc = crc32fast::hash(&bytes);
        bytes.extend(format!("\n{crc:08x}\n").bytes());
        bytes
    }

    fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, NoUse> {
        let text = std::str::from_utf8(bytes).map_err(|_| "its manifest is damaged")?;
        let mut lines = text.lines();
        let (Some(json), Some(crc)) = (lines.next(), lines.next()) else {
            return Err("its manifest is cut short".into());
        };
        if format!("{:08x}", crc32fast::hash(json.as_bytes())) != crc {
            return Err("its manifest is damaged".into());
        }
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let not_understood = |why: String| NoUse::Load(LoadError::NotUnderstood { name: name.to_owned(), why });
        let Versioned { version } =
            serde_json::from_str(json).map_err(|e| not_understood(format!("can't be read: {e}")))?;
        if version != VERSION {
            let why = format!(
                "has version {version}, and this program understands {VERSION}; run the program that wrote it, or `restart --ignore-state`"
            );
            return Err(not_understood(why));
        }
        serde_json::from_str(json).map_err(|e| not_understood(format!("can't be read: {e}")))
    }
}

impl Loaded {
    /// Lets go of all that is not of these key groups.
    pub fn retain(&mut self, wanted: impl Fn(usize) -> bool) {
        self.frames.retain(|(_, group), _| wanted(usize::from(*group)));
        let mut held = vec![false; self.files.len()];
        self.frames.values().flatten().for_each(|(place, _)| held[*place] = true);
        self.files.iter_mut().zip(held).filter(|(_, held)| !held).for_each(|(file, _)| *file = Vec::new());
    }

    /// The frames of a key group, oldest first, the first of them with all there was.
    pub fn frames(&self, kind: Kind, group: usize) -> impl Iterator<Item = Result<Vec<u8>, Damaged>> + '_ {
        let found = self.frames.get(&(kind, group as u16)).into_iter().flatten();
        found.map(|(place, found)| frame::body(&self.files[*place], found))
    }

    /// What whoever writes checkpoints is to know of it.
    pub fn summary(&self) -> Summary {
        let needed = self.needed().map(|(key, name, bytes)| (key, (name.to_owned(), bytes))).collect();
        Summary { number: self.number, files: self.checkpoint.files.clone(), needed }
    }

    /// By kind and group, the first file that is needed, and how many bytes of all of them.
    fn needed(&self) -> impl Iterator<Item = ((Kind, u16), &str, u64)> + '_ {
        self.frames.iter().filter_map(|(key, frames)| {
            let (place, _) = frames.first()?;
            let bytes = frames.iter().map(|(_, found)| found.packed_bytes()).sum();
            Some((*key, self.checkpoint.files[*place].name.as_str(), bytes))
        })
    }
}
