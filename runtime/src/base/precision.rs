//! Precisions of weights, and the int8 form of a tensor, which every variant of a base shares.
//!
//! A variant chain is f32 → bf16 → int8, each rounded from the one before, so the int8 codes can
//! be had from any of them. Packs code their masks given these codes. Each operation here is one
//! of IEEE 754, in a fixed order: the same bits on every platform.

use std::fmt;
use std::str::FromStr;

use half::bf16;
use serde::{Deserialize, Serialize};

/// How weights are stored and multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Precision {
    /// IEEE 754 binary32.
    F32,
    /// The upper half of an f32.
    Bf16,
    /// Whole numbers from -127 to 127 with a scale an output.
    Int8,
}

impl Precision {
    const ALL: [Precision; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// Its name in files: `f32`, `bf16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|precision| precision.name() == name);
        known.ok_or_else(|| format!("field `variant`: `{name}` is none of `f32`, `bf16` and `int8`"))
    }
}

impl TryFrom<String> for Precision {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<Precision> for String {
    fn from(precision: Precision) -> String {
        precision.name().to_owned()
    }
}

/// The largest code.
const LIMIT: f32 = 127.0;

/// A tensor of [outputs, inputs] as int8 codes with one scale an output.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8Tensor {
    inputs: usize,
    codes: Vec<i8>,
    scales: Vec<f32>,
}

impl Int8Tensor {
    /// Quantises a tensor, symmetric per output, after rounding it to bf16.
    ///
    /// `weights` are [outputs, inputs], row by row; a last row that is not whole is left out.
    pub fn quantize(weights: &[f32], inputs: usize) -> Self {
        let rows = weights.chunks_exact(inputs.max(1));
        let mut codes = Vec::with_capacity(weights.len());
        let mut scales = Vec::with_capacity(rows.len());
        for row in rows {
            scales.push(quantize_row(row, &mut codes));
        }
        Int8Tensor { inputs, codes, scales }
    }

    /// A tensor of codes [outputs, inputs] and scales that were had before.
    pub(super) fn stored(codes: &[i8], scales: &[f32], inputs: usize) -> Self {
        Int8Tensor { inputs, codes: codes.to_vec(), scales: scales.to_vec() }
    }

    /// The codes, row by row.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// The scale of each row.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Columns.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Rows.
    pub fn outputs(&self) -> usize {
        self.scales.len()
    }

    /// Codes and scale of each output: a weight is about its code times the scale.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = (&[i8], f32)> {
        self.codes.chunks_exact(self.inputs.max(1)).zip(&self.scales).map(|(codes, scale)| (codes, *scale))
    }
}

/// Appends the codes of a row and returns its scale.
///
/// With m the largest magnitude after rounding to bf16: scale = m / 127 and
/// code = round(w · (127 / m)), ties to even. A row whose m is 0 or not finite, or that holds a
/// NaN, has scale 0 and codes 0.
fn quantize_row(row: &[f32], codes: &mut Vec<i8>) -> f32 {
    // Magnitudes are ordered as their bits are, with infinity and then NaN at the end; rounding
    // keeps the order.
    let bits = row.iter().map(|w| w.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
    let largest = rounded(f32::from_bits(bits.min(f32::INFINITY.to_bits())));
    let inverse = LIMIT / largest;
    if !(largest.is_finite() && inverse.is_finite()) {
        codes.extend(row.iter().map(|_| 0));
        return 0.0;
    }
    codes.extend(row.iter().map(|w| round(rounded(*w) * inverse)));
    largest / LIMIT
}

/// The nearest bf16, ties to even, as the f32 that it stands for.
fn rounded(w: f32) -> f32 {
    bf16::from_f32(w).to_f32()
}

/// The nearest integer, ties to even, of a value from -127.5 to 127.5.
///
/// Adding 3·2²² leaves no bits for a fraction, so the addition rounds, and the low bits of the
/// sum are the integer: baseline x86-64 has no instruction to round.
fn round(x: f32) -> i8 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT).to_bits() as i8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_and_scales_are_those_of_the_definition() {
        let tensor = Int8Tensor::quantize(&[1.0, -0.5, 0.25, 0.0, 0.0, 0.0, f32::INFINITY, 1.0, 2.0], 3);
        let rows: Vec<_> = tensor.rows().collect();
        assert_eq!((tensor.outputs(), tensor.inputs()), (3, 3));
        let row = |weights: &[f32]| Int8Tensor::quantize(weights, weights.len()).scales[0];
        assert_eq!([row(&[1.0, f32::NAN]), row(&[f32::MAX]), row(&[1e-45])], [0.0; 3]);
        // -63.5 is a tie and goes to the even -64.
        assert_eq!(rows[0], (&[127, -64, 32][..], 1.0 / 127.0));
        assert_eq!(rows[1], (&[0, 0, 0][..], 0.0));
        assert_eq!(rows[2], (&[0, 0, 0][..], 0.0));
    }

    proptest! {
        #[test]
        fn rounding_is_that_of_the_standard_library(x in -127.5f32..=127.5) {
            prop_assert_eq!(f32::from(round(x)), x.round_ties_even().clamp(-128.0, 127.0));
        }

        #[test]
        fn what_is_quantised_from_bf16_is_the_same(weights in prop::collection::vec(-3f32..3.0, 1..40)) {
            let rounded: Vec<f32> = weights.iter().map(|w| rounded(*w)).collect();
            let inputs = weights.len();
            prop_assert_eq!(Int8Tensor::quantize(&weights, inputs), Int8Tensor::quantize(&rounded, inputs));
        }
    }
}
