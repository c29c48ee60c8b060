//! Kernels: products of activations with weights that are masked while they are read.
//!
//! Weights lie in [panels](Panels) of 32 outputs, masks in the same order ([`PanelMask`]); the
//! activations of a product are packed into [tiles](Tiles) of a few rows. [`multiply`] runs over
//! the panels: for each it walks the tiles, so that a panel is read from memory once and then
//! stays in the cache. What happens to the sums (bias, activation) is the caller's, who is handed
//! each finished panel.
//!
//! | mask | what is done |
//! | --- | --- |
//! | none | every step |
//! | [`PanelMask::Steps`] | only the kept steps: a block that is zero costs nothing |
//! | [`PanelMask::Weights`] | the first tile masks the panel as it reads it and leaves it masked for the others |
//!
//! Each instruction set has a module; `portable` is the twin that the tests compare with.

mod avx2;
mod avx512;
mod isa;
mod multiply;
mod panels;
mod portable;
mod tiles;

pub use isa::{Isa, IsaError};
pub use multiply::{Scratch, multiply};
pub use panels::{NR, PanelMask, Panels};
pub use tiles::Tiles;

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

/// What an instruction set does with a tile and (a part of) a panel.
///
/// `a` holds the tile's activations, [steps, rows]; `b` the panel's steps; `sums` a row of sums for
/// each of the tile's rows, to which the products are added, step by step.
trait Kernel: Copy {
    /// The most rows of a tile.
    const MAX_ROWS: usize;

    /// Products of fewer rows than this mask each tile's multiply-adds; others mask a panel once.
    const MERGE_BELOW: usize = 0;

    /// Adds every step.
    fn dense(self, a: &[f32], b: &[Row], sums: &mut [Row]);

    /// Adds the steps of the list, whose numbers are below `b.len()`.
    fn listed(self, a: &[f32], b: &[Row], steps: &[u32], sums: &mut [Row]);

    /// Adds every step, with zeros where its mask has no bit.
    fn masked(self, a: &[f32], b: &[Row], masks: &[u32], masked: &mut [Row], sums: &mut [Row]) {
        self.masking(a, b, masks, masked, sums);
    }

    /// The same, and leaves the masked steps in `masked`.
    fn masking(self, a: &[f32], b: &[Row], masks: &[u32], masked: &mut [Row], sums: &mut [Row]) {
        portable::mask(b, masks, masked);
        self.dense(a, masked, sums);
    }
}
