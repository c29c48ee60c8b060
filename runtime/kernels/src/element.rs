//! What weights are stored as, and how they are multiplied.

use std::fmt::Debug;

use half::bf16;

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

impl Element for bf16 {
    const INPUTS: usize = 1;
    const PANELS: &'static str = "panels32bf16";
    const MASKS: &'static str = f32::MASKS;

    type Lane = bf16;
    type Activation = f32;
    type Sum = f32;

    #[inline(always)]
    fn lanes(panels: &[bf16]) -> &[bf16] {
        panels
    }

    #[inline(always)]
    fn keep(lane: bf16, bits: u32) -> bf16 {
        bf16::from_bits(lane.to_bits() & 0u16.wrapping_sub((bits & 1) as u16))
    }

    #[inline(always)]
    fn multiply_add(sum: f32, activations: &[f32], lane: bf16) -> f32 {
        // Every bf16 is the upper half of an f32.
        sum + activations[0] * f32::from_bits(u32::from(lane.to_bits()) << 16)
    }
}

/// Weights are codes from -127 to 127, activations codes from 0 to 255, or numbers with a sign: codes less what the
/// instruction set takes ([`Isa::activation_zero`](super::Isa::activation_zero)), in the low bits. Products add up exactly, on every instruction set, as long as
/// there are no more than 30,000 inputs.
impl Element for i8 {
    const INPUTS: usize = 4;
    const PANELS: &'static str = "panels32x4int8";
    const MASKS: &'static str = "masks32x4";

    type Lane = [i8; 4];
    type Activation = u8;
    type Sum = i32;

    #[inline(always)]
    fn lanes(panels: &[i8]) -> &[[i8; 4]] {
        panels.as_chunks().0
    }

    #[inline(always)]
    fn keep(lane: [i8; 4], bits: u32) -> [i8; 4] {
        // Each of the four bits goes to the bottom of a byte, and fills it.
        let ones = ((bits & 0xf).wrapping_mul(0x0020_4081) & 0x0101_0101).wrapping_mul(0xff);
        (u32::from_le_bytes(lane.map(|weight| weight as u8)) & ones).to_le_bytes().map(|weight| weight as i8)
    }

    #[inline(always)]
    fn multiply_add(sum: i32, activations: &[u8], lane: [i8; 4]) -> i32 {
        let product = |(a, w): (&u8, i8)| i32::from(*a) * i32::from(w);
        sum + activations.iter().zip(lane).map(product).sum::<i32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NR;

    #[test]
    fn four_bits_keep_four_codes() {
        for bits in 0..64u32 {
            let kept = i8::keep([-1, 2, -3, 4], bits);
            let expected =
                [-1, 2, -3, 4].into_iter().enumerate().map(|(i, code)| if bits >> i & 1 == 1 { code } else { 0 });
            assert!(kept.into_iter().eq(expected), "{bits} {kept:?}");
        }
    }

    #[test]
    fn layouts_have_the_names_that_derived_files_were_always_called() {
        assert_eq!((f32::PANELS, f32::MASKS), ("panels32", "masks32"));
        assert_eq!((f32::PANELS, f32::MASKS), (&*format!("panels{NR}"), &*format!("masks{NR}")));
    }
}
