//! `overmask-export train`: labelled examples become a pack.

mod args;
mod datasets;
mod flags;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Error};
use overmask_cli::Verbosity;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

pub(super) use self::args::{Measure, TaskArgs, TrainArgs};
pub(super) use self::datasets::Datasets;
pub(super) use self::flags::in_flags;

use super::checkpoint::stopping;
use super::{output, places};
use crate::baseline::Measured;
use crate::data::Unlabelled;
use crate::score::{self, Card};
use crate::train::{self, Attempt, HeadAlone, Keep, Method, Outcome, Part, Progress, Teacher, TrainOptions, Trial};

impl TrainArgs {
    /// Checks where files are to be written, before the work: that they can be, and that none takes the
    /// place of what is there to be read.
    fn check_places(&self, options: &TrainOptions) -> Result<(), Error> {
        let mut written = vec![("-o", self.output.as_path())];
        written.extend(options.checkpoint.as_ref().map(|checkpoint| ("--checkpoint", checkpoint.file.as_path())));
        // A pipe or a device is written to as it is.
        let log = options.log_losses.as_deref().filter(|file| !file.exists() || file.is_file() || file.is_dir());
        written.extend(log.map(|file| ("--log-losses", file)));
        let teacher = options.teacher.as_ref().and_then(|teacher| match &teacher.who {
            Teacher::Pack(pack) => Some(pack.as_path()),
            Teacher::Folds(_) | Teacher::Labels => None,
        });
        let read = [
            ("--data", Some(self.data.as_path())),
            ("--dev-data", self.measure.dev_data.as_deref()),
            ("--eval-data", self.measure.eval_data.as_deref()),
            ("--teacher", teacher),
            ("--unlabelled", self.teacher.unlabelled.as_deref()),
        ];
        let read: Vec<_> = read.into_iter().filter_map(|(option, path)| Some((option, path?))).collect();
        places::check(&written, &read)?;
        self.machine.checkpoint.check()
    }
}

impl TrainArgs {
    fn datasets(&self) -> Result<Datasets, Error> {
        Datasets::read(&self.data, &self.measure, &self.files, self.form(), self.seed)
    }

    /// The texts without a label; a warning says how many of them are also measured on.
    fn unlabelled(&self, datasets: &Datasets) -> Result<Option<Unlabelled>, Error> {
        let Some(path) = &self.teacher.unlabelled else { return Ok(None) };
        let texts = self.files.read_unlabelled(path, self.form())?;
        for (option, dataset) in [("--dev-data", &datasets.dev), ("examples to measure on", &datasets.eval)] {
            let shared = dataset.as_ref().map_or(0, |dataset| texts.shared_with(dataset));
            if shared > 0 {
                log::warn!("{}: {shared} texts are also among the {option}", path.display());
            }
        }
        Ok(Some(texts))
    }
}

pub(super) fn run(args: &TrainArgs, verbosity: Verbosity) -> Result<(), Error> {
    let options = args.options()?;
    args.check_places(&options)?;
    let datasets = args.datasets()?;
    let unlabelled = args.unlabelled(&datasets)?;
    let Datasets { train, dev, eval } = datasets;
    let base = Arc::new(places::f32_base(&args.base)?);
    // What is learnt on a damaged base fits no other.
    base.verify()?;
    let manifest = base.manifest();
    let (pooling, max_tokens) = (args.pooling(manifest.pooling), args.max_tokens(manifest));
    let options = TrainOptions { pooling, max_tokens, ..options };
    if let Some(most) = manifest.max_tokens.filter(|most| options.max_tokens > *most) {
        log::warn!("--max-tokens {}: the base was trained with texts of at most {most} tokens", options.max_tokens);
    }
    let options = args.fitted(options, &train, dev.as_ref(), unlabelled.as_ref().map_or(0, |texts| texts.inputs.len()));
    if options.method == Method::Mask {
        let TrainOptions { epochs, batch_size, learning_rate, dev_fraction, keep, .. } = &options;
        let kept = if *keep == Keep::Last { ", the last state is kept" } else { "" };
        let dev = if dev.is_some() { String::new() } else { format!(", {:.0} % to choose by", 100.0 * dev_fraction) };
        log::info!("{epochs} epochs in batches of {batch_size}, rate of the scores {learning_rate}{dev}{kept}");
    }
    let state = options.checkpoint.as_ref().map(|checkpoint| checkpoint.file.as_path());
    let stop = stop_when_asked(stopping(state))?;
    let bar = output::bar(verbosity, 0, "{wide_bar} {pos}/{len} steps, {msg}, {eta} left")?;
    let (dev, eval, unlabelled) = (dev.as_ref(), eval.as_ref(), unlabelled.as_ref());
    let data = train::Data { train: &train, dev, eval, unlabelled };
    let metric = options.form.kind.metric();
    let mut what = None;
    let outcome = train::run(&base, data, &options, &stop, &mut |now| {
        let now_what = now.part.map(|part| part.what);
        if std::mem::replace(&mut what, now_what).is_some_and(|before| now_what != Some(before)) {
            // Other steps, of another length.
            bar.reset();
        }
        bar.set_length(now.steps);
        bar.set_position(now.step);
        bar.set_message(message(now, metric));
    });
    bar.finish_and_clear();
    let outcome = outcome.map_err(in_flags)?;
    outcome.pack.write(&args.output, Some(&base))?;
    if !outcome.stopped {
        args.machine.checkpoint.remove();
    }
    report(args, &options, &outcome)
}

/// What the progress bar says beside the steps.
fn message(now: &Progress, metric: &str) -> String {
    let best = now.dev.map_or_else(String::new, |value| format!(", best {}", score::say(metric, value)));
    // The one that is under way; at the end, the last.
    let epoch = (now.epoch + 1).min(now.epochs);
    let of_tries = if now.attempts > 1 { format!("try {} of {}, ", now.attempt, now.attempts) } else { String::new() };
    let of_tries = match now.part {
        Some(Part { what, number, of }) => format!("{what} {number} of {of}, "),
        None => of_tries,
    };
    format!("{of_tries}epoch {epoch} of {}, loss {:.3}{best}", now.epochs, now.loss)
}

/// What is said of a run that was stopped.
fn stopped(steps: u64, state: Option<&Path>) -> String {
    let best = format!("stopped after {steps} steps; this is what there is of them");
    match state {
        Some(state) => format!("{best}. {} has the run: the same command with --resume goes on", state.display()),
        None => format!("{best}. A run can go on later if --checkpoint names a file for it"),
    }
}

/// Fewer examples than these choose by chance.
const DEV_ENOUGH: usize = 100;

/// What is said of a mask that does not pay.
fn advice(options: &TrainOptions, outcome: &Outcome, head: &HeadAlone) -> Option<String> {
    let gain = outcome.dev.main() - head.dev.main();
    let pays = outcome.trial.map_or(gain > 0.0, |trial| trial.mask > trial.head);
    if pays && outcome.epoch > 0 {
        return None;
    }
    if let Some(Trial { folds, head, mask }) = outcome.trial {
        let metric = outcome.dev.metric.replace('_', " ");
        let what = if outcome.epoch == 0 { "and the pack is the head alone" } else { "no more than the head alone" };
        return Some(format!(
            "masks do not pay here: on {folds} parts that they did not learn they come to {metric} {}, the head alone to \
             {}, {what}",
            score::say(outcome.dev.metric, mask),
            score::say(outcome.dev.metric, head),
        ));
    }
    let what = match (outcome.epoch, gain < 0.0) {
        (0, _) => "no mask was better than the head alone on the dev split, and the pack is that head",
        (_, true) => "on the dev split the mask is worse than the head alone",
        (_, false) => "on the dev split the mask is no better than the head alone",
    };
    let best = if options.tries.is_empty() { "`--effort best`, " } else { "" };
    // Where few choose, it is chance as often as not.
    let folds = if outcome.dev_texts < DEV_ENOUGH { "`--dev-folds 5`, which lets all examples choose, " } else { "" };
    Some(format!(
        "{what} ({} examples). More examples may help, or {folds}{best}`--granularity weight`, `--tune norms,biases`",
        outcome.dev_texts
    ))
}

/// Says what was learnt.
fn report(args: &TrainArgs, options: &TrainOptions, outcome: &Outcome) -> Result<(), Error> {
    let document = &outcome.pack.document;
    let bytes =
        std::fs::metadata(&args.output).with_context(|| format!("cannot read {}", args.output.display()))?.len();
    let metric = outcome.dev.metric;
    let say = |what: &str, value: f64| format!(", {what} {} {}", metric.replace('_', " "), score::say(metric, value));
    if outcome.stopped {
        // A write that failed was told.
        let state = options.checkpoint.as_ref().map(|checkpoint| checkpoint.file.as_path());
        log::warn!("{}", stopped(outcome.steps, state.filter(|state| state.exists())));
    }
    let row = |name: &str, dev: &Card, eval: Option<&Card>| {
        let eval = eval.map_or_else(String::new, |eval| say("eval", eval.main()));
        log::info!("{name}{}{eval}", say("dev", dev.main()).replacen(',', ":", 1));
    };
    outcome.baselines.iter().for_each(|b| row(b.baseline.about(), &b.dev, b.eval.as_ref()));
    if let Some(head) = &outcome.head {
        row("head alone", &head.dev, head.eval.as_ref());
        if let Some(advice) = advice(options, outcome, head) {
            log::warn!("{advice}");
        }
    }
    log::info!(
        "{}: {} bytes, {:.1} % of all maskable weights zero{}{}, {} steps in {:.0} s",
        args.output.display(),
        bytes,
        100.0 * document.sparsity,
        say("dev", outcome.dev.main()),
        outcome.eval.as_ref().map_or_else(String::new, |eval| say("eval", eval.main())),
        outcome.steps,
        outcome.time.as_secs_f64(),
    );
    let waited = outcome.waited.as_secs_f64() / outcome.time.as_secs_f64().max(f64::MIN_POSITIVE);
    log::debug!("steps waited for data in {:.2} % of the time", 100.0 * waited);
    if !args.json {
        return Ok(());
    }
    let tried = outcome.attempts.get(outcome.attempt).filter(|_| options.method == Method::Mask);
    output::json(&json!({
        "pack": args.output.display().to_string(),
        "name": document.name,
        "task": document.kind,
        "method": options.method,
        "granularity": document.granularity,
        "sparsity": document.sparsity,
        "pack_bytes": bytes,
        "seed": options.seed,
        "metric": outcome.dev.metric,
        "dev": outcome.dev.main(),
        "head": outcome.head.as_ref().map(|head| json!({
            "dev": head.dev.main(),
            "eval": head.eval.as_ref().map(score::Card::main),
        })),
        "epoch": outcome.epoch,
        "teachers": outcome.folds,
        "trial": outcome.trial,
        "train_texts": outcome.train_texts,
        "dev_texts": outcome.dev_texts,
        "batch_size": options.batch_size,
        "epochs": tried.map_or(options.epochs, |tried| tried.epochs),
        "learning_rate": tried.map(|tried| tried.learning_rate),
        "tries": tries(outcome, options.keep),
        "baselines": baselines(outcome),
        "metrics": document.metrics,
        "intervals": outcome.eval.as_ref().map(|eval| {
            let named = eval.intervals.iter().map(|(name, interval)| (format!("eval_{name}"), interval));
            named.collect::<BTreeMap<_, _>>()
        }),
        "classes": outcome.eval.as_ref().map(|eval| &eval.classes),
        "confusion": outcome.eval.as_ref().and_then(|eval| eval.confusion.as_ref()),
        "mistakes": outcome.mistakes,
        "data": outcome.summary,
        "curve": outcome.curve(),
        "steps": outcome.steps,
        "stopped": outcome.stopped,
        "prepare_seconds": outcome.prepared.as_secs_f64(),
        "train_seconds": outcome.time.as_secs_f64(),
        "waited_for_data_seconds": outcome.waited.as_secs_f64(),
    }))
}

/// What simpler models come to.
fn baselines(outcome: &Outcome) -> Vec<Value> {
    let row = |row: &Measured| {
        let eval = row.eval.as_ref().map(score::Card::main);
        json!({"baseline": row.baseline, "dev": row.dev.main(), "eval": eval})
    };
    outcome.baselines.iter().map(row).collect()
}

/// What each try came to, if there were several.
fn tries(outcome: &Outcome, keep: Keep) -> Option<Vec<Value>> {
    let row = |attempt: &Attempt| json!({"learning_rate": attempt.learning_rate, "epochs": attempt.epochs, "dev": attempt.dev(keep)});
    (outcome.attempts.len() > 1).then(|| outcome.attempts.iter().map(row).collect())
}

/// Becomes true when the program is asked to end, by Ctrl-C or by SIGTERM as job systems do, which is
/// answered; asked again, it ends at once. Nothing else is caught: `nohup` still shields from SIGHUP.
pub(super) fn stop_when_asked(answer: String) -> Result<Arc<AtomicBool>, Error> {
    let stop = Arc::new(AtomicBool::new(false));
    // The codes that a shell gives to programs that these signals end.
    for (signal, code) in [(SIGINT, 130), (SIGTERM, 143)] {
        // In this order: the first looks whether the second has seen one before.
        flag::register_conditional_shutdown(signal, code, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .context("cannot catch Ctrl-C and SIGTERM")?;
    }
    let asked = Arc::clone(&stop);
    let wait = move || {
        while !asked.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(100));
        }
        log::warn!("{answer}");
    };
    std::thread::Builder::new().spawn(wait).context("cannot start a thread that waits for Ctrl-C")?;
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::data;

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
             --epochs 5 --initial-sparsity 0.1 --layers 2- --seed 7 -o out/trec.pack",
        )
        .unwrap();
        let options = args.fitted(args.options().unwrap(), &examples(4780), None, 0);
        assert_eq!(options.name, "trec");
        assert_eq!(options.method, train::Method::Mask);
        assert_eq!(options.granularity.to_string(), "weight");
        assert_eq!((options.epochs, options.layers.to_string().as_str(), options.seed), (5, "2-", 7));
        assert_eq!(options.initial_sparsity, 0.1);
        assert!(options.threads > 0);
    }

    fn examples(count: usize) -> data::Dataset {
        let examples = (0..count).map(|i| data::Example::labelled("a", (i % 2).to_string(), i + 1)).collect();
        data::Dataset { path: "d.jsonl".into(), examples }
    }

    #[test]
    fn who_teaches_follows_from_options_and_data() {
        let teacher = |more: &str, soft: bool| {
            let args = parse(&format!("train --base b --data d.jsonl -o x.pack {more}")).unwrap();
            let mut train = examples(300);
            if soft {
                let scores = [("0".to_owned(), 0.25), ("1".to_owned(), 0.75)].into();
                train.examples[0].soft = Some(data::Soft { scale: data::Scale::Probs, scores, alone: false });
            }
            args.fitted(args.options().unwrap(), &train, None, 0).teacher.map(|t| (t.who, t.weight, t.temperature))
        };
        assert_eq!(teacher("", false), None);
        assert_eq!(teacher("", true), Some((Teacher::Labels, 0.5, 2.0)));
        assert_eq!(teacher("--teacher-weight 1", false), Some((Teacher::Labels, 1.0, 2.0)), "refused by the library");
        let folds = "--teacher-folds 5 --teacher-temperature 3";
        assert_eq!(teacher(folds, true), Some((Teacher::Folds(5), 0.5, 3.0)));
        assert_eq!(teacher("--teacher a.pack", false), Some((Teacher::Pack("a.pack".into()), 0.5, 2.0)));
    }

    #[test]
    fn contradictions_are_usage_errors() {
        let base = "train --base b --data d.jsonl -o x.pack";
        assert!(parse(base).is_ok());
        for more in [
            "--eval-data e.jsonl --eval-fraction 0.1",
            "--eval-fraction 1.5",
            "--granularity rows",
            "--layers x",
            "--tune heads",
            "--teacher a.pack --teacher-folds 5",
            "--teacher-folds 1",
            "--teacher-features 1",
            "--resume",
            "--dev-data d.jsonl --dev-fraction 0.2",
            "--method lora",
            "--device tpu",
        ] {
            assert!(parse(&format!("{base} {more}")).is_err(), "{more}");
        }
    }

    #[test]
    fn the_bar_counts_no_epoch_that_is_not_there() {
        let mut now = Progress {
            step: 3,
            steps: 8,
            epoch: 0,
            epochs: 2,
            loss: 0.5,
            dev: None,
            attempt: 1,
            attempts: 1,
            part: None,
        };
        assert_eq!(message(&now, "accuracy"), "epoch 1 of 2, loss 0.500");
        (now.epoch, now.dev) = (1, Some(0.9));
        assert!(message(&now, "accuracy").starts_with("epoch 2 of 2, loss 0.500, best "));
        now.epoch = 2;
        assert!(message(&now, "accuracy").starts_with("epoch 2 of 2, "));
        now.attempts = 5;
        assert!(message(&now, "accuracy").starts_with("try 1 of 5, epoch 2 of 2, "));
        now.part = Some(Part { what: "teacher", number: 3, of: 4 });
        assert!(message(&now, "accuracy").starts_with("teacher 3 of 4, epoch 2 of 2, "));
    }

    #[test]
    fn who_stops_a_run_is_told_how_it_goes_on() {
        let state = Path::new("run.state");
        assert!(stopping(Some(state)).contains("run.state has the run") && stopping(None).contains("keeps nothing"));
        assert!(stopped(7, Some(state)).ends_with("run.state has the run: the same command with --resume goes on"));
        assert!(stopped(7, None).contains("--checkpoint"));
    }

    #[test]
    fn evaluation_texts_come_from_the_data_or_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.jsonl");
        let lines: String = (0..10).map(|i| format!("{{\"text\":\"t{i}\",\"label\":{}}}\n", i % 2)).collect();
        std::fs::write(&path, lines).unwrap();
        let data = path.display();
        let args = parse(&format!("train --base b --data {data} -o x.pack"));
        let Datasets { train, eval, .. } = args.unwrap().datasets().unwrap();
        assert_eq!((train.len(), eval), (10, None));
        let args = parse(&format!("train --base b --data {data} --eval-fraction 0.3 -o x.pack"));
        let Datasets { train, eval, .. } = args.unwrap().datasets().unwrap();
        assert_eq!((train.len(), eval.unwrap().len()), (7, 3));
        let args = parse(&format!("train --base b --data {data} --eval-fraction 0.01 -o x.pack"));
        let message = args.unwrap().datasets().err().unwrap().to_string();
        assert!(message.contains("leaves 10 to learn from and 0"), "{message}");
    }
}
