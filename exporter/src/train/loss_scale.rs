//! The factor of the loss in f16.

use serde::{Deserialize, Serialize};

/// Steps without an overflow after which the factor is doubled.
const PATIENCE: u32 = 1000;
/// The largest factor.
const LARGEST: f32 = 16_777_216.0;

/// What the loss is multiplied by, so that its gradients are neither too small nor too large for f16:
/// halved when they overflow, doubled when they have not for long (Micikevicius et al., *Mixed precision
/// training*, 2018). It is a power of two, so that nothing is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct LossScale {
    factor: f32,
    /// Steps since it changed.
    steps: u32,
}

impl LossScale {
    pub(super) fn new() -> Self {
        LossScale { factor: 32_768.0, steps: 0 }
    }

    pub(super) fn factor(self) -> f32 {
        self.factor
    }

    /// A step went well.
    pub(super) fn passed(&mut self) {
        self.steps += 1;
        if self.steps == PATIENCE && self.factor < LARGEST {
            *self = LossScale { factor: 2.0 * self.factor, steps: 0 };
        }
    }

    /// Gradients overflowed. Whether it is worth another try: at a factor of 1 it is not the factor.
    pub(super) fn overflowed(&mut self) -> bool {
        let lower = self.factor > 1.0;
        if lower {
            *self = LossScale { factor: 0.5 * self.factor, steps: 0 };
            log::debug!("gradients overflowed: the loss scale is {} from now on", self.factor);
        }
        lower
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_falls_at_once_and_rises_slowly() {
        let mut scale = LossScale::new();
        assert!(scale.overflowed());
        assert_eq!(scale.factor(), 16_384.0);
        (0..PATIENCE - 1).for_each(|_| scale.passed());
        assert_eq!(scale.factor(), 16_384.0);
        scale.passed();
        assert_eq!(scale, LossScale::new());
        (0..20 * PATIENCE).for_each(|_| scale.passed());
        assert_eq!(scale.factor(), LARGEST);
        let tries = (0..100).take_while(|_| scale.overflowed()).count();
        assert_eq!((tries, scale.factor()), (24, 1.0));
    }
}
