//! The forward pass over the tokens of a batch, without padding.
//!
//! All activations lie in panels, [width / 32, tokens, 32]: that is what a product gives, what the
//! next one reads, and what a head is that is 32 wide. So nothing is ever packed but keys.

use std::cell::Cell;
use std::ops::Range;

use overmask_kernels::{Activations, NR, Product, Row};
use rten_simd::{SimdOp, SimdUnaryOp};
use rten_vecmath::Gelu;

use super::attention::Spread;
use super::budget::Stage;
use super::model::{Layer, Linear, Model, Norm};
use super::norm::LayerNorm;
use super::pass::{Memory, Pass, by_rows};
use crate::engine::{EngineError, TokenBatch};

/// What a product does besides adding the bias.
#[derive(Clone, Copy)]
enum Epilogue<'a> {
    Nothing,
    Gelu,
    /// Adds values that lie as the product does.
    Add(&'a [Row]),
}

/// Memory of a pass that the next one on the same thread uses again.
#[derive(Default)]
struct Workspace {
    x: Vec<Row>,
    /// Query, key and value.
    projected: Vec<Row>,
    context: Vec<Row>,
    intermediate: Vec<Row>,
    sums: Vec<Row>,
    spread: Spread,
}

thread_local! {
    /// Taken while a pass runs, as a waiting thread of a pool may begin another one.
    static WORKSPACE: Cell<Workspace> = Cell::default();
}

impl Pass<'_> {
    /// Runs the encoder; the vectors are [tokens of all texts, width].
    pub(super) fn run(&self, batch: &TokenBatch) -> Result<Vec<f32>, EngineError> {
        let mut rows = 0;
        let texts = batch.lengths().map(|length| {
            rows += length;
            rows - length..rows
        });
        let texts: Vec<Range<usize>> = texts.collect();
        let mut work = WORKSPACE.take();
        work.x.resize(rows * self.model.width.div_ceil(NR), [0.0; NR]);
        self.embed(batch, &texts, &mut work.x, rows)?;
        for layer in &self.model.layers {
            self.layer(layer, &texts, rows, &mut work);
        }
        let hidden = self.timed(Stage::Embedding, || self.hidden(&work.x, rows));
        WORKSPACE.set(work);
        Ok(hidden)
    }

    fn layer(&self, layer: &Layer, texts: &[Range<usize>], rows: usize, work: &mut Workspace) {
        let Workspace { x, projected, context, intermediate, sums, spread } = work;
        let width = self.model.width;
        let all = Activations::new(x, rows, width);
        self.linears(&[&layer.query, &layer.key, &layer.value], all, projected, Epilogue::Nothing);
        self.attention(projected, texts, rows, spread, context);
        self.linears(&[&layer.attended], Activations::new(context, rows, width), sums, Epilogue::Add(x));
        std::mem::swap(x, sums);
        self.norm(&layer.attention_norm, x, rows);
        self.linears(&[&layer.intermediate], Activations::new(x, rows, width), intermediate, Epilogue::Gelu);
        let inner = Activations::new(intermediate, rows, layer.output.inputs());
        self.linears(&[&layer.output], inner, sums, Epilogue::Add(x));
        std::mem::swap(x, sums);
        self.norm(&layer.output_norm, x, rows);
    }

    /// Products of the same activations with one or more weights, with their biases, one after the
    /// other.
    fn linears(&self, linears: &[&Linear], activations: Activations<'_>, out: &mut Vec<Row>, epilogue: Epilogue<'_>) {
        let rows = activations.rows();
        let panels = linears.iter().flat_map(|linear| (0..linear.panels()).map(move |panel| (*linear, panel)));
        out.resize(linears.iter().map(|linear| linear.panels()).sum::<usize>() * rows, [0.0; NR]);
        let parts = panels.zip(out.chunks_exact_mut(rows)).enumerate().collect();
        self.each(parts, |(i, ((linear, panel), sums)), memory| {
            self.timed(Stage::Linears, || {
                let mut bias = Some(&linear.bias[panel]);
                if let Epilogue::Add(x) = epilogue {
                    for (sums, x) in sums.iter_mut().zip(&x[i * rows..]) {
                        let values = x.iter().zip(&linear.bias[panel]);
                        sums.iter_mut().zip(values).for_each(|(sum, (x, bias))| *sum = x + bias);
                    }
                    bias = None;
                }
                let (weight, mask) = (linear.weight(&self.model.packed), self.masks.of(linear.index));
                let product = Product { activations, weight, mask, panel, bias };
                product.run(self.isa, &mut memory.scratch, sums);
            });
            if let Epilogue::Gelu = epilogue {
                self.timed(Stage::Gelu, || Gelu {}.map_mut(sums.as_flattened_mut()));
            }
        });
    }

    /// Layer norm of each row.
    fn norm(&self, norm: &Norm, x: &mut [Row], rows: usize) {
        let parts = by_rows(x, rows, &self.parts(rows));
        self.each(parts, |mut panels, memory| self.timed(Stage::Norms, || self.norm_rows(norm, &mut panels, memory)));
    }

    fn norm_rows(&self, norm: &Norm, panels: &mut [&mut [Row]], memory: &mut Memory) {
        LayerNorm { norm, epsilon: self.model.epsilon, panels, row: &mut memory.row }.dispatch();
    }

    /// Norms of the sums of token, position and segment embeddings.
    fn embed(&self, batch: &TokenBatch, texts: &[Range<usize>], x: &mut [Row], rows: usize) -> Result<(), EngineError> {
        let Model { width, words, positions, segments, norm, .. } = self.model;
        let [words, positions, segments] = [words, positions, segments].map(|table| table.values(self.base));
        let (words, positions, segments) = (words?, positions?, segments?);
        // Numbers of tokens, positions and segments were checked against the tables.
        let positions = texts.iter().flat_map(|text| positions.chunks_exact(*width).take(text.len()));
        let tokens = batch.ids().iter().zip(batch.segments()).zip(positions);
        let tokens: Vec<[&[f32]; 3]> = tokens
            .map(|((id, segment), position)| [row(words, *id, *width), row(segments, *segment, *width), position])
            .collect();
        let parts = by_rows(x, rows, &self.parts(rows));
        self.each(parts.into_iter().zip(self.parts(rows)).collect(), |(mut panels, part), memory| {
            self.timed(Stage::Embedding, || {
                for (i, [word, segment, position]) in tokens[part].iter().enumerate() {
                    let values = word.chunks(NR).zip(segment.chunks(NR)).zip(position.chunks(NR));
                    for (panel, ((word, segment), position)) in panels.iter_mut().zip(values) {
                        let values = word.iter().zip(segment).zip(position);
                        panel[i].iter_mut().zip(values).for_each(|(x, ((w, s), p))| *x = w + s + p);
                    }
                }
                self.norm_rows(norm, &mut panels, memory);
            });
        });
        Ok(())
    }

    /// The vectors as the engine gives them.
    fn hidden(&self, x: &[Row], rows: usize) -> Vec<f32> {
        let width = self.model.width;
        let mut hidden = vec![0.0; rows * width];
        for (i, out) in hidden.chunks_exact_mut(width).enumerate() {
            for (part, panel) in out.chunks_mut(NR).zip(x.chunks_exact(rows)) {
                part.copy_from_slice(&panel[i][..part.len()]);
            }
        }
        hidden
    }
}

/// A row of a table.
fn row(table: &[f32], number: u32, width: usize) -> &[f32] {
    &table[number as usize * width..][..width]
}
