//! The forward pass over the tokens of a batch, without padding.
//!
//! What a product gives lies in panels, [panels, tokens, 32]; what norms and residuals work on lies
//! row by row, [tokens, width].

use rayon::prelude::*;
use rten_simd::{SimdOp, SimdUnaryOp};
use rten_vecmath::{Gelu, Normalize, NormalizeOptions, Softmax, Sum, SumSquareSub};

use super::model::{Layer, Linear, Model, Norm};
use crate::base::Base;
use crate::engine::{EngineError, TokenBatch};
use crate::kernels::{Isa, NR, PanelMask, Panels, Row, Scratch, Tiles, multiply};

/// What is added to the attention score of a token that is masked out: exp() of it is 0.
const MASKED: f32 = -1e9;

/// Memory of a pass that the next one uses again.
#[derive(Default)]
pub(super) struct Workspace {
    tiles: Tiles,
    /// Products: query, key and value; context by head; what the others give.
    projected: [Vec<Row>; 3],
    context: Vec<f32>,
    product: Vec<Row>,
}

/// A text's tokens within the batch.
struct Text {
    /// Its first row.
    first: usize,
    length: usize,
    /// Whether each token is attended to; empty if all are.
    masked: Vec<bool>,
}

/// What all parts of a pass need.
struct Pass<'a> {
    model: &'a Model,
    masks: &'a [PanelMask],
    isa: Isa,
    rows: usize,
    texts: Vec<Text>,
}

/// Runs the encoder; the vectors are [batch, sequence, width], zeros at padding.
pub(super) fn run(
    model: &Model,
    base: &Base,
    masks: &[PanelMask],
    isa: Isa,
    batch: &TokenBatch,
    work: &mut Workspace,
) -> Result<Vec<f32>, EngineError> {
    let mut texts: Vec<Text> = Vec::new();
    let mut rows = 0;
    for row in 0..batch.batch {
        let length = batch.row_length(row);
        let mask = &batch.attention_mask[row * batch.sequence..][..length];
        let masked = if mask.contains(&0) { mask.iter().map(|m| *m == 0).collect() } else { Vec::new() };
        texts.push(Text { first: rows, length, masked });
        rows += length;
    }
    let mut x = embed(model, base, batch, &texts, rows)?;
    let pass = Pass { model, masks, isa, rows, texts };
    norm(&model.norm, model.epsilon, &mut x);
    for layer in &model.layers {
        pass.layer(layer, &mut x, work);
    }
    let mut hidden = vec![0.0; batch.batch * batch.sequence * model.width];
    for (text, out) in pass.texts.iter().zip(hidden.chunks_exact_mut(batch.sequence * model.width)) {
        let values = &x[text.first * model.width..][..text.length * model.width];
        out[..values.len()].copy_from_slice(values);
    }
    Ok(hidden)
}

/// Sums of token, position and segment embeddings, [tokens, width].
fn embed(model: &Model, base: &Base, batch: &TokenBatch, texts: &[Text], rows: usize) -> Result<Vec<f32>, EngineError> {
    let (width, (_, words), (_, positions)) =
        (model.width, base.tensor_f32(&model.words)?, base.tensor_f32(&model.positions)?);
    let mut x = Vec::with_capacity(rows * width);
    for (i, text) in texts.iter().enumerate() {
        let ids = &batch.input_ids[i * batch.sequence..][..text.length];
        // Numbers of tokens and positions were checked against the tables.
        for (id, position) in ids.iter().zip(positions.chunks_exact(width)) {
            let word = &words[*id as usize * width..][..width];
            x.extend(word.iter().zip(&model.segment).zip(position).map(|((w, s), p)| w + s + p));
        }
    }
    Ok(x)
}

impl Pass<'_> {
    fn layer(&self, layer: &Layer, x: &mut [f32], work: &mut Workspace) {
        let width = self.model.width;
        let Workspace { tiles, projected, context, product } = work;
        self.isa.pack(x, self.rows, width, width, tiles);
        for (linear, out) in [&layer.query, &layer.key, &layer.value].into_iter().zip(&mut *projected) {
            self.linear(linear, tiles, out, false);
        }
        self.attention(projected, context);
        self.isa.pack(context, self.rows, width, width / self.model.heads, tiles);
        self.linear(&layer.attended, tiles, product, false);
        self.add_and_norm(product, &layer.attention_norm, x);
        self.isa.pack(x, self.rows, width, width, tiles);
        self.linear(&layer.intermediate, tiles, product, true);
        self.isa.pack(product.as_flattened(), self.rows, layer.output.panels(&self.model.packed).inputs(), NR, tiles);
        // The tiles hold what `product` held.
        self.linear(&layer.output, tiles, product, false);
        self.add_and_norm(product, &layer.output_norm, x);
    }

    /// A product with bias, and GELU if asked for, in panels.
    fn linear(&self, linear: &Linear, tiles: &Tiles, out: &mut Vec<Row>, gelu: bool) {
        let panels = linear.panels(&self.model.packed);
        // A few parts for each thread even out what takes longer.
        let parts = match rayon::current_num_threads() {
            1 => 1,
            threads => threads * 2,
        };
        let part = panels.len().div_ceil(parts).max(1);
        out.resize(panels.len() * self.rows, [0.0; NR]);
        let mask = &self.masks[linear.index];
        out.par_chunks_mut(part * self.rows).enumerate().for_each_init(Scratch::default, |scratch, (i, out)| {
            multiply(self.isa, tiles, panels, mask, i * part, out, scratch, |panel, rows| {
                let bias = &linear.bias[panel * NR..][..NR];
                for row in &mut *rows {
                    row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
                }
                if gelu {
                    Gelu {}.map_mut(rows.as_flattened_mut());
                }
            });
        });
    }

    /// Softmax(query · keyᵀ / √d) · value for each head and text; `context` is [heads, tokens, d].
    fn attention(&self, [query, key, value]: &[Vec<Row>; 3], context: &mut Vec<f32>) {
        let d = self.model.width / self.model.heads;
        context.resize(self.rows * self.model.width, 0.0);
        context.par_chunks_mut(self.rows * d).enumerate().for_each_init(Attention::default, |work, (head, context)| {
            for text in &self.texts {
                let out = &mut context[text.first * d..][..text.length * d];
                self.one_attention(text, head * d, d, [query, key, value], work, out);
            }
        });
    }

    fn one_attention(
        &self,
        text: &Text,
        column: usize,
        d: usize,
        [query, key, value]: [&Vec<Row>; 3],
        work: &mut Attention,
        out: &mut [f32],
    ) {
        let length = text.length;
        let at = |panels: &Vec<Row>, row: usize, j: usize| {
            let c = column + j;
            panels[c / NR * self.rows + text.first + row][c % NR]
        };
        let Attention { rows, keys, values, scores, weights, tiles, scratch, product } = work;
        // Queries row by row, scaled.
        let scale = 1.0 / (d as f32).sqrt();
        rows.clear();
        for row in 0..length {
            rows.extend((0..d).map(|j| at(query, row, j) * scale));
        }
        // Keys are a weight of `length` outputs and d inputs.
        keys.clear();
        keys.resize(Panels::packed_len(length, d), 0.0);
        for row in 0..length {
            let panel = &mut keys[row / NR * NR * d..];
            for j in 0..d {
                panel[j * NR + row % NR] = at(key, row, j);
            }
        }
        let panels = Panels::new(keys, length, d);
        scores.resize(panels.len() * length, [0.0; NR]);
        self.isa.pack(rows, length, d, d, tiles);
        multiply(self.isa, tiles, panels, &PanelMask::Dense, 0, scores, scratch, |_, _| ());
        // Weights row by row.
        weights.resize(length * length, 0.0);
        for (row, weights) in weights.chunks_exact_mut(length).enumerate() {
            for (panel, part) in weights.chunks_mut(NR).enumerate() {
                part.copy_from_slice(&scores[panel * length + row][..part.len()]);
            }
            for (weight, masked) in weights.iter_mut().zip(&text.masked) {
                *weight += if *masked { MASKED } else { 0.0 };
            }
            Softmax::new_mut(weights).dispatch();
        }
        // Values are a weight of d outputs and `length` inputs.
        values.clear();
        values.resize(Panels::packed_len(d, length), 0.0);
        for row in 0..length {
            for j in 0..d {
                values[(j / NR * length + row) * NR + j % NR] = at(value, row, j);
            }
        }
        let panels = Panels::new(values, d, length);
        product.resize(panels.len() * length, [0.0; NR]);
        self.isa.pack(weights, length, length, length, tiles);
        multiply(self.isa, tiles, panels, &PanelMask::Dense, 0, product, scratch, |_, _| ());
        for (row, out) in out.chunks_exact_mut(d).enumerate() {
            for (panel, part) in out.chunks_mut(NR).enumerate() {
                part.copy_from_slice(&product[panel * length + row][..part.len()]);
            }
        }
    }

    /// x ← norm(product + x).
    fn add_and_norm(&self, product: &[Row], with: &Norm, x: &mut [f32]) {
        let width = self.model.width;
        for (row, x) in x.chunks_exact_mut(width).enumerate() {
            for (panel, part) in x.chunks_mut(NR).enumerate() {
                let sums = &product[panel * self.rows + row];
                part.iter_mut().zip(sums).for_each(|(x, sum)| *x += sum);
            }
            norm(with, self.model.epsilon, x);
        }
    }
}

/// Memory of attention for a thread.
#[derive(Default)]
struct Attention {
    rows: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<Row>,
    weights: Vec<f32>,
    tiles: Tiles,
    scratch: Scratch,
    product: Vec<Row>,
}

/// Layer norm of each row.
fn norm(norm: &Norm, epsilon: f32, x: &mut [f32]) {
    let width = norm.scale.len();
    for row in x.chunks_exact_mut(width) {
        let mean = Sum::new(row).dispatch() / width as f32;
        let variance = SumSquareSub::new(row, mean).dispatch() / width as f32;
        let options = NormalizeOptions {
            pre_scale_bias: mean,
            scale: 1.0 / (variance + epsilon).sqrt(),
            element_scale: Some(&norm.scale),
            element_bias: Some(&norm.bias),
            ..Default::default()
        };
        Normalize::new_mut(row, options).dispatch();
    }
}
