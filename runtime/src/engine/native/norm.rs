//! Layer norm of rows that lie in panels.

use overmask_kernels::{NR, Row};
use rten_simd::{Isa, SimdOp};
use rten_vecmath::{Normalize, NormalizeOptions, Sum, SumSquareSub};

use super::model::Norm;

/// Layer norm (Ba et al. 2016) of each row, in place.
pub(super) struct LayerNorm<'a, 'b> {
    pub(super) norm: &'a Norm,
    pub(super) epsilon: f32,
    /// The rows of each panel.
    pub(super) panels: &'a mut [&'b mut [Row]],
    /// Memory for a row.
    pub(super) row: &'a mut Vec<f32>,
}

impl SimdOp for LayerNorm<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let LayerNorm { norm, epsilon, panels, row } = self;
        let width = norm.scale.len();
        row.resize(panels.len() * NR, 0.0);
        for i in 0..panels.first().map_or(0, |panel| panel.len()) {
            for (part, panel) in row.as_chunks_mut().0.iter_mut().zip(&*panels) {
                *part = panel[i];
            }
            let values = &mut row[..width];
            let mean = Sum::new(values).eval(isa) / width as f32;
            let variance = SumSquareSub::new(values, mean).eval(isa) / width as f32;
            let options = NormalizeOptions {
                pre_scale_bias: mean,
                scale: 1.0 / (variance + epsilon).sqrt(),
                element_scale: Some(&norm.scale),
                element_bias: Some(&norm.bias),
                ..Default::default()
            };
            Normalize::new_mut(values, options).eval(isa);
            for (part, panel) in row.as_chunks().0.iter().zip(&mut *panels) {
                panel[i] = *part;
            }
        }
    }
}
