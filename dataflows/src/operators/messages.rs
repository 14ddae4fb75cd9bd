//! Which version of each message stands, for every poll that has it in range.
//!
//! A message is an entity by its id, and its newest version in range of a poll stands for that poll: an
//! edit replaces, a deletion (a version that says nothing) withdraws. Polls differ in their ranges, so an
//! older version is kept as long as it may be some poll's newest. Most messages have one version that
//! says nothing, and take a place in the table only.
//!
//! Claims of polls that count each message leave as sums; those of polls that count by person go on to
//! [`People`](crate::operators::people::People).

use crate::accounting::Class;
use crate::claim::{EntityHash, LineId, OrderKey};
use crate::engine::facts::Newest;
use crate::jobs::polls::book::Book;
use crate::operators::lines::{Changes, Lines};
use crate::operators::people::{Person, Spoken};
use crate::operators::slab::Slab;
use crate::operators::table::{Held, Table};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

mod kept;

/// A version of a message as it was read, with what it says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Version {
    pub message: EntityHash,
    pub order: OrderKey,
    /// The log's timestamp.
    pub log_ms: i64,
    /// Where it speaks to a poll that counts by person: the author.
    pub author: EntityHash,
    /// The lines it adds one to, sorted. A version that a refill has read brings only those of the
    /// refill's polls; the others it may have brought before.
    pub lines: SmallVec<[LineId; 2]>,
}

impl Version {
    /// Its lines of a subject.
    fn of(&self, subject: u64) -> &[LineId] {
        let start = self.lines.partition_point(|line| line.subject < subject);
        let length = self.lines[start..].iter().take_while(|line| line.subject == subject).count();
        &self.lines[start..start + length]
    }
}

/// The messages of one worker.
pub struct Messages {
    /// By key group.
    groups: Vec<Table>,
    /// The versions of messages that are more than one that says nothing, by order key.
    versions: Slab<Vec<Version>>,
    lines: Lines,
    spoken: Vec<Spoken>,
}

/// What a message holds, packed into the table's 32 bits.
enum What {
    /// One version that says nothing, and how much later than its event time it reached the log, in ms.
    Silent { lag_ms: i64 },
    /// An index of `versions`.
    Versions(u32),
}

impl What {
    const INDEX: u32 = Lines::INDEX_MAX;
    /// An event time may lie ahead of the log's.
    const LAG_MIN_MS: i64 = -(1 << 24);

    fn silent(version: &Version) -> Option<u32> {
        let lag_ms = version.log_ms.checked_sub(version.order.time_ns.div_euclid(1_000_000))?;
        let packed = lag_ms.checked_sub(Self::LAG_MIN_MS).and_then(|lag| u32::try_from(lag).ok())?;
        (version.lines.is_empty() && packed < Self::INDEX).then_some(packed)
    }

    fn unpack(word: u32) -> Self {
        if word >> 30 == 0 {
            What::Silent { lag_ms: i64::from(word) + Self::LAG_MIN_MS }
        } else {
            What::Versions(word & Self::INDEX)
        }
    }
}

impl Default for Messages {
    fn default() -> Self {
        Messages {
            groups: (0..EntityHash::KEY_GROUPS).map(Table::of_group).collect(),
            versions: Slab::default(),
            lines: Lines::default(),
            spoken: Vec::new(),
        }
    }
}

impl Messages {
    /// Applies the versions of one epoch, in any order.
    pub fn apply(&mut self, versions: Vec<Version>, book: &Book) {
        for version in versions {
            self.apply_one(version, book);
        }
    }

    fn apply_one(&mut self, new: Version, book: &Book) {
        let (message, order) = (new.message, new.order);
        let group = message.key_group();
        let held = match self.groups[group].find(message) {
            Ok((_, held)) => held,
            Err(slot) => {
                for lines in new.lines.chunk_by(|a, b| a.subject == b.subject) {
                    self.change(lines[0].subject, (None, Some(&new)), Some(&new), book);
                }
                let what = match What::silent(&new) {
                    Some(silent) => silent,
                    None => self.versions.insert(vec![new]) | 1 << 30,
                };
                return self.groups[group].insert(slot, Held { order, what });
            }
        };
        let (mut versions, index) = match What::unpack(held.what) {
            What::Versions(index) => (std::mem::take(&mut self.versions[index]), Some(index)),
            What::Silent { lag_ms } => {
                let log_ms = held.order.time_ns.div_euclid(1_000_000) + lag_ms;
                let silent = Version { message, order: held.order, log_ms, ..Version::default() };
                (vec![silent], None)
            }
        };
        let before = versions.clone();
        // What a refill reads again adds what it says to the refill's polls.
        let mut subjects: SmallVec<[u64; 4]> = new.lines.iter().map(|line| line.subject).collect();
        match versions.binary_search_by_key(&order, |version| version.order) {
            Ok(at) => {
                let known = &mut versions[at];
                known.author = if new.author == EntityHash::default() { known.author } else { new.author };
                known.lines.extend(new.lines.iter().copied().filter(|line| before[at].of(line.subject).is_empty()));
                known.lines.sort_unstable();
                subjects.retain(|subject| before[at].of(*subject).is_empty());
            }
            Err(at) => versions.insert(at, new.clone()),
        }
        let claimed: SmallVec<[u64; 4]> = subjects.clone();
        subjects.extend(before.iter().flat_map(|version| version.lines.iter().map(|line| line.subject)));
        subjects.sort_unstable();
        subjects.dedup();
        for subject in subjects {
            let stood = standing(&before, subject, book);
            let stands = standing(&versions, subject, book);
            let claim = claimed.contains(&subject).then_some(&new);
            self.change(subject, (stood, stands), claim, book);
        }
        prune(&mut versions, book);
        self.keep(group, message, versions, index);
    }

    /// Puts back what a message holds.
    fn keep(&mut self, group: usize, message: EntityHash, versions: Vec<Version>, index: Option<u32>) {
        let Some(newest) = versions.last() else { return };
        let order = newest.order;
        let silent = if versions.len() == 1 { What::silent(newest) } else { None };
        let what = match (silent, index) {
            (Some(silent), index) => {
                index.into_iter().for_each(|index| self.versions.remove(index));
                silent
            }
            (None, Some(index)) => {
                self.versions[index] = versions;
                index | 1 << 30
            }
            (None, None) => self.versions.insert(versions) | 1 << 30,
        };
        let said = index.is_some() || what >> 30 != 0;
        if let Ok((slot, held)) = self.groups[group].find(message)
            && (said || held != (Held { order, what }))
        {
            self.groups[group].replace(slot, Held { order, what });
        }
    }

    /// For one poll, the version that stood gives way to the one that stands; `claim` is the version that
    /// came, if it makes a claim for the poll.
    fn change(
        &mut self,
        subject: u64,
        (stood, stands): (Option<&Version>, Option<&Version>),
        claim: Option<&Version>,
        book: &Book,
    ) {
        let Some(entry) = book.entry(subject) else { return };
        let by_person = entry.poll().entity.is_some();
        let number = self.lines.subject_index(subject);
        let same = matches!((stood, stands), (Some(a), Some(b)) if a.order == b.order);
        if claim.is_some() {
            self.lines.subject(number).claims += 1;
        }
        if !same {
            for (version, sign) in [(stood, -1), (stands, 1)] {
                let Some(version) = version else { continue };
                let lines = version.of(subject);
                if by_person {
                    let person = Person { who: version.author, subject };
                    let groups = lines.iter().map(|line| line.group).collect();
                    self.spoken.push(Spoken { person, order: version.order, groups, sign });
                } else {
                    for line in lines {
                        let index = self.lines.index(*line);
                        self.lines.ones(index, i64::from(sign));
                    }
                    self.lines.subject(number).counted += i64::from(sign);
                }
            }
            if let (Some(stands), false) = (stands, by_person) {
                self.lines.newest.push(Class::Counted, stands.order.position, None);
            }
        }
        // A claim came and one more or one less stands: the rest has given way, or was there before.
        let equal = |a: &Version, b: &Version| a.order.time_ns == b.order.time_ns && a.of(subject) == b.of(subject);
        let (class, gone, by) = match (stood, stands, claim) {
            (Some(old), Some(new), Some(claim)) if same => {
                let class = if equal(old, claim) { Class::Duplicate } else { Class::Superseded };
                (class, claim, Some(new))
            }
            (Some(old), Some(new), Some(_)) => {
                let class = if equal(old, new) { Class::Duplicate } else { Class::Superseded };
                (class, old, Some(new))
            }
            (Some(old), None, None) => (Class::Superseded, old, None),
            (None, None, Some(claim)) => (Class::Superseded, claim, None),
            _ => return,
        };
        self.lines.subject(number).count(class, 1);
        self.lines.newest.push(class, gone.order.position, by.map(|by| by.order.position));
    }

    /// Takes what changed since the last call, consolidated.
    pub fn take_changes(&mut self) -> (Changes, Vec<Spoken>) {
        let mut changes = Changes::default();
        changes.lines.extend(self.lines.take_sums());
        changes.subjects.extend(self.lines.take_subjects());
        (changes, std::mem::take(&mut self.spoken))
    }

    /// Takes the newest records of each class since the last call.
    pub fn take_newest(&mut self) -> impl Iterator<Item = Newest> + '_ {
        self.lines.newest.drain()
    }

    /// How many messages are held.
    pub fn len(&self) -> usize {
        self.groups.iter().map(Table::len).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Gives up what no poll can want any more, of one key group: what is said to polls that are sealed or
    /// gone, and messages older than every poll.
    pub fn sweep(&mut self, group: usize, book: &Book) {
        let opens_min_ns = book.range().opens_min_ns;
        let versions = &mut self.versions;
        let is_open = |line: &LineId| book.entry(line.subject).is_some_and(|entry| !entry.sealed);
        self.groups[group].retain(|held| {
            let index = match What::unpack(held.what) {
                What::Silent { .. } => return held.order.time_ns >= opens_min_ns,
                What::Versions(index) => index,
            };
            let all = &mut versions[index];
            all.iter_mut().for_each(|version| version.lines.retain(|line| is_open(line)));
            prune(all, book);
            let silent = all.iter().all(|version| version.lines.is_empty());
            if silent && held.order.time_ns < opens_min_ns {
                versions.remove(index);
                return false;
            }
            if let [one] = all.as_slice()
                && let Some(what) = What::silent(one)
            {
                held.what = what;
                versions.remove(index);
            }
            true
        });
    }
}

/// The version that stands for a poll: the newest in its range, if it speaks to the poll.
fn standing<'v>(versions: &'v [Version], subject: u64, book: &Book) -> Option<&'v Version> {
    let entry = book.entry(subject)?;
    let newest = versions.iter().rev().find(|version| entry.contains(version.order, version.log_ms))?;
    (!newest.of(subject).is_empty()).then_some(newest)
}

/// Gives up versions that no poll can come back to: where the newest is in range of every poll that an
/// older one is in range of. Which it is if no poll closes before it, and no poll begins between them.
fn prune(versions: &mut Vec<Version>, book: &Book) {
    let Some(newest) = versions.last() else { return };
    let range = book.range();
    if newest.order.time_ns >= range.closes_min_ns || newest.log_ms >= range.sealed_min_ms {
        return;
    }
    let place = |version: &Version| (version.order.position.input(), version.order.position.partition());
    let (order, place_of_newest) = (newest.order, place(newest));
    versions.retain(|version| {
        let before = place(version) == place_of_newest && version.order.position < order.position;
        version.order == order || !before
    });
}
