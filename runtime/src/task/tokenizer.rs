//! Texts to token numbers, with a base's `tokenizer.json`.

use std::path::PathBuf;

use super::TaskError;
use crate::base::Base;
use crate::engine::TokenBatch;

/// The largest `tokenizer.json` that is read.
const MAX_BYTES: u64 = 256 << 20;

/// A base's tokenizer. Its own settings for cutting and padding are ignored: a pack says where
/// texts are cut, and padding is up to the batch.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    pad: i64,
    vocabulary: usize,
}

impl Tokenizer {
    /// Reads the tokenizer of a base.
    ///
    /// # Errors
    /// When the file cannot be read or is no tokenizer.
    pub fn open(base: &Base) -> Result<Tokenizer, TaskError> {
        let path = base.tokenizer_path();
        let wrong = |reason: String| TaskError::Tokenizer { path: path.clone(), reason };
        let bytes = crate::fs::read_at_most(&path, MAX_BYTES)
            .map_err(|e| wrong(e.to_string()))?
            .ok_or_else(|| wrong(format!("has more than {} MiB, more than any tokenizer", MAX_BYTES >> 20)))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| wrong(e.to_string()))?;
        let pad = match inner.get_padding() {
            Some(padding) => Some(padding.pad_id),
            None => inner.token_to_id("[PAD]").or_else(|| inner.token_to_id("<pad>")),
        };
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| wrong(e.to_string()))?;
        let vocabulary = base.manifest().architecture.vocab_size;
        let pad = pad.map_or(0, i64::from);
        if pad >= vocabulary as i64 {
            return Err(wrong(format!("the padding token has number {pad}, the base knows {vocabulary} tokens")));
        }
        Ok(Tokenizer { inner, path, pad, vocabulary })
    }

    /// The token numbers of a text with the special tokens around it, at most `max_tokens`.
    ///
    /// A longer text is cut at its end; the special tokens stay.
    ///
    /// # Errors
    /// When the tokenizer fails, or knows tokens that the base does not.
    pub fn encode(&self, text: &str, max_tokens: usize) -> Result<Vec<i64>, TaskError> {
        self.encode_nth(0, text, max_tokens)
    }

    /// [`Tokenizer::encode`] for several texts.
    ///
    /// # Errors
    /// As for one text; the error says which.
    pub fn encode_batch(&self, texts: &[&str], max_tokens: usize) -> Result<Vec<Vec<i64>>, TaskError> {
        texts.iter().enumerate().map(|(index, text)| self.encode_nth(index, text, max_tokens)).collect()
    }

    fn encode_nth(&self, index: usize, text: &str, max_tokens: usize) -> Result<Vec<i64>, TaskError> {
        let wrong = |reason: String| TaskError::Text { index, reason };
        let encoding = self.inner.encode_fast(text, true).map_err(|e| wrong(e.to_string()))?;
        let mut ids: Vec<i64> = encoding.get_ids().iter().map(|id| i64::from(*id)).collect();
        if ids.len() > max_tokens {
            let special = encoding.get_special_tokens_mask();
            let tail = special.iter().rev().take_while(|s| **s == 1).count().min(max_tokens);
            let tail_start = ids.len() - tail;
            ids.drain(max_tokens - tail..tail_start);
        }
        if ids.is_empty() {
            return Err(wrong("has no tokens, not even special ones".to_owned()));
        }
        if let Some(id) = ids.iter().find(|id| **id >= self.vocabulary as i64) {
            let reason = format!("makes token {id}, the base knows {} tokens", self.vocabulary);
            return Err(TaskError::Tokenizer { path: self.path.clone(), reason });
        }
        Ok(ids)
    }

    /// Texts as one batch, padded to the longest.
    pub fn pad(&self, texts: &[&[i64]]) -> TokenBatch {
        let sequence = texts.iter().map(|t| t.len()).max().unwrap_or(0);
        let size = texts.len() * sequence;
        let mut input_ids = Vec::with_capacity(size);
        let mut attention_mask = Vec::with_capacity(size);
        for ids in texts {
            let padding = sequence - ids.len();
            input_ids.extend_from_slice(ids);
            input_ids.extend(std::iter::repeat_n(self.pad, padding));
            attention_mask.extend(std::iter::repeat_n(1, ids.len()));
            attention_mask.extend(std::iter::repeat_n(0, padding));
        }
        TokenBatch { batch: texts.len(), sequence, input_ids, attention_mask, token_type_ids: vec![0; size] }
    }
}
