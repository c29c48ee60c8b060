//! Operators of ONNX Runtime's own (`com.microsoft`), which its optimizer puts in the place of several: taken apart again,
//! so that what reads a graph sees linear layers, norms and attention as exporters write them.
//!
//! Those are written that mean the same in all operator sets from 11 on. What they compute is in ONNX Runtime's
//! description of its operators.

use std::collections::{HashMap, HashSet};

use overmask_graph::GraphBuilder;
use overmask_graph::proto::{GraphProto, NodeProto, TensorProto, data_type};

use super::{Problem, interface, names, normal};

/// The domain of these operators.
const DOMAIN: &str = "com.microsoft";

/// What a mask adds to scores where nobody says.
const FILTER: f32 = -10_000.0;

/// Puts plain operators in the place of those that are known; returns how many there were.
///
/// # Errors
/// When one is used in a way that is not known. Other operators stay.
pub(super) fn take_apart(graph: &mut GraphProto) -> Result<usize, Problem> {
    let constants: HashMap<String, TensorProto> = match graph.node.iter().any(|node| node.domain == DOMAIN) {
        true => graph.initializer.iter().map(|t| (t.name.clone(), t.clone())).collect(),
        false => return Ok(0),
    };
    let taken = normal::names(graph);
    let mut apart = Apart { b: GraphBuilder::extend(std::mem::take(graph)), constants, taken, attentions: 0 };
    let mut count = 0;
    for node in apart.b.take_nodes() {
        let one = Fused { node: &node };
        let known = node.domain == DOMAIN;
        match node.op_type.as_str() {
            "EmbedLayerNormalization" if known => apart.embeddings(&one)?,
            "SkipLayerNormalization" if known => apart.norm(&one)?,
            "Attention" if known => apart.attention(&one)?,
            "BiasGelu" | "Gelu" | "FastGelu" if known => apart.gelu(&one)?,
            "QuickGelu" if known => apart.quick_gelu(&one)?,
            "FusedMatMul" if known => apart.product(&one)?,
            _ => {
                apart.b.append(vec![node]);
                continue;
            }
        }
        count += 1;
    }
    *graph = super::graph_of(apart.b);
    // Packed weights, and what told of padding.
    normal::prune(graph);
    Ok(count)
}

/// A node, and what may be asked of it.
struct Fused<'a> {
    node: &'a NodeProto,
}

impl<'a> Fused<'a> {
    fn input(&self, index: usize) -> Option<&'a str> {
        self.node.input.get(index).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn needs(&self, index: usize, what: &str) -> Result<&'a str, Problem> {
        self.input(index).ok_or_else(|| self.refuse(format!("has no {what}")))
    }

    fn output(&self, index: usize) -> Option<&'a str> {
        self.node.output.get(index).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn result(&self) -> Result<&'a str, Problem> {
        self.output(0).ok_or_else(|| self.refuse("has no output"))
    }

    fn refuse(&self, reason: impl Into<String>) -> Problem {
        let reason: String = reason.into();
        Problem::node(self.node, format!("{reason}; export the model without optimisation"))
    }
}

/// The graph under construction.
struct Apart {
    b: GraphBuilder,
    /// Those of the graph as it was.
    constants: HashMap<String, TensorProto>,
    /// The names of all values, new weights included.
    taken: HashSet<String>,
    /// Attentions so far.
    attentions: usize,
}

impl Apart {
    /// A layer norm of a value, as the node's first output.
    fn last_norm(&mut self, one: &Fused<'_>, value: &str, scale: &str, bias: Option<&str>) -> Result<(), Problem> {
        let epsilon = one.node.float("epsilon", 1e-12);
        let inputs: Vec<&str> = [value, scale].into_iter().chain(bias).collect();
        let attributes = [("axis", (-1i64).into()), ("epsilon", epsilon.into())];
        self.b.node("LayerNormalization", &inputs, &[one.result()?], &attributes);
        Ok(())
    }

    /// Words, positions and segments, added up and normed. The second output, which tells of padding, stands here for the
    /// mask itself: [`Apart::attention`] reads it.
    fn embeddings(&mut self, one: &Fused<'_>) -> Result<(), Problem> {
        let (tokens, words) = (one.needs(0, "tokens")?, one.needs(2, "table of words")?);
        let table = one.needs(3, "table of positions")?;
        let mut sum = self.b.op("Gather", &[words, tokens], &[]);
        if let (Some(segments), Some(table)) = (one.input(1), one.input(4)) {
            let segments = self.b.op("Gather", &[table, segments], &[]);
            sum = self.b.op("Add", &[&sum, &segments], &[]);
        }
        let places = match one.input(8) {
            Some(places) => places.to_owned(),
            None => {
                let shape = self.b.op("Shape", &[tokens], &[]);
                let [zero, one] = [0, 1].map(|n| self.b.ints(&[], &[n]));
                let length = self.b.op("Gather", &[&shape, &one], &[]);
                self.b.op("Range", &[&zero, &length, &one], &[])
            }
        };
        let places = self.b.op("Gather", &[table, &places], &[]);
        sum = match one.output(2) {
            Some(name) => {
                self.b.node("Add", &[&sum, &places], &[name], &[]);
                name.to_owned()
            }
            None => self.b.op("Add", &[&sum, &places], &[]),
        };
        if let (Some(mask), Some(index)) = (one.input(7), one.output(1)) {
            self.b.node("Identity", &[mask], &[index], &[]);
        }
        self.last_norm(one, &sum, one.needs(5, "scale")?, one.input(6))
    }

    /// A sum of two values, and perhaps of a bias of the first, normed.
    fn norm(&mut self, one: &Fused<'_>) -> Result<(), Problem> {
        if one.output(1).is_some() || one.output(2).is_some() {
            return Err(one.refuse("gives its mean or deviation"));
        }
        let mut value = one.needs(0, "input")?.to_owned();
        if let Some(bias) = one.input(4) {
            value = self.b.op("Add", &[&value, bias], &[]);
        }
        let skip = one.needs(1, "second input")?;
        value = match one.output(3) {
            Some(name) => {
                self.b.node("Add", &[&value, skip], &[name], &[]);
                name.to_owned()
            }
            None => self.b.op("Add", &[&value, skip], &[]),
        };
        self.last_norm(one, &value, one.needs(2, "scale")?, one.input(3))
    }

    /// softmax(q kᵀ / √width + mask) v with q, k and v of one product.
    fn attention(&mut self, one: &Fused<'_>) -> Result<(), Problem> {
        let node = one.node;
        let (x, weight, output) = (one.needs(0, "input")?, one.needs(1, "weight")?, one.result()?);
        let plain = ["unidirectional", "do_rotary", "past_present_share_buffer"];
        if (4..7).any(|i| one.input(i).is_some())
            || one.output(1).is_some()
            || plain.iter().any(|p| node.int(p, 0) != 0)
        {
            return Err(one.refuse("is causal, has a bias of scores, or remembers texts before"));
        }
        let constant = |name| self.constants.get(name).ok_or_else(|| one.refuse("its weights are no constants"));
        let (weight, bias) = (constant(weight)?, one.input(2).map(constant).transpose()?);
        let sizes = node.attribute("qkv_hidden_sizes").map(|a| a.ints.clone()).filter(|sizes| !sizes.is_empty());
        let whole = weight.dims.last().copied().unwrap_or_default();
        let sizes = sizes.unwrap_or_else(|| vec![whole / 3; 3]);
        let heads = node.int("num_heads", 0);
        let sum = sizes.iter().try_fold(0i64, |sum, size| sum.checked_add(*size));
        let fits = matches!(sizes.as_slice(), [q, k, v] if q == k && *q > 0 && *v > 0) && sum == Some(whole);
        let fits = fits && bias.is_none_or(|bias| bias.dims == [whole]);
        if weight.dims.len() != 2 || !fits || heads < 1 || sizes.iter().any(|size| size % heads != 0) {
            return Err(one.refuse(format!("has {heads} heads and a weight of shape {:?}", weight.dims)));
        }
        let unlike = || one.refuse("has weights or a bias of another size or type than f32");
        let (width, parts) = (weight.dims[0], split(weight, &sizes).ok_or_else(unlike)?);
        let biases = bias.map(|bias| split(bias, &sizes).ok_or_else(unlike)).transpose()?;
        let module = names::from_name(output).unwrap_or_else(|| format!("attention.{}", self.attentions));
        self.attentions += 1;
        // As the families call them whose modules these are.
        let called = match module.contains("transformer.layer.") {
            true => ["q_lin", "k_lin", "v_lin"],
            false => ["query", "key", "value"],
        };
        let mut projected = Vec::with_capacity(3);
        for (i, (values, size)) in parts.into_iter().zip(&sizes).enumerate() {
            let weight = self.constant(format!("{module}.{}.weight", called[i]), &[width, *size], &values);
            let mut value = self.b.op("MatMul", &[x, &weight], &[]);
            if let Some(biases) = &biases {
                let bias = self.constant(format!("{module}.{}.bias", called[i]), &[*size], &biases[i]);
                value = self.b.op("Add", &[&value, &bias], &[]);
            }
            let shape = self.b.shape(&[0, 0, heads, size / heads]);
            value = self.b.op("Reshape", &[&value, &shape], &[]);
            // Keys are transposed for the product.
            let order: &[i64] = if i == 1 { &[0, 2, 3, 1] } else { &[0, 2, 1, 3] };
            projected.push(self.b.op("Transpose", &[&value], &[("perm", order.to_vec().into())]));
        }
        let scale = node.float("scale", 0.0);
        let scale = if scale == 0.0 { 1.0 / ((sizes[0] / heads) as f32).sqrt() } else { scale };
        let scale = self.b.float(scale);
        let scores = self.b.op("MatMul", &[&projected[0], &projected[1]], &[]);
        let mut scores = self.b.op("Mul", &[&scores, &scale], &[]);
        if let Some(mask) = one.input(3) {
            let mask = self.token_mask(one, mask)?;
            let mask = self.b.op("Cast", &[&mask], &[("to", i64::from(data_type::FLOAT).into())]);
            let [unit, filter] = [1.0, node.float("mask_filter_value", FILTER)].map(|value| self.b.float(value));
            let padding = self.b.op("Sub", &[&unit, &mask], &[]);
            let padding = self.b.op("Mul", &[&padding, &filter], &[]);
            let shape = self.b.shape(&[0, 1, 1, -1]);
            let padding = self.b.op("Reshape", &[&padding, &shape], &[]);
            scores = self.b.op("Add", &[&scores, &padding], &[]);
        }
        let weights = self.b.op("Softmax", &[&scores], &[("axis", (-1i64).into())]);
        let mixed = self.b.op("MatMul", &[&weights, &projected[2]], &[]);
        let mixed = self.b.op("Transpose", &[&mixed], &[("perm", vec![0i64, 2, 1, 3].into())]);
        let shape = self.b.shape(&[0, 0, sizes[2]]);
        self.b.node("Reshape", &[&mixed, &shape], &[output], &[]);
        Ok(())
    }

    /// The mask of tokens, [batch, sequence], of which a value is a copy, another type, or the counts.
    fn token_mask(&self, one: &Fused<'_>, value: &str) -> Result<String, Problem> {
        let mut value = value;
        loop {
            if interface::is_mask(value) && self.b.graph().input.iter().any(|input| input.name == value) {
                return Ok(value.to_owned());
            }
            let made = self.b.graph().node.iter().find(|node| node.output.iter().any(|output| output == value));
            let source = made.filter(|node| matches!(node.op_type.as_str(), "Cast" | "Identity" | "ReduceSum"));
            match source.and_then(|node| node.input.first()).filter(|source| !source.is_empty()) {
                Some(source) => value = source,
                None => return Err(one.refuse("its mask is made of more than the model's mask of tokens")),
            }
        }
    }

    /// GELU of a sum with a bias, if there is one, or its approximation by tanh. `opset` takes that apart.
    fn gelu(&mut self, one: &Fused<'_>) -> Result<(), Problem> {
        let x = self.biased(one)?;
        let form = if one.node.op_type == "FastGelu" { "tanh" } else { "none" };
        self.b.node("Gelu", &[&x], &[one.result()?], &[("approximate", form.into())]);
        Ok(())
    }

    /// x sigmoid(alpha x).
    fn quick_gelu(&mut self, one: &Fused<'_>) -> Result<(), Problem> {
        let x = one.needs(0, "input")?;
        let alpha = self.b.float(one.node.float("alpha", 1.702));
        let gate = self.b.op("Mul", &[x, &alpha], &[]);
        let gate = self.b.op("Sigmoid", &[&gate], &[]);
        self.b.node("Mul", &[x, &gate], &[one.result()?], &[]);
        Ok(())
    }

    /// A product of two values, scaled, perhaps of the transposed second.
    fn product(&mut self, one: &Fused<'_>) -> Result<(), Problem> {
        let (a, b) = (one.needs(0, "input")?, one.needs(1, "second input")?);
        let turned = ["transA", "transBatchA", "transBatchB"];
        if turned.iter().any(|name| one.node.int(name, 0) != 0) {
            return Err(one.refuse("transposes its first input or batches"));
        }
        let mut b = b.to_owned();
        if one.node.int("transB", 0) != 0 {
            let Some(axes) = self.axes(&b) else { return Err(one.refuse("transposes what is no constant or product")) };
            let mut order: Vec<i64> = (0..axes as i64).collect();
            order.swap(axes - 2, axes - 1);
            b = self.b.op("Transpose", &[&b], &[("perm", order.into())]);
        }
        match one.node.float("alpha", 1.0) {
            1.0 => self.b.node("MatMul", &[a, &b], &[one.result()?], &[]),
            alpha => {
                let product = self.b.op("MatMul", &[a, &b], &[]);
                let alpha = self.b.float(alpha);
                self.b.node("Mul", &[&product, &alpha], &[one.result()?], &[]);
            }
        }
        Ok(())
    }

    /// How many axes a value has, of a constant and of what was transposed; two at least.
    fn axes(&self, value: &str) -> Option<usize> {
        let constant = self.constants.get(value).map(|tensor| tensor.dims.len());
        let made = || self.b.graph().node.iter().find(|node| node.output.iter().any(|output| output == value));
        let of_order = || made()?.attribute("perm").map(|order| order.ints.len());
        constant.or_else(of_order).filter(|axes| *axes >= 2)
    }

    /// The first input, with the bias that is the second.
    fn biased(&mut self, one: &Fused<'_>) -> Result<String, Problem> {
        let x = one.needs(0, "input")?;
        Ok(match one.input(1) {
            Some(bias) => self.b.op("Add", &[x, bias], &[]),
            None => x.to_owned(),
        })
    }

    /// A new constant; its name is another if that is taken.
    fn constant(&mut self, name: String, dims: &[i64], values: &[f32]) -> String {
        let name = if self.taken.insert(name.clone()) { name } else { self.b.fresh(&name) };
        self.b.tensor(TensorProto::floats(&name, dims, values));
        name
    }
}

/// The values of an f32 tensor, its columns cut into parts of these widths.
fn split(tensor: &TensorProto, sizes: &[i64]) -> Option<Vec<Vec<f32>>> {
    let sizes: Vec<usize> = sizes.iter().map(|size| usize::try_from(*size).ok()).collect::<Option<_>>()?;
    let whole = sizes.iter().try_fold(0usize, |sum, size| sum.checked_add(*size))?;
    let (bytes, rest) = tensor.raw_data.as_chunks::<4>();
    let is_f32 = tensor.data_type == data_type::FLOAT && rest.is_empty() && tensor.dims.last() == Some(&(whole as i64));
    if !is_f32 || bytes.len() % whole.max(1) != 0 {
        return None;
    }
    let values: Vec<f32> = bytes.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let mut start = 0;
    let part = |size: usize| {
        let columns = start..start + size;
        start += size;
        values.chunks_exact(whole).flat_map(|row| row[columns.clone()].iter().copied()).collect()
    };
    Some(sizes.into_iter().map(part).collect())
}
