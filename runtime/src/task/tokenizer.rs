//! Texts to token numbers, with a base's `tokenizer.json`.

use std::ops::Range;
use std::path::PathBuf;

use tokenizers::{Encoding, PostProcessor, TruncationDirection};

use super::TaskError;
use crate::base::{Base, file};
use crate::engine::TokenBatch;
use crate::fence::Fence;
use crate::fs::JsonBudget;
use crate::pack::Input;

/// The largest `tokenizer.json` that is read.
const MAX_BYTES: u64 = 256 << 20;

/// What reading it may take in memory: half of that is for the half million merges of the largest there are.
const MAX_JSON: u64 = 1 << 30;

/// An input as the encoder reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Token numbers, special ones included.
    pub ids: Vec<u32>,
    /// The segment of each token: 1 for the second text of a pair, where the base tells them apart.
    pub segments: Vec<u32>,
    /// The first token of each word of a list of words; none for a word that has no token or was cut
    /// away.
    pub firsts: Vec<Option<usize>>,
}

impl Tokens {
    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none; what [`Tokenizer::encode`] gives has at least one.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Keeps so many tokens at the start and at the end.
    fn cut(&mut self, start: usize, end: usize) {
        for values in [&mut self.ids, &mut self.segments] {
            let end = values.len() - end;
            values.drain(start..end);
        }
        self.firsts.iter_mut().for_each(|first| *first = first.filter(|token| *token < start));
    }
}

/// A base's tokenizer. Its own settings for cutting and padding are ignored: a pack says where
/// texts are cut, and padding is up to the batch.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// `tokenizers` panics on some files, or on texts with them.
    fence: Fence,
    path: PathBuf,
    pad: u32,
    vocabulary: usize,
}

impl Tokenizer {
    /// Reads the tokenizer of a base.
    ///
    /// # Errors
    /// When the file cannot be read, is not the one that the base's manifest names, or is no tokenizer.
    pub fn open(base: &Base) -> Result<Tokenizer, TaskError> {
        let path = base.tokenizer_path();
        let wrong = |source| TaskError::Tokenizer { path: path.clone(), source };
        let bytes = base.read(file::TOKENIZER, MAX_BYTES)?;
        JsonBudget::new(MAX_JSON).take(&bytes).map_err(|e| wrong(e.into()))?;
        let fence = Fence::new("tokenizers", &path);
        let mut inner =
            fence.run(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(|e| wrong(e.into()))?.map_err(wrong)?;
        let pad = match inner.get_padding() {
            Some(padding) => Some(padding.pad_id),
            None => inner.token_to_id("[PAD]").or_else(|| inner.token_to_id("<pad>")),
        };
        inner.with_padding(None);
        inner.with_truncation(None).map_err(wrong)?;
        let vocabulary = base.manifest().architecture.vocab_size;
        let pad = pad.unwrap_or(0);
        if pad as usize >= vocabulary {
            return Err(wrong(
                format!("the padding token has number {pad}, the base knows {vocabulary} tokens").into(),
            ));
        }
        Ok(Tokenizer { inner, fence, path, pad, vocabulary })
    }

    /// The tokens of an input with the special tokens around it, at most `max_tokens`.
    ///
    /// What is longer is cut at its end, of a pair the longer text first; the special tokens stay.
    ///
    /// # Errors
    /// When the tokenizer fails, or knows tokens that the base does not.
    pub fn encode(&self, input: &Input, max_tokens: usize) -> Result<Tokens, TaskError> {
        let wrong = |source| TaskError::Text { index: 0, source };
        let encoding = self.fence.run(|| match input {
            Input::Text(text) => self.inner.encode_fast(text.as_str(), true),
            Input::Pair(first, second) => self.encode_pair(first, second, max_tokens),
            Input::Words { words } => self.inner.encode(words.iter().map(String::as_str).collect::<Vec<_>>(), true),
        });
        let encoding = encoding.map_err(|e| wrong(e.into()))?.map_err(wrong)?;
        let ids = encoding.get_ids().to_vec();
        let segments = encoding.get_type_ids().to_vec();
        let mut tokens = Tokens { ids, segments, firsts: Vec::new() };
        if let Input::Words { words } = input {
            tokens.firsts = vec![None; words.len()];
            for (token, word) in encoding.get_word_ids().iter().enumerate() {
                if let Some(first) = word.and_then(|word| tokens.firsts.get_mut(word as usize)) {
                    first.get_or_insert(token);
                }
            }
        }
        if tokens.ids.len() > max_tokens {
            let special = encoding.get_special_tokens_mask();
            let tail = special.iter().rev().take_while(|s| **s == 1).count().min(max_tokens);
            tokens.cut(max_tokens - tail, tail);
        }
        if tokens.ids.is_empty() {
            return Err(wrong("has no tokens, not even special ones".into()));
        }
        if let Some(id) = tokens.ids.iter().find(|id| **id as usize >= self.vocabulary) {
            let reason = format!("makes token {id}, the base knows {} tokens", self.vocabulary);
            return Err(TaskError::Tokenizer { path: self.path.clone(), source: reason.into() });
        }
        Ok(tokens)
    }

    /// Two texts with the special tokens around and between them.
    fn encode_pair(&self, first: &str, second: &str, max_tokens: usize) -> tokenizers::Result<Encoding> {
        let mut first = self.inner.encode_fast(first, false)?;
        let mut second = self.inner.encode_fast(second, false)?;
        let special = self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        let room = max_tokens.saturating_sub(special);
        if first.len() + second.len() > room {
            // The shorter one keeps up to half.
            let short = first.len().min(second.len()).min(room / 2);
            let lengths = if first.len() < second.len() { [short, room - short] } else { [room - short, short] };
            first.truncate(lengths[0], 0, TruncationDirection::Right);
            second.truncate(lengths[1], 0, TruncationDirection::Right);
            // What was cut off is kept in pieces, and joining two encodings joins every piece of one
            // with every piece of the other.
            drop((first.take_overflowing(), second.take_overflowing()));
        }
        self.inner.post_process(first, Some(second), true)
    }

    /// The words of a text, as ranges of its bytes without white space around: what the tokenizer never
    /// joins to one token, for BERT runs of letters and single punctuation marks.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn words(&self, text: &str) -> Result<Vec<Range<usize>>, TaskError> {
        let wrong = |source| TaskError::Text { index: 0, source };
        let encoding =
            self.fence.run(|| self.inner.encode(text, false)).map_err(|e| wrong(e.into()))?.map_err(wrong)?;
        let mut words: Vec<(u32, Range<usize>)> = Vec::new();
        for (word, (start, end)) in encoding.get_word_ids().iter().zip(encoding.get_offsets()) {
            let Some(word) = *word else { continue };
            match words.last_mut() {
                Some((last, range)) if *last == word => range.end = *end,
                _ => words.push((word, *start..*end)),
            }
        }
        // Some tokenizers count the space before a word as its own.
        let trimmed = |(_, range): (u32, Range<usize>)| {
            let word = text.get(range.clone())?;
            let start = range.start + (word.len() - word.trim_start().len());
            Some(start..start + word.trim().len()).filter(|range| !range.is_empty())
        };
        Ok(words.into_iter().filter_map(trimmed).collect())
    }

    /// Inputs as one batch.
    pub fn batch<'t>(&self, inputs: impl IntoIterator<Item = &'t Tokens>) -> TokenBatch {
        let mut batch = TokenBatch::new(self.pad);
        inputs.into_iter().for_each(|tokens| batch.push(&tokens.ids, &tokens.segments));
        batch
    }
}
