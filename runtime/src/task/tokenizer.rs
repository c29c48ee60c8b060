//! Texts to token numbers, with a base's `tokenizer.json`.

use std::borrow::Cow;
use std::path::PathBuf;

use tokenizers::{Encoding, PaddingParams, PostProcessor, TruncationDirection, TruncationParams};

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
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// `tokenizers` panics on some files, or on texts with them.
    fence: Fence,
    path: PathBuf,
    pad: u32,
    vocabulary: usize,
    /// Whether a word's tokens begin with the space before it, which a word that is given has not.
    spaced: bool,
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
        // One that fails at the letter knows no bytes, and so no spaces.
        let spaced = fence.run(|| begins_words_with_spaces(&inner)).map_err(|e| wrong(e.into()))?.unwrap_or(false);
        Ok(Tokenizer { inner, fence, path, pad, vocabulary, spaced })
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

/// Whether a word within a text has other tokens than the word alone, and the same with a space before it: so do
/// byte-level tokenizers (Radford et al. 2019), unless they put a space before every text.
fn begins_words_with_spaces(tokenizer: &tokenizers::Tokenizer) -> tokenizers::Result<bool> {
    let text = tokenizer.encode_fast("a a", false)?;
    let [alone, spaced] = [["a", "a"], ["a", " a"]].map(|words| tokenizer.encode_fast(&words[..], false));
    Ok(text.get_ids() != alone?.get_ids() && text.get_ids() == spaced?.get_ids())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::base::tests::{bundle, write_manifest};
    use crate::fs::file_digest;

    /// The tokenizer of a base of 10 tokens and 16 positions, with these settings in its file, and the base.
    fn open(settings: Value) -> (Base, Result<Tokenizer, TaskError>) {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = bundle(dir.path());
        let path = dir.path().join(file::TOKENIZER);
        std::fs::write(&path, settings.to_string()).unwrap();
        manifest.tokenizer_sha256 = file_digest(&path).unwrap();
        manifest.digests.insert(file::TOKENIZER.to_owned(), manifest.tokenizer_sha256.clone());
        write_manifest(dir.path(), &manifest);
        let base = Base::open(dir.path()).unwrap();
        let tokenizer = Tokenizer::open(&base);
        (base, tokenizer)
    }

    /// Byte-level BPE that knows `a` and `b`, and each with a space before.
    fn byte_level(prefix: bool) -> Value {
        let vocab = json!({"a": 0, "b": 1, "\u{120}": 2, "\u{120}a": 3, "\u{120}b": 4, "<pad>": 5});
        json!({
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": vocab, "merges": [["\u{120}", "a"], ["\u{120}", "b"]]},
        })
    }

    /// Words as BERT has them.
    fn word_level(segment: u32, tokens: &[&str]) -> Value {
        let vocab: serde_json::Map<_, _> = tokens.iter().zip(0..).map(|(t, id)| ((*t).to_owned(), json!(id))).collect();
        let special = json!({"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}});
        let text = |name: &str, segment: u32| json!({"Sequence": {"id": name, "type_id": segment}});
        let cls = json!({"SpecialToken": {"id": "[CLS]", "type_id": 0}});
        json!({
            "version": "1.0",
            "added_tokens": [],
            "padding": {
                "strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 2,
                "pad_type_id": 0, "pad_token": "none"
            },
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [cls, text("A", segment)],
                "pair": [cls, text("A", 0), text("B", 0)],
                "special_tokens": special
            },
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "?"},
        })
    }

    const TOKENS: [&str; 5] = ["?", "[CLS]", "none", "a", "b"];

    #[test]
    fn given_words_have_the_tokens_of_their_text() {
        for settings in [byte_level(false), byte_level(true), word_level(0, &TOKENS)] {
            let tokenizer = open(settings).1.unwrap();
            let words = ["a", "b", "a"].map(String::from).to_vec();
            let text = tokenizer.encode(&Input::from(words.join(" ")), 16).unwrap();
            let tokens = tokenizer.encode(&Input::Words { words }, 16).unwrap();
            assert_eq!(tokens.ids, text.ids);
            let before = tokens.ids.len() - 3;
            assert_eq!(tokens.firsts, [Some(before), Some(before + 1), Some(before + 2)]);
        }
        let tokenizer = open(byte_level(false)).1.unwrap();
        let words = ["a", "", "b"].map(String::from).to_vec();
        let tokens = tokenizer.encode(&Input::Words { words }, 16).unwrap();
        assert_eq!((tokens.ids, tokens.firsts), (vec![0, 4], vec![Some(0), None, Some(1)]));
    }

    #[test]
    fn a_tokenizer_that_makes_what_the_base_does_not_know_is_found() {
        let check = |settings| {
            let (base, tokenizer) = open(settings);
            tokenizer.unwrap().check(&base).map_err(|error| error.to_string())
        };
        let many = [&TOKENS[..], &["c", "d", "e", "f", "g", "h"]].concat();
        check(byte_level(false)).unwrap();
        check(word_level(0, &TOKENS)).unwrap();
        check(word_level(0, &many[..10])).unwrap();
        let error = check(word_level(0, &many)).unwrap_err();
        assert!(error.contains("has token 10, `h`, but the base's table of tokens ends at 9"), "{error}");
        let error = check(word_level(1, &TOKENS)).unwrap_err();
        assert!(error.contains("segment number 1, the base knows 0 to 0"), "{error}");
    }

    #[test]
    fn others_cut_and_pad_with_its_file_as_we_do() {
        let tokenizer = open(word_level(0, &TOKENS)).1.unwrap();
        let theirs = tokenizers::Tokenizer::from_bytes(tokenizer.to_json(4).unwrap()).unwrap();
        for text in ["a b", "a b a b a"] {
            let ours = tokenizer.encode(&Input::from(text), 4).unwrap();
            assert_eq!(theirs.encode(text, true).unwrap().get_ids(), ours.ids);
        }
        for (first, second) in [("a b a b", "b"), ("a", "b b b b"), ("a a a", "b b b b")] {
            let ours = tokenizer.encode(&Input::Pair(first.into(), second.into()), 4).unwrap();
            assert_eq!(theirs.encode((first, second), true).unwrap().get_ids(), ours.ids);
        }
        let batch = theirs.encode_batch(vec!["a", "a b"], true).unwrap();
        assert_eq!((batch[0].get_ids(), batch[1].get_ids()), (&[1, 3, 2][..], &[1, 3, 4][..]));
        assert!(tokenizer.to_json(0).unwrap_err().to_string().contains("puts 1 tokens around a text"));
    }
}
