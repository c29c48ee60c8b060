//! Measures a pack: the runtime classifies the texts, as a device would, and the answers are
//! compared with the labels.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use overmask::base::{Base, BaseError};
use overmask::engine::{self, EngineError, EngineKind, EngineOptions};
use overmask::error::ExitCode;
use overmask::pack::{Pack, PackError};
use overmask::task::{Runner, TaskError};
use serde::Serialize;

use crate::data::{DataError, Dataset, LabelSet};
use crate::metrics;

/// Texts between two reports of progress.
const CHUNK: usize = 256;

/// What can go wrong when a pack is measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// The texts or their labels.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The base.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The pack.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Pack and base do not fit, or the texts cannot be classified.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The predictions cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl EvaluateError {
    /// The program's exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Data(e) => e.exit_code(),
            Self::Base(e) => e.exit_code(),
            Self::Pack(e) => e.exit_code(),
            Self::Engine(e) => e.exit_code(),
            Self::Task(e) => e.exit_code(),
            Self::Write { .. } => ExitCode::DeviceOrStore,
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The share of texts with the right label, 0 to 1.
    pub accuracy: f64,
    /// The mean of the labels' F1 scores, 0 to 1.
    pub macro_f1: f64,
    /// How many texts there were.
    pub n: usize,
    /// The engine that computed it.
    pub engine: String,
    /// Its precision.
    pub precision: String,
    /// The predicted label of every text, in the texts' order.
    #[serde(skip)]
    pub predicted: Vec<String>,
}

/// Measures the pack on the texts.
///
/// `progress` is told how many texts are done.
///
/// # Errors
/// When a label is not one of the pack's, the pack is not for this base, or the engine cannot
/// start or fails.
pub fn evaluate(
    base: &Arc<Base>,
    pack: Pack,
    dataset: &Dataset,
    kind: EngineKind,
    options: &EngineOptions,
    progress: &mut dyn FnMut(usize),
) -> Result<Report, EvaluateError> {
    let labels = LabelSet::new(pack.document.labels.clone());
    let gold = labels.targets(dataset)?;
    let engine = engine::start(kind, Arc::clone(base), options)?;
    let info = engine.describe();
    let mut runner = Runner::new(engine, Arc::clone(base))?;
    let task = runner.add_pack(pack)?;
    let mut predicted = Vec::with_capacity(dataset.len());
    let mut names = Vec::with_capacity(dataset.len());
    for chunk in dataset.texts().chunks(CHUNK) {
        for prediction in runner.classify(task, chunk)? {
            predicted.push(prediction.index);
            names.push(prediction.label);
        }
        progress(predicted.len());
    }
    Ok(Report {
        accuracy: metrics::accuracy(&gold, &predicted),
        macro_f1: metrics::macro_f1(&gold, &predicted, labels.len()),
        n: dataset.len(),
        engine: info.engine,
        precision: info.precision,
        predicted: names,
    })
}

/// Writes the predictions, one JSON object a line: `text`, `label`, `predicted`.
///
/// # Errors
/// When the file cannot be written; nothing half-written is left.
pub fn write_predictions(path: &Path, dataset: &Dataset, report: &Report) -> Result<(), EvaluateError> {
    #[derive(Serialize)]
    struct Row<'a> {
        text: &'a str,
        label: &'a str,
        predicted: &'a str,
    }
    let written = overmask::fs::write_atomically(path, |file| -> std::io::Result<()> {
        let mut out = std::io::BufWriter::new(file);
        for (example, predicted) in dataset.examples.iter().zip(&report.predicted) {
            let row = Row { text: &example.text, label: &example.label, predicted };
            serde_json::to_writer(&mut out, &row)?;
            std::io::Write::write_all(&mut out, b"\n")?;
        }
        std::io::Write::flush(&mut out)
    });
    written.map_err(|source| EvaluateError::Write { path: path.to_owned(), source })
}
