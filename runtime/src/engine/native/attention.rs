//! Attention: for each head and text, softmax(query · keyᵀ / √d) · value.

use std::ops::Range;

use overmask_kernels::{Activations, NR, PanelMask, Panels, Product, Row};
use rten_simd::SimdOp;

use super::budget::Stage;
use super::distances::Distances;
use super::pass::{HeadMemory, Memory, Pass, by_rows};
use super::schedule::Step;
use super::softmax::Softmax;

/// Where sums start that have no bias.
const ZEROS: Option<&Row> = Some(&[0.0; NR]);

/// Memory for heads that are not whole panels wide.
#[derive(Default)]
pub(super) struct Spread {
    projected: Vec<Row>,
    context: Vec<Row>,
}

/// Queries whose scores are there at once: those of a long text take memory by their number times the text's length.
const QUERIES: usize = 256;

/// A text on its way through a layer.
struct Text<'a> {
    rows: Range<usize>,
    /// What its task adds to scores.
    distances: Option<&'a Distances>,
}

/// A head's panels of query, key and value, with the rows of all texts.
#[derive(Clone, Copy)]
struct Head<'a> {
    number: usize,
    qkv: [&'a [Row]; 3],
    rows: usize,
}

impl Pass<'_> {
    /// From query, key and value to the context, all in panels; tasks may add something for distances.
    pub(super) fn attention<'m>(
        &self,
        step: &Step,
        distances: impl Fn(usize) -> Option<&'m Distances>,
        qkv: &[Row],
        spread: &mut Spread,
        out: &mut Vec<Row>,
    ) {
        let (width, heads, rows) = (self.width(), self.heads(), step.rows());
        let texts: Vec<Text<'_>> = step
            .groups
            .iter()
            .flat_map(|group| step.streams_of(group).map(|stream| (&stream.rows, distances(group.task))))
            .map(|(rows, distances)| Text { rows: rows.clone(), distances })
            .collect();
        let d = width / heads;
        let panels = width.div_ceil(NR);
        out.resize(panels * rows, [0.0; NR]);
        if d.is_multiple_of(NR) {
            return self.of_heads(qkv, &texts, rows, out);
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
        self.of_heads(projected, &texts, rows, context);
        move_columns(context, out, rows, (0..width).map(|j| (j / d * of_head + j % d, j)));
    }

    /// The same for heads that start with a panel.
    fn of_heads(&self, qkv: &[Row], texts: &[Text<'_>], rows: usize, out: &mut [Row]) {
        let panels = out.len() / rows / self.heads();
        let [query, key, value] = [0, 1, 2].map(|i| &qkv[i * out.len()..][..out.len()]);
        let of_texts: Vec<Range<usize>> = texts.iter().map(|text| text.rows.clone()).collect();
        // Few texts give no work for each thread.
        let threads = self.pool.threads();
        let by_text = texts.len() > threads;
        let mut parts = Vec::new();
        for (number, out) in out.chunks_exact_mut(panels * rows).enumerate() {
            let of_head = number * panels * rows..(number + 1) * panels * rows;
            let qkv = [&query[of_head.clone()], &key[of_head.clone()], &value[of_head]];
            let outs = by_rows(out, rows, &of_texts);
            let lane = |text: &Text<'_>| by_text.then(|| text.rows.start * threads / rows);
            parts.extend(
                texts.iter().zip(outs).map(|(text, out)| (lane(text), (Head { number, qkv, rows }, text, out))),
            );
        }
        self.each(parts, |(head, text, out), memory| self.head(head, text, memory, out));
    }

    /// One head of a text.
    fn head(&self, head: Head<'_>, text: &Text<'_>, memory: &mut Memory, mut out: Vec<&mut [Row]>) {
        let Head { number, qkv: [query, key, value], rows } = head;
        let Text { rows: of_text, distances } = text;
        let Memory { f32: scratch, row: factors, head: HeadMemory { keys, scores }, .. } = memory;
        let (d, length) = (self.width() / self.heads(), of_text.len());
        let in_text = |panel: usize, values| &<[Row]>::as_ref(values)[panel * rows + of_text.start..][..length];
        self.timed(Stage::Attention, || {
            // Keys become a weight of `length` outputs and d inputs.
            keys.resize(Panels::<f32>::packed_len(length, d), 0.0);
            for (panel, steps) in keys.as_chunks_mut().0.chunks_exact_mut(d).enumerate() {
                for (part, steps) in steps.chunks_mut(NR).enumerate() {
                    let rows = in_text(part, key);
                    transpose(&rows[panel * NR..], steps);
                }
            }
        });
        let keys = Panels::new(keys, length, d);
        let scale = 1.0 / (d as f32).sqrt();
        for start in (0..length).step_by(QUERIES) {
            let queries = start..length.min(start + QUERIES);
            // Of long texts, distances may leave only some keys: whole panels, up to the last one.
            let seen = distances.map_or(0..length, |distances| distances.reach(&queries, length));
            let (first, count) = (seen.start / NR, seen.end - seen.start / NR * NR);
            scores.resize(count.div_ceil(NR) * queries.len(), [0.0; NR]);
            self.timed(Stage::Attention, || {
                let these = of_text.start + queries.start..of_text.start + queries.end;
                let activations = Activations::new(query, rows, d).of_rows(these);
                for (panel, scores) in (first..).zip(scores.chunks_exact_mut(queries.len())) {
                    let product = Product { activations, weight: keys, mask: PanelMask::Dense, panel, bias: ZEROS };
                    product.run(self.isa, scratch, scores);
                }
            });
            factors.resize(queries.len(), 0.0);
            self.timed(Stage::Softmax, || {
                if let Some(distances) = distances {
                    for (panel, scores) in (first..).zip(scores.chunks_exact_mut(queries.len())) {
                        let rows = queries.clone().zip(scores);
                        rows.for_each(|(query, row)| distances.add(number, query, panel * NR, row));
                    }
                }
                Softmax { scale, scores, tokens: count, factors }.dispatch();
            });
            self.timed(Stage::Attention, || {
                let activations = Activations::new(scores, queries.len(), count);
                for (panel, out) in out.iter_mut().enumerate() {
                    // Values, row by row, are a weight of 32 outputs and `count` inputs as they lie.
                    let values = &in_text(panel, value)[first * NR..][..count];
                    let weight = Panels::new(values.as_flattened(), NR, count);
                    let product = Product { activations, weight, mask: PanelMask::Dense, panel: 0, bias: ZEROS };
                    let out = &mut out[queries.clone()];
                    product.run(self.isa, scratch, out);
                    for (row, factor) in out.iter_mut().zip(&*factors) {
                        row.iter_mut().for_each(|value| *value *= factor);
                    }
                }
            });
        }
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
