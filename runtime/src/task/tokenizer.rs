//! Texts to token numbers, with a base's `tokenizer.json`.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Instant;

use sha2::{Digest, Sha256};
use tokenizers::{Encoding, PaddingParams, PostProcessor, TruncationDirection, TruncationParams};

use super::TaskError;
use super::model::{Model, Whole};
use super::unigram::Unigram;
use crate::base::{Base, file};
use crate::derived::{self, Derived, DerivedFile, Directory, Kept};
use crate::engine::TokenBatch;
use crate::fence::Fence;
use crate::fs::JsonBudget;
use crate::pack::Input;

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
    /// How many more there were, which were cut away.
    pub dropped: usize,
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
        self.dropped += self.len() - start - end;
        for values in [&mut self.ids, &mut self.segments] {
            let end = values.len() - end;
            values.drain(start..end);
        }
        self.firsts.iter_mut().for_each(|first| *first = first.filter(|token| *token < start));
    }
}

/// A base's tokenizer. Its own settings for cutting and padding are ignored: a pack says where
/// texts are cut, and padding is up to the batch.
///
/// The library `tokenizers` makes the tokens, but those of Unigram models (XLM-R, multilingual E5): their pieces, which
/// it takes long to read, are kept as they are used, and are the same tokens.
pub struct Tokenizer {
    inner: Whole,
    /// `tokenizers` panics on some files, or on texts with them.
    fence: Fence,
    path: PathBuf,
    pad: u32,
    vocabulary: usize,
    /// Whether a word's tokens begin with the space before it, which a word that is given has not.
    spaced: bool,
}

impl Tokenizer {
    /// Bytes of the largest `tokenizer.json` that is read.
    pub const MAX_BYTES: u64 = 256 << 20;

    /// Reads the tokenizer of a base.
    ///
    /// # Errors
    /// When the file cannot be read, is not the one that the base's manifest names, or is no tokenizer.
    pub fn open(base: &Base) -> Result<Tokenizer, TaskError> {
        Tokenizer::open_in(base, None)
    }

    /// The same with a directory of derived files, in which a large vocabulary is kept as it is used: from then on
    /// `tokenizer.json` is not read.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn open_in(base: &Base, directory: Option<&Directory>) -> Result<Tokenizer, TaskError> {
        let path = base.tokenizer_path();
        let wrong = |source| TaskError::Tokenizer { path: path.clone(), source };
        let fence = Fence::new("tokenizers", &path);
        let mut inner = read(base, directory, &fence)?;
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
        // One that fails at the letter knows no bytes, and so no spaces.
        let spaced = fence.run(|| begins_words_with_spaces(&inner)).map_err(|e| wrong(e.into()))?.unwrap_or(false);
        Ok(Tokenizer { inner, fence, path, pad, vocabulary, spaced })
    }

    /// Compares what a directory keeps of a base's tokenizer, if anything, with what the base gives now; none where
    /// nothing is ever kept of it.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn kept(base: &Base, directory: Option<&Directory>) -> Result<Option<Kept>, TaskError> {
        let start = Instant::now();
        let Some(words) = Unigram::words(&json(base)?) else { return Ok(None) };
        let file = directory.and_then(|directory| derived_file(base, directory));
        Ok(Some(Kept::compare(file, &words, start.elapsed())))
    }

    /// The same; returns whether there was anything to compare.
    ///
    /// # Errors
    /// The same; when it is something else, and then the file is removed.
    pub fn verify(base: &Base, directory: &Directory) -> Result<bool, TaskError> {
        let Some(file) = derived_file(base, directory) else { return Ok(false) };
        let Some(held) = file.find_of(Unigram::is_whole) else { return Ok(false) };
        let made = Unigram::words(&json(base)?).unwrap_or_default();
        file.verify(&held, &made)?;
        Ok(true)
    }

    /// The name of the derived file of a base's tokenizer, if it has one.
    pub fn derived_name(base: &Base) -> Option<String> {
        Some(derived::name(DERIVED, &key(base)?))
    }

    /// Checks that the base knows every token and every segment that the tokenizer can make of a text: a base
    /// that is imported must run whatever it is given.
    ///
    /// # Errors
    /// With the number that the tokenizer makes and how many the base knows.
    pub fn check(&self, base: &Base) -> Result<(), TaskError> {
        let largest = self.inner.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        if let Some((token, id)) = largest.filter(|(_, id)| *id as usize >= self.vocabulary) {
            let known = self.vocabulary;
            let reason = format!("has token {id}, `{token}`, but the base's table of tokens ends at {}", known - 1);
            return Err(TaskError::Tokenizer { path: self.path.clone(), source: reason.into() });
        }
        let tokens = self.encode(&Input::from("a"), base.manifest().architecture.max_positions)?;
        Ok(self.batch([&tokens]).check(base)?)
    }

    /// The tokens of an input with the special tokens around it, at most `max_tokens`.
    ///
    /// What is longer is cut at its end, of a pair the longer text first; the special tokens stay. Words have the
    /// tokens that they have in a text with a space between them.
    ///
    /// # Errors
    /// When the tokenizer fails, or knows tokens that the base does not.
    pub fn encode(&self, input: &Input, max_tokens: usize) -> Result<Tokens, TaskError> {
        let wrong = |source| TaskError::Text { index: 0, source };
        let whole = |encoding: Encoding| (encoding, 0);
        let encoding = self.fence.run(|| match input {
            Input::Text(text) => self.inner.encode_fast(text.as_str(), true).map(whole),
            Input::Pair(first, second) => self.encode_pair(first, second, max_tokens),
            Input::Words { words } => self.inner.encode(self.within_text(words), true).map(whole),
        });
        let (encoding, dropped) = encoding.map_err(|e| wrong(e.into()))?.map_err(wrong)?;
        let ids = encoding.get_ids().to_vec();
        let segments = encoding.get_type_ids().to_vec();
        let mut tokens = Tokens { ids, segments, firsts: Vec::new(), dropped };
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

    /// Two texts with the special tokens around and between them, and how many tokens were cut away.
    fn encode_pair(&self, first: &str, second: &str, max_tokens: usize) -> tokenizers::Result<(Encoding, usize)> {
        let mut first = self.inner.encode_fast(first, false)?;
        let mut second = self.inner.encode_fast(second, false)?;
        let special = self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        let room = max_tokens.saturating_sub(special);
        let dropped = (first.len() + second.len()).saturating_sub(room);
        if dropped > 0 {
            // The shorter one keeps up to half.
            let short = first.len().min(second.len()).min(room / 2);
            let lengths = if first.len() < second.len() { [short, room - short] } else { [room - short, short] };
            first.truncate(lengths[0], 0, TruncationDirection::Right);
            second.truncate(lengths[1], 0, TruncationDirection::Right);
            // What was cut off is kept in pieces, and joining two encodings joins every piece of one
            // with every piece of the other.
            drop((first.take_overflowing(), second.take_overflowing()));
        }
        Ok((self.inner.post_process(first, Some(second), true)?, dropped))
    }

    /// Words as the tokenizer must see them to know that there is a space before them.
    fn within_text<'w>(&self, words: &'w [String]) -> Vec<Cow<'w, str>> {
        let word = |(place, word): (usize, &'w String)| match self.spaced && place > 0 && !word.is_empty() {
            true => Cow::Owned(format!(" {word}")),
            false => Cow::Borrowed(word.as_str()),
        };
        words.iter().enumerate().map(word).collect()
    }

    /// The tokenizer's file for programs that know no packs: it cuts inputs as [`encode`](Self::encode) does, and
    /// pads those of a batch to the longest.
    ///
    /// # Errors
    /// When so few tokens have no room for the special ones, or the tokenizer cannot be written.
    pub fn to_json(&self, max_tokens: usize) -> Result<String, TaskError> {
        let wrong = |source| TaskError::Tokenizer { path: self.path.clone(), source };
        let special = self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        if max_tokens < special {
            return Err(wrong(
                format!("puts {special} tokens around a text, more than the task's {max_tokens}").into(),
            ));
        }
        let mut inner = self.inner.clone();
        let pad_token = inner.id_to_token(self.pad).unwrap_or_default();
        // Without a choice the strategies are these: the longer text is cut first, the longest is padded to.
        inner.with_padding(Some(PaddingParams { pad_id: self.pad, pad_token, ..Default::default() }));
        inner
            .with_truncation(Some(TruncationParams { max_length: max_tokens, ..Default::default() }))
            .and_then(|inner| inner.to_string(true))
            .map_err(wrong)
    }

    /// Inputs as one batch.
    pub fn batch<'t>(&self, inputs: impl IntoIterator<Item = &'t Tokens>) -> TokenBatch {
        let mut batch = TokenBatch::new(self.pad);
        inputs.into_iter().for_each(|tokens| batch.push(&tokens.ids, &tokens.segments));
        batch
    }
}

/// Reads a tokenizer: its derived file if there is one, which is made if it can be, else its `tokenizer.json`.
fn read(base: &Base, directory: Option<&Directory>, fence: &Fence) -> Result<Whole, TaskError> {
    let path = base.tokenizer_path();
    let ours = |words: Derived<u32>| -> Option<Whole> {
        let failed = |error: &dyn std::fmt::Display| log::debug!("{}: {error}", path.display());
        let whole = fence.run(|| Unigram::new(words).map(Model::whole)).inspect_err(|error| failed(error)).ok()??;
        whole.inspect_err(|error| failed(error)).ok()
    };
    let file = directory.and_then(|directory| derived_file(base, directory));
    if let Some(whole) = file.as_ref().and_then(|file| file.find_of(Unigram::is_whole)).and_then(ours) {
        return Ok(whole);
    }
    let bytes = json(base)?;
    let made = Unigram::words(&bytes).and_then(|words| match &file {
        Some(file) => ours(file.make(words)),
        None => ours(Derived::Memory(words)),
    });
    if let Some(whole) = made {
        return Ok(whole);
    }
    log::debug!("{}: the library `tokenizers` reads it by itself, at each start", path.display());
    let wrong = |source| TaskError::Tokenizer { path: path.clone(), source };
    fence.run(|| Whole::from_bytes(bytes)).map_err(|e| wrong(e.into()))?.map_err(wrong)
}

/// The bytes of a base's `tokenizer.json`, if they are not too many to be parsed.
fn json(base: &Base) -> Result<Vec<u8>, TaskError> {
    let bytes = base.read(file::TOKENIZER, Tokenizer::MAX_BYTES)?;
    let wrong = |source| TaskError::Tokenizer { path: base.tokenizer_path(), source };
    JsonBudget::new(MAX_JSON).take(&bytes).map_err(|error| wrong(error.into()))?;
    Ok(bytes)
}

/// What the derived file is of, and which layout it has.
const DERIVED: &str = "tokenizer1";

/// The derived file of a base's tokenizer in a directory. Where no digest says what `tokenizer.json` is there is none.
fn derived_file(base: &Base, directory: &Directory) -> Option<DerivedFile> {
    Some(DerivedFile::new(directory, DERIVED, key(base)?))
}

/// What names what is made of a base's tokenizer, whichever other base has the same.
fn key(base: &Base) -> Option<[u8; 32]> {
    base.manifest().digests.get(file::TOKENIZER).map(|digest| Sha256::digest(digest).into())
}

/// Whether a word within a text has other tokens than the word alone, and the same with a space before it: so do
/// byte-level tokenizers (Radford et al. 2019), unless they put a space before every text.
fn begins_words_with_spaces(tokenizer: &Whole) -> tokenizers::Result<bool> {
    let text = tokenizer.encode_fast("a a", false)?;
    let [alone, spaced] = [["a", "a"], ["a", " a"]].map(|words| tokenizer.encode_fast(&words[..], false));
    Ok(text.get_ids() != alone?.get_ids() && text.get_ids() == spaced?.get_ids())
}

#[cfg(test)]
mod tests;
