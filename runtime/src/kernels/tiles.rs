//! The activations of a product, packed into tiles of a few rows.

/// Activations [rows, inputs] in tiles: each tile holds, for one input after the other, the values
/// of its rows side by side.
#[derive(Debug, Default)]
pub struct Tiles {
    data: Vec<f32>,
    rows: usize,
    inputs: usize,
}

impl Tiles {
    /// Packs activations [inputs / width, rows, width]: `width` is `inputs` for values row by row,
    /// [`NR`](super::NR) for what [`super::multiply`] gives. The memory of the last packing is used again.
    ///
    /// # Panics
    /// When `values` has fewer values than that.
    pub(super) fn pack(&mut self, values: &[f32], rows: usize, inputs: usize, width: usize, max_rows: usize) {
        assert!(inputs.is_multiple_of(width) || inputs < width, "{inputs} inputs in parts of {width}");
        (self.rows, self.inputs) = (rows, inputs);
        self.data.resize(rows * inputs, 0.0);
        for (first, height) in split(rows, max_rows) {
            let tile = &mut self.data[first * inputs..][..height * inputs];
            for (part, steps) in tile.chunks_mut(height * width).enumerate() {
                for r in 0..height {
                    let row = &values[(part * rows + first + r) * width..][..width];
                    for (value, step) in row.iter().zip(steps.chunks_exact_mut(height)) {
                        step[r] = *value;
                    }
                }
            }
        }
    }

    /// Number of rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Values of a row.
    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// The values [steps, height] of a tile for the inputs of a range.
    pub(super) fn tile(&self, first: usize, height: usize, inputs: std::ops::Range<usize>) -> &[f32] {
        &self.data[first * self.inputs + inputs.start * height..first * self.inputs + inputs.end * height]
    }
}

/// The first row and the height of each tile: as few tiles as may be, all about as high.
pub(super) fn split(rows: usize, max_rows: usize) -> impl ExactSizeIterator<Item = (usize, usize)> {
    let tiles = rows.div_ceil(max_rows);
    (0..tiles).map(move |tile| {
        let (low, higher) = (rows / tiles, rows % tiles);
        (tile * low + tile.min(higher), low + usize::from(tile < higher))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_about_as_high_and_cover_every_row() {
        for rows in 0..100 {
            let tiles: Vec<_> = split(rows, 14).collect();
            assert_eq!(tiles.len(), rows.div_ceil(14));
            let mut next = 0;
            for (first, height) in &tiles {
                assert_eq!(*first, next);
                assert!((1..=14).contains(height) && *height >= rows / tiles.len());
                next += height;
            }
            assert_eq!(next, rows);
        }
    }

    #[test]
    fn a_tile_holds_its_rows_side_by_side() {
        let values: Vec<f32> = (0..40).map(|i| i as f32).collect();
        let mut tiles = Tiles::default();
        // Only three of each row's eight.
        tiles.pack(&values, 5, 3, 8, 4);
        assert_eq!(tiles.tile(0, 3, 0..3), [0.0, 8.0, 16.0, 1.0, 9.0, 17.0, 2.0, 10.0, 18.0]);
        assert_eq!(tiles.tile(3, 2, 1..2), [25.0, 33.0]);
        // Two parts of four.
        tiles.pack(&values, 5, 8, 4, 8);
        assert_eq!(tiles.tile(0, 5, 4..5), [20.0, 24.0, 28.0, 32.0, 36.0]);
    }
}
