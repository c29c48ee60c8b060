//! Linear models on sparse rows, learnt by dual coordinate descent (Hsieh et al., *A dual coordinate descent method for
//! large-scale linear SVM*, ICML 2008; Ho & Lin, *Large-scale linear support vector regression*, JMLR 2012).
//!
//! Both minimise ½|w|² + C·Σ loss². For a label the loss is the hinge max(0, 1 - y·w·x), for a number the distance
//! y - w·x, which is ridge regression. In the dual each example has one variable, and each update solves for it
//! exactly: there is no learning rate to tune.

use crate::data::rng::{self, stream};

/// A row: columns, each once, and their values.
pub(super) type Row = Vec<(u32, f32)>;

/// C: the usual value for rows of length 1.
const C: f64 = 1.0;
/// Passes end when no variable moves further, ...
const TOLERANCE: f64 = 1e-3;
/// ... or after so many, ...
const MOST_PASSES: usize = 50;
/// ... or fewer of much data: so many values are looked at, ...
const WORK: usize = 1_000_000_000;
/// ... and so many passes are made in any case.
const LEAST_PASSES: usize = 3;

/// What the numbers that are learnt mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// 1 or -1: which side of 0.
    Hinge,
    /// Any number.
    Distance,
}

/// A weight for each column, and a bias.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Linear {
    weights: Vec<f32>,
    bias: f32,
}

impl Linear {
    /// Learns `wanted`, a number for each row. The bias is the weight of a further column of ones.
    pub(super) fn learn(rows: &[Row], columns: usize, wanted: &[f32], loss: Loss, seed: u64) -> Self {
        let values: usize = rows.iter().map(Vec::len).sum();
        let passes = (WORK / values.max(1)).clamp(LEAST_PASSES, MOST_PASSES);
        let squares: Vec<f64> =
            rows.iter().map(|row| 1.0 + row.iter().map(|(_, x)| f64::from(*x).powi(2)).sum::<f64>()).collect();
        let mut model = Linear { weights: vec![0.0; columns], bias: 0.0 };
        let mut duals = vec![0f64; rows.len()];
        for pass in 0..passes {
            let mut moved = 0f64;
            for i in rng::permutation(seed, stream::LINEAR, pass as u64, rows.len()) {
                let wanted = f64::from(wanted[i]);
                let sign = if loss == Loss::Hinge { wanted } else { 1.0 };
                let gradient = match loss {
                    Loss::Hinge => sign * f64::from(model.value(&rows[i])) - 1.0,
                    Loss::Distance => f64::from(model.value(&rows[i])) - wanted,
                } + duals[i] / (2.0 * C);
                let mut dual = duals[i] - gradient / (squares[i] + 1.0 / (2.0 * C));
                if loss == Loss::Hinge {
                    dual = dual.max(0.0);
                }
                let change = dual - duals[i];
                if change != 0.0 {
                    duals[i] = dual;
                    moved = moved.max(change.abs());
                    model.add(&rows[i], (change * sign) as f32);
                }
            }
            if moved < TOLERANCE {
                break;
            }
        }
        model
    }

    /// What it says of a row.
    pub(super) fn value(&self, row: &Row) -> f32 {
        self.bias + row.iter().map(|(column, x)| self.weights[*column as usize] * x).sum::<f32>()
    }

    fn add(&mut self, row: &Row, times: f32) {
        row.iter().for_each(|(column, x)| self.weights[*column as usize] += times * x);
        self.bias += times;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        let rows: Vec<Row> = (0..40).map(|i| vec![(i % 2, 1.0), (2 + i % 5, 0.5)]).collect();
        let wanted: Vec<f32> = (0..40).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let model = Linear::learn(&rows, 7, &wanted, Loss::Hinge, 1);
        assert!(rows.iter().zip(&wanted).all(|(row, wanted)| model.value(row) * wanted > 0.8), "{model:?}");
        assert_eq!(model, Linear::learn(&rows, 7, &wanted, Loss::Hinge, 1));
    }

    /// Against the closed form: of w and b both shrunk, w = Σ(x·y) and so on solve (XᵀX + I/2C)·w = Xᵀy.
    #[test]
    fn numbers_are_those_of_ridge_regression() {
        let (xs, ys) = ([-1.0f32, 0.0, 1.0, 2.0], [1.0f32, 2.0, 2.5, 4.5]);
        let rows: Vec<Row> = xs.iter().map(|x| vec![(0, *x)]).collect();
        let model = Linear::learn(&rows, 1, &ys, Loss::Distance, 1);
        // Sums: x² 6, x 2, 1 4; x·y 10.5, y 10; and half a unit of ridge on both.
        let determinant = 6.5 * 4.5 - 2.0 * 2.0;
        let (w, b) = ((10.5 * 4.5 - 2.0 * 10.0) / determinant, (6.5 * 10.0 - 2.0 * 10.5) / determinant);
        assert!((model.weights[0] - w).abs() < 5e-3 && (model.bias - b).abs() < 5e-3, "{model:?}, not {w} and {b}");
    }

    #[test]
    fn no_rows_are_no_weights() {
        let model = Linear::learn(&[], 3, &[], Loss::Hinge, 1);
        assert_eq!(model.value(&vec![(2, 1.0)]), 0.0);
    }
}
