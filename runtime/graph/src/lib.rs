//! ONNX graphs: read, write, build, and turn initializers into inputs; [`passes`] rewrite them.
//!
//! The messages in [`proto`] have every field of the ONNX protocol-buffer schema, so that a model
//! which is read, changed and handed to an engine is otherwise what it was; a model of a newer
//! version is refused.

mod builder;
pub mod encoder;
pub mod passes;
pub mod proto;
pub mod variant;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

pub use builder::{GraphBuilder, OPSET};
use prost::Message;
use proto::{ModelProto, TensorProto, ValueInfoProto, data_type};

use overmask::base::{Base, BaseError, Precision, file};
use overmask::engine::EngineError;
use overmask::error::ErrorKind;

/// The largest `model.onnx` that is read: graphs keep their weights outside, so anything
/// bigger is not one of ours.
pub const MAX_MODEL_BYTES: u64 = 64 << 20;

/// What can be wrong with an ONNX file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too large.
    #[error("{path} has more than {} MiB; keep the weights outside it, as external data", .limit >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        limit: u64,
    },
    /// The file of a base cannot be read.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// The bytes are no ONNX model.
    #[error("{path} is not an ONNX model: {source}; make or copy the file again")]
    Decode {
        /// The file.
        path: PathBuf,
        /// Where decoding stopped.
        source: prost::DecodeError,
    },
    /// The model may hold what this program does not know, and would lose.
    #[error("{path}: field `ir_version`: is {version}, this program reads up to {}", proto::IR_VERSION)]
    Version {
        /// The file.
        path: PathBuf,
        /// The version of the format.
        version: i64,
    },
    /// The model holds no graph.
    #[error("the ONNX model has no graph; import the base again")]
    NoGraph,
    /// A named initializer is not there.
    #[error("the ONNX graph has no initializer `{name}`; the base and its manifest do not belong together")]
    MissingInitializer {
        /// Its name.
        name: String,
    },
    /// The graph's operators are of a version that cannot do what is asked for.
    #[error("the graph has version {version} of the operators, {least} is the least; export the encoder again")]
    Opset {
        /// The version.
        version: i64,
        /// The least that can.
        least: i64,
    },
    /// A tensor's external data are not described as the format asks.
    #[error("tensor `{name}`: external data field `{field}` is missing or no number")]
    External {
        /// The tensor.
        name: String,
        /// The field.
        field: &'static str,
    },
}

impl OnnxError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::InputData,
            Self::Base(error) => error.kind(),
            _ => ErrorKind::CorruptFile,
        }
    }
}

impl From<OnnxError> for EngineError {
    fn from(error: OnnxError) -> Self {
        match error {
            OnnxError::Io { path, source } => EngineError::Base(BaseError::Io { path, source }),
            OnnxError::Base(error) => EngineError::Base(error),
            other => EngineError::Graph(Box::new(other)),
        }
    }
}

/// Reads a model; external tensor data stay where they are.
///
/// # Errors
/// When the file cannot be read, is larger than a graph can be, or is no ONNX model of a version
/// that is known.
pub fn read_model(path: &Path) -> Result<ModelProto, OnnxError> {
    read_model_of(path, MAX_MODEL_BYTES)
}

/// [`read_model`] for a model of at most `limit` bytes, such as one that holds its weights.
///
/// # Errors
/// As [`read_model`].
pub fn read_model_of(path: &Path, limit: u64) -> Result<ModelProto, OnnxError> {
    let data = overmask::fs::read_at_most(path, limit)
        .map_err(|source| OnnxError::Io { path: path.into(), source })?
        .ok_or_else(|| OnnxError::TooLarge { path: path.into(), limit })?;
    decode(path, &data)
}

/// Reads the graph of a base, if it is the one that the manifest names: engines take what they are given, and some
/// break off or come to no end on a damaged one. That of another variant than f32 is widened.
///
/// # Errors
/// As [`read_model`], or when the file was changed or damaged.
pub fn read_base(base: &Base) -> Result<ModelProto, OnnxError> {
    let mut model = decode(&base.model_path(), &base.read(file::MODEL, MAX_MODEL_BYTES)?)?;
    if base.precision() != Precision::F32 {
        variant::widen(&mut model, base)?;
    }
    Ok(model)
}

fn decode(path: &Path, data: &[u8]) -> Result<ModelProto, OnnxError> {
    let model = ModelProto::decode(data).map_err(|source| OnnxError::Decode { path: path.into(), source })?;
    match model.ir_version {
        version if version > proto::IR_VERSION => Err(OnnxError::Version { path: path.into(), version }),
        _ => Ok(model),
    }
}

/// The names of a graph's inputs, in their order.
pub fn inputs(model: &ModelProto) -> Vec<&str> {
    model.graph.iter().flat_map(|graph| &graph.input).map(|input| input.name.as_str()).collect()
}

/// The bytes of a model, as an ONNX file holds them.
pub fn encode(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

/// Where a tensor's bytes lie when they are outside the model file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct External {
    /// A file beside the model.
    pub location: String,
    /// The first byte.
    pub offset: u64,
    /// The number of bytes.
    pub length: u64,
}

/// Where the tensor's bytes lie, or `None` when the model holds them.
///
/// # Errors
/// When the tensor claims external data but does not say where.
pub fn external_data(tensor: &TensorProto) -> Result<Option<External>, OnnxError> {
    if tensor.data_location != proto::DATA_LOCATION_EXTERNAL {
        return Ok(None);
    }
    let field = |key: &'static str| {
        tensor
            .external_data
            .iter()
            .find(|e| e.key == key)
            .map(|e| e.value.as_str())
            .ok_or(OnnxError::External { name: tensor.name.clone(), field: key })
    };
    let number = |key: &'static str| {
        field(key)?.parse::<u64>().map_err(|_| OnnxError::External { name: tensor.name.clone(), field: key })
    };
    Ok(Some(External { location: field("location")?.to_owned(), offset: number("offset")?, length: number("length")? }))
}

/// The tensors of a model that its weights' file holds.
///
/// # Errors
/// As [`external_data`].
pub fn external_names(model: &ModelProto) -> Result<Vec<String>, OnnxError> {
    let mut names = Vec::new();
    for tensor in model.graph.iter().flat_map(|g| &g.initializer) {
        if external_data(tensor)?.is_some() {
            names.push(tensor.name.clone());
        }
    }
    Ok(names)
}

/// Turns the named f32 initializers into graph inputs of the same name and shape, so that
/// their values may differ from run to run.
///
/// # Errors
/// When a name is no initializer of the graph; the model is unchanged then.
pub fn initializers_to_inputs(model: &mut ModelProto, names: &[&str]) -> Result<(), OnnxError> {
    let graph = model.graph.as_mut().ok_or(OnnxError::NoGraph)?;
    let dims: HashMap<&str, &[i64]> = graph.initializer.iter().map(|t| (t.name.as_str(), &t.dims[..])).collect();
    let input = |name: &&str| match dims.get(name) {
        Some(dims) => Ok(ValueInfoProto::fixed(name, data_type::FLOAT, dims)),
        None => Err(OnnxError::MissingInitializer { name: (*name).to_owned() }),
    };
    let inputs: Vec<ValueInfoProto> = names.iter().map(input).collect::<Result<_, _>>()?;
    graph.input.extend(inputs);
    let names: HashSet<&str> = names.iter().copied().collect();
    graph.initializer.retain(|t| !names.contains(t.name.as_str()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> ModelProto {
        let mut g = GraphBuilder::new("small");
        g.input("x", data_type::FLOAT, &["n", "2"]);
        g.external_initializer(
            "w",
            data_type::FLOAT,
            &[3, 2],
            External { location: "f".into(), offset: 64, length: 24 },
        );
        let y = g.op("Gemm", &["x", "w"], &[("transB", 1i64.into())]);
        g.output(&y, data_type::FLOAT, &["n", "3"]);
        g.finish()
    }

    #[test]
    fn values_get_names_of_their_own() {
        let mut g = GraphBuilder::new("names");
        g.input("x", data_type::FLOAT, &["n"]);
        let y = g.op("Neg", &["x"], &[]);
        let z = g.op("Abs", &[&y], &[]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        g.rename_all(&[pair("first", &y), pair("second", &y), pair("third", &z), pair("fourth", "x")]);
        let nodes: Vec<String> =
            g.graph().node.iter().map(|n| format!("{} = {} {}", n.output[0], n.op_type, n.input[0])).collect();
        let expected = ["first = Neg x", "third = Abs first", "second = Identity first", "fourth = Identity x"];
        assert_eq!(nodes, expected);
    }

    #[test]
    fn a_model_survives_writing_and_reading() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        std::fs::write(&path, encode(&small())).unwrap();
        assert_eq!(read_model(&path).unwrap(), small());
        let w = &small().graph.unwrap().initializer[0];
        assert_eq!(external_data(w).unwrap().unwrap().offset, 64);
        assert_eq!(external_names(&small()).unwrap(), ["w"]);
    }

    #[test]
    fn an_initializer_becomes_an_input() {
        let mut m = small();
        initializers_to_inputs(&mut m, &["w"]).unwrap();
        let g = m.graph.as_ref().unwrap();
        assert!(g.initializer.is_empty());
        assert_eq!(g.input[1].name, "w");
        let before = m.clone();
        assert!(matches!(initializers_to_inputs(&mut m, &["w"]), Err(OnnxError::MissingInitializer { .. })));
        assert_eq!(m, before);
    }

    #[test]
    fn garbage_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.onnx");
        std::fs::write(&path, b"\xff\xff\xff\xff").unwrap();
        assert!(read_model(&path).unwrap_err().to_string().contains("bad.onnx"));
    }

    #[test]
    fn a_model_of_a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new.onnx");
        let model = ModelProto { ir_version: proto::IR_VERSION + 1, ..small() };
        std::fs::write(&path, encode(&model)).unwrap();
        let error = read_model(&path).unwrap_err();
        assert!(matches!(error, OnnxError::Version { version: 15, .. }), "{error}");
        assert!(error.to_string().contains("new.onnx: field `ir_version`"), "{error}");
    }
}
