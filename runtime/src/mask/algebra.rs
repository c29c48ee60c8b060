//! Masks as sets of units: counting and comparing them.

use super::{Mask, MaskError};

impl Mask {
    /// The number of units that are zeroed.
    pub fn zero_units(&self) -> usize {
        self.units.zeros_in_both(&self.units, 0)
    }

    /// Unit row and unit column of every zeroed unit, row by row.
    pub fn iter_zero_units(&self) -> impl Iterator<Item = (usize, usize)> {
        let across = self.unit_cols();
        self.units.zeros().map(move |unit| (unit / across, unit % across))
    }

    /// The number of weights that are zeroed; units at an edge may hold fewer weights.
    pub fn zero_weights(&self) -> u64 {
        self.weights_zero_in_both(self)
    }

    /// The number of weights that both masks zero, without a third mask.
    ///
    /// # Errors
    /// When the masks differ in granularity or shape.
    pub fn zero_in_both(&self, other: &Mask) -> Result<u64, MaskError> {
        self.check_same_units(other)?;
        Ok(self.weights_zero_in_both(other))
    }

    fn weights_zero_in_both(&self, other: &Mask) -> u64 {
        let (down, across) = (self.unit_rows(), self.unit_cols());
        if down == 0 || across == 0 {
            return 0;
        }
        let (rows, cols) = self.granularity.block();
        // The size of the lowest and of the rightmost units, which may be smaller than a block.
        let (low, narrow) = (self.outputs - (down - 1) * rows, self.inputs - (across - 1) * cols);
        let zeros_from = |unit| self.units.zeros_in_both(&other.units, unit);
        let zero = |unit| !self.units.get(unit) && !other.units.get(unit);

        let all = zeros_from(0);
        let bottom = if low < rows { zeros_from((down - 1) * across) } else { 0 };
        let right = if narrow < cols { (1..=down).filter(|row| zero(row * across - 1)).count() } else { 0 };
        let corner = usize::from(low < rows && narrow < cols && zero(down * across - 1));
        // Each kind of unit times its size. Units that are there lie inside the tensor, so no
        // product is larger than its number of weights; the first factor is 0 for all others.
        let weights = |units: usize, rows: usize, cols: usize| units as u64 * rows as u64 * cols as u64;
        weights(all + corner - bottom - right, rows, cols)
            + weights(bottom - corner, low, cols)
            + weights(right - corner, rows, narrow)
            + weights(corner, low, narrow)
    }

    fn check_same_units(&self, other: &Mask) -> Result<(), MaskError> {
        let same =
            self.granularity == other.granularity && self.outputs == other.outputs && self.inputs == other.inputs;
        if same {
            return Ok(());
        }
        Err(MaskError::OtherUnits {
            granularity: [self.granularity, other.granularity],
            outputs: [self.outputs, other.outputs],
            inputs: [self.inputs, other.inputs],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::case;
    use super::super::{Granularity, MaskError};
    use super::*;

    /// Two masks over the same units, and the decisions that they were made from.
    fn pair() -> impl Strategy<Value = (Mask, Mask, Vec<(bool, bool)>)> {
        let second = case().prop_flat_map(|(g, outputs, inputs, keep)| {
            let other = prop::collection::vec(any::<bool>(), keep.len());
            (Just((g, outputs, inputs, keep)), other)
        });
        second.prop_map(|((g, outputs, inputs, keep), other)| {
            let mask = |keep: &[bool]| Mask::from_units(g, outputs, inputs, keep.iter().copied()).unwrap();
            (mask(&keep), mask(&other), keep.into_iter().zip(other).collect())
        })
    }

    proptest! {
        #[test]
        fn zeros_are_counted_as_bit_by_bit((a, b, keep) in pair()) {
            prop_assert_eq!(a.zero_units(), keep.iter().filter(|(a, _)| !a).count());
            let both = |(a, b): (&bool, &bool)| !a && !b;
            let weights = a.expand().iter().zip(&b.expand()).filter(|pair| both(*pair)).count();
            prop_assert_eq!(a.zero_in_both(&b).unwrap(), weights as u64);
            prop_assert_eq!(b.zero_in_both(&a).unwrap(), weights as u64);

            let mut zeros = Vec::new();
            for row in 0..a.unit_rows() {
                for col in 0..a.unit_cols() {
                    if !keep[row * a.unit_cols() + col].0 {
                        zeros.push((row, col));
                    }
                }
            }
            prop_assert_eq!(a.iter_zero_units().collect::<Vec<_>>(), zeros);
        }

        #[test]
        fn zeros_are_counted_from_any_unit_on((a, b, keep) in pair(), from: prop::sample::Index) {
            let from = from.index(keep.len() + 1);
            let expected = keep[from..].iter().filter(|(a, b)| !a && !b).count();
            prop_assert_eq!(a.units.zeros_in_both(&b.units, from), expected);
        }
    }

    #[test]
    fn masks_over_other_units_are_not_compared() {
        let block = Granularity::Block { rows: 2, cols: 1 };
        let mask = |g, outputs, inputs| Mask::keep_all(g, outputs, inputs).unwrap();
        let a = mask(block, 4, 6);
        for b in [mask(block, 6, 4), mask(block, 3, 6), mask(Granularity::Weight, 4, 6)] {
            assert!(matches!(a.zero_in_both(&b), Err(MaskError::OtherUnits { .. })));
        }
        let text = a.zero_in_both(&mask(Granularity::Weight, 5, 7)).unwrap_err().to_string();
        for part in ["block:2x1", "4 outputs by 6 inputs", "weight", "5 outputs by 7 inputs"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_huge_block_is_counted_by_the_weights_that_are_there() {
        let block = Granularity::Block { rows: u32::MAX, cols: u32::MAX };
        let one = Mask::from_units(block, 1 << 20, 1 << 25, std::iter::once(false)).unwrap();
        assert_eq!((one.zero_units(), one.zero_weights()), (1, 1 << 45));
        let side = (1 << 30) + 1;
        let block = Granularity::Block { rows: 1 << 30, cols: 1 << 30 };
        let four = Mask::from_units(block, side, side, std::iter::repeat_n(false, 4)).unwrap();
        assert_eq!(four.zero_weights(), (side * side) as u64);
    }
}
