//! `overmask-export bench-step`, which `benches/` calls: how long a training step takes.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Error;
use clap::Args;
use overmask::engine::Device;
use overmask::mask::Granularity;
use overmask_cli::{CodedError, ExitCode};

use super::train::in_flags;
use super::{output, places};
use crate::train::{self, Method, Precision, TrainOptions};

/// Classes of the made-up task.
const CLASSES: usize = 6;

/// Time training steps on made-up texts.
#[derive(Debug, Args)]
#[command(
    hide = true,
    before_help = "Example:\n  overmask-export bench-step --base base/ --threads 1 --json",
    after_help = ExitCode::HELP
)]
pub(super) struct BenchStepArgs {
    /// The base bundle.
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// Texts a step.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = at_least_one)]
    batch: usize,
    /// Tokens a text.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one)]
    tokens: usize,
    /// Threads of a CPU run.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = overmask_cli::threads())]
    threads: u16,
    /// What is kept or zeroed together.
    #[arg(long, default_value = "weight")]
    granularity: Granularity,
    /// Train the whole encoder instead of masks.
    #[arg(long, conflicts_with = "granularity")]
    full: bool,
    /// What the encoder's matrix products compute in.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// Steps to time.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = at_least_one)]
    steps: usize,
    /// Where the training step runs: cpu or cuda.
    #[arg(long, default_value_t = Device::Cpu)]
    device: Device,
    /// Write ONNX Runtime's profile, which slows the steps a little, into a file whose name begins with this.
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("must be a whole number above 0".to_owned()),
    }
}

pub(super) fn run(args: &BenchStepArgs) -> Result<(), Error> {
    let base = Arc::new(places::f32_base(&args.base)?);
    let most = base.manifest().architecture.max_positions;
    if args.tokens > most {
        let message = format!("--tokens {}: this base takes {most} at most", args.tokens);
        return Err(CodedError { message, code: ExitCode::Usage }.into());
    }
    // All of the base's linear tensors are masked, and the rates are those of real training.
    let options = TrainOptions {
        granularity: args.granularity,
        precision: args.precision,
        batch_size: args.batch,
        max_tokens: args.tokens,
        device: args.device,
        threads: args.threads.into(),
        ..TrainOptions::new("bench", if args.full { Method::Full } else { Method::Mask })
    };
    let bench = train::bench_step(&base, &options, args.tokens, CLASSES, args.steps, args.profile.clone());
    let bench = bench.map_err(in_flags)?;
    if args.json {
        return output::json(&bench);
    }
    output::line(&format!("median {:.1} ms, fastest {:.1} ms, {} steps", bench.median_ms, bench.min_ms, bench.steps))
}
