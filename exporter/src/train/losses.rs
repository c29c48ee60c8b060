//! The log of losses that a run may write, one JSON object a step.

use std::fs::File;
use std::io::{ErrorKind, LineWriter, Write};
use std::path::{Path, PathBuf};

use super::TrainError;

/// A log that is being written, or none.
///
/// Each line is written at once: a run may be killed.
pub(super) struct Losses(Option<(PathBuf, LineWriter<File>)>);

impl Losses {
    /// Starts a log; one of a run that goes on keeps the lines of the steps that were done.
    pub(super) fn open(path: Option<&Path>, done: u64) -> Result<Self, TrainError> {
        let Some(path) = path else { return Ok(Losses(None)) };
        let failed = |source| TrainError::Write { path: path.to_owned(), source };
        let read = (done > 0).then(|| overmask::fs::read_to_string(path));
        let before = match read {
            None => String::new(),
            Some(Err(error)) if error.kind() == ErrorKind::NotFound => String::new(),
            Some(read) => read.map_err(|source| TrainError::Read { path: path.to_owned(), source })?,
        };
        let mut file = LineWriter::new(File::create(path).map_err(failed)?);
        // A run that was killed may have been in the middle of a line.
        let step = |line: &&str| serde_json::from_str::<serde_json::Value>(line).ok()?["step"].as_u64();
        for line in before.lines().filter(|line| step(line).is_some_and(|step| step <= done)) {
            writeln!(file, "{line}").map_err(failed)?;
        }
        Ok(Losses(Some((path.to_owned(), file))))
    }

    pub(super) fn write(&mut self, step: u64, loss: f32, norm: f32) -> Result<(), TrainError> {
        let Some((path, file)) = &mut self.0 else { return Ok(()) };
        writeln!(file, r#"{{"step":{step},"gradient_norm":{norm},"loss":{loss}}}"#)
            .map_err(|source| TrainError::Write { path: path.clone(), source })
    }

    pub(super) fn finish(self) -> Result<(), TrainError> {
        let Some((path, mut file)) = self.0 else { return Ok(()) };
        file.flush().map_err(|source| TrainError::Write { path, source })
    }
}
