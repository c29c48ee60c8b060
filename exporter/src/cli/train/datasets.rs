//! The data files of a run.

use std::path::{Path, PathBuf};

use anyhow::Error;
use overmask_cli::CodedError;

use super::Measure;
use crate::cli::data::DataArgs;
use crate::cli::output;
use crate::data::{self, Dataset, Form};

/// What a run learns from, chooses by and is measured on.
pub(in crate::cli) struct Datasets {
    pub(in crate::cli) train: Dataset,
    pub(in crate::cli) dev: Option<Dataset>,
    pub(in crate::cli) eval: Option<Dataset>,
}

impl Datasets {
    /// Reads them, and warns of texts that are in two of them.
    pub(in crate::cli) fn read(
        data: &Path,
        measure: &Measure,
        files: &DataArgs,
        form: Form,
        seed: u64,
    ) -> Result<Self, Error> {
        let read = |path: &PathBuf| files.read(path, form);
        let all = files.read_soft(data, form)?;
        let repetitions = data::repetitions(&all).len();
        if repetitions > 0 {
            log::warn!(
                "{repetitions} of {} texts of {} repeat an earlier one: a split may put one on \
                 each side, and figures on it flatter",
                all.len(),
                data.display(),
            );
        }
        let (train, eval) = match (&measure.eval_data, measure.eval_fraction) {
            (Some(path), _) => (all, Some(read(path)?)),
            (None, Some(fraction)) => {
                let (rest, held) = data::split(&all, fraction, seed);
                if held.is_empty() || rest.is_empty() {
                    let message = format!(
                        "{}: --eval-fraction {fraction} of {} texts leaves {} to learn from and {} \
                         to measure on",
                        data.display(),
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
        let train = match measure.examples {
            Some(n) if n < train.len() as u64 => data::sample(&train, n as usize, seed),
            Some(n) if n > train.len() as u64 => {
                let message = format!("{}: --examples {n}, but there are {}", data.display(), train.len());
                return Err(CodedError::input(message).into());
            }
            _ => train,
        };
        if let Some(eval) = &eval {
            let pairs = data::duplicates(&train, eval);
            output::warn_of_duplicates(&pairs, &train.path, eval);
        }
        let dev = measure.dev_data.as_ref().map(read).transpose()?;
        if let (Some(dev), Some(eval)) = (&dev, &eval) {
            output::warn_of_duplicates(&data::duplicates(dev, eval), &dev.path, eval);
        }
        Ok(Datasets { train, dev, eval })
    }
}
