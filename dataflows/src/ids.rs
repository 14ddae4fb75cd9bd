//! Newtypes for every number that has a meaning of its own.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map($name)
            }
        }
    };
}

number! {
    /// The dataflow's logical time. Epochs of one data directory only rise, across crashes too,
    /// and stay at or below 2^53 so that JavaScript reads them exactly.
    Epoch(u64)
}
number! {
    /// A record's place within its partition. Below [`Offset::MAX`].
    Offset(u64)
}
number! {
    /// A partition of a topic, from 0. Below [`PartitionId::MAX`].
    PartitionId(u32)
}

impl Offset {
    /// Offsets and partitions share one word of a claim's order key with the input's place in the
    /// job file (see `claim::Position`), which leaves 40 bits for the offset: 10^12 records.
    pub const MAX: Offset = Offset((1 << 40) - 1);
}

impl PartitionId {
    /// The greatest partition, see [`Offset::MAX`].
    pub const MAX: PartitionId = PartitionId((1 << 16) - 1);
}
