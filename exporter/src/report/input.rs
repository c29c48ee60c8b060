//! What a report is made of: JSON lines of sweeps and of analyses.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ReportError;
use super::measured::{Class, Confusion, Evaluation, Mistake, Rival, Simple};

/// Everything that was read.
#[derive(Debug, Default)]
pub struct Input {
    /// Runs, each once, in the order of the files.
    pub runs: Vec<Run>,
    /// Packs that were measured, in the order of the files.
    pub evaluations: Vec<Evaluation>,
    /// Baselines, likewise.
    pub baselines: Vec<Rival>,
    /// Analyses, likewise.
    pub analyses: Vec<Analysis>,
    /// What was passed over, in words.
    pub warnings: Vec<String>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// With a pack.
    Done,
    /// Without.
    Failed,
}

/// A line of a sweep's results.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Run {
    /// Its id.
    pub run: String,
    /// The task's name.
    pub task: String,
    /// The method's name.
    pub method: String,
    /// The seed.
    pub seed: Option<u64>,
    /// How it ended.
    pub status: Status,
    /// What it said last, if it failed.
    pub error: Option<String>,
    /// What the training command printed.
    pub train: Option<Train>,
    /// How long its process took.
    pub seconds: Option<f64>,
}

/// What the training command prints. Any part may be missing.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Train {
    /// The fraction of zeros, 0 to 1.
    pub sparsity: Option<f64>,
    /// The pack's size.
    pub pack_bytes: Option<u64>,
    /// The name of the main metric.
    pub metric: Option<String>,
    /// The main metric on the texts that chose the best state.
    pub dev: Option<f64>,
    /// All metrics; those of held-out texts start with `eval_`.
    pub metrics: Option<BTreeMap<String, Option<f64>>>,
    /// Steps of training.
    pub steps: Option<u64>,
    /// How long the training itself took.
    pub train_seconds: Option<f64>,
    /// How it went.
    pub curve: Option<Vec<CurvePoint>>,
    /// Labels given against labels predicted.
    pub confusion: Option<Confusion>,
    /// How good each label is.
    pub classes: Option<Vec<Class>>,
    /// Confidence intervals of metrics, low and high.
    pub intervals: Option<BTreeMap<String, [Option<f64>; 2]>>,
    /// The head alone, from which masks start.
    pub head: Option<Simple>,
    /// What simpler models come to.
    pub baselines: Option<Vec<Rival>>,
    /// The surest mistakes.
    pub mistakes: Option<Vec<Mistake>>,
}

/// What `overmask-export train --json` says of a run beside [`Train`].
#[derive(Deserialize)]
struct Named {
    pack: String,
    name: String,
    method: String,
    granularity: Option<String>,
    seed: Option<u64>,
}

/// A point of a learning curve.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct CurvePoint {
    /// Passes over the texts so far.
    pub epoch: Option<f64>,
    /// Steps so far.
    pub step: Option<f64>,
    /// Mean loss on the training texts.
    pub loss: Option<f64>,
    /// The main metric on the texts that choose the best state.
    pub dev: Option<f64>,
    /// The fraction of zeros.
    pub sparsity: Option<f64>,
}

/// A line of `overmask-export analyze --json`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "analysis", rename_all = "lowercase")]
pub enum Analysis {
    /// How far masked tensors are from the base's.
    Closeness(Closeness),
    /// How far the zeros of packs are the same.
    Overlap(Overlap),
    /// What the metric loses without a group of tensors, or with it alone.
    Sensitivity(Sensitivity),
    /// Many solutions of a task.
    Solutions {
        /// The name of their metric.
        metric: Option<String>,
        /// One for each.
        points: Vec<Solution>,
        /// Those of the same sparsity together.
        #[serde(default)]
        groups: Vec<SparsityGroup>,
    },
}

/// How far a pack's tensors are from the base's.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Closeness {
    /// The pack.
    pub pack: String,
    /// Its tensors.
    pub tensors: Vec<TensorDistance>,
}

/// How far a tensor is from the base's, and a random initialisation beside it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct TensorDistance {
    /// The base's tensor.
    pub tensor: String,
    /// Its layer.
    pub layer: Option<u64>,
    /// What it is in the layer.
    pub module: Option<String>,
    /// Mean absolute difference of a weight.
    pub l1: Option<f64>,
    /// Angle, in radians.
    pub angle: Option<f64>,
    /// That of a random initialisation.
    pub l1_random: Option<f64>,
    /// That of a random initialisation.
    pub angle_random: Option<f64>,
}

/// How far the zeros of packs are the same; matrices are packs x packs.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Overlap {
    /// The packs.
    pub packs: Vec<String>,
    /// The overlap that there is.
    pub observed: Vec<Vec<Option<f64>>>,
    /// The overlap that chance would give.
    pub chance: Vec<Vec<Option<f64>>>,
    /// The same among weights of the same magnitude.
    pub chance_by_magnitude: Option<Vec<Vec<Option<f64>>>>,
}

/// What the metric of a pack loses when what it does to a group of tensors is taken away, or kept alone.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Sensitivity {
    /// The pack.
    pub pack: String,
    /// What makes a group: `layer`, `module` or `both`.
    pub by: Option<String>,
    /// Whether a group was kept alone rather than taken away, as it was where nothing is said.
    pub only: Option<bool>,
    /// The name of the metric.
    pub metric: Option<String>,
    /// The metric of the whole pack.
    pub base: Option<f64>,
    /// The groups.
    pub groups: Vec<Group>,
}

/// A group of tensors.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Group {
    /// Its name.
    pub group: String,
    /// The metric without it, or with it alone.
    pub metric: Option<f64>,
    /// How much less that is.
    pub drop: Option<f64>,
}

/// One solution of a task.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Solution {
    /// The task.
    pub task: String,
    /// The fraction of zeros, 0 to 1.
    pub sparsity: Option<f64>,
    /// The seed.
    pub seed: Option<u64>,
    /// The metric.
    pub metric: Option<f64>,
}

/// Solutions of the same sparsity.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct SparsityGroup {
    /// The task.
    pub task: String,
    /// The fraction of zeros, 0 to 1.
    pub sparsity: Option<f64>,
    /// How many there are.
    pub n: Option<u64>,
    /// The mean of their metric.
    pub mean: Option<f64>,
    /// Its sample standard deviation.
    pub sd: Option<f64>,
    /// The lowest.
    pub min: Option<f64>,
    /// The highest.
    pub max: Option<f64>,
    /// The zeros that two of them share.
    pub overlap: Option<SharedZeros>,
}

/// The share of zeros that two solutions have in common, a mean over pairs.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
pub struct SharedZeros {
    /// What there is.
    pub observed: Option<f64>,
    /// What chance would give.
    pub chance: Option<f64>,
    /// The same among weights of the same magnitude.
    pub chance_by_magnitude: Option<f64>,
}

/// Tasks and methods of which a seed was run with several options or data: means would mix them.
fn mixed(runs: &[Run]) -> Vec<String> {
    let mut seen: BTreeMap<(&str, &str), BTreeMap<Option<u64>, usize>> = BTreeMap::new();
    for run in runs.iter().filter(|run| run.status == Status::Done) {
        *seen.entry((&run.task, &run.method)).or_default().entry(run.seed).or_default() += 1;
    }
    let several = seen.into_iter().filter(|(_, seeds)| seeds.values().any(|count| *count > 1));
    let warning = |((task, method), _): ((&str, &str), _)| {
        format!(
            "{task}, {method}: a seed has several runs, of other options or data, and means mix them; give the method \
             another name, or take out the lines of old runs"
        )
    };
    several.map(warning).collect()
}

/// Reads files of JSON lines. A run that is there more than once counts once: the last one that
/// was done, else the last one.
///
/// # Errors
/// When a file cannot be read, a line is no JSON object or a known kind of line with fields of
/// wrong types, or there is nothing to report.
pub fn read(paths: &[PathBuf]) -> Result<Input, ReportError> {
    let mut input = Input::default();
    let mut places = BTreeMap::new();
    for path in paths {
        let bytes = overmask::fs::read(path).map_err(|source| ReportError::Read { path: path.clone(), source })?;
        let whole = bytes.iter().filter(|&&b| b == b'\n').count();
        for (i, line) in bytes.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty()) {
            let at = |reason: String| ReportError::Line { path: path.clone(), line: i + 1, reason };
            match parse(line) {
                Ok(Parsed::Run(run)) => add(&mut input.runs, &mut places, *run),
                Ok(Parsed::Evaluation(evaluation)) => input.evaluations.push(*evaluation),
                Ok(Parsed::Baseline(baseline)) => input.baselines.push(baseline),
                Ok(Parsed::Analysis(analysis)) => input.analyses.push(analysis),
                Ok(Parsed::Unknown(what)) => input.warnings.push(format!("{}: passed over", at(what))),
                // A sweep that is at work, or was cut off.
                Err(_) if i == whole => {
                    let warning = at("is cut off and was passed over".to_owned());
                    input.warnings.push(warning.to_string());
                }
                Err(reason) => return Err(at(reason)),
            }
        }
    }
    input.warnings.extend(mixed(&input.runs));
    let others = [input.analyses.len(), input.evaluations.len(), input.baselines.len()];
    if input.runs.is_empty() && others.iter().sum::<usize>() == 0 {
        let files: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(ReportError::Empty { files: files.join(", ") });
    }
    Ok(input)
}

fn add(runs: &mut Vec<Run>, places: &mut BTreeMap<String, usize>, run: Run) {
    match places.get(&run.run) {
        None => {
            places.insert(run.run.clone(), runs.len());
            runs.push(run);
        }
        Some(&place) if run.status == Status::Done || runs[place].status == Status::Failed => runs[place] = run,
        Some(_) => {}
    }
}

enum Parsed {
    Run(Box<Run>),
    Evaluation(Box<Evaluation>),
    Baseline(Rival),
    Analysis(Analysis),
    Unknown(String),
}

fn parse(line: &[u8]) -> Result<Parsed, String> {
    let value: Value = serde_json::from_slice(line).map_err(|e| format!("is no JSON: {e}"))?;
    let Some(object) = value.as_object() else { return Err("is no JSON object".to_owned()) };
    if object.contains_key("run") {
        // Of the text rather than the value, so that the error has a column.
        let run: Run = serde_json::from_slice(line).map_err(|e| format!("is no result of a sweep: {e}"))?;
        check_confusion(run.train.as_ref().and_then(|train| train.confusion.as_ref()))?;
        return Ok(Parsed::Run(Box::new(run)));
    }
    if object.contains_key("pack") && object.contains_key("method") {
        return trained(line).map(|run| Parsed::Run(Box::new(run)));
    }
    if object.contains_key("pack") && object.contains_key("engine") && object.contains_key("n") {
        let evaluation: Evaluation =
            serde_json::from_slice(line).map_err(|e| format!("is no result of an evaluation: {e}"))?;
        check_confusion(evaluation.confusion.as_ref())?;
        return Ok(Parsed::Evaluation(Box::new(evaluation)));
    }
    if object.contains_key("baseline") {
        return serde_json::from_slice(line).map(Parsed::Baseline).map_err(|e| format!("is no baseline: {e}"));
    }
    let Some(kind) = object.get("analysis") else {
        let known = "no result of a sweep, of training, of an evaluation or of baselines, and no analysis";
        return Ok(Parsed::Unknown(format!("is {known}")));
    };
    const KINDS: [&str; 4] = ["closeness", "overlap", "sensitivity", "solutions"];
    if !kind.as_str().is_some_and(|kind| KINDS.contains(&kind)) {
        return Ok(Parsed::Unknown(format!("is an analysis of an unknown kind, {kind}")));
    }
    let analysis: Analysis = serde_json::from_slice(line).map_err(|e| format!("is no such analysis: {e}"))?;
    if let Analysis::Overlap(overlap) = &analysis {
        let by_magnitude = overlap.chance_by_magnitude.as_ref().map(|matrix| ("chance_by_magnitude", matrix));
        let matrices = [("observed", &overlap.observed), ("chance", &overlap.chance)].into_iter().chain(by_magnitude);
        for (name, matrix) in matrices {
            check_square(name, matrix, overlap.packs.len())?;
        }
    }
    Ok(Parsed::Analysis(analysis))
}

/// A run by itself: what the training command printed.
fn trained(line: &[u8]) -> Result<Run, String> {
    let wrong = |e: serde_json::Error| format!("is no result of training: {e}");
    let Named { pack, name, method, granularity, seed } = serde_json::from_slice(line).map_err(wrong)?;
    let train: Train = serde_json::from_slice(line).map_err(wrong)?;
    check_confusion(train.confusion.as_ref())?;
    let method = match granularity.filter(|_| method == "mask") {
        Some(granularity) => format!("{method} {granularity}"),
        None => method,
    };
    Ok(Run {
        run: pack,
        task: name,
        method,
        seed,
        status: Status::Done,
        error: None,
        train: Some(train),
        seconds: None,
    })
}

fn check_confusion(confusion: Option<&Confusion>) -> Result<(), String> {
    let check = |of: &Confusion| check_square("confusion: counts", &of.counts, of.labels.len());
    confusion.map_or(Ok(()), check)
}

/// Fails unless a matrix has `n` rows of `n` numbers.
fn check_square(name: &str, matrix: &[Vec<Option<f64>>], n: usize) -> Result<(), String> {
    if matrix.len() == n && matrix.iter().all(|row| row.len() == n) {
        return Ok(());
    }
    Err(format!("{name}: is not {n} rows of {n} numbers"))
}
