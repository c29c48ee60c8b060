//! Variants of a base: the same encoder with its matrices in another precision.

use std::path::Path;

use overmask::base::{self, Base, BaseError, Precision, TensorBytes, file};
use overmask::engine::native::NativeEngine;
use overmask::error::ErrorKind;
use overmask::fs::{Staged, StagedError, file_digest};
use overmask_graph::{self as graph, OnnxError, variant};

/// What can go wrong when a variant is made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// The base cannot be read, or is not what its digests say.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// Its graph cannot be read or changed.
    #[error(transparent)]
    Graph(#[from] OnnxError),
    /// The variant cannot be written.
    #[error(transparent)]
    Staged(#[from] StagedError),
    /// Nothing would run it.
    #[error("{dir}: no engine multiplies int8 for a base of its kind; take bf16")]
    NoEngine {
        /// The base.
        dir: std::path::PathBuf,
    },
    /// The base is a variant already.
    #[error("{dir} is {precision} already; variants are made of the f32 base")]
    NotF32 {
        /// The base.
        dir: std::path::PathBuf,
        /// What it is.
        precision: Precision,
    },
}

impl QuantizeError {
    /// Of which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Base(error) => error.kind(),
            Self::Graph(error) => error.kind(),
            Self::Staged(error) => error.kind(),
            Self::NotF32 { .. } | Self::NoEngine { .. } => ErrorKind::InputData,
        }
    }
}

/// Writes a variant of an f32 base: matrices in the precision, all other tensors as they are. It has the identity of the
/// base, so packs fit both.
///
/// # Errors
/// When the base is not sound, or the variant cannot be written.
pub fn quantize(base: &Base, precision: Precision, out: &Path) -> Result<Base, QuantizeError> {
    if base.precision() != Precision::F32 {
        return Err(QuantizeError::NotF32 { dir: base.dir().to_owned(), precision: base.precision() });
    }
    if precision == Precision::Int8 && !NativeEngine::knows(base) {
        return Err(QuantizeError::NoEngine { dir: base.dir().to_owned() });
    }
    let staged = Staged::new(out)?;
    base.verify_once()?;
    let names = base.names();
    let tensors = names.iter().map(|name| base.tensor_bytes(name).map(|(shape, bytes)| (name.as_str(), shape, bytes)));
    let tensors: Vec<TensorBytes<'_>> = tensors.collect::<Result<_, _>>()?;
    let offsets = staged.file(file::WEIGHTS, |out| base::write_variant(out, &tensors, precision))?;
    let mut model = graph::read_base(base)?;
    variant::store_as(&mut model, precision, &offsets)?;
    staged.write(file::MODEL, &graph::encode(&model))?;
    staged.write(file::TOKENIZER, &base.read(file::TOKENIZER, u64::MAX)?)?;
    let mut manifest = base.manifest().clone();
    manifest.variant = precision;
    for (name, digest) in &mut manifest.digests {
        let path = staged.dir().join(name);
        *digest = file_digest(&path).map_err(|source| BaseError::Io { path, source })?;
    }
    let path = staged.dir().join(file::MANIFEST);
    let text = serde_json::to_vec_pretty(&manifest).map_err(|source| BaseError::Manifest { path, source })?;
    staged.write(file::MANIFEST, &text)?;
    Base::open(staged.dir())?.verify()?;
    staged.publish()?;
    Ok(Base::open(out)?)
}

#[cfg(test)]
mod tests {
    use overmask::pack::{Pooling, TaskKind};

    use super::*;
    use crate::export::tests as models;

    #[test]
    fn the_graph_of_a_variant_runs_anywhere_and_is_near_the_base() {
        let (dir, base) = models::base();
        let pack = models::pack(&base, TaskKind::Classify, Pooling::Mean, false, false, false);
        let inputs = models::inputs(TaskKind::Classify, false);
        let output = "last_hidden_state";
        let (shape, exact) = models::run(base.dir(), &base, &pack, &inputs, output);
        for (precision, most) in [(Precision::Bf16, 0.05), (Precision::Int8, 0.2)] {
            let variant = quantize(&base, precision, &dir.path().join(precision.name())).unwrap();
            variant.verify().unwrap();
            assert_eq!((variant.base_id(), variant.precision()), (base.base_id(), precision));
            assert_eq!(variant.names().len() > base.names().len(), precision == Precision::Int8);
            let (same, found) = models::run(variant.dir(), &base, &pack, &inputs, output);
            let apart = models::difference(&exact, &found);
            assert!(same == shape && apart > 0.0 && apart < most, "{precision}: {apart}");
            // Widened it is the f32 graph, with the values of the variant.
            let widened = graph::read_base(&variant).unwrap();
            let names = |model: &graph::proto::ModelProto| {
                let initializers = &model.graph.as_ref().unwrap().initializer;
                let mut names: Vec<String> = initializers.iter().map(|tensor| tensor.name.clone()).collect();
                names.sort();
                names
            };
            assert_eq!(names(&widened), names(&graph::read_base(&base).unwrap()));

            let again = quantize(&variant, precision, &dir.path().join("again")).unwrap_err();
            assert_eq!(again.kind(), ErrorKind::InputData);
            assert!(again.to_string().contains("variants are made of the f32 base"), "{again}");
        }
    }

    #[test]
    fn a_damaged_base_has_no_variants() {
        let (dir, base) = models::base();
        let path = base.dir().join(file::WEIGHTS);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let out = dir.path().join("int8");
        let error = quantize(&Base::open(base.dir()).unwrap(), Precision::Int8, &out).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CorruptFile);
        assert!(!out.exists());
    }
}
