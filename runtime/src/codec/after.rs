//! A mask as few bytes, given the one before it: the coding of patches.
//!
//! A task that is learnt again zeroes mostly what it zeroed before. So the units that were kept and those that were zero
//! are coded apart, each part as [`encode`](super::encode) codes a mask: their probabilities differ much.
//!
//! The bytes are the length of the first part (4 bytes, little-endian), the part of the units that were kept, and the
//! part of those that were not.

use bitvec::order::Lsb0;
use bitvec::vec::BitVec;

use super::{CodecError, check, decode_bits, encode_bits};
use crate::mask::Mask;

/// Codes a mask, given the one before it, of the same units, and the [`classes`](super::classes) of the units.
///
/// # Errors
/// When the masks are not of the same units, or there are not as many classes.
pub fn encode_after(mask: &Mask, before: &Mask, classes: &[u8]) -> Result<Vec<u8>, CodecError> {
    check(before.unit_bits().len(), classes)?;
    check(mask.unit_bits().len(), classes)?;
    let part = |kept: bool| {
        let here = before.unit_bits().iter().by_vals().map(|bit| bit == kept);
        let units = mask.unit_bits().iter().by_vals().zip(classes).zip(here).filter(|(_, here)| *here);
        let (bits, classes): (BitVec<u8, Lsb0>, Vec<u8>) = units.map(|((bit, class), _)| (bit, *class)).unzip();
        encode_bits(&bits, &classes)
    };
    let (kept, zero) = (part(true), part(false));
    let length = u32::try_from(kept.len()).map_err(|_| CodecError::Short)?;
    Ok([&length.to_le_bytes(), &kept[..], &zero].concat())
}

/// Reads a mask that was coded given the one before it.
///
/// # Errors
/// When the bytes are not what [`encode_after`] makes for some mask of these units, the mask before it and the classes.
pub fn decode_after(bytes: &[u8], before: &Mask, classes: &[u8]) -> Result<Mask, CodecError> {
    check(before.unit_bits().len(), classes)?;
    let (length, rest) = bytes.split_first_chunk().ok_or(CodecError::Short)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| CodecError::Short)?;
    let (kept, zero) = rest.split_at_checked(length).ok_or(CodecError::Short)?;
    let part = |bytes: &[u8], kept: bool| {
        let units = before.unit_bits().iter().by_vals().zip(classes).filter(|(bit, _)| *bit == kept);
        let classes: Vec<u8> = units.map(|(_, class)| *class).collect();
        let bits = decode_bits(bytes, &classes)?;
        let expected = classes.len().div_ceil(8);
        // Plain bits are as many as there are units, and no bit is behind the last.
        let mut bits = BitVec::<u8, Lsb0>::from_vec(bits.into_owned());
        if bits.len() != 8 * expected || bits[classes.len()..].any() {
            return Err(CodecError::End);
        }
        bits.truncate(classes.len());
        Ok(bits)
    };
    let (kept, zero) = (part(kept, true)?, part(zero, false)?);
    let (mut kept, mut zero) = (kept.into_iter(), zero.into_iter());
    // There is a bit for each of both.
    let bits = before.unit_bits().iter().by_vals().map(|bit| if bit { kept.next() } else { zero.next() });
    let bits: Vec<bool> = bits.map(|bit| bit.unwrap_or_default()).collect();
    Ok(Mask::from_units(before.granularity(), before.outputs(), before.inputs(), bits.into_iter())?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::encode;
    use crate::mask::Granularity;

    fn numbers(seed: u32) -> impl FnMut() -> u32 {
        let mut state = seed | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state >> 8
        }
    }

    fn mask(outputs: usize, inputs: usize, mut keep: impl FnMut() -> bool) -> Mask {
        let units = (0..outputs * inputs).map(|_| keep()).collect::<Vec<_>>();
        Mask::from_units(Granularity::Weight, outputs, inputs, units.into_iter()).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_coded_after_a_mask_comes_back((outputs, inputs) in (1usize..40, 1usize..40), seed: u32, zeros in 0u32..101) {
            let mut next = numbers(seed);
            let before = mask(outputs, inputs, || next() % 100 >= zeros);
            let after = mask(outputs, inputs, || !next().is_multiple_of(10));
            let classes: Vec<u8> = (0..outputs * inputs).map(|_| (next() % 64) as u8).collect();
            let bytes = encode_after(&after, &before, &classes).unwrap();
            prop_assert!(bytes.len() <= after.as_bytes().len() + 7);
            prop_assert_eq!(decode_after(&bytes, &before, &classes).unwrap(), after);
        }

        #[test]
        fn any_bytes_are_a_mask_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), seed: u32) {
            let mut next = numbers(seed);
            let before = mask(8, 20, || !next().is_multiple_of(10));
            let classes: Vec<u8> = (0..160).map(|i| (i % 64) as u8).collect();
            let _ = decode_after(&bytes, &before, &classes);
        }
    }

    #[test]
    fn what_changes_little_costs_little() {
        let mut next = numbers(7);
        let before = mask(400, 300, || next() % 100 >= 8);
        let mut old = before.unit_bits().iter().by_vals().collect::<Vec<_>>().into_iter();
        let after = mask(400, 300, || old.next().unwrap() ^ next().is_multiple_of(100));
        let classes = vec![3; 120_000];
        let (alone, after) = (encode(&after, &classes).unwrap(), encode_after(&after, &before, &classes).unwrap());
        assert!(after.len() * 4 < alone.len(), "{} against {}", after.len(), alone.len());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let before = mask(2, 4, || true);
        assert!(matches!(encode_after(&mask(3, 4, || true), &before, &[0; 8]), Err(CodecError::Classes { .. })));
        let good = encode_after(&mask(2, 4, || false), &before, &[0; 8]).unwrap();
        for cut in 0..good.len() {
            assert!(decode_after(&good[..cut], &before, &[0; 8]).is_err());
        }
        assert_eq!(decode_after(&[&good[..], &[0]].concat(), &before, &[0; 8]), Err(CodecError::End));
    }
}
