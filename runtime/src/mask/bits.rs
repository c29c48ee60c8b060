//! The bits of a mask.

use std::fmt;

use bitvec::order::Lsb0;
use bitvec::slice::BitSlice;

/// One bit a unit, in the order that the [module](super) describes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Bits {
    bytes: Box<[u8]>,
    /// `bytes` has as many bytes as these take, and the bits after the last are 0.
    units: usize,
}

impl Bits {
    /// Of `bytes` as many are used as `units` take, and the bits after the last unit are made 0.
    ///
    /// # Panics
    /// When there are fewer bytes than the units take.
    pub(super) fn new(mut bytes: Vec<u8>, units: usize) -> Self {
        assert!(bytes.len() >= units.div_ceil(8), "{} bytes for {units} units", bytes.len());
        bytes.truncate(units.div_ceil(8));
        if let (Some(last), used @ 1..) = (bytes.last_mut(), units % 8) {
            *last &= (1 << used) - 1;
        }
        Self { bytes: bytes.into(), units }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn as_bits(&self) -> &BitSlice<u8, Lsb0> {
        &BitSlice::from_slice(self.as_bytes())[..self.units]
    }

    /// One unit's bit.
    ///
    /// # Panics
    /// When there is no such unit.
    pub(super) fn get(&self, unit: usize) -> bool {
        assert!(unit < self.units, "unit {unit} of {}", self.units);
        self.as_bytes()[unit / 8] >> (unit % 8) & 1 == 1
    }

    /// The units whose bit is 0, from the first to the last.
    pub(super) fn zeros(&self) -> impl Iterator<Item = usize> {
        let (words, rest) = self.as_bytes().as_chunks::<8>();
        let mut last = [0xff; 8];
        last[..rest.len()].copy_from_slice(rest);
        let words = words.iter().copied().chain(std::iter::once(last));
        let zeros = words.enumerate().flat_map(|(i, word)| {
            let mut zeros = !u64::from_le_bytes(word);
            std::iter::from_fn(move || {
                let bit = (zeros != 0).then(|| zeros.trailing_zeros() as usize)?;
                zeros &= zeros - 1;
                Some(i * 64 + bit)
            })
        });
        // The bits after the last unit are 0, too, but no units.
        zeros.take_while(|unit| *unit < self.units)
    }

    /// How many units from unit `from` on are 0 in both; the two have the same length.
    ///
    /// # Panics
    /// When there are fewer units than `from`.
    pub(super) fn zeros_in_both(&self, other: &Self, from: usize) -> usize {
        let (a, b) = (&self.as_bytes()[from / 8..], &other.as_bytes()[from / 8..]);
        // Whole words, whose loop the compiler vectorises, then what is left.
        let ((a_words, a_rest), (b_words, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
        let words = a_words.iter().zip(b_words).map(|(a, b)| u64::from_le_bytes(*a) | u64::from_le_bytes(*b));
        let mut ones = words.map(|word| u64::from(word.count_ones())).sum::<u64>() as usize;
        ones += a_rest.iter().zip(b_rest).map(|(a, b)| (a | b).count_ones() as usize).sum::<usize>();
        if let (Some(a), Some(b)) = (a.first(), b.first()) {
            let before = (1 << (from % 8)) - 1;
            ones -= ((a | b) & before).count_ones() as usize;
        }
        self.units - from - ones
    }
}

/// The bits after the last unit in its byte, as a number; `bytes` are those that the units take.
pub(super) fn padding(bytes: &[u8], units: usize) -> u8 {
    match (bytes.last(), units % 8) {
        (Some(last), used @ 1..) => last >> used,
        _ => 0,
    }
}

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Binary::fmt(self.as_bits(), f)
    }
}
