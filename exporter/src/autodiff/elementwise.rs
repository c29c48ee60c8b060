//! Rules of operators that work element by element, with NumPy broadcasting.

use overmask_graph::proto::{NodeProto, data_type};

use super::{AutodiffError, Backward, Rule, unsupported};

type Outcome = Result<(), AutodiffError>;

pub(super) fn rule(op: &str) -> Option<Rule> {
    Some(match op {
        "Add" => add,
        "Sub" => sub,
        "Mul" => mul,
        "Div" => div,
        "Neg" => neg,
        "Sqrt" => sqrt,
        "Exp" => exp,
        "Log" => log,
        "Erf" => erf,
        "Tanh" => tanh,
        "Relu" => relu,
        "Sigmoid" => sigmoid,
        "Abs" => abs,
        "Reciprocal" => reciprocal,
        "Sin" => sin,
        "Cos" => cos,
        "Pow" => pow,
        "Max" => max,
        "Min" => min,
        "Clip" => clip,
        "Where" => select,
        "Identity" => identity,
        _ => return None,
    })
}

/// Gives `make(back)` to an input of a broadcasting operator if it wants a gradient.
fn to_input(
    back: &mut Backward<'_>,
    node: &NodeProto,
    index: usize,
    make: impl FnOnce(&mut Backward<'_>) -> String,
) -> Outcome {
    let input = &node.input[index];
    if back.wants(input) {
        let gradient = make(back);
        back.give_broadcast(node, input, gradient, &node.output[0])?;
    }
    Ok(())
}

fn add(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |_| dy.to_owned())?;
    to_input(back, node, 1, |_| dy.to_owned())
}

fn sub(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |_| dy.to_owned())?;
    to_input(back, node, 1, |g| g.op("Neg", &[dy]))
}

fn mul(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |g| g.op("Mul", &[dy, &node.input[1]]))?;
    to_input(back, node, 1, |g| g.op("Mul", &[dy, &node.input[0]]))
}

/// y = a / b: da = dy / b, db = -dy · y / b.
fn div(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |g| g.op("Div", &[dy, &node.input[1]]))?;
    to_input(back, node, 1, |g| {
        let product = g.op("Mul", &[dy, &node.output[0]]);
        let quotient = g.op("Div", &[&product, &node.input[1]]);
        g.op("Neg", &[&quotient])
    })
}

fn neg(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |g| g.op("Neg", &[dy]))
}

fn sqrt(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |g| {
        let half = g.times(dy, 0.5);
        g.op("Div", &[&half, &node.output[0]])
    })
}

fn exp(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |g| g.op("Mul", &[dy, &node.output[0]]))
}

fn log(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |g| g.op("Div", &[dy, &node.input[0]]))
}

/// erf'(x) = 2/√π · exp(-x²) = exp(ln(2/√π) - x²), which is one pass over the values less.
fn erf(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |g| {
        let square = g.op("Mul", &[&node.input[0], &node.input[0]]);
        let top = g.b.float(std::f32::consts::FRAC_2_SQRT_PI.ln());
        let exponent = g.op("Sub", &[&top, &square]);
        let slope = g.op("Exp", &[&exponent]);
        g.op("Mul", &[dy, &slope])
    })
}

/// tanh' = 1 - y².
fn tanh(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |g| {
        let square = g.op("Mul", &[&node.output[0], &node.output[0]]);
        let part = g.op("Mul", &[dy, &square]);
        g.op("Sub", &[dy, &part])
    })
}

fn relu(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |g| {
        let zero = g.b.float(0.0);
        let on = g.op("Greater", &[&node.input[0], &zero]);
        g.op("Where", &[&on, dy, &zero])
    })
}

/// σ' = y · (1 - y).
fn sigmoid(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |g| {
        let part = g.op("Mul", &[dy, &node.output[0]]);
        let rest = g.op("Mul", &[&part, &node.output[0]]);
        g.op("Sub", &[&part, &rest])
    })
}

fn abs(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |g| {
        let sign = g.op("Sign", &[&node.input[0]]);
        g.op("Mul", &[dy, &sign])
    })
}

/// (1/x)' = -y².
fn reciprocal(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |g| {
        let square = g.op("Mul", &[&node.output[0], &node.output[0]]);
        let product = g.op("Mul", &[dy, &square]);
        g.op("Neg", &[&product])
    })
}

fn sin(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |g| {
        let slope = g.op("Cos", &[&node.input[0]]);
        g.op("Mul", &[dy, &slope])
    })
}

fn cos(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |g| {
        let slope = g.op("Sin", &[&node.input[0]]);
        let product = g.op("Mul", &[dy, &slope]);
        g.op("Neg", &[&product])
    })
}

/// y = aᵇ: da = dy · b · aᵇ⁻¹. Exponents are constants, of any type of number.
fn pow(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    if back.wants(&node.input[1]) {
        return Err(unsupported(node, "a gradient of the exponent"));
    }
    to_input(back, node, 0, |g| {
        let float = i64::from(data_type::FLOAT);
        let exponent = g.b.op("Cast", &[&node.input[1]], &[("to", float.into())]);
        let one = g.b.float(1.0);
        let less = g.op("Sub", &[&exponent, &one]);
        let power = g.op("Pow", &[&node.input[0], &less]);
        let slope = g.op("Mul", &[&exponent, &power]);
        g.op("Mul", &[dy, &slope])
    })
}

fn max(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    extreme(back, node, dy, "GreaterOrEqual")
}

fn min(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    extreme(back, node, dy, "LessOrEqual")
}

/// The gradient goes to the input that was taken; of equal ones, to the first.
fn extreme(back: &mut Backward<'_>, node: &NodeProto, dy: &str, first_is_taken: &str) -> Outcome {
    let [a, b] = node.input.as_slice() else {
        return Err(unsupported(node, "other than two inputs"));
    };
    let first = back.op(first_is_taken, &[a, b]);
    let zero = back.b.float(0.0);
    to_input(back, node, 0, |g| g.op("Where", &[&first, dy, &zero]))?;
    to_input(back, node, 1, |g| g.op("Where", &[&first, &zero, dy]))
}

/// The gradient goes through where nothing was cut. The limits are constants.
fn clip(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    if node.input.iter().skip(1).any(|limit| back.wants(limit)) {
        return Err(unsupported(node, "a gradient of a limit"));
    }
    to_input(back, node, 0, |g| {
        let zero = g.b.float(0.0);
        let kept = g.op("Equal", &[&node.input[0], &node.output[0]]);
        g.op("Where", &[&kept, dy, &zero])
    })
}

fn select(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    let zero = back.b.float(0.0);
    to_input(back, node, 1, |g| g.op("Where", &[&node.input[0], dy, &zero]))?;
    to_input(back, node, 2, |g| g.op("Where", &[&node.input[0], &zero, dy]))
}

fn identity(back: &mut Backward<'_>, node: &NodeProto, dy: &str) -> Outcome {
    to_input(back, node, 0, |_| dy.to_owned())
}
