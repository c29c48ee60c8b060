//! Learning rates over a run.

use super::graph::{BETA1, BETA2};

/// AdamW's epsilon, PyTorch's default.
const EPSILON: f64 = 1e-8;

/// The factor on a learning rate at `step` (from 0) of `steps`: rises linearly over the first
/// `warmup` part, then falls linearly to zero, as in BERT's fine-tuning.
pub fn factor(step: u64, steps: u64, warmup: f64) -> f64 {
    let rising = (warmup * steps as f64).ceil().max(1.0);
    let now = step as f64 + 1.0;
    if now <= rising { now / rising } else { (steps as f64 - step as f64) / (steps as f64 - rising) }
}

/// AdamW's rate and epsilon at `step` (from 0), for moments that are kept without their
/// factors 1 - β: the factors and the bias corrections of Kingma & Ba (2015) are folded in.
///
/// p - rate · m'/(√v' + ε') equals p - lr · m̂/(√v̂ + ε) with m = (1 - β₁)·m', v = (1 - β₂)·v'.
pub fn adamw(learning_rate: f64, step: u64) -> (f32, f32) {
    let t = step as i32 + 1;
    let (first, second) = ((1.0 - BETA1) / (1.0 - BETA1.powi(t)), (1.0 - BETA2) / (1.0 - BETA2.powi(t)));
    ((learning_rate * first / second.sqrt()) as f32, (EPSILON / second.sqrt()) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls() {
        let all: Vec<f64> = (0..100).map(|s| factor(s, 100, 0.06)).collect();
        assert_eq!(all[5], 1.0);
        assert!(all[..6].is_sorted() && all[6..].is_sorted_by(|a, b| a >= b));
        assert!(all[0] > 0.0 && all[99] > 0.0 && all[99] < 0.02);
        assert_eq!(factor(0, 1, 0.06), 1.0);
    }

    #[test]
    fn folded_moments_give_adamws_step() {
        let (mut m, mut v, mut folded_m, mut folded_v) = (0.0, 0.0, 0.0, 0.0);
        for (step, g) in [0.3f64, -0.2, 0.5, 1e-3].into_iter().enumerate() {
            (m, v) = (BETA1 * m + (1.0 - BETA1) * g, BETA2 * v + (1.0 - BETA2) * g * g);
            (folded_m, folded_v) = (BETA1 * folded_m + g, BETA2 * folded_v + g * g);
            let t = step as i32 + 1;
            let expected = 0.01 * (m / (1.0 - BETA1.powi(t))) / ((v / (1.0 - BETA2.powi(t))).sqrt() + EPSILON);
            let (rate, epsilon) = adamw(0.01, step as u64);
            let ours = f64::from(rate) * folded_m / (folded_v.sqrt() + f64::from(epsilon));
            assert!((ours - expected).abs() < 1e-8, "step {step}: {ours} against {expected}");
        }
    }
}
