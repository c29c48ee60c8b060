//! The activations of a product, in panels like the weights.

use std::ops::Range;

use super::{NR, Row};

/// Activations [inputs / [`NR`], rows, [`NR`]]: what a [`Product`](super::Product) gives for one
/// panel after the other. The last panel may hold fewer inputs; what lies behind them is not read,
/// but for the rest of a step, which is multiplied with zeros.
#[derive(Debug, Clone, Copy)]
pub struct Activations<'a, T = f32> {
    values: &'a [Row<T>],
    /// Rows from one panel to the next.
    stride: usize,
    /// Those of each panel that belong to the product.
    rows: (usize, usize),
    inputs: usize,
}

impl<'a, T: Copy> Activations<'a, T> {
    /// All rows of some panels.
    ///
    /// # Panics
    /// When there are not as many values.
    pub fn new(values: &'a [Row<T>], rows: usize, inputs: usize) -> Self {
        assert_eq!(values.len(), rows * inputs.div_ceil(NR));
        Activations { values, stride: rows, rows: (0, rows), inputs }
    }

    /// Only some of the rows.
    ///
    /// # Panics
    /// When there are no such rows.
    pub fn of_rows(self, rows: Range<usize>) -> Self {
        let (first, end) = self.rows;
        assert!(rows.start <= rows.end && rows.end <= end - first);
        Activations { rows: (first + rows.start, first + rows.end), ..self }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows.1 - self.rows.0
    }

    /// Values of a row.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Some rows, from an input on that starts a panel.
    pub(super) fn tile(&self, first: usize, input: usize) -> Tile<'a, T> {
        let start = input / NR * self.stride + self.rows.0 + first;
        Tile { values: &self.values[start.min(self.values.len())..], stride: self.stride }
    }
}

/// A few rows of activations from some input on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile<'a, T> {
    values: &'a [Row<T>],
    stride: usize,
}

impl<'a, T> Tile<'a, T> {
    /// The tile without its first rows.
    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    pub(super) fn rows_from(self, row: usize) -> Self {
        Tile { values: &self.values[row..], stride: self.stride }
    }

    /// The first row, and the rows from one panel to the next: so many rows of all steps up to the last one are there.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn steps(self, last: usize, rows: usize) -> (*const Row<T>, usize) {
        // Panels lie one after the other.
        assert!(last / NR * self.stride + rows <= self.values.len());
        (self.values.as_ptr(), self.stride)
    }

    /// The panel with this number, for so many rows.
    #[inline(always)]
    pub(super) fn panel(self, panel: usize, rows: usize) -> &'a [Row<T>] {
        &self.values[panel * self.stride..][..rows]
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
    fn a_tile_starts_at_its_row_in_every_panel() {
        // Two panels of five rows; a value tells its panel and its row.
        let values: Vec<Row> = (0..10).map(|i| [i as f32; NR]).collect();
        let all = Activations::new(&values, 5, 40);
        let tile = all.of_rows(1..4).tile(1, 0);
        let found: Vec<f32> = (0..2).flat_map(|panel| tile.panel(panel, 2)).map(|row| row[0]).collect();
        assert_eq!(found, [2.0, 3.0, 7.0, 8.0]);
        assert_eq!(all.tile(0, NR).panel(0, 1)[0][0], 5.0);
        assert_eq!((all.of_rows(1..4).rows(), all.inputs()), (3, 40));
    }
}
