//! A task: what its pack says of it, without masks.

use super::{TaskError, Tokens, head};
use crate::pack::{Golden, Head, PackDocument, TaskKind, TextSettings};

/// The head's output for an input: a row, or one for each word that has a token.
pub type Rows = Vec<Option<Vec<f32>>>;

/// A task of a [`Runner`](super::Runner): what its pack says, and its head.
#[derive(Debug)]
pub struct Task {
    name: String,
    kind: TaskKind,
    labels: Vec<String>,
    text: TextSettings,
    head: Head,
    golden: Vec<Golden>,
}

impl Task {
    pub(super) fn new(document: PackDocument, head: Head, golden: Vec<Golden>) -> Task {
        let PackDocument { name, kind, labels, text, .. } = document;
        Task { name, kind, labels, text, head, golden }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it computes.
    pub fn kind(&self) -> TaskKind {
        self.kind
    }

    /// What it reads.
    pub fn text(&self) -> &TextSettings {
        &self.text
    }

    /// Its labels, in the order of logits and scores.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Inputs with the logits that they had when the pack was made.
    pub(super) fn golden(&self) -> &[Golden] {
        &self.golden
    }

    /// The head's output for each vector that it sees of an input.
    pub(super) fn logits(&self, vectors: &[f32], width: usize, tokens: &Tokens) -> Result<Rows, TaskError> {
        let pooled = head::pool(vectors, width, tokens, self.text.pooling);
        let rows: Rows = pooled.into_iter().map(|vector| vector.map(|v| head::logits(&self.head, &v))).collect();
        match rows.iter().flatten().flatten().all(|logit| logit.is_finite()) {
            true => Ok(rows),
            false => Err(TaskError::NotFinite),
        }
    }
}
