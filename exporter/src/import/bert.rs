//! The forward graph of a BERT encoder (Devlin et al. 2018): post-norm layers, learned
//! positions, exact (erf) GELU.
//!
//! Activations are two-dimensional, [batch · sequence, width], so that each linear layer is one
//! `Gemm` that reads its weight as the checkpoint stores it, [outputs, inputs]. Only
//! attention opens them up to [batch, heads, sequence, width / heads].

use std::collections::BTreeMap;

use overmask::base::family::MASKED_SCORE;
use overmask::base::family::bert::{Linear, Names, Norm, Sizes, Table};
use overmask::base::{Architecture, file};
use overmask_graph::proto::{ModelProto, data_type};
use overmask_graph::{External, GraphBuilder, encoder};

/// A tensor that the encoder needs: name in the checkpoint and shape.
pub(super) type Needed = (String, Vec<usize>);

/// The forward graph; `offsets` says where in the weights' file each tensor of `needed` starts.
pub(super) fn graph(
    a: &Architecture,
    sizes: &Sizes,
    names: Names<'_>,
    needed: &[Needed],
    offsets: &BTreeMap<String, u64>,
) -> ModelProto {
    let mut g = Forward { b: GraphBuilder::new("encoder"), a, sizes, names };
    for (name, shape) in needed {
        let dims: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
        let length = shape.iter().product::<usize>() as u64 * 4;
        let at = External { location: file::WEIGHTS.to_owned(), offset: offsets[name], length };
        g.b.external_initializer(name, data_type::FLOAT, &dims, at);
    }
    for name in encoder::INPUTS {
        g.b.input(name, data_type::INT64, &["batch", "sequence"]);
    }
    g.encoder();
    g.b.finish()
}

struct Forward<'a> {
    b: GraphBuilder,
    a: &'a Architecture,
    sizes: &'a Sizes,
    names: Names<'a>,
}

impl Forward<'_> {
    fn encoder(&mut self) {
        let h = self.a.hidden_size as i64;
        let batch_sequence = self.b.op("Shape", &[encoder::INPUT_IDS], &[]);
        let mut x = self.embeddings(&batch_sequence);
        let bias = self.attention_bias();
        let heads_dims = self.b.shape(&[self.sizes.heads as i64, h / self.sizes.heads as i64]);
        let split = self.b.op("Concat", &[&batch_sequence, &heads_dims], &[("axis", 0i64.into())]);
        for layer in 0..self.a.layers {
            x = self.layer(layer, &x, &bias, &split);
        }
        let width = self.b.shape(&[h]);
        let shape = self.b.op("Concat", &[&batch_sequence, &width], &[("axis", 0i64.into())]);
        self.b.node("Reshape", &[&x, &shape], &[encoder::OUTPUT], &[]);
        self.b.output(encoder::OUTPUT, data_type::FLOAT, &["batch", "sequence", &h.to_string()]);
    }

    /// Token, position and type embeddings, normed: [batch · sequence, width].
    fn embeddings(&mut self, batch_sequence: &str) -> String {
        let [words, positions, types] =
            [Table::Words, Table::Positions, Table::Segments].map(|table| self.names.table(table));
        let word = self.b.op("Gather", &[&words, encoder::INPUT_IDS], &[]);
        let kind = self.b.op("Gather", &[&types, encoder::TOKEN_TYPE_IDS], &[]);
        let [zero, one, two] = [0, 1, 2].map(|i| self.b.shape(&[i]));
        let sequence = self.b.op("Slice", &[batch_sequence, &one, &two, &zero], &[]);
        let position = self.b.op("Slice", &[&positions, &zero, &sequence, &zero], &[]);
        let sum = self.b.op("Add", &[&word, &kind], &[]);
        let sum = self.b.op("Add", &[&sum, &position], &[]);
        let flat = self.b.shape(&[-1, self.a.hidden_size as i64]);
        let flat = self.b.op("Reshape", &[&sum, &flat], &[]);
        self.norm(Norm::Embeddings, &flat)
    }

    /// What is added to attention scores: 0, or [`MASKED_SCORE`] for padding; [batch, 1, 1, sequence].
    fn attention_bias(&mut self) -> String {
        let mask = self.b.op("Cast", &[encoder::ATTENTION_MASK], &[("to", i64::from(data_type::FLOAT).into())]);
        let (one, masked) = (self.b.float(1.0), self.b.float(MASKED_SCORE));
        let padding = self.b.op("Sub", &[&one, &mask], &[]);
        let bias = self.b.op("Mul", &[&padding, &masked], &[]);
        let axes = self.b.shape(&[1, 2]);
        self.b.op("Unsqueeze", &[&bias, &axes], &[])
    }

    fn layer(&mut self, layer: usize, x: &str, bias: &str, split: &str) -> String {
        let context = self.attention(layer, x, bias, split);
        let attended = self.linear(layer, Linear::AttentionOutput, &context);
        let sum = self.b.op("Add", &[&attended, x], &[]);
        let x = self.norm(Norm::Attention(layer), &sum);
        let wide = self.linear(layer, Linear::Intermediate, &x);
        let wide = self.gelu(&wide);
        let narrow = self.linear(layer, Linear::Output, &wide);
        let sum = self.b.op("Add", &[&narrow, &x], &[]);
        self.norm(Norm::Output(layer), &sum)
    }

    fn attention(&mut self, layer: usize, x: &str, bias: &str, split: &str) -> String {
        let mut project = |linear, order: Vec<i64>| {
            let flat = self.linear(layer, linear, x);
            let heads = self.b.op("Reshape", &[&flat, split], &[]);
            self.b.op("Transpose", &[&heads], &[("perm", order.into())])
        };
        let query = project(Linear::Query, vec![0, 2, 1, 3]);
        let key = project(Linear::Key, vec![0, 2, 3, 1]);
        let value = project(Linear::Value, vec![0, 2, 1, 3]);
        let scores = self.b.op("MatMul", &[&query, &key], &[]);
        let scale = self.b.float(1.0 / ((self.a.hidden_size / self.sizes.heads) as f32).sqrt());
        let scores = self.b.op("Mul", &[&scores, &scale], &[]);
        let scores = self.b.op("Add", &[&scores, bias], &[]);
        let weights = self.b.op("Softmax", &[&scores], &[("axis", (-1i64).into())]);
        let context = self.b.op("MatMul", &[&weights, &value], &[]);
        let context = self.b.op("Transpose", &[&context], &[("perm", vec![0, 2, 1, 3].into())]);
        let flat = self.b.shape(&[-1, self.a.hidden_size as i64]);
        self.b.op("Reshape", &[&context, &flat], &[])
    }

    fn linear(&mut self, layer: usize, linear: Linear, x: &str) -> String {
        let (weight, bias) = (self.names.weight(layer, linear), self.names.bias(layer, linear));
        self.b.op("Gemm", &[x, &weight, &bias], &[("transB", 1i64.into())])
    }

    fn norm(&mut self, norm: Norm, x: &str) -> String {
        let [scale, bias] = self.names.norm(norm);
        let epsilon = self.sizes.layer_norm_eps as f32;
        self.b.op("LayerNormalization", &[x, &scale, &bias], &[("axis", (-1i64).into()), ("epsilon", epsilon.into())])
    }

    /// x · ½ · (1 + erf(x / √2)), in the form that graph optimizers know.
    fn gelu(&mut self, x: &str) -> String {
        let (root, one, half) = (self.b.float(std::f32::consts::SQRT_2), self.b.float(1.0), self.b.float(0.5));
        let scaled = self.b.op("Div", &[x, &root], &[]);
        let erf = self.b.op("Erf", &[&scaled], &[]);
        let gate = self.b.op("Add", &[&erf, &one], &[]);
        let gated = self.b.op("Mul", &[x, &gate], &[]);
        self.b.op("Mul", &[&gated, &half], &[])
    }
}
