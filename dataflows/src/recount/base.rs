//! What a recount of a `tally` job has come to, in pieces, so that a later one can go on from there where the
//! log has not the records before any more.
//!
//! The pieces are what the fold itself holds: the claims that stand, the newest word of each message, and
//! where every event counts what the lines come to. Their order is of no account.

use super::judge::{Claim, Contribution, Order};
use super::lines::Sums;
use crate::number::Decimal;
use serde::{Deserialize, Serialize};

/// A piece of a base.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Piece {
    /// What became of records.
    Records { read: u64, rejected: u64, irrelevant: u64, matched: u64 },
    /// What became of a subject's claims; counted ones only where every event counts, else the claims tell.
    Subject { subject: String, claims: u64, counted: u64, voided: u64 },
    /// A claim that stands.
    Claim {
        subject: String,
        entity: Vec<String>,
        order: Order,
        id: Option<String>,
        event_time: Option<i128>,
        /// Entry, group and value in units.
        contributions: Vec<(usize, String, i128)>,
        distinct: Vec<String>,
    },
    /// A message's newest word, where that concerns no line.
    Replaced { entity: Vec<String>, order: Order },
    /// Where every event counts, what a line comes to.
    Line { subject: String, group: String, sums: Sums },
    /// Likewise values that are told apart, of the aggregate with that place among such.
    Marks { subject: String, group: String, place: usize, values: Vec<String> },
}

impl Piece {
    /// A piece as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // It fails only where a type can't be written at all.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    pub fn of_claim(claim: &Claim) -> Piece {
        let contribution = |c: &Contribution| (c.entry, c.group.clone(), c.value.units());
        Piece::Claim {
            subject: claim.subject.clone(),
            entity: claim.entity.clone(),
            order: claim.order,
            id: claim.id.clone(),
            event_time: claim.event_time,
            contributions: claim.contributions.iter().map(contribution).collect(),
            distinct: claim.distinct.clone(),
        }
    }
}

/// A claim as it was.
pub(super) fn contributions(of: Vec<(usize, String, i128)>) -> Vec<Contribution> {
    let contribution = |(entry, group, units)| Contribution { entry, group, value: Decimal::from_units(units) };
    of.into_iter().map(contribution).collect()
}
