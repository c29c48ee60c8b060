//! What decides a training run.

use std::path::PathBuf;

use overmask::base::Base;
use overmask::engine::Device;
use overmask::mask::Granularity;
use overmask::pack::{FloatType, MAX_BYTES, Pooling, TaskKind, check_name};
use serde::{Deserialize, Serialize};

use super::graph::Precision;
use super::select::{Layers, Selection, Tune};
use super::{TrainError, setup};
use crate::data::Form;

/// How a task is learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The encoder stays as it is; only the head trains: the baseline.
    Head,
    /// Scores decide which weights are zero; they and the head train together.
    Mask,
    /// The weights of chosen layers train (the L0-close fine-tuning of Radiya-Dixit & Wang 2020).
    Layers,
    /// All of the encoder trains: the yardstick.
    Full,
}

/// Where scores start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// At the rank of the unit's magnitude: small weights are zeroed first.
    Magnitude,
    /// At random, whatever the weights are.
    Uniform,
}

/// How scores become a mask while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// What is above the threshold is kept.
    Threshold,
    /// Each unit is kept with a probability that grows with its score (Zhou et al. 2019).
    Bernoulli,
}

/// What learns from a teacher.
#[derive(Debug, Clone, PartialEq)]
pub struct TeacherOptions {
    /// The teacher's pack, for the same base and labels.
    pub pack: PathBuf,
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

impl TrainOptions {
    /// The settings that serve most tasks, for one text with one label.
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
            dense_learning_rate: Self::default_dense_rate(method),
            head_learning_rate: if alone { 1e-2 } else { 1e-3 },
            warmup: 0.06,
            dropout: 0.1,
            clip_norm: 1.0,
            damping: 0.0,
            teacher: None,
            seed: 1,
            max_tokens: 64,
            pooling: Pooling::Mean,
            dev_fraction: 0.1,
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

    /// Whether anything below the head trains.
    pub(super) fn is_live(&self) -> bool {
        self.method != Method::Head || self.tune != Tune::default()
    }

    /// Whether a batch runs in parts.
    pub(super) fn in_parts(&self) -> bool {
        self.micro_batch.is_some_and(|size| size < self.batch_size)
    }

    /// Refuses options that would have no effect: who gave them expects one.
    fn check_effects(&self) -> Result<(), TrainError> {
        let usual = TrainOptions::new("", self.method).tuned(self.tune);
        let chooses = matches!(self.method, Method::Mask | Method::Layers);
        let masks = self.method == Method::Mask;
        let dense = matches!(self.method, Method::Layers | Method::Full) || self.tune != Tune::default();
        let live = self.is_live();
        let pairs = self.granularity == Granularity::TwoOfFour;
        let taught = |weight: fn(&TeacherOptions) -> f64| self.teacher.as_ref().is_some_and(|t| weight(t) > 0.0);
        let replaces = "--method layers or full, or --tune";
        let below_head = "an encoder that trains, not a head alone";
        let of_scores = "the scores of --method mask; --dense-learning-rate and --head-learning-rate are for the rest";
        for (option, given, fits, of) in [
            ("--tune", self.tune != Tune::default(), self.method != Method::Full, "--method mask, layers or head"),
            ("--layers", self.layers != Layers::all(), chooses, "--method mask or layers"),
            ("--modules", !self.modules.is_empty(), chooses, "--method mask or layers"),
            ("--granularity", self.granularity != usual.granularity, masks, "--method mask"),
            ("--init", self.init != Init::Magnitude, masks, "--method mask"),
            ("--sampling", self.sampling != Sampling::Threshold, masks, "--method mask"),
            (
                "--initial-sparsity",
                self.initial_sparsity != usual.initial_sparsity,
                masks && !pairs,
                "masks of `weight` or `block:RxC`",
            ),
            ("--target-sparsity", self.target_sparsity.is_some(), masks, "--method mask"),
            ("--ramp", self.ramp != usual.ramp, self.target_sparsity.is_some(), "--target-sparsity"),
            ("--polish", self.polish > 0.0, masks, "--method mask"),
            ("--damping", self.damping > 0.0, masks, "--method mask"),
            ("--learning-rate", self.learning_rate != usual.learning_rate, masks, of_scores),
            ("--dense-learning-rate", self.dense_learning_rate != usual.dense_learning_rate, dense, replaces),
            ("--precision", self.precision != Precision::F32, live, below_head),
            ("--delta-dtype", self.delta_dtype != usual.delta_dtype, dense, replaces),
            (
                "--teacher-temperature",
                self.teacher.as_ref().is_some_and(|teacher| teacher.temperature != TeacherOptions::TEMPERATURE),
                matches!(self.form.kind, TaskKind::Classify | TaskKind::Tag),
                "--task classify or tag",
            ),
            (
                "--teacher-temperature",
                self.teacher.as_ref().is_some_and(|teacher| teacher.temperature != TeacherOptions::TEMPERATURE),
                taught(|teacher| teacher.weight),
                "a --teacher-weight above 0",
            ),
            (
                "--teacher",
                self.teacher.is_some(),
                taught(|teacher| teacher.weight + teacher.features + teacher.states),
                "a weight of --teacher-weight, --teacher-features or --teacher-states",
            ),
            ("--teacher-features", taught(|teacher| teacher.features), live, below_head),
            ("--teacher-states", taught(|teacher| teacher.states), live, below_head),
        ] {
            if given && !fits {
                return Err(TrainError::Option { option, reason: format!("is for {of}") });
            }
        }
        Ok(())
    }

    /// Refuses what cannot be, before any work.
    pub(super) fn check(&self, base: &Base) -> Result<(), TrainError> {
        let wrong = |option, reason: String| Err(TrainError::Option { option, reason });
        let a = &base.manifest().architecture;
        check_name(&self.name).or_else(|reason| wrong("--name", reason))?;
        for (option, value) in [
            ("--initial-sparsity", self.initial_sparsity),
            ("--polish", self.polish),
            ("--dropout", self.dropout),
            ("--warmup", self.warmup),
            ("--dev-fraction", self.dev_fraction),
        ] {
            if !(0.0..1.0).contains(&value) {
                return wrong(option, format!("{value} is not from 0 to below 1"));
            }
        }
        for (option, value) in [
            ("--learning-rate", self.learning_rate),
            ("--dense-learning-rate", self.dense_learning_rate),
            ("--head-learning-rate", self.head_learning_rate),
            ("--clip-norm", self.clip_norm),
        ] {
            if !(value.is_finite() && value > 0.0) {
                return wrong(option, format!("{value} is not above 0"));
            }
        }
        if !(self.damping.is_finite() && self.damping >= 0.0) {
            return wrong("--damping", format!("{} is not 0 or more", self.damping));
        }
        if let Some(target) = self.target_sparsity {
            if !(target > 0.0 && target < 1.0) {
                return wrong("--target-sparsity", format!("{target} is not between 0 and 1"));
            }
            // Sums of decimals are a little off.
            if !(self.ramp > 0.0 && self.ramp + self.polish <= 1.0 + 1e-9) {
                return wrong("--ramp", format!("{} is not above 0 and at most 1 - polish", self.ramp));
            }
            if self.granularity == Granularity::TwoOfFour {
                return wrong("--target-sparsity", "is for masks of `weight` or `block:RxC`".to_owned());
            }
            if self.sampling == Sampling::Bernoulli {
                return wrong("--target-sparsity", "is not for --sampling bernoulli".to_owned());
            }
        }
        self.check_effects()?;
        if self.sampling == Sampling::Bernoulli && self.granularity == Granularity::TwoOfFour {
            return wrong("--sampling", "bernoulli is not for `2:4`, which keeps the best two of four".to_owned());
        }
        if let Some(teacher) = &self.teacher {
            if !(0.0..=1.0).contains(&teacher.weight) {
                return wrong("--teacher-weight", format!("{} is not from 0 to 1", teacher.weight));
            }
            if !(teacher.temperature.is_finite() && teacher.temperature > 0.0) {
                return wrong("--teacher-temperature", format!("{} is not above 0", teacher.temperature));
            }
            for (option, weight) in [("--teacher-features", teacher.features), ("--teacher-states", teacher.states)] {
                if !(weight.is_finite() && weight >= 0.0) {
                    return wrong(option, format!("{weight} is not a number from 0 on"));
                }
            }
        }
        if matches!(self.method, Method::Mask | Method::Layers) {
            self.selection().tensors(base)?;
        }
        let replaced = setup::dense(base, self)?.iter().try_fold(0, |sum, name| {
            let values = base.tensor_f32(name)?.1.len() as u64;
            Ok::<_, TrainError>(sum + values * self.delta_dtype.bytes() as u64)
        })?;
        if replaced > MAX_BYTES {
            let reason = format!(
                "{} takes {} bytes for the tensors that would train, and a pack has {MAX_BYTES} at most: use f16 or \
                 bf16, or --method layers with fewer --layers",
                self.delta_dtype, replaced
            );
            return wrong("--delta-dtype", reason);
        }
        if self.form.kind == TaskKind::Tag && self.form.pair {
            return wrong("--pair", "is not for --task tag, whose examples are lists of words".to_owned());
        }
        if (self.form.kind == TaskKind::Tag) != (self.pooling == Pooling::First) {
            return wrong("--pooling", "is `first` for --task tag, and for no other".to_owned());
        }
        let states = self.teacher.as_ref().is_some_and(|teacher| teacher.states > 0.0);
        if states && self.form.kind == TaskKind::Tag && self.in_parts() {
            return wrong("--teacher-states", "is not for --micro-batch with --task tag".to_owned());
        }
        if self.max_tokens < 3 || self.max_tokens > a.max_positions {
            let reason =
                format!("{} is not from 3 to {}, the most that this base takes", self.max_tokens, a.max_positions);
            return wrong("--max-tokens", reason);
        }
        let every = self.checkpoint.as_ref().map_or(1, |checkpoint| checkpoint.every as usize);
        for (option, value) in [
            ("--epochs", self.epochs as usize),
            ("--batch-size", self.batch_size),
            ("--micro-batch", self.micro_batch.unwrap_or(1)),
            ("--threads", self.threads),
            ("--checkpoint-every", every),
        ] {
            if value == 0 {
                return wrong(option, "is 0".to_owned());
            }
        }
        if self.precision == Precision::Bf16 && self.device == Device::Cpu {
            let reason = "bf16 is for --device cuda: ONNX Runtime has no such products on a CPU".to_owned();
            return wrong("--precision", reason);
        }
        if self.max_steps == Some(0) {
            return wrong("--max-steps", "is 0".to_owned());
        }
        Ok(())
    }
}
