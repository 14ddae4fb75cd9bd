//! What an event says: claims, their contributions, and the order in which claims stand.

use crate::ids::{Offset, PartitionId};
use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as SipHasher13x128};
use smallvec::SmallVec;
use std::hash::Hasher;

/// The secret with which names become numbers. One per data directory, so that nobody can choose
/// names that collide. SipHash-1-3 (Aumasson and Bernstein, "SipHash: a fast short-input PRF");
/// the hashes are part of the checkpoint format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashKey(pub [u64; 2]);

impl HashKey {
    /// A hash that takes parts one after another, each with its length, so that ("a", "bc") and
    /// ("ab", "c") differ.
    pub fn entity(self, parts: &[impl AsRef<[u8]>]) -> EntityHash {
        let mut hasher = SipHasher13x128::new_with_keys(self.0[0], self.0[1]);
        feed(&mut hasher, parts);
        let hash = hasher.finish128();
        EntityHash { high: hash.h1, low: hash.h2 }
    }

    /// The hash of a subject's or a group's name; never 0, which [`LineId`] uses.
    pub fn name(self, parts: &[impl AsRef<[u8]>]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0[0], self.0[1]);
        feed(&mut hasher, parts);
        hasher.finish().max(1)
    }
}

fn feed(hasher: &mut impl Hasher, parts: &[impl AsRef<[u8]>]) {
    // The last byte tells the two forms apart, so that no name of one part reads like one of several.
    if let [one] = parts {
        hasher.write(one.as_ref());
        return hasher.write_u8(1);
    }
    for part in parts {
        hasher.write_u64(part.as_ref().len() as u64);
        hasher.write(part.as_ref());
    }
    hasher.write_u8(2);
}

/// An entity by its keyed 128-bit hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntityHash {
    pub high: u64,
    pub low: u64,
}

impl EntityHash {
    /// How many key groups there are: fixed, since checkpoints are laid out by them.
    pub const KEY_GROUPS: usize = 1_024;

    /// The key group, of [`EntityHash::KEY_GROUPS`]. Worker `group % workers` owns it.
    pub fn key_group(self) -> usize {
        (self.high >> 54) as usize
    }
}

/// A line, or the withdrawal of one, by the hashes of its subject and its group. Two names that met
/// in one id would be found out by the collector, which fails the job rather than mixing them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LineId {
    pub subject: u64,
    /// 0: none, a standing withdrawal.
    pub group: u64,
}

impl LineId {
    /// What a record holds that makes no claim and yet replaces what its message said before: an edit
    /// that no longer concerns any subject, or a deletion.
    pub const REPLACES: LineId = LineId { subject: 0, group: 0 };

    /// What a withdrawal holds instead of a line.
    pub fn withdrawn(subject: u64) -> Self {
        LineId { subject, group: 0 }
    }
}

/// Where a record stands: the input's place in the job file, the partition and the offset, in one
/// word that orders as they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(u64);

impl Position {
    /// The least position.
    pub const ZERO: Position = Position(0);
    /// The most inputs that a job may have.
    pub const INPUTS_MAX: usize = 1 << 8;

    /// `None` if one of them is beyond its bits (8, 16 and 40).
    pub fn new(input: usize, partition: PartitionId, offset: Offset) -> Option<Self> {
        (input < Self::INPUTS_MAX && partition <= PartitionId::MAX && offset <= Offset::MAX)
            .then(|| Position((input as u64) << 56 | u64::from(partition.0) << 40 | offset.0))
    }

    /// The input's place in the job file.
    pub fn input(self) -> usize {
        (self.0 >> 56) as usize
    }

    pub fn partition(self) -> PartitionId {
        PartitionId((self.0 >> 40) as u32 & PartitionId::MAX.0)
    }

    pub fn offset(self) -> Offset {
        Offset(self.0 & Offset::MAX.0)
    }
}

/// What decides between the claims of an entity: event time (or the log's timestamp) in nanoseconds
/// since 1970, then the position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OrderKey {
    pub time_ns: i64,
    pub position: Position,
}

/// What an event says for one entity. Small in the common case: one line, which counts one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claim {
    pub entity: EntityHash,
    pub order: OrderKey,
    /// The line it adds one to, or with `more` only the subject.
    pub line: LineId,
    /// Everything beyond the common case.
    pub more: Option<Box<More>>,
}

/// A contribution that is not one line counting one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct More {
    /// The hash of the claim's own id where the format gives one.
    pub id: Option<u64>,
    /// The lines it adds to, none for a withdrawal; by entry and group, so that equal sets are equal.
    pub adds: SmallVec<[Add; 1]>,
    /// By distinct aggregate, in the job's order, the hash of the value.
    pub distinct: SmallVec<[EntityHash; 1]>,
}

/// What is added to one group of the claim's subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Add {
    pub group: u64,
    /// The place of its `[[tally.entry]]`.
    pub entry: u32,
    /// In units of `number::Decimal`.
    pub value: i128,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_orders_by_input_then_partition_then_offset() {
        let p = |i, p, o| Position::new(i, PartitionId(p), Offset(o)).unwrap();
        assert!(p(0, 9, 9) < p(1, 0, 0) && p(1, 0, 9) < p(1, 1, 0) && p(1, 1, 0) < p(1, 1, 1));
        let x = p(255, 65_535, (1 << 40) - 1);
        assert_eq!((x.input(), x.partition(), x.offset()), (255, PartitionId(65_535), Offset((1 << 40) - 1)));
        assert_eq!(Position::new(256, PartitionId(0), Offset(0)), None);
        assert_eq!(Position::new(0, PartitionId(0), Offset(1 << 40)), None);
    }

    #[test]
    fn the_parts_of_a_composite_entity_do_not_run_together() {
        let key = HashKey([1, 2]);
        assert_ne!(key.entity(&["a", "bc"]), key.entity(&["ab", "c"]));
        assert_ne!(key.entity(&["a"]), HashKey([1, 3]).entity(&["a"]));
    }

    #[test]
    fn a_common_claim_fits_a_cache_line() {
        assert!(size_of::<Claim>() <= 64, "{}", size_of::<Claim>());
    }
}
