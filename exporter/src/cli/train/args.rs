//! What `overmask-export train` is told, and what it makes of that.

use std::path::{Path, PathBuf};

use anyhow::Error;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use overmask::base::BaseManifest;
use overmask::engine::Device;
use overmask::mask::Granularity;
use overmask::pack::{FloatType, Pooling, TaskKind, check_name};
use overmask_cli::{CodedError, ExitCode};

use crate::cli::checkpoint::CheckpointArgs;
use crate::cli::data::DataArgs;
use crate::data::{Dataset, Form};
use crate::train::{
    Amount, Effort, Given, Init, Keep, Layers, Method, Precision, Sampling, Teacher, TeacherOptions, TrainOptions, Tune,
};

/// Learn a task on a base and write its pack.
///
/// A part of the training examples (--dev-fraction), or --dev-data, is not trained on: after each
/// epoch the state is measured on it, and --keep says which is kept. A mask starts from a head that has learnt on the frozen
/// encoder, and the pack is that head alone if no mask is better. --eval-data or --eval-fraction name
/// examples that are only measured, at the end. Ctrl-C or SIGTERM ends the run and keeps what there is so
/// far; a second one ends it at once.
///
/// Data files are .jsonl, .csv or .tsv, with the fields that --task asks for: `text` (and `text_pair`
/// with --pair) and `label` to classify, `labels` for several, `value` for a regression; `tokens` and
/// `tags` for tags, or a .conll file. Where columns have other names, options say so.
///
/// An example to classify may have soft labels beside its `label` or in its place: `probs`, a probability for each
/// label, or `logits`, of which the softmax is taken; as an object ({"sport": 0.9, "music": 0.1}), or as a list in the
/// order of the labels, sorted. They are learnt as a teacher's answers are; --teacher-weight and --teacher-temperature
/// are for them, too.
#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  overmask-export train --base base/ --data trec.jsonl --task classify \
                   --method mask \\\n      --granularity block:32x1 --effort normal --seed 1 -o trec.pack\n  \
                   overmask-export train --base base/ --data people.conll --task tag -o people.pack",
    after_help = ExitCode::HELP
)]
pub(crate) struct TrainArgs {
    /// The base bundle.
    #[arg(long, value_name = "DIR")]
    pub(super) base: PathBuf,
    /// The examples to learn from.
    #[arg(long, value_name = "FILE")]
    pub(super) data: PathBuf,
    /// The pack to write.
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: PathBuf,
    #[command(flatten)]
    task: TaskArgs,
    /// What is learnt.
    #[arg(long, value_enum, default_value_t = Method::Mask)]
    method: Method,
    /// How much time a mask may take [default: normal]. Passes, batches, learning rate and dev split are chosen to
    /// fit the number of examples; an option that sets one of them wins.
    #[arg(long, value_enum)]
    effort: Option<Effort>,
    /// Passes over the training examples; default: as many as --effort takes for masks, 100 for a head alone, whose
    /// passes cost next to nothing, else 3.
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// Decides splits, the order of examples, dropout, noise and start values.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// The task's name; default: the pack's file name.
    #[arg(long)]
    name: Option<String>,
    /// The pack's revision: a higher one replaces a lower one on a device.
    #[arg(long, value_name = "N", default_value_t = 1)]
    revision: u64,
    /// How the head is stored: f16, bf16 or f32. It is measured as stored.
    #[arg(long, value_name = "TYPE", default_value_t = FloatType::F16)]
    head_dtype: FloatType,
    /// How replaced tensors of the base are stored, likewise.
    #[arg(long, value_name = "TYPE", default_value_t = FloatType::F16)]
    delta_dtype: FloatType,
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    pub(super) measure: Measure,
    #[command(flatten)]
    tuning: Tuning,
    /// Cut all examples into K parts, and see on each part whether a mask that learnt the others is better than a head
    /// that did: the better kind is kept, whatever the dev split says. For few examples,
    /// as a dev split of them decides by chance; takes K times the time of one mask before the run's own. --effort best
    /// takes 5 for fewer than 1,000 examples, unless --dev-data are given.
    #[arg(long, value_name = "K", help_heading = "Measuring", value_parser = clap::value_parser!(u16).range(2..))]
    dev_folds: Option<u16>,
    /// Which state is kept of those that the epochs end with: the best one on the examples that choose, or the last one;
    /// default: for masks the last one if fewer than 500 examples choose (not with --effort fixed), else the best.
    #[arg(long, value_name = "STATE", help_heading = "Measuring")]
    pub(super) keep: Option<Keep>,
    #[command(flatten)]
    pub(super) teacher: TeacherArgs,
    #[command(flatten)]
    pub(super) machine: Machine,
    #[command(flatten)]
    pub(super) files: DataArgs,
    /// Print what was learnt as JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What the examples are.
#[derive(Debug, Args)]
pub(in crate::cli) struct TaskArgs {
    /// What the pack does.
    #[arg(long, value_parser = task_kinds(), default_value_t = TaskKind::Classify)]
    task: TaskKind,
    /// Examples have two texts, `text` and `text_pair`.
    #[arg(long)]
    pair: bool,
}

impl TaskArgs {
    pub(in crate::cli) fn form(&self) -> Form {
        Form { kind: self.task, pair: self.pair }
    }
}

/// Which weights are masked or trained.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is masked or trained")]
struct What {
    /// What is kept or zeroed together: `weight`, `block:RxC` (R outputs x C inputs), or `2:4` (two of
    /// four neighbouring inputs are kept).
    #[arg(long, default_value = "block:32x1")]
    granularity: Granularity,
    /// Layers that are masked, or trained by --method layers: `all`, or as in `0-2,5` or `3-`.
    #[arg(long, default_value = "all")]
    layers: Layers,
    /// Their modules: query, key, value, attention-output, intermediate, output; default: all.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    modules: Vec<String>,
    /// Small tensors that train besides, in all layers: norms, biases.
    #[arg(long, value_enum, value_name = "NAMES", value_delimiter = ',')]
    tune: Vec<TuneArg>,
    /// Where scores start: at the rank of the unit's magnitude, or anywhere.
    #[arg(long, value_enum, default_value_t = Init::Magnitude)]
    init: Init,
    /// How scores become masks while training: all above the threshold is kept, or each unit with a
    /// probability that grows with its score.
    #[arg(long, value_enum, default_value_t = Sampling::Threshold)]
    sampling: Sampling,
    /// The fraction of units that start as zeros; for `2:4` half of them do.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.05)]
    initial_sparsity: f64,
    /// The fraction of the masked tensors' units that are zeros at the end; default: training decides.
    #[arg(long, value_name = "FRACTION")]
    target_sparsity: Option<f64>,
    /// The part of all steps after which the target is reached.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.6)]
    ramp: f64,
    /// The part of all steps, at the end, in which masks stay as they are and the rest goes on.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0)]
    polish: f64,
}

/// Which examples choose and which measure.
#[derive(Debug, Args)]
#[command(next_help_heading = "Measuring")]
pub(in crate::cli) struct Measure {
    /// Learn from N of the examples alone, those of the dev split included, drawn by the seed, of each label one and of
    /// what is left of each the same part: to see what more examples bring.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(in crate::cli) examples: Option<u64>,
    /// The part of the training examples that chooses the best state; default: for masks a fifth of up to 500
    /// examples, a tenth of 1,000 and more, at most 2,000, and of each label the same part; else 0.1, at random.
    #[arg(long, value_name = "FRACTION")]
    pub(in crate::cli) dev_fraction: Option<f64>,
    /// Examples that choose the best state, in a file of their own.
    #[arg(long, value_name = "FILE", conflicts_with = "dev_fraction")]
    pub(in crate::cli) dev_data: Option<PathBuf>,
    /// Examples to measure on at the end, in a file of their own.
    #[arg(long, value_name = "FILE", conflicts_with = "eval_fraction")]
    pub(in crate::cli) eval_data: Option<PathBuf>,
    /// Examples to measure on at the end: this part of --data, taken away before all else.
    #[arg(long, value_name = "FRACTION", value_parser = fraction)]
    pub(in crate::cli) eval_fraction: Option<f64>,
}

/// The numbers that decide how well it learns.
#[derive(Debug, Args)]
#[command(next_help_heading = "Tuning")]
struct Tuning {
    /// Examples a step; default: as --effort takes it for masks, else 32.
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Learning rate of the scores; default: as --effort takes it. A higher one moves them further from the
    /// magnitudes that they start from, so that masks take more bytes.
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f64>,
    /// Learning rate of the base's own tensors; default: 0.0002 for whole weights, 0.001 for norms
    /// and biases alone.
    #[arg(long, value_name = "RATE")]
    dense_learning_rate: Option<f64>,
    /// Learning rate of the head; default: 0.01 for a head alone, else 0.001.
    #[arg(long, value_name = "RATE")]
    head_learning_rate: Option<f64>,
    /// The part of all steps in which the rates rise from zero.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.06)]
    warmup: f64,
    /// The part of the pooled output that dropout zeroes.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.1)]
    dropout: f64,
    /// The largest norm of all gradients together.
    #[arg(long, value_name = "NORM", default_value_t = 1.0)]
    clip_norm: f64,
    /// How much scores whose gradients are small beside those of their tensor are held back, so that fewer cross
    /// the threshold for little and masks take fewer bytes: 1 with two to three times the learning rate.
    #[arg(long, value_name = "FACTOR", default_value_t = 0.0)]
    damping: f64,
    /// The longest input, in tokens with the special ones; longer ones are cut; default: 64, or as many as the base
    /// takes if that is less.
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// How the tokens' vectors become what the head sees; default: as the base's checkpoint says, else mean; for
    /// --task tag first.
    #[arg(long, value_parser = poolings())]
    pooling: Option<Pooling>,
    /// End after so many steps.
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
}

/// Who teaches, if anybody does.
#[derive(Debug, Args)]
#[command(next_help_heading = "Distillation")]
pub(super) struct TeacherArgs {
    /// A pack of the same task on the same base, fully fine-tuned for example, whose answers are
    /// learnt beside the labels.
    #[arg(long, value_name = "PACK")]
    teacher: Option<PathBuf>,
    /// Teachers of the run's own instead: the training examples are cut into K parts, and each part is taught by an
    /// encoder that was fully fine-tuned on the others, so that no teacher knows by heart what it teaches. Takes K
    /// times the time of --method full.
    #[arg(long, value_name = "K", conflicts_with = "teacher", value_parser = clap::value_parser!(u16).range(2..))]
    teacher_folds: Option<u16>,
    /// Texts without a label, in a file like --data, of which labels are not looked at, or a .txt file with one a
    /// line: the teacher says what they are (of --teacher-folds, the mean of all), and they are learnt beside the
    /// examples. None chooses or measures.
    #[arg(long, value_name = "FILE")]
    pub(super) unlabelled: Option<PathBuf>,
    /// The part that a teacher, or soft labels, have of the loss [default: 0.5].
    #[arg(long, value_name = "FRACTION")]
    teacher_weight: Option<f64>,
    /// What logits are divided by before they become the probabilities that are learnt, of labels and
    /// tags [default: 2].
    #[arg(long, value_name = "T")]
    teacher_temperature: Option<f64>,
    /// Weight of the mean square difference of what the two heads see.
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.0, requires = "teacher")]
    teacher_features: f64,
    /// Weight of the mean square difference of the tokens' vectors, the encoders' outputs. The teacher's
    /// are kept in memory: see --cache.
    #[arg(long, value_name = "WEIGHT", default_value_t = 0.0, requires = "teacher")]
    teacher_states: f64,
}

impl TeacherArgs {
    /// What they say of a teacher, if anything; `soft` is whether the examples have soft labels.
    fn options(&self, soft: bool) -> Option<TeacherOptions> {
        let weighed = self.teacher_weight.is_some() || self.teacher_temperature.is_some();
        let who = match (&self.teacher, self.teacher_folds) {
            (Some(pack), _) => Teacher::Pack(pack.clone()),
            (None, Some(folds)) => Teacher::Folds(folds.into()),
            (None, None) if soft || weighed => Teacher::Labels,
            (None, None) => return None,
        };
        Some(TeacherOptions {
            who,
            weight: self.teacher_weight.unwrap_or(TeacherOptions::WEIGHT),
            temperature: self.teacher_temperature.unwrap_or(TeacherOptions::TEMPERATURE),
            features: self.teacher_features,
            states: self.teacher_states,
        })
    }
}

/// Where it runs, and what it writes down.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
pub(super) struct Machine {
    /// Where the training step runs: cpu or cuda.
    #[arg(long, default_value_t = Device::Cpu)]
    device: Device,
    /// Threads of a CPU run; default: all. A run repeats bit for bit with the same seed and
    /// number of threads.
    #[arg(long, value_name = "N", value_parser = overmask_cli::threads())]
    threads: Option<u16>,
    /// What the encoder's matrix products compute in; f16 and bf16 are for GPUs. Everything else, and
    /// what is learnt, stays f32.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Examples that run at once, to save memory: gradients of a batch's parts are added up before the
    /// step; default: all of --batch-size.
    #[arg(long, value_name = "N")]
    micro_batch: Option<usize>,
    /// The most memory, in MB, for what is computed once for each example: the output of the layers below
    /// everything that trains (1.5 kB a token at a width of 384; where it would be more, they run at every
    /// step), and as much again for --teacher-states.
    #[arg(long, value_name = "MB", default_value_t = 4000)]
    cache: u32,
    #[command(flatten)]
    pub(super) checkpoint: CheckpointArgs,
    /// Write the loss of every step, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    log_losses: Option<PathBuf>,
    /// Let parts of the training step run on the CPU where the device has no kernel for them. Else that is
    /// an error, which a profile of the first step finds.
    #[arg(long)]
    allow_cpu_fallback: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum TuneArg {
    /// Scales and biases of layer norms.
    Norms,
    /// Biases of linear layers.
    Biases,
}

/// The kinds of tasks, and what they are.
fn task_kinds() -> impl TypedValueParser<Value = TaskKind> {
    let kinds = [
        ("classify", "One label of several"),
        ("multilabel", "Any number of the labels"),
        ("regress", "A number"),
        ("tag", "One label for each word"),
    ];
    values(kinds).try_map(|name| name.parse())
}

/// The ways of pooling, and what they make of the tokens' vectors.
fn poolings() -> impl TypedValueParser<Value = Pooling> {
    let poolings = [
        ("mean", "Their mean"),
        ("cls", "The vector of the first token"),
        ("first", "For each word, the vector of its first token"),
    ];
    values(poolings).try_map(|name| name.parse())
}

/// Values, and what the help says of each.
fn values<const N: usize>(values: [(&'static str, &'static str); N]) -> PossibleValuesParser {
    values.map(|(name, help)| PossibleValue::new(name).help(help)).into()
}

/// A number between 0 and 1, both excluded.
fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(f) if f > 0.0 && f < 1.0 => Ok(f),
        _ => Err("must be above 0 and below 1".to_owned()),
    }
}

impl TrainArgs {
    pub(super) fn form(&self) -> Form {
        self.task.form()
    }

    /// How vectors are pooled on a base that was trained with a pooling of its own, if its checkpoint said so.
    pub(super) fn pooling(&self, of_base: Option<Pooling>) -> Pooling {
        self.tuning.pooling.unwrap_or(match self.form().kind {
            TaskKind::Tag => Pooling::First,
            _ => of_base.unwrap_or(Pooling::Mean),
        })
    }

    /// The longest input, with this base.
    pub(super) fn max_tokens(&self, base: &BaseManifest) -> usize {
        self.tuning.max_tokens.unwrap_or_else(|| TrainOptions::usual_tokens(base))
    }

    /// The options for these examples, those to choose by included unless they are in a file of their own, and so many
    /// texts without a label.
    pub(super) fn fitted(
        &self,
        options: TrainOptions,
        train: &Dataset,
        dev: Option<&Dataset>,
        unlabelled: usize,
    ) -> TrainOptions {
        let options = TrainOptions { teacher: self.teacher.options(train.soft() > 0), ..options };
        let given = Given {
            epochs: self.epochs,
            batch_size: self.tuning.batch_size,
            learning_rate: self.tuning.learning_rate,
            dev_fraction: self.measure.dev_fraction,
            keep: self.keep,
        };
        let amount = Amount { examples: train.len(), unlabelled, dev: dev.map(Dataset::len) };
        options.fit(self.effort.unwrap_or_default(), given, amount)
    }

    /// The options without what depends on the data ([`TrainArgs::fitted`]).
    pub(super) fn options(&self) -> Result<TrainOptions, Error> {
        if self.method != Method::Mask && self.effort.is_some_and(|effort| effort != Effort::Fixed) {
            let message = "--effort: is for --method mask; other methods have fixed settings".to_owned();
            return Err(CodedError { message, code: ExitCode::Usage }.into());
        }
        let name = match &self.name {
            Some(name) => name.clone(),
            None => name_of(&self.output)?,
        };
        let form = self.form();
        let tune =
            Tune { norms: self.what.tune.contains(&TuneArg::Norms), biases: self.what.tune.contains(&TuneArg::Biases) };
        let usual = TrainOptions::new(name, self.method).tuned(tune);
        let teacher = self.teacher.options(false);
        Ok(TrainOptions {
            form,
            granularity: self.what.granularity,
            init: self.what.init,
            sampling: self.what.sampling,
            initial_sparsity: self.what.initial_sparsity,
            dev_folds: self.dev_folds.map(usize::from),
            target_sparsity: self.what.target_sparsity,
            ramp: self.what.ramp,
            polish: self.what.polish,
            layers: self.what.layers.clone(),
            modules: self.what.modules.clone(),
            micro_batch: self.machine.micro_batch,
            precision: self.machine.precision,
            dense_learning_rate: self.tuning.dense_learning_rate.unwrap_or(usual.dense_learning_rate),
            head_learning_rate: self.tuning.head_learning_rate.unwrap_or(usual.head_learning_rate),
            warmup: self.tuning.warmup,
            dropout: self.tuning.dropout,
            clip_norm: self.tuning.clip_norm,
            damping: self.tuning.damping,
            teacher,
            seed: self.seed,
            max_tokens: self.tuning.max_tokens.unwrap_or(usual.max_tokens),
            pooling: self.pooling(None),
            device: self.machine.device,
            threads: self.machine.threads.map_or(usual.threads, usize::from),
            max_steps: self.tuning.max_steps,
            cache: u64::from(self.machine.cache) * 1_000_000,
            checkpoint: self.machine.checkpoint.options(),
            log_losses: self.machine.log_losses.clone(),
            check_placement: self.machine.device == Device::Cuda && !self.machine.allow_cpu_fallback,
            revision: self.revision,
            head_dtype: self.head_dtype,
            delta_dtype: self.delta_dtype,
            ..usual
        })
    }
}

/// The task's name that a file's name without its ending gives.
fn name_of(path: &Path) -> Result<String, Error> {
    let stem = path.file_stem().unwrap_or_default().to_str().ok_or_else(|| "is no UTF-8".to_owned());
    let name = stem.and_then(|stem| check_name(stem).map(|()| stem.to_owned()));
    Ok(name.map_err(|reason| CodedError {
        message: format!("-o {}: as the task's name it {reason}; give another with --name", path.display()),
        code: ExitCode::Usage,
    })?)
}
