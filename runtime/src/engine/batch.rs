//! What goes into an encoder and what comes out: rows of different lengths, one after the other.

use super::EngineError;
use crate::base::Base;

/// Tokens of several texts, each as long as it is; nothing is padded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    /// Token numbers of all texts, one text after the other.
    ids: Vec<u32>,
    /// The segment of each token: 1 for the second text of a pair.
    segments: Vec<u32>,
    /// Where each text ends, in tokens.
    ends: Vec<usize>,
    /// The token that an engine puts behind a text where it must pad.
    pad: u32,
}

impl TokenBatch {
    /// A batch without texts; `pad` is the tokenizer's padding token.
    pub fn new(pad: u32) -> Self {
        TokenBatch { ids: Vec::new(), segments: Vec::new(), ends: Vec::new(), pad }
    }

    /// Adds a text: its tokens, and the segment of each.
    ///
    /// # Panics
    /// When there are not as many segments as tokens.
    pub fn push(&mut self, ids: &[u32], segments: &[u32]) {
        assert_eq!(ids.len(), segments.len(), "each token has a segment");
        self.ids.extend_from_slice(ids);
        self.segments.extend_from_slice(segments);
        self.ends.push(self.ids.len());
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Tokens of all texts together.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Token numbers of all texts, one text after the other.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Segments of all tokens, likewise.
    pub fn segments(&self) -> &[u32] {
        &self.segments
    }

    /// The number of tokens of each text.
    pub fn lengths(&self) -> impl ExactSizeIterator<Item = usize> + Clone {
        lengths(&self.ends)
    }

    /// Tokens of the longest text.
    pub fn longest(&self) -> usize {
        self.lengths().max().unwrap_or(0)
    }

    /// Tokens and segments of each text.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = (&[u32], &[u32])> {
        (0..self.len()).map(|text| self.row(text))
    }

    /// Tokens and segments of a text.
    ///
    /// # Panics
    /// When there is no such text.
    pub fn row(&self, text: usize) -> (&[u32], &[u32]) {
        let range = range(&self.ends, text);
        (&self.ids[range.clone()], &self.segments[range])
    }

    /// The padding token.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Some of the texts, in this order.
    ///
    /// # Panics
    /// When there is no such text.
    pub fn select(&self, texts: &[usize]) -> TokenBatch {
        let mut batch = TokenBatch::new(self.pad);
        for text in texts {
            let (ids, segments) = self.row(*text);
            batch.push(ids, segments);
        }
        batch
    }

    /// Checks lengths and token numbers, which an engine would index with; every engine does so
    /// before it runs a batch.
    ///
    /// # Errors
    /// [`EngineError::Batch`].
    pub fn check(&self, base: &Base) -> Result<(), EngineError> {
        let wrong = |reason: String| Err(EngineError::Batch(reason));
        let architecture = &base.manifest().architecture;
        if self.is_empty() {
            return wrong("a batch without texts".to_owned());
        }
        if let Some(text) = self.lengths().position(|length| length == 0) {
            return wrong(format!("text {text} has none"));
        }
        if self.longest() > architecture.max_positions {
            return wrong(format!("{} in a text, the base takes {}", self.longest(), architecture.max_positions));
        }
        let vocabulary = architecture.vocab_size;
        if let Some(id) = self.ids.iter().chain([&self.pad]).find(|id| **id as usize >= vocabulary) {
            return wrong(format!("number {id}, the base knows 0 to {}", vocabulary - 1));
        }
        if let Some(segments) = base.segments()
            && let Some(segment) = self.segments.iter().find(|segment| **segment as usize >= segments)
        {
            return wrong(format!("segment number {segment}, the base knows 0 to {}", segments - 1));
        }
        Ok(())
    }
}

/// The encoder's last hidden state: a vector for each token of each text of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Hidden {
    width: usize,
    /// Where each text ends, in tokens.
    ends: Vec<usize>,
    /// [tokens of all texts, width].
    data: Vec<f32>,
}

impl Hidden {
    /// The vectors of a batch's texts, [tokens, width], one text after the other.
    ///
    /// # Panics
    /// When there are not as many values.
    pub fn new(batch: &TokenBatch, width: usize, data: Vec<f32>) -> Self {
        assert_eq!(data.len(), batch.tokens() * width, "a vector for each token");
        Hidden { width, ends: batch.ends.clone(), data }
    }

    /// The vectors of some of a batch's texts, likewise.
    ///
    /// # Panics
    /// When there is no such text, or there are not as many values.
    pub fn of_texts(batch: &TokenBatch, texts: &[usize], width: usize, data: Vec<f32>) -> Self {
        let ends = texts.iter().scan(0, |end, text| {
            *end += range(&batch.ends, *text).len();
            Some(*end)
        });
        let ends: Vec<usize> = ends.collect();
        assert_eq!(data.len(), ends.last().copied().unwrap_or(0) * width, "a vector for each token");
        Hidden { width, ends, data }
    }

    /// Width of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no texts.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The vectors of each text, [tokens, width].
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        (0..self.len()).map(|row| {
            let range = range(&self.ends, row);
            &self.data[range.start * self.width..range.end * self.width]
        })
    }

    /// All vectors, [tokens of all texts, width].
    pub fn data(&self) -> &[f32] {
        &self.data
    }
}

/// The length of each row, given where each ends.
fn lengths(ends: &[usize]) -> impl ExactSizeIterator<Item = usize> + Clone {
    (0..ends.len()).map(|row| range(ends, row).len())
}

/// Where a row lies.
fn range(ends: &[usize], row: usize) -> std::ops::Range<usize> {
    row.checked_sub(1).map_or(0, |before| ends[before])..ends[row]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> TokenBatch {
        let mut batch = TokenBatch::new(9);
        batch.push(&[1, 2, 3], &[0, 0, 1]);
        batch.push(&[4], &[0]);
        batch.push(&[5, 6], &[0, 1]);
        batch
    }

    #[test]
    fn rows_are_those_that_were_pushed() {
        let batch = batch();
        assert_eq!((batch.len(), batch.tokens(), batch.longest()), (3, 6, 3));
        assert_eq!(batch.lengths().collect::<Vec<_>>(), [3, 1, 2]);
        let rows: Vec<_> = batch.rows().collect();
        assert_eq!(rows[0], (&[1, 2, 3][..], &[0, 0, 1][..]));
        assert_eq!(rows[2], (&[5, 6][..], &[0, 1][..]));
        let some = batch.select(&[2, 0]);
        assert_eq!((some.ids(), some.pad()), (&[5, 6, 1, 2, 3][..], 9));
        let hidden = Hidden::new(&batch, 2, (0..12).map(|i| i as f32).collect());
        assert_eq!(hidden.rows().nth(1), Some(&[6.0, 7.0][..]));
    }

    #[test]
    fn what_a_base_cannot_run_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        crate::base::tests::bundle(dir.path());
        let base = Base::open(dir.path()).unwrap();
        let check = |ids: &[u32], segments: &[u32], pad: u32| {
            let mut batch = TokenBatch::new(pad);
            batch.push(ids, segments);
            batch.check(&base).map_err(|error| error.to_string())
        };
        check(&[0, 9], &[0, 0], 0).unwrap();
        for (ids, segments, pad, said) in [
            (&[][..], &[][..], 0, "text 0 has none"),
            (&[10], &[0], 0, "number 10, the base knows 0 to 9"),
            (&[1], &[0], 10, "number 10"),
            (&[1], &[1], 0, "segment number 1, the base knows 0 to 0"),
            (&[1; 17], &[0; 17], 0, "17 in a text, the base takes 16"),
        ] {
            let error = check(ids, segments, pad).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        assert!(TokenBatch::new(0).check(&base).is_err());
    }
}
