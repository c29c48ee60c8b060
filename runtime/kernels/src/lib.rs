//! Kernels: products of activations with weights that are masked while they are read.
//!
//! Weights lie in [panels](Panels) of 32 outputs, masks in the same order ([`PanelMask`]), and so
//! do the [activations](Activations) that go in and come out. A [`Product`] is one panel of a
//! product: it walks over its rows in tiles of a few, whose sums stay in registers, so that the
//! weights are read from memory once and then from the cache.
//!
//! | mask | what is done |
//! | --- | --- |
//! | none | every step |
//! | [`PanelMask::Steps`] | only the kept steps: a block that is zero costs nothing; where nearly all are kept, as below |
//! | [`PanelMask::Weights`] and [`PanelMask::Inputs`], few rows, AVX-512, no int8 | the mask goes into the multiply-adds |
//! | both otherwise | the first tile masks the panel as it reads it and leaves it masked for the others |
//!
//! Elements are f32, bf16, which becomes f32 when it is loaded or is multiplied with activations that are rounded to bf16
//! ([`Isa::rounds`]), and int8, whose activations are codes as well, with a scale and a zero of their own for each row
//! ([`Isa::quantize`], [`Isa::dequantize`]).
//!
//! Two things vary, each in one place; the loop over the tiles is written once for all of them:
//!
//! - An [`Element`] is what weights are stored as: how many inputs share a step, what the layouts of
//!   panels and masks are called, how it is multiplied. The portable kernels work for every element.
//!   A new one is an implementation of [`Element`], a field of `isa::InstructionSet` ([`Tabled`]), and
//!   its `Kernel` for the instruction sets that can do better.
//! - An instruction set ([`Isa`]) is a file with its kernels and a line of the table in `isa`;
//!   `portable` is the twin that the tests compare with.

mod activations;
mod avx2;
mod avx512;
mod codes;
mod element;
mod isa;
mod kernel;
mod neon;
mod panels;
mod portable;
mod product;

pub use activations::Activations;
pub use codes::Affine;
pub use element::Element;
pub use isa::{Isa, IsaError, Tabled};
pub use panels::{NR, PanelMask, Panels, Units};
pub use product::{Product, Scratch};

/// A value for each of a panel's outputs: a row of sums, a row of activations, a step's weights.
pub type Row<T = f32> = [T; NR];
