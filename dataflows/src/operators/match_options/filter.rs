//! A set of hashes that says of most others that they are not in it, out of one word of memory.
//!
//! A Bloom filter whose bits for one hash lie in one word (Putze, Sanders, Singler, "Cache-, hash- and
//! space-efficient Bloom filters", 2007): with two bits and 16 to 32 bits of room a hash, one to two of a
//! hundred strangers pass.

/// See the module.
#[derive(Default)]
pub(super) struct Filter {
    words: Vec<u64>,
    /// Hashes taken since it was built; those that have gone leave their bits behind.
    taken: usize,
}

impl Filter {
    /// Hashes to a word at most.
    const LOAD: usize = 4;

    /// A filter of these hashes, `len` of them, with room for as many again.
    pub(super) fn of(len: usize, hashes: impl Iterator<Item = u64>) -> Filter {
        let words = (2 * len).div_ceil(Self::LOAD).next_power_of_two().max(4);
        let mut filter = Filter { words: vec![0; words], taken: 0 };
        for hash in hashes {
            filter.insert(hash);
        }
        filter
    }

    /// Adds a hash, or says that it is time to build the filter anew.
    pub(super) fn insert(&mut self, hash: u64) -> bool {
        if self.taken >= self.words.len() * Self::LOAD {
            return false;
        }
        let at = self.at(hash);
        self.words[at] |= Self::bits(hash);
        self.taken += 1;
        true
    }

    /// Whether the hash may be in the set.
    pub(super) fn may_hold(&self, hash: u64) -> bool {
        let bits = Self::bits(hash);
        self.words.get(self.at(hash)).is_some_and(|word| word & bits == bits)
    }

    fn at(&self, hash: u64) -> usize {
        (hash >> 24) as usize & self.words.len().wrapping_sub(1)
    }

    fn bits(hash: u64) -> u64 {
        1 << (hash & 63) | 1 << (hash >> 6 & 63)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::BuildHasher;

    #[test]
    fn members_pass_and_few_others_do() {
        let state = foldhash::fast::RandomState::default();
        let hashes: Vec<u64> = (0..30_000u32).map(|n| state.hash_one(n)).collect();
        let filter = Filter::of(10_000, hashes[..10_000].iter().copied());
        assert!(hashes[..10_000].iter().all(|hash| filter.may_hold(*hash)));
        let strangers = hashes[10_000..].iter().filter(|hash| filter.may_hold(**hash)).count();
        assert!(strangers < 600, "{strangers} of 20,000");
        assert!(!Filter::default().may_hold(0));
    }
}
