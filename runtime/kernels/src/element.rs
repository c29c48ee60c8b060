//! What weights are stored as, and how they are multiplied.

use std::fmt::Debug;

/// A type that weights are stored as.
///
/// [`Self::INPUTS`] says how they lie: a *step* of a panel holds as many inputs of each of its
/// outputs, those of one output side by side (its *lane*), and a mask's bits lie as the panel's
/// weights do. Instructions that multiply and add the pairs or fours of a lane find them in place.
///
/// Products are for elements that have kernels in the table of instruction sets: [`Tabled`](super::Tabled).
pub trait Element: Copy + Debug + Default + Send + Sync + 'static {
    /// Inputs that share a step; it divides 32.
    const INPUTS: usize;

    /// The layout of [`Panels`](super::Panels), in the names of files: another layout has another name.
    const PANELS: &'static str;

    /// The layout of [`PanelMask`](super::PanelMask), in the names of files.
    const MASKS: &'static str;

    /// The weights of one output that share a step: [`Self::INPUTS`] of them, the first input first.
    type Lane: Copy + Debug + Default;

    /// What these weights are multiplied with.
    type Activation: Copy + Debug;

    /// What the products are added up in.
    type Sum: Copy + Debug;

    /// Panels as lanes; there are whole ones.
    fn lanes(panels: &[Self]) -> &[Self::Lane];

    /// The lane with zeros where a bit is 0; the lowest [`Self::INPUTS`] bits are its weights', the
    /// others are of others.
    fn keep(lane: Self::Lane, bits: u32) -> Self::Lane;

    /// Adds the products of a lane's weights with as many activations, the twin of what
    /// instructions do.
    fn multiply_add(sum: Self::Sum, activations: &[Self::Activation], lane: Self::Lane) -> Self::Sum;
}

impl Element for f32 {
    const INPUTS: usize = 1;
    const PANELS: &'static str = "panels32";
    const MASKS: &'static str = "masks32";

    type Lane = f32;
    type Activation = f32;
    type Sum = f32;

    #[inline(always)]
    fn lanes(panels: &[f32]) -> &[f32] {
        panels
    }

    #[inline(always)]
    fn keep(lane: f32, bits: u32) -> f32 {
        // All ones or all zeros: no branch, which the compiler vectorises.
        f32::from_bits(lane.to_bits() & 0u32.wrapping_sub(bits & 1))
    }

    #[inline(always)]
    fn multiply_add(sum: f32, activations: &[f32], lane: f32) -> f32 {
        sum + activations[0] * lane
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NR;

    #[test]
    fn layouts_have_the_names_that_derived_files_were_always_called() {
        assert_eq!((f32::PANELS, f32::MASKS), ("panels32", "masks32"));
        assert_eq!((f32::PANELS, f32::MASKS), (&*format!("panels{NR}"), &*format!("masks{NR}")));
    }
}
