//! `overmask-export baseline`: what a task comes to without a mask.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Error;
use clap::Args;
use overmask::pack::{Pooling, TaskKind};
use overmask_cli::ExitCode;
use serde_json::json;

use super::data::DataArgs;
use super::train::{Datasets, Measure, TaskArgs, in_flags, stop_when_asked};
use super::{output, places};
use crate::data::Dataset;
use crate::score;
use crate::train::{self, Amount, Effort, Given, Method, TrainOptions};

/// Measure what a task comes to without a mask, on the dev split that `train` chooses by.
///
/// The baselines are the answer that is always the same; a linear model on words and pairs of words, weighted by tf-idf;
/// and with --base a head on the mean of the base's word embeddings, and one on the frozen encoder. Of tags there is the
/// last alone: words are tagged by their neighbours, which the others do not see.
#[derive(Debug, Args)]
#[command(
    before_help = "Examples:\n  overmask-export baseline --data trec/train.jsonl --eval-data trec/test.jsonl\n  \
                   overmask-export baseline --base base/ --data trec/train.jsonl --json",
    after_help = ExitCode::HELP
)]
pub(super) struct BaselineArgs {
    /// The base bundle; without it there is no head.
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// The examples to learn from.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    #[command(flatten)]
    task: TaskArgs,
    /// Decides splits, the order of examples, dropout and start values.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The longest input of a head, in tokens with the special ones; default: 64, or as many as the base takes if that
    /// is less.
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Threads; default: all.
    #[arg(long, value_name = "N", value_parser = overmask_cli::threads())]
    threads: Option<u16>,
    #[command(flatten)]
    measure: Measure,
    #[command(flatten)]
    files: DataArgs,
    /// Print each baseline as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &BaselineArgs) -> Result<(), Error> {
    let form = args.task.form();
    let Datasets { train, dev, eval } = Datasets::read(&args.data, &args.measure, &args.files, form, args.seed)?;
    let base = args.base.as_deref().map(places::f32_base).transpose()?.map(Arc::new);
    let of_base = base.as_ref().and_then(|base| base.manifest().pooling);
    let usual = TrainOptions::new("baseline", Method::Mask);
    let options = TrainOptions {
        form,
        seed: args.seed,
        max_tokens: args.max_tokens.unwrap_or_else(|| {
            base.as_ref().map_or(usual.max_tokens, |base| TrainOptions::usual_tokens(base.manifest()))
        }),
        pooling: match form.kind {
            TaskKind::Tag => Pooling::First,
            _ => of_base.unwrap_or(Pooling::Mean),
        },
        threads: args.threads.map_or(usual.threads, usize::from),
        ..usual
    };
    let given = Given { dev_fraction: args.measure.dev_fraction, ..Given::default() };
    let amount = Amount { dev: dev.as_ref().map(Dataset::len), ..Amount::labelled(train.len()) };
    let options = options.fit(Effort::Normal, given, amount);
    let stop = stop_when_asked("stopping; once more ends at once".to_owned())?;
    let data = train::Data { train: &train, dev: dev.as_ref(), eval: eval.as_ref(), unlabelled: None };
    let measured = train::baselines(base.as_ref(), data, &options, &stop).map_err(in_flags)?;
    if form.kind == TaskKind::Tag {
        log::warn!("of tags there is no baseline but the head on the encoder, which --base names");
    }
    for crate::baseline::Measured { baseline, dev, eval, seconds } in &measured {
        if args.json {
            output::json(&json!({
                "baseline": baseline,
                "task": dev.task,
                "data": args.data.display().to_string(),
                "seed": args.seed,
                "metric": dev.metric,
                "dev": dev.main(),
                "eval": eval.as_ref().map(score::Card::main),
                "dev_texts": dev.n,
                "eval_texts": eval.as_ref().map(|eval| eval.n),
                "seconds": seconds,
            }))?;
        } else {
            let say = |what: &str, card: &score::Card| format!("  {what} {:>8}", score::say(card.metric, card.main()));
            let eval = eval.as_ref().map_or_else(String::new, |eval| say("eval", eval));
            output::line(&format!("{:<24}{}{eval}  {seconds:.1} s", baseline.about(), say("dev", dev)))?;
        }
    }
    Ok(())
}
