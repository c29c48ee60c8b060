//! What the graph of a text encoder reads and gives.

use overmask::engine::TokenBatch;

use crate::proto::ModelProto;

/// Token numbers, int64 [batch, sequence].
pub const INPUT_IDS: &str = "input_ids";
/// 1 for a token, 0 for padding, likewise.
pub const ATTENTION_MASK: &str = "attention_mask";
/// The segment of each token, likewise.
pub const TOKEN_TYPE_IDS: &str = "token_type_ids";
/// All that a text can give a graph.
pub const INPUTS: [&str; 3] = [INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS];
/// The output: a vector for each token, f32 [batch, sequence, width].
pub const OUTPUT: &str = "last_hidden_state";

/// Which of [`INPUTS`] the graph of a base reads, before weights become inputs, too; in its order.
///
/// # Errors
/// In words, when it reads something else.
pub fn token_inputs(model: &ModelProto) -> Result<Vec<String>, String> {
    let names = crate::inputs(model);
    match names.iter().find(|name| !INPUTS.contains(name)) {
        Some(other) => Err(format!("the base's graph reads `{other}`, which no text has; import the base again")),
        None => Ok(names.into_iter().map(str::to_owned).collect()),
    }
}

/// Texts padded to one length, as graphs read them; all fields are [batch, sequence], row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Padded {
    /// Number of texts.
    pub batch: usize,
    /// Tokens a text, padding included.
    pub sequence: usize,
    /// Token numbers.
    pub input_ids: Vec<i64>,
    /// 1 for a token, 0 for padding.
    pub attention_mask: Vec<i64>,
    /// Segment numbers.
    pub token_type_ids: Vec<i64>,
}

impl Padded {
    /// Pads texts to so many tokens, at least those of the longest.
    pub fn new(texts: &TokenBatch, sequence: usize) -> Padded {
        let size = texts.len() * sequence;
        let [mut input_ids, mut attention_mask, mut token_type_ids] = [(); 3].map(|()| Vec::with_capacity(size));
        for (ids, segments) in texts.rows() {
            let padding = sequence - ids.len();
            input_ids.extend(ids.iter().map(|id| i64::from(*id)));
            input_ids.extend(std::iter::repeat_n(i64::from(texts.pad()), padding));
            attention_mask.extend(std::iter::repeat_n(1, ids.len()));
            attention_mask.extend(std::iter::repeat_n(0, padding));
            token_type_ids.extend(segments.iter().map(|segment| i64::from(*segment)));
            token_type_ids.extend(std::iter::repeat_n(0, padding));
        }
        Padded { batch: texts.len(), sequence, input_ids, attention_mask, token_type_ids }
    }

    /// The field that a graph's input of this name takes.
    pub fn input(&self, name: &str) -> Option<&Vec<i64>> {
        match name {
            INPUT_IDS => Some(&self.input_ids),
            ATTENTION_MASK => Some(&self.attention_mask),
            TOKEN_TYPE_IDS => Some(&self.token_type_ids),
            _ => None,
        }
    }

    /// What belongs to the texts' own tokens of values that a graph gave, [batch, sequence, width].
    pub fn without_padding(texts: &TokenBatch, sequence: usize, width: usize, values: Vec<f32>) -> Vec<f32> {
        if texts.tokens() == texts.len() * sequence {
            return values;
        }
        let rows = values.chunks_exact(sequence * width).zip(texts.lengths());
        rows.flat_map(|(row, length)| &row[..length * width]).copied().collect()
    }
}

impl From<&TokenBatch> for Padded {
    /// Pads to the longest.
    fn from(texts: &TokenBatch) -> Padded {
        Padded::new(texts, texts.longest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_padded_and_their_vectors_come_back() {
        let mut texts = TokenBatch::new(7);
        texts.push(&[1, 2, 3], &[0, 0, 1]);
        texts.push(&[4], &[0]);
        let padded = Padded::from(&texts);
        assert_eq!((padded.batch, padded.sequence), (2, 3));
        assert_eq!(padded.input(INPUT_IDS), Some(&vec![1, 2, 3, 4, 7, 7]));
        assert_eq!(padded.input(ATTENTION_MASK), Some(&vec![1, 1, 1, 1, 0, 0]));
        assert_eq!(padded.input(TOKEN_TYPE_IDS), Some(&vec![0, 0, 1, 0, 0, 0]));
        assert_eq!(padded.input(OUTPUT), None);
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        assert_eq!(Padded::without_padding(&texts, 3, 2, values), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }
}
