//! Clipping and AdamW in the step graph.

use overmask::onnx::GraphBuilder;
use overmask::onnx::proto::data_type;

use super::{Role, Trained, declare, name, next};

/// AdamW's decay of the first moment.
pub const BETA1: f64 = 0.9;
/// AdamW's decay of the second moment.
pub const BETA2: f64 = 0.999;

/// Clips the gradients' common norm and lets AdamW (Loshchilov & Hutter 2019) change each
/// parameter. Returns the norm before clipping.
///
/// The moments are kept without their factors 1 - β, and the caller folds those and the
/// bias correction into rate and epsilon, which saves three passes over every parameter:
/// m' = β₁·m + g, v' = β₂·v + g², p' = p - rate · m' / (√v' + ε).
///
/// The gradients are those of the loss times `loss_scale`, a scalar value, if there is one.
pub(super) fn update(
    b: &mut GraphBuilder,
    trained: &[Trained],
    gradients: &[String],
    clip_norm: f32,
    loss_scale: Option<&str>,
) -> String {
    for rate in [name::SCORE_RATE, name::DENSE_RATE, name::HEAD_RATE] {
        if trained.iter().any(|t| rate_of(t) == rate) {
            b.input(rate, data_type::FLOAT, &[]);
        }
    }
    b.input(name::EPSILON, data_type::FLOAT, &[]);
    let squares: Vec<String> =
        gradients.iter().map(|g| b.op("ReduceSumSquare", &[g], &[("keepdims", 0i64.into())])).collect();
    let squares: Vec<&str> = squares.iter().map(String::as_str).collect();
    let total = b.op("Sum", &squares, &[]);
    let mut norm = b.op("Sqrt", &[&total], &[]);
    if let Some(factor) = loss_scale {
        norm = b.op("Div", &[&norm, factor], &[]);
    }
    let (tiny, limit, one) = (b.float(1e-6), b.float(clip_norm), b.float(1.0));
    let above = b.op("Add", &[&norm, &tiny], &[]);
    let ratio = b.op("Div", &[&limit, &above], &[]);
    let mut scale = b.op("Min", &[&ratio, &one], &[]);
    if let Some(factor) = loss_scale {
        scale = b.op("Div", &[&scale, factor], &[]);
    }
    let (beta1, beta2) = (b.float(BETA1 as f32), b.float(BETA2 as f32));
    for (parameter, gradient) in trained.iter().zip(gradients) {
        let [p, m, v] = parameter.state();
        for moment in [&m, &v] {
            declare(&parameter.dims, |dims| drop(b.input(moment, data_type::FLOAT, dims)));
        }
        let g = b.op("Mul", &[gradient, &scale], &[]);
        let old = b.op("Mul", &[&m, &beta1], &[]);
        b.node("Add", &[&old, &g], &[&next(&m)], &[]);
        let square = b.op("Mul", &[&g, &g], &[]);
        let old = b.op("Mul", &[&v, &beta2], &[]);
        b.node("Add", &[&old, &square], &[&next(&v)], &[]);
        let root = b.op("Sqrt", &[&next(&v)], &[]);
        let root = b.op("Add", &[&root, name::EPSILON], &[]);
        let direction = b.op("Div", &[&next(&m), &root], &[]);
        let change = b.op("Mul", &[&direction, rate_of(parameter)], &[]);
        b.node("Sub", &[&p, &change], &[&next(&p)], &[]);
        for state in [p, m, v] {
            declare(&parameter.dims, |dims| b.output(&next(&state), data_type::FLOAT, dims));
        }
    }
    norm
}

/// The input with a parameter's step size.
pub(super) fn rate_of(parameter: &Trained) -> &'static str {
    match parameter.role {
        Role::Scores(_) => name::SCORE_RATE,
        Role::Dense => name::DENSE_RATE,
        Role::Head => name::HEAD_RATE,
    }
}
