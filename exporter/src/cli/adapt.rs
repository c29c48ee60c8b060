//! `overmask-export adapt`: a base that is better for masks.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Error;
use clap::{Args, ValueHint};
use overmask::base::Base;
use overmask::engine::Device;
use overmask::mask::Granularity;
use overmask_cli::{CodedError, ExitCode, Verbosity};
use serde_json::json;

use super::checkpoint::{CheckpointArgs, stopping};
use super::data::in_flags as texts_in_flags;
use super::train::{in_flags, stop_when_asked};
use super::{output, places};
use crate::data::{self, Delimiter, Form, ReadOptions, Unlabelled};
use crate::import;
use crate::train::{self, AdaptOptions, Adapted, TrainOptions};

/// Prepare a base for masks, once for all tasks.
///
/// Learns, from texts without labels, to give under random masks what the base gives without one, so that more of its
/// weights can be zeroed for less. What comes of it is another base with an identity of its own: packs are learnt on it
/// anew. Texts should be like those of its tasks, some ten thousand of them; none should be among those that a task is
/// measured on. Ctrl-C or SIGTERM ends the run and writes what has been learnt so far, as a base, or with --checkpoint as
/// the state that --resume goes on from; a second one ends it at once.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export adapt --base base/ --texts texts.txt -o adapted/\n  \
                   overmask-export train --base adapted/ --data trec/train.jsonl --target-sparsity 0.5 -o trec.pack",
    after_help = ExitCode::HELP
)]
pub(super) struct AdaptArgs {
    /// The base bundle.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    base: PathBuf,
    /// The texts: a .txt file, one a line, or a .jsonl, .csv or .tsv file with a field `text`.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    texts: PathBuf,
    /// Where to write the new base; must not exist, or be empty.
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    output: PathBuf,
    /// What random masks keep or zero together: that of the tasks to come.
    #[arg(long, default_value = "block:32x1")]
    granularity: Granularity,
    /// The largest part of all units that a random mask zeroes, somewhat more than the tasks' own [default: 0.6]; of
    /// `2:4` it is half.
    #[arg(long, value_name = "FRACTION")]
    sparsity: Option<f64>,
    /// Steps; texts are read again and again until they are done.
    #[arg(long, value_name = "N", default_value_t = AdaptOptions::default().steps)]
    steps: u64,
    /// Texts a step.
    #[arg(long, value_name = "N", default_value_t = AdaptOptions::default().batch_size)]
    batch_size: usize,
    /// Learning rate, at its highest.
    #[arg(long, value_name = "RATE", default_value_t = AdaptOptions::default().learning_rate)]
    learning_rate: f64,
    /// The part of all steps in which the rate rises from zero.
    #[arg(long, value_name = "FRACTION", default_value_t = AdaptOptions::default().warmup)]
    warmup: f64,
    /// The largest norm of all gradients together.
    #[arg(long, value_name = "NORM", default_value_t = AdaptOptions::default().clip_norm)]
    clip_norm: f64,
    /// The longest text, in tokens with the special ones; longer ones are cut; default: 64, or as many as the base
    /// takes if that is less.
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Decides masks, the order of texts, and which of them measure.
    #[arg(long, default_value_t = AdaptOptions::default().seed)]
    seed: u64,
    /// Where the steps run: cpu or cuda.
    #[arg(long, default_value_t = Device::Cpu)]
    device: Device,
    /// Threads of a CPU run; default: all. A run repeats bit for bit with the same seed and number of threads.
    #[arg(long, value_name = "N", value_parser = overmask_cli::threads())]
    threads: Option<u16>,
    #[command(flatten)]
    checkpoint: CheckpointArgs,
    /// Do not fail when nodes that compute have run on the CPU instead of the GPU.
    #[arg(long)]
    allow_cpu_fallback: bool,
    /// What stands between the fields of .csv and .tsv files: one character, such as `;`, or `tab`; default: a
    /// comma in .csv, a tab in .tsv.
    #[arg(long, value_name = "CHAR")]
    delimiter: Option<Delimiter>,
    /// The column (of JSONL the field) that holds the text; default: `text`.
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,
    /// Print what was learnt as JSON.
    #[arg(long)]
    json: bool,
}

impl AdaptArgs {
    fn options(&self, usual_tokens: usize) -> AdaptOptions {
        let usual = AdaptOptions::default();
        AdaptOptions {
            granularity: self.granularity,
            sparsity: self.sparsity.unwrap_or(usual.sparsity),
            steps: self.steps,
            batch_size: self.batch_size,
            learning_rate: self.learning_rate,
            warmup: self.warmup,
            clip_norm: self.clip_norm,
            max_tokens: self.max_tokens.unwrap_or(usual_tokens),
            seed: self.seed,
            device: self.device,
            threads: self.threads.map_or(usual.threads, usize::from),
            checkpoint: self.checkpoint.options(),
            check_placement: self.device == Device::Cuda && !self.allow_cpu_fallback,
        }
    }

    /// Checks before the work what would fail after it.
    fn check(&self) -> Result<(), Error> {
        let wrong = |message: String| Err(CodedError { message, code: ExitCode::Usage }.into());
        if self.sparsity.is_some() && self.granularity == Granularity::TwoOfFour {
            return wrong("--sparsity: is not for --granularity 2:4, of which half is zero".to_owned());
        }
        if self.texts.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("txt")) {
            let fields = [("--delimiter", self.delimiter.is_some()), ("--text-column", self.text_column.is_some())];
            if let Some((flag, _)) = fields.into_iter().find(|(_, given)| *given) {
                return wrong(format!("{flag}: is for files with fields, and --texts has a text a line"));
            }
        }
        places::check_directory("-o", &self.output)?;
        import::try_place(&self.output)?;
        if let Some(file) = &self.checkpoint.checkpoint {
            places::check(&[("--checkpoint", file.as_path())], &[("--texts", self.texts.as_path())])?;
            places::check_outside(("--checkpoint", file), ("-o", &self.output))?;
        }
        self.checkpoint.check()
    }

    /// What was learnt, and the base that was written, if one was.
    fn print(&self, base: &Base, texts: &Unlabelled, adapted: &Adapted, written: Option<&Base>) -> Result<(), Error> {
        if !self.json {
            return Ok(());
        }
        output::json(&json!({
            "base": written.map(|_| self.output.display().to_string()),
            "base_id": written.map(Base::base_id),
            "of": base.base_id(),
            "texts": adapted.texts,
            "texts_digest": texts.digest(),
            "repeated": adapted.repeated,
            "held_out": adapted.held,
            "steps": adapted.steps,
            "stopped": adapted.stopped,
            "loss": adapted.loss,
            "before": adapted.before,
            "after": adapted.after,
            "seconds": adapted.seconds,
        }))
    }
}

pub(super) fn run(args: &AdaptArgs, verbosity: Verbosity) -> Result<(), Error> {
    args.check()?;
    let (delimiter, text_column) = (args.delimiter, args.text_column.clone());
    let columns = ReadOptions { delimiter, text_column, ..ReadOptions::default() };
    let texts = data::read_unlabelled(&args.texts, Form::CLASSIFY, &columns).map_err(texts_in_flags)?;
    let base = Arc::new(places::f32_base(&args.base)?);
    // What is learnt on a damaged base is of no use.
    base.verify()?;
    let options = args.options(TrainOptions::usual_tokens(base.manifest()));
    let stop = stop_when_asked(stopping(args.checkpoint.checkpoint.as_deref()))?;
    let bar = output::bar(verbosity, options.steps, "{wide_bar} {pos}/{len} steps, {msg}, {eta} left")?;
    let adapted = train::adapt(&base, &texts, &options, &stop, &mut |now| {
        bar.set_position(now.step);
        bar.set_message(format!("loss {:.4}", now.loss));
    });
    bar.finish_and_clear();
    let adapted = adapted.map_err(in_flags)?;
    let (steps, of) = (adapted.steps, options.steps);
    if let Some(file) = args.checkpoint.checkpoint.as_ref().filter(|_| adapted.stopped && adapted.saved) {
        log::warn!("stopped after {steps} of {of} steps; the same command with --resume goes on: {}", file.display());
        return args.print(&base, &texts, &adapted, None);
    }
    if adapted.stopped {
        log::warn!("stopped after {steps} of {of} steps; this is the base as it is now");
    }
    let manifest = base.manifest();
    let source = format!(
        "{}; base {} adapted to masks of {} with {} texts in {} steps",
        manifest.source,
        &base.base_id()[..12],
        options.granularity,
        adapted.texts,
        adapted.steps
    );
    let written = import::rewrite(&base, &adapted.tensors, source, &args.output)?;
    log::info!(
        "{}: base {}; packs of {} do not fit it, learn them anew",
        args.output.display(),
        &written.base_id()[..12],
        &base.base_id()[..12]
    );
    args.checkpoint.remove();
    args.print(&base, &texts, &adapted, Some(&written))
}
