//! Bases that are no BERT encoder, or a damaged one: each is refused with what is wrong, where, and what
//! to do.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::base::family::Family;
use crate::base::family::bert::{Kin, Sizes};
use crate::base::{
    Architecture, BaseManifest, FORMAT, GraphHints, MaskableTensor, Precision, TensorBytes, file, write_variant,
    write_weights,
};
use crate::error::ErrorKind;

/// What to do with another encoder, and with a damaged one.
const TAKE_ORT: &str = "; the engines `ort` and `tract` run any encoder";
const AGAIN: &str = "; import the base again";

const SIZES: Sizes = Sizes { heads: 2, intermediate_size: 8, layer_norm_eps: 1e-12, kin: Kin::Bert };

/// Tensors by name, and the manifest.
pub(in super::super) struct Parts {
    shapes: BTreeMap<String, Vec<usize>>,
    manifest: BaseManifest,
}

impl Parts {
    /// An encoder of one layer: 4 wide, 8 within, 10 tokens, 16 positions, 2 segments.
    fn new() -> Self {
        Parts::of(1, 4)
    }

    /// The same with more layers, and so wide, twice as wide within.
    pub(in super::super) fn of(layers: usize, width: usize) -> Self {
        Parts::of_family(Family::Bert(Sizes { intermediate_size: 2 * width, ..SIZES }), layers, width)
    }

    /// An encoder of a family.
    pub(in super::super) fn of_family(family: Family, layers: usize, width: usize) -> Self {
        let architecture = Architecture { family, hidden_size: width, layers, vocab_size: 10, max_positions: 16 };
        let encoder = Encoder::new(&architecture, "bert.").unwrap();
        let (shapes, maskable) = (encoder.tensors(2).into_iter().collect(), encoder.maskable());
        let names = [file::MODEL, file::WEIGHTS, file::TOKENIZER];
        let manifest = BaseManifest {
            format: FORMAT,
            base_id: "0".repeat(64),
            architecture,
            maskable,
            variant: Precision::F32,
            digests: names.map(|name| (name.to_owned(), "1".repeat(64))).into(),
            tokenizer_sha256: "1".repeat(64),
            pooling: None,
            max_tokens: None,
            licence: "none".into(),
            source: "test".into(),
        };
        Parts { shapes, manifest }
    }

    /// The same in a precision.
    pub(in super::super) fn stored_as(mut self, precision: Precision) -> Self {
        self.manifest.variant = precision;
        self
    }

    /// Names and shapes of all tensors.
    pub(in super::super) fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()))
    }

    /// The shape of a tensor.
    fn shape(&mut self, name: &str) -> &mut Vec<usize> {
        self.shapes.get_mut(&format!("bert.{name}")).unwrap()
    }

    /// A tensor less.
    fn drop(&mut self, name: &str) {
        self.shapes.remove(&format!("bert.{name}")).unwrap();
    }

    /// A maskable tensor of another name, in the manifest and in the weights.
    fn rename(&mut self, name: &str, new: &str) {
        let name = format!("bert.{name}");
        let shape = self.shapes.remove(&name).unwrap();
        self.shapes.insert(new.to_owned(), shape);
        self.manifest.maskable.iter_mut().find(|tensor| tensor.name == name).unwrap().name = new.to_owned();
    }

    /// One more maskable tensor.
    fn add(&mut self, name: &str) {
        self.shapes.insert(name.to_owned(), vec![4, 4]);
        self.manifest.maskable.push(MaskableTensor { name: name.to_owned(), outputs: 4, inputs: 4, layer: 0 });
    }

    /// Opens the base and what this engine makes of it; `damage` changes the file of the weights.
    fn open(&self, damage: impl FnOnce(&mut Vec<u8>)) -> Result<Model, EngineError> {
        let dir = tempfile::tempdir().unwrap();
        Model::new(&self.base(dir.path(), || 0.0, damage), None)
    }

    /// The base in a directory, with these values; `damage` changes the file of the weights.
    pub(in super::super) fn base(
        &self,
        dir: &Path,
        mut value: impl FnMut() -> f32,
        damage: impl FnOnce(&mut Vec<u8>),
    ) -> Base {
        let mut values = |shape: &[usize]| (0..shape.iter().product()).flat_map(|_| value().to_le_bytes()).collect();
        let values: Vec<Vec<u8>> = self.shapes.values().map(|shape| values(shape)).collect();
        let tensors: Vec<TensorBytes<'_>> =
            self.shapes().zip(&values).map(|((name, shape), values)| (name, shape, &values[..])).collect();
        let mut bytes = Vec::new();
        match self.manifest.variant {
            Precision::F32 => write_weights(&mut bytes, &tensors).unwrap(),
            other => write_variant(&mut bytes, &tensors, other).unwrap(),
        };
        damage(&mut bytes);
        std::fs::write(dir.join(file::WEIGHTS), bytes).unwrap();
        std::fs::write(dir.join(file::MANIFEST), serde_json::to_vec(&self.manifest).unwrap()).unwrap();
        Base::open(dir).unwrap()
    }
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Parts)) -> EngineError {
    let mut parts = Parts::new();
    change(&mut parts);
    parts.open(|_| ()).err().expect("the base is taken")
}

#[test]
fn an_encoder_of_one_layer_is_taken() {
    let model = Parts::new().open(|_| ()).unwrap();
    assert_eq!((model.width, model.heads, model.layers.len()), (4, 2, 1));
    // Where texts have no second segment, one row is enough.
    let mut one = Parts::new();
    *one.shape("embeddings.token_type_embeddings.weight") = vec![1, 4];
    one.open(|_| ()).unwrap();
}

#[test]
fn what_is_of_no_known_family_is_for_the_other_engines() {
    type Change = fn(&mut Parts);
    let cases: [(Change, &str); 4] = [
        (
            |p| p.manifest.architecture.family = Family::Onnx(GraphHints::default()),
            "the base is of the family `onnx`, whose graph alone says what it computes",
        ),
        (
            |p| p.rename("encoder.layer.0.attention.self.query.weight", "bert.encoder.layer.0.attention.q_lin.weight"),
            "the base has no maskable tensor `encoder.layer.0.attention.self.query.weight`",
        ),
        (|p| p.add("bert.pooler.dense.weight"), "the base has maskable tensors that are no part of a layer of `bert`"),
        (|p| p.manifest.architecture.layers = 2, "the base has maskable tensors that are no part of a layer of `bert`"),
    ];
    for (change, said) in cases {
        let error = refused(change);
        let expected = format!("the engine `native` is not available: {said}{TAKE_ORT}");
        assert_eq!((error.to_string(), error.kind()), (expected, ErrorKind::EngineUnavailable));
    }
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both() {
    type Change = fn(&mut Parts);
    let cases: [(Change, &str, &str); 9] = [
        (
            |p| *p.shape("embeddings.token_type_embeddings.weight") = vec![2, 5],
            "embeddings.token_type_embeddings.weight",
            "[2, 5], a base of its sizes has [2, 4]",
        ),
        (
            |p| *p.shape("embeddings.token_type_embeddings.weight") = vec![8],
            "embeddings.token_type_embeddings.weight",
            "[8], a base of its sizes has [8, 4]",
        ),
        // A table without rows: every text is of the first segment.
        (
            |p| *p.shape("embeddings.token_type_embeddings.weight") = vec![0, 4],
            "embeddings.token_type_embeddings.weight",
            "[0, 4], a base of its sizes has [1, 4]",
        ),
        (
            |p| *p.shape("embeddings.LayerNorm.weight") = vec![1, 4],
            "embeddings.LayerNorm.weight",
            "[1, 4], a base of its sizes has [4]",
        ),
        (
            |p| *p.shape("encoder.layer.0.output.LayerNorm.bias") = vec![8],
            "encoder.layer.0.output.LayerNorm.bias",
            "[8], a base of its sizes has [4]",
        ),
        (
            |p| *p.shape("encoder.layer.0.intermediate.dense.bias") = vec![4],
            "encoder.layer.0.intermediate.dense.bias",
            "[4], a base of its sizes has [8]",
        ),
        (
            |p| p.manifest.architecture.family = Family::Bert(Sizes { intermediate_size: 16, ..SIZES }),
            "encoder.layer.0.intermediate.dense.weight",
            "[8, 4], a base of its sizes has [16, 4]",
        ),
        (
            |p| {
                let key = &mut p.manifest.maskable[1];
                (key.outputs, key.inputs) = (2, 8);
                *p.shape("encoder.layer.0.attention.self.key.weight") = vec![2, 8];
            },
            "encoder.layer.0.attention.self.key.weight",
            "[2, 8], a base of its sizes has [4, 4]",
        ),
        (
            |p| {
                let output = &mut p.manifest.maskable[5];
                (output.outputs, output.inputs) = (8, 4);
                *p.shape("encoder.layer.0.output.dense.weight") = vec![8, 4];
            },
            "encoder.layer.0.output.dense.weight",
            "[8, 4], a base of its sizes has [4, 8]",
        ),
    ];
    for (change, name, said) in cases {
        let expected = format!("the engine `native` is not available: `bert.{name}` is {said}{AGAIN}");
        assert_eq!(refused(change).to_string(), expected);
    }
}

#[test]
fn a_tensor_that_is_not_there_is_named() {
    let error = refused(|p| p.rename("encoder.layer.0.output.dense.weight", "bert.pooler.dense.weight"));
    let said = "the base has no maskable tensor `bert.encoder.layer.0.output.dense.weight`";
    assert_eq!(error.to_string(), format!("the engine `native` is not available: {said}{AGAIN}"));
    for name in [
        "embeddings.token_type_embeddings.weight",
        "embeddings.LayerNorm.bias",
        "encoder.layer.0.attention.self.value.bias",
        "encoder.layer.0.attention.output.LayerNorm.weight",
    ] {
        let error = refused(|p| p.drop(name));
        let (said, expected) = (error.to_string(), format!("no tensor `bert.{name}`{AGAIN}"));
        assert!(said.ends_with(&expected) && said.contains(file::WEIGHTS), "{said}");
        assert_eq!(error.kind(), ErrorKind::CorruptFile);
    }
}

#[test]
fn a_tensor_of_another_type_is_named() {
    let name = "bert.encoder.layer.0.attention.self.key.bias";
    let damage = |bytes: &mut Vec<u8>| {
        let find = |bytes: &[u8], what: &str| bytes.windows(what.len()).position(|w| w == what.as_bytes()).unwrap();
        let entry = find(bytes, name);
        let at = entry + find(&bytes[entry..], "F32");
        bytes[at] = b'I';
    };
    let error = Parts::new().open(damage).err().unwrap();
    let said = error.to_string();
    assert!(
        said.contains(&format!("field `{name}`: is I32, none of F32, BF16 and I8{AGAIN}"))
            && said.contains(file::WEIGHTS),
        "{said}"
    );
    assert_eq!(error.kind(), ErrorKind::CorruptFile);
}
