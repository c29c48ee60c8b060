//! Kernels: products of activations with weights that are masked while they are read.
//!
//! Weights lie in [panels](Panels) of 32 outputs, masks in the same order ([`PanelMask`]), and so
//! do the [activations](Activations) that go in and come out. [`multiply`] makes one panel of a
//! product: it walks over its rows in tiles of a few, whose sums stay in registers, so that the
//! weights are read from memory once and then from the cache.
//!
//! | mask | what is done |
//! | --- | --- |
//! | none | every step |
//! | [`PanelMask::Steps`] | only the kept steps: a block that is zero costs nothing |
//! | [`PanelMask::Weights`], few rows, AVX-512 | the mask goes into the multiply-adds |
//! | [`PanelMask::Weights`] otherwise | the first tile masks the panel as it reads it and leaves it masked for the others |
//!
//! Each instruction set has a module; `portable` is the twin that the tests compare with.

#![allow(unsafe_code)]

mod activations;
mod avx2;
mod avx512;
mod isa;
mod multiply;
mod panels;
mod portable;

pub use activations::Activations;
pub use isa::{Isa, IsaError};
pub use multiply::{Scratch, multiply};
pub use panels::{NR, PanelMask, Panels, Units};

use activations::Tile;

/// Calls a kernel that takes the number of rows as a constant.
#[cfg(target_arch = "x86_64")]
macro_rules! by_rows {
    ($kernel:ident, $sums:expr, $args:tt, [$($rows:literal)*]) => {
        match $sums.len() {
            $($rows => by_rows!(@call $kernel, $rows, $sums, $args),)*
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
    (@call $kernel:ident, $rows:literal, $sums:expr, ($($arg:expr),*)) => {
        // SAFETY: the kernel needs instructions and nothing else; that the processor has them is
        // what the type says for which this is called.
        unsafe { $kernel::<$rows>($($arg,)* $sums) }
    };
}
#[cfg(target_arch = "x86_64")]
use by_rows;

/// One step of a panel, or one row of sums: a value for each of a panel's outputs.
pub type Row = [f32; NR];

/// One tile times a part of a panel.
#[derive(Clone, Copy)]
struct Part<'a> {
    /// The tile's activations.
    a: Tile<'a>,
    /// The steps.
    b: &'a [Row],
    /// What the sums start from; without it, they go on from what they are.
    bias: Option<&'a Row>,
    ahead: Ahead,
}

/// What a tile asks for while it works on weights that are in the cache: its share of those that
/// come next, so that memory is never idle and never waited for.
#[derive(Clone, Copy)]
struct Ahead {
    /// The first address; it may be past the end of everything.
    start: *const i8,
    /// Bytes a step.
    stride: usize,
}

/// What an instruction set does with a part; `sums` has a row for each of the tile's rows, to which
/// the products are added, step by step.
trait Kernel: Copy {
    /// The most rows of a tile.
    const MAX_ROWS: usize;

    /// Products of fewer rows than this mask each tile's multiply-adds; others mask a panel once.
    const MERGE_BELOW: usize = 0;

    /// Adds every step.
    fn dense(self, part: Part<'_>, sums: &mut [Row]);

    /// Adds the steps of the list, whose numbers are below `part.b.len()`.
    fn listed(self, part: Part<'_>, steps: &[u32], sums: &mut [Row]);

    /// Adds every step, with zeros where its mask has no bit.
    fn masked(self, part: Part<'_>, masks: &[u32], masked: &mut [Row], sums: &mut [Row]) {
        self.masking(part, masks, masked, sums);
    }

    /// The same, and leaves the masked steps in `masked`.
    fn masking(self, part: Part<'_>, masks: &[u32], masked: &mut [Row], sums: &mut [Row]) {
        portable::mask(part.b, masks, masked);
        self.dense(Part { b: masked, ..part }, sums);
    }

    /// Lists the kept steps, whose bits are set.
    fn kept(self, words: &[u32], steps: &mut Vec<u32>) {
        portable::kept(words, steps);
    }
}
