//! What unit tests of analyses share: a tiny base, and packs with chosen zeros.

use std::path::Path;
use std::sync::Arc;

use overmask::base::Base;
use overmask::mask::{Granularity, Mask};
use overmask::pack::{Codec, FloatType, Head, NamedMask, Pack, PackDocument, Pooling, SCHEMA, TaskKind, TextSettings};
use tempfile::TempDir;

use crate::import::hf;

/// Two layers of six maskable tensors: of 32 x 32 weights, and two of 64 x 32 and 32 x 64.
pub(super) fn base() -> (TempDir, Arc<Base>) {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-bert");
    let base = hf::import(&fixture, &dir.path().join("base"), &hf::Origin::default()).unwrap().base;
    (dir, Arc::new(base))
}

/// A task of two labels with these masks: places of maskable tensors, and which of their weights are zero.
pub(super) fn pack(base: &Base, name: &str, masks: &[(usize, &dyn Fn(usize) -> bool)]) -> Pack {
    let manifest = base.manifest();
    let mask = |(place, zero): &(usize, &dyn Fn(usize) -> bool)| {
        let tensor = &manifest.maskable[*place];
        let keep = (0..tensor.outputs * tensor.inputs).map(|weight| !zero(weight));
        let mask = Mask::from_units(Granularity::Weight, tensor.outputs, tensor.inputs, keep).unwrap();
        NamedMask { tensor: tensor.name.clone(), mask }
    };
    let masks: Vec<NamedMask> = masks.iter().map(mask).collect();
    let weights: usize = manifest.maskable.iter().map(|tensor| tensor.outputs * tensor.inputs).sum();
    let zeros: u64 = masks.iter().map(|named| named.mask.zero_weights()).sum();
    let hidden = manifest.architecture.hidden_size;
    let weight = (0..2 * hidden).map(|i| (i as f32 * 1.7).sin()).collect();
    let document = PackDocument {
        schema: SCHEMA,
        requires: Vec::new(),
        name: name.to_owned(),
        revision: 1,
        kind: TaskKind::Classify,
        labels: vec!["no".to_owned(), "yes".to_owned()],
        text: TextSettings { max_tokens: 12, pooling: Pooling::Mean, pair: false },
        base_id: base.base_id().to_owned(),
        tokenizer_sha256: manifest.tokenizer_sha256.clone(),
        granularity: Granularity::Weight,
        codec: Codec::Plain,
        sparsity: zeros as f64 / weights as f64,
        masks: Vec::new(),
        golden: Vec::new(),
        provenance: Default::default(),
        metrics: Default::default(),
        extra: Default::default(),
    };
    let head = Head { weight, bias: vec![0.0; 2], labels: 2, hidden, dtype: FloatType::F16 };
    Pack::new(document, masks, head, Vec::new()).unwrap()
}
