//! Pooling and the head. Sums are taken in f64, so that they do not add noise of their
//! own to what the engines compute.

use super::Tokens;
use crate::pack::{Head, Pooling};

/// The vectors that the head sees of an input: one for a text or a pair, one for each word of a list, but
/// none for a word without a token. `vectors` are those of its tokens, [tokens, `width`].
pub fn pool(vectors: &[f32], width: usize, tokens: &Tokens, pooling: Pooling) -> Vec<Option<Vec<f32>>> {
    let vector = |token: usize| vectors[token * width..][..width].to_vec();
    match pooling {
        Pooling::Cls => vec![Some(vector(0))],
        Pooling::First => tokens.firsts.iter().map(|first| first.map(vector)).collect(),
        Pooling::Mean => {
            let mut sum = vec![0f64; width];
            for token in vectors.chunks_exact(width).take(tokens.len()) {
                sum.iter_mut().zip(token).for_each(|(s, t)| *s += f64::from(*t));
            }
            let count = f64::from(tokens.len().max(1) as u32);
            vec![Some(sum.iter().map(|s| (s / count) as f32).collect())]
        }
    }
}

/// The head's output for one pooled vector: weight · pooled + bias, one value a label.
///
/// # Panics
/// When the vector is not as wide as the head.
pub fn logits(head: &Head, pooled: &[f32]) -> Vec<f32> {
    assert_eq!(pooled.len(), head.hidden, "the head and the encoder differ in width");
    let rows = head.weight.chunks_exact(head.hidden).zip(&head.bias);
    rows.map(|(row, bias)| {
        let sum: f64 = row.iter().zip(pooled).map(|(w, p)| f64::from(*w) * f64::from(*p)).sum();
        (sum + f64::from(*bias)) as f32
    })
    .collect()
}

/// Probabilities from logits of which exactly one is right.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f64> = logits.iter().map(|l| f64::from(l - top).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| (e / sum) as f32).collect()
}

/// The probability that a logit stands for on its own.
pub fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + f64::from(-logit).exp())) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::FloatType;

    fn tokens(length: usize, firsts: &[Option<usize>]) -> Tokens {
        Tokens { ids: vec![5; length], segments: vec![0; length], firsts: firsts.to_vec(), dropped: 0 }
    }

    #[test]
    fn each_pooling_has_its_vectors() {
        let data = [1.0, 2.0, 3.0, 6.0];
        let tokens = tokens(2, &[Some(1), None]);
        let pooled = |pooling| pool(&data, 2, &tokens, pooling);
        assert_eq!(pooled(Pooling::Mean), [Some(vec![2.0, 4.0])]);
        assert_eq!(pooled(Pooling::Cls), [Some(vec![1.0, 2.0])]);
        assert_eq!(pooled(Pooling::First), [Some(vec![3.0, 6.0]), None]);
    }

    #[test]
    fn logits_are_a_matrix_product() {
        let head = Head {
            weight: vec![1.0, 2.0, -1.0, 0.5],
            bias: vec![0.25, -1.0],
            labels: 2,
            hidden: 2,
            dtype: FloatType::F32,
        };
        assert_eq!(logits(&head, &[3.0, 4.0]), [11.25, -2.0]);
    }

    #[test]
    fn probabilities_add_up_to_one_whatever_the_size_of_logits() {
        for logits in [vec![0.0, 0.0], vec![1e30, -1e30, 3.0], vec![-90.0, -91.0]] {
            let sum: f32 = softmax(&logits).iter().sum();
            assert!((sum - 1.0).abs() < 1e-6);
        }
    }
}
