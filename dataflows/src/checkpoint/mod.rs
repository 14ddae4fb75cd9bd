//! Checkpoints: what it takes to go on from a closed epoch.
//!
//! State lies in 1,024 key groups, and a checkpoint holds, for each group that has changed since the one
//! before, the entries that changed; now and then all of a group's, so that what came before is needed no
//! more. A group is written a moment after its epoch has closed, or just before its first later change,
//! so the dataflow goes on meanwhile.
//!
//! ```text
//!   job-7/00000012-0000.frames    frames of checkpoint 12, of all operators and groups
//!   job-7/00000012.manifest       makes the checkpoint exist; names every file it needs, of earlier ones too
//!   job-7/00000013.manifest       a claim: an engine has taken the job up. Whoever was before can write no
//!                                 checkpoint any more: the number it would use is taken
//! ```

pub mod frame;
pub mod manifest;
pub mod marks;
pub mod store;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use store::{CheckpointStore, StoreError};

/// Whose state a frame holds. The numbers belong to the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Kind {
    /// What the job has told: its lines, subjects and accounting.
    Told = 1,
    Standing = 2,
    Messages = 3,
    People = 4,
    Extremes = 5,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Told, Kind::Standing, Kind::Messages, Kind::People, Kind::Extremes];
}

/// State in key groups.
pub trait Grouped {
    const KIND: Kind;

    /// Whether something of the group has changed since it was last written.
    fn has_changed(&self, group: usize) -> bool;

    /// All of the group is to be written the next time, if there is something of it.
    fn mark_all(&mut self, group: usize);

    /// Appends what has changed since the last call, and forgets that it has. Answers whether that is all
    /// there is of the group, and what was written before needless.
    fn write(&mut self, group: usize, out: &mut Vec<u8>) -> bool;
}

/// A frame that says what its checksum allows but its reader does not understand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {kind:?}, key group {group}, can't be read: {what}")]
pub struct Unreadable {
    pub kind: Kind,
    pub group: usize,
    pub what: String,
}

/// Appends a value.
pub fn put(out: &mut Vec<u8>, value: &impl Serialize) {
    struct Append<'a>(&'a mut Vec<u8>);
    impl postcard::ser_flavors::Flavor for Append<'_> {
        type Output = ();
        fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
            self.0.push(byte);
            Ok(())
        }
        fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
        fn finalize(self) -> postcard::Result<()> {
            Ok(())
        }
    }
    // Memory takes whatever there is, and no value here is of a kind that postcard has no form for.
    postcard::serialize_with_flavor(value, Append(out)).expect("what is kept can be written");
}

/// Takes a value from the front.
pub fn take<T: DeserializeOwned>(from: &mut &[u8]) -> Result<T, String> {
    let (value, rest) = postcard::take_from_bytes(from).map_err(|error| error.to_string())?;
    *from = rest;
    Ok(value)
}
