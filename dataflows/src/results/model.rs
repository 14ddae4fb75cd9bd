//! What the API answers.

use crate::accounting::{Accounting, ClaimAccounting};
use crate::ids::{Epoch, Offset};
use crate::number::Decimal;
use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// A line within its subject: the parts of its group.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub Vec<String>);

impl Group {
    /// As one text: the part itself, or the JSON array of several; `""` without parts.
    pub fn text(&self) -> String {
        match self.0.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            several => crate::jobs::tally::json_array(several),
        }
    }
}

impl Serialize for Group {
    /// A plain string for up to one part, an array for several.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [] => serializer.serialize_str(""),
            [one] => serializer.serialize_str(one),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Group {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Parts {
            One(String),
            Several(Vec<String>),
        }
        Ok(match Parts::deserialize(deserializer)? {
            Parts::One(one) => Group(vec![one]),
            Parts::Several(parts) => Group(parts),
        })
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Group {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ArrayBuilder, OneOfBuilder};
        let text = String::schema();
        OneOfBuilder::new().item(text.clone()).item(ArrayBuilder::new().items(text)).into()
    }
}
#[cfg(feature = "schema")]
impl utoipa::ToSchema for Group {}

/// All tallies of a job, or a selection, at one closed epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Tallies {
    pub job: String,
    pub epoch: Epoch,
    /// RFC 3339.
    pub at: String,
    /// By topic, per partition, the offset up to which these tallies stand.
    pub offsets: BTreeMap<String, Vec<Offset>>,
    /// Of all lines of the job, shown or not.
    pub digest: String,
    pub accounting: Accounting,
    pub subjects: Vec<SubjectTallies>,
}

/// One subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SubjectTallies {
    pub subject: String,
    /// The sum of the subject's values, where the first aggregate is a count or a sum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<Decimal>,
    pub claims: u64,
    pub counted: u64,
    pub superseded: u64,
    pub duplicate: u64,
    pub late: u64,
    pub voided: u64,
    /// By value, greatest first, then by group.
    pub tallies: Vec<Tally>,
}

impl SubjectTallies {
    /// The accounting of its claims.
    pub fn accounting(&self) -> ClaimAccounting {
        ClaimAccounting {
            claims: self.claims,
            counted: self.counted,
            superseded: self.superseded,
            duplicate: self.duplicate,
            late: self.late,
            voided: self.voided,
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Tally {
    pub group: Group,
    /// The first aggregate.
    pub value: Decimal,
    /// The value's part of the total, where there is a total that is not 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Where the job asks for several aggregates, each by its name, in the job's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<BTreeMap<String, Decimal>>))]
    pub aggregates: Option<IndexMap<String, Decimal>>,
}

/// What changed between two epochs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Delta {
    pub job: String,
    pub epoch: Epoch,
    /// RFC 3339.
    pub at: String,
    pub changes: Vec<Change>,
    /// The totals of the subjects that changed.
    pub totals: BTreeMap<String, Decimal>,
    pub accounting: Accounting,
}

/// A line that changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Change {
    pub subject: String,
    pub group: Group,
    /// What it is now; null: it is gone, or no longer among those shown.
    pub value: Option<Decimal>,
    /// What it was; null: it is new, or newly among those shown.
    pub was: Option<Decimal>,
    /// Where the job asks for several aggregates, what each is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<BTreeMap<String, Decimal>>))]
    pub aggregates: Option<IndexMap<String, Decimal>>,
}

/// Which lines a reader wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// Empty: all subjects.
    pub subjects: Vec<String>,
    /// At most so many lines of each subject; `None`: the job's `top`, or all.
    pub limit: Option<usize>,
}

impl Filter {
    /// The most lines that are answered at once.
    pub const LINES_MAX: usize = 10_000;
}

/// Why nothing is answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// More than [`Filter::LINES_MAX`] lines.
    #[error(
        "that are {lines} lines, more than the {} that are answered at once; narrow it with `subject` or `limit`",
        Filter::LINES_MAX
    )]
    TooManyLines { lines: usize },
    /// What changed since that epoch is no longer known.
    #[error("what changed since epoch {since} is no longer kept")]
    Gap { since: Epoch },
}
