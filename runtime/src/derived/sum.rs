//! The checksum of derived files.

/// Numbers that are summed up side by side: a processor multiplies them at once, as fast as it reads them.
const LANES: usize = 8;

/// An odd number whose bits look random: 2⁶⁴ divided by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// 64-bit words go to eight lanes in turn, each of which takes in its own by xor, multiplication and rotation;
/// zeros fill the last words.
///
/// A step is a bijection of the lane and of the word: a change within one word is always seen, any other but once
/// in 2⁶⁴. That is against damage; whoever can write the file can write its checksum. SHA-256 would take ten times
/// as long.
pub(super) fn checksum(bytes: &[u8]) -> [u8; 8 * LANES] {
    let mut lanes = [FACTOR; LANES];
    let (whole, rest) = bytes.as_chunks::<{ 8 * LANES }>();
    let mut last = [0; 8 * LANES];
    last[..rest.len()].copy_from_slice(rest);
    for chunk in whole.iter().chain([&last]) {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<8>().0) {
            *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR).rotate_left(32);
        }
    }
    let mut sum = [0; 8 * LANES];
    sum.as_chunks_mut::<8>().0.iter_mut().zip(lanes).for_each(|(to, lane)| *to = lane.to_le_bytes());
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_is_that_of_the_definition() {
        let sum = checksum(&1u64.to_le_bytes());
        let lane = |word: u64| (FACTOR ^ word).wrapping_mul(FACTOR).rotate_left(32).to_le_bytes();
        assert_eq!(sum[..8], lane(1));
        assert_eq!(sum[56..], lane(0));
    }

    proptest! {
        #[test]
        fn a_change_within_a_word_is_seen(
            bytes in prop::collection::vec(any::<u8>(), 1..400),
            at in any::<prop::sample::Index>(),
            by in 1u64..,
        ) {
            let mut other = bytes.clone();
            let word = at.index(bytes.len()) / 8 * 8;
            let end = bytes.len().min(word + 8);
            let changed = other[word..end].iter_mut().zip(by.to_le_bytes());
            changed.for_each(|(byte, by)| *byte ^= by);
            prop_assert_eq!(checksum(&other) == checksum(&bytes), other == bytes);
        }
    }
}
