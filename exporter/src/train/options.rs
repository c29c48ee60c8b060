//! What decides a training run.

use std::path::PathBuf;

use clap::ValueEnum;
use overmask::base::BaseManifest;
use overmask::engine::Device;
use overmask::mask::Granularity;
use overmask::pack::{FloatType, Pooling};
use serde::{Deserialize, Serialize};

use super::graph::Precision;
use super::select::{Layers, Selection, Tune};
use crate::data::Form;

/// How a task is learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The encoder stays as it is; only the head trains: the baseline.
    Head,
    /// Which weights are zero is learnt together with the head.
    ///
    /// Scores decide it, which train.
    Mask,
    /// The weights of chosen layers train, and are stored as they become (the L0-close fine-tuning of
    /// Radiya-Dixit & Wang 2020).
    #[value(help = "The weights of --layers train, and are stored as they become")]
    Layers,
    /// All of the encoder trains: the yardstick.
    Full,
}

/// Where scores start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// Small weights are zeroed first.
    ///
    /// A score is the rank of its unit's magnitude.
    Magnitude,
    /// At random.
    ///
    /// Whatever the weights are.
    Uniform,
}

/// How scores become a mask while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// What is above the threshold is kept.
    Threshold,
    /// Kept with a probability.
    ///
    /// It grows with the unit's score (Zhou et al. 2019).
    Bernoulli,
}

/// How the examples that choose the best state are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// At random.
    Random,
    /// Of each label the same part.
    Stratified,
}

/// Which state of a run is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// That of the epoch which is best on the dev split.
    Best,
    /// The last one: few examples say which epoch was lucky, not which is good.
    Last,
}

/// A rate of the scores and a length of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Try {
    /// Learning rate of the scores.
    pub learning_rate: f64,
    /// Passes over the training examples.
    pub epochs: u32,
}

/// Who teaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Teacher {
    /// A pack for the same base and labels.
    Pack(PathBuf),
    /// As many teachers of the run's own, each fully fine-tuned: the training examples are cut into so many parts, and
    /// each part is taught by one that learnt the others, so that none teaches what it knows by heart.
    Folds(usize),
    /// Nobody but the soft labels of the data, which go before all others' answers, too.
    Labels,
}

/// What learns from a teacher.
#[derive(Debug, Clone, PartialEq)]
pub struct TeacherOptions {
    /// Who it is.
    pub who: Teacher,
    /// The teacher's part of the loss, 0 to 1.
    pub weight: f64,
    /// What logits are divided by before they become probabilities.
    pub temperature: f64,
    /// Weight of the mean square difference of what the heads see; 0 for none.
    pub features: f64,
    /// Weight of the mean square difference of the encoders' outputs, token by token; 0 for none.
    pub states: f64,
}

impl TeacherOptions {
    /// The usual temperature.
    pub const TEMPERATURE: f64 = 2.0;
    /// The usual weight.
    pub const WEIGHT: f64 = 0.5;

    /// With the usual weight and temperature, of answers alone.
    pub fn new(who: Teacher) -> Self {
        TeacherOptions { who, weight: Self::WEIGHT, temperature: Self::TEMPERATURE, features: 0.0, states: 0.0 }
    }
}

/// Where a run is kept, so that it can go on.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointOptions {
    /// The file.
    pub file: PathBuf,
    /// Steps between two writes.
    pub every: u64,
    /// Go on from the file if it is there.
    pub resume: bool,
}

/// Everything that decides a training run.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Name of the task.
    pub name: String,
    /// What the examples are.
    pub form: Form,
    /// Method.
    pub method: Method,
    /// Unit of the masks.
    pub granularity: Granularity,
    /// Where scores start.
    pub init: Init,
    /// How scores become masks.
    pub sampling: Sampling,
    /// Fraction of units that start as zeros.
    pub initial_sparsity: f64,
    /// Fraction of the masked tensors' units that are zeros at the end; without it training decides.
    pub target_sparsity: Option<f64>,
    /// Part of all steps after which the target is reached.
    pub ramp: f64,
    /// Part of all steps, at the end, in which masks stay as they are and the rest goes on.
    pub polish: f64,
    /// Layers that are masked or trained.
    pub layers: Layers,
    /// Modules that are masked or trained; all if empty.
    pub modules: Vec<String>,
    /// Small tensors that train besides.
    pub tune: Tune,
    /// Passes over the training examples.
    pub epochs: u32,
    /// Examples a step.
    pub batch_size: usize,
    /// Examples that run at once, if fewer than a step's: gradients of a batch's parts are added up.
    pub micro_batch: Option<usize>,
    /// What the encoder's matrix products compute in.
    pub precision: Precision,
    /// Learning rate of the scores.
    pub learning_rate: f64,
    /// What is tried besides this rate and these epochs, each from the start; the best on the dev split is kept.
    pub tries: Vec<Try>,
    /// Learning rate of the base's own tensors.
    pub dense_learning_rate: f64,
    /// Learning rate of the head.
    pub head_learning_rate: f64,
    /// Part of all steps in which the rates rise from zero.
    pub warmup: f64,
    /// Part of the pooled outputs that dropout zeroes.
    pub dropout: f64,
    /// Largest norm of all gradients together.
    pub clip_norm: f64,
    /// How much scores with small gradients are held back; 0 for plain AdamW.
    pub damping: f64,
    /// Who teaches, if anybody does.
    pub teacher: Option<TeacherOptions>,
    /// Decides splits, order, dropout, noise and start values.
    pub seed: u64,
    /// Longest input, in tokens with the special ones; longer ones are cut.
    pub max_tokens: usize,
    /// How token outputs become vectors.
    pub pooling: Pooling,
    /// Part of the training examples that chooses the checkpoint, unless they are given.
    pub dev_fraction: f64,
    /// Into how many parts all examples are cut to see whether masks pay: on each part a head and a mask are tried that
    /// learnt the others, and the better kind is kept. Without it the dev split decides.
    pub dev_folds: Option<usize>,
    /// How these are drawn.
    pub split: Split,
    /// Which state they choose, of each try.
    pub keep: Keep,
    /// Where the step graph runs.
    pub device: Device,
    /// Threads of a CPU run.
    pub threads: usize,
    /// The most bytes that each of these may take in memory, which are computed once for each example: the
    /// output of what lies below everything that trains (where it is more, all runs at every step), and a
    /// teacher's states.
    pub cache: u64,
    /// End after so many steps.
    pub max_steps: Option<u64>,
    /// Where the run is kept.
    pub checkpoint: Option<CheckpointOptions>,
    /// File for the loss of every step, one JSON object a line.
    pub log_losses: Option<PathBuf>,
    /// Check that the device runs every node of the step graph, and fail if not.
    pub check_placement: bool,
    /// The pack's revision.
    pub revision: u64,
    /// How the pack stores the head.
    pub head_dtype: FloatType,
    /// How the pack stores replaced tensors.
    pub delta_dtype: FloatType,
}

/// The longest input where nobody says, unless a base takes less.
const MAX_TOKENS: usize = 64;

impl TrainOptions {
    /// Whether a mask may turn out to be the head alone, without a zero: whoever asks for zeros wants no pack without any.
    pub(super) fn may_be_head_alone(&self) -> bool {
        self.method == Method::Mask
            && self.granularity != Granularity::TwoOfFour
            && self.target_sparsity.is_none()
            && self.initial_sparsity <= TrainOptions::new("", Method::Mask).initial_sparsity
    }

    /// The longest input that is meant for a base where nobody says, in tokens with the special ones.
    pub fn usual_tokens(base: &BaseManifest) -> usize {
        MAX_TOKENS.min(base.architecture.max_positions)
    }

    /// The fixed settings, for one text with one label; [`TrainOptions::fit`] makes those of a mask fit the data.
    pub fn new(name: impl Into<String>, method: Method) -> Self {
        let alone = method == Method::Head;
        TrainOptions {
            name: name.into(),
            form: Form::CLASSIFY,
            method,
            granularity: Granularity::Block { rows: 32, cols: 1 },
            init: Init::Magnitude,
            sampling: Sampling::Threshold,
            initial_sparsity: 0.05,
            target_sparsity: None,
            ramp: 0.6,
            polish: 0.0,
            layers: Layers::all(),
            modules: Vec::new(),
            tune: Tune::default(),
            epochs: Self::default_epochs(method),
            batch_size: 32,
            micro_batch: None,
            precision: Precision::F32,
            learning_rate: 4e-3,
            tries: Vec::new(),
            dense_learning_rate: Self::default_dense_rate(method),
            head_learning_rate: if alone { 1e-2 } else { 1e-3 },
            warmup: 0.06,
            dropout: 0.1,
            clip_norm: 1.0,
            damping: 0.0,
            teacher: None,
            seed: 1,
            max_tokens: MAX_TOKENS,
            pooling: Pooling::Mean,
            dev_fraction: 0.1,
            dev_folds: None,
            split: Split::Random,
            keep: Keep::Best,
            device: Device::Cpu,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            cache: 4_000_000_000,
            max_steps: None,
            checkpoint: None,
            log_losses: None,
            check_placement: false,
            revision: 1,
            head_dtype: FloatType::F16,
            delta_dtype: FloatType::F16,
        }
    }

    /// With small tensors that train besides. A head that is not alone any more has the usual passes
    /// and rate.
    pub fn tuned(self, tune: Tune) -> Self {
        if self.method != Method::Head || tune == Tune::default() {
            return TrainOptions { tune, ..self };
        }
        let usual = TrainOptions::new("", Method::Mask);
        TrainOptions { tune, epochs: usual.epochs, head_learning_rate: usual.head_learning_rate, ..self }
    }

    /// Passes of a head alone cost next to nothing.
    fn default_epochs(method: Method) -> u32 {
        if method == Method::Head { 100 } else { 3 }
    }

    /// Norms and biases beside a mask move further than whole weights do.
    fn default_dense_rate(method: Method) -> f64 {
        if matches!(method, Method::Head | Method::Mask) { 1e-3 } else { 2e-4 }
    }

    /// The tensors of the base that it masks or trains.
    pub(super) fn selection(&self) -> Selection<'_> {
        Selection { layers: &self.layers, modules: &self.modules }
    }

    /// Every rate and length that is tried.
    pub(super) fn all_tries(&self) -> Vec<Try> {
        let first = Try { learning_rate: self.learning_rate, epochs: self.epochs };
        std::iter::once(first).chain(self.tries.iter().copied()).collect()
    }

    /// Whether anything below the head trains.
    pub(super) fn is_live(&self) -> bool {
        self.method != Method::Head || self.tune != Tune::default()
    }

    /// Whether a batch runs in parts.
    pub(super) fn in_parts(&self) -> bool {
        self.micro_batch.is_some_and(|size| size < self.batch_size)
    }
}
