//! Imports any text encoder that was exported to ONNX: by PyTorch's TorchScript or dynamo exporter,
//! by Optimum, or by whatever else writes the same operators.
//!
//! The graph stays what it is, unless it is of a family whose structure is known: then its weights become a base of that
//! family (`known`). Else it is brought into the form that the rest of the program reads:
//! constants are initializers, inputs are `input_ids`, `attention_mask` and `token_type_ids` (as
//! far as there are such), the one output is `last_hidden_state`, the operator set is
//! [`OPSET`](overmask_graph::OPSET), and each linear weight has its module's name and is read
//! as [outputs, inputs].

mod attention;
mod fused;
mod interface;
mod known;
mod linear;
mod names;
mod normal;
mod opset;
mod padding;
mod precision;
mod sizes;
mod source;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use overmask::base::family::Family;
use overmask::base::{Architecture, Base, GraphHints, MaskableTensor, TensorBytes, file};
use overmask::fs::Staged;
use overmask_graph::proto::{GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, data_type};
use overmask_graph::{External, GraphBuilder, MAX_MODEL_BYTES, encode};

pub use self::precision::Widened;
use super::bundle::{self, Parts};
use super::config::Config;
use super::{ImportError, Origin};
use crate::autodiff::{self, AutodiffError};

/// What an ONNX file does not say of itself.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file with the tokenizer, `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// The output that becomes the hidden states, [batch, sequence, width]; without it,
    /// `last_hidden_state` or the first of three axes.
    pub output: Option<String>,
    /// Most tokens of a text; without it, what the position embeddings hold.
    pub max_positions: Option<usize>,
    /// The `config.json` that says what encoder it is; without it, the one beside the model.
    pub config: Option<PathBuf>,
    /// What the manifest says of the weights' origin.
    pub origin: Origin,
}

/// A base that was imported.
#[derive(Debug)]
pub struct Imported {
    /// The base.
    pub base: Base,
    /// The family whose structure the graph has, which the engine `native` runs; or why it is taken as it is.
    pub recognised: Result<&'static str, String>,
    /// Why training would refuse masks of all layers of this base. It may take those of layers above the place
    /// that is named, and the base runs all the same.
    pub untrainable: Option<AutodiffError>,
    /// What of the model was no f32, and is now.
    pub widened: Widened,
    /// Operators of ONNX Runtime's optimizer that were taken apart.
    pub fused: usize,
    /// Why it was not tried whether padding changes a text's vectors, which would be an error: without ONNX Runtime.
    pub unprobed: Option<String>,
}

/// Imports the model at `path` as a base bundle at `out`.
///
/// # Errors
/// When a file is missing or malformed, the model is no text encoder or uses what is not supported, or
/// `out` is taken.
pub fn import(path: &Path, out: &Path, options: &Options) -> Result<Imported, ImportError> {
    bundle::check_place(out)?;
    let config = match &options.config {
        // One that was asked for has to be of use.
        Some(config) => Ok(Config::read(config)?),
        None => match known::config_beside(path) {
            Some(config) => Config::read(&config).map_err(|error| error.to_string()),
            None => Err("there is no config.json beside it, which would say what encoder it is".to_owned()),
        },
    };
    let of_config = config.as_ref().ok().and_then(known::positions_of);
    let options = &Options { max_positions: options.max_positions.or(of_config), ..options.clone() };
    let encoder = Encoder::read(path, options)?;
    let known = match config {
        Ok(config) => encoder.write_known(path, out, config, options)?,
        Err(reason) => Err(reason),
    };
    let (recognised, base, unprobed) = match known {
        Ok((family, base)) => (Ok(family), base, None),
        Err(reason) => {
            let (base, unprobed) = encoder.write(path, out, options)?;
            (Err(reason), base, unprobed)
        }
    };
    let untrainable = match recognised {
        // Of what it is now gradients are known.
        Ok(_) => None,
        Err(_) => trainable(&encoder.graph, &encoder.weights, &encoder.maskable).err(),
    };
    Ok(Imported { base, recognised, untrainable, widened: encoder.widened, fused: encoder.fused, unprobed })
}

/// The model of a graph. It is part of a base's identity, which does not hang on our version.
fn as_model(b: GraphBuilder) -> ModelProto {
    ModelProto { producer_version: String::new(), ..b.finish() }
}

/// The graph under construction, without its model.
fn graph_of(b: GraphBuilder) -> GraphProto {
    b.finish().graph.unwrap_or_default()
}

/// An encoder in the form that bases have.
struct Encoder {
    /// The graph, in which the weights are missing.
    graph: GraphProto,
    /// The weights, in the order in which nodes read them.
    weights: Vec<Weight>,
    architecture: Architecture,
    maskable: Vec<MaskableTensor>,
    widened: Widened,
    fused: usize,
}

impl Encoder {
    /// Writes the graph as it is, and tries it; returns why not, if that cannot be.
    fn write(&self, path: &Path, out: &Path, options: &Options) -> Result<(Base, Option<String>), ImportError> {
        let tensors = self.weights.iter().map(|w| (w.name.as_str(), w.shape.as_slice(), &w.bytes[..])).collect();
        let parts = parts(path, options, self.architecture.clone(), self.maskable.clone(), tensors)?;
        let graph = |offsets: &BTreeMap<String, u64>| {
            let mut b = GraphBuilder::extend(self.graph.clone());
            for weight in &self.weights {
                let at = External {
                    location: file::WEIGHTS.to_owned(),
                    offset: offsets[&weight.name],
                    length: weight.bytes.len() as u64,
                };
                b.external_initializer(&weight.name, data_type::FLOAT, &weight.dims(), at);
            }
            let model = as_model(b);
            // The runtime reads no graph that is larger.
            match encode(&model).len() as u64 {
                size if size > MAX_MODEL_BYTES => {
                    let reason = format!("takes {} MiB without the weights, more than an encoder's does", size >> 20);
                    Err(Problem::new("graph", reason).at(path))
                }
                _ => Ok(model),
            }
        };
        let mut unprobed = None;
        let base = bundle::write(out, parts, graph, |base| {
            unprobed = padding::probe(base, path)?;
            Ok(())
        })?;
        Ok((base, unprobed))
    }

    /// Writes a base of a known family with the graph's weights, if that computes what the graph does; else returns why
    /// it does not.
    fn write_known(
        &self,
        path: &Path,
        out: &Path,
        config: Config,
        options: &Options,
    ) -> Result<Result<(&'static str, Base), String>, ImportError> {
        let weights = known::GraphWeights { path, weights: &self.weights };
        let known = match known::of_config(config, &weights, options.max_positions) {
            Ok(known) => known,
            Err(error) => return Ok(Err(error.to_string())),
        };
        // What it has to compute.
        let beside = Staged::new(out)?;
        let (as_is, unprobed) = self.write(path, &beside.dir().join("graph"), options)?;
        if let Some(reason) = unprobed {
            return Ok(Err(format!("whether it computes the same was not tried: {reason}")));
        }
        let (architecture, maskable) = (known.architecture.clone(), known.encoder.maskable());
        let parts = parts(path, options, architecture, maskable, known.tensors())?;
        let mut differs = None;
        let written = bundle::write(
            out,
            parts,
            |offsets| Ok(known.graph(offsets)),
            |base| {
                known::compare(base, &as_is).map_err(|reason| {
                    differs = Some(reason.clone());
                    Problem::new("graph", reason).at(path)
                })
            },
        );
        match (written, differs) {
            (_, Some(reason)) => Ok(Err(reason)),
            (written, None) => Ok(Ok((known.architecture.family.name(), written?))),
        }
    }
}

/// What a bundle is made of that comes from a graph.
fn parts<'a>(
    path: &Path,
    options: &Options,
    architecture: Architecture,
    maskable: Vec<MaskableTensor>,
    tensors: Vec<TensorBytes<'a>>,
) -> Result<Parts<'a>, ImportError> {
    Ok(Parts {
        architecture,
        maskable,
        tensors,
        weights: path.to_owned(),
        tokenizer: bundle::Tokenizer::read(options.tokenizer.clone())?,
        pooling: None,
        max_tokens: None,
        origin: options.origin.clone(),
    })
}

/// A tensor on its way into the bundle's file of weights.
struct Weight {
    name: String,
    shape: Vec<usize>,
    /// Little-endian f32 values.
    bytes: Vec<u8>,
}

impl Weight {
    fn dims(&self) -> Vec<i64> {
        self.shape.iter().map(|d| *d as i64).collect()
    }
}

impl Encoder {
    fn read(path: &Path, options: &Options) -> Result<Encoder, ImportError> {
        let (graph, version) = source::read(path)?;
        Self::new(graph, version, options).map_err(|problem| problem.at(path))
    }

    /// Normalises a graph of an operator set's version.
    fn new(mut graph: GraphProto, version: i64, options: &Options) -> Result<Encoder, Problem> {
        normal::check(&graph)?;
        normal::constants(&mut graph);
        interface::choose_output(&mut graph, options.output.as_deref())?;
        normal::prune(&mut graph);
        let widened = precision::widen(&mut graph)?;
        let fused = fused::take_apart(&mut graph)?;
        normal::check_operators(&graph)?;
        // Before what stands for a constant is replaced by it: its name may tell more.
        names::restore(&mut graph);
        normal::aliases(&mut graph);
        interface::inputs(&mut graph)?;
        let mut graph = opset::convert(graph, version)?;
        normal::counts(&mut graph);
        let found = linear::find(&graph)?;
        let maskable = linear::rewrite(&mut graph, found)?;
        normal::prune(&mut graph);
        normal::forget(&mut graph);
        let hidden_size = interface::describe_output(&mut graph)?;
        let architecture = Architecture {
            family: Family::Onnx(GraphHints {
                intermediate_size: maskable.iter().map(|t| t.inputs).max(),
                layer_norm_eps: sizes::epsilon(&graph),
            }),
            hidden_size,
            layers: maskable.iter().map(|t| t.layer + 1).max().unwrap_or(0),
            vocab_size: sizes::vocabulary(&graph)?,
            max_positions: sizes::positions(&graph, hidden_size, options.max_positions)?,
        };
        let weights = take_weights(&mut graph);
        Ok(Encoder { graph, weights, architecture, maskable, widened, fused })
    }
}

/// Takes the weights out of the graph. Float constants of one value stay: they are part of what the
/// graph computes.
fn take_weights(graph: &mut GraphProto) -> Vec<Weight> {
    let is_weight = |t: &TensorProto| t.data_type == data_type::FLOAT && t.dims.iter().product::<i64>() > 1;
    let (mut weights, others): (Vec<_>, Vec<_>) = graph.initializer.drain(..).partition(is_weight);
    graph.initializer = others;
    let mut order = HashMap::new();
    for value in graph.node.iter().flat_map(|node| &node.input) {
        let next = order.len();
        order.entry(value.as_str()).or_insert(next);
    }
    weights.sort_by_key(|t| order.get(t.name.as_str()).copied());
    let weights = weights.into_iter().map(|t| Weight {
        name: t.name,
        shape: t.dims.iter().map(|d| *d as usize).collect(),
        bytes: t.raw_data,
    });
    weights.collect()
}

/// Tries what training does: the gradient of the output with respect to every maskable weight.
fn trainable(graph: &GraphProto, weights: &[Weight], maskable: &[MaskableTensor]) -> Result<(), AutodiffError> {
    let mut graph = graph.clone();
    graph.output.clear();
    let inputs = weights.iter().map(|w| ValueInfoProto::fixed(&w.name, data_type::FLOAT, &w.dims()));
    graph.input.extend(inputs);
    let mut b = GraphBuilder::extend(graph);
    let loss = b.op("ReduceSum", &[overmask_graph::encoder::OUTPUT], &[("keepdims", 0i64.into())]);
    let wrt: Vec<String> = maskable.iter().map(|t| t.name.clone()).collect();
    autodiff::differentiate(&mut b, &loss, &wrt).map(drop)
}

/// What is wrong with a model, and where in it.
#[derive(Debug)]
struct Problem {
    place: String,
    reason: String,
    /// The field of [`Options`] that asks for what cannot be, if one does.
    field: Option<&'static str>,
}

impl Problem {
    fn new(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Problem { place: place.into(), reason: reason.into(), field: None }
    }

    fn option(field: &'static str, reason: impl Into<String>) -> Self {
        Problem { field: Some(field), ..Self::new("", reason) }
    }

    fn node(node: &NodeProto, reason: impl Into<String>) -> Self {
        let name = node.output.first().filter(|_| node.name.is_empty()).unwrap_or(&node.name);
        Self::new(format!("node `{name}` ({})", node.op_type), reason)
    }

    fn at(self, path: &Path) -> ImportError {
        let Problem { place, reason, field } = self;
        match field {
            Some(field) => ImportError::Option { field, reason },
            None => ImportError::Model { path: path.to_owned(), place, reason },
        }
    }
}
