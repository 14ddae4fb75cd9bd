//! How records lie in a row: the body of a batch, and cutting an append into bodies.
//!
//! ```text
//! body   = record*
//! record = head(key) head(value) key value
//! head   = unsigned LEB128 of 0 where there is none, else of the length + 1
//! ```
//!
//! Offset and timestamp are the row's: offsets within a row are contiguous, and all its records were
//! committed together. So a record costs two bytes beside its key and value (up to 126 bytes each).

use super::schema::RowId;
use crate::log::partition_of;
use tallyflow_dataflows::source::NewRecord;

/// A row holds at most this many bytes of body (but always one record) ...
pub(super) const ROW_BYTES_MAX: usize = 256 << 10;
/// ... and at most this many records.
pub(super) const ROW_RECORDS_MAX: u32 = 512;

/// Records of one append for one partition that fit into one row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub partition: u32,
    pub records: u32,
    /// Bytes of keys and values, without their heads.
    pub payload_bytes: u64,
    pub body: Vec<u8>,
}

/// Cuts an append into chunks, in order within each partition. Keyless records all go to partition
/// `keyless`. With `single`, each record is a chunk of its own (compacted topics).
pub(super) fn cut(records: &[NewRecord<'_>], partitions: u32, keyless: u32, single: bool) -> Vec<Chunk> {
    const NONE: usize = usize::MAX;
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut open = vec![NONE; partitions as usize];
    let bytes: usize = records.iter().map(|record| payload(record) + 4).sum();
    let reserve = if partitions == 1 || records.iter().all(|record| record.key.is_none()) {
        bytes.min(ROW_BYTES_MAX)
    } else {
        (bytes / partitions as usize).min(ROW_BYTES_MAX)
    };
    for record in records {
        let partition = match record.key {
            Some(key) => partition_of(key, partitions).0,
            None => keyless,
        };
        let slot = &mut open[partition as usize];
        let fits = |chunk: &Chunk| {
            !single && chunk.records < ROW_RECORDS_MAX && chunk.body.len() + payload(record) + 20 <= ROW_BYTES_MAX
        };
        if *slot == NONE || !fits(&chunks[*slot]) {
            *slot = chunks.len();
            let reserve = if single { payload(record) + 4 } else { reserve };
            chunks.push(Chunk { partition, records: 0, payload_bytes: 0, body: Vec::with_capacity(reserve) });
        }
        let chunk = &mut chunks[*slot];
        chunk.records += 1;
        chunk.payload_bytes += payload(record) as u64;
        push(&mut chunk.body, record.key, record.value);
    }
    chunks
}

/// Bytes of key and value.
pub(super) fn payload(record: &NewRecord<'_>) -> usize {
    record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len)
}

fn push(body: &mut Vec<u8>, key: Option<&[u8]>, value: Option<&[u8]>) {
    push_head(body, key.map(<[u8]>::len));
    push_head(body, value.map(<[u8]>::len));
    body.extend_from_slice(key.unwrap_or_default());
    body.extend_from_slice(value.unwrap_or_default());
}

fn push_head(body: &mut Vec<u8>, length: Option<usize>) {
    let mut rest = length.map_or(0, |length| length as u64 + 1);
    while rest >= 0x80 {
        body.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    body.push(rest as u8);
}

/// A record of a body: key and value.
pub(super) type Fields<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// Takes the next record off `rest`; `None` if no whole record lies there.
#[inline]
pub(super) fn next<'a>(rest: &mut &'a [u8]) -> Option<Fields<'a>> {
    let key = take_head(rest)?;
    let value = take_head(rest)?;
    Some((take_field(rest, key)?, take_field(rest, value)?))
}

#[inline]
fn take_head(rest: &mut &[u8]) -> Option<u64> {
    let (&first, tail) = rest.split_first()?;
    *rest = tail;
    if first < 0x80 {
        return Some(u64::from(first));
    }
    let mut head = u64::from(first & 0x7f);
    for shift in (7..63).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        head |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(head);
        }
    }
    None
}

#[inline]
fn take_field<'a>(rest: &mut &'a [u8], head: u64) -> Option<Option<&'a [u8]>> {
    if head == 0 {
        return Some(None);
    }
    let (field, tail) = rest.split_at_checked(usize::try_from(head - 1).ok()?)?;
    *rest = tail;
    Some(Some(field))
}

/// CRC-32 over all that the row says, so that a body at another row's place is found out too.
pub(super) fn checksum(id: RowId, records: u32, at_ms: i64, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&id.0.to_le_bytes());
    crc.update(&records.to_le_bytes());
    crc.update(&at_ms.to_le_bytes());
    crc.update(body);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(chunk: &Chunk) -> Vec<Fields<'_>> {
        let mut rest = chunk.body.as_slice();
        let records = (0..chunk.records).map(|_| next(&mut rest).unwrap()).collect();
        assert!(rest.is_empty());
        records
    }

    proptest! {
        #[test]
        fn chunks_hold_every_record_in_order_and_within_bounds(
            records in prop::collection::vec((prop::option::of(0u8..9), prop::option::of(0usize..300_000)), 0..40),
            partitions in 1u32..5,
            single: bool,
        ) {
            let bytes = vec![7u8; 300_000];
            let keys: Vec<[u8; 1]> = (0..9).map(|key| [key]).collect();
            let records: Vec<NewRecord<'_>> = records.iter().map(|(key, length)| NewRecord {
                key: key.map(|key| keys[key as usize].as_slice()),
                value: length.map(|length| &bytes[..length]),
            }).collect();
            let chunks = cut(&records, partitions, partitions - 1, single);
            for partition in 0..partitions {
                let wanted: Vec<Fields<'_>> = records.iter()
                    .filter(|r| r.key.map_or(partitions - 1, |key| partition_of(key, partitions).0) == partition)
                    .map(|r| (r.key, r.value)).collect();
                let got: Vec<Fields<'_>> =
                    chunks.iter().filter(|chunk| chunk.partition == partition).flat_map(decode).collect();
                prop_assert_eq!(wanted, got);
            }
            for chunk in &chunks {
                prop_assert!(chunk.body.len() <= ROW_BYTES_MAX || chunk.records == 1);
                prop_assert!(chunk.records <= ROW_RECORDS_MAX);
                prop_assert!(!single || chunk.records == 1);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let mut rest = bytes.as_slice();
            while next(&mut rest).is_some() {}
        }
    }

    #[test]
    fn a_changed_byte_changes_the_checksum() {
        let body = [1u8, 2, 3, 4];
        let whole = checksum(RowId(5), 1, 9, &body);
        assert_ne!(whole, checksum(RowId(6), 1, 9, &body));
        assert_ne!(whole, checksum(RowId(5), 2, 9, &body));
        assert_ne!(whole, checksum(RowId(5), 1, 8, &body));
        assert_ne!(whole, checksum(RowId(5), 1, 9, &[1, 2, 3, 5]));
    }
}
