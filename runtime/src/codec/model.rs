//! How likely each class of units is to be zero: a line through a few knots.
//!
//! The knots are logits in steps of 1/12, from 0 (p = 2.3e-5) over 128 (p = ½) to 255, at equal
//! distances over the classes; between two of them the logit is the line's, rounded. One knot is
//! one probability for all. The encoder tries several numbers of knots and keeps the one that
//! makes the stream and the knots together smallest.

use std::sync::LazyLock;

use super::rank::CLASSES;

/// Numbers of knots that an encoder tries. A decoder takes any from 1 to [`CLASSES`].
const TRIED: [usize; 9] = [1, 2, 3, 4, 6, 8, 12, 16, 32];

/// Costs are in steps of 2^-16 bits.
const BIT: f64 = 65536.0;

/// The probability of zero for a logit, in steps of 2^-16: round(2^16 / (1 + e^((128 - i) / 12))).
///
/// No value is near a tie (a test says how far), so every platform's `exp` gives the same.
static SHARE: LazyLock<[u16; 256]> = LazyLock::new(|| std::array::from_fn(|i| share(i).round() as u16));

/// The cost of a zero and of a one for a logit, likewise far from ties.
static COST: LazyLock<[[u64; 2]; 256]> = LazyLock::new(|| {
    std::array::from_fn(|i| {
        let zero = f64::from(SHARE[i]);
        [zero, 65536.0 - zero].map(|share| cost(share).round() as u64)
    })
});

fn share(logit: usize) -> f64 {
    65536.0 / (1.0 + ((128.0 - logit as f64) / 12.0).exp())
}

fn cost(share: f64) -> f64 {
    BIT * (16.0 - share.log2())
}

/// Units and zeros of a class.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Count {
    pub(super) zeros: u64,
    pub(super) ones: u64,
}

/// The share of zero for every class that a byte can name; those that cannot be are as the last.
pub(super) fn shares(knots: &[u8]) -> [u16; 256] {
    std::array::from_fn(|class| SHARE[usize::from(logit(knots, class.min(CLASSES - 1)))])
}

/// The logit of a class.
fn logit(knots: &[u8], class: usize) -> u8 {
    const END: usize = CLASSES - 1;
    let (knot, part) = (class * (knots.len() - 1) / END, class * (knots.len() - 1) % END);
    let (left, right) = (usize::from(knots[knot]), usize::from(knots[(knot + 1).min(knots.len() - 1)]));
    ((left * (END - part) + right * part + END / 2) / END) as u8
}

/// The knots that code these counts best, and the cost of the bits in bytes, rounded up.
pub(super) fn fit(counts: &[Count; CLASSES]) -> (Vec<u8>, u64) {
    let fit = |number| {
        let knots = fit_knots(counts, number);
        let bytes = total(counts, &knots).div_ceil(8 << 16);
        (knots, bytes)
    };
    let size = |(knots, bytes): &(Vec<u8>, u64)| knots.len() as u64 + bytes;
    let (first, others) = (TRIED[0], &TRIED[1..]);
    others.iter().fold(fit(first), |best, number| {
        let next = fit(*number);
        if size(&next) < size(&best) { next } else { best }
    })
}

/// Moves each knot up and down, by less and less, for as long as that makes the bits cheaper.
fn fit_knots(counts: &[Count; CLASSES], number: usize) -> Vec<u8> {
    let mut knots = vec![128u8; number];
    let mut least = total(counts, &knots);
    for step in [64u8, 32, 16, 8, 4, 2, 1, 4, 2, 1] {
        let mut moved = true;
        while moved {
            moved = false;
            for knot in 0..number {
                for to in [knots[knot].saturating_sub(step), knots[knot].saturating_add(step)] {
                    let from = std::mem::replace(&mut knots[knot], to);
                    let cost = total(counts, &knots);
                    if cost < least {
                        (least, moved) = (cost, true);
                    } else {
                        knots[knot] = from;
                    }
                }
            }
        }
    }
    knots
}

fn total(counts: &[Count; CLASSES], knots: &[u8]) -> u64 {
    let cost = |(class, count): (usize, &Count)| {
        let [zero, one] = COST[usize::from(logit(knots, class))];
        count.zeros * zero + count.ones * one
    };
    counts.iter().enumerate().map(cost).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_logit_has_a_share_far_from_a_tie() {
        let far = |x: f64| ((x - x.floor()) - 0.5).abs();
        for i in 0..256 {
            assert!(SHARE[i] > 0 && far(share(i)) > 1e-6, "{i}: {}", share(i));
            for s in [f64::from(SHARE[i]), 65536.0 - f64::from(SHARE[i])] {
                assert!(far(cost(s)) > 1e-6, "{i}: {}", cost(s));
            }
        }
        assert_eq!([SHARE[0], SHARE[128], SHARE[255]], [2, 32768, 65534]);
        assert_eq!(COST[128], [65536, 65536]);
    }

    #[test]
    fn knots_make_lines() {
        assert_eq!((0..CLASSES).map(|c| logit(&[7], c)).max(), Some(7));
        assert_eq!([0, 21, 63].map(|c| logit(&[10, 73], c)), [10, 31, 73]);
        assert_eq!([0, 31, 32, 63].map(|c| logit(&[200, 0, 100], c)), [200, 3, 2, 100]);
        let every: Vec<u8> = (0..CLASSES as u8).map(|c| c.wrapping_mul(37)).collect();
        assert!((0..CLASSES).all(|c| logit(&every, c) == every[c]));
    }

    #[test]
    fn the_fit_is_near_the_entropy_and_no_larger_than_it_must_be() {
        let line = std::array::from_fn(|class| Count { zeros: 64 - class as u64, ones: 1 + 30 * class as u64 });
        let (knots, bytes) = fit(&line);
        let entropy = |c: &Count| {
            let (z, o) = (c.zeros as f64, c.ones as f64);
            let part = |n: f64| if n > 0.0 { -n * (n / (z + o)).log2() } else { 0.0 };
            (part(z) + part(o)) / 8.0
        };
        let ideal: f64 = line.iter().map(entropy).sum();
        assert!((bytes as f64) < ideal * 1.02 + 2.0, "{knots:?}: {bytes} of {ideal}");
        let same = [Count { zeros: 5, ones: 95 }; CLASSES];
        assert_eq!(fit(&same).0.len(), 1);
        let all_kept = [Count { zeros: 0, ones: 1000 }; CLASSES];
        assert_eq!(fit(&all_kept), (vec![0], 1));
    }
}
