//! The numbers of a report.

use std::collections::BTreeMap;

use serde::Serialize;

use super::input::{Analysis, CurvePoint, Input, Run, Status, Train};
use super::measured::{Class, Confusion};
use super::measured::{Evaluation, Mistake, Rival, Simple};

/// The numbers of a report; its JSON is this.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Task x method, over seeds.
    pub summary: Vec<SummaryRow>,
    /// Each run that was done.
    pub runs: Vec<RunRow>,
    /// The best run of each task, by the metric on the texts that chose its state.
    pub best: Vec<Best>,
    /// Runs that failed.
    pub failures: Vec<Failure>,
    /// Packs that were measured, as they were read.
    pub evaluations: Vec<Evaluation>,
    /// Baselines, as they were read.
    pub baselines: Vec<Rival>,
    /// Analyses, as they were read.
    pub analyses: Vec<Analysis>,
}

/// A number over several runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stat {
    /// Of how many runs.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Their sample standard deviation (divided by n - 1); none for one run.
    pub sd: Option<f64>,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

/// A method on a task, over seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SummaryRow {
    /// The task's name.
    pub task: String,
    /// The method's name.
    pub method: String,
    /// The main metric.
    pub metric: String,
    /// How many runs were done.
    pub runs: usize,
    /// The metric on the texts that chose the best state.
    pub dev: Option<Stat>,
    /// The metric on held-out texts.
    pub held_out: Option<Stat>,
    /// The fraction of zeros.
    pub sparsity: Option<Stat>,
    /// The pack's size.
    pub pack_bytes: Option<Stat>,
    /// How long training took.
    pub train_seconds: Option<Stat>,
}

/// A run that was done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunRow {
    /// Its id.
    pub run: String,
    /// The task's name.
    pub task: String,
    /// The method's name.
    pub method: String,
    /// The seed.
    pub seed: Option<u64>,
    /// The main metric.
    pub metric: String,
    /// The metric on the texts that chose the best state.
    pub dev: Option<f64>,
    /// The metric on held-out texts.
    pub held_out: Option<f64>,
    /// Its confidence interval.
    pub interval: Option<[f64; 2]>,
    /// The fraction of zeros.
    pub sparsity: Option<f64>,
    /// The pack's size.
    pub pack_bytes: Option<u64>,
    /// Steps of training.
    pub steps: Option<u64>,
    /// How long training took.
    pub train_seconds: Option<f64>,
    /// The head alone, from which the mask started.
    pub head: Option<Simple>,
    /// What simpler models come to.
    pub baselines: Vec<Rival>,
    /// How it went.
    pub curve: Vec<CurvePoint>,
}

impl RunRow {
    /// The metric on held-out texts, or where there are none, on those that chose the state.
    pub fn score(&self) -> Option<f64> {
        self.held_out.or(self.dev)
    }
}

/// The best run of a task.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Best {
    /// The task's name.
    pub task: String,
    /// The run's id.
    pub run: String,
    /// The method's name.
    pub method: String,
    /// The seed.
    pub seed: Option<u64>,
    /// The main metric.
    pub metric: String,
    /// What it was chosen by.
    pub dev: f64,
    /// Labels given against labels predicted.
    pub confusion: Option<Confusion>,
    /// How good each label is.
    pub classes: Vec<Class>,
    /// The surest mistakes.
    pub mistakes: Vec<Mistake>,
}

/// A run that failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    /// Its id.
    pub run: String,
    /// The task's name.
    pub task: String,
    /// The method's name.
    pub method: String,
    /// The seed.
    pub seed: Option<u64>,
    /// What it said last.
    pub error: String,
}

impl Report {
    /// The numbers of what was read.
    pub fn new(input: Input) -> Self {
        let (done, failed): (Vec<Run>, Vec<Run>) = input.runs.into_iter().partition(|run| run.status == Status::Done);
        let runs: Vec<RunRow> = done.iter().map(row).collect();
        let failures = failed.into_iter().map(|run| Failure {
            run: run.run,
            task: run.task,
            method: run.method,
            seed: run.seed,
            error: run.error.unwrap_or_default(),
        });
        Report {
            summary: summary(&runs),
            best: best(&runs, &done),
            runs,
            failures: failures.collect(),
            evaluations: input.evaluations,
            baselines: input.baselines,
            analyses: input.analyses,
        }
    }

    /// The tasks, in the order of their first run.
    pub fn tasks(&self) -> Vec<&str> {
        distinct(self.runs.iter().map(|run| run.task.as_str()))
    }

    /// The methods, in the order of their first run.
    pub fn methods(&self) -> Vec<&str> {
        distinct(self.runs.iter().map(|run| run.method.as_str()))
    }
}

/// Each once, in the order in which they first come.
pub(super) fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = std::collections::HashSet::new();
    names.filter(|name| seen.insert(*name)).collect()
}

fn row(run: &Run) -> RunRow {
    let none = Train::default();
    let train = run.train.as_ref().unwrap_or(&none);
    let name = train.metric.as_deref().unwrap_or("accuracy");
    let metric = ["dev_", "eval_"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let named = |name: &str| train.metrics.as_ref().and_then(|metrics| *metrics.get(name)?);
    let held_out = format!("eval_{metric}");
    let interval = train.intervals.as_ref().and_then(|intervals| intervals.get(&held_out));
    RunRow {
        run: run.run.clone(),
        task: run.task.clone(),
        method: run.method.clone(),
        seed: run.seed,
        metric: metric.to_owned(),
        dev: train.dev.or_else(|| named(&format!("dev_{metric}"))),
        held_out: named(&held_out),
        interval: interval.and_then(|&[low, high]| Some([low?, high?])),
        sparsity: train.sparsity,
        pack_bytes: train.pack_bytes,
        steps: train.steps,
        train_seconds: train.train_seconds.or(run.seconds),
        head: train.head,
        baselines: train.baselines.clone().unwrap_or_default(),
        curve: train.curve.clone().unwrap_or_default(),
    }
}

fn summary(runs: &[RunRow]) -> Vec<SummaryRow> {
    // Tasks and, within each, methods in the order in which they come.
    let mut groups: Vec<Vec<&RunRow>> = Vec::new();
    let mut places: BTreeMap<[&str; 3], usize> = BTreeMap::new();
    for task in distinct(runs.iter().map(|run| run.task.as_str())) {
        for run in runs.iter().filter(|run| run.task == task) {
            let place = *places.entry([task, &run.method, &run.metric]).or_insert(groups.len());
            if place == groups.len() {
                groups.push(Vec::new());
            }
            groups[place].push(run);
        }
    }
    let row = |group: &Vec<&RunRow>| {
        let over = |number: &dyn Fn(&RunRow) -> Option<f64>| Stat::of(group.iter().filter_map(|run| number(run)));
        let first = group.first()?;
        Some(SummaryRow {
            task: first.task.clone(),
            method: first.method.clone(),
            metric: first.metric.clone(),
            runs: group.len(),
            dev: over(&|run| run.dev),
            held_out: over(&|run| run.held_out),
            sparsity: over(&|run| run.sparsity),
            pack_bytes: over(&|run| run.pack_bytes.map(|bytes| bytes as f64)),
            train_seconds: over(&|run| run.train_seconds),
        })
    };
    groups.iter().filter_map(row).collect()
}

impl Stat {
    /// Of these numbers; none of none.
    pub fn of(numbers: impl Iterator<Item = f64>) -> Option<Self> {
        let numbers: Vec<f64> = numbers.filter(|n| n.is_finite()).collect();
        let n = numbers.len();
        if n == 0 {
            return None;
        }
        // Divided first: the sum of large numbers may be none.
        let mean = numbers.iter().map(|x| x / n as f64).sum::<f64>();
        let sd = (n > 1).then(|| {
            let squares = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
            (squares / (n - 1) as f64).sqrt()
        });
        let min = numbers.iter().copied().fold(f64::INFINITY, f64::min);
        let max = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(Stat { n, mean, sd: sd.filter(|sd| sd.is_finite()), min, max })
    }
}

/// The best run of each task, of equal ones the first: that with the highest metric, as no task is judged by an
/// error. For rows of these runs, in the same order.
fn best(rows: &[RunRow], runs: &[Run]) -> Vec<Best> {
    let best_of = |task: &str| {
        let mut best: Option<(&RunRow, &Run, f64)> = None;
        for (row, run) in rows.iter().zip(runs).filter(|(row, _)| row.task == task) {
            let Some(dev) = row.dev else { continue };
            let better = best.is_none_or(|(other, _, dev_of_best)| {
                // Numbers of another metric cannot be compared.
                other.metric == row.metric && dev > dev_of_best
            });
            if better {
                best = Some((row, run, dev));
            }
        }
        let (row, run, dev) = best?;
        let train = run.train.as_ref();
        Some(Best {
            task: row.task.clone(),
            run: row.run.clone(),
            method: row.method.clone(),
            seed: row.seed,
            metric: row.metric.clone(),
            dev,
            confusion: train.and_then(|train| train.confusion.clone()),
            classes: train.and_then(|train| train.classes.clone()).unwrap_or_default(),
            mistakes: train.and_then(|train| train.mistakes.clone()).unwrap_or_default(),
        })
    };
    distinct(rows.iter().map(|run| run.task.as_str())).into_iter().filter_map(best_of).collect()
}
