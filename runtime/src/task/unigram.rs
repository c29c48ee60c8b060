//! Unigram tokenizers (Kudo 2018) whose pieces lie in one block of numbers: a derived file that is mapped, or memory.
//!
//! The library `tokenizers` reads a multilingual vocabulary of 250,000 pieces as JSON and puts them into a tree of hash
//! tables, which takes most of a second. Here the pieces are a tree that lies as it is used. What is made of a text is
//! the same to the last token, which tests compare; all but the pieces (normalizer, pre-tokenizer, special tokens) is
//! the library's.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokenizers::models::unigram::{Unigram as Library, UnigramError};
use tokenizers::{Result, Token};

use crate::derived::Derived;
use crate::fs::map;

/// No piece, and no place.
const NONE: u32 = u32::MAX;

/// Numbers before the sections: pieces, nodes, bytes of settings, the unknown piece, whether bytes stand in for it, and
/// the two halves of the lowest score.
const HEAD: usize = 7;

/// How much less a character that no piece is counts than the piece of the lowest score; the library's figure, which
/// is SentencePiece's.
const UNKNOWN_PENALTY: f64 = 10.0;

/// The pieces of a Unigram model and their scores, with what else its `tokenizer.json` says.
#[derive(Debug, Clone)]
pub(super) struct Unigram {
    words: Arc<Derived<u32>>,
    layout: Layout,
}

/// Where the sections lie, in numbers.
///
/// The nodes of the tree of the pieces' bytes are numbered level by level, those below one node one after the other by
/// their bytes; 0 is the root.
#[derive(Debug, Clone)]
struct Layout {
    unknown: Option<u32>,
    byte_fallback: bool,
    unknown_score: f64,
    /// The halves of each piece's score, the lower one first.
    scores: Range<usize>,
    /// For each node the first one below it, and the end of the last.
    below: Range<usize>,
    /// For each node the piece that ends there, or [`NONE`].
    pieces: Range<usize>,
    /// For each node the byte that leads to it, four in a number.
    bytes: Range<usize>,
    /// JSON of all but the model, and how many bytes of it.
    settings: Range<usize>,
    settings_len: usize,
}

/// A model in a `tokenizer.json`.
#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    unk_id: Option<u32>,
    #[serde(default)]
    byte_fallback: bool,
    vocab: Vec<(String, f64)>,
}

impl Layout {
    /// The layout of numbers, if they are as many as their head says.
    fn of(words: &[u32]) -> Option<Self> {
        let [pieces, nodes, settings_len, unknown, byte_fallback, low, high] = *words.first_chunk::<HEAD>()?;
        let [pieces, nodes, settings_len] = [pieces, nodes, settings_len].map(|count| count as usize);
        let mut end = HEAD;
        let mut section = |len: Option<usize>| {
            let start = end;
            end = start.checked_add(len?)?;
            Some(start..end)
        };
        let layout = Layout {
            unknown: (unknown != NONE).then_some(unknown),
            byte_fallback: byte_fallback != 0,
            unknown_score: joined(low, high) - UNKNOWN_PENALTY,
            scores: section(pieces.checked_mul(2))?,
            below: section(nodes.checked_add(1))?,
            pieces: section(Some(nodes))?,
            bytes: section(Some(nodes.div_ceil(4)))?,
            settings: section(Some(settings_len.div_ceil(4)))?,
            settings_len,
        };
        (end == words.len()).then_some(layout)
    }
}

impl Unigram {
    /// Makes the numbers of a `tokenizer.json`; none if it has another model, or one whose pieces are not all different
    /// or too many: that is the library's to read, or to refuse.
    pub(super) fn words(json: &[u8]) -> Option<Vec<u32>> {
        // Others are not parsed twice.
        let json = str::from_utf8(json).ok().filter(|json| json.contains("\"Unigram\""))?;
        let mut parts: BTreeMap<String, &RawValue> = serde_json::from_str(json).ok()?;
        // From a list serde would make one, too.
        let model = parts.remove("model")?.get();
        let model: Model = serde_json::from_str(model).ok().filter(|_| model.starts_with('{'))?;
        if model.kind != "Unigram" || model.unk_id.is_some_and(|id| id as usize >= model.vocab.len()) {
            return None;
        }
        let count = u32::try_from(model.vocab.len()).ok()?;
        let mut sorted: Vec<(&[u8], u32)> =
            model.vocab.iter().map(|(piece, _)| piece.as_bytes()).zip(0..count).collect();
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return None;
        }
        let tree = Tree::of(&sorted)?;
        let settings = serde_json::to_vec(&parts).ok()?;
        let lowest =
            model.vocab.iter().fold(f64::INFINITY, |lowest, (_, score)| if *score < lowest { *score } else { lowest });
        let [nodes, settings_len] = [tree.pieces.len(), settings.len()].map(|len| u32::try_from(len).ok());
        let [low, high] = halves(lowest);
        let mut words =
            vec![count, nodes?, settings_len?, model.unk_id.unwrap_or(NONE), u32::from(model.byte_fallback), low, high];
        words.extend(model.vocab.iter().flat_map(|(_, score)| halves(*score)));
        words.extend(tree.below);
        words.extend(tree.pieces);
        words.extend(packed(&tree.bytes));
        words.extend(packed(&settings));
        Some(words)
    }

    /// Whether these numbers are as many as their head says.
    pub(super) fn is_whole(words: &[u32]) -> bool {
        Layout::of(words).is_some()
    }

    /// The model that numbers hold, if they are [whole](Self::is_whole).
    pub(super) fn new(words: Derived<u32>) -> Option<Self> {
        let layout = Layout::of(&words)?;
        Some(Unigram { words: Arc::new(words), layout })
    }

    /// JSON of all of the `tokenizer.json` but its model.
    pub(super) fn settings(&self) -> &[u8] {
        let bytes = map::bytes(self.words.get(self.layout.settings.clone()).unwrap_or_default());
        bytes.get(..self.layout.settings_len).unwrap_or_default()
    }

    fn pieces(&self) -> Pieces<'_> {
        let words = &self.words[..];
        let section = |range: &Range<usize>| words.get(range.clone()).unwrap_or_default();
        let Layout { scores, below, pieces, bytes, .. } = &self.layout;
        Pieces {
            scores: section(scores),
            below: section(below),
            pieces: section(pieces),
            bytes: map::bytes(section(bytes)),
        }
    }

    /// The tokens of a part of a text, of all ways to cut it into pieces that whose scores' sum is the highest.
    pub(super) fn tokenize(&self, text: &str) -> Result<Vec<Token>> {
        let pieces = self.pieces();
        let mut tokens = Vec::new();
        for (range, piece) in self.cut(text, &pieces)? {
            let part = &text[range.clone()];
            let offsets = (range.start, range.end);
            match piece.or_else(|| pieces.find(part)) {
                Some(piece) => tokens.push(Token::new(piece, part.to_owned(), offsets)),
                None => match self.layout.byte_fallback.then(|| byte_tokens(part, offsets, &pieces)).flatten() {
                    Some(bytes) => tokens.extend(bytes),
                    None => tokens.push(Token::new(self.unknown()?, part.to_owned(), offsets)),
                },
            }
        }
        Ok(tokens)
    }

    /// The best way to cut a text: where each part of it lies, and the piece that it is; none for one or more
    /// characters of which nothing is known, one after the other.
    fn cut(&self, text: &str, pieces: &Pieces<'_>) -> Result<Vec<(Range<usize>, Option<u32>)>> {
        /// The best way to cut what lies before a place.
        #[derive(Clone, Copy)]
        struct Best {
            score: f64,
            /// Where its last piece starts.
            start: usize,
            piece: u32,
        }
        const NO_WAY: Best = Best { score: 0.0, start: usize::MAX, piece: NONE };
        impl Best {
            /// Of two that are as good the first one stays.
            fn is_worse_than(&self, score: f64) -> bool {
                self.start == NO_WAY.start || score > self.score
            }
        }
        let mut best = vec![NO_WAY; text.len() + 1];
        for (start, character) in text.char_indices() {
            let (before, one) = (best[start].score, start + character.len_utf8());
            let (mut node, mut is_piece) = (0, false);
            for (end, byte) in (start + 1..).zip(&text.as_bytes()[start..]) {
                let Some(next) = pieces.next(node, *byte) else { break };
                node = next;
                let Some(piece) = pieces.at(node) else { continue };
                let score = pieces.score(piece) + before;
                if best[end].is_worse_than(score) {
                    best[end] = Best { score, start, piece };
                }
                is_piece |= end == one;
            }
            let score = self.layout.unknown_score + before;
            if !is_piece && best[one].is_worse_than(score) {
                best[one] = Best { score, start, piece: self.unknown()? };
            }
        }
        let mut parts: Vec<(Range<usize>, Option<u32>)> = Vec::new();
        let mut end = text.len();
        while end > 0 {
            let Best { start, piece, .. } = best[end];
            let known = (Some(piece) != self.layout.unknown).then_some(piece);
            match parts.last_mut() {
                Some((after, None)) if known.is_none() => after.start = start,
                _ => parts.push((start..end, known)),
            }
            end = start;
        }
        parts.reverse();
        Ok(parts)
    }

    fn unknown(&self) -> Result<u32> {
        self.layout.unknown.ok_or_else(|| UnigramError::MissingUnkId.into())
    }

    /// How many pieces there are.
    pub(super) fn len(&self) -> usize {
        self.layout.scores.len() / 2
    }

    /// The number of a piece.
    pub(super) fn find(&self, piece: &str) -> Option<u32> {
        self.pieces().find(piece)
    }

    /// The piece with a number.
    pub(super) fn piece(&self, number: u32) -> Option<String> {
        let pieces = self.pieces();
        let node = pieces.pieces.iter().position(|piece| *piece == number).filter(|_| number != NONE)?;
        pieces.text(node)
    }

    /// All pieces and their numbers.
    pub(super) fn vocabulary(&self) -> HashMap<String, u32> {
        let pieces = self.pieces();
        let nodes = pieces.pieces.iter().enumerate().filter(|(_, piece)| **piece != NONE);
        nodes.filter_map(|(node, piece)| Some((pieces.text(node)?, *piece))).collect()
    }

    /// The library's own model of the same pieces.
    pub(super) fn to_library(&self) -> Result<Library> {
        let pieces = self.pieces();
        let mut vocabulary = vec![(String::new(), 0.0); self.len()];
        for (text, piece) in self.vocabulary() {
            if let Some(entry) = vocabulary.get_mut(piece as usize) {
                *entry = (text, pieces.score(piece));
            }
        }
        Library::from(vocabulary, self.layout.unknown.map(|unknown| unknown as usize), self.layout.byte_fallback)
    }
}

/// The tokens of a text's bytes, if there is one for each.
fn byte_tokens(text: &str, offsets: (usize, usize), pieces: &Pieces<'_>) -> Option<Vec<Token>> {
    let token = |byte: u8| {
        let name = format!("<0x{byte:02X}>");
        Some(Token::new(pieces.find(&name)?, name, offsets))
    };
    text.bytes().map(token).collect()
}

/// The tree of the pieces, and their scores.
struct Pieces<'a> {
    scores: &'a [u32],
    below: &'a [u32],
    pieces: &'a [u32],
    bytes: &'a [u8],
}

impl Pieces<'_> {
    /// The node to which a byte leads.
    fn next(&self, node: usize, byte: u8) -> Option<usize> {
        let (first, end) = (*self.below.get(node)? as usize, *self.below.get(node + 1)? as usize);
        Some(first + self.bytes.get(first..end)?.binary_search(&byte).ok()?)
    }

    /// The piece that ends at a node.
    fn at(&self, node: usize) -> Option<u32> {
        self.pieces.get(node).copied().filter(|piece| *piece != NONE)
    }

    fn find(&self, piece: &str) -> Option<u32> {
        self.at(piece.bytes().try_fold(0, |node, byte| self.next(node, byte))?)
    }

    fn score(&self, piece: u32) -> f64 {
        match self.scores.get(2 * piece as usize..) {
            Some([low, high, ..]) => joined(*low, *high),
            _ => f64::NEG_INFINITY,
        }
    }

    /// The bytes that lead to a node, as text.
    fn text(&self, mut node: usize) -> Option<String> {
        let mut bytes = Vec::new();
        while node > 0 {
            bytes.push(*self.bytes.get(node)?);
            // The last one whose first node below is not behind: those without any share theirs with the next.
            let above = self.below.partition_point(|first| *first as usize <= node).checked_sub(1)?;
            node = Some(above).filter(|above| *above < node)?;
        }
        bytes.reverse();
        String::from_utf8(bytes).ok()
    }
}

/// The same, while it is made.
struct Tree {
    below: Vec<u32>,
    pieces: Vec<u32>,
    bytes: Vec<u8>,
}

impl Tree {
    /// The tree of sorted texts, all of them different; none if its nodes cannot be counted.
    fn of(sorted: &[(&[u8], u32)]) -> Option<Self> {
        let mut tree = Tree { below: Vec::new(), pieces: Vec::new(), bytes: vec![0] };
        // For each node that has no number yet the texts that begin with its bytes, and how many bytes those are.
        let mut nodes = VecDeque::from([(sorted, 0)]);
        while let Some((texts, depth)) = nodes.pop_front() {
            tree.below.push(u32::try_from(tree.bytes.len()).ok()?);
            // The one that ends here is the first.
            let (ended, longer) = match texts {
                [(text, piece), longer @ ..] if text.len() == depth => (*piece, longer),
                longer => (NONE, longer),
            };
            tree.pieces.push(ended);
            for texts in longer.chunk_by(|(a, _), (b, _)| a[depth] == b[depth]) {
                tree.bytes.push(texts[0].0[depth]);
                nodes.push_back((texts, depth + 1));
            }
        }
        tree.below.push(u32::try_from(tree.bytes.len()).ok()?);
        Some(tree)
    }
}

/// Bytes as numbers that hold them in their order, with zeros behind.
fn packed(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks(4).map(|chunk| {
        let mut four = [0; 4];
        four[..chunk.len()].copy_from_slice(chunk);
        u32::from_ne_bytes(four)
    })
}

fn halves(score: f64) -> [u32; 2] {
    let bits = score.to_bits();
    [bits as u32, (bits >> 32) as u32]
}

fn joined(low: u32, high: u32) -> f64 {
    f64::from_bits(u64::from(high) << 32 | u64::from(low))
}

#[cfg(test)]
mod tests;
