//! Masks as few bytes, given the base: the wire coding of packs.
//!
//! The receiver has the base, so it knows how large each weight is, and training zeroes small
//! ones first. A mask is coded bit by bit (`rans`), with the probability of a zero (`model`) by
//! the unit's class, its rank by magnitude (`rank`).
//!
//! A coded mask is the number of knots, from 1 to 64, the knots, and the stream; or 0 and the
//! mask's plain bytes, where these are fewer. So none is larger than a byte more than its plain
//! form.

mod after;
mod model;
mod rank;
mod rans;

use std::borrow::Cow;

use bitvec::order::Lsb0;
use bitvec::slice::BitSlice;
use bitvec::vec::BitVec;

pub use after::{decode_after, encode_after};
pub use rank::{CLASSES, classes};

use crate::mask::{Granularity, Mask, MaskError};

/// Bits as masks have them.
type Bits = BitSlice<u8, Lsb0>;

/// What can be wrong with a coded mask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// There are not as many classes as units.
    #[error("the mask has {units} units, the base's tensor {classes}: it is another tensor or granularity")]
    Classes {
        /// Units of the mask.
        units: usize,
        /// Classes given.
        classes: usize,
    },
    /// The first byte or the knots are not there, or are too many.
    #[error("the coded mask starts with {found:?}, not with a number of knots from 0 to {CLASSES} and as many knots")]
    Knots {
        /// The first byte.
        found: Option<u8>,
    },
    /// The stream ends before the last bit.
    #[error("the coded mask ends too early: it is damaged, or was made for another base")]
    Short,
    /// The stream does not end with the last bit.
    #[error("the coded mask does not end where its units do: it is damaged, or was made for another base")]
    End,
    /// The bits are no mask.
    #[error(transparent)]
    Mask(#[from] MaskError),
}

impl From<rans::Damage> for CodecError {
    fn from(damage: rans::Damage) -> Self {
        match damage {
            rans::Damage::Short => Self::Short,
            rans::Damage::End => Self::End,
        }
    }
}

/// Codes a mask, given the [`classes`] of its units.
///
/// # Errors
/// When there are not as many classes as units.
pub fn encode(mask: &Mask, classes: &[u8]) -> Result<Vec<u8>, CodecError> {
    check(mask.unit_bits().len(), classes)?;
    Ok(encode_bits(mask.unit_bits(), classes))
}

/// Codes bits, of which each has a class.
fn encode_bits(bits: &Bits, classes: &[u8]) -> Vec<u8> {
    let mut counts = [model::Count::default(); CLASSES];
    for (bit, class) in bits.iter().by_vals().zip(classes) {
        let count = &mut counts[usize::from(*class).min(CLASSES - 1)];
        if bit { count.ones += 1 } else { count.zeros += 1 }
    }
    let (knots, bytes) = model::fit(&counts);
    let plain = bits.len().div_ceil(8);
    if bytes < plain as u64 {
        let stream = rans::encode(bits.iter().by_vals(), classes, &model::shares(&knots));
        if knots.len() + stream.len() < plain {
            return [&[knots.len() as u8], &knots[..], &stream].concat();
        }
    }
    [&[0], BitVec::<u8, Lsb0>::from_bitslice(bits).as_raw_slice()].concat()
}

/// Reads a coded mask of a tensor of [outputs, inputs], given the [`classes`] of its units.
///
/// # Errors
/// When the bytes are not what [`encode`] makes for some mask of that shape and these classes.
pub fn decode(
    bytes: &[u8],
    granularity: Granularity,
    outputs: usize,
    inputs: usize,
    classes: &[u8],
) -> Result<Mask, CodecError> {
    let (rows, cols) = granularity.block();
    check(outputs.div_ceil(rows.max(1)).saturating_mul(inputs.div_ceil(cols.max(1))), classes)?;
    Ok(Mask::from_bytes(granularity, outputs, inputs, &decode_bits(bytes, classes)?)?)
}

/// Reads coded bits; plain ones as they are, their number unchecked.
fn decode_bits<'a>(bytes: &'a [u8], classes: &[u8]) -> Result<Cow<'a, [u8]>, CodecError> {
    let Some((number, rest)) = bytes.split_first() else { return Err(CodecError::Knots { found: None }) };
    if *number == 0 {
        return Ok(Cow::Borrowed(rest));
    }
    let knots = usize::from(*number);
    if knots > CLASSES || knots > rest.len() {
        return Err(CodecError::Knots { found: Some(*number) });
    }
    let (knots, stream) = rest.split_at(knots);
    Ok(Cow::Owned(rans::decode(stream, classes, &model::shares(knots))?))
}

fn check(units: usize, classes: &[u8]) -> Result<(), CodecError> {
    if units == classes.len() { Ok(()) } else { Err(CodecError::Classes { units, classes: classes.len() }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn granularity() -> impl Strategy<Value = Granularity> {
        prop_oneof![
            Just(Granularity::Weight),
            (1u32..6, 1u32..6).prop_map(|(rows, cols)| Granularity::Block { rows, cols }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_coded_comes_back_and_is_never_much_larger(
            granularity in granularity(),
            (outputs, inputs) in (1usize..40, 1usize..40),
            kind in 0..4,
            seed: u32,
        ) {
            let (rows, cols) = granularity.block();
            let units = outputs.div_ceil(rows) * inputs.div_ceil(cols);
            let random = |i: usize| (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed).wrapping_mul(40_503) >> 16;
            let keep = (0..units).map(|i| match kind {
                0 => true,
                1 => false,
                2 => i % 2 == 0,
                _ => random(i) % 100 < 90,
            });
            let mask = Mask::from_units(granularity, outputs, inputs, keep).unwrap();
            let classes: Vec<u8> = (0..units).map(|i| (random(i + 7) % 64) as u8).collect();
            let bytes = encode(&mask, &classes).unwrap();
            prop_assert!(bytes.len() <= mask.as_bytes().len() + 1);
            prop_assert_eq!(decode(&bytes, granularity, outputs, inputs, &classes).unwrap(), mask);
        }

        #[test]
        fn any_bytes_are_a_mask_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), inputs in 1usize..60) {
            let classes: Vec<u8> = (0..8 * inputs).map(|i| (i % 64) as u8).collect();
            let _ = decode(&bytes, Granularity::Weight, 8, inputs, &classes);
        }
    }

    #[test]
    fn a_mask_of_small_weights_costs_half_of_what_a_random_one_does() {
        let classes: Vec<u8> = (0..100_000).map(|i| (i * 7919 % 64) as u8).collect();
        let small = |i: usize| classes[i] >= 6 && !i.is_multiple_of(1000);
        let mask = |keep: &dyn Fn(usize) -> bool| {
            Mask::from_units(Granularity::Weight, 1000, 100, (0..100_000).map(keep)).unwrap()
        };
        let known = encode(&mask(&small), &classes).unwrap().len();
        let random = encode(&mask(&|i| i * 7919 / 64 % 10 != 0), &classes).unwrap().len();
        assert!(known * 2 < random, "{known} against {random}");
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let mask = Mask::keep_all(Granularity::Weight, 2, 3).unwrap();
        assert_eq!(encode(&mask, &[0; 5]), Err(CodecError::Classes { units: 6, classes: 5 }));
        let read = |bytes: &[u8]| decode(bytes, Granularity::Weight, 2, 3, &[0; 6]);
        assert_eq!(read(&[]), Err(CodecError::Knots { found: None }));
        assert_eq!(read(&[65; 100]), Err(CodecError::Knots { found: Some(65) }));
        assert_eq!(read(&[3, 1, 1]), Err(CodecError::Knots { found: Some(3) }));
        assert_eq!(read(&[1, 1]), Err(CodecError::Short));
        assert!(matches!(read(&[0, 0b0100_0000]), Err(CodecError::Mask(_))));
    }
}
