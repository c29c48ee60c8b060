//! Random numbers that depend on nothing but where they are asked for.
//!
//! The generator is counter-based: ChaCha with 8 rounds (Bernstein, *ChaCha, a variant of
//! Salsa20*, 2008), keyed by the seed. A *stream* separates purposes, so that drawing more
//! numbers for one never moves another's; a *counter* (an epoch, a training step) picks the
//! place in the stream. There is no hidden state: step 700 of a resumed run sees the numbers
//! that it would have seen in one go. Only integer arithmetic and exact float operations are
//! used, so every platform draws the same numbers.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What random numbers are drawn for. They are part of what a seed means: never change one, only add.
pub(crate) mod stream {
    /// Splitting a data set.
    pub(crate) const SPLIT: u64 = 1;
    /// The order of examples in an epoch.
    pub(crate) const EPOCH: u64 = 2;
    /// Dropout masks.
    pub(crate) const DROPOUT: u64 = 3;
    /// The head's first weights.
    pub(crate) const HEAD: u64 = 4;
    /// The selections of the bootstrap.
    pub(crate) const BOOTSTRAP: u64 = 5;
    /// Which replies of a dialogue are exchanged.
    pub(crate) const EXCHANGED: u64 = 6;
    /// What is taken of all examples of a fetched data set.
    pub(crate) const TAKEN: u64 = 7;
    /// Scores that start at random.
    pub(crate) const SCORES: u64 = 8;
    /// The noise of Bernoulli masks.
    pub(crate) const NOISE: u64 = 9;
    /// A random initialisation that fine-tuned weights are compared with; the counter is the tensor's place.
    pub(crate) const INITIALISATION: u64 = 10;
    /// Which of very many examples a head alone learns from.
    pub(crate) const HEAD_TEXTS: u64 = 11;
    /// Splitting a data set label by label.
    pub(crate) const STRATA: u64 = 12;
    /// The order of examples of linear baselines; the counter is the pass.
    pub(crate) const LINEAR: u64 = 13;
    /// Cutting a data set into parts that teachers are apart from.
    pub(crate) const FOLDS: u64 = 14;
    /// How the random masks of a step are for which a base is prepared.
    pub(crate) const ADAPTATION: u64 = 15;
    /// Which units they zero.
    pub(crate) const ADAPTATION_MASKS: u64 = 16;
    /// Which examples are taken of a data set, label by label.
    pub(crate) const SAMPLE: u64 = 17;
}

/// Each counter owns 2^32 words of its stream, so that counters do not overlap.
const WORDS_PER_COUNTER: u32 = 32;

/// Domain separation: the second part of the key.
const DOMAIN: &[u8; 24] = b"overmask random v1......";

/// The generator for a seed, a purpose and a counter below 2^36.
pub fn generator(seed: u64, stream: u64, counter: u64) -> ChaCha8Rng {
    debug_assert!(counter < 1 << 36, "a stream holds 2^36 counters");
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..].copy_from_slice(DOMAIN);
    let mut rng = ChaCha8Rng::from_seed(key);
    rng.set_stream(stream);
    rng.set_word_pos(u128::from(counter) << WORDS_PER_COUNTER);
    rng
}

/// `n` numbers, uniform in [0, 1): multiples of 2^-24.
pub fn uniform(seed: u64, stream: u64, counter: u64, n: usize) -> Vec<f32> {
    let mut rng = generator(seed, stream, counter);
    (0..n).map(|_| (rng.next_u32() >> 8) as f32 * 2f32.powi(-24)).collect()
}

/// `n` numbers of mean 0 and variance 1, close to a normal distribution.
///
/// Each is the sum of twelve uniform numbers less 6 (Irwin-Hall): good enough for start
/// values, never beyond ±6, and exact on every platform, which a logarithm or cosine of the
/// platform's own library would not be.
pub fn normal(seed: u64, stream: u64, counter: u64, n: usize) -> Vec<f32> {
    let mut rng = generator(seed, stream, counter);
    (0..n)
        .map(|_| {
            let sum: u64 = (0..12).map(|_| u64::from(rng.next_u32())).sum();
            (sum as f64 * 2f64.powi(-32) - 6.0) as f32
        })
        .collect()
}

/// A number below `bound`, each equally likely (Lemire, *Fast random integer generation in an
/// interval*, 2019). `bound` must not be 0.
pub(crate) fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    loop {
        let wide = u128::from(rng.next_u64()) * u128::from(bound);
        // The lowest (2^64 mod bound) fractions would make some results more likely.
        if wide as u64 >= bound.wrapping_neg() % bound {
            return (wide >> 64) as u64;
        }
    }
}

/// Shuffles in place (Fisher-Yates, from the end).
pub fn shuffle<T>(rng: &mut ChaCha8Rng, items: &mut [T]) {
    for i in (1..items.len()).rev() {
        items.swap(i, below(rng, i as u64 + 1) as usize);
    }
}

/// The numbers 0..n in random order.
pub fn permutation(seed: u64, stream: u64, counter: u64, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    shuffle(&mut generator(seed, stream, counter), &mut order);
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// These values are what a seed means. If this test fails, published splits and figures
    /// no longer hold: change the code back, not the numbers.
    #[test]
    fn the_numbers_of_a_seed_never_change() {
        assert_eq!(permutation(1, stream::SPLIT, 0, 10), PERMUTATION);
        assert_eq!(uniform(7, 4, 3, 3), UNIFORM);
        assert_eq!(normal(7, 3, 3, 3), NORMAL);
    }
    const PERMUTATION: [usize; 10] = [9, 2, 8, 7, 0, 3, 1, 5, 4, 6];
    const UNIFORM: [f32; 3] = [0.6972785, 0.66941214, 0.45309055];
    const NORMAL: [f32; 3] = [-1.2396983, 1.2288587, -0.50246525];

    #[test]
    fn streams_seeds_and_counters_differ() {
        let a = uniform(1, 1, 1, 8);
        assert_eq!(a, uniform(1, 1, 1, 8));
        for (seed, stream, counter) in [(2, 1, 1), (1, 2, 1), (1, 1, 2)] {
            assert_ne!(a, uniform(seed, stream, counter, 8));
        }
    }

    #[test]
    fn more_numbers_keep_the_first_ones() {
        assert_eq!(uniform(1, 1, 5, 100)[..10], uniform(1, 1, 5, 10)[..]);
    }

    #[test]
    fn moments_are_right() {
        let n = 100_000;
        let mean = |v: &[f32]| v.iter().map(|x| f64::from(*x)).sum::<f64>() / n as f64;
        let square = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n as f64;
        let u = uniform(3, 0, 0, n);
        assert!((mean(&u) - 0.5).abs() < 0.005 && u.iter().all(|x| (0.0..1.0).contains(x)));
        let z = normal(3, 0, 0, n);
        assert!(mean(&z).abs() < 0.01 && (square(&z) - 1.0).abs() < 0.02);
    }

    #[test]
    fn every_place_is_equally_likely() {
        let mut counts = [0; 5];
        for seed in 0..5_000 {
            let first = permutation(seed, 0, 0, 5)[0];
            counts[first] += 1;
        }
        // 1,000 each; the standard deviation is 28.
        assert!(counts.iter().all(|c| (850..1150).contains(c)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn a_permutation_has_every_number_once(seed: u64, n in 0usize..300) {
            let mut order = permutation(seed, 1, 0, n);
            order.sort_unstable();
            prop_assert_eq!(order, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn below_stays_below(seed: u64, bound in 1u64..) {
            prop_assert!(below(&mut generator(seed, 0, 0), bound) < bound);
        }
    }
}
