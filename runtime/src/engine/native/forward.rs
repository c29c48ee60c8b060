//! The forward pass over the tokens of a batch, without padding.
//!
//! What a product gives lies in panels, [panels, tokens, 32]; what norms and residuals work on lies
//! row by row, [tokens, width].

use std::sync::{Mutex, PoisonError};

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
    /// Memory of each thread.
    threads: &'a [Mutex<Memory>],
    rows: usize,
    texts: Vec<Text>,
}

/// Runs the encoder; the vectors are [batch, sequence, width], zeros at padding.
pub(super) fn run(
    model: &Model,
    base: &Base,
    masks: &[PanelMask],
    isa: Isa,
    threads: &[Mutex<Memory>],
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
    let pass = Pass { model, masks, isa, threads, rows, texts };
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
        out.resize(panels.len() * self.rows, [0.0; NR]);
        // Two parts for each thread even out what takes longer.
        let parts = if self.threads.len() == 1 { 1 } else { 2 * self.threads.len() };
        let part = panels.len().div_ceil(parts).max(1);
        let mask = &self.masks[linear.index];
        self.each(out, part * self.rows, |i, out, memory| {
            multiply(self.isa, tiles, panels, mask, i * part, out, &mut memory.scratch, |panel, rows| {
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

    /// Calls a function for each part of some values, on all threads, with memory of its own.
    fn each<T: Send>(&self, values: &mut [T], part: usize, run: impl Fn(usize, &mut [T], &mut Memory) + Sync) {
        let with_memory = |thread: usize, i: usize, values: &mut [T]| {
            // Only this thread ever asks for it, so nobody waits; a panic elsewhere spoils nothing.
            let mut memory = self.threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
            run(i, values, &mut memory);
        };
        if self.threads.len() == 1 {
            values.chunks_mut(part).enumerate().for_each(|(i, values)| with_memory(0, i, values));
        } else {
            let thread = || rayon::current_thread_index().unwrap_or(0);
            values.par_chunks_mut(part).enumerate().for_each(|(i, values)| with_memory(thread(), i, values));
        }
    }

    /// Softmax(query · keyᵀ / √d) · value for each head and text; `context` is [heads, tokens, d].
    fn attention(&self, qkv: &[Vec<Row>; 3], context: &mut Vec<f32>) {
        let d = self.model.width / self.model.heads;
        context.resize(self.rows * self.model.width, 0.0);
        self.each(context, self.rows * d, |head, context, memory| {
            for text in &self.texts {
                let out = &mut context[text.first * d..][..text.length * d];
                self.one_attention(text, head * d, d, qkv, memory, out);
            }
        });
    }

    fn one_attention(
        &self,
        text: &Text,
        column: usize,
        d: usize,
        qkv: &[Vec<Row>; 3],
        memory: &mut Memory,
        out: &mut [f32],
    ) {
        let length = text.length;
        let Memory { scratch, tiles, gathered, packed, scores, weights, product } = memory;
        let [mut query, mut key, mut value] = std::mem::take(gathered);
        // Keys are a weight of `length` outputs and d inputs.
        packed.resize(Panels::packed_len(length, d).max(Panels::packed_len(d, length)), 0.0);
        let keys = &mut packed[..Panels::packed_len(length, d)];
        keys.fill(0.0);
        Panels::pack(self.head(&qkv[1], text, column, d, &mut key), length, d, keys);
        let panels = Panels::new(keys, length, d);
        scores.resize(panels.len() * length, [0.0; NR]);
        self.isa.pack(self.head(&qkv[0], text, column, d, &mut query), length, d, d, tiles);
        multiply(self.isa, tiles, panels, &PanelMask::Dense, 0, scores, scratch, |_, _| ());
        // Weights row by row.
        let scale = 1.0 / (d as f32).sqrt();
        weights.resize(length * length, 0.0);
        for (row, weights) in weights.chunks_exact_mut(length).enumerate() {
            for (panel, part) in weights.chunks_mut(NR).enumerate() {
                let scores = &scores[panel * length + row];
                part.iter_mut().zip(scores).for_each(|(weight, score)| *weight = score * scale);
            }
            for (weight, masked) in weights.iter_mut().zip(&text.masked) {
                *weight += if *masked { MASKED } else { 0.0 };
            }
            Softmax::new_mut(weights).dispatch();
        }
        self.isa.pack(weights, length, length, length, tiles);
        // Values are a weight of d outputs and `length` inputs: row by row, they are its panel.
        let values = self.head(&qkv[2], text, column, d, &mut value);
        let panels = if d == NR {
            Panels::new(values, d, length)
        } else {
            let panels = &mut packed[..Panels::packed_len(d, length)];
            for (row, values) in values.chunks_exact(d).enumerate() {
                for (panel, part) in values.chunks(NR).enumerate() {
                    let step = &mut panels[(panel * length + row) * NR..][..NR];
                    step[..part.len()].copy_from_slice(part);
                    step[part.len()..].fill(0.0);
                }
            }
            Panels::new(panels, d, length)
        };
        product.resize(panels.len() * length, [0.0; NR]);
        multiply(self.isa, tiles, panels, &PanelMask::Dense, 0, product, scratch, |_, _| ());
        for (row, out) in out.chunks_exact_mut(d).enumerate() {
            for (panel, part) in out.chunks_mut(NR).enumerate() {
                part.copy_from_slice(&product[panel * length + row][..part.len()]);
            }
        }
        *gathered = [query, key, value];
    }

    /// What a head has of a product for a text, [length, d]: as it lies where a head is a panel,
    /// else gathered.
    fn head<'a>(
        &self,
        panels: &'a [Row],
        text: &Text,
        column: usize,
        d: usize,
        gathered: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        let rows = |panel: usize| &panels[panel * self.rows + text.first..][..text.length];
        if d == NR {
            return rows(column / NR).as_flattened();
        }
        gathered.resize(text.length * d, 0.0);
        for (row, out) in gathered.chunks_exact_mut(d).enumerate() {
            for (j, value) in out.iter_mut().enumerate() {
                *value = rows((column + j) / NR)[row][(column + j) % NR];
            }
        }
        gathered
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

/// Memory of a thread.
#[derive(Default)]
pub(super) struct Memory {
    scratch: Scratch,
    /// The rest is attention's.
    tiles: Tiles,
    gathered: [Vec<f32>; 3],
    packed: Vec<f32>,
    scores: Vec<Row>,
    weights: Vec<f32>,
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
