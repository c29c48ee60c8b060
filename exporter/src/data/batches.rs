//! Batches of texts of similar length.
//!
//! A batch is padded to its longest text, so texts of similar lengths should meet. Sorting the
//! whole data set would fix which texts meet, epoch after epoch; instead a random order is cut
//! into pools, each pool is sorted and cut into batches, and the batches are shuffled.

use super::rng::{self, stream};

/// Batches a pool: large enough that lengths within a batch hardly differ, small enough that
/// the company of a text changes every epoch.
const POOL: usize = 50;

/// The batches of an epoch: indices into `lengths`, each exactly once, in batches of
/// `batch_size` except for one smaller batch if it does not divide.
///
/// `lengths` are the texts' token counts. The result depends on the arguments alone. A
/// `batch_size` of 0 counts as 1.
pub fn epoch_batches(lengths: &[usize], batch_size: usize, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let batch_size = batch_size.max(1);
    let mut rng = rng::generator(seed, stream::EPOCH, epoch);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    rng::shuffle(&mut rng, &mut order);
    let mut batches = Vec::with_capacity(lengths.len().div_ceil(batch_size));
    for pool in order.chunks_mut(batch_size.saturating_mul(POOL)) {
        // Stable: among equals, the random order stays.
        pool.sort_by_key(|&i| lengths[i]);
        batches.extend(pool.chunks(batch_size).map(<[usize]>::to_vec));
    }
    rng::shuffle(&mut rng, &mut batches);
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn batches_are_of_similar_length() {
        let lengths: Vec<usize> = (0..1000).map(|i| 5 + i * 7 % 60).collect();
        let batches = epoch_batches(&lengths, 16, 1, 0);
        let padded: usize = batches.iter().map(|b| b.len() * b.iter().map(|&i| lengths[i]).max().unwrap_or(0)).sum();
        let real: usize = lengths.iter().sum();
        assert!(padded < real * 11 / 10, "{padded} tokens for {real}");
    }

    #[test]
    fn epochs_differ_and_repeat() {
        let lengths = [3; 100];
        let first = epoch_batches(&lengths, 8, 1, 0);
        assert_eq!(first, epoch_batches(&lengths, 8, 1, 0));
        assert_ne!(first, epoch_batches(&lengths, 8, 1, 1));
        assert_ne!(first, epoch_batches(&lengths, 8, 2, 0));
    }

    proptest! {
        #[test]
        fn every_example_comes_exactly_once(
            lengths in prop::collection::vec(1usize..100, 0..700),
            batch_size in 0usize..20,
            seed: u64,
            epoch in 0u64..100,
        ) {
            let batches = epoch_batches(&lengths, batch_size, seed, epoch);
            prop_assert_eq!(batches.len(), lengths.len().div_ceil(batch_size.max(1)));
            let small = batches.iter().filter(|b| b.len() != batch_size.max(1)).count();
            prop_assert!(small <= 1 && batches.iter().all(|b| !b.is_empty()));
            let mut all = batches.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
