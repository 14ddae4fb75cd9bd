//! Which part of the entities a pass over the log looks at, so that what it holds stays within a bound.

use std::hash::{DefaultHasher, Hash, Hasher};

/// The least part of all that a pass may look at: a share that does not fit even so has an entity in it
/// that alone is too large.
const PARTS_MAX: u64 = 1 << 16;

/// The entities whose hash lies from `first` to `last`. The hash has nothing to do with that of the
/// engine's key groups, and lives no longer than the recount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    first: u64,
    last: u64,
}

impl Share {
    pub const WHOLE: Share = Share { first: 0, last: u64::MAX };

    /// About one part of so many, the first.
    pub fn one_of(parts: u32) -> Share {
        Share { first: 0, last: u64::MAX / u64::from(parts.max(1)) }
    }

    pub fn holds<T: Hash + ?Sized>(&self, entity: &T) -> bool {
        let mut hasher = DefaultHasher::new();
        entity.hash(&mut hasher);
        (self.first..=self.last).contains(&hasher.finish())
    }

    /// Leaves out the upper half; `None` where what is left would be less than a share may be.
    pub fn halved(self) -> Option<Share> {
        let width = self.last - self.first;
        (width > u64::MAX / PARTS_MAX).then(|| Share { last: self.first + width / 2, ..self })
    }

    /// The share behind this one, as wide as this one, or twice as wide where there was `room`: one heavy
    /// entity does not make all passes narrow. `None` where this was the last.
    pub fn next(self, room: bool) -> Option<Share> {
        let first = self.last.checked_add(1)?;
        let width = self.last - self.first;
        let width = if room { width.saturating_mul(2).saturating_add(1) } else { width };
        Some(Share { first, last: first.saturating_add(width) })
    }

    /// The first share, as wide as this one.
    pub fn first(self) -> Share {
        Share { first: 0, last: self.last - self.first }
    }

    /// How many shares as wide as this one there are from this one on.
    pub fn left(self) -> u64 {
        let width = u128::from(self.last - self.first) + 1;
        let left = u128::from(u64::MAX - self.first) + 1;
        left.div_ceil(width) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_hold_every_entity_once_however_they_are_halved() {
        let entities: Vec<String> = (0..1_000).map(|n| format!("e{n}")).collect();
        let mut held = vec![0; entities.len()];
        let (mut share, mut shares) = (Some(Share::one_of(3)), 0);
        while let Some(mut now) = share {
            if shares % 5 == 1 {
                now = now.halved().unwrap();
            }
            for (held, entity) in held.iter_mut().zip(&entities) {
                *held += u32::from(now.holds(entity.as_str()));
            }
            shares += 1;
            share = now.next(shares % 7 == 3);
        }
        assert!(held.iter().all(|n| *n == 1));
        assert!(shares > 2);
        assert_eq!((Share::WHOLE.left(), Share::one_of(3).left(), Share::one_of(4).left()), (1, 3, 4));
    }

    #[test]
    fn a_share_is_not_halved_without_end() {
        let halvings = std::iter::successors(Some(Share::WHOLE), |share| share.halved()).count();
        assert!((16..=18).contains(&halvings), "{halvings}");
    }
}
