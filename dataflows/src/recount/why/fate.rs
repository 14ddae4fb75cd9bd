//! What becomes of all that one entity has said.

use super::{At, Fate, Other, Says};
use crate::recount::judge::Order;
use crate::spec::Keep;
use std::collections::HashMap;

/// Something that an entity has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::recount) struct Told {
    pub order: Order,
    /// Equal where two are one another's duplicates; of no account where it says nothing.
    pub key: String,
    pub says: Says,
}

impl Told {
    pub fn other(&self) -> Other {
        Other { at: At::of(self.order), says: self.says }
    }

    pub fn bytes(&self) -> usize {
        size_of::<Told>() + self.key.len() + 16
    }
}

/// What became of a claim, by what, and what gave way to it.
pub(in crate::recount) type Found = (Fate, Option<Other>, Option<Other>);

/// What became of each claim of one entity, by its order key. Where one takes another's place, that is told
/// of neighbours: each gave way to the next.
pub(in crate::recount) fn fates(keep: Keep, mut told: Vec<Told>) -> HashMap<Order, Found> {
    told.sort_by_key(|told| told.order);
    let gives_way = |loser: &Told, winner: &Told| {
        let same = winner.says != Says::Nothing && loser.key == winner.key;
        (if same { Fate::Duplicate } else { Fate::Superseded }, Some(winner.other()), None)
    };
    match keep {
        Keep::All => told.iter().map(|told| (told.order, (Fate::Counted, None, None))).collect(),
        Keep::Last => {
            let fate = |(place, this): (usize, &Told)| {
                let before = place.checked_sub(1).and_then(|before| told.get(before)).map(Told::other);
                let (fate, by, _) =
                    told.get(place + 1).map_or((Fate::Counted, None, None), |next| gives_way(this, next));
                (this.order, (fate, by, before))
            };
            told.iter().enumerate().map(fate).collect()
        }
        Keep::First | Keep::FirstN(_) => {
            let places = if let Keep::FirstN(n) = keep { n as usize } else { 1 };
            let mut fates = HashMap::new();
            let mut standing: Vec<&Told> = Vec::new();
            let mut first: HashMap<&str, &Told> = HashMap::new();
            for this in &told {
                let same = *first.entry(&this.key).or_insert(this);
                let found = if same.order < this.order {
                    gives_way(this, same)
                } else if standing.len() < places {
                    standing.push(this);
                    (Fate::Counted, None, None)
                } else {
                    standing.last().map_or((Fate::Counted, None, None), |last| gives_way(this, last))
                };
                fates.insert(this.order, found);
            }
            fates
        }
    }
}
