//! The training step as an ONNX graph: forward pass, loss, gradients, clipping, AdamW. On a CPU it ends with the
//! gradients ([`gradients`]); `train/step` does the rest.
//!
//! Everything that changes from step to step is an input: the batch, the dropout mask, the
//! threshold of the scores, the learning rates, and the state (parameters and AdamW moments), whose
//! next values are outputs. The base's weights are inputs too, bound once. Nothing in the graph is
//! random or remembers anything, so a step is a pure function.

mod adaptation;
mod loss;
mod mask;
mod optimizer;
mod precision;
mod prefix;

use overmask::base::{Base, MaskableTensor};
use overmask::mask::Granularity;
use overmask::pack::{Pooling, TaskKind};
use overmask_graph::encoder;
use overmask_graph::passes::{gelu, half, head};
use overmask_graph::proto::{GraphProto, ModelProto, data_type};
use overmask_graph::{self, GraphBuilder};

pub use self::adaptation::{Adaptation, States, states};
pub use self::mask::units;
pub use self::optimizer::{BETA1, BETA2, CLIP_EPSILON, Optimizer};
pub use self::precision::Precision;
pub use self::prefix::Prefix;

use self::mask::Masked;
use super::TrainError;
use crate::autodiff;

/// Names of the step graph's inputs and outputs.
pub mod name {
    pub use overmask::pack::tensor::{HEAD_BIAS, HEAD_WEIGHT};
    pub use overmask_graph::passes::head::{FIRSTS, LOGITS};

    /// What each row of logits should be: int64 `[rows]`, the class, for one label; f32 [rows, labels]
    /// for several labels (0 or 1) and for a number.
    pub const TARGETS: &str = "targets";
    /// What pooled outputs are multiplied by, f32 [rows, width].
    pub const DROPOUT: &str = "dropout";
    /// Pooled outputs of the frozen encoder, f32 [rows, width] ([`super::Encoder::Frozen`]).
    pub const FEATURES: &str = "features";
    /// The output of what lies below everything that trains, f32 [batch, sequence, width].
    pub const PREFIX: &str = "prefix";
    /// What the teacher says of each row, f32 [rows, labels]: probabilities, or the number.
    pub const TEACHER: &str = "teacher";
    /// The teacher's pooled outputs, f32 [rows, width].
    pub const TEACHER_FEATURES: &str = "teacher_features";
    /// The teacher's output for each token, f32 [batch, sequence, width].
    pub const TEACHER_STATES: &str = "teacher_states";
    /// Units with a score above it are kept, a scalar.
    pub const THRESHOLD: &str = "threshold";
    /// AdamW step size of the scores, bias correction included.
    pub const SCORE_RATE: &str = "score_rate";
    /// AdamW step size of the base's own tensors, likewise.
    pub const DENSE_RATE: &str = "dense_rate";
    /// AdamW step size of the head, likewise.
    pub const HEAD_RATE: &str = "head_rate";
    /// AdamW's epsilon, bias correction included.
    pub const EPSILON: &str = "epsilon";
    /// What the loss is multiplied by before it is differentiated, a scalar; gradients are divided by
    /// it again.
    pub const LOSS_SCALE: &str = "loss_scale";
    /// The part of the batch that these examples are, times the loss scale, a scalar.
    pub const SHARE: &str = "share";
    /// The loss of the batch, a scalar.
    pub const LOSS: &str = "loss";
    /// Norm of all gradients before clipping, a scalar.
    pub const NORM: &str = "gradient_norm";
}

/// What a parameter is.
#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    /// The scores of a maskable tensor.
    Scores(MaskableTensor),
    /// A tensor of the base.
    Dense,
    /// Of the head.
    Head,
}

/// A parameter that training changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// Name of the input; the outputs are `name/next`, and its moments `name/m` and `name/v`.
    pub name: String,
    /// Shape.
    pub dims: Vec<usize>,
    /// What it is.
    pub role: Role,
}

impl Trained {
    /// Names of the state that goes from step to step: the parameter and its two moments.
    pub fn state(&self) -> [String; 3] {
        [self.name.clone(), format!("{}/m", self.name), format!("{}/v", self.name)]
    }

    /// The tensor that these are the scores of.
    pub fn scores_of(&self) -> Option<&MaskableTensor> {
        match &self.role {
            Role::Scores(tensor) => Some(tensor),
            Role::Dense | Role::Head => None,
        }
    }
}

/// The output that holds the next value of a state input.
pub fn next(state: &str) -> String {
    format!("{state}/next")
}

/// The output that holds the gradient of a parameter.
pub fn gradient(parameter: &str) -> String {
    format!("gradient/{parameter}")
}

/// The input that holds the sum of a parameter's gradients over the parts of a batch so far.
pub fn sum(parameter: &str) -> String {
    format!("sum/{parameter}")
}

/// The input that says which units of a tensor are kept, 1 or 0 each.
pub fn keep(tensor: &str) -> String {
    format!("keep/{tensor}")
}

/// The input that holds what an encoder that is trained to be another's like gives after some of its layers: the
/// other's, f32 [batch, sequence, width].
pub fn state(number: usize) -> String {
    format!("state/{number}")
}

/// The input that holds what the scores of a tensor are compared with, where each unit has a
/// threshold of its own.
pub fn noise(tensor: &str) -> String {
    format!("noise/{tensor}")
}

/// What feeds the head.
#[derive(Debug, Clone, PartialEq)]
pub enum Encoder {
    /// Pooled outputs computed beforehand: only the head trains.
    Frozen,
    /// The encoder, with something in it that trains.
    Live {
        /// Tensors that have scores.
        masked: Vec<MaskableTensor>,
        /// Unit of the masks.
        granularity: Granularity,
        /// Whether each unit has a threshold of its own ([`noise`]), not all the same.
        noisy: bool,
        /// Tensors of the base that train themselves.
        dense: Vec<String>,
    },
}

/// How much a teacher says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distillation {
    /// Its part of the loss, from 0 to 1; the labels have the rest.
    pub weight: f32,
    /// What logits are divided by before they become probabilities.
    pub temperature: f32,
    /// The weight of the mean square difference of pooled outputs, besides; 0 for none.
    pub features: f32,
    /// The weight of that of the encoders' outputs for each token, likewise.
    pub states: f32,
}

/// What a step graph is built from.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// What feeds the head.
    pub encoder: Encoder,
    /// What the task computes.
    pub kind: TaskKind,
    /// How token outputs become vectors.
    pub pooling: Pooling,
    /// Number of labels.
    pub labels: usize,
    /// Largest norm of all gradients together.
    pub clip_norm: f32,
    /// How much scores with small gradients are held back; 0 for plain AdamW.
    pub damping: f32,
    /// Whether there is a teacher.
    pub teacher: Option<Distillation>,
    /// Whether what lies below everything that trains is taken off, if it can be.
    pub cut_prefix: bool,
    /// What the encoder's matrix products compute in while training.
    pub precision: Precision,
}

impl Spec {
    /// The name of the dimension that counts rows of logits: texts are one each, words are not.
    fn rows(&self) -> &'static str {
        match (&self.encoder, self.pooling) {
            (Encoder::Live { .. }, Pooling::Mean | Pooling::Cls) => "batch",
            _ => "rows",
        }
    }
}

/// What is learnt.
pub trait Objective {
    /// The forward pass, its loss, and the gradients of the loss times the input `scale`, if there is one.
    ///
    /// # Errors
    /// When the base's graph cannot be read, a tensor does not divide into blocks, or the graph has an operator that
    /// cannot be differentiated.
    fn differentiated(&self, base: &Base, scale: Option<&str>) -> Result<Differentiated, TrainError>;

    /// How gradients change parameters.
    fn optimizer(&self) -> Optimizer;
}

/// A graph with what must be fed to it.
#[derive(Debug)]
pub struct Graph {
    /// The model.
    pub model: ModelProto,
    /// Its parameters, in the order of the state.
    pub trained: Vec<Trained>,
    /// Tensors of the base that are inputs and do not train.
    pub frozen: Vec<String>,
    /// What was taken off below.
    pub prefix: Option<Prefix>,
}

/// The forward graph up to the logits, with parameters and weights as inputs.
///
/// # Errors
/// When the base's graph cannot be read or a tensor does not divide into blocks.
pub fn forward(base: &Base, spec: &Spec) -> Result<Graph, TrainError> {
    let Forward { open, logits, .. } = Forward::new(base, spec, false)?;
    Ok(open.finish(&[(&logits, name::LOGITS, &[spec.rows(), "labels"])]))
}

/// The whole training step.
///
/// # Errors
/// As [`Objective::differentiated`].
pub fn step(base: &Base, objective: &dyn Objective) -> Result<Graph, TrainError> {
    let optimizer = objective.optimizer();
    let scale = optimizer.scales_loss.then_some(name::LOSS_SCALE);
    let Differentiated { mut open, loss, gradients } = objective.differentiated(base, scale)?;
    let norm = optimizer::update(&mut open.b, &open.trained, &gradients, optimizer, scale);
    Ok(open.finish(&[(&loss, name::LOSS, &[]), (&norm, name::NORM, &[])]))
}

/// A step up to its gradients ([`gradient`]), those of the loss times [`name::SHARE`].
///
/// # Errors
/// As [`step`].
pub fn gradients(base: &Base, objective: &dyn Objective) -> Result<Graph, TrainError> {
    let Differentiated { mut open, loss, gradients } = objective.differentiated(base, Some(name::SHARE))?;
    let Open { b, trained, .. } = &mut open;
    let values: Vec<_> = trained.iter().zip(gradients).map(|(t, value)| (gradient(&t.name), value)).collect();
    b.rename_all(&values);
    for (parameter, (name, _)) in trained.iter().zip(&values) {
        declare(&parameter.dims, |dims| b.output(name, data_type::FLOAT, dims));
    }
    Ok(open.finish(&[(&loss, name::LOSS, &[])]))
}

/// The first half of a step whose batch comes in parts: the gradients of a part are added to those of
/// the parts before ([`sum`]).
///
/// # Errors
/// As [`step`].
pub fn sums(base: &Base, objective: &dyn Objective) -> Result<Graph, TrainError> {
    let Differentiated { mut open, loss, gradients } = objective.differentiated(base, Some(name::SHARE))?;
    let Open { b, trained, .. } = &mut open;
    for (parameter, gradient) in trained.iter().zip(&gradients) {
        let before = sum(&parameter.name);
        declare(&parameter.dims, |dims| {
            b.input(&before, data_type::FLOAT, dims);
            b.node("Add", &[&before, gradient], &[&next(&before)], &[]);
            b.output(&next(&before), data_type::FLOAT, dims);
        });
    }
    Ok(open.finish(&[(&loss, name::LOSS, &[])]))
}

/// The second half: the sums change the parameters.
pub fn update(trained: &[Trained], optimizer: Optimizer) -> ModelProto {
    let mut b = GraphBuilder::new("update");
    let mut sums = Vec::with_capacity(trained.len());
    for parameter in trained {
        declare(&parameter.dims, |dims| {
            b.input(&parameter.name, data_type::FLOAT, dims);
            sums.push(b.input(&sum(&parameter.name), data_type::FLOAT, dims));
        });
    }
    let scale = optimizer.scales_loss.then(|| b.input(name::LOSS_SCALE, data_type::FLOAT, &[]));
    let norm = optimizer::update(&mut b, trained, &sums, optimizer, scale.as_deref());
    b.output_as(&norm, name::NORM, data_type::FLOAT, &[]);
    b.finish()
}

/// A forward pass with its gradients.
pub struct Differentiated {
    open: Open,
    loss: String,
    /// Of each parameter.
    gradients: Vec<String>,
}

impl Objective for Spec {
    fn differentiated(&self, base: &Base, scale: Option<&str>) -> Result<Differentiated, TrainError> {
        let Forward { mut open, pooled, logits, masked } = Forward::new(base, self, true)?;
        let Open { b, trained, .. } = &mut open;
        let loss = loss::loss(b, self, &logits, &pooled, base.manifest().architecture.hidden_size);
        let scaled = scaled(b, &loss, scale);
        // The straight-through estimator (Bengio et al. 2013): the gradient of the score is that of
        // the mask bit, so the masked weight is where differentiation stops.
        let wrt: Vec<String> = trained
            .iter()
            .map(|t| masked.iter().find(|m| m.scores == t.name).map_or_else(|| t.name.clone(), |m| m.masked.clone()))
            .collect();
        let mut gradients = autodiff::differentiate(b, &scaled, &wrt)?;
        for (parameter, gradient) in trained.iter().zip(&mut gradients) {
            if let Some(m) = masked.iter().find(|m| m.scores == parameter.name) {
                *gradient = mask::score_gradient(b, m, gradient);
            }
        }
        Ok(Differentiated { open, loss, gradients })
    }

    fn optimizer(&self) -> Optimizer {
        let Spec { clip_norm, damping, precision, .. } = *self;
        // Small gradients vanish in f16.
        Optimizer { clip_norm, damping, scales_loss: precision == Precision::F16 }
    }
}

/// The loss times the input `scale`, if there is one.
fn scaled(b: &mut GraphBuilder, loss: &str, scale: Option<&str>) -> String {
    let Some(scale) = scale else { return loss.to_owned() };
    b.input(scale, data_type::FLOAT, &[]);
    b.op("Mul", &[loss, scale], &[])
}

/// A base's graph, without outputs, all of whose weights are inputs; and their names.
fn encoder_of(base: &Base) -> Result<(GraphProto, Vec<String>), TrainError> {
    let mut model = overmask_graph::read_model(&base.model_path())?;
    let weights = overmask_graph::external_names(&model)?;
    overmask_graph::initializers_to_inputs(&mut model, &weights.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut graph = model.graph.unwrap_or_default();
    // The encoder's own outputs are inner values here.
    graph.output.clear();
    gelu::fold_constants(&mut graph);
    Ok((graph, weights))
}

/// A tensor of the base that trains itself.
fn dense(base: &Base, name: &str) -> Result<Trained, TrainError> {
    Ok(Trained { name: name.to_owned(), dims: base.tensor_f32(name)?.0.to_vec(), role: Role::Dense })
}

/// A graph that is being made.
struct Open {
    b: GraphBuilder,
    trained: Vec<Trained>,
    frozen: Vec<String>,
    prefix: Option<Prefix>,
}

impl Open {
    /// The graph, with values that become outputs: their name and shape.
    fn finish(mut self, outputs: &[(&str, &str, &[&str])]) -> Graph {
        for (value, name, shape) in outputs {
            self.b.output_as(value, name, data_type::FLOAT, shape);
        }
        Graph { model: self.b.finish(), trained: self.trained, frozen: self.frozen, prefix: self.prefix }
    }
}

/// A forward pass.
struct Forward {
    open: Open,
    /// What the head sees, before dropout: [rows, width].
    pooled: String,
    logits: String,
    masked: Vec<Masked>,
}

impl Forward {
    fn new(base: &Base, spec: &Spec, training: bool) -> Result<Self, TrainError> {
        let width = base.manifest().architecture.hidden_size;
        let (mut trained, mut frozen, mut masked) = (Vec::new(), Vec::new(), Vec::new());
        let mut prefix = None;
        let (mut b, pooled) = match &spec.encoder {
            Encoder::Frozen => {
                let mut b = GraphBuilder::new("head");
                let features = b.input(name::FEATURES, data_type::FLOAT, &["rows", &width.to_string()]);
                (b, features)
            }
            Encoder::Live { masked: tensors, granularity, noisy, dense: own } => {
                let (mut graph, weights) = encoder_of(base)?;
                frozen = weights;
                let live = || tensors.iter().map(|tensor| &tensor.name).chain(own);
                frozen.retain(|name| live().all(|l| l != name));
                if spec.cut_prefix {
                    let live: Vec<&str> = live().map(String::as_str).collect();
                    prefix = prefix::cut(&mut graph, &live, &frozen, width);
                }
                // A masked tensor is read, too.
                frozen.extend(tensors.iter().map(|tensor| tensor.name.clone()));
                frozen.retain(|name| graph.input.iter().any(|input| input.name == *name));
                let mut b = GraphBuilder::extend(graph);
                masked = mask::insert(&mut b, tensors, *granularity, *noisy && training, &mut trained)?;
                for name in own {
                    trained.push(dense(base, name)?);
                }
                if let Some(to) = spec.precision.half().filter(|_| training) {
                    half::lower(&mut b, to, encoder::OUTPUT);
                }
                let pooled = head::pool(&mut b, spec.pooling, width);
                (b, pooled)
            }
        };
        for (name, dims) in [(name::HEAD_WEIGHT, vec![spec.labels, width]), (name::HEAD_BIAS, vec![spec.labels])] {
            trained.push(Trained { name: name.to_owned(), dims, role: Role::Head });
        }
        // The base's own tensors are inputs already.
        for parameter in trained.iter().filter(|t| t.role != Role::Dense) {
            declare(&parameter.dims, |dims| drop(b.input(&parameter.name, data_type::FLOAT, dims)));
        }
        let dropped = b.input(name::DROPOUT, data_type::FLOAT, &[spec.rows(), &width.to_string()]);
        let seen = b.op("Mul", &[&pooled, &dropped], &[]);
        let logits = b.op("Gemm", &[&seen, name::HEAD_WEIGHT, name::HEAD_BIAS], &[("transB", 1i64.into())]);
        Ok(Forward { open: Open { b, trained, frozen, prefix }, pooled, logits, masked })
    }
}

/// Hands fixed dimensions to `how`, as the builder takes those of inputs and outputs.
pub(super) fn declare(dims: &[usize], how: impl FnOnce(&[&str])) {
    let dims: Vec<String> = dims.iter().map(usize::to_string).collect();
    how(&dims.iter().map(String::as_str).collect::<Vec<_>>());
}
