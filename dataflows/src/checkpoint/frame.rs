//! Files of frames: each frame is the changes of one key group of one operator.
//!
//! ```text
//!   file:   "tallyflow frames" version(u32)  frame*
//!   frame:  kind(u8) all(u8) group(u16) length(u32) packed(u32) crc(u32) body[packed]
//! ```
//! Numbers are little endian; `body` is an LZ4 block of `length` bytes; `crc` is the CRC-32 of the twelve
//! bytes before it and of `body`.

use crate::checkpoint::Kind;
use crate::claim::EntityHash;
use std::ops::Range;

const MAGIC: &[u8; 16] = b"tallyflow frames";
/// Of the frames and of what operators write into them.
pub const VERSION: u32 = 2;
const HEAD: usize = 20;
const FRAME_HEAD: usize = 16;

/// Changes of a key group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub group: u16,
    /// Whether this is all there is of the group.
    pub all: bool,
    pub body: Vec<u8>,
}

/// A frame in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub kind: Kind,
    pub group: u16,
    pub all: bool,
    length: usize,
    packed: Range<usize>,
}

impl Found {
    /// What it takes in its file.
    pub fn packed_bytes(&self) -> u64 {
        (self.packed.len() + FRAME_HEAD) as u64
    }
}

/// Why a file is no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    #[error("it is no file of frames")]
    NoFrames,
    #[error(
        "it has version {0}, and this program understands {VERSION}; run the program that wrote it, or `restart --ignore-state`"
    )]
    Version(u32),
    #[error("it ends in the midst of a frame, at byte {0}")]
    Cut(usize),
    #[error("the frame at byte {0} is damaged")]
    Frame(usize),
}

/// The start of a file.
pub fn begin() -> Vec<u8> {
    let mut file = MAGIC.to_vec();
    file.extend(VERSION.to_le_bytes());
    file
}

/// Appends a frame to a file; how many bytes it takes there.
pub fn append(file: &mut Vec<u8>, frame: &Frame) -> usize {
    let packed = lz4_flex::block::compress(&frame.body);
    let start = file.len();
    file.extend([frame.kind as u8, u8::from(frame.all)]);
    file.extend(frame.group.to_le_bytes());
    file.extend((frame.body.len() as u32).to_le_bytes());
    file.extend((packed.len() as u32).to_le_bytes());
    let crc = crc(&file[start..], &packed);
    file.extend(crc.to_le_bytes());
    file.extend(packed);
    file.len() - start
}

fn crc(head: &[u8], packed: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(packed);
    crc.finalize()
}

/// Finds the frames of a file, each of which is whole.
pub fn read(file: &[u8]) -> Result<Vec<Found>, Damaged> {
    let version = file.get(..HEAD).filter(|head| head.starts_with(MAGIC)).ok_or(Damaged::NoFrames)?;
    let version = number(&version[16..]);
    if version != VERSION {
        return Err(Damaged::Version(version));
    }
    let (mut at, mut found) = (HEAD, Vec::new());
    while at < file.len() {
        let head = file.get(at..at + FRAME_HEAD).ok_or(Damaged::Cut(at))?;
        let (length, packed) = (number(&head[4..]) as usize, number(&head[8..]) as usize);
        let body = at + FRAME_HEAD..at + FRAME_HEAD + packed;
        let packed = file.get(body.clone()).ok_or(Damaged::Cut(at))?;
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == head[0]);
        let group = u16::from_le_bytes([head[2], head[3]]);
        match kind {
            Some(kind) if crc(&head[..12], packed) == number(&head[12..]) && is_group(group) => {
                found.push(Found { kind, group, all: head[1] != 0, length, packed: body.clone() });
            }
            _ => return Err(Damaged::Frame(at)),
        }
        at = body.end;
    }
    Ok(found)
}

fn is_group(group: u16) -> bool {
    usize::from(group) < EntityHash::KEY_GROUPS
}

/// What the frame of a file says.
pub fn body(file: &[u8], found: &Found) -> Result<Vec<u8>, Damaged> {
    let damaged = || Damaged::Frame(found.packed.start);
    let packed = file.get(found.packed.clone()).ok_or_else(damaged)?;
    lz4_flex::block::decompress(packed, found.length).map_err(|_| damaged())
}

/// The first four bytes as a number.
fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame() -> impl Strategy<Value = Frame> {
        let kind = prop::sample::select(Kind::ALL.to_vec());
        let body = prop::collection::vec(0u8..4, 0..200);
        (kind, 0u16..1_024, any::<bool>(), body).prop_map(|(kind, group, all, body)| Frame { kind, group, all, body })
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in(frames in prop::collection::vec(frame(), 0..20)) {
            let mut file = begin();
            for frame in &frames {
                append(&mut file, frame);
            }
            let found = read(&file).unwrap();
            let read: Vec<Frame> = found.iter().map(|found| {
                Frame { kind: found.kind, group: found.group, all: found.all, body: body(&file, found).unwrap() }
            }).collect();
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn a_changed_byte_and_a_cut_file_are_found_out(
            frames in prop::collection::vec(frame(), 1..8), at in any::<prop::sample::Index>(), bit in 0u8..8
        ) {
            let mut file = begin();
            for frame in &frames {
                append(&mut file, frame);
            }
            let at = at.index(file.len());
            let cut = read(&file[..at]);
            // Cut between two frames it is a shorter file; that it should be longer is the manifest's to know.
            prop_assert!(cut.is_err() || cut.unwrap().len() < frames.len());
            file[at] ^= 1 << bit;
            prop_assert!(read(&file).is_err());
        }
    }
}
