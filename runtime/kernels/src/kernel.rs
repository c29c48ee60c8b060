//! What an instruction set does: the innermost loops over a tile of rows and the steps of a panel.

use super::activations::Tile;
use super::{Affine, Element, NR, Row, codes};

/// Steps of a panel that are gone through at once: 48 kB of 32-bit lanes stay in the first-level
/// cache, or near it, while the tiles go over them. Whole panels of activations.
pub(super) const DEPTH: usize = 384;

/// Calls a kernel that takes the number of rows as a constant.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! by_rows {
    ($kernel:ident $(<$element:ident>)?, $sums:expr, $args:tt, $rows:tt) => {
        by_rows!(@match $kernel [$(, $element)?], $sums, $args, $rows)
    };
    (@match $kernel:ident $generics:tt, $sums:expr, $args:tt, [$($rows:literal)*]) => {
        match $sums.len() {
            $($rows => by_rows!(@call $kernel $rows $generics, $sums, $args),)*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
    (@call $kernel:ident $rows:literal [$($generics:tt)*], $sums:expr, ($($arg:expr),*)) => {
        // SAFETY: the kernel needs instructions and nothing else; that the processor has them is
        // what the type says for which this is called.
        unsafe { $kernel::<$rows $($generics)*>($($arg,)* $sums) }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) use by_rows;

/// Instructions that this processor has: a value is the proof.
pub(super) trait Instructions: Copy {
    /// The proof, if the processor has them. Nothing else gives one where the instructions are not
    /// those of every processor of its kind.
    fn detect() -> Option<Self>;

    /// Lists the kept steps, whose bits are set, as its [`Kernel::listed`] reads them.
    fn kept(self, words: &[u32], steps: &mut Vec<u32>) {
        kept(words, steps);
    }
}

/// The proof again: an [`Isa`](super::Isa) is a line of the table whose detection said yes.
pub(super) fn detected<I: Instructions>() -> I {
    I::detect().unwrap_or_else(|| unreachable!("instructions that were detected are gone"))
}

/// What is done around products of int8 codes: the plain loops, compiled for the instructions.
pub(super) trait Codes: Instructions {
    /// What is taken from an activation's code: 128 makes numbers with a sign, which is what NEON multiplies.
    const ACTIVATION_ZERO: u8 = 0;

    /// As [`codes::quantize`].
    fn quantize(self, from: &[&[Row]], inputs: usize, to: &mut [&mut [Row<u8>]], rows: &mut [Affine]) {
        codes::quantize(from, inputs, Self::ACTIVATION_ZERO, to, rows);
    }

    /// As [`codes::dequantize`].
    fn dequantize(self, sums: &[Row<i32>], rows: &[Affine], outputs: &Row, bias: Option<&Row>, to: &mut [Row]) {
        codes::dequantize(sums, rows, Self::ACTIVATION_ZERO, outputs, bias, to);
    }
}

/// One tile times some steps of a panel.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a, E: Element> {
    /// The tile's activations.
    pub(super) a: Tile<'a, E::Activation>,
    /// The steps.
    pub(super) b: &'a [Row<E::Lane>],
    /// What the sums start from; without it, they go on from what they are.
    pub(super) bias: Option<&'a Row<E::Sum>>,
    // Only kernels of x86 ask ahead: elsewhere the language has no stable way.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(super) ahead: Ahead,
}

/// What a tile asks for while it works on weights that are in the cache: its share of those that
/// come next, so that memory is never idle and never waited for.
#[derive(Clone, Copy)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) struct Ahead {
    /// The first address; it may be past the end of everything.
    pub(super) start: *const i8,
    /// Bytes a step.
    pub(super) stride: usize,
}

/// What an instruction set does with weights of an element; `sums` has a row for each of the tile's
/// rows, to which the products are added, step by step.
pub(super) trait Kernel<E: Element>: Instructions {
    /// The most rows of a tile.
    const MAX_ROWS: usize;

    /// Products of fewer rows than this mask each tile's multiply-adds; others mask a panel once.
    const MERGE_BELOW: usize = 0;

    /// Steps of a panel that are gone through at once where they are listed; it divides [`DEPTH`].
    const LISTED_DEPTH: usize = DEPTH;

    /// Whether activations are rounded to the weights' precision before they are multiplied.
    const ROUNDS: bool = false;

    /// Whether so many kept steps of all are listed in a product of so many rows; the others are taken for masked ones.
    fn lists(_kept: usize, _steps: usize, _rows: usize) -> bool {
        true
    }

    /// Adds every step.
    fn dense(self, operands: Operands<'_, E>, sums: &mut [Row<E::Sum>]);

    /// Adds the steps of the list that [`Instructions::kept`] made; their numbers are below `operands.b.len()`.
    fn listed(self, operands: Operands<'_, E>, steps: &[u32], sums: &mut [Row<E::Sum>]);

    /// Adds every step, with zeros where its mask has no bit; a step has [`Element::INPUTS`] words.
    fn masked(self, operands: Operands<'_, E>, masks: &[u32], masked: &mut [Row<E::Lane>], sums: &mut [Row<E::Sum>]) {
        self.masking(operands, masks, masked, sums);
    }

    /// The same, and leaves the masked steps in `masked`.
    fn masking(self, operands: Operands<'_, E>, masks: &[u32], masked: &mut [Row<E::Lane>], sums: &mut [Row<E::Sum>]) {
        mask::<E>(operands.b, masks, masked);
        self.dense(Operands { b: masked, ..operands }, sums);
    }
}

/// The steps with zeros where the masks have no bit.
pub(super) fn mask<E: Element>(b: &[Row<E::Lane>], masks: &[u32], masked: &mut [Row<E::Lane>]) {
    for ((step, mask), out) in b.iter().zip(masks.chunks_exact(E::INPUTS)).zip(masked) {
        for j in 0..NR {
            let bit = j * E::INPUTS;
            out[j] = E::keep(step[j], mask[bit / 32] >> (bit % 32));
        }
    }
}

/// The numbers of the set bits, from the first to the last.
pub(super) fn kept(words: &[u32], steps: &mut Vec<u32>) {
    steps.clear();
    for (i, word) in words.iter().enumerate() {
        let mut left = *word;
        while left != 0 {
            steps.push((32 * i) as u32 + left.trailing_zeros());
            left &= left - 1;
        }
    }
}
