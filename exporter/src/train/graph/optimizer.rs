//! Clipping and AdamW in the step graph.

use overmask_graph::GraphBuilder;
use overmask_graph::proto::data_type;

use super::{Role, Trained, declare, name, next};

/// AdamW's decay of the first moment.
pub const BETA1: f64 = 0.9;
/// AdamW's decay of the second moment.
pub const BETA2: f64 = 0.999;

/// What is added to the norm that gradients are clipped by, so that a norm of 0 divides nothing; PyTorch's.
pub const CLIP_EPSILON: f32 = 1e-6;

/// How gradients change parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Optimizer {
    /// Largest norm of all gradients together.
    pub clip_norm: f32,
    /// How much scores with small gradients are held back; 0 for plain AdamW.
    pub damping: f32,
    /// Whether the loss is scaled before it is differentiated.
    pub scales_loss: bool,
}

/// Clips the gradients' common norm and lets AdamW (Loshchilov & Hutter 2019), without weight decay,
/// change each parameter. Returns the norm before clipping. Scores whose rate is 0 are not part of the norm.
///
/// AdamW moves every parameter about as far, however small its gradients are. For weights that is its strength;
/// of scores it makes many cross the threshold that hardly matter. Theirs are damped: the root of their tensor's
/// mean second moment, `damping` times, is added to ε, so that those with small gradients stay nearer to where
/// they were.
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
    optimizer: Optimizer,
    loss_scale: Option<&str>,
) -> String {
    for rate in [name::SCORE_RATE, name::DENSE_RATE, name::HEAD_RATE] {
        if trained.iter().any(|t| rate_of(t) == rate) {
            b.input(rate, data_type::FLOAT, &[]);
        }
    }
    b.input(name::EPSILON, data_type::FLOAT, &[]);
    let moves = trained.iter().any(|t| rate_of(t) == name::SCORE_RATE).then(|| b.op("Sign", &[name::SCORE_RATE], &[]));
    let of = |(parameter, gradient): (&Trained, &String)| {
        let squares = b.op("ReduceSumSquare", &[gradient], &[("keepdims", 0i64.into())]);
        match &moves {
            Some(moves) if rate_of(parameter) == name::SCORE_RATE => b.op("Mul", &[&squares, moves], &[]),
            _ => squares,
        }
    };
    let squares: Vec<String> = trained.iter().zip(gradients).map(of).collect();
    let squares: Vec<&str> = squares.iter().map(String::as_str).collect();
    let total = b.op("Sum", &squares, &[]);
    let mut norm = b.op("Sqrt", &[&total], &[]);
    if let Some(factor) = loss_scale {
        norm = b.op("Div", &[&norm, factor], &[]);
    }
    let (tiny, limit, one) = (b.float(CLIP_EPSILON), b.float(optimizer.clip_norm), b.float(1.0));
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
        let epsilon = match parameter.role {
            Role::Scores(_) if optimizer.damping > 0.0 => {
                let mean = b.op("ReduceMean", &[&next(&v)], &[("keepdims", 0i64.into())]);
                let (size, damping) = (b.op("Sqrt", &[&mean], &[]), b.float(optimizer.damping));
                let damped = b.op("Mul", &[&size, &damping], &[]);
                b.op("Add", &[&damped, name::EPSILON], &[])
            }
            _ => name::EPSILON.to_owned(),
        };
        let root = b.op("Add", &[&root, &epsilon], &[]);
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
