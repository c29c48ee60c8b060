//! Moves GELU's constants into the matrix products around it.
//!
//! Training keeps every inner value for the backward pass, so the runtime cannot fuse GELU as it
//! does for inference, and each multiplication by a constant is a pass over the widest
//! activations, forward and backward. With u = x/√2,
//!
//! x · ½ · (1 + erf(x/√2)) = √½ · u · (1 + erf(u)):
//!
//! the product that makes x makes u instead, the one that reads the result carries the √½, and
//! both do so for nothing, with their α and β.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

use crate::proto::{AttributeProto, GraphProto, NodeProto, TensorProto, data_type};

/// Rewrites each GELU between two `Gemm`s. Any other is left as it is: it means the same.
pub fn fold_constants(graph: &mut GraphProto) {
    let found: Vec<Gelu> = (0..graph.node.len()).filter_map(|erf| Gelu::around(graph, erf)).collect();
    let mut gone = Vec::new();
    for gelu in found {
        let nodes = &mut graph.node;
        let x = nodes[gelu.before].output[0].clone();
        set(&mut nodes[gelu.before], "alpha", FRAC_1_SQRT_2);
        set(&mut nodes[gelu.before], "beta", FRAC_1_SQRT_2);
        nodes[gelu.erf].input[0] = x;
        let gated = nodes[gelu.gated].output[0].clone();
        nodes[gelu.after].input[0] = gated;
        set(&mut nodes[gelu.after], "alpha", FRAC_1_SQRT_2);
        gone.extend([gelu.scaled, gelu.halved]);
    }
    let mut index = 0;
    graph.node.retain(|_| {
        index += 1;
        !gone.contains(&(index - 1))
    });
}

/// The nodes of x · (1 + erf(x/√2)) · ½ between two `Gemm`s, by index.
struct Gelu {
    /// Makes x.
    before: usize,
    /// x/√2.
    scaled: usize,
    erf: usize,
    /// x · (1 + erf).
    gated: usize,
    /// · ½.
    halved: usize,
    /// Reads the result.
    after: usize,
}

impl Gelu {
    fn around(graph: &GraphProto, erf: usize) -> Option<Gelu> {
        let nodes = &graph.node;
        let is = |i: usize, op: &str| (nodes[i].op_type == op).then_some(i);
        is(erf, "Erf")?;
        // A node may lack what its operator needs; the rules of differentiation say so.
        let input = |i: usize| nodes[i].input.first();
        let output = |i: usize| nodes[i].output.first();
        let scaled = is(producer(nodes, input(erf)?)?, "Div")?;
        let x = input(scaled)?;
        let gate = is(only_reader(nodes, output(erf)?)?, "Add")?;
        let gated = is(only_reader(nodes, output(gate)?)?, "Mul")?;
        let halved = is(only_reader(nodes, output(gated)?)?, "Mul")?;
        let after = is(only_reader(nodes, output(halved)?)?, "Gemm")?;
        let before = is(producer(nodes, x)?, "Gemm")?;
        let of_x = nodes.iter().filter(|n| n.input.contains(x)).count() == 2 && nodes[gated].input.contains(x);
        let constants =
            has_constant(graph, scaled, SQRT_2) && has_constant(graph, gate, 1.0) && has_constant(graph, halved, 0.5);
        let plain = [before, after].iter().all(|i| nodes[*i].attribute("alpha").is_none())
            && nodes[before].attribute("beta").is_none();
        let reads_first = input(after) == output(halved);
        (of_x && constants && plain && reads_first).then_some(Gelu { before, scaled, erf, gated, halved, after })
    }
}

fn producer(nodes: &[NodeProto], value: &str) -> Option<usize> {
    nodes.iter().position(|n| n.output.iter().any(|o| o == value))
}

fn only_reader(nodes: &[NodeProto], value: &str) -> Option<usize> {
    let mut readers = (0..nodes.len()).filter(|i| nodes[*i].input.iter().any(|v| v == value));
    let reader = readers.next()?;
    readers.next().is_none().then_some(reader)
}

/// Whether an input of the node is this constant.
fn has_constant(graph: &GraphProto, node: usize, value: f32) -> bool {
    let scalar = |t: &TensorProto| {
        let bytes: Option<[u8; 4]> = t.raw_data.as_slice().try_into().ok();
        (t.data_type == data_type::FLOAT).then_some(bytes).flatten().map(f32::from_le_bytes)
    };
    let inputs = &graph.node[node].input;
    graph.initializer.iter().any(|t| inputs.contains(&t.name) && scalar(t) == Some(value))
}

fn set(node: &mut NodeProto, name: &str, value: f32) {
    node.attribute.push(AttributeProto { name: name.to_owned(), ..value.into() });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GraphBuilder;

    /// A GELU between two products, with one of its constants.
    fn around(half: f32) -> GraphProto {
        let mut b = GraphBuilder::new("gelu");
        for name in ["x", "w", "bias"] {
            b.input(name, data_type::FLOAT, &["2", "2"]);
        }
        let wide = b.op("Gemm", &["x", "w", "bias"], &[]);
        let (root, one, half) = (b.float(SQRT_2), b.float(1.0), b.float(half));
        let scaled = b.op("Div", &[&wide, &root], &[]);
        let erf = b.op("Erf", &[&scaled], &[]);
        let gate = b.op("Add", &[&erf, &one], &[]);
        let gated = b.op("Mul", &[&wide, &gate], &[]);
        let halved = b.op("Mul", &[&gated, &half], &[]);
        b.node("Gemm", &[&halved, "w", "bias"], &["y"], &[]);
        b.finish().graph.unwrap()
    }

    #[test]
    fn constants_go_into_the_products() {
        let mut graph = around(0.5);
        fold_constants(&mut graph);
        let kinds: Vec<&str> = graph.node.iter().map(|node| node.op_type.as_str()).collect();
        assert_eq!(kinds, ["Gemm", "Erf", "Add", "Mul", "Gemm"]);
        let factors = |i: usize| ["alpha", "beta"].map(|name| graph.node[i].float(name, 1.0));
        assert_eq!(factors(0), [FRAC_1_SQRT_2; 2]);
        assert_eq!(factors(4), [FRAC_1_SQRT_2, 1.0]);
        assert_eq!(graph.node[1].input, graph.node[0].output);
        assert_eq!(graph.node[4].input[0], graph.node[3].output[0]);
    }

    #[test]
    fn what_is_no_gelu_stays() {
        let (mut graph, before) = (around(0.25), around(0.25));
        fold_constants(&mut graph);
        assert_eq!(graph, before);
    }
}
