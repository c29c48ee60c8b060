//! Attention: for each head and text, softmax(query · keyᵀ / √d) · value.

use std::ops::Range;

use overmask_kernels::{Activations, NR, PanelMask, Panels, Product, Row};
use rten_simd::SimdOp;

use super::budget::Stage;
use super::pass::{HeadMemory, Memory, Pass, by_rows};
use super::softmax::Softmax;

/// Where sums start that have no bias.
const ZEROS: Option<&Row> = Some(&[0.0; NR]);

/// Memory for heads that are not whole panels wide.
#[derive(Default)]
pub(super) struct Spread {
    projected: Vec<Row>,
    context: Vec<Row>,
}

impl Pass<'_> {
    /// From query, key and value to the context, all in panels.
    pub(super) fn attention(
        &self,
        qkv: &[Row],
        texts: &[Range<usize>],
        rows: usize,
        spread: &mut Spread,
        out: &mut Vec<Row>,
    ) {
        let (width, heads) = (self.width(), self.heads());
        let d = width / heads;
        let panels = width.div_ceil(NR);
        out.resize(panels * rows, [0.0; NR]);
        if d.is_multiple_of(NR) {
            return self.of_heads(qkv, texts, rows, out);
        }
        // A head's columns are moved to the start of a panel, and back.
        let of_head = d.div_ceil(NR) * NR;
        let Spread { projected, context } = spread;
        projected.clear();
        projected.resize(3 * heads * of_head / NR * rows, [0.0; NR]);
        context.resize(heads * of_head / NR * rows, [0.0; NR]);
        for (from, to) in qkv.chunks_exact(panels * rows).zip(projected.chunks_exact_mut(context.len())) {
            move_columns(from, to, rows, (0..width).map(|j| (j, j / d * of_head + j % d)));
        }
        self.of_heads(projected, texts, rows, context);
        move_columns(context, out, rows, (0..width).map(|j| (j / d * of_head + j % d, j)));
    }

    /// The same for heads that start with a panel.
    fn of_heads(&self, qkv: &[Row], texts: &[Range<usize>], rows: usize, out: &mut [Row]) {
        let panels = out.len() / rows / self.heads();
        let [query, key, value] = [0, 1, 2].map(|i| &qkv[i * out.len()..][..out.len()]);
        let mut parts = Vec::new();
        for (head, out) in out.chunks_exact_mut(panels * rows).enumerate() {
            let of_head = head * panels * rows..(head + 1) * panels * rows;
            let qkv = [&query[of_head.clone()], &key[of_head.clone()], &value[of_head]];
            let outs = by_rows(out, rows, texts);
            parts.extend(texts.iter().zip(outs).map(|(text, out)| (qkv, text, out)));
        }
        self.each(parts, |(qkv, text, out), memory| self.head(qkv, text, rows, memory, out));
    }

    /// One head of a text; query, key and value are the head's panels, with the rows of all texts.
    fn head(&self, qkv: [&[Row]; 3], text: &Range<usize>, rows: usize, memory: &mut Memory, mut out: Vec<&mut [Row]>) {
        let [query, key, value] = qkv;
        let Memory { f32: scratch, row: factors, head: HeadMemory { keys, scores }, .. } = memory;
        let (d, length) = (self.width() / self.heads(), text.len());
        let of_text = |panel: usize, values| &<[Row]>::as_ref(values)[panel * rows + text.start..][..length];
        self.timed(Stage::Attention, || {
            // Keys become a weight of `length` outputs and d inputs.
            keys.resize(Panels::<f32>::packed_len(length, d), 0.0);
            for (panel, steps) in keys.as_chunks_mut().0.chunks_exact_mut(d).enumerate() {
                for (part, steps) in steps.chunks_mut(NR).enumerate() {
                    let rows = of_text(part, key);
                    transpose(&rows[panel * NR..], steps);
                }
            }
            let weight = Panels::new(keys, length, d);
            let activations = Activations::new(query, rows, d).of_rows(text.clone());
            scores.resize(weight.len() * length, [0.0; NR]);
            for (panel, scores) in scores.chunks_exact_mut(length).enumerate() {
                let product = Product { activations, weight, mask: PanelMask::Dense, panel, bias: ZEROS };
                product.run(self.isa, scratch, scores);
            }
        });
        factors.resize(length, 0.0);
        let scale = 1.0 / (d as f32).sqrt();
        self.timed(Stage::Softmax, || Softmax { scale, scores, tokens: length, factors }.dispatch());
        self.timed(Stage::Attention, || {
            let activations = Activations::new(scores, length, length);
            for (panel, out) in out.iter_mut().enumerate() {
                // Values, row by row, are a weight of 32 outputs and `length` inputs as they lie.
                let weight = Panels::new(of_text(panel, value).as_flattened(), NR, length);
                let product = Product { activations, weight, mask: PanelMask::Dense, panel: 0, bias: ZEROS };
                product.run(self.isa, scratch, out);
                for (row, factor) in out.iter_mut().zip(&*factors) {
                    row.iter_mut().for_each(|value| *value *= factor);
                }
            }
        });
    }
}

/// The first 32 rows, or so many as there are, as columns; the other columns keep what they have.
fn transpose(rows: &[Row], steps: &mut [Row]) {
    let rows = &rows[..rows.len().min(NR)];
    let (fours, rest) = rows.as_chunks::<4>();
    // Four values are stored at once.
    for (j, [a, b, c, d]) in fours.iter().enumerate() {
        for (k, step) in steps.iter_mut().enumerate().take(NR) {
            step[4 * j..4 * j + 4].copy_from_slice(&[a[k], b[k], c[k], d[k]]);
        }
    }
    for (j, row) in rest.iter().enumerate() {
        for (step, value) in steps.iter_mut().zip(row) {
            step[4 * fours.len() + j] = *value;
        }
    }
}

/// Moves columns of values in panels.
fn move_columns(from: &[Row], to: &mut [Row], rows: usize, columns: impl Iterator<Item = (usize, usize)>) {
    for (a, b) in columns {
        for row in 0..rows {
            to[b / NR * rows + row][b % NR] = from[a / NR * rows + row][a % NR];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        for count in [0, 1, 4, 7, 32, 40] {
            let rows: Vec<Row> = (0..count).map(|i| std::array::from_fn(|j| (100 * i + j) as f32)).collect();
            let mut steps = vec![[-1.0; NR]; 20];
            transpose(&rows, &mut steps);
            for (k, step) in steps.iter().enumerate() {
                for (j, value) in step.iter().enumerate() {
                    assert_eq!(*value, if j < count { (100 * j + k) as f32 } else { -1.0 });
                }
            }
        }
    }

    #[test]
    fn columns_are_moved_and_back() {
        // Two heads of 20 in two panels; in four when each starts with one.
        let from: Vec<Row> = (0..6).map(|i| std::array::from_fn(|j| (100 * i + j) as f32)).collect();
        let mut spread = vec![[0.0; NR]; 2 * 3];
        let places = (0..40).map(|j| (j, j / 20 * 32 + j % 20));
        move_columns(&from, &mut spread, 3, places.clone());
        assert_eq!(spread[3 + 1][0], from[1][20]);
        assert_eq!(spread[3 + 1][12], from[3 + 1][0]);
        let mut back = vec![[0.0; NR]; 6];
        move_columns(&spread, &mut back, 3, places.map(|(a, b)| (b, a)));
        for (found, expected) in back.iter().zip(&from).take(3) {
            assert_eq!(found, expected);
        }
    }
}
