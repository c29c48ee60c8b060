//! Whether a text's vectors hang on what is padded behind it. They do where a graph lets padding in: convolutions over
//! neighbours (ConvBERT), neighbours' embeddings side by side (MobileBERT), an attention without the mask. Answers
//! would depend on what else is in a batch, and differ from engine to engine.

use std::path::Path;
use std::sync::Arc;

use overmask::base::Base;
use overmask::engine::{Changes, Device, Engine, EngineError, EngineOptions, TokenBatch};
use overmask::pack::Input;
use overmask::task::Tokenizer;
use overmask_ort::OrtEngine;

use super::Problem;
use crate::import::ImportError;

/// The part of the largest value by which vectors may differ: more than rounding does.
const TOLERANCE: f32 = 1e-3;

/// What is tried, and how many of its tokens at most: a text alone, and beside a longer one.
const TEXT: &str = "What is the name of the longest river there, and who was the first to see it?";
const SHORT: usize = 12;
const LONG: usize = 40;

/// Runs a text alone and beside a longer one. Returns why that was not tried, where ONNX Runtime is not there.
///
/// # Errors
/// When the vectors differ, are not finite, or ONNX Runtime cannot run the graph.
pub(super) fn probe(base: &Base, path: &Path) -> Result<Option<String>, ImportError> {
    let wrong = |reason: String| Problem::new("graph", reason).at(path);
    let base = Arc::new(Base::open(base.dir())?);
    let engine = match OrtEngine::new(Arc::clone(&base), Device::Cpu, &EngineOptions::default().threads(1)) {
        Err(EngineError::Unavailable { reason, .. }) => return Ok(Some(reason)),
        other => other.map_err(|e| wrong(format!("ONNX Runtime cannot run it: {e}")))?,
    };
    let task = engine.add(Changes::masks_alone(&[])).map_err(|e| wrong(format!("ONNX Runtime cannot run it: {e}")))?;
    let (short, long) = texts(&base).map_err(|e| wrong(e.to_string()))?;
    let run = |batch: &TokenBatch| {
        let hidden = engine.encode(task, batch).map_err(|e| wrong(format!("ONNX Runtime cannot run it: {e}")))?;
        Ok::<_, ImportError>(hidden.rows().next().map(<[f32]>::to_vec).unwrap_or_default())
    };
    let (alone, beside) = (run(&short)?, run(&long)?);
    let largest = alone.iter().fold(1f32, |most, v| most.max(v.abs()));
    let apart = alone.iter().zip(&beside).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    if !alone.iter().chain(&beside).all(|v| v.is_finite()) {
        return Err(wrong("what it gives for a text are no finite numbers".to_owned()));
    }
    if apart > TOLERANCE * largest {
        let reason = format!(
            "padding leaks: a text's vectors change by up to {apart:.2e} (of values up to {largest:.2e}) with what is \
             padded behind it, so that answers would depend on what else is in a batch; take an encoder that keeps \
             padding out by attention_mask, or export this one so that it does"
        );
        return Err(wrong(reason));
    }
    Ok(None)
}

/// A text alone, and before a longer one.
pub(super) fn texts(base: &Base) -> Result<(TokenBatch, TokenBatch), overmask::task::TaskError> {
    let tokenizer = Tokenizer::open(base)?;
    let most = base.manifest().architecture.max_positions;
    let short = tokenizer.encode(&Input::from(TEXT), SHORT.min(most))?;
    let long = tokenizer.encode(&Input::from([TEXT; 4].join(" ").as_str()), LONG.min(most))?;
    Ok((tokenizer.batch([&short]), tokenizer.batch([&short, &long])))
}
