//! Pooling and the classifier. Sums are taken in f64, so that they do not add noise of their
//! own to what the engines compute.

use crate::engine::{Hidden, TokenBatch};
use crate::pack::{Head, Pooling};

/// One vector for each text of a batch; padding takes no part.
pub fn pool(hidden: &Hidden, batch: &TokenBatch, pooling: Pooling) -> Vec<Vec<f32>> {
    let (width, sequence) = (hidden.hidden, hidden.sequence);
    let texts = hidden.data.chunks_exact(sequence * width).zip(batch.attention_mask.chunks_exact(sequence));
    texts
        .map(|(tokens, mask)| match pooling {
            Pooling::Cls => tokens[..width].to_vec(),
            Pooling::Mean => {
                let mut sum = vec![0f64; width];
                let real = tokens.chunks_exact(width).zip(mask).filter(|(_, m)| **m != 0);
                let mut count = 0u32;
                for (token, _) in real {
                    sum.iter_mut().zip(token).for_each(|(s, t)| *s += f64::from(*t));
                    count += 1;
                }
                sum.iter().map(|s| (s / f64::from(count.max(1))) as f32).collect()
            }
        })
        .collect()
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

/// Probabilities from logits.
pub fn softmax(logits: &[f32]) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f64> = logits.iter().map(|l| f64::from(l - top).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|e| (e / sum) as f32).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::pack::FloatType;

    fn batch(mask: &[i64], sequence: usize) -> TokenBatch {
        TokenBatch {
            batch: mask.len() / sequence,
            sequence,
            input_ids: vec![5; mask.len()],
            attention_mask: mask.to_vec(),
            token_type_ids: vec![0; mask.len()],
        }
    }

    #[test]
    fn padding_takes_no_part_in_the_mean() {
        let data = vec![1.0, 2.0, 3.0, 6.0, 1000.0, f32::NAN, 7.0, 8.0, 1e9, 1e9, 1e9, 1e9];
        let hidden = Hidden { batch: 2, sequence: 3, hidden: 2, data };
        let batch = batch(&[1, 1, 0, 1, 0, 0], 3);
        assert_eq!(pool(&hidden, &batch, Pooling::Mean), [[2.0, 4.0], [7.0, 8.0]]);
        assert_eq!(pool(&hidden, &batch, Pooling::Cls), [[1.0, 2.0], [7.0, 8.0]]);
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
