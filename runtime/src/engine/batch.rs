//! What goes into an encoder and what comes out.

use super::EngineError;
use crate::base::Base;

/// Tokens of several texts, padded to one length; all fields are [batch, sequence], row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    /// Number of texts.
    pub batch: usize,
    /// Tokens a text, padding included.
    pub sequence: usize,
    /// Token numbers.
    pub input_ids: Vec<i64>,
    /// 1 for a token, 0 for padding.
    pub attention_mask: Vec<i64>,
    /// Segment numbers; 0 for single texts, 1 for the second text of a pair.
    pub token_type_ids: Vec<i64>,
}

impl TokenBatch {
    /// The field that an encoder's input of this name takes.
    pub fn input(&self, name: &str) -> Option<&Vec<i64>> {
        match name {
            "input_ids" => Some(&self.input_ids),
            "attention_mask" => Some(&self.attention_mask),
            "token_type_ids" => Some(&self.token_type_ids),
            _ => None,
        }
    }

    /// The tokens of one text up to the last one that is not padding.
    ///
    /// # Panics
    /// When there is no such row, or the fields do not have batch · sequence values.
    pub fn row_length(&self, row: usize) -> usize {
        let mask = &self.attention_mask[row * self.sequence..(row + 1) * self.sequence];
        mask.iter().rposition(|m| *m != 0).map_or(0, |last| last + 1)
    }

    /// Checks lengths and token numbers, which an engine would index with; every engine does so
    /// before it runs a batch.
    ///
    /// # Errors
    /// [`EngineError::Batch`].
    pub fn check(&self, base: &Base) -> Result<(), EngineError> {
        let wrong = |reason: String| Err(EngineError::Batch(reason));
        let tokens = self.batch.checked_mul(self.sequence);
        let lengths = [self.input_ids.len(), self.attention_mask.len(), self.token_type_ids.len()];
        if tokens.is_none_or(|n| n == 0 || lengths != [n; 3]) {
            return wrong(format!("{lengths:?} values for a batch of {} by {} tokens", self.batch, self.sequence));
        }
        let architecture = &base.manifest().architecture;
        if self.sequence > architecture.max_positions {
            return wrong(format!("{} in a text, the base takes {}", self.sequence, architecture.max_positions));
        }
        if let Some(id) = self.input_ids.iter().find(|id| !(0..architecture.vocab_size as i64).contains(*id)) {
            return wrong(format!("number {id}, the base knows 0 to {}", architecture.vocab_size - 1));
        }
        if let Some(m) = self.attention_mask.iter().find(|m| !matches!(m, 0 | 1)) {
            return wrong(format!("attention mask {m}, must be 0 or 1"));
        }
        if let Some(segments) = base.segments()
            && let Some(segment) = self.token_type_ids.iter().find(|t| !(0..segments as i64).contains(*t))
        {
            return wrong(format!("segment number {segment}, the base knows 0 to {}", segments - 1));
        }
        if let Some(row) = (0..self.batch).find(|row| self.row_length(*row) == 0) {
            return wrong(format!("text {row} has none"));
        }
        Ok(())
    }
}

/// The encoder's last hidden state, [batch, sequence, hidden], row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Hidden {
    /// Number of texts.
    pub batch: usize,
    /// Tokens a text, padding included.
    pub sequence: usize,
    /// Width.
    pub hidden: usize,
    /// The values.
    pub data: Vec<f32>,
}
