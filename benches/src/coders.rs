//! The same masks coded by a general entropy coder: the crate `constriction`.

use constriction::stream::model::{DecoderModel, EncoderModel, EntropyModel};
use constriction::stream::stack::DefaultAnsCoder;
use constriction::stream::{Decode, Encode};
use overmask::mask::Mask;

/// Bits of a probability, as in our coder.
const PRECISION: usize = 16;

/// A bit with a known probability.
#[derive(Clone, Copy)]
struct Bernoulli {
    /// The share of zero, from 1 to 65535.
    zero: u32,
}

impl EntropyModel<PRECISION> for Bernoulli {
    type Symbol = bool;
    type Probability = u32;
}

impl EncoderModel<PRECISION> for Bernoulli {
    fn left_cumulative_and_probability(
        &self,
        symbol: impl std::borrow::Borrow<bool>,
    ) -> Option<(u32, std::num::NonZeroU32)> {
        let (left, share) = if *symbol.borrow() { (self.zero, (1 << PRECISION) - self.zero) } else { (0, self.zero) };
        Some((left, std::num::NonZeroU32::new(share)?))
    }
}

impl DecoderModel<PRECISION> for Bernoulli {
    fn quantile_function(&self, quantile: u32) -> (bool, u32, std::num::NonZeroU32) {
        let one = quantile >= self.zero;
        let (left, share) = if one { (self.zero, (1 << PRECISION) - self.zero) } else { (0, self.zero) };
        // Shares are from 1 to 65535.
        (one, left, std::num::NonZeroU32::new(share).unwrap_or(std::num::NonZeroU32::MIN))
    }
}

/// A mask coded by it, with a probability for each class.
pub(crate) struct Constriction {
    coder: DefaultAnsCoder,
    models: [Bernoulli; 256],
}

impl Constriction {
    pub(crate) fn encode(mask: &Mask, classes: &[u8]) -> Self {
        let bits: Vec<bool> = mask.unit_bits().iter().by_vals().collect();
        let mut counts = [[1u64; 2]; 256];
        for (bit, class) in bits.iter().zip(classes) {
            counts[usize::from(*class)][usize::from(*bit)] += 1;
        }
        let models = counts.map(|[zeros, ones]| Bernoulli {
            zero: ((zeros << PRECISION) / (zeros + ones)).clamp(1, (1 << PRECISION) - 1) as u32,
        });
        let mut coder = DefaultAnsCoder::new();
        for (bit, class) in bits.iter().zip(classes).rev() {
            // Both symbols have a share, so neither is impossible.
            let coded = coder.encode_symbol(*bit, models[usize::from(*class)]);
            assert!(coded.is_ok());
        }
        Constriction { coder, models }
    }

    /// The bitmap.
    pub(crate) fn decode(&self, classes: &[u8]) -> Vec<u8> {
        let mut decoder = self.coder.as_decoder();
        let mut bits = vec![0u8; classes.len().div_ceil(8)];
        let models = classes.iter().map(|class| self.models[usize::from(*class)]);
        for (i, bit) in decoder.decode_symbols(models).enumerate() {
            bits[i / 8] |= u8::from(bit.unwrap_or(false)) << (i % 8);
        }
        bits
    }
}
