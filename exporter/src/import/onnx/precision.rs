//! Models whose weights are no f32: half precision, quantised. A base is f32, so their weights become what they stand
//! for, by constant folding, and what would round activations is dropped.
//!
//! The forms are those that exporters and ONNX Runtime's quantizer write: tensors of halves; a `Cast` or
//! `DequantizeLinear` of constant codes, and products of these with constant scales; rows of a table of codes that are
//! dequantised after they were looked up; `QuantizeLinear` and `DequantizeLinear` around activations; and
//! `DynamicQuantizeLinear` with `MatMulInteger`.

use std::collections::{HashMap, HashSet};

use overmask_graph::proto::{GraphProto, NodeProto, TensorProto, data_type};

use super::{Problem, normal};

/// What became f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Widened {
    /// Constants that were float16 or bfloat16.
    pub halves: usize,
    /// Constants that were integer codes.
    pub codes: usize,
    /// Places where activations were rounded to codes.
    pub activations: usize,
}

impl Widened {
    /// Whether anything did.
    pub fn any(&self) -> bool {
        *self != Widened::default()
    }
}

/// Makes f32 of all that stands for floats.
///
/// # Errors
/// When a weight's codes cannot be followed.
pub(super) fn widen(graph: &mut GraphProto) -> Result<Widened, Problem> {
    let mut widened = Widened { halves: halves(graph), ..Default::default() };
    let of_codes = graph.node.iter().any(|n| is_of_codes(&n.op_type)) || graph.initializer.iter().any(is_codes);
    if widened.halves > 0 || of_codes {
        Folding::of(graph, &mut widened).run()?;
    }
    Ok(widened)
}

fn is_half(kind: i32) -> bool {
    matches!(kind, data_type::FLOAT16 | data_type::BFLOAT16)
}

fn is_of_codes(op: &str) -> bool {
    matches!(op, "DequantizeLinear" | "QuantizeLinear" | "DynamicQuantizeLinear" | "MatMulInteger")
}

/// Whether a constant may hold a weight's codes: a byte each.
fn is_codes(tensor: &TensorProto) -> bool {
    matches!(tensor.data_type, data_type::INT8 | data_type::UINT8) && tensor.dims.len() >= 2
}

/// Lets everything that is of half precision be f32.
fn halves(graph: &mut GraphProto) -> usize {
    let mut count = 0;
    let attributes = graph.node.iter_mut().flat_map(|n| &mut n.attribute).filter_map(|a| a.t.as_mut());
    for tensor in graph.initializer.iter_mut().chain(attributes).filter(|t| is_half(t.data_type)) {
        if let Some(values) = values(tensor) {
            set(tensor, &values);
            count += 1;
        }
    }
    let half = |kind: i64| i32::try_from(kind).is_ok_and(is_half);
    for node in graph.node.iter_mut().filter(|n| n.op_type == "Cast") {
        for to in node.attribute.iter_mut().filter(|a| a.name == "to" && half(a.i)) {
            to.i = data_type::FLOAT.into();
        }
    }
    let inputs = graph.input.iter_mut().filter_map(|i| i.r#type.as_mut()?.tensor_type.as_mut());
    inputs.filter(|t| is_half(t.elem_type)).for_each(|t| t.elem_type = data_type::FLOAT);
    count
}

/// The values of a constant as floats, where it has some that f32 can hold.
fn values(tensor: &TensorProto) -> Option<Vec<f32>> {
    let bytes = tensor.raw_data.as_slice();
    let pairs = || bytes.as_chunks::<2>().0.iter();
    let fours = || bytes.as_chunks::<4>().0.iter();
    Some(match tensor.data_type {
        data_type::FLOAT => fours().map(|b| f32::from_le_bytes(*b)).collect(),
        data_type::FLOAT16 => pairs().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
        data_type::BFLOAT16 => pairs().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        data_type::INT8 => bytes.iter().map(|b| f32::from(*b as i8)).collect(),
        data_type::UINT8 => bytes.iter().map(|b| f32::from(*b)).collect(),
        data_type::INT16 => pairs().map(|b| f32::from(i16::from_le_bytes(*b))).collect(),
        data_type::UINT16 => pairs().map(|b| f32::from(u16::from_le_bytes(*b))).collect(),
        data_type::INT32 => fours().map(|b| i32::from_le_bytes(*b) as f32).collect(),
        _ => return None,
    })
}

fn set(tensor: &mut TensorProto, values: &[f32]) {
    tensor.data_type = data_type::FLOAT;
    tensor.raw_data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
}

/// Operators that only move values.
const MOVES: [&str; 7] = ["Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"];

/// A pass over the nodes in their order, which folds what stands for weights.
struct Folding<'a> {
    graph: &'a mut GraphProto,
    widened: &'a mut Widened,
    constants: HashMap<String, TensorProto>,
    /// Constants that this pass made, with the names of what they were made of: what is computed of them alone is
    /// folded, too.
    made: HashMap<String, String>,
    /// What stands for a value from here on.
    same: HashMap<String, String>,
    /// The nodes so far, and where in them each value is made.
    kept: Vec<NodeProto>,
    makers: HashMap<String, usize>,
    /// The weights that were made of products' codes: one that is read several times stays one.
    products: HashMap<[String; 2], String>,
}

impl<'a> Folding<'a> {
    fn of(graph: &'a mut GraphProto, widened: &'a mut Widened) -> Self {
        let constants = graph.initializer.iter().map(|t| (t.name.clone(), t.clone())).collect();
        Folding {
            graph,
            widened,
            constants,
            made: HashMap::new(),
            same: HashMap::new(),
            kept: Vec::new(),
            makers: HashMap::new(),
            products: HashMap::new(),
        }
    }

    fn run(mut self) -> Result<(), Problem> {
        let outputs: HashSet<String> = self.graph.output.iter().map(|o| o.name.clone()).collect();
        for mut node in std::mem::take(&mut self.graph.node) {
            for input in &mut node.input {
                if let Some(other) = self.same.get(input) {
                    input.clone_from(other);
                }
            }
            match self.fold(&node)? {
                Outcome::Kept => {}
                Outcome::Node(new) => node = new,
                Outcome::Same(value) => {
                    let Some(output) = node.output.first() else { continue };
                    if !outputs.contains(output) {
                        self.same.insert(output.clone(), value);
                        continue;
                    }
                    node = NodeProto::new("Identity", &[&value], &[output], &[]);
                }
                Outcome::Constant(tensor, stem) => {
                    self.made.insert(tensor.name.clone(), stem);
                    self.constants.insert(tensor.name.clone(), tensor.clone());
                    self.graph.initializer.push(tensor);
                    continue;
                }
            }
            self.makers.extend(node.output.iter().map(|output| (output.clone(), self.kept.len())));
            self.kept.push(node);
        }
        self.graph.node = std::mem::take(&mut self.kept);
        normal::prune(self.graph);
        // What a weight was made of is gone, and its name free.
        let left: Vec<String> = self.graph.initializer.iter().map(|t| t.name.clone()).collect();
        for name in left {
            if let Some(stem) = self.made.remove(&name).filter(|stem| !normal::names(self.graph).contains(stem)) {
                normal::rename(self.graph, &name, &stem);
            }
        }
        Ok(())
    }

    fn fold(&mut self, node: &NodeProto) -> Result<Outcome, Problem> {
        match node.op_type.as_str() {
            "DequantizeLinear" => self.dequantize(node),
            "Cast" if node.int("to", 0) == i64::from(data_type::FLOAT) => Ok(self.cast(node)),
            "Add" | "Sub" | "Mul" | "Div" => Ok(self.arithmetic(node)),
            _ => Ok(Outcome::Kept),
        }
    }

    fn constant(&self, node: &NodeProto, index: usize) -> Option<&TensorProto> {
        self.constants.get(node.input.get(index)?)
    }

    /// Codes of a weight become floats; halves are floats by now.
    fn cast(&mut self, node: &NodeProto) -> Outcome {
        match self.constant(node, 0) {
            Some(float) if float.data_type == data_type::FLOAT => Outcome::Same(float.name.clone()),
            Some(codes) if is_codes(codes) => {
                let made = values(codes).map(|values| named(node, codes.dims.clone(), &values));
                let outcome = made.map_or(Outcome::Kept, |made| Outcome::Constant(made, stem(&codes.name)));
                self.widened.codes += 1;
                outcome
            }
            _ => Outcome::Kept,
        }
    }

    /// (codes - zero) · scale: of a constant; of rows of one; or of activations, which stay what they were.
    fn dequantize(&mut self, node: &NodeProto) -> Result<Outcome, Problem> {
        let Some(source) = node.input.first() else { return Ok(Outcome::Kept) };
        if let Some(codes) = self.constants.get(source) {
            let values = self.dequantized(node, codes)?;
            let outcome = Outcome::Constant(named(node, codes.dims.clone(), &values), stem(&codes.name));
            self.widened.codes += 1;
            return Ok(outcome);
        }
        let Some(maker) = self.maker(source) else { return Ok(Outcome::Kept) };
        if maker.op_type == "QuantizeLinear" {
            let x = maker.input.first().cloned().unwrap_or_default();
            self.widened.activations += 1;
            return Ok(Outcome::Same(x));
        }
        // A scale for all codes: the table may be dequantised as a whole, and its rows be moved as floats.
        let Some((gather, table)) = self.looked_up(source).filter(|_| self.scalars(node)) else {
            return Ok(Outcome::Kept);
        };
        if table.data_type != data_type::FLOAT {
            let (values, name, dims) = (self.dequantized(node, table)?, stem(&table.name), table.dims.clone());
            let table = self.add(name, dims, &values);
            self.kept[gather].input[0] = table;
            self.widened.codes += 1;
        }
        Ok(Outcome::Same(source.clone()))
    }

    /// The node that makes a value.
    fn maker(&self, value: &str) -> Option<&NodeProto> {
        self.kept.get(*self.makers.get(value)?)
    }

    /// Where rows of a constant table are looked up of which a value is made by moving them, and the table.
    fn looked_up(&self, value: &str) -> Option<(usize, &TensorProto)> {
        let mut at = *self.makers.get(value)?;
        while MOVES.contains(&self.kept[at].op_type.as_str()) {
            at = *self.makers.get(self.kept[at].input.first()?)?;
        }
        let gather = Some(&self.kept[at]).filter(|n| n.op_type == "Gather")?;
        Some((at, self.constant(gather, 0)?))
    }

    /// Adds a constant, under this name if it is free, and returns its name.
    fn add(&mut self, name: String, dims: Vec<i64>, values: &[f32]) -> String {
        let taken = |name: &String| self.constants.contains_key(name) || self.makers.contains_key(name);
        let numbered = (1u32..).map(|n| format!("{name}/{n}"));
        let name = [name.clone()].into_iter().chain(numbered).find(|name| !taken(name)).unwrap_or_default();
        let mut tensor = TensorProto { name: name.clone(), dims, ..Default::default() };
        set(&mut tensor, values);
        self.constants.insert(name.clone(), tensor.clone());
        self.graph.initializer.push(tensor);
        name
    }

    /// Whether scale and zero of a `DequantizeLinear` are one constant each.
    fn scalars(&self, node: &NodeProto) -> bool {
        let one = |index| self.constant(node, index).is_some_and(|t| t.dims.iter().product::<i64>() == 1);
        one(1) && (node.input.len() < 3 || one(2))
    }

    /// What constant codes stand for.
    fn dequantized(&self, node: &NodeProto, codes: &TensorProto) -> Result<Vec<f32>, Problem> {
        let wrong = |reason: &str| Problem::node(node, format!("{reason}; export the model in float32"));
        if node.int("block_size", 0) != 0 {
            return Err(wrong("scales blocks of weights"));
        }
        let scale = self.constant(node, 1).and_then(values).ok_or_else(|| wrong("its scale is not constant"))?;
        let zero = match node.input.get(2).filter(|zero| !zero.is_empty()) {
            Some(_) => self.constant(node, 2).and_then(values).ok_or_else(|| wrong("its zero is not constant"))?,
            None => vec![0.0],
        };
        let codes_of = values(codes).ok_or_else(|| wrong("its codes are of a type that is not supported"))?;
        let rank = codes.dims.len() as i64;
        let axis = node.int("axis", 1);
        let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).unwrap_or(usize::MAX);
        let length = codes.dims.get(axis).map_or(1, |d| *d as usize);
        // How many codes lie one after the other for each step along the axis.
        let step: usize = codes.dims.iter().skip(axis.saturating_add(1)).map(|d| *d as usize).product();
        let fits = |list: &[f32]| list.len() == 1 || list.len() == length;
        if !fits(&scale) || !fits(&zero) {
            return Err(wrong("has other numbers of scales than there are rows or columns"));
        }
        let at = |list: &[f32], i: usize| if list.len() == 1 { list[0] } else { list[i / step.max(1) % length] };
        Ok(codes_of.iter().enumerate().map(|(i, code)| (code - at(&zero, i)) * at(&scale, i)).collect())
    }

    /// Arithmetic of a weight that was made here with a constant; and the scaling of a product of codes.
    fn arithmetic(&mut self, node: &NodeProto) -> Outcome {
        if node.op_type == "Mul"
            && let Some(product) = self.product(node)
        {
            self.widened.activations += 1;
            return Outcome::Node(product);
        }
        let (Some(a), Some(b)) = (self.constant(node, 0), self.constant(node, 1)) else { return Outcome::Kept };
        let Some(stem) = self.made.get(&a.name).or_else(|| self.made.get(&b.name)) else { return Outcome::Kept };
        let operation: fn(f32, f32) -> f32 = match node.op_type.as_str() {
            "Add" => |a, b| a + b,
            "Sub" => |a, b| a - b,
            "Mul" => |a, b| a * b,
            _ => |a, b| a / b,
        };
        match broadcast(a, b, operation) {
            Some((dims, values)) => Outcome::Constant(named(node, dims, &values), stem.clone()),
            None => Outcome::Kept,
        }
    }

    /// (codes of x · codes of w) · (scale of x · scale of w), as ONNX Runtime's dynamic quantisation has it, as the
    /// product of x and w.
    fn product(&mut self, node: &NodeProto) -> Option<NodeProto> {
        let maker = |value: &String| self.maker(value);
        let [a, b] = node.input.as_slice() else { return None };
        let cast =
            |value| maker(value).filter(|n| n.op_type == "Cast" && n.int("to", 0) == i64::from(data_type::FLOAT));
        let integers =
            |value| maker(cast(value)?.input.first()?).filter(|n| n.op_type == "MatMulInteger").map(|n| (n, value));
        let (integers, of_product) = integers(a).or_else(|| integers(b))?;
        let scale = if of_product == a { b } else { a };
        let quantize = maker(integers.input.first()?).filter(|n| n.op_type == "DynamicQuantizeLinear")?;
        let scales = maker(scale).filter(|n| n.op_type == "Mul")?;
        let own = quantize.output.get(1)?;
        let scale = scales.input.iter().find(|input| *input != own).filter(|_| scales.input.contains(own))?;
        let (codes, scale_name, scale) = (self.constant(integers, 1)?, scale.clone(), self.constants.get(scale)?);
        let zero = match integers.input.get(3).filter(|zero| !zero.is_empty()) {
            Some(zero) => values(self.constants.get(zero)?)?,
            None => vec![0.0],
        };
        let (scale, columns) = (values(scale)?, usize::try_from(*codes.dims.last()?).ok()?);
        if codes.dims.len() != 2 || [&scale, &zero].iter().any(|list| list.len() != 1 && list.len() != columns) {
            return None;
        }
        let at = |list: &[f32], i: usize| if list.len() == 1 { list[0] } else { list[i % columns] };
        let weights: Vec<f32> =
            values(codes)?.iter().enumerate().map(|(i, code)| (code - at(&zero, i)) * at(&scale, i)).collect();
        let x = quantize.input.first()?.clone();
        // The name of the product tells the module that it is of.
        let product = integers.name.strip_suffix("_quant").unwrap_or(&integers.name).to_owned();
        let metadata_props = integers.metadata_props.clone();
        let (read, name, dims) = ([codes.name.clone(), scale_name], stem(&codes.name), codes.dims.clone());
        let weight = match self.products.get(&read) {
            Some(weight) => weight.clone(),
            None => {
                let weight = self.add(name, dims, &weights);
                self.widened.codes += 1;
                self.products.entry(read).or_insert(weight).clone()
            }
        };
        let whole = NodeProto::new("MatMul", &[&x, &weight], &[node.output.first()?], &[]);
        Some(NodeProto { name: product, metadata_props, ..whole })
    }
}

/// What becomes of a node.
enum Outcome {
    Kept,
    /// Another takes its place.
    Node(NodeProto),
    /// Its output is a value that there is.
    Same(String),
    /// Its output is a constant, which may take the name of what it was made of.
    Constant(TensorProto, String),
}

/// The name of a weight of which a quantizer made codes.
fn stem(codes: &str) -> String {
    codes.strip_suffix("_quantized").unwrap_or(codes).to_owned()
}

/// A constant in place of a node.
fn named(node: &NodeProto, dims: Vec<i64>, values: &[f32]) -> TensorProto {
    let name = node.output.first().cloned().unwrap_or_default();
    let mut tensor = TensorProto { name, dims, ..Default::default() };
    set(&mut tensor, values);
    tensor
}

/// An operation on two constants of one shape, or of which one's axes end the other's (or have length 1).
fn broadcast(a: &TensorProto, b: &TensorProto, f: fn(f32, f32) -> f32) -> Option<(Vec<i64>, Vec<f32>)> {
    let rank = a.dims.len().max(b.dims.len());
    let axis = |t: &TensorProto, i: usize| (i + t.dims.len()).checked_sub(rank).map_or(1, |i| t.dims[i] as usize);
    let dims: Option<Vec<usize>> = (0..rank)
        .map(|i| match (axis(a, i), axis(b, i)) {
            (x, y) if x == y || y == 1 => Some(x),
            (1, y) => Some(y),
            _ => None,
        })
        .collect();
    let (dims, left, right) = (dims?, values(a)?, values(b)?);
    let count = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n <= left.len().max(right.len()))?;
    let at = |t: &TensorProto, mut place: usize| {
        let mut index = 0;
        let mut stride = 1;
        for i in (0..rank).rev() {
            let length = axis(t, i);
            if length > 1 {
                index += place % dims[i] * stride;
            }
            stride *= length;
            place /= dims[i];
        }
        index
    };
    let all = (0..count).map(|place| f(left[at(a, place)], right[at(b, place)])).collect();
    Some((dims.iter().map(|d| *d as i64).collect(), all))
}
