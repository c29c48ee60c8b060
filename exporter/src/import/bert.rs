//! The forward graph of a BERT encoder (Devlin et al. 2018): post-norm layers, learned
//! positions, exact (erf) GELU.
//!
//! Activations are two-dimensional, [batch · sequence, width], so that each linear layer is one
//! `Gemm` that reads its weight as the checkpoint stores it, [outputs, inputs]. Only
//! attention opens them up to [batch, heads, sequence, width / heads].

use std::collections::BTreeMap;

use overmask::base::{Architecture, MaskableTensor, file};
use overmask::onnx::proto::{ModelProto, data_type};
use overmask::onnx::{External, GraphBuilder};

/// A tensor that the encoder needs: name in the checkpoint and shape.
pub(super) type Needed = (String, Vec<usize>);

/// What masked positions get added to their attention score: exp() of it is 0 in f32.
const MASKED: f32 = -1e9;

/// The linear layers of an encoder layer: name, outputs and inputs.
fn linears(a: &Architecture) -> [(&'static str, usize, usize); 6] {
    let (h, i) = (a.hidden_size, a.intermediate_size);
    [
        ("attention.self.query", h, h),
        ("attention.self.key", h, h),
        ("attention.self.value", h, h),
        ("attention.output.dense", h, h),
        ("intermediate.dense", i, h),
        ("output.dense", h, i),
    ]
}

/// How many tensors an encoder of so many layers has, without listing them.
pub(super) fn count(layers: usize) -> usize {
    // Words, positions, types and a norm; in each layer six linears and two norms, of two each.
    layers.saturating_mul(16).saturating_add(5)
}

/// Every tensor of the encoder, in the order in which a forward pass reads them.
pub(super) fn tensors(a: &Architecture, prefix: &str, token_types: usize) -> Vec<Needed> {
    let h = a.hidden_size;
    let name = |n: &str| format!("{prefix}{n}");
    let norm = |n: &str| [(name(&format!("{n}.weight")), vec![h]), (name(&format!("{n}.bias")), vec![h])];
    let mut all = vec![
        (name("embeddings.word_embeddings.weight"), vec![a.vocab_size, h]),
        (name("embeddings.position_embeddings.weight"), vec![a.max_positions, h]),
        (name("embeddings.token_type_embeddings.weight"), vec![token_types, h]),
    ];
    all.extend(norm("embeddings.LayerNorm"));
    for layer in 0..a.layers {
        for (linear, outputs, inputs) in linears(a) {
            all.push((name(&format!("encoder.layer.{layer}.{linear}.weight")), vec![outputs, inputs]));
            all.push((name(&format!("encoder.layer.{layer}.{linear}.bias")), vec![outputs]));
        }
        all.extend(norm(&format!("encoder.layer.{layer}.attention.output.LayerNorm")));
        all.extend(norm(&format!("encoder.layer.{layer}.output.LayerNorm")));
    }
    all
}

/// The tensors that a mask may touch, layer by layer.
pub(super) fn maskable(a: &Architecture, prefix: &str) -> Vec<MaskableTensor> {
    (0..a.layers)
        .flat_map(|layer| {
            linears(a).map(|(linear, outputs, inputs)| MaskableTensor {
                name: format!("{prefix}encoder.layer.{layer}.{linear}.weight"),
                outputs,
                inputs,
                layer,
            })
        })
        .collect()
}

/// The forward graph; `offsets` says where in the weights' file each tensor of `needed` starts.
pub(super) fn graph(a: &Architecture, prefix: &str, needed: &[Needed], offsets: &BTreeMap<String, u64>) -> ModelProto {
    let mut g = Forward { b: GraphBuilder::new("encoder"), a, prefix: prefix.to_owned() };
    for (name, shape) in needed {
        let dims: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
        let length = shape.iter().product::<usize>() as u64 * 4;
        let at = External { location: file::WEIGHTS.to_owned(), offset: offsets[name], length };
        g.b.external_initializer(name, data_type::FLOAT, &dims, at);
    }
    for name in ["input_ids", "attention_mask", "token_type_ids"] {
        g.b.input(name, data_type::INT64, &["batch", "sequence"]);
    }
    g.encoder();
    g.b.finish()
}

struct Forward<'a> {
    b: GraphBuilder,
    a: &'a Architecture,
    prefix: String,
}

impl Forward<'_> {
    fn weight(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn encoder(&mut self) {
        let h = self.a.hidden_size as i64;
        let batch_sequence = self.b.op("Shape", &["input_ids"], &[]);
        let mut x = self.embeddings(&batch_sequence);
        let bias = self.attention_bias();
        let heads_dims = self.b.shape(&[self.a.heads as i64, h / self.a.heads as i64]);
        let split = self.b.op("Concat", &[&batch_sequence, &heads_dims], &[("axis", 0i64.into())]);
        for layer in 0..self.a.layers {
            x = self.layer(layer, &x, &bias, &split);
        }
        let width = self.b.shape(&[h]);
        let shape = self.b.op("Concat", &[&batch_sequence, &width], &[("axis", 0i64.into())]);
        self.b.node("Reshape", &[&x, &shape], &["last_hidden_state"], &[]);
        self.b.output("last_hidden_state", data_type::FLOAT, &["batch", "sequence", &h.to_string()]);
    }

    /// Token, position and type embeddings, normed: [batch · sequence, width].
    fn embeddings(&mut self, batch_sequence: &str) -> String {
        let [words, positions, types] =
            ["word", "position", "token_type"].map(|n| self.weight(&format!("embeddings.{n}_embeddings.weight")));
        let word = self.b.op("Gather", &[&words, "input_ids"], &[]);
        let kind = self.b.op("Gather", &[&types, "token_type_ids"], &[]);
        let [zero, one, two] = [0, 1, 2].map(|i| self.b.shape(&[i]));
        let sequence = self.b.op("Slice", &[batch_sequence, &one, &two, &zero], &[]);
        let position = self.b.op("Slice", &[&positions, &zero, &sequence, &zero], &[]);
        let sum = self.b.op("Add", &[&word, &kind], &[]);
        let sum = self.b.op("Add", &[&sum, &position], &[]);
        let flat = self.b.shape(&[-1, self.a.hidden_size as i64]);
        let flat = self.b.op("Reshape", &[&sum, &flat], &[]);
        self.norm("embeddings.LayerNorm", &flat)
    }

    /// What is added to attention scores: 0, or [`MASKED`] for padding; [batch, 1, 1, sequence].
    fn attention_bias(&mut self) -> String {
        let mask = self.b.op("Cast", &["attention_mask"], &[("to", i64::from(data_type::FLOAT).into())]);
        let (one, masked) = (self.b.float(1.0), self.b.float(MASKED));
        let padding = self.b.op("Sub", &[&one, &mask], &[]);
        let bias = self.b.op("Mul", &[&padding, &masked], &[]);
        let axes = self.b.shape(&[1, 2]);
        self.b.op("Unsqueeze", &[&bias, &axes], &[])
    }

    fn layer(&mut self, layer: usize, x: &str, bias: &str, split: &str) -> String {
        let at = |n: &str| format!("encoder.layer.{layer}.{n}");
        let context = self.attention(layer, x, bias, split);
        let attended = self.linear(&at("attention.output.dense"), &context);
        let sum = self.b.op("Add", &[&attended, x], &[]);
        let x = self.norm(&at("attention.output.LayerNorm"), &sum);
        let wide = self.linear(&at("intermediate.dense"), &x);
        let wide = self.gelu(&wide);
        let narrow = self.linear(&at("output.dense"), &wide);
        let sum = self.b.op("Add", &[&narrow, &x], &[]);
        self.norm(&at("output.LayerNorm"), &sum)
    }

    fn attention(&mut self, layer: usize, x: &str, bias: &str, split: &str) -> String {
        let mut project = |kind: &str, order: Vec<i64>| {
            let flat = self.linear(&format!("encoder.layer.{layer}.attention.self.{kind}"), x);
            let heads = self.b.op("Reshape", &[&flat, split], &[]);
            self.b.op("Transpose", &[&heads], &[("perm", order.into())])
        };
        let query = project("query", vec![0, 2, 1, 3]);
        let key = project("key", vec![0, 2, 3, 1]);
        let value = project("value", vec![0, 2, 1, 3]);
        let scores = self.b.op("MatMul", &[&query, &key], &[]);
        let scale = self.b.float(1.0 / ((self.a.hidden_size / self.a.heads) as f32).sqrt());
        let scores = self.b.op("Mul", &[&scores, &scale], &[]);
        let scores = self.b.op("Add", &[&scores, bias], &[]);
        let weights = self.b.op("Softmax", &[&scores], &[("axis", (-1i64).into())]);
        let context = self.b.op("MatMul", &[&weights, &value], &[]);
        let context = self.b.op("Transpose", &[&context], &[("perm", vec![0, 2, 1, 3].into())]);
        let flat = self.b.shape(&[-1, self.a.hidden_size as i64]);
        self.b.op("Reshape", &[&context, &flat], &[])
    }

    fn linear(&mut self, name: &str, x: &str) -> String {
        let (weight, bias) = (self.weight(&format!("{name}.weight")), self.weight(&format!("{name}.bias")));
        self.b.op("Gemm", &[x, &weight, &bias], &[("transB", 1i64.into())])
    }

    fn norm(&mut self, name: &str, x: &str) -> String {
        let (scale, bias) = (self.weight(&format!("{name}.weight")), self.weight(&format!("{name}.bias")));
        let epsilon = self.a.layer_norm_eps as f32;
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
