//! `overmask-export train`: labelled texts become a pack.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Error};
use clap::{Args, ValueEnum};
use overmask::base::Base;
use overmask::cli::Verbosity;
use overmask::engine::Device;
use overmask::error::{CodedError, ExitCode};
use overmask::mask::Granularity;
use overmask::pack::{FloatType, Pooling};
use serde_json::json;

use super::output;
use crate::data::{self, Dataset};
use crate::train::{self, Method, Outcome, TrainOptions};

/// Learn a task on a base and write its pack.
///
/// A part of the training texts (--dev-fraction) is not trained on: after each epoch it
/// decides whether the state is the best so far. --eval-data or --eval-fraction name texts
/// that are only measured, at the end. Ctrl-C ends the run and keeps the best state so far;
/// a second Ctrl-C ends it at once.
#[derive(Debug, Args)]
#[command(
    before_help = "Example:\n  overmask-export train --base base/ --data trec.jsonl --task classify \
                   --method mask \\\n      --granularity block:32x1 --epochs 3 --seed 1 -o trec.pack",
    after_help = ExitCode::HELP
)]
pub(super) struct TrainArgs {
    /// The base bundle.
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// Labelled texts: .jsonl with `text` and `label`, or .csv or .tsv with these columns.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The pack to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// What the pack does.
    #[arg(long, value_enum, default_value_t = Task::Classify)]
    task: Task,
    /// What is learnt: which weights are zero, or nothing but the head on top.
    #[arg(long, value_enum, default_value_t = MethodArg::Mask)]
    method: MethodArg,
    /// What is kept or zeroed together: `weight`, or `block:RxC` (R outputs x C inputs).
    #[arg(long, default_value = "block:32x1")]
    granularity: Granularity,
    /// Passes over the training texts; default: 3 for masks, 100 for a head alone, whose passes
    /// cost next to nothing.
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// The fraction of units that start as zeros.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.05)]
    initial_sparsity: f64,
    /// The first layer that is masked, from 0.
    #[arg(long, value_name = "LAYER", default_value_t = 0)]
    from_layer: usize,
    /// Decides splits, the order of texts, dropout and the head's start.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The task's name; default: the pack's file name.
    #[arg(long)]
    name: Option<String>,
    /// The pack's revision: a higher one replaces a lower one on a device.
    #[arg(long, value_name = "N", default_value_t = 1)]
    revision: u64,
    /// How the head is stored: f16, bf16 or f32. It is measured as stored.
    #[arg(long, value_name = "TYPE", default_value_t = FloatType::F16)]
    head_dtype: FloatType,
    #[command(flatten)]
    measure: Measure,
    #[command(flatten)]
    tuning: Tuning,
    #[command(flatten)]
    machine: Machine,
    /// Print what was learnt as JSON.
    #[arg(long)]
    json: bool,
}

/// Which texts choose and which measure.
#[derive(Debug, Args)]
#[command(next_help_heading = "Measuring")]
struct Measure {
    /// The part of the training texts that chooses the best state.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.1)]
    dev_fraction: f64,
    /// Texts to measure on at the end, in a file of their own.
    #[arg(long, value_name = "FILE", conflicts_with = "eval_fraction")]
    eval_data: Option<PathBuf>,
    /// Texts to measure on at the end: this part of --data, taken away before all else.
    #[arg(long, value_name = "FRACTION", value_parser = fraction)]
    eval_fraction: Option<f64>,
}

/// The numbers that decide how well it learns.
#[derive(Debug, Args)]
#[command(next_help_heading = "Tuning")]
struct Tuning {
    /// Texts a step.
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch_size: usize,
    /// Learning rate of the scores. A higher one moves them further from the magnitudes that they
    /// start from: masks gain little and take more bytes.
    #[arg(long, value_name = "RATE", default_value_t = 4e-3)]
    learning_rate: f64,
    /// Learning rate of the head; default: 0.001 beside masks, 0.01 for a head alone.
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
    /// The longest text, in tokens with the special ones; longer ones are cut.
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_tokens: usize,
    /// How the tokens' vectors become one.
    #[arg(long, value_enum, default_value_t = PoolingArg::Mean)]
    pooling: PoolingArg,
    /// End after so many steps.
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,
}

/// Where it runs, and what it writes down.
#[derive(Debug, Args)]
#[command(next_help_heading = "Machine")]
struct Machine {
    /// Where the training step runs: cpu or cuda.
    #[arg(long, default_value_t = Device::Cpu)]
    device: Device,
    /// Threads of a CPU run; default: all. A run repeats bit for bit with the same seed and
    /// number of threads.
    #[arg(long, value_name = "N", value_parser = super::threads())]
    threads: Option<u16>,
    /// Write the loss of every step, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    log_losses: Option<PathBuf>,
    /// Fail if any part of the training step but shape arithmetic runs elsewhere than on the device.
    #[arg(long)]
    check_placement: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Task {
    /// One label for each text.
    Classify,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MethodArg {
    /// The encoder stays as it is; only the head trains: the baseline.
    Head,
    /// Which weights are zero is learnt together with the head.
    Mask,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PoolingArg {
    /// Their mean.
    Mean,
    /// The vector of the first token.
    Cls,
}

/// A number between 0 and 1, both excluded.
fn fraction(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(f) if f > 0.0 && f < 1.0 => Ok(f),
        _ => Err("must be above 0 and below 1".to_owned()),
    }
}

impl TrainArgs {
    fn options(&self) -> Result<TrainOptions, Error> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => file_stem(&self.output)?,
        };
        let Task::Classify = self.task;
        let (epochs, head_learning_rate) = match self.method {
            MethodArg::Head => (100, 1e-2),
            MethodArg::Mask => (3, 1e-3),
        };
        let all_threads = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(TrainOptions {
            name,
            method: match self.method {
                MethodArg::Head => Method::Head,
                MethodArg::Mask => Method::Mask,
            },
            granularity: self.granularity,
            epochs: self.epochs.unwrap_or(epochs),
            batch_size: self.tuning.batch_size,
            learning_rate: self.tuning.learning_rate,
            head_learning_rate: self.tuning.head_learning_rate.unwrap_or(head_learning_rate),
            warmup: self.tuning.warmup,
            dropout: self.tuning.dropout,
            clip_norm: self.tuning.clip_norm,
            initial_sparsity: self.initial_sparsity,
            from_layer: self.from_layer,
            seed: self.seed,
            max_tokens: self.tuning.max_tokens,
            pooling: match self.tuning.pooling {
                PoolingArg::Mean => Pooling::Mean,
                PoolingArg::Cls => Pooling::Cls,
            },
            dev_fraction: self.measure.dev_fraction,
            device: self.machine.device,
            threads: self.machine.threads.map_or_else(all_threads, usize::from),
            max_steps: self.tuning.max_steps,
            log_losses: self.machine.log_losses.clone(),
            check_placement: self.machine.check_placement,
            revision: self.revision,
            head_dtype: self.head_dtype,
        })
    }

    /// The texts to learn from and those to measure on.
    fn datasets(&self) -> Result<(Dataset, Option<Dataset>), Error> {
        let all = data::read(&self.data)?;
        let repetitions = data::repetitions(&all).len();
        if repetitions > 0 {
            log::warn!(
                "{repetitions} of {} texts of {} repeat an earlier one: a split may put one on \
                 each side, and figures on it flatter",
                all.len(),
                self.data.display(),
            );
        }
        let (train, eval) = match (&self.measure.eval_data, self.measure.eval_fraction) {
            (Some(path), _) => (all, Some(data::read(path)?)),
            (None, Some(fraction)) => {
                let (rest, held) = data::split(&all, fraction, self.seed);
                if held.is_empty() || rest.is_empty() {
                    let message = format!(
                        "{}: --eval-fraction {fraction} of {} texts leaves {} to learn from and {} \
                         to measure on",
                        self.data.display(),
                        all.len(),
                        rest.len(),
                        held.len(),
                    );
                    return Err(CodedError::input(message).into());
                }
                (rest, Some(held))
            }
            (None, None) => (all, None),
        };
        if let Some(eval) = &eval {
            let pairs = data::duplicates(&train, eval);
            output::warn_of_duplicates(&pairs, &train.path, eval);
        }
        Ok((train, eval))
    }
}

/// A file's name without its ending.
fn file_stem(path: &Path) -> Result<String, Error> {
    let stem = path.file_stem().and_then(|s| s.to_str());
    let no_name = || CodedError {
        message: format!("-o {}: is no file name; give one that ends in .pack", path.display()),
        code: ExitCode::Usage,
    };
    Ok(stem.map(str::to_owned).ok_or_else(no_name)?)
}

pub(super) fn run(args: &TrainArgs, verbosity: Verbosity) -> Result<(), Error> {
    let options = args.options()?;
    check_place(&args.output)?;
    let (train, eval) = args.datasets()?;
    let base = Arc::new(Base::open(&args.base)?);
    let stop = stop_at_ctrl_c("stopping after this step; Ctrl-C again ends at once and keeps nothing")?;
    let bar = output::bar(verbosity, 0, "{wide_bar} {pos}/{len} steps, {msg}, {eta} left")?;
    let outcome = train::run(&base, &train, eval.as_ref(), &options, &stop, &mut |now| {
        bar.set_length(now.steps);
        bar.set_position(now.step);
        let best = now.dev_accuracy.map_or_else(String::new, |a| format!(", best {:.1} %", 100.0 * a));
        bar.set_message(format!("epoch {}, loss {:.3}{best}", now.epoch + 1, now.loss));
    });
    bar.finish_and_clear();
    let outcome = outcome?;
    outcome.pack.write(&args.output, Some(&base))?;
    report(args, &options, &outcome)
}

/// Says what was learnt.
fn report(args: &TrainArgs, options: &TrainOptions, outcome: &Outcome) -> Result<(), Error> {
    let document = &outcome.pack.document;
    let bytes =
        std::fs::metadata(&args.output).with_context(|| format!("cannot read {}", args.output.display()))?.len();
    let eval = document.metrics.get("eval_accuracy");
    if outcome.stopped {
        log::warn!("stopped after {} steps; this is the best state of them", outcome.steps);
    }
    log::info!(
        "{}: {} bytes, {:.1} % zeros, dev accuracy {:.2} %{}, {} steps in {:.0} s",
        args.output.display(),
        bytes,
        100.0 * document.sparsity,
        100.0 * outcome.dev_accuracy,
        eval.map_or_else(String::new, |a| format!(", eval accuracy {:.2} %", 100.0 * a)),
        outcome.steps,
        outcome.time.as_secs_f64(),
    );
    if !args.json {
        return Ok(());
    }
    output::json(&json!({
        "pack": args.output,
        "name": document.name,
        "method": options.method,
        "granularity": document.granularity,
        "sparsity": document.sparsity,
        "pack_bytes": bytes,
        "dev_accuracy": outcome.dev_accuracy,
        "metrics": document.metrics,
        "steps": outcome.steps,
        "stopped": outcome.stopped,
        "train_seconds": outcome.time.as_secs_f64(),
    }))
}

/// Fails now rather than after the training if the pack has nowhere to go.
fn check_place(output: &Path) -> Result<(), Error> {
    let wrong = |reason: String| {
        let message = format!("-o {}: {reason}", output.display());
        Err(CodedError { message, code: ExitCode::DeviceOrStore }.into())
    };
    let dir = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.is_dir() {
        return wrong(format!("there is no directory {}", dir.display()));
    }
    if output.is_dir() {
        return wrong("is a directory; name the file to write".to_owned());
    }
    // As the pack is written beside its place: what the file system allows, only a file tells.
    match tempfile::Builder::new().prefix(".overmask-").tempfile_in(dir) {
        Ok(_) => Ok(()),
        Err(e) => wrong(format!("nothing can be written to {}: {e}", dir.display())),
    }
}

/// Becomes true at the first Ctrl-C, which is answered; the second ends the program.
pub(super) fn stop_at_ctrl_c(answer: &'static str) -> Result<Arc<AtomicBool>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            // What a shell expects of a program that was interrupted.
            std::process::exit(130);
        }
        log::warn!("{answer}");
    })
    .context("cannot catch Ctrl-C")?;
    Ok(stop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Wrapper {
        #[command(flatten)]
        args: TrainArgs,
    }

    fn parse(line: &str) -> Result<TrainArgs, clap::Error> {
        Wrapper::try_parse_from(line.split_whitespace()).map(|w| w.args)
    }

    #[test]
    fn the_example_of_the_documentation_is_understood() {
        let args = parse(
            "train --base base/ --data trec.jsonl --task classify --method mask --granularity weight \
             --epochs 5 --initial-sparsity 0.1 --from-layer 2 --seed 7 -o out/trec.pack",
        )
        .unwrap();
        let options = args.options().unwrap();
        assert_eq!(options.name, "trec");
        assert_eq!(options.method, Method::Mask);
        assert_eq!(options.granularity.to_string(), "weight");
        assert_eq!((options.epochs, options.from_layer, options.seed), (5, 2, 7));
        assert_eq!(options.initial_sparsity, 0.1);
        assert!(options.threads > 0);
    }

    #[test]
    fn contradictions_are_usage_errors() {
        let base = "train --base b --data d.jsonl -o x.pack";
        assert!(parse(base).is_ok());
        for more in [
            "--eval-data e.jsonl --eval-fraction 0.1",
            "--eval-fraction 1.5",
            "--granularity rows",
            "--method lora",
            "--device tpu",
        ] {
            assert!(parse(&format!("{base} {more}")).is_err(), "{more}");
        }
    }

    #[test]
    fn evaluation_texts_come_from_the_data_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        let lines: String = (0..10).map(|i| format!("{{\"text\":\"t{i}\",\"label\":{}}}\n", i % 2)).collect();
        std::fs::write(&path, lines).unwrap();
        let data = path.display();
        let args = parse(&format!("train --base b --data {data} -o x.pack"));
        let (train, eval) = args.unwrap().datasets().unwrap();
        assert_eq!((train.len(), eval), (10, None));
        let args = parse(&format!("train --base b --data {data} --eval-fraction 0.3 -o x.pack"));
        let (train, eval) = args.unwrap().datasets().unwrap();
        assert_eq!((train.len(), eval.unwrap().len()), (7, 3));
        let args = parse(&format!("train --base b --data {data} --eval-fraction 0.01 -o x.pack"));
        let message = args.unwrap().datasets().unwrap_err().to_string();
        assert!(message.contains("leaves 10 to learn from and 0"), "{message}");
    }

    #[test]
    fn a_pack_with_no_place_is_refused_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        check_place(&dir.path().join("x.pack")).unwrap();
        check_place(Path::new("x.pack")).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for wrong in [Path::new("absent/dir/x.pack"), dir.path()] {
            assert_eq!(ExitCode::of(&check_place(wrong).unwrap_err()), ExitCode::DeviceOrStore);
        }
        // A directory in which nobody, not even root, can make a file.
        if cfg!(target_os = "linux") {
            let error = check_place(Path::new("/proc/x.pack")).unwrap_err();
            assert_eq!(ExitCode::of(&error), ExitCode::DeviceOrStore);
            assert!(error.to_string().contains("nothing can be written to /proc"), "{error}");
        }
    }
}
