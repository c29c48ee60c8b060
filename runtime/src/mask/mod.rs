//! Bit masks over the weights of a linear layer: one bit a unit, 1 = keep, 0 = zero.
//!
//! A mask covers a tensor of [outputs, inputs] with units of its [`Granularity`]. Unit (r, c) is
//! bit `r * unit_cols + c`, and bit i of the mask is bit `i % 8` (counted from the lowest) of
//! byte `i / 8`; the bits after the last unit are 0. That is the form that a pack holds.

mod algebra;
mod bits;
mod granularity;

use bitvec::order::Lsb0;
use bitvec::slice::BitSlice;
use bitvec::vec::BitVec;

pub use granularity::{Granularity, ParseGranularityError};

use bits::Bits;

use crate::error::ErrorKind;

/// What can be wrong with a mask.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MaskError {
    /// A block without rows or columns.
    #[error("a block of {rows} outputs by {cols} inputs covers nothing; both must be at least 1")]
    EmptyBlock {
        /// Its rows.
        rows: u32,
        /// Its columns.
        cols: u32,
    },
    /// The tensor has more weights than this machine can count.
    #[error("a tensor of {outputs} outputs by {inputs} inputs is too large")]
    TooLarge {
        /// Its rows.
        outputs: usize,
        /// Its columns.
        inputs: usize,
    },
    /// The number of units is not the one that the tensor has.
    #[error("a tensor of {outputs} outputs by {inputs} inputs has {expected} units of `{granularity}`, not {found}")]
    Units {
        /// The granularity.
        granularity: Granularity,
        /// The tensor's rows.
        outputs: usize,
        /// The tensor's columns.
        inputs: usize,
        /// The units that there must be.
        expected: usize,
        /// The units that were given, counted up to one too many.
        found: usize,
    },
    /// The number of bytes is not the one that the units take.
    #[error("{units} units take {expected} bytes, not {found}")]
    Bytes {
        /// The units.
        units: usize,
        /// The bytes that there must be.
        expected: usize,
        /// The bytes that were given.
        found: usize,
    },
    /// A bit after the last unit is set.
    #[error("the last byte is {byte:#04x}, but the bits from bit {from} on belong to no unit and must be 0")]
    Padding {
        /// The last byte.
        byte: u8,
        /// The first bit that must be 0.
        from: usize,
    },
    /// More than two weights of a group of four are kept, at `2:4`.
    #[error("of inputs {input} to {} of output {output}, {kept} are kept; `2:4` keeps at most 2 of 4", .input + 3)]
    Crowded {
        /// The row.
        output: usize,
        /// The group's first column.
        input: usize,
        /// How many are kept.
        kept: usize,
    },
    /// The weights are not those of the tensor.
    #[error("the mask covers {expected} weights, not {found}")]
    Weights {
        /// The weights that the mask covers.
        expected: usize,
        /// The weights that were given.
        found: usize,
    },
    /// Two masks do not cover the same units; each pair is that of the first and the second.
    #[error(
        "a mask of `{}` over {} outputs by {} inputs and one of `{}` over {} outputs by {} inputs cover other units; \
         only masks of the same tensor and granularity can be compared",
        .granularity[0], .outputs[0], .inputs[0], .granularity[1], .outputs[1], .inputs[1]
    )]
    OtherUnits {
        /// The granularities.
        granularity: [Granularity; 2],
        /// The tensors' rows.
        outputs: [usize; 2],
        /// The tensors' columns.
        inputs: [usize; 2],
    },
}

impl MaskError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            // Each of the two is sound; they were not made for each other.
            Self::OtherUnits { .. } => ErrorKind::InputData,
            _ => ErrorKind::CorruptFile,
        }
    }
}

/// Which weights of a tensor are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    granularity: Granularity,
    outputs: usize,
    inputs: usize,
    /// One bit a unit.
    units: Bits,
}

/// The number of units down and across, checked.
fn unit_grid(granularity: Granularity, outputs: usize, inputs: usize) -> Result<(usize, usize), MaskError> {
    if let Granularity::Block { rows, cols } = granularity
        && (rows == 0 || cols == 0)
    {
        return Err(MaskError::EmptyBlock { rows, cols });
    }
    let (rows, cols) = granularity.block();
    let grid = (outputs.div_ceil(rows), inputs.div_ceil(cols));
    // The largest number of bits that a bit vector can have is an eighth of the address space.
    match outputs.checked_mul(inputs) {
        Some(weights) if weights <= BitSlice::<u8, Lsb0>::MAX_BITS => Ok(grid),
        _ => Err(MaskError::TooLarge { outputs, inputs }),
    }
}

impl Mask {
    /// A mask that keeps every weight.
    ///
    /// # Errors
    /// When the block is empty or the tensor too large, or the granularity is `2:4`, which keeps half.
    pub fn keep_all(granularity: Granularity, outputs: usize, inputs: usize) -> Result<Mask, MaskError> {
        let (down, across) = unit_grid(granularity, outputs, inputs)?;
        let units = down * across;
        let mask = Mask { granularity, outputs, inputs, units: Bits::new(vec![0xff; units.div_ceil(8)], units) };
        mask.checked()
    }

    /// A mask from one decision a unit, row by row.
    ///
    /// # Errors
    /// When `keep` does not give exactly one value a unit, the block is empty, or the tensor
    /// too large, or more is kept than the granularity allows.
    pub fn from_units(
        granularity: Granularity,
        outputs: usize,
        inputs: usize,
        keep: impl Iterator<Item = bool>,
    ) -> Result<Mask, MaskError> {
        let (down, across) = unit_grid(granularity, outputs, inputs)?;
        let expected = down * across;
        // One more than needed is enough to see that there are too many.
        let units: BitVec<u8, Lsb0> = keep.take(expected.saturating_add(1)).collect();
        if units.len() != expected {
            return Err(MaskError::Units { granularity, outputs, inputs, expected, found: units.len() });
        }
        Mask { granularity, outputs, inputs, units: Bits::new(units.into_vec(), expected) }.checked()
    }

    /// A mask from the bytes that [`Mask::as_bytes`] gives.
    ///
    /// # Errors
    /// When the number of bytes does not fit the tensor, a bit after the last unit is set, or more is
    /// kept than the granularity allows.
    pub fn from_bytes(
        granularity: Granularity,
        outputs: usize,
        inputs: usize,
        bytes: &[u8],
    ) -> Result<Mask, MaskError> {
        let (down, across) = unit_grid(granularity, outputs, inputs)?;
        let units = down * across;
        let expected = units.div_ceil(8);
        if bytes.len() != expected {
            return Err(MaskError::Bytes { units, expected, found: bytes.len() });
        }
        if let Some(byte) = bytes.last()
            && bits::padding(bytes, units) != 0
        {
            return Err(MaskError::Padding { byte: *byte, from: units % 8 });
        }
        Mask { granularity, outputs, inputs, units: Bits::new(bytes.to_vec(), units) }.checked()
    }

    /// The mask, if it keeps no more than its granularity allows.
    fn checked(self) -> Result<Mask, MaskError> {
        if self.granularity != Granularity::TwoOfFour || self.inputs == 0 {
            return Ok(self);
        }
        let (bytes, across) = (self.as_bytes(), self.inputs);
        // Where rows are whole groups, a group is half a byte.
        if across.is_multiple_of(4)
            && bytes.iter().all(|byte| (byte & 15).count_ones().max((byte >> 4).count_ones()) < 3)
        {
            return Ok(self);
        }
        for (output, row) in self.unit_bits().chunks(across).enumerate() {
            for (group, four) in row.chunks(4).enumerate() {
                let kept = four.count_ones();
                if kept > 2 {
                    return Err(MaskError::Crowded { output, input: 4 * group, kept });
                }
            }
        }
        Ok(self)
    }

    /// The bits as bytes; see the [module](self) for their order.
    pub fn as_bytes(&self) -> &[u8] {
        self.units.as_bytes()
    }

    /// The unit that is kept or zeroed together.
    pub fn granularity(&self) -> Granularity {
        self.granularity
    }

    /// Rows of the tensor.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the tensor.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Units down.
    pub fn unit_rows(&self) -> usize {
        self.outputs.div_ceil(self.granularity.block().0)
    }

    /// Units across.
    pub fn unit_cols(&self) -> usize {
        self.inputs.div_ceil(self.granularity.block().1)
    }

    /// One bit a unit, row by row.
    pub fn unit_bits(&self) -> &BitSlice<u8, Lsb0> {
        self.units.as_bits()
    }

    /// Whether a weight is kept.
    ///
    /// # Panics
    /// When the weight is outside the tensor.
    pub fn keeps(&self, output: usize, input: usize) -> bool {
        assert!(output < self.outputs && input < self.inputs, "weight [{output}, {input}] is outside the tensor");
        let (rows, cols) = self.granularity.block();
        self.units.get(output / rows * self.unit_cols() + input / cols)
    }

    /// The fraction of weights that are zeroed, 0 for a tensor without weights.
    pub fn sparsity(&self) -> f64 {
        let weights = self.outputs * self.inputs;
        if weights == 0 { 0.0 } else { self.zero_weights() as f64 / weights as f64 }
    }

    /// Zeroes the weights ([outputs, inputs], row by row) that the mask does not keep.
    ///
    /// # Errors
    /// When there are not as many weights as the mask covers; nothing is changed then.
    pub fn apply(&self, weights: &mut [f32]) -> Result<(), MaskError> {
        let expected = self.outputs * self.inputs;
        if weights.len() != expected {
            return Err(MaskError::Weights { expected, found: weights.len() });
        }
        self.fill_zeroed(weights, 0.0);
        Ok(())
    }

    /// One value a weight, [outputs, inputs], row by row: whether it is kept.
    pub fn expand(&self) -> Vec<bool> {
        let mut keep = vec![true; self.outputs * self.inputs];
        self.fill_zeroed(&mut keep, false);
        keep
    }

    fn fill_zeroed<T: Copy>(&self, weights: &mut [T], zero: T) {
        if self.granularity.block() == (1, 1) {
            for i in self.units.zeros() {
                weights[i] = zero;
            }
            return;
        }
        for (rows, cols) in self.zero_blocks() {
            for row in rows {
                weights[row * self.inputs..][cols.clone()].fill(zero);
            }
        }
    }

    /// Rows and columns of every zeroed unit.
    fn zero_blocks(&self) -> impl Iterator<Item = (std::ops::Range<usize>, std::ops::Range<usize>)> {
        let (rows, cols) = self.granularity.block();
        self.iter_zero_units().map(move |(row, col)| {
            let (top, left) = (row * rows, col * cols);
            (top..self.outputs.min(top.saturating_add(rows)), left..self.inputs.min(left.saturating_add(cols)))
        })
    }
}

#[cfg(test)]
mod tests;
