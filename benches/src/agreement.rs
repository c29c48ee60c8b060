//! How far a task's answers on a bf16 and an int8 base are from those on the f32 base, and how far those of ONNX
//! Runtime's int8 are with the very same weights and head.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use overmask::base::{Base, Precision};
use overmask::engine::{Engine, native::NativeEngine};
use overmask::pack::Input;
use overmask::task::{Answer, Prediction, Runner, Tokenizer};
use serde_json::Value;

use crate::contenders::{OnnxRuntime, options};
use crate::rows::Rows;

/// A task: a pack, the texts that it is judged on, and a plain ONNX model of it in ONNX Runtime's int8.
pub(crate) struct Task {
    pub(crate) pack: PathBuf,
    pub(crate) texts: PathBuf,
    pub(crate) int8: PathBuf,
}

/// Texts at most.
const TEXTS: usize = 1000;

/// Tokens of a text at most.
const TOKENS: usize = 128;

/// Adds the rows of a task; the first of the bases is f32.
pub(crate) fn measure(bases: &[Arc<Base>], task: &Task, rows: &mut Rows) -> Result<()> {
    let name = task.pack.file_stem().unwrap_or_default().display().to_string();
    let inputs = read(&task.texts)?;
    let all = bases.iter().map(|base| predictions(base, &task.pack, &inputs)).collect::<Result<Vec<_>>>()?;
    let (expected, variants) = all.split_first().context("no base")?;
    let theirs = of_onnx_runtime(&bases[0], &task.int8, &inputs, expected)?;
    for (base, found) in bases.iter().skip(1).zip(variants) {
        let of = format!("{name}, {} texts, {}", inputs.len(), base.precision());
        let same = found.iter().zip(expected).filter(|(a, b)| a.label == b.label).count();
        let reach = if base.precision() == Precision::Int8 { ">= 98.5" } else { ">= 99.5" };
        rows.add(format!("{of}: labels as f32"), "%", 100.0 * same as f64 / expected.len() as f64, None, reach);
        let error = error(found.iter().map(|found| &found.logits[..]), expected)?;
        let peer = theirs.filter(|_| base.precision() == Precision::Int8);
        let reach = if peer.is_some() { "< 1.0" } else { "" };
        rows.add(format!("{of}: error of a logit, against ONNX Runtime int8"), "", error, peer, reach);
    }
    Ok(())
}

/// The first inputs of a JSONL file.
fn read(path: &Path) -> Result<Vec<Input>> {
    let lines = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let input = |line: &str| -> Result<Input> {
        let value: Value = serde_json::from_str(line)?;
        let text = |field: &str| value[field].as_str().map(str::to_owned);
        let words = value["tokens"].as_array().map(|words| words.iter().filter_map(Value::as_str).map(str::to_owned));
        Ok(match (text("text"), text("text_pair"), words) {
            (Some(first), Some(second), _) => Input::Pair(first, second),
            (Some(text), None, _) => Input::Text(text),
            (None, _, Some(words)) => Input::Words { words: words.collect() },
            _ => bail!("{}: a line without a text", path.display()),
        })
    };
    lines.lines().take(TEXTS).map(input).collect()
}

/// A prediction for each text, or for each word that has one.
fn predictions(base: &Arc<Base>, pack: &Path, inputs: &[Input]) -> Result<Vec<Prediction>> {
    let engine: Arc<dyn Engine> = Arc::new(NativeEngine::new(Arc::clone(base), &options(1)?)?);
    let runner = Runner::new(engine, Arc::clone(base))?;
    let task = runner.add(pack)?;
    let requests: Vec<(Input, [_; 1])> = inputs.iter().map(|input| (input.clone(), [task])).collect();
    let mut found = Vec::new();
    for answer in runner.run(&requests)?.into_iter().flatten() {
        match answer {
            Answer::Label(prediction) => found.push(prediction),
            Answer::Tags { tags, .. } => found.extend(tags.into_iter().flatten()),
            _ => bail!("{}: not a task whose answers are labels", pack.display()),
        }
    }
    Ok(found)
}

/// The error of ONNX Runtime's int8, for tasks with an answer a text.
fn of_onnx_runtime(base: &Base, model: &Path, inputs: &[Input], expected: &[Prediction]) -> Result<Option<f64>> {
    if inputs.iter().any(|input| matches!(input, Input::Words { .. })) {
        return Ok(None);
    }
    let (mut session, tokenizer) = (OnnxRuntime::open(model, 1)?, Tokenizer::open(base)?);
    let logits = |input: &Input| -> Result<Vec<f32>> {
        let encoding = tokenizer.encode(input, TOKENS)?;
        session.output(&tokenizer.batch([&encoding]).into())
    };
    let all = inputs.iter().map(logits).collect::<Result<Vec<_>>>()?;
    error(all.iter().map(Vec::as_slice), expected).map(Some)
}

/// The mean absolute difference of a logit.
fn error<'a>(found: impl Iterator<Item = &'a [f32]>, expected: &[Prediction]) -> Result<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for (found, expected) in found.zip(expected) {
        ensure!(found.len() == expected.logits.len(), "logits of another task");
        sum += found.iter().zip(&expected.logits).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>();
        count += found.len();
    }
    Ok(sum / f64::from(u32::try_from(count)?))
}
