//! What becomes of every record and every claim.
//!
//! Two identities hold at every closed epoch:
//! `read = rejected + irrelevant + matched` and
//! `claims = counted + superseded + duplicate + late + voided`.

use serde::{Deserialize, Serialize};

/// Of a job: records and claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Accounting {
    /// Records read.
    pub read: u64,
    /// Did not decode, or lacked what the job needs.
    pub rejected: u64,
    /// Decoded and concerned no subject.
    pub irrelevant: u64,
    /// Made at least one claim.
    pub matched: u64,
    /// Claims made.
    pub claims: u64,
    /// Claims that stand, withdrawals too.
    pub counted: u64,
    /// Gave way by the keep rule.
    pub superseded: u64,
    /// Were there already.
    pub duplicate: u64,
    /// Came after their window had closed.
    pub late: u64,
    /// Were voided by an operator.
    pub voided: u64,
}

/// Of a subject: claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ClaimAccounting {
    pub claims: u64,
    pub counted: u64,
    pub superseded: u64,
    pub duplicate: u64,
    pub late: u64,
    pub voided: u64,
}

impl Accounting {
    /// Whether both identities hold.
    pub fn is_even(&self) -> bool {
        self.read == self.rejected + self.irrelevant + self.matched
            && self.claims == self.counted + self.superseded + self.duplicate + self.late + self.voided
    }
}

impl ClaimAccounting {
    /// Whether the identity of claims holds.
    pub fn is_even(&self) -> bool {
        self.claims == self.counted + self.superseded + self.duplicate + self.late + self.voided
    }
}

/// The classes whose newest records can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Class {
    Rejected,
    Irrelevant,
    Counted,
    Superseded,
    Duplicate,
    Voided,
}

impl Class {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Class; 6] =
        [Class::Rejected, Class::Irrelevant, Class::Counted, Class::Superseded, Class::Duplicate, Class::Voided];
}
