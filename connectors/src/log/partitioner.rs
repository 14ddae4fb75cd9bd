//! Which partition a key belongs to.

use tallyflow_dataflows::ids::PartitionId;

/// The partition of `key` among `partitions` (at least 1): murmur2 of the key, without its sign,
/// modulo the count. That is what Kafka's Java client does by default (librdkafka:
/// `partitioner=murmur2_random`), so that a topic copied from one log to the other keeps its layout.
pub fn partition_of(key: &[u8], partitions: u32) -> PartitionId {
    PartitionId((murmur2(key) & 0x7fff_ffff) % partitions.max(1))
}

/// MurmurHash2, 32 bits, little endian (Austin Appleby, public domain), with the seed that Kafka uses.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    // The algorithm mixes in the length as 32 bits; keys are far shorter.
    let mut h = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = word.iter().rev().fold(0u32, |k, byte| k << 8 | u32::from(*byte));
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        h ^= rest.iter().rev().fold(0u32, |k, byte| k << 8 | u32::from(*byte));
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ h >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own test of its `Utils.murmur2`.
    #[test]
    fn keys_hash_as_in_kafka() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn a_key_always_has_a_partition_of_the_topic() {
        for key in 0..1000u32 {
            assert_eq!(partition_of(&key.to_le_bytes(), 1), PartitionId(0));
            assert!(partition_of(&key.to_le_bytes(), 7).0 < 7);
        }
    }
}
