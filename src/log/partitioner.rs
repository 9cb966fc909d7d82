//! The partitioner: murmur2 of the record key, as Kafka's Java client computes it, so that other producers agree.
//!
//! The sign bit is cleared, not the sign dropped: a negative hash must pick a channel like any other, which is the first
//! fault of the design that tidegate replaces.

/// Kafka's murmur2 of `data` (seed 0x9747b28c), as in the Java client's `Utils.murmur2`.
///
/// ```
/// use tidegate::log::murmur2;
/// assert_eq!(murmur2(b"21") as i32, -973932308);
/// ```
pub fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let mut hash = 0x9747_b28c_u32 ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (place, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

/// The partition of a record key, of `partitions`.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_agrees_with_the_java_clients_published_vectors() {
        // org.apache.kafka.common.utils.UtilsTest.testMurmur2
        for (text, hash) in [
            ("21", -973932308),
            ("foobar", -790332482),
            ("a-little-bit-long-string", -985981536),
            ("a-little-bit-longer-string", -1486304829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
            ("abc", 479470107),
        ] {
            assert_eq!(murmur2(text.as_bytes()) as i32, hash, "{text}");
        }
    }

    #[test]
    fn negative_hash_picks_a_partition_like_any_other() {
        for number in 0..10_000 {
            assert!(partition_of(number.to_string().as_bytes(), 7) < 7);
        }
        assert!((murmur2(b"21") as i32) < 0 && partition_of(b"21", 7) < 7);
    }
}
