//! Reverse-mode differentiation of ONNX graphs.
//!
//! [`differentiate`] walks a forward graph backwards from a scalar loss and appends, for each
//! node on the way to a wanted value, the nodes that carry the gradient through it
//! (Griewank & Walther, *Evaluating Derivatives*, 2008, chapter 3). The result is an ordinary ONNX
//! graph of standard operators.
//!
//! Each operator family has a file with its rules. A rule sees its node, the gradient of the
//! node's first output, and the symbolic [shapes](shape) of all forward values, and gives a
//! gradient to each input that wants one.

mod contents;
mod conv;
mod dim;
mod elementwise;
mod gather;
mod matmul;
mod movement;
mod norm;
mod reduce;
pub mod shape;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use overmask_graph::GraphBuilder;
use overmask_graph::proto::NodeProto;

use self::dim::Dim;
use self::shape::Shapes;

/// Why a graph cannot be differentiated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AutodiffError {
    /// No rule for an operator on the way from a wanted value to the loss.
    #[error("node `{node}`: operator `{op}` has no gradient rule; freeze what is below it or rewrite the graph")]
    NoRule {
        /// The node.
        node: String,
        /// Its operator.
        op: String,
    },
    /// A rule exists, but not for this use of the operator.
    #[error("node `{node}` ({op}): {reason}")]
    Unsupported {
        /// The node.
        node: String,
        /// Its operator.
        op: String,
        /// What about it is not covered.
        reason: String,
    },
    /// The loss does not depend on a wanted value.
    #[error("the loss does not depend on `{value}`")]
    Unconnected {
        /// The value.
        value: String,
    },
}

type Rule = fn(&mut Backward<'_>, &NodeProto, &str) -> Result<(), AutodiffError>;

/// The rule of an operator.
fn rule(op: &str) -> Option<Rule> {
    elementwise::rule(op)
        .or_else(|| matmul::rule(op))
        .or_else(|| norm::rule(op))
        .or_else(|| movement::rule(op))
        .or_else(|| reduce::rule(op))
        .or_else(|| gather::rule(op))
        .or_else(|| conv::rule(op))
}

/// Appends to the graph the gradients of the scalar `loss` with respect to each value of
/// `wrt`, and returns their names in that order.
///
/// A value of `wrt` may be an input, an initializer or an inner value. No gradient goes through
/// an inner value to what it is made of: with x and y = f(x) both wanted, that of x is what
/// reaches it on other ways than through y.
///
/// # Errors
/// When a node lacks inputs or holds a graph, a node on the way has no rule, a shape that a rule
/// needs is unknown, or the loss does not depend on a wanted value.
pub fn differentiate(b: &mut GraphBuilder, loss: &str, wrt: &[String]) -> Result<Vec<String>, AutodiffError> {
    b.graph().node.iter().try_for_each(check_form)?;
    norm::name_statistics(b.nodes_mut());
    let shapes = Shapes::infer(b.graph())?;
    let nodes: Vec<NodeProto> = b.graph().node.clone();
    let mut active: HashSet<String> = wrt.iter().cloned().collect();
    for node in nodes.iter().filter(|n| !is_constant_almost_everywhere(&n.op_type)) {
        if node.input.iter().any(|i| active.contains(i)) {
            active.extend(node.output.iter().filter(|o| !o.is_empty()).cloned());
        }
    }
    // A wanted inner value is a leaf: its producer gets no gradient.
    let wanted: HashSet<&String> = wrt.iter().collect();
    check_rules(&nodes, loss, &active, &wanted)?;
    let one = b.float(1.0);
    let mut back = Backward { b, shapes, active, gradients: HashMap::from([(loss.to_owned(), vec![one])]) };
    for node in nodes.iter().rev() {
        let Some(output) = node.output.first() else { continue };
        let needed = node.input.iter().any(|i| back.wants(i));
        if !needed || wanted.contains(output) {
            continue;
        }
        if node.op_type == "Split" {
            movement::split(&mut back, node)?;
            continue;
        }
        let Some(gradient) = back.total(output) else { continue };
        let rule = rule(&node.op_type)
            .ok_or_else(|| AutodiffError::NoRule { node: node.name.clone(), op: node.op_type.clone() })?;
        rule(&mut back, node, &gradient)?;
    }
    wrt.iter()
        .map(|value| back.total(value).ok_or_else(|| AutodiffError::Unconnected { value: value.clone() }))
        .collect()
}

/// Operators whose outputs do not change when inputs change a little: sizes and truth values.
fn is_constant_almost_everywhere(op: &str) -> bool {
    matches!(
        op,
        "Shape"
            | "Size"
            | "Equal"
            | "Greater"
            | "GreaterOrEqual"
            | "Less"
            | "LessOrEqual"
            | "And"
            | "Or"
            | "Not"
            | "IsNaN"
    )
}

/// Checks that there is a rule for every node between what is wanted and the loss, before any rule
/// stumbles over a shape that one without a rule has left unknown.
fn check_rules(
    nodes: &[NodeProto],
    loss: &str,
    active: &HashSet<String>,
    wanted: &HashSet<&String>,
) -> Result<(), AutodiffError> {
    let mut reaching = HashSet::from([loss]);
    for node in nodes.iter().rev() {
        let gets = node.output.iter().any(|o| reaching.contains(o.as_str()) && active.contains(o));
        if !gets || node.output.first().is_some_and(|o| wanted.contains(o)) {
            continue;
        }
        if rule(&node.op_type).is_none() && node.op_type != "Split" {
            return Err(AutodiffError::NoRule { node: node.name.clone(), op: node.op_type.clone() });
        }
        reaching.extend(node.input.iter().map(String::as_str));
    }
    Ok(())
}

/// Checks what rules rely on: that a node has the inputs that its operator cannot do without, and
/// that it reads nothing but its inputs.
fn check_form(node: &NodeProto) -> Result<(), AutodiffError> {
    let needed = match node.op_type.as_str() {
        "Where" | "OneHot" => 3,
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Equal"
        | "And" | "Or" | "Gemm" | "MatMul" | "Reshape" | "Expand" | "Gather" | "GatherElements" | "GatherND"
        | "Tile" | "Pad" | "Conv" | "LayerNormalization" | "CumSum" => 2,
        "Neg" | "Sqrt" | "Exp" | "Log" | "Erf" | "Tanh" | "Relu" | "Sigmoid" | "Identity" | "Cast" | "Softmax"
        | "LogSoftmax" | "Transpose" | "Unsqueeze" | "Squeeze" | "Slice" | "Shape" | "ReduceSum" | "ReduceMean"
        | "Abs" | "Reciprocal" | "Clip" | "Not" | "IsNaN" | "Sin" | "Cos" | "Max" | "Min" | "Split"
        | "ConstantOfShape" | "Flatten" => 1,
        _ => 0,
    };
    let found = node.input.len();
    if found < needed {
        return Err(unsupported(node, format!("has {found} of at least {needed} inputs")));
    }
    // A graph inside a node reads values of the graph around it without naming them as inputs.
    if node.attribute.iter().any(|a| a.g.is_some() || !a.graphs.is_empty()) {
        return Err(unsupported(node, "holds a graph of its own"));
    }
    Ok(())
}

/// The state of a backward walk.
struct Backward<'a> {
    b: &'a mut GraphBuilder,
    shapes: Shapes,
    /// Values that depend on what is wanted.
    active: HashSet<String>,
    /// What each use of a value has contributed to its gradient.
    gradients: HashMap<String, Vec<String>>,
}

impl Backward<'_> {
    /// Whether a gradient for this value is of use.
    fn wants(&self, value: &str) -> bool {
        self.active.contains(value)
    }

    /// Adds a contribution, of the value's own shape.
    fn give(&mut self, value: &str, gradient: String) {
        self.gradients.entry(value.to_owned()).or_default().push(gradient);
    }

    /// Adds a contribution that has the shape of `like`, to which the value was broadcast:
    /// sums over the broadcast axes.
    fn give_broadcast(
        &mut self,
        node: &NodeProto,
        value: &str,
        gradient: String,
        like: &str,
    ) -> Result<(), AutodiffError> {
        let (from, to) = (self.shape(node, like)?, self.shape(node, value)?);
        let Some(extra) = from.len().checked_sub(to.len()) else {
            return Err(unsupported(node, format!("`{value}` has more axes than `{like}`, to which it is broadcast")));
        };
        let mut axes: Vec<i64> = (0..extra as i64).collect();
        axes.extend(
            (0..to.len()).filter(|i| to[*i] == Dim::one() && from[extra + i] != Dim::one()).map(|i| (extra + i) as i64),
        );
        if axes.is_empty() {
            self.give(value, gradient);
            return Ok(());
        }
        let list = self.b.shape(&axes);
        let mut sum = self.b.op("ReduceSum", &[&gradient, &list], &[("keepdims", 1i64.into())]);
        if extra > 0 {
            let leading = self.b.shape(&axes[..extra]);
            sum = self.b.op("Squeeze", &[&sum, &leading], &[]);
        }
        self.give(value, sum);
        Ok(())
    }

    /// The sum of all contributions so far.
    fn total(&mut self, value: &str) -> Option<String> {
        let parts = self.gradients.get(value)?.clone();
        let (first, rest) = parts.split_first()?;
        let sum = rest.iter().fold(first.clone(), |sum, part| self.b.op("Add", &[&sum, part], &[]));
        self.gradients.insert(value.to_owned(), vec![sum.clone()]);
        Some(sum)
    }

    fn shape(&self, node: &NodeProto, value: &str) -> Result<Vec<Dim>, AutodiffError> {
        if let Some(shape) = self.shapes.get(value) {
            return Ok(shape.to_vec());
        }
        let reason = match self.unknown(value) {
            Some(source) if source.name != node.name => {
                format!(
                    "the shape of `{value}` is not known: none is told of node `{}` ({})",
                    source.name, source.op_type
                )
            }
            _ => format!("the shape of `{value}` is not known"),
        };
        Err(unsupported(node, reason))
    }

    /// The node from which on shapes are not known, of those that a value hangs on.
    fn unknown(&self, value: &str) -> Option<&NodeProto> {
        let mut value = value;
        let mut found = None;
        // Nodes come after what they read: each is passed once.
        for node in self.b.graph().node.iter().rev().filter(|n| n.op_type != "Shape") {
            if node.output.first().is_some_and(|output| output == value) {
                found = Some(node);
                let known = |input: &String| input.is_empty() || self.shapes.get(input).is_some();
                match node.input.iter().find(|input| !known(input)) {
                    Some(input) => value = input,
                    None => break,
                }
            }
        }
        found
    }

    fn op(&mut self, op: &str, inputs: &[&str]) -> String {
        self.b.op(op, inputs, &[])
    }

    /// The value times a constant.
    fn times(&mut self, value: &str, factor: f32) -> String {
        let factor = self.b.float(factor);
        self.op("Mul", &[value, &factor])
    }

    /// The gradient reshaped to the shape that `value` has when the graph runs.
    fn reshape_like(&mut self, gradient: &str, value: &str) -> String {
        let shape = self.op("Shape", &[value]);
        self.op("Reshape", &[gradient, &shape])
    }
}

fn unsupported(node: &NodeProto, reason: impl Into<String>) -> AutodiffError {
    AutodiffError::Unsupported { node: node.name.clone(), op: node.op_type.clone(), reason: reason.into() }
}
