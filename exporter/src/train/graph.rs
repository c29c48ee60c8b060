//! The training step as an ONNX graph: forward pass, loss, gradients, clipping, AdamW.
//!
//! Everything that changes from step to step is an input: the batch, the dropout mask, the
//! learning rates, and the state (parameters and AdamW moments), whose next values are outputs.
//! The base's weights are inputs too, bound once. Nothing in the graph is random or remembers
//! anything, so a step is a pure function.

use overmask::base::{Base, MaskableTensor};
use overmask::mask::Granularity;
use overmask::onnx::proto::{ModelProto, data_type};
use overmask::onnx::{self, GraphBuilder};
use overmask::pack::Pooling;

use super::{TrainError, gelu};
use crate::autodiff;

/// Names of the step graph's inputs and outputs.
pub mod name {
    /// Class of each text, int64 `[batch]`.
    pub const TARGETS: &str = "targets";
    /// What pooled outputs are multiplied by, f32 [batch, width].
    pub const DROPOUT: &str = "dropout";
    /// Pooled outputs of the frozen encoder, f32 [batch, width] ([`super::Encoder::Frozen`]).
    pub const FEATURES: &str = "features";
    /// AdamW step size of the scores, bias correction included.
    pub const SCORE_RATE: &str = "score_rate";
    /// AdamW step size of the head, bias correction included.
    pub const HEAD_RATE: &str = "head_rate";
    /// AdamW's epsilon, bias correction included.
    pub const EPSILON: &str = "epsilon";
    /// Mean cross-entropy of the batch, a scalar.
    pub const LOSS: &str = "loss";
    /// Norm of all gradients before clipping, a scalar.
    pub const NORM: &str = "gradient_norm";
    /// Class scores, f32 [batch, classes].
    pub const LOGITS: &str = "logits";
    /// The head's weight, [classes, width].
    pub const HEAD_WEIGHT: &str = "head/weight";
    /// The head's bias, `[classes]`.
    pub const HEAD_BIAS: &str = "head/bias";
}

/// AdamW's decay of the first moment.
pub const BETA1: f64 = 0.9;
/// AdamW's decay of the second moment.
pub const BETA2: f64 = 0.999;

/// A parameter that training changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// Name of the input; the outputs are `name/next`, and its moments `name/m` and `name/v`.
    pub name: String,
    /// Shape.
    pub dims: Vec<usize>,
    /// The maskable tensor that these are the scores of, or `None` for the head.
    pub scores_of: Option<MaskableTensor>,
}

impl Trained {
    /// Names of the state that goes from step to step: the parameter and its two moments.
    pub fn state(&self) -> [String; 3] {
        [self.name.clone(), format!("{}/m", self.name), format!("{}/v", self.name)]
    }
}

/// The output that holds the next value of a state input.
pub fn next(state: &str) -> String {
    format!("{state}/next")
}

/// What feeds the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoder {
    /// Pooled outputs computed beforehand: only the head trains.
    Frozen,
    /// The encoder with masks on its layers from this one up.
    Masked {
        /// Unit of the masks.
        granularity: Granularity,
        /// First layer that is masked.
        from_layer: usize,
    },
}

/// What a step graph is built from.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// What feeds the head.
    pub encoder: Encoder,
    /// How token outputs become one vector.
    pub pooling: Pooling,
    /// Number of classes.
    pub classes: usize,
    /// Largest norm of all gradients together.
    pub clip_norm: f32,
}

/// A graph with what must be fed to it.
#[derive(Debug)]
pub struct Graph {
    /// The model.
    pub model: ModelProto,
    /// Its parameters, in the order of the state.
    pub trained: Vec<Trained>,
    /// Tensors of the base that are inputs.
    pub frozen: Vec<String>,
}

/// The forward graph up to the logits, with parameters and weights as inputs.
///
/// # Errors
/// When the base's graph cannot be read or a tensor does not divide into blocks.
pub fn forward(base: &Base, spec: &Spec) -> Result<Graph, TrainError> {
    let (b, trained, frozen, logits, _) = Step::forward(base, spec)?;
    Ok(finish(b, trained, frozen, &[(&logits, name::LOGITS, &["batch", "classes"])]))
}

/// The whole training step.
///
/// # Errors
/// As [`forward`], and when the graph has an operator that cannot be differentiated.
pub fn step(base: &Base, spec: &Spec) -> Result<Graph, TrainError> {
    let (b, trained, frozen, logits, masked) = Step::forward(base, spec)?;
    let mut step = Step { b };
    let loss = step.cross_entropy(&logits, spec.classes);
    // The straight-through estimator (Bengio et al. 2013): the gradient of the score is that of
    // the mask bit, so the masked weight is where differentiation stops.
    let wrt: Vec<String> = trained
        .iter()
        .map(|t| masked.iter().find(|m| m.scores == t.name).map_or_else(|| t.name.clone(), |m| m.masked.clone()))
        .collect();
    let gradients = autodiff::differentiate(&mut step.b, &loss, &wrt)?;
    let mut of_scores = Vec::with_capacity(gradients.len());
    for (parameter, gradient) in trained.iter().zip(gradients) {
        of_scores.push(match masked.iter().find(|m| m.scores == parameter.name) {
            Some(m) => step.score_gradient(m, &gradient),
            None => gradient,
        });
    }
    let norm = step.update(&trained, &of_scores, spec.clip_norm);
    Ok(finish(step.b, trained, frozen, &[(&loss, name::LOSS, &[]), (&norm, name::NORM, &[])]))
}

fn finish(mut b: GraphBuilder, trained: Vec<Trained>, frozen: Vec<String>, outputs: &[(&str, &str, &[&str])]) -> Graph {
    for (value, name, shape) in outputs {
        b.output_as(value, name, data_type::FLOAT, shape);
    }
    Graph { model: b.finish(), trained, frozen }
}

/// A weight under a mask.
struct Masked {
    tensor: MaskableTensor,
    granularity: Granularity,
    /// The score input.
    scores: String,
    /// The masked weight, [outputs, inputs].
    masked: String,
}

struct Step {
    b: GraphBuilder,
}

type Forward = (GraphBuilder, Vec<Trained>, Vec<String>, String, Vec<Masked>);

impl Step {
    fn forward(base: &Base, spec: &Spec) -> Result<Forward, TrainError> {
        let width = base.manifest().architecture.hidden_size;
        let mut trained = Vec::new();
        let mut frozen = Vec::new();
        let mut masked = Vec::new();
        let (mut step, pooled) = match spec.encoder {
            Encoder::Frozen => {
                let mut b = GraphBuilder::new("head");
                let features = b.input(name::FEATURES, data_type::FLOAT, &["batch", &width.to_string()]);
                (Step { b }, features)
            }
            Encoder::Masked { granularity, from_layer } => {
                let mut model = onnx::read_model(&base.model_path())?;
                frozen = external_names(&model)?;
                let names: Vec<&str> = frozen.iter().map(String::as_str).collect();
                onnx::initializers_to_inputs(&mut model, &names)?;
                let mut graph = model.graph.unwrap_or_default();
                // The encoder's own outputs are inner values here.
                graph.output.clear();
                gelu::fold_constants(&mut graph);
                let mut step = Step { b: GraphBuilder::extend(graph) };
                let tensors = base.manifest().maskable.iter().filter(|t| t.layer >= from_layer);
                masked = step.mask(tensors, granularity, &mut trained)?;
                let pooled = step.pool(spec.pooling);
                (step, pooled)
            }
        };
        for (name, dims) in [(name::HEAD_WEIGHT, vec![spec.classes, width]), (name::HEAD_BIAS, vec![spec.classes])] {
            trained.push(Trained { name: name.to_owned(), dims, scores_of: None });
        }
        for parameter in &trained {
            step.state_input(&parameter.name, &parameter.dims);
        }
        let dropped = step.b.input(name::DROPOUT, data_type::FLOAT, &["batch", &width.to_string()]);
        let pooled = step.b.op("Mul", &[&pooled, &dropped], &[]);
        let logits = step.b.op("Gemm", &[&pooled, name::HEAD_WEIGHT, name::HEAD_BIAS], &[("transB", 1i64.into())]);
        Ok((step.b, trained, frozen, logits, masked))
    }

    fn state_input(&mut self, name: &str, dims: &[usize]) {
        declare(dims, |dims| drop(self.b.input(name, data_type::FLOAT, dims)));
    }

    /// Puts a mask between each tensor and the nodes that read it.
    fn mask<'a>(
        &mut self,
        tensors: impl Iterator<Item = &'a MaskableTensor>,
        granularity: Granularity,
        trained: &mut Vec<Trained>,
    ) -> Result<Vec<Masked>, TrainError> {
        let mut nodes = self.b.take_nodes();
        let mut all = Vec::new();
        for tensor in tensors {
            let scores = format!("scores/{}", tensor.name);
            let dims = units(tensor, granularity)?;
            let masked = self.apply(tensor, granularity, &scores);
            for node in &mut nodes {
                node.input.iter_mut().filter(|i| **i == tensor.name).for_each(|i| i.clone_from(&masked));
            }
            trained.push(Trained { name: scores.clone(), dims: dims.to_vec(), scores_of: Some(tensor.clone()) });
            all.push(Masked { tensor: tensor.clone(), granularity, scores, masked });
        }
        self.b.append(nodes);
        Ok(all)
    }

    /// W where its unit's score is above zero, else 0.
    fn apply(&mut self, tensor: &MaskableTensor, granularity: Granularity, scores: &str) -> String {
        let zero = self.b.float(0.0);
        let keep = self.b.op("Greater", &[scores, &zero], &[]);
        let keep = self.b.op("Cast", &[&keep], &[("to", i64::from(data_type::FLOAT).into())]);
        let Some(blocks) = Blocks::of(tensor, granularity) else {
            return self.b.op("Mul", &[&tensor.name, &keep], &[]);
        };
        let (grid, open) = (self.b.shape(&blocks.grid), self.b.shape(&blocks.open));
        let keep = self.b.op("Reshape", &[&keep, &grid], &[]);
        let weight = self.b.op("Reshape", &[&tensor.name, &open], &[]);
        let masked = self.b.op("Mul", &[&weight, &keep], &[]);
        let flat = self.b.shape(&[tensor.outputs as i64, tensor.inputs as i64]);
        self.b.op("Reshape", &[&masked, &flat], &[])
    }

    /// dL/dscore = dL/dW ⊙ W, summed over the unit.
    fn score_gradient(&mut self, masked: &Masked, gradient: &str) -> String {
        let tensor = &masked.tensor;
        let product = self.b.op("Mul", &[gradient, &tensor.name], &[]);
        let Some(blocks) = Blocks::of(tensor, masked.granularity) else {
            return product;
        };
        let (open, axes) = (self.b.shape(&blocks.open), self.b.shape(&blocks.inside));
        let product = self.b.op("Reshape", &[&product, &open], &[]);
        self.b.op("ReduceSum", &[&product, &axes], &[("keepdims", 0i64.into())])
    }

    /// One vector a text, [batch, width].
    fn pool(&mut self, pooling: Pooling) -> String {
        let states = "last_hidden_state";
        match pooling {
            Pooling::Mean => {
                let mask = self.b.op("Cast", &["attention_mask"], &[("to", i64::from(data_type::FLOAT).into())]);
                let (last, along) = (self.b.shape(&[2]), self.b.shape(&[1]));
                let mask = self.b.op("Unsqueeze", &[&mask, &last], &[]);
                let kept = self.b.op("Mul", &[states, &mask], &[]);
                let sum = self.b.op("ReduceSum", &[&kept, &along], &[("keepdims", 0i64.into())]);
                let count = self.b.op("ReduceSum", &[&mask, &along], &[("keepdims", 0i64.into())]);
                self.b.op("Div", &[&sum, &count], &[])
            }
            Pooling::Cls => {
                // A product with a row that picks the first token: Slice has no gradient rule.
                let first = self.b.op("Shape", &["attention_mask"], &[]);
                let (one, two, zero) = (self.b.shape(&[1]), self.b.shape(&[2]), self.b.shape(&[0]));
                let length = self.b.op("Slice", &[&first, &one, &two, &zero], &[]);
                let length = self.b.op("Squeeze", &[&length, &zero], &[]);
                let values = self.b.floats(&[0.0, 1.0]);
                let row = self.b.op("OneHot", &[&zero, &length, &values], &[]);
                let shape = self.b.shape(&[1, -1, 1]);
                let row = self.b.op("Reshape", &[&row, &shape], &[]);
                let kept = self.b.op("Mul", &[states, &row], &[]);
                self.b.op("ReduceSum", &[&kept, &one], &[("keepdims", 0i64.into())])
            }
        }
    }

    /// Mean over the batch of -log softmax(logits)[target].
    fn cross_entropy(&mut self, logits: &str, classes: usize) -> String {
        let targets = self.b.input(name::TARGETS, data_type::INT64, &["batch"]);
        let (depth, values) = (self.b.ints(&[], &[classes as i64]), self.b.floats(&[0.0, 1.0]));
        let one_hot = self.b.op("OneHot", &[&targets, &depth, &values], &[]);
        let log = self.b.op("LogSoftmax", &[logits], &[("axis", (-1i64).into())]);
        let picked = self.b.op("Mul", &[&one_hot, &log], &[]);
        let classes = self.b.shape(&[1]);
        let of_text = self.b.op("ReduceSum", &[&picked, &classes], &[("keepdims", 0i64.into())]);
        let mean = self.b.op("ReduceMean", &[&of_text], &[("axes", vec![0].into()), ("keepdims", 0i64.into())]);
        self.b.op("Neg", &[&mean], &[])
    }

    /// Clips the gradients' common norm and lets AdamW (Loshchilov & Hutter 2019) change each
    /// parameter. Returns the norm before clipping.
    ///
    /// The moments are kept without their factors 1 - β, and the caller folds those and the
    /// bias correction into rate and epsilon, which saves three passes over every parameter:
    /// m' = β₁·m + g, v' = β₂·v + g², p' = p - rate · m' / (√v' + ε).
    fn update(&mut self, trained: &[Trained], gradients: &[String], clip_norm: f32) -> String {
        for rate in [name::SCORE_RATE, name::HEAD_RATE, name::EPSILON] {
            self.b.input(rate, data_type::FLOAT, &[]);
        }
        let squares: Vec<String> =
            gradients.iter().map(|g| self.b.op("ReduceSumSquare", &[g], &[("keepdims", 0i64.into())])).collect();
        let squares: Vec<&str> = squares.iter().map(String::as_str).collect();
        let total = self.b.op("Sum", &squares, &[]);
        let norm = self.b.op("Sqrt", &[&total], &[]);
        let (tiny, limit, one) = (self.b.float(1e-6), self.b.float(clip_norm), self.b.float(1.0));
        let above = self.b.op("Add", &[&norm, &tiny], &[]);
        let ratio = self.b.op("Div", &[&limit, &above], &[]);
        let scale = self.b.op("Min", &[&ratio, &one], &[]);
        let (beta1, beta2) = (self.b.float(BETA1 as f32), self.b.float(BETA2 as f32));
        for (parameter, gradient) in trained.iter().zip(gradients) {
            let [p, m, v] = parameter.state();
            for moment in [&m, &v] {
                self.state_input(moment, &parameter.dims);
            }
            let rate = if parameter.scores_of.is_some() { name::SCORE_RATE } else { name::HEAD_RATE };
            let g = self.b.op("Mul", &[gradient, &scale], &[]);
            let old = self.b.op("Mul", &[&m, &beta1], &[]);
            self.b.node("Add", &[&old, &g], &[&next(&m)], &[]);
            let square = self.b.op("Mul", &[&g, &g], &[]);
            let old = self.b.op("Mul", &[&v, &beta2], &[]);
            self.b.node("Add", &[&old, &square], &[&next(&v)], &[]);
            let root = self.b.op("Sqrt", &[&next(&v)], &[]);
            let root = self.b.op("Add", &[&root, name::EPSILON], &[]);
            let direction = self.b.op("Div", &[&next(&m), &root], &[]);
            let change = self.b.op("Mul", &[&direction, rate], &[]);
            self.b.node("Sub", &[&p, &change], &[&next(&p)], &[]);
            for state in [p, m, v] {
                declare(&parameter.dims, |dims| self.b.output(&next(&state), data_type::FLOAT, dims));
            }
        }
        norm
    }
}

/// Hands fixed dimensions to `how`, as the builder takes those of inputs and outputs.
pub(super) fn declare(dims: &[usize], how: impl FnOnce(&[&str])) {
    let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
    how(&dims.iter().map(String::as_str).collect::<Vec<_>>());
}

/// How a weight opens up into blocks. Blocks of one column stay in three axes: the runtime's
/// broadcasts and sums are fast along a long last axis.
struct Blocks {
    /// Shape of the units, with an axis of 1 for each axis inside a block.
    grid: Vec<i64>,
    /// Shape of the weight with blocks as axes.
    open: Vec<i64>,
    /// The axes inside a block.
    inside: Vec<i64>,
}

impl Blocks {
    fn of(tensor: &MaskableTensor, granularity: Granularity) -> Option<Blocks> {
        let Granularity::Block { rows, cols } = granularity else { return None };
        let (rows, cols) = (i64::from(rows), i64::from(cols));
        let (down, across) = (tensor.outputs as i64 / rows, tensor.inputs as i64 / cols);
        Some(match cols {
            1 => Blocks { grid: vec![down, 1, across], open: vec![down, rows, across], inside: vec![1] },
            _ => Blocks { grid: vec![down, 1, across, 1], open: vec![down, rows, across, cols], inside: vec![1, 3] },
        })
    }
}

/// Rows and columns of the units of a tensor.
///
/// # Errors
/// When the tensor does not divide into whole blocks.
pub fn units(tensor: &MaskableTensor, granularity: Granularity) -> Result<[usize; 2], TrainError> {
    let (rows, cols) = match granularity {
        Granularity::Weight => (1, 1),
        Granularity::Block { rows, cols } => (rows as usize, cols as usize),
    };
    if !tensor.outputs.is_multiple_of(rows) || !tensor.inputs.is_multiple_of(cols) {
        return Err(TrainError::Indivisible {
            tensor: tensor.name.clone(),
            outputs: tensor.outputs,
            inputs: tensor.inputs,
            granularity,
        });
    }
    Ok([tensor.outputs / rows, tensor.inputs / cols])
}

fn external_names(model: &ModelProto) -> Result<Vec<String>, TrainError> {
    let mut names = Vec::new();
    for tensor in model.graph.iter().flat_map(|g| &g.initializer) {
        if onnx::external_data(tensor)?.is_some() {
            names.push(tensor.name.clone());
        }
    }
    Ok(names)
}
