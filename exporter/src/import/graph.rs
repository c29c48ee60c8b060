//! The forward graph of an encoder whose family is known.
//!
//! Activations are two-dimensional, [batch · sequence, width], so that each linear layer is one
//! `Gemm` that reads its weight as the checkpoint stores it, [outputs, inputs]. Only
//! attention opens them up to [batch, heads, sequence, width / heads].

use std::collections::BTreeMap;

use overmask::base::family::MASKED_SCORE;
use overmask::base::family::encoder::{Activation, Encoder, Layer, Linear, Norm, bucket, frequencies};
use overmask::base::file;
use overmask_graph::proto::{ModelProto, data_type};
use overmask_graph::{External, GraphBuilder, encoder};

/// A tensor that the encoder needs: its name in the base and its shape.
pub(super) type Needed = (String, Vec<usize>);

/// The forward graph, for texts of up to so many positions; `offsets` says where in the weights' file each tensor of
/// `needed` starts.
pub(super) fn graph(
    encoder: &Encoder,
    positions: usize,
    needed: &[Needed],
    offsets: &BTreeMap<String, u64>,
) -> ModelProto {
    let mut b = GraphBuilder::new("encoder");
    for (name, shape) in needed {
        let dims: Vec<i64> = shape.iter().map(|d| *d as i64).collect();
        let length = shape.iter().product::<usize>() as u64 * 4;
        let at = External { location: file::WEIGHTS.to_owned(), offset: offsets[name], length };
        b.external_initializer(name, data_type::FLOAT, &dims, at);
    }
    let inputs = [Some(encoder::INPUT_IDS), Some(encoder::ATTENTION_MASK)];
    let segments = encoder.embeddings.segments.is_some().then_some(encoder::TOKEN_TYPE_IDS);
    for name in inputs.into_iter().chain([segments]).flatten() {
        b.input(name, data_type::INT64, &["batch", "sequence"]);
    }
    let batch_sequence = b.op("Shape", &[encoder::INPUT_IDS], &[]);
    Forward { b, encoder, positions: positions as i64, batch_sequence, sequence: String::new() }.encoder()
}

struct Forward<'a> {
    b: GraphBuilder,
    encoder: &'a Encoder,
    /// The most that a text may have.
    positions: i64,
    batch_sequence: String,
    /// The number of tokens of a text, padding included; in a list.
    sequence: String,
}

/// What attention of some layers needs besides their weights.
struct Attention {
    /// Added to scores.
    bias: String,
    /// Cosines and sines of rotary positions, [sequence, 1, width of a head].
    turns: Option<[String; 2]>,
}

impl Forward<'_> {
    fn encoder(mut self) -> ModelProto {
        let h = self.encoder.width as i64;
        let mut x = self.embeddings();
        let padding = self.padding_bias();
        let heads = self.encoder.heads as i64;
        let heads_dims = self.b.shape(&[heads, h / heads]);
        let batch_sequence = self.batch_sequence.clone();
        let split = self.b.op("Concat", &[&batch_sequence, &heads_dims], &[("axis", 0i64.into())]);
        // What layers of one kind share is there once.
        let mut known = BTreeMap::new();
        let encoder = self.encoder;
        for layer in &encoder.layers {
            let kind = (layer.window, layer.rotary.map(f64::to_bits));
            let attention = known.entry(kind).or_insert_with(|| self.attention_of(layer, &padding));
            x = self.layer(layer, &x, attention, &split);
        }
        let width = self.b.shape(&[h]);
        let shape = self.b.op("Concat", &[&batch_sequence, &width], &[("axis", 0i64.into())]);
        self.b.node("Reshape", &[&x, &shape], &[encoder::OUTPUT], &[]);
        self.b.output(encoder::OUTPUT, data_type::FLOAT, &["batch", "sequence", &h.to_string()]);
        self.b.finish()
    }

    /// The sum of token, position and segment embeddings, normed, as wide as the layers: [batch · sequence, width].
    fn embeddings(&mut self) -> String {
        let of = &self.encoder.embeddings;
        let mut sum = self.b.op("Gather", &[&of.words.name, encoder::INPUT_IDS], &[]);
        let kinds = of.segments.as_ref().map(|table| self.b.op("Gather", &[table, encoder::TOKEN_TYPE_IDS], &[]));
        let [zero, one, two] = [0, 1, 2].map(|i| self.b.shape(&[i]));
        self.sequence = self.b.op("Slice", &[&self.batch_sequence, &one, &two, &zero], &[]);
        let positions = of.positions.as_ref().map(|table| self.first(&table.name));
        for table in kinds.into_iter().chain(positions) {
            sum = self.b.op("Add", &[&sum, &table], &[]);
        }
        let flat = self.b.shape(&[-1, of.width as i64]);
        let flat = self.b.op("Reshape", &[&sum, &flat], &[]);
        let normed = self.norm(Some(&of.norm), &flat);
        of.projection.as_ref().map(|linear| self.linear(linear, &normed)).unwrap_or(normed)
    }

    /// The first rows of a table of positions, one for each of a text.
    fn first(&mut self, table: &str) -> String {
        let zero = self.b.shape(&[0]);
        self.b.op("Slice", &[table, &zero, &self.sequence, &zero], &[])
    }

    /// What is added to attention scores: 0, or [`MASKED_SCORE`] for padding; [batch, 1, 1, sequence].
    fn padding_bias(&mut self) -> String {
        let mask = self.b.op("Cast", &[encoder::ATTENTION_MASK], &[("to", i64::from(data_type::FLOAT).into())]);
        let (one, masked) = (self.b.float(1.0), self.b.float(MASKED_SCORE));
        let padding = self.b.op("Sub", &[&one, &mask], &[]);
        let bias = self.b.op("Mul", &[&padding, &masked], &[]);
        self.unsqueeze(&bias, &[1, 2])
    }

    fn unsqueeze(&mut self, x: &str, axes: &[i64]) -> String {
        let axes = self.b.shape(axes);
        self.b.op("Unsqueeze", &[x, &axes], &[])
    }

    fn attention_of(&mut self, layer: &Layer, padding: &str) -> Attention {
        let mut bias = padding.to_owned();
        if self.encoder.relative.is_some() || layer.window.is_some() {
            let positions = self.b.ints(&[self.positions], &(0..self.positions).collect::<Vec<_>>());
            let positions = self.first(&positions);
            let (keys, queries) = (self.unsqueeze(&positions, &[0]), self.unsqueeze(&positions, &[1]));
            let distances = self.b.op("Sub", &[&keys, &queries], &[]);
            if let Some(window) = layer.window {
                let far = self.far(&distances, window);
                bias = self.b.op("Add", &[&bias, &far], &[]);
            }
            if let Some(relative) = &self.encoder.relative {
                let of = |distance| bucket(distance, relative.buckets) as i64;
                let buckets: Vec<i64> = (1 - self.positions..self.positions).map(of).collect();
                let buckets = self.b.shape(&buckets);
                let centre = self.b.ints(&[], &[self.positions - 1]);
                let places = self.b.op("Add", &[&distances, &centre], &[]);
                let buckets = self.b.op("Gather", &[&buckets, &places], &[]);
                let learnt = self.b.op("Gather", &[&relative.table, &buckets], &[]);
                let learnt = self.b.op("Transpose", &[&learnt], &[("perm", vec![2, 0, 1].into())]);
                let learnt = self.unsqueeze(&learnt, &[0]);
                bias = self.b.op("Add", &[&learnt, &bias], &[]);
            }
        }
        Attention { bias, turns: layer.rotary.map(|theta| self.turns(theta)) }
    }

    /// [`MASKED_SCORE`] for distances beyond a window, else 0.
    fn far(&mut self, distances: &str, window: usize) -> String {
        let distances = self.b.op("Cast", &[distances], &[("to", i64::from(data_type::FLOAT).into())]);
        let (window, masked) = (self.b.float(window as f32), self.b.float(MASKED_SCORE));
        let distances = self.b.op("Abs", &[&distances], &[]);
        let far = self.b.op("Greater", &[&distances, &window], &[]);
        let far = self.b.op("Cast", &[&far], &[("to", i64::from(data_type::FLOAT).into())]);
        self.b.op("Mul", &[&far, &masked], &[])
    }

    fn turns(&mut self, theta: f64) -> [String; 2] {
        let half = frequencies(theta as f32, self.encoder.width / self.encoder.heads);
        let both: Vec<f32> = half.iter().chain(&half).copied().collect();
        let frequencies = self.b.floats(&both);
        let positions = self.b.floats(&(0..self.positions).map(|i| i as f32).collect::<Vec<_>>());
        let positions = self.first(&positions);
        let positions = self.unsqueeze(&positions, &[1, 2]);
        let angles = self.b.op("Mul", &[&positions, &frequencies], &[]);
        ["Cos", "Sin"].map(|function| self.b.op(function, &[&angles], &[]))
    }

    fn layer(&mut self, layer: &Layer, x: &str, attention: &Attention, split: &str) -> String {
        let read = self.norm(layer.before_attention.as_ref(), x);
        let context = self.attention(layer, &read, attention, split);
        let attended = self.linear(&layer.attended, &context);
        let sum = self.b.op("Add", &[&attended, x], &[]);
        let x = self.norm(layer.after_attention.as_ref(), &sum);
        let read = self.norm(layer.before_feed_forward.as_ref(), &x);
        let wide = self.linear(&layer.intermediate, &read);
        let mut wide = self.activation(layer.activation, &wide);
        if let Some(gate) = &layer.gate {
            let gate = self.linear(gate, &read);
            wide = self.b.op("Mul", &[&wide, &gate], &[]);
        }
        let narrow = self.linear(&layer.output, &wide);
        let sum = self.b.op("Add", &[&narrow, &x], &[]);
        self.norm(layer.after_feed_forward.as_ref(), &sum)
    }

    fn attention(&mut self, layer: &Layer, x: &str, with: &Attention, split: &str) -> String {
        let mut project = |linear, turns: Option<&[String; 2]>, order: Vec<i64>| {
            let flat = self.linear(linear, x);
            let heads = self.b.op("Reshape", &[&flat, split], &[]);
            let heads = turns.map(|turns| self.turned(&heads, turns)).unwrap_or(heads);
            self.b.op("Transpose", &[&heads], &[("perm", order.into())])
        };
        let query = project(&layer.query, with.turns.as_ref(), vec![0, 2, 1, 3]);
        let key = project(&layer.key, with.turns.as_ref(), vec![0, 2, 3, 1]);
        let value = project(&layer.value, None, vec![0, 2, 1, 3]);
        let scores = self.b.op("MatMul", &[&query, &key], &[]);
        let scale = self.b.float(1.0 / ((self.encoder.width / self.encoder.heads) as f32).sqrt());
        let scores = self.b.op("Mul", &[&scores, &scale], &[]);
        let scores = self.b.op("Add", &[&scores, &with.bias], &[]);
        let weights = self.b.op("Softmax", &[&scores], &[("axis", (-1i64).into())]);
        let context = self.b.op("MatMul", &[&weights, &value], &[]);
        let context = self.b.op("Transpose", &[&context], &[("perm", vec![0, 2, 1, 3].into())]);
        let flat = self.b.shape(&[-1, self.encoder.width as i64]);
        self.b.op("Reshape", &[&context, &flat], &[])
    }

    /// Heads turned with their positions: x · cos + (-second half, first half) · sin.
    fn turned(&mut self, x: &str, [cos, sin]: &[String; 2]) -> String {
        let d = (self.encoder.width / self.encoder.heads) as i64;
        let [zero, half, all, last] = [0, d / 2, d, 3].map(|i| self.b.shape(&[i]));
        let first = self.b.op("Slice", &[x, &zero, &half, &last], &[]);
        let second = self.b.op("Slice", &[x, &half, &all, &last], &[]);
        let second = self.b.op("Neg", &[&second], &[]);
        let across = self.b.op("Concat", &[&second, &first], &[("axis", 3i64.into())]);
        let along = self.b.op("Mul", &[x, cos], &[]);
        let across = self.b.op("Mul", &[&across, sin], &[]);
        self.b.op("Add", &[&along, &across], &[])
    }

    fn linear(&mut self, linear: &Linear, x: &str) -> String {
        let inputs = [Some(x), Some(&linear.weight), linear.bias.as_deref()];
        let inputs: Vec<&str> = inputs.into_iter().flatten().collect();
        self.b.op("Gemm", &inputs, &[("transB", 1i64.into())])
    }

    /// The layer norm of each row, if there is one.
    fn norm(&mut self, norm: Option<&Norm>, x: &str) -> String {
        let Some(Norm { scale, bias }) = norm else { return x.to_owned() };
        let inputs: Vec<&str> = [Some(x), Some(scale), bias.as_deref()].into_iter().flatten().collect();
        let epsilon = self.encoder.epsilon as f32;
        self.b.op("LayerNormalization", &inputs, &[("axis", (-1i64).into()), ("epsilon", epsilon.into())])
    }

    fn activation(&mut self, activation: Activation, x: &str) -> String {
        match activation {
            Activation::Gelu => self.gelu(x),
            Activation::GeluTanh => self.gelu_tanh(x),
        }
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

    /// x · ½ · (1 + tanh(√(2/π) · (x + 0.044715 · x³))).
    fn gelu_tanh(&mut self, x: &str) -> String {
        let root = self.b.float((2.0 / std::f32::consts::PI).sqrt());
        let (cubic, one, half) = (self.b.float(0.044_715), self.b.float(1.0), self.b.float(0.5));
        let square = self.b.op("Mul", &[x, x], &[]);
        let cube = self.b.op("Mul", &[&square, x], &[]);
        let cube = self.b.op("Mul", &[&cube, &cubic], &[]);
        let sum = self.b.op("Add", &[x, &cube], &[]);
        let scaled = self.b.op("Mul", &[&sum, &root], &[]);
        let tanh = self.b.op("Tanh", &[&scaled], &[]);
        let gate = self.b.op("Add", &[&tanh, &one], &[]);
        let gated = self.b.op("Mul", &[x, &gate], &[]);
        self.b.op("Mul", &[&gated, &half], &[])
    }
}
